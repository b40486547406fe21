"""What a schedule looks like: warmup, peak, exponent of its anneal, and the nearest member of each family."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import RefineError
from .families import FAMILIES, Family, from_name
from .files import printable
from .schedule import Schedule, check_count

__all__ = [
    "Nearest",
    "decay_exponent",
    "description",
    "dip_before_peak",
    "nearest",
    "peak_fraction",
    "rise_after_peak",
    "updates_done",
    "warmup_fraction",
]

_MOST_POINTS = 100_000


def warmup_fraction(multiplier: npt.ArrayLike, *, level: float = 0.9) -> float:
    """Updates before 90 % of the peak is first reached, as a fraction of all updates.

    Examples
    --------
    >>> warmup_fraction([0.5, 0.8, 0.9, 1.0, 0.5]), warmup_fraction([1.0, 0.5])
    (0.4, 0.0)
    """
    h = np.asarray(multiplier, dtype=np.float64)
    return int(np.argmax(h >= level * h.max())) / h.size


def peak_fraction(multiplier: npt.ArrayLike) -> float:
    """Where the (first) maximum is: its update, counted from 0, as a fraction of all updates.

    Examples
    --------
    >>> peak_fraction([0.5, 0.8, 0.9, 1.0, 0.5])
    0.6
    """
    h = np.asarray(multiplier, dtype=np.float64)
    return int(np.argmax(h)) / h.size


def decay_exponent(multiplier: npt.ArrayLike, *, until: float = 0.99) -> tuple[float, float] | None:
    """Exponent p of the best c (1 - x)^p fit to the anneal, and the fit's R^2.

    Least squares of log h on log(1 - x), x = t / T from the peak to ``until``, on every k-th update where
    there are more than 100,000. None where the anneal has fewer than three updates or does not change.

    Examples
    --------
    >>> import numpy as np
    >>> p, r2 = decay_exponent((1 - np.arange(1000) / 1000) ** 1.5)
    >>> round(p, 9), round(r2, 9)
    (1.5, 1.0)
    """
    h = np.asarray(multiplier, dtype=np.float64)
    first = int(np.argmax(h))
    last = math.floor(until * h.size * (1.0 + 1e-12))
    if last - first < 2:
        return None
    t = np.arange(first, last + 1, max(1, (last - first) // _MOST_POINTS))
    anneal = h[t]
    if not anneal.min() > 0.0:
        return None
    u, v = np.log1p(-t / h.size), np.log(anneal)
    u -= u.mean()
    v -= v.mean()
    # Not u @ v: the threads of a BLAS cost more than they save here.
    spread, total = float(np.sum(u * u)), float(np.sum(v * v))
    if spread == 0.0 or total == 0.0:
        return None
    slope = float(np.sum(u * v)) / spread
    residual = v - slope * u
    return slope, 1.0 - float(np.sum(residual * residual)) / total


def description(multiplier: npt.ArrayLike) -> dict[str, float | int | None]:
    """All of these numbers, as JSON values; None is unknown.

    Examples
    --------
    >>> found = description([0.5, 1.0, 0.75, 0.5, 0.25])
    >>> found["total_steps"], found["peak_fraction"], found["last_multiplier"]
    (5, 0.2, 0.25)
    """
    h = np.asarray(multiplier, dtype=np.float64)
    fit = decay_exponent(h)
    return {
        "total_steps": h.size,
        "first_multiplier": float(h[0]),
        "last_multiplier": float(h[-1]),
        "warmup_fraction": warmup_fraction(h),
        "peak_fraction": peak_fraction(h),
        "decay_exponent": fit[0] if fit else None,
        "decay_r2": fit[1] if fit else None,
    }


def dip_before_peak(multiplier: npt.ArrayLike) -> float:
    """Largest fall before the peak, as a fraction of the peak: 0 for a schedule that only rises to it.

    Examples
    --------
    >>> dip_before_peak([0.5, 0.75, 0.25, 1.0, 0.1])
    0.5
    """
    h = np.asarray(multiplier, dtype=np.float64)
    rise = h[: int(np.argmax(h)) + 1]
    return float(np.max(np.maximum.accumulate(rise) - rise) / h.max())


def rise_after_peak(multiplier: npt.ArrayLike) -> float:
    """Largest climb after the peak, as a fraction of the peak: 0 for a schedule that only falls.

    Examples
    --------
    >>> rise_after_peak([0.2, 1.0, 0.5, 0.75, 0.1])
    0.25
    """
    h = np.asarray(multiplier, dtype=np.float64)
    anneal = h[int(np.argmax(h)) :]
    return float(np.max(anneal - np.minimum.accumulate(anneal)) / h.max())


def updates_done(schedule: Schedule) -> int:
    """Updates that a schedule of `refine.continuation` has behind it; 0 for any other, or one stretched since.

    Examples
    --------
    >>> continued = Schedule([1.0, 1.0, 0.5], {"updates_done": 2})
    >>> updates_done(continued), updates_done(continued.resample(6)), updates_done(Schedule([1.0]))
    (2, 0, 0)
    """
    told, total = schedule.provenance, schedule.total_steps
    done = told.get("updates_done")
    if any(told.get(key, total) != total for key in ("retargeted_from", "resampled_from")):
        return 0
    return done if isinstance(done, int) and not isinstance(done, bool) and 0 < done < total else 0


@dataclass(frozen=True, slots=True)
class Nearest:
    """The member of a family that is nearest to a schedule.

    Parameters
    ----------
    name : str
        The member as text, for `refine.from_name` and the command line; what is not named has its default.
    family : str
    parameters : mapping
        What was fitted or tried, as rounded in the name.
    r2 : float or None
        1 - sum (h - fit)^2 / sum (h - mean h)^2 over the updates looked at; negative where the mean alone is nearer.
        None where the schedule is constant there, and it has no value.
    largest_error : float
        Largest ``|h - fit|`` of those updates: a fraction of the peak rate.
    total_steps : int
    """

    name: str
    family: str
    parameters: Mapping[str, Any]
    r2: float | None
    largest_error: float
    total_steps: int

    @property
    def schedule(self) -> Schedule:
        """The member, built again from its name."""
        return from_name(self.name, self.total_steps)


def nearest(schedule: Schedule, families: Iterable[str] | None = None, *, since: int = 0) -> tuple[Nearest, ...]:
    """Find the nearest member of each family, by least squares of the multipliers over its parameters and warmup.

    Parameters
    ----------
    schedule : Schedule
    families : iterable of str, optional
        Names from `refine.families.FAMILIES`, by default all that can be fitted (not multistep). A name may fix what
        would be tried or fitted: ``wsd:shape=sqrt,final_factor=0.1``.
    since : int
        Updates done (`updates_done`): only those after them count. The warmup is not fitted, but ends where the
        updates done first reach 99.9 % of their largest, and no cooldown starts before they last do.

    Returns
    -------
    tuple of Nearest
        The smallest sum of squares first; of equals the one with fewer parameters to set.

    Notes
    -----
    The fit sees at most about 1,000 updates: half evenly spaced, half denser towards both ends, weighted by the updates
    that they stand for. It starts from a fixed grid and descends from its two best points, so it is deterministic, and
    a local optimum: schedules with jumps or many cycles may have a nearer member. Four digits of the parameters
    are kept; ``r2`` and ``largest_error`` are of the member with those, on all updates from ``since`` on.

    Least squares alone would end above 0 for a nearer middle, which costs more in the bound than it wins. So a
    schedule whose last multiplier is below 0.01 gets final_factor 0 in every family that can have it (an exponential
    cooldown at most 0.01); `exponential` and `infinite`, which cannot, are fitted freely.

    Examples
    --------
    >>> from refine import linear
    >>> first, second = nearest(linear(1000, warmup_steps=50), ("cosine", "polynomial"))
    >>> first.name, first.r2, first.largest_error
    ('polynomial:power=1,warmup_steps=50', 1.0, 0.0)
    >>> second.name, round(second.r2, 3)
    ('cosine:warmup_steps=48', 0.935)
    """
    from .families.fit import LOW_END, MemberFit, member_name, points

    wanted = [name for name, family in FAMILIES.items() if family.fit is not None] if families is None else families
    h = schedule.multiplier
    if check_count("since", since, least=0) >= h.size:
        raise RefineError(f"since is {since} and the schedule has {h.size} updates; it must be below that")
    t, weight = points(h.size - since)
    t += since
    fit = MemberFit(t, h[t.astype(np.int64)], np.sqrt(weight / weight.sum()), h.size, low_end=bool(h[-1] < LOW_END))
    if since:
        top = np.flatnonzero(h[:since] >= 0.999 * h[:since].max())
        fit = replace(fit, warmup=int(top[0]) + 1, plateau=int(top[-1]))
    rest = h[since:]
    spread = float(np.sum((rest - rest.mean()) ** 2)) if rest.min() < rest.max() else 0.0
    found = []
    for order, text in enumerate(wanted):
        family, choices = _tried(text)
        _, parameters = min((fit.member(family, choice) for choice in choices), key=lambda pair: pair[0])
        name, parameters = member_name(family, parameters, h.size)
        error = from_name(name, h.size).multiplier[since:] - rest
        squares = float(error @ error)
        r2 = 1.0 - squares / spread if spread > 0.0 else None
        member = Nearest(name, family.name, parameters, r2, float(np.abs(error).max()), h.size)
        found.append((round(math.sqrt(squares / rest.size), 6), name.count("="), order, member))
    return tuple(row[-1] for row in sorted(found, key=lambda row: row[:3]))


def _tried(text: str) -> tuple[Family, list[dict[str, Any]]]:
    """The family that a name means, and every combination of its choices that the name leaves open."""
    title, _, fixed = text.partition(":")
    family = FAMILIES.get(title)
    if family is None or family.fit is None:
        able = ", ".join(name for name, family in FAMILIES.items() if family.fit is not None)
        raise RefineError(f"{printable(repr(text), limit=80)} is not a family that can be fitted; these are: {able}")
    combinations = [
        dict(zip(family.choices, values, strict=True)) for values in itertools.product(*family.choices.values())
    ]
    for item in filter(None, fixed.split(",")):
        key, _, value = item.partition("=")
        if key in family.fit:
            combinations = [{**c, key: x} for c in combinations for x in _within(value, *family.fit[key][:2])]
        else:
            combinations = [c for c in combinations if str(c.get(key)) == value]
    if not combinations:
        tried = [f"{key}={'|'.join(map(str, values))}" for key, values in family.choices.items()]
        tried += [f"{key} from {values[0]:g} to {values[1]:g}" for key, values in family.fit.items()]
        raise RefineError(
            f"{printable(repr(text), limit=80)} fixes what is not tried; {title} tries {'; '.join(tried) or 'nothing'}"
        )
    return family, combinations


def _within(text: str, low: float, high: float) -> list[float]:
    """The number that a text is, or none if it is none within the bounds."""
    try:
        value = float(text)
    except ValueError:
        return []
    return [value] if low <= value <= high else []

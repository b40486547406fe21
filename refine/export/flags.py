"""Frameworks that take settings, no code: the nearest schedule that they can express, and how far it is."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import __version__
from ..bound import norms_where_optimal, omega_at_best_peak, omega_of_run
from ..describe import Nearest, nearest, updates_done
from ..errors import RefineError, RefineWarning
from ..families import FAMILIES, from_name
from ..families.fit import LOW_END
from ..schedule import Schedule
from .base import Rendering
from .module import literal

__all__ = ["NO_OTHER", "Fit", "Settings", "bash_array", "bash_rendering", "nearest_settings", "rounded"]

Settings = dict[str, Any]

FAR = 0.05
"""Largest difference, as a fraction of the peak, from which on there is a warning."""

LAST = 0.02
"""How far the rate of the last update may be off, as a fraction of the peak, where any schedule keeps within it."""

ALIKE = 1.01
"""Bounds within this factor of each other do not say which schedule is better (`refine.comparison.CAVEAT`)."""

NO_OTHER = "it takes no other; what the next run would lose:\nrefine compare LOG SCHEDULE 'MEMBER'"
"""What can be done where only flags are taken: see `nearest_settings`."""


@dataclass(frozen=True, slots=True)
class Fit:
    """Settings of a framework, and how far the rates that it will use are from the schedule.

    Attributes
    ----------
    settings : dict
        As the framework names them.
    member : str
        The family member that they express, as `refine.from_name` reads it.
    largest_error : float
        Largest difference over the updates from ``since`` on, as a fraction of the peak; ``worst`` is its update.
    last, wanted_last : float
        Multiplier of the last update: the framework's and the schedule's.
    r2 : float or None
        1 - the sum of squared differences over that of the multipliers from their mean; None where the
        schedule is constant.
    since : int
        Updates done, which are not looked at.
    """

    settings: Settings
    member: str
    largest_error: float
    worst: int
    last: float
    wanted_last: float
    r2: float | None
    since: int

    @property
    def misses_the_end(self) -> bool:
        """Whether the last update's rate is off by more than `LAST`."""
        return abs(self.last - self.wanted_last) > LAST

    def stated(self, framework: str) -> str:
        """One line for the reader."""
        r2 = "undefined" if self.r2 is None else f"{self.r2:.4f}"
        over = f"over the updates after {self.since:,} " if self.since else ""
        return (
            f"near {self.member}; {over}the rates of {framework} will be within {100 * self.largest_error:.3g} % of "
            f"the peak of the schedule (farthest at update {self.worst:,}){self._end()}, R^2 {r2}"
        )

    def warning(self, framework: str, remedy: str) -> str | None:
        """One line where they are far from it, with what else can be done."""
        if self.largest_error <= FAR and not self.misses_the_end:
            return None
        return (
            f"{framework} has no schedule near this one: its rates will be up to {100 * self.largest_error:.3g} % of "
            f"the peak away (update {self.worst:,}){self._end()}; {remedy.replace('MEMBER', self.member)}"
        )

    def _end(self) -> str:
        if not self.misses_the_end:
            return ""
        return f", the last at {100 * self.last:.3g} % of the peak and not at {100 * self.wanted_last:.3g} %"


def nearest_settings(
    schedule: Schedule,
    framework: str,
    families: tuple[str, ...],
    translate: Callable[[str, Mapping[str, Any], int], Iterable[Settings]],
    rates: Callable[[Settings, NDArray[np.int64]], NDArray[np.float64]],
    remedy: str,
) -> Fit:
    r"""Settings whose real rates are nearest to a schedule, by what matters for the last iterate.

    Any schedule is the best one of all on some norms N (`refine.bound.norms_where_optimal`). The nearest settings are
    those with the least bound on the last iterate (arXiv:2310.07831 Theorem 10) on these, at the peak eta that is best
    for the schedule. Above the schedule's own it is, with R_k the sum of the rates after update k, S that of all,

    .. math:: \frac{\eta}{2} \sum_k N_k R'_k \Big(\frac{h'_k}{R'_k} - \frac{h_k}{R_k}\Big)^2
              + \frac{D^2 (S' - S)^2}{2 \eta S' S^2}, \qquad N_k \propto \sqrt{R_k} / h_k :

    an error weighs more the closer it is to the end, and more where the schedule is low, as in its warmup. Where any
    settings have the last update within `LAST`, or within what it differs from the one before, only they count. Of
    those within `ALIKE` of the least bound the ones with the least ``sum_k N_k (h'_k - h_k)^2`` are taken.

    Parameters
    ----------
    schedule : Schedule
    framework : str
        Its name, for the reader.
    families : tuple of str
        Of which members are translated (`refine.describe.nearest`): the nearest by least squares, and the nearest
        of those that end where it does.
    translate : callable
        ``translate(family, parameters, total_steps)``: settings that express a member, in any number;
        ``parameters`` as in the provenance of a family's schedule.
    rates : callable
        ``rates(settings, updates)``: the framework's own formula, as fractions of the peak rate.
    remedy : str
        What else can be done, for the warning that the nearest is not near; MEMBER in it becomes the nearest's name.

    Notes
    -----
    O(T) for each of a few translations, after `refine.describe.nearest`.
    """
    since = updates_done(schedule)
    updates, h = np.arange(schedule.total_steps), schedule.multiplier[since:]
    spread = float(np.sum((h - h.mean()) ** 2))
    norms, peak = _where_best(h)
    found: list[tuple[float, Fit]] = []
    for member in _members(schedule, families, since):
        for settings in translate(member.family, from_name(member.name, updates.size).provenance, updates.size):
            used = rates(settings, updates)[since:]
            squares = (used - h) ** 2
            worst = int(np.argmax(squares))
            r2 = 1.0 - float(squares.sum()) / spread if spread > 0.0 else None
            error, ends = abs(float(used[worst] - h[worst])), (float(used[-1]), float(h[-1]))
            fit = Fit(settings, member.name, error, since + worst, *ends, r2, since)
            found.append((float(norms @ squares), fit))
    if not found:
        raise RefineError(f"{framework} has no schedule for {updates.size} updates; {remedy}")
    near = max(LAST, float(abs(np.diff(schedule.multiplier[-2:])).sum()))  # in a short run one update falls further
    found = [(squares, fit) for squares, fit in found if abs(fit.last - fit.wanted_last) <= near] or found
    bounds = [omega_of_run(peak * np.maximum(rates(fit.settings, updates)[since:], 0.0), norms) for _, fit in found]
    alike = [pair for pair, bound in zip(found, bounds, strict=True) if bound <= ALIKE * min(bounds)]
    _, best = min(alike, key=lambda pair: pair[0])
    if warning := best.warning(framework, remedy):
        warnings.warn(warning, RefineWarning, stacklevel=2)
    return best


def _members(schedule: Schedule, families: tuple[str, ...], since: int) -> tuple[Nearest, ...]:
    """The nearest of each family, free and ending where the schedule does; below `LOW_END` both are one."""
    free, last = nearest(schedule, families, since=since), schedule.multiplier[-2:]
    if last[-1] < LOW_END:
        return free
    # A final factor is the value of the update after the last: on a straight line, as much further down.
    end = f"final_factor={min(max(2.0 * last[-1] - last[0], 0.0), 1.0):.4g}"
    able = [name for name in families if "final_factor" in (FAMILIES[name.partition(":")[0]].fit or {})]
    ended = tuple(f"{name}{',' if ':' in name else ':'}{end}" for name in able)
    return (*free, *nearest(schedule, ended, since=since))


def _where_best(h: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Squared norms and a peak rate, for D = 1, at which no rates have a lower bound than the multipliers h.

    A rate below 1 / T of the peak, or a twentieth of the mean of those to come, counts as that: else one update at
    next to no rate, as the first of many warmups is, would outweigh all others.
    """
    raised = np.maximum(h, 1.0 / h.size)
    raised = np.maximum(raised, np.cumsum(raised[::-1])[::-1] / (20.0 * h.size))
    norms = norms_where_optimal(raised)
    return norms, omega_at_best_peak(raised, norms).peak_lr


def bash_array(schedule: Schedule, name: str, framework: str, flags: Mapping[str, Any], about: tuple[str, ...]) -> str:
    """Flags as a bash array to source, a flag a line; ``about`` and the provenance as comments above.

    Examples
    --------
    >>> print(bash_array(Schedule([1.0]), "LR", "Acme", {"--lr": 0.1}, ("constant.",)).partition("\\n")[2], end="")
    # constant.
    # PROVENANCE = {
    # }
    LR=(
        --lr 0.1
    )
    """
    comments = (
        f"Learning-rate schedule of refine {__version__} for {framework}, {schedule.total_steps} updates:",
        *about,
        *f"PROVENANCE = {literal(schedule.provenance)}".split("\n"),
    )
    head = "".join(f"# {line}\n" for line in comments)
    return head + f"{name}=(\n" + "".join(f"    {flag} {value}\n" for flag, value in flags.items()) + ")\n"


def bash_rendering(
    schedule: Schedule,
    path: Path,
    framework: str,
    fit: Fit,
    flags: Mapping[str, Any],
    use: tuple[str, ...],
    more: tuple[str, ...],
) -> Rendering:
    """A `bash_array` named REFINED_LR of what was found; above it what is stated, how it is used, and ``more``."""
    stated = fit.stated(framework)
    text = bash_array(schedule, "REFINED_LR", framework, flags, (stated, *use, *more))
    return Rendering({path: [text]}, stated, use, fit.largest_error, fit.r2)


def rounded(value: float) -> float:
    """Nine digits: what is written, and what the stated error is of."""
    return float(f"{value:.9g}")

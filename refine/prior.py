"""What is known of the logged run's own learning rates: shape, peak, warmup."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .errors import RefineError
from .families import FAMILIES, from_name
from .families.names import with_run_warmup
from .hygiene import stride
from .norms import GradientNorms, LrAlignment, on_fraction
from .readers.settings import schedule_settings
from .schedule import Schedule, is_schedule
from .transfer import known_warmup, retarget

__all__ = [
    "CONSTANT_SHARE",
    "LEAST_COVERAGE",
    "Prior",
    "check_peak",
    "given_multipliers",
    "is_file",
    "logged_rates",
    "named_schedule",
    "named_schedules",
    "read_prior",
    "used_rates",
    "warmup_of",
]

CONSTANT_SHARE = 0.95
"""A run that spends this share of its updates, after the warmup, within 1 % of its peak is constant-rate."""

LEAST_COVERAGE = 0.9
"""Share of the run that the logged rates must span for their mean to be known."""


UNFINISHED = 0.5
"""A run whose last rate is above this share of its peak, and not constant, may have been stopped."""


@dataclass(frozen=True, slots=True, eq=False)
class Prior:
    """Learning rates of the logged run; None is "unknown" throughout.

    Attributes
    ----------
    multiplier : ndarray, shape (T,), or None
        One per update of the logged run, maximum 1; None where too little of the run was logged.
    peak_lr : float or None
        Its peak learning rate.
    warmup_steps : int or None
        Updates until the rate first reached its peak; 0 if it started there.
    origin : str
        Where this is known from.
    notes : tuple of str
        What a reader should know of it.
    """

    multiplier: NDArray[np.float64] | None = None
    peak_lr: float | None = None
    warmup_steps: int | None = None
    origin: str = "unknown"
    notes: tuple[str, ...] = ()

    @property
    def is_constant(self) -> bool:
        """Whether the run kept its peak rate (nearly) all the time after its warmup."""
        if self.multiplier is None:
            return False
        after = self.multiplier[self.warmup_steps or 0 :]
        return after.size > 0 and float(np.mean(after >= 0.99)) >= CONSTANT_SHARE

    def is_like(self, multiplier: NDArray[np.float64]) -> bool:
        """Whether the run used this very schedule, but for what rounding and a row more or less do."""
        own = self.multiplier
        return own is not None and own.size == multiplier.size and bool(np.allclose(own, multiplier, atol=0.01))

    def peak_ratio(self, multiplier: NDArray[np.float64]) -> float | None:
        """Peak learning rate for a new schedule over the old one: equal area, mean(old) / mean(new).

        None where the old schedule is unknown, or constant: there the rule comes out 0.9 to 2.6 octaves
        too small.
        """
        if self.multiplier is None or self.is_constant:
            return None
        return float(self.multiplier.mean() / multiplier.mean())

    def suggested_peak(self, ratio: float | None) -> float | None:
        """Peak learning rate for a new schedule of a given `peak_ratio`; None where either is unknown, or it is inf."""
        peak = math.inf if ratio is None or self.peak_lr is None else ratio * self.peak_lr
        return peak if math.isfinite(peak) else None


def read_prior(
    norms: GradientNorms, prior_schedule: Schedule | str | None = None, peak_lr: float | None = None
) -> Prior:
    """Learning rates from what the caller says, else from the log, else from the settings beside it.

    Where a log holds the rate of the next step (`Source.lr_alignment`), it is moved by one update.

    Parameters
    ----------
    norms : GradientNorms
        The log.
    prior_schedule : Schedule or str, optional
        A schedule, stretched to the logged run, or a name (`named_schedule`).
    peak_lr : float, optional
        Peak learning rate of the logged run.

    Examples
    --------
    >>> norms = GradientNorms.from_values([1.0] * 4, learning_rate=[0.1, 0.2, 0.1, 0.05])
    >>> prior = read_prior(norms)
    >>> prior.peak_lr, prior.warmup_steps, prior.multiplier.tolist()
    (0.2, 2, [0.5, 1.0, 0.5, 0.25])
    """
    check_peak(peak_lr)
    at, rates = logged_rates(norms)
    peak = float(rates.max(initial=0.0))
    raw = norms.learning_rate if norms.rates is None else norms.rates[1]
    notes: tuple[str, ...] = ()
    if raw is not None and _ends_in_a_zero(raw[np.isfinite(raw)]):
        notes = ("the last logged rate, 0 after a high one, is that of no update: it is left out",)
    if prior_schedule is not None:
        origin, multiplier = given_multipliers(prior_schedule, norms.total_steps)
        if rates.size:
            notes = ("of the logged learning rates only the peak is used: the prior schedule is given",)
        rising = int(np.argmax(multiplier))
        return Prior(multiplier, peak_lr or peak or None, rising + 1 if rising else 0, origin, notes)
    set_peak, set_warmup = schedule_settings(norms.source.settings, norms.total_steps)
    if peak == 0.0:
        if set_peak is not None and peak_lr is None:
            notes = (f"the peak learning rate {set_peak:g} is that of the settings beside the log",)
        return Prior(None, peak_lr or set_peak, set_warmup, "unknown" if set_warmup is None else "the settings", notes)
    ahead = _ahead(norms)
    usual = stride(at) if at.size > 1 else norms.stride
    covered = (int(at[-1] - at[0]) + usual) / norms.total_steps
    area = None
    if covered >= LEAST_COVERAGE:
        area = on_fraction((at + 0.5) / norms.total_steps, rates / peak, norms.total_steps)
    # 1e-6: rates are often logged as float32.
    first = int(np.flatnonzero(rates >= peak * (1.0 - 1e-6))[0])
    warmup = int(at[first]) + 1
    first_stride = int(at[1] - at[0]) if at.size > 1 else usual
    if at[0] - ahead >= max(usual, first_stride, 0.02 * norms.total_steps):
        # The log starts too late to show the warmup, or the peak.
        return Prior(area, peak_lr, None, "the log")
    if warmup == 1 + ahead:
        warmup = 0
    if peak_lr is not None and not math.isclose(peak_lr, peak, rel_tol=1e-3):
        notes += (f"the peak learning rate is {peak_lr:g}, as given; the log says {peak:g}",)
    if warmup and first == 0 and set_warmup is not None and set_warmup <= warmup:
        # The peak lies before the first row: the settings know better.
        warmup, notes = (
            set_warmup,
            (*notes, f"the warmup, {set_warmup} updates, is that of the settings beside the log"),
        )
    elif warmup and first == 0:
        notes += (
            f"the first logged rate, of update {warmup}, is the peak already: the warmup may have ended before "
            "(--prior-schedule and --peak-lr say what the run used)",
        )
    prior = Prior(area, peak_lr or peak, warmup, "the log", notes)
    last = float(rates[-1]) / peak
    ended = int(at[-1]) + usual >= 0.95 * norms.total_steps  # else the log knows that it goes on
    if last > UNFINISHED and ended and not prior.is_constant and warmup < norms.total_steps:
        note = f"the last logged rate is {100 * last:.0f} % of the peak: if the run was to go on, give --logged-steps"
        prior = replace(prior, notes=(*notes, note))
    return prior


def check_peak(peak_lr: float | None) -> None:
    """Refuse a peak learning rate that is none."""
    if peak_lr is not None and not (hasattr(peak_lr, "__float__") and math.isfinite(peak_lr) and peak_lr > 0.0):
        raise RefineError(f"peak_lr is {peak_lr!r}; it must be a positive number")


def given_multipliers(prior_schedule: Schedule | str, total_steps: int) -> tuple[str, NDArray[np.float64]]:
    """Origin and multipliers, shape (total_steps,), of the schedule that the caller says a run used.

    Examples
    --------
    >>> origin, multipliers = given_multipliers("linear", 4)
    >>> origin, multipliers.tolist()
    ('linear', [1.0, 0.75, 0.5, 0.25])
    """
    origin = "given"
    if isinstance(prior_schedule, str):
        origin, prior_schedule = prior_schedule, named_schedule(prior_schedule, total_steps)
    elif not isinstance(prior_schedule, Schedule):
        raise RefineError(
            f"prior_schedule is a {type(prior_schedule).__name__}; it must be a Schedule (of a fit: .refined or "
            ".recommended), a file or the name of a family"
        )
    return origin, prior_schedule.resample(total_steps).multiplier


def logged_rates(norms: GradientNorms) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Update in which it was used, and rate, of every row that holds one, in order.

    Rates below 0 are none, nor is a last one of 0 that follows a high one.
    """
    if norms.rates is not None:
        steps, rates = norms.rates
        at = steps if norms.from_zero else steps - 1
    elif norms.learning_rate is not None:
        at, rates = norms.updates, norms.learning_rate
    else:
        return np.zeros(0, dtype=np.int64), np.zeros(0)
    return used_rates(at, rates, norms.source.lr_alignment)


def used_rates(
    at: NDArray[np.int64], rates: NDArray[np.float64], alignment: LrAlignment
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Updates in which rates were used, from the updates beside which they stand, in order; both shape (m,).

    Rates below 0 are none, nor is a last one of 0 that follows a high one.

    Examples
    --------
    >>> at, rates = used_rates(np.array([9, 19, 29]), np.array([0.1, 0.2, 0.0]), "next_step")
    >>> at.tolist(), rates.tolist()
    ([10, 20], [0.1, 0.2])
    """
    known = np.isfinite(rates) & (rates >= 0.0) & (at >= 0)
    at, rates = (at, rates) if known.all() else (at[known], rates[known])
    if _ends_in_a_zero(rates):
        at, rates = at[:-1], rates[:-1]
    return at + (alignment == "next_step"), rates


def _ends_in_a_zero(rates: NDArray[np.float64]) -> bool:
    """Whether a last rate of 0 follows a high one: that of no update, as loops write it after the last."""
    return rates.size > 1 and rates[-1] == 0.0 and bool(rates[-2] > 0.5 * rates.max())


def _ahead(norms: GradientNorms) -> int:
    """How many updates after the one beside which it stands a logged rate is used."""
    return int(norms.source.lr_alignment == "next_step")


def is_file(name: str) -> bool:
    """Whether a schedule's name means a file: by its suffix, or as it is there; one named as a family has to hold one.

    Examples
    --------
    >>> is_file("refined/schedule.json"), is_file("linear:warmup_fraction=0.02")
    (True, False)
    """
    if name.lower().endswith((".csv", ".json")):
        return True
    return os.path.lexists(name) and (name.partition(":")[0] not in FAMILIES or is_schedule(name))


def named_schedule(name: str, total_steps: int | None) -> Schedule:
    """Turn a schedule file (``.csv``, ``.json``, a result's folder) or the name of a family into a schedule.

    A file keeps its own length unless ``total_steps`` says otherwise (`refine.retarget`); a family needs it.
    """
    if name.endswith(".py"):
        raise RefineError(f"{name} is code; name its folder, or a .csv or .json file beside it")
    if is_file(name):
        schedule = Schedule.load(name)
        same = total_steps is None or total_steps == schedule.total_steps
        return schedule if same else retarget(schedule, total_steps or 0)
    if total_steps is None and name.partition(":")[0] in FAMILIES:
        raise RefineError(f"{name} has no length of its own; give the number of updates with --total-steps")
    return from_name(name, total_steps or 1)


def named_schedules(names: Sequence[str], total_steps: int | None = None) -> dict[str, Schedule]:
    """Schedules to be seen side by side, each by a name that says what it is.

    Files keep their own lengths. A family has ``total_steps``, by default those of the first file, and the warmup of
    that file (`warmup_of`) where it names none, has no rise of its own and leaves room for it: its name says so then.
    """
    files = {name: named_schedule(name, None) for name in names if is_file(name)}
    first = next(iter(files.values()), None)
    steps = total_steps or (first.total_steps if first else None)
    warmup = warmup_of(first) if first else 0
    found: dict[str, Schedule] = {}
    for name in names:
        schedule = files.get(name) or named_schedule(name, steps)
        longer = name if name in files or warmup >= schedule.total_steps else with_run_warmup(name, warmup)
        try:
            found[longer] = schedule if longer == name else named_schedule(longer, steps)
        except RefineError:  # as wsd:1, all of which is cooldown
            found[name] = schedule
    return found


def warmup_of(schedule: Schedule) -> int:
    """Updates of a schedule's warmup: what its provenance names, else those of a straight rise to its peak, else 0.

    Examples
    --------
    >>> from refine import linear
    >>> rising = linear(100, warmup_steps=21)
    >>> warmup_of(rising), warmup_of(rising.resample(300)), warmup_of(Schedule(rising.multiplier))
    (21, 61, 21)
    """
    known = known_warmup(schedule)
    if known is not None:
        return known
    rise = schedule.multiplier[: int(np.argmax(schedule.multiplier)) + 1]
    line = np.linspace(rise[0], 1.0, rise.size)
    return rise.size if 1 < rise.size < len(schedule) and np.allclose(rise, line, atol=1e-3) else 0

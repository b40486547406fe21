"""A run in progress: the best schedule for the updates that are left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import __version__
from .analysis import family_of
from .bound import omega_at_best_peak
from .diagnostics import check, near_separable
from .digits import on_grid
from .errors import RefineError
from .foretold import foretell, to_dicts
from .health import check_values
from .hygiene import stride
from .level_shifts import shifts_of, without_shifts
from .norms import GradientNorms
from .prediction import Prediction
from .prior import Prior, is_file, logged_rates, named_schedule, read_prior
from .refinement import EXPONENTS, OptimizerFamily
from .schedule import Schedule, check_count
from .text import paragraph
from .transfer import best_tail, tail_bound

__all__ = ["Continuation", "continue_run"]

LEAST_POINTS = 20
"""So many norms after the present update, and they are used; with fewer the last one is held."""

_TINY = 1e-120
_FLAG_STEPS = 100_000


@dataclass(frozen=True, slots=True, eq=False)
class Continuation:
    """A schedule for a whole run whose first updates are done.

    Attributes
    ----------
    schedule : Schedule
        T multipliers, those of the updates done first.
    at : int
        Updates done.
    peak_lr : float or None
        Learning rate where the multiplier is 1: the run's own peak, or above it where rewarming raises it.
    hold_steps : int
        Updates at the present rate before the anneal.
    over_linear, over_rewarmed : float
        Bound of annealing in a straight line from now on, and of the best tail that may rise, over this one's.
    assumptions, warnings : tuple of str
    predicted : mapping of str to Prediction
        Final losses of the whole run with this tail, and with a straight line from now on, by `refine.fit_loss`; empty
        where the log does not tell.
    """

    schedule: Schedule
    at: int
    peak_lr: float | None
    hold_steps: int
    over_linear: float
    over_rewarmed: float
    assumptions: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    predicted: Mapping[str, Prediction] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "total_steps": self.schedule.total_steps,
            "at": self.at,
            "hold_steps": self.hold_steps,
            "anneal_steps": self.schedule.total_steps - self.at - self.hold_steps,
            "peak_lr": self.peak_lr,
            "present_multiplier": float(self.schedule.multiplier[self.at - 1]),
            "next_multiplier": float(self.schedule.multiplier[self.at]),
            "over_linear": self.over_linear,
            "over_rewarmed": self.over_rewarmed,
            "assumptions": list(self.assumptions),
            "warnings": list(self.warnings),
            "predicted_loss": to_dicts(self.predicted),
        }

    def summary(self) -> str:
        """What is to be done, and what that is worth."""
        d, h = self.to_dict(), self.schedule.multiplier
        present, after = (self._rate(float(h[i])) for i in (self.at - 1, self.at))
        held = f"hold {present} for {self.hold_steps:,} updates, then " if self.hold_steps else ""
        start = "" if self.hold_steps else f" from {after} on (now {present})"
        peak = "" if self.peak_lr is None else f" ({self.peak_lr:.6g})"
        told = (
            (
                "bound",
                f"{_versus(self.over_linear)} annealing in a straight line from now on, "
                f"{_versus(self.over_rewarmed)} the best that may rise (convex theory: no promise)",
            ),
            *([("loss", self._losses())] if self.predicted else []),
            *(("assumed", line) for line in self.assumptions),
            *(("warning", line) for line in self.warnings),
            ("resume", f"load the optimizer, set every group's initial_lr to its peak rate{peak}, then"),
            ("", f"make_scheduler(optimizer, last_epoch={self.at - 1})"),
        )
        lines = [
            f"{self.at:,} of {d['total_steps']:,} updates are done: {held}anneal over {d['anneal_steps']:,}{start}"
        ]
        return "\n".join([*lines, *(line for title, text in told for line in paragraph(title, text))])

    def _losses(self) -> str:
        this, line = self.predicted["this tail"], self.predicted["straight line"]
        return (
            f"predicted after the last update: {this.words}; annealing in a straight line from now on {line.words} "
            "(refine predict)"
        )

    def _rate(self, multiplier: float) -> str:
        return f"{multiplier:.3g} of the peak" if self.peak_lr is None else f"{multiplier * self.peak_lr:.3g}"


def _versus(other: float) -> str:
    """How much better or worse than another one's bound, up to the name of the other."""
    change = round(100.0 * (other - 1.0), 1)
    return "as good as" if change == 0.0 else f"{abs(change):.1f} % {'better' if change > 0.0 else 'worse'} than"


def continue_run(
    norms: GradientNorms,
    *,
    at: int,
    total_steps: int,
    optimizer: OptimizerFamily | None = None,
    smoothing: float = 0.1,
    planned: Schedule | str | None = None,
    peak_lr: float | None = None,
    rewarm: bool = False,
    hold_steps: int | None = None,
) -> Continuation:
    """Best schedule for the rest of a run, given what it has done (`refine.transfer.best_tail`).

    Parameters
    ----------
    norms : GradientNorms
        The run's log, with its learning rates; it may go on after ``at``.
    at : int
        Updates done.
    total_steps : int
        Updates of the whole run, those done included.
    optimizer : {"sgd", "adam"}, optional
        Family of the optimizer; by default what the log names, else "adam".
    smoothing : float
        Window of the running median, as a fraction of the updates.
    planned : Schedule or str, optional
        The schedule for which the run's peak was tuned, a file over its own length, a family over that of the logged
        run; by default that of the whole log. It fixes the initial distance, D = gamma sqrt(S Q), and stands in for
        learning rates that the log lacks.
    peak_lr : float, optional
        The run's peak learning rate, where the log does not hold it.
    rewarm : bool
        Allow rates above the present one; without it the schedule never rises above the present one.
    hold_steps : int, optional
        Updates at the present rate before an anneal that starts from it, 0 for a cooldown from now on; by default
        the best number.

    Returns
    -------
    Continuation
    """
    at = check_count("at", at, least=1)
    total_steps = check_count("total_steps", total_steps, least=1)
    if total_steps <= at:
        raise RefineError(
            f"total_steps is {total_steps} and {at} updates are done; it must be more: it counts them too"
        )
    family, family_source = family_of(norms, optimizer)
    power = EXPONENTS[family]
    smoothed = norms.smoothed(smoothing)

    def squared(of_updates: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(np.maximum((of_updates / smoothed.max()) ** power, _TINY))

    plan = _plan(norms, planned)
    prior = read_prior(norms)
    run = _run(norms, prior, plan, at, peak_lr)
    whole = squared(_norms_of_run(norms, smoothed, at, total_steps))
    on_plan = squared(np.interp(np.arange(run.tuned_for.size), norms.updates, smoothed))
    distance = 1.0 / omega_at_best_peak(run.tuned_for, on_plan).peak_lr
    tail = best_tail(run.done, whole, distance=distance, rewarm=rewarm, hold_steps=hold_steps)
    free = best_tail(run.done, whole, distance=distance, rewarm=True).bound
    left = total_steps - at
    straight = tail_bound(run.done, whole, run.done[-1] * np.arange(left, 0, -1) / left, distance=distance)

    multiplier = np.concatenate([run.done, tail.multiplier])
    top = float(multiplier.max())
    peak = None if run.peak_lr is None else run.peak_lr * top
    assumptions = (
        f"optimizer {family} ({family_source}), so N = {'G^2' if power == 2 else 'G'}; {norms.kind} norm",
        *run.assumptions,
        "norms to come as the log has them after this update, over what is left"
        if _known_after(norms, at)
        else "constant norms from here on: the log ends here",
    )
    shifts = shifts_of(norms)
    plain = without_shifts(norms, shifts)
    level = plain.smoothed(smoothing) if shifts else smoothed
    values = check_values(plain, level, plain.on_updates(level, min(norms.total_steps, _FLAG_STEPS)), family, prior)
    notes = [*norms.source.notes, *(prior.notes if planned is None and peak_lr is None else ())]
    if near_separable(check(values)):
        notes.append("near-separable: the norms fall so far that nearly all weight is at the end; anneal by hand")
    if plan is None and prior.warmup_steps is not None and at < prior.warmup_steps:
        notes.append("the run was still warming up: only --rewarm lets it go on rising")
    if tail.hold_steps == 0 and hold_steps is None and not rewarm and tail.multiplier[0] < 0.8 * run.done[-1]:
        notes.append(
            "the rate drops at once: the bound wants lower rates for longer runs, as T^-1/2, real runs much less; "
            "--cooldown-steps starts at the present rate"
        )
    predicted = {}
    if peak is not None:
        line = np.concatenate([run.done, run.done[-1] * np.arange(left, 0, -1) / left])
        both = {"this tail": multiplier, "straight line": line}
        rated = {n: (Schedule.from_rates(rates), peak / top * float(rates.max())) for n, rates in both.items()}
        predicted = foretell(norms, rated, anchored=True)
    provenance = {
        "generator": f"refine {__version__}",
        "reference": "arXiv:2310.07831",
        "source": norms.source.name,
        "format": norms.source.format,
        "norm_kind": norms.kind,
        "optimizer": family,
        "mode": "continue",
        "updates_done": at,
        "hold_steps": tail.hold_steps,
        "rewarm": rewarm,
        "smoothing_fraction": smoothing,
        "suggested_peak_lr": peak,
        "assumptions": list(assumptions),
    }
    return Continuation(
        schedule=Schedule(on_grid(multiplier / top), provenance),
        at=at,
        peak_lr=peak,
        hold_steps=tail.hold_steps,
        over_linear=straight / tail.bound,
        over_rewarmed=free / tail.bound,
        assumptions=assumptions,
        warnings=tuple(notes),
        predicted=predicted,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Run:
    """What a run has done and was tuned for, both in the unit of its peak learning rate."""

    done: NDArray[np.float64]
    tuned_for: NDArray[np.float64]
    peak_lr: float | None
    assumptions: tuple[str, ...]


def _plan(norms: GradientNorms, planned: Schedule | str | None) -> NDArray[np.float64] | None:
    """Multipliers of the planned schedule: a file over its own length, a family over that of the logged run."""
    if planned is None or isinstance(planned, Schedule):
        return None if planned is None else planned.multiplier
    return named_schedule(planned, None if is_file(planned) else norms.total_steps).multiplier


def _run(norms: GradientNorms, prior: Prior, plan: NDArray[np.float64] | None, at: int, peak_lr: float | None) -> _Run:
    """The run from its logged rates; from its plan, where they are missing."""
    logged, rates = logged_rates(norms)
    told: list[str] = []
    if plan is not None:
        told.append(f"the peak learning rate was tuned for the planned schedule, over {plan.size:,} updates")
    if not rates.size or rates.max() == 0.0:
        if plan is None:
            raise RefineError(
                "the log holds no learning rates, so what the run has done is unknown; name its schedule "
                "(--prior-schedule)"
            )
        if at > plan.size:
            raise RefineError(
                f"{at} updates are done and the planned schedule has {plan.size}; give its length, --logged-steps"
            )
        return _Run(plan[:at], plan, peak_lr, tuple(told))
    usual = stride(logged) if logged.size > 1 else norms.stride
    first, last = int(logged[0]), int(logged[-1])
    if last + 1 + 2 * usual < at:
        raise RefineError(
            f"{at} updates are said to be done and the logged rates end at update {last + 1}; name an earlier one"
        )
    late = first > max(2 * usual, 0.02 * at)
    if late and (plan is None or first > plan.size):
        raise RefineError(
            f"the log holds no learning rate of the first {first} updates, so what the run has done is unknown; "
            "name its schedule (--prior-schedule)"
        )
    unit = float(rates.max())
    if plan is not None:
        within = logged < plan.size
        planned = plan[logged[within]]
        known = planned > 0.0
        if known.any():
            unit = float(np.median(rates[within][known] / planned[known]))
        farthest = float(np.abs(rates[within] / (peak_lr or unit) - planned).max(initial=0.0))
        if farthest > 0.05:
            told.append(f"the logged rates, which are up to {farthest:.0%} of the peak away from the planned schedule")
    peak = peak_lr or unit
    done = np.interp(np.arange(at), logged, rates) / peak
    if late and plan is not None:
        done[:first] = plan[:first]
        told.append(f"the first {first:,} updates, of which no rate is logged, went as planned")
    if last + 1 < at:
        told.append(f"the rate of update {at:,} is that of update {last + 1:,}, the last one logged")
    if plan is not None:
        return _Run(done, plan, peak, tuple(told))
    if prior.multiplier is None:
        told.append(
            "the peak learning rate was tuned for what the run has done: its plan is unknown (--prior-schedule)"
        )
        return _Run(done, done, peak, tuple(told))
    constant = ": a constant rate; if it was for another, name that (--prior-schedule)" if prior.is_constant else ""
    told.append(f"the peak learning rate was tuned for the schedule of the log{constant}")
    return _Run(done, prior.multiplier * (unit / peak), peak, tuple(told))


def _known_after(norms: GradientNorms, at: int) -> bool:
    return int(np.count_nonzero(norms.updates >= at)) >= LEAST_POINTS


def _norms_of_run(
    norms: GradientNorms, smoothed: NDArray[np.float64], at: int, total_steps: int
) -> NDArray[np.float64]:
    """Smoothed norms of the updates done, and of those to come where the log goes on; else the last one, held."""
    known = norms.updates
    if _known_after(norms, at):
        stretch = (norms.total_steps - at) / (total_steps - at)
        to_come = at + (np.arange(total_steps - at) + 0.5) * stretch - 0.5
    else:
        known = known[: max(int(np.count_nonzero(known < at)), 1)]
        to_come = np.full(total_steps - at, float(at))
    found: NDArray[np.float64] = np.interp(np.concatenate([np.arange(at), to_come]), known, smoothed[: known.size])
    return found

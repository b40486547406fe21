"""The whole way from gradient norms to a schedule for the next run, with what was assumed and found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from . import __version__
from .bound import best_omega, thinned
from .default import bend, choose, progress_ratio_of
from .describe import decay_exponent, dip_before_peak, peak_fraction, rise_after_peak
from .diagnostics import Flag, check, near_separable
from .digits import on_grid
from .errors import RefineError
from .families import cosine, linear, with_warmup
from .health import examine, flag_values
from .norms import GradientNorms
from .prior import Prior, read_prior
from .refinement import (
    OptimizerFamily,
    inverse_squared_norms,
    progress_multiplier,
    published_multiplier,
    refined_multiplier,
)
from .schedule import Schedule, check_count
from .smoothing import smooth
from .transfer import peak_advice, peak_ratio_by_bound

if TYPE_CHECKING:
    from .distance import DistanceEstimate

__all__ = ["COMPARE_STEPS", "DEFAULT_WARMUP_FRACTION", "Mode", "Refinement", "family_of", "refined_schedule"]

Mode = Literal["auto", "refined", "paper", "progress", "linear"]
Decision = Literal["linear", "later", "earlier", "refined"]

DEFAULT_WARMUP_FRACTION = 0.02
"""Warmup where the log does not show one, as a fraction of the next run."""

COMPARE_STEPS = 100_000
"""Bounds of longer runs are compared on this many of their updates."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Refinement:
    """A schedule for the next run, and everything that led to it.

    Attributes
    ----------
    schedule : Schedule
        T positive multipliers for the next run.
    decision : {"linear", "later", "earlier", "refined"}
        The first three by default (`refine.default`); "linear" also where the guard of mode "refined" fell back to
        linear decay, or mode "linear" asked for it.
    reason : str
        Why, with the values that decided; empty where the mode decided.
    mode, optimizer, smoothing
        As used.
    optimizer_source : {"given", "log", "assumed"}
        How the optimizer family is known.
    norms : GradientNorms
        The log.
    smoothed : ndarray, shape (n,)
        Smoothed norms at the logged points.
    warmup_steps : int
        Least number of warmup updates that was imposed.
    prior : Prior
        What is known of the logged run's own learning rates.
    gain_over_linear, gain_over_cosine : float
        Best bound of the other, with the same warmup, over the schedule's own, on norms smoothed with
        both ends reflected.
    peak_lr_ratio : float or None
        Suggested peak learning rate over the old one, for equal area; None where it cannot be told, or where no rule
        has worked (`refine.diagnostics.near_separable`).
    peak_lr_ratio_by_bound : float or None
        The same by the bound on the raw norms (`refine.transfer.peak_ratio_by_bound`).
    distance : DistanceEstimate or None
        From how far the run travelled, where the log says so (`refine.distance`, experimental).
    progress_ratio : float or None
        `refine.default.progress_ratio` of the log.
    flags : tuple of Flag
        Every rule of `refine.diagnostics.RULES` with its value.
    assumptions, notes : tuple of str
        What the log did not say; what else to know.
    """

    schedule: Schedule
    decision: Decision
    reason: str
    mode: Mode
    optimizer: OptimizerFamily
    optimizer_source: Literal["given", "log", "assumed"]
    smoothing: float
    norms: GradientNorms
    smoothed: NDArray[np.float64]
    warmup_steps: int
    prior: Prior
    gain_over_linear: float
    gain_over_cosine: float
    peak_lr_ratio: float | None
    peak_lr_ratio_by_bound: float | None
    distance: DistanceEstimate | None
    progress_ratio: float | None
    flags: tuple[Flag, ...]
    assumptions: tuple[str, ...]
    notes: tuple[str, ...]

    def __repr__(self) -> str:
        return f"Refinement(mode={self.mode!r}, decision={self.decision!r}, schedule={self.schedule!r})"

    @property
    def weights(self) -> NDArray[np.float64]:
        """1 / N at the logged points, maximum 1; shape (n,)."""
        return inverse_squared_norms(self.smoothed, optimizer=self.optimizer)

    @property
    def logged_multiplier(self) -> NDArray[np.float64]:
        """Theorem 3 on the logged points, last value 0; in mode "paper" what the published code returns; shape (n,)."""
        return published_multiplier(self.weights)

    @property
    def fell_back(self) -> tuple[Flag, ...]:
        """Flags for which the guard returned linear decay; empty where it did not."""
        if self.mode != "refined" or self.decision == "refined":
            return ()
        return tuple(flag for flag in self.flags if flag.advises_linear)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Raised flags and notes, a line each; without those of a schedule that was rejected, or not made."""
        kept = [f for f in self.flags if f.raised and not (self.fell_back and f.rule.about == "refined")]
        return (*(str(f) for f in kept if self.mode != "auto" or not f.rule.refining), *self.notes)

    def summary(self) -> str:
        """Everything that is needed to judge the schedule, as text."""
        from .report import summary

        return summary(self)

    def to_dict(self) -> dict[str, Any]:
        """What was read, assumed, decided and found, as JSON values."""
        from .report import to_dict

        return to_dict(self)


def refined_schedule(
    norms: GradientNorms | npt.ArrayLike,
    *,
    optimizer: OptimizerFamily | None = None,
    smoothing: float = 0.1,
    mode: Mode = "auto",
    guard: bool = True,
    total_steps: int | None = None,
    prior_schedule: Schedule | str | None = None,
    peak_lr: float | None = None,
) -> Refinement:
    r"""Compute the schedule for the next run from the gradient norms of a finished one.

    ``auto``, the default, is linear decay with the logged run's warmup, bent towards a later or an earlier
    decay where the log says so (`refine.default`). ``refined`` is :math:`h_t \propto w_t \sum_{p>t} w_p` with
    :math:`w_t = 1/N_t` (arXiv:2310.07831, Theorem 3) on norms smoothed with both ends reflected and with a
    warmup not shorter, in steps, than the logged run's; or linear decay with that warmup, where a flag of
    `refine.diagnostics.RULES` says that refinement will hurt. ``paper`` is the published algorithm to
    the letter, ``progress`` its damped form in the distance travelled, ``linear`` linear decay; the
    last two with the same warmup.

    Parameters
    ----------
    norms : GradientNorms or array_like, shape (n,)
        The log, or l2 norms, one per update.
    optimizer : {"sgd", "adam"}, optional
        Family of the logged optimizer; it fixes the exponent, N = G^2 or N = G. By default what the
        log names, else "adam", the milder one, which is then recorded as an assumption.
    smoothing : float
        tau, width of the median window as a fraction of the logged points.
    mode : {"auto", "refined", "paper", "progress", "linear"}
    guard : bool
        Of mode "refined": False insists on the refined schedule whatever the flags say.
    total_steps : int, optional
        Updates of the *next* run; by default as many as the logged one.
    prior_schedule : Schedule or str, optional
        The logged run's own schedule, where the log holds no learning rates: a schedule, a file or a
        family's name (`refine.from_name`).
    peak_lr : float, optional
        The logged run's peak learning rate.

    Returns
    -------
    Refinement

    Notes
    -----
    O(n log w + T). For another ``total_steps`` the norms keep their place as a fraction of training.

    Examples
    --------
    >>> refined_schedule([3.0] * 10, optimizer="sgd", mode="paper").schedule
    Schedule(total_steps=10, first=1, peak=1 at update 0, last=0.1)
    """
    if mode not in get_args(Mode):
        raise RefineError(f"mode is {mode!r}; it must be one of {', '.join(get_args(Mode))}")
    if mode == "auto" and not guard:
        raise RefineError("guard is False and mode is 'auto', which has none; give mode='refined' with it")
    if not isinstance(norms, GradientNorms):
        norms = GradientNorms.from_values(norms)
    steps = norms.total_steps if total_steps is None else check_count("total_steps", total_steps, least=1)
    family, family_source = family_of(norms, optimizer)
    prior = read_prior(norms, prior_schedule, peak_lr)
    warmup_steps, warmup_source = _warmup(mode, prior, steps)

    reflected = smooth(norms.values, fraction=smoothing)
    smoothed = smooth(norms.values, fraction=smoothing, left="nearest") if mode == "paper" else reflected
    oddities = examine(norms, reflected).warnings
    yardstick = _Yardstick(norms, reflected, family, steps)
    best_linear, best_cosine = (
        yardstick.best(baseline(steps, warmup_steps=warmup_steps).multiplier) for baseline in (linear, cosine)
    )
    of_norms = flag_values(norms, reflected, yardstick.smoothed, family, prior)
    progress = progress_ratio_of(norms, family, family_source != "assumed", prior)
    choice = choose({**of_norms, "progress ratio": progress})
    decision: Decision = "refined"
    if mode == "auto":
        decision, candidate, values = choice.bend, bend(choice.bend, steps), of_norms
    else:
        candidate = _candidate(mode, norms, smoothed, family, prior, steps)
        values = {} if mode == "linear" else {**of_norms, **_flag_values(candidate, yardstick)}
        if mode == "linear":
            decision = "linear"
        elif mode == "refined" and guard and any(flag.advises_linear for flag in check(values)):
            decision, candidate = "linear", linear(steps).multiplier
    multiplier = with_warmup(candidate, warmup_steps)
    like = prior.is_like(multiplier)  # then no rule is needed
    near = near_separable(check(of_norms))
    separable = near and not like
    ratio = 1.0 if like else None if separable else prior.peak_ratio(multiplier)
    by_bound = None if near else yardstick.peak_ratio(prior, multiplier)
    own = yardstick.best(multiplier)
    distance, distance_notes = _distance(norms, family, multiplier, near)

    assumptions = _assumptions(norms, family, family_source, warmup_source)
    if mode == "auto" and isinstance(progress, float):
        assumptions.append("each loss is the mean over its own update's batch, as differentiated: no running average")
    provenance = {
        "generator": f"refine {__version__}",
        **({"reference": "arXiv:2310.07831"} if decision == "refined" else {}),
        "source": norms.source.name,
        "format": norms.source.format,
        "columns": dict(norms.source.columns),
        "points": norms.steps.size,
        "logged_steps": norms.total_steps,
        "norm_kind": norms.kind,
        "optimizer": family,
        "optimizer_source": family_source,
        "mode": mode,
        "decision": decision,
        **({"reason": choice.reason} if mode == "auto" else {}),
        "smoothing_fraction": norms.pool.smoothing if norms.pool else smoothing,
        "warmup_steps": warmup_steps,
        "prior_peak_lr": prior.peak_lr,
        "suggested_peak_lr": prior.suggested_peak(ratio),
        "assumptions": assumptions,
    }
    provenance |= {"run": norms.source.run} if norms.source.run else {}
    return Refinement(
        schedule=Schedule(on_grid(multiplier), provenance),
        decision=decision,
        reason=choice.reason if mode == "auto" else "",
        progress_ratio=progress if isinstance(progress, float) else None,
        mode=mode,
        optimizer=family,
        optimizer_source=family_source,
        smoothing=smoothing,
        norms=norms,
        smoothed=smoothed,
        warmup_steps=warmup_steps,
        prior=prior,
        gain_over_linear=best_linear / own,
        gain_over_cosine=best_cosine / own,
        peak_lr_ratio=ratio,
        peak_lr_ratio_by_bound=by_bound,
        distance=distance,
        flags=check({**values, "dip before peak": dip_before_peak(multiplier), "peak LR ratio": ratio}),
        assumptions=tuple(assumptions),
        notes=(
            *norms.source.notes,
            *oddities,
            *_notes(mode, norms, family, prior, separable, warmup_steps, steps),
            *distance_notes,
        ),
    )


def family_of(
    norms: GradientNorms, optimizer: OptimizerFamily | None
) -> tuple[OptimizerFamily, Literal["given", "log", "assumed"]]:
    """Optimizer family of the logged run, and how it is known."""
    if optimizer is not None:
        return optimizer, "given"
    if norms.source.optimizer is not None:
        return norms.source.optimizer, "log"
    return "adam", "assumed"


def _warmup(mode: Mode, prior: Prior, steps: int) -> tuple[int, Literal["none", "log", "assumed"]]:
    """Least warmup of the next run, and how it is known."""
    if mode == "paper":
        return 0, "none"
    if prior.warmup_steps is not None:
        if prior.warmup_steps >= steps:
            raise RefineError(
                f"the logged run warmed up for {prior.warmup_steps} updates and the next run has {steps}; "
                "that leaves no anneal: give it more with --total-steps, or say --prior-schedule linear:warmup_steps=W"
            )
        return prior.warmup_steps, "log"
    return round(DEFAULT_WARMUP_FRACTION * steps), "assumed"


def _candidate(
    mode: Mode,
    norms: GradientNorms,
    smoothed: NDArray[np.float64],
    family: OptimizerFamily,
    prior: Prior,
    steps: int,
) -> NDArray[np.float64]:
    """The mode's schedule, before guard and warmup."""
    if mode == "linear":
        return linear(steps).multiplier
    if mode == "progress":
        if prior.multiplier is None:
            raise RefineError(
                "mode progress needs the learning rates of (nearly) the whole logged run and the log lacks them; "
                "name their column with --lr-column or the schedule with --prior-schedule"
            )
        weights = inverse_squared_norms(norms.on_updates(smoothed, norms.total_steps), optimizer=family)
        return progress_multiplier(1.0 / weights, prior.multiplier, total_steps=steps)
    return refined_multiplier(inverse_squared_norms(norms.on_updates(smoothed, steps), optimizer=family))


class _Yardstick:
    """Best bounds of schedules on the same norms, those smoothed with both ends reflected."""

    def __init__(
        self, norms: GradientNorms, reflected: NDArray[np.float64], family: OptimizerFamily, steps: int
    ) -> None:
        self.updates = thinned(steps, COMPARE_STEPS)
        size = self.updates.size
        self.smoothed = norms.on_updates(reflected, size)
        self.squared, self.raw_squared = (
            1.0 / inverse_squared_norms(column, optimizer=family)
            for column in (self.smoothed, norms.on_updates(norms.values, size))
        )

    def best(self, multiplier: NDArray[np.float64]) -> float:
        return best_omega(multiplier[self.updates], self.squared)

    def raw_excess(self, multiplier: NDArray[np.float64]) -> float:
        """Best bound on the raw norms over the least one there is (the closed form, within 1e-3 of it)."""
        least = best_omega(refined_multiplier(1.0 / self.raw_squared), self.raw_squared)
        return best_omega(multiplier[self.updates], self.raw_squared) / least

    def peak_ratio(self, prior: Prior, multiplier: NDArray[np.float64]) -> float | None:
        """Best peak by the bound over that of the logged run, both on as many updates: no horizon enters."""
        if prior.multiplier is None:
            return None
        logged = prior.multiplier[np.arange(self.updates.size) * prior.multiplier.size // self.updates.size]
        return peak_ratio_by_bound(logged, multiplier[self.updates], self.raw_squared)


def _distance(
    norms: GradientNorms, family: OptimizerFamily, multiplier: NDArray[np.float64], separable: bool
) -> tuple[DistanceEstimate | None, tuple[str, ...]]:
    """What the distance columns say, and notes; without them nothing is imported."""
    if norms.travel is None:
        return None, ()
    from .distance import estimate

    return estimate(norms, family, multiplier, separable=separable)


def _flag_values(candidate: NDArray[np.float64], yardstick: _Yardstick) -> dict[str, float | None]:
    """Values for the rules that are about the refined schedule."""
    fit = decay_exponent(candidate)
    return {
        "first multiplier": float(candidate[0]),
        "peak position": peak_fraction(candidate),
        "decay exponent": fit[0] if fit else None,
        "rise after peak": rise_after_peak(candidate),
        "bound gain": yardstick.best(linear(candidate.size).multiplier) / yardstick.best(candidate),
        "raw bound": yardstick.raw_excess(candidate),
    }


def _assumptions(norms: GradientNorms, family: OptimizerFamily, family_source: str, warmup_source: str) -> list[str]:
    found = []
    if family_source == "assumed":
        found.append("optimizer adam, the milder exponent: the log does not say; give --optimizer")
    if not norms.source.kind_known:
        found.append(f"norm kind {norms.kind}: the column's name does not say; give --norm-kind")
    if family == "adam" and norms.kind == "l2":
        found.append("the l2 norm stands in for the l1 norm, with the exponent of the Adam family")
    each = [] if norms.source.window_mean else ["of one update"]
    each += ["before clipping"] if norms.source.clipping == "unknown" else []
    found.append(f"each norm is {', '.join([*each, 'not scaled'])}")
    if warmup_source == "assumed":
        found.append(
            f"warmup {DEFAULT_WARMUP_FRACTION:.0%} of the steps: the log shows no learning rates from its start on"
        )
    return found


def _notes(
    mode: Mode,
    norms: GradientNorms,
    family: OptimizerFamily,
    prior: Prior,
    separable: bool,
    warmup_steps: int,
    steps: int,
) -> list[str]:
    found = [*prior.notes]
    if family == "sgd" and norms.kind != "l2":
        found.append(f"SGD wants the l2 norm and the log holds the {norms.kind} norm")
    if separable and prior.multiplier is not None:
        found.append(
            "near-separable: on logs whose norms fall this far every rule for the peak learning rate failed; none is "
            "suggested: sweep it, from the old one on"
        )
    elif prior.is_constant:
        found.append("the logged run kept a constant rate: no peak learning rate is suggested, equal area fails there")
    if steps != norms.total_steps:
        kept = "the verdict is for the old length" if mode == "auto" else "the norms are taken to keep their shape"
        found.append(
            f"{steps} updates instead of the logged {norms.total_steps}: {kept}, "
            f"and the peak learning rate is for the old horizon; {peak_advice(norms.total_steps, steps)[0]}"
        )
    if 2 * warmup_steps > steps:
        found.append(f"the warmup of the logged run, {warmup_steps} updates, takes more than half of the {steps}")
    return found

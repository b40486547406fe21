"""The whole chain from a log to the schedule of the next run: every step in words, and in one figure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from .analysis import Refinement, refined_schedule
from .batch import read_pooled
from .default import SEPARABLE, SHAPES, Balance, Bend, balance_of, bend
from .describe import decay_exponent, peak_fraction
from .families import linear, with_warmup
from .files import printable
from .norms import GradientNorms
from .prior import logged_rates
from .readers import ReadOptions
from .refinement import EXPONENTS, OptimizerFamily, inverse_squared_norms, refined_multiplier
from .report import why_no_peak
from .schedule import Schedule
from .smoothing import median_width
from .text import paragraph

__all__ = ["Change", "Explanation", "explain", "explain_logs", "named_power", "rho_of"]

_SAME = 1e-12


@dataclass(frozen=True, slots=True)
class Change:
    """What a step did to the multipliers: how many of them it changed, and the largest absolute difference."""

    updates: int
    most: float

    @classmethod
    def between(cls, before: NDArray[np.float64], after: NDArray[np.float64]) -> Change:
        """Compare schedules of one length; differences up to 1e-12 are none.

        Examples
        --------
        >>> Change.between(np.array([1.0, 0.5, 0.25]), np.array([1.0, 0.75, 0.25]))
        Change(updates=1, most=0.25)
        """
        apart = np.abs(after - before)
        return cls(int(np.count_nonzero(apart > _SAME)), float(apart.max()) if apart.max() > _SAME else 0.0)

    def __str__(self) -> str:
        return f"{self.updates:,} multipliers by {self.most:.3g} at most" if self.updates else "no multiplier (0)"


@dataclass(frozen=True, slots=True, eq=False)
class Explanation:
    """A schedule, and the chain that led to it.

    Attributes
    ----------
    result : Refinement
        What `refine.refined_schedule` returns by default.
    refined : Refinement
        The schedule of the published weights, without guard.
    linear : Schedule
        Linear decay with the same warmup.
    squared : ndarray, shape (n,)
        N of the smoothed norms at the logged points.
    travelled : ndarray, shape (n,), or None
        Share of the sum of all learning rates that is used up with the update of each point; None where the rates
        are unknown.
    balance : Balance or None
        What the progress ratio is made of; None where it has none.
    ratio_unknown : str
        Why the progress ratio is not known; empty where it is.
    changes : mapping of str to Change
        ``guard``: from the refined schedule to what the guard of mode "refined" returns, before the warmup.
        ``warmup of refined``, ``warmup``: what the warmup did to the refined schedule, and to the one returned.
        ``default``, ``bend``: from the refined schedule, and from linear decay, to the one returned.
    steps : tuple of (str, str)
        Name and text of every step, in order.
    """

    result: Refinement
    refined: Refinement
    linear: Schedule
    squared: NDArray[np.float64]
    travelled: NDArray[np.float64] | None
    balance: Balance | None
    ratio_unknown: str
    changes: Mapping[str, Change]
    steps: tuple[tuple[str, str], ...]

    @property
    def headline(self) -> str:
        """The decision: the first line of the result's summary."""
        return self.result.summary().split("\n", 1)[0]

    def summary(self) -> str:
        """The decision, then a numbered paragraph a step."""
        lines = [self.headline]
        for number, (name, text) in enumerate(self.steps, 1):
            lines += paragraph(f"{number:2} {name}", text, hanging=0)
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """What `Refinement.to_dict` says of the result, and the chain, as JSON values."""
        weights = self.result.weights
        return {
            **self.result.to_dict(),
            "headline": self.headline,
            "progress_ratio_unknown": self.ratio_unknown or None,
            "smoothing_width": median_width(self.result.norms.steps.size, self.result.smoothing),
            "exponent": EXPONENTS[self.result.optimizer],
            "constant_lr": self.result.prior.is_constant if self.result.prior.multiplier is not None else None,
            "squared_norm_first": _finite(self.squared[0]),
            "squared_norm_last": _finite(self.squared[-1]),
            "rho": rho_of(self.refined),
            "weights_span": float(weights.max() / weights.min()),
            "refined_peak_fraction": peak_fraction(self.refined.schedule.multiplier),
            "refined_flags": [flag.to_dict() for flag in self.refined.flags],
            "changes": {name: {"updates": c.updates, "most": c.most} for name, c in self.changes.items()},
            "steps": [{"name": name, "text": text} for name, text in self.steps],
        }


def explain(
    norms: GradientNorms | npt.ArrayLike,
    *,
    optimizer: OptimizerFamily | None = None,
    smoothing: float = 0.1,
    total_steps: int | None = None,
    prior_schedule: Schedule | str | None = None,
    peak_lr: float | None = None,
) -> Explanation:
    """Follow a log to the schedule that `refine.refined_schedule` returns for it by default.

    Parameters
    ----------
    norms, optimizer, smoothing, total_steps, prior_schedule, peak_lr
        As in `refine.refined_schedule`.

    Returns
    -------
    Explanation

    Notes
    -----
    Two calls of `refine.refined_schedule`: the default, and the published weights without guard.

    Examples
    --------
    >>> found = explain([4.0] * 50 + [2.0] * 50, optimizer="adam")
    >>> dict(found.steps)["weight"]
    '1/N at the 100 logged points: the largest is 2 times the smallest'
    >>> found.changes["bend"]
    Change(updates=0, most=0.0)
    """
    if not isinstance(norms, GradientNorms):
        norms = GradientNorms.from_values(norms)
    how: dict[str, Any] = {
        "optimizer": optimizer,
        "smoothing": smoothing,
        "total_steps": total_steps,
        "prior_schedule": prior_schedule,
        "peak_lr": peak_lr,
    }
    result = refined_schedule(norms, **how)
    refined = refined_schedule(norms, mode="refined", guard=False, **how)
    steps, warmup = result.schedule.total_steps, result.warmup_steps
    with np.errstate(over="ignore", under="ignore"):
        squared = np.asarray(result.smoothed ** EXPONENTS[result.optimizer], dtype=np.float64)
    told = balance_of(norms, result.optimizer, result.optimizer_source != "assumed", result.prior)

    straight = linear(steps).multiplier
    weighted = refined_multiplier(
        inverse_squared_norms(norms.on_updates(refined.smoothed, steps), optimizer=refined.optimizer)
    )
    raised = any(flag.advises_linear for flag in refined.flags)
    same_warmup = with_warmup(straight, warmup)
    before = bend(cast("Bend", result.decision), steps)  # mode "auto" knows no other decisions
    changes = {
        "guard": Change.between(weighted, straight if raised else weighted),
        "warmup of refined": Change.between(weighted, with_warmup(weighted, warmup)),
        "warmup": Change.between(before, with_warmup(before, warmup)),
        "default": Change.between(refined.schedule.multiplier, result.schedule.multiplier),
        "bend": Change.between(same_warmup, result.schedule.multiplier),
    }
    travelled = _travelled(result)
    return Explanation(
        result=result,
        refined=refined,
        linear=Schedule(same_warmup),
        squared=squared,
        travelled=travelled,
        balance=None if isinstance(told, str) else told,
        ratio_unknown=told if isinstance(told, str) else "",
        changes=changes,
        steps=_steps(result, refined, squared, changes),
    )


def explain_logs(
    logs: Sequence[str], read: ReadOptions, how: Mapping[str, Any], *, progress: Callable[[float], None] | None = None
) -> Explanation:
    """Explain the schedule of one log, or of the pooled norms of several; as `refine.batch.fit_logs`.

    Parameters
    ----------
    logs, read, progress
        As in `refine.batch.fit_logs`.
    how : mapping
        Keyword arguments of `explain`.
    """
    norms, how = read_pooled(logs, read, how, progress=progress)
    return explain(norms, **how)


def _travelled(result: Refinement) -> NDArray[np.float64] | None:
    """Share of the sum of the learning rates, at the logged points."""
    if result.prior.multiplier is None:
        return None
    sums = np.cumsum(result.prior.multiplier)
    shares: NDArray[np.float64] = sums[np.clip(result.norms.updates, 0, sums.size - 1)] / sums[-1]
    return shares


def _steps(
    result: Refinement,
    refined: Refinement,
    squared: NDArray[np.float64],
    changes: Mapping[str, Change],
) -> tuple[tuple[str, str], ...]:
    weights = result.weights
    return (
        ("read", _read(result.norms)),
        ("smooth", _smoothing(result)),
        ("rates", _rates(result)),
        ("N", _squared(result, squared)),
        ("rho", _rho_in_words(refined)),
        (
            "weight",
            f"1/N at the {weights.size:,} logged points: the largest is {weights.max() / weights.min():.3g} times "
            "the smallest",
        ),
        ("refine", _shape(refined)),
        ("guard", _guard(refined, changes["guard"])),
        ("warmup", _warmup(result, changes)),
        ("decide", _decision(result, changes)),
        ("peak", _peak(result)),
    )


def _read(norms: GradientNorms) -> str:
    source = norms.source
    run = f', run "{printable(source.run)}"' if source.run else ""
    column = f' in "{printable(source.columns["norm"], limit=60)}"' if "norm" in source.columns else ""
    pooled = f", the median of {norms.pool.logs} logs" if norms.pool else ""
    return (
        f"{printable(source.name)}{run} ({source.format}): {norms.steps.size:,} points, steps {norms.steps[0]:,} to "
        f"{norms.steps[-1]:,} of {norms.total_steps:,}; {norms.kind} norm{column}"
        f"{'' if source.kind_known else ', the kind assumed'}{pooled}"
    )


def _smoothing(result: Refinement) -> str:
    norms = result.norms
    if norms.pool is not None:
        return f"each log's median over {norms.pool.smoothing:g} of its points, both ends reflected, then the pool's"
    with np.errstate(over="ignore"):
        apart = norms.values / result.smoothed
    width = median_width(norms.steps.size, result.smoothing)
    return (
        f"median of {width:,} of the {norms.steps.size:,} points, both ends reflected; raw norms lie between "
        f"{apart.min():.3g} and {apart.max():.3g} times their median"
    )


def _rates(result: Refinement) -> str:
    prior = result.prior
    found = [
        "peak unknown" if prior.peak_lr is None else f"peak {prior.peak_lr:.4g}",
        "warmup unknown" if prior.warmup_steps is None else f"warmup {prior.warmup_steps:,} updates",
    ]
    if prior.multiplier is not None:
        origin = f"from {printable(prior.origin)}"
        found.append("then constant" if prior.is_constant else f"the last {prior.multiplier[-1]:.2g} of the peak")
    else:
        origin = "known of a part of it only" if logged_rates(result.norms)[1].size else "unknown"
    return f"of the logged run, {origin}: {', '.join(found)}"


def _squared(result: Refinement, squared: NDArray[np.float64]) -> str:
    source = {"given": "as given", "log": "from the log", "assumed": "ASSUMED"}[result.optimizer_source]
    text = (
        f"N = {named_power(result)} (optimizer {result.optimizer}, {source}), from {squared[0]:.3g} at the start to "
        f"{squared[-1]:.3g} at the end"
    )
    if result.prior.multiplier is None:
        return text + "; the distance travelled is unknown without learning rates"
    sums = np.cumsum(result.prior.multiplier)
    half = (int(np.searchsorted(sums, 0.5 * sums[-1])) + 1) / sums.size
    return text + f"; half of the distance is travelled after {half:.0%} of the updates"


def named_power(result: Refinement) -> str:
    """N in terms of the norm."""
    return "G^2" if EXPONENTS[result.optimizer] == 2 else "G"


def rho_of(refined: Refinement) -> float | None:
    """The norm at the end over that at 5 %."""
    return next((flag.value for flag in refined.flags if flag.rule.name == "rho"), None)


def _rho_in_words(refined: Refinement) -> str:
    rho = rho_of(refined)
    advice = ", ".join(flag.rule.advice for flag in refined.flags if flag.rule.name == "rho")
    return (
        f"the norm at the end over that at 5 % is {_shown(rho)} (the guard: {advice}; the default asks {SEPARABLE:g})"
    )


def _shape(refined: Refinement) -> str:
    h = refined.schedule.multiplier
    fit = decay_exponent(h)
    text = f"the weights' schedule, without guard: peak at update {int(np.argmax(h)):,} ({peak_fraction(h):.1%})"
    return text + (f", then like (1 - t/T)^{fit[0]:.2f}" if fit else "")


def _guard(refined: Refinement, change: Change) -> str:
    """Each raised rule with value and threshold, and what it changes."""
    raised = [flag for flag in refined.flags if flag.raised]
    grave, slight = (
        "; ".join(flag.briefly for flag in raised if flag.advises_linear == linear_advised)
        for linear_advised in (True, False)
    )
    text = f"--mode refined would keep it; the guard changes {change}"
    if grave:
        text = f"--mode refined would fall back to linear decay, as {grave}; that changes {change}"
    return text + (f"; it warns: {slight}" if slight else "")


def _warmup(result: Refinement, changes: Mapping[str, Change]) -> str:
    steps = result.warmup_steps
    if steps < 2:
        return f"none is imposed: it changes {changes['warmup']}"
    known = "as logged" if result.prior.warmup_steps is not None else "assumed"
    return (
        f"a line over the first {steps:,} updates ({known}), then scaled to peak 1: of the schedule returned it "
        f"changes {changes['warmup']}, of the refined one {changes['warmup of refined']}"
    )


def _decision(result: Refinement, changes: Mapping[str, Change]) -> str:
    return (
        f"{SHAPES[cast(Bend, result.decision)]}: {printable(result.reason)}; from the refined schedule that changes "
        f"{changes['default']}, from linear decay {changes['bend']}"
    )


def _peak(result: Refinement) -> str:
    ratio, prior = result.peak_lr_ratio, result.prior
    if ratio is not None:
        peak = prior.suggested_peak(ratio)
        becomes = "" if peak is None else f" ({prior.peak_lr:.3g} becomes {peak:.3g})"
        return f"learning rate {ratio:.2f} times the old peak, for equal area{becomes}"
    return f"no learning rate is suggested: {why_no_peak(result)}"


def _shown(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3g}"


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None

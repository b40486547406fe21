"""The whole chain from a log to the schedules of the next run: every step in words, and in one figure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .analysis import fit, unlike
from .default import scheduled
from .describe import decay_exponent, peak_fraction
from .errors import RefineError
from .families import with_warmup
from .files import printable
from .foretold import law_of, why_not
from .inputs import LogLike, pooled
from .level_shifts import shifts_of
from .norms import GradientNorms
from .prior import logged_rates
from .readers import ReadOptions
from .refinement import EXPONENTS, OptimizerFamily, hold_of_k, inverse_squared_norms, refined_multiplier
from .report import head, recommended_words, remarks, why_no_peak
from .result import Refinement
from .schedule import Schedule
from .text import paragraph
from .worth import no_case

__all__ = ["Change", "Explanation", "Hold", "explain", "explain_logs", "named_power", "rho_of"]

_SAME = 1e-12
_KS, _HOLDS = (0.5, 20.0), 25


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


@dataclass(frozen=True, slots=True)
class Hold:
    """A k, the share of the run for which it holds the peak, and its predicted final loss over that of linear decay.

    In per cent, with the 90 % interval. Below 1 the peak is k times the logged one, and nothing is held.
    """

    k: float
    share: float
    percent: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, eq=False)
class Explanation:
    """The schedules of a log, and the chain that led to them.

    Attributes
    ----------
    result : Refinement
        What `refine.fit` returns.
    squared : ndarray, shape (n,)
        N of the smoothed norms at the logged points.
    travelled : ndarray, shape (n,), or None
        Share of the sum of all learning rates that is used up with the update of each point; None where the rates
        are unknown.
    holds : tuple of Hold
        What the losses foretell of holding the peak, from half of it to a hold of nearly all of the run; empty without
        a law.
    holds_unknown : str
        Why there are none; empty where there are.
    changes : mapping of str to Change
        ``one rise, one fall``: from the weights' schedule with its warmup to the refined one. ``refined``,
        ``recommended``: from linear decay with the same warmup to each.
    steps : tuple of (str, str)
        Name and text of every step, in order.
    """

    result: Refinement
    squared: NDArray[np.float64]
    travelled: NDArray[np.float64] | None
    holds: tuple[Hold, ...]
    holds_unknown: str
    changes: Mapping[str, Change]
    steps: tuple[tuple[str, str], ...]

    @property
    def headline(self) -> str:
        """What is recommended, and whether the refined schedule is."""
        result = self.result
        refined = "is not recommended on this log" if result.against else "may be used too"
        return f"recommended: {recommended_words(result)}; refined {refined if result.computed else 'is not computed'}"

    def summary(self) -> str:
        """The decision, then a numbered paragraph a step, then what else to know."""
        lines = head(self.result, whole=True)
        for number, (name, text) in enumerate(self.steps, 1):
            lines += paragraph(f"{number:2} {name}", text, hanging=0, indent=13)
        return "\n".join([*lines, *remarks(self.result)])

    def to_dict(self) -> dict[str, Any]:
        """What `Refinement.to_dict` says of the result, and the chain, as JSON values."""
        weights = self.result.weights
        return {
            **self.result.to_dict(),
            "headline": self.headline,
            "holds": [asdict(each) for each in self.holds],
            "holds_unknown": self.holds_unknown or None,
            "exponent": EXPONENTS[self.result.optimizer],
            "constant_lr": self.result.prior.is_constant if self.result.prior.multiplier is not None else None,
            "squared_norm_first": _finite(self.squared[0]),
            "squared_norm_last": _finite(self.squared[-1]),
            "rho": rho_of(self.result),
            "weights_span": float(weights.max() / weights.min()),
            "changes": {name: {"updates": c.updates, "most": c.most} for name, c in self.changes.items()},
            "steps": [{"name": name, "text": text} for name, text in self.steps],
        }


def explain(
    log: LogLike,
    *,
    optimizer: OptimizerFamily | str | None = None,
    smoothing: float = 0.1,
    total_steps: int | None = None,
    prior_schedule: Schedule | str | None = None,
    peak_lr: float | None = None,
    **read: Any,
) -> Explanation:
    """Follow a log to the schedules that `refine.fit` makes of it.

    Parameters
    ----------
    log, optimizer, smoothing, total_steps, prior_schedule, peak_lr, **read
        As in `refine.fit`.

    Returns
    -------
    Explanation

    Examples
    --------
    >>> found = explain([4.0] * 50 + [2.0] * 50, optimizer="adam")
    >>> dict(found.steps)["weight"]
    '1/N at the 100 logged points: the largest is 2 times the smallest'
    >>> found.changes["recommended"]
    Change(updates=0, most=0.0)
    """
    result = fit(
        log,
        optimizer=optimizer,
        smoothing=smoothing,
        total_steps=total_steps,
        prior_schedule=prior_schedule,
        peak_lr=peak_lr,
        **read,
    )
    with np.errstate(over="ignore", under="ignore"):
        squared = np.asarray(result.smoothed ** EXPONENTS[result.optimizer], dtype=np.float64)
    holds, unknown = _holds(result)
    refined, straight = result.refined.multiplier, result.linear.multiplier
    changes = {
        "one rise, one fall": Change.between(_with_dips(result) if result.computed else refined, refined),
        "refined": Change.between(straight, refined),
        "recommended": Change.between(straight, result.recommended.multiplier),
    }
    return Explanation(
        result=result,
        squared=squared,
        travelled=_travelled(result),
        holds=holds,
        holds_unknown=unknown,
        changes=changes,
        steps=_steps(result, squared, changes),
    )


def explain_logs(
    logs: Sequence[str], read: ReadOptions, how: Mapping[str, Any], *, progress: Callable[[float], None] | None = None
) -> Explanation:
    """Explain the schedules of one log, or of the pooled norms of several; as `refine.batch.fit_logs`.

    Parameters
    ----------
    logs, read, progress
        As in `refine.batch.fit_logs`.
    how : mapping
        Keyword arguments of `explain`.
    """
    norms, smoothing = pooled(logs, read, how.get("smoothing", 0.1), progress)
    return explain(norms, **{**how, "smoothing": smoothing})


def _with_dips(result: Refinement) -> NDArray[np.float64]:
    """The weights' own schedule, with its warmup."""
    on_updates = result.norms.on_updates(result.smoothed, result.refined.total_steps)
    weighted = refined_multiplier(inverse_squared_norms(on_updates, optimizer=result.optimizer))
    return with_warmup(weighted, result.warmup_steps)


def _travelled(result: Refinement) -> NDArray[np.float64] | None:
    """Share of the sum of the learning rates, at the logged points."""
    if result.prior.multiplier is None:
        return None
    sums = np.cumsum(result.prior.multiplier)
    shares: NDArray[np.float64] = sums[np.clip(result.norms.updates, 0, sums.size - 1)] / sums[-1]
    return shares


def _holds(result: Refinement) -> tuple[tuple[Hold, ...], str]:
    """Holds of the recommended schedule's noise level at the logged peak, or why there are none."""
    law = law_of(result.norms)
    if law is None:
        return (), why_not(result.norms)
    steps, peak = result.recommended.total_steps, law.longest.peak_lr
    weights = np.ones(steps) if result.level is None else 1.0 / result.level
    found, why = [], ""
    for k in np.unique([*np.geomspace(*_KS, _HOLDS), result.choice.k]).tolist():
        multiplier = scheduled(steps, result.warmup_steps, k, result.level)
        try:
            straight = law.predict(result.linear, peak_lr=peak, points=1)
            held = law.predict(Schedule.from_rates(multiplier), peak_lr=peak * float(multiplier.max()), points=1)
        except RefineError as error:  # that lies too far off for the law
            why = str(error)
            continue
        apart, per_cent = law.difference(held, straight), 100.0 / straight.final_loss
        share = hold_of_k(weights, k)
        found.append(Hold(k, share, *(per_cent * value for value in (apart.value, apart.low, apart.high))))
    return tuple(found), "" if found else why


def _steps(
    result: Refinement, squared: NDArray[np.float64], changes: Mapping[str, Change]
) -> tuple[tuple[str, str], ...]:
    weights = result.weights
    return (
        ("read", _read(result.norms)),
        ("smooth", _smoothing(result)),
        ("rates", _rates(result)),
        ("N", _squared(result, squared)),
        ("rho", _rho_in_words(result)),
        (
            "weight",
            f"1/N at the {weights.size:,} logged points: the largest is {weights.max() / weights.min():.3g} times "
            "the smallest",
        ),
        ("refine", _shape(result, changes)),
        ("warmup", _warmup(result)),
        ("worth", _worth(result)),
        ("checks", _checks(result)),
        ("decide", _decision(result, changes)),
        ("peak", _peak(result)),
        *([("loss", _loss(result))] if result.predicted else []),
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
        share = f"{100 * norms.pool.smoothing:g} % of its updates"
        return f"each log's median over {share}, both ends reflected, then the pool's"
    with np.errstate(over="ignore"):
        apart = norms.values / result.smoothed
    return (
        f"median over {100 * result.smoothing:g} % of the updates, both ends reflected; raw norms lie between "
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


def rho_of(result: Refinement) -> float | None:
    """The norm at the end over that at 5 %."""
    return next((found.value for found in result.checks if found.rule.name == "rho"), None)


def _rho_in_words(result: Refinement) -> str:
    advice = ", ".join(found.rule.advice for found in result.checks if found.rule.name == "rho")
    return f"the norm at the end over that at 5 % is {_shown(rho_of(result))} ({advice})"


def _shape(result: Refinement, changes: Mapping[str, Change]) -> str:
    if not result.computed:
        return "not computed: " + "; ".join(
            found.words for found in result.against if found.rule.action == "not computed"
        )
    h = result.refined.multiplier
    anneal = decay_exponent(h)
    text = f"Theorem 3 on these weights: peak at update {int(np.argmax(h)):,} ({peak_fraction(h):.1%})"
    text += f", then like (1 - t/T)^{anneal[0]:.2f}" if anneal else ""
    return text + (
        f"; to one rise and one fall it takes a change of {changes['one rise, one fall']}; from linear decay that is "
        f"{changes['refined']}"
    )


def _warmup(result: Refinement) -> str:
    if result.warmup_steps < 2:
        return "none is imposed"
    known = "as logged" if result.prior.warmup_steps is not None else "assumed"
    return f"below a line over the first {result.warmup_steps:,} updates ({known}), then scaled to peak 1"


def _worth(result: Refinement) -> str:
    """The benchmark cases, or why there is none; where norms fall that far the refined schedule lost most."""
    if result.worth is not None:
        return f"{result.worth.in_words()} ({', '.join(result.worth.problems)})"
    if why := unlike(result.norms, result.prior):
        return f"no benchmark case is like this log: {why}"
    return no_case(result.optimizer, rho_of(result), changing=bool(shifts_of(result.norms)))


def _checks(result: Refinement) -> str:
    """Each raised rule with value and threshold."""
    raised = [found for found in result.checks if found.raised]
    grave, slight = (
        "; ".join(
            f"{c.rule.name} {c.value:.3g} is {c.rule.side} {c.rule.threshold:g}" for c in raised if c.against == own
        )
        for own in (True, False)
    )
    text = f"against the refined schedule: {grave or 'none'}"
    return text + (f"; to know: {slight}" if slight else "")


def _decision(result: Refinement, changes: Mapping[str, Change]) -> str:
    return (
        f"{recommended_words(result)}: {printable(result.choice.reason)}; from linear decay that changes "
        f"{changes['recommended']}; where none is named, {result.default} is used"
    )


def _peak(result: Refinement) -> str:
    ratio, prior = result.measures["recommended"].peak_lr_ratio, result.prior
    advised = f"; {result.choice.peak_advice}" if result.choice.peak_advice else ""
    if ratio is not None:
        peak = result.peak_lr("recommended")
        becomes = "" if peak is None else f" ({prior.peak_lr:.3g} becomes {peak:.3g})"
        why = "for which the hold was chosen" if result.choice.keeps_peak else "for equal area"
        return f"of recommended {ratio:.2f} times the old peak, {why}{becomes}{advised}"
    return f"no learning rate is suggested: {why_no_peak(result)}{advised}"


def _loss(result: Refinement) -> str:
    law = law_of(result.norms)
    ends = ", ".join(f"{name} {found.words}" for name, found in result.predicted.items())
    fits = "" if law is None else f"{law.formula}, which fits the log's own losses to {law.rms:.2%}; "
    return f"{fits}predicted at the suggested peaks: {ends}"


def _shown(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3g}"


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None

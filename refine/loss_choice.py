"""Choose a cooldown, a peak, a horizon or a hold by the predicted loss."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from .bound import golden_minimum
from .default import peak_advice, scheduled
from .errors import RefineError
from .loss_table import LossTable, predict_named, rows_of
from .prediction import CURVE_POINTS, LossLaw, Prediction
from .refinement import hold_of_k
from .schedule import Schedule, check_count

__all__ = ["COOLDOWNS", "Choice", "What", "best_k", "choose", "horizon_of"]

What = Literal["cooldown", "peak", "horizon", "hold"]

COOLDOWNS = (
    "linear",
    "cosine",
    "cosine:final_factor=0.1",
    *(f"wsd:{share:g}" for share in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8)),
    *(f"wsd:{share:g},shape=sqrt" for share in (0.2, 0.4, 0.6)),
    *(f"polynomial:power={power:g}" for power in (0.75, 1.5, 2.0)),
)
"""Candidates of ``--choose cooldown``."""

_PEAKS = (0.25, 0.5, 1.0, 2.0, 4.0)
_HORIZONS = (0.5, 1.0, 2.0, 4.0)
_SHORTEST, _LONGEST = 1 / 8, 16
_LOWEST_K, _HIGHEST_K, _TRIED, _HALVINGS = 0.25, 100.0, 13, 14
_LEAST_K = 1.02  # a k this near to 1, on either side, is linear decay


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """What was chosen, and the candidates with their predictions.

    Attributes
    ----------
    what : {"cooldown", "peak", "horizon", "hold"}
    headline : str
        The answer in a sentence.
    table : LossTable
    advice : tuple of str
        What to do with it.
    facts : mapping
        The answer in numbers, JSON values.
    """

    what: What
    headline: str
    table: LossTable
    advice: tuple[str, ...]
    facts: dict[str, Any]

    def summary(self, *, verbose: bool = False) -> str:
        """The answer, the table, and what limits both."""
        from .text import paragraph

        told = [paragraph("choice", self.headline, hanging=0)]
        told += [paragraph("advice" if not number else "", text, hanging=0) for number, text in enumerate(self.advice)]
        return "\n".join([*(line for lines in told for line in lines), self.table.summary(verbose=verbose)])

    def to_dict(self) -> dict[str, Any]:
        """The answer as JSON values; the predictions are those of `table`."""
        return {"what": self.what, "headline": self.headline, "advice": list(self.advice), **self.facts}


def choose(
    law: LossLaw,
    what: What,
    *,
    total_steps: int | None = None,
    peak_lr: float | None = None,
    target_loss: float | None = None,
) -> Choice:
    """Choose by the predicted final loss.

    Parameters
    ----------
    law : LossLaw
    what : {"cooldown", "peak", "horizon", "hold"}
        Among `COOLDOWNS`; among a quarter to four times the peak; the updates that reach ``target_loss``, or what half
        and twice the updates gain; the share of the run for which the peak is held (`best_k`).
    total_steps, peak_lr : optional
        Of the next run; by default those of the longest run.
    target_loss : float, optional
        For the horizon.
    """
    if what not in get_args(What):
        raise RefineError(f"choose is {what!r}; it must be one of {', '.join(get_args(What))}")
    if target_loss is not None and what != "horizon":
        raise RefineError(f"target_loss is {target_loss:g}; it goes with the choice of a horizon: leave it out")
    steps = law.longest.total_steps if total_steps is None else check_count("total_steps", total_steps, least=1)
    if what == "horizon":
        return _horizon(law, steps, peak_lr, target_loss)
    chosen: dict[str, Callable[[LossLaw, int, float | None], Choice]] = {
        "cooldown": _cooldown,
        "peak": _peak,
        "hold": _hold,
    }
    return chosen[what](law, steps, peak_lr)


def _cooldown(law: LossLaw, steps: int, peak_lr: float | None) -> Choice:
    table = predict_named(law, COOLDOWNS, total_steps=steps, peak_lr=peak_lr)
    best = table.rows[0].prediction
    gap = [row for row in table.rows[1:] if law.difference(best, row.prediction).verdict == "tie"]
    headline = f"{best.name}: {best.final_loss:.4f} +- {best.bar:.4f} after {steps:,} updates"
    advice = [f"not to be told from it: {', '.join(row.prediction.name for row in gap[:6])}"] if gap else []
    return Choice(
        "cooldown", headline, table, tuple(advice), {"schedule": best.name, "ties": [r.prediction.name for r in gap]}
    )


def _peak(law: LossLaw, steps: int, peak_lr: float | None) -> Choice:
    base = law.longest.peak_lr if peak_lr is None else peak_lr
    found = [
        law.predict("linear", total_steps=steps, peak_lr=base * factor, name=f"linear at {base * factor:.3g}")
        for factor in _PEAKS
    ]
    table = rows_of(law, found, found[_PEAKS.index(1.0)])
    best, verdict = table.rows[0].prediction, table.rows[0].difference.verdict
    headline = f"{best.peak_lr:.3g} with linear decay over {steps:,} updates: {best.final_loss:.4f} +- {best.bar:.4f}"
    if best.peak_lr == base:
        headline += "; the law sees no better peak within a factor of 4"
    elif verdict == "tie":
        headline += f", not to be told from {base:.3g}"
    advice = ("move the peak by a factor of 2 to 4 at most in one run, then fit again: far peaks are extrapolated",)
    return Choice("peak", headline, table, advice, {"peak_lr": best.peak_lr, "verdict": verdict})


def _horizon(law: LossLaw, base: int, peak_lr: float | None, target: float | None) -> Choice:
    if target is None:
        found = [_linear(law, max(round(base * factor), 2), peak_lr, CURVE_POINTS) for factor in _HORIZONS]
        table = rows_of(law, found, found[1])
        half = law.difference(found[0], found[1])
        headline = (
            f"half of {base:,} updates costs {half.value:+.4f} ({half.low:+.4f} to {half.high:+.4f}) with linear decay"
        )
        facts: dict[str, Any] = {"half": half.value, "half_low": half.low, "half_high": half.high}
        return Choice("horizon", headline, table, (), facts)
    updates, least, most = horizon_of(law, target, peak_lr=peak_lr)
    found = [_linear(law, steps, peak_lr, CURVE_POINTS) for steps in (updates, base)]
    table = rows_of(law, found, found[1])
    span = f"{least:,} to {most:,}" if most else f"{least:,} to more than {_LONGEST * law.logged_steps:,}"
    headline = f"a loss of {target:g} takes {updates:,} updates with linear decay (90 %: {span})"
    facts = {"target_loss": target, "total_steps": updates, "total_steps_low": least, "total_steps_high": most}
    return Choice("horizon", headline, table, (), facts)


def horizon_of(law: LossLaw, target: float, *, peak_lr: float | None = None) -> tuple[int, int, int | None]:
    """Updates after which linear decay reaches a loss, and its 90 % interval; None where that has no upper end."""
    low, high = max(round(_SHORTEST * law.logged_steps), 2), _LONGEST * law.logged_steps

    def reached(end: Callable[[Prediction], float]) -> int | None:
        if end(_linear(law, low, peak_lr)) <= target:
            return low
        if end(_linear(law, high, peak_lr)) > target:
            return None
        a, b = low, high
        while b > a * 1.001 + 1:
            middle = round(math.sqrt(a * b))
            a, b = (a, middle) if end(_linear(law, middle, peak_lr)) <= target else (middle, b)
        return b

    if not (math.isfinite(target) and target > 0.0):
        raise RefineError(f"target_loss is {target!r}; it must be a positive number")
    updates = reached(lambda prediction: prediction.final_loss)
    if updates is None or updates == low:
        end = _linear(law, low if updates else high, peak_lr)
        where = "reached before" if updates else "not reached in"
        raise RefineError(
            f"target_loss is {target:g}, {where} {end.total_steps:,} updates by linear decay at this peak, where "
            f"{end.final_loss:.4f} is predicted; choose a loss nearer to those that are logged"
        )
    return updates, reached(lambda p: p.low) or low, reached(lambda p: p.high)


def _linear(law: LossLaw, steps: int, peak_lr: float | None, points: int = 1) -> Prediction:
    return law.predict("linear", total_steps=steps, peak_lr=peak_lr, name=f"linear, {steps:,} updates", points=points)


def best_k(law: LossLaw, steps: int, warmup_steps: int, peak_lr: float, level: npt.ArrayLike | None = None) -> float:
    """The k from 1/4 to 100 of the least predicted loss, by a search over one scalar; O(steps) each."""

    def predicted(log_k: float) -> float:
        return law.final_loss(scheduled(steps, warmup_steps, math.exp(log_k), level) * peak_lr)

    grid = np.linspace(math.log(_LOWEST_K), math.log(_HIGHEST_K), _TRIED)
    best = int(np.argmin([predicted(float(x)) for x in grid]))
    low, high = grid[max(best - 1, 0)], grid[min(best + 1, grid.size - 1)]
    return math.exp(golden_minimum(predicted, float(low), float(high), steps=_HALVINGS))


def _hold(law: LossLaw, steps: int, peak_lr: float | None) -> Choice:
    base = law.longest.peak_lr if peak_lr is None else peak_lr
    level, warmup = law.noise_of(steps), min(law.longest.warmup_steps, steps // 2)
    k = best_k(law, steps, warmup, base, level)
    multiplier = scheduled(steps, warmup, k, level)
    top = float(multiplier.max())
    share = hold_of_k(np.ones(steps) if level is None else 1.0 / level, k)
    name = f"hold {share:.0%}, then anneal" if k > 1.0 else "refined at a lower peak" if k < 1.0 else "refined"
    best = law.predict(Schedule.from_rates(multiplier, {"held": k}), peak_lr=base * top, name=name)
    others = [law.predict(each, total_steps=steps, peak_lr=base, name=each) for each in ("linear", "wsd:0.2")]
    table = rows_of(law, [best, *others], others[0])
    if k > _LEAST_K:
        headline = f"hold the peak for {share:.0%} of the run, then anneal (k = {k:.2f})"
    elif k < 1.0 / _LEAST_K:
        headline = f"the peak is too high: {base * k:.3g} instead of {base:.3g} (k = {k:.2f})"
    else:
        headline = f"anneal from the start (k = {k:.2f})"
    headline += f": {best.final_loss:.4f} +- {best.bar:.4f}"
    advice = peak_advice(law, best, share) if k > 1.0 else ""
    facts = {"k": k, "hold_fraction": share, "final_loss": best.final_loss, "low": best.low, "high": best.high}
    return Choice("hold", headline, table, (f"{advice}, then fit again",) if advice else (), facts)

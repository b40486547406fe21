"""When a law of the loss curve gives no answer, and what makes its answers less sure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .errors import RefineError
from .files import printable
from .loss_curve import LossCurve
from .loss_fit import LEAST_SIGMA, Fit
from .loss_laws import View

__all__ = ["WIDER", "bad_fit", "check_curves", "check_reach", "limits_of_fit", "limits_of_schedule"]

WIDER = 1.5
"""What a bar is multiplied by for each limit."""

_NO_DROP, _ENDS_HIGH, _STARTS_LATE = 0.95, 0.5, 0.5
_SHORT, _OUTLIERS, _BEYOND, _ONE_EPOCH = 4.0, 0.03, 5.0, 1.2
_NEAREST, _HIGHEST = 0.2, 32.0


def check_curves(curves: Sequence[LossCurve]) -> None:
    """Raise where no law can say anything: a run that diverged, two kinds of losses, a rate that never drops."""
    for curve in curves:
        if curve.diverged:
            raise RefineError(
                f"{printable(curve.name)}: the run diverged (its loss ends far above its lowest, or is not finite), "
                "and no law holds there: leave it out, or cut the log before that"
            )
    if len(sorts := {curve.sort for curve in curves}) > 1:
        raise RefineError(
            f"the logs hold {' and '.join(sorted(sorts))} losses, which are different evaluations; choose one with "
            "--loss-column"
        )
    if all(curve.known_from > _STARTS_LATE * curve.steps[-1] for curve in curves):
        raise RefineError(
            f"{printable(curves[0].name)}: the log starts at update {curves[0].known_from + 1:,} of "
            f"{curves[0].total_steps:,}, and the rates before are not known: name the log of its trunk too, or the "
            "whole schedule with --prior-schedule"
        )
    if all(_lowest(curve) >= _NO_DROP for curve in curves):
        raise RefineError(
            f"{printable(curves[0].name)}: the rate never drops, so nothing says what a decay gains; name a run that "
            "decays its rate, or a cooldown of this one beside it"
        )


def check_reach(fit: Fit, view: View, total_steps: int, peak_lr: float) -> None:
    """Raise where a schedule ends far before the first loss that was fitted, or at a peak far above the logged ones."""
    power = fit.exponents["p"]
    first = min(float(own.progress(power, fit.longest)[0]) for own in fit.views)
    if float(view.progress(power, fit.longest)[-1]) < _NEAREST * first:
        raise RefineError(
            f"{total_steps:,} updates at a peak of {peak_lr:g} do not get as far as the burn-in of the logs, and no "
            "law holds there: give the schedule more updates, or a higher peak"
        )
    if peak_lr > _HIGHEST * fit.reference:
        raise RefineError(
            f"peak_lr is {peak_lr:g}, more than {_HIGHEST:g} times the highest that is logged, {fit.reference:g}; "
            "nothing is known there: choose a lower one"
        )


def limits_of_fit(fit: Fit, curves: Sequence[LossCurve]) -> list[str]:
    """What limits every prediction of a fit, a sentence each."""
    found = []
    if all(_lowest(curve) > _ENDS_HIGH for curve in curves):
        found.append("no log reaches a rate below half of its peak: what the rest of a decay gains is extrapolated")
    if all(curve.steps[0] > _STARTS_LATE * curve.steps[-1] for curve in curves):
        found.append("no log holds the first half of its run: name that of the trunk too")
    seen = max((curve.epochs or 0.0 for curve in curves if curve.sort == "training"), default=0.0)
    if seen > _ONE_EPOCH:
        found.append(f"the training loss is that of data seen {seen:.3g} times: it falls below that of new data")
    if fit.coefficients[2] == 0.0:
        found.append("the fit finds no share of noise in these losses")
    found += bad_fit(fit)
    apart = np.array([np.median(part) for part in fit.residuals_by_curve])
    if np.ptp(apart) > _BEYOND * LEAST_SIGMA:
        worst = int(np.argmax(np.abs(apart)))
        found.append(
            f"{printable(curves[worst].name)} lies {abs(apart[worst]):.1%} off the law of all: check that model, data "
            "and batch size are the same"
        )
    return found


def bad_fit(fit: Fit) -> list[str]:
    """Those limits of a fit that say that the law does not describe the losses."""
    found = []
    if fit.coefficients[1] == 0.0:
        found.append("the fit finds no share of progress in these losses")
    far = np.abs(fit.residuals) / np.concatenate([points.sigma for points in fit.curves]) > _BEYOND
    if np.mean(far) > _OUTLIERS:
        found.append(f"{np.mean(far):.0%} of the losses lie beyond 5 standard deviations: spikes or jumps")
    return found


def limits_of_schedule(multiplier: NDArray[np.float64], curves: Sequence[LossCurve]) -> list[str]:
    """Whether a schedule's cooldown is much longer than any that was logged."""
    logged = max(_cooldown(_seen(curve)) for curve in curves)
    wanted = _cooldown(multiplier)
    if wanted <= _SHORT * logged:
        return []
    return [f"its cooldown takes {wanted:,} updates, more than four times the longest that is logged, {logged:,}"]


def _seen(curve: LossCurve) -> NDArray[np.float64]:
    """Rates up to the last loss."""
    return curve.rates[: max(int(curve.steps[-1]), 1)]


def _lowest(curve: LossCurve) -> float:
    """Least rate after the peak and up to the last loss, over the peak."""
    seen = _seen(curve)
    return float(seen[int(np.argmax(seen)) :].min() / seen.max())


def _cooldown(rates: NDArray[np.float64]) -> int:
    """Updates after the last one near the peak."""
    high = np.flatnonzero(rates >= _NO_DROP * rates.max())
    return int(rates.size - 1 - high[-1])

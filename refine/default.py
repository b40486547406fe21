r"""What `refine fit` does by default: linear decay with the run's warmup, bent a little where the log says so.

Chosen on half of the problems of `refine bench` and confirmed on the other (docs/default.md): no rule that weights by
the norms was better than linear decay, and decaying later or earlier was, each where one number of the log said so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .families import polynomial
from .norms import GradientNorms
from .prior import LEAST_COVERAGE, Prior
from .refinement import EXPONENTS, OptimizerFamily

__all__ = ["EXPONENT", "Bend", "Choice", "bend", "choose", "progress_ratio", "progress_ratio_of"]

Bend = Literal["linear", "later", "earlier"]

EXPONENT: dict[Bend, float] = {"linear": 1.0, "later": 0.75, "earlier": 1.25}
"""Power q of the time left, (1 - t)^q. At equal area the peak moves by 12.5 % at most."""

LATER, EARLIER, SEPARABLE = 1.2, 1.0, 0.2
"""Where rho is not below the third: the progress ratio above which to decay later; elsewhere: below which earlier."""

_END, _ANNEALED, _ONE, _LEAST_POINTS = 0.05, 0.25, 0.5, 100


@dataclass(frozen=True, slots=True)
class Choice:
    """How linear decay is bent, and why: the values that decided, in a sentence."""

    bend: Bend
    reason: str


def bend(which: Bend, steps: int) -> NDArray[np.float64]:
    """The schedule before its warmup, shape (steps,).

    Examples
    --------
    >>> bend("later", 4).round(2).tolist()
    [1.0, 0.81, 0.59, 0.35]
    """
    return polynomial(steps, power=EXPONENT[which]).multiplier


def choose(values: Mapping[str, float | str | None]) -> Choice:
    """Decide by ``rho`` and ``progress ratio``, a number or the reason why there is none.

    Examples
    --------
    >>> choose({"rho": 0.1, "progress ratio": 0.8})
    Choice(bend='earlier', reason='rho 0.1 is below 0.2, progress ratio 0.8 below 1: only its own noise is left')
    >>> choose({"rho": 0.9, "progress ratio": 0.8})
    Choice(bend='linear', reason='rho 0.9, progress ratio 0.8 not above 1.2')
    >>> choose({"rho": 0.9, "progress ratio": "no losses"})
    Choice(bend='linear', reason='rho 0.9, progress ratio unknown (no losses)')
    """
    rho, ratio = values.get("rho"), values.get("progress ratio")
    known = "rho unknown" if not isinstance(rho, float) else f"rho {rho:.3g}"
    if not isinstance(rho, float) or not isinstance(ratio, float):
        return Choice("linear", f"{known}, progress ratio unknown ({ratio})")
    told = f"progress ratio {ratio:.3g}"
    if rho >= SEPARABLE:
        if ratio > LATER:
            return Choice("later", f"{known}, {told} is above {LATER:g}: the loss fell by more than noise explains")
        return Choice("linear", f"{known}, {told} not above {LATER:g}")
    if ratio < EARLIER:
        why = f"{known} is below {SEPARABLE:g}, {told} below {EARLIER:g}: only its own noise is left"
        return Choice("earlier", why)
    return Choice("linear", f"{known} is below {SEPARABLE:g}, {told} not below {EARLIER:g}")


def progress_ratio(loss: NDArray[np.float64], rates: NDArray[np.float64], squared: NDArray[np.float64]) -> float:
    r"""By how much the loss lies above its end, over what the noise of the updates can account for.

    .. math:: \pi = \frac{2 \sum_t \eta_t (L_t - L_T)}{\sum_t \eta_t^2 N_t}

    From :math:`\|x_{t+1} - x_*\|^2 = \|x_t - x_*\|^2 - 2 \eta_t \langle g_t, x_t - x_* \rangle + \eta_t^2 N_t`, summed,
    and convexity, :math:`\langle g_t, x_t - x_* \rangle \ge L_t - L_*` in the mean:

    .. math:: \|x_1 - x_*\|^2 - \|x_{T+1} - x_*\|^2 \ge (\pi - 1) \sum_t \eta_t^2 N_t

    Above 1 the run got nearer to the solution in spite of the noise: it is limited by how far it has to go, and wants
    its rate for longer. A run that only follows its own noise down has at most 1, a quadratic 1/2.

    Parameters
    ----------
    loss, rates, squared : ndarray, shape (n,)
        Minibatch loss before an update, learning rate and N of that update, at the same n updates of a whole run.
        L_T is the mean over the last twentieth.

    Notes
    -----
    Own. It has no unit only where loss, rate and N belong together: not for a summed loss, nor for the l2 norm of an
    Adam run.

    Examples
    --------
    >>> t = np.arange(100.0)
    >>> progress_ratio(1.0 * (t < 50), np.full(100, 0.5), np.full(100, 2.0))
    1.0
    """
    excess = loss - loss[-_last(loss.size) :].mean()
    noise = float(np.sum(rates**2 * squared))
    return 2.0 * float(np.sum(rates * excess)) / noise if noise > 0.0 else math.nan


def progress_ratio_of(norms: GradientNorms, optimizer: OptimizerFamily, known: bool, prior: Prior) -> float | str:
    """`progress_ratio` of a log, or why it has none; ``known``: the log or the caller names the optimizer."""
    if not known:
        return "the optimizer is assumed: give --optimizer"
    if optimizer != "adam":
        return "it was tried for the Adam family only"
    if norms.kind not in ("l1", "dual") or not norms.source.kind_known:
        return "the l1 norm or the optimizer's own would tell: GradNormRecorder logs both"
    if norms.loss is None or prior.multiplier is None or prior.peak_lr is None:
        return f"no {'losses' if norms.loss is None else 'learning rates'} of the run"
    rates = prior.peak_lr * prior.multiplier[np.clip(norms.updates, 0, prior.multiplier.size - 1)]
    fine = np.isfinite(norms.loss)
    spanned = int(norms.updates[-1] - norms.updates[0]) + norms.stride
    if np.count_nonzero(fine) < max(_LEAST_POINTS, LEAST_COVERAGE * fine.size):
        return f"{np.count_nonzero(fine)} losses are too few"
    if spanned < LEAST_COVERAGE * norms.total_steps:
        return f"{spanned} of {norms.total_steps} updates are too few"
    if rates[-_last(rates.size) :].mean() > _ANNEALED * prior.peak_lr:
        return "the logged run did not anneal"
    loss, rates, squared = norms.loss[fine], rates[fine], norms.values[fine] ** EXPONENTS[optimizer]
    ratio = progress_ratio(loss, rates, squared)
    if not math.isfinite(ratio):
        return "loss, rates and norms give no number"
    for part in (np.abs(rates * (loss - loss[-_last(loss.size) :].mean())), rates**2 * squared):
        if part.max() > _ONE * part.sum():
            return "a single update makes most of it"
    return ratio


def _last(size: int) -> int:
    """Points in the last twentieth."""
    return max(1, round(_END * size))

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
from .prior import Prior
from .refinement import EXPONENTS, OptimizerFamily

__all__ = ["EXPONENT", "Bend", "Choice", "bend", "choose", "progress_ratio", "progress_ratio_of"]

Bend = Literal["linear", "later", "earlier"]

EXPONENT: dict[Bend, float] = {"linear": 1.0, "later": 0.75, "earlier": 1.25}
"""Power q of the time left, (1 - t)^q. At equal area the peak moves by 12.5 % at most."""

LATER, EARLIER, SEPARABLE = 1.2, 1.0, 0.2
"""Progress ratio above which to decay later and below which, with rho below the third, to decay earlier."""

_END, _ANNEALED, _LEAST_POINTS = 0.05, 0.25, 100


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
    """Decide by the values of flags: ``rho`` and ``progress ratio``, or the reason why that is not known.

    Examples
    --------
    >>> choose({"rho": 0.9, "progress ratio": 1.4}).bend, choose({"rho": 0.1, "progress ratio": 0.8}).bend
    ('later', 'earlier')
    >>> choose({"rho": 0.9, "progress ratio": 0.8})
    Choice(bend='linear', reason='progress ratio 0.8 is not above 1.2, rho 0.9 not below 0.2')
    """
    rho, ratio = values.get("rho"), values.get("progress ratio")
    if not isinstance(ratio, float) or not isinstance(rho, float):
        return Choice("linear", f"whether to bend it is unknown: {ratio or 'the log does not say'}")
    told = f"progress ratio {ratio:.3g}", f"rho {rho:.3g}"
    if rho >= SEPARABLE:
        if ratio > LATER:
            return Choice("later", f"{told[0]} is above {LATER:g}: the loss falls by more than noise explains")
        return Choice("linear", f"{told[0]} is not above {LATER:g}, {told[1]} not below {SEPARABLE:g}")
    if ratio < EARLIER:
        why = f"{told[1]} is below {SEPARABLE:g}, {told[0]} below {EARLIER:g}: noise is all that is left to anneal"
        return Choice("earlier", why)
    return Choice("linear", f"{told[1]} is below {SEPARABLE:g}, yet {told[0]} not below {EARLIER:g}")


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
    excess = loss - loss[-max(1, round(_END * loss.size)) :].mean()
    noise = float(np.sum(rates**2 * squared))
    return 2.0 * float(np.sum(rates * excess)) / noise if noise > 0.0 else math.nan


def progress_ratio_of(norms: GradientNorms, optimizer: OptimizerFamily, known: bool, prior: Prior) -> float | str:
    """`progress_ratio` of a log, or why it has none; ``known``: the log or the caller names the optimizer."""
    if optimizer != "adam" or not known:
        return "it was measured for the Adam family only" if known else "the optimizer is (--optimizer)"
    if norms.kind not in ("l1", "dual") or not norms.source.kind_known:
        return f"the log holds the {norms.kind} norm, the l1 norm or the optimizer's own would tell (GradNormRecorder)"
    if norms.loss is None:
        return "the log holds no loss"
    if prior.multiplier is None or prior.peak_lr is None:
        return "the log holds no learning rates of the whole run"
    rates = prior.peak_lr * prior.multiplier[np.clip(norms.updates, 0, prior.multiplier.size - 1)]
    fine = np.isfinite(norms.loss)
    if np.count_nonzero(fine) < max(_LEAST_POINTS, 0.9 * fine.size):
        return f"the log holds {np.count_nonzero(fine)} losses, {_LEAST_POINTS} and 9 in 10 rows are wanted"
    if rates[-max(1, round(_END * rates.size)) :].mean() > _ANNEALED * prior.peak_lr:
        return "the logged run did not anneal"
    ratio = progress_ratio(norms.loss[fine], rates[fine], norms.values[fine] ** EXPONENTS[optimizer])
    return ratio if math.isfinite(ratio) else "loss, rates and norms give no number"

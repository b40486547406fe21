r"""What `refine fit` recommends: linear decay with the run's warmup, bent a little where the log says so.

Chosen on half of the problems of `refine bench` and run on the other (docs/default.md): no weights from the norms were
safe and better than linear decay. Later decay, where the progress ratio says so, helped transformers and cost tables up
to 0.4 %; earlier decay helped on near-separable tables.
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
from .readers.columns import group
from .refinement import EXPONENTS, OptimizerFamily

__all__ = [
    "EXPONENT",
    "SHAPES",
    "Balance",
    "Bend",
    "Choice",
    "balance_of",
    "bend",
    "choose",
    "decays_linearly",
    "progress_ratio",
    "progress_ratio_of",
]

Bend = Literal["linear", "later", "earlier"]

EXPONENT: dict[Bend, float] = {"linear": 1.0, "later": 0.75, "earlier": 1.25}
"""Power q of the time left, (1 - t)^q. At equal area the peak moves by 12.5 % at most."""

SHAPES: dict[Bend, str] = {
    "linear": "linear decay",
    "later": "later than linear decay",
    "earlier": "earlier than linear decay",
}
"""In words."""

LATER, EARLIER, SEPARABLE = 1.2, 1.0, 0.2
"""Where rho is not below the third: the progress ratio above which to decay later; elsewhere: below which earlier."""

_END, _ANNEALED, _STRAIGHT, _ONE, _GAP, _LEAST_POINTS = 0.05, 0.25, 0.9, 0.5, 0.1, 100


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
    >>> choose({"rho": 0.1, "progress ratio": 0.8}).bend, choose({"rho": 0.9, "progress ratio": 1.3}).bend
    ('earlier', 'later')
    >>> choose({"rho": 0.9, "progress ratio": 0.8})
    Choice(bend='linear', reason='the loss fell 0.8 times as far as the noise of the updates explains, not above 1.2')
    >>> choose({"rho": 0.9, "progress ratio": "the log holds no losses"})
    Choice(bend='linear', reason='nothing in the log bends it: the log holds no losses')
    """
    rho, ratio = values.get("rho"), values.get("progress ratio")
    if not isinstance(rho, float) or not isinstance(ratio, float):
        return Choice("linear", f"nothing in the log bends it: {ratio}")
    told = f"the loss fell {ratio:.3g} times as far as the noise of the updates explains"
    if rho >= SEPARABLE:
        return (
            Choice("later", f"{told}, above {LATER:g}")
            if ratio > LATER
            else Choice("linear", f"{told}, not above {LATER:g}")
        )
    told = f"the norms fall to {rho:.2g} of their value and {told}"
    return (
        Choice("earlier", f"{told}, below {EARLIER:g}")
        if ratio < EARLIER
        else Choice("linear", f"{told}, not below {EARLIER:g}")
    )


def progress_ratio(
    loss: NDArray[np.float64],
    rates: NDArray[np.float64],
    squared: NDArray[np.float64],
    each: NDArray[np.float64] | None = None,
) -> float:
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
    each : ndarray, shape (n,), optional
        Updates that a row stands for; by default as many each.

    Notes
    -----
    Own. The inequality is that of SGD; for the Adam family, with its own norm N in a metric that moves, it is a
    heuristic that was measured. It has no unit only where loss, rate and N belong together: not for a summed loss, nor
    for the l2 norm of an Adam run.

    Examples
    --------
    >>> t = np.arange(100.0)
    >>> progress_ratio(1.0 * (t < 50), np.full(100, 0.5), np.full(100, 2.0))
    1.0
    """
    return Balance.of(np.arange(loss.size), loss, rates, squared, np.ones(loss.size) if each is None else each).ratio


@dataclass(frozen=True, slots=True, eq=False)
class Balance:
    r"""What the progress ratio weighs against each other, all of shape (n,).

    .. math:: \pi = \frac{\sum_t \eta_t e_t}{\sum_t \eta_t v_t}, \qquad e_t = 2 (L_t - L_T), \qquad v_t = \eta_t N_t

    Attributes
    ----------
    updates : ndarray of int64
        Updates of the logged run, from 0.
    rates, excess, noise : ndarray
        The learning rate, e and v, on raw norms.
    each : ndarray
        Updates that a row stands for: its weight in both sums.
    """

    updates: NDArray[np.int64]
    rates: NDArray[np.float64]
    excess: NDArray[np.float64]
    noise: NDArray[np.float64]
    each: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        updates: NDArray[np.int64],
        loss: NDArray[np.float64],
        rates: NDArray[np.float64],
        squared: NDArray[np.float64],
        each: NDArray[np.float64],
    ) -> Balance:
        """The end of the loss is its mean over the last twentieth of the updates."""
        left = np.cumsum(each[::-1])[::-1]
        last = left <= max(round(_END * left[0]), left[-1])
        end = np.average(loss[last], weights=each[last])
        return cls(updates, rates, 2.0 * (loss - end), rates * squared, each)

    @property
    def parts(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Terms of both sums."""
        return self.each * self.rates * self.excess, self.each * self.rates * self.noise

    @property
    def ratio(self) -> float:
        """Nan without any noise."""
        above, below = (float(part.sum()) for part in self.parts)
        return above / below if below > 0.0 else math.nan


def progress_ratio_of(norms: GradientNorms, optimizer: OptimizerFamily, known: bool, prior: Prior) -> float | str:
    """`progress_ratio` of a log, or why it has none; see `balance_of`."""
    found = balance_of(norms, optimizer, known, prior)
    return found if isinstance(found, str) else found.ratio


def balance_of(norms: GradientNorms, optimizer: OptimizerFamily, known: bool, prior: Prior) -> Balance | str:
    """Both sides of the progress ratio, or why there is none; ``known``: the log or the caller names the optimizer."""
    if optimizer != "adam":
        return "the rule was tried for the Adam family only"
    squared = norms.values if norms.kind == "l1" else norms.l1
    if squared is None or not norms.source.kind_known:
        return "the rule takes the l1 norm, which GradNormRecorder logs"
    if not known:
        return "the optimizer is assumed: give --optimizer"
    if norms.pool is not None:
        return "the rule is for a single log"
    if group(norms.source.columns.get("norm", "")) is not None:
        return "the loss is the whole model's, the norm a group's"
    if norms.loss is None:
        return "the log holds no losses"
    if prior.multiplier is None:
        return "the learning rates of the whole run are not known"
    if prior.peak_lr is None:
        return "the peak learning rate is not known: give --peak-lr"
    fine = np.isfinite(norms.loss) & np.isfinite(squared)
    if np.count_nonzero(fine) < max(_LEAST_POINTS, LEAST_COVERAGE * fine.size):
        return f"{np.count_nonzero(fine)} losses are too few"
    if not decays_linearly(prior):
        return "the logged run did not decay about linearly"
    at = norms.updates[fine]
    gap = int(np.diff(np.concatenate([[-1], at, [norms.total_steps]])).max()) - 1
    if gap > _GAP * norms.total_steps:
        return f"{gap} updates in one stretch are not logged"
    rates = prior.peak_lr * prior.multiplier[np.minimum(at, prior.multiplier.size - 1)]
    each = np.diff(at, append=at[-1] + norms.stride).astype(np.float64)
    with np.errstate(over="ignore", under="ignore", divide="ignore", invalid="ignore"):
        found = Balance.of(at, norms.loss[fine], rates, squared[fine] ** EXPONENTS[optimizer], each)
        if not math.isfinite(found.ratio):
            return "loss, rates and norms give no number"
        if any(np.abs(part).max() > _ONE * np.abs(part).sum() for part in found.parts):
            return "a single update makes most of it"
    return found


def decays_linearly(prior: Prior) -> bool:
    """Whether a straight line from the end of the warmup on explains the rates, and they end low.

    Cosine passes, and so do both bends; WSD with a short cooldown does not: there the rule was wrong.
    """
    assert prior.multiplier is not None
    after = prior.multiplier[prior.warmup_steps or 0 :]
    if after[-_share(after.size) :].mean() > _ANNEALED or np.ptp(after) == 0.0:
        return False
    after = after[:: 1 + after.size // 1_000_000]  # of the longest runs, seconds otherwise
    after = after / after.max()  # behind a high warmup all may be so small that their squares are 0
    return bool(np.corrcoef(after, np.arange(after.size))[0, 1] ** 2 >= _STRAIGHT)


def _share(size: int) -> int:
    """Rows in the last twentieth."""
    return max(1, round(_END * size))

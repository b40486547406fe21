r"""From squared gradient norms to the last-iterate-optimal schedule: the theorem, on plain arrays.

References
----------
.. [1] Defazio, Cutkosky, Mehta, Mishchenko, *When, Why and How Much? Adaptive Learning Rate
   Scheduling by Refinement*, arXiv:2310.07831, Theorem 3 and Algorithms 1 (SGD) and 2 (Adam).
.. [2] Zamani, Glineur, *Exact convergence rate of the last iterate in subgradient methods*,
   arXiv:2307.11134 (constant norms: linear decay).
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from .errors import RefineError

__all__ = [
    "EXPONENTS",
    "OptimizerFamily",
    "held_multiplier",
    "hold_of_k",
    "inverse_squared_norms",
    "k_of_hold",
    "published_multiplier",
    "refined_multiplier",
    "unimodal_multiplier",
]

OptimizerFamily = Literal["sgd", "adam"]

_LEAST_WEIGHT = 1e-120
_PASSES = 4

EXPONENTS: dict[OptimizerFamily, int] = {"sgd": 2, "adam": 1}
"""Power of the logged norm that makes the optimizer's own squared norm N_t.

SGD: N = ||g||_2^2. Adam family: N = ||g||_1, or sum_i g_i^2 / (sqrt(v_i) + eps), which a log calls
the ``dual`` norm. The exponent belongs to the optimizer and not to the norm: an Adam log that
holds only the l2 norm uses it with exponent 1.
"""


def inverse_squared_norms(norms: npt.ArrayLike, *, optimizer: OptimizerFamily) -> NDArray[np.float64]:
    """Weights ``w_t = 1 / N_t``, scaled to a maximum of 1.

    Parameters
    ----------
    norms : array_like, shape (n,)
        Smoothed gradient norms, positive.
    optimizer : {"sgd", "adam"}
        Fixes the exponent, see `EXPONENTS`.

    Returns
    -------
    ndarray, shape (n,)
        Scaling all norms does not change them. At least 1e-120, so that 1 / w stays finite.

    Examples
    --------
    >>> inverse_squared_norms([1.0, 2.0, 4.0], optimizer="sgd").tolist()
    [1.0, 0.25, 0.0625]
    >>> inverse_squared_norms([1.0, 2.0, 4.0], optimizer="adam").tolist()
    [1.0, 0.5, 0.25]
    """
    if optimizer not in get_args(OptimizerFamily):
        raise RefineError(f"optimizer is {optimizer!r}; it must be one of sgd, adam")
    norms = np.asarray(norms, dtype=np.float64)
    weights: NDArray[np.float64] = np.maximum((norms.min() / norms) ** EXPONENTS[optimizer], _LEAST_WEIGHT)
    return weights


def refined_multiplier(weights: npt.ArrayLike) -> NDArray[np.float64]:
    r"""Refined schedule of a run of T updates: T positive multipliers.

    .. math:: \eta_t = w_t \sum_{p=t+1}^{T+1} w_p, \qquad h_t = \eta_t / \max_s \eta_s,
              \qquad t = 1 \ldots T

    Theorem 3 of [1]_ for T + 1 points, the last of them virtual (``w_{T+1} = w_T``): its zero is
    dropped, so that no update is spent at rate zero. Constant weights give linear decay,
    ``(T - t) / T`` for t = 0 .. T - 1 counted from zero, as in [2]_.

    Parameters
    ----------
    weights : array_like, shape (T,)
        ``w_t = 1 / N_t`` up to a constant, one per update, positive.

    Returns
    -------
    ndarray, shape (T,)
        Peak 1. O(T), nothing subtracted. Values too small for a float64 become the smallest one.

    Examples
    --------
    >>> refined_multiplier([1.0, 1.0, 1.0, 1.0]).tolist()
    [1.0, 0.75, 0.5, 0.25]
    >>> refined_multiplier([1.0, 2.0, 2.0]).tolist()         # large first norm: warmup
    [0.75, 1.0, 0.5]
    """
    w = np.asarray(weights, dtype=np.float64)
    after = np.append(w[1:], w[-1])
    eta = w * np.cumsum(after[::-1])[::-1]
    return _peak_one(eta)


def held_multiplier(weights: npt.ArrayLike, k: float) -> NDArray[np.float64]:
    r"""Hold the peak, then refine: ``min(1, k r)``, r the refined schedule of the weights.

    The best schedule under a peak that may not be exceeded, for any law of the loss with a noise term
    :math:`\sum_j \eta_j^2 \nu_j c / (1 + c u_j)`: for a given area that term decides. In continuous time let u be the
    area still to come and :math:`y = 2 \sqrt{1 + c u} / c`. Then :math:`\eta = -y' \sqrt{1 + c u}`, the noise is
    :math:`c \int \nu y'^2 dt`, and where the cap does not bind :math:`\nu y'` is constant: :math:`\eta \propto W(t) /
    \nu(t)`, :math:`W(t) = \int_t^T 1/\nu`. That is the refined schedule of the weights :math:`1 / \nu`
    (arXiv:2310.07831, Theorem 3), whatever the exponents of the law. The cap leaves one number, k: 1 is the refined
    schedule (linear decay for constant weights), more holds the peak for longer (then WSD with a linear cooldown of the
    last 1/k of the run), less says that the peak is too high.

    Parameters
    ----------
    weights : array_like, shape (T,)
        1 / nu, positive.
    k : float
        Above 0. Below 1 the largest multiplier is k.

    Returns
    -------
    ndarray, shape (T,)

    Notes
    -----
    Own. O(T). In 16 cases (four courses of nu, two values of B and of beta; T = 400, c = 300 an update) its loss lay
    within .01 to .11 % of the least over all T rates at once. The kernel must be long: at c = .5 it was .6 to 2.4 %.

    Examples
    --------
    >>> held_multiplier([1.0, 1.0, 1.0, 1.0], 2.0).tolist()
    [1.0, 1.0, 1.0, 0.5]
    """
    return np.minimum(1.0, k * refined_multiplier(weights))


def k_of_hold(weights: npt.ArrayLike, share: float) -> float:
    """Find the k whose held schedule is at its cap for a share of the updates; 1 / (1 - share) for constant weights.

    One over the value that so large a share of the refined schedule exceeds, linear between updates, 0 at the end.

    Parameters
    ----------
    weights : array_like, shape (T,)
    share : float
        From 0 to below 1.

    Examples
    --------
    >>> k_of_hold(np.ones(10), 0.0), k_of_hold(np.ones(10), 0.5), k_of_hold(np.ones(10), 0.75)
    (1.0, 2.0, 4.0)
    """
    levels = _exceeded(weights)
    return float(1.0 / np.interp(share * (levels.size - 1), np.arange(levels.size), levels))


def hold_of_k(weights: npt.ArrayLike, k: float) -> float:
    """Share of the updates for which the held schedule of k is at its cap, 0 for k up to 1: undoes `k_of_hold`.

    Examples
    --------
    >>> hold_of_k(np.ones(10), 0.5), hold_of_k(np.ones(10), 2.0), hold_of_k(np.ones(10), 4.0)
    (0.0, 0.5, 0.75)
    """
    levels = _exceeded(weights)
    return float(np.interp(1.0 / k, levels[::-1], np.arange(levels.size)[::-1]) / (levels.size - 1))


def unimodal_multiplier(multiplier: npt.ArrayLike) -> NDArray[np.float64]:
    """One rise, one fall: the schedule nearest to another one that only rises to its peak and only falls after it.

    Isotonic regression [3]_, increasing up to the (first) maximum and decreasing from there on. Noisy or rounded norms
    leave dips and a saw-tooth in the weights' schedule that nobody would run.

    Parameters
    ----------
    multiplier : array_like, shape (T,)

    Returns
    -------
    ndarray, shape (T,)
        The area of each pooled block is kept, and so is the peak; a schedule of one rise and one fall comes out as it
        is. O(T).

    References
    ----------
    .. [3] Best, Chakravarti, *Active set algorithms for isotonic regression*, Mathematical Programming 47 (1990).

    Examples
    --------
    >>> unimodal_multiplier([0.5, 0.25, 1.0, 0.5, 0.75, 0.25]).tolist()
    [0.375, 0.375, 1.0, 0.625, 0.625, 0.25]
    """
    h = np.asarray(multiplier, dtype=np.float64)
    peak, change = int(np.argmax(h)), np.diff(h)
    if np.all(change[:peak] >= 0.0) and np.all(change[peak:] <= 0.0):
        return h.copy()
    rise, fall = _nondecreasing(h[: peak + 1]), _nondecreasing(h[peak:][::-1])[::-1]
    return np.concatenate([rise[:-1], fall])


def _nondecreasing(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Isotonic regression by pooling adjacent violators: runs of them at once, the few that are left one by one.

    What `scipy.optimize.isotonic_regression` returns; to import that takes longer than a whole fit of a usual log.
    """
    sums, sizes = values, np.ones(values.size)
    for _ in range(_PASSES):
        means = sums / sizes
        starts = np.flatnonzero(np.append(True, means[1:] >= means[:-1]))
        if starts.size == means.size:
            break
        sums, sizes = np.add.reduceat(sums, starts), np.add.reduceat(sizes, starts)
    means = sums / sizes
    pooled: list[tuple[int, int, float, float]] = []  # first block, the one after the last, sum, size
    for violator in np.flatnonzero(means[1:] < means[:-1]).tolist():
        if pooled and violator + 1 < pooled[-1][1]:
            continue
        start, stop, total, size = violator, violator + 1, float(sums[violator]), float(sizes[violator])
        if pooled and pooled[-1][1] == stop:
            start, stop, total, size = pooled.pop()
        while True:
            mean = total / size
            if stop < means.size and means[stop] < mean:
                total, size, stop = total + sums[stop], size + sizes[stop], stop + 1
            elif pooled and pooled[-1][1] == start:
                if pooled[-1][2] / pooled[-1][3] <= mean:
                    break
                start, _, more, wide = pooled.pop()
                total, size = total + more, size + wide
            elif start > 0 and means[start - 1] > mean:
                start -= 1
                total, size = total + sums[start], size + sizes[start]
            else:
                break
        pooled.append((start, stop, total, size))
    for start, stop, total, size in pooled:
        means[start:stop] = total / size
    return np.asarray(np.repeat(means, sizes.astype(np.int64)), dtype=np.float64)


def published_multiplier(weights: npt.ArrayLike) -> NDArray[np.float64]:
    r"""Theorem 3 of [1]_ to the letter, on the points as they are: the last value is 0.

    .. math:: \eta_t = w_t \sum_{p=t+1}^{n} w_p, \qquad h_t = \eta_t / \max_s \eta_s

    Parameters
    ----------
    weights : array_like, shape (n,), n >= 2
        ``w_t = 1 / N_t`` up to a constant.

    Returns
    -------
    ndarray, shape (n,)

    Examples
    --------
    >>> published_multiplier([1.0, 1.0, 1.0]).tolist()
    [1.0, 0.5, 0.0]
    """
    w = np.asarray(weights, dtype=np.float64)
    after = np.append(w[1:], 0.0)
    eta = w * np.cumsum(after[::-1])[::-1]
    return np.asarray(eta / eta.max(), dtype=np.float64)


def _peak_one(eta: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scale to a maximum of 1 and keep positive what is too small for a float64."""
    multiplier: NDArray[np.float64] = np.maximum(eta / eta.max(), np.finfo(np.float64).tiny)
    return multiplier


def _exceeded(weights: npt.ArrayLike) -> NDArray[np.float64]:
    """Values of the refined schedule, the largest first, and 0; shape (T + 1,)."""
    return np.append(np.sort(refined_multiplier(weights))[::-1], 0.0)

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
    "inverse_squared_norms",
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

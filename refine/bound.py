r"""The last-iterate suboptimality bound of any schedule.

For convex f, iterates ``x_{t+1} = x_t - eta_t d_t``, squared gradient norms N_t (the optimizer's
own) and initial distance D, the last iterate x_T satisfies ``f(x_T) - f* <= Omega`` with

.. math:: \Omega = \frac{D^2}{2 S} + \frac12 \Big[ \eta_T N_T + \sum_{k<T} \frac{\eta_k^2 N_k}{R_k} \Big],
          \qquad S = \sum_t \eta_t, \quad R_k = \sum_{j>k} \eta_j .

This is arXiv:2310.07831 Theorem 10 (arXiv:2501.18965 Theorem 1) after summation by parts: the
published double sum holds ``eta_k / (R_k (R_k + eta_k)) = 1/R_k - 1/R_{k-1}``, which telescopes.
One reversed cumulative sum, O(T), nothing subtracted. Omega is jointly convex in all rates.

The last entry is virtual: x_T is reached with T - 1 updates, and eta_T enters the analysis only. A
run of n updates has T = n + 1, and its bound is the minimum over the free last entry, with
``N_{n+1} = N_n``. `refine.tight` has a bound about half as large.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

__all__ = [
    "AtPeak",
    "best_omega",
    "norms_where_optimal",
    "omega",
    "omega_at_best_peak",
    "omega_curve",
    "omega_gradient",
    "omega_of_run",
    "omega_terms",
    "optimal_rates",
]

_SEARCH_STEPS = 32


@dataclass(frozen=True, slots=True)
class AtPeak:
    r"""A bound with the peak learning rate gamma still free: ``D^2 / (2 gamma S) + (gamma / 2) Q``.

    Attributes
    ----------
    total : float
        S, what the initial distance is divided by: the sum of the multipliers, virtual last one included.
    cost : float
        Q, what the gradients cost.
    last : float
        The virtual last entry.

    Examples
    --------
    >>> bound = AtPeak(total=8.0, cost=2.0, last=1.0)
    >>> bound.value, bound.peak_lr, bound.terms(0.25)
    (0.5, 0.25, (0.25, 0.25))
    """

    total: float
    cost: float
    last: float

    @property
    def value(self) -> float:
        """Bound / D at its own best peak: ``sqrt(Q / S)``."""
        return math.sqrt(self.cost / self.total)

    @property
    def peak_lr(self) -> float:
        """Best peak / D: ``gamma = D / sqrt(S Q)``."""
        return 1.0 / math.sqrt(self.total * self.cost)

    def terms(self, peak_lr: float, *, distance: float = 1.0) -> tuple[float, float]:
        """Distance and gradient term at any peak, for this last entry; they are equal at the best one."""
        return distance**2 / (2.0 * peak_lr * self.total), 0.5 * peak_lr * self.cost


def omega(eta: npt.ArrayLike, squared_norms: npt.ArrayLike, *, distance: float = 1.0) -> float:
    """Omega of T learning rates, the last of them virtual (see the module's formula).

    Parameters
    ----------
    eta : array_like, shape (T,)
        Learning rates, >= 0; a last entry of 0 makes the bound infinite.
    squared_norms : array_like, shape (T,)
        N_t > 0.
    distance : float
        Initial distance D.

    Examples
    --------
    >>> omega([1.0, 1.0], [1.0, 1.0])          # 1/4 + (1 + 1/1) / 2
    1.25
    """
    return sum(omega_terms(eta, squared_norms, distance=distance))


def omega_terms(eta: npt.ArrayLike, squared_norms: npt.ArrayLike, *, distance: float = 1.0) -> tuple[float, float]:
    """Distance term ``D^2 / (2 S)`` and gradient term of `omega`.

    Examples
    --------
    >>> omega_terms([1.0, 1.0], [1.0, 1.0])
    (0.25, 1.0)
    """
    eta = np.asarray(eta, dtype=np.float64)
    n = np.asarray(squared_norms, dtype=np.float64)
    to_come = _tail_sums(eta)
    distance_term = float(distance**2 / (2.0 * to_come[0]))
    if to_come[-1] == 0.0:
        return distance_term, math.inf
    spent = eta[-1] * n[-1] + float(np.sum(eta[:-1] ** 2 * n[:-1] / to_come[1:]))
    return distance_term, float(0.5 * spent)


def omega_gradient(eta: npt.ArrayLike, squared_norms: npt.ArrayLike, *, distance: float = 1.0) -> NDArray[np.float64]:
    r"""Gradient of `omega` by its T learning rates, shape (T,). O(T).

    .. math:: \frac{\partial\Omega}{\partial\eta_j} = -\frac{D^2}{2 S^2}
              - \frac12 \sum_{k<j} \frac{\eta_k^2 N_k}{R_k^2} + \frac{\eta_j N_j}{R_j} \ (j<T), \quad
              \frac{N_T}{2} \ (j=T)

    Examples
    --------
    >>> omega_gradient([1.0, 1.0], [1.0, 1.0]).tolist()
    [0.875, -0.125]
    """
    eta = np.asarray(eta, dtype=np.float64)
    n = np.asarray(squared_norms, dtype=np.float64)
    tails = _tail_sums(eta)
    to_come = tails[1:]
    saved = np.cumsum((eta[:-1] / to_come) ** 2 * n[:-1])
    own = np.append(eta[:-1] * n[:-1] / to_come, 0.5 * n[-1])
    gradient: NDArray[np.float64] = own - 0.5 * np.append(0.0, saved) - distance**2 / (2.0 * tails[0] ** 2)
    return gradient


def omega_at_best_peak(multiplier: npt.ArrayLike, squared_norms: npt.ArrayLike) -> AtPeak:
    r"""Omega of a schedule of n updates where its peak learning rate is best.

    With h and gamma apart, ``Omega = D^2 / (2 gamma S) + (gamma / 2) Q``, whose minimum over
    gamma is ``D sqrt(Q / S)``; that is minimised over the virtual last entry e,

    .. math:: \min_{e>0} \frac{e N_{n+1} + \sum_{k \le n} h_k^2 N_k / (R_k + e)}{\sum_k h_k + e},
              \qquad R_k = \sum_{k < j \le n} h_j, \quad N_{n+1} = N_n .

    Parameters
    ----------
    multiplier : array_like, shape (n,)
        Any schedule, >= 0 and not all 0.
    squared_norms : array_like, shape (n,)
        N_t > 0 of the optimizer, in any unit.

    Notes
    -----
    Omega is jointly convex in all learning rates, so the function of e has no second minimum. A
    golden-section search on log e between two proven brackets, 34 evaluations of O(n). Relative
    error of the value under 1e-9, of the best peak under 1e-6.

    Examples
    --------
    >>> import numpy as np
    >>> linear, flat = np.arange(100, 0, -1) / 100, np.ones(100)
    >>> best = omega_at_best_peak(linear, flat)
    >>> round(best.value, 4), round(best.peak_lr, 4)
    (0.2001, 0.0988)
    """
    h = np.asarray(multiplier, dtype=np.float64)
    n = np.asarray(squared_norms, dtype=np.float64)
    total, cost, spent_before = spending(h, n / n[-1])

    def spent(e: float) -> float:
        return e + spent_before(e)

    # The derivative is negative below `low` and positive above `high`.
    paid = float(cost.sum())
    low = 0.5 * math.log(cost[np.flatnonzero(cost)[-1]])
    high = math.log(max(4.0 * paid / total, math.sqrt(2.0 * paid)))
    e = math.exp(golden_minimum(lambda log_e: spent(math.exp(log_e)) / (total + math.exp(log_e)), low, high))
    return AtPeak(total + e, spent(e) * float(n[-1]), e)


def best_omega(multiplier: npt.ArrayLike, squared_norms: npt.ArrayLike) -> float:
    """Omega / D of a schedule of n updates at its own best peak learning rate.

    The ratio of two schedules' values on the same norms is free of D and ranks them.

    Examples
    --------
    >>> import numpy as np
    >>> linear, flat = np.arange(100, 0, -1) / 100, np.ones(100)
    >>> round(best_omega(flat, flat) / best_omega(linear, flat), 3)
    1.223
    """
    return omega_at_best_peak(multiplier, squared_norms).value


def omega_of_run(eta: npt.ArrayLike, squared_norms: npt.ArrayLike, *, distance: float = 1.0) -> float:
    r"""Omega of n updates at given learning rates, least over the virtual last entry e.

    .. math:: \min_{e>0} \frac{D^2}{2 (S + e)} + \frac12 \Big[ e N_{n+1} +
              \sum_{k \le n} \frac{\eta_k^2 N_k}{R_k + e} \Big],
              \qquad R_k = \sum_{k < j \le n} \eta_j, \quad N_{n+1} = N_n

    Parameters
    ----------
    eta, squared_norms : array_like, shape (n,)
        Learning rates >= 0 and N_t > 0.
    distance : float
        Initial distance D.

    Examples
    --------
    >>> round(omega_of_run([0.5, 0.5], [1.0, 1.0]), 4)
    0.9268
    """
    eta = np.asarray(eta, dtype=np.float64)
    n = np.asarray(squared_norms, dtype=np.float64)
    total, cost, spent_before = spending(eta, n)

    def value(log_e: float) -> float:
        e = math.exp(log_e)
        return 0.5 * (distance**2 / (total + e) + e * float(n[-1]) + spent_before(e))

    # The derivative is negative below `low` and positive above `high`.
    high = 0.5 * math.log((float(cost.sum()) + distance**2) / n[-1])
    paid = np.flatnonzero(cost)
    low = min(0.5 * math.log(cost[paid[-1]] / n[-1]), high) if paid.size else high - 30.0
    return value(golden_minimum(value, low, high))


def omega_curve(
    eta: npt.ArrayLike, squared_norms: npt.ArrayLike, updates: npt.ArrayLike, *, distance: float = 1.0
) -> NDArray[np.float64]:
    """`omega_of_run` of the first t updates, for many t: how the guarantee falls during the run.

    Parameters
    ----------
    eta : array_like, shape (n,)
        Learning rates (peak times multiplier).
    squared_norms : array_like, shape (n,)
        N_t > 0.
    updates : array_like of int, shape (m,)
        Each from 1 to n.

    Returns
    -------
    ndarray, shape (m,)

    Notes
    -----
    Every point is exact and costs O(t): choose 300 to 400 log-spaced ones. Relative error under 1e-9.

    Examples
    --------
    >>> import numpy as np
    >>> omega_curve(np.full(100, 0.1), np.ones(100), [1, 10, 100]).round(3).tolist()
    [0.956, 0.614, 0.353]
    """
    eta = np.asarray(eta, dtype=np.float64)
    n = np.asarray(squared_norms, dtype=np.float64)
    return np.array([omega_of_run(eta[:t], n[:t], distance=distance) for t in np.asarray(updates).tolist()])


def optimal_rates(squared_norms: npt.ArrayLike) -> tuple[NDArray[np.float64], float]:
    r"""Learning rates with the least Omega of all schedules, and that least value, for D = 1.

    .. math:: v_T = N_T, \quad v_j = \frac{2 v_{j+1}}{1 + \sqrt{1 + v_{j+1} / N_j}}, \quad
              \rho_j = \frac{v_j}{2 N_j}, \quad R_0 = \frac{D}{\sqrt{v_1}}, \quad
              R_j = \frac{R_{j-1}}{1 + \rho_j}, \quad \eta_j = \rho_j R_j, \quad \eta_T = R_{T-1}

    and ``min Omega = D sqrt(v_1)``.

    Parameters
    ----------
    squared_norms : array_like, shape (T,)
        N_t > 0, that of the virtual last entry included: repeat the last one for a run of T - 1 updates.

    Returns
    -------
    eta : ndarray, shape (T,)
        For D = 1 (proportional to D); the last one is virtual.
    float
        Least Omega / D.

    Notes
    -----
    Own derivation: dynamic programming backwards over ``v``, the least bound of the last updates. O(T),
    no iteration. In the limit of many updates it is `refine.refinement.refined_multiplier`.

    Examples
    --------
    >>> eta, least = optimal_rates([1.0, 1.0, 1.0])
    >>> abs(omega(eta, [1.0, 1.0, 1.0]) - least) < 1e-15, (eta / eta.max()).round(3).tolist()
    (True, [0.498, 0.414, 1.0])
    """
    n = np.asarray(squared_norms, dtype=np.float64)
    v = float(n[-1])
    values = [v]
    for norm in n[-2::-1].tolist():
        v = 2.0 * v / (1.0 + math.sqrt(1.0 + v / norm))
        values.append(v)
    v_all = np.array(values[::-1])
    rho = v_all[:-1] / (2.0 * n[:-1])
    remaining = np.exp(-np.cumsum(np.log1p(rho))) / math.sqrt(v_all[0])
    return np.append(rho * remaining, remaining[-1]) if n.size > 1 else np.array([v**-0.5]), math.sqrt(v_all[0])


def norms_where_optimal(multiplier: npt.ArrayLike) -> NDArray[np.float64]:
    r"""Squared norms on which a schedule of n updates has the least Omega of all: `optimal_rates` inverted.

    .. math:: R_k = \sum_{k < j \le n} h_j + (1 + \sqrt 2) h_n, \quad \rho_k = \frac{h_k}{R_k}, \quad
              v_{n+1} = 1, \quad v_k = \frac{v_{k+1}}{1 + \rho_k / 2}, \quad
              N_k = \frac{v_{k+1}}{\rho_k (2 + \rho_k)}

    Parameters
    ----------
    multiplier : array_like, shape (n,)
        Any schedule, > 0.

    Returns
    -------
    ndarray, shape (n,)
        The last is 1, and so is that of the virtual update after it: the virtual last entry ``(1 + sqrt 2) h_n`` is
        what makes them equal, as `omega_at_best_peak` has them.

    Notes
    -----
    O(n). In the limit of many updates ``N_k`` is proportional to ``sqrt(R_k) / h_k``: constant for linear decay.

    Examples
    --------
    >>> norms = norms_where_optimal([0.5, 1.0, 0.5, 0.25])
    >>> rates, _ = optimal_rates(np.append(norms, norms[-1]))
    >>> (rates[:-1] / rates[1]).round(12).tolist()
    [0.5, 1.0, 0.5, 0.25]
    """
    h = np.asarray(multiplier, dtype=np.float64)
    rho = h / (np.append(_tail_sums(h)[1:], 0.0) + (1.0 + math.sqrt(2.0)) * h[-1])
    after = np.exp(-np.append(_tail_sums(np.log1p(rho / 2.0))[1:], 0.0))
    return np.asarray(after / (rho * (2.0 + rho)))


def spending(
    eta: NDArray[np.float64], squared_norms: NDArray[np.float64]
) -> tuple[float, NDArray[np.float64], Callable[[float], float]]:
    """Sum of n rates, ``eta_k^2 N_k``, and the sum of those over ``R_k + e`` as a function of the rates e after them.

    One buffer serves all its evaluations: new arrays would take most of the time of a search.
    """
    tails = _tail_sums(eta)
    to_come, cost = np.append(tails[1:], 0.0), eta**2 * squared_norms
    room = np.empty_like(to_come)

    def spent_before(e: float) -> float:
        np.add(to_come, e, out=room)
        np.divide(cost, room, out=room)
        return float(room.sum())

    return float(tails[0]), cost, spent_before


def thinned(steps: int, most: int) -> NDArray[np.int64]:
    """Indices of at most ``most`` of so many updates, evenly spaced.

    Examples
    --------
    >>> thinned(6, 3).tolist(), thinned(2, 3).tolist()
    ([0, 2, 4], [0, 1])
    """
    size = min(steps, most)
    return np.arange(size) * steps // size


def golden_minimum(function: Callable[[float], float], low: float, high: float, *, steps: int = _SEARCH_STEPS) -> float:
    """Where a function with one minimum in [low, high] is least; scipy.optimize costs 0.1 s to import.

    Examples
    --------
    >>> round(golden_minimum(lambda x: (x - 0.3) ** 2, 0.0, 1.0), 6)
    0.3
    """
    golden = (math.sqrt(5.0) - 1.0) / 2.0
    left, right = high - golden * (high - low), low + golden * (high - low)
    at_left, at_right = function(left), function(right)
    for _ in range(steps):
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - golden * (high - low)
            at_left = function(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + golden * (high - low)
            at_right = function(right)
    return left if at_left <= at_right else right


def _tail_sums(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.cumsum(values[::-1])[::-1]

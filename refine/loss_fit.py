"""Fit a law of `refine.loss_laws` to losses: robust, with priors on the exponents, and with their covariance."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .loss_laws import Law, View, cut

__all__ = ["LEAST_SIGMA", "Fit", "Points", "fit_points", "non_negative"]

Array = NDArray[np.float64]

LEAST_SIGMA = 0.002
"""What a law is trusted to at best: relative error of a loss."""

_COUNT, _COUNT_OF_BARS = 80, 20
"""How many points a curve counts as, at most: the residuals of a law are correlated."""

_HUBER, _WIDEST, _STEP = 2.0, 5.0, 1e-4
_ROUNDS, _REWEIGHTED = 25, 2


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """Losses of one run as a law is fitted to them.

    Attributes
    ----------
    rates : (T,)
        Learning rate of every update.
    at, losses : (n,)
        Updates done, and the loss then.
    sigma : (n,)
        Relative standard deviation of each loss, at least `LEAST_SIGMA`.
    noise : (T,) or None
        Relative level of the gradient noise.
    count : int
        Logged losses that these are means of.
    """

    rates: Array
    at: Array
    losses: Array
    sigma: Array
    noise: Array | None = None
    count: int = 0

    @property
    def share(self) -> float:
        """What each point counts."""
        return min(1.0, _COUNT / self.at.size)


@dataclass(frozen=True, eq=False)
class Fit:
    """A fitted law.

    Attributes
    ----------
    law : Law
    z : (m,)
        Exponents in standard deviations of their priors from their medians.
    coefficients : (3,)
        L0, A, B.
    reference, longest : float
        Peak rate that counts as 1; updates that progress is measured in.
    weights : (n,)
        What is left of every point of all curves, in order: below 1 where the fit is not robust to it.
    curves : tuple of Points
    views : tuple of View
        Of the curves.
    """

    law: Law
    z: Array
    coefficients: Array
    reference: float
    longest: float
    weights: Array
    curves: tuple[Points, ...]
    views: tuple[View, ...]

    @property
    def exponents(self) -> dict[str, float]:
        """Fitted exponents by name."""
        return _exponents(self.law, self.z)

    def view(self, rates: Array, at: Array, noise: Array | None = None) -> View:
        """Look at a schedule in the fit's units."""
        return View.of(cut(rates, self.reference, at, noise), at)

    def losses(self, view: View) -> Array:
        """Loss after each of the view's updates; shape (n,)."""
        return np.asarray(_columns(self.law, self.z, [view], self.longest) @ self.coefficients)

    def gradient(self, view: View) -> Array:
        """Derivatives of `losses` by L0, A, B and the exponents' z; shape (n, 3 + m)."""
        columns = _columns(self.law, self.z, [view], self.longest)
        moved = [
            (_columns(self.law, z, [view], self.longest) - columns) @ self.coefficients / _STEP
            for z in self.z + _STEP * np.eye(self.z.size)
        ]
        return np.column_stack([columns, *moved])

    @cached_property
    def fitted(self) -> Array:
        """The law's losses at the points of all curves; shape (n,)."""
        return np.concatenate([self.losses(view) for view in self.views])

    @cached_property
    def residuals(self) -> Array:
        """Fitted over measured loss, its logarithm, of all curves; shape (n,)."""
        return np.asarray(np.log(self.fitted / np.concatenate([points.losses for points in self.curves])))

    @property
    def residuals_by_curve(self) -> list[Array]:
        """The same, curve by curve."""
        return np.split(self.residuals, np.cumsum([points.at.size for points in self.curves])[:-1])

    @cached_property
    def covariance(self) -> Array:
        """Covariance of L0, A, B and z (Laplace), a curve counting as 20 points; shape (3 + m, 3 + m).

        A coefficient at 0 is taken as known.
        """
        sigma = np.concatenate([points.sigma for points in self.curves])
        share = np.concatenate([np.full(p.at.size, min(1.0, _COUNT_OF_BARS / p.at.size)) for p in self.curves])
        rows = np.concatenate([self.gradient(view) for view in self.views]) / self.fitted[:, None]
        rows *= (np.sqrt(share) * self.weights / sigma)[:, None]
        free = np.concatenate((self.coefficients > 0.0, np.ones(self.z.size, dtype=bool)))
        prior = np.diag(np.concatenate((np.zeros(3), np.ones(self.z.size)))[free])
        scale = np.maximum(np.linalg.norm(rows[:, free], axis=0), 1.0)
        inner = rows[:, free] / scale
        found = np.zeros((free.size, free.size))
        scales = np.outer(scale, scale)
        found[np.ix_(free, free)] = np.linalg.pinv(inner.T @ inner + prior / scales) / scales
        return found


def fit_points(curves: Sequence[Points], law: Law) -> Fit:
    r"""Fit a law to the losses of one or several runs.

    .. math:: \min_z \min_{L_0, A, B \ge 0}
              \sum_i w_i \left( \log \hat L_i - \log L_i \right)^2 / \sigma_i^2 + \|z\|^2

    z are the exponents in standard deviations of their priors. The coefficients are found inside by non-negative least
    squares (variable projection, Golub and Pereyra 1973), z by Levenberg-Marquardt, with Huber's weights w at two
    sigma, found anew twice. Deterministic.

    Parameters
    ----------
    curves : sequence of Points
    law : Law

    Notes
    -----
    O(n j) a trial for n points and j blocks; 20 to 90 ms.
    """
    reference = max(float(points.rates.max()) for points in curves)
    longest = float(max(points.rates.size for points in curves))
    views = tuple(View.of(cut(p.rates, reference, p.at, p.noise), p.at) for p in curves)
    losses = np.concatenate([points.losses for points in curves])
    sigma = np.concatenate([points.sigma for points in curves])
    full = np.concatenate([np.full(p.at.size, np.sqrt(p.share)) for p in curves]) / sigma
    weights = np.ones(losses.size)

    def solved(z: Array) -> tuple[Array, Array]:
        columns = _columns(law, z, views, longest)
        rows = full * weights
        coefficients = non_negative(columns * (rows / losses)[:, None], rows)
        fitted = np.maximum(columns @ coefficients, np.finfo(np.float64).tiny)
        return coefficients, np.log(fitted / losses)

    def residual(z: Array) -> Array:
        return np.concatenate((full * weights * solved(z)[1], z))

    free = np.array([exponent.sd > 0.0 for exponent in law.exponents])
    found = []
    for start in law.starts:
        weights, z = np.ones(losses.size), np.where(free, start, 0.0)
        for _ in range(1 + _REWEIGHTED):
            z, cost = _descend(residual, z, free)
            off = np.abs(solved(z)[1]) / sigma
            weights = np.sqrt(np.minimum(1.0, _HUBER / np.maximum(off, _HUBER)))
        found.append((cost, z, solved(z)[0], weights))
    _, z, coefficients, weights = min(found, key=lambda each: each[0])
    return Fit(law, z, coefficients, reference, longest, weights, tuple(curves), views)


def non_negative(columns: Array, target: Array) -> Array:
    """Least squares of three columns with coefficients >= 0: the best of all choices of which are 0; shape (3,).

    `scipy.optimize` would cost more to import than a whole fit.

    Examples
    --------
    >>> non_negative(np.eye(3), np.array([2.0, -1.0, 3.0])).tolist()
    [2.0, 0.0, 3.0]
    """
    norms = np.linalg.norm(columns, axis=0)
    unit = columns / np.where(norms > 0.0, norms, 1.0)
    best, least = np.zeros(columns.shape[1]), np.inf
    for size in range(columns.shape[1], 0, -1):
        for chosen in itertools.combinations(range(columns.shape[1]), size):
            part = unit[:, chosen]
            found = np.linalg.lstsq(part, target, rcond=None)[0]
            if np.all(found >= 0.0):
                off = target - part @ found
                if (square := float(off @ off)) < least:
                    best, least = np.zeros(columns.shape[1]), square
                    best[list(chosen)] = found
        if size == columns.shape[1] and np.isfinite(least):
            break  # nothing beats the free minimum
    return np.asarray(best / np.where(norms > 0.0, norms, 1.0))


def _exponents(law: Law, z: Array) -> dict[str, float]:
    return {e.name: e.value(float(at)) for e, at in zip(law.exponents, z, strict=True)}


def _columns(law: Law, z: Array, views: Sequence[View], longest: float) -> Array:
    """What L0, A and B multiply; shape (n, 3)."""
    exponents = _exponents(law, z)
    progress = np.concatenate([view.progress(exponents["p"], longest) for view in views])
    noise = np.concatenate([law.term(view, exponents, longest) for view in views])
    least = np.finfo(np.float64).tiny
    return np.column_stack([np.ones_like(noise), np.maximum(progress, least) ** -exponents["alpha"], noise])


def _descend(residual: Callable[[Array], Array], z: Array, free: NDArray[np.bool_]) -> tuple[Array, float]:
    """Levenberg-Marquardt over the free z, each within 5 standard deviations."""
    r = residual(z)
    cost, damping = float(r @ r), 1e-2
    axes = np.eye(z.size)[free]
    for _ in range(_ROUNDS if free.any() else 0):
        slopes = np.stack([(residual(z + _STEP * axis) - r) / _STEP for axis in axes], axis=1)
        downhill, curvature, before = -slopes.T @ r, slopes.T @ slopes, cost
        while damping < 1e6:
            move = np.linalg.solve(curvature + damping * np.eye(axes.shape[0]), downhill)
            trial = np.clip(z + move @ axes, -_WIDEST, _WIDEST)
            tried = residual(trial)
            if float(tried @ tried) < cost:
                z, r, cost, damping = trial, tried, float(tried @ tried), max(damping / 10.0, 1e-8)
                break
            damping *= 10.0
        if cost > before * (1.0 - 1e-6):
            break
    return z, cost

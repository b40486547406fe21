r"""A lower bound on the initial distance D from how far a run travelled, and the peak learning rate it suggests.

For convex f with a minimiser x*, ``f_k - f* <= <g_k, x_k - x*> = <g_k, x_k - x_1> + <g_k, x_1 - x*>`` at every
iterate, however the optimizer came there (momentum, clipping, weight decay). Weighted by ``l_k >= 0``, the learning
rates, and summed over the sampled updates k <= n, with ``s_n = sum l_k g_k``:

.. math:: \sum_{k \le n} l_k \langle g_k, x_1 - x_k \rangle + \sum_{k \le n} l_k (f_k - f^*)
          \le \langle s_n, x_1 - x^* \rangle \le \|s_n\|_* D

The last step is that of dual norms. For SGD both are l2. For the Adam family
``||x||^2 = sum_i (sqrt(v_i) + eps) x_i^2`` with the v of update n; v moves, so D there is that of no fixed norm. For
minibatches, whose losses differ at x*, the bound holds in the mean.

Source: D-Adaptation (arXiv:2301.07733), which drops the second sum, and Prodigy (arXiv:2306.06101).
Experimental: deep networks are not convex. On softmax regressions the bound was 0.1 to 0.8 of D, least on logs of
rates far too small or large, or sampled rarely; of minibatch logs the suggested peak was 0.04 to 1.4 times the swept
one, mostly 0.1 to 0.6.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from .analysis import COMPARE_STEPS
from .bound import omega_at_best_peak, thinned
from .norms import GradientNorms, Travel
from .refinement import EXPONENTS, OptimizerFamily, inverse_squared_norms

__all__ = ["DistanceEstimate", "distance_bound", "estimate", "peak_from_distance"]

_LOSS_BLOCKS = 10


@dataclass(frozen=True, slots=True)
class DistanceEstimate:
    """What a log says of the distance from x_1 to a minimiser.

    Attributes
    ----------
    lower_bound : float
        D is at least this, if f is convex.
    at_step : int
        Label of the update whose prefix of the run says so.
    samples : int
        Updates that were used.
    norm : {"l2", "own"}
        In which D is measured: "own" is that of the Adam family.
    peak_lr : float or None
        Peak learning rate that the bound suggests for the next run; the true D suggests no smaller one.
    loss_used : bool
        Whether the losses made it larger.
    """

    lower_bound: float
    at_step: int
    samples: int
    norm: Literal["l2", "own"]
    peak_lr: float | None
    loss_used: bool


def distance_bound(
    travel: Travel, losses: npt.ArrayLike | None = None, *, norm: Literal["l2", "own"] = "l2"
) -> DistanceEstimate | None:
    r"""Largest lower bound on D of all prefixes of a run.

    .. math:: D \ge \max_n \frac{1}{\|s_n\|} \Big[ \sum_{k \le n} l_k \langle g_k, x_1 - x_k \rangle
              + \sum_{k \le n} l_k (f_k - f_{up}) \Big]_+

    Parameters
    ----------
    travel : Travel
        Sampled updates. Where both product and sum are unknown an update counts as skipped; from the first unknown
        rate on, or unknown product alone, nothing is used. An unknown loss drops its term.
    losses : (n,) array_like, optional
        All losses of the log, by default those of ``travel``. f_up is the smallest mean over a tenth of them: of
        means, since the smallest loss of a minibatch lies below f*.
    norm : {"l2", "own"}
        In which ``travel.gradient_sum_norm`` is measured; goes into the result.

    Returns
    -------
    DistanceEstimate or None
        Without a peak learning rate; None where no prefix says anything.

    Examples
    --------
    ``f = x^2 / 2`` from 1 with the rate 1/2, where D = 1: iterates 1 and 1/2.

    >>> import numpy as np
    >>> each = dict(steps=np.array([1, 2]), distance=np.array([0.0, 0.5]), dot=np.array([0.0, 0.25]))
    >>> rates, losses = np.full(2, 0.5), np.array([0.5, 0.125])
    >>> travel = Travel(**each, gradient_sum_norm=np.array([0.5, 0.75]), learning_rate=rates, loss=losses)
    >>> distance_bound(travel).lower_bound, distance_bound(travel, [0.0]).lower_bound
    (0.4166666666666667, 0.5833333333333334)
    """
    sampled = np.flatnonzero(np.isfinite(travel.dot) | np.isfinite(travel.gradient_sum_norm))
    rate, dot = travel.learning_rate[sampled], travel.dot[sampled]
    unknown = np.flatnonzero(~(np.isfinite(dot) & np.isfinite(rate) & (rate >= 0.0)))
    used = sampled[: unknown[0]] if unknown.size else sampled
    rate, dot, size = (column[used] for column in (travel.learning_rate, travel.dot, travel.gradient_sum_norm))
    with np.errstate(all="ignore"):
        excess = travel.loss[used] - _least_loss(travel.loss if losses is None else losses)
        excess[~np.isfinite(excess)] = 0.0
        bounds = np.cumsum(rate * (dot + excess)) / size
    bounds[~(np.isfinite(bounds) & (size > 0.0))] = 0.0
    best = int(np.argmax(bounds)) if bounds.size else 0
    if not np.any(bounds > 0.0):
        return None
    return DistanceEstimate(
        lower_bound=float(bounds[best]),
        at_step=int(travel.steps[used[best]]),
        samples=int(used.size),
        norm=norm,
        peak_lr=None,
        loss_used=bool(np.any(excess[: best + 1])),
    )


def _least_loss(losses: npt.ArrayLike) -> float:
    """Smallest mean over a tenth of the known losses; nan where none is known."""
    known = np.asarray(losses, dtype=np.float64)
    known = known[np.isfinite(known)]
    if not known.size:
        return math.nan
    return min(float(block.mean()) for block in np.array_split(known, min(_LOSS_BLOCKS, known.size)))


def peak_from_distance(distance: float, multiplier: npt.ArrayLike, squared_norms: npt.ArrayLike) -> float:
    r"""Best peak learning rate of a schedule by `refine.bound`, in the units of the distance and of the norms.

    .. math:: \gamma^* = D / \sqrt{S_h Q_h}

    Parameters
    ----------
    distance : float
        D.
    multiplier : (T,) array_like
        h of the next run.
    squared_norms : (T,) array_like
        N_t at the same updates, raw, in true units and of D's norm: l2 squared for SGD,
        ``sum_i g_i^2 / (sqrt(v_i) + eps)`` for the Adam family.

    Examples
    --------
    >>> linear, flat = np.arange(100, 0, -1) / 100, np.ones(100)
    >>> round(peak_from_distance(3.0, linear, 4.0 * flat), 4)      # 3 / 2 of that for D = N = 1
    0.1483
    """
    return distance * omega_at_best_peak(multiplier, squared_norms).peak_lr


def estimate(
    norms: GradientNorms, family: OptimizerFamily, multiplier: npt.ArrayLike, *, separable: bool = False
) -> tuple[DistanceEstimate | None, tuple[str, ...]]:
    """Distance and peak learning rate from a log, and why one of them is missing.

    Parameters
    ----------
    norms : GradientNorms
        With `GradientNorms.travel`.
    family : {"sgd", "adam"}
    multiplier : (T,) array_like
        Of the next run. Its peak is for the horizon of the logged run, as that of every other rule is.
    separable : bool
        Norms that fall so far that no rule finds a peak (`refine.diagnostics.near_separable`); this one is then
        often a thousand times too small.

    Notes
    -----
    A heavy ball with momentum m moves 1 / (1 - m) times as far, so that its peak learning rate is (1 - m) times that
    of plain SGD; m from the settings beside the log. Longer runs are taken at `COMPARE_STEPS` of their updates: one
    that stands for q of them has the rate q h and the norm N / q.
    """
    if norms.travel is None:
        return None, ()
    if norms.pool is not None:
        return None, ("no distance estimate: it is of a single run, and these logs are pooled (--each)",)
    if not np.any(np.isfinite(norms.travel.learning_rate)):
        return None, ("no distance estimate: it needs the learning rates, and the log lacks them (--lr-column)",)
    logged = norms.source.optimizer or family
    found = distance_bound(norms.travel, norms.loss, norm="l2" if logged == "sgd" else "own")
    if found is None:
        return None, ("no distance estimate: the distance columns give no bound above 0",)
    wanted = "l2" if logged == "sgd" else "dual"
    if logged != family:
        return found, (f"no peak learning rate from the distance: the log names {logged}, and --optimizer {family}",)
    if norms.kind != wanted:
        return found, (
            f"no peak learning rate from the distance: it needs the {wanted} norm, in the optimizer's own units, and "
            f"the one in use is {norms.kind}",
        )
    if separable:
        return found, ()
    h = np.asarray(multiplier, dtype=np.float64)
    at = thinned(h.size, COMPARE_STEPS)
    values = norms.on_updates(norms.values, at.size)
    each = norms.total_steps / at.size
    # In units of the smallest norm, whose square may be beyond the floats.
    unit = float(values.min()) ** (EXPONENTS[family] / 2)
    squared = 1.0 / inverse_squared_norms(values, optimizer=family)
    peak = peak_from_distance(found.lower_bound / unit, h[at] * each, squared / each)
    peak *= 1.0 - (_momentum(norms) if family == "sgd" else 0.0)
    return replace(found, peak_lr=peak if 0.0 < peak < math.inf else None), ()


def _momentum(norms: GradientNorms) -> float:
    """Momentum of the logged run, 0 where unknown."""
    value = norms.source.settings.get("momentum")
    return float(value) if isinstance(value, (int, float)) and 0.0 < value < 1.0 else 0.0

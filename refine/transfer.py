"""From one run to another: its peak learning rate, another horizon, the rest of a run in progress."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from .bound import golden_minimum, omega_at_best_peak, omega_of_run, spending, thinned
from .errors import RefineError
from .refinement import refined_multiplier
from .schedule import MAX_STEPS, Schedule, check_count

__all__ = ["HORIZON_EXPONENTS", "Tail", "best_tail", "peak_ratio_by_bound", "retarget", "tail_bound"]

HORIZON_EXPONENTS = (-0.24, -0.10)
"""Best peak learning rates of real runs went with T to a power in this range; the bound's own is -1/2."""

_MOST_POINTS = 1_000
_SCAN = 33
_SCALE_STEPS = 20


def peak_ratio_by_bound(old: npt.ArrayLike, new: npt.ArrayLike, squared_norms: npt.ArrayLike) -> float:
    r"""Best peak learning rate of a new schedule over that of an old one, by `refine.bound` on the same norms.

    .. math:: \gamma_{new} / \gamma_{old} = \sqrt{S_{old} Q_{old} / (S_{new} Q_{new})}

    Parameters
    ----------
    old, new : array_like, shape (T,)
        Multipliers on the same updates.
    squared_norms : array_like, shape (T,)
        N_t, raw: smoothing them makes this rule worse.

    Examples
    --------
    >>> flat, linear = np.ones(1000), np.arange(1000, 0, -1) / 1000
    >>> round(peak_ratio_by_bound(flat, linear, flat), 2)
    2.89
    """
    return omega_at_best_peak(new, squared_norms).peak_lr / omega_at_best_peak(old, squared_norms).peak_lr


def retarget(schedule: Schedule, total_steps: int, *, warmup_steps: int | None = None) -> Schedule:
    """Keep the shape of a schedule on another horizon, and the number of its warmup updates.

    The warmup keeps its updates, or gets ``warmup_steps`` of them; the rest is stretched over those that are left
    (linear interpolation over its fraction, as `Schedule.resample`). A refined schedule keeps its place in the
    fraction of all training instead, as its norms are taken to do: what a longer run meets behind its warmup but the
    old one within it is held, so that `refine.refined_schedule` on the log is better there. A peak learning rate
    that the provenance suggests is left out: it was for the old horizon.

    Parameters
    ----------
    schedule : Schedule
        Of T updates.
    total_steps : int
        Updates of the next run.
    warmup_steps : int, optional
        Warmup of the result, by default that of the schedule: what its provenance names. Where that names none, all
        of it is stretched, or what rises to the peak becomes the warmup that is asked for.

    Examples
    --------
    >>> from refine import linear
    >>> retarget(linear(4), 8) == linear(8)
    True
    >>> longer = retarget(linear(100, warmup_steps=10), 1000)
    >>> bool(np.allclose(longer.multiplier, linear(1000, warmup_steps=10).multiplier, rtol=1e-12))
    True
    """
    total_steps = check_count("total_steps", total_steps, least=1)
    old, new = _warmups(schedule, warmup_steps)
    return _stretched(schedule, total_steps, old, new)


def for_batch_size(schedule: Schedule, old: float, new: float, *, warmup_steps: int | None = None) -> Schedule:
    """`retarget` to as many samples in batches of another size: T and W become T and W times old / new, rounded up.

    Examples
    --------
    >>> from refine import linear
    >>> for_batch_size(linear(1000, warmup_steps=100), 256, 1024)
    Schedule(total_steps=250, first=0.04, peak=1 at update 24, last=0.00442478)
    """
    if not (old > 0.0 and new > 0.0 and 0.0 < old / new < math.inf):
        raise RefineError(f"the batch sizes are {old!r} and {new!r}; both must be positive numbers")
    rise, kept = _warmups(schedule, warmup_steps)
    if schedule.total_steps * old / new > MAX_STEPS:
        raise RefineError(f"batches of {new:g} after {old:g} make more than {MAX_STEPS} updates; check both sizes")
    steps, warmup = (math.ceil(count * old / new - 1e-9) for count in (schedule.total_steps, kept))
    return _stretched(schedule, max(steps, 1), rise, kept if warmup_steps else warmup)


def peak_advice(
    old_steps: int, new_steps: int, batch_sizes: tuple[float, float] | None = None, *, peak_lr: float | None = None
) -> tuple[str, ...]:
    """What is known of the peak learning rate of a run with other updates or batches; no schedule contains it.

    ``peak_lr`` is that of the old run, or the one suggested for its horizon, where it is known.

    Examples
    --------
    >>> print(*peak_advice(10_000, 40_000), sep=", ")
    for 4 times the updates, real runs wanted 0.72 to 0.87 times the peak learning rate (T^-0.24 to T^-0.10)
    """
    found = []

    def of_peak(*factors: float) -> str:
        return "" if peak_lr is None else ": " + " to ".join(f"{factor * peak_lr:.3g}" for factor in factors)

    if batch_sizes is not None:
        scale = batch_sizes[1] / batch_sizes[0]
        found.append(
            f"for {scale:.3g} times the batch: {scale:.3g} times the peak learning rate with SGD "
            f"(arXiv:1706.02677){of_peak(scale)}, {math.sqrt(scale):.3g} times with the Adam family "
            f"(arXiv:2205.10782){of_peak(math.sqrt(scale))}; rules of thumb, test them"
        )
    elif new_steps != old_steps:
        scale = new_steps / old_steps
        low, high = sorted(scale**exponent for exponent in HORIZON_EXPONENTS)
        found.append(
            f"for {scale:.3g} times the updates, real runs wanted {low:.2f} to {high:.2f} times the peak learning rate "
            f"(T^{HORIZON_EXPONENTS[0]:.2f} to T^{HORIZON_EXPONENTS[1]:.2f}){of_peak(low, high)}"
        )
    return tuple(found)


@dataclass(frozen=True, slots=True, eq=False)
class Tail:
    """The rest of a run.

    Attributes
    ----------
    multiplier : ndarray, shape (n,)
        In the unit of the updates done (their peak is 1); above 1 only where rewarming was allowed.
    hold_steps : int
        Updates at the present rate before the anneal.
    bound : float
        Omega / gamma at the end, for the assumed initial distance.
    """

    multiplier: NDArray[np.float64]
    hold_steps: int
    bound: float


def best_tail(
    done: npt.ArrayLike,
    squared_norms: npt.ArrayLike,
    *,
    distance: float,
    rewarm: bool = False,
    hold_steps: int | None = None,
) -> Tail:
    r"""Best rest of a run after s updates, for the last iterate.

    With ``P_t = h_t + ... + h_s`` of the updates done, ``W_s`` the sum of ``1 / N_t`` to come and a the sum of the
    multipliers to come, the best tail has the shape of `refine.refinement.refined_multiplier` on the updates to come,
    and its area a is where

    .. math:: \frac{(D/\gamma)^2}{2 (P_1 + a)} + \frac12 \Big( \sum_{t \le s} \frac{h_t^2 N_t}{P_{t+1} + a}
              + \frac{4 a}{W_s} \Big)

    is least. It may start above the present rate. Without ``rewarm`` it is that shape at another scale c, capped:
    ``min(h_s, c w_t W_t)``. The present rate is held as long as that is best, then annealed; c is searched for.

    Parameters
    ----------
    done : array_like, shape (s,)
        Multipliers of the updates done, in any unit.
    squared_norms : array_like, shape (s + n,)
        N_t of the updates done and to come.
    distance : float
        D / gamma, in the same unit: ``1 / omega_at_best_peak(h, N).peak_lr`` if gamma was tuned for the schedule h.
    rewarm : bool
        Allow rates above the present one.
    hold_steps : int, optional
        k, instead of searching for it and the scale: the anneal then starts at the present rate. Less than n.

    Notes
    -----
    Continuum formulas: within 1 % of the optimum at 200 updates. They see at most 1,000 updates done and 1,000 to
    come, each standing for several where there are more. O(s + n).

    Examples
    --------
    Half way through a run at constant rate: hold it, then anneal.

    >>> done, flat = np.ones(100), np.ones(200)
    >>> distance = 1.0 / omega_at_best_peak(np.ones(200), flat).peak_lr
    >>> tail = best_tail(done, flat, distance=distance)
    >>> float(tail.multiplier.max()), tail.hold_steps > 0, float(tail.multiplier[-1]) < 0.05
    (1.0, True, True)
    """
    h = np.asarray(done, dtype=np.float64)
    n = np.asarray(squared_norms, dtype=np.float64)
    s, steps = h.size, n.size - h.size
    if s < 1 or steps < 1:
        raise RefineError(f"{s} updates are done and {steps} are to come; both must be at least 1: check the horizon")
    problem = _Problem(h, n, distance)
    weights = n.min() / n[s:]
    if rewarm:
        shape = refined_multiplier(weights)
        multiplier = shape * (problem.best_area() / shape.sum())
        return Tail(multiplier, 0, problem.bound(multiplier))
    if hold_steps is not None and not 0 <= hold_steps < steps:
        raise RefineError(f"hold_steps is {hold_steps}; it must be from 0 to {steps - 1}, the updates to come less one")
    if h[-1] <= 0.0:
        raise RefineError("the present rate is 0; there is nothing to hold or to anneal: allow it to rise (--rewarm)")
    if hold_steps is None:
        return problem.capped(weights)
    multiplier = h[-1] * np.append(np.ones(hold_steps), refined_multiplier(weights[hold_steps:]))
    return Tail(multiplier, hold_steps, problem.bound(multiplier))


def tail_bound(done: npt.ArrayLike, squared_norms: npt.ArrayLike, tail: npt.ArrayLike, *, distance: float) -> float:
    """Omega / gamma of any tail (n,) after s updates; the other parameters are those of `best_tail`."""
    problem = _Problem(np.asarray(done, dtype=np.float64), np.asarray(squared_norms, dtype=np.float64), distance)
    return problem.bound(np.asarray(tail, dtype=np.float64))


def _warmups(schedule: Schedule, wanted: int | None) -> tuple[int, int]:
    """Warmup of a schedule, and of what becomes of it."""
    known = known_warmup(schedule)
    if known is not None:
        return known, known if wanted is None else check_count("warmup_steps", wanted, least=0)
    peak = int(np.argmax(schedule.multiplier))
    return (0, 0) if wanted is None else (peak + 1 if peak else 0, check_count("warmup_steps", wanted, least=0))


def known_warmup(schedule: Schedule) -> int | None:
    """Updates of the warmup that a schedule's provenance names, on its present horizon; None if it names none.

    Examples
    --------
    >>> from refine import linear
    >>> known_warmup(linear(100, warmup_steps=21).resample(300))
    61
    """
    steps = schedule.total_steps
    known, of = schedule.provenance.get("warmup_steps"), schedule.provenance.get("resampled_from", steps)
    if type(known) is int and type(of) is int and 0 <= known <= of:
        return round((known - 1) * steps / of) + 1 if known else 0  # update W - 1, the peak, keeps its place
    return None


def _stretched(schedule: Schedule, total_steps: int, old_warmup: int, new_warmup: int) -> Schedule:
    """The warmup on ``new_warmup`` updates, the rest on the others; update W - 1 ends the one and starts the other."""
    same = (total_steps, new_warmup) == (schedule.total_steps, old_warmup)
    if new_warmup > 1 and new_warmup >= total_steps and not same:
        raise RefineError(
            f"the warmup takes {new_warmup} updates of {total_steps}, which leaves no anneal: give a longer run, or a "
            "shorter warmup (refine retarget --warmup-steps)"
        )
    old_peak, new_peak = max(old_warmup - 1, 0), max(new_warmup - 1, 0)
    t = np.arange(total_steps)
    rising = (t + 1) * (max(old_warmup, 1) / max(new_warmup, 1)) - 1
    if schedule.provenance.get("shape") == "refined":
        after = np.maximum(t * (schedule.total_steps / total_steps), old_peak)
    else:
        after = old_peak + (t - new_peak) * ((schedule.total_steps - old_peak) / (total_steps - new_peak))
    position = np.where(t < new_peak, rising, after)
    rates = np.interp(position, np.arange(schedule.total_steps + 1), np.append(schedule.multiplier, schedule.end))
    below = rising[:new_peak] < 0.0
    rates[:new_peak] = np.where(below, schedule.multiplier[0] * (1.0 + rising[:new_peak]), rates[:new_peak])
    if schedule.multiplier[old_peak] > 0.0:
        rates[:new_peak] *= rates[new_peak] / schedule.multiplier[old_peak]
    if not np.any(rates > 0.0):  # so few updates that all fall where the schedule is 0
        rates = np.ones(total_steps)
    provenance = {**schedule.provenance, "retargeted_from": schedule.total_steps, "warmup_steps": new_warmup}
    for stale in (
        "suggested_peak_lr",
        "updates_done",
        "resampled_from",
        *(key for key in provenance if key.endswith(("_steps", "_fraction"))),
    ):
        if stale not in ("warmup_steps", "logged_steps", "smoothing_fraction"):
            provenance.pop(stale, None)
    return Schedule.from_rates(rates, provenance)


class _Problem:
    """Omega / gamma of the whole run as a function of its tail, on at most 1,000 + 1,000 points.

    A point that stands for q updates at the rate h is one entry ``eta = q h`` with the norm ``N / q``.
    """

    def __init__(self, h: NDArray[np.float64], n: NDArray[np.float64], distance: float) -> None:
        s = h.size
        self.h, self.n, self.distance = h, n, distance
        past, self.next = thinned(s, _MOST_POINTS), thinned(n.size - s, _MOST_POINTS)
        past_each, self.next_each = s / past.size, (n.size - s) / self.next.size
        self.past_rates = h[past] * past_each
        self.norms = np.concatenate([n[past] / past_each, n[s:][self.next] / self.next_each])

    def bound(self, tail: NDArray[np.float64]) -> float:
        """For a tail of all updates to come."""
        return self._bound(tail[self.next])

    def _bound(self, points: NDArray[np.float64]) -> float:
        eta = np.concatenate([self.past_rates, points * self.next_each])
        return omega_of_run(eta, self.norms, distance=self.distance)

    def best_area(self) -> float:
        to_come = float(np.sum(1.0 / self.n[self.h.size :]))
        total, cost, spent_before = spending(self.past_rates, self.norms[: self.past_rates.size])

        def value(log_a: float) -> float:
            a = math.exp(log_a)
            return self.distance**2 / (total + a) + spent_before(a) + 4.0 * a / to_come

        high = 0.5 * math.log((self.distance**2 + float(cost.sum())) * to_come)  # the derivative is positive above
        return math.exp(golden_minimum(value, high - 25.0, high))

    def capped(self, weights: NDArray[np.float64]) -> Tail:
        """Search for c in ``min(present rate, c w_t W_t)``."""
        present, shape = float(self.h[-1]), refined_multiplier(weights)
        points = shape[self.next]

        def value(log_c: float) -> float:
            return self._bound(np.minimum(present, math.exp(log_c) * points))

        # Above, all but the last update to come are held.
        low, high = math.log(present) - 4.0, math.log(present / points[-1])
        grid = np.linspace(low, max(high, low + 1.0), _SCAN).tolist()
        best = int(np.argmin([value(log_c) for log_c in grid]))
        log_c = golden_minimum(value, grid[max(best - 1, 0)], grid[min(best + 1, _SCAN - 1)], steps=_SCALE_STEPS)
        multiplier = np.minimum(present, math.exp(log_c) * shape)
        falling = np.flatnonzero(multiplier < present)
        return Tail(multiplier, int(falling[0]) if falling.size else multiplier.size, value(log_c))

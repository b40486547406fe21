"""Weights with which merged checkpoints of a constant-rate run stand in for the anneal of a schedule.

References
----------
.. [1] Tian et al., *WSM: Decay-Free Learning Rate Schedule via Checkpoint Merging for LLM Pre-training*,
   arXiv:2507.17634 ("Warmup-Stable and Merge").
.. [2] Defazio et al., arXiv:2310.07831, Theorem 1: the last iterate of a schedule is an average.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import RefineError
from .schedule import Schedule, check_count
from .text import paragraph

__all__ = ["MergeWeights", "merge_weights"]

_MUCH_OF_THE_START = 0.01

_ASSUMED = (
    "the run warmed up as the schedule does and then kept its peak rate; a checkpoint N is its weights after N updates",
    "annealed, it would have met the same gradients: exact for a linear loss, approximate otherwise "
    "(WSM, arXiv:2507.17634)",
)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class MergeWeights:
    """How to merge the checkpoints of a constant-rate run.

    Attributes
    ----------
    checkpoints : tuple of int
        Updates done at each checkpoint; 0 is the initial weights.
    weights : ndarray, shape (K,)
        >= 0, sum 1.
    emulated : ndarray, shape (T,)
        Multiplier that each update has in the merged weights.
    largest_deviation : float
        max over t of abs(emulated_t - h_t), in units of the peak.
    notes : tuple of str
        What keeps the emulated multipliers from the schedule, other than the number of checkpoints.
    """

    checkpoints: tuple[int, ...]
    weights: NDArray[np.float64]
    emulated: NDArray[np.float64]
    largest_deviation: float
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        used = int(np.count_nonzero(self.weights))
        return f"MergeWeights(checkpoints={len(self.weights)}, used={used}, deviation={self.largest_deviation:.3g})"

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "total_steps": int(self.emulated.size),
            "checkpoints": list(self.checkpoints),
            "weights": self.weights.tolist(),
            "largest_deviation": self.largest_deviation,
            "assumptions": list(_ASSUMED),
            "notes": list(self.notes),
        }

    def summary(self) -> str:
        """The same as text."""
        far = f"{self.emulated.size:,} updates, at most {self.largest_deviation:.3g} of the peak from the schedule"
        told = [("emulated", far), *(("assumed", line) for line in _ASSUMED), *(("note", line) for line in self.notes)]
        return "\n".join(
            [
                f"{'checkpoint':>10}  weight",
                *(f"{n:>10,}  {weight:.6g}" for n, weight in zip(self.checkpoints, self.weights, strict=True)),
                *(line for name, text in told for line in paragraph(name, text)),
            ]
        )


def merge_weights(schedule: Schedule, checkpoints: Iterable[int]) -> MergeWeights:
    r"""Weights c_k of checkpoints after n_1 < ... < n_K updates of a constant-rate run: the drops of the schedule.

    A run at the constant rate gamma has x_n = x_0 - gamma * sum of its first n gradients, so that in the merged
    weights update t counts with the sum of c_k over the checkpoints after it. That is the schedule's mean H_k
    over the updates n_{k-1} .. n_k - 1 (n_0 = 0) for

    .. math:: c_k = H_k - H_{k+1}, \qquad c_K = H_K

    Before the peak H counts as 1: both runs warm up alike. Where H rises, the nearest sequence that does not (least
    squares) takes its place. What is left, 1 - H_1, goes to the initial weights if 0 is among the checkpoints;
    otherwise the weights are divided by H_1, which emulates the same shape at a peak rate 1 / H_1 times higher.

    Parameters
    ----------
    schedule : Schedule
        To emulate.
    checkpoints : iterable of int
        Updates done, increasing; the last one is ``schedule.total_steps``.

    Returns
    -------
    MergeWeights

    Raises
    ------
    RefineError
        Checkpoints that do not increase, or end elsewhere than the schedule.

    Notes
    -----
    O(T). It takes the gradients as given (linear loss) and says nothing of the state of the optimizer. With a
    checkpoint after every update, 0 included, a schedule that never rises is emulated exactly.

    Examples
    --------
    >>> from refine import linear
    >>> found = merge_weights(linear(8), [0, 2, 4, 6, 8])
    >>> found.weights.tolist(), found.largest_deviation
    ([0.0625, 0.25, 0.25, 0.25, 0.1875], 0.0625)
    """
    h = schedule.multiplier
    points = _checked(checkpoints, h.size)
    initial = points[0] == 0
    ends = np.array(points[initial:])
    starts = np.concatenate([[0], ends[:-1]])
    peak = int(np.argmax(h))
    wanted = np.concatenate([np.ones(peak), h[peak:]])
    means = np.add.reduceat(wanted, starts) / (ends - starts)
    levels, notes = _falling(means, ends - starts)
    if initial:
        first = 1.0
    else:
        first = float(levels[0])
        if first < 1.0 - 1e-9:
            notes += (
                f"the anneal begins before the first checkpoint: this is the schedule at a peak rate {1.0 / first:.3g} "
                f"times that of the run; save earlier ones, or emulate an anneal that begins there, "
                f"wsd:{1.0 - points[0] / h.size:.4g}",
            )
    levels /= first
    drops = levels - np.append(levels[1:], 0.0)
    weights = np.concatenate([[1.0 - levels[0]], drops]) if initial else drops
    if initial and weights[0] > _MUCH_OF_THE_START:
        notes += (
            f"the initial weights get {weights[0]:.3g} of the sum, which is right for convex losses only: for a "
            f"network emulate an anneal that begins later, as wsd:{1.0 - points[1] / h.size:.4g}",
        )
    emulated = np.repeat(levels, ends - starts)
    emulated[:peak] *= h[:peak]
    for array in (weights, emulated):
        array.flags.writeable = False
    return MergeWeights(points, weights, emulated, float(np.abs(emulated - h).max()), notes)


def _checked(checkpoints: Iterable[int], total_steps: int) -> tuple[int, ...]:
    points = tuple(check_count(f"checkpoints[{i}]", n, least=0) for i, n in enumerate(checkpoints))
    for i, (before, after) in enumerate(pairwise(points), start=1):
        if after <= before:
            raise RefineError(f"checkpoints[{i}] is {after} after {before}; they must increase: sort them, each once")
    if not points or points[-1] != total_steps:
        last = f"the last checkpoint is {points[-1]}" if points else "there are no checkpoints"
        raise RefineError(
            f"{last} and the schedule has {total_steps} updates; it must end with the last checkpoint: "
            "add that one, or give the schedule their number of updates (refine retarget)"
        )
    if len(points) == 1:
        raise RefineError(f"{points[0]} is the only checkpoint; give two or more to merge")
    return points


def _falling(means: NDArray[np.float64], lengths: NDArray[np.int64]) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Nearest sequence that never rises, least squares weighted by length, and a note where it differs."""
    from scipy.optimize import isotonic_regression

    rise = float(np.max(np.diff(means), initial=0.0))
    if rise <= 1e-12:
        return np.minimum.accumulate(means), ()
    levels = np.clip(isotonic_regression(means, weights=lengths, increasing=False).x, 0.0, 1.0)
    off = float(np.abs(levels - means).max())
    return levels, (
        f"the schedule rises again after its peak, which no merge can do: the nearest one that does not rise is "
        f"emulated, up to {off:.3g} of the peak away",
    )

"""Whether ``record()`` is called where it should be: what the norms at the call and in the step tell of it."""

from __future__ import annotations

import math
from collections import deque

import numpy as np

__all__ = ["Placement"]

_SAME, _CLEARLY, _ROUNDING = 1e-9, 1.1, 1e-5
_WINDOW, _LEAST = 256, 20

AFTER_STEP = (
    "record() is called after optimizer.step(): each row holds the gradient of the update before; call it after the "
    "last backward() and before clipping and the step"
)
GREW = (
    "the gradient is larger in the step than record() saw it: call record() once per update, after the last backward() "
    "and before clipping and optimizer.step(); all is well where the loop itself adds to the gradient in between"
)
AFTER_CLIPPING = (
    "{} l2 norms equal one largest value, as after clipping: call record() before the gradient is clipped or "
    "normalised, which hides all above"
)


class Placement:
    """Compares the rows of a log, on the host; each kind of mistake shows in a few of them.

    Parameters
    ----------
    rewritten : bool
        The optimizer may change the gradients in its step: that they have grown then is no sign.
    """

    def __init__(self, *, rewritten: bool) -> None:
        self._rewritten = rewritten
        self._problem = ""
        self._last = math.nan, math.nan
        self._late = self._grown = 0
        self._norms: deque[float] = deque(maxlen=_WINDOW)

    def compare(self, before: float, after: float) -> str:
        """What is wrong with the next row; "" where nothing is known to be.

        ``before`` and ``after`` are squared norms of the gradient at the call and in the step; nan where unknown.
        """
        (last_before, last_after), self._last = self._last, (before, after)
        # By chance no gradient has the norm to which the one before it was changed.
        late = _equal(before, last_after, _SAME) and not _equal(before, last_before, _ROUNDING)
        self._late = self._late + 1 if late else 0
        normalised = _equal(after, last_after, _ROUNDING)
        self._grown += after > _CLEARLY**2 * before and not (self._rewritten or normalised)
        self._norms.append(before**0.5 if _equal(before, after, _ROUNDING) else math.nan)
        self._problem = self._problem or (AFTER_STEP if self._late > 1 else GREW if self._grown > 2 else "")
        return self._problem

    def clipped(self) -> str:
        """What is wrong where most norms are at their maximum and the others spread below it, or all at a round one.

        Slowly falling ones, of all data at a low rate, lie close together too, but not at a number of two digits; and
        those of a constant gradient are the same to the last bit.
        """
        every = np.array(self._norms)
        norms = every[~np.isnan(every)]  # in the step the gradient was as at the call
        if norms.size <= _LEAST:
            return ""
        top, low = float(norms.max()), float(norms.min())
        if low >= (1.0 - _ROUNDING) * top:
            round_one = abs(top - float(f"{top:.1e}")) < _ROUNDING * top
            return AFTER_CLIPPING.format("all") if round_one and low < top and norms.size == every.size else ""
        below = norms[norms < (1.0 - _ROUNDING) * norms.max()]
        at_top = norms.size - below.size
        if not (below.size and at_top >= _LEAST and 2 * at_top > norms.size):
            return ""
        return AFTER_CLIPPING.format("most") if at_top >= 5 * np.count_nonzero(below >= 0.999 * below.max()) else ""


def _equal(a: float, b: float, tolerance: float) -> bool:
    return math.isclose(a, b, rel_tol=tolerance) and a > 0.0

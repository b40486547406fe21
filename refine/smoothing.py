"""Running medians of a gradient-norm log, with stated edges."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray
from scipy.ndimage import median_filter

from .errors import RefineError

__all__ = ["Edge", "median_width", "smooth"]

Edge = Literal["reflect", "nearest"]

_AXIS_POINTS, _PER_GAP, _LEAST_IN_WINDOW = 200_000, 4, 5


def median_width(points: int, fraction: float) -> int:
    """Width of the median window, ``2 * floor(floor(fraction * points) / 2) + 1``: always odd.

    Examples
    --------
    >>> median_width(65_000, 0.1), median_width(19, 0.1), median_width(20, 0.1)
    (6501, 1, 3)
    """
    if not 0.0 <= fraction <= 1.0:
        raise RefineError(
            f"smoothing is {fraction!r}; it must lie in [0, 1], a fraction of the points; 0.1 is the default"
        )
    return 2 * (math.floor(fraction * points) // 2) + 1


def smooth(
    values: npt.ArrayLike, updates: npt.ArrayLike | None = None, *, fraction: float = 0.1, left: Edge = "reflect"
) -> NDArray[np.float64]:
    """Median-filter ``values`` with a window of a fraction of their number, or of the updates that they span.

    With ``updates`` every value counts as often as there are updates nearer to it than to another one, but for at
    most a fifth of the window, so that no value beside a gap of a tenth of the run or less decides alone. A log whose
    rows thin out is smoothed like one that keeps them all; evenly spaced values give the same with and without.

    Both forms reflect the right edge (``c b a`` follows ``a b c``, the edge itself not repeated).
    ``left="reflect"`` does the same on the left. ``left="nearest"`` is the published form: the
    first value is repeated, so that the first smoothed value *is* the first value, outlier or not.

    Parameters
    ----------
    values : array_like, shape (n,)
        Finite numbers, n >= 1.
    updates : array_like of int, shape (n,), optional
        Where the values stand, increasing.
    fraction : float
        tau, the window as a fraction, in [0, 1].
    left : {"reflect", "nearest"}
        How the left edge is continued.

    Returns
    -------
    ndarray, shape (n,), float64

    Notes
    -----
    O(m log w) for a window of w of m points: m = n for evenly spaced values, else at most 200,000 + 2 n.

    References
    ----------
    arXiv:2310.07831, Algorithms 1 and 2 (there ``left="nearest"`` and ``fraction=0.1``).

    Examples
    --------
    >>> g = [9.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    >>> smooth(g, fraction=0.5).tolist()
    [1.0, 2.0, 2.0, 3.0, 4.0, 4.0]
    >>> smooth(g, fraction=0.5, left="nearest").tolist()
    [9.0, 2.0, 2.0, 3.0, 4.0, 4.0]
    >>> smooth(g, [1, 2, 3, 4, 5, 15], fraction=0.5).tolist()
    [2.0, 2.0, 2.0, 3.0, 4.0, 5.0]
    """
    array = np.asarray(values, dtype=np.float64)
    times = None if updates is None or array.size < 3 else _times(np.asarray(updates, dtype=np.int64), fraction)
    if times is not None:
        on_axis = smooth(np.repeat(array, times), fraction=fraction, left=left)
        centres: NDArray[np.int64] = np.cumsum(times) - times + times // 2
        return np.asarray(on_axis[centres], dtype=np.float64)
    half = median_width(array.size, fraction) // 2
    if half == 0 or array.size < 2:
        return array.copy()
    # half <= n / 2, so reflection always has enough points; "nearest" then fills the left edge.
    padded = np.pad(array, (half if left == "reflect" else 0, half), mode="reflect")
    smoothed: NDArray[np.float64] = median_filter(padded, size=2 * half + 1, mode="nearest")
    start = half if left == "reflect" else 0
    return smoothed[start : start + array.size].copy()


def _times(updates: NDArray[np.int64], fraction: float) -> NDArray[np.int64] | None:
    """How often each value stands on an even axis; None where all stand there equally often."""
    gaps = np.diff(updates).astype(np.float64)
    if gaps.min() == gaps.max():
        return None
    span = float(updates[-1] - updates[0])
    cells = np.concatenate([gaps[:1], (gaps[:-1] + gaps[1:]) / 2.0, gaps[-1:]])
    unit = max(float(gaps.min()) / _PER_GAP, span / max(_AXIS_POINTS, updates.size))
    cells = np.minimum(cells, max(fraction * span / _LEAST_IN_WINDOW, unit))
    times = np.maximum(np.rint(cells / unit), 1.0).astype(np.int64)
    return None if times.min() == times.max() else times

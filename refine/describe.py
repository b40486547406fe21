"""What a schedule looks like in three numbers: warmup, peak, exponent of its anneal."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

__all__ = ["decay_exponent", "dip_before_peak", "peak_fraction", "rise_after_peak", "warmup_fraction"]

_MOST_POINTS = 100_000


def warmup_fraction(multiplier: npt.ArrayLike, *, level: float = 0.9) -> float:
    """Updates before 90 % of the peak is first reached, as a fraction of all updates.

    Examples
    --------
    >>> warmup_fraction([0.5, 0.8, 0.9, 1.0, 0.5]), warmup_fraction([1.0, 0.5])
    (0.4, 0.0)
    """
    h = np.asarray(multiplier, dtype=np.float64)
    return int(np.argmax(h >= level * h.max())) / h.size


def peak_fraction(multiplier: npt.ArrayLike) -> float:
    """Where the (first) maximum is: its update, counted from 0, as a fraction of all updates.

    Examples
    --------
    >>> peak_fraction([0.5, 0.8, 0.9, 1.0, 0.5])
    0.6
    """
    h = np.asarray(multiplier, dtype=np.float64)
    return int(np.argmax(h)) / h.size


def decay_exponent(multiplier: npt.ArrayLike, *, until: float = 0.99) -> tuple[float, float] | None:
    """Exponent p of the best c (1 - x)^p fit to the anneal, and the fit's R^2.

    Least squares of log h on log(1 - x), x = t / T from the peak to ``until``, on every k-th update where
    there are more than 100,000. None where the anneal has fewer than three updates or does not change.

    Examples
    --------
    >>> import numpy as np
    >>> p, r2 = decay_exponent((1 - np.arange(1000) / 1000) ** 1.5)
    >>> round(p, 9), round(r2, 9)
    (1.5, 1.0)
    """
    h = np.asarray(multiplier, dtype=np.float64)
    first = int(np.argmax(h))
    last = math.floor(until * h.size * (1.0 + 1e-12))
    if last - first < 2:
        return None
    t = np.arange(first, last + 1, max(1, (last - first) // _MOST_POINTS))
    anneal = h[t]
    if not anneal.min() > 0.0:
        return None
    u, v = np.log1p(-t / h.size), np.log(anneal)
    u -= u.mean()
    v -= v.mean()
    spread, total = float(u @ u), float(v @ v)
    if spread == 0.0 or total == 0.0:
        return None
    slope = float(u @ v) / spread
    residual = v - slope * u
    return slope, 1.0 - float(residual @ residual) / total


def dip_before_peak(multiplier: npt.ArrayLike) -> float:
    """Largest fall before the peak, as a fraction of the peak: 0 for a schedule that only rises to it.

    Examples
    --------
    >>> dip_before_peak([0.5, 0.75, 0.25, 1.0, 0.1])
    0.5
    """
    h = np.asarray(multiplier, dtype=np.float64)
    rise = h[: int(np.argmax(h)) + 1]
    return float(np.max(np.maximum.accumulate(rise) - rise) / h.max())


def rise_after_peak(multiplier: npt.ArrayLike) -> float:
    """Largest climb after the peak, as a fraction of the peak: 0 for a schedule that only falls.

    Examples
    --------
    >>> rise_after_peak([0.2, 1.0, 0.5, 0.75, 0.1])
    0.25
    """
    h = np.asarray(multiplier, dtype=np.float64)
    anneal = h[int(np.argmax(h)) :]
    return float(np.max(anneal - np.minimum.accumulate(anneal)) / h.max())

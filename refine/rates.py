"""The learning rate of every update of a run, from the rows that a log has of it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .hygiene import stride

__all__ = ["every_rate", "starts_late"]

_LATE, _MOST_WARMUP = 0.02, 0.2
"""Shares of the run: a log that starts after the first shows no warmup; one that starts before the second, at the peak,
has left out what is taken for one."""

_SAME = 1e-6
"""Rates are often logged as float32."""


def starts_late(at: NDArray[np.int64], total_steps: int) -> bool:
    """Whether the first of the updates with a row stands too late to show how the run began.

    Examples
    --------
    >>> starts_late(np.array([49, 99, 149]), 1000), starts_late(np.array([499, 549, 599]), 1000)
    (False, True)
    """
    gaps = (int(at[1] - at[0]), stride(at)) if at.size > 1 else (1,)
    return bool(at[0] > max(*gaps, _LATE * total_steps))


def every_rate(
    at: NDArray[np.int64], rates: NDArray[np.float64], total_steps: int, warmup_steps: int | None = None
) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Rates of the updates 0 ... ``total_steps`` - 1, between rows and beyond them; and what was assumed.

    Between rows they are interpolated linearly; the warmup ends where the lines through the rows before and after the
    peak meet. Before the first row comes the warmup of the settings, or the line of rates that rise or fall; where a
    log starts at its peak, late but within the first fifth of the run, a linear warmup; else the first rate. After the
    last row its rate is held.

    Parameters
    ----------
    at : (m,) int64
        Updates of the rows, increasing, from 0.
    rates : (m,) float64
        Learning rates used in them, >= 0.
    warmup_steps : int, optional
        What the settings of the run say.

    Examples
    --------
    >>> rates, notes = every_rate(np.array([1, 3, 5, 7]), np.array([0.2, 0.4, 0.4, 0.4]), 8)
    >>> rates.round(3).tolist(), notes
    ([0.1, 0.2, 0.3, 0.4, 0.4, 0.4, 0.4, 0.4], ())
    """
    first, rate = int(at[0]), float(rates[0])
    knots, values = at.astype(np.float64), rates
    if corner := _end_of_warmup(at, rates, warmup_steps):
        place = int(np.searchsorted(at, corner[0]))
        knots, values = np.insert(knots, place, corner[0]), np.insert(values, place, corner[1])
    updates = np.arange(total_steps, dtype=np.float64)
    every = np.interp(updates, knots, values)
    notes = []
    before = updates[:first]
    late, rising = starts_late(at, total_steps), at.size > 1 and rates[1] > rate * (1.0 + _SAME)
    at_peak = rate >= rates.max() * (1.0 - _SAME)
    early = first <= _MOST_WARMUP * total_steps
    told = f"rates before update {first + 1} are not logged: taken to be"
    if not first:
        pass
    elif warmup_steps:
        every[:first] = rate * np.minimum((before + 1.0) / min(warmup_steps, first + 1), 1.0)
        notes.append(f"{told} the warmup of {warmup_steps} updates that the settings name")
    elif early and at.size > 1 and (rising or (not late and not warmup_steps)):
        slope = (rates[1] - rate) / (at[1] - first)
        if rising and rates[1] >= rates.max() * (1.0 - _SAME):
            slope = max(slope, rate / (first + 1))  # its warmup may have ended before the second row
        every[:first] = np.maximum(rate + slope * (before - first), 0.0)
        if late:
            notes.append(f"{told} on the line of the first two")
    elif late and early and at_peak and warmup_steps is None:
        every[:first] = rate * (before + 1.0) / (first + 1)
        notes.append(f"{told} a linear warmup to {rate:g}")
    elif late:
        notes.append(f"{told} {rate:g} as well")
    last = int(at[-1])
    usual = stride(at) if at.size > 1 else 1
    if total_steps - 1 - last >= max(2 * usual, 2):
        notes.append(f"rates after update {last + 1} are not logged: taken to be {rates[-1]:g} to the end")
    return every, tuple(notes)


def _end_of_warmup(
    at: NDArray[np.int64], rates: NDArray[np.float64], warmup_steps: int | None
) -> tuple[float, float] | None:
    """Update, between two rows, and rate of the peak of a run whose warmup ended there; None where a row shows it."""
    highest = float(rates.max())
    rates = rates / highest  # their slopes are floats, whatever their unit
    top = int(np.flatnonzero(rates >= 1.0 - _SAME)[0])
    for i in (top - 1, top):  # the peak lies after row i
        if i < 0 or i + 2 >= at.size:
            continue
        fall = (rates[i + 2] - rates[i + 1]) / (at[i + 2] - at[i + 1])
        if warmup_steps and at[i] < warmup_steps < at[i + 1] and rates[i] < rates[i + 1]:
            where = float(warmup_steps)
        elif rates[i] > (rates[i - 1] if i else 0.0):
            before, low = (int(at[i - 1]), float(rates[i - 1])) if i else (-1, 0.0)
            rise = (rates[i] - low) / (at[i] - before)
            if rise <= max(fall, 0.0):
                continue
            where = at[i] + (rates[i + 1] - rates[i] - fall * (at[i + 1] - at[i])) / (rise - fall)
        else:
            continue
        height = float(rates[i + 1] - fall * (at[i + 1] - where))
        inside = at[i] + _SAME < where < at[i + 1] - _SAME
        if inside and fall <= 0.0 and height >= max(rates[i], rates[i + 1]) * (1.0 - _SAME):
            return float(where), height * highest
    return None

"""The batch sizes that a run is planned with, and what they do to the level of its norms."""

from __future__ import annotations

import math
import re
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from .errors import RefineError
from .files import printable
from .level_shifts import LevelShift
from .text import whole_number

__all__ = ["BATCH_EXPONENT", "WIDEST", "parse_batch_plan", "planned"]

BATCH_EXPONENT = 0.25
"""e in G ~ B^-e where no change of the batch size was logged: 1/2 for a norm of all noise, 0 for one of all signal."""

WIDEST = 1e6
"""Largest over smallest size of a plan; more is of two units, samples and tokens."""

_NEAR = 0.03


def parse_batch_plan(text: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Steps and sizes of a plan ``SIZE@STEP,SIZE@STEP...``; one size alone is constant.

    Examples
    --------
    >>> [part.tolist() for part in parse_batch_plan("8@0,64@2000")]
    [[0, 2000], [8.0, 64.0]]
    >>> [part.tolist() for part in parse_batch_plan("0.5M@0, 1M@10k")]
    [[0, 10000], [500000.0, 1000000.0]]
    >>> [part.tolist() for part in parse_batch_plan("64")]
    [[0], [64.0]]
    """
    steps: list[int] = []
    sizes: list[float] = []
    entries = [entry.strip() for entry in text.split(",")]
    for entry in entries:
        named, at, place = entry.partition("@")
        size, step = _size(named), whole_number(place) if at else 0
        if not 0.0 < size < math.inf or step is None or step < 0 or (not at and len(entries) > 1):
            raise RefineError(
                f'the batch plan holds "{printable(entry, limit=40)}"; each entry must be SIZE@STEP with a size above '
                "0, as in 8@0,64@2000"
            )
        steps.append(step)
        sizes.append(size)
    if steps[0] != 0:
        raise RefineError(f"the batch plan starts at step {steps[0]}; its first entry must be at 0: put SIZE@0 first")
    for before, after in pairwise(steps):
        if after <= before:
            raise RefineError(f"the batch plan has step {after} after step {before}; its steps must increase: sort it")
    if steps[-1] >= 2**53:
        raise RefineError(f"the batch plan has step {steps[-1]}; steps count optimizer updates: name a smaller one")
    if max(sizes) / WIDEST > min(sizes):
        raise RefineError(
            f"the batch plan has sizes from {min(sizes):g} to {max(sizes):g}, more than {WIDEST:,.0f} times apart; "
            "give all in samples or all in tokens"
        )
    return np.array(steps, dtype=np.int64), np.array(sizes)


def _size(text: str) -> float:
    """A batch size, in samples or tokens; nan for what is none."""
    whole = whole_number(text)
    if whole is not None:
        return float(whole)
    return float(text) if re.fullmatch(r"\s*[0-9]+\.[0-9]+(?:[eE][+-]?[0-9]+)?\s*", text, re.ASCII) else math.nan


def planned(
    shifts: tuple[LevelShift, ...],
    total_steps: int,
    logged_steps: int,
    *,
    plan: tuple[NDArray[np.int64], NDArray[np.float64]] | None = None,
    logged_batch: NDArray[np.float64] | None = None,
) -> tuple[LevelShift, ...]:
    """Shifts to expect in the next run, of ``total_steps``; `refine.level_shifts.noise_level` makes a level of them.

    A shift stays at its share of training. With a plan those caused by the logged batch size make room for
    ``b^-e`` at each change by a factor b, with ``e = -sum log factor / sum log b`` over the logged changes, within
    [0, 1/2], else `BATCH_EXPONENT`.

    Parameters
    ----------
    shifts : tuple of LevelShift
        Of the logged run, of ``logged_steps`` updates.
    plan : (steps, sizes), optional
        As `parse_batch_plan` returns it, in steps of the next run.
    logged_batch : (logged_steps,) float64, optional
        Batch size of each update of the logged run.

    Examples
    --------
    >>> shift = LevelShift(50, 0.5, "batch size")
    >>> planned((shift,), 200, 100)
    (LevelShift(step=100, factor=0.5, cause='batch size'),)
    >>> planned((shift,), 200, 100, plan=parse_batch_plan("64"))
    ()
    >>> planned((), 200, 100, plan=parse_batch_plan("16@0,1@120"))
    (LevelShift(step=120, factor=2.0, cause='planned'),)
    """
    moved = [
        LevelShift(min(round(shift.step * total_steps / logged_steps), total_steps - 1), shift.factor, shift.cause)
        for shift in shifts
        if plan is None or shift.cause != "batch size"
    ]
    if plan is not None:
        steps, sizes = plan
        exponent = _exponent(shifts, logged_batch)
        for step, change in zip(steps[1:].tolist(), (sizes[1:] / sizes[:-1]).tolist(), strict=True):
            if change != 1.0 and step < total_steps:
                moved.append(LevelShift(step, float(change**-exponent), "planned"))
    return tuple(sorted(moved, key=lambda shift: shift.step))


def _exponent(shifts: tuple[LevelShift, ...], logged_batch: NDArray[np.float64] | None) -> float:
    """The e of the logged changes of the batch size, each measured between both sides of its shift."""
    if logged_batch is None:
        return BATCH_EXPONENT
    norms = sizes = 0.0
    near, last = max(1, int(_NEAR * logged_batch.size)), logged_batch.size - 1
    for shift in shifts:
        if shift.cause == "batch size":
            change = math.log(logged_batch[min(shift.step + near, last)] / logged_batch[max(shift.step - near, 0)])
            norms += math.copysign(1.0, change) * math.log(shift.factor)
            sizes += abs(change)
    return min(max(-norms / sizes, 0.0), 0.5) if sizes > 0.0 else BATCH_EXPONENT

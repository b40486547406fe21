"""The batch size of every update, from a column that holds it or from samples or tokens that are counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from ..hygiene import last_of_each_step
from .base import Column
from .loss_columns import batch_name

__all__ = ["update_sizes"]

_SAME_BATCH, _MOST_CHANGES, _MOST_LEVELS = 0.1, 20, 100
"""Sizes within 10 % of the first of a level are of that level: counted samples and tokens jitter."""


def update_sizes(
    columns: Iterable[Column],
    counted: Iterable[Column],
    steps_of: Callable[[Column], NDArray[np.float64]],
    total: int,
    from_zero: bool,
) -> tuple[str, NDArray[np.float64]] | None:
    """Name of a column, and the batch size of every update, (T,), where it changes now and then; else None.

    Parameters
    ----------
    columns : iterable of Column
        All of the log; those are used whose name says that they hold a batch size.
    counted : iterable of Column
        Samples or tokens seen so far.
    steps_of : callable
        Steps of a column's values.
    total : int
        Updates of the run.
    from_zero : bool
        Whether the steps count from 0.
    """
    for column in columns:
        if batch_name(column.name):
            labels, sizes = last_of_each_step(steps_of(column), column.values)
            known = sizes > 0.0
            if (found := _by_update(labels[known], sizes[known], total, from_zero)) is not None:
                return column.name, found
    for column in counted:
        labels, seen = last_of_each_step(steps_of(column), column.values)
        if labels.size > 2 and np.all(np.diff(seen) > 0.0):
            sizes = np.diff(seen) / np.diff(labels)
            if (found := _by_update(labels[1:], sizes, total, from_zero)) is not None:
                return column.name, found
    return None


def _by_update(
    labels: NDArray[np.int64], sizes: NDArray[np.float64], total: int, from_zero: bool
) -> NDArray[np.float64] | None:
    """Size of every update, the median of its level, of sizes that change now and then, and not from row to row."""
    if not sizes.size or sizes.min() * (1.0 + _SAME_BATCH) > sizes.max():
        return None
    if np.count_nonzero(np.abs(np.diff(np.log(sizes))) > np.log1p(_SAME_BATCH)) > _MOST_CHANGES:
        return None
    sizes = _levels(sizes)
    if sizes.size == 0 or np.ptp(sizes) == 0.0:
        return None
    at = labels if from_zero else labels - 1
    place = np.minimum(np.searchsorted(at, np.arange(total)), sizes.size - 1)  # a row tells of the updates before it
    return np.asarray(sizes[place])


def _levels(sizes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each size's level; empty where there are more than a hundred: it drifts to and fro."""
    levels = np.empty_like(sizes)
    start = 0
    for _ in range(_MOST_LEVELS):
        away = np.abs(np.log(sizes[start:] / sizes[start])) > np.log1p(_SAME_BATCH)
        end = start + int(np.argmax(away)) if away.any() else sizes.size
        levels[start:end] = np.median(sizes[start:end])
        if end == sizes.size:
            return levels
        start = end
    return levels[:0]

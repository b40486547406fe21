"""The one policy for dirty logs. Every row that is dropped is counted under its reason.

=======================  ===================================================================
row                      policy
=======================  ===================================================================
no norm (empty)          dropped by the reader, ``without a norm``: another metric's, or a skipped step
no step (empty)          dropped, ``without a step``
nan or infinite norm     dropped, ``non-finite`` (a loss-scale overflow, a skipped step); so are those above 1e300
1, sqrt(2), sqrt(3) ...  three or more of the very same in a row: dropped, ``overflow mark``: DeepSpeed writes
                         the root of the number of parameter groups where a norm was not finite
zero norm                dropped, ``zero`` (1/N would be infinite); so are those below 1e-300
negative norm            dropped, ``negative`` (-1 means "no step taken"); refused above 5 % and 5 rows
negative step            dropped, ``negative step``
same step twice          the last row in the file is kept, the others are ``superseded``; refused where
                         that is half of them (a step that starts anew every epoch or run)
step goes back           by two strides or more: a resumed run, whose later segment supersedes what the
                         earlier one logged in the same steps; by less: sorted
gap, larger stride       kept; the norms between two points are interpolated linearly after smoothing
fractional step          refused: steps count optimizer updates
same norm in a row       kept and counted (`Health`): DeepSpeed repeats the last norm at an overflow
many norms at the top    kept and reported (`clipping_plateau`): the norm was logged after clipping
=======================  ===================================================================
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from .errors import RefineError

__all__ = [
    "UNDONE",
    "Cleaned",
    "Plateau",
    "clean",
    "clipping_plateau",
    "last_of_each_step",
    "match",
    "ordered",
    "overflow_marks",
    "stride",
]

_SMALLEST, _LARGEST = 1e-300, 1e300
"""Norms between these can be interpolated, and divided by each other's median, within the floats."""

_LONG = 20
"""In a log of so many rows, exactly half of them superseded is no resumed run."""

UNDONE = "superseded by a resume"
"""Rows before the mark of a resume, of updates that were done again or given up."""

_MOST_RESUMES = 100
"""A step that goes back more often than this is disorder, not resumed runs: sorted."""


@dataclass(frozen=True, slots=True)
class Cleaned:
    """Usable points in step order, and the account of the rest.

    ``from_zero``: a row of step 0 was logged, so that labels count from 0. ``where``: reason to first and last
    step of the rows that were dropped for it.
    """

    steps: NDArray[np.int64]
    values: NDArray[np.float64]
    dropped: dict[str, int]
    out_of_order: int
    from_zero: bool
    where: dict[str, tuple[int, int]] = field(default_factory=dict)


def clean(steps: NDArray[np.float64], values: NDArray[np.float64]) -> Cleaned:
    """Apply the table above to raw steps and norms in file order, all shape (n,).

    Examples
    --------
    >>> cleaned = clean(np.array([1.0, 2.0, 3.0, 2.0, 3.0]), np.array([5.0, 4.0, 3.0, 2.0, 0.0]))
    >>> cleaned.steps.tolist(), cleaned.values.tolist(), cleaned.dropped, cleaned.out_of_order
    ([1, 2, 3], [5.0, 2.0, 3.0], {'zero': 1, 'superseded': 1}, 1)
    """
    if steps.shape != values.shape or steps.ndim != 1:
        raise RefineError(f"steps have shape {steps.shape} and norms {values.shape}; both must be (n,)")
    from_zero = bool(np.any(steps == 0))
    dropped: dict[str, int] = {}
    where: dict[str, tuple[int, int]] = {}
    left = np.ones(steps.size, dtype=bool)
    for reason, bad in (
        ("without a step", ~np.isfinite(steps)),
        ("negative step", steps < 0),
        ("non-finite", ~(np.abs(values) <= _LARGEST)),
        ("zero", np.abs(values) < _SMALLEST),
        ("negative", values < 0.0),
        ("overflow mark", overflow_marks(values)),
    ):
        bad &= left
        count = int(np.count_nonzero(bad))
        if count:
            dropped[reason] = count
            left &= ~bad
            if reason not in ("without a step", "negative step"):
                where[reason] = _span(steps[bad])
    negative = dropped.get("negative", 0)
    if negative > max(5, 0.05 * steps.size):
        raise RefineError(
            f"{negative} of {steps.size} norms are negative; a norm never is: choose another column with --column"
        )
    if dropped:
        steps, values = steps[left], values[left]
    del left
    whole, values, again, backwards = ordered(steps, values)
    if again.size:
        dropped["superseded"], where["superseded"] = again.size, _span(again)
    return Cleaned(whole, values, dropped, backwards, from_zero, where)


def ordered(
    steps: NDArray[np.float64], values: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64], int]:
    """Rows in step order, one a step; steps of those that others supersede; how often the step went back.

    Examples
    --------
    >>> [np.asarray(part).tolist() for part in ordered(np.array([1.0, 2.0, 3.0, 2.0]), np.array([5.0, 4.0, 3.0, 2.0]))]
    [[1, 2, 3], [5.0, 2.0, 3.0], [2], 1]
    """
    fractional = np.flatnonzero(steps != np.floor(steps))
    if fractional.size:
        raise RefineError(
            f"a step is {float(steps[fractional[0]])!r}; steps count optimizer updates, so they are integers: "
            "choose another step column"
        )
    if steps.size and steps.max() >= 2.0**53:
        raise RefineError(
            f"a step is {float(steps.max())!r}; steps count optimizer updates: choose another step column"
        )
    whole = steps.astype(np.int64)
    change = np.diff(whole)
    backwards = np.flatnonzero(change < 0) + 1
    again = whole[:0]
    if change.size and change.min() <= 0:
        kept = _of_later_segments(whole, backwards)
        logged, rows = whole, whole.size
        whole, values = whole[kept], values[kept]
        order = np.argsort(whole, kind="stable")
        whole, values = whole[order], values[order]
        last = np.append(whole[1:] != whole[:-1], True)
        superseded = rows - int(np.count_nonzero(last))
        if superseded:
            if 2 * superseded > rows - (rows >= _LONG):
                raise RefineError(
                    f"{superseded} of {rows} rows repeat a step of another row; a step column that "
                    "starts anew every epoch does not count updates: choose another, or say --every K"
                )
            again = np.concatenate([logged[~kept], whole[~last]])
            whole, values = whole[last], values[last]
    return whole, values, again, backwards.size


def _span(steps: NDArray[Any]) -> tuple[int, int]:
    """First and last of some steps; of those that are numbers in reach."""
    inside = steps[np.abs(steps) < 2.0**53]
    return (int(inside.min()), int(inside.max())) if inside.size else (0, 0)


def _of_later_segments(steps: NDArray[np.int64], backwards: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Rows that no resumed run, later in the file, has logged anew; shape (n,)."""
    kept = np.ones(steps.size, dtype=bool)
    forward = np.diff(steps)
    forward = forward[forward > 0]
    if not 0 < backwards.size <= _MOST_RESUMES or not forward.size:
        return kept
    usual = int(np.median(forward))
    ends = np.append(backwards[1:], steps.size)
    for start, end in zip(backwards, ends, strict=True):
        if steps[start - 1] - steps[start] >= 2 * usual:
            kept[:start] &= (steps[:start] < steps[start]) | (steps[:start] > steps[end - 1])
    return kept


def overflow_marks(values: NDArray[np.float64], *, least: int = 3, groups: int = 64) -> NDArray[np.bool_]:
    """Rows in which DeepSpeed's mark for a norm that was not finite stands; shape (n,).

    In bf16 the norm of each of k parameter groups becomes -1, and their total sqrt(k). Three or more equal
    irrational roots in a row are marks. Three or more equal integers (1, 2, 3 ...) could be a threshold of clipping
    or a made-up log: they are marks only if there are 20 other norms, all different from their neighbours, which
    are the greater part; and if it is no `clipping_plateau`.

    Examples
    --------
    >>> np.flatnonzero(overflow_marks(np.array([0.3, 0.2, 1.0, 1.0, 1.0, *np.linspace(0.1, 1.9, 30)])))
    array([2, 3, 4])
    """
    none = np.zeros(values.size, dtype=bool)
    same = values[1:] == values[:-1]
    if not np.any(same[1:] & same[:-1]):
        return none
    with np.errstate(invalid="ignore", over="ignore"):
        squares = np.rint(values**2)
        root = np.sqrt(squares)
        like_mark = (squares >= 1) & (squares <= groups) & (np.abs(values - root) <= 1e-7 * root)
    starts = np.flatnonzero(np.append(True, ~same))
    lengths = np.diff(np.append(starts, values.size))
    long = np.repeat(lengths >= least, lengths)
    marks: NDArray[np.bool_] = long & like_mark
    irrational: NDArray[np.bool_] = marks & (root != np.rint(root))
    measured = values[~marks & np.isfinite(values)]
    if np.any(long & ~like_mark) or not 0 < np.count_nonzero(marks) <= measured.size or measured.size < 20:
        return irrational
    if np.any(np.abs(np.diff(measured)) < 1e-6 * measured[1:]) or clipping_plateau(values[np.isfinite(values)]):
        return irrational
    return marks


@dataclass(frozen=True, slots=True)
class Plateau:
    """Where norms that were logged after clipping pile up: the value, and the share of the norms there."""

    value: float
    share: float


def clipping_plateau(values: NDArray[np.float64]) -> Plateau | None:
    """Look for a plateau at the top: norms within 0.1 % of a largest one that is round.

    Norms before clipping are spread at the top; those after clipping stop at the threshold, which people choose with
    at most two digits. It takes more than a fifth of the norms, or 5 % and 20 of them if the value below
    has less than a fifth of that. The norms below must differ from their neighbours, as measured ones do, unless
    there are hardly any.

    Examples
    --------
    >>> clipping_plateau(np.array([0.2, 1.0, 0.4, 1.0, 0.9999999] * 4))
    Plateau(value=1.0, share=0.6)
    >>> clipping_plateau(np.array([0.2, 1.0, 0.4, 1.7, 3.1] * 4))
    """
    if values.size < 10:
        return None
    top = float(values.max())
    at_top = values >= 0.999 * top
    count = int(np.count_nonzero(at_top))
    found = Plateau(float(f"{top:.1e}"), count / values.size)
    if found.share <= 0.05 or abs(top - found.value) > 1e-3 * top:
        return None
    below = values[~at_top]
    if below.size <= 0.02 * values.size:
        return found if values.size >= 20 else None
    next_value = below.max()
    stands_out = count >= 20 and count >= 5 * np.count_nonzero(below >= 0.999 * next_value)
    measured = below.size > 1 and np.mean(np.diff(below) == 0.0) <= 0.1
    return found if measured and (found.share > 0.2 or stands_out) else None


def stride(steps: NDArray[np.int64]) -> int:
    """Usual number of steps between two points: the (lower) median.

    Examples
    --------
    >>> stride(np.array([0, 10, 20, 40, 50]))
    10
    """
    between = np.diff(steps)
    return int(np.partition(between, (between.size - 1) // 2)[(between.size - 1) // 2])


def last_of_each_step(
    steps: NDArray[np.float64], values: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Another column by itself: the last finite value of every step, in step order.

    Examples
    --------
    >>> steps, values = last_of_each_step(np.array([1.0, 2.0, 1.0, 3.0]), np.array([0.5, 0.25, 0.75, np.nan]))
    >>> steps.tolist(), values.tolist()
    ([1, 2], [0.75, 0.25])
    """
    known = np.isfinite(values) & (steps >= 0) & (steps < 2.0**53)
    kept, at = np.unique(steps[known][::-1], return_index=True)
    return kept.astype(np.int64), values[known][::-1][at]


def match(
    steps: NDArray[np.float64], column: npt.ArrayLike | None, kept: NDArray[np.int64]
) -> NDArray[np.float64] | None:
    """Another column's values at the kept steps; nan where it has none, None where it has none at all.

    The last finite value of a step in file order wins, also when it stands in another row than the norm.

    Examples
    --------
    >>> match(np.array([1.0, 1.0, 2.0]), [np.nan, 0.5, np.nan], np.array([1, 2])).tolist()
    [0.5, nan]
    """
    if column is None:
        return None
    values = np.asarray(column, dtype=np.float64)
    if values.shape != steps.shape:
        raise RefineError(f"a column has shape {values.shape} and the steps {steps.shape}; both must be (n,)")
    known = np.isfinite(values) & np.isfinite(steps)
    if not known.any() or not kept.size:
        return None
    at, values = steps[known], values[known]
    if np.array_equal(at, kept):
        return values
    if np.any(np.diff(at) <= 0):
        order = np.argsort(at, kind="stable")
        at, values = at[order], values[order]
    where = np.searchsorted(at, kept, side="right") - 1
    found = np.where((where >= 0) & (at[where] == kept), values[where], np.nan)
    return found if np.isfinite(found).any() else None

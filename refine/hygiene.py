"""The one policy for dirty logs. Every row that is dropped is counted under its reason.

====================  =====================================================================
row                   policy
====================  =====================================================================
no norm (empty)       dropped, ``without a norm``: it belongs to another metric
no step (empty)       dropped, ``without a step``
nan or infinite norm  dropped, ``non-finite``
zero norm             dropped, ``zero`` (1/N would be infinite)
negative norm         dropped, ``negative`` (some loggers write -1 for "no step taken")
negative step         dropped, ``negative step``
same step twice       the last row in the file is kept, the others are ``superseded``: a resumed
                      run overwrites what it repeats; refused where that is more than half of them
steps out of order    sorted; how often the step went backwards is counted
gap, larger stride    kept; the norms between two points are interpolated linearly after smoothing
fractional step       refused: steps count optimizer updates
====================  =====================================================================
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from .errors import RefineError

__all__ = ["Cleaned", "clean", "match", "stride"]


@dataclass(frozen=True, slots=True)
class Cleaned:
    """Usable points in step order, and the account of the rest."""

    steps: NDArray[np.int64]
    values: NDArray[np.float64]
    dropped: dict[str, int]
    out_of_order: int


def clean(steps: NDArray[np.float64], values: NDArray[np.float64], empty: NDArray[np.bool_] | None = None) -> Cleaned:
    """Apply the table above to raw steps and norms in file order, all shape (n,).

    ``empty`` marks the rows that hold no norm at all, as opposed to a logged nan.

    Examples
    --------
    >>> cleaned = clean(np.array([1.0, 2.0, 3.0, 2.0, 3.0]), np.array([5.0, 4.0, 3.0, 2.0, 0.0]))
    >>> cleaned.steps.tolist(), cleaned.values.tolist(), cleaned.dropped, cleaned.out_of_order
    ([1, 2, 3], [5.0, 2.0, 3.0], {'zero': 1, 'superseded': 1}, 1)
    """
    if steps.shape != values.shape or steps.ndim != 1:
        raise RefineError(f"steps have shape {steps.shape} and norms {values.shape}; both must be (n,)")
    dropped: dict[str, int] = {}
    left = np.ones(steps.size, dtype=bool)
    for reason, bad in (
        ("without a norm", np.zeros_like(left) if empty is None else empty),
        ("without a step", ~np.isfinite(steps)),
        ("negative step", steps < 0),
        ("non-finite", ~np.isfinite(values)),
        ("zero", values == 0.0),
        ("negative", values < 0.0),
    ):
        count = int(np.count_nonzero(bad & left))
        if count:
            dropped[reason] = count
            left &= ~bad
    if dropped:
        steps, values = steps[left], values[left]
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
    out_of_order = int(np.count_nonzero(change < 0))
    if change.size and change.min() <= 0:
        order = np.argsort(whole, kind="stable")
        whole, values = whole[order], values[order]
        last = np.append(whole[1:] != whole[:-1], True)
        if not last.all():
            dropped["superseded"] = int(np.count_nonzero(~last))
            if 2 * dropped["superseded"] > last.size:
                raise RefineError(
                    f"{dropped['superseded']} of {last.size} rows repeat a step of another row; a step column that "
                    "starts anew every epoch does not count updates: choose another, or say --every K"
                )
            whole, values = whole[last], values[last]
    return Cleaned(whole, values, dropped, out_of_order)


def stride(steps: NDArray[np.int64]) -> int:
    """Usual number of steps between two points: the (lower) median.

    Examples
    --------
    >>> stride(np.array([0, 10, 20, 40, 50]))
    10
    """
    between = np.diff(steps)
    return int(np.partition(between, (between.size - 1) // 2)[(between.size - 1) // 2])


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
    if np.any(np.diff(at) <= 0):
        order = np.argsort(at, kind="stable")
        at, values = at[order], values[order]
    where = np.searchsorted(at, kept, side="right") - 1
    found = np.where((where >= 0) & (at[where] == kept), values[where], np.nan)
    return found if np.isfinite(found).any() else None

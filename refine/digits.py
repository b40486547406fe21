"""Multipliers as decimal text that reads back exactly, fast enough for millions.

Python formats a float64 in 0.3 us, 1e6 of them into two files in more time than all the rest of
``refine fit`` takes. Values on the grid k / 10^15 can be written digit by digit with numpy instead: k is
an integer below 2^53, k / 10^15 is correctly rounded, so its 15 decimals read back to the same float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["csv_rows", "json_rows", "on_grid"]

_GRID = 1e15
_CHUNK = 8_192
_FAST_FROM = 100_000


def on_grid(multiplier: NDArray[np.float64]) -> NDArray[np.float64]:
    """Round multipliers in [1e-5, 1] to 15 decimals; smaller ones keep all their digits.

    Examples
    --------
    >>> on_grid(np.array([2 / 3, 2e-9 / 3])).tolist()
    [0.666666666666667, 6.666666666666667e-10]
    """
    return np.where(multiplier < 1e-5, multiplier, np.rint(multiplier * _GRID) / _GRID)


def _integers(values: NDArray[np.float64]) -> NDArray[np.int64] | None:
    """Return k of values k / 10^15, or None where one of them is off that grid."""
    nearest = np.rint(values * _GRID)
    return nearest.astype(np.int64) if np.array_equal(values, nearest / _GRID) else None


def csv_rows(multiplier: NDArray[np.float64]) -> Iterator[str]:
    r"""Rows ``step,multiplier``, in pieces.

    Examples
    --------
    >>> "".join(csv_rows(np.array([1.0, 0.5])))
    '0,1.0\n1,0.5\n'
    """
    fast = multiplier.size >= _FAST_FROM
    start = 0
    while start < multiplier.size:
        width = len(str(start))
        stop = min(start + _CHUNK, 10**width, multiplier.size)
        values, steps = multiplier[start:stop], np.arange(start, stop)
        if fast and (integers := _integers(values)) is not None:
            yield _rows(_ascii(steps, width), b",", integers, b"\n")
        else:
            yield "".join([f"{t},{h!r}\n" for t, h in zip(steps.tolist(), values.tolist(), strict=True)])
        start = stop


def json_rows(multiplier: NDArray[np.float64]) -> Iterator[str]:
    r"""Items of a JSON list, a line each, in pieces.

    Examples
    --------
    >>> "".join(json_rows(np.array([1.0, 0.5])))
    '1.0,\n0.5'
    """
    fast = multiplier.size >= _FAST_FROM
    for start in range(0, multiplier.size, _CHUNK):
        values = multiplier[start : start + _CHUNK]
        if fast and (integers := _integers(values)) is not None:
            rows = _rows(np.empty((values.size, 0), np.uint8), b"", integers, b",\n").removesuffix(",\n")
        else:
            rows = ",\n".join(map(repr, values.tolist()))
        yield rows if start == 0 else ",\n" + rows


def _rows(lead: NDArray[np.uint8], separator: bytes, integers: NDArray[np.int64], end: bytes) -> str:
    """``lead + separator + d.ddddddddddddddd + end`` for every k / 10^15."""
    digits = _ascii(integers, 16)
    rows = np.empty((integers.size, lead.shape[1] + len(separator) + 17 + len(end)), np.uint8)
    column = 0
    for part in (lead, separator, digits[:, :1], b".", digits[:, 1:], end):
        block = np.frombuffer(part, np.uint8) if isinstance(part, bytes) else part
        rows[:, column : column + block.shape[-1]] = block
        column += block.shape[-1]
    return rows.tobytes().decode("ascii")


def _ascii(integers: NDArray[np.int64], width: int) -> NDArray[np.uint8]:
    """Decimal digits of integers >= 0 as ASCII, shape (n, width), padded with zeros."""
    groups = np.empty((integers.size, -(-width // 4)), np.uint32)
    for column in range(groups.shape[1] - 1, -1, -1):
        rest = integers // 10_000  # six times as fast as divmod
        groups[:, column] = _four_digits()[integers - rest * 10_000]
        integers = rest
    return groups.view(np.uint8)[:, -width:]


@cache
def _four_digits() -> NDArray[np.uint32]:
    """The four ASCII digits of 0 .. 9999, packed into one integer each."""
    digits = np.arange(10_000)[:, None] // np.array([1_000, 100, 10, 1]) % 10 + ord("0")
    return np.ascontiguousarray(digits, dtype=np.uint8).view(np.uint32)[:, 0]

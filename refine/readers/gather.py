"""Collecting what a reader reads: columns that grow chunk by chunk, sparse rows, and text as numbers."""

from __future__ import annotations

import re
from array import array
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import RefineError
from .base import Column, Facts, ReadOptions, Records
from .columns import RUN_NAMES
from .opening import MAX_COLUMNS

__all__ = ["Growing", "Names", "Rows", "check_width", "number"]


class Growing:
    """A column that grows chunk by chunk, in place: a list of chunks would need twice the memory.

    Examples
    --------
    >>> growing = Growing()
    >>> growing.add(np.array([1.0, 2.0]), np.array([True, True]))
    >>> growing.add(np.array([3.0, 0.0]), np.array([True, False]))
    >>> column = growing.column("grad_norm")
    >>> column.values.tolist(), column.rows.tolist()
    ([1.0, 2.0, 3.0], [0, 1, 2])
    """

    def __init__(self) -> None:
        self._values: array[float] = array("d")
        self._rows: array[int] | None = None
        self._count = 0

    def add(self, values: NDArray[np.float64], present: NDArray[np.bool_]) -> None:
        """Add a chunk of rows; ``present`` marks those that hold a value. Both (k,)."""
        whole = bool(present.all())
        if self._rows is None and not whole:  # until now every row held one
            self._rows = array("q", np.arange(self._count, dtype=np.int64).tobytes())
        if self._rows is not None:
            self._rows.frombytes((self._count + np.flatnonzero(present)).astype(np.int64).tobytes())
        self._values.frombytes((values if whole else values[present]).astype(np.float64, copy=False).tobytes())
        self._count += present.size

    def column(self, name: str, bad: tuple[int, str] | None = None) -> Column:
        """Everything that was added."""
        rows = None if self._rows is None else np.frombuffer(self._rows, dtype=np.int64)
        return Column(name, np.frombuffer(self._values, dtype=np.float64), rows, bad=bad)


def check_width(columns: int) -> None:
    """Refuse a log with more columns than a run has metrics."""
    if columns > MAX_COLUMNS:
        raise RefineError(f"the log has more than {MAX_COLUMNS:,} columns; name one with fewer")


class Names(dict[str, bool]):
    """Which names may matter, each asked for once; kept for messages.

    Examples
    --------
    >>> names = Names(ReadOptions())
    >>> names["grad_norm"], names["text"], list(names)
    (True, False, ['grad_norm', 'text'])
    """

    def __init__(self, options: ReadOptions) -> None:
        super().__init__()
        self.options = options

    def __missing__(self, name: str) -> bool:
        wanted = self[name] = self.options.wants(name)
        check_width(len(self))
        return wanted


class Rows:
    """Collects rows of names and values into sparse columns; keeps what may matter.

    Examples
    --------
    >>> rows = Rows(ReadOptions())
    >>> rows.add({"step": 1, "grad_norm": "0.5"})
    >>> rows.add({"global_step/max_steps": "2/400", "train": {"grad_norm": float("nan")}, "text": "x"})
    >>> [(c.name, c.values.tolist()) for c in rows.columns()]
    [('step', [1.0]), ('grad_norm', [0.5]), ('global_step/max_steps', [2.0]), ('train/grad_norm', [nan])]
    >>> rows.planned_steps, rows.count
    (400, 2)
    """

    def __init__(self, options: ReadOptions) -> None:
        self.options = options
        self.count = 0
        self.planned_steps: int | None = None
        self.names = Names(options)
        self._values: dict[str, array[float]] = {}
        self._rows: dict[str, array[int]] = {}
        self._bad: dict[str, tuple[int, str]] = {}
        self._run_names: dict[str, int] = {}
        self._run_codes: array[int] = array("q")

    def add(self, row: Mapping[str, Any]) -> None:
        """Add one row; nested mappings become names with slashes."""
        self._add(row, "", 0)
        if len(self._run_codes) <= self.count:
            self._run_codes.append(self._run_names.setdefault("", len(self._run_names)))
        self.count += 1

    def _add(self, row: Mapping[str, Any], prefix: str, depth: int) -> None:
        for key, value in row.items():
            name = f"{prefix}{key}" if prefix else str(key)
            if isinstance(value, Mapping):
                if depth < 5:
                    self._add(value, f"{name}/", depth + 1)
                continue
            if self.names[name] and name not in RUN_NAMES:
                self._append(name, value)
            elif name in RUN_NAMES and isinstance(value, str) and len(self._run_codes) == self.count:
                self._run_codes.append(self._run_names.setdefault(value, len(self._run_names)))

    def _append(self, name: str, value: Any) -> None:
        if type(value) is not float:
            if value is None or isinstance(value, (bool, list, tuple)):
                return
            if isinstance(value, str) and "/" in value and (match := _OF_TOTAL.fullmatch(value)):
                value, self.planned_steps = match[1], int(match[2])
            got = number(value)
            if got is None:
                if isinstance(value, str) and not value.strip():
                    return
                self._bad.setdefault(name, (self.count + 1, str(value)))
                got = float("nan")
            value = got
        if name not in self._values:
            self._values[name], self._rows[name] = array("d"), array("q")
        self._values[name].append(value)
        self._rows[name].append(self.count)

    def columns(self) -> list[Column]:
        """What was collected, in order of first appearance."""
        return [
            Column(
                name,
                np.array(values, dtype=np.float64),
                None if len(values) == self.count else np.array(self._rows[name], dtype=np.int64),
                bad=self._bad.get(name),
            )
            for name, values in self._values.items()
        ]

    def records(self, format: str, facts: Facts | None = None, **more: Any) -> Records:
        """Everything collected, as records."""
        runs = None
        if len(self._run_names.keys() - {""}) > 1:
            runs = (list(self._run_names), np.array(self._run_codes, dtype=np.int64))
        return Records(
            format,
            self.columns(),
            self.count,
            names=list(self.names),
            facts=facts or Facts(),
            planned_steps=self.planned_steps,
            runs=runs,
            **more,
        )


_OF_TOTAL = re.compile(r"\s*(\d{1,15})\s*/\s*(\d{1,15})\s*")
_UNITS = {"K": 1e3, "M": 1e6, "B": 1e9, "G": 1e9, "T": 1e12}
_WITH_UNIT = re.compile(r"([-+]?[\d.]+(?:e[-+]?\d+)?)\s?([KMBGT])", re.IGNORECASE)
_THOUSANDS = re.compile(r"[-+]?\d{1,3}(?:,\d{3})+(?:\.\d*)?")


def number(value: Any) -> float | None:
    """A logged value as a number; None where it is none.

    Examples
    --------
    >>> [number(v) for v in (2, "0.5", "Infinity", "1,234", "4.1K", "x", "")]
    [2.0, 0.5, inf, 1234.0, 4100.0, None, None]
    """
    if isinstance(value, str) and ("_" in value or len(value) > 400):
        return None  # float() takes 1_000
    try:
        return float(value)
    except OverflowError:
        return float("inf")
    except (TypeError, ValueError):
        pass
    if not isinstance(value, str) or len(value) > 40:
        return None
    value = value.strip()
    if _THOUSANDS.fullmatch(value):
        return float(value.replace(",", ""))
    if match := _WITH_UNIT.fullmatch(value):
        try:
            return float(match[1]) * _UNITS[match[2].upper()]
        except ValueError:
            return None
    return None

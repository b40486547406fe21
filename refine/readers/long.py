"""Logs in long form: one value a row, with the name of its metric and its step; Comet, Neptune, MLflow exports."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from .base import Column, Facts, ReadOptions, Records, choose_run
from .gather import Names, number

__all__ = ["LongTable", "Series", "coded", "long_columns", "numbers"]

_METRIC = ("metric", "name", "key", "tag", "metricname", "metric_name", "attribute_path")
_STEP = ("step",)
_VALUE = ("value", "float_value", "metricvalue", "metric_value")
_RUN = ("run_id", "run", "run_name", "run_uuid")


def long_columns(names: Sequence[str]) -> tuple[int, int, int, int | None] | None:
    """Positions of metric, step, value and run in a long table; None where a table is none.

    Examples
    --------
    >>> long_columns(["run_id", "attribute_path", "step", "float_value"]), long_columns(["step", "loss"])
    ((1, 2, 3, 0), None)
    """
    lower = [name.lower() for name in names]

    def place(known: Sequence[str]) -> int | None:
        return next((lower.index(name) for name in known if name in lower), None)

    metric, step, value = place(_METRIC), place(_STEP), place(_VALUE)
    if metric is None or step is None or value is None:
        return None
    return metric, step, value, place(_RUN)


class Series:
    """Steps and values of many metrics, collected one by one."""

    def __init__(self, options: ReadOptions) -> None:
        self.options = options
        self.names = Names(options)
        self._steps: dict[str, array[float]] = {}
        self._values: dict[str, array[float]] = {}

    def wants(self, name: str) -> bool:
        """Whether a metric is worth adding; remembers its name for messages."""
        return self.names[name]

    def add(self, name: str, step: float, value: float) -> None:
        """Add one value of a metric that is wanted."""
        if name not in self._steps:
            self._steps[name], self._values[name] = array("d"), array("d")
        self._steps[name].append(step)
        self._values[name].append(value)

    def extend(self, name: str, steps: NDArray[np.float64], values: NDArray[np.float64]) -> None:
        """Add many values of a metric that is wanted."""
        if name not in self._steps:
            self._steps[name], self._values[name] = array("d"), array("d")
        self._steps[name].frombytes(np.ascontiguousarray(steps, dtype=np.float64).tobytes())
        self._values[name].frombytes(np.ascontiguousarray(values, dtype=np.float64).tobytes())

    def purge(self, step: float) -> int:
        """Drop what was logged at a step or later; returns how many rows that were, of the metric with most."""
        count = 0
        for name, steps in self._steps.items():
            kept = np.frombuffer(steps, dtype=np.float64) < step
            count = max(count, int(np.count_nonzero(~kept)))
            values = np.frombuffer(self._values[name], dtype=np.float64)
            self._steps[name], self._values[name] = array("d", np.frombuffer(steps)[kept]), array("d", values[kept])
        return count

    def columns(self) -> list[Column]:
        """Columns of everything that was added."""
        return [
            Column(name, np.array(self._values[name], dtype=np.float64), steps=np.array(steps, dtype=np.float64))
            for name, steps in self._steps.items()
        ]

    def records(self, format: str, facts: Facts | None = None, **more: Any) -> Records:
        """Everything that was added, as records."""
        columns = self.columns()
        rows = sum(column.values.size for column in columns)
        return Records(format, columns, rows, names=list(self.names), facts=facts or Facts(), **more)


def coded(cells: Any) -> tuple[NDArray[np.int64], list[str]]:
    """Cells of a pandas column by the number of their text, and the texts; that of an empty cell is "".

    Examples
    --------
    >>> codes, texts = coded(pd.Series(["a", None, "b", "a"]))
    >>> codes.tolist(), texts
    ([0, 2, 1, 0], ['a', 'b', ''])
    """
    codes, found = pd.factorize(cells.map(str, na_action="ignore"))
    empty = codes < 0
    texts = [*map(str, found), *([""] if empty.any() else [])]
    return np.where(empty, len(found), codes).astype(np.int64), texts


def numbers(cells: Any) -> NDArray[np.float64]:
    """Cells of a pandas column as numbers; nan where one is none: a date, a truth value, a complex number, a word.

    Examples
    --------
    >>> numbers(pd.Series(["1.5", None, "x", 2])).tolist(), numbers(pd.Series([True, False])).tolist()
    ([1.5, nan, nan, 2.0], [nan, nan])
    """
    if cells.dtype.kind == "O" and cells.dtype != object:
        cells = cells.astype(object)  # of categories, of periods: of what is in them
    if cells.dtype.kind not in "iufO":
        return np.full(len(cells), np.nan)
    try:
        found = pd.to_numeric(cells, errors="coerce")
    except (OverflowError, TypeError):  # of an integer that no float can hold, of a cell that is a list
        return np.array([number(cell) for cell in cells], dtype=np.float64)
    if found.dtype.kind not in "iuf":
        return np.full(len(cells), np.nan)
    return found.to_numpy(dtype=np.float64, na_value=np.nan)  # type: ignore[no-any-return]


class LongTable:
    """Collects chunks of a long table."""

    def __init__(self, options: ReadOptions) -> None:
        self.options = options
        self.runs: dict[str, Series] = {}

    def add(self, metric: Any, step: Any, value: Any, run: Any = None) -> None:
        """Add a chunk: four columns of one length, the run where there is one."""
        steps, values = numbers(step), numbers(value)
        metrics, names = coded(metric)
        labels, runs = (np.zeros_like(metrics), [""]) if run is None else coded(run)
        places = labels * len(names) + metrics
        order = np.argsort(places, kind="stable")
        for rows in np.split(order, np.flatnonzero(np.diff(places[order])) + 1) if order.size else ():
            name = names[metrics[rows[0]]]
            series = self.runs.setdefault(runs[labels[rows[0]]], Series(self.options))
            if series.wants(name):
                series.extend(name, steps[rows], values[rows])

    def records(self, format: str, names: Sequence[str]) -> Records:
        """The run that is asked for."""
        useful: Mapping[str, Series] = {label: s for label, s in self.runs.items() if s.columns()} or self.runs
        if not useful:
            return Records(format, [], 0, names=names)
        run = choose_run(useful, self.options.run if len(self.runs) > 1 else None)
        return useful[run].records(format, run=run if len(self.runs) > 1 else None)

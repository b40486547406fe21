"""Tables in memory: a pandas DataFrame, or a Series of norms; columns are found by name, as in a file."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..errors import RefineError
from ..files import printable
from ..norms import GradientNorms
from .base import Column, ReadOptions, Records
from .choose import choose
from .columns import RUN_NAMES, find
from .long import LongTable, coded, long_columns, numbers

__all__ = ["read_frame", "records_of"]

Options = TypeVar("Options", bound=ReadOptions)

_NORM, _INDEX = "grad_norm", "index"


def read_frame(table: pd.DataFrame | pd.Series[Any], options: ReadOptions) -> GradientNorms:
    """Norms of a table, or of a Series.

    A named index of a table is a column like the others; one without a name, but for the default one, holds the steps
    where no column does. A Series' own holds the steps; with the default one it has a norm an update.

    Raises
    ------
    RefineError
        As of a file: no norm is found, several runs, steps that are no numbers.
    """
    if isinstance(table, pd.Series):
        _check(table, "the norms of a run")
        records, options = _of_series(table, options)
    else:
        records, options = records_of(table, options)
    kind = type(table).__name__
    return choose(replace(records, format=kind), options, name=kind, companions={})


def records_of(table: pd.DataFrame, options: Options, what: str = "the norms of a run") -> tuple[Records, Options]:
    """Columns of a table, and the options with the names in them as texts."""
    _check(table, what)
    kind = type(table).__name__
    if table.columns.nlevels > 1:
        raise RefineError(
            f"the {kind} has columns of {table.columns.nlevels} levels; give them one name each: "
            'table.columns = table.columns.map("/".join)'
        )
    named = {name: getattr(options, name, None) for name in ("column", "step_column", "lr_column", "loss_column")}
    texts: dict[str, Any] = {name: str(value) for name, value in named.items() if value is not None}
    options = replace(options, **texts)
    titles = [str(label) for label in table.columns]
    columns = list(zip(titles, (table.iloc[:, i] for i in range(len(titles))), strict=True))
    label = None if table.index.name is None else str(table.index.name)
    if label is None and not _is_default(table.index) and options.step_column is None and not find("step", titles):
        label = _free(titles)
        options = replace(options, step_column=label)
    if label is not None:
        columns.append((label, pd.Series(table.index)))
    return _records(columns, len(table), options), options


def _check(table: pd.DataFrame | pd.Series[Any], what: str) -> None:
    kind = type(table).__name__
    if table.index.nlevels > 1:
        raise RefineError(
            f"the {kind} has an index of {table.index.nlevels} levels; make it one of steps: reset_index()"
        )
    if table.size == 0:
        raise RefineError(f"the {kind} is empty; it must hold {what}, a row a logged update")


def _of_series(norms: pd.Series[Any], options: ReadOptions) -> tuple[Records, ReadOptions]:
    """Its values are the norms, whatever its name says."""
    name = str(_NORM if norms.name is None else norms.name)
    options = replace(options, column=options.column or name)
    columns = [(name, norms)]
    if not _is_default(norms.index):
        label = str(norms.index.name or _INDEX)
        label = _free([name]) if label == name else label
        columns.append((label, pd.Series(norms.index)))
        options = replace(options, step_column=options.step_column or label)
    elif options.every is None:
        options = replace(options, every=1)
    return Records("", [_column(*each) for each in columns], len(norms), [each for each, _ in columns]), options


def _records(columns: list[tuple[str, pd.Series[Any]]], rows: int, options: ReadOptions) -> Records:
    """The columns that may matter; the first that names runs, as in a file."""
    titles = [title for title, _ in columns]
    if place := long_columns(titles):
        long = LongTable(options)
        long.add(*(None if i is None else columns[i][1].reset_index(drop=True) for i in place))
        return long.records("", titles)
    kept: dict[str, Column] = {}
    runs = None
    for title, values in columns:
        if title in RUN_NAMES and title not in (options.column, options.step_column, options.lr_column):
            if runs is None:
                codes, names = coded(values)
                runs = (names, codes)
        elif options.wants(title):
            column = _column(title, values)
            if not column.values.size and title not in (options.column, options.step_column, options.lr_column):
                continue  # empty: it may hide one that is not
            if title in kept and not _equal(kept[title], column):
                raise RefineError(f'two columns are called "{printable(title)}" and differ; leave one')
            kept[title] = column
    return Records("", list(kept.values()), rows, titles, runs=runs if runs and len(runs[0]) > 1 else None)


def _column(title: str, values: pd.Series[Any]) -> Column:
    """Numbers of a column; a missing value is no value, as an empty cell of a file is none."""
    found, known = numbers(values), values.notna().to_numpy(dtype=bool)
    odd = np.flatnonzero(np.isnan(found) & known)
    bad = (int(odd[0]) + 1, str(values.iloc[odd[0]])) if odd.size else None
    rows = None if known.all() else np.flatnonzero(known)
    return Column(title, found if rows is None else found[rows], rows, bad=bad)


def _equal(one: Column, other: Column) -> bool:
    same: NDArray[np.bool_] | bool = np.array_equal(one.places, other.places)
    return bool(same) and one.bad == other.bad and np.array_equal(one.values, other.values, equal_nan=True)


def _free(titles: list[str]) -> str:
    """Name of an index that has none, or one that is taken."""
    name = _INDEX
    while name in titles:
        name += "_"
    return name


def _is_default(index: pd.Index[Any]) -> bool:
    plain = index.name is None and index.dtype.kind in "iu"
    return plain and bool(np.array_equal(index.to_numpy(), np.arange(len(index))))

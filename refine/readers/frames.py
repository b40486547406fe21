"""Tables in memory: a pandas DataFrame, or a Series of norms; columns are found by name, as in a file."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from ..errors import RefineError
from ..norms import GradientNorms
from .base import Column, ReadOptions, Records
from .choose import choose
from .columns import RUN_NAMES
from .long import coded

__all__ = ["read_frame"]

_NORM, _STEP = "grad_norm", "step"


def read_frame(table: pd.DataFrame | pd.Series[Any], options: ReadOptions) -> GradientNorms:
    """Norms of a table; an index other than the default one, and a Series' own, holds the steps.

    A Series with the default index has a norm an update.

    Raises
    ------
    RefineError
        As of a file: no norm is found, several runs, steps that are no numbers.
    """
    name = type(table).__name__
    if isinstance(table, pd.Series):
        column = str(_NORM if table.name is None else table.name)
        options = replace(options, column=options.column or column)
        table = table.to_frame(column)
        if _is_default(table.index) and options.every is None:
            options = replace(options, every=1)
    if not _is_default(table.index):
        if table.index.nlevels > 1:
            raise RefineError(
                f"{name}: its index has {table.index.nlevels} levels; make it one of steps: reset_index()"
            )
        label = str(table.index.name or _STEP)
        if label not in map(str, table.columns):
            table = table.reset_index(names=label)
            options = replace(options, step_column=options.step_column or label)
    return choose(_records(table, name, options), options, name=name, companions={})


def _records(table: pd.DataFrame, name: str, options: ReadOptions) -> Records:
    """The columns that may matter; a missing value is no value, as an empty cell of a file is none."""
    columns, runs = [], None
    for label, values in table.items():
        title = str(label)
        if title in RUN_NAMES:
            codes, names = coded(values)
            runs = (names, codes) if len(names) > 1 else None
        elif options.wants(title):
            numbers = pd.to_numeric(values, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
            known = values.notna().to_numpy()
            odd = np.flatnonzero(np.isnan(numbers) & known)
            bad = (int(odd[0]) + 1, str(values.iloc[odd[0]])) if odd.size else None
            rows = None if known.all() else np.flatnonzero(known)
            columns.append(Column(title, numbers if rows is None else numbers[rows], rows, bad=bad))
    return Records(name, columns, len(table), [str(label) for label in table.columns], runs=runs)


def _is_default(index: pd.Index[Any]) -> bool:
    return isinstance(index, pd.RangeIndex) and index.start == 0 and index.step == 1 and index.name is None

"""What `refine.fit` takes as a log: files, tables, arrays."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy.typing as npt

from .errors import RefineError
from .norms import GradientNorms
from .refinement import OptimizerFamily

if TYPE_CHECKING:
    import pandas as pd

    from .readers import ReadOptions

__all__ = ["LogLike", "as_norms", "pooled"]

Paths: TypeAlias = "str | os.PathLike[str] | Sequence[str | os.PathLike[str]]"
LogLike: TypeAlias = "Paths | pd.DataFrame | pd.Series[Any] | npt.ArrayLike | GradientNorms"

_OF_ARRAYS = {"every", "logged_steps", "norm_kind"}


def as_norms(
    log: LogLike, *, optimizer: OptimizerFamily | None = None, smoothing: float = 0.1, **read: Any
) -> tuple[GradientNorms, float]:
    """Norms of whatever the caller has, and how much they are still to be smoothed: pooled ones are smooth.

    Parameters
    ----------
    log : path, sequence of paths, DataFrame, Series, array_like or GradientNorms
        Of a table the columns are found by name, as in a file; an index with a name is a column, too, and one without,
        other than the default one, holds the steps where no column does. The values of a Series are the norms, its
        index the steps; with the default index it has a norm an update.
    optimizer, smoothing
        As in `refine.fit`.
    **read
        Of `refine.read_norms`; for arrays ``every``, ``logged_steps`` and ``norm_kind``.

    Examples
    --------
    >>> norms, _ = as_norms([3.0, 2.0, 1.0], every=10)
    >>> norms.steps.tolist()
    [10, 20, 30]
    """
    read = {name: value for name, value in read.items() if value is not None}
    if isinstance(log, GradientNorms):
        if read:
            raise RefineError(f"{next(iter(read))} says how to read a log, and these norms are read; leave it out")
        return log, smoothing
    if (paths := _paths(log)) is None and not _is_table(log):
        if other := sorted(read.keys() - _OF_ARRAYS):
            raise RefineError(
                f"{other[0]} is no parameter of fit for an array; leave it out, or use {', '.join(sorted(_OF_ARRAYS))}"
            )
        kind = read.pop("norm_kind", "l2")
        return GradientNorms.from_values(log, kind=kind, **read), smoothing  # type: ignore[arg-type]
    from .readers import ReadOptions

    if unknown := sorted(read.keys() - {field.name for field in fields(ReadOptions)}):
        raise RefineError(f"{unknown[0]} is no parameter of fit nor of read_norms; help(refine.fit) lists them")
    options = ReadOptions(optimizer=optimizer, **read)
    if paths is None:
        from .readers.frames import read_frame

        return read_frame(cast(Any, log), options), smoothing
    return pooled(paths, options, smoothing)


def pooled(
    paths: Sequence[str], options: ReadOptions, smoothing: float, progress: Any = None
) -> tuple[GradientNorms, float]:
    """Norms of one log, or the pooled ones of several (`refine.pool`), and how much they are still to be smoothed."""
    from .readers import read_logs

    norms = read_logs(paths, options, progress)
    if len(norms) == 1:
        return norms[0], smoothing
    from .pool import pool

    return pool(norms, smoothing=smoothing), 0.0


def _paths(log: Any) -> list[str] | None:
    """The paths that are meant, or None where it is none."""
    if isinstance(log, (str, os.PathLike)):
        return [os.fspath(log)]
    if isinstance(log, (list, tuple)) and log and all(isinstance(item, (str, os.PathLike)) for item in log):
        return [os.fspath(item) for item in log]
    return None


def _is_table(log: Any) -> bool:
    pandas = sys.modules.get("pandas")  # who has a table has imported it
    return pandas is not None and isinstance(log, (pandas.DataFrame, pandas.Series))

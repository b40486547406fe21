"""From a file that people have to `GradientNorms`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import get_args

from ..errors import RefineError
from ..files import printable
from ..norms import GradientNorms, NormKind
from ..refinement import OptimizerFamily
from .table import read_table

__all__ = ["read_norms"]


def read_norms(
    path: str | os.PathLike[str],
    *,
    column: str | None = None,
    step_column: str | None = None,
    lr_column: str | None = None,
    norm_kind: NormKind | None = None,
    optimizer: OptimizerFamily | None = None,
    every: int | None = None,
    logged_steps: int | None = None,
) -> GradientNorms:
    """Read the gradient norms of a finished run.

    Reads CSV and TSV: plain (``step,grad_norm``), with more columns, without a header, and W&B chart
    exports. Columns are found by name (`refine.readers.columns`); dirty rows are handled by
    `refine.hygiene` and counted.

    Parameters
    ----------
    path : path-like
        The log.
    column, step_column, lr_column : str, optional
        Names of the norm, step and learning-rate columns, where they cannot be found or there are
        several; in a file without a header their number, from 1.
    norm_kind : {"l2", "l1", "dual"}, optional
        Which norm the column holds, or which to take where the log holds several.
    optimizer : {"sgd", "adam"}, optional
        Decides between an l2 and an l1 column (SGD wants l2, the Adam family l1).
    every : int, optional
        Updates between two rows of a log without a step column.
    logged_steps : int, optional
        Updates of the whole logged run where the log stops early.

    Raises
    ------
    RefineError
        Nothing that could be read without guessing; the message names the remedy.
    """
    if norm_kind is not None and norm_kind not in get_args(NormKind):
        raise RefineError(f"norm_kind is {norm_kind!r}; it must be one of l2, l1, dual")
    if optimizer is not None and optimizer not in get_args(OptimizerFamily):
        raise RefineError(f"optimizer is {optimizer!r}; it must be one of sgd, adam")
    path = Path(path)
    name = printable(path)
    try:
        if path.is_dir():
            raise RefineError(f"{name} is a directory; name the log file in it")
        if not path.is_file():
            raise RefineError(
                f"{name} {'is not a regular file' if path.exists() else 'does not exist'}; check the path"
            )
        return read_table(
            path,
            column=column,
            step_column=step_column,
            lr_column=lr_column,
            norm_kind=norm_kind,
            optimizer=optimizer,
            every=every,
            logged_steps=logged_steps,
        )
    except (OSError, ValueError) as error:  # RefineError is a ValueError
        text = str(error)
        if isinstance(error, RefineError):
            raise RefineError(text if text.startswith(name) else f"{name}: {text}") from None
        raise RefineError(f"cannot read {name}: {printable(getattr(error, 'strerror', None) or text)}") from None

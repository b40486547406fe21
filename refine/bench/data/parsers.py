"""From files to arrays: tables of numbers and words, idx images, texts."""

from __future__ import annotations

import gzip
import importlib
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...errors import RefineError
from .sources import AbsentDataError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Images", "Table", "optional", "read_arff", "read_idx", "read_keel", "read_rda", "read_texts", "table"]


@dataclass(frozen=True, slots=True)
class Table:
    """A classification problem.

    Attributes
    ----------
    x : (n, d) ndarray of float64
        As measured, not standardised.
    y : (n,) ndarray of int64
        Classes 0..k-1.
    classes : int
        k.
    """

    x: NDArray[np.float64]
    y: NDArray[np.int64]
    classes: int


class Images(NamedTuple):
    """Grey images, uint8 of shape (n, 28, 28), and their classes, int64 of shape (n,)."""

    train: NDArray[np.uint8]
    train_labels: NDArray[np.int64]
    test: NDArray[np.uint8]
    test_labels: NDArray[np.int64]


def table(frame: pd.DataFrame, label: str | int) -> Table:
    """Numbers of a data frame, column ``label`` the class.

    Rows with a missing value are dropped. A column whose values all are numbers, or words for numbers, is numeric;
    any other becomes one 0/1 column a level, in order of the levels, none left out. Constant columns are dropped.
    Classes count from 0 in order of their labels, numbers by value.
    """
    frame = frame.dropna()
    y = np.unique(_values(frame[label]), return_inverse=True)[1].astype(np.int64)
    columns: list[NDArray[np.float64]] = []
    for name in frame.columns:
        if name != label:
            values = _values(frame[name])
            columns += [values] if values.dtype == np.float64 else [values == level for level in np.unique(values)]
    x = np.column_stack([c.astype(np.float64) for c in columns if (c != c[0]).any()])
    return Table(x, y, int(y.max()) + 1)


def _values(column: pd.Series[Any]) -> NDArray[Any]:
    """Float64 where all values are numbers, else words."""
    if column.dtype.kind in "biuf":
        return column.to_numpy(np.float64)
    words = np.array([str(value).strip() for value in column])
    try:
        return words.astype(np.float64)
    except ValueError:
        return words


def read_rda(path: Path) -> pd.DataFrame:
    """The only data frame of an R data file."""
    frames: dict[str, pd.DataFrame] = optional("pyreadr", "pyreadr").read_r(path)
    if len(frames) != 1:
        raise RefineError(f"{path}: holds {len(frames)} data frames, expected one; it is another release of the data")
    return next(iter(frames.values()))


def read_keel(path: Path) -> pd.DataFrame:
    """Rows of a KEEL ``.dat`` file, as words in numbered columns: by commas, lines of ``@`` left out, ``?`` missing."""
    import pandas as pd

    return pd.read_csv(path, header=None, comment="@", skipinitialspace=True, na_values=["?", "<null>"], dtype=str)


def read_arff(paths: Iterable[Path]) -> pd.DataFrame:
    """Rows of ARFF files with one header, joined in their order; no dates, no strings."""
    import pandas as pd
    from scipy.io import arff

    frame = pd.concat([pd.DataFrame(arff.loadarff(str(path))[0]) for path in paths], ignore_index=True)
    for name in frame.columns:
        if frame[name].dtype.kind == "O":
            frame[name] = frame[name].map(lambda word: None if word == b"?" else word.decode())
    return frame


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Array of a gzipped idx file of bytes: two zeros, type 8, the number of axes, their lengths, the values.

    Notes
    -----
    The format is that of MNIST, http://yann.lecun.com/exdb/mnist/.
    """
    raw = gzip.decompress(path.read_bytes())
    axes = raw[3] if raw[:3] == b"\0\0\x08" else 0
    shape = struct.unpack_from(f">{axes}I", raw, 4) if len(raw) >= 4 + 4 * axes else ()
    values = np.frombuffer(raw, np.uint8)[4 + 4 * axes :]
    if not axes or values.size != np.prod(shape):
        raise RefineError(f"{path}: not an idx file of bytes with {values.size} values; delete it to fetch it again")
    return values.reshape(shape)


def read_texts(paths: Iterable[Path]) -> bytes:
    """Files joined in order of their paths."""
    return b"".join(path.read_bytes() for path in sorted(paths, key=Path.as_posix))


def optional(module: str, package: str) -> Any:
    """A module that refine does without until it is needed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise AbsentDataError(f"{module.split('.')[0]} is not installed; pip install '{package}'") from None

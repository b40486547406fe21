"""Arrays of numpy: ``.npy`` with one array, ``.npz`` with named ones.

Whose norms they are, they do not say. An ``.npz`` is a table whose columns are its arrays, by their names; so is a
structured array. A plain array of shape (n,) holds norms without steps, one of shape (n, 2) steps and norms. Arrays of
Python objects are pickles and are refused, like all that is no number.
"""

from __future__ import annotations

import zipfile
from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import RefineError
from ..files import printable
from .base import Column, Format, ReadOptions, Records
from .opening import MAX_RATIO, MAX_UNPACKED, SMALL, Log
from .runs import is_norm

__all__ = ["NPY", "NPZ", "check_unpacked"]

_WIDEST = 64


def check_unpacked(unpacked: int, packed: int) -> None:
    """Refuse what unpacks to more than any log does, before it is unpacked; both in bytes.

    Examples
    --------
    >>> check_unpacked(10**9, 10**8)
    >>> check_unpacked(10**9, 10**5)
    Traceback (most recent call last):
    refine.errors.RefineError: its 100,000 bytes unpack to 1,000,000,000, as no log does; write it unpacked
    """
    if unpacked > MAX_UNPACKED or unpacked > max(SMALL, MAX_RATIO * packed):
        raise RefineError(f"its {packed:,} bytes unpack to {unpacked:,}, as no log does; write it unpacked")


def _read_npy(log: Log, options: ReadOptions) -> Records:
    try:
        array = np.load(log.path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # of numpy, ast, tokenize, mmap: whatever a damaged header leads to
        raise _damaged("the .npy file", error) from None
    if array.dtype.names:
        flat = array.reshape(-1)
        return Records("numpy structured array", _of_names(flat, options), flat.size, names=array.dtype.names)
    if not _numbers(array) or array.ndim not in (1, 2) or (array.ndim == 2 and array.shape[1] > _WIDEST):
        raise RefineError(
            f"the array has shape {array.shape} and type {printable(array.dtype)}; "
            "save numbers of shape (n,), or (n, 2) with a step and a norm a row"
        )
    table = array.reshape(len(array), -1)
    columns = [Column(str(i + 1), _floats(table[:, i])) for i in range(table.shape[1])]
    return Records("numpy array", columns, len(array), names=[column.name for column in columns], header=False)


def _numbers(array: NDArray[np.generic]) -> bool:
    return array.dtype.kind in "iuf" and array.ndim > 0


def _floats(array: NDArray[Any]) -> NDArray[np.float64]:
    """A copy as float64; what does not fit is infinite or nan."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.array(array, dtype=np.float64)


def _of_names(array: NDArray[np.void], options: ReadOptions) -> list[Column]:
    fields = {name: array[name] for name in array.dtype.names or () if options.wants(name)}
    return [Column(name, _floats(field)) for name, field in fields.items() if _numbers(field) and field.ndim == 1]


def _read_npz(log: Log, options: ReadOptions) -> Records:
    arrays: dict[str, NDArray[np.float64]] = {}
    names = []
    try:
        with zipfile.ZipFile(log.path) as archive:
            members = {info.filename[:-4]: info for info in archive.infolist() if info.filename.endswith(".npy")}
            names = list(members)
            wanted = {name: info for name, info in members.items() if options.wants(name)}
            check_unpacked(sum(info.file_size for info in wanted.values()), log.size)
            for name, info in wanted.items():
                with archive.open(info) as stream:
                    array = np.lib.format.read_array(stream, allow_pickle=False)
                if _numbers(array) and array.ndim == 1:
                    arrays[name] = _floats(array)
    except RefineError:
        raise
    except Exception as error:  # of those, zipfile and zlib
        raise _damaged("the .npz file", error) from None
    rows = _rows(arrays, options)
    odd = [name for name, array in arrays.items() if array.size != rows]
    notes = (f"arrays of other lengths are left out: {', '.join(map(printable, odd))}",) if odd else ()
    columns = [Column(name, array) for name, array in arrays.items() if array.size == rows]
    return Records("numpy .npz", columns, rows, names=names, notes=notes)


def _rows(arrays: dict[str, NDArray[np.float64]], options: ReadOptions) -> int:
    """Length of the norms, or of most arrays."""
    sizes = Counter(array.size for array in arrays.values())
    norms = (array.size for name, array in arrays.items() if is_norm(name, options))
    return next(norms, max(sizes, key=sizes.__getitem__, default=0))


def _damaged(what: str, error: Exception) -> RefineError:
    if "allow_pickle" in str(error) or "Python objects" in str(error):
        return RefineError("it holds Python objects, which only a pickle can restore; save arrays of numbers")
    return RefineError(f"{what} is damaged ({printable(error)}); write it again")


def _is_npz(log: Log) -> bool:
    """Whether a zip file begins with an array."""
    head = log.sample
    length = int.from_bytes(head[26:28], "little")
    return head.startswith(b"PK\x03\x04") and head[30 : 30 + length].endswith(b".npy")


NPY = Format(
    "npy",
    get="your own script: np.save",
    lost="names and steps: --every; --optimizer, --norm-kind",
    sniff=lambda log: log.sample.startswith(b"\x93NUMPY"),
    read=_read_npy,
)
NPZ = Format(
    "npz",
    get="your own script: np.savez(path, step=..., grad_norm=..., lr=...)",
    lost="what the names do not say: --optimizer, --norm-kind",
    sniff=_is_npz,
    read=_read_npz,
)

"""Data sets of the bench by name: made once from their source, then read from the cache, and checked each time.

What a loader made is kept as ``NAME.npz`` in the cache. Its SHA-256 is compared with the one in
`refine.bench.data.collection` whenever it is loaded. No set is part of refine.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ...errors import RefineError
from ...files import printable
from .collection import DATASETS, Content, DataSet
from .parsers import Images, Table
from .sources import AbsentDataError, cache_folder, scratch

__all__ = ["DATASETS", "Images", "Table", "available", "digest", "load_images", "load_table", "load_text"]

_C = TypeVar("_C", Table, Images, bytes)


def load_table(name: str) -> Table:
    """A set for classification; what became of its columns says `refine.bench.data.parsers.table`.

    Raises
    ------
    AbsentDataError
        Where it is not in the cache and cannot be had now.
    RefineError
        For an unknown name, or contents of another checksum.
    """
    return _load(name, Table)


def load_images(name: str) -> Images:
    """A set of images; raises as `load_table`."""
    return _load(name, Images)


def load_text(name: str) -> bytes:
    """A text; raises as `load_table`."""
    return _load(name, bytes)


def available(name: str) -> str | None:
    """Why a set cannot be had now, in one line; None if it can, and then it is in the cache.

    A wrong checksum is no absence: it raises as in `load_table`.
    """
    try:
        _content(_known(name))
    except AbsentDataError as error:
        return str(error)
    return None


def digest(content: Content) -> str:
    """SHA-256 of the arrays in their order, little-endian, C order; of a text, its own."""
    found = hashlib.sha256()
    for array in _arrays(content).values():
        found.update(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).tobytes())
    return found.hexdigest()


def _known(name: str) -> DataSet:
    if name not in DATASETS:
        raise RefineError(f"data set {name!r} is not known; choose one of {', '.join(DATASETS)}")
    return DATASETS[name]


def _load(name: str, kind: type[_C]) -> _C:
    data = _known(name)
    if data.kind is not kind:
        names = [other.name for other in DATASETS.values() if other.kind is kind]
        raise RefineError(f"data set {name!r} holds {data.kind.__name__}, not {kind.__name__}; use {', '.join(names)}")
    content = _content(data)
    if not isinstance(content, kind):
        raise RefineError(f"loader of data set {name!r} gave {type(content).__name__}, not {kind.__name__}; report it")
    return content


def _content(data: DataSet) -> Content:
    cached = cache_folder() / f"{data.name}.npz"
    if cached.exists():
        content = _read(data, cached)
        _check(data, content, f"delete {cached} to make it again")
        return content
    try:
        content = data.loader()
    except AbsentDataError as error:
        raise AbsentDataError(f"data set {data.name!r} is absent: {error}") from None
    except RefineError:
        raise
    except Exception as error:  # what the readers of damaged files raise is not to be listed
        raise _damaged(data, cache_folder() / "packages", error, "fetch") from None
    _check(data, content, f"its source has other data now; delete {cache_folder() / 'packages'} to fetch it again")
    with scratch() as folder:
        np.savez_compressed(folder / cached.name, **_arrays(content))
        os.replace(folder / cached.name, cached)
    return content


def _check(data: DataSet, content: Content, remedy: str) -> None:
    found = digest(content)
    if found != data.sha256:
        raise RefineError(
            f"data set {data.name!r} has sha256 {found[:12]}, expected {data.sha256[:12]} ({data.source}); {remedy}"
        )


def _arrays(content: Content) -> dict[str, Any]:
    if isinstance(content, Table):
        return {"x": content.x, "y": content.y}
    if isinstance(content, Images):
        return content._asdict()
    return {"text": np.frombuffer(content, np.uint8)}


def _read(data: DataSet, path: Path) -> Content:
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            if data.kind is Table:
                return Table(file["x"], file["y"], int(file["y"].max()) + 1)
            return Images(**file) if data.kind is Images else file["text"].tobytes()
    except Exception as error:  # single flipped bits gave some ten kinds
        raise _damaged(data, path, error, "make") from None


def _damaged(data: DataSet, path: Path, error: Exception, verb: str) -> RefineError:
    reason = printable(f"{type(error).__name__}: {error}")
    return RefineError(
        f"data set {data.name!r} ({data.source}): {path} cannot be read ({reason}); delete it to {verb} it again"
    )

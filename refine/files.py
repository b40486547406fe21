"""Writing files whole or not at all, and showing foreign text safely."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from .errors import RefineError

__all__ = ["Content", "printable", "write_files"]

Content = Iterable[str] | Callable[[Path], None]
"""Pieces of text, or a function that writes to the path it is given."""


def write_files(contents: Mapping[Path, Content], *, force: bool = False, remove: Iterable[Path] = ()) -> None:
    """Write all files or none.

    Every file is written in full to a temporary folder beside its target; they are moved into place, one
    by one, only once all of them are complete. Without ``force`` an existing target is refused before anything is
    written. Missing folders are made, and removed again after a failure. The files to ``remove``, where there are
    such, go once the new ones are in place.
    """
    if not force:
        for path in contents:
            if os.path.lexists(path):
                raise RefineError(f"{printable(path)} exists; choose another place, or overwrite it (--force)")
    made: list[Path] = []
    staging: dict[Path, Path] = {}
    current = Path()
    complete = False
    try:
        moves: list[tuple[Path, Path]] = []
        for current, content in contents.items():
            folder = current.parent
            if folder not in staging:
                _make_folders(folder, made)
                staging[folder] = Path(tempfile.mkdtemp(prefix=".refine-", dir=folder))
            temporary = staging[folder] / current.name
            if callable(content):
                content(temporary)
            else:
                with open(temporary, "w", encoding="utf-8", newline="\n") as stream:
                    stream.writelines(content)
            if current.is_dir():
                raise IsADirectoryError(21, "Is a directory")
            moves.append((temporary, current))
        for temporary, current in moves:
            os.replace(temporary, current)
        for current in remove:
            if current not in contents and os.path.lexists(current) and not current.is_dir():
                current.unlink()
        complete = True
    except OSError as error:
        raise RefineError(
            f"cannot write {printable(current)}: {error.strerror or error}; choose another place for the output"
        ) from None
    finally:
        for temporary in staging.values():
            shutil.rmtree(temporary, ignore_errors=True)
        if not complete:
            for folder in reversed(made):
                with suppress(OSError):
                    folder.rmdir()


def _make_folders(folder: Path, made: list[Path]) -> None:
    if not folder.exists():
        _make_folders(folder.parent, made)
        if not folder.exists():  # as "a/.." does once there is an "a"
            with suppress(FileExistsError):  # another process made it meanwhile
                folder.mkdir()
                made.append(folder)


def printable(text: object, *, limit: int = 200) -> str:
    r"""Show a name from outside on one line: control characters escaped, long text cut.

    Examples
    --------
    >>> printable("loss\n\x1b[31m")
    'loss\\n\\x1b[31m'
    """
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))
    return shown if len(shown) <= limit else shown[: limit - 3] + "..."

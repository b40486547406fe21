"""Writing files whole or not at all, and showing foreign text safely."""

from __future__ import annotations

import os
import re
import shutil
import stat
import tempfile
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import RefineError
from .interrupts import uninterrupted

try:
    import fcntl
except ImportError:  # Windows: only the age tells what a killed process left
    fcntl = None  # type: ignore[assignment]

__all__ = ["Content", "clear_abandoned", "printable", "safe_names", "scratch", "write_files"]

Content = Iterable[str] | Callable[[Path], None]
"""Pieces of text, or a function that writes to the path it is given."""

_STAGING = re.compile(r"\.refine-[a-z0-9_]{8}")  # as tempfile.mkdtemp names it
_LOCK = ".refine-lock"
_OLD_S = 86_400.0

_UNSAFE = re.compile(r'[<>:"/\\|?*]')
_RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9\u00b9\u00b2\u00b3]) *(\.|\Z)", re.IGNORECASE)
_LONGEST = 255
"""Bytes of a name."""


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
    staging: dict[Path, tuple[Path, int]] = {}
    current = Path()
    complete = False
    with uninterrupted() as interruptible:
        try:
            moves: list[tuple[Path, Path]] = []
            for current, content in contents.items():
                folder = current.parent
                if folder not in staging:
                    _make_folders(folder, made)
                    clear_abandoned(folder)
                    staging[folder] = _stage(folder)
                temporary = staging[folder][0] / current.name
                with interruptible():
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
            for temporary, lock in staging.values():
                os.close(lock)
                shutil.rmtree(temporary, ignore_errors=True)
            if not complete:
                for folder in reversed(made):
                    with suppress(OSError):
                        folder.rmdir()


def _stage(folder: Path) -> tuple[Path, int]:
    """A temporary folder, and the open lock in it, which says that it is in use for as long as this process lives."""
    while True:
        staging = Path(tempfile.mkdtemp(prefix=".refine-", dir=folder))
        try:
            lock = os.open(staging / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        except FileNotFoundError:  # another process took the empty folder for abandoned
            continue
        except OSError:
            staging.rmdir()
            raise
        if fcntl is not None:
            with suppress(OSError):  # on a file system without locks only the age tells
                fcntl.flock(lock, fcntl.LOCK_EX)
                os.write(lock, os.uname().nodename.encode())
        return staging, lock


@contextmanager
def scratch() -> Iterator[Path]:
    """A temporary folder, such as for what is unpacked; those that killed processes left are removed first."""
    place = Path(tempfile.gettempdir())
    clear_abandoned(place)
    folder, lock = _stage(place)
    try:
        yield folder
    finally:
        os.close(lock)
        shutil.rmtree(folder, ignore_errors=True)


def clear_abandoned(folder: Path) -> None:
    """Remove what killed processes left in a folder, of `write_files` and `scratch`; never what is in use."""
    for staging in [path for path in folder.glob(".refine-*") if _STAGING.fullmatch(path.name)]:
        with suppress(OSError):
            if not os.listdir(staging):
                staging.rmdir()
            elif _is_abandoned(staging):
                shutil.rmtree(staging, ignore_errors=True)


def _is_abandoned(staging: Path) -> bool:
    """Whether its lock is free and was taken on this machine, as some file systems do not tell others; or it is old.

    Without a lock it is none of ours.
    """
    if not stat.S_ISDIR(staging.lstat().st_mode):
        return False
    old = time.time() - staging.stat().st_mtime > _OLD_S
    if fcntl is None:
        return old and stat.S_ISREG((staging / _LOCK).lstat().st_mode)
    # Whatever bears its name: a named pipe would wait for a writer, a link lead elsewhere.
    lock = os.open(staging / _LOCK, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW)
    try:
        if not stat.S_ISREG(os.fstat(lock).st_mode):
            return False
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return old or os.read(lock, 1024) == os.uname().nodename.encode()
    except BlockingIOError:
        return False
    except OSError:
        return old
    finally:
        os.close(lock)


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


def safe_names(names: Sequence[str], word: str = "run") -> list[str]:
    """Folder names for names from outside: as many, each safe on every file system, no two taken for one.

    A name is kept where it can be. What no file system takes becomes "_"; a name is not hidden, reserved by
    Windows, nor longer than 255 bytes; ``word`` stands for an empty one. Names that differ in no more than letter
    case or Unicode form, which some file systems fold, are counted; no count makes a name that another one has.

    Examples
    --------
    >>> safe_names(["decay", "a/b", "..", "", "Decay", "layers.0.weight", "a_b", "a_b-2", "nul"])
    ['decay', 'a_b-3', 'run', 'run-2', 'Decay-2', 'layers.0.weight', 'a_b', 'a_b-2', '_nul']
    """
    plain = [_safe(name) or word for name in names]
    found = list(plain)
    taken: dict[str, int] = {}
    for i, name in enumerate(names):  # the names that can stay as they are come first
        if plain[i] == name:
            taken.setdefault(_folded(name), i)
    kept = set(taken.values())
    counts: dict[str, int] = {}
    for i in (i for i in range(len(names)) if i not in kept):
        count = counts.get(_folded(plain[i]), 1)
        while _folded(found[i]) in taken:
            count += 1
            found[i] = _cut(plain[i], f"-{count}")
        counts[_folded(plain[i])] = count
        taken[_folded(found[i])] = i
    return found


def _safe(name: str) -> str:
    shown = _UNSAFE.sub("_", "".join(c if c.isprintable() else "_" for c in name)).strip(" .")
    return _cut(f"_{shown}" if _RESERVED.match(shown) else shown, "")


def _cut(name: str, ending: str) -> str:
    """A name with its ending, the name shortened to what fits."""
    room = _LONGEST - len(ending)
    if len(name.encode()) > room:
        name = name.encode()[:room].decode(errors="ignore").rstrip(" .")
    return name + ending


def _folded(name: str) -> str:
    for _ in range(2):  # folding may undo the normal form, and the other way round
        name = unicodedata.normalize("NFKD", name).upper().casefold()
    return unicodedata.normalize("NFKD", name)

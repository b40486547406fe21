"""The file that a recorder appends to: whole lines, one writer, readable at any moment.

Format version 1. JSONL: a header object, then an object a row. CSV: the header object behind ``# ``, the names, then
a row a line. A resumed run writes its header before its first row, if it is another one. `refine.readers.recorder`
reads both.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import json
import math
import os
import stat
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import RefineError
from ..files import printable
from ..recorded import FORMAT, FORMAT_VERSION

try:
    import fcntl
except ImportError:  # Windows: two writers are not told apart
    fcntl = None  # type: ignore[assignment]

__all__ = ["LogFile"]

_LONGEST = 2**24
"""Bytes of a header, or of the names in a CSV."""

_OPEN: weakref.WeakSet[LogFile] = weakref.WeakSet()


class LogFile:
    """Rows for a log, appended by one process.

    The file is locked until it is closed or the process ends, however it ends. A child that is forked (the workers of a
    DataLoader) does not keep it, and neither writes nor removes it: there ``inherited`` is True.

    Parameters
    ----------
    path : path-like
        ``.jsonl`` or ``.csv``; folders are made.
    append : bool
        Whether the file may hold rows of the same format already. A last line that was cut is taken away.

    Raises
    ------
    RefineError
        Another suffix, a file with rows where ``append`` is False, a file of another format, a second writer.
    OSError
        The place cannot be written, or holds a log that is damaged: it is left as it is.
    """

    def __init__(self, path: str | os.PathLike[str], *, append: bool) -> None:
        self.path = Path(path)
        self.names: list[str] | None = None
        self.header: dict[str, Any] = {}
        self.inherited = self._begun = False
        self._descriptor = -1
        if self.path.suffix not in (".jsonl", ".csv"):
            raise RefineError(f"a log is a .jsonl or .csv file, not {printable(self.path.name)!r}: change the suffix")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from None
        self._new = not self.path.exists()
        _OPEN.add(self)  # before there is something that a fork in another thread could take along
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            self._lock()
            self._take_up(append)
        except BaseException:
            self.close()
            raise

    def append(self, rows: Sequence[Mapping[str, float]], header: Mapping[str, Any]) -> str:
        """Write rows, in one call; before the first ones the header, unless it is the file's last.

        Nothing stays of rows that do not fit the disk. Values that are not finite are left out. A CSV has the columns
        of its first rows; returns the names of values that have none.
        """
        if self.inherited:
            raise OSError(errno.EBADF, "it belongs to the process that this one was forked from")
        lines = []
        start = self.names is None
        if not self._begun:
            head = json.dumps({"format": FORMAT, "format_version": FORMAT_VERSION, **header})
            lines = [f"# {head}" if self._is_csv else head] if start or json.loads(head) != self.header else []
        if start:
            self.names = list(dict.fromkeys(name for row in rows for name in row))
            lines += [_csv_line(self.names)] if self._is_csv else []
        lines += [self._line(row) for row in rows]
        data = memoryview("".join(f"{line}\n" for line in lines).encode())
        size = os.fstat(self._descriptor).st_size
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, size)
            self.names = None if start else self.names
            raise
        self._begun = True
        known = set(self.names or ())
        given = {name for row in rows for name, value in row.items() if math.isfinite(value)}
        return ", ".join(sorted(given - known)) if self._is_csv else ""

    def close(self) -> None:
        """Give the file back; one without rows is removed."""
        if self._descriptor >= 0:
            if self.names is None and self._new:
                with contextlib.suppress(OSError):
                    os.unlink(self.path)
            self._let_go()

    def _let_go(self) -> None:
        """Close the file and leave it where it is."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    @property
    def _is_csv(self) -> bool:
        return self.path.suffix == ".csv"

    def _line(self, row: Mapping[str, float]) -> str:
        if self._is_csv:
            values = (row.get(name, math.nan) for name in self.names or ())
            return ",".join(f"{value:.9g}" if math.isfinite(value) else "" for value in values)
        present = (f"{json.dumps(name)}: {value:.9g}" for name, value in row.items() if math.isfinite(value))
        return "{" + ", ".join(present) + "}"

    def _lock(self) -> None:
        if fcntl is None:
            return
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RefineError(
                f"{printable(self.path)} is being written by another recorder; name another file, or end that one"
            ) from None
        except OSError:  # a file system without locks
            return

    def _take_up(self, append: bool) -> None:
        """Look at what the file holds; take away a last line that was cut. Into a damaged file nothing is written."""
        name, kind = printable(self.path), os.fstat(self._descriptor).st_mode
        if not stat.S_ISREG(kind):  # a full pipe would hold up the run
            raise OSError(errno.ESPIPE, "it is no regular file; name another one")
        with open(self._descriptor, "rb", closefd=False) as stream:
            head = stream.readline(_LONGEST)
            columns = stream.readline(_LONGEST) if self._is_csv else b"\n"
            # A CSV has begun with its names.
            end = _end_of(b"\n", stream) if head.endswith(b"\n") and columns.endswith(b"\n") else 0
            begin = f'{"# " if self._is_csv else ""}{{"format": "{FORMAT}"'.encode()
            if later := _end_of(b"\n" + begin, stream):  # of a run that went on
                stream.seek(later - len(begin))
                head = stream.readline(_LONGEST) if later < end else head
            stream.seek(end)
            cut = stream.read(_LONGEST)
        # Where the power failed, a file may be of its full size and hold zeros.
        if not head.startswith((begin[: len(head)] if end == 0 else begin, b"\0")):
            raise RefineError(f"{name} exists and is no log of a GradNormRecorder; name another file")
        if b"\0" in head + columns or _LONGEST in (len(head), len(columns)):
            raise _damaged("its first lines are no text, or have no end")
        # Behind bare carriage returns all looks like one line that was cut.
        if b"\r" in (head + columns).replace(b"\r\n", b"") + cut[:-1]:
            raise _damaged("its lines end in carriage returns")
        if end > 0:
            self.header = _header(head.removeprefix(b"# "))
            version = self.header["format_version"]
            if version != FORMAT_VERSION:
                raise RefineError(
                    f"{name} has format version {version} and this refine writes {FORMAT_VERSION}; name another file"
                )
            if not append:
                raise RefineError(
                    f"{name} holds the log of a run; say step=N, the updates that this one has done already, to go on "
                    "with it (step=0 supersedes it), or name another file"
                )
            self.names = _names(columns) if self._is_csv else []
        if end < os.fstat(self._descriptor).st_size:
            os.ftruncate(self._descriptor, end)


def _damaged(what: str) -> OSError:
    return OSError(errno.EINVAL, f"{what}: the file is damaged; move it away, or name another one")


def _header(line: bytes) -> dict[str, Any]:
    """The header object."""
    try:
        header = json.loads(line)
        known = type(header["format_version"]) is int and isinstance(header.get("optimizer", ""), str)
    except (ValueError, KeyError, RecursionError):
        known = False
    if not known:
        raise _damaged("its header cannot be read")
    return dict(header)


def _names(line: bytes) -> list[str]:
    """The names in a CSV, which a row has to fit."""
    try:
        text = line.decode().rstrip("\r\n")
        names = next(csv.reader([text]), [])
    except (UnicodeDecodeError, csv.Error):
        names = []
    if "step" not in names or len(set(names)) < len(names) or _csv_line(names) != text:
        raise _damaged("its second line cannot be read as the names of columns")
    return names


def _end_of(text: bytes, stream: io.BufferedReader) -> int:
    """Where a text ends that a file holds, the last time; 0 where it does not."""
    start = stream.seek(0, os.SEEK_END)
    after = b""
    while start > 0:
        size = min(start, 65_536)
        start -= size
        stream.seek(start)
        block = stream.read(size) + after
        found = block.rfind(text)
        if found >= 0:
            return start + found + len(text)
        after = block[: len(text) - 1]
    return 0


def _csv_line(names: Sequence[str]) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="").writerow(names)
    return stream.getvalue()


def _after_fork() -> None:
    for log in list(_OPEN):
        log.inherited = True
        log._let_go()  # the file is the parent's: not even one without rows is removed


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

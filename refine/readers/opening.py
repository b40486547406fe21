"""Every place that a log can be in, as a local file or folder: compressed, standard input, URL.

What is not a plain file is copied to a temporary one first, up to a stated size, so that every
reader can seek in it. Lines and JSON documents have a stated size too.
"""

from __future__ import annotations

import bz2
import contextlib
import fnmatch
import gzip
import io
import lzma
import os
import re
import stat
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import IO, Any, BinaryIO

from ..errors import RefineError
from ..files import printable, scratch
from .zstd import open_zstd

__all__ = ["MAX_JSON", "MAX_LINE", "MAX_UNPACKED", "Log", "first_bytes", "opened"]

MAX_UNPACKED = 8 * 2**30
"""Bytes that a compressed file, a stream or a URL may turn out to hold."""

MAX_RATIO = 300
"""Size unpacked over packed, past the first 64 MiB: logs reach 3 to 30, bombs 1,000 and more."""

SMALL = 2**26
"""Bytes that any compressed file may unpack to."""

MAX_LINE = 16 * 2**20
"""Bytes of one line of text."""

MAX_COLUMNS = 50_000
"""Columns of a table, and metrics of a log."""

MAX_JSON = 256 * 2**20
"""Bytes of one JSON document, which has to be held in memory."""

MAX_ENTRIES = 100_000
"""Files that are looked at in a folder and what is below it."""

PATIENCE_S = 2.0
"""How long to wait for somebody to open a named pipe for writing."""

_SAMPLE = 2**18
_TAIL = 2**16
_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_URL = re.compile(r"[a-z][a-z0-9+.\-]*(?:://|::)", re.IGNORECASE)

Progress = Callable[[float], None]


class Log:
    """A local file or folder to be read, with what its first bytes tell.

    Attributes
    ----------
    path : Path
        Where it is now; a temporary file for a stream, a URL or a compressed log.
    name : str
        What the user called it.
    """

    def __init__(self, path: Path, name: str, progress: Progress | None = None) -> None:
        self.path = path
        self.name = name
        self._progress = progress
        self.is_dir = path.is_dir()
        self.size = 0 if self.is_dir else path.stat().st_size

    def sibling(self, path: Path) -> Log:
        """Another file or folder, read on behalf of this log."""
        return Log(path, str(path), self._progress)

    @cached_property
    def sample(self) -> bytes:
        """The first 256 KiB; nothing of a folder."""
        if self.is_dir:
            return b""
        with open(self.path, "rb") as stream:
            return stream.read(_SAMPLE)

    @cached_property
    def is_text(self) -> bool:
        """Whether the first 256 KiB hold no NUL before its last line, which a crash may have cut."""
        whole = self.sample[: self.sample.rfind(b"\n") + 1] or self.sample
        return not self.is_dir and bool(self.sample) and b"\0" not in whole

    @cached_property
    def text(self) -> str:
        """Text of the first 256 KiB and of the end, without terminal colours; to look for patterns in."""
        if not self.is_text:
            return ""
        sample = self.sample
        if self.size > len(sample):
            with open(self.path, "rb") as stream:
                stream.seek(max(len(sample), self.size - _TAIL))
                sample += b"\n" + stream.read(_TAIL)
        return plain(sample.decode("utf-8-sig", errors="replace"))

    @cached_property
    def first_line(self) -> str:
        """First line that holds anything."""
        return next((line for line in self.text.splitlines() if line.strip()), "")

    @cached_property
    def _entries(self) -> list[Path]:
        """Files and links below a folder; links to folders are not followed."""
        found, seen = [], 0
        for folder, folders, names in os.walk(self.path, followlinks=False):
            seen += len(names) + len(folders)
            if seen > MAX_ENTRIES:
                raise RefineError(f"the folder holds more than {MAX_ENTRIES:,} files; name the log in it")
            found += [Path(folder, name) for name in names]
        return sorted(found)

    def files(self, pattern: str) -> list[Path]:
        """Files below a folder whose name matches a glob pattern, sorted."""
        return [path for path in self._entries if fnmatch.fnmatch(path.name, pattern) and path.is_file()]

    def path_files(self, most: int = 100) -> list[Path]:
        """The first files of a folder itself, by name."""
        return [path for path in sorted(self.path.iterdir())[:most] if path.is_file()]

    def report(self, done: int) -> None:
        """Tell how many bytes have been read."""
        if self._progress is not None and self.size:
            self._progress(min(1.0, done / self.size))

    def stream(self, *, cut: int, delimiter: str) -> BinaryIO:
        """The bytes of a table, less ``cut`` at the end; refuses over-long lines and reports progress."""
        return _Watched(self, cut, delimiter.encode())  # type: ignore[return-value]

    def lines(self) -> Iterator[str]:
        """Lines of text without their end, terminal colours and overwritten progress bars; for consoles."""
        for line in self.raw_lines():
            yield plain(line.decode("utf-8", errors="replace").rstrip("\r\n")).rsplit("\r", 1)[-1]

    def raw_lines(self) -> Iterator[bytes]:
        """Lines with their end, none too long; tells how far it is."""
        done = 0
        with open(self.path, "rb") as stream:
            while line := stream.readline(MAX_LINE + 1):
                if len(line) > MAX_LINE:
                    raise RefineError(_LONG_LINE)
                done += len(line)
                if done % 2**20 < len(line):
                    self.report(done)
                yield line

    def read_json_text(self) -> str:
        """All of a JSON document."""
        if self.size > MAX_JSON:
            raise RefineError(
                f"the JSON document holds {self.size / 2**20:,.0f} MiB and {MAX_JSON >> 20} MiB is the limit; "
                "write its rows as JSON lines, one object a line"
            )
        return self.path.read_bytes().decode("utf-8-sig", errors="replace")


_LONG_LINE = f"a line is longer than {MAX_LINE >> 20} MiB; name a log with a row per line"


def plain(text: str) -> str:
    """Text without the escape sequences of terminals."""
    return _ANSI.sub("", text) if "\x1b" in text else text


class _Watched:
    """A binary stream for `pandas.read_csv` that ends early, refuses over-long lines and reports progress."""

    def __init__(self, log: Log, cut: int, delimiter: bytes) -> None:
        self.log = log
        self.delimiter = delimiter
        self.left = log.size - cut
        self.since_newline = self.fields = 0
        self.file = open(log.path, "rb")  # noqa: SIM115 (closed by the caller)

    def read(self, size: int = -1) -> bytes:
        data = self.file.read(self.left if size < 0 else min(size, self.left))
        self.left -= len(data)
        last = max(data.rfind(b"\n"), data.rfind(b"\r"))
        self.since_newline = self.since_newline + len(data) if last < 0 else len(data) - last - 1
        self.fields = (self.fields if last < 0 else 0) + data.count(self.delimiter, last + 1)
        if self.since_newline > MAX_LINE:
            raise RefineError(_LONG_LINE)
        if self.fields > MAX_COLUMNS:
            raise RefineError(f"a line has more than {MAX_COLUMNS:,} fields; repair the file")
        self.log.report(self.log.size - self.left)
        return data

    def readline(self) -> bytes:  # pandas asks whether it is there
        raise NotImplementedError

    def __iter__(self) -> _Watched:
        return self

    def close(self) -> None:
        self.file.close()

    def __enter__(self) -> _Watched:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextlib.contextmanager
def opened(name: str, progress: Progress | None = None, *, most: int | None = None) -> Iterator[Log]:
    """A log by its path or URL, ``-`` for standard input; unpacked where it is compressed, to ``most`` bytes."""
    most = MAX_UNPACKED if most is None else most
    with contextlib.ExitStack() as stack:
        if name == "-":
            path = _copied(stack, sys.stdin.buffer, most)
        elif _URL.match(name) and not os.path.exists(name):
            path = _fetched(stack, name, most)
        else:
            path = Path(name)
            if not path.exists():
                problem = "is a link to itself" if _loops(path) else "does not exist"
                raise RefineError(f"{printable(name)} {problem}; check the path")
            mode = path.stat().st_mode
            if stat.S_ISFIFO(mode):
                stream, head = _piped(stack, path)
                path = _copied(stack, stream, most, head)
            elif not (path.is_dir() or path.is_file()):
                raise RefineError(f"{printable(name)} is not a regular file; check the path")
        if path.is_file():
            path = _unpacked(stack, path, most)
        yield Log(path, name, progress)


def _loops(path: Path) -> bool:
    try:
        path.stat()
    except OSError as error:
        return error.errno == 40
    return False


def _piped(stack: contextlib.ExitStack, path: Path) -> tuple[IO[bytes], bytes]:
    """A named pipe and its first byte; refuses one that nobody writes to, which would be waited for without end."""
    stream = stack.enter_context(io.FileIO(os.open(path, os.O_RDONLY | os.O_NONBLOCK)))
    patience = time.monotonic() + PATIENCE_S
    while (head := stream.read(1)) == b"":  # None where a writer has yet to write
        if time.monotonic() > patience:
            raise RefineError(f"{printable(path)} is a pipe that nobody writes to; start the writer first")
        time.sleep(0.01)
    os.set_blocking(stream.fileno(), True)
    return stream, head or b""


def _copied(
    stack: contextlib.ExitStack,
    stream: IO[bytes],
    most: int,
    head: bytes = b"",
    packed: Callable[[], int] | None = None,
) -> Path:
    """Copy a stream of at most ``most`` bytes, ``head`` before it, to a temporary file that lives as long as the stack.

    ``packed`` says how many compressed bytes the stream has taken until now.
    """
    path, done = stack.enter_context(scratch()) / "log", len(head)
    with open(path, "wb") as target:
        target.write(head)
        while block := stream.read(2**20):
            done += len(block)
            if done > most:
                raise RefineError(f"more than {most / 2**30:.2g} GiB come out of it; name a smaller log")
            if packed is not None and done > max(SMALL, MAX_RATIO * packed()):
                raise RefineError(
                    f"its first {packed():,} bytes unpack to more than {MAX_RATIO} times as many, as no log does; "
                    "unpack it first"
                )
            target.write(block)
    return path


def _fetched(stack: contextlib.ExitStack, url: str, most: int) -> Path:
    try:
        import fsspec
    except ImportError:
        raise RefineError(f"{printable(url)} is a URL, which needs fsspec: pip install 'fsspec[http]'") from None
    try:
        with fsspec.open(url, "rb") as stream:
            return _copied(stack, stream, most)
    except RefineError:
        raise
    except Exception as error:  # every file system of fsspec raises what it likes
        detail = printable(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)
        raise RefineError(f"cannot read {printable(url)} ({detail}); check the URL and its access rights") from None


_PACKED: tuple[tuple[bytes, str, Callable[[BinaryIO], Any]], ...] = (
    (b"\x1f\x8b", "gzip", gzip.open),
    (b"\xfd7zXZ\x00", "xz", lzma.open),
    (b"BZh", "bzip2", bz2.open),
    (b"\x28\xb5\x2f\xfd", "zstd", open_zstd),
)


def _unpacked(stack: contextlib.ExitStack, path: Path, most: int) -> Path:
    """Path of what a compressed file holds; any other file as it is."""
    with open(path, "rb") as stream:
        head = stream.read(6)
    for magic, method, opener in _PACKED:
        if head.startswith(magic):
            try:
                with open(path, "rb") as packed, opener(packed) as stream:
                    return _copied(stack, stream, most, packed=packed.tell)
            except RefineError:
                raise
            except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
                raise RefineError(f"the {method} data is damaged ({printable(error)}); copy the file again") from None
            except Exception as error:  # zstandard has an error class of its own
                if type(error).__module__.startswith("zstandard"):
                    raise RefineError(f"the zstd data is damaged ({printable(error)}); copy the file again") from None
                raise
    return path


def first_bytes(path: Path, size: int) -> bytes:
    """The first bytes of a file, of what it holds where it is compressed; none of what is damaged."""
    with open(path, "rb") as stream:
        head = stream.read(size)
        for magic, _, opener in _PACKED:
            if head.startswith(magic):
                stream.seek(0)
                try:
                    with opener(stream) as unpacked:
                        return bytes(unpacked.read(size))
                except Exception:  # of gzip, zlib, lzma, zstandard: reading it in full says what is wrong
                    return b""
    return head

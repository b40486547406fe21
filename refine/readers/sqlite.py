"""SQLite files, opened for reading only: the stores of MLflow and trackio."""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path

from ..errors import RefineError
from ..files import printable
from .opening import MAX_LINE, Log

__all__ = ["columns_of", "connected", "is_sqlite", "only"]

_INSTRUCTIONS = 1_000_000
_MAGIC = b"SQLite format 3\0"
_JOURNAL_VERSION = slice(18, 19)
_WAL = b"\2"
_TABLE = "SELECT 1 FROM sqlite_master WHERE name = ? AND type = 'table' AND rootpage > 0 AND sql LIKE 'CREATE TABLE%'"


def is_sqlite(log: Log) -> bool:
    """Whether a log is an SQLite file, damaged or not."""
    return log.sample.startswith(_MAGIC)


def columns_of(database: sqlite3.Connection, table: str) -> set[str]:
    """Names of the stored columns of a table; none where there is no such table.

    Views, virtual tables and computed columns are left out: they run code that comes with the file.
    """
    if database.execute(_TABLE, (table,)).fetchone() is None:
        return set()
    rows = database.execute(f'PRAGMA table_xinfo("{table}")')
    return {name for _, name, _, _, _, _, hidden in rows if hidden == 0}


def only(database: sqlite3.Connection, names: set[str]) -> str:
    """A subquery for these names, so that the values of other rows, of any size, are never fetched."""
    database.execute("CREATE TEMP TABLE IF NOT EXISTS wanted (name)")
    database.execute("DELETE FROM temp.wanted")
    database.executemany("INSERT INTO temp.wanted VALUES (?)", ((name,) for name in names))
    return "SELECT name FROM temp.wanted"


def _text(data: bytes) -> str:
    if len(data) > MAX_LINE:
        raise sqlite3.DataError("string or blob too big")
    return data.decode(errors="replace")


@contextlib.contextmanager
def connected(log: Log) -> Iterator[sqlite3.Connection]:
    """A connection that cannot write; whatever SQLite says against the file becomes one line."""
    uri = log.path.resolve().as_uri() + "?mode=ro"
    journal = Path(f"{log.path}-wal")
    if log.sample[_JOURNAL_VERSION] == _WAL and not (journal.is_file() and journal.stat().st_size):
        uri += (
            "&immutable=1"  # all is in the file: needs no -shm beside it, which could not be made in a read-only folder
        )
    # Whether more is done than a file of that size can ask for: its pages may lead in circles.
    calls, most = itertools.count(), 50 + 20 * log.size // _INSTRUCTIONS
    try:
        with contextlib.closing(sqlite3.connect(uri, uri=True)) as database:
            database.text_factory = _text
            if sys.version_info >= (3, 11):  # before, SQLite holds such a value once, and it is refused then
                database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_LINE)
            database.execute("PRAGMA temp_store = MEMORY")
            database.execute("PRAGMA trusted_schema = OFF")
            database.set_progress_handler(lambda: next(calls) > most, _INSTRUCTIONS)
            yield database
    except sqlite3.Error as error:
        if isinstance(error, sqlite3.DataError) and "too big" in str(error):
            raise RefineError(
                f"the SQLite file holds a name or a value above {MAX_LINE >> 20} MiB where a log holds a number or a "
                "row; name another"
            ) from None
        if str(error) == "interrupted" and next(calls) <= most:  # SQLite drops what was raised in the handler
            raise KeyboardInterrupt from None
        raise RefineError(
            f"the SQLite file cannot be read ({printable(error)}); "
            "copy it again while no run writes to it, with the -wal file beside it"
        ) from None

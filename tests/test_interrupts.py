"""Signals: whatever stops a command, nothing half-made stays, and no log is said to be damaged."""

import contextlib
import os
import signal
import sqlite3

import pytest

from refine import RefineError, read_norms
from refine.readers import opening

posix = pytest.mark.skipif(os.name != "posix", reason="needs signals and locks of POSIX")


@pytest.fixture(autouse=True)
def usual_handlers():
    """Those of a program in the foreground, however the tests were started."""
    usual = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
        signal.SIGHUP: signal.SIG_DFL,
    }
    before = {signum: signal.signal(signum, handler) for signum, handler in usual.items()}
    yield
    assert {signum: signal.getsignal(signum) for signum in usual} == usual
    for signum, handler in before.items():
        signal.signal(signum, handler)


@posix
def test_a_table_whose_reading_is_interrupted_is_not_said_to_be_damaged(make_log, monkeypatch):
    class Interrupted(opening._Watched):
        def read(self, size=-1):
            data = super().read(size)
            if not data:
                signal.raise_signal(signal.SIGINT)
            return data

    monkeypatch.setattr(opening, "_Watched", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        read_norms(make_log(step=[1, 2, 3], grad_norm=[1.0, 2.0, 3.0]))


@posix
def test_a_database_whose_reading_is_interrupted_is_not_said_to_be_damaged(make_log, monkeypatch):
    from refine.readers import sqlite

    path = make_log(b"", "log.db")
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE t (x)")
        database.executemany("INSERT INTO t VALUES (?)", [(i,) for i in range(1000)])
        database.commit()
    monkeypatch.setattr(sqlite, "_INSTRUCTIONS", 100)

    class Interrupted:
        def __next__(self):
            self.calls = getattr(self, "calls", 0) + 1
            if self.calls == 2:
                signal.raise_signal(signal.SIGINT)
            return self.calls

    def busy():
        with sqlite.connected(opening.Log(path, "log.db")) as database:
            database.execute("SELECT count(*) FROM t AS a, t AS b").fetchall()

    with pytest.raises(RefineError, match="interrupted"):  # it leads in circles
        busy()
    monkeypatch.setattr(sqlite.itertools, "count", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        busy()

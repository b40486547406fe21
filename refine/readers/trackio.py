"""trackio: one SQLite file a project, ``<cache>/trackio/<project>.db``, whose rows hold their metrics as JSON.

The norm is what the run logged; names tell some frameworks (`runs.facts_of`; transformers logs ``train/grad_norm``,
before clipping). Its own step counts calls of ``trackio.log`` unless ``step=`` was given; a step among the metrics, as
transformers' ``train/global_step``, is preferred. nan and infinity are stored as words. Several runs share the file.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from typing import Any

from ..errors import RefineError
from .base import Format, ReadOptions, Records
from .gather import Rows
from .json_text import parse
from .opening import Log
from .runs import choose_by_id, is_norm
from .settings import pick
from .sqlite import columns_of, connected, is_sqlite

__all__ = ["FORMAT"]


def _sniff(log: Log) -> bool:
    if not is_sqlite(log):
        return False
    with contextlib.suppress(RefineError), connected(log) as database:
        return columns_of(database, "metrics") >= {"run_name", "step", "metrics"}
    return False


def _read(log: Log, options: ReadOptions) -> Records:
    with connected(log) as database:
        key = "run_id" if "run_id" in columns_of(database, "metrics") else "run_name"  # which older versions lack
        found = database.execute(f"SELECT DISTINCT {key}, run_name FROM metrics")
        runs = {str(run): str(name) for run, name in found}
        with_norm: set[str] = set()
        if len(runs) > 1 and options.run is None:
            for owner, text in database.execute(f"SELECT {key}, metrics FROM metrics"):
                if str(owner) not in with_norm and any(is_norm(name, options) for name in _object(text) or ()):
                    with_norm.add(str(owner))
        run = choose_by_id(runs, with_norm.__contains__, options.run)
        rows = Rows(options)
        (total,) = database.execute(f"SELECT count(*) FROM metrics WHERE {key} = ?", (run,)).fetchone()
        damaged = 0
        for row in _rows(database, key, run):
            if row is None:
                damaged += 1
            else:
                rows.add(row)
                if rows.count % 4096 == 0:
                    log.report(log.size * rows.count // total)
        config: dict[str, Any] = {}
        if {key, "config"} <= columns_of(database, "configs"):
            for (text,) in database.execute(f"SELECT config FROM configs WHERE {key} = ?", (run,)):
                config = _object(text) or {}
    return rows.records(
        "trackio",
        settings=pick(config),
        dropped={"damaged rows": damaged} if damaged else {},
        run=run,
    )


def _rows(database: sqlite3.Connection, key: str, run: str) -> Iterator[dict[str, Any] | None]:
    """Rows of a run in the order of writing: its step, then its metrics; None for one that is damaged."""
    for step, text in database.execute(f"SELECT step, metrics FROM metrics WHERE {key} = ? ORDER BY rowid", (run,)):
        metrics = _object(text)
        yield None if metrics is None else {"step": step, **metrics}


def _object(text: Any) -> dict[str, Any] | None:
    try:
        value = parse(text.decode(errors="replace") if isinstance(text, bytes) else str(text))
    except (ValueError, RefineError):
        return None
    return value if isinstance(value, dict) else None


FORMAT = Format(
    "trackio",
    get="~/.cache/huggingface/trackio/<project>.db",
    lost="which steps are updates, unless step= or a step was logged; --optimizer, --norm-kind",
    sniff=_sniff,
    read=_read,
)

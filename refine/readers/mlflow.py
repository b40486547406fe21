"""MLflow: its file store (``mlruns``: experiment, run, a file a metric) and its SQLite store (``mlflow.db``).

The norm is what the run logged, of one step and before clipping in nearly all; names tell some frameworks
(`runs.facts_of`). Each value has its own step; later lines win, so that a resumed run supersedes what it repeats. The
file store writes nan and inf as words; SQL has no nan, so that ``is_nan`` marks it, and 1.8e308 stands for inf. Both
hold many runs: deleted ones are left out, and those without a norm need no choice.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import RefineError
from .base import MAX_NAME, Format, ReadOptions, Records
from .gather import number
from .long import Series
from .opening import Log
from .runs import choose_by_id, is_norm
from .series_files import files_by_metric, read_series
from .settings import is_known, pick
from .sqlite import columns_of, connected, is_sqlite, only

__all__ = ["DATABASE", "FOLDER"]

_RUN_ID = re.compile(r"^run_(?:id|uuid):\s*['\"]?(\w+)", re.MULTILINE)
_RUN_NAME = re.compile(r"^run_name:\s*['\"]?(.*?)['\"]?\s*$", re.MULTILINE)
_DELETED = re.compile(r"^lifecycle_stage:\s*['\"]?deleted", re.MULTILINE)
_INFINITE = 1.7976931348623157e308
_LONGEST = 2**16


def _is_folder(log: Log) -> bool:
    return log.is_dir and any((meta.parent / "metrics").is_dir() for meta in log.files("meta.yaml"))


def _runs(log: Log) -> dict[str, tuple[str, Path]]:
    """Name and folder of each run by its id. Logged models have folders of metrics too, but no run id."""
    runs = {}
    for meta in log.files("meta.yaml"):
        folder = meta.parent
        if (folder / "metrics").is_dir() and ".trash" not in folder.parts:
            text = _text(meta)
            if (run := _RUN_ID.search(text)) and not _DELETED.search(text):
                tag, name = folder / "tags" / "mlflow.runName", _RUN_NAME.search(text)
                runs[run[1]] = ((_text(tag) if tag.is_file() else name[1] if name else "") or run[1], folder)
    return runs


def _read_folder(log: Log, options: ReadOptions) -> Records:
    runs = _runs(log)
    metrics = {run: files_by_metric(log, folder / "metrics") for run, (_, folder) in runs.items()}
    run = choose_by_id(
        {run: name for run, (name, _) in runs.items()},
        lambda run: any(is_norm(name, options) for name in metrics[run]),
        options.run,
    )
    series, dropped = read_series(log, metrics[run], options, _fields)
    params = files_by_metric(log, runs[run][1] / "params")
    return series.records(
        "MLflow file store",
        settings=pick({name: _text(path) for name, path in params.items() if is_known(name)}),
        dropped=dropped,
        run=run,
    )


def _fields(line: str) -> tuple[str, str] | None:
    """Step and value of ``time value step``, which the name and digest of a data set may follow."""
    fields = line.split(" ")
    return (fields[2], fields[1]) if len(fields) >= 3 else None


def _text(path: Path) -> str:
    with open(path, encoding="utf-8", errors="replace") as stream:
        return stream.read(_LONGEST).strip()


def _read_database(log: Log, options: ReadOptions) -> Records:
    with connected(log) as database:
        if not columns_of(database, "metrics") >= {"key", "value", "step", "run_uuid", "is_nan"}:
            raise RefineError("the SQLite file holds no table of metrics as MLflow or trackio write it; name another")
        names: dict[str, set[str]] = {}
        for run, name in database.execute(f"SELECT DISTINCT run_uuid, {_short('key')} FROM metrics"):
            names.setdefault(str(run), set()).add(str(name))
        labels = {run: run for run in names}
        if {"run_uuid", "name", "lifecycle_stage"} <= columns_of(database, "runs"):
            known = database.execute(
                f"SELECT run_uuid, {_short('name')} FROM runs WHERE lifecycle_stage IS NOT 'deleted'"
            )
            labels = {str(run): str(name or run) for run, name in known if str(run) in names}
        series = Series(options)
        run = choose_by_id(labels, lambda run: any(is_norm(name, options) for name in names[run]), options.run)
        wanted = {name for name in sorted(names[run]) if series.wants(name)}
        (total,) = database.execute("SELECT max(rowid) FROM metrics").fetchone()
        rows = database.execute(
            "SELECT rowid, key, step, value, is_nan FROM metrics "
            f"WHERE run_uuid = ? AND key IN ({only(database, wanted)}) ORDER BY rowid",
            (run,),
        )
        for place, name, step, value, is_nan in rows:
            series.add(name, _float(step), np.nan if is_nan else _float(value))
            if place % 4096 == 0:
                log.report(log.size * place // max(1, total))
        params: dict[str, Any] = {}
        if {"key", "value", "run_uuid"} <= columns_of(database, "params"):
            found = database.execute(f"SELECT {_short('key')} FROM params WHERE run_uuid = ?", (run,))
            keys = {key for (key,) in found}
            these = only(database, {key for key in keys if isinstance(key, str) and is_known(key)})
            params = dict(
                database.execute(f"SELECT key, value FROM params WHERE run_uuid = ? AND key IN ({these})", (run,))
            )
    return series.records("MLflow database", settings=pick(params), run=run)


def _short(column: str) -> str:
    """What is fetched of a column of names: no more than tells that one is too long."""
    return f"substr({column}, 1, {MAX_NAME + 1})"


def _float(value: Any) -> float:
    """A stored number; the largest float stands for infinity."""
    found = number(value)
    if found is None:
        return np.nan
    return found if abs(found) < _INFINITE else np.copysign(np.inf, found)


FOLDER = Format(
    "mlflow files",
    get="the folder mlruns, or one experiment or run in it",
    lost="what the metrics' names do not say: --optimizer, --norm-kind; steps are those given to log_metric",
    sniff=_is_folder,
    read=_read_folder,
)
DATABASE = Format(
    "mlflow database",
    get="mlflow.db, where MLflow tracks by default since 3.7",
    lost="what the metrics' names do not say: --optimizer, --norm-kind; steps are those given to log_metric",
    sniff=is_sqlite,  # of any other than trackio's, reading says what is wrong
    read=_read_database,
)

"""DVCLive: ``dvclive/plots/metrics/<name>.tsv``, a file a metric, with a step and a value a line.

The norm is what the run logged; names tell some frameworks (`runs.facts_of`). Steps count calls of ``next_step`` from
0, so that they are updates only where every update calls it: the callback of transformers does so once a log. A resumed
run goes on in the same files. Settings are in ``params.yaml``, in the folder or beside it.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from .base import Format, ReadOptions, Records
from .opening import Log
from .runs import choose_with_norm, facts_of, is_norm
from .series_files import files_by_metric, read_series
from .settings import beside

__all__ = ["FORMAT"]

_HEADER = re.compile(r"(?:timestamp\t)?step\t[^\t]+")


def _sniff(log: Log) -> bool:
    if not log.is_dir and not _HEADER.fullmatch(log.first_line):
        return False
    return bool(_runs(log))


def _runs(log: Log) -> dict[str, Path]:
    """Folders ``plots/metrics``, by the folder that they stand in as seen from the one given."""
    files = log.files("*.tsv") if log.is_dir else [log.path]
    tops = {top for path in files if (top := _metrics_folder(path.absolute()))}
    return {os.path.relpath(top.parent.parent, log.path): top for top in sorted(tops)}


def _metrics_folder(path: Path) -> Path | None:
    """The folder ``plots/metrics`` that a file lies in, at any depth."""
    return next((f for f in path.parents if f.name == "metrics" and f.parent.name == "plots"), None)


def _read(log: Log, options: ReadOptions) -> Records:
    runs = _runs(log)
    files = {run: files_by_metric(log, top, ".tsv") for run, top in runs.items()}
    run = choose_with_norm(runs, lambda run: any(is_norm(name, options) for name in files[run]), options.run)
    series, dropped = read_series(log, files[run], options, _fields, _HEADER)
    from_zero = any(np.any(column.steps == 0) for column in series.columns())
    folder = runs[run].parent.parent
    by_log = {"grad_norm", "learning_rate", "loss", "epoch"} <= set(series.names)
    return series.records(
        "DVCLive",
        replace(facts_of(series.names), from_zero=from_zero),
        settings=beside(folder, ("params.yaml",)) or beside(folder.parent, ("params.yaml",)),
        dropped=dropped,
        notes=("if transformers wrote it, a step is a log, not an update: are they the same?",) if by_log else (),
        run=run,
    )


def _fields(line: str) -> tuple[str, str] | None:
    """Step and value of ``[time] step value``."""
    fields = line.split("\t")
    return (fields[-2], fields[-1]) if len(fields) in (2, 3) else None


FORMAT = Format(
    "dvclive",
    get="the folder dvclive, or one TSV file in it",
    lost="which steps are updates, where not each calls next_step (transformers); --optimizer, --norm-kind",
    sniff=_sniff,
    read=_read,
)

"""``scalars.json`` of MMEngine (JSON lines in ``vis_data``, or ``<time>.json``), its work folder, and its console.

``{"lr": ..., "grad_norm": ..., "loss": ..., "epoch": 1, "iter": 10, "step": 10}`` every 10 steps, where ``grad_norm``
and ``loss`` are means of those 10. The norm is taken before clipping and logged only where ``clip_grad`` is set; its
kind is that of ``clip_grad`` (l2 by default) and no key names it. In rows of a validation ``step`` is the epoch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..errors import RefineError
from . import console, json_text
from .base import Facts, Format, ReadOptions, Records, choose_run
from .opening import Log

__all__ = ["FORMAT"]

_FACTS = Facts(clipping="pre", lr_alignment="this_step", window_mean=True)
_MISSING = (
    "MMEngine logs grad_norm only where optim_wrapper has clip_grad: set it, with a large max_norm to clip nothing"
)
_LINE = re.compile(
    r"\bEpoch(?:\(train\))? {1,4}\[ *(?P<epoch>\d{1,9})\]\[ *(?P<at>\d{1,9})/(?P<each>\d{1,9})\]"
    r"|\bIter\(train\) {1,4}\[ *(?P<step>\d{1,15}/\d{1,15})\]"
)
_PAIR = re.compile(r"\b(\w{1,60}): {1,4}([^\s,]{1,40})(?=,|\s|$)")


def _train(row: dict[str, Any]) -> dict[str, Any] | None:
    """A row of training, with its step under one name."""
    if "iter" not in row:
        return None
    row["step"] = row.pop("iter")
    return row


def _console(lines: Iterable[str]) -> Iterator[dict[str, str]]:
    for row in console.pairs(lines, _LINE, _PAIR):
        if "each" in row:
            row = {"step": str((int(row.pop("epoch")) - 1) * int(row["each"]) + int(row.pop("at"))), **row}
        yield row


def _read(log: Log, options: ReadOptions) -> Records:
    run = None
    if log.is_dir:
        found = {str(path.parent.relative_to(log.path)).removesuffix("/vis_data"): path for path in _logs(log)}
        run = choose_run(found, options.run)
        log = log.sibling(found[run])
    if _is_lines(log):
        rows, dropped = json_text.read_lines(log, options, _train)
        return rows.records("MMEngine scalars.json", _FACTS, dropped=dropped, missing=_MISSING, run=run)
    return console.read(log, options, "MMEngine console log", _FACTS, _console(log.lines()), missing=_MISSING)


def _logs(log: Log) -> list[Path]:
    return log.files("scalars.json")


def _is_lines(log: Log) -> bool:
    return any({"data_time", "iter", "step"} <= row.keys() for row in json_text.first_objects(log))


def _sniff(log: Log) -> bool:
    if log.is_dir:
        try:
            return bool(_logs(log))
        except RefineError:
            return False
    return bool(_LINE.search(log.text)) or _is_lines(log)


FORMAT = Format(
    "mmengine",
    get="work_dirs/<config>/<time>/vis_data/scalars.json of MMEngine, the work folder, or the console",
    lost="the norm's kind (that of clip_grad): --norm-kind; norms of single steps (each is a mean of 10)",
    sniff=_sniff,
    read=_read,
)

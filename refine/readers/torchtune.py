"""Logs of torchtune's ``DiskLogger`` (jsonl or txt) and ``StdoutLogger``.

``{"step": 1, "loss": ..., "lr": ..., "tokens_per_second_per_gpu": ..., "grad_norm": ...}`` or ``Step 1 | loss:1.2
lr:2e-05 tokens_per_second_per_gpu:... grad_norm:0.5``. The norm is l2 of one step before clipping, logged only where
``clip_grad_norm`` is set. The rate is that of the next step. Every launch starts a new file.
"""

from __future__ import annotations

import re

from . import console, json_text
from .base import Facts, Format, ReadOptions, Records
from .opening import Log

__all__ = ["FORMAT"]

_FACTS = Facts("l2", clipping="pre", lr_alignment="next_step")
_MISSING = 'torchtune logs grad_norm only where clip_grad_norm is set: set it ("inf" clips nothing)'
_LINE = re.compile(r"\bStep (?P<step>\d{1,15}) \|(?= \w{1,60}:\S)")
_PAIR = re.compile(r" (\w{1,60}):(\S{1,40})(?=\s|$)")


def _read(log: Log, options: ReadOptions) -> Records:
    if _is_lines(log):
        rows, dropped = json_text.read_lines(log, options)
        return rows.records("torchtune JSON lines", _FACTS, dropped=dropped, missing=_MISSING)
    found = console.pairs(log.lines(), _LINE, _PAIR)
    return console.read(log, options, "torchtune text log", _FACTS, found, missing=_MISSING)


def _is_lines(log: Log) -> bool:
    return any(
        {"step", "loss", "lr", "tokens_per_second_per_gpu"} <= row.keys() for row in json_text.first_objects(log)
    )


FORMAT = Format(
    "torchtune",
    get="log_<time>.txt or .jsonl of torchtune's DiskLogger; its console output",
    lost="the optimizer: --optimizer",
    sniff=lambda log: ("Step " in log.text and bool(_LINE.search(log.text))) or _is_lines(log),
    read=_read,
)

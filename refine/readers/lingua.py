"""``metrics.jsonl`` of Meta Lingua, and its console line.

``{"global_step": 10, "acc_step": 0, "optim/grad_norm": 0.28, "optim/lr": ..., "loss/out": ...}`` or
``step: 10  acc: 0  loss:  3.4394  grad: 2.80e-01  ...  lr: 1.50e-03  ...``. The norm is l2 of one step before
clipping, or -1 in a row without an optimizer step. The rate is the one used in the step.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from . import console, json_text
from .base import Facts, Format, ReadOptions, Records
from .gather import number
from .opening import Log

__all__ = ["FORMAT"]

_FACTS = Facts("l2", clipping="pre", lr_alignment="this_step")
_NORM = "optim/grad_norm"
_LINE = re.compile(r"\bstep: (?P<step>\d{1,15})  acc: \d{1,9}(?=  )")
_PAIR = re.compile(r"  (\w{1,40}): {1,12}(\S{1,40})(?=\s|$)")


def _updates(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row without the norm that says that no step was taken."""
    return {name: value for name, value in row.items() if name != _NORM or number(value) != -1.0}


def _read(log: Log, options: ReadOptions) -> Records:
    if _is_lines(log):
        rows, dropped = json_text.read_lines(log, options, _updates)
        return rows.records("lingua metrics.jsonl", _FACTS, dropped=dropped)
    found = console.pairs(log.lines(), _LINE, _PAIR, {"grad": _NORM})
    return console.read(log, options, "lingua console log", _FACTS, map(_updates, found))


def _is_lines(log: Log) -> bool:
    return any({"global_step", _NORM, "optim/lr"} <= row.keys() for row in json_text.first_objects(log))


FORMAT = Format(
    "lingua",
    get="metrics.jsonl in the dump folder of lingua; its console output",
    lost="nothing (metrics.jsonl); all but 3 digits (console)",
    sniff=lambda log: ("  acc: " in log.text and bool(_LINE.search(log.text))) or _is_lines(log),
    read=_read,
)

"""JSON lines and console lines of verl.

``{"step": 1, "data": {"actor/grad_norm": ..., "actor/lr": ...}}`` or ``step:1 - actor/grad_norm:... - ...``. The norm
is l2 before clipping, in reinforcement learning a mean over the mini-batch updates of the step, so that a step is
several updates. Where actor and critic are both logged, one has to be chosen. ``train/lr(1e-3)`` is in thousandths.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from . import console, json_text
from .base import Facts, Format, ReadOptions, Records
from .opening import Log

__all__ = ["FORMAT"]

_LINE = re.compile(r"\bstep:(?P<step>\d{1,15})(?= - [\w-]{1,40}/)")
_PAIR = re.compile(r" - ([^:\s]{1,120}):(?:np\.\w{1,20}\()?([^\s()]{1,40})\)?(?=\s|$)")


def _row(value: dict[str, Any]) -> dict[str, Any] | None:
    data = value.get("data")
    if not isinstance(data, Mapping):
        return None
    return {"step": value.get("step"), **{k: v for k, v in data.items() if not str(k).endswith("global_step")}}


def _read(log: Log, options: ReadOptions) -> Records:
    reinforcement = "actor/" in log.text
    facts = Facts("l2", clipping="pre", window_mean=reinforcement)
    note = "a step of verl is several updates of the actor and the critic; its norm is their mean"
    notes = (note,) if reinforcement else ()
    if _is_lines(log):
        rows, dropped = json_text.read_lines(log, options, _row)
        return rows.records("verl JSON lines", facts, dropped=dropped, notes=notes)
    found = console.pairs(log.lines(), _LINE, _PAIR)
    return console.read(log, options, "verl console log", facts, found, notes=notes)


def _is_lines(log: Log) -> bool:
    return any(row.keys() == {"step", "data"} and isinstance(row["data"], dict) for row in json_text.first_objects(log))


FORMAT = Format(
    "verl",
    get="JSON lines of verl's file logger; its console output",
    lost="norms of single updates (in reinforcement learning each is a mean over mini-batches)",
    sniff=lambda log: ("step:" in log.text and bool(_LINE.search(log.text))) or _is_lines(log),
    read=_read,
)

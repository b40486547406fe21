"""JSON documents of github.com/fabian-sp/lr-scheduling (``data/grad_norm``, ``data/horizon_transfer``).

``{"config": {...}, "history": {"train": {"iter": [...], "train_lr": [...], "grad_norm": [...], ...}, "val": ...}}``
with a row every 50 steps. The norm is l2 before clipping (how it is averaged is not public), the rate that of the next
step. Many of the files go back in step. Those named ``ann...`` hold a cooldown only, from its branch on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from . import json_text
from .base import Facts, Format, ReadOptions, Records, planned
from .opening import Log
from .settings import pick

__all__ = ["FORMAT"]

_TRAIN = re.compile(r'"train"\s{0,20}:\s{0,20}\{')


def _read(log: Log, options: ReadOptions) -> Records:
    document = json_text.parse(log.read_json_text())
    config, history = _part(document, "config"), _part(document, "history")
    records = json_text.from_value(_part(history, "train"), options)
    notes: tuple[str, ...] = ()
    steps: list[float] = next((c.values[:2].tolist() for c in records.columns if c.name == "iter"), [])
    if len(steps) > 1 and steps[0] > 2 * abs(steps[1] - steps[0]):
        notes = (
            f"the log starts at step {steps[0]:.0f}, where a cooldown branches off; what came before is in another",
        )
    return records.known_as(
        "lr-scheduling JSON",
        Facts("l2", clipping="pre", lr_alignment="next_step"),
        settings=pick(config),
        planned_steps=planned(config.get("iterations")),
        notes=notes,
    )


def _part(value: Any, name: str) -> Mapping[str, Any]:
    found = value.get(name) if isinstance(value, Mapping) else None
    return found if isinstance(found, Mapping) else {}


FORMAT = Format(
    "lr-scheduling",
    get="data/grad_norm/*.json of github.com/fabian-sp/lr-scheduling",
    lost="the optimizer: --optimizer; what comes before a cooldown's branch (ann... files)",
    sniff=lambda log: (
        log.text.lstrip()[:1] == "{"
        and all(word in log.text for word in ('"history"', '"train_lr"'))
        and bool(_TRAIN.search(log.text))
    ),
    read=_read,
)

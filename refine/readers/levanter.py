"""Lines of Levanter's ``json_logger`` tracker, behind any prefix of a Python logger.

``{"tracker": "json_logger", "event": "log", "step": 10, "metrics": {"grad/norm/total": ..., "train/loss": ...}}``. The
norms (l2, of one step, before clipping) come every 10 steps by default, losses every step. Steps count from 0. Norms of
``updates`` and ``params`` beside them are not gradient norms.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import json_text
from .base import Facts, Format, ReadOptions, Records
from .opening import Log
from .settings import pick

__all__ = ["FORMAT"]


def _read(log: Log, options: ReadOptions) -> Records:
    settings: dict[str, Any] = {}

    def row(event: dict[str, Any]) -> dict[str, Any] | None:
        metrics, hparams = event.get("metrics"), event.get("hparams")
        if isinstance(hparams, Mapping):
            settings.update(pick(hparams))
        if event.get("event") != "log" or not isinstance(metrics, Mapping):
            return None
        return {"step": event.get("step"), **{k: v for k, v in metrics.items() if k not in ("global_step", "step")}}

    rows, dropped = json_text.read_lines(log, options, row)
    dropped.pop("lines without an object", None)  # those of other loggers
    facts = Facts("l2", clipping="pre", from_zero=True)
    missing = "Levanter logs norms where trainer.watch.watch_targets holds grads: put it there"
    return rows.records("Levanter json_logger", facts, dropped=dropped, settings=settings, missing=missing)


FORMAT = Format(
    "levanter",
    get="lines of Levanter's json_logger tracker",
    lost="whether the rate is this step's or the next one's",
    sniff=lambda log: any(
        {"tracker", "event"} <= row.keys() and row["tracker"] == "json_logger" for row in json_text.first_objects(log)
    ),
    read=_read,
)

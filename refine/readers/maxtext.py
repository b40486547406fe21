"""``metrics_file`` of MaxText: JSON lines.

``{"learning/loss": ..., "learning/grad_norm": ..., "learning/raw_grad_norm": ..., "step": 0.0, ...}``. Both norms are
l2 of one step: ``raw_grad_norm`` before clipping, ``grad_norm`` after it. Steps are floats that count from 0. Whether
the rate is this step's is not known.
"""

from __future__ import annotations

from . import json_text
from .base import Facts, Format, ReadOptions, Records
from .opening import Log

__all__ = ["FORMAT"]

_RAW = "learning/raw_grad_norm"


def _read(log: Log, options: ReadOptions) -> Records:
    rows, dropped = json_text.read_lines(log, options)
    raw = _RAW in rows.names if options.column is None else options.column == _RAW
    facts = Facts("l2", clipping="pre" if raw else "post", from_zero=True)
    return rows.records("MaxText metrics_file", facts, dropped=dropped)


FORMAT = Format(
    "maxtext",
    get="MaxText with metrics_file=metrics.jsonl",
    lost="whether the rate is this step's or the next one's",
    sniff=lambda log: any(
        "learning/loss" in row and ("learning/grad_norm" in row or _RAW in row) for row in json_text.first_objects(log)
    ),
    read=_read,
)

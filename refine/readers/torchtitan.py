"""Console lines of torchtitan.

``[titan] ... step: 10  loss:  7.91234  grad_norm:  1.2345  memory: ...`` with colours, at step 1 and every
``log_freq``. The norm is l2 of one step, before clipping (whatever its docstring says), since June 2025. The console
has no learning rate; a run stops where its loss is not finite.
"""

from __future__ import annotations

import re
from dataclasses import replace

from . import console
from .base import Facts, Format, ReadOptions, Records
from .opening import Log

__all__ = ["FORMAT"]

_LINE = re.compile(r"(?<!validate )\bstep: {1,12}(?P<step>\d{1,15}) {1,4}(?=loss: )")
_PAIR = re.compile(r"(\w{1,60}): {1,12}(\S{1,40})(?=\s|$)")
_PLAN = re.compile(r"total steps (\d{1,15}) \(warmup (\d{1,15})\)")


def _read(log: Log, options: ReadOptions) -> Records:
    records = console.read(
        log,
        options,
        "torchtitan console log",
        Facts("l2", clipping="pre", lr_alignment="this_step"),
        console.pairs(log.lines(), _LINE, _PAIR),
        missing="torchtitan prints grad_norm since June 2025: update it",
    )
    plan = _PLAN.search(log.text)
    if plan is None:
        return records
    return replace(records, planned_steps=int(plan[1]), settings={"warmup_steps": int(plan[2])})


FORMAT = Format(
    "torchtitan",
    get="console output of torchtitan",
    lost="learning rates (metrics.enable_tensorboard has them); more than 4 decimals",
    sniff=lambda log: "step: " in log.text and bool(_LINE.search(log.text)),
    read=_read,
)

"""Console lines of nanotron.

``iteration: 1 / 400 | consumed_tokens: 4.1K | ... | grad_norm: 0.28 | lm_loss: 3.48 | lr: 0.00015 | ...``: three
digits, with K, M, B for large numbers. The norm is l2 of one step before clipping, logged only where ``clip_grad`` is
set. The rate is that of the next step.
"""

from __future__ import annotations

import re

from . import console
from .base import Facts, Format, ReadOptions, Records
from .opening import Log

__all__ = ["FORMAT"]

_LINE = re.compile(r"iteration: (?P<iteration>\d{1,15} / \d{1,15})(?= \|)")


def _read(log: Log, options: ReadOptions) -> Records:
    return console.read(
        log,
        options,
        "nanotron console log",
        Facts("l2", clipping="pre", lr_alignment="next_step"),
        console.pairs(log.lines(), _LINE, console.PIPED),
        missing="nanotron logs the norm only where optimizer.clip_grad is set: set it",
    )


FORMAT = Format(
    "nanotron",
    get="console output of nanotron",
    lost="more than 3 digits of every number; W&B has them",
    sniff=lambda log: bool(_LINE.search(log.text)),
    read=_read,
)

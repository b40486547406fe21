"""Text of Composer's ``FileLogger``.

``[metric][batch=10]: l2_norm/grad/global: 0.25``, one value a line, with ``OptimizerMonitor``. The norms are l2 of one
step, taken after clipping: where the optimizer's gradients are clipped they say little more than the threshold. The
monitor logs every 10 batches by default.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from . import console
from .base import Facts, Format, ReadOptions, Records
from .opening import Log

__all__ = ["FORMAT"]

_LINE = re.compile(r"\[metric\]\[batch=(\d{1,15})\]: (.{1,200}?): (\S{1,60})\s*$", re.MULTILINE)


def _rows(lines: Iterable[str]) -> Iterator[dict[str, str]]:
    """What is logged of one batch in neighbouring lines."""
    row: dict[str, str] = {}
    for text in lines:
        if found := _LINE.search(text):
            if row and found[1] != row["batch"]:
                yield row
                row = {}
            row |= {"batch": found[1], found[2]: found[3]}
    if row:
        yield row


def _read(log: Log, options: ReadOptions) -> Records:
    facts = Facts("l2", clipping="post")
    missing = "Composer logs norms with callbacks=[OptimizerMonitor()]: add it"
    return console.read(log, options, "Composer FileLogger", facts, _rows(log.lines()), missing=missing)


FORMAT = Format(
    "composer",
    get="log file of Composer's FileLogger, with OptimizerMonitor",
    lost="the norm before clipping (Composer logs it after)",
    sniff=lambda log: bool(_LINE.search(log.text)),
    read=_read,
)

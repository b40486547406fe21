"""Console lines of fairseq, ``--log-format json`` or ``simple``.

``... | train_inner | {"epoch": 1, ..., "num_updates": "10", "lr": "0.0015", "gnorm": "0.291", ...}``, where every value
is a string. ``gnorm`` is the mean of the l2 norms before clipping over the window (non-finite ones left out), to
3 decimals: biased low against the root of the mean square. The rate is that of the next update.
"""

from __future__ import annotations

import re

from . import console
from .base import Facts, Format, ReadOptions, Records
from .opening import Log

__all__ = ["FORMAT"]

_LINE = re.compile(r"\| train_inner \| ")
_PAIR = re.compile(r"\b(?!update\b)(\w{1,60})(?:\": \"?|=)([^\",}\s]{1,40})(?=[\",}])")


def _read(log: Log, options: ReadOptions) -> Records:
    return console.read(
        log,
        options,
        "fairseq console log",
        Facts("l2", clipping="pre", lr_alignment="next_step", window_mean=True),
        console.pairs(log.lines(), _LINE, _PAIR),
        notes=("fairseq logs the loss in bits (base 2); it is left so",),
    )


FORMAT = Format(
    "fairseq",
    get="console output of fairseq-train, --log-format json or simple",
    lost="norms of single updates (each is a mean over the log interval); more than 3 decimals",
    sniff=lambda log: bool(_LINE.search(log.text)),
    read=_read,
)

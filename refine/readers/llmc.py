"""``main.log`` of llm.c, and its console line.

``s:12 trl:3.4053 lr:0.001950 norm:0.27`` counts steps from 0 and has 2 decimals of the norm; the console's
``step   13/400 | loss 3.405334 (+0.10z)| norm 0.2702 (+0.20z)| lr 1.95e-03 | ...`` counts from 1 and has 4. The norm
is l2 of one step before clipping, the rate the one used in the step. Resumed runs append to main.log.
"""

from __future__ import annotations

import re
from dataclasses import replace

from . import console
from .base import Facts, Format, ReadOptions, Records
from .opening import Log

__all__ = ["FORMAT"]

_FACTS = Facts("l2", clipping="pre", lr_alignment="this_step")
_FILE = re.compile(
    r"^s:(?P<step>\d{1,15}) trl:(?P<loss>\S{1,40})(?: lr:(?P<lr>\S{1,40}))?(?: norm:(?P<grad_norm>\S{1,40}))?",
    re.MULTILINE,
)
_CONSOLE = re.compile(
    r"\bstep {1,12}(?P<step>\d{1,15}/\d{1,15}) \| (?:train )?loss {1,12}(?P<loss>\S{1,40})[^|\n]{0,40}"
    r"\| norm {1,12}(?P<grad_norm>\S{1,40})[^|\n]{0,40}\| lr (?P<lr>\S{1,40})(?= )"
)


def _read(log: Log, options: ReadOptions) -> Records:
    if _CONSOLE.search(log.text):
        return console.read(log, options, "llm.c console log", _FACTS, console.pairs(log.lines(), _CONSOLE))
    rows = console.pairs(log.lines(), _FILE)
    missing = "llm.c writes the norm to main.log since 2024: update it, or keep its console output"
    return console.read(log, options, "llm.c main.log", replace(_FACTS, from_zero=True), rows, missing=missing)


FORMAT = Format(
    "llmc",
    get="main.log of llm.c (-o FOLDER), or its console output",
    lost="all but 2 decimals of the norm (main.log) or 4 (console)",
    sniff=lambda log: bool(
        ("trl:" in log.text and _FILE.search(log.text)) or ("| norm" in log.text and _CONSOLE.search(log.text))
    ),
    read=_read,
)

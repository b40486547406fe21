"""Console blocks of OLMo-core and of OLMo 1.

``[step=10/400,epoch=1,eta=...]``, then indented lines such as ``    optim/total grad norm=0.2800``. The norm is l2 of
one step before clipping, logged only where a ``max_grad_norm`` is set. Numbers are rounded: rates from 0.0001 on to 4
decimals (0.00015 becomes 0.0002, 33 % off), and 1,234 stands for 1234.6. OLMo-core logs the rate of this step.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from . import console
from .base import Facts, Format, ReadOptions, Records
from .opening import Log

__all__ = ["FORMAT"]

_STEP = re.compile(r"\[step=(?P<step>\d{1,15}(?:/\d{1,15})?)(?:/\?\?\?)?[,\]]")
_PAIR = re.compile(r"(?:^|\s)([a-z]\w{0,40}/[^=]{1,120})=(\S{1,40})\s*$")
_BLOCK = re.compile(r"\[step=\d[^\n]{0,200}\][^\n]{0,20}\n[^\n]{0,200}?\s[a-z]+/[^=\n]{1,120}=")


def _blocks(lines: Iterable[str]) -> Iterator[dict[str, str]]:
    row: dict[str, str] = {}
    for text in lines:
        if found := _STEP.search(text):
            if len(row) > 1:
                yield row
            row = {"step": found["step"]}
        elif row and (found := _PAIR.search(text)):
            row[found[1]] = found[2]
    if len(row) > 1:
        yield row


def _read(log: Log, options: ReadOptions) -> Records:
    core = "optim/total grad norm=" in log.text
    return console.read(
        log,
        options,
        "OLMo-core console log" if core else "OLMo console log",
        Facts("l2", clipping="pre", lr_alignment="this_step" if core else "unknown"),
        _blocks(log.lines()),
        missing="OLMo logs the norm only where max_grad_norm is set: set it",
        notes=("the console rounds learning rates to 4 decimals, which is up to 33 % off; W&B has them exactly",),
    )


FORMAT = Format(
    "olmo",
    get="console output of OLMo-core or OLMo",
    lost="exact numbers: rates are rounded to 4 decimals; W&B has them",
    sniff=lambda log: bool(_BLOCK.search(log.text)),
    read=_read,
)

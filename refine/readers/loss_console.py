"""Console lines of no framework in particular that name a step and a loss: nanoGPT, modded-nanogpt, your own script.

``step 250: train loss 3.1, val loss 3.2``, ``iter 100: loss 3.2, time 12ms``, ``step:125/5100 val_loss:4.5``. Of
``loss 3.2 (3.5)`` the number in brackets, a running average, is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from . import console
from .base import Facts, Format
from .opening import Log

__all__ = ["FORMAT"]

_LOSS = (
    r"(?:(?:train(?:ing)?|val|valid|validation|eval|evaluation|test|dev)[ _/-]?)?(?:(?:lm|ce|avg|smooth|mean)[ _])?"
    r"(?:loss|ppl|perplexity|bpb)(?:[ _/](?:train|val|valid|validation|eval|test))?"
)
_PAIR = re.compile(
    rf"(?<![\w/])({_LOSS}|lr|learning[_ ]rate|batch[_ ]size)['\"]?(?::|=)? {{0,12}}({console.NUMBER})(?![\w.])",
    re.IGNORECASE,
)
_LONGEST = 4000


def _rows(lines: Iterable[str]) -> Iterator[dict[str, str]]:
    for text in lines:
        text = text[:_LONGEST]
        if (step := console.STEP.search(text)) and (pairs := _PAIR.findall(text)):
            yield {"step": step["step"], **{name.lower(): value for name, value in reversed(pairs)}}


def _sniff(log: Log) -> bool:
    lines = (text for text in log.text.splitlines() if "loss" in text.lower() and len(text) < _LONGEST)
    return sum(1 for _, _ in zip(_rows(lines), range(2), strict=False)) == 2


FORMAT = Format(
    "loss-console",
    get="console output of nanoGPT, modded-nanogpt or your own script: step 10 | loss 3.2 | lr 1e-3",
    lost="what it does not print: the learning rates, in most",
    sniff=_sniff,
    read=lambda log, options: console.read(log, options, "console log", Facts(), _rows(log.lines())),
)

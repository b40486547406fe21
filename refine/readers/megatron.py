"""Console lines of Megatron-LM and what descends from it: Megatron-Bridge, Megatron-DeepSpeed, GPT-NeoX, NeMo.

``iteration 10/ 400 | consumed samples: 160 | ... | learning rate: 1.65E-03 | ... | grad norm: 0.273 |``, behind any
prefix (``7: ``, ``[default7]:``). The norm is l2 before clipping, of the last step of the interval, to 3 decimals;
a skipped iteration has no ``grad norm`` field. The rate is that of the next step. NeMo counts from 0.
"""

from __future__ import annotations

import re
from dataclasses import replace

from . import console
from .base import Facts, Format, ReadOptions, Records
from .opening import Log

__all__ = ["FORMAT"]

_LINE = re.compile(r"iteration {1,12}(?P<iteration>\d{1,15} {0,12}/ {0,12}\d{1,15})(?= {0,12}\|)")
_NEMO = re.compile(r"Training epoch \d+, iteration \d")


def _read(log: Log, options: ReadOptions) -> Records:
    nemo = bool(_NEMO.search(log.text))
    name = "NeMo" if nemo else "Megatron"
    facts = Facts("l2", clipping="pre") if nemo else Facts("l2", clipping="pre", lr_alignment="next_step")
    rows = console.pairs(log.lines(), _LINE, console.PIPED)
    records = console.read(log, options, f"{name} console log", replace(facts, from_zero=nemo), rows)
    if nemo and records.planned_steps is not None:
        return replace(records, planned_steps=records.planned_steps + 1)
    return records


FORMAT = Format(
    "megatron",
    get="console output (slurm *.out) of Megatron-LM, Megatron-Bridge, Megatron-DeepSpeed",
    lost="more than 3 decimals of the norm; steps between log lines; use TensorBoard or W&B for both",
    sniff=lambda log: bool(_LINE.search(log.text)),
    read=_read,
)

"""Console output of the HF Trainer: ``{'loss': 3.9075, 'grad_norm': 0.817, 'learning_rate': 2e-06, 'epoch': 0.78}``.

These lines have no step; ``trainer_state.json`` in any checkpoint of the run has one, and all digits. Since
transformers 5.0 the values are strings of 4 digits and the rate is the one used in the step; before that it depends on
the version. The norm is l2 of the last step of the window, before clipping. Lines of an evaluation are left out.
"""

from __future__ import annotations

import re

from ..errors import RefineError
from . import console
from .base import Facts, Format, ReadOptions, Records
from .opening import Log

__all__ = ["FORMAT"]

_LINE = re.compile(r"\{(?=(?:'[^{}]{0,400}?, )?'(?:loss|grad_norm)': )")
_PAIR = re.compile(r"'([\w/.-]{1,60})': '?([^',{}]{1,40})'?(?=[,}])")
_ROW = re.compile(r"\{'[^{}\n]{0,400}?'(?:loss|grad_norm)': [^{}\n]{0,400}?'epoch': ")
_STRINGS = re.compile(r"\{'(?:loss|grad_norm)': '")


def _read(log: Log, options: ReadOptions) -> Records:
    if options.every is None and options.step_column is None:
        raise RefineError(
            "console output of the HF Trainer has no steps: name trainer_state.json of a checkpoint of the run, "
            "or say with --every K how many updates lie between two lines (logging_steps)"
        )
    strings = bool(_STRINGS.search(log.text))
    return console.read(
        log,
        options,
        "HF Trainer console log",
        Facts("l2", clipping="pre", lr_alignment="this_step" if strings else "unknown", mean_loss=True),
        console.pairs(log.lines(), _LINE, _PAIR),
        missing="transformers logs grad_norm since 4.38, and before 5.3 only where max_grad_norm is not 0",
    )


FORMAT = Format(
    "hf-console",
    get="console output of the HF Trainer, with --every logging_steps; trainer_state.json is better",
    lost="steps: --every; all but 4 digits (since transformers 5.0)",
    sniff=lambda log: bool(_ROW.search(log.text)),
    read=_read,
)

"""``logging.jsonl`` of ms-swift: the rows of the HF Trainer, to 8 decimals.

The step is the text ``"global_step/max_steps": "2/4389"``, in its Megatron path ``"iteration": "2/4389"``. The norm is
l2 of one step before clipping; whose rate stands beside it depends on the version of transformers.
"""

from __future__ import annotations

from typing import Any

from . import json_text
from .base import Facts, Format, ReadOptions, Records
from .opening import Log

__all__ = ["FORMAT"]

_STEP = "global_step/max_steps"


def _train(row: dict[str, Any]) -> dict[str, Any] | None:
    """A row of training; the summaries at the end have another step, or none."""
    return row if _STEP in row or isinstance(row.get("iteration"), str) else None


def _read(log: Log, options: ReadOptions) -> Records:
    rows, dropped = json_text.read_lines(log, options, _train)
    return rows.records("ms-swift logging.jsonl", Facts("l2", clipping="pre", mean_loss=True), dropped=dropped)


def _sniff(log: Log) -> bool:
    rows = json_text.first_objects(log)
    return any(_STEP in row or ("remaining_time" in row and "/" in str(row.get("iteration"))) for row in rows)


FORMAT = Format(
    "ms-swift",
    get="logging.jsonl in the output folder of ms-swift",
    lost="more than 8 decimals; whether the rate is this step's; trainer_state.json has more",
    sniff=_sniff,
    read=_read,
)

"""Logs that hold no gradient norm, told by content, and what to log in the next run so that they do.

Used only where a log was read and no norm was found, or could not be read at all: a log to which somebody has added the
norm is read like any other.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from . import json_text, table
from .opening import Log

__all__ = ["recipe"]


@dataclass(frozen=True, slots=True)
class _Kind:
    """A log without norms: its name, how to tell it, and what to do."""

    name: str
    tell: Callable[[Log], bool]
    remedy: str


def _text(pattern: str) -> Callable[[Log], bool]:
    compiled = re.compile(pattern, re.MULTILINE)
    return lambda log: bool(compiled.search(log.text))


def _header(first: str, *others: str, without: Iterable[str] = ("step", "global_step")) -> Callable[[Log], bool]:
    """A table with this first column and one at least of each group of others."""

    def tell(log: Log) -> bool:
        names = table.header(log)
        return (
            names[:1] == [first] and not set(without) & set(names) and all(set(g.split()) & set(names) for g in others)
        )

    return tell


def _objects(*names: str) -> Callable[[Log], bool]:
    return lambda log: any(set(names) <= row.keys() for row in json_text.first_objects(log))


_CLIP = "log the value that torch.nn.utils.clip_grad_norm_ returns"
_NO_CLIP = "log what torch.nn.utils.clip_grad_norm_(model.parameters(), float('inf')) returns before optimizer.step()"

_KINDS = (
    _Kind("nanoGPT console", _text(r"^iter \d+: loss \S+, time \S+ms"), f"{_CLIP} in train.py"),
    _Kind("modded-nanogpt log", _text(r"\bstep:\d+/\d+ (?:train|val)_loss:"), _NO_CLIP),
    _Kind("nanochat console", _text(r"\bstep \d+/\d+ \(\S+%\) \| loss: [^\n]{0,80}\blrm: "), _NO_CLIP),
    _Kind("litgpt console", _text(r"\bEpoch \d+ \| iter \d+ step \d+ \| loss train: "), f"{_CLIP} in fabric.log_dict"),
    _Kind(
        "litgpt metrics.csv",
        lambda log: {"iter_time", "remaining_time", "learning_rate"} <= set(table.header(log)),
        "add what fabric.clip_gradients returns to the metrics of fabric.log_dict",
    ),
    _Kind("timm summary.csv", _header("epoch", "train_loss", "eval_loss eval_top1"), f"{_CLIP}, once an update"),
    _Kind(
        "Keras CSVLogger",
        _header("epoch", "loss"),
        "a row an epoch is too few: override train_step, return tf.linalg.global_norm(gradients) as grad_norm, "
        "and log every batch",
    ),
    _Kind(
        "detectron2 metrics.json",
        _objects("iteration", "total_loss", "lr"),
        "in the train loop, get_event_storage().put_scalar('grad_norm', norm, smoothing_hint=False), "
        "where norm is what torch.nn.utils.clip_grad_norm_ returns",
    ),
    _Kind("open_clip or open_lm console", _text(r"\bTrain Epoch: \d+ \[ *\d+/\d+ \(\d+%\)\]"), f"{_CLIP} in train.py"),
    _Kind("MaxText console", _text(r"\bcompleted step: \d+, seconds: "), "set metrics_file: it holds raw_grad_norm"),
    _Kind(
        "DeepSpeed log",
        lambda log: "Train_Samples_" in log.name or bool(re.search(r"\bstep=\d+, skipped=\d+, lr=\[", log.text)),
        "log engine.get_global_grad_norm() after engine.step()",
    ),
    _Kind(
        "LLaMA-Factory trainer_log.jsonl",
        _objects("current_steps", "total_steps", "percentage"),
        "trainer_state.json beside it has one",
    ),
    _Kind(
        "NeMo console",
        _text(r"\bTraining epoch \d+, iteration \d+/\d+ \|"),
        "the TensorBoard or W&B log of the run has grad_norm",
    ),
    _Kind(
        "GPT-NeoX console",
        _text(r"\bsamples/sec: [^\n]{0,20}\| iteration "),
        "log the total that model.get_global_grad_norm() returns",
    ),
)

_MENTIONED = re.compile(r"(?<!max_)(?:grad(?:ient)?[_ ]?norm|gnorm)(?!_)", re.IGNORECASE)


def recipe(log: Log, *, unread: bool = False) -> str | None:
    """What to say of a log that holds no gradient norm; None where it is of no known kind.

    ``unread``: the log could not be read. One that mentions a norm then keeps its own message.
    """
    if unread and _MENTIONED.search(log.text):
        return None
    found = next((kind for kind in _KINDS if kind.tell(log)), None)
    return None if found is None else f"{found.name}: no gradient norm in this format; {found.remedy}"

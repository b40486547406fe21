"""Which run is meant in a log that holds several, and what the names in it say of the framework that wrote them.

Shared by the stores that all frameworks log to: TensorBoard, MLflow, DVCLive, trackio, Parquet.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache

from ..errors import RefineError
from .base import MAX_NAME, Facts, LossOptions, ReadOptions, choose_run
from .columns import find, layer, looks_like_norm
from .loss_columns import loss_name

__all__ = ["choose_by_id", "choose_with_norm", "facts_of", "is_norm"]

_FRAMEWORKS: tuple[tuple[tuple[str, ...], Facts], ...] = (
    (("grad-norm", "lm loss"), Facts("l2", "pre", "next_step")),  # Megatron-LM
    (("grad_norm", "loss_metrics/global_avg_loss"), Facts("l2", "pre", "this_step")),  # torchtitan
    ((r"grad_[\d.]+_norm[_/].+",), Facts(None, "pre", "this_step", from_zero=True)),  # Lightning
    ((r"lr-[A-Z]\w+(/pg\d+)?", "epoch"), Facts(None, "unknown", "this_step", from_zero=True)),  # Lightning too
    (("learning/raw_grad_norm",), Facts("l2", "pre", from_zero=True)),  # MaxText
    (("learning/grad_norm",), Facts("l2", "post", from_zero=True)),
    ((r"l2_norm[./]grad[./]global",), Facts("l2", "post")),  # Composer
    ((r"(.+/)?gnorm", r"(.+/)?wps"), Facts("l2", "pre", "next_step", window_mean=True)),  # fairseq
    (("train/grad_norm", "train/epoch"), Facts("l2", "pre", mean_loss=True)),  # transformers
)


def facts_of(names: Iterable[str]) -> Facts:
    """What is known of the norms of the framework that logs under such names.

    Examples
    --------
    >>> facts_of(["lm loss", "grad-norm", "learning-rate"])
    Facts(norm_kind='l2', clipping='pre', lr_alignment='next_step', window_mean=False, from_zero=False, mean_loss=False)
    >>> facts_of(["step", "grad_norm"]) == Facts()
    True
    """
    present = list(names)
    for signs, facts in _FRAMEWORKS:
        if all(any(re.fullmatch(sign, name) for name in present) for sign in signs):
            return facts
    return Facts()


@lru_cache(maxsize=100_000)
def is_norm(name: str, options: ReadOptions) -> bool:
    """Whether a name is that of the norm: the one that the caller names, else any that may be one.

    Where losses are read (`LossOptions`): whether it is that of a loss.

    Examples
    --------
    >>> is_norm("raw_grad_norm", ReadOptions()), is_norm("lr", ReadOptions()), is_norm("lr", ReadOptions(column="lr"))
    (True, False, True)
    """
    if isinstance(options, LossOptions):
        return name == options.loss_column if options.loss_column is not None else loss_name(name) is not None
    if options.column is not None:
        return name == options.column
    if len(name) > MAX_NAME:
        return False
    known = any(find(role, [name]) for role in ("l2 before clipping", "l2", "l1", "dual"))
    return known or looks_like_norm(name) or layer(name) is not None


def choose_with_norm(names: Iterable[str], holds_norm: Callable[[str], bool], wanted: str | None) -> str:
    """The run that is asked for, else the only one that holds a norm; any where none does.

    Examples
    --------
    >>> choose_with_norm(["eval", "train"], lambda name: name == "train", None)
    'train'
    """
    every = list(names)
    if not every:
        raise RefineError("the log holds no run with metrics; name another")
    if wanted is not None or len(every) == 1:
        return choose_run(every, wanted)
    return choose_run([name for name in every if holds_norm(name)] or every[:1], None)


def choose_by_id(runs: Mapping[str, str], holds_norm: Callable[[str], bool], wanted: str | None) -> str:
    """Id of the run that is asked for by name or id; ``runs`` maps ids to names, and names may repeat.

    Examples
    --------
    >>> choose_by_id({"a1": "x", "b2": "y"}, lambda run: True, "y"), choose_by_id({"a1": "x", "b2": "x"}, str, "b2")
    ('b2', 'b2')
    """
    if wanted is not None and wanted in runs:
        return wanted
    count = Counter(runs.values())
    ids = {name if count[name] == 1 else f"{name} ({run})": run for run, name in runs.items()}
    return ids[choose_with_norm(ids, lambda label: holds_norm(ids[label]), wanted)]

"""Which column of a table is a loss, and of what sort, by the words in its name.

A loss of training has no word in its name that is not known: ``policy_loss`` or ``loss_scale`` is something else. That
of held-out data may name them (``eval_c4_loss``). Minima, finals and parts of a loss are none, nor are means over an
epoch of training.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Literal, NamedTuple

from .columns import group, short_name

__all__ = ["LossName", "batch_name", "is_accuracy", "is_epoch", "loss_name", "may_matter"]


def _words_of(text: str) -> frozenset[str]:
    return frozenset(text.split())


_HELD_OUT = _words_of("val valid validation eval evaluation test dev heldout holdout")
_LOSS = _words_of("loss losses nll ce xent crossentropy crossentropyloss bpb bpc")
_PERPLEXITY = _words_of("ppl perplexity")
_AVERAGE = _words_of("smooth smoothed avg average averaged ema running rolling moving cumulative")
_OTHER = _words_of(
    "acc accuracy aux z best min max final initial std var variance delta diff scale scaling scaler weight "
    "coef coefficient balance balancing router grad norm time count num ratio lr threshold penalty reg kl "
    "reward"
)
_PLAIN = _words_of(
    "train training lm total mean step out log main model token tokens per global reduced metrics metric optim "
    "trainer data learning history language cross entropy bits byte dataloader idx logged"
)
_ACCURACY = _words_of("acc accuracy top1 top5 f1 bleu rouge recall precision auc wer")
_BATCH = _words_of(
    "batch_size global_batch_size train_batch_size total_batch_size effective_batch_size batch_tokens "
    "global_batch_tokens tokens_per_batch tokens_per_step tokens_per_update samples_per_step"
)


class LossName(NamedTuple):
    """What the name of a loss says: its sort; whether it is a perplexity; whether it is a trainer's running average."""

    sort: Literal["validation", "training"]
    perplexity: bool = False
    average: bool = False


@lru_cache(maxsize=100_000)
def loss_name(name: str) -> LossName | None:
    """What the name of a column says of the loss in it; None where it is that of no loss.

    Examples
    --------
    >>> loss_name("eval/c4/CE loss")
    LossName(sort='validation', perplexity=False, average=False)
    >>> loss_name("loss").sort, loss_name("val_ppl").perplexity, loss_name("loss_avg").average
    ('training', True, True)
    >>> loss_name("final_val_loss"), loss_name("loss_scale"), loss_name("train_loss_epoch"), loss_name("val_loss_step")
    (None, None, None, None)
    """
    metric = short_name(name)
    if group(name) or metric.endswith(("__MIN", "__MAX", " vs samples")) or name.startswith("Group: "):
        return None
    words = _words(metric)
    found = set(words)
    perplexity = not found.isdisjoint(_PERPLEXITY)
    named = not found.isdisjoint(_LOSS) or {"cross", "entropy"} <= found or {"bits", "byte"} <= found
    if not (perplexity or named) or not found.isdisjoint(_OTHER):
        return None
    held_out = not found.isdisjoint(_HELD_OUT) or {"held", "out"} <= found
    if words[-1] == ("step" if held_out else "epoch"):
        return None
    if not held_out:
        known = _LOSS | _PERPLEXITY | _AVERAGE | _PLAIN
        if any(word not in known and not word.isdigit() for word in words):
            return None
        return LossName("training", perplexity, not found.isdisjoint(_AVERAGE) and "global_avg" not in "_".join(words))
    # That of a held-out set is an average over the set.
    return LossName("validation", perplexity, not found.isdisjoint(_AVERAGE - {"avg", "average", "averaged"}))


def is_accuracy(name: str) -> bool:
    """Whether a column holds what grows as training goes well.

    Examples
    --------
    >>> is_accuracy("eval_accuracy"), is_accuracy("eval_loss")
    (True, False)
    """
    found = set(_words(short_name(name)))
    return not found.isdisjoint(_ACCURACY) and found.isdisjoint(_LOSS)


def batch_name(name: str) -> bool:
    """Whether a column holds the size of a batch, in samples or tokens.

    Examples
    --------
    >>> batch_name("global batch size"), batch_name("batch")
    (True, False)
    """
    return "_".join(_words(short_name(name).rsplit("/", 1)[-1])) in _BATCH


def is_epoch(name: str) -> bool:
    """Whether a column counts epochs."""
    return _words(short_name(name).rsplit("/", 1)[-1]) == ["epoch"]


def may_matter(name: str) -> bool:
    """Whether a column may play a role where losses are read, beside those of `refine.readers.columns`."""
    return loss_name(name) is not None or batch_name(name) or is_epoch(name)


def _words(metric: str) -> list[str]:
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", metric).lower()
    return re.findall(r"[a-z]+\d*|\d+", apart) or [""]

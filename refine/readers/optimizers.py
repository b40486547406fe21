"""Optimizers by the names that people give them: strict, unlike `refine.readers.columns.family` for what logs say."""

from __future__ import annotations

import difflib
import re

from ..errors import RefineError
from ..files import printable
from ..refinement import OptimizerFamily

__all__ = ["named_family"]

_MEMBERS: dict[OptimizerFamily, tuple[str, ...]] = {
    "sgd": ("SGD", "SGDM", "ASGD", "Momentum", "Nesterov"),
    "adam": (
        *("Adam", "AdamW", "NAdam", "RAdam", "Adamax", "AdamC", "AdamP", "AMSGrad", "Adafactor", "Adagrad", "RMSprop"),
        *("LAMB", "Lion", "SignSGD", "Signum"),
    ),
}
_MODIFIERS = (
    r"torch|optim(?:izer)?|apex|deepspeed|bnb|bitsandbytes|transformers|timm|composer|megatron|mixedprecision|anyprecision|"
    r"fused|foreach|capturable|distributed|layerwise|paged|cpu|npu|xla|onebit|zeroone|\d+bit|schedulefree|galore|"
    r"apollo|stable|grok|mini|decoupled|sparse|nesterov|momentum"
)
_FAMILY = {name.lower(): family for family, names in _MEMBERS.items() for name in names}
_NAME = re.compile(rf"(?:{_MODIFIERS})*?(?P<member>{'|'.join(_FAMILY)})w?(?:{_MODIFIERS})*")


def named_family(optimizer: str) -> OptimizerFamily:
    """Family of an optimizer: a member, in any spelling, with what only says how it is computed before or after it.

    Examples
    --------
    >>> [named_family(name) for name in ("sgd", "torch.optim.AdamW", "paged_lion_8bit", "DeepSpeedCPUAdam")]
    ['sgd', 'adam', 'adam', 'adam']

    Raises
    ------
    RefineError
        Unknown; the message names the nearest member, all of them, and what to say instead.
    """
    last = optimizer.rpartition(".")[2]
    plain = re.sub(r"[\W_]", "", last).lower()
    match = _NAME.fullmatch(plain) if len(plain) <= 100 else None
    if match is None:
        names = [name for members in _MEMBERS.values() for name in members]
        close = difflib.get_close_matches(plain[:40], _FAMILY, 1)
        meant = f" (did you mean {next(name for name in names if name.lower() == close[0])}?)" if close else ""
        raise RefineError(
            f"'{printable(optimizer, limit=60)}' is not known to be of the sgd or the adam family{meant}: "
            f"say sgd or adam; known are {', '.join(names)}"
        )
    return _FAMILY[match["member"]]

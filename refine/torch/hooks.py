"""Where an optimizer can be hooked into, and when its hooks are not to be believed."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim import Optimizer

__all__ = ["capturing", "innermost"]


def innermost(optimizer: Any) -> Any:
    """The optimizer that steps, within those that wrap one, such as accelerate's."""
    while isinstance(inner := getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = inner
    return optimizer


def capturing() -> bool:
    """Whether a CUDA graph is being captured: its replays run no Python."""
    initialized: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return initialized and torch.cuda.is_current_stream_capturing()

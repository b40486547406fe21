"""What devices can do."""

from __future__ import annotations

import torch

__all__ = ["capturing", "double"]


def double(device: torch.device) -> torch.dtype:
    """Float64, where the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64


def capturing() -> bool:
    """Whether a CUDA graph is being captured: its replays run no Python."""
    initialized: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return initialized and torch.cuda.is_current_stream_capturing()

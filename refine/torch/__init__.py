"""The PyTorch side: record the norms that refinement needs, apply the schedule that comes of them."""

from __future__ import annotations

try:
    import torch  # noqa: F401
except ImportError as error:
    raise ImportError("refine.torch needs PyTorch: pip install torch") from error

from ..steps import Steps, steps_in
from .recorder import GradNormRecorder
from .scheduler import ScheduleLR

__all__ = ["GradNormRecorder", "ScheduleLR", "Steps", "steps_in"]

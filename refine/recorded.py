"""What the log of `refine.torch.GradNormRecorder` calls things: its writer and its reader agree on them here."""

from __future__ import annotations

__all__ = ["CLIP", "FORMAT", "FORMAT_VERSION", "GROUP", "TRAVEL"]

FORMAT = "refine-gradient-norms"
FORMAT_VERSION = 1

CLIP = "clip_coefficient"

TRAVEL = ("distance", "grad_dot_displacement", "lr_grad_sum_norm")
"""Columns of `refine.norms.Travel`."""

GROUP = "/group:"
"""Between the name of a column and that of the one param group that it is of."""

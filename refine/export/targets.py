"""Exports of a schedule to other trainers: the targets, and writing one."""

from __future__ import annotations

import difflib
import math
import os
from pathlib import Path

from ..errors import RefineError
from ..files import printable, write_files
from ..schedule import Schedule
from .base import Rendering, Target, peak_of
from .composer import COMPOSER
from .data import CSV, JSON, NPY
from .deepspeed import DEEPSPEED
from .jax import LEVANTER, OPTAX
from .keras import KERAS
from .megatron import MEGATRON
from .nanogpt import NANOGPT
from .timm import TIMM
from .torch import HF, LIGHTNING, TORCH
from .torchtitan import TORCHTITAN

__all__ = ["TARGETS", "export", "render"]

_OTHER_NAMES = {"huggingface": "hf", "transformers": "hf", "jax": "optax", "flax": "optax", "pytorch": "torch"}
_OTHER_NAMES |= {"tensorflow": "keras", "megatron-lm": "megatron"}

TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        TORCH,
        HF,
        LIGHTNING,
        OPTAX,
        KERAS,
        TIMM,
        NANOGPT,
        COMPOSER,
        LEVANTER,
        MEGATRON,
        TORCHTITAN,
        DEEPSPEED,
        CSV,
        JSON,
        NPY,
    )
}


def render(
    schedule: Schedule, to: str, path: str | os.PathLike[str] | None = None, *, peak_lr: float | None = None
) -> Rendering:
    """Return what `export` writes, unwritten.

    Examples
    --------
    >>> print(render(Schedule([1.0, 0.5]), "csv").stated)
    2 multipliers, exact
    """
    if to not in TARGETS:
        close = difflib.get_close_matches(to[:40].lower(), [*TARGETS, *_OTHER_NAMES], n=1)
        hint = f" (did you mean {_OTHER_NAMES.get(close[0], close[0])}?)" if close else ""
        raise RefineError(f"target {printable(to)!r} is not one of {', '.join(TARGETS)}{hint}")
    target = TARGETS[to]
    path = Path(target.filename if path is None else path)
    suffix = Path(target.filename).suffix
    if path.suffix != suffix:
        raise RefineError(f"{printable(path.name)} is no name for {to}; it must end in {suffix}: {target.filename}")
    if peak_lr is None:
        peak_lr = peak_of(schedule)
    elif not (math.isfinite(peak_lr) and peak_lr > 0.0):
        raise RefineError(f"peak_lr is {peak_lr!r}; it must be a positive number")
    if target.needs_peak and peak_lr is None:
        raise RefineError(f"{to} takes absolute rates, and the schedule has no suggested peak; give --peak-lr")
    return target.render(schedule, path, peak_lr)


def export(
    schedule: Schedule,
    to: str,
    path: str | os.PathLike[str] | None = None,
    *,
    peak_lr: float | None = None,
    force: bool = False,
) -> Rendering:
    """Write a schedule as a file for a trainer: `TARGETS` lists them.

    Code and data hold the schedule itself (`Rendering.largest_error` is of its knots, within 1e-9 where they
    fit 64 KB), flags the nearest one that the framework can express, by the bound on the last iterate, with a
    `RefineWarning` from 5 % of the peak on, or 2 % at the last update.

    Parameters
    ----------
    schedule : Schedule
    to : str
        Name of a target.
    path : path-like, optional
        By default `Target.filename`, here. A file of code has the name of a module that hides no other.
    peak_lr : float, optional
        Peak learning rate; by default the one that the schedule's provenance suggests. Needed where the target
        takes absolute rates (megatron, deepspeed).
    force : bool
        Replace an existing file.

    Returns
    -------
    Rendering
        Paths and texts, the largest error, and lines to paste.
    """
    rendering = render(schedule, to, path, peak_lr=peak_lr)
    write_files(rendering.contents, force=force)
    return rendering

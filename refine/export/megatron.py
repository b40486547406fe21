"""Megatron-LM: arguments of its training scripts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..files import printable
from ..schedule import Schedule
from .base import Rendering, Target
from .flags import NO_OTHER, Settings, bash_rendering, nearest_settings, rounded

__all__ = ["MEGATRON"]

_FAMILIES = ("constant", "linear", "cosine", "inverse_sqrt", "wsd:shape=linear", "wsd:shape=cosine", "wsd:shape=sqrt")
_COOLDOWNS = {"linear": ("linear", "exponential"), "cosine": ("cosine",), "sqrt": ("minus_sqrt",)}
"""By shape of ours. Megatron's exponential, ``2 / 2^x - 1``, is bent by 9 % of the peak."""


def _translate(family: str, p: Mapping[str, Any], total_steps: int) -> Iterator[Settings]:
    """Warmup from peak / W over W - 1 updates: Megatron counts from 0, and would begin at rate 0.

    Rates are fractions of the peak here.
    """
    warmup = max(p["warmup_steps"] - 1, 0)
    initial = rounded(1.0 / p["warmup_steps"]) if warmup else 0.0
    shared = {"warmup-init": initial, "warmup-iters": warmup, "min": rounded(p.get("final_factor", 0.0))}
    if warmup >= total_steps:
        return
    if family == "inverse_sqrt":
        for iters in {max(warmup, 1), p["timescale_steps"]} & set(range(total_steps)):
            yield {**shared, "warmup-init": 0.0, "warmup-iters": iters, "style": "inverse-square-root"}
    elif family == "wsd":
        for shape in _COOLDOWNS.get(p["shape"], ("linear",)) if p["cooldown_steps"] else ():
            yield {**shared, "style": "WSD", "wsd-style": shape, "wsd-iters": p["cooldown_steps"]}
    else:
        yield {**shared, "style": family}


def _rates(s: Settings, t: NDArray[np.int64]) -> NDArray[np.float64]:
    """Rate of update t, counted from 0, over the peak rate (megatron/core/optimizer_param_scheduler.py, get_lr).

    The scheduler is stepped after the update, by one global batch, so that t is its num_steps over the batch size.
    """
    warmup, low, end = s["warmup-iters"], s["min"], t.size
    if s["style"] == "constant":
        rates = np.ones(t.size)
    elif s["style"] == "inverse-square-root":
        rates = np.maximum(low, np.sqrt(max(warmup, 1) / np.maximum(t, 1)))
    else:
        ratio = (t - warmup) / (end - warmup)
        if s["style"] == "WSD":
            ratio = np.maximum(t - (end - s["wsd-iters"]), 0) / s["wsd-iters"]
        ratio = np.clip(ratio, 0.0, 1.0)
        shape = {
            "linear": 1.0 - ratio,
            "cosine": 0.5 * (np.cos(np.pi * ratio) + 1.0),
            "exponential": 2.0 * 0.5**ratio - 1.0,
            "minus_sqrt": 1.0 - np.sqrt(ratio),
        }
        rates = low + (1.0 - low) * shape[s["wsd-style"] if s["style"] == "WSD" else s["style"]]
    rising = s["warmup-init"] + (1.0 - s["warmup-init"]) * t / max(warmup, 1)
    return np.where((warmup > 0) & (t <= warmup), rising, rates)


def _render(schedule: Schedule, path: Path, peak_lr: float | None) -> Rendering:
    fit = nearest_settings(schedule, "Megatron-LM", _FAMILIES, _translate, _rates, NO_OTHER)
    s, peak = fit.settings, peak_lr or 0.0
    flags = {
        "--lr": f"{peak:.9g}",
        "--min-lr": f"{peak * s['min']:.9g}",
        "--lr-decay-style": s["style"],
        "--lr-warmup-init": f"{peak * s['warmup-init']:.9g}",
        "--lr-warmup-iters": s["warmup-iters"],
        "--lr-decay-iters": schedule.total_steps,
        "--train-iters": schedule.total_steps,
    }
    if s["style"] == "WSD":
        flags |= {"--lr-wsd-decay-style": s["wsd-style"], "--lr-wsd-decay-iters": s["wsd-iters"]}
    run = 'torchrun ... pretrain_gpt.py ... "${REFINED_LR[@]}"'
    if fit.since:  # else Megatron refuses the checkpoint's own scheduler
        run += " --override-opt_param-scheduler"
    use = (f"source {quote(printable(path.name))}", run)
    more = ("The global batch size must be constant: Megatron's schedule counts samples.",)
    return bash_rendering(schedule, path, "Megatron-LM", fit, flags, use, more)


MEGATRON = Target(
    "megatron",
    "flags",
    "refined_megatron.sh",
    "Megatron-LM arguments, a bash array to source: the nearest of its schedules",
    _render,
    needs_peak=True,
)

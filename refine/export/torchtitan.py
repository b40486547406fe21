"""torchtitan: settings of its lr_scheduler."""

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

__all__ = ["TORCHTITAN"]

_SHAPES = ("linear", "sqrt", "cosine")
_LR = "--optimizer.param_groups.0.optimizer_kwargs.lr"
_FAMILIES = ("constant", "linear", "cosine", *(f"wsd:shape={shape}" for shape in _SHAPES))


def _translate(family: str, p: Mapping[str, Any], total_steps: int) -> Iterator[Settings]:
    """Warmup as ours, or one update shorter: torchtitan holds the peak once more before the decay."""
    for warmup in {max(p["warmup_steps"] - n, 0) for n in (0, 1)}:
        decay = {"constant": 0, "wsd": p.get("cooldown_steps")}.get(family, total_steps - warmup)
        shape = "cosine" if family == "cosine" else p.get("shape", "linear")
        ratio = min(decay, total_steps - warmup) / total_steps
        yield {
            "warmup_steps": warmup,
            "decay_ratio": float(f"{ratio:.12g}"),
            "decay_type": shape if shape in _SHAPES else "linear",
            "min_lr_factor": rounded(p.get("final_factor", 0.0)),
        }


def _rates(s: Settings, t: NDArray[np.int64]) -> NDArray[np.float64]:
    """Factor of update t, counted from 0 (torchtitan/components/optimizer/lr_scheduler.py, a LambdaLR)."""
    total, warmup = t.size, s["warmup_steps"]
    decay = min(round(total * s["decay_ratio"]), total - warmup)
    progress = np.clip((t - (total - decay)) / max(decay, 1), 0.0, 1.0)
    shape = {
        "linear": 1.0 - progress,
        "sqrt": 1.0 - np.sqrt(progress),
        "cosine": 0.5 * (1.0 + np.cos(np.pi * progress)),
    }[s["decay_type"]]
    rates = s["min_lr_factor"] + (1.0 - s["min_lr_factor"]) * shape
    return np.asarray(np.where(t < warmup, (t + 1) / max(warmup, 1), rates))


def _render(schedule: Schedule, path: Path, peak_lr: float | None) -> Rendering:
    fit = nearest_settings(schedule, "torchtitan", _FAMILIES, _translate, _rates, NO_OTHER)
    flags = {f"--lr_scheduler.{name}": value for name, value in fit.settings.items()}
    flags["--training.steps"] = schedule.total_steps
    source, rate = f"source {quote(printable(path.name))}", "The lr of the optimizer must be the peak rate."
    if peak_lr is None:
        source += "    # the lr of the optimizer is the peak rate"
    else:
        flags[_LR] = f"{peak_lr:.9g}"
        rate = f"{_LR} is torchtitan 0.3 with one param group; up to 0.2 it is --optimizer.lr."
    use = (source, './run_train.sh "${REFINED_LR[@]}"')
    config = "The same names go into [lr_scheduler] of a TOML config, or LRSchedulersContainer.Config of a Python one."
    return bash_rendering(schedule, path, "torchtitan", fit, flags, use, (rate, config))


TORCHTITAN = Target(
    "torchtitan",
    "flags",
    "refined_torchtitan.sh",
    "torchtitan arguments (lr_scheduler), a bash array to source: the nearest of its schedules",
    _render,
)

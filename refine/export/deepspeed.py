"""DeepSpeed: the scheduler of its JSON config."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import __version__
from ..files import printable
from ..schedule import Schedule
from .base import Rendering, Target
from .flags import Settings, nearest_settings, rounded

__all__ = ["DEEPSPEED"]

_FAMILIES = ("constant", "linear", "cosine", "wsd:shape=linear", "wsd:shape=cosine")


def _translate(family: str, p: Mapping[str, Any], total_steps: int) -> Iterator[Settings]:
    """Settings with rates as fractions of the peak.

    DeepSpeed holds update 0's rate once more, but for OneCycle, and its warmups are at least 2 updates. None of its
    schedules holds the peak behind a warmup. Without one, WarmupCosineLR from the peak to the peak does, and a OneCycle
    upside down is a straight line (its way back up takes a thousand runs); with one, a logarithmic warmup up to the
    cooldown is at 0.9 of the peak for the second half of it.
    """
    warmup, low = max(p["warmup_steps"] - 1, 0), rounded(p.get("final_factor", 0.0))
    start = rounded(1.0 / p["warmup_steps"]) if warmup else 1.0
    if family == "constant":
        for steps in {max(warmup - n, 2) for n in (0, 1)}:
            yield {"type": "WarmupLR", "min": start, "warmup": steps}
    elif family == "linear":
        for steps in {max(warmup - n, 2) for n in (0, 1)}:
            for kind in ("linear", "log"):
                yield {"type": "WarmupDecayLR", "min": low, "warmup": steps, "kind": kind, "total": total_steps - 1}
        for steps in {max(warmup + n, 1) for n in (0, 1)}:
            if steps <= total_steps:
                yield {"type": "OneCycle", "min": low, "max": 1.0, "warmup": steps, "down": total_steps - steps}
                if 0.0 < low < 1.0:  # cut off on its way to 0, so that it may start there
                    down = rounded((total_steps - steps) / (1.0 - low))
                    yield {"type": "OneCycle", "min": 0.0, "max": 1.0, "warmup": steps, "down": down}
        if not warmup:
            yield {"type": "OneCycle", "min": 1.0, "max": low, "warmup": total_steps, "down": 1000 * total_steps}
    elif family == "cosine":
        for steps in {max(warmup - n, 2) for n in (0, 1)}:
            yield _warmup_cosine(low, start, steps, "linear", total_steps)
    elif p["cooldown_steps"]:
        hold = total_steps - p["cooldown_steps"]
        if p["shape"] != "linear":
            yield _warmup_cosine(low, start, max(hold, 2), "log" if warmup else "linear", total_steps)
        elif warmup:
            steps = max(hold - 1, 2)
            yield {"type": "WarmupDecayLR", "min": low, "warmup": steps, "kind": "log", "total": total_steps - 1}


def _warmup_cosine(low: float, start: float, warmup: int, kind: str, total: int) -> Settings:
    return {"type": "WarmupCosineLR", "min": low, "start": start, "warmup": warmup, "kind": kind, "total": total}


def _rates(s: Settings, t: NDArray[np.int64]) -> NDArray[np.float64]:
    """Rate of update t, counted from 0, over the peak rate (deepspeed/runtime/lr_schedules.py).

    All are stepped after the update. Before the first one they set the rate of a last batch -1, so that update t
    has last batch t - 1.
    """
    low, warmup, last = s["min"], s["warmup"], t - 1
    if s["type"] == "OneCycle":
        down = 1.0 - (t - warmup) / max(s["down"], 1)
        return np.asarray(low + (s["max"] - low) * np.where(t <= warmup, t / warmup, down))
    total = s.get("total", 0)
    rising = np.maximum(last, 0) / warmup
    if s.get("kind") == "log":
        rising = np.log(np.maximum(last, 0) + 1.0) / np.log(warmup)
    if s["type"] == "WarmupCosineLR":
        progress = np.clip((last - warmup + 1) / max(1, total - warmup), 0.0, 1.0)
        falling = low + (1.0 - low) * (1.0 + np.cos(np.pi * progress)) / 2.0
        rates = np.where(last < warmup, s["start"] + (1.0 - s["start"]) * rising, falling)
        return np.where(last < 0, 0.0, rates)
    falling = np.ones(t.size)
    if s["type"] == "WarmupDecayLR":
        falling = np.maximum(0.0, (total - last) / max(1.0, total - warmup))
    return np.asarray(low + (1.0 - low) * np.where(last < warmup, rising, falling))


def _config(s: Settings, peak_lr: float) -> dict[str, Any]:
    low = rounded(peak_lr * s["min"])
    if s["type"] == "OneCycle":
        cycle = {"cycle_first_step_size": s["warmup"], "cycle_second_step_size": s["down"], "cycle_momentum": False}
        params = {"cycle_min_lr": low, "cycle_max_lr": rounded(peak_lr * s["max"]), **cycle}
    elif s["type"] == "WarmupCosineLR":
        params = {"total_num_steps": s["total"], "warmup_min_ratio": s["start"], "warmup_num_steps": s["warmup"]}
        params |= {"warmup_type": s["kind"], "cos_min_ratio": s["min"]}
    else:
        params = {"warmup_min_lr": low, "warmup_max_lr": peak_lr, "warmup_num_steps": s["warmup"]}
        params |= {"warmup_type": s.get("kind", "linear")}
        params |= {"total_num_steps": s["total"]} if "total" in s else {}
    return {"type": s["type"], "params": params}


def _render(schedule: Schedule, path: Path, peak_lr: float | None) -> Rendering:
    peak = rounded(peak_lr or 0.0)
    fit = nearest_settings(
        schedule,
        "DeepSpeed",
        _FAMILIES,
        _translate,
        _rates,
        "the schedule itself: --to torch, and deepspeed.initialize(..., lr_scheduler=make_scheduler)",
    )
    stated = fit.stated("DeepSpeed")
    fall = fit.settings["min"] > fit.settings.get("max", 1.0)
    why = " This OneCycle only falls, from cycle_min_lr to cycle_max_lr: so it is a straight line." if fall else ""
    about = {
        "about": f"Learning-rate schedule of refine {__version__}, {schedule.total_steps} updates: {stated}.{why}",
        "provenance": dict(schedule.provenance),
    }
    text = json.dumps({"scheduler": _config(fit.settings, peak), "refine": about}, indent=1) + "\n"
    use = (
        f'# DeepSpeed config: "scheduler" of {printable(path.name)}, and the peak rate as the optimizer\'s:',
        f'"optimizer": {{"type": "AdamW", "params": {{"lr": {peak:g}}}}}',
    )
    return Rendering({path: [text]}, stated, use, fit.largest_error, fit.r2)


DEEPSPEED = Target(
    "deepspeed",
    "flags",
    "refined_deepspeed.json",
    "DeepSpeed config, its scheduler: the nearest of its schedules",
    _render,
    needs_peak=True,
)

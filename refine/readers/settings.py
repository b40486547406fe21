"""Hyper-parameters that stand in a log or beside it: which ones matter, and under which names.

Files beside a log are JSON or YAML; YAML is read with ``yaml.safe_load`` where PyYAML is installed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

__all__ = ["beside", "clip_threshold", "is_known", "optimizer_name", "pick", "schedule_settings"]

_NAMES: dict[str, tuple[str, ...]] = {
    "optimizer": ("optim", "optimizer", "optimizer_name", "optimizer_type", "opt"),
    "learning_rate": ("learning_rate", "lr", "max_lr", "peak_lr", "base_lr"),
    "schedule": ("lr_scheduler_type", "scheduler", "lr_schedule", "lr_scheduler", "lr_decay_style"),
    "warmup_steps": ("warmup_steps", "lr_warmup_iters", "num_warmup_steps", "lr_warmup_steps", "warmup_iters"),
    "warmup_ratio": ("warmup_ratio", "warmup_fraction", "lr_warmup_fraction"),
    "clip": (
        "max_grad_norm",
        "grad_clip",
        "gradient_clip_val",
        "clip_grad",
        "clip_grad_norm",
        "max_norm",
        "gradient_clipping",
        "clip_norm",
        "grad_norm_clip",
    ),
    "weight_decay": ("weight_decay", "wd"),
    "momentum": ("momentum",),
    "beta1": ("adam_beta1", "beta1", "adam_beta_1"),
    "beta2": ("adam_beta2", "beta2", "adam_beta_2"),
    "batch_size": ("global_batch_size", "batch_size", "train_batch_size", "per_device_train_batch_size"),
}
_KNOWN = frozenset(name for names in _NAMES.values() for name in names)
_MOST_BYTES = {".json": 2**20}
_MOST_BYTES_YAML = 2**17
"""PyYAML takes up to a second for them."""

_DEEPEST = 6
_MOST = 1e300


def pick(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that matter here, under our names; scalars only, the shallowest of each name.

    Examples
    --------
    >>> pick({"optim": "adamw_torch", "trainer": {"max_grad_norm": 1.0}, "seed": 1})
    {'optimizer': 'adamw_torch', 'clip': 1.0}
    """
    flat = list(_flat(config))
    found: dict[str, Any] = {}
    for role, names in _NAMES.items():
        ranked = [(depth, names.index(key), value) for depth, key, value in flat if key in names and _is_setting(value)]
        if ranked:
            found[role] = min(ranked, key=lambda item: item[:2])[2]
    return found


def is_known(name: str) -> bool:
    """Whether `pick` takes a setting of that name, so that its value is worth reading.

    Examples
    --------
    >>> is_known("model/max-grad-norm"), is_known("prompt")
    (True, False)
    """
    return _short(name) in _KNOWN


def _short(name: str) -> str:
    return name.rsplit("/", 1)[-1].lower().replace("-", "_")


def optimizer_name(settings: Mapping[str, Any]) -> str | None:
    """Name of the optimizer, as the settings give it."""
    name = settings.get("optimizer")
    return name if isinstance(name, str) else None


def clip_threshold(settings: Mapping[str, Any]) -> float | None:
    """Threshold of norm clipping; None where unknown or off."""
    return _positive(settings.get("clip"))


def schedule_settings(settings: Mapping[str, Any], total_steps: int) -> tuple[float | None, int | None]:
    """Peak learning rate and warmup steps of a run of ``total_steps``, as far as the settings give them.

    Examples
    --------
    >>> schedule_settings({"learning_rate": 3e-4, "warmup_steps": 0, "warmup_ratio": 0.03}, 1000)
    (0.0003, 30)
    >>> schedule_settings({"warmup_steps": 0}, 1000), schedule_settings({}, 1000)
    ((None, 0), (None, None))
    """
    peak = _positive(settings.get("learning_rate"))
    steps, ratio = _positive(settings.get("warmup_steps")), _positive(settings.get("warmup_ratio"))
    if steps is not None and steps < 1.0:  # transformers 5 takes a share for it
        steps, ratio = None, steps
    if steps is None and ratio is not None and ratio <= 1.0:
        steps = math.ceil(ratio * total_steps)
    none = settings.get("warmup_steps") == 0 and ratio is None
    return peak, 0 if none else None if steps is None else int(steps)


def beside(folder: Path, names: Iterable[str]) -> dict[str, Any]:
    """Settings of the first of the named JSON or YAML files that holds any; damaged ones are passed over."""
    for name in names:
        path = folder / name
        if not path.is_file() or path.stat().st_size > _MOST_BYTES.get(path.suffix, _MOST_BYTES_YAML):
            continue
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
            found = pick(_parsed(text, path.suffix))
        except (OSError, ValueError, RecursionError):
            continue
        if found:
            return found
    return {}


def _parsed(text: str, suffix: str) -> dict[str, Any]:
    if suffix == ".json":
        value = json.loads(text)
    else:
        try:
            import yaml
        except ImportError:
            return {}
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            return {}
    return value if isinstance(value, dict) else {}


def _flat(config: Mapping[Any, Any]) -> Iterator[tuple[int, str, Any]]:
    """Depth, last part of the name and value of all settings, the shallowest first.

    No mapping is entered twice: aliases in YAML can make a small file unfold to any size.
    """
    level, seen = [config], {id(config)}
    for depth in range(_DEEPEST):
        following: list[Mapping[Any, Any]] = []
        for key, value in (item for mapping in level for item in mapping.items()):
            name = _short(str(key))
            if not isinstance(value, Mapping):
                yield depth, name, value
            elif set(value) <= {"value", "desc"} and "value" in value and not isinstance(value["value"], Mapping):
                yield depth, name, value["value"]  # W&B
            elif id(value) not in seen:
                seen.add(id(value))
                following.append(value)
        level = following


def _is_setting(value: Any) -> bool:
    """Whether a value is a text or a number that can be used."""
    if isinstance(value, str):
        return bool(value)
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= _MOST


def _positive(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) and number > 0.0 else None

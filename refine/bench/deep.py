"""Deep problems: convolutions, residual layers, transformers and an autoencoder, for two cores or for a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from .noise import NETWORK_CHANGES, STEADY, TEXT_CHANGES, Noise
from .problems import Optimizer, Problem, Scale

if TYPE_CHECKING:
    from .task import Task

__all__ = ["CHANGING_DEEP", "DEEP", "Images", "Sizes", "Text"]

RUNS_AT_ONCE: Mapping[Scale, int] = {"smoke": 20, "cpu": 20, "gpu": 1}
"""More gain nothing on a CPU (tests/benchmarks/bench_batching.py); on a GPU one network fills the device."""

CLIP = 0.7
"""About the median norm of the transformers' gradients at their best rates."""
FASHION, SHAKESPEARE, PYTHON = "fashion-mnist", "shakespeare", "python-source"


@dataclass(frozen=True, slots=True)
class Images:
    """Networks on images.

    Attributes
    ----------
    batch : int
        Images of an update.
    cnn : tuple of int
        Channels of the convolutions, each of which halves the side.
    resnet : tuple of int
        Channels of the stages; with each change the side is halved.
    blocks : int
        Of two convolutions, in a stage.
    patch : int
        Pixels a side that become one at the entrance of the residual network.
    autoencoder : tuple of int
        Widths from the pixels to the narrowest layer.
    mlp : int
        Hidden units.
    """

    batch: int
    cnn: tuple[int, ...]
    resnet: tuple[int, ...]
    blocks: int
    patch: int
    autoencoder: tuple[int, ...]
    mlp: int


@dataclass(frozen=True, slots=True)
class Text:
    """A transformer: windows of an update, bytes that it sees, its shape, and whether several runs are stacked.

    Attention is fused where they are not: vmap cannot batch that.
    """

    batch: int
    context: int
    width: int
    layers: int
    heads: int
    stacked: bool = False


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of all networks at one scale."""

    images: Images
    shakespeare: Text
    python: Text


_SMALL_TEXT = Text(batch=8, context=32, width=32, layers=2, heads=2, stacked=True)
_SMALL = Sizes(
    Images(batch=32, cnn=(8, 16, 32), resnet=(8, 32), blocks=1, patch=4, autoencoder=(64, 32), mlp=64),
    shakespeare=_SMALL_TEXT,
    python=_SMALL_TEXT,
)

SIZES: Mapping[Scale, Sizes] = {
    "smoke": _SMALL,
    "cpu": _SMALL,
    "gpu": Sizes(
        Images(
            batch=256,
            cnn=(128, 256, 512),
            resnet=(128, 256, 512),
            blocks=2,
            patch=2,
            autoencoder=(2048, 1024, 256),
            mlp=4096,
        ),
        shakespeare=Text(batch=64, context=256, width=512, layers=10, heads=8),
        python=Text(batch=32, context=512, width=768, layers=12, heads=12),
    ),
}
"""Transformers of 32 million parameters for the short text, of 86 million for the long one."""


def _make(name: str, noise: Noise, scale: Scale, device: Any) -> Task:
    import torch

    from .deep_tasks import make

    return make(name, SIZES[scale], torch.device(device), noise)


def _problem(name: str, data: str, gpu_steps: int, *optimizers: Optimizer, gpu_rate: float | None = None) -> Problem:
    steps: Mapping[Scale, int] = {"smoke": 40, "cpu": 600, "gpu": gpu_steps}
    return Problem(name, data, optimizers, steps, RUNS_AT_ONCE, partial(_make, name, STEADY), gpu_rate)


def _adamw(rate: float, clip: float | None = None) -> Optimizer:
    return Optimizer("adamw" if clip is None else "adamw, clipped", "adam", rate, weight_decay=0.1, clip=clip)


DEEP: tuple[Problem, ...] = (
    _problem(
        "fashion-cnn",
        FASHION,
        4000,
        Optimizer("sgd", "sgd", 0.05, (0.9, 0.0)),
        Optimizer("adamw", "adam", 0.016, weight_decay=0.01),
    ),
    _problem("fashion-resnet", FASHION, 4000, Optimizer("sgd", "sgd", 0.025, (0.9, 0.0), weight_decay=5e-4)),
    _problem("shakespeare", SHAKESPEARE, 2000, _adamw(0.016), _adamw(0.016, CLIP), gpu_rate=1e-3),
    _problem("python", PYTHON, 3000, _adamw(0.008), _adamw(0.008, CLIP), gpu_rate=1e-3),
    _problem("denoise", FASHION, 4000, Optimizer("adamw", "adam", 0.008, weight_decay=0.01), gpu_rate=2e-3),
)
"""Rates: the best of factors of 2, of linear decay with 5 % warmup, of two seeds at scale "cpu"."""


def _changing(
    name: str, data: str, steps: int, at_once: int, change: str, noise: Noise, *optimizers: Optimizer
) -> Problem:
    updates: Mapping[Scale, int] = {"smoke": 40, "cpu": steps, "gpu": 3000}
    most: Mapping[Scale, int] = {**RUNS_AT_ONCE, "cpu": at_once}
    return Problem(f"{name}, {change}", data, optimizers, updates, most, partial(_make, name, noise), noise=noise)


CHANGING_DEEP: tuple[Problem, ...] = (
    *(
        _changing(
            "fashion-mlp",
            FASHION,
            1000,
            200,
            change,
            noise,
            Optimizer("sgd", "sgd", 0.05, (0.9, 0.0)),
            Optimizer("adam", "adam", 0.004),
        )
        for change, noise in NETWORK_CHANGES.items()
    ),
    *(
        _changing("shakespeare", SHAKESPEARE, 400, 20, change, noise, _adamw(0.016))
        for change, noise in {"steady": STEADY, **TEXT_CHANGES}.items()
    ),
)
"""Networks whose noise changes during the run."""

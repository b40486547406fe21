"""What is trained: the problems by name, with their optimizers, lengths and suites. No torch is needed to list them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from .noise import STEADY, Noise

if TYPE_CHECKING:
    from .task import Task

__all__ = ["Optimizer", "Problem", "Scale"]

Scale = Literal["smoke", "cpu", "gpu"]


@dataclass(frozen=True, slots=True)
class Optimizer:
    """Optimizer of a problem, with what is not swept.

    Attributes
    ----------
    name : str
        As it stands in tables: ``sgd``, ``adam``, ``adamw``, ``adamw, clipped``.
    family : {"sgd", "adam"}
        Update rule, and what `refine.refined_schedule` is told.
    rate : float
        Where the sweep of peak learning rates starts.
    betas : tuple of float
        Of the Adam family. The momentum of SGD is the first (0: none).
    weight_decay : float
        Decoupled (Adam family) or added to the gradient (SGD), of parameters with two axes or more.
    clip : float, optional
        Global l2 norm to which gradients are clipped; the norms are recorded before.
    """

    name: str
    family: Literal["sgd", "adam"]
    rate: float
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    clip: float | None = None


@dataclass(frozen=True, slots=True)
class Problem:
    """A task on real data, of a fixed number of updates.

    Attributes
    ----------
    name : str
        Short, as in tables.
    data : str
        Name of its data set in `refine.bench.data.datasets`.
    optimizers : tuple of Optimizer
    steps : mapping from Scale to int
        Updates of a run.
    runs_at_once : mapping from Scale to int
        Most runs that are trained as one tensor program; 1 where that is not faster.
    make : callable
        ``make(scale, device) -> Task``; loads the data.
    gpu_rate : float, optional
        Where sweeps start at scale ``gpu``, whose networks are larger; by default as elsewhere.
    noise : Noise
        What changes during a run.
    """

    name: str
    data: str
    optimizers: tuple[Optimizer, ...]
    steps: Mapping[Scale, int]
    runs_at_once: Mapping[Scale, int]
    make: Callable[[Scale, Any], Task]
    gpu_rate: float | None = None
    noise: Noise = STEADY

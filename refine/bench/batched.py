"""Training many runs of one problem as one tensor program: they differ in peak rate, schedule and seed."""

from __future__ import annotations

import time

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .outcome import Log, Outcome, finite
from .problems import Optimizer
from .task import Parameters, Task

__all__ = ["train"]

_ADAM_EPSILON = 1e-8
_CLIP_EPSILON = 1e-6  # as torch.nn.utils.clip_grad_norm_


def train(
    task: Task,
    optimizer: Optimizer,
    multipliers: NDArray[np.float64],
    rates: NDArray[np.float64],
    seeds: list[int],
    *,
    record: bool = False,
) -> list[list[Outcome]]:
    """Train S x A runs together; run (s, a) does what it would do alone, to rounding.

    Parameters
    ----------
    task : Task
    optimizer : Optimizer
    multipliers : ndarray, shape (S, A, T)
        Schedule of each run.
    rates : ndarray, shape (S, A)
        Peak learning rates.
    seeds : list of int, length S
        A seed fixes the start and the minibatches of its A runs.
    record : bool
        Keep the norms and the loss of every update.

    Returns
    -------
    list of S lists of A Outcome

    Notes
    -----
    SGD is that of torch (momentum buffer first, weight decay in the gradient), the Adam family AdamW's, with bias
    correction; tests compare both with ``torch.optim``.
    """
    started = time.perf_counter()
    parameters = task.stack(seeds, multipliers.shape[1])
    device = next(iter(parameters.values())).device
    steps = torch.tensor(
        np.moveaxis(rates[..., None] * multipliers, -1, 0), dtype=next(iter(parameters.values())).dtype, device=device
    )
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    rule = (_Sgd if optimizer.family == "sgd" else _Adam)(optimizer, parameters)
    logged: list[Tensor] = []
    with torch.no_grad():
        for number, step in enumerate(steps):
            parts = [task.batch(generator, number / len(steps)) for generator in generators]
            batch = tuple(torch.stack(part) for part in zip(*parts, strict=True))
            with torch.enable_grad():
                losses, gradients = task.gradients(parameters, batch)
            if record or optimizer.clip is not None:
                l2 = sum(_per_run(g.square()) for g in gradients.values()).sqrt()  # type: ignore[union-attr]
            if record:
                l1 = sum(_per_run(g.abs()) for g in gradients.values())
                logged.append(torch.stack([l2, l1, losses]))  # type: ignore[list-item]
            if optimizer.clip is not None:
                scale = (optimizer.clip / (l2 + _CLIP_EPSILON)).clamp(max=1.0)
                for gradient in gradients.values():
                    gradient.mul_(_as(scale, gradient))
            rule.update(parameters, gradients, step)
        train_losses, test_losses = task.evaluate(parameters)
        errors = task.error(parameters)
    logs = torch.stack(logged).double().cpu().numpy() if record else None
    seconds = (time.perf_counter() - started) / rates.size
    return [
        [
            Outcome(
                finite(train_losses[s, a]),
                None if test_losses is None else finite(test_losses[s, a]),
                seconds,
                None if logs is None else Log(*logs[:, :, s, a].T),
                None if errors is None else float(errors[s, a]),
            )
            for a in range(rates.shape[1])
        ]
        for s in range(rates.shape[0])
    ]


class _Sgd:
    """SGD with momentum: ``b <- mu b + g + lambda x``, ``x <- x - eta b``."""

    def __init__(self, optimizer: Optimizer, parameters: Parameters) -> None:
        self.momentum, self.decay = optimizer.betas[0], optimizer.weight_decay
        self.buffers = {name: torch.zeros_like(value) for name, value in parameters.items()}

    def update(self, parameters: Parameters, gradients: Parameters, rate: Tensor) -> None:
        for name, value in parameters.items():
            gradient = gradients[name]
            if self.decay and decays(value):
                gradient = gradient.add(value, alpha=self.decay)
            if self.momentum:
                gradient = self.buffers[name].mul_(self.momentum).add_(gradient)
            value.addcmul_(gradient, _as(rate, value), value=-1.0)


class _Adam:
    """AdamW (arXiv:1711.05101, algorithm 2), the decay scaled by the rate."""

    def __init__(self, optimizer: Optimizer, parameters: Parameters) -> None:
        self.betas, self.decay = optimizer.betas, optimizer.weight_decay
        self.first = {name: torch.zeros_like(value) for name, value in parameters.items()}
        self.second = {name: torch.zeros_like(value) for name, value in parameters.items()}
        self.done = 0

    def update(self, parameters: Parameters, gradients: Parameters, rate: Tensor) -> None:
        self.done += 1
        unbias = 1.0 - self.betas[0] ** self.done
        root = (1.0 - self.betas[1] ** self.done) ** 0.5
        for name, value in parameters.items():
            gradient, eta = gradients[name], _as(rate, value)
            if self.decay and decays(value):
                value.mul_(1.0 - self.decay * eta)
            self.first[name].lerp_(gradient, 1.0 - self.betas[0])
            self.second[name].mul_(self.betas[1]).addcmul_(gradient, gradient, value=1.0 - self.betas[1])
            size = self.second[name].sqrt().mul_(1.0 / root).add_(_ADAM_EPSILON)
            value.addcmul_(self.first[name] / size, eta, value=-1.0 / unbias)


def decays(stacked: Tensor) -> bool:
    """Whether weight decay applies: to parameters with two axes or more, behind the two of the runs."""
    return stacked.dim() >= 4


def _as(per_run: Tensor, value: Tensor) -> Tensor:
    """Values of shape (S, A) as a factor of a stacked tensor."""
    return per_run.view(*per_run.shape, *(1 for _ in value.shape[2:]))


def _per_run(value: Tensor) -> Tensor:
    return value.sum(dim=tuple(range(2, value.dim()))) if value.dim() > 2 else value

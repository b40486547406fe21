"""What a problem gives the trainer: parameters, minibatches, gradients and losses of many runs at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

__all__ = ["NetworkTask", "Task"]

Parameters = dict[str, Tensor]


class Task(ABC):
    """A loss over minibatches of real data.

    Runs are stacked: S seeds times A arms (a peak rate and a schedule each). Runs of a seed share their start and
    their minibatches, so that they differ in nothing else.
    """

    @abstractmethod
    def start(self, seed: int) -> Parameters:
        """Parameters at the start of a run, by name, without the axes of runs."""

    def stack(self, seeds: list[int], arms: int) -> Parameters:
        """Starts of S seeds, each A times: tensors of shape (S, A, ...)."""
        starts = [self.start(seed) for seed in seeds]
        return {
            name: torch.stack([start[name] for start in starts])[:, None].repeat_interleave(arms, dim=1)
            for name in starts[0]
        }

    @abstractmethod
    def batch(self, generator: torch.Generator, done: float = 0.0) -> tuple[Tensor, ...]:
        """A minibatch, drawn with a CPU generator, where a share of the run is done; tensors on the task's device."""

    @abstractmethod
    def gradients(self, parameters: Parameters, batch: tuple[Tensor, ...]) -> tuple[Tensor, Parameters]:
        """Losses, shape (S, A), and gradients of parameters of shape (S, A, ...), on batches of shape (S, ...)."""

    @abstractmethod
    def evaluate(self, parameters: Parameters) -> tuple[Tensor, Tensor | None]:
        """Loss on training data and, where the problem has any, on held-out data; float64, shape (S, A)."""

    def error(self, parameters: Parameters) -> Tensor | None:
        """Share of the training data that is classified wrongly, shape (S, A); None where that is not asked."""
        return None


class NetworkTask(Task):
    """A network trained on ``loss``: one run by ordinary autograd, several by ``torch.func.vmap``.

    A network must not draw random numbers, nor hold buffers that training changes (batch normalisation).
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    @abstractmethod
    def loss(self, network: nn.Module, *batch: Tensor) -> Tensor:
        """Mean loss of a minibatch, a scalar; ``network`` is called as a module."""

    def _loss(self, parameters: Parameters, *batch: Tensor) -> Tensor:
        def network(*inputs: Tensor) -> Any:
            return functional_call(self.network, parameters, inputs)

        return self.loss(network, *batch)  # type: ignore[arg-type]

    def gradients(self, parameters: Parameters, batch: tuple[Tensor, ...]) -> tuple[Tensor, Parameters]:
        """By autograd; nested vmaps share the minibatch of a seed among its arms."""
        shape = next(iter(parameters.values())).shape[:2]
        if shape == (1, 1):
            own = {name: value[0, 0].detach().requires_grad_() for name, value in parameters.items()}
            loss = self._loss(own, *(part[0] for part in batch))
            found = torch.autograd.grad(loss, list(own.values()))
            return loss.detach()[None, None], {n: g[None, None] for n, g in zip(own, found, strict=True)}
        arms = vmap(grad_and_value(self._loss), in_dims=(0, *(None for _ in batch)))
        gradients, losses = vmap(arms)(parameters, *batch)
        return losses, gradients

    @torch.no_grad()
    def mean_loss(self, parameters: Parameters, batches: list[tuple[Tensor, ...]]) -> Tensor:
        """Mean of the losses of equally large batches, float64, shape (S, A)."""
        first = next(iter(parameters.values()))
        found = torch.zeros(first.shape[:2], dtype=torch.float64)
        for i in range(first.shape[0]):
            for j in range(first.shape[1]):
                own = {name: value[i, j] for name, value in parameters.items()}
                found[i, j] = sum(self._loss(own, *batch).item() for batch in batches) / len(batches)
        return found

"""Convex problems: multinomial logistic regression on small tables, by closed-form gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .noise import STEADY, WRONG, Noise
from .task import Parameters, Task

__all__ = ["SoftmaxRegression"]

BATCH = 16
_MOST_LOGITS = 1 << 22


class SoftmaxRegression(Task):
    r"""Mean of :math:`-\log p_y` with :math:`p = \mathrm{softmax}(W^T x)`, from W = 0.

    The features are scaled to mean 0 and variance 1, with a constant 1 behind them. The loss that is reported is that
    of all rows: how well the training problem itself was solved.

    Parameters
    ----------
    features : ndarray, shape (n, d)
    labels : ndarray of int, shape (n,)
    device : torch device
    noise : Noise, optional
        What changes during a run; then a tenth of the labels is wrong all the time, always the same ones.
    """

    def __init__(
        self, features: np.ndarray, labels: np.ndarray, device: Any = "cpu", noise: Noise | None = None
    ) -> None:
        self.noise = noise or STEADY
        classes = int(labels.max()) + 1
        if noise is not None:
            fixed = np.random.default_rng(0)
            labels = np.where(fixed.random(len(labels)) < WRONG, fixed.integers(classes, size=len(labels)), labels)
        spread = features.std(axis=0)
        scaled = (features - features.mean(axis=0)) / np.where(spread > 0.0, spread, 1.0)
        self.x = torch.tensor(np.column_stack([scaled, np.ones(len(scaled))]), dtype=torch.float32, device=device)
        self.y = torch.tensor(labels, device=device)
        self.shape = self.x.shape[1], classes

    def start(self, seed: int) -> Parameters:
        """W = 0, whatever the seed."""
        return {"w": torch.zeros(self.shape, device=self.x.device)}

    def stack(self, seeds: list[int], arms: int) -> Parameters:
        """As `Task.stack`, laid out in memory as (S, d, A, k), so that the runs of a seed are one matrix product."""
        features, classes = self.shape
        flat = torch.zeros(len(seeds), features, arms, classes, device=self.x.device)
        return {"w": flat.permute(0, 2, 1, 3)}

    def batch(self, generator: torch.Generator, done: float = 0.0) -> tuple[Tensor, ...]:
        """Rows drawn with replacement, 16 unless the batch size changes."""
        size, wrong = self.noise.size(done, BATCH), self.noise.share_wrong(done)
        chosen = torch.randint(len(self.y), (size,), generator=generator).to(self.y.device)
        return self.x[chosen], mislabelled(self.y[chosen], wrong, self.shape[1], generator)

    def gradients(self, parameters: Parameters, batch: tuple[Tensor, ...]) -> tuple[Tensor, Parameters]:
        r"""Closed form: :math:`\nabla_W = X^T (P - Y) / b`."""
        x, y = batch
        w = parameters["w"]
        runs, arms = w.shape[:2]
        flat = w.permute(0, 2, 1, 3).flatten(2)  # a view
        logs = torch.log_softmax(torch.bmm(x, flat).view(runs, -1, arms, w.shape[3]), dim=-1)
        labels = y[:, :, None, None].expand(-1, -1, arms, 1)
        losses = -logs.gather(-1, labels).mean(dim=(1, 3))
        errors = logs.exp_()
        errors.scatter_add_(-1, labels, torch.full_like(labels, -1, dtype=errors.dtype))
        gradient = torch.bmm(x.mT, errors.flatten(2)).mul_(1.0 / y.shape[1])
        return losses, {"w": gradient.view(runs, -1, arms, w.shape[3]).permute(0, 2, 1, 3)}

    def evaluate(self, parameters: Parameters) -> tuple[Tensor, Tensor | None]:
        """Mean over all rows; the logits in float32, their sum in float64."""
        w = parameters["w"]
        runs, arms, _, classes = w.shape
        flat = w.permute(2, 0, 1, 3).flatten(1)
        total = torch.zeros(runs, arms, dtype=torch.float64, device=w.device)
        rows = max(1, _MOST_LOGITS // flat.shape[1])
        for first in range(0, len(self.y), rows):
            x, y = self.x[first : first + rows], self.y[first : first + rows]
            logits = (x @ flat).view(len(y), runs, arms, classes)
            own = logits.gather(-1, y[:, None, None, None].expand(-1, runs, arms, 1))[..., 0]
            total += (torch.logsumexp(logits, dim=-1) - own).double().sum(dim=0)
        return total / len(self.y), None

    def error(self, parameters: Parameters) -> Tensor:
        """Share of the rows whose label is not the most probable one."""
        w = parameters["w"]
        wrong = torch.zeros(w.shape[:2], dtype=torch.float64, device=w.device)
        for i, j in np.ndindex(*w.shape[:2]):
            wrong[i, j] = ((self.x @ w[i, j]).argmax(dim=1) != self.y).double().mean()
        return wrong


def mislabelled(labels: Tensor, share: float, classes: int, generator: torch.Generator) -> Tensor:
    """Labels of which a share is drawn at random."""
    if share == 0.0:
        return labels
    which = torch.rand(labels.shape, generator=generator) < share
    other = torch.randint(classes, labels.shape, generator=generator)
    return torch.where(which.to(labels.device), other.to(labels.device), labels)

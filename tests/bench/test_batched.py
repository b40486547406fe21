import numpy as np
import pytest
import torch
from torch import nn

from refine.bench.batched import train
from refine.bench.problems import Optimizer
from refine.bench.task import NetworkTask, Task

STEPS = 30
SEEDS = [3, 11]


class Regression(NetworkTask):
    """A small network with a matrix and a vector in every layer."""

    def __init__(self) -> None:
        super().__init__(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1)))

    def start(self, seed: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(1000 + seed)
        return {n: torch.randn(p.shape, generator=generator) for n, p in self.network.named_parameters()}

    def batch(self, generator: torch.Generator, done: float = 0.0) -> tuple[torch.Tensor, ...]:
        x = torch.randn(8, 4, generator=generator)
        return x, x.sum(1, keepdim=True).sin()

    def loss(self, network: nn.Module, *batch: torch.Tensor) -> torch.Tensor:
        return (network(batch[0]) - batch[1]).square().mean()

    def evaluate(self, parameters: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor | None]:
        return self.mean_loss(parameters, [self.batch(torch.Generator().manual_seed(9))]), None


def by_torch(task: Task, optimizer: Optimizer, multiplier: np.ndarray, rate: float, seed: int) -> tuple[float, list]:
    """One run with torch's own optimizer and its own clipping; the norms by numpy."""
    parameters = {name: nn.Parameter(value) for name, value in task.start(seed).items()}
    groups = [
        {"params": [p for p in parameters.values() if (p.dim() >= 2) == matrix], "weight_decay": decay}
        for matrix, decay in ((True, optimizer.weight_decay), (False, 0.0))
    ]
    if optimizer.family == "sgd":
        rule = torch.optim.SGD(groups, lr=rate, momentum=optimizer.betas[0])
    else:
        rule = torch.optim.AdamW(groups, lr=rate, betas=optimizer.betas)
    generator = torch.Generator().manual_seed(seed)
    norms = []
    for factor in multiplier:
        batch = task.batch(generator)
        loss = task._loss(parameters, *batch)
        rule.zero_grad()
        loss.backward()
        flat = np.concatenate([p.grad.double().numpy().ravel() for p in parameters.values()])
        norms.append((np.linalg.norm(flat), np.abs(flat).sum(), loss.item()))
        if optimizer.clip is not None:
            nn.utils.clip_grad_norm_(parameters.values(), optimizer.clip)
        for group in rule.param_groups:
            group["lr"] = rate * factor
        rule.step()
    found, _ = task.evaluate({name: value.detach()[None, None] for name, value in parameters.items()})
    return found.item(), norms


@pytest.mark.parametrize(
    "optimizer",
    [
        Optimizer("sgd", "sgd", 0.1, betas=(0.0, 0.0)),
        Optimizer("momentum", "sgd", 0.1, betas=(0.9, 0.0), weight_decay=0.1),
        Optimizer("adamw", "adam", 0.1, weight_decay=0.1),
        Optimizer("clipped", "adam", 0.1, clip=0.5),
        Optimizer("clipped sgd", "sgd", 0.1, clip=0.5),
    ],
    ids=lambda optimizer: optimizer.name,
)
@pytest.mark.parametrize("arms", [1, 3])
def test_every_run_is_that_of_torch_alone(optimizer: Optimizer, arms: int) -> None:
    task = Regression()
    seeds = SEEDS[: 1 if arms == 1 else 2]
    schedules = np.array([np.linspace(1, 0.1, STEPS), np.ones(STEPS), np.linspace(0.1, 1, STEPS)])[:arms]
    multipliers = np.array([np.roll(schedules, i, axis=0) for i, _ in enumerate(seeds)])
    rates = np.array([[0.05, 0.1, 0.02][:arms], [0.1, 0.03, 0.02][:arms]])[: len(seeds)]
    outcomes = train(task, optimizer, multipliers, rates, seeds, record=True)
    for s, seed in enumerate(seeds):
        for a in range(arms):
            loss, norms = by_torch(task, optimizer, multipliers[s, a], rates[s, a], seed)
            found = outcomes[s][a]
            assert found.train_loss == pytest.approx(loss, rel=1e-4)
            assert found.test_loss is None
            np.testing.assert_allclose(
                np.transpose([found.log.l2, found.log.l1, found.log.loss]), norms, rtol=2e-4, atol=1e-6
            )


def test_a_run_does_not_depend_on_those_beside_it() -> None:
    task, optimizer = Regression(), Optimizer("adamw", "adam", 0.1)
    multipliers = np.ones((2, 2, STEPS))
    rates = np.array([[0.02, 1e30], [0.02, 0.05]])  # one of them diverges
    together = train(task, optimizer, multipliers, rates, SEEDS)
    alone = train(task, optimizer, multipliers[:1, :1], rates[:1, :1], SEEDS[:1])
    assert together[0][0].train_loss == pytest.approx(alone[0][0].train_loss, rel=1e-5)
    assert together[0][0].log is None


def test_a_loss_that_is_not_finite_is_infinite() -> None:
    outcome = train(Regression(), Optimizer("sgd", "sgd", 0.1), np.ones((1, 1, STEPS)), np.full((1, 1), 1e38), [0])
    assert outcome[0][0].train_loss == np.inf
    assert outcome[0][0].loss == np.inf

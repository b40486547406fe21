"""What an update of a problem costs per run, in a plain loop of torch and for many runs as one tensor program.

    python tests/benchmarks/bench_batching.py [--updates 30] [--only fashion-cnn] [--runs 1 20 200]

Milliseconds of this process on one thread, of the first optimizer at scale "cpu": minibatches, gradients and the
update, without the evaluation. Runs of four seeds, except 1. Two blocks in turn, the smaller. Run it by hand.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import nn

from refine.bench.batched import train
from refine.bench.problems import Optimizer
from refine.bench.suites import CONVEX, DEEP
from refine.bench.task import NetworkTask, Task


class Unevaluated:
    """A task without its evaluation."""

    def __init__(self, task: Task) -> None:
        self.stack, self.batch, self.gradients = task.stack, task.batch, task.gradients

    def evaluate(self, parameters: dict[str, torch.Tensor]) -> tuple[torch.Tensor, None]:
        return torch.zeros(next(iter(parameters.values())).shape[:2], dtype=torch.float64), None


def plain(task: Task, optimizer: Optimizer, updates: int) -> None:
    """The loop that people write."""
    if isinstance(task, NetworkTask):
        network = task.network.requires_grad_(True)
        loss = partial(task.loss, network)
    else:
        network = nn.Linear(*task.shape, bias=False)
        loss = lambda x, y: nn.functional.cross_entropy(network(x), y)  # noqa: E731
    weights = list(network.parameters())
    method: torch.optim.Optimizer
    if optimizer.family == "sgd":
        method = torch.optim.SGD(weights, 1e-4, momentum=optimizer.betas[0], weight_decay=optimizer.weight_decay)
    else:
        method = torch.optim.AdamW(weights, 1e-4, betas=optimizer.betas, weight_decay=optimizer.weight_decay)
    generator = torch.Generator().manual_seed(0)
    for _ in range(updates):
        method.zero_grad()
        loss(*task.batch(generator)).backward()
        if optimizer.clip is not None:
            nn.utils.clip_grad_norm_(weights, optimizer.clip)
        method.step()
    network.requires_grad_(False)


def together(task: Task, optimizer: Optimizer, runs: int, updates: int) -> None:
    seeds = [0] if runs < 4 else [0, 1, 2, 3]
    shape = len(seeds), runs // len(seeds)
    train(Unevaluated(task), optimizer, np.ones((*shape, updates)), np.full(shape, 1e-4), seeds)  # type: ignore[arg-type]


def cost(work: Callable[[int], None], runs: int, updates: int) -> float:
    """Milliseconds per update and run."""
    work(3)
    found = []
    for _ in range(2):
        started = time.process_time()
        work(updates)
        found.append(time.process_time() - started)
    return 1e3 * min(found) / updates / runs


def costs(task: Task, optimizer: Optimizer, runs: list[int], updates: int) -> list[float]:
    """Of the plain loop, then of each number of runs at once."""
    return [
        cost(lambda n: plain(task, optimizer, n), 1, updates),
        *(cost(lambda n, k=k: together(task, optimizer, k, n), k, max(5, updates // k)) for k in runs),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=30)
    parser.add_argument("--only", nargs="*", default=["digits", *(problem.name for problem in DEEP)])
    parser.add_argument("--runs", nargs="*", type=int, default=[1, 20, 200])
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    print(f"{'ms per update and run':22}{'plain':>8}" + "".join(f"{runs:8}" for runs in chosen.runs))
    for problem in (problem for problem in (*CONVEX, *DEEP) if problem.name in chosen.only):
        row = costs(problem.make("cpu", "cpu"), problem.optimizers[0], chosen.runs, 10 * chosen.updates)
        print(f"{problem.name:22}" + "".join(f"{value:8.3g}" for value in row), flush=True)


if __name__ == "__main__":
    main()

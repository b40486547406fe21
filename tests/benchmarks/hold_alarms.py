"""How sure a law must be before the peak is held: what holds gain at low peaks, and what false alarms cost.

    python tests/benchmarks/hold_alarms.py

The choosing half of the tables with steady noise, SGD and Adam, linear decay over 2,000 updates at multiples of its
best peak. From each of 24 logs a law; for several cautions and longest holds the hold that it would choose. The loss of
every hold is the mean of twelve other runs. Printed: per cent over linear decay, the mean over cells (of the best hold,
too), the worst cell and the worst log. It takes a quarter of an hour.
"""

from __future__ import annotations

import sys
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray

from refine.bench.batched import train
from refine.bench.suites import SUITES
from refine.default import scheduled
from refine.families import linear
from refine.foretold import law_of
from refine.level_shifts import shifts_of, shifts_of_losses
from refine.loss_limits import bad_fit
from refine.norms import GradientNorms, Source
from refine.refinement import k_of_hold

STEPS, WARMUP = 2000, 100
FACTORS = (1 / 16, 1 / 4, 1 / 2, 1.0, 2.0)
CAUTIONS, LONGEST = (1.0, 1.25, 1.5, 2.0), (0.95, 0.8, 0.6)
HOLDS = np.arange(20) / 20
TUNING, TRUE, LOGGED = list(range(3)), list(range(1000, 1012)), list(range(2000, 2024))


def costs_of(norms: GradientNorms, rates: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Predicted difference and standard error of every hold but the first, (n, 2); None where the law is silent."""
    law = law_of(norms)
    if law is None or bad_fit(law.fit) or shifts_of(norms) or shifts_of_losses(norms):
        return None
    return np.array(law.costs(rates[1:], rates[0]))


def chosen(costs: NDArray[np.float64] | None, caution: float, longest: float) -> int:
    """Index of the hold; 0: none."""
    if costs is None:
        return 0
    values = np.append(0.0, costs @ [1.0, caution])
    values[longest + 1e-9 < HOLDS] = np.inf
    return int(np.argmin(values))


def main() -> None:
    """Train, fit, and print the table."""
    torch.set_num_threads(1)
    plain = linear(STEPS, warmup_steps=WARMUP).multiplier
    arms = np.stack([scheduled(STEPS, WARMUP, k_of_hold(np.ones(STEPS), hold)) for hold in HOLDS])
    gains: dict[tuple[float, float, float], list[NDArray[np.float64]]] = {}
    best: dict[float, list[float]] = {factor: [] for factor in FACTORS}
    for problem in SUITES["peaks-choose"].problems:
        task = problem.make("cpu", torch.device("cpu"))
        for optimizer in problem.optimizers:

            def runs(schedules, rates, seeds, task=task, optimizer=optimizer, **how):  # type: ignore[no-untyped-def]
                shape = len(seeds), *schedules.shape
                return train(task, optimizer, np.broadcast_to(schedules, shape), rates, seeds, **how)

            grid = optimizer.rate * 2.0 ** np.arange(-6, 5.5, 0.5)
            swept = runs(np.tile(plain, (grid.size, 1)), np.tile(grid, (len(TUNING), 1)), TUNING)
            at = int(np.argmin(np.mean([[run.train_loss for run in row] for row in swept], axis=0)))
            for factor in FACTORS:
                peak = float(grid[at]) * factor
                made = runs(arms, np.full((len(TRUE), len(HOLDS)), peak), TRUE)
                losses = np.mean([[run.train_loss for run in row] for row in made], axis=0)
                over = 100.0 * (losses / losses[0] - 1.0)
                best[factor].append(float(over.min()))
                every = []
                for (run,) in runs(plain[None], np.full((len(LOGGED), 1), peak), LOGGED, record=True):
                    kind, values = ("l2", run.log.l2) if optimizer.family == "sgd" else ("l1", run.log.l1)
                    norms = GradientNorms.from_values(
                        values,
                        kind=kind,
                        learning_rate=peak * plain,
                        loss=run.log.loss,
                        source=Source(name=problem.name, optimizer=optimizer.family),
                    )
                    every.append(costs_of(norms, peak * arms))
                for caution, longest in product(CAUTIONS, LONGEST):
                    got = np.array([over[chosen(costs, caution, longest)] for costs in every])
                    gains.setdefault((caution, longest, factor), []).append(got)
            print(f"{problem.name}, {optimizer.name}: best peak {grid[at]:.3g}", file=sys.stderr)
    for factor in FACTORS:
        print(f"peak {factor:g} of the best; the best hold {np.mean(best[factor]):+.2f} %")
        for caution, longest in product(CAUTIONS, LONGEST):
            cells = gains[caution, longest, factor]
            means = [float(cell.mean()) for cell in cells]
            worst = max(float(cell.max()) for cell in cells)
            shown = f"mean {np.mean(means):+.2f}, worst cell {max(means):+.2f}, worst log {worst:+.2f} %"
            print(f"  caution {caution:<4g} longest {longest:<4g} {shown}")


if __name__ == "__main__":
    sys.exit(main())

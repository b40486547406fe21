"""The three cases of docs/when.md: a log, what `refine fit` makes of it, and how that ended beside linear decay.

    python tests/benchmarks/when_figures.py docs

Logistic regression on the digits, a tenth of the labels wrong, SGD, 2,000 updates. The log is that of one run with
linear decay; each schedule is then run on sixteen other seeds, at the peak that goes with it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

import refine
from refine.bench.batched import train
from refine.bench.suites import CONVEX, SUITES
from refine.families import linear
from refine.figures import save_figure
from refine.norms import GradientNorms, Source

STEPS, WARMUP = 2000, 100
CASES = {
    "changing": ("digits, batch down", 2**-1.5, "the batch falls from 64 to 8 at half time"),
    "low": ("digits, steady", 2**-0.5 / 16, "the peak is a sixteenth of the best"),
    "steady": ("digits, steady", 2**-0.5, "nothing changes, and the peak is the best"),
}
"""Problem, peak, and what is told of it. The best peaks of linear decay are those of the suite changing-confirm."""

SEEDS = list(range(200, 216))


def main() -> None:
    """Draw the figures and print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    torch.set_num_threads(1)
    problems = {problem.name: problem for problem in SUITES["changing-confirm"].problems}
    sgd = CONVEX[0].optimizers[0]
    for case, (name, peak, told) in CASES.items():
        problem = problems[name]
        task = problem.make("cpu", torch.device("cpu"))
        plain = linear(STEPS, warmup_steps=WARMUP).multiplier
        log = train(task, sgd, plain[None, None], np.array([[peak]]), [0], record=True)[0][0].log
        assert log is not None
        norms = GradientNorms.from_values(
            log.l2,
            learning_rate=peak * plain,
            loss=log.loss,
            batch_size=problem.noise.sizes(STEPS),
            source=Source(name=f"{name}, SGD", format="refine bench", optimizer="sgd", rows=STEPS),
        )
        result = refine.fit(norms)
        save_figure(result.plot(), folder / f"when-{case}.png")
        arms = np.stack([plain, result.recommended.multiplier, result.refined.multiplier])
        own = [peak, *(result.peak_lr(name) or peak for name in ("recommended", "refined"))]
        rates = np.tile(own, (len(SEEDS), 1))
        outcomes = train(task, sgd, np.broadcast_to(arms, (len(SEEDS), *arms.shape)), rates, SEEDS)
        losses = np.array([[outcome.train_loss for outcome in row] for row in outcomes])
        gains = 100.0 * (losses[:, 1:] / losses[:, :1] - 1.0)
        shown = [f"{g.mean():+.2f} +- {g.std(ddof=1) / np.sqrt(len(SEEDS)):.2f} %" for g in gains.T]
        print(f"== {case}: {told}\n{result.summary()}")
        print(f"loss over linear decay: recommended {shown[0]}, refined {shown[1]}\n")


if __name__ == "__main__":
    sys.exit(main())

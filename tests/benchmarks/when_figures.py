"""The three cases of docs/when.md: a log, what `refine fit` makes of it, and how that ended beside linear decay.

    python tests/benchmarks/when_figures.py docs

Logistic regression on a table, a tenth of the labels wrong, SGD, 2,000 updates, sixteen logs of linear decay. From each
schedules are made, and run on another seed at the peak that goes with them. The figure is of the first log.
"""

from __future__ import annotations

import argparse
import itertools
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
BEST = {"spam": {"batch down": 2**-4.5, "steady": 2**-4.0}, "digits": {"batch down": 2**-1.5, "steady": 2**-0.5}}
"""Best peaks of linear decay in the suite changing-confirm. The figures are of the first table."""

CASES = {
    "changing": ("batch down", 1.0, "the batch falls from 64 to 8 at half time"),
    "low": ("steady", 1 / 16, "the peak is a sixteenth of the best"),
    "steady": ("steady", 1.0, "nothing changes, and the peak is the best"),
}
"""Change, peak over the best, and what is told of it."""

LOGGED, FINAL = list(range(16)), list(range(200, 216))


def main() -> None:
    """Draw the figures and print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    torch.set_num_threads(1)
    problems = {problem.name: problem for problem in SUITES["changing-confirm"].problems}
    sgd = CONVEX[0].optimizers[0]
    plain = linear(STEPS, warmup_steps=WARMUP).multiplier
    for table, (case, (change, factor, told)) in itertools.product(BEST, CASES.items()):
        name, peak = f"{table}, {change}", BEST[table][change] * factor
        task = problems[name].make("cpu", torch.device("cpu"))
        same = np.broadcast_to(plain, (len(LOGGED), 1, STEPS))
        logs = train(task, sgd, same, np.full((len(LOGGED), 1), peak), LOGGED, record=True)
        fits = []
        for (outcome,) in logs:
            assert outcome.log is not None
            norms = GradientNorms.from_values(
                outcome.log.l2,
                learning_rate=peak * plain,
                loss=outcome.log.loss,
                batch_size=problems[name].noise.sizes(STEPS),
                source=Source(name=f"{name}, SGD", format="refine bench", optimizer="sgd", rows=STEPS),
            )
            fits.append(refine.fit(norms))
        if table == next(iter(BEST)):
            save_figure(fits[0].plot(), folder / f"when-{case}.png")
        arms = np.stack([[plain, fit.recommended.multiplier, fit.refined.multiplier] for fit in fits])
        rates = [[peak, *(fit.peak_lr(each) or peak for each in ("recommended", "refined"))] for fit in fits]
        outcomes = train(task, sgd, arms, np.array(rates), FINAL)
        losses = np.array([[outcome.train_loss for outcome in row] for row in outcomes])
        gains = 100.0 * (losses[:, 1:] / losses[:, :1] - 1.0)
        holds = ", ".join(f"{hold:.2f}" for hold in sorted(fit.choice.hold for fit in fits))
        print(f"== {table}, {case}: {told}\n{fits[0].summary()}\nholds of the sixteen logs: {holds}")
        for which, g in zip(("recommended", "refined"), gains.T, strict=True):
            error = g.std(ddof=1) / np.sqrt(g.size)
            print(f"{which}: {g.mean():+.2f} +- {error:.2f} % over linear decay, at worst {g.max():+.2f} %")


if __name__ == "__main__":
    sys.exit(main())

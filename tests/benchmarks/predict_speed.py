"""Seconds of `refine predict` on a log of 100,000 rows, and milliseconds of a fit of each law.

python tests/benchmarks/predict_speed.py [--repeats 5]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from refine import LossCurve, linear
from refine.loss_fit import fit_points
from refine.loss_laws import LAWS
from refine.prediction import points_of

ROWS = 100_000
COMMANDS = (
    "",
    "--choose cooldown",
    "--choose peak",
    "--choose hold",
    "--choose horizon --target-loss 2.2",
    "--plot p.png --force",
    "-v",
)


def losses(schedule: np.ndarray, seed: int = 0) -> np.ndarray:
    """Losses that fall with the updates and follow the rate, with scatter."""
    t = np.arange(1, schedule.size + 1)
    scatter = np.random.default_rng(seed).standard_normal(t.size)
    return (2.0 + 30.0 / np.sqrt(t + 500.0) + 0.2 * schedule) * np.exp(0.02 * scatter)


def median_time(repeats: int, call: Callable[[], object]) -> float:
    """Seconds, the median of so many calls."""
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        taken.append(time.perf_counter() - started)
    return float(np.median(taken))


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    schedule = linear(ROWS, warmup_steps=1000).multiplier
    loss = losses(schedule)
    with tempfile.TemporaryDirectory() as folder:
        rows = {"step": np.arange(1, ROWS + 1), "loss": loss, "lr": 1e-3 * schedule}
        pd.DataFrame(rows).to_csv(Path(folder, "log.csv"), index=False)
        for options in COMMANDS:
            command = [sys.executable, "-m", "refine.cli", "predict", "log.csv", *options.split()]
            run = lambda command=command: subprocess.run(command, cwd=folder, check=True, capture_output=True)  # noqa: E731
            print(f"{median_time(repeats, run):6.2f} s   refine predict log.csv {options}")
    points = [
        points_of(LossCurve.from_values(loss, rates=1e-3 * schedule, sort=sort)) for sort in ("training", "validation")
    ]
    for name, law in LAWS.items():
        taken = (median_time(repeats, lambda each=each, law=law: fit_points([each], law)) for each in points)
        print(f"{name:12}", *(f"{1e3 * each:5.0f} ms" for each in taken), " (60 and 100 points)")


if __name__ == "__main__":
    sys.exit(main())

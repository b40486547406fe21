"""Does the bound rank real runs? Schedules of the shared LLM runs, by final loss and by bound.

    python tests/benchmarks/llm_ranking.py [SHARED]

Prints, for norms that are constant or logged in one run, the rank correlation (Spearman) of the final loss at the
best peak learning rate with the best bound, per horizon; the optimal peak learning rate against the bound's; and how
the optimal peak moves with the horizon.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from refine import Schedule, from_name, read_norms
from refine.bound import omega_at_best_peak

DIVERGED = 6.0


def runs(shared: Path) -> pd.DataFrame:
    """One row a run, with the name of its schedule; without the diverged one."""
    frame = pd.read_csv(shared / "llm-runs" / "finals.csv")
    frame = frame[frame.final_val_loss < DIVERGED].copy()
    # Cosine rows with final_factor below 0.01 are one schedule (README of the data).
    names = []
    for row in frame.itertuples():
        if row.schedule == "cosine":
            factor = row.final_factor if row.final_factor >= 0.01 else 0.0
            names.append(f"cosine:{factor:g},warmup_steps={row.warmup_steps}")
        else:
            cooldown = f"cooldown_fraction={row.cooldown_fraction:g},shape={row.cooldown_shape}"
            names.append(f"wsd:{cooldown},warmup_steps={row.warmup_steps}")
    return frame.assign(name=names)


def tuned_losses(frame: pd.DataFrame, total_steps: int) -> pd.Series:
    """Least final loss of every schedule over its peak learning rates."""
    return frame[frame.total_steps == total_steps].groupby("name").final_val_loss.min()


def optimal_peaks(frame: pd.DataFrame, total_steps: int) -> pd.Series:
    """Best peak of every schedule with at least three, by a parabola in its logarithm."""

    def best(group: pd.DataFrame) -> float:
        a, b, _ = np.polyfit(np.log(group.peak_lr), group.final_val_loss, 2)
        return float(np.exp(-b / (2 * a))) if a > 0 else float("nan")

    chosen = frame[frame.total_steps == total_steps].groupby("name")
    return pd.Series({name: best(group) for name, group in chosen if len(group) >= 3})


def norms_on(log: Path | None, total_steps: int) -> np.ndarray:
    """Smoothed norms on every update (Adam: N = G); constant ones without a log."""
    if log is None:
        return np.ones(total_steps)
    norms = read_norms(log)
    return norms.on_updates(norms.smoothed(), total_steps)


def bounds(names: list[str], squared: np.ndarray) -> pd.DataFrame:
    """Best bound and best peak of every schedule."""
    found = {}
    for name in names:
        schedule: Schedule = from_name(name, squared.size)
        best = omega_at_best_peak(schedule.multiplier, squared)
        found[name] = {"bound": best.value, "peak": best.peak_lr}
    return pd.DataFrame.from_dict(found, orient="index")


def correlation(frame: pd.DataFrame, log: Path | None, total_steps: int) -> tuple[float, int]:
    """Rank correlation of tuned loss and bound, and the number of schedules."""
    losses = tuned_losses(frame, total_steps)
    found = bounds(list(losses.index), norms_on(log, total_steps))
    return float(spearmanr(losses, found.bound.loc[losses.index]).statistic), losses.size


def transfer_error(frame: pd.DataFrame, log: Path | None, total_steps: int) -> float:
    """Mean |d ln lr| between the real and the bound's ratio of best peaks, over all pairs of WSD cooldowns."""
    real = optimal_peaks(frame, total_steps)
    real = np.log(real[[name for name in real.index if "shape=linear" in name]])
    predicted = np.log(bounds(list(real.index), norms_on(log, total_steps)).peak.loc[real.index])
    error = (real - predicted).to_numpy()
    first, second = np.triu_indices(error.size, 1)
    return float(np.mean(np.abs(error[first] - error[second])))


def main() -> None:
    """Print the three tables."""
    shared = Path(sys.argv[1] if len(sys.argv) > 1 else "../shared")
    frame = runs(shared)
    horizons = sorted(frame.total_steps.unique())
    logs = [p for p in sorted((shared / "llm-runs" / "grad_norm").glob("*.csv")) if read_norms(p).steps[0] < 1000]
    print(f"{'norms':28}" + "".join(f"{steps:>14,}" for steps in horizons))
    for log in [None, *logs]:
        cells = [correlation(frame, log, steps) for steps in horizons]
        print(f"{log.stem if log else 'constant':28}" + "".join(f"{rho:9.2f} of {n:2}" for rho, n in cells))
    print("\nmean |d ln lr| between WSD cooldowns, 50,000 steps")
    for log in [None, *logs]:
        print(f"{log.stem if log else 'constant':28}{transfer_error(frame, log, 50_000):9.3f}")
    print("\nbest peak ~ T^p, per schedule")
    peaks = pd.DataFrame({steps: optimal_peaks(frame, steps) for steps in horizons}).dropna()
    for name, row in peaks.iterrows():
        print(f"{name:60}{np.polyfit(np.log(row.index.to_numpy(float)), np.log(row.to_numpy(float)), 1)[0]:7.2f}")


if __name__ == "__main__":
    main()

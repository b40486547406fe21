"""The schedule that is recommended from one log, judged by runs of others that were really made.

    python tests/benchmarks/recommend_llm.py SHARED

SHARED is a folder with `llm-runs` (124M-parameter models, arXiv:2405.18392 and arXiv:2501.18965). For every run that
anneals, `refine.default.choose` says from its losses alone for how long a run of 50,000 updates at the same peak holds
it. Such a run is WSD with the rest as linear cooldown. Its final loss is read off those
that were made with cooldowns of .1 to .9, a line from one to the next. Regret: that loss less the least of the nine
schedules that were made.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from loss_laws import KINDS, PEAKS, llm_runs, training_logs

from refine.default import cautious_hold, choose
from refine.loss_curve import LossCurve
from refine.norms import GradientNorms, Source
from refine.prediction import fit_loss
from refine.prior import read_prior
from refine.smoothing import smooth

TOTAL, WARMUP = 50_000, 300
SHARES = (0.1, 0.2, 0.4, 0.6, 0.8, 0.9)
ALWAYS = {"linear": "wsd.9", "WSD .2": "wsd.2", "WSD .4": "wsd.4", "WSD .6": "wsd.6", "cosine": "cosine.0"}


def final(runs: Mapping[Any, Any], peak: float, hold: float) -> float:
    """Final loss of a run that holds its peak for a share; linear decay is the run with a cooldown of nine tenths."""
    made = [runs[f"wsd{f'{share:.1f}'[1:]}", peak, TOTAL]["final"] for share in SHARES]
    return float(np.interp(1.0 - hold, SHARES, made))


def regret_of(runs: Mapping[Any, Any], curve: LossCurve, peak: float) -> tuple[float, float]:
    """Regret and hold of what `refine fit` would recommend from these losses, beside norms that say nothing."""
    at = curve.steps
    log = GradientNorms.from_values(
        np.ones(at.size),
        steps=at,
        learning_rate=curve.rates[at - 1],
        loss=curve.losses,
        logged_steps=curve.rates.size,
        source=Source(optimizer="adam"),
    )
    return _regret(runs, peak, choose(log, read_prior(log), TOTAL).hold)


def with_norms(
    runs: Mapping[Any, Any], curve: LossCurve, peak: float, table: pd.DataFrame, power: float
) -> tuple[float, float]:
    """The same, of a law whose noise term holds the smoothed norms to a power."""
    norms = np.interp(np.arange(curve.rates.size) + 1, table.step, smooth(table.grad_norm.to_numpy()))
    law = fit_loss(replace(curve, noise=(norms / norms.mean()) ** power))
    return _regret(runs, peak, cautious_hold(law, TOTAL, WARMUP, peak))


def _regret(runs: Mapping[Any, Any], peak: float, hold: float) -> tuple[float, float]:
    return final(runs, peak, hold) - min(runs[kind, peak, TOTAL]["final"] for kind in KINDS), hold


def told(name: str, found: Sequence[tuple[float, float]]) -> str:
    """One line."""
    regrets = [regret for regret, _ in found]
    holds = [hold for _, hold in found]
    return (
        f"{name:34} {len(found):3} logs: regret {np.mean(regrets):.4f}, worst {max(regrets):.4f}; "
        f"holds {min(holds):.2f} to {max(holds):.2f}"
    )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("shared", type=Path)
    folder = parser.parse_args().shared / "llm-runs"
    runs = llm_runs(folder)
    for name, kind in ALWAYS.items():
        paid = [runs[kind, p, TOTAL]["final"] - min(runs[k, p, TOTAL]["final"] for k in KINDS) for p in PEAKS]
        print(f"always {name:8} peaks {', '.join(f'{p:g}: {x:.4f}' for p, x in zip(PEAKS, paid, strict=True))}")
        print(f"{'':15} mean {np.mean(paid):.4f}")
    every = []
    for total in (15_000, 25_000, 35_000, 50_000):
        own = []
        for peak in PEAKS:
            at_peak = [regret_of(runs, runs[k, peak, total]["curve"], peak) for k in KINDS if (k, peak, total) in runs]
            if at_peak:
                print(told(f"validation loss, {total:,}, peak {peak:g}", at_peak))
            own += at_peak
        print(told(f"validation loss, {total:,}", own))
        every += own
    print(told("validation loss, all", every))
    logs = training_logs(folder / "grad_norm")
    trained = [regret_of(runs, curve, peak) for (_, peak), curve in logs.items()]
    for (name, peak), (regret, hold) in zip(logs, trained, strict=True):
        print(f"training loss, {name}, peak {peak:g}: regret {regret:.4f}, hold {hold:.2f}")
    print(told("training loss", trained))
    for power in (-1, 0, 1, 2):
        found = []
        for (name, peak), curve in logs.items():
            table = pd.read_csv(folder / "grad_norm" / f"{name}_lr{peak:g}_T50000.csv").dropna(subset=["grad_norm"])
            found.append(with_norms(runs, curve, peak, table, power))
        print(told(f"training loss, norms^{power} as noise", found))


if __name__ == "__main__":
    sys.exit(main())

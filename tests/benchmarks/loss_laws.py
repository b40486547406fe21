"""What the laws of the loss curve reach on runs of others: predict a run that was not fitted, choose a schedule.

    python tests/benchmarks/loss_laws.py SHARED [--law NAME ...]
    python tests/benchmarks/loss_laws.py SHARED --figure docs/prediction.png   (one run and four that were made)

SHARED is a folder with `llm-runs` (124M-parameter models, arXiv:2405.18392 and arXiv:2501.18965) and `mpl-curves` (25M
and 100M, arXiv:2503.12811). Errors are absolute, of the last point of the validation curve, but in the protocol of
arXiv:2503.12811, where all points of the six test curves count. Regret is the measured final loss of the schedule with
the least prediction over that of the best.
"""

from __future__ import annotations

import argparse
import itertools
import re
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from refine.figures import save_figure
from refine.loss_curve import LossCurve
from refine.loss_table import LossTable
from refine.prediction import LossLaw, fit_loss
from refine.schedule import Schedule

Run = dict[str, Any]
PEAKS = (1e-4, 5e-4, 1e-3, 2e-3)
KINDS = ("wsd.1", "wsd.2", "sqrt.2", "wsd.4", "wsd.6", "wsd.8", "wsd.9", "cosine.1", "cosine.0")
SOURCES = ("wsd.2", "sqrt.2", "wsd.4", "wsd.6", "wsd.8", "wsd.9", "cosine.0")
"""Seven kinds of source, four peaks: 28. All nine are in the line below."""

MPL_FITTED = ("constant_24000", "cosine_24000", "wsdcon_9")
MPL_PREDICTED = (
    "wsdcon_3",
    "wsdcon_18",
    "wsd_20000_24000",
    "wsdld_20000_24000",
    "constant_72000",
    "cosine_72000",
)
MPL_WARMUP = 2160


def rates_of(kind: str, peak: float, steps: int, warmup: int = 300) -> NDArray[np.float64]:
    """Rates of a 124M run: linear warmup, then cosine to a share of the peak, or constant and a cooldown to 0."""
    shape, share = kind.split(".")
    t, part = np.arange(steps), float(f".{share}")
    rise = np.minimum((t + 1) / warmup, 1.0)
    if shape == "cosine":
        x = np.clip((t - warmup) / (steps - warmup), 0.0, 1.0)
        return np.where(t < warmup, rise, part + (1.0 - part) * 0.5 * (1.0 + np.cos(np.pi * x))) * peak
    cooldown = round(part * steps)
    x = np.clip((t - (steps - cooldown)) / max(cooldown, 1), 0.0, 1.0)
    return np.asarray(np.minimum(rise, 1.0 - (np.sqrt(x) if shape == "sqrt" else x)) * peak)


def llm_runs(folder: Path) -> dict[tuple[str, float, int], Run]:
    """All 124M runs by kind, peak and horizon; a log that holds only the cooldown gets the losses of its trunk."""
    finals = pd.read_csv(folder / "finals.csv").set_index("run")
    curves = dict(iter(pd.read_csv(folder / "curves.csv.gz").groupby("run")))
    runs: dict[tuple[str, float, int], Run] = {}
    for name, row in finals.iterrows():
        if row.schedule == "cosine":
            kind = "cosine.1" if row.final_factor == 0.1 else "cosine.0"
        else:
            kind = f"{'sqrt' if row.cooldown_shape == 'sqrt' else 'wsd'}{f'{row.cooldown_fraction:.1f}'[1:]}"
        steps, losses = (curves[name][column].to_numpy() for column in ("step", "val_loss"))
        known = runs.setdefault((kind, row.peak_lr, row.total_steps), {})
        known.update(steps=steps, losses=losses, final=row.final_val_loss)
    for (kind, peak, total), run in runs.items():
        start = run["steps"][0]
        trunk: dict[int, float] = {}
        for (other, its_peak, its_total), its in runs.items():
            if start and its_peak == peak and not other.startswith("cosine"):
                held = its_total * (1.0 - float(f".{other.split('.')[1]}"))
                for step, loss in zip(its["steps"], its["losses"], strict=True):
                    if step <= held and step < start:
                        trunk.setdefault(int(step), float(loss))
        before = np.array(sorted(trunk), dtype=np.int64)
        run["curve"] = LossCurve(
            np.concatenate([before, run["steps"]]),
            np.concatenate([[trunk[step] for step in before], run["losses"]]),
            rates_of(kind, peak, total),
            "validation",
            f"{kind} {peak:g} {total}",
        )
    return runs


def mpl_curve(folder: Path, name: str) -> LossCurve:
    """A curve of arXiv:2503.12811; it is logged from the end of its warmup on."""
    rows = pd.read_csv(folder / f"{name}.csv")
    total = re.search(r"_(\d+)$", name)
    steps = int(total[1]) if total and int(total[1]) > 100 else int(rows.step.iloc[-1])
    t = np.arange(steps)
    rates = np.interp(t, rows.step, rows.lr)
    if name.startswith("wsdcon"):
        rates = np.where(t < 8000, rows.lr.max(), rows.lr.min())
    rates[:MPL_WARMUP] = rows.lr.max() * (t[:MPL_WARMUP] + 1) / MPL_WARMUP
    return LossCurve(rows.step.to_numpy(), rows.loss.to_numpy(), rates, "validation", name)


def end_of(law: LossLaw, curve: LossCurve) -> float:
    """Predicted loss at the last logged step of a curve."""
    view = law.fit.view(curve.rates, curve.steps[-1:].astype(float))
    return float(law.fit.losses(view)[0])


def one_run(runs: dict[Any, Run], law: str, old: int, new: int, kinds: Iterable[str]) -> tuple[Any, ...]:
    """Errors of the ends, regrets, of every run of ``old`` updates for all of ``new``; a source predicts not itself."""
    errors, regrets = [], []
    for peak, kind in itertools.product(PEAKS, kinds):
        if (kind, peak, old) not in runs or not any((k, peak, new) in runs for k in KINDS):
            continue
        fitted = fit_loss(runs[kind, peak, old]["curve"], law=law)
        targets = [runs[k, peak, new] for k in KINDS if (k, peak, new) in runs and (k, new) != (kind, old)]
        ends = [end_of(fitted, target["curve"]) for target in targets]
        errors += [abs(end - target["curve"].losses[-1]) for end, target in zip(ends, targets, strict=True)]
        finals = [target["final"] for target in targets]
        regrets.append(finals[int(np.argmin(ends))] - min(finals))
    return np.mean(errors), np.max(errors), np.mean(regrets), np.max(regrets), len(regrets)


def two_runs(runs: dict[Any, Run], law: str, pairs: Iterable[tuple[str, str]]) -> float:
    """Mean error of nine schedules at 50k from two runs of 25k at the same peak."""
    errors = []
    for peak, pair in itertools.product(PEAKS, pairs):
        fitted = fit_loss([runs[kind, peak, 25_000]["curve"] for kind in pair], law=law)
        for kind in KINDS:
            target = runs[kind, peak, 50_000]["curve"]
            errors.append(abs(end_of(fitted, target) - target.losses[-1]))
    return float(np.mean(errors))


def mpl(folder: Path, law: str, fitted: Iterable[str], predicted: Iterable[str]) -> tuple[float, float, float]:
    """Mean R2 and mean absolute error over the curves that were not fitted, and the worst error of a point."""
    known = fit_loss([mpl_curve(folder, name) for name in fitted], law=law)
    scores = []
    for name in predicted:
        curve = mpl_curve(folder, name)
        off = known.fit.losses(known.fit.view(curve.rates, curve.steps.astype(float))) - curve.losses
        scores.append(
            (
                1.0 - np.sum(off**2) / np.sum((curve.losses - curve.losses.mean()) ** 2),
                np.abs(off).mean(),
                np.abs(off).max(),
            )
        )
    fit, error, _ = np.mean(scores, axis=0)
    return float(fit), float(error), max(score[2] for score in scores)


def training_logs(folder: Path) -> dict[tuple[str, float], LossCurve]:
    """Training losses of the 50k runs whose gradient norms were logged; those of a branch with its trunk's before."""
    kinds = {"const": "wsd.0", "cos0": "cosine.0", "wsd-sqrt0.2": "sqrt.2", "wsd0.2": "wsd.2", "wsd0.994": "wsd.994"}
    found, rows = {}, {}
    for path in sorted(folder.glob("*.csv")):
        name, peak = re.match(r"(.*)_lr([\d.]+)_T50000", path.stem).groups()  # type: ignore[union-attr]
        rows[name, float(peak)] = pd.read_csv(path)
    for (name, peak), table in rows.items():
        if name == "const":
            continue
        start = table.step.iloc[0]
        if start > 1000:
            trunk = rows["const", peak]
            table = pd.concat([trunk[trunk.step < start], table])
        table = table[np.isfinite(table.train_loss)].drop_duplicates("step", keep="last").sort_values("step")
        found[name, peak] = LossCurve(
            table.step.to_numpy(), table.train_loss.to_numpy(), rates_of(kinds[name], peak, 50_000), "training", name
        )
    return found


TUTORIAL = {"linear": "wsd.9", "cosine": "cosine.0", "wsd:0.2": "wsd.2", "wsd:0.4": "wsd.4"}
"""What is predicted in the docs, and the run that was made; linear decay is the run with a cooldown of nine tenths."""


def tutorial(runs: dict[Any, Run], path: Path, peak: float = 1e-3) -> str:
    """From one run of 25,000 updates, WSD .2, four schedules at 50,000, and what those reached."""
    law = fit_loss(runs["wsd.2", peak, 25_000]["curve"])
    made = {name: runs[kind, peak, 50_000]["curve"] for name, kind in TUTORIAL.items()}
    table = law.compare({name: Schedule.from_rates(curve.rates) for name, curve in made.items()})
    figure = table.plot()
    for name, curve in made.items():
        line = next(x for x in figure.axes[0].get_lines() if np.array_equal(x.get_ydata(), curve_of(table, name)))
        figure.axes[0].plot(curve.steps, curve.losses, "o", markersize=2.2, color=line.get_color(), alpha=0.6, zorder=4)
    save_figure(figure, path)
    told = [table.summary(), "", "measured at the last step of the curve, 49,800:"]
    for name, curve in made.items():
        view = law.fit.view(curve.rates, curve.steps[-1:].astype(float))
        told.append(f"{name:8} {curve.losses[-1]:.4f}, predicted {law.fit.losses(view)[0]:.4f}")
    return "\n".join(told)


def curve_of(table: LossTable, name: str) -> NDArray[np.float64]:
    """The predicted curve of a row."""
    return next(row.prediction.losses for row in table.rows if row.prediction.name == name)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("shared", type=Path)
    parser.add_argument("--law", action="append")
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    runs = llm_runs(options.shared / "llm-runs")
    if options.figure:
        print(tutorial(runs, options.figure))
        return
    for kind in ("wsd.9", "cosine.0", "wsd.2", "wsd.4"):
        finals = [[runs[k, peak, 50_000]["final"] for k in KINDS] for peak in PEAKS]
        paid = [row[KINDS.index(kind)] - min(row) for row in finals]
        print(f"always {kind} at 50,000, 4 peaks: regret {np.mean(paid):.4f}, worst {max(paid):.4f}")
    laws = options.law or ["memory", "memory-power", "bound-power", "two", "general", "multi-power", "annealing"]
    pairs = list(itertools.combinations(SOURCES, 2))
    for law in laws:
        started = time.perf_counter()
        print(f"== {law}")
        for old, new, kinds in (
            (25_000, 50_000, SOURCES),
            (25_000, 50_000, KINDS),
            (15_000, 50_000, KINDS),
            (25_000, 25_000, KINDS),
            (15_000, 25_000, KINDS),
            (25_000, 35_000, KINDS),
        ):
            mean, worst, regret, most, count = one_run(runs, law, old, new, kinds)
            print(
                f"one run of {old:,} -> {new:,}, {count} sources: error {mean:.4f}, worst {worst:.4f}; "
                f"regret {regret:.4f}, worst {most:.4f}"
            )
        print(f"two runs of 25,000 -> 50,000, {len(pairs)} pairs x 4 peaks: error {two_runs(runs, law, pairs):.4f}")
        print(f"   wsd.2 and cosine.0: error {two_runs(runs, law, [('wsd.2', 'cosine.0')]):.4f}")
        for size in ("25M", "100M"):
            folder = options.shared / "mpl-curves" / size
            three = mpl(folder, law, MPL_FITTED, MPL_PREDICTED)
            others = [name for name in MPL_FITTED + MPL_PREDICTED if name != "wsd_20000_24000"]
            one = mpl(folder, law, ["wsd_20000_24000"], MPL_PREDICTED)
            print(f"{size}, three curves -> six: R2 {three[0]:.4f}, error {three[1]:.4f}, worst {three[2]:.4f}")
            print(f"{size}, one WSD curve -> the same six: R2 {one[0]:.4f}, error {one[1]:.4f}, worst {one[2]:.4f}")
            one = mpl(folder, law, ["wsd_20000_24000"], others)
            print(f"{size}, one WSD curve -> the other eight: R2 {one[0]:.4f}, error {one[1]:.4f}, worst {one[2]:.4f}")
        regrets = []
        for (_, peak), curve in training_logs(options.shared / "llm-runs" / "grad_norm").items():
            fitted = fit_loss(curve, law=law)
            targets = [runs[kind, peak, 50_000] for kind in KINDS]
            ends = [fitted.final_loss(target["curve"].rates) for target in targets]
            finals = [target["final"] for target in targets]
            regrets.append(finals[int(np.argmin(ends))] - min(finals))
        print(
            f"training loss of one run of 50,000, {len(regrets)} logs: regret {np.mean(regrets):.4f}, "
            f"worst {max(regrets):.4f}"
        )
        print(f"{time.perf_counter() - started:.0f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())

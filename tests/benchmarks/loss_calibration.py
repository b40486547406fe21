"""Make refine/loss_calibration.json: how far real predictions of the loss lie off, over what the fit alone expects.

    python tests/benchmarks/loss_calibration.py SHARED [--write]

SHARED as in `loss_laws.py`. A group is a model and its data. Every run of a group predicts the others of it: other
schedules, horizons up to 3.3 times its own, and other peaks. The shares of the formula are those of greatest likelihood
(errors normal, groups of equal weight), its q the quantile that covers 90 %; the coverage is that of each group by the
shares and the q of the others.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from loss_laws import KINDS, MPL_FITTED, MPL_PREDICTED, PEAKS, llm_runs, mpl_curve
from numpy.typing import NDArray
from scipy import optimize

from refine.errors import RefineError
from refine.loss_curve import LossCurve
from refine.prediction import LossLaw, fit_loss

FILE = Path(__file__).parents[2] / "refine" / "loss_calibration.json"
LINEAR = "wsd.9"
COVERED = 0.9
NAMES = ("horizon", "peak")


def cases(
    group: str, sources: Iterable[tuple[str, LossCurve]], targets: dict[str, LossCurve]
) -> list[dict[str, object]]:
    """Every target predicted from every source but itself, at its own last logged step."""
    found = []
    for name, source in sources:
        try:
            law = fit_loss(source)
        except RefineError:
            continue  # a constant rate
        if law.limits:
            continue  # its bars are widened by hand
        for other, target in targets.items():
            if other == name:
                continue
            value, gradient = end(law, target)
            measured = float(target.losses[-1])
            found.append(
                {
                    "group": group,
                    "source": name,
                    "target": other,
                    "error": (value - measured) / value,
                    "value": value,
                    "measured": measured,
                    "laplace": math.sqrt(float(gradient @ law.fit.covariance @ gradient)) / value,
                    "horizon": math.log2(max(float(target.steps[-1]) / law.logged_steps, 1.0)),
                    "peak": law._octaves(target.peak_lr),
                    "gradient": gradient,
                    "covariance": law.fit.covariance,
                }
            )
    return found


def end(law: LossLaw, target: LossCurve) -> tuple[float, NDArray[np.float64]]:
    """Predicted loss at a curve's last step, and its derivatives."""
    view = law.fit.view(target.rates, target.steps[-1:].astype(float))
    return float(law.fit.losses(view)[0]), law.fit.gradient(view)[0]


def collected(shared: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """All predictions, and all differences from linear decay of the same run, peak and horizon."""
    runs = llm_runs(shared / "llm-runs")
    rows: list[dict[str, object]] = []
    for old in (15_000, 25_000, 35_000):
        for peak in PEAKS:
            sources = [(f"{k} {peak} {old}", runs[k, peak, old]["curve"]) for k in KINDS if (k, peak, old) in runs]
            targets = {
                f"{k} {p} {t}": run["curve"]
                for (k, p, t), run in runs.items()
                if t >= old and p in PEAKS and (p == peak or (k in ("wsd.4", LINEAR) and t in (25_000, 50_000)))
            }
            rows += cases("124M", sources, targets)
    for size in ("25M", "100M"):
        curves = {name: mpl_curve(shared / "mpl-curves" / size, name) for name in MPL_FITTED + MPL_PREDICTED}
        short = [(name, curve) for name, curve in curves.items() if "72000" not in name]
        rows += cases(size, short, curves)
    table = pd.DataFrame(rows)
    return table, pd.DataFrame(differences(table))


def differences(table: pd.DataFrame) -> Iterable[dict[str, object]]:
    """Pairs of predictions of one source at one peak and horizon: each schedule less linear decay."""
    for (group, source), part in table.groupby(["group", "source"]):
        part = part.set_index("target")
        for name, row in part.iterrows():
            base = f"{LINEAR} {name.split(' ', 1)[1]}" if group == "124M" else "wsdld_20000_24000"
            if name == base or base not in part.index or row.peak or (group != "124M" and not name.endswith("24000")):
                continue
            other = part.loc[base]
            slope = row.gradient - other.gradient
            yield {
                "group": group,
                "source": source,
                "target": name,
                "error": (row.value - other.value - row.measured + other.measured) / other.value,
                "value": other.value,
                "said": row.value - other.value,
                "true": row.measured - other.measured,
                "laplace": math.sqrt(max(float(slope @ row.covariance @ slope), 0.0)) / other.value,
            }


def spread(table: pd.DataFrame, shares: dict[str, float]) -> NDArray[np.float64]:
    """The root of the bar's formula, without q."""
    square = table.laplace.to_numpy(float) ** 2
    for name, share in shares.items():
        square = square + (share * (table[name].to_numpy(float) if name in table else 1.0)) ** 2
    return np.sqrt(square)


def weights(table: pd.DataFrame) -> NDArray[np.float64]:
    """Groups of equal weight."""
    return (1.0 / table.groupby("group").group.transform("size")).to_numpy()


def likeliest(table: pd.DataFrame, names: Iterable[str]) -> dict[str, float]:
    """Shares of greatest likelihood; the scale of all is free."""
    names, weight = tuple(names), weights(table)

    def loss(x: NDArray[np.float64]) -> float:
        sd = math.exp(x[-1]) * spread(table, dict(zip(names, np.exp(x[:-1]), strict=True)))
        return float(np.sum(weight * (np.log(sd) + 0.5 * (table.error.to_numpy(float) / sd) ** 2)))

    start = np.array([math.log(0.003)] * len(names) + [0.0])
    found = optimize.minimize(
        loss, start, method="Nelder-Mead", options={"maxiter": 4000, "xatol": 1e-4, "fatol": 1e-8}
    )
    return dict(zip(names, np.exp(found.x[:-1]).tolist(), strict=True))


def quantile(table: pd.DataFrame, shares: dict[str, float]) -> float:
    """Quantile of the errors over their spread that covers 90 %, groups of equal weight."""
    ratio, weight = np.abs(table.error.to_numpy(float)) / spread(table, shares), weights(table)
    order = np.argsort(ratio)
    return float(np.interp(COVERED, np.cumsum(weight[order]) / weight.sum(), ratio[order]))


def held_out(table: pd.DataFrame, names: Iterable[str]) -> dict[str, float]:
    """Share of each group's errors inside bars that the other groups gave."""
    covered = {}
    for group, part in table.groupby("group"):
        others = table[table.group != group]
        shares = likeliest(others, names)
        covered[str(group)] = float(np.mean(np.abs(part.error) <= quantile(others, shares) * spread(part, shares)))
    return covered


def main() -> None:
    """Print the calibration and, with --write, store it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("shared", type=Path)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    table, pairs = collected(options.shared)
    shares = likeliest(table, NAMES)
    q = quantile(table, shares)
    of_pairs = likeliest(pairs, ["least_difference"])
    q_pairs = quantile(pairs, of_pairs)
    covered, covered_pairs = held_out(table, NAMES), held_out(pairs, ["least_difference"])
    print(table.groupby("group").error.agg(["size", lambda x: np.abs(x).mean()]))
    print(
        f"q {q:.3f}, {shares}; covered {np.mean(np.abs(table.error) <= q * spread(table, shares)):.3f}; "
        f"each by the others {covered}"
    )
    print(f"half width, median: {np.median(q * spread(table, shares) * table.value):.4f}")
    print(f"differences: q {q_pairs:.3f}, {of_pairs}; each by the others {covered_pairs}")
    same = table[table.peak == 0.0]
    inside = np.abs(same.error) <= q * spread(same, shares)
    print(
        f"at the same peak covered {inside.groupby(same.group).mean().round(3).to_dict()}, half width, median: "
        f"{np.median(q * spread(same, shares) * same.value):.4f}"
    )
    pairs["z"] = pairs.said / (q_pairs * spread(pairs, of_pairs) / 1.6449 * pairs.value)
    pairs["right"] = np.sign(pairs.said) == np.sign(pairs.true)
    hold = pairs[
        pairs.target.str.startswith("wsd.4 ") & pairs.target.str.endswith("50000") & pairs.source.str.endswith("25000")
    ]
    for what, part in (("wsd.4 less linear decay at 50,000 from 25,000", hold), ("all differences", pairs)):
        sure = part[part.z.abs() > 2.0]
        print(
            f"sign of {what}: right in {part.right.sum()} of {len(part)}; beyond two standard errors {len(sure)}, of "
            f"which wrong {int((~sure.right).sum())}"
        )
    if options.write:
        known = {
            "format": "refine-loss-calibration",
            "format_version": 1,
            "made_by": "tests/benchmarks/loss_calibration.py",
            "models": sorted(table.group.unique()),
            "q": round(q, 3),
            **{name: round(share, 5) for name, share in shares.items()},
            "q_difference": round(q_pairs, 3),
            **{name: round(share, 5) for name, share in of_pairs.items()},
            "groups": int(table.group.nunique()),
            "cases": len(table),
            "coverage": round(float(np.mean(list(covered.values()))), 3),
        }
        FILE.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())

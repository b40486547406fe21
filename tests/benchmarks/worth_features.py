"""Which check of a log makes benchmark cases alike? Each case foretold from its neighbours, its problem left out.

    python tests/benchmarks/worth_features.py [--results docs/bench/results]

A case is a problem with an optimizer. Its excess over linear decay is foretold by the median of the five nearest cases
of its family, by the rank of one check, or of two with equal weight. The cases of its own problem are left out. Prints
Spearman's rank correlation of what was foretold with what was measured, per family: the checks, the ten best pairs, and
last the rule of `refine.worth`, with the cases that lie within the range it gives.
"""

from __future__ import annotations

import argparse
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import rankdata, spearmanr

from refine.bench.reporting.headline import UNGUARDED
from refine.bench.reporting.prediction import check_columns, evidence
from refine.bench.reporting.results import load
from refine.bench.reporting.statistics import cells, paired
from refine.worth import Case, worth

NEIGHBOURS = 5


def cases(results: Path) -> pd.DataFrame:
    """One row a case: family, problem, excess and the checks of its log."""
    found = [load(results / suite) for suite in ("convex", "deep")]
    runs, logs = (pd.concat([getattr(r, name) for r in found], ignore_index=True) for name in ("runs", "logs"))
    return evidence(cells(paired(runs)), logs, UNGUARDED).assign(se=np.nan)


def correlation(own: pd.DataFrame, checks: tuple[str, ...]) -> float:
    """Of the median of the neighbours with the excess."""
    ranks = np.column_stack([rankdata(own[check]) for check in checks])
    excess, problems = own["excess"].to_numpy(), own["problem"].to_numpy()
    foretold = []
    for i in range(len(own)):
        others = np.flatnonzero(problems != problems[i])
        away = np.linalg.norm(ranks[others] - ranks[i], axis=1)
        foretold.append(np.median(excess[others[np.argsort(away, kind="stable")[:NEIGHBOURS]]]))
    return float(spearmanr(foretold, excess).statistic)


def rule(own: pd.DataFrame) -> tuple[float, int, int]:
    """Correlation, number of cases that have like ones, and of those within their range, by `refine.worth`."""
    every = [Case(*row) for row in own[["suite", "problem", "optimizer", "family", "rho", "excess", "se"]].to_numpy()]
    pairs = [(worth(c.family, c.rho, cases=[o for o in every if o.problem != c.problem]), c.excess) for c in every]
    known = [(said, excess) for said, excess in pairs if said is not None]
    within = sum(said.low <= excess <= said.high for said, excess in known)
    value = spearmanr([said.median for said, _ in known], [excess for _, excess in known]).statistic
    return float(value), len(known), within


def main() -> None:
    """Print a line a check, the best in the mean of the families first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("docs/bench/results"))
    frame = cases(parser.parse_args().results)
    families = dict(tuple(frame.groupby("family")))
    checks = [
        check
        for check in check_columns(frame)
        if all(own[check].notna().all() and own[check].nunique() > 5 for own in families.values())
    ]
    print(f"{'':34}" + "".join(f"{f'{name}, {len(own)} cases':>18}" for name, own in families.items()))
    for size, most in ((1, len(checks)), (2, 10)):
        rows = {pick: [correlation(own, pick) for own in families.values()] for pick in combinations(checks, size)}
        for pick in sorted(rows, key=lambda pick: -sum(rows[pick]))[:most]:
            print(f"{', '.join(pick):34}" + "".join(f"{value:18.2f}" for value in rows[pick]))
    for name, own in families.items():
        value, known, within = rule(own)
        print(f"the rule, {name}: {value:.2f} over {known} cases that have like ones; {within} within the range")


if __name__ == "__main__":
    main()

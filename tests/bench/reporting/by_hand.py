"""Results of a few cells whose numbers can be worked out by hand, and how to read their pages."""

import math
import re

import pandas as pd

from refine.bench.reporting.headline import DEFAULT
from refine.bench.reporting.results import Results, save
from refine.bench.reporting.statistics import BASELINE, CELL, Arm

SWEPT, RULE = Arm(DEFAULT, "", "swept"), Arm(DEFAULT, "", "rule")
LOG = ("linear", 0.9, 1.1)


def pair(mean, error=0.01):
    """Of two seeds: differences with this mean and standard error."""
    return [mean - error, mean + error]


def folder(tmp_path, cells, suite="recommended-convex", logs=None, errors=None):
    """Results, saved: by cell and arm the differences to linear decay in %, by cell the logs of its seeds.

    ``errors``: by method the shares that are classified wrongly, of every seed.
    """
    runs, told, costs = [], [], []
    for (problem, optimizer), arms in cells.items():
        cell = (suite, problem, optimizer)
        for arm, differences in {BASELINE: [0.0] * len(next(iter(arms.values()))), **arms}.items():
            for seed, d in enumerate(differences):
                loss = 2.0 * (1.0 + 0.01 * d)
                runs.append((*cell, *arm, seed, arm.method, 0.1, loss, loss, math.nan))
                if errors is not None:
                    runs[-1] += (errors.get(arm.method, [math.nan] * (seed + 1))[seed],)
        told += [(*cell, "linear", s, "refined", *log) for s, log in enumerate((logs or {}).get(cell[1:], [LOG]))]
        costs.append((*cell, "linear", "tuned", 3, 300, 0, 100, 0))
    rest = ["schedule", "rate", "loss", "train_loss", "test_loss", *(["error"] if errors is not None else [])]
    numbers = ["sweep_runs", "sweep_updates", "prior_updates", "run_updates", "at_limit"]
    meta = {"suite": suite, "scale": "cpu", "versions": {}, "machine": "none", "finished": "2025-01-02", "runs": 1}
    found = Results(
        pd.DataFrame(runs, columns=[*CELL, "method", "warmup", "rates", "seed", *rest]),
        pd.DataFrame(told, columns=[*CELL, "method", "seed", "decision", "default", "rho", "k"]),
        pd.DataFrame(costs, columns=[*CELL, "method", "warmup", *numbers]),
        {**meta, "seconds": 1, "wall_seconds": 1, "skipped": {}, "failed": {}},
    )
    save(found, tmp_path / suite)
    return tmp_path / suite


def default(swept, rule=None):
    return {SWEPT: swept, RULE: swept if rule is None else rule}


def asked(page, start):
    """The sentences of a goal."""
    return [line[2:] for line in page.splitlines() if line.startswith(f"- {start}")]


def tables(page, caption):
    """Header and rows of the tables under a caption."""
    found = []
    for _, block in re.findall(rf"\*\*({caption})\*\*\n\n((?:\|.*\n?)+)", page):
        rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in block.strip().splitlines()]
        found.append((rows[0], rows[2:]))
    return found

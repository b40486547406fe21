"""What a store is reduced to for the report: the final runs, the logs that schedules came from, the costs."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pandas as pd

from ..errors import RefineError
from ..files import printable
from .methods import BASELINE
from .plan import Cell
from .reporting.results import Results
from .runner import cells
from .store import Store
from .suites import SUITES

__all__ = ["SOLVED", "gather"]

SOLVED = 1e-3
"""Where tuned linear decay gets below this loss the problem is solved: differences in per cent say nothing there."""


def gather(store: Store) -> Results:
    """Reduce a finished suite.

    Raises
    ------
    RefineError
        Where runs are missing: run the suite again, it goes on where it stopped.
    """
    runs: list[dict[str, Any]] = []
    logs: list[dict[str, Any]] = []
    costs: list[dict[str, Any]] = []
    meta = store.meta
    skipped: dict[str, str] = json.loads(meta.get("skipped", "{}"))
    failed: dict[str, dict[str, int]] = {}
    count, seconds = 0, 0.0
    for cell in cells(store):
        if cell.missing:
            raise RefineError(
                f"{printable(store.path)} lacks {len(cell.missing)} runs or more of {cell.problem.name} with "
                f"{cell.optimizer.name}; run refine bench --suite {meta['suite']} again, it goes on where it stopped"
            )
        count += len(cell.used)
        seconds += sum(cell.outcomes[run].seconds for run in cell.used)
        for method, reason in cell.failed.items():
            reasons = failed.setdefault(method, {})
            reasons[reason] = reasons.get(reason, 0) + 1
        reached = np.mean(
            [cell.outcomes[f.run].loss for f in cell.finals if (f.method, f.warmup) == (BASELINE, "tuned")]
        )
        if reached < SOLVED:
            skipped[f"{cell.problem.name}, {cell.optimizer.name}"] = (
                f"solved: tuned linear decay reached a loss of {reached:.1g}, below {SOLVED:g}"
            )
            continue
        name = {"suite": meta["suite"], "problem": cell.problem.name, "optimizer": cell.optimizer.name}
        runs += [{**name, **row} for row in _runs(cell)]
        logs += [{**name, **row} for row in _logs(cell)]
        costs += [{**name, **row} for row in _costs(cell)]
    for problem in SUITES[meta["suite"]].problems:
        if not store.has(problem.name):
            skipped.setdefault(problem.name, "not run")
    if not runs:
        raise RefineError(
            f"{printable(store.path)} has nothing to report; {'; '.join(f'{k}: {v}' for k, v in skipped.items())}"
        )
    facts = {
        **{key: meta[key] for key in ("suite", "scale", "machine", "finished")},
        "versions": json.loads(meta["versions"]),
        "runs": count,
        "seconds": round(seconds),
        "wall_seconds": round(float(meta["wall_seconds"])),
        "skipped": skipped,
        "failed": failed,
    }
    return Results(pd.DataFrame(runs), pd.DataFrame(logs), pd.DataFrame(costs), facts)


def _runs(cell: Cell) -> list[dict[str, Any]]:
    rows = []
    for final in cell.finals:
        outcome = cell.outcomes[final.run]
        rows.append(
            {
                "method": final.method,
                "warmup": final.warmup,
                "rates": final.rates,
                "seed": final.run.seed,
                "schedule": final.run.schedule,
                "rate": final.run.rate,
                "loss": outcome.loss,
                "train_loss": outcome.train_loss,
                "test_loss": math.nan if outcome.test_loss is None else outcome.test_loss,
                "error": math.nan if outcome.error is None else outcome.error,
            }
        )
    return rows


def _logs(cell: Cell) -> list[dict[str, Any]]:
    """On every log that a method was fitted on for a final run: what two arms make of it, and the checks."""
    rows = []
    for method, keys in cell.logs.items():
        for seed in cell.protocol.final_seeds:
            try:
                guarded, found, default = (
                    cell.fitted(mode, keys[seed]) for mode in ("refined", "unguarded", "default")
                )
            except RefineError:
                continue
            # "rho" has two rules with one value.
            checks = (check for check in found.result.checks if check.rule.name != "like cases")
            values = {check.rule.name: math.nan if check.value is None else check.value for check in checks}
            decided = {"decision": "linear" if guarded.is_linear else "refined", "default": default.result.shape}
            rows.append({"method": method, "seed": seed, **decided, **values, "k": default.result.choice.k})
    return rows


def _costs(cell: Cell) -> list[dict[str, Any]]:
    """What a method took on one seed: its sweep, and all that came before it."""
    before = {"": 0}
    rows = []
    for method in cell.protocol.methods:
        if method.name not in cell.tuned:
            continue
        tuned = cell.tuned[method.name]
        before[method.name] = before[method.prior] + (tuned.tried + 1) * cell.steps
        for warmup, sweep in (("fixed", cell.fixed.get(method.name)), ("tuned" if method.schedules else "", tuned)):
            if sweep is not None:
                rows.append(
                    {
                        "method": method.name,
                        "warmup": warmup,
                        "sweep_runs": sweep.tried,
                        "sweep_updates": sweep.tried * cell.steps,
                        "prior_updates": before[method.prior],
                        "run_updates": cell.steps,
                        "at_limit": int(sweep.at_limit),
                    }
                )
    return rows

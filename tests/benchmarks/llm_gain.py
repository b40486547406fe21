"""What schedules gain in the bound on the shared LLM runs, on norms that did not choose them.

    python tests/benchmarks/llm_gain.py [SHARED]

Every schedule is fitted on one log and judged on the smoothed norms of every other: the best bound of linear decay with
the same warmup over its own, less 1, in per cent. The bound is convex theory and calls late decay worse than linear;
the losses of these runs do not (tests/benchmarks/llm_ranking.py), so a gain here is no promise.
"""

from __future__ import annotations

import sys
from itertools import permutations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from refine import GradientNorms, fit, read_norms
from refine.bound import best_omega
from refine.default import scheduled
from refine.result import Refinement


def main(shared: Path) -> None:
    logs = {}
    for path in sorted((shared / "llm-runs" / "grad_norm").glob("*.csv")):
        norms = read_norms(path, norm_kind="l2")
        if norms.steps[0] < 0.05 * norms.total_steps:  # the others are branches
            logs[path.stem] = norms
    results = {name: fit(norms, optimizer="adam") for name, norms in logs.items()}
    chosen = {name: schedules(norms, results[name]) for name, norms in logs.items()}
    gains: dict[str, list[float]] = {}
    for one, other in permutations(logs, 2):
        judge = logs[other].on_updates(logs[other].smoothed(), logs[one].total_steps)
        line = best_omega(results[one].linear.multiplier, judge)
        for name, multiplier in chosen[one].items():
            gains.setdefault(name, []).append(100.0 * (line / best_omega(multiplier, judge) - 1.0))
    print(f"{len(logs)} logs, {len(gains['recommended'])} pairs; gain in the bound over linear decay, %")
    print(f"{'':20}{'median':>8}{'least':>8}{'most':>8}")
    for name, each in gains.items():
        print(f"{name:20}{np.median(each):8.2f}{min(each):8.2f}{max(each):8.2f}")
    for name, result in results.items():
        against = ", ".join(found.rule.name for found in result.against) or "nothing"
        print(f"{name}: {result.shape}, {result.choice.reason}; against refined: {against}")


def schedules(norms: GradientNorms, result: Refinement) -> dict[str, NDArray[np.float64]]:
    """What a fit gives, the published algorithm, and two holds whatever the log says."""
    return {
        "recommended": result.recommended.multiplier,
        "refined": result.refined.multiplier,
        "published": fit(norms, optimizer="adam", published=True).refined.multiplier,
        "held for 30 %": scheduled(norms.total_steps, result.warmup_steps, 1.0 / 0.7),
        "held for 60 %": scheduled(norms.total_steps, result.warmup_steps, 1.0 / 0.4),
    }


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "../shared"))

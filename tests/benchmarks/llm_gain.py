"""What schedules gain in the bound on the shared LLM runs, on norms that did not choose them.

    python tests/benchmarks/llm_gain.py [SHARED]

Every rule is fitted on one log and judged on the smoothed norms of every other: the best bound of linear decay with the
same warmup over its own, less 1, in per cent. The bound is convex theory and calls late decay worse than linear; the
losses of these runs do not (tests/benchmarks/llm_ranking.py), so a gain here is no promise.
"""

from __future__ import annotations

import sys
from itertools import permutations
from pathlib import Path

import numpy as np

from refine import Schedule, linear, read_norms, refined_schedule
from refine.bound import best_omega
from refine.default import bend
from refine.families import with_warmup

RULES = ("default", "later everywhere", "earlier everywhere", "refined", "paper", "progress")


def main(shared: Path) -> None:
    logs = {}
    for path in sorted((shared / "llm-runs" / "grad_norm").glob("*.csv")):
        norms = read_norms(path, norm_kind="l2")
        if norms.steps[0] < 0.05 * norms.total_steps:  # the others are branches
            logs[path.stem] = norms
    gains: dict[str, list[float]] = {rule: [] for rule in RULES}
    chosen = {name: {rule: schedule(rule, norms) for rule in RULES} for name, norms in logs.items()}
    default = {name: refined_schedule(norms, optimizer="adam") for name, norms in logs.items()}
    for one, other in permutations(logs, 2):
        judge = logs[other].on_updates(logs[other].smoothed(), logs[one].total_steps)
        line = best_omega(linear(logs[one].total_steps, warmup_steps=default[one].warmup_steps).multiplier, judge)
        for rule, found in chosen[one].items():
            gains[rule].append(100.0 * (line / best_omega(found.multiplier, judge) - 1.0))
    print(f"{len(logs)} logs, {len(gains['default'])} pairs; gain in the bound over linear decay, %")
    print(f"{'':20}{'median':>8}{'least':>8}{'most':>8}")
    for rule, each in gains.items():
        print(f"{rule:20}{np.median(each):8.2f}{min(each):8.2f}{max(each):8.2f}")
    print("\n".join(f"{name}: {result.decision}, {result.reason}" for name, result in default.items()))


def schedule(rule: str, norms: object) -> Schedule:
    if rule.endswith("everywhere"):
        warmup = refined_schedule(norms, optimizer="adam").warmup_steps
        return Schedule(with_warmup(bend(rule.split()[0], norms.total_steps), warmup))
    return refined_schedule(norms, optimizer="adam", mode="auto" if rule == "default" else rule).schedule


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "../shared"))

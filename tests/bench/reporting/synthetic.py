"""Results of a realistic size, made up: what a finished suite looks like."""

import numpy as np
import pandas as pd

from refine.bench.reporting.results import Results
from refine.bench.reporting.statistics import NULL
from refine.diagnostics import RULES

FAMILIES = ("linear", "constant", "step", "cosine", "1-sqrt", "wsd", "one-cycle")
REFINED = (
    *(f"{mode}(linear)" for mode in ("default", "paper", "refined", "unguarded", "progress")),
    *(f"{mode}({prior})" for prior in ("constant", "wsd") for mode in ("default", "paper", "refined")),
    *(f"{mode}({mode}(linear))" for mode in ("default", "paper", "refined")),
)
PACKAGES = ("schedulefree", "dadaptation", "prodigy", "mechanic")
CHECKS = tuple(dict.fromkeys(rule.name for rule in RULES if rule.name != "like cases"))
PRIORS = ("linear", "constant", "wsd", "default(linear)", "paper(linear)", "refined(linear)")


def arms():
    for method in FAMILIES:
        for warmup in ("tuned", "fixed"):
            yield from ((method, warmup, rates) for rates in ("swept", "rule"))
    yield NULL, "tuned", "swept"
    for method in (*REFINED, *PACKAGES):
        yield from ((method, "", rates) for rates in ("swept", "rule"))


def results(
    suite="convex", problems=20, optimizers=("sgd", "adam"), seeds=8, seed=0, names=None, skipped=True
) -> Results:
    """Refinement loses the more the lower rho is, "paper" most; prodigy diverges once; mechanic misses a problem."""
    # The checks have their own draws: the rest does not depend on how many there are.
    rng, of_default, of_checks = (np.random.default_rng(seed + i) for i in (0, 1000, 2000))
    names = names or [f"set {i:02d}" for i in range(problems)]
    runs, logs, costs = [], [], []
    for i, problem in enumerate(names):
        for optimizer in optimizers:
            rho = float(np.exp(rng.uniform(np.log(0.05), np.log(2.0))))
            harm = {"paper": 4.0, "unguarded": 1.0, "progress": 0.5, "refined": 0.5 * (rho > 0.3), "default": 0.0}
            loss = np.exp(rng.normal(-1.0, 0.5)) * (1 + 0.05 * rng.normal(size=seeds))
            own = {method: rng.normal(0.8, 0.6) for method in (*FAMILIES, NULL, *PACKAGES)}
            for method, warmup, rates in arms():
                if method == "mechanic" and i == 0:
                    continue
                mode = method.partition("(")[0]
                shift = own[method] if method in own else harm[mode] * max(0.0, -np.log(rho)) ** 2 - 0.3
                shift = 0.0 if method in ("linear", NULL) else shift
                shift += 12.0 * (method == "constant") + 0.4 * (rates == "rule") + 0.2 * (warmup == "fixed")
                draw = of_default if mode == "default" else rng
                values = loss * (1 + 0.01 * (shift + 0.6 * draw.normal(size=seeds)))
                if (method, warmup, rates) == ("linear", "tuned", "swept"):
                    values = loss
                if method == "prodigy" and i == 3:
                    values = np.where(np.arange(seeds) == 1, np.inf, values)
                test = np.full(seeds, np.nan) if suite == "convex" else 1.1 * values
                arm = (suite, problem, optimizer, method, warmup, rates)
                text = f"{method}:warmup_fraction=0.05"
                runs += [(*arm, s, text, 0.3, values[s], values[s], test[s]) for s in range(seeds)]
                if rates == "swept":
                    prior = 1000 * method.count("(")
                    costs.append(
                        (
                            suite,
                            problem,
                            optimizer,
                            method,
                            warmup,
                            14,
                            14_000,
                            prior,
                            1000,
                            int(method == "constant" and i < 2),
                        )
                    )
            for prior in PRIORS:
                draw = of_default if prior.startswith("default") else of_checks
                for s in range(seeds):
                    values = {name: float(draw.normal()) for name in CHECKS}
                    values |= {"rho": rho * np.exp(0.05 * draw.normal()), "points": 1000.0, "late rise": np.nan}
                    decision = "linear" if values["rho"] < 0.3 else "refined"
                    k = 1.0 if optimizer == "sgd" else max(1.0, float(np.exp(values["spikes"])))
                    default = "held" if k > 1.0 else "linear"
                    logs.append((suite, problem, optimizer, prior, s, decision, default, *values.values(), k))
    cell = ["suite", "problem", "optimizer", "method"]
    return Results(
        pd.DataFrame(
            runs,
            columns=[
                *cell,
                "warmup",
                "rates",
                "seed",
                "schedule",
                "rate",
                "loss",
                "train_loss",
                "test_loss",
            ],
        ),
        pd.DataFrame(logs, columns=[*cell, "seed", "decision", "default", *CHECKS, "k"]),
        pd.DataFrame(
            costs,
            columns=[
                *cell,
                "warmup",
                "sweep_runs",
                "sweep_updates",
                "prior_updates",
                "run_updates",
                "at_limit",
            ],
        ),
        {
            "suite": suite,
            "scale": "cpu",
            "versions": {"refine": "0.6", "torch": "2.13.0", "numpy": "2.4", "python": "3.12"},
            "machine": "2 cores, x86_64",
            "finished": "2025-01-02",
            "runs": 123_456,
            "seconds": 7_200.0,
            "wall_seconds": 3_600.0,
            "skipped": {"aloi": "cannot be had: <offline> & _gone_"} if skipped else {},
            "failed": {"mechanic": {"a norm is <inf>": 2}} if skipped else {},
        },
    )

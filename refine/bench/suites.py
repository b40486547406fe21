"""The suites: which problems, at which size, measured how."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from .data.collection import DATASETS
from .data.parsers import Table
from .deep import CHANGING_DEEP, DEEP
from .halves import halves
from .methods import CHANGING, CHANGING_CHOICES, CONFIRMED, RECOMMENDED, TRIED, UNDER_TUNED
from .noise import STEADY, TABLE_CHANGES, Noise
from .plan import Protocol
from .problems import Optimizer, Problem, Scale

if TYPE_CHECKING:
    from .task import Task

__all__ = ["SUITES", "Suite"]

_UPDATES: Mapping[Scale, int] = {"smoke": 200, "cpu": 4000, "gpu": 16000}
_RUNS_AT_ONCE: Mapping[Scale, int] = {"smoke": 600, "cpu": 600, "gpu": 5000}


@dataclass(frozen=True, slots=True)
class Suite:
    """Problems that are measured and reported together."""

    problems: tuple[Problem, ...]
    protocol: Protocol
    scale: Scale = "cpu"


def _regression(name: str, noise: Noise | None, scale: Scale, device: Any) -> Task:
    from .convex import SoftmaxRegression
    from .data.datasets import load_table

    table = load_table(name)
    return SoftmaxRegression(table.x, table.y, device, noise)


_CONVEX_OPTIMIZERS = Optimizer("sgd", "sgd", rate=0.25, betas=(0.0, 0.0)), Optimizer("adam", "adam", rate=0.03)

CONVEX = tuple(
    Problem(name, name, _CONVEX_OPTIMIZERS, _UPDATES, _RUNS_AT_ONCE, partial(_regression, name, None))
    for name, data in DATASETS.items()
    if data.kind is Table
)

_WHOLE: Mapping[str, Suite] = {
    "smoke": Suite(
        (
            *(problem for problem in CONVEX if problem.name in ("digits", "iris")),
            replace(DEEP[0], optimizers=DEEP[0].optimizers[:1]),
        ),
        Protocol((0, 1), (100, 101, 102, 103, 104), window=1, half_octaves=False),
        "smoke",
    ),
    "convex": Suite(
        CONVEX, Protocol((0, 1, 2, 3), (100, 101, 102, 103, 104, 105, 106, 107), window=2, half_octaves=True)
    ),
    "deep": Suite(DEEP, Protocol((0, 1), (100, 101, 102, 103, 104), window=1, half_octaves=True)),
}


def _half(problems: tuple[Problem, ...], wanted: str) -> tuple[Problem, ...]:
    found = halves(problem.name for problem in problems)
    return tuple(problem for problem in problems if found[problem.name] == wanted)


_MORE_SEEDS = Protocol((0, 1, 2, 3), tuple(range(100, 116)), window=1, half_octaves=True)
"""Two runs of one deep configuration differ by more than most schedules."""

CHANGING_TABLES = "segment", "optdigits", "german-credit", "texture", "spam", "pendigits", "digits", "dna"
"""The first four of each half, in order of the hash of their names, of those with 1,000 rows or more."""


def _tables(half: str, changes: Iterable[str]) -> tuple[Problem, ...]:
    """Tables whose noise changes, a tenth of their labels wrong; in the half of their table."""
    updates: Mapping[Scale, int] = {"smoke": 200, "cpu": 2000, "gpu": 16000}
    return tuple(
        Problem(
            f"{name}, {change}",
            name,
            _CONVEX_OPTIMIZERS,
            updates,
            _RUNS_AT_ONCE,
            partial(_regression, name, TABLE_CHANGES[change]),
            noise=TABLE_CHANGES[change],
        )
        for name in CHANGING_TABLES
        if halves(problem.name for problem in CONVEX)[name] == half
        for change in changes
    )


def _networks(half: str, *, steady: bool) -> tuple[Problem, ...]:
    """Networks whose noise changes, each change in a half of its own; or all with steady noise, in both halves."""
    found = tuple(problem for problem in CHANGING_DEEP if (problem.noise == STEADY) == steady)
    return found if steady else _half(found, half)


_CHANGING = {"choose": CHANGING_CHOICES, "confirm": CHANGING}

_FEWER_SEEDS = replace(_MORE_SEEDS, tuning_seeds=_MORE_SEEDS.tuning_seeds[:3])
_FEWEST_SEEDS = replace(_FEWER_SEEDS, final_seeds=_MORE_SEEDS.final_seeds[:8])

SUITES: Mapping[str, Suite] = {
    **_WHOLE,
    **{
        f"{kind}-{half}": Suite(_half(problems, half), replace(protocol, methods=methods))
        for kind, problems, protocol in (
            ("convex", CONVEX, replace(_WHOLE["convex"].protocol, final_seeds=_MORE_SEEDS.final_seeds)),
            ("deep", DEEP, _MORE_SEEDS),
        )
        for half, methods in (("choose", TRIED), ("confirm", CONFIRMED))
    },
    **{
        f"{kind}-{half}": Suite(problems, replace(protocol, methods=methods))
        for half in ("choose", "confirm")
        for kind, problems, protocol, methods in (
            ("changing", _tables(half, TABLE_CHANGES), _FEWER_SEEDS, _CHANGING[half]),
            ("changing-deep", _networks(half, steady=False), _FEWEST_SEEDS, _CHANGING[half]),
            ("peaks", _tables(half, ("steady",)), _FEWER_SEEDS, UNDER_TUNED),
        )
    },
    **{
        f"recommended-{name}": replace(suite, protocol=replace(suite.protocol, methods=RECOMMENDED))
        for name, suite in _WHOLE.items()
        if name != "smoke"
    },
    "peaks-deep": Suite(_networks("", steady=True), replace(_FEWEST_SEEDS, methods=UNDER_TUNED)),
}

r"""What refinement was worth: how it ended in the benchmark cases most like a log.

A case is a problem with an optimizer, of the suites convex, deep and changing-confirm of ``refine bench``. Each was
trained with linear decay, and the refined schedule was computed from logs of that; in the first two suites its dips
were not yet taken out. Both were swept, each to its own best peak rate. The excess is the final loss of the refined
schedule over that of linear decay in per cent, the mean over seeds; negative: the refined schedule was better.

.. math:: \rho = G(T) / G(0.05\, T)

rho is the smoothed norm at the end of a run over that at 5 % of it. Cases of one family are alike where

.. math:: |\ln \rho - \ln \rho'| \le \ln 1.5

and of these the nearest nine are taken. A log whose noise level shifts is like those cases alone in which a batch size,
the labels or the data change during the run; rho is measured with the shifts taken out. Every log of the benchmark is
one of linear decay. A run that did not anneal has a larger rho for that alone.

Notes
-----
Why rho alone: every log has it, and no other check does clearly better. An excess was foretold by the median of the
five nearest cases, those of its own problem left out. The rank correlation with what was measured is 0.74 (SGD, 22
cases) and 0.59 (Adam, 26) by rho, 0.74 and 0.66 by late rise, 0.82 and 0.56 by the gain of the bound, 0.7 to 0.8 by the
best pairs. So few cases cannot tell these apart. Much of it is that near-separable problems lose most, and few are like
them. Over the cases for which the rule above finds any it is 0.73 (SGD, 17) and 0.35 (Adam, 21). Of these 38, 31 lie
within the range that their neighbours give. ``python tests/benchmarks/worth_features.py`` prints all of it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal, TypeGuard

import numpy as np
from numpy.typing import NDArray

from .errors import RefineError
from .refinement import EXPONENTS, OptimizerFamily

__all__ = ["LEAST", "LIKE", "MOST", "Case", "Worth", "measured", "no_case", "packaged", "read", "worth"]

LIKE = 1.5
"""Logs are alike whose rho differ by no more than this factor."""

LEAST, MOST = 3, 9
"""Fewer cases say nothing; of more the nearest are taken."""

_NAMES = {"sgd": "SGD", "adam": "an optimizer of the Adam family"}
_NO_CASE = "no benchmark case is like this log"


@dataclass(frozen=True, slots=True)
class Case:
    """A problem with an optimizer: rho of its logs (median), and the excess of its refined schedule with its error.

    The excess is infinite where a run diverged; its standard error is nan there, and of a single seed. Changing: the
    noise of the gradient changes during the run, whatever the schedule.
    """

    suite: str
    problem: str
    optimizer: str
    family: OptimizerFamily
    rho: float
    excess: float
    se: float
    changing: bool = False

    def __str__(self) -> str:
        return f"{self.problem} ({self.optimizer})"


@dataclass(frozen=True, slots=True)
class Worth:
    """Excess over linear decay in the cases most like a log, in per cent of the final loss.

    Attributes
    ----------
    cases : int
        Their number.
    median, low, high : float
        Of their excesses; inf: diverged. Negative: the refined schedule was better than linear decay.
    problems : tuple of str
        Their names, the nearest first.
    """

    cases: int
    median: float
    low: float
    high: float
    problems: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON values; None is a run that diverged, never inf.

        Examples
        --------
        >>> Worth(3, 0.5, -0.25, math.inf, ("a", "b", "c")).to_dict()
        {'cases': 3, 'median': 0.5, 'low': -0.25, 'high': None, 'unit': 'per cent of final loss over linear decay'}
        """
        values = {name: getattr(self, name) for name in ("median", "low", "high")}
        return {
            "cases": self.cases,
            **{name: value if math.isfinite(value) else None for name, value in values.items()},
            "unit": "per cent of final loss over linear decay",
        }

    def in_words(self) -> str:
        """Say it in a sentence, without capital and full stop.

        Examples
        --------
        >>> Worth(9, 0.8, 0.2, 4.0, ()).in_words().partition(" loss ")[2]
        'ended 0.2 to 4.0 % above linear decay, median 0.8 %'
        """
        return f"in the {self.cases} benchmark cases most like this log the refined schedule's loss {self._ended()}"

    def _ended(self) -> str:
        low, high, median = map(_Shown.of, (self.low, self.high, self.median))
        if low.side == "diverged":
            return "diverged"
        if high.side == "diverged":
            usually = "in half of them or more" if median.side == "diverged" else f"at worst, median {median}"
            place = f"{low} linear decay" if low.side else "within 0.01 % of linear decay"
            return f"ended {place} at best and diverged {usually}"
        if not low.side and not high.side:
            return "ended within 0.01 % of linear decay"
        if (low.side, high.side) == ("below", "above"):
            return f"ended {low} to {high} linear decay, median {median}"
        side = low.side or high.side
        first, last = (low, high) if side == "above" else (high, low)
        if first.size == last.size:
            return f"ended {last} linear decay"
        if side == "above":
            plain = str(median).removesuffix(" above")
            return f"ended {first.size} to {last} linear decay, median {plain}"
        return f"ended {last.size} to {first.size} % below linear decay, median {median}"


@dataclass(frozen=True, slots=True)
class _Shown:
    """An excess as it is written: two digits from 10 up, one after the point from 0.1 up, else hundredths."""

    size: str
    side: Literal["above", "below", "diverged", ""]

    @classmethod
    def of(cls, value: float) -> _Shown:
        size = abs(value)
        if size < 0.005:
            return cls("0", "")
        if math.isinf(size):
            return cls("", "diverged")
        small = f"{size:.1f}" if size >= 0.095 else f"{size:.2f}"
        text = small if size < 9.95 else f"{float(f'{size:.2g}'):,.0f}"
        return cls(text, "above" if value > 0 else "below")

    def __str__(self) -> str:
        return f"{self.size} % {self.side}" if self.side else "under 0.01 %"


def worth(
    optimizer: OptimizerFamily, rho: float | None, *, changing: bool = False, cases: Sequence[Case] | None = None
) -> Worth | None:
    """Excess of the refined schedule in the benchmark cases most like a log; None where fewer than three are.

    Parameters
    ----------
    optimizer : {"sgd", "adam"}
        Family of the optimizer.
    rho : float or None
        Of the log of a run with linear decay. None, nan, infinite or not positive: unknown, no case is like it.
    changing : bool
        Whether its noise level shifts.
    cases : sequence of Case, optional
        To look among; default those of the benchmark.

    Notes
    -----
    Of equally near cases the first by suite, problem and optimizer is taken.

    Examples
    --------
    >>> cases = [Case("convex", name, "sgd", "sgd", rho, excess, 0.1)
    ...          for name, rho, excess in [("a", 0.5, 2.0), ("b", 0.6, 1.0), ("c", 0.7, -0.5), ("d", 0.9, -1.0)]]
    >>> worth("sgd", 0.5, cases=cases)
    Worth(cases=3, median=1.0, low=-0.5, high=2.0, problems=('a (sgd)', 'b (sgd)', 'c (sgd)'))
    >>> worth("sgd", 0.05, cases=cases) is None
    True
    """
    own = _of_family(optimizer, changing, cases)
    if not _is_known(rho):
        return None

    def away(case: Case) -> float:
        return abs(math.log(case.rho) - math.log(rho))

    # 1e-9: a factor of exactly 1.5 is within it whatever the logarithms round to.
    like = [case for case in own if away(case) <= math.log(LIKE) + 1e-9]
    # Rounded: cases at the same factor above and below are equally near.
    nearest = sorted(like, key=lambda c: (round(away(c), 9), c.suite, c.problem, c.optimizer))[:MOST]
    if len(nearest) < LEAST:
        return None
    excess = [case.excess for case in nearest]
    return Worth(len(nearest), float(np.median(excess)), min(excess), max(excess), tuple(map(str, nearest)))


def no_case(optimizer: OptimizerFamily, rho: float | None, *, changing: bool = False) -> str:
    """Why `worth` is None, in a sentence without capital and full stop.

    Examples
    --------
    >>> no_case("sgd", None)
    'no benchmark case is like this log: how far its norms change from 5 % of the run to its end is not known'
    """
    if not _is_known(rho):
        return f"{_NO_CASE}: how far its norms change from 5 % of the run to its end is not known"
    kind = " whose noise changes during the run" if changing else ""
    return (
        f"{_NO_CASE}: fewer than {LEAST} of those with {_NAMES[optimizer]}{kind} have norms that change as much from 5 "
        f"% of the run to its end, within a factor of {LIKE:g}"
    )


def measured(optimizer: OptimizerFamily, *, changing: bool = False) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rho and excess of all benchmark cases of a family, by rising rho; inf: diverged.

    Returns
    -------
    rho, excess : ndarray, shape (n,)
        In the logs of linear decay, and in per cent of its final loss.

    Examples
    --------
    >>> rho, excess = measured("sgd")
    >>> rho.shape == excess.shape
    True
    """
    own = sorted(_of_family(optimizer, changing, None), key=lambda case: case.rho)
    return np.array([case.rho for case in own]), np.array([case.excess for case in own])


@cache
def packaged() -> tuple[Case, ...]:
    """All cases of the benchmark, from the file in the package."""
    return read(files("refine").joinpath("worth.json").read_text(encoding="utf-8"))


def read(text: str) -> tuple[Case, ...]:
    """Cases of a text that `refine.bench.reporting.worth` made."""
    blank: dict[str, Any] = {"excess": math.inf, "se": math.nan}
    rows = json.loads(text)["cases"]
    return tuple(Case(**{name: blank[name] if v is None else v for name, v in row.items()}) for row in rows)


def _of_family(optimizer: OptimizerFamily, changing: bool, cases: Sequence[Case] | None) -> list[Case]:
    if optimizer not in EXPONENTS:
        raise RefineError(f"optimizer is {optimizer!r}; it must be one of {', '.join(EXPONENTS)}")
    every = packaged() if cases is None else cases
    return [case for case in every if case.family == optimizer and case.changing == changing]


def _is_known(rho: float | None) -> TypeGuard[float]:
    return rho is not None and math.isfinite(rho) and rho > 0.0

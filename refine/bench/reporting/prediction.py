"""Do the checks of a log predict what refinement loses to linear decay, on problems that did not choose them?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from ...diagnostics import RULES
from .statistics import CELL

__all__ = [
    "HARM",
    "NEAR_SEPARABLE",
    "Association",
    "Cut",
    "Telling",
    "best_cut",
    "best_split",
    "check_columns",
    "checks_by_cell",
    "evidence",
    "fixed",
    "leave_one_out",
    "prior",
    "raised",
    "spearman",
    "telling",
]

HARM = 0.5
"""Excess over linear decay, in %, beyond which refinement is said to do harm."""

NEAR_SEPARABLE = next(rule.threshold for rule in RULES if (rule.name, rule.side) == ("rho", "below"))
"""Below this rho of the log of linear decay a problem counts as near-separable."""

_RESAMPLES = 2_000


def prior(method: str) -> str:
    """Name the method whose log a schedule was refined from.

    Examples
    --------
    >>> prior("paper(paper(linear))")
    'paper(linear)'
    """
    return method[method.index("(") + 1 : -1] if "(" in method else method


def evidence(found: pd.DataFrame, logs: pd.DataFrame, method: str, rates: str = "swept") -> pd.DataFrame:
    """Excess of a refined method over linear decay beside the checks of its log, one row a cell.

    Parameters
    ----------
    found : DataFrame
        From `refine.bench.reporting.statistics.cells`.
    logs : DataFrame
        `Results.logs`; of a cell's seeds the median of each check is taken.
    method, rates : str
        Whose excess. Of several warmups the tuned one.

    Returns
    -------
    DataFrame
        Columns suite, problem, optimizer, family, excess (in %), and the checks by name.
    """
    rows = found[(found["method"] == method) & (found["rates"] == rates)]
    rows = rows.sort_values([*CELL, "warmup"]).drop_duplicates(CELL, keep="last")
    values = checks_by_cell(logs, prior(method)).reset_index()
    kept = rows[[*CELL, "family", "mean"]].rename(columns={"mean": "excess"})
    return kept.merge(values, on=CELL, how="inner").reset_index(drop=True)


def checks_by_cell(logs: pd.DataFrame, method: str) -> pd.DataFrame:
    """Median over the logs of a method of every check, one row a cell."""
    return logs[logs["method"] == method].groupby(CELL)[check_columns(logs)].median()


def check_columns(frame: pd.DataFrame) -> list[str]:
    """Names of the checks in a table, in the order of `RULES`."""
    return [name for name in dict.fromkeys(rule.name for rule in RULES) if name in frame]


@dataclass(frozen=True, slots=True)
class Association:
    """Spearman's rank correlation of n cells, its bootstrap interval of 95 % and permutation p-value (two-sided)."""

    n: int
    value: float
    low: float
    high: float
    p: float


def spearman(x: npt.ArrayLike, y: npt.ArrayLike) -> Association | None:
    """Rank correlation where both are known; None for fewer than four cells, or where one of them never varies.

    Examples
    --------
    >>> spearman([1, 2, 3, 4, 5], [5, 4, 3, 2, float("-inf")]).value
    -1.0
    """
    a, b = (np.asarray(column, dtype=np.float64) for column in (x, y))
    known = ~(np.isnan(a) | np.isnan(b))
    a, b = _ranks(a[known][None]), _ranks(b[known][None])
    n = a.shape[1]
    if n < 4 or np.ptp(a) == 0.0 or np.ptp(b) == 0.0:
        return None
    value = float(_correlation(a, b)[0])
    rng = np.random.default_rng(0)
    shuffled = rng.permuted(np.repeat(b, _RESAMPLES, axis=0), axis=1)
    extreme = int(np.sum(np.abs(_correlation(a, shuffled)) >= abs(value) - 1e-12))
    at = rng.integers(0, n, (_RESAMPLES, n))
    again = _correlation(_ranks(a[0][at]), _ranks(b[0][at]))
    low, high = np.nanquantile(again, [0.025, 0.975])
    return Association(n, value, float(low), float(high), (1 + extreme) / (1 + _RESAMPLES))


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(stats.rankdata(values, axis=1), dtype=np.float64)


def _correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = np.sum(a * b, axis=1) / np.sqrt(np.sum(a * a, axis=1) * np.sum(b * b, axis=1))
    return np.asarray(found, dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Cut:
    """Use linear decay where the check is on this side of the threshold."""

    side: Literal["below", "above"]
    threshold: float


def raised(cut: Cut, values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Where linear decay is used; an unknown value raises nothing."""
    return values < cut.threshold if cut.side == "below" else values > cut.threshold


def best_cut(values: npt.ArrayLike, excess: npt.ArrayLike) -> Cut:
    """Side and threshold of least mean excess; of equal ones the first that is raised in fewest cells.

    Thresholds are midway between neighbouring values, or infinite: never, or wherever the value is known.

    Examples
    --------
    >>> best_cut([0.1, 0.2, 0.7, 0.9], [40, 3, -1, 0.5])
    Cut(side='below', threshold=0.44999999999999996)
    """
    x, y = np.asarray(values, dtype=np.float64), np.asarray(excess, dtype=np.float64)

    def cost(cut: Cut) -> tuple[float, int]:
        linear = raised(cut, x)
        return float(np.where(linear, 0.0, y).sum()), int(linear.sum())

    return min(_cuts(x), key=cost)


def _cuts(values: NDArray[np.float64]) -> list[Cut]:
    """Never, wherever the value is known, and both sides of every middle."""
    levels = np.unique(values[~np.isnan(values)])
    middle = (levels[1:] + levels[:-1]) / 2.0
    cuts = [Cut("below", -math.inf), Cut("above", -math.inf)]
    return cuts + [Cut("below", float(t)) for t in middle] + [Cut("above", float(t)) for t in middle]


def leave_one_out(
    values: npt.ArrayLike, excess: npt.ArrayLike, problems: Sequence[str]
) -> tuple[NDArray[np.float64], tuple[Cut, ...]]:
    """Excess of "refined, or linear where it is raised", each problem judged by the cut that all the others chose.

    Parameters
    ----------
    values, excess : (n,) array_like
        Of a check (nan: unknown) and of refinement, by cell.
    problems : sequence of str
        Of the cells; all cells of a problem are left out together.

    Returns
    -------
    excess : ndarray, shape (n,)
        Of the rule.
    cuts : tuple of Cut
        One a problem, in the order of their names.
    """
    x, y, names = np.asarray(values, dtype=np.float64), np.asarray(excess, dtype=np.float64), np.asarray(problems)
    realised, cuts = np.zeros(y.size), []
    for problem in np.unique(names):
        own = names == problem
        cut = best_cut(x[~own], y[~own])
        realised[own] = np.where(raised(cut, x[own]), 0.0, y[own])
        cuts.append(cut)
    return realised, tuple(cuts)


@dataclass(frozen=True, slots=True)
class Telling:
    """On how many of n cells a check told right on which side of `HARM` the excess is, and its balanced accuracy.

    Balanced accuracy is the mean of the shares told right of the cells with harm and of those without; to say always
    the same gives 1/2.
    """

    n: int
    right: int
    balanced: float


def best_split(values: npt.ArrayLike, harmed: npt.ArrayLike) -> Cut:
    """Side and threshold of best balanced accuracy; of equal ones the first that is raised in fewest cells.

    Without a cell of each kind all are equal.

    Examples
    --------
    >>> best_split([0.1, 0.2, 0.6, 0.8], [True, True, False, False])
    Cut(side='below', threshold=0.4)
    """
    x, truth = np.asarray(values, dtype=np.float64), np.asarray(harmed, dtype=np.bool_)

    def cost(cut: Cut) -> tuple[float, int]:
        said = raised(cut, x)
        return -_balanced(said, truth), int(said.sum())

    return min(_cuts(x), key=cost)


def _balanced(said: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    if truth.all() or not truth.any():
        return 0.5
    return float(said[truth].mean() + (~said[~truth]).mean()) / 2.0


def telling(values: npt.ArrayLike, excess: npt.ArrayLike, problems: Sequence[str]) -> Telling | None:
    """Tell harm in each problem by the split that all the others chose; None where all cells are of one kind.

    Parameters
    ----------
    values, excess, problems
        As for `leave_one_out`; an unknown value tells "no harm".

    Examples
    --------
    >>> telling([0.1, 0.2, 0.6, 0.8], [9, 5, 0, -1], ["a", "b", "c", "d"])
    Telling(n=4, right=4, balanced=1.0)
    """
    x, names = np.asarray(values, dtype=np.float64), np.asarray(problems)
    truth = np.asarray(excess, dtype=np.float64) > HARM
    if truth.all() or not truth.any():
        return None
    said = np.zeros(x.size, dtype=np.bool_)
    for problem in np.unique(names):
        own = names == problem
        said[own] = raised(best_split(x[~own], truth[~own]), x[own])
    return Telling(x.size, int((said == truth).sum()), _balanced(said, truth))


def fixed(name: str, values: npt.ArrayLike, excess: npt.ArrayLike) -> NDArray[np.float64]:
    """Excess of "refined, or linear where a rule of this name is raised", with the thresholds of `RULES`."""
    x, y = np.asarray(values, dtype=np.float64), np.asarray(excess, dtype=np.float64)
    linear = np.zeros(x.size, dtype=np.bool_)
    for rule in RULES:
        if rule.name == name:
            linear |= raised(Cut(rule.side, rule.threshold), x)
    return np.where(linear, 0.0, y)

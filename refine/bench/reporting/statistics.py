r"""Paired comparisons with tuned linear decay, ranks with critical differences, and the hindsight oracle.

A cell is a problem with an optimizer; an arm is a method with its warmup and the way its rate was found. Loss L of an
arm and L_0 of the baseline, of the same seed (the same start, the same minibatches):

.. math:: d = 100 (L - L_0) / L_0

A run that diverged has L = inf. Where the baseline alone diverged d = -100, where both did 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from ...errors import RefineError
from ...files import printable

__all__ = [
    "ARM",
    "BASELINE",
    "CELL",
    "NULL",
    "Arm",
    "Ranking",
    "arms_at_own_best",
    "at_own_best",
    "cells",
    "change_of",
    "confidence",
    "family",
    "hindsight",
    "nemenyi",
    "of_cells",
    "paired",
    "ranking",
    "standard_error",
    "summary",
    "verdict",
]

CELL = ["suite", "problem", "optimizer"]
ARM = ["method", "warmup", "rates"]


class Arm(NamedTuple):
    """A method, its warmup ("tuned", "fixed" or none: "") and its rate ("swept" or "rule")."""

    method: str
    warmup: str
    rates: str


BASELINE = Arm("linear", "tuned", "swept")

NULL = "linear, again"
"""Linear decay tuned a second time, on other seeds: a control of what tuning noise does, neither ranked nor chosen."""


def family(optimizer: str) -> str:
    """Update rule of an optimizer by its name in tables.

    Examples
    --------
    >>> family("sgd, momentum"), family("adamw, clipped")
    ('sgd', 'adam')
    """
    return "sgd" if optimizer.lower().startswith("sgd") else "adam"


def change_of(problem: str) -> str:
    """What a problem is named after that changes during its runs; empty where it is not named so.

    Examples
    --------
    >>> change_of("digits, batch up"), change_of("digits")
    ('batch up', '')
    """
    return problem.partition(", ")[2]


def paired(runs: pd.DataFrame, baseline: Arm = BASELINE) -> pd.DataFrame:
    """Relative differences to the baseline in %, by seed.

    Parameters
    ----------
    runs : DataFrame
        `Results.runs`; a loss that is not a number counts as diverged.
    baseline : Arm

    Returns
    -------
    DataFrame
        Rows (suite, problem, optimizer, seed), columns (method, warmup, rates); nan where an arm or its pair is
        missing.
    """
    keys = [*CELL, "seed", *ARM]
    if (twice := runs.duplicated(keys)).any():
        named = ", ".join(printable(value) for value in runs.loc[twice, keys].iloc[0])
        raise RefineError(f"the runs hold {named} twice; give each folder of results once")
    losses = runs.assign(loss=runs["loss"].fillna(np.inf)).pivot(index=[*CELL, "seed"], columns=ARM, values="loss")
    losses = losses.sort_index(axis="index").sort_index(axis="columns")
    if tuple(baseline) not in losses.columns:
        raise RefineError(f"the runs lack {', '.join(baseline)}, to which all are compared; train it")
    own = losses[tuple(baseline)]
    known = own.groupby(level=CELL).transform("count") > 0
    if not known.all():
        suite, problem, optimizer, _ = known.index[~known.to_numpy()][0]
        raise RefineError(
            f"{printable(problem)} with {printable(optimizer)} ({printable(suite)}) has no run of "
            f"{', '.join(baseline)}, to which all are compared; train it"
        )
    values, base = losses.to_numpy(), own.to_numpy()[:, None]
    with np.errstate(all="ignore"):
        relative = 100.0 * (values - base) / base
    relative = np.where(np.isposinf(base) & ~np.isnan(values), -100.0, relative)
    relative = np.where(values == base, 0.0, relative)
    return pd.DataFrame(relative, index=losses.index, columns=losses.columns)


def verdict(mean: float, error: float) -> str:
    """Name the side on which a mean lies by more than two standard errors: win, loss, or tie.

    Examples
    --------
    >>> verdict(-1.0, 0.4), verdict(1.0, 0.6), verdict(float("inf"), float("nan"))
    ('win', 'tie', 'loss')
    """
    if mean == math.inf or mean > 2.0 * error:
        return "loss"
    return "win" if mean < -2.0 * error else "tie"


def standard_error(values: NDArray[np.floating]) -> float:
    """Of the mean of some values; nan of a single one, and where one is not finite.

    Examples
    --------
    >>> standard_error(np.array([1.0, 3.0])), standard_error(np.array([1.0]))
    (1.0, nan)
    """
    if values.size < 2 or not np.isfinite(values).all():
        return math.nan
    return float(values.std(ddof=1)) / math.sqrt(values.size)


def confidence(pairs: int) -> float:
    """Probability that a mean of normal differences lies within two of its standard errors (Student).

    Examples
    --------
    >>> round(confidence(5), 3), round(confidence(1000), 3)
    (0.884, 0.954)
    """
    return float(1.0 - 2.0 * stats.t.sf(2.0, pairs - 1))


def cells(differences: pd.DataFrame) -> pd.DataFrame:
    """Mean over seeds of every arm in every cell.

    Returns
    -------
    DataFrame
        Columns suite, problem, optimizer, family, method, warmup, rates, and mean and se (in %; ddof 1; nan of one
        pair, or where a run diverged), pairs, diverged (runs, of which the mean is inf), verdict.
    """
    rows = []
    for (suite, problem, optimizer), group in differences.groupby(level=CELL):
        for arm in group.columns:
            d = group[arm].to_numpy(dtype=np.float64)
            d = d[~np.isnan(d)]
            if not d.size:
                continue
            lost = int(np.isposinf(d).sum())
            mean, error = float(d.mean()), standard_error(d)
            rows.append(
                (
                    suite,
                    problem,
                    optimizer,
                    family(str(optimizer)),
                    *arm,
                    mean,
                    error,
                    d.size,
                    lost,
                    verdict(mean, error),
                )
            )
    return pd.DataFrame(rows, columns=[*CELL, "family", *ARM, "mean", "se", "pairs", "diverged", "verdict"])


def summary(found: pd.DataFrame) -> pd.DataFrame:
    """Wins, ties, losses, and mean, median and worst difference of every arm, over the cells of `cells` given."""
    rows = []
    for arm, group in found.groupby(ARM):
        counts = [int((group["verdict"] == each).sum()) for each in ("win", "tie", "loss")]
        d = group["mean"].to_numpy(dtype=np.float64)
        rows.append((*arm, d.size, *counts, d.mean(), np.median(d), d.max(), int((group["diverged"] > 0).sum())))
    return pd.DataFrame(
        rows, columns=[*ARM, "cells", "wins", "ties", "losses", "mean", "median", "worst", "diverged"]
    ).set_index(ARM)


def at_own_best(found: pd.DataFrame) -> pd.DataFrame:
    """Rows of `cells` at the swept rate, and with the tuned warmup where a method has any."""
    return found[(found["rates"] == BASELINE.rates) & (found["warmup"] != "fixed")]


def arms_at_own_best(differences: pd.DataFrame) -> list[Arm]:
    """As `at_own_best`, the columns of `paired`."""
    arms = (Arm(*column) for column in differences.columns)
    return [arm for arm in arms if arm.rates == BASELINE.rates and arm.warmup != "fixed"]


def of_cells(differences: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
    """Rows of `paired` that belong to the cells of some rows of `cells`."""
    wanted = set(found[CELL].itertuples(index=False, name=None))
    return differences[[row[:3] in wanted for row in differences.index]]


@dataclass(frozen=True, slots=True)
class Ranking:
    """Mean ranks over cells, best first, and what they tell apart.

    Attributes
    ----------
    names : tuple of Arm
    ranks : ndarray, shape (k,)
    cells : int
    critical_difference : float
        Of Nemenyi at 5 %: mean ranks that differ by less are not told apart.
    statistic, p : float
        Friedman's chi^2, corrected for ties, and the p-value of Iman and Davenport's F.
    groups : tuple of (int, int)
        First and last of the longest stretches that are not told apart.
    left_out : tuple of Arm
        Those that lack a cell.
    """

    names: tuple[Arm, ...]
    ranks: NDArray[np.float64]
    cells: int
    critical_difference: float
    statistic: float
    p: float
    groups: tuple[tuple[int, int], ...]
    left_out: tuple[Arm, ...]


@cache
def nemenyi(k: int) -> float:
    """Critical value q at 5 % of Nemenyi's test of k methods: the Studentized range over sqrt(2).

    Examples
    --------
    >>> round(nemenyi(2), 2)
    1.96
    """
    return float(stats.studentized_range.ppf(0.95, k, np.inf)) / math.sqrt(2.0)


def ranking(found: pd.DataFrame) -> Ranking | None:
    r"""Rank arms in each cell by their mean difference; ties share the mean of their ranks.

    .. math:: CD = q_{0.05}(k) \sqrt{k (k + 1) / (6 n)}

    Parameters
    ----------
    found : DataFrame
        Rows of `cells`: n cells of k arms; those of `NULL` are dropped.

    Returns
    -------
    Ranking or None
        None for fewer than two cells, or arms that are in all of them.

    References
    ----------
    Demsar, *Statistical Comparisons of Classifiers over Multiple Data Sets*, JMLR 7 (2006), section 3.2.
    """
    table = found[found["method"] != NULL].pivot(index=CELL, columns=ARM, values="mean")
    whole = table.columns[table.notna().all().to_numpy()]
    left_out = tuple(Arm(*arm) for arm in table.columns.difference(whole))
    n, k = len(table), len(whole)
    if n < 2 or k < 2:
        return None
    each = np.asarray(stats.rankdata(table[whole].to_numpy(dtype=np.float64), axis=1), dtype=np.float64)
    mean = each.mean(axis=0)
    order = np.argsort(mean, kind="stable")
    statistic, p = _friedman(each)
    ranks, difference = mean[order], nemenyi(k) * math.sqrt(k * (k + 1) / (6.0 * n))
    names = tuple(Arm(*whole[i]) for i in order)
    return Ranking(names, ranks, n, difference, statistic, p, _stretches(ranks, difference), left_out)


def _friedman(ranks: NDArray[np.float64]) -> tuple[float, float]:
    n, k = ranks.shape
    spread = float(np.sum(ranks**2)) - n * k * (k + 1) ** 2 / 4.0
    if spread <= 0.0:
        return 0.0, 1.0
    statistic = (k - 1) * float(np.sum((ranks.sum(axis=0) - n * (k + 1) / 2.0) ** 2)) / spread
    most = n * (k - 1)
    if most - statistic <= 1e-9 * most:
        return float(most), 0.0
    return statistic, float(stats.f.sf((n - 1) * statistic / (most - statistic), k - 1, (k - 1) * (n - 1)))


def _stretches(ranks: NDArray[np.float64], difference: float) -> tuple[tuple[int, int], ...]:
    found: list[tuple[int, int]] = []
    for first in range(ranks.size):
        last = int(np.searchsorted(ranks, ranks[first] + difference, side="right")) - 1
        if not found or last > found[-1][1]:
            found.append((first, last))
    return tuple(found)


def hindsight(differences: pd.DataFrame, arms: Sequence[Arm]) -> pd.DataFrame:
    """What the best of some arms gains over the baseline: chosen on half of the seeds, measured on the others.

    Every second seed is a half; both are chosen on in turn, and the two gains averaged. A cell is cut to the seeds that
    all its arms have; an arm that has none of them is no candidate there.

    Parameters
    ----------
    differences : DataFrame
        From `paired`.
    arms : sequence of Arm
        The candidates, without those of `NULL`; with the baseline among them the choice may be to gain nothing.

    Returns
    -------
    DataFrame
        Rows: cells of two shared seeds or more; columns gain (in %) and chosen (the methods).
    """
    rows = []
    for cell, group in differences[[tuple(arm) for arm in arms if arm.method != NULL]].groupby(level=CELL):
        d = group.sort_index().dropna(axis="columns", how="all").dropna(axis="index")
        if len(d) < 2 or d.shape[1] == 0:
            continue
        values: npt.NDArray[np.float64] = d.to_numpy(dtype=np.float64)
        halves = values[0::2].mean(axis=0), values[1::2].mean(axis=0)
        best = [int(np.argmin(half)) for half in halves]
        gain = -(halves[1][best[0]] + halves[0][best[1]]) / 2.0
        rows.append((*cell, float(gain), " / ".join(sorted({str(d.columns[i][0]) for i in best}))))
    return pd.DataFrame(rows, columns=[*CELL, "gain", "chosen"]).set_index(CELL)

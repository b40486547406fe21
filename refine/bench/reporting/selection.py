"""How the default was chosen and confirmed: a page of tables, from the results of the suites of both halves."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import pandas as pd

from ...errors import RefineError
from ...files import printable
from . import document as doc
from .headline import DEFAULT
from .results import Results, load
from .statistics import (
    BASELINE,
    CELL,
    NULL,
    Arm,
    arms_at_own_best,
    at_own_best,
    cells,
    hindsight,
    paired,
    ranking,
    summary,
)
from .words import FAMILIES, count, groups, label, number, percent, plus_minus, score, suites

__all__ = ["selection"]

RIVALS = ("cosine", "step", "one-cycle", "wsd")
WORSE, NO_SWEEP, SHARE, NOTHING = 0.5, 1.0, 0.5, 0.05
"""Per cent that the default may be worse, and that its rate without a sweep may cost; its share of the best gain, and
per cent that are no gain."""


def selection(folders: Sequence[str | os.PathLike[str]]) -> str:
    """Markdown of some folders of results, in which a suite's name ends with the half of its problems."""
    results = [load(folder) for folder in folders]
    for folder, result in zip(folders, results, strict=True):
        if not str(result.meta["suite"]).endswith(("-choose", "-confirm")):
            raise RefineError(
                f"{printable(folder)} holds the suite {result.meta['suite']}, which is no half; name folders of the "
                "suites convex-choose, deep-choose, convex-confirm and deep-confirm"
            )
    blocks: list[doc.Block] = [
        doc.Heading(1, "How the recommended schedule was chosen, and confirmed"),
        doc.Paragraph(
            f"The default, {DEFAULT} in the tables, is the schedule that refine fit recommends. "
            "Per cent over linear decay with tuned warmup and swept rate, mean over the seeds with its standard error; "
            "every schedule was fitted on the log of another seed. Better / tied / worse: by two standard errors."
            + (_EARLIER_RULE if any(_RATIO in result.logs for result in results) else "")
        ),
    ]
    for half, title in (
        ("confirm", "The half that it was confirmed on, once"),
        ("choose", "The half it was chosen on"),
    ):
        own = [r for r in results if str(r.meta["suite"]).endswith(f"-{half}")]
        if own:
            blocks += [doc.Heading(2, title), *_half(own)]
    return doc.to_markdown(blocks)


def _half(results: Sequence[Results]) -> list[doc.Block]:
    runs = pd.concat([r.runs for r in results], ignore_index=True)
    logs = pd.concat([r.logs for r in results], ignore_index=True)
    differences = paired(runs)
    found = cells(differences)
    best = hindsight(differences, arms_at_own_best(differences))
    return [
        *_goals(found, best),
        *_cells(found, logs, best),
        *_methods(found),
    ]


def _goals(found: pd.DataFrame, best: pd.DataFrame) -> list[doc.Block]:
    """What was asked of the default, and whether it holds."""
    own = {rates: found[(found["method"] == DEFAULT) & (found["rates"] == rates)].set_index(CELL) for rates in _RATES}
    if any(frame.empty for frame in own.values()):
        return []
    texts = []
    for rates, frame in own.items():
        bad = frame[(frame["mean"] > WORSE) & ~(frame["mean"] <= 2.0 * frame["se"])]
        shown = "; ".join(f"{_named(cell)} {plus_minus(r['mean'], r['se'])} %" for cell, r in bad.iterrows())
        worst = f"worst {percent(frame['mean'].max())} % of {count(len(frame), 'cell')}"
        texts.append(
            f"Never worse by more than {WORSE:g} % and two standard errors, {_RATES[rates]}: "
            f"{'holds' if bad.empty else 'misses in ' + shown}; {worst}."
        )
    texts.append(_ranked(found, "all suites"))
    texts += [_ranked(found[found["suite"] == suite], suite) for suite in suites(found) if found["suite"].nunique() > 1]
    sweep, rule = (own[rates]["mean"] for rates in _RATES)
    cost = (rule - sweep).reindex(sweep.index).fillna(np.inf)  # both diverged
    far = cost[cost > NO_SWEEP]
    shown = "; ".join(f"{_named(cell)} {percent(value)} %" for cell, value in far.items())
    texts.append(
        f"Without a sweep within {NO_SWEEP:g} % of the swept rate: {'holds' if far.empty else f'misses in {shown}'}; "
        f"median {percent(float(cost.median()))} %, most {percent(float(cost.max()))} %."
    )
    gain = best["gain"].reindex(sweep.index).clip(lower=0.0)
    for (suite, family), group in groups(found[found["method"] == DEFAULT]):
        index = pd.MultiIndex.from_frame(group[CELL].drop_duplicates())
        most, reached = gain[index], -sweep[index]
        texts.append(
            f"{suite} {FAMILIES[family]}: best in hindsight {percent(-float(most.median()))} % in the median, "
            f"the default {percent(-float(reached.median()))} %; in the mean {percent(-float(most.mean()))} % and "
            f"{percent(-float(reached.mean()))} %; half of the best or more (or within {NOTHING:g} % of it) in "
            f"{int(np.sum(reached >= np.minimum(SHARE * most, most - NOTHING)))} of {count(len(index), 'cell')}."
        )
    return [doc.Heading(3, "What was asked"), doc.Items(tuple(texts))]


_RATIO = "progress ratio"
_DECIDING = ("rho", _RATIO, "k")
_EARLIER_RULE = (
    " These results are of an earlier rule, which bent linear decay: to fall later where the loss fell further than "
    f"the noise of the updates explains (the {_RATIO}), earlier where it fell less and the norms fell far."
)
_RATES = {"swept": "each at its own swept rate", "rule": "without a sweep of its own"}


def _named(cell: object) -> str:
    return ", ".join(map(str, cell[1:])) if isinstance(cell, tuple) else str(cell)


def _ranked(found: pd.DataFrame, where: str) -> str:
    """Mean ranks among linear decay and the rivals."""
    wanted = (BASELINE.method, DEFAULT, *RIVALS)
    ranks = ranking(at_own_best(found[found["method"].isin(wanted)]))
    missing = sorted({*wanted} - {arm.method for arm in ranks.names}) if ranks else list(wanted)
    if ranks is None or missing:
        return f"Mean rank, {where}: not told, {', '.join(missing)} were not trained in all of two cells or more."
    shown = ", ".join(f"{arm.method} {rank:.2f}" for arm, rank in zip(ranks.names, ranks.ranks, strict=True))
    by_name = dict(zip((arm.method for arm in ranks.names), ranks.ranks, strict=True))
    behind = [name for name in RIVALS if by_name[name] <= by_name[DEFAULT]]
    verdict = f"misses {', '.join(behind)}" if behind else "holds"
    return (
        f"Mean rank, {where}, ahead of {', '.join(RIVALS)}: {verdict}; over "
        f"{count(ranks.cells, 'cell')} {shown} (critical difference {ranks.critical_difference:.2f})."
    )


def _cells(found: pd.DataFrame, logs: pd.DataFrame, best: pd.DataFrame) -> list[doc.Block]:
    """The default, cell by cell, with what decided and what could have been gained."""
    own = logs[logs["method"] == BASELINE.method]
    deciding = [name for name in _DECIDING if name in own]
    rows = []
    gains = best.to_dict("index")
    for cell, group in found[found["method"] == DEFAULT].groupby(CELL, sort=False):
        names = tuple(map(str, cell)) if isinstance(cell, tuple) else (str(cell),)
        mine = own[(own[CELL] == list(names)).all(axis=1)]
        told = mine["default"].value_counts()
        shapes = ", ".join(f"{shape} {n}" if len(told) > 1 else str(shape) for shape, n in told.items())
        shown = {str(r["rates"]): plus_minus(r["mean"], r["se"]) for r in group.to_dict("records")}
        medians = (float(np.nanmedian(mine[name])) if mine[name].notna().any() else np.nan for name in deciding)
        rows.append(
            (
                *names,
                shapes,
                str(gains.get(names, {}).get("chosen", "")),
                *map(number, medians),
                shown.get("swept", ""),
                shown.get("rule", ""),
                percent(-float(gains.get(names, {}).get("gain", np.nan))),
            )
        )
    header = (*CELL, "decides", "best in hindsight", *deciding, "swept", "no sweep", "best")
    return [
        doc.Heading(3, "The default, cell by cell"),
        doc.Table("Per cent over linear decay", header, tuple(rows), 5),
    ]


def _methods(found: pd.DataFrame) -> list[doc.Block]:
    """Everything that was tried, the failures too."""
    blocks: list[doc.Block] = [doc.Heading(3, "Everything that was tried")]
    for (suite, family), group in groups(found):
        table = summary(group)
        lines = table.to_dict("index")
        order = [tuple(arm) for arm in table.sort_values("median", kind="stable").index if arm[2] == "swept"]
        rows = []
        for method, warmup, _ in order:
            row = [label(method, warmup)]
            for rates in _RATES:
                arm = Arm(method, warmup, rates)
                if arm == BASELINE:
                    row += ["baseline", "0", "0"]
                elif arm in lines:
                    s = lines[arm]
                    row += [score(s), percent(s["median"]), percent(s["worst"])]
                else:
                    row += ["", "", ""]
            rows.append(tuple(row))
        head = ("swept: better / tied / worse", "median", "worst", "no sweep: better / tied / worse", "median", "worst")
        title = f"{suite}, {FAMILIES[family]}: {count(len(group[CELL].drop_duplicates()), 'cell')}"
        blocks.append(doc.Table(title, ("method", *head), tuple(rows)))
    blocks.append(
        doc.Paragraph(f"{NULL} is the control: linear decay, tuned on other seeds. Its differences are those of luck.")
    )
    return blocks

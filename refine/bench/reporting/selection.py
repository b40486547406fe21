"""The default in every cell, and what else was tried: a page of tables, from results of suites made for it."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import pandas as pd

from . import document as doc
from .headline import DEFAULT
from .results import load_suites
from .statistics import BASELINE, CELL, NULL, Arm, cells, paired, summary
from .words import FAMILIES, count, groups, label, number, percent, plus_minus, score

__all__ = ["selection"]

WORSE, NO_SWEEP = 0.5, 1.0
"""Per cent that the default may be worse, and that its rate without a sweep may cost."""

_SECTIONS = (
    ("recommended-", "The default in every cell of the report"),
    ("-confirm", "What else was tried: the half that confirmed"),
    ("-choose", "What else was tried: the half that chose"),
)


def selection(folders: Sequence[str | os.PathLike[str]]) -> str:
    """Markdown of some folders of results: of the suites ``recommended-...``, and of those of both halves."""
    results = load_suites(
        folders,
        lambda suite: any(part in suite for part, _ in _SECTIONS),
        "; name folders of the suites recommended-convex and recommended-deep, and of convex-choose, deep-choose, "
        "convex-confirm, deep-confirm",
    )
    blocks: list[doc.Block] = [
        doc.Heading(1, "The recommended schedule, and what else was tried"),
        doc.Paragraph(
            f"The default, {DEFAULT} in the tables, is the schedule that refine fit recommends. "
            "Per cent over linear decay with tuned warmup and swept rate, mean over the seeds with its standard error; "
            "every schedule was fitted on the log of another seed. Better / tied / worse: by two standard errors."
        ),
    ]
    for part, title in _SECTIONS:
        own = [result for result in results if part in str(result.meta["suite"])]
        if own:
            runs = pd.concat([result.runs for result in own], ignore_index=True)
            logs = pd.concat([result.logs for result in own], ignore_index=True)
            found = cells(paired(runs))
            shown = [*_goals(found), *_cells(found, logs)] if part == "recommended-" else _methods(found, logs)
            blocks += [doc.Heading(2, title), *shown]
    return doc.to_markdown(blocks)


def _goals(found: pd.DataFrame) -> list[doc.Block]:
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
    sweep, rule = (own[rates]["mean"] for rates in _RATES)
    cost = (rule - sweep).reindex(sweep.index).fillna(np.inf)  # both diverged
    far = cost[cost > NO_SWEEP]
    shown = "; ".join(f"{_named(cell)} {percent(value)} %" for cell, value in far.items())
    texts.append(
        f"Without a sweep within {NO_SWEEP:g} % of the swept rate: {'holds' if far.empty else f'misses in {shown}'}; "
        f"median {percent(float(cost.median()))} %, most {percent(float(cost.max()))} %."
    )
    table = summary(found[found["method"] == DEFAULT]).to_dict("index")
    for rates in _RATES:
        counts = table[DEFAULT, "", rates]
        texts.append(f"Better / tied / worse, {_RATES[rates]}: {score(counts)}; mean {percent(counts['mean'])} %.")
    return [doc.Heading(3, "What was asked"), doc.Items(tuple(texts))]


_RATIO = "progress ratio"
_DECIDING = ("rho", "k")
_EARLIER_RULE = (
    f"The lines {DEFAULT} are of an earlier rule, which bent linear decay: to fall later where the loss fell further "
    f"than the noise of the updates explains (the {_RATIO}), earlier where it fell less and the norms fell far."
)
_RATES = {"swept": "each at its own swept rate", "rule": "without a sweep of its own"}


def _named(cell: object) -> str:
    return ", ".join(map(str, cell[1:])) if isinstance(cell, tuple) else str(cell)


def _cells(found: pd.DataFrame, logs: pd.DataFrame) -> list[doc.Block]:
    """The default, cell by cell, with what decided."""
    own = logs[logs["method"] == BASELINE.method]
    deciding = [name for name in _DECIDING if name in own]
    rows = []
    for cell, group in found[found["method"] == DEFAULT].groupby(CELL, sort=False):
        names = tuple(map(str, cell)) if isinstance(cell, tuple) else (str(cell),)
        mine = own[(own[CELL] == list(names)).all(axis=1)]
        told = mine["default"].value_counts()
        shapes = ", ".join(f"{shape} {n}" if len(told) > 1 else str(shape) for shape, n in told.items())
        shown = {str(r["rates"]): plus_minus(r["mean"], r["se"]) for r in group.to_dict("records")}
        medians = (float(np.nanmedian(mine[name])) if mine[name].notna().any() else np.nan for name in deciding)
        rows.append((*names, shapes, *map(number, medians), shown.get("swept", ""), shown.get("rule", "")))
    header = (*CELL, "decides", *deciding, "swept", "no sweep")
    return [
        doc.Heading(3, "The default, cell by cell"),
        doc.Table("Per cent over linear decay", header, tuple(rows), 4),
    ]


def _methods(found: pd.DataFrame, logs: pd.DataFrame) -> list[doc.Block]:
    """Everything that was tried, the failures too."""
    blocks: list[doc.Block] = []
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
        doc.Paragraph(
            f"{NULL} is the control: linear decay, tuned on other seeds. Its differences are those of luck."
            + (f" {_EARLIER_RULE}" if _RATIO in logs else "")
        )
    )
    return blocks

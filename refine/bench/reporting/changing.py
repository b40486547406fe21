"""What follows the noise where it changes during a run: a page of tables from the suites of changing noise."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import pandas as pd

from . import document as doc
from .headline import DEFAULT
from .results import Results, load_suites
from .statistics import (
    BASELINE,
    CELL,
    arms_at_own_best,
    at_own_best,
    cells,
    change_of,
    hindsight,
    paired,
    standard_error,
)
from .words import FAMILIES, count, label, number, percent, plus_minus

__all__ = ["changing"]

WORSE, SHARE, RISES = 0.5, 2 / 3, 1.0
"""Per cent that the default may be worse; the share of cells in which it shall win; per cent it shall gain where noise
rises."""

_OURS = ("paper(linear)", "unguarded(linear)", "shifts(linear)", "hold(linear)", "hold on 1/N(linear)", DEFAULT)
_RISING = ("batch down", "batch down in stairs", "dirty last")


def changing(folders: Sequence[str | os.PathLike[str]]) -> str:
    """Markdown of some folders of results, of the suites whose names start with ``changing``."""
    results = load_suites(
        folders,
        lambda suite: suite.startswith("changing"),
        ", whose noise does not change; name folders of the suites changing-choose, changing-confirm and "
        "changing-deep-...",
    )
    blocks: list[doc.Block] = [
        doc.Heading(1, "Noise that changes during the run"),
        doc.Paragraph(
            "A cell is a problem with a change and an optimizer. The batch size goes up or down at half of the run, or "
            "in stairs; or a part of the labels is wrong in its first, middle or last third; or its text is another "
            "one. Per cent of the final loss over that of linear decay at its swept rate, mean over the seeds with its "
            "standard error; negative is better. Everything has a warmup of 5 %. Schedules are made of a log of linear "
            f"decay, of another seed: {DEFAULT} is what refine fit recommends, shifts follows every shift of the norms "
            "whatever its cause, hold takes the hold that the losses want, hold on 1/N the same on weights 1/N, "
            "unguarded is the refined schedule, paper the published one."
        ),
    ]
    for half, title in (
        ("confirm", "The half that it was confirmed on, once"),
        ("choose", "The half it was chosen on"),
    ):
        own = [result for result in results if str(result.meta["suite"]).endswith(f"-{half}")]
        if own:
            blocks += [doc.Heading(2, title), *_half(own)]
    return doc.to_markdown(blocks)


def _half(results: Sequence[Results]) -> list[doc.Block]:
    runs = pd.concat([result.runs for result in results], ignore_index=True)
    differences = paired(runs)
    found = cells(differences)
    found["change"] = found["problem"].map(change_of)
    best = hindsight(differences, arms_at_own_best(differences))["gain"]
    return [*_goals(found), *_by_change(found, best), *_cells(found, best, _errors(runs))]


def _goals(found: pd.DataFrame) -> list[doc.Block]:
    """What was asked of the default, and whether it holds."""
    own = found[found["method"] == DEFAULT]
    if own.empty:
        return []
    texts = []
    for rates, words in _RATES.items():
        frame = own[own["rates"] == rates]
        bad = frame[(frame["mean"] > WORSE) & ~(frame["mean"] <= 2.0 * frame["se"])]
        shown = "; ".join(
            f"{r['problem']} {r['optimizer']} {plus_minus(r['mean'], r['se'])} %" for r in bad.to_dict("records")
        )
        texts.append(
            f"Never worse by more than {WORSE:g} % and two standard errors, {words}: "
            f"{'holds' if bad.empty else f'misses in {shown}'}; worst {percent(frame['mean'].max())} % of "
            f"{count(len(frame), 'cell')}."
        )
    swept = own[own["rates"] == BASELINE.rates]
    moving = swept[swept["change"] != "steady"]
    for words, group in (
        ("noise changes", moving),
        ("the batch size does", moving[moving["change"].str.startswith("batch")]),
    ):
        won, lost = (int((group["verdict"] == each).sum()) for each in ("win", "loss"))
        texts.append(
            f"Better beyond two standard errors in {SHARE:.0%} of the cells where {words}: "
            f"{'holds' if won >= SHARE * len(group) else 'misses'}; better in {won} of {count(len(group), 'cell')}, "
            f"worse in {lost}."
        )
    for words, changes in (
        ("noise rises", _RISING),
        ("the batch size says so", tuple(each for each in _RISING if each.startswith("batch"))),
    ):
        gains = -moving.loc[moving["change"].isin(changes), "mean"]
        middle = float(gains.median())
        texts.append(
            f"A median gain of {RISES:g} % where {words}: {'holds' if middle >= RISES else 'misses'}; "
            f"{percent(-middle)} % over {count(len(gains), 'cell')}."
        )
    return [doc.Heading(3, "What was asked"), doc.Items(tuple(texts))]


_RATES = {"swept": "each at its own swept rate", "rule": "without a sweep of its own"}


def _by_change(found: pd.DataFrame, best: pd.Series[float]) -> list[doc.Block]:
    """Means over the cells of a change, of every method at its own swept rate."""
    swept = at_own_best(found)
    named = [name for name in dict.fromkeys(swept["method"]) if name not in (*_OURS, BASELINE.method)]
    methods = [*named, *(name for name in _OURS if (swept["method"] == name).any())]
    rows = []
    for family, title in FAMILIES.items():
        group = swept[swept["family"] == family]
        for change in dict.fromkeys(group["change"]):
            own = group[group["change"] == change]
            gains = [float(best[tuple(cell)]) for cell in own[CELL].drop_duplicates().itertuples(index=False)]
            means = own.groupby("method")["mean"].mean()
            shown = (percent(float(means[name])) if name in means else "" for name in methods)
            rows.append((title, change, str(len(gains)), *shown, percent(-float(np.mean(gains)))))
    head = ("", "change", "cells", *(label(name) for name in methods), "best in hindsight")
    return [
        doc.Heading(3, "By change"),
        doc.Table("Mean over cells, each at its own swept rate: per cent over linear decay", head, tuple(rows), 2),
    ]


def _errors(runs: pd.DataFrame) -> dict[tuple[str, ...], str]:
    """Of every cell of a table: the training error of linear decay, and by how much that of the default differs."""
    if "error" not in runs:
        return {}
    own = runs[(runs["rates"] == BASELINE.rates) & (runs["warmup"] != "fixed")]
    wide = own.pivot(index=[*CELL, "seed"], columns="method", values="error").dropna(how="all")
    if DEFAULT not in wide:
        return {}
    shown = {}
    for cell, group in wide.groupby(level=CELL):
        apart = 100.0 * (group[DEFAULT] - group[BASELINE.method]).to_numpy()
        plain = 100.0 * float(group[BASELINE.method].mean())
        shown[tuple(map(str, cell))] = f"{number(plain)}, {plus_minus(float(apart.mean()), standard_error(apart))}"
    return shown


def _cells(found: pd.DataFrame, best: pd.Series[float], errors: dict[tuple[str, ...], str]) -> list[doc.Block]:
    shown = [
        name for name in ("unguarded(linear)", "shifts(linear)", "hold on 1/N(linear)") if name in set(found["method"])
    ]
    columns = [*((DEFAULT, rates) for rates in _RATES), *((name, BASELINE.rates) for name in shown)]
    columns = [each for each in columns if each[0] in set(found["method"])]
    by_arm = {
        (*map(str, cell), *map(str, arm)): plus_minus(mean, error)
        for cell, arm, mean, error in zip(
            found[CELL].itertuples(index=False, name=None),
            found[["method", "rates"]].itertuples(index=False, name=None),
            found["mean"],
            found["se"],
            strict=True,
        )
    }
    rows = []
    for cell in found[CELL].drop_duplicates().itertuples(index=False, name=None):
        names = tuple(map(str, cell))
        values = (by_arm.get((*names, *column), "") for column in columns)
        rows.append((*names, *values, percent(-float(best[names])), *([errors.get(names, "")] if errors else [])))
    heads = (f"{label(name)}{', no sweep' if rates == 'rule' else ''}" for name, rates in columns)
    more = ("training error in % of linear, and difference",) if errors else ()
    return [
        doc.Heading(3, "Every cell"),
        doc.Table("Per cent over linear decay", (*CELL, *heads, "best in hindsight", *more), tuple(rows), 3),
    ]

"""Sections of the report on losses: against linear decay, ranks, problem by problem, hindsight."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from . import document as doc
from . import figures
from .headline import KEY_METHODS, REFINED
from .prediction import NEAR_SEPARABLE, checks_by_cell
from .statistics import (
    ARM,
    BASELINE,
    CELL,
    NULL,
    Arm,
    arms_at_own_best,
    at_own_best,
    hindsight,
    of_cells,
    ranking,
    standard_error,
    summary,
)
from .words import FAMILIES, Key, count, groups, label, number, percent, plus_minus, score, slug, suites

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["baseline", "each_problem", "oracle", "ranks", "wins"]


def title(key: Key) -> str:
    return f"{key[0]}, {FAMILIES[key[1]]}"


def _ordered(found: pd.DataFrame) -> list[Arm]:
    """Arms by their mean rank over the cells they are in."""
    table = found.pivot(index=CELL, columns=ARM, values="mean")
    mean = table.rank(axis=1, pct=True).mean().sort_values(kind="stable")
    return [Arm(*arm) for arm in mean.index]


def apart(found: pd.DataFrame, logs: pd.DataFrame) -> pd.DataFrame:
    """Rows of cells that are not near-separable by the log of linear decay; without a log a cell counts as such."""
    checks = checks_by_cell(logs, BASELINE.method)
    low = set(checks.index[checks["rho"] < NEAR_SEPARABLE]) if "rho" in checks else set()
    return found[[cell not in low for cell in found[CELL].itertuples(index=False, name=None)]]


def wins(found: pd.DataFrame, logs: pd.DataFrame) -> list[doc.Block]:
    """Wins, ties and losses of every method, swept and by rule side by side, and its differences as dots."""
    blocks: list[doc.Block] = [
        doc.Heading(2, "Against linear decay"),
        doc.Paragraph(
            "Cells won / tied / lost at two standard errors, and the median and worst difference in %. The mean is "
            f"over cells where rho of the log of linear decay is {NEAR_SEPARABLE:g} or more, or unknown: below it "
            "problems are near-separable, and per cents of their tiny losses would be most of a mean over all."
        ),
    ]
    for key, group in groups(found):
        table = summary(group).to_dict("index")
        kept = apart(group, logs)
        means = summary(kept)["mean"].to_dict()
        left, every = (len(frame[CELL].drop_duplicates()) for frame in (kept, group))
        order = list(dict.fromkeys((arm.method, arm.warmup) for arm in _ordered(group)))
        rows = []
        for method, warmup in order:
            row: list[str | doc.Cell] = [label(method, warmup)]
            for rates in ("swept", "rule"):
                arm = Arm(method, warmup, rates)
                if arm == BASELINE:
                    row += [doc.Cell("baseline", "base"), "0", "0", "0" if left else ""]
                elif arm in table:
                    s = table[arm]
                    better = int(s["wins"]) - int(s["losses"])
                    row.append(doc.Cell(score(s), "win" if better > 0 else "loss" if better < 0 else ""))
                    row += [percent(v) for v in (s["median"], s["worst"], means.get(arm, math.nan))]
                else:
                    row += [""] * 4
            rows.append(tuple(row))
        header = ["method, best mean rank first"]
        whats = ("W / T / L", "median", "worst", f"mean, rho \u2265 {NEAR_SEPARABLE:g}")
        header += [f"{rates}: {what}" for rates in ("swept", "rule") for what in whats]
        blocks.append(doc.Table(f"{title(key)}: % over linear decay", tuple(header), tuple(rows)))
        note = f"The means are over {left} of {count(every, 'cell')}."
        if NULL in set(group["method"]):
            note += (
                f" {NULL} (null: linear decay tuned again on other seeds) shows what tuning noise alone does: "
                "a method whose wins, losses and spread are no larger is not told apart from linear decay."
            )
        blocks.append(doc.Paragraph(note))
        swept = at_own_best(group)
        arms = _ordered(swept)
        columns = [swept.loc[(swept[ARM] == list(arm)).all(axis=1), "mean"].to_numpy() for arm in arms]
        ax = figures.plot_excess([label(arm.method) for arm in arms], columns)
        caption = f"{title(key)}: % over linear decay, each at its own swept rate; a dot a cell, a bar at the median."
        blocks.append(_figure(ax, slug("excess", *key), caption))
    return blocks


def _figure(ax: Axes, name: str, caption: str) -> doc.Figure:
    return doc.Figure(name, caption, figures.svg(ax, name))


def ranks(main: pd.DataFrame) -> list[doc.Block]:
    """Mean ranks with critical differences."""
    blocks: list[doc.Block] = [
        doc.Heading(2, "Ranks"),
        doc.Paragraph(
            "Mean ranks over cells, swept rates, and Nemenyi's critical difference at 5 % (Demsar, JMLR 7, 2006). "
            "Methods that share a letter are not told apart. Cells that share a problem are not independent."
        ),
    ]
    for key, group in groups(main):
        found = ranking(group)
        if found is None:
            blocks.append(doc.Paragraph(f"{title(key)}: fewer than two cells, or than two methods in all of them."))
            continue
        names = [label(arm.method) for arm in found.names]
        letters = [
            "".join(_letter(g) for g, (first, last) in enumerate(found.groups) if first <= i <= last)
            for i in range(len(names))
        ]
        rows = [(name, f"{rank:.2f}", each) for name, rank, each in zip(names, found.ranks, letters, strict=True)]
        p = f"{found.p:.2g}" if found.p >= 1e-4 else "below 0.0001"
        caption = (
            f"{title(key)}: {count(found.cells, 'cell')}, critical difference {found.critical_difference:.2f}; "
            f"Friedman's chi-squared {found.statistic:.1f}, p {p} (Iman and Davenport)"
        )
        base = found.names.index(BASELINE) if BASELINE in found.names else None
        ax = figures.plot_ranks(names, found.ranks, found.critical_difference, baseline=base)
        blocks.append(_figure(ax, slug("ranks", *key), f"{title(key)}: mean ranks."))
        blocks.append(doc.Table(caption, ("method", "mean rank", "not told apart"), tuple(rows)))
        if found.left_out:
            left = ", ".join(label(arm.method) for arm in found.left_out)
            blocks.append(doc.Paragraph(f"Not ranked, for they lack a cell: {left}."))
    return blocks


def _letter(i: int) -> str:
    return chr(ord("a") + i) if i < 26 else f"({i + 1})"


def each_problem(found: pd.DataFrame) -> list[doc.Block]:
    """Differences of every method in every cell."""
    blocks: list[doc.Block] = [doc.Heading(2, "Problem by problem")]
    for key, group in groups(found):
        swept = at_own_best(group)
        blocks += _pairs(key, swept)
        for what, part in (
            ("swept rates", swept),
            ("swept rates, fixed warmup", group[(group["rates"] == "swept") & (group["warmup"] == "fixed")]),
            ("rates by a rule", group[group["rates"] == "rule"]),
        ):
            if len(part):
                blocks.append(_cells_table(f"{title(key)}, {what}: % over linear decay ± standard error", part))
    return blocks


def _pairs(key: Key, swept: pd.DataFrame) -> list[doc.Block]:
    names = [name for name in KEY_METHODS if name in set(swept["method"])]
    if not names:
        return []
    index = pd.MultiIndex.from_frame(swept[CELL].drop_duplicates())
    shown = {}
    for name in names:
        own = swept[swept["method"] == name].drop_duplicates(CELL).set_index(CELL).reindex(index)
        shown[name] = (own["mean"].to_numpy(), own["se"].to_numpy())
    alone = len({cell[2] for cell in index}) == 1
    ax = figures.plot_pairs([cell[1] if alone else f"{cell[1]}, {cell[2]}" for cell in index], shown)
    return [_figure(ax, slug("problems", *key), f"{title(key)}: % over linear decay with two standard errors.")]


def _cells_table(caption: str, part: pd.DataFrame) -> doc.Table:
    arms = [arm for arm in _ordered(part) if arm != BASELINE]
    at = part.set_index([*CELL, *ARM])
    rows = []
    for cell in part[CELL].drop_duplicates().itertuples(index=False, name=None):
        row: list[str | doc.Cell] = [cell[1], cell[2]]
        for arm in arms:
            if (key := (*cell, *arm)) in at.index:
                s = at.loc[key]
                mark = {"win": "win", "loss": "loss"}.get(str(s["verdict"]), "")
                text = "diverged" if s["diverged"] else plus_minus(s["mean"], s["se"])
                text += {"win": " W", "loss": " L"}.get(mark, "")
                row.append(doc.Cell(text, mark))  # type: ignore[arg-type]
            else:
                row.append("")
        rows.append(tuple(row))
    fixed = len({arm.warmup == "fixed" for arm in arms}) > 1
    header = ("problem", "optimizer", *(label(arm.method, arm.warmup if fixed else "") for arm in arms))
    return doc.Table(caption, header, tuple(rows), names=2)


def baseline(runs: pd.DataFrame) -> list[doc.Block]:
    """Losses of the baseline itself."""
    own = runs[(runs[ARM] == list(BASELINE)).all(axis=1)]
    blocks: list[doc.Block] = [doc.Heading(2, "Losses of linear decay")]
    for suite in suites(own):
        rows = []
        for cell, group in own[own["suite"] == suite].groupby(CELL):
            loss = group["loss"].to_numpy(dtype=np.float64)
            means = [number(float(group[column].mean())) for column in ("train_loss", "test_loss")]
            rows.append(
                (
                    str(cell[1]),
                    str(cell[2]),
                    ", ".join(sorted(set(group["schedule"]))),
                    number(float(group["rate"].iloc[0])),
                    number(float(loss.mean())),
                    number(standard_error(loss)),
                    *means,
                    str(loss.size),
                )
            )
        header = ("problem", "optimizer", "schedule", "peak rate", "loss", "s.e.", "training", "held out", "seeds")
        blocks.append(doc.Table(f"{suite}: mean over seeds", header, tuple(rows), names=3))
    return blocks


def oracle(differences: pd.DataFrame, main: pd.DataFrame) -> list[doc.Block]:
    """What the best choice in hindsight gains."""
    rows = []
    arms = arms_at_own_best(differences)
    refined = set(main.loc[main["method"].str.contains("(", regex=False), "method"])
    kinds = {
        "all methods": arms,
        "no log needed": [a for a in arms if a.method not in refined],
        "linear or refined": [a for a in arms if a.method in refined or a == BASELINE],
        f"linear or {REFINED}": [a for a in arms if a.method == REFINED or a == BASELINE],
    }
    for key, group in groups(main):
        part = of_cells(differences, group)
        for kind, candidates in kinds.items():
            gain = hindsight(part, candidates)["gain"]
            if len(candidates) > 1 and len(gain):
                over = int((gain > 1.0).sum())
                shown = [percent(v) for v in (gain.mean(), gain.median(), gain.max(), gain.min())]
                rows.append((title(key), kind, str(len(gain)), *shown, str(over)))
    header = ("suite", "choice among", "cells", "mean gain", "median", "most", "least", "cells over 1 %")
    return [
        doc.Heading(2, "What hindsight would gain"),
        doc.Paragraph(
            "The best method of each cell, chosen on every second seed and measured on the others, in both ways: what "
            "a perfect choice of schedule could gain over linear decay, in %. Below zero the choice was chance. "
            "Seeds are those that all candidates of a cell have: packages have fewer."
        ),
        doc.Table("Gain over linear decay, %", header, tuple(rows), names=2),
    ]

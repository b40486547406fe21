"""What a log says whose peak learning rate was too low, or too high: a page of tables from the suites of peaks."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

from . import document as doc
from .results import load_suites
from .statistics import CELL, Arm, cells, family, hindsight, paired
from .words import FAMILIES, count, label, percent, plus_minus

__all__ = ["peaks"]

_LOGGED = re.compile(r"linear at ([0-9.]+)")
_SHOWN = ("default", "hold on 1/N", "unguarded")


def peaks(folders: Sequence[str | os.PathLike[str]]) -> str:
    """Markdown of some folders of results, of the suites whose names start with ``peaks``."""
    results = load_suites(
        folders,
        lambda suite: suite.startswith("peaks"),
        ", which has no peaks; name folders of the suites peaks-choose, peaks-confirm and peaks-deep",
    )
    runs = pd.concat([result.runs for result in results], ignore_index=True)
    factors = sorted({float(found[1]) for name in runs["method"].unique() if (found := _LOGGED.fullmatch(name))})
    rows, totals = [], []
    for factor in factors:
        chosen = runs[runs["method"].str.contains(rf"at {factor:g}\)?$", regex=True) & (runs["rates"] == "rule")]
        differences = paired(chosen, Arm(f"linear at {factor:g}", "", "rule"))
        arms = [Arm(*column) for column in differences.columns]
        holds = [arm for arm in arms if arm.method.startswith(("hold 0", "linear at"))]
        best = hindsight(differences, holds)["gain"]
        table = cells(differences)
        means = [
            table[table["method"] == f"{mode}(linear at {factor:g})"].set_index(CELL)[["mean", "se"]].to_dict("index")
            for mode in _SHOWN
        ]
        gains = {tuple(map(str, cell)): float(gain) for cell, gain in zip(best.index, best, strict=True)}
        for cell, gain in gains.items():
            shown = [plus_minus(own[cell]["mean"], own[cell]["se"]) if cell in own else "" for own in means]
            rows.append((*cell, f"{factor:g}", percent(-gain), *shown))
        for kind, name in FAMILIES.items():
            group = [cell for cell in gains if family(cell[2]) == kind]
            if group:
                each = [[own[cell]["mean"] for cell in group if cell in own] for own in means]
                spread = [f"{percent(float(np.mean(t)))} ({percent(max(t))})" if t else "" for t in each]
                mean = percent(-float(np.mean([gains[cell] for cell in group])))
                totals.append((name, f"{factor:g}", str(len(group)), mean, *spread))
    head = ("best hold in hindsight", *(label(mode) for mode in _SHOWN))
    blocks: list[doc.Block] = [
        doc.Heading(1, "Peaks that were too low, or too high"),
        doc.Paragraph(
            f"{count(len(runs[CELL].drop_duplicates()), 'cell')}. Linear decay was run at multiples of its best peak, "
            "and logged. From each log a schedule was made and run at the peak that is suggested with it: the logged "
            "one for a hold. Per cent of the final loss over that of linear decay at the logged peak, mean over "
            "the seeds with its standard error; negative is better. The best hold in hindsight is one of 0, .2, .4, "
            ".6, .75 and .85 of the run, chosen on one half of the seeds and measured on the other."
        ),
        doc.Table("Mean over cells, and the worst", ("", "peak over the best", "cells", *head), tuple(totals)),
        doc.Table("Every cell", (*CELL, "peak over the best", *head), tuple(rows)),
    ]
    if not np.isfinite(runs["loss"]).all():
        blocks.append(doc.Paragraph("Some runs diverged; their loss counts as infinite."))
    return doc.to_markdown(blocks)

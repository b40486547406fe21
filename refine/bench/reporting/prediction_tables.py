"""The section of the report on the checks: what they predict of refinement, on problems that did not choose them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ...diagnostics import RULES
from . import document as doc
from . import figures
from .headline import PUBLISHED, REFINED, UNGUARDED
from .prediction import HARM, Cut, Telling, check_columns, evidence, fixed, leave_one_out, spearman, telling
from .statistics import BASELINE, arms_at_own_best, at_own_best, hindsight, of_cells
from .words import FAMILIES, percent, slug, suites

__all__ = ["checks"]

_BANDS = (0.0, 0.3, 0.6, 1.2, math.inf)


def checks(found: pd.DataFrame, logs: pd.DataFrame, differences: pd.DataFrame) -> list[doc.Block]:
    """Predictive power of every check, and rho against excess."""
    blocks: list[doc.Block] = [
        doc.Heading(2, "What the checks predict"),
        doc.Paragraph(
            "Excess over linear decay of a schedule that was refined from a log of linear decay, and the values that "
            "refine fit checks in that log. Spearman: rank correlation over cells, with a bootstrap interval of 95 % "
            "and a permutation p-value; some of so many checks look good by chance. Left out: refined, or linear decay "
            "where the check is raised, with the side and threshold that did best on all other problems. Fixed: with "
            "the thresholds in use. Told "
            f"right: of how many cells it told whether the excess is above {HARM:g} %, with the side and threshold of "
            "best balanced accuracy (mean of the shares told right above and below) on all other problems; always to "
            "say the same is 50 % balanced. The better of both: chosen on half of the seeds, measured on the others."
        ),
    ]
    for suite in suites(found):
        own = found[found["suite"] == suite]
        for method in (UNGUARDED, PUBLISHED):
            frame = evidence(own, logs, method)
            if frame.empty:
                continue
            groups = {f: frame[frame["family"] == f] for f in FAMILIES if (frame["family"] == f).any()}
            if "rho" in frame:
                shown = {FAMILIES[f]: (g["rho"].to_numpy(), g["excess"].to_numpy()) for f, g in groups.items()}
                ax = figures.plot_check("rho", shown)
                name = slug("rho", suite, method.partition("(")[0])
                caption = f"{suite}: rho of the log against the excess of {method}, a mark a cell."
                blocks.append(doc.Figure(name, caption, figures.svg(ax, name)))
                blocks.append(_bands(f"{suite}: excess of {method} by rho, %", groups))
            for family, group in groups.items():
                blocks.append(
                    _table(
                        f"{suite}, {FAMILIES[family]}: {method}",
                        group.reset_index(drop=True),
                        own,
                        _better(differences, group, method),
                    )
                )
            if len(groups) > 1:
                blocks.append(
                    _table(f"{suite}, all optimizers: {method}", frame, own, _better(differences, frame, method))
                )
    return [*blocks, _decisions(logs)]


def _bands(caption: str, groups: dict[str, pd.DataFrame]) -> doc.Table:
    rows = []
    for low, high in pairwise(_BANDS):
        row = [f"{low:g} to {high:g}" if high < math.inf else f"{low:g} and more"]
        for group in groups.values():
            x = group.loc[(group["rho"] >= low) & (group["rho"] < high), "excess"]
            row += [str(len(x)), *(percent(v) if len(x) else "" for v in (x.min(), x.mean(), x.max()))]
        rows.append(tuple(row))
    whats = ("cells", "least", "mean", "worst")
    return doc.Table(caption, ("rho", *(f"{FAMILIES[f]}: {what}" for f in groups for what in whats)), tuple(rows))


def _better(differences: pd.DataFrame, frame: pd.DataFrame, method: str) -> NDArray[np.float64]:
    """Excess in every cell of the better of linear decay and a method, chosen on half of the seeds."""
    arms = [arm for arm in arms_at_own_best(differences) if arm.method == method]
    return -hindsight(of_cells(differences, frame), [BASELINE, *arms])["gain"].to_numpy(dtype=np.float64)


def _table(caption: str, frame: pd.DataFrame, found: pd.DataFrame, better: NDArray[np.float64]) -> doc.Table:
    excess, problems = frame["excess"].to_numpy(dtype=np.float64), list(frame["problem"])
    rows: list[tuple[float, tuple[str, ...]]] = []
    for name in check_columns(frame):
        values = frame[name].to_numpy(dtype=np.float64)
        one_family = frame["family"].nunique() == 1
        association = spearman(values, excess) if one_family else None
        after, cuts = leave_one_out(values, excess, problems)
        shown = ["", "", ""]
        if association is not None:
            interval = f"{association.low:+.2f} to {association.high:+.2f}"
            shown = [f"{association.value:+.2f}", interval, f"{association.p:.2g}"]
        known = str(int(np.sum(~np.isnan(values))))
        chosen = (*_two(after), _cuts(cuts), *_told(telling(values, excess, problems)))
        row = (name, known, *shown, *chosen, *_two(fixed(name, values, excess)), _in_use(name))
        rows.append((float(after.mean()), row))
    rows.sort(key=lambda pair: pair[0])
    own = at_own_best(found[found["method"] == REFINED])
    guarded = own.loc[own["family"].isin(set(frame["family"])), "mean"].to_numpy(dtype=np.float64)
    n, harmed = excess.size, int((excess > HARM).sum())
    references = [
        ("always refined", excess, _told(Telling(n, n - harmed, 0.5))),
        ("always linear", np.zeros(n), _told(Telling(n, harmed, 0.5))),
        ("the better of both, chosen on half of the seeds", better, ("", "")),
        (f"{REFINED}, measured", guarded, ("", "")),
    ]
    shown_references = [
        (name, str(of.size), "", "", "", *_two(of), "", *told, "", "", "") for name, of, told in references if of.size
    ]
    header = ("check", "cells", "Spearman", "95 %", "p", "left out: mean", "worst", "linear where (chosen)")
    return doc.Table(
        f"{caption}: % over linear decay",
        (*header, "told right", "balanced", "fixed: mean", "fixed: worst", "linear where (fixed)"),
        (*shown_references, *(row for _, row in rows)),
    )


def _told(told: Telling | None) -> tuple[str, str]:
    return ("", "") if told is None else (f"{told.right} of {told.n}", f"{100 * told.balanced:.0f} %")


def _two(excess: NDArray[np.float64]) -> tuple[str, str]:
    return percent(float(excess.mean())), percent(float(excess.max()))


def _cuts(cuts: Sequence[Cut]) -> str:
    """Sides and ranges of the thresholds that were chosen."""
    never = sum(cut == Cut("below", -math.inf) for cut in cuts)
    texts = []
    for side in ("below", "above"):
        own = [cut.threshold for cut in cuts if cut.side == side and math.isfinite(cut.threshold)]
        if own:
            low, high = f"{min(own):.3g}", f"{max(own):.3g}"
            texts.append(f"{side} {low if low == high else f'{low} to {high}'} ({len(own)})")
    always = sum(cut == Cut("above", -math.inf) for cut in cuts)
    texts += [f"{word} ({n})" for word, n in (("never", never), ("always", always)) if n]
    return ", ".join(texts)


def _in_use(name: str) -> str:
    return " or ".join(f"{rule.side} {rule.threshold:g}" for rule in RULES if rule.name == name)


def _decisions(logs: pd.DataFrame) -> doc.Table:
    rows = []
    for (suite, method), group in logs.groupby(["suite", "method"]):
        linear = int((group["decision"] == "linear").sum())
        rows.append((str(suite), str(method), str(len(group)), str(linear)))
    caption = "Logs whose norms fall so far that refined(...) is linear decay"
    return doc.Table(caption, ("suite", "log of", "logs", "linear decay"), tuple(rows), names=2)

"""The first sentences of the report, computed from the numbers."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from . import document as doc
from .prediction import HARM, check_columns, evidence, leave_one_out, spearman, telling
from .statistics import NULL, arms_at_own_best, at_own_best, hindsight, of_cells, standard_error, summary, verdict
from .words import FAMILIES, groups, percent, plus_minus, score

__all__ = ["DEFAULT", "KEY_METHODS", "PUBLISHED", "REFINED", "UNGUARDED", "headline"]

DEFAULT, REFINED, PUBLISHED = "default(linear)", "refined(linear)", "paper(linear)"
UNGUARDED = "unguarded(linear)"

KEY_METHODS = (DEFAULT, REFINED, PUBLISHED, UNGUARDED, "cosine", "wsd")
"""Drawn problem by problem."""

_SIGN = "\u00a0%"
_LEAST_PROBLEMS = 3


def headline(found: pd.DataFrame, logs: pd.DataFrame, differences: pd.DataFrame) -> list[doc.Block]:
    """A few sentences: does refinement beat linear decay, when not, what predicts it, what could be won."""
    parts: dict[str, list[str]] = {}
    arms = arms_at_own_best(differences)
    for (suite, family), own in groups(found):
        for kind, text in (
            ("default", _against(own, DEFAULT, NULL)),
            ("refined", _against(own, UNGUARDED)),
            ("milder", _against(own, REFINED)),
            ("published", _against(own, PUBLISHED)),
            *_checks(evidence(own, logs, UNGUARDED)),
            ("hindsight", _gain(hindsight(of_cells(differences, own), arms)["gain"])),
        ):
            if text:
                parts.setdefault(kind, []).append(f"{suite} {FAMILIES[family]} {text}")
    texts = tuple(f"{start}: {'; '.join(parts[kind])}." for kind, start in _STARTS.items() if kind in parts)
    return [doc.Items(texts)] if texts else []


_STARTS = {
    "default": f"{DEFAULT}, what refine fit recommended when these were run, was better / tied / worse than tuned "
    "linear decay in",
    "refined": f"{UNGUARDED}, the refined schedule with its dips not yet taken out, was better / tied / worse in",
    "milder": f"{REFINED}, weighted by the norms, linear decay where they fall a lot, was better / tied / worse in",
    "published": f"{PUBLISHED}, as published, was better / tied / worse in",
    "predictor": f"Rank correlation of rho of the log with what {UNGUARDED} loses to linear decay",
    "rule": "Refined beyond a threshold of rho, chosen on the other problems, did better than linear decay everywhere",
    "no rule": "No threshold of rho, chosen on the other problems, did better than linear decay everywhere",
    "told": f"Whether {UNGUARDED} loses more than {HARM:g}{_SIGN} to linear decay, by a threshold of rho chosen on the "
    "other problems",
    "hindsight": "The best of all swept methods, chosen in hindsight, would gain over linear decay",
}


def _against(found: pd.DataFrame, method: str, null: str = "") -> str:
    """Wins, ties, losses, median and worst; beside them those of a control."""
    own, control = (at_own_best(found[found["method"] == name]) for name in (method, null))
    if own.empty:
        return ""
    s = summary(own).iloc[0]
    noise = "" if control.empty else f"; linear decay tuned again on other seeds: {score(summary(control).iloc[0])}"
    return f"{score(s)} cells (median {percent(s['median'])}{_SIGN}, worst {percent(s['worst'])}{_SIGN}{noise})"


def _checks(frame: pd.DataFrame) -> list[tuple[str, str]]:
    """How well rho predicts the excess, which check does better, and what linear decay where rho says so would give."""
    every = {name: spearman(frame[name], frame["excess"]) for name in check_columns(frame)}
    known = {name: association for name, association in every.items() if association is not None}
    texts = []
    if "rho" in known:
        best = max(known, key=lambda name: abs(known[name].value))
        rho = known["rho"]
        other = f"; {best} {known[best].value:+.2f}" if abs(known[best].value) > abs(rho.value) else ""
        texts.append(("predictor", f"{rho.value:+.2f} (p {rho.p:.1g}{other})"))
    if "rho" in frame and frame["problem"].nunique() >= _LEAST_PROBLEMS:
        problems = list(frame["problem"])
        after, _ = leave_one_out(frame["rho"], frame["excess"], problems)
        texts.append(_rule(after, frame))
        if (told := telling(frame["rho"], frame["excess"], problems)) is not None:
            shown = f"told right {told.right} of {told.n} (balanced {100 * told.balanced:.0f}{_SIGN}"
            texts.append(("told", f"{shown}; always the same: 50{_SIGN})"))
    return texts


def _rule(after: NDArray[np.float64], frame: pd.DataFrame) -> tuple[str, str]:
    """What a rule gains over linear decay everywhere, if by more than two standard errors (over problems)."""
    each = pd.Series(after).groupby(frame["problem"].to_numpy()).mean().to_numpy(dtype=np.float64)
    mean, error, always = float(after.mean()), standard_error(each), frame["excess"]
    shown = (
        f"(mean {plus_minus(mean, error)}{_SIGN}, worst {percent(after.max())}{_SIGN}; "
        f"always refined {percent(always.mean())} and {percent(always.max())}{_SIGN})"
    )
    return "rule" if verdict(mean, error) == "win" else "no rule", shown


def _gain(gain: pd.Series[float]) -> str:
    if gain.empty:
        return ""
    return f"{percent(gain.median())}{_SIGN} in the median, {percent(gain.max())}{_SIGN} at most"

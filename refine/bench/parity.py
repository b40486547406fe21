"""The schedules of the paper's own runs (arXiv:2310.07831): what its figure says, and what refine computes.

Logs and figure: github.com/facebookresearch/adaptive_scheduling (CC BY-NC 4.0), drawn by its ``visual.py``.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from ..analysis import fit
from ..describe import decay_exponent, peak_fraction
from ..errors import RefineError
from ..families import polynomial
from ..files import printable
from ..norms import GradientNorms
from ..readers import read_norms
from ..refinement import EXPONENTS, OptimizerFamily
from ..text import aligned
from .reporting import document as doc

__all__ = ["PUBLISHED", "Published", "Reading", "Row", "parity", "parity_markdown", "parity_table"]

_SCRIPT_WINDOW = 1001


@dataclass(frozen=True, slots=True)
class Published:
    """A curve of the figure: straight warmup to ``warmup`` T, then ``((1 - x) / (1 - warmup))^exponent``."""

    problem: str
    warmup: float
    exponent: float
    optimizer: OptimizerFamily
    log: str | None = None
    remark: str = ""

    @property
    def name(self) -> str:
        """Problem and the power of the norm."""
        power = EXPONENTS[self.optimizer]
        return f"{self.problem}, N = G{'' if power == 1 else f'^{power}'}"


PUBLISHED = (
    Published(
        *("DLRM", 0.20, 0.9, "adam", "dlrm.csv"),
        "Not reproduced. The figure's script reads the folder norm_sequences_l1, and this file is from norm_sequences; "
        "for that one, an earlier version of the script has 0.08 and 1.4.",
    ),
    Published(
        *("GPT", 0.28, 1.0, "sgd", "gpt.csv"),
        "The figure's peak, but the figure's log was another, and Adam, which trained it, has N = G: it may be chance.",
    ),
    Published(
        *("GPT", 0.28, 1.0, "adam", "gpt.csv"),
        "Adam's exponent, on the l2 norm in place of l1: an earlier peak, a nearer anneal. An earlier version of the "
        "script, for this folder, has 0.24 and 1.2.",
    ),
    Published(
        *("RoBERTa", 0.45, 0.8, "adam", "roberta_l1.csv"),
        "The figure's own log, and its peak and anneal. Its straight warmup only marks the peak: the schedule starts "
        "higher and rises sooner.",
    ),
    Published("MRI", 0.40, 0.9, "adam"),
    Published(
        *("ImageNet", 0.01, 3.0, "sgd", "imagenet_gnorm.csv"),
        "The figure's own log. The window of the median decides where the schedule peaks, and so how steep its anneal "
        "looks; the figure's numbers lie between the two windows'. The median also flattens the ends: norms made to "
        "refine to the figure's curve come back with 2.82 for 3.",
    ),
    Published("RCNN", 0.0, 1.5, "sgd"),
)


@dataclass(frozen=True, slots=True)
class Reading:
    """Numbers of one schedule: where it peaks, p of the least squares of ``((1 - x) / (1 - warmup))^p`` from there on.

    ``curve_r2`` is 1 - sum (h - c)^2 / sum (h - mean h)^2 of the figure's curve c, ``log_fit`` what
    `refine.describe.decay_exponent` says, ``first`` the first multiplier.
    """

    mode: str
    warmup: float
    exponent: float
    curve_r2: float
    log_fit: tuple[float, float] | None
    first: float


@dataclass(frozen=True, slots=True)
class Row:
    """A published curve, and what was found in its log: nothing without it."""

    published: Published
    log: str
    readings: tuple[Reading, ...] = ()


def parity(logs: str | os.PathLike[str]) -> tuple[Row, ...]:
    """Compute the schedules of every published curve whose log is in the folder.

    Raises
    ------
    RefineError
        None of the logs is there, or one cannot be read.
    """
    folder = Path(logs)
    wanted = list(dict.fromkeys(p.log for p in PUBLISHED if p.log is not None))
    read = {name: read_norms(folder / name) for name in wanted if (folder / name).is_file()}
    if not read:
        raise RefineError(f"{printable(folder)} holds none of {', '.join(wanted)}; give the folder of the paper's logs")
    return tuple(_row(p, read[p.log]) if p.log in read else Row(p, f"no {p.log or 'log'} here.") for p in PUBLISHED)


def _row(published: Published, norms: GradientNorms) -> Row:
    every = int(np.median(np.diff(norms.steps)))
    spacing = "every update" if every == 1 else f"every {every} updates"
    kind = norms.kind + ("" if norms.source.kind_known else " (its column does not say)")
    log = f"{published.log}, {norms.steps.size:,} points, {spacing}, {kind}. {published.remark}"
    return Row(published, log, tuple(_readings(published, norms)))


def _readings(published: Published, norms: GradientNorms) -> Iterator[Reading]:
    steps, family = norms.total_steps, published.optimizer
    curve = polynomial(steps, warmup_steps=round(published.warmup * steps), power=published.exponent).multiplier
    window = min(0.1, _SCRIPT_WINDOW / norms.values.size)
    for mode, found in (
        ("published", fit(norms, optimizer=family, published=True)),
        ("published script", fit(norms, optimizer=family, published=True, smoothing=window)),
        ("refined", fit(norms, optimizer=family)),
    ):
        h = found.refined.multiplier
        yield Reading(
            mode,
            peak_fraction(h),
            _exponent(h),
            1.0 - float(np.sum((h - curve) ** 2) / np.sum((h - h.mean()) ** 2)),
            decay_exponent(h),
            float(h[0]),
        )


def _exponent(h: NDArray[np.float64]) -> float:
    peak = int(np.argmax(h))
    left = np.arange(h.size - peak, 0, -1) / (h.size - peak)
    fit = minimize_scalar(lambda p: float(np.sum((h[peak:] - left**p) ** 2)), bounds=(0.0, 20.0), method="bounded")
    return float(fit.x)


def parity_markdown(rows: tuple[Row, ...]) -> str:
    """Write the comparison of `parity` as a page of the docs."""
    return doc.to_markdown(_report(rows))


def parity_table(rows: tuple[Row, ...]) -> str:
    """Write the comparison of `parity` for a terminal."""
    return "\n\n".join(map(_text, _report(rows)))


def _text(block: doc.Heading | doc.Paragraph | doc.Items | doc.Table) -> str:
    match block:
        case doc.Table(caption, header, rows):
            return "\n".join([caption, *aligned([header, *([str(cell) for cell in row] for row in rows)])])
        case doc.Items(texts):
            return "\n".join(textwrap.fill(text, 110, initial_indent="- ", subsequent_indent="  ") for text in texts)
        case doc.Heading(_, text) | doc.Paragraph(text):
            return textwrap.fill(text, 110)


def _report(rows: tuple[Row, ...]) -> list[doc.Heading | doc.Paragraph | doc.Items | doc.Table]:
    header = ("curve", "schedule", "warmup", "difference", "exponent", "difference", "R^2 of the curve")
    return [
        doc.Heading(1, "The paper's schedules, recomputed"),
        doc.Paragraph("Made by: refine bench --suite paper --logs ../shared/logs -o docs/bench/parity.md"),
        doc.Paragraph(
            "The published values are those of visual.py in github.com/facebookresearch/adaptive_scheduling, which "
            "draws the figure of arXiv:2310.07831: curves set by hand, a straight warmup to the peak at w, then "
            "((1 - x) / (1 - w))^p. So the warmup is where a schedule peaks, and p is an exponent on linear axes; "
            "refine's is the least squares of the multipliers from their peak on. R^2 of the curve: how well the "
            "figure's curve fits refine's schedule. log-log: the exponent that refine describe prints, the slope of "
            "log h over log(1 - x), which the last updates decide."
        ),
        doc.Table(
            "The figure, and what refine computes from the logs",
            (*header, "log-log", "its R^2", "first multiplier"),
            tuple(line for row in rows for line in _lines(row)),
            names=2,
        ),
        doc.Items(tuple(f"{row.published.name}: {row.log}" for row in rows)),
        doc.Paragraph(
            "Published smooths over a tenth of the points, as the paper's algorithm does; its published script over "
            f"{_SCRIPT_WINDOW:,} of any log of more than 10,000, without its first and last two (kept here). Both "
            "repeat the first norm at the left edge, and so it decides the first multiplier. Refined "
            "reflects that edge too, has one rise and one fall, and starts below a straight warmup, here of 2 % of "
            "the updates: the logs hold no learning rates to tell the run's own."
        ),
    ]


def _lines(row: Row) -> Iterator[tuple[str, ...]]:
    p = row.published
    yield p.name, "figure", f"{p.warmup:.3f}", "", f"{p.exponent:.2f}", *[""] * 5
    for r in row.readings:
        yield (
            *(p.name, r.mode, f"{r.warmup:.3f}", _change(r.warmup - p.warmup, 3)),
            *(f"{r.exponent:.2f}", _change(r.exponent - p.exponent, 2), f"{r.curve_r2:.2f}"),
            *(("", "") if r.log_fit is None else (f"{r.log_fit[0]:.2f}", f"{r.log_fit[1]:.3f}")),
            f"{r.first:.2g}",
        )


def _change(value: float, digits: int) -> str:
    return f"{round(value, digits) + 0.0:+.{digits}f}"

"""Predictions side by side: the table of `refine predict`, and the words for it."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .files import printable
from .prediction import Difference, LossLaw, Prediction, ScheduleLike, calibration, fit_loss
from .prior import is_file
from .schedule import Schedule
from .text import aligned, paragraph, width

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["DEFAULT_NAMES", "LossTable", "Row", "law_to_dict", "law_to_frame", "law_words", "predict_named", "rows_of"]

DEFAULT_NAMES = ("linear", "cosine", "wsd:0.2", "wsd:0.4", "wsd:0.2,shape=sqrt")

_OTHERS = ("two", "general")
"""Laws whose answers are shown beside, on request."""

_LEAST_NAME = 22
"""Letters of a name that a table keeps on any terminal: those that tell linear decay over one horizon from another."""


@dataclass(frozen=True, slots=True)
class Row:
    """One prediction, and its difference from the reference, of the same horizon where that is linear decay."""

    prediction: Prediction
    difference: Difference
    reference: Prediction

    @property
    def is_reference(self) -> bool:
        """Whether others differ from it."""
        return self.prediction is self.reference


@dataclass(frozen=True, slots=True, eq=False)
class LossTable:
    """Predictions of one law, the lowest loss first.

    Attributes
    ----------
    law : LossLaw
    rows : tuple of Row
    reference : str
        What the differences are from.
    """

    law: LossLaw
    rows: tuple[Row, ...]
    reference: str

    def to_dicts(self) -> list[dict[str, Any]]:
        """The rows as JSON values."""
        return [
            {
                "name": row.prediction.name,
                "total_steps": row.prediction.total_steps,
                "peak_lr": row.prediction.peak_lr,
                "final_loss": row.prediction.final_loss,
                "low": row.prediction.low,
                "high": row.prediction.high,
                "difference_from_linear": row.difference.value,
                "difference_low": row.difference.low,
                "difference_high": row.difference.high,
                "verdict": row.difference.verdict,
            }
            for row in self.rows
        ]

    def to_frame(self) -> pd.DataFrame:
        """The rows as a table, by name."""
        import pandas as pd

        return pd.DataFrame(self.to_dicts()).set_index("name")

    def summary(self, *, verbose: bool = False) -> str:
        """What was read and fitted, the table, and what limits it."""
        lines = [*law_words(self.law, verbose=verbose), *aligned(self._cells()), *self._about()]
        return "\n".join([*lines, *(self._other_laws() if verbose else [])])

    def plot(self) -> Figure:
        """Logged losses, predicted curves with their bands, the rates below."""
        from .loss_figure import plot_predictions

        return plot_predictions(self)

    def _repr_html_(self) -> str:
        table = self.to_frame().to_html(float_format=lambda value: f"{value:.5g}", border=0)
        told = "<br>".join(html.escape(" ".join(line.split())) for line in (*law_words(self.law), *self._about()))
        return f"<div>{table}<p><small>{told}</small></p></div>"

    def _cells(self) -> list[tuple[str, ...]]:
        head = ("", "final loss", "+-", self._apart, "+-", "")
        cells: list[tuple[str, ...]] = [head]
        for row in self.rows:
            found, apart, same = row.prediction, row.difference, row.is_reference
            cells.append(
                (
                    found.name,
                    f"{found.final_loss:.4f}",
                    f"{found.bar:.4f}",
                    "" if same else f"{apart.value:+.4f}",
                    "" if same else f"{0.5 * (apart.high - apart.low):.4f}",
                    "" if same else apart.verdict,
                )
            )
        if self._several:
            updates = ("updates", *(f"{row.prediction.total_steps:,}" for row in self.rows))
            cells = [(name, at, *rest) for (name, *rest), at in zip(cells, updates, strict=True)]
        return _named(cells)

    @property
    def _several(self) -> bool:
        """Whether every horizon has a reference of its own."""
        return len({row.reference.total_steps for row in self.rows}) > 1

    @property
    def _apart(self) -> str:
        return "from linear" if self.reference == "linear" else "difference"

    def _about(self) -> list[str]:
        known = calibration()
        said: dict[str, list[str]] = {}
        for row in self.rows:
            for limit in row.prediction.limits:
                said.setdefault(limit, []).append(printable(row.prediction.name, limit=40))
        told = [
            (
                "bars",
                f"90 %, calibrated on {known.cases:,} predictions of runs that were made, of {known.groups} models; on "
                f"each of them the bars that the others give cover {known.coverage:.0%}. better, worse: beyond two "
                "standard errors",
            )
        ]
        if self._several:
            told.append(("linear", "each difference is from linear decay over the same number of updates"))
        elif self._apart == "difference":
            told.append(("from", f"differences are from {printable(self.reference, limit=60)}"))
        before = len(told)
        for limit, names in said.items():
            whose = "" if len(names) == len(self.rows) else f"{', '.join(names)}: "
            told.append(("limits" if len(told) == before else "", whose + limit))
        return [line for title, text in told for line in paragraph(title, text, hanging=0)]

    def _other_laws(self) -> list[str]:
        """The same schedules by other laws: their spread says how much hangs on the form."""
        heads, columns = [], []
        for name in (n for n in _OTHERS if n != self.law.fit.law.name):
            law = fit_loss(self.law.runs, law=name)
            heads.append(name)
            columns.append([law.final_loss(row.prediction.rates) for row in self.rows])
        cells = [("by law", self.law.fit.law.name, *heads)]
        for number, row in enumerate(self.rows):
            values = (row.prediction.final_loss, *(column[number] for column in columns))
            cells.append((row.prediction.name, *(f"{value:.4f}" for value in values)))
        return ["", *aligned(_named(cells))]


def predict_named(
    law: LossLaw,
    schedules: Iterable[ScheduleLike] | Mapping[str, ScheduleLike] = DEFAULT_NAMES,
    *,
    total_steps: int | None = None,
    peak_lr: float | None = None,
) -> LossTable:
    """Predict several schedules, and linear decay of each of their horizons, which is always among them.

    Parameters
    ----------
    law : LossLaw
    schedules : names, or mapping of name to Schedule or name
        Files and families as in `LossLaw.predict`.
    total_steps, peak_lr : optional
        By default those of the longest run. Files and Schedules have a length of their own, and where all have the same
        so do the families beside them.
    """
    named = dict(schedules) if isinstance(schedules, Mapping) else {str(name): name for name in schedules}
    for name, each in named.items():
        if isinstance(each, str) and is_file(each):
            named[name] = law.schedule(each)
    own = {len(each) for each in named.values() if isinstance(each, Schedule)}
    if total_steps is None and len(own) == 1:
        (total_steps,) = own
    found = [law.predict(each, total_steps=total_steps, peak_lr=peak_lr, name=name) for name, each in named.items()]
    linear = {prediction.total_steps: prediction for prediction in found if prediction.name == "linear"}
    horizons = {prediction.total_steps for prediction in found}
    for steps in sorted(horizons - linear.keys()):
        name = "linear" if len(horizons) == 1 else f"linear, {steps:,} updates"
        linear[steps] = law.predict("linear", total_steps=steps, peak_lr=peak_lr, name=name)
        found.append(linear[steps])
    return _sorted(law, [(prediction, linear[prediction.total_steps]) for prediction in found], "linear")


def rows_of(law: LossLaw, predictions: Sequence[Prediction], reference: Prediction) -> LossTable:
    """Predictions as a table, the lowest first, with their differences from one of them."""
    return _sorted(law, [(prediction, reference) for prediction in predictions], reference.name)


def _sorted(law: LossLaw, pairs: Iterable[tuple[Prediction, Prediction]], reference: str) -> LossTable:
    rows = [Row(prediction, law.difference(prediction, other), other) for prediction, other in pairs]
    return LossTable(law, tuple(sorted(rows, key=lambda row: row.prediction.final_loss)), reference)


def _named(cells: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """The first cells cut to what the others leave of a line."""
    others = aligned([("", *rest) for _, *rest in cells])
    room = max(width() - max(map(len, others)), _LEAST_NAME)
    return [(printable(name, limit=room), *rest) for name, *rest in cells]


def law_words(law: LossLaw, *, verbose: bool = False) -> list[str]:
    """What was read, and how well the law fits it."""
    told = []
    for run, points in zip(law.runs, law.fit.curves, strict=True):
        used = f"{run.sort} loss, column {printable(run.column, limit=40)}"
        count = points.count
        binned = f"{count:,} points" if count == points.at.size else f"{count:,} points, in {points.at.size} means,"
        told.append(
            (
                "log",
                f"{printable(run.name)}: {used}; {binned} from update {int(points.at[0]):,} to {int(run.steps[-1]):,} "
                f"of {run.total_steps:,}, peak rate {run.peak_lr:.4g}"
                + (f", warmup {run.warmup_steps:,}" if run.warmup_steps else ""),
            )
        )
    level = float(np.mean([run.losses[-1] for run in law.runs]))
    told.append(
        ("law", f"{law.fit.law.name}: {law.formula}; it fits its own run to {law.rms:.2%} (rms, {law.rms * level:.4f})")
    )
    if verbose:
        fitted = law.fit.exponents
        priors = (f"{e.name} {fitted[e.name]:.4g} (prior {e.median:g})" for e in law.fit.law.exponents)
        told += [("f", law.fit.law.formula), ("source", law.fit.law.source), ("exponents", ", ".join(priors))]
    notes = dict.fromkeys(note for run in law.runs for note in run.notes)
    if law.longest.noise is not None:
        notes["the batch size changes: the next run is taken to change it at the same shares of its updates"] = None
    told += [("note", note) for note in notes if verbose or not note.startswith("the losses are of column")]
    return [line for title, text in told for line in paragraph(title, text, hanging=0)]


def law_to_dict(law: LossLaw) -> dict[str, Any]:
    """The fitted law as JSON values."""
    known = calibration()
    return {
        "name": law.fit.law.name,
        "formula": law.formula,
        "coefficients": dict(zip(("L0", "A", "B"), law.fit.coefficients.tolist(), strict=True)),
        "exponents": law.fit.exponents,
        "reference_lr": law.fit.reference,
        "reference_steps": law.fit.longest,
        "rms": law.rms,
        "points": sum(points.count for points in law.fit.curves),
        "means": sum(points.at.size for points in law.fit.curves),
        "files": [run.name for run in law.runs],
        "column": law.runs[0].column,
        "sort": law.runs[0].sort,
        "logged_steps": law.logged_steps,
        "limits": list(law.limits),
        "notes": list(dict.fromkeys(note for run in law.runs for note in run.notes)),
        "calibrated_on": {"groups": known.groups, "cases": known.cases, "coverage": known.coverage},
    }


def law_to_frame(law: LossLaw) -> pd.DataFrame:
    """The points that a law was fitted to: run, step, loss, fitted, sigma (of the loss)."""
    import pandas as pd

    parts = [
        pd.DataFrame(
            {
                "run": run.name,
                "step": points.at,
                "loss": points.losses,
                "fitted": law.fit.losses(view),
                "sigma": points.sigma * points.losses,
            }
        )
        for run, points, view in zip(law.runs, law.fit.curves, law.fit.views, strict=True)
    ]
    return pd.concat(parts, ignore_index=True)

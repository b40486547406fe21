"""Schedules side by side: the best bound, the guarantee and the best peak learning rate of each."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .analysis import COMPARE_STEPS, fit
from .bound import omega_at_best_peak, omega_curve, optimal_rates, thinned
from .describe import warmup_fraction
from .diagnostics import near_separable
from .errors import RefineError
from .families import FAMILIES, from_name
from .families.names import with_run_warmup
from .files import printable
from .foretold import foretell
from .norms import GradientNorms
from .prior import is_file, named_schedule
from .refinement import EXPONENTS, OptimizerFamily, inverse_squared_norms
from .schedule import Schedule
from .text import aligned, paragraph
from .tight import tight_at_best_peak

__all__ = ["CAVEAT", "DEFAULT_NAMES", "Compared", "Comparison", "compare", "compare_named"]

DEFAULT_NAMES = ("linear", "cosine", "wsd:0.2", "wsd:0.2,shape=sqrt", "constant")

CAVEAT = (
    "a bound of convex theory: over 7 to 9 schedules of a real 124M-parameter language model, each at its best peak, "
    "its rank correlation with the final loss was 0.63 to 0.93; differences under 1 % say nothing"
)

LOSS = "predicted at the logged peak, with half of the 90 % interval (refine predict)"

_CURVE_STEPS = 10_000
_CURVE_POINTS = 400


@dataclass(frozen=True, slots=True)
class Compared:
    """One schedule among others, at its own best peak learning rate.

    Attributes
    ----------
    name : str
    relative_bound : float
        `refine.bound` over that of the best schedule compared, on the smoothed norms; the best has 1.
    tight_bound : float
        `refine.tight` for the initial distance 1, on the raw norms: the guarantee.
    peak_lr_ratio : float or None
        Best peak learning rate, by the bound on the raw norms, over that of the reference; None for a log on whose
        norms every such rule fails.
    warmup_fraction, area, final_factor : float
        Share of the updates before 90 % of the peak is reached, mean multiplier, last multiplier.
    predicted_loss, predicted_low, predicted_high : float or None
        Final loss at the logged peak by `refine.fit_loss`, with its 90 % interval; None where the log has no losses.
    """

    name: str
    relative_bound: float
    tight_bound: float
    peak_lr_ratio: float | None
    warmup_fraction: float
    area: float
    final_factor: float
    predicted_loss: float | None = None
    predicted_low: float | None = None
    predicted_high: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """Schedules compared on the same norms, the best bound first.

    Attributes
    ----------
    rows : tuple of Compared
    schedules : mapping of str to Schedule
    reference : str
        The schedule to whose best peak learning rate the others' are compared.
    least : float
        Least bound that any schedule has, over that of the best one compared.
    squared_norms : ndarray, shape (T,), or None
        Smoothed N_t on the updates; None for constant norms.
    basis : str
        What the norms are.
    notes : tuple of str
        What else to know.
    """

    rows: tuple[Compared, ...]
    schedules: Mapping[str, Schedule]
    reference: str
    least: float
    squared_norms: NDArray[np.float64] | None
    basis: str
    notes: tuple[str, ...] = ()

    def to_dicts(self) -> list[dict[str, Any]]:
        """Return the rows as JSON values."""
        return [asdict(row) for row in self.rows]

    def to_csv(self) -> str:
        """Return the rows as CSV with a header."""
        stream = io.StringIO()
        writer = csv.DictWriter(stream, [field.name for field in fields(Compared)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.to_dicts())
        return stream.getvalue()

    def summary(self) -> str:
        """The table as text, with what it was computed on and what it is worth."""
        head = ("", "bound", "guarantee", "best peak LR", "90 % at", "area", "last")
        losses = any(row.predicted_loss is not None for row in self.rows)
        table = [(*head, "loss") if losses else head] + [
            (
                printable(row.name, limit=60),
                f"{row.relative_bound:.4f}",
                f"{row.tight_bound:.4g}",
                "unknown" if row.peak_lr_ratio is None else f"x {row.peak_lr_ratio:.3f}",
                f"{row.warmup_fraction:.1%}",
                f"{row.area:.3f}",
                f"{row.final_factor:.2g}",
                *([_loss(row)] if losses else []),
            )
            for row in self.rows
        ]
        best, *others = self.rows
        less = ", ".join(
            f"{1.0 - 1.0 / row.relative_bound:.1%} less than {printable(row.name, limit=40)}" for row in others[:3]
        )
        about = (
            ("best", f"{printable(best.name, limit=60)}: its bound is {less}" if less else "nothing to compare with"),
            ("norms", self.basis),
            ("bound", f"over the best of these; the least of any schedule has {self.least:.4f}"),
            ("guarantee", "f(x_T) - f* at most this for the initial distance 1, on the raw norms"),
            ("peak LR", f"over that of {printable(self.reference, limit=60)}, by the bound on the raw norms"),
            *([("loss", LOSS)] if losses else []),
            ("caveat", CAVEAT),
            *(("note", note) for note in self.notes),
        )
        told = (line for title, text in about for line in paragraph(title, text, hanging=0))
        return "\n".join([*aligned(table), *told])

    def curve(self, name: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Updates, and the bound after so many of them, over the best one at the end.

        Each schedule runs at the peak that is best for the whole run. 400 points, half of them evenly and half of
        them log-spaced; runs of more than 10,000 updates are taken at that many.
        """
        multiplier = self.schedules[name].multiplier
        chosen = thinned(multiplier.size, _CURVE_STEPS)
        h, n = multiplier[chosen], np.ones(chosen.size) if self.squared_norms is None else self.squared_norms[chosen]
        half = _CURVE_POINTS // 2
        points = np.union1d(np.linspace(1, h.size, half), np.geomspace(1, h.size, half)).astype(np.int64)
        updates = np.unique(points)
        at_best = omega_at_best_peak(h, n)
        (relative,) = (row.relative_bound for row in self.rows if row.name == name)
        values = omega_curve(at_best.peak_lr * h, n, updates) * (relative / at_best.value)
        return updates * multiplier.size // h.size, values


def _loss(row: Compared) -> str:
    if row.predicted_loss is None or row.predicted_high is None:
        return "unknown"
    return f"{row.predicted_loss:.4g} +- {row.predicted_high - row.predicted_loss:.2g}"


def compare(
    schedules: Mapping[str, Schedule],
    norms: GradientNorms | None = None,
    *,
    optimizer: OptimizerFamily = "adam",
    smoothing: float = 0.1,
    reference: str | None = None,
    suggest_peak: bool = True,
) -> Comparison:
    """Compare schedules of one length by the bound on the last iterate, each at its own best peak.

    Parameters
    ----------
    schedules : mapping of str to Schedule
        All of the same number of updates.
    norms : GradientNorms, optional
        A log; without one the norms are taken to be constant. An assumed shape (1/t, following the rate ...) is
        refused: such shapes ranked real runs the wrong way round.
    optimizer : {"sgd", "adam"}
        Family of the logged optimizer.
    smoothing : float
        Window of the running median, as a fraction of the updates.
    reference : str, optional
        Whose best peak the ``peak_lr_ratio`` refers to; by default the first schedule's.
    suggest_peak : bool
        False where the norms are of a kind on which every rule for the peak fails.

    Returns
    -------
    Comparison

    Notes
    -----
    Runs of more than 100,000 updates are compared on so many of them; the guarantee is exact up to there.

    Examples
    --------
    >>> from refine import constant, linear
    >>> found = compare({"flat": constant(1000), "linear": linear(1000)})
    >>> [(row.name, round(row.relative_bound, 2), round(row.peak_lr_ratio, 2)) for row in found.rows]
    [('linear', 1.0, 2.89), ('flat', 1.44, 1.0)]
    """
    if norms is not None and not isinstance(norms, GradientNorms):
        raise RefineError(
            f"norms is a {type(norms).__name__}; only those of a log (GradientNorms) or None, constant norms, are "
            "compared on: assumed shapes ranked real runs the wrong way round"
        )
    if not schedules:
        raise RefineError("there is no schedule to compare; name one at least")
    lengths = {name: schedule.total_steps for name, schedule in schedules.items()}
    steps = next(iter(lengths.values()))
    for name, length in lengths.items():
        if length != steps:
            raise RefineError(
                f"{printable(name)} has {length} updates and {printable(next(iter(lengths)))} {steps}; schedules of "
                "one length are compared: retarget one of them (refine retarget)"
            )
    reference = next(iter(schedules)) if reference is None else reference
    smoothed, raw, unit = _squared(norms, steps, optimizer, smoothing)
    chosen = thinned(steps, COMPARE_STEPS)
    bounds = {k: omega_at_best_peak(s.multiplier[chosen], smoothed[chosen]).value for k, s in schedules.items()}
    peaks = {k: omega_at_best_peak(s.multiplier[chosen], raw[chosen]).peak_lr for k, s in schedules.items()}
    best = min(bounds.values())
    least = optimal_rates(np.append(smoothed[chosen], smoothed[chosen[-1]]))[1]
    rows = [
        Compared(
            name=name,
            relative_bound=bounds[name] / best,
            tight_bound=unit * tight_at_best_peak(schedule.multiplier, raw).value,
            peak_lr_ratio=peaks[name] / peaks[reference] if suggest_peak else None,
            warmup_fraction=warmup_fraction(schedule.multiplier),
            area=float(schedule.multiplier.mean()),
            final_factor=float(schedule.multiplier[-1]),
        )
        for name, schedule in schedules.items()
    ]
    if norms is not None:
        losses = foretell(norms, {name: (schedule, None) for name, schedule in schedules.items()})
        told = {name: (found.final_loss, found.low, found.high) for name, found in losses.items()}
        rows = [Compared(*astuple(row)[:7], *told.get(row.name, ())) for row in rows]
    return Comparison(
        rows=tuple(sorted(rows, key=lambda row: row.relative_bound)),
        schedules=dict(schedules),
        reference=reference,
        least=least / best,
        squared_norms=None if norms is None else smoothed,
        basis="constant"
        if norms is None
        else f"{printable(norms.source.name)}, optimizer {optimizer}, {norms.kind} norm",
    )


def compare_named(
    names: Sequence[str],
    norms: GradientNorms | None = None,
    *,
    optimizer: OptimizerFamily | None = None,
    smoothing: float = 0.1,
    prior_schedule: Schedule | str | None = None,
    total_steps: int | None = None,
) -> Comparison:
    """`compare` schedule files and families; with a log, also its refined schedule and the one it was logged under.

    Parameters
    ----------
    names : sequence of str
        Files and families (`refine.from_name`); a family without a warmup of its own gets that of the logged run.
        None at all: `DEFAULT_NAMES`.
    norms, optimizer, smoothing
        As in `compare`; the optimizer is by default what the log names, else "adam".
    prior_schedule : Schedule or str, optional
        The logged run's schedule, where the log holds no learning rates.
    total_steps : int, optional
        By default that of the first file, else of the logged run.
    """
    files = {name: named_schedule(name, total_steps) for name in names if is_file(name)}
    steps = total_steps or next((s.total_steps for s in files.values()), None) or (norms and norms.total_steps)
    if norms is not None:
        names = [name for name in names if name not in ("refined", "recommended")]  # are rows already
    for name in names:
        if name not in files and name.partition(":")[0] not in FAMILIES:
            from_name(name, 1)  # says which names there are
    if not steps:
        raise RefineError("families have no length of their own; give the number of updates with --total-steps")
    schedules: dict[str, Schedule] = {}
    warmup = 0
    family: OptimizerFamily = optimizer or "adam"
    notes: list[str] = []
    separable = False
    if norms is not None:
        notes += norms.source.notes
        result = fit(norms, optimizer=optimizer, smoothing=smoothing, total_steps=steps, prior_schedule=prior_schedule)
        family, warmup = result.optimizer, result.warmup_steps
        if result.prior.multiplier is not None:
            schedules["logged run"] = Schedule(result.prior.multiplier).resample(steps)
        if result.computed:
            schedules["refined"] = result.refined
        if result.shape != "linear" or "linear" not in (names or DEFAULT_NAMES):
            schedules[f"recommended ({result.shape})"] = result.recommended
        separable = near_separable(result.checks)
        if separable:
            notes.append("near-separable: on such logs every rule for the peak learning rate failed, so none is shown")
        if result.optimizer_source == "assumed":
            notes.append("optimizer adam is assumed: give --optimizer")
    for name in names or DEFAULT_NAMES:
        known = files.get(name)
        schedules[name] = known or from_name(with_run_warmup(name, warmup), steps)
    if warmup:
        notes.append(f"families without a warmup of their own have that of the logged run, {warmup:,} updates")
    found = compare(schedules, norms, optimizer=family, smoothing=smoothing, suggest_peak=not separable)
    return replace(found, notes=tuple(notes))


def _squared(
    norms: GradientNorms | None, steps: int, optimizer: OptimizerFamily, smoothing: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Smoothed and raw N_t on the updates, each over its least, and the square root of the least raw one."""
    if norms is None:
        return np.ones(steps), np.ones(steps), 1.0
    columns = (norms.smoothed(smoothing), norms.values)
    smoothed, raw = (norms.on_updates(column, steps) for column in columns)
    unit = float(raw.min()) ** (EXPONENTS[optimizer] / 2)
    smoothed, raw = (1.0 / inverse_squared_norms(column, optimizer=optimizer) for column in (smoothed, raw))
    return smoothed, raw, unit

"""What is what in a log whose losses are read: from `Records` to `LossCurve`.

As in `choose`: the run; the loss, by name (`loss_columns`); the steps; then the learning rates, wherever in the log or
beside it they stand. What is ambiguous is refused with the candidates named; what is assumed goes into the notes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import RefineError
from ..files import printable
from ..hygiene import last_of_each_step, stride
from ..loss_curve import LossCurve, Sort, sound_losses
from ..prior import check_peak, given_multipliers, used_rates
from ..rates import every_rate
from ..schedule import MAX_STEPS, Schedule, check_count
from .base import Column, Facts, LossOptions, Records, SeveralRuns, quoted
from .choose import Axis, agree, axis_of, batch_sizes, by_name, counts_from_zero, one_run, rate_of, scaled, with_role
from .columns import run_in_name, short_name
from .loss_columns import is_accuracy, is_epoch, loss_name
from .runs import facts_of
from .settings import schedule_settings

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Given", "choose_losses", "of_frame", "read_curves"]

ENOUGH = 12
"""Points that a curve of held-out losses must have to be preferred to that of training."""

_STEADY, _LEAST_STEADY = -0.1, 200
"""Neighbouring differences of a loss of single batches have a correlation near -1/2, those of a running average near 0;
seen in so many."""


@dataclass(frozen=True, slots=True)
class Given:
    """What the caller says of the learning rates of a run."""

    prior_schedule: Schedule | str | None = None
    peak_lr: float | None = None


def choose_losses(
    records: Records, options: LossOptions, given: Given, *, name: str, companions: Mapping[str, Records]
) -> LossCurve:
    """Losses and learning rates of the one run that is meant; ``companions`` hold rates that it lacks, by name."""
    check_peak(given.peak_lr)
    records = one_run(records, options, _candidates(records, options))
    names = [column.name for column in records.columns]
    guessed = records.facts == Facts()
    if guessed:
        records = replace(records, facts=facts_of(short_name(each) for each in (*records.names, *names)))
    loss, sort, notes = _loss(records, options)
    axis, how = axis_of(records, options, loss, "loss")
    rate, problems = rate_of(records, options, loss)
    if guessed and axis.name is not None:
        axis = replace(axis, shift=float(counts_from_zero(axis, loss, rate)))
    steps, values = axis.of(loss), loss.values
    notes = [*records.notes, *notes, *how]
    what = loss_name(loss.name)
    if what is not None and what.perplexity:
        with np.errstate(divide="ignore", invalid="ignore"):
            values = np.where(values > 0.0, np.log(values), values)
        notes.append(f'"{printable(loss.name)}" is a perplexity: the losses are its logarithms')
    kept, losses, lost, left = sound_losses(steps, values, f'column "{printable(loss.name)}"')
    if not kept.size:
        raise RefineError(
            f'column "{printable(loss.name)}" holds no finite loss with a step; choose another with --loss-column'
        )
    rows = _rates(records, options, axis, rate)
    for other, its in companions.items():
        if rows is None:
            rows = _of_companion(its, options, run_in_name(loss.name), loss)
            if rows is not None:
                notes.append(f"the learning rates are from {printable(other)}")
    labels, rated = rows if rows is not None else (np.zeros(0, dtype=np.int64), np.zeros(0))
    from_zero = bool(labels.size and labels[0] == 0)
    at, rated = used_rates(labels if from_zero else labels - 1, rated, records.facts.lr_alignment)
    last = np.diff(at, append=np.iinfo(np.int64).max) > 0  # of steps that are fractions several fall on one update
    at, rated = at[last], rated[last]
    total = _total(records, options, given, int(kept[-1]), int(labels[-1]) + from_zero if labels.size else 0, kept)
    every, known_from, assumed = _every(at, rated, total, records, options, given, problems)
    mean = sort == "training" and (records.facts.mean_loss or records.facts.window_mean)
    window = stride(kept) if mean and kept.size > 1 else 1
    notes += [*left, *assumed]
    if sort == "training" and window == 1 and _is_smooth(kept, losses):
        notes.append("the losses hardly scatter from step to step, as a running average does, which lags behind")
    return LossCurve(
        kept,
        losses,
        every,
        sort,
        name,
        loss.name,
        _noise(records, axis, total, from_zero),
        window,
        tuple(notes),
        known_from,
        lost,
        _epochs(records),
    )


def _candidates(records: Records, options: LossOptions) -> list[Column]:
    """All columns that may be the loss."""
    if options.loss_column is not None:
        return [column for column in records.columns if column.name == options.loss_column]
    return [column for column in records.columns if loss_name(column.name) is not None]


def holds_losses(records: Records, options: LossOptions) -> bool:
    """Whether a log holds losses, or only what goes with them."""
    return any(np.isfinite(column.values).any() for column in _candidates(records, options))


def _loss(records: Records, options: LossOptions) -> tuple[Column, Sort, list[str]]:
    """The column of the losses: the one that is named, else held-out losses, else those of training."""
    if options.loss_column is not None:
        loss = by_name(records, options.loss_column, "--loss-column")
        what = loss_name(loss.name)
        if is_accuracy(loss.name):
            raise RefineError(
                f'column "{printable(loss.name)}" holds accuracies, by its name; choose a loss with --loss-column'
            )
        if what is not None and what.average:
            raise RefineError(_lags([loss.name]))
        _check_cells(loss)
        return loss, what.sort if what else "training", []
    if not records.header:
        raise RefineError(
            f"the file has no header and {len(records.names)} columns; say which hold the loss, the step and the "
            "learning rate with --loss-column, --step-column and --lr-column (numbers from 1)"
        )
    known = [(column, what) for column in _candidates(records, options) if (what := loss_name(column.name))]
    found = [(column, what, _points(column)) for column, what in known if not what.average and _points(column)]
    notes = []
    held_out = [each for each in found if each[1].sort == "validation"]
    training = [each for each in found if each[1].sort == "training"]
    most = max((points for *_, points in held_out), default=0)
    if held_out and training and most < ENOUGH:
        notes.append(
            f'"{printable(held_out[0][0].name)}" has only {most} points, fewer than {ENOUGH}: the training loss is read'
        )
        held_out = []
    chosen = held_out or training
    if not chosen:
        averages = [column.name for column, what in known if what.average and _points(column)]
        if averages:
            raise RefineError(_lags(averages))
        listed = quoted(records.names or [column.name for column in records.columns])
        raise RefineError(
            f"no column is known to be a loss; columns: {listed or 'none'}; choose one with --loss-column"
        )
    most = max(points for *_, points in chosen)
    chosen = [each for each in chosen if each[2] >= min(ENOUGH, most)]
    chosen = [each for each in chosen if not each[1].perplexity] or chosen
    columns = [column for column, *_ in chosen]
    for column in columns:
        _check_cells(column)
    sort = chosen[0][1].sort
    if len(columns) > 1 and not all(agree(columns[0], other) for other in columns[1:]):
        called = "loss of held-out data" if sort == "validation" else "training loss"
        raise RefineError(
            f"{len(columns)} columns may be the {called}: {quoted(column.name for column in columns)}; "
            "choose one with --loss-column"
        )
    notes.append(f'the losses are of column "{printable(columns[0].name)}"')
    return columns[0], sort, notes


def _points(column: Column) -> int:
    return int(np.count_nonzero(np.isfinite(column.values)))


def _lags(names: Sequence[str]) -> str:
    return (
        f"{quoted(names)} {'is a running average' if len(names) == 1 else 'are running averages'} by name, which lags "
        "behind the loss; log the loss itself, or choose another column with --loss-column"
    )


def _check_cells(column: Column) -> None:
    if column.bad is not None:
        row, text = column.bad
        raise RefineError(
            f'column "{printable(column.name)}" holds "{printable(text, limit=40)}" in row {row} '
            "below the first line; losses are numbers: repair the row, or choose another column with --loss-column"
        )


def _rates(
    records: Records, options: LossOptions, axis: Axis, rate: Column | None
) -> tuple[NDArray[np.int64], NDArray[np.float64]] | None:
    """Labels and rates of all rows that hold one, by themselves; None where there are none above 0."""
    if rate is None or not np.isfinite(rate.values).any():
        return None
    labels, rates = last_of_each_step(axis.of(rate), scaled(rate))
    if not labels.size and rate.values.size:  # the step of these rows is in another column
        own, _ = axis_of(records, replace(options, step_column=None), rate, "learning rate")
        labels, rates = last_of_each_step(own.of(rate), scaled(rate))
    return (labels, rates) if np.any(rates > 0.0) else None


def _of_companion(
    other: Records, options: LossOptions, run: str | None, loss: Column
) -> tuple[NDArray[np.int64], NDArray[np.float64]] | None:
    """Learning rates in another log of the same run."""
    if run is not None or other.runs is not None:
        runs = {run_in_name(column.name) for column in other.columns} - {None}
        if run is not None and runs and run not in runs:
            raise RefineError(
                f'the losses are those of run "{printable(run)}", and the learning rates of '
                f"{quoted(sorted(filter(None, runs)))}: export both of one run"
            )
        other = one_run(other, replace(options, run=options.run or run), with_role("lr", other))
    rate, _ = rate_of(other, options if options.lr_column in other.names else replace(options, lr_column=None), loss)
    if rate is None or not np.isfinite(rate.values).any():
        return None
    axis, _ = axis_of(other, replace(options, step_column=None, every=None), rate, "learning rate")
    return _rates(other, options, axis, rate)


def _total(records: Records, options: LossOptions, given: Given, last: int, rated: int, kept: NDArray[np.int64]) -> int:
    """Updates of the run: what the caller says, the plan where the log ends with it, else where the log ends."""
    if options.logged_steps is not None:
        return check_count("logged_steps", options.logged_steps, least=max(last, 1))
    if rated > MAX_STEPS:
        raise RefineError(
            f"a learning rate is logged at step {rated}; steps count optimizer updates, and {MAX_STEPS} are the limit: "
            "choose another with --step-column"
        )
    end, plan = max(last, rated, 1), records.planned_steps
    near = plan is not None and end <= plan <= end + (stride(kept) if kept.size > 1 else 0)
    return plan if plan is not None and (near or (given.prior_schedule is not None and plan >= end)) else end


def _every(
    at: NDArray[np.int64],
    rates: NDArray[np.float64],
    total: int,
    records: Records,
    options: LossOptions,
    given: Given,
    problems: Sequence[str],
) -> tuple[NDArray[np.float64], int, tuple[str, ...]]:
    """Rates (T,); the first update of which one is logged; what was assumed."""
    set_peak, set_warmup = schedule_settings(records.settings, total)
    peak = float(rates.max(initial=0.0))
    if given.prior_schedule is not None:
        origin, multiplier = given_multipliers(given.prior_schedule, total)
        known = given.peak_lr or peak or set_peak
        if not known:
            raise RefineError("the peak learning rate is unknown; give it with --peak-lr")
        return multiplier * known, 0, (f"the learning rates are those of {printable(origin)}, with peak {known:g}",)
    if not peak:
        remedy = "say what the run used with --prior-schedule and --peak-lr, or choose a column with --lr-column"
        told = f" ({'; '.join(problems)})" if problems else ""
        listed = quoted(records.names or [column.name for column in records.columns])
        raise RefineError(f"the log holds no learning rates{told}; columns: {listed}; {remedy}")
    every, notes = every_rate(at, rates, total, set_warmup)
    if given.peak_lr is not None:
        peak = float(every.max())  # it may lie between two rows
        every = every * (given.peak_lr / peak)
        notes += (f"the peak learning rate is {given.peak_lr:g}, as given; the log says {peak:g}",)
    return every, min(int(at[0]), total - 1), notes


def _epochs(records: Records) -> float | None:
    """Times that the data was seen, by the last epoch: a share of them, or their number from 0 or 1."""
    for column in records.columns:
        if is_epoch(column.name) and (known := column.values[np.isfinite(column.values)]).size:
            whole = bool(np.all(known == np.round(known)))
            return float(known.max()) + float(whole and known.min() == 0.0)
    return None


def _is_smooth(steps: NDArray[np.int64], losses: NDArray[np.float64]) -> bool:
    """Whether neighbouring losses of single updates differ less than batches do: a running average, perhaps."""
    half = losses[losses.size // 2 :]
    if half.size < _LEAST_STEADY or stride(steps) > 1:
        return False
    change = np.diff(half)
    change = np.clip(change, *np.quantile(change, [0.01, 0.99]))
    change -= change.mean()
    power = float(change @ change)
    return power > 0.0 and float(change[1:] @ change[:-1]) > _STEADY * power


def _noise(records: Records, axis: Axis, total: int, from_zero: bool) -> NDArray[np.float64] | None:
    """Noise of each update's gradient by its batch size, (T,), 1 at the largest; None where that is constant."""
    found = batch_sizes(records, axis, total, from_zero)
    return None if found is None else np.asarray(found[1].max() / found[1])


def split(read: Mapping[str, Any], what: str) -> tuple[LossOptions, Given]:
    """What the caller says of the log, and of its rates."""
    known = {field.name for field in fields(LossOptions)} - {"column", "norm_kind", "optimizer", "extras"}
    if unknown := sorted(read.keys() - known - {"prior_schedule", "peak_lr"}):
        raise RefineError(f"{unknown[0]} is no parameter of {what}; help(refine.read_losses) lists them")
    rates = {name: read[name] for name in ("prior_schedule", "peak_lr") if name in read}
    return LossOptions(**{name: value for name, value in read.items() if name in known}), Given(**rates)


def read_curves(paths: Sequence[str], **read: Any) -> dict[str | int, list[LossCurve]]:
    """Curves of each of several logs by its path, each once; those that hold rates alone go to the one with losses."""
    from . import curve_of, distinct, read_records

    options, given = split(read, "as_curves")
    distinctly, _ = distinct(paths)
    logs: list[tuple[str, list[tuple[LossOptions, Records]]]] = []
    for path in distinctly:
        try:
            logs.append((path, [(options, read_records(path, options))]))
        except SeveralRuns as runs:
            each = [replace(options, run=run) for run in runs.runs]
            logs.append((path, [(its, read_records(path, its)) for its in each]))
    holding = [log for log in logs if any(holds_losses(records, its) for its, records in log[1])]
    others = {path: its[0][1] for path, its in logs if (path, its) not in holding} if holding else {}
    if others and len(holding) > 1:
        raise RefineError(
            f"{printable(next(iter(others)))}: no loss, while {len(holding)} other logs hold losses; give each with "
            "its learning rates by refine.read_losses"
        )
    found: dict[str | int, list[LossCurve]] = {}
    for path, its in holding or logs:
        found[path] = []
        for own, records in its:
            try:
                found[path].append(curve_of(path, records, others, own, given))
            except SeveralRuns as runs:
                for run in runs.runs:
                    found[path].append(curve_of(path, records, others, replace(own, run=run), given))
    return found


def of_frame(table: pd.DataFrame, *, name: str = "DataFrame", **read: Any) -> LossCurve:
    """Losses and rates of a DataFrame, whose columns are found by name, as in a file."""
    from .frames import records_of

    options, given = split(read, "as_curves")
    records, options = records_of(table, options)
    return choose_losses(records, options, given, name=name, companions={})

"""``run.jsonl`` or ``run.csv`` of `refine.torch.GradNormRecorder`, format version 1.

The first line is a header object, in a CSV behind ``# ``; then a row an update, steps from 1. A norm that was not
finite is null (CSV: empty). ``grad_norm_l2`` is taken before clipping where the header says so; the rate in a row is
the one used in its step. ``resumed`` marks the first row after a resume at its step: every earlier row from that step
on is of updates that were undone. ``skipped`` marks an update that a GradScaler skipped. A last line that was cut is
left out, so that the log of a run that goes on can be read. Rows of calls that were no updates are told (`_misplaced`).
"""

from __future__ import annotations

import contextlib
import csv
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import recorded
from ..errors import RefineError
from ..files import printable
from ..hygiene import UNDONE, clipping_plateau, last_of_each_step, match
from ..norms import Travel
from ..recorded import CLIP, TRAVEL
from . import json_text
from .base import Column, Facts, Format, ReadOptions, Records, planned
from .columns import family, lr_scale
from .gather import Rows, number
from .opening import Log
from .settings import optimizer_name, pick

__all__ = ["FORMAT", "as_clipped", "travelled"]

_ROUNDING, _CLEARLY = 1e-5, 1.1
"""A coefficient within the first of a value has that value; one above the second is no rounding."""


def _header(log: Log) -> dict[str, Any] | None:
    """The header object; None for any other log."""
    line = log.first_line
    if not line.startswith(("{", "# {")) or recorded.FORMAT not in line:
        return None
    try:
        value = json_text.parse(line.removeprefix("# "))
    except (ValueError, RefineError):
        return None
    return value if isinstance(value, dict) and value.get("format") == recorded.FORMAT else None


def _read(log: Log, options: ReadOptions) -> Records:
    header = _header(log) or {}
    _check_version(header)
    is_csv = log.first_line.startswith("#")
    run = _Run(Rows(options), header)
    for row in _csv_rows(log) if is_csv else _json_rows(log):
        run.add(row)
    run.rows.planned_steps = planned(run.header.get("planned_steps"))
    settings = run.header.get("settings")
    settings = settings if isinstance(settings, Mapping) else {}
    records = run.without_undone(
        run.rows.records(
            f"GradNormRecorder, {'CSV' if is_csv else 'JSON lines'}",
            Facts(clipping="pre" if run.header.get("clipping") == "pre" else "unknown", lr_alignment="this_step"),
            settings=pick({**settings, "grad_clip": settings.get("clip"), "optimizer": run.header.get("optimizer")}),
        )
    )
    records = replace(records, notes=(*records.notes, *_misplaced(run, records)))
    if records.rows == records.normless:
        lost = ", ".join(f"{count} {reason}" for reason, count in records.dropped.items())
        raise RefineError(
            f"the log holds its header and no update yet{f' ({lost})' if lost else ''}; "
            "wait until the recorder has written some"
        )
    return records


def _check_version(header: Mapping[str, Any]) -> None:
    version = header.get("format_version")
    if version != recorded.FORMAT_VERSION:
        raise RefineError(
            f"the log has format version {printable(repr(version), limit=40)} and this refine reads "
            f"{recorded.FORMAT_VERSION}; upgrade lr-refine"
        )


@dataclass(slots=True)
class _Run:
    """Rows of updates that were made, and marks of those that were not; the header is that of the last resume."""

    rows: Rows
    header: Mapping[str, Any]
    marks: list[tuple[int, float]] = field(default_factory=list)
    last: float = 0.0
    skipped: int = 0
    finite: int = 0  # of the skipped ones: calls that were no updates
    since_resumed: int = 0  # of those
    normless: list[int] = field(default_factory=list)
    unreadable: int = 0
    last_bad: bool = False

    def add(self, row: Mapping[str, Any] | None) -> None:
        """Take one line in; None is one that cannot be read."""
        self.last_bad = row is None
        self.unreadable += row is None
        if not row:
            return
        if row.get("format") == recorded.FORMAT:
            _check_version(row)
            self.header = row
            return
        step = number(row.get("step"))
        if step is not None and number(row.get("resumed")):
            self.marks.append((self.rows.count, step))
            self.since_resumed = 0
        if step is not None and math.isfinite(step):
            self.last = max(self.last, step)
        if number(row.get("skipped")):
            self.skipped += 1
            norm = number(row.get("grad_norm_l2"))
            no_update = norm is not None and math.isfinite(norm)
            self.finite += no_update
            self.since_resumed += no_update
            if not no_update:  # its rate is one of the schedule all the same
                self.normless.append(self.rows.count)
                self.rows.add({name: value for name, value in row.items() if name == "step" or name[:2] == "lr"})
        else:
            made = {name: value for name, value in row.items() if name not in ("skipped", "resumed")}
            self.rows.add({**made, "step": step - self.since_resumed} if step and self.since_resumed else made)

    def without_undone(self, records: Records) -> Records:
        """Leave out what a resume has undone; with the account of all that was left out."""
        keep = ~self._undone(records)
        has_norm = np.ones(records.rows, dtype=bool)
        has_norm[self.normless] = False
        undone = int(np.count_nonzero(~keep & has_norm))
        dropped = {
            "truncated last line": int(self.last_bad),
            "unreadable lines": self.unreadable - self.last_bad,
            "skipped by the run": self.skipped,
            UNDONE: undone,
        }
        place = np.cumsum(keep) - 1
        columns: list[Column] = []
        for column in records.columns:
            rows = column.places
            mine = keep[rows]
            columns.append(
                replace(column, values=column.values[mine], rows=place[rows[mine]]) if not keep.all() else column
            )
        return replace(
            records,
            columns=columns,
            rows=int(np.count_nonzero(keep)),
            dropped={reason: count for reason, count in dropped.items() if count},
            normless=int(np.count_nonzero(keep & ~has_norm)),
        )

    def _undone(self, records: Records) -> NDArray[np.bool_]:
        """Rows with a step that a later mark goes back to or before; shape (n,)."""
        steps = np.full(records.rows, np.nan)
        for column in records.columns:
            if column.name == "step":
                steps[column.places] = column.values
        back_to = np.full(records.rows + 1, np.inf)
        for row, step in self.marks:
            back_to[row] = min(back_to[row], step)
        undone: NDArray[np.bool_] = steps >= np.minimum.accumulate(back_to[::-1])[::-1][1:]
        return undone


def _misplaced(run: _Run, records: Records) -> Iterator[str]:
    """What tells that the rows are not one an update, or not of the gradient that the step saw."""
    last, logged = int(run.last), _column(CLIP, records)
    coefficient = np.zeros(0) if logged is None else logged.values
    planned_steps, skipped = records.planned_steps or last, run.skipped - run.finite
    over = last - skipped > planned_steps and not run.marks  # a run that is resumed may be prolonged
    more = f"{last:,} rows are more than the {planned_steps:,} planned updates" if over else ""
    if run.finite > 1:  # one may be where the run was cut
        yield (
            f"{more}{'; ' if more else ''}{run.finite:,} finite gradients are marked as skipped, which a GradScaler "
            "never skips: record() was called more than once per update, as after every micro-batch, or the loop "
            "skipped updates; they do not count here; call record() after the last micro-batch"
        )
    elif more:
        yield (
            f"{more}: the run went past its plan, or record() was called more than once per update; --total-steps says "
            "the updates of the next run"
        )
    l2, dual = _column("grad_norm_l2", records), _column("grad_norm_dual", records)
    top = clipping_plateau(l2.values[np.isfinite(l2.values)]) if l2 and dual and dual.values.size else None
    if top is not None:
        yield (
            f"{top.share:.0%} of the l2 norms are at their maximum {top.value:g}: record() was called after clipping, "
            "which hides all above; call it before"
        )
    shrunk, power = np.frexp(coefficient)
    scaled = np.count_nonzero((power < -2) & (np.abs(shrunk - 0.5) < _ROUNDING))
    if scaled > 2:
        yield (
            f"{scaled:,} gradients shrank by a power of two between record() and the step: the loss was scaled, and so "
            "are the norms, which follow the scale; give scaler=... to GradNormRecorder"
        )
    grown = np.count_nonzero(coefficient > _CLEARLY)
    if grown > 2 and family(optimizer_name(records.settings) or ""):
        yield (
            f"{grown:,} gradients were larger in the step than record() saw them ({CLIP} above 1): the loop added to "
            "them or normalised them, or record() was called after optimizer.step() or before the last backward()"
        )


def _json_rows(log: Log) -> Iterator[dict[str, Any] | None]:
    for row in json_text.objects(log.lines()):
        yield row and {name: float("nan") if v is None and _is_norm(name) else v for name, v in row.items()}


def _csv_rows(log: Log) -> Iterator[dict[str, Any] | None]:
    """Rows without their empty cells; but the empty norms of a row without l2 norm were not finite."""
    lines = _whole_lines(log)
    head = next((line for line in lines if line and not line.startswith("#")), None)
    try:
        names = next(csv.reader([head or ""]), [])
    except csv.Error as error:
        raise RefineError(f"the line of column names cannot be split ({error}); repair the file") from None
    at_l2 = names.index("grad_norm_l2") if "grad_norm_l2" in names else None
    norm = [_is_norm(name) for name in names]
    for line in lines:
        if line is not None and (not line or line.startswith("#")):
            with contextlib.suppress(ValueError):  # a resumed run may have a header of its own
                yield json_text.parse(line.removeprefix("# ")) if line.startswith("# {") else {}
            continue
        cells = [] if line is None else line.split(",")
        if len(cells) != len(names):
            yield None
            continue
        lost = at_l2 is not None and not cells[at_l2]
        yield {
            name: cell or "nan"
            for name, cell, is_norm in zip(names, cells, norm, strict=True)
            if cell or lost & is_norm
        }


def as_clipped(norm: Column, records: Records) -> tuple[Column, list[str]]:
    """The norms that SGD saw: times the clip coefficient, where the log holds one below 1."""
    logged = _column(CLIP, records)
    if logged is None or norm.steps is not None or logged.steps is not None:
        return norm, []
    by_row = np.ones(records.rows)
    by_row[logged.places] = np.where((logged.values > 0.0) & (logged.values < 1.0), logged.values, 1.0)
    coefficient = by_row[norm.places]
    clipped = np.count_nonzero(coefficient < 1.0)
    if not clipped:
        return norm, []
    note = (
        f"{clipped / coefficient.size:.1%} of the updates were clipped: the norms are "
        f'"{printable(norm.name)}" times "{CLIP}", as SGD saw them; '
        "where the threshold sets them, not the gradient, they are constant, and the schedule is linear decay"
    )
    return replace(norm, values=norm.values * coefficient), [note]


def travelled(
    records: Records, steps_of: Callable[[Column], NDArray[np.float64]], rate: Column | None, loss: Column | None
) -> Travel | None:
    """How far the run had come, at the steps that hold all three columns of it; None where there are none."""
    columns = [_column(name, records) for name in TRAVEL]
    logged = [last_of_each_step(steps_of(column), column.values) for column in columns if column is not None]
    if len(logged) < len(TRAVEL):
        return None
    steps = reduce(np.intersect1d, (at for at, _ in logged))
    if not steps.size:
        return None
    found = [values[np.searchsorted(at, steps)] for at, values in logged]
    for column in (rate, loss):
        values = match(steps_of(column), column.values * lr_scale(column.name), steps) if column else None
        found.append(np.full(steps.size, np.nan) if values is None else values)
    return Travel(steps, *found)


def _column(name: str, records: Records) -> Column | None:
    return next((column for column in records.columns if column.name == name), None)


def _is_norm(name: str) -> bool:
    return name.startswith("grad_norm_")


def _whole_lines(log: Log) -> Iterator[str | None]:
    """Lines without their end; None for a last one that has none yet: its last number may be cut."""
    for line in log.raw_lines():
        yield line.decode("utf-8", errors="replace").rstrip("\r\n") if line.endswith(b"\n") else None


FORMAT = Format(
    "recorder",
    get="GradNormRecorder of refine.torch: run.jsonl or run.csv, also while the run goes on",
    lost="nothing; refine fit --per-group: if recorded with per_group=True",
    sniff=lambda log: _header(log) is not None,
    read=_read,
)

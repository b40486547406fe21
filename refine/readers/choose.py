"""What is what in a log: from `Records` to `GradientNorms`.

Decided in this order: the run; the norm, by its name; the step column that (nearly) all rows with a norm
have; then learning rate and loss by name, joined by step. What is ambiguous is refused with the
candidates named; what is assumed goes into the notes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from ..errors import RefineError
from ..files import printable
from ..hygiene import clean, clipping_plateau, last_of_each_step, match, stride
from ..norms import Clipping, GradientNorms, NormKind, Source
from ..recorded import CLIP, GROUP
from ..refinement import OptimizerFamily
from .base import Column, Facts, ReadOptions, Records, choose_run, quoted
from .batch_size import update_sizes
from .columns import (
    family,
    find,
    group,
    kind_in_name,
    layer,
    looks_like_norm,
    lr_scale,
    named_optimizer,
    run_in_name,
    short_name,
)
from .layers import total_of_layers
from .recorder import as_clipped, travelled
from .runs import facts_of
from .settings import clip_threshold, optimizer_name

__all__ = [
    "Axis",
    "agree",
    "axis_of",
    "batch_sizes",
    "by_name",
    "choose",
    "counts_from_zero",
    "group_options",
    "holds_norms",
    "one_run",
    "rate_of",
    "scaled",
    "with_role",
]

_STEP_COVERAGE = 0.95
_CALLED = {"lr": "learning rates", "loss": "losses"}
_NORM_ROLES = ("l2 before clipping", "l2", "l1", "dual")


@dataclass(frozen=True, slots=True)
class Axis:
    """Steps of any column: its own, those of the table's step column, or the number of the row."""

    name: str | None
    table: NDArray[np.float64] | None
    every: int
    shift: float
    number: bool = False

    def of(self, column: Column) -> NDArray[np.float64]:
        """Steps of a column's values."""
        steps: NDArray[np.float64]
        if column.steps is not None and not self.number:
            steps = column.steps
        elif self.table is not None:
            steps = self.table if column.rows is None else self.table[column.rows]
        else:
            steps = np.asarray((column.places + 1.0) * self.every, dtype=np.float64)
        return steps + self.shift if self.shift else steps


def choose(
    records: Records, options: ReadOptions, *, name: str, companions: Mapping[str, Records] = MappingProxyType({})
) -> GradientNorms:
    """Gradient norms of the one run that is meant.

    ``companions`` are logs of the same run without norms, by name: their learning rates and losses are joined by step.
    """
    records = one_run(records, options)
    names = [column.name for column in records.columns]
    guessed = records.facts == Facts()
    if guessed:
        records = replace(records, facts=facts_of(short_name(each) for each in (*records.names, *names)))
    facts, notes = records.facts, list(records.notes)
    optimizer = named_optimizer(names) or family(optimizer_name(records.settings) or "")
    norm, how = _norm(records, options, options.optimizer or optimizer)
    notes += how
    if norm.bad is not None:
        row, text = norm.bad
        raise RefineError(
            f'column "{printable(norm.name)}" holds "{printable(text, limit=40)}" in row {row} '
            "below the first line; norms are numbers: repair the row, or choose another column with --column"
        )
    if not np.isfinite(norm.values).any():
        raise RefineError(
            f'column "{printable(norm.name)}" holds no finite number in {records.rows} rows; '
            "choose another with --column"
        )
    in_name = _kind(norm)
    kind = options.norm_kind or in_name or facts.norm_kind
    if in_name and kind != in_name:
        notes.append(f'column "{printable(norm.name)}" is read as an {kind} norm, as given, and called {in_name}')
    if options.optimizer and optimizer and options.optimizer != optimizer:
        notes.append(f"the optimizer is {options.optimizer}, as given; the log names one of the {optimizer} family")
    if options.column is not None:
        notes += _odd_choice(norm)
    if optimizer is None and kind in ("l1", "dual") and not find("l2", names) and facts.norm_kind != "l2":
        optimizer = "adam"  # nobody logs only these for another family

    seen = norm
    if kind == "l2" and facts.clipping == "pre" and (options.optimizer or optimizer) == "sgd":
        seen, how = as_clipped(norm, records)
        notes += how
    axis, how = axis_of(records, options, norm)
    notes += how
    rate_column, how = rate_of(records, options, norm)
    notes += how
    if guessed and axis.name is not None:
        axis = replace(axis, shift=float(counts_from_zero(axis, norm, rate_column)))
    run = run_in_name(norm.name)
    cleaned = clean(axis.of(norm), seen.values)
    loss_column = next((c for c in with_role("loss", records) if c is not norm), None)
    found = {"lr": rate_column, "loss": loss_column}
    total, how = _total(records, options, axis, cleaned.steps, [c for c in found.values() if c])
    notes += how
    columns = {"norm": norm.name, "step": axis.name}
    columns |= {role: column.name if column else None for role, column in found.items()}
    if seen is not norm:
        columns["clip"] = CLIP
    joined: dict[str, NDArray[np.float64] | None] = {}
    used = set()
    for role, column in found.items():
        joined[role] = match(axis.of(column), scaled(column), cleaned.steps) if column else None
        for other, its in companions.items():
            if joined[role] is None:
                joined[role], columns[role] = _from_companion(its, options, role, cleaned.steps, run)
                if joined[role] is not None:
                    used.add(other)
                    notes.append(f'{_CALLED[role]} are from {printable(other)}, column "{printable(columns[role])}"')
    for other in companions:
        if other not in used:
            raise RefineError(
                f"{printable(other)} holds no gradient norm, and no learning rate or loss that {printable(name)} "
                "lacks; leave it out"
            )
    if joined["lr"] is not None and not np.any(joined["lr"] > 0.0):
        joined["lr"] = None
    if rate_column is not None and joined["lr"] is None:
        what = "holds none above 0" if rate_column.values.size else "is empty"
        notes.append(f'learning rates not used: column "{printable(rate_column.name)}" {what}')
        columns["lr"] = None

    settings = {**records.settings, **_seen(records, axis)}
    dropped, rows = dict(records.dropped), records.rows - records.normless
    if norm.steps is None and rows > norm.values.size:
        dropped = {"without a norm": rows - norm.values.size, **dropped}
    rates = None
    if joined["lr"] is not None and rate_column is not None:
        everywhere = np.count_nonzero(np.isfinite(joined["lr"])) == np.count_nonzero(np.isfinite(rate_column.values))
        if not everywhere:
            rates = last_of_each_step(axis.of(rate_column), scaled(rate_column))
    l1 = None
    if kind == "dual" and (beside := next((c for c in with_role("l1", records) if group(c.name) is None), None)):
        l1 = match(axis.of(beside), beside.values, cleaned.steps)
    for array in (cleaned.steps, cleaned.values, joined["lr"], joined["loss"], l1):
        if array is not None:
            array.flags.writeable = False  # nobody else holds it: no copy is needed
    norms = GradientNorms.from_cleaned(
        cleaned,
        kind=kind or "l2",
        logged_steps=total,
        learning_rate=joined["lr"],
        loss=joined["loss"],
        source=Source(
            name=name,
            format=records.format,
            columns={role: column for role, column in columns.items() if column is not None},
            rows=norm.values.size if norm.steps is not None else rows + sum(records.dropped.values()),
            kind_known=kind is not None,
            optimizer=optimizer,
            notes=tuple(notes),
            clipping="post" if seen is not norm else _clipping(records, norm, cleaned.values),
            lr_alignment=facts.lr_alignment,
            window_mean=facts.window_mean or "mean_grad_norm" in short_name(norm.name).lower(),
            settings=settings,
            run=_run(options, records, run),
        ),
        rates=rates,
        extras=_extras(records, norm, seen, kind or "l2", axis, cleaned.steps) if options.extras else {},
        travel=travelled(records, axis.of, rate_column, loss_column) if group(norm.name) is None else None,
        l1=l1,
    )
    if changing := batch_sizes(records, axis, norms.total_steps, bool(norms.from_zero)):
        name, sizes = changing
        source = replace(norms.source, columns={**norms.source.columns, "batch size": name})
        norms = replace(norms, batch_size=sizes, source=source)
    return norms.with_dropped(dropped)


def group_options(records: Records, options: ReadOptions) -> dict[str, ReadOptions]:
    """How to read the norms of each param group, by its name: those of the kind that is read of the whole model."""
    norm, _ = _norm(records, options, options.optimizer or family(optimizer_name(records.settings) or ""))
    names = [column.name for column in records.columns]
    found = {}
    for name in names:
        whole, part = group(name) or ("", "")
        if whole == norm.name:
            rate = options.lr_column or f"lr{GROUP}{part}"
            found[part] = replace(options, column=name, lr_column=rate if rate in names else None)
    if not found:
        raise RefineError(
            f'no column holds "{printable(norm.name)}" of one param group; '
            "record the next run with GradNormRecorder(..., per_group=True)"
        )
    return found


def holds_norms(records: Records, options: ReadOptions) -> bool:
    """Whether a log holds gradient norms, or only what goes with them."""
    return bool(_norms(records, options))


def one_run(records: Records, options: ReadOptions, sought: Sequence[Column] | None = None) -> Records:
    """Leave the rows (runs named in a column) or the columns (runs named in the header) of one run.

    Only runs that hold any of the columns ``sought`` count, by default those of norms.
    """
    sought = _norms(records, options) if sought is None else sought
    if records.runs is not None:
        names, codes = records.runs
        holding = {names[code] for column in sought for code in np.unique(codes[column.places])}
        if options.run is None and not holding:
            return records
        chosen = codes == list(names).index(choose_run(holding if options.run is None else names, options.run))
        place = np.cumsum(chosen) - 1
        kept = []
        for column in records.columns:
            rows = column.places
            mine = chosen[rows]
            kept.append(replace(column, values=column.values[mine], rows=place[rows[mine]]))
        return replace(records, columns=kept, rows=int(chosen.sum()), runs=None)
    runs = {run for column in records.columns if (run := run_in_name(column.name)) is not None}
    if not runs:
        if options.run is not None and records.run is None:
            raise RefineError(f'the log names no runs, so there is none called "{printable(options.run)}" (--run)')
        return records
    # Several runs matter only where more than one of them has a norm.
    holding = {run for column in sought if (run := run_in_name(column.name))}
    if options.run is None and not holding:
        return records
    mine = choose_run(holding if options.run is None else runs, options.run)
    return replace(records, columns=[c for c in records.columns if run_in_name(c.name) in (None, mine)])


def _norms(records: Records, options: ReadOptions) -> list[Column]:
    """All columns that may be the norm, or a part of it."""
    if options.column is not None:
        return [column for column in records.columns if column.name == options.column]
    found = [column for role in _NORM_ROLES for column in with_role(role, records)]
    return found or [column for column in records.columns if layer(column.name)]


def batch_sizes(records: Records, axis: Axis, total: int, from_zero: bool) -> tuple[str, NDArray[np.float64]] | None:
    """Column and batch size of every update, (T,), where the log shows that it changes; else None."""
    counted = [column for role in ("samples", "tokens") for column in with_role(role, records)[:1]]
    return update_sizes(records.columns, counted, axis.of, total, from_zero)


def with_role(role: str, records: Records) -> list[Column]:
    """Columns that play a role, best first; empty ones only where there is no other."""
    found = [records.columns[i] for i in find(role, [column.name for column in records.columns])]
    return [column for column in found if column.values.size] or found


def by_name(records: Records, name: str, option: str) -> Column:
    """The column that an option names."""
    found = [column for column in records.columns if column.name == name]
    if len(found) == 1:
        return found[0]
    problem = "several columns are" if found else "no column is"
    listed = quoted(records.names or [column.name for column in records.columns])
    raise RefineError(f'{problem} called "{printable(name)}" ({option}); columns: {listed}')


def _kind(column: Column) -> NormKind | None:
    """Kind of norm that the name of a column says."""
    name = short_name(column.name)
    if find("dual", [name]):
        return "dual"
    if find("l1", [name]):
        return "l1"
    return kind_in_name(name)


def _norm(records: Records, options: ReadOptions, optimizer: OptimizerFamily | None) -> tuple[Column, list[str]]:
    """The column of the norm, or one made of those of all layers."""
    if options.column is not None:
        return by_name(records, options.column, "--column"), []
    if not records.header:
        if len(records.names) > 2:
            raise RefineError(
                f"the file has no header and {len(records.names)} columns; "
                "say which holds the norm and which the step with --column and --step-column (numbers from 1)"
            )
        place = len(records.names)
        note = f"the file has no header: column 1 is taken for the step, column {place} for the norm"
        return records.columns[-1], [] if options.step_column or options.every else [note]
    l2, l1, dual = ("l2 before clipping", "l2"), ("l1",), ("dual",)
    preference = {"l2": l2, "l1": l1, "dual": dual, "sgd": l2 + l1 + dual, "adam": dual + l1 + l2}
    wanted = preference[options.norm_kind or optimizer or "adam"]
    candidates = next(filter(None, (with_role(role, records) for role in wanted)), [])
    if len(candidates) == 1:
        return candidates[0], []
    if candidates and all(agree(candidates[0], other, least=10) for other in candidates[1:]):
        return candidates[0], [f"{quoted(c.name for c in candidates)} hold the same norms: the first is read"]
    if candidates:
        raise RefineError(
            f"{len(candidates)} columns may be the gradient norm: {quoted(c.name for c in candidates)}; "
            "choose one with --column"
        )
    total = total_of_layers(records, options.norm_kind, optimizer)
    if total is not None:
        return total
    others = [column.name for column in records.columns if looks_like_norm(column.name)]
    what = "a gradient norm" + (f" of kind {options.norm_kind}" if options.norm_kind else "")
    listed = quoted(others or records.names or [column.name for column in records.columns])
    remedy = records.missing or "choose one with --column" + (
        "" if others else ", or log it: torch.nn.utils.clip_grad_norm_ returns it"
    )
    if not listed:
        raise RefineError(f"the log holds no gradient norm: {remedy}")
    raise RefineError(f"no column is known to be {what}; {'candidates' if others else 'columns'}: {listed}; {remedy}")


def axis_of(records: Records, options: ReadOptions, norm: Column, what: str = "norm") -> tuple[Axis, list[str]]:
    """Steps: what the caller says, else the first known column that is there in nearly all rows with a norm.

    ``what`` the column holds is for messages.
    """
    shift = 1.0 if records.facts.from_zero else 0.0
    every, given = options.every, options.step_column
    if every is not None and given is not None:
        raise RefineError("--every and --step-column exclude each other; --every is for logs without a step column")
    if norm.steps is not None:
        unstepped = norm.steps.size > 1 and bool(np.all(norm.steps == norm.steps[0]))
        if unstepped and every is not None:
            return Axis(None, None, every, 0.0, number=True), []
        if unstepped:
            raise RefineError(
                f"all {norm.steps.size} {'losses' if what == 'loss' else f'{what}s'} are logged at step "
                f"{norm.steps[0]:.0f}: the steps were not given to the logger; say with --every K how many updates lie "
                "between two values"
            )
        if given is not None or every is not None:
            option = "--every" if given is None else "--step-column"
            raise RefineError(f"{option} is for tables; every value of this log has its own step: leave it out")
        return Axis("step", None, 1, shift), []
    if given is not None:
        candidates = [by_name(records, given, "--step-column")]
    elif records.header:
        candidates = [column for column in with_role("step", records) if column is not norm]
    else:
        candidates = [column for column in records.columns[:1] if column is not norm]
    if every is not None:
        notes = [f'steps are every {every}, as given, not from "{printable(candidates[0].name)}"'] if candidates else []
        return Axis(None, None, every, 0.0), notes if records.header else []
    if not candidates:
        listed = quoted(records.names or [column.name for column in records.columns])
        raise RefineError(
            f"no column is known to count optimizer steps; columns: {listed}; "
            "choose one with --step-column, or say with --every K how many updates lie between two rows"
        )
    finite = np.isfinite(norm.values)
    fullest, best = 0.0, None
    for column in candidates:
        if column.bad is not None:
            row, text = column.bad
            raise RefineError(
                f'step column "{printable(column.name)}" holds "{printable(text, limit=40)}" in row {row} '
                "below the first line; steps are integers: choose another with --step-column"
            )
        table = column.values
        if column.rows is not None:
            table = np.full(records.rows, np.nan)
            table[column.rows] = column.values
        from_zero = records.facts.from_zero or column.name == "trainer/global_step"  # of Lightning, in W&B
        axis = Axis(column.name, table, 1, float(from_zero))
        share = float(np.mean(np.isfinite(axis.of(norm)[finite])))
        if share > fullest:
            fullest, best = share, axis
        if share >= _STEP_COVERAGE:
            break
    if best is None or fullest <= 0.5:
        raise RefineError(
            f'step column "{printable(candidates[0].name)}" is empty in most rows that hold a {what}; '
            "choose another with --step-column"
        )
    notes = []
    others = [column.name for column in candidates if column.name != best.name]
    if others:
        notes.append(f'steps are from "{printable(best.name)}", not from {quoted(others)}: --step-column chooses')
    calls = short_name(best.name or "")
    if calls == "_step" or (calls == "Step" and "W&B" in records.format):
        notes.append(f'"{calls}" of W&B counts calls of wandb.log: check that it counts optimizer updates')
    return best, notes


def _run(options: ReadOptions, records: Records, in_name: str | None) -> str | None:
    """Which run was read, where that needs saying; "." is a folder itself."""
    run = options.run or records.run or in_name
    return None if run == "." else run


def _odd_choice(norm: Column) -> list[str]:
    """What the name of a column that the caller chose says against it."""
    other = next((role for role in ("loss", "lr", "step") if find(role, [norm.name])), None)
    if other is not None:
        return [f'column "{printable(norm.name)}" is read as the norm, as given, and called {other}']
    if re.search(r"sq(?:$|_|uared?|r)", short_name(norm.name).lower()):
        return [f'column "{printable(norm.name)}" is read as a norm; its name says that it is squared']
    return []


def counts_from_zero(axis: Axis, norm: Column, rates: Column | None) -> bool:
    """Whether labels are those of a logger that counts from 0, and the norm of step 0 is not logged.

    That is so for norms at 49, 99, 149 ... if the format says so, or if there are rates from step 0 on.
    """
    plain = replace(axis, shift=0.0)
    steps = plain.of(norm)[:10_000]  # the first rows tell
    known = steps[np.abs(steps) < 2.0**53]  # nan is not
    forward = np.diff(known)
    forward = forward[forward > 0.0]
    if not forward.size:
        return False
    middle = (forward.size - 1) // 2
    usual, first = float(np.partition(forward, middle)[middle]), float(known[0])
    last_of_window = first > 0.0 and usual > 1.0 and (first + 1.0) % usual == 0.0
    if axis.shift:
        return first == 0.0 or last_of_window
    return last_of_window and rates is not None and bool(np.any(plain.of(rates) == 0.0))


def _total(
    records: Records, options: ReadOptions, axis: Axis, steps: NDArray[np.int64], others: Sequence[Column]
) -> tuple[int | None, list[str]]:
    """Updates of the logged run, where the caller or the log says so: its plan, or rates and losses that go further."""
    planned, last = records.planned_steps, int(steps[-1]) if steps.size else 0
    if options.logged_steps is not None or steps.size < 2:
        return options.logged_steps, []
    if planned is not None and planned >= last:
        note = (
            f"the last norm is of step {last}, and the run was planned for {planned} updates: the rest is taken to be "
            "like the end; if the run is over, say so with --logged-steps"
        )
        return planned, [note] if last < 0.95 * planned else []
    if steps[0] == 0:
        return None, []
    further = max((float(np.max(axis.of(c)[np.isfinite(c.values)], initial=0.0)) for c in others), default=0.0)
    # Less than a stride of the norms: rows between the last one and the end.
    return (int(further), []) if last < further < last + stride(steps) else (None, [])


def rate_of(records: Records, options: ReadOptions, norm: Column) -> tuple[Column | None, list[str]]:
    """The column of the learning rates, and why none is used where several may be it."""
    if options.lr_column is not None:
        return by_name(records, options.lr_column, "--lr-column"), []
    found = [column for column in with_role("lr", records) if column is not norm]
    if len(found) > 1 and not all(agree(column, found[0]) for column in found[1:]):
        listed = quoted(column.name for column in found)
        return None, [f"learning rates not used: {len(found)} columns ({listed}); choose one with --lr-column"]
    return (found[0] if found else None), []


def scaled(column: Column) -> NDArray[np.float64]:
    """Values in the unit that everything else has: older verl logs thousands of the rate."""
    scale = lr_scale(column.name)
    return column.values if scale == 1.0 else column.values * scale


def agree(a: Column, b: Column, *, least: int = 1) -> bool:
    """Whether two columns hold the same numbers, but for rounding, wherever both hold any; at least so many."""
    first, second = scaled(a), scaled(b)
    left, right = (column.places if column.steps is None else column.steps for column in (a, b))
    if not np.array_equal(left, right):
        _, i, j = np.intersect1d(left, right, return_indices=True)
        first, second = first[i], second[j]
    alike = first.size == second.size and first.size >= least
    return alike and bool(np.allclose(first, second, rtol=1e-3, atol=0.0, equal_nan=True))


def _from_companion(
    other: Records, options: ReadOptions, role: str, steps: NDArray[np.int64], run: str | None
) -> tuple[NDArray[np.float64] | None, str | None]:
    """Learning rate or loss from another log of the same run."""
    runs = {run_in_name(column.name) for column in other.columns} - {None}
    if run is not None and runs and run not in runs:
        raise RefineError(
            f'the norms are those of run "{printable(run)}", and {printable(role)} is of '
            f"{quoted(sorted(filter(None, runs)))}: export both of one run"
        )
    if other.runs is not None or runs:
        other = one_run(other, replace(options, run=options.run or run))
    found = with_role(role, other)
    if role == "lr" and len(found) > 1:
        raise RefineError(
            f"{len(found)} columns may be the learning rate: {quoted(c.name for c in found)}; choose with --run"
        )
    if not found or not np.isfinite(found[0].values).any():
        return None, None
    axis, _ = axis_of(other, replace(options, step_column=None, every=None), found[0])
    return match(axis.of(found[0]), scaled(found[0]), steps), found[0].name


def _clipping(records: Records, norm: Column, values: NDArray[np.float64]) -> Clipping:
    """Before or after clipping: by a plateau of the values, else by the names, the format or the settings."""
    if clipping_plateau(values) is not None:
        return "post"
    if find("l2 before clipping", [norm.name]):
        return "pre"
    if any(find("l2 before clipping", [column.name]) for column in records.columns):
        return "post"  # the log holds both
    if records.facts.clipping != "unknown":
        return records.facts.clipping
    threshold = None if _kind(norm) in ("l1", "dual") else clip_threshold(records.settings)  # that is of the l2 norm
    return "pre" if threshold is not None and values.size and values.max() > 1.01 * threshold else "unknown"


def _seen(records: Records, axis: Axis) -> dict[str, float]:
    """Samples and tokens per update, where they are logged."""
    found = {}
    for role in ("samples", "tokens"):
        for column in with_role(role, records)[:1]:
            steps = axis.of(column)
            known = np.flatnonzero(np.isfinite(steps) & np.isfinite(column.values))
            if known.size > 1 and steps[known[-1]] > steps[known[0]]:
                per_update = np.diff(column.values[known[[0, -1]]]) / np.diff(steps[known[[0, -1]]])
                if per_update[0] > 0.0:
                    found[f"{role} per update"] = float(per_update[0])
    return found


def _extras(
    records: Records, norm: Column, seen: Column, kind: NormKind, axis: Axis, steps: NDArray[np.int64]
) -> dict[str, NDArray[np.float64]]:
    """The other norms in the log, at the steps of the chosen one: of other kinds, of single layers and groups.

    Where the chosen one was ``seen`` clipped, also as it was before.
    """
    found = {}
    for column in records.columns:
        part = layer(column.name)
        of = _kind(column) or records.facts.norm_kind or "l2"
        other = any(find(role, [column.name]) for role in ("l2", "l1", "dual")) and of != kind
        if column is norm and seen is not norm:
            called = "raw_grad_norm"
        elif column is norm:
            continue
        elif group(column.name) and not column.name.startswith("lr/"):
            called = column.name
        elif part or other:
            called = f"grad_norm_{part[0]}/{part[1]}" if part else f"grad_norm_{of}"
        else:
            continue
        values = match(axis.of(column), column.values, steps)
        if values is not None:
            found[called] = values
    return found

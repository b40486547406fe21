"""What every reader shares: the shapes that pass between it and the rest.

A reader turns a log into `Records`: named columns of numbers, with what the format is known to mean.
Which column is the gradient norm, the step, the learning rate is decided once, in `choose`.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from numpy.typing import NDArray

from ..errors import RefineError
from ..files import printable
from ..norms import Clipping, LrAlignment, NormKind
from ..refinement import OptimizerFamily
from ..schedule import MAX_STEPS, check_count
from .columns import RUN_NAMES, may_matter
from .opening import MAX_COLUMNS

if TYPE_CHECKING:
    from .opening import Log

__all__ = [
    "Column",
    "Facts",
    "Format",
    "Growing",
    "Names",
    "ReadOptions",
    "Records",
    "Rows",
    "SeveralRuns",
    "check_width",
    "choose_run",
    "number",
    "planned",
]


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """What the caller says of a log; the parameters of `refine.read_norms`."""

    column: str | None = None
    step_column: str | None = None
    lr_column: str | None = None
    norm_kind: NormKind | None = None
    optimizer: OptimizerFamily | None = None
    every: int | None = None
    logged_steps: int | None = None
    run: str | None = None
    extras: bool = False

    def __post_init__(self) -> None:
        if self.norm_kind is not None and self.norm_kind not in get_args(NormKind):
            raise RefineError(f"norm_kind is {self.norm_kind!r}; it must be one of l2, l1, dual")
        if self.optimizer is not None and self.optimizer not in get_args(OptimizerFamily):
            raise RefineError(f"optimizer is {self.optimizer!r}; it must be one of sgd, adam")
        if self.every is not None:
            check_count("every", self.every, least=1)

    def wants(self, name: str) -> bool:
        """Whether a column may play a role; the others are not loaded."""
        return name in (self.column, self.step_column, self.lr_column) or may_matter(name)


@dataclass(frozen=True, slots=True)
class Facts:
    """What a format is known to mean, whatever the names in it say.

    Attributes
    ----------
    norm_kind : {"l2", "l1"} or None
        Kind of its norm where the name does not say.
    clipping : {"pre", "post", "unknown"}
        Whether its norm is taken before or after clipping.
    lr_alignment : {"this_step", "next_step", "unknown"}
        Whether the rate in the row of step t was used in step t or will be in t + 1.
    window_mean : bool
        The norm is a mean over the updates since the row before.
    from_zero : bool
        Steps count from 0, so that the row of update 1 says 0; they are shifted by one.
    """

    norm_kind: NormKind | None = None
    clipping: Clipping = "unknown"
    lr_alignment: LrAlignment = "unknown"
    window_mean: bool = False
    from_zero: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """Numbers under one name.

    Attributes
    ----------
    name : str
    values : (k,) float64
        nan where "nan" was logged.
    rows : (k,) int64 or None
        In which rows of the log they stand, from 0; None: one in every row.
    steps : (k,) float64 or None
        In logs that keep one series a metric: each value's own step.
    bad : (row, text) or None
        The first cell that is no number, where there is one.
    """

    name: str
    values: NDArray[np.float64]
    rows: NDArray[np.int64] | None = None
    steps: NDArray[np.float64] | None = None
    bad: tuple[int, str] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Records:
    """A log as read, before anything in it is chosen, cleaned or dropped.

    Attributes
    ----------
    format : str
        For people, such as "torchtitan console log".
    columns : sequence of Column
        All those that `ReadOptions.wants`; each with a unique name, unless the log itself repeats one.
    rows : int
        Rows of the log, those of ``dropped`` not counted.
    names : sequence of str
        Names of all its columns, for messages.
    facts : Facts
    settings : mapping
        Hyper-parameters that stand beside the log, flat.
    planned_steps : int or None
        Updates that the run was planned for, where the log says so.
    dropped : mapping
        Reason to count of rows that the reader left out (a truncated last line ...).
    notes : tuple of str
    missing : str
        For the message where no norm is found: why, and what to do.
    runs : (names, codes) or None
        In tables with a column that names the run: which one each row belongs to, codes (n,).
    run : str or None
        The run that the reader chose with `choose_run`, where it did.
    header : bool
        False where columns have numbers for names.
    """

    format: str
    columns: Sequence[Column]
    rows: int
    names: Sequence[str] = ()
    facts: Facts = field(default_factory=Facts)
    settings: Mapping[str, Any] = field(default_factory=dict)
    planned_steps: int | None = None
    dropped: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    missing: str = ""
    runs: tuple[Sequence[str], NDArray[np.int64]] | None = None
    run: str | None = None
    header: bool = True

    def known_as(self, format: str, facts: Facts | None = None, **more: Any) -> Records:
        """The same records under a format's own name and with what is known of it."""
        return replace(self, format=format, facts=facts or self.facts, **more)


@dataclass(frozen=True, slots=True)
class Format:
    """One entry of the registry in `refine.readers`.

    Attributes
    ----------
    name : str
        Short, as in `refine formats`.
    get : str
        Where people find such a log.
    lost : str
        What it does not tell.
    sniff : callable
        Whether a log, by its content, has this format.
    read : callable
        The log as `Records`; refuses with `RefineError`.
    """

    name: str
    get: str
    lost: str
    sniff: Callable[[Log], bool]
    read: Callable[[Log, ReadOptions], Records]


class Growing:
    """A column that grows chunk by chunk, in place: a list of chunks would need twice the memory.

    Examples
    --------
    >>> growing = Growing()
    >>> growing.add(np.array([1.0, 2.0]), np.array([True, True]))
    >>> growing.add(np.array([3.0, 0.0]), np.array([True, False]))
    >>> column = growing.column("grad_norm")
    >>> column.values.tolist(), column.rows.tolist()
    ([1.0, 2.0, 3.0], [0, 1, 2])
    """

    def __init__(self) -> None:
        self._values: array[float] = array("d")
        self._rows: array[int] | None = None
        self._count = 0

    def add(self, values: NDArray[np.float64], present: NDArray[np.bool_]) -> None:
        """Add a chunk of rows; ``present`` marks those that hold a value. Both (k,)."""
        whole = bool(present.all())
        if self._rows is None and not whole:  # until now every row held one
            self._rows = array("q", np.arange(self._count, dtype=np.int64).tobytes())
        if self._rows is not None:
            self._rows.frombytes((self._count + np.flatnonzero(present)).astype(np.int64).tobytes())
        self._values.frombytes((values if whole else values[present]).astype(np.float64, copy=False).tobytes())
        self._count += present.size

    def column(self, name: str, bad: tuple[int, str] | None = None) -> Column:
        """Everything that was added."""
        rows = None if self._rows is None else np.frombuffer(self._rows, dtype=np.int64)
        return Column(name, np.frombuffer(self._values, dtype=np.float64), rows, bad=bad)


def check_width(columns: int) -> None:
    """Refuse a log with more columns than a run has metrics."""
    if columns > MAX_COLUMNS:
        raise RefineError(f"the log has more than {MAX_COLUMNS:,} columns; name one with fewer")


class Names(dict[str, bool]):
    """Which names may matter, each asked for once; kept for messages.

    Examples
    --------
    >>> names = Names(ReadOptions())
    >>> names["grad_norm"], names["text"], list(names)
    (True, False, ['grad_norm', 'text'])
    """

    def __init__(self, options: ReadOptions) -> None:
        super().__init__()
        self.options = options

    def __missing__(self, name: str) -> bool:
        wanted = self[name] = self.options.wants(name)
        check_width(len(self))
        return wanted


class Rows:
    """Collects rows of names and values into sparse columns; keeps what may matter.

    Examples
    --------
    >>> rows = Rows(ReadOptions())
    >>> rows.add({"step": 1, "grad_norm": "0.5"})
    >>> rows.add({"global_step/max_steps": "2/400", "train": {"grad_norm": float("nan")}, "text": "x"})
    >>> [(c.name, c.values.tolist()) for c in rows.columns()]
    [('step', [1.0]), ('grad_norm', [0.5]), ('global_step/max_steps', [2.0]), ('train/grad_norm', [nan])]
    >>> rows.planned_steps, rows.count
    (400, 2)
    """

    def __init__(self, options: ReadOptions) -> None:
        self.options = options
        self.count = 0
        self.planned_steps: int | None = None
        self.names = Names(options)
        self._values: dict[str, array[float]] = {}
        self._rows: dict[str, array[int]] = {}
        self._bad: dict[str, tuple[int, str]] = {}
        self._run_names: dict[str, int] = {}
        self._run_codes: array[int] = array("q")

    def add(self, row: Mapping[str, Any]) -> None:
        """Add one row; nested mappings become names with slashes."""
        self._add(row, "", 0)
        if len(self._run_codes) <= self.count:
            self._run_codes.append(self._run_names.setdefault("", len(self._run_names)))
        self.count += 1

    def _add(self, row: Mapping[str, Any], prefix: str, depth: int) -> None:
        for key, value in row.items():
            name = f"{prefix}{key}" if prefix else str(key)
            if isinstance(value, Mapping):
                if depth < 5:
                    self._add(value, f"{name}/", depth + 1)
                continue
            if self.names[name] and name not in RUN_NAMES:
                self._append(name, value)
            elif name in RUN_NAMES and isinstance(value, str) and len(self._run_codes) == self.count:
                self._run_codes.append(self._run_names.setdefault(value, len(self._run_names)))

    def _append(self, name: str, value: Any) -> None:
        if type(value) is not float:
            if value is None or isinstance(value, (bool, list, tuple)):
                return
            if isinstance(value, str) and "/" in value and (match := _OF_TOTAL.fullmatch(value)):
                value, self.planned_steps = match[1], int(match[2])
            got = number(value)
            if got is None:
                if isinstance(value, str) and not value.strip():
                    return
                self._bad.setdefault(name, (self.count + 1, str(value)))
                got = float("nan")
            value = got
        if name not in self._values:
            self._values[name], self._rows[name] = array("d"), array("q")
        self._values[name].append(value)
        self._rows[name].append(self.count)

    def columns(self) -> list[Column]:
        """What was collected, in order of first appearance."""
        return [
            Column(
                name,
                np.array(values, dtype=np.float64),
                None if len(values) == self.count else np.array(self._rows[name], dtype=np.int64),
                bad=self._bad.get(name),
            )
            for name, values in self._values.items()
        ]

    def records(self, format: str, facts: Facts | None = None, **more: Any) -> Records:
        """Everything collected, as records."""
        runs = None
        if len(self._run_names.keys() - {""}) > 1:
            runs = (list(self._run_names), np.array(self._run_codes, dtype=np.int64))
        return Records(
            format,
            self.columns(),
            self.count,
            names=list(self.names),
            facts=facts or Facts(),
            planned_steps=self.planned_steps,
            runs=runs,
            **more,
        )


_OF_TOTAL = re.compile(r"\s*(\d{1,15})\s*/\s*(\d{1,15})\s*")
_UNITS = {"K": 1e3, "M": 1e6, "B": 1e9, "G": 1e9, "T": 1e12}
_WITH_UNIT = re.compile(r"([-+]?[\d.]+(?:e[-+]?\d+)?)\s?([KMBGT])", re.IGNORECASE)
_THOUSANDS = re.compile(r"[-+]?\d{1,3}(?:,\d{3})+(?:\.\d*)?")


def number(value: Any) -> float | None:
    """A logged value as a number; None where it is none.

    Examples
    --------
    >>> [number(v) for v in (2, "0.5", "Infinity", "1,234", "4.1K", "x", "")]
    [2.0, 0.5, inf, 1234.0, 4100.0, None, None]
    """
    if isinstance(value, str) and ("_" in value or len(value) > 400):
        return None  # float() takes 1_000
    try:
        return float(value)
    except OverflowError:
        return float("inf")
    except (TypeError, ValueError):
        pass
    if not isinstance(value, str) or len(value) > 40:
        return None
    value = value.strip()
    if _THOUSANDS.fullmatch(value):
        return float(value.replace(",", ""))
    if match := _WITH_UNIT.fullmatch(value):
        try:
            return float(match[1]) * _UNITS[match[2].upper()]
        except ValueError:
            return None
    return None


def planned(value: Any) -> int | None:
    """A planned number of updates, as a log gives it; None where that cannot be one.

    Examples
    --------
    >>> [planned(value) for value in (400, -1, "400", None, 10**30)]
    [400, None, None, None, None]
    """
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MAX_STEPS else None


class SeveralRuns(RefineError):
    """A log that holds several runs, and none was chosen."""

    def __init__(self, runs: Sequence[str]) -> None:
        super().__init__(f"the log holds {len(runs)} runs: {quoted(runs)}; choose one with --run")
        self.runs = tuple(runs)


def choose_run(names: Iterable[str], wanted: str | None) -> str:
    """The run that is asked for, or the only one; several are listed in the message.

    Examples
    --------
    >>> choose_run(["a"], None), choose_run(["a", "b"], "b")
    ('a', 'b')
    """
    listed = sorted(set(names))
    if wanted is not None:
        if wanted in listed:
            return wanted
        raise RefineError(f'no run is called "{printable(wanted)}" (--run); runs: {quoted(listed)}')
    if len(listed) == 1:
        return listed[0]
    raise SeveralRuns(listed)


_LISTED = 500
"""Characters of names in a message."""


def quoted(names: Iterable[str], *, most: int = 12) -> str:
    """Names for a message: the first dozen, fewer where they are long."""
    listed = [f'"{printable(name)}"' for name in names]
    shown = [name for name, end in zip(listed[:most], accumulate(map(len, listed)), strict=False) if end <= _LISTED]
    shown = shown or listed[:1]
    return ", ".join(shown) + (f" and {len(listed) - len(shown)} more" if len(listed) > len(shown) else "")

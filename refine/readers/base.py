"""What every reader shares: the shapes that pass between it and the rest.

A reader turns a log into `Records`: named columns of numbers, with what the format is known to mean.
Which column is the gradient norm, the step, the learning rate is decided once, in `choose`.
"""

from __future__ import annotations

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
from . import loss_columns
from .columns import may_matter

if TYPE_CHECKING:
    from .opening import Log

__all__ = ["Column", "Facts", "Format", "LossOptions", "ReadOptions", "Records", "SeveralRuns", "choose_run", "planned"]


MAX_NAME = 2**14
"""Characters in the name of a metric: longer ones take minutes to be told, and none is one."""


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
        if len(name) > MAX_NAME:
            raise RefineError(f"a name has {len(name):,} characters and {MAX_NAME:,} are the limit; name another log")
        named = (self.column, self.step_column, self.lr_column)
        return name in named or may_matter(name) or loss_columns.batch_name(name)


@dataclass(frozen=True, slots=True)
class LossOptions(ReadOptions):
    """What the caller says of a log whose losses are read; the parameters of `refine.read_losses`."""

    loss_column: str | None = None

    def wants(self, name: str) -> bool:
        """Whether a column may play a role; the others are not loaded."""
        return ReadOptions.wants(self, name) or name == self.loss_column or loss_columns.may_matter(name)


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
    mean_loss : bool
        The training loss is a mean over the updates since the row before, whatever the norm is.
    """

    norm_kind: NormKind | None = None
    clipping: Clipping = "unknown"
    lr_alignment: LrAlignment = "unknown"
    window_mean: bool = False
    from_zero: bool = False
    mean_loss: bool = False


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

    @property
    def places(self) -> NDArray[np.int64]:
        """Row of every value, also where every row holds one; shape (k,)."""
        return np.arange(self.values.size) if self.rows is None else self.rows


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
    normless : int
        Rows of ``rows`` that are told in ``dropped`` all the same: they hold rates, and what is no norm of an update.
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
    normless: int = 0
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

"""`GradientNorms`: what a log says, cleaned, with an account of what was dropped and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from .errors import RefineError
from .files import printable
from .hygiene import Cleaned, clean, match, stride
from .refinement import OptimizerFamily
from .schedule import Schedule, check_count
from .smoothing import smooth

__all__ = ["Clipping", "GradientNorms", "LrAlignment", "NormKind", "Pool", "Source", "Travel", "numbers"]

Number = TypeVar("Number", np.float64, np.int64)

NormKind = Literal["l2", "l1", "dual"]
"""l2 and l1 of the gradient, or ``dual``: the optimizer's own squared norm (Adam family:
sum_i g_i^2 / (sqrt(v_i) + eps), which takes the place of the l1 norm)."""

Clipping = Literal["pre", "post", "unknown"]
"""Whether a norm was taken before or after clipping."""

LrAlignment = Literal["this_step", "next_step", "unknown"]
"""Whether the rate beside step t was used in step t, or will be in the next (many loops step the scheduler first)."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where norms were read: file, format and columns, what is known of them, and what had to be guessed.

    Parameters
    ----------
    name, format : str
        Path (or "array") and format.
    columns : mapping
        Role (norm, step, lr, loss) to the column's name.
    rows : int
        Rows of the file, before any was dropped.
    kind_known, optimizer : bool, str or None
        Whether the log names the norm's kind; the optimizer family that it names.
    notes : tuple of str
        What else a reader should know.
    clipping, lr_alignment
        As far as the format, the settings or the values tell.
    window_mean : bool
        Each norm is a mean over the updates since the one before, not that of one update.
    settings : mapping
        Hyper-parameters of the logged run that stand in or beside the log, flat, as written.
    run : str or None
        Which run of a log that holds several.
    """

    name: str = "array"
    format: str = "array"
    columns: Mapping[str, str] = field(default_factory=dict)
    rows: int = 0
    kind_known: bool = True
    optimizer: OptimizerFamily | None = None
    notes: tuple[str, ...] = ()
    clipping: Clipping = "unknown"
    lr_alignment: LrAlignment = "unknown"
    window_mean: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    run: str | None = None


def _own(column: npt.ArrayLike, kind: type[Number]) -> NDArray[Number]:
    """A copy, unless it is an array to which nobody can write."""
    if isinstance(column, np.ndarray) and column.dtype == kind and not column.flags.writeable:
        base = column
        while isinstance(base.base, np.ndarray):
            base = base.base
        if not base.flags.writeable:
            return column
    return np.array(column, dtype=kind)


def numbers(name: str, column: npt.ArrayLike) -> NDArray[np.float64]:
    """A column as float64, nan where it is masked; what float64 would make numbers of, dates for one, is refused."""
    try:
        array = np.asanyarray(column)
        if array.dtype.kind in "bcmMV":
            raise TypeError(f"their type is {array.dtype}")
        floats = array.astype(np.float64)
        return floats.filled(np.nan) if isinstance(floats, np.ma.MaskedArray) else np.asarray(floats)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise RefineError(f"{name} must be an array of numbers: {printable(error)}") from None


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """How pooled norms came about: the number of logs, their smoothing, and the spread of their smoothed norms.

    ``lowest`` and ``highest`` have the shape (n,) of the pooled norms.
    """

    logs: int
    smoothing: float
    lowest: NDArray[np.float64]
    highest: NDArray[np.float64]

    @property
    def spread(self) -> NDArray[np.float64]:
        """Highest over lowest, less 1; shape (n,)."""
        return self.highest / self.lowest - 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Travel:
    """How far a run had come at some of its updates, as `refine.torch.GradNormRecorder` logs it; all float64, (m,).

    Attributes
    ----------
    steps : (m,) int64
        Labels as in `GradientNorms.steps`, increasing.
    distance : (m,)
        ``||x_t - x_1||_2``.
    dot : (m,)
        ``<g_t, x_1 - x_t>``.
    gradient_sum_norm : (m,)
        ``||s_t||`` in the optimizer's own dual norm, s_t the sum of ``lr_j g_j`` over these updates j <= t.
    learning_rate, loss : (m,)
        Of the same updates; nan where unknown.
    """

    steps: NDArray[np.int64]
    distance: NDArray[np.float64]
    dot: NDArray[np.float64]
    gradient_sum_norm: NDArray[np.float64]
    learning_rate: NDArray[np.float64]
    loss: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class GradientNorms:
    """Gradient norms of a finished run, at the steps that were logged.

    Make it with `from_values` or `refine.read_norms`, which clean; the constructor only checks.

    Parameters
    ----------
    steps : (n,) int64
        Step labels as logged, strictly increasing. A log that starts at 0 counts from 0, any other
        counts completed updates from 1.
    values : (n,) float64
        Norms, finite and positive, n >= 2.
    kind : {"l2", "l1", "dual"}
    total_steps : int
        Updates of the logged run.
    learning_rate, loss : (n,) float64 or None
        Logged at the same steps; nan where missing.
    dropped : mapping
        Reason to count of rows that were dropped.
    out_of_order : int
        How often the step went backwards in the file.
    source : Source
    from_zero : bool, optional
        Whether the labels count from 0; by default whether the first one is 0.
    extras : mapping
        Other columns of norms at the same steps: name to (n,) float64, nan where missing.
    pool : Pool or None
        Where these are the pooled norms of several logs.
    dropped_at : mapping
        Reason to first and last step of the rows that were dropped for it, where known.
    rates : (steps, learning rates) or None
        All rates of the log, (m,) int64 and (m,) float64, where they stand at other steps than the norms.
    travel : Travel or None
        How far the run had come, where the log says so.
    l1 : (n,) float64 or None
        The l1 norms where the values are ``dual`` ones and the log holds both; nan where missing.
    batch_size : (T,) float64 or None
        Of every update, positive, where the log shows that it changes; one that is constant becomes None.
    """

    steps: NDArray[np.int64]
    values: NDArray[np.float64]
    kind: NormKind
    total_steps: int
    learning_rate: NDArray[np.float64] | None = None
    loss: NDArray[np.float64] | None = None
    dropped: Mapping[str, int] = field(default_factory=dict)
    out_of_order: int = 0
    source: Source = field(default_factory=Source)
    from_zero: bool | None = None
    extras: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    pool: Pool | None = None
    dropped_at: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    rates: tuple[NDArray[np.int64], NDArray[np.float64]] | None = None
    travel: Travel | None = None
    l1: NDArray[np.float64] | None = None
    batch_size: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        steps = np.asarray(self.steps)
        if steps.dtype.kind not in "iu":
            raise RefineError(f"steps have the type {steps.dtype}; they must be integers")
        steps = _own(steps, np.int64)
        object.__setattr__(self, "steps", steps)
        for name in ("values", "learning_rate", "loss", "l1"):
            column = getattr(self, name)
            if column is not None:
                column = _own(column, np.float64)
                if column.shape != steps.shape or steps.ndim != 1:
                    raise RefineError(f"{name} has shape {column.shape} and steps {steps.shape}; both must be (n,)")
                column.flags.writeable = False
                object.__setattr__(self, name, column)
        steps.flags.writeable = False
        if self.kind not in get_args(NormKind):
            raise RefineError(f"the norm kind is {self.kind!r}; it must be one of l2, l1, dual")
        if steps.size < 2:
            lost = ", ".join(f"{count} {reason}" for reason, count in self.dropped.items())
            raise RefineError(
                f"the number of usable gradient norms is {steps.size}; at least 2 are needed: "
                + (f"dropped were {lost}" if lost else "name a log of a whole run, and log more often")
            )
        if not (np.all(np.isfinite(self.values)) and self.values.min() > 0.0):
            raise RefineError("norms must be finite and positive; GradientNorms.from_values drops the others")
        if not np.all(np.diff(steps) > 0) or steps[0] < 0:
            raise RefineError("steps must be >= 0 and increase strictly; GradientNorms.from_values sorts them")
        if self.from_zero is None:
            object.__setattr__(self, "from_zero", bool(steps[0] == 0))
        if self.total_steps < steps[-1] + bool(self.from_zero):
            raise RefineError(
                f"the logged run has {self.total_steps} steps and its log goes to step {steps[-1]}; "
                "give the number of updates that the whole logged run was planned for"
            )
        check_count("the number of updates of the logged run", self.total_steps, least=1)
        if self.batch_size is not None:
            sizes = _own(self.batch_size, np.float64)
            if sizes.shape != (self.total_steps,) or not (sizes.min() > 0.0 and np.isfinite(sizes.max())):
                raise RefineError(
                    f"batch_size has shape {sizes.shape}; it must hold a positive number for each of the "
                    f"{self.total_steps:,} updates"
                )
            sizes.flags.writeable = False
            object.__setattr__(self, "batch_size", sizes if sizes.min() < sizes.max() else None)

    def __repr__(self) -> str:
        span = f"steps={self.steps[0]}..{self.steps[-1]}, total_steps={self.total_steps}"
        return f"GradientNorms(points={self.steps.size}, {span}, kind={self.kind!r}, source={self.source.name!r})"

    @classmethod
    def from_values(
        cls,
        values: npt.ArrayLike,
        steps: npt.ArrayLike | None = None,
        *,
        kind: NormKind = "l2",
        every: int = 1,
        learning_rate: npt.ArrayLike | None = None,
        loss: npt.ArrayLike | None = None,
        logged_steps: int | None = None,
        batch_size: npt.ArrayLike | None = None,
        source: Source | None = None,
    ) -> GradientNorms:
        """Clean raw columns by the policies of `refine.hygiene`.

        Parameters
        ----------
        values : array_like, shape (n,)
            Norms as logged; nan, infinite, zero and negative ones are dropped and counted.
        steps : array_like, shape (n,), optional
            Steps as logged; by default ``every, 2 * every, ...``.
        every : int
            Updates between two rows where there are no steps.
        logged_steps : int, optional
            Updates of the whole logged run, where the log stops early. By default its last step, plus
            the (median) stride where it starts at 0.
        batch_size : array_like, shape (T,), optional
            Of every update of the whole logged run.

        Examples
        --------
        >>> norms = GradientNorms.from_values([2.0, float("nan"), 1.0, 1.0], [0, 10, 20, 30])
        >>> norms.steps.tolist(), norms.total_steps, dict(norms.dropped)
        ([0, 20, 30], 40, {'non-finite': 1})
        """
        if isinstance(values, Schedule):
            raise RefineError("norms is a Schedule; it must be the gradient norms of a run: read_norms reads a log")
        raw = numbers("norms", values)
        given = None if steps is None else numbers("steps", steps)
        if raw.ndim != 1:
            raise RefineError(
                f"norms have shape {raw.shape}; they must be (n,), one a logged update: "
                "give fit a table as a pandas DataFrame"
            )
        every = check_count("every", every, least=1)
        axis = np.arange(1, raw.size + 1, dtype=np.float64) * every if given is None else given
        cleaned = clean(axis, raw)
        norms = cls.from_cleaned(
            cleaned,
            kind=kind,
            logged_steps=logged_steps,
            learning_rate=match(axis, learning_rate, cleaned.steps),
            loss=match(axis, loss, cleaned.steps),
            source=source or Source(rows=raw.size),
        )
        sizes = None if batch_size is None else numbers("batch_size", batch_size)
        return norms if sizes is None else replace(norms, batch_size=sizes)

    @classmethod
    def from_cleaned(
        cls,
        cleaned: Cleaned,
        *,
        kind: NormKind,
        logged_steps: int | None,
        learning_rate: NDArray[np.float64] | None,
        loss: NDArray[np.float64] | None,
        source: Source,
        extras: Mapping[str, NDArray[np.float64]] | None = None,
        rates: tuple[NDArray[np.int64], NDArray[np.float64]] | None = None,
        travel: Travel | None = None,
        l1: NDArray[np.float64] | None = None,
    ) -> GradientNorms:
        """Norms of what `refine.hygiene.clean` has left, with other columns at its steps."""
        total = int(cleaned.steps[-1]) if cleaned.steps.size else 0
        if cleaned.steps.size > 1 and cleaned.from_zero:
            total += stride(cleaned.steps)
        return cls(
            cleaned.steps,
            cleaned.values,
            kind,
            total if logged_steps is None else check_count("logged_steps", logged_steps, least=1),
            learning_rate,
            loss,
            cleaned.dropped,
            cleaned.out_of_order,
            source,
            cleaned.from_zero,
            extras or {},
            dropped_at=cleaned.where,
            rates=rates,
            travel=travel,
            l1=l1,
        )

    def with_dropped(self, more: Mapping[str, int]) -> GradientNorms:
        """Add to the account of dropped rows."""
        return replace(self, dropped={**self.dropped, **more}) if more else self

    @property
    def stride(self) -> int:
        """Usual number of steps between two points."""
        return stride(self.steps)

    @property
    def updates(self) -> NDArray[np.int64]:
        """Update of each point, counted from 0."""
        return self.steps if self.from_zero else self.steps - 1

    @property
    def spacing(self) -> str:
        """How the points stand, in words; "every step" only where every update of the run has one."""
        gaps = np.diff(self.steps)
        low, high = int(gaps.min()), int(gaps.max())
        if low == high:
            whole = self.steps.size == self.total_steps
            return f"every {low} steps" if low > 1 else "every step" if whole else "every step of a part"
        return f"usually every {self.stride} steps" if high < 2 * self.stride else f"{low:,} to {high:,} steps apart"

    def smoothed(self, fraction: float = 0.1) -> NDArray[np.float64]:
        """Norms at the logged points, smoothed by a running median over a share of the updates; shape (n,).

        Both ends are reflected (`refine.smoothing.smooth`).
        """
        return smooth(self.values, self.updates, fraction=fraction)

    @property
    def longest_gap(self) -> int:
        """Most consecutive updates without a point, the unlogged start and end included."""
        edges = np.concatenate([[-1], self.updates, [self.total_steps]])
        return int(np.diff(edges).max()) - 1

    def on_updates(self, column: NDArray[np.float64], total_steps: int) -> NDArray[np.float64]:
        """Interpolate a column linearly onto every update of a run of ``total_steps``.

        Points stand at the same fraction of training in both runs; the ends are held.
        """
        if column.size == total_steps == self.total_steps and np.all(np.isfinite(column)):
            return column  # a point an update: nothing to interpolate
        known = np.isfinite(column)
        return on_fraction((self.updates[known] + 0.5) / self.total_steps, column[known], total_steps)


def on_fraction(at: NDArray[np.float64], values: NDArray[np.float64], total_steps: int) -> NDArray[np.float64]:
    """Interpolate values at fractions of training onto every update of a run; the ends are held.

    Examples
    --------
    >>> on_fraction(np.array([0.25, 0.75]), np.array([1.0, 3.0]), 4).tolist()
    [1.0, 1.5, 2.5, 3.0]
    """
    return np.interp((np.arange(total_steps) + 0.5) / total_steps, at, values)

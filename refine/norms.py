"""`GradientNorms`: what a log says, cleaned, with an account of what was dropped and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from .errors import RefineError
from .files import printable
from .hygiene import clean, match, stride
from .refinement import OptimizerFamily
from .schedule import check_count

__all__ = ["GradientNorms", "NormKind", "Source"]

NormKind = Literal["l2", "l1", "dual"]
"""l2 and l1 of the gradient, or ``dual``: the optimizer's own squared norm (Adam family:
sum_i g_i^2 / (sqrt(v_i) + eps), which takes the place of the l1 norm)."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where norms were read: file, format and columns, and what had to be guessed.

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
    """

    name: str = "array"
    format: str = "array"
    columns: Mapping[str, str] = field(default_factory=dict)
    rows: int = 0
    kind_known: bool = True
    optimizer: OptimizerFamily | None = None
    notes: tuple[str, ...] = ()


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

    def __post_init__(self) -> None:
        steps = np.array(self.steps)
        if steps.dtype.kind not in "iu":
            raise RefineError(f"steps have the type {steps.dtype}; they must be integers")
        steps = steps.astype(np.int64)
        object.__setattr__(self, "steps", steps)
        for name in ("values", "learning_rate", "loss"):
            column = getattr(self, name)
            if column is not None:
                column = np.array(column, dtype=np.float64)
                if column.shape != steps.shape or steps.ndim != 1:
                    raise RefineError(f"{name} has shape {column.shape} and steps {steps.shape}; both must be (n,)")
                column.flags.writeable = False
                object.__setattr__(self, name, column)
        steps.flags.writeable = False
        if self.kind not in get_args(NormKind):
            raise RefineError(f"the norm kind is {self.kind!r}; it must be one of l2, l1, dual")
        if steps.size < 2:
            raise RefineError(
                f"the number of usable gradient norms is {steps.size}; at least 2 are needed: name a log of a whole run"
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
        empty: NDArray[np.bool_] | None = None,
        logged_steps: int | None = None,
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
        empty : ndarray of bool, shape (n,), optional
            Rows that hold no norm at all, as opposed to a logged nan.
        logged_steps : int, optional
            Updates of the whole logged run, where the log stops early. By default its last step, plus
            the (median) stride where it starts at 0.

        Examples
        --------
        >>> norms = GradientNorms.from_values([2.0, float("nan"), 1.0, 1.0], [0, 10, 20, 30])
        >>> norms.steps.tolist(), norms.total_steps, dict(norms.dropped)
        ([0, 20, 30], 40, {'non-finite': 1})
        """
        try:
            raw = np.asarray(values, dtype=np.float64)
            given = None if steps is None else np.asarray(steps, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise RefineError(f"norms and steps must be arrays of numbers: {printable(error)}") from None
        every = check_count("every", every, least=1)
        axis = np.arange(1, raw.size + 1, dtype=np.float64) * every if given is None else given
        cleaned = clean(axis, raw, empty)
        kept = cleaned.steps
        total = int(kept[-1]) if kept.size else 0
        # The norm of step 0 may have been dropped; a row without any belongs to another metric.
        of_norms = axis if empty is None else axis[~empty]
        from_zero = bool(np.any(of_norms == 0))
        if kept.size > 1 and from_zero:
            total += stride(kept)
        return cls(
            kept,
            cleaned.values,
            kind,
            total if logged_steps is None else check_count("logged_steps", logged_steps, least=1),
            match(axis, learning_rate, kept),
            match(axis, loss, kept),
            cleaned.dropped,
            cleaned.out_of_order,
            source or Source(rows=raw.size),
            from_zero,
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
        at = (self.updates[known] + 0.5) / self.total_steps
        return np.interp((np.arange(total_steps) + 0.5) / total_steps, at, column[known])

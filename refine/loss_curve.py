"""`LossCurve`: the losses of one run and the learning rate of every update; several runs, and their branches."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from .errors import RefineError
from .files import printable
from .hygiene import last_of_each_step, ordered, stride
from .norms import GradientNorms, numbers
from .prior import check_peak, logged_rates
from .rates import every_rate
from .schedule import MAX_STEPS, Schedule, check_count

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["CurveLike", "LossCurve", "Sort", "as_curves", "sound_losses", "stitch"]

Sort = Literal["validation", "training"]
"""Of held-out data, or of the batches that were trained on."""

CurveLike: TypeAlias = "str | os.PathLike[str] | pd.DataFrame | GradientNorms | LossCurve"

LEAST_POINTS = 2
_SMALLEST, _LARGEST = 1e-30, 1e30
"""Losses beyond these are none, nor are peak learning rates: their squares have to be floats."""

_DIVERGED, _SCATTER, _SKIPPED, _HELD = 1.3, 5.0, 0.05, 5
_AGREE, _BEFORE, _LATE = 0.1, 0.5, 0.02
"""Share by which a branch and its trunk may differ where it begins; a trunk is known from this share of the way there
on; a log that starts before the last share of its run is no branch."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class LossCurve:
    """Losses of one run, and the learning rate of every update.

    Make it with `from_values` or `refine.read_losses`, which clean; the constructor only checks.

    Parameters
    ----------
    steps : (n,) int64
        Updates done when each loss was measured, >= 0, strictly increasing.
    losses : (n,) float64
        Finite and above 0, n >= 2.
    rates : (T,) float64
        Learning rate of each update t = 0 ... T - 1, absolute, finite, >= 0, one at least above 0; T >= ``steps[-1]``.
    sort : {"validation", "training"}
    name, column : str
        Of the log, and of the losses in it, for messages.
    noise : (T,) float64 or None
        Noise of the gradient by the batch size of each update, 1 at the largest batch; None where that is not known to
        change.
    window : int
        Updates that each loss is a mean of: those since the row before. Such a loss belongs to the middle of them.
    notes : tuple of str
        What was assumed, a sentence each.
    known_from : int
        First update whose rate is logged; those before are assumed, or taken from a trunk (`stitch`).
    lost : int
        Losses at the very end that were not finite, where they are more than ever lay between two that were.
    epochs : float or None
        Times that the training data was seen, where the log says so.

    Examples
    --------
    >>> curve = LossCurve.from_values([3.0, 2.5, 2.25], every=2, rates=[0.1, 0.2, 0.2, 0.2, 0.1, 0.1])
    >>> curve
    LossCurve(points=3, steps=2..6, total_steps=6, peak_lr=0.2, sort='validation', name='array')
    >>> curve.warmup_steps, curve.diverged
    (2, False)
    """

    steps: NDArray[np.int64]
    losses: NDArray[np.float64]
    rates: NDArray[np.float64]
    sort: Sort
    name: str = "array"
    column: str = "loss"
    noise: NDArray[np.float64] | None = None
    window: int = 1
    notes: tuple[str, ...] = ()
    known_from: int = 0
    lost: int = 0
    epochs: float | None = None

    def __post_init__(self) -> None:
        for name, kind in (("steps", np.int64), ("losses", np.float64), ("rates", np.float64), ("noise", np.float64)):
            if getattr(self, name) is not None:
                array = np.array(getattr(self, name), dtype=kind)
                array.flags.writeable = False
                object.__setattr__(self, name, array)
        steps, losses, rates = self.steps, self.losses, self.rates
        if self.sort not in get_args(Sort):
            raise RefineError(f"sort is {self.sort!r}; it must be one of validation, training")
        if steps.ndim != 1 or losses.shape != steps.shape:
            raise RefineError(f"losses have shape {losses.shape} and steps {steps.shape}; both must be (n,)")
        if steps.size < LEAST_POINTS:
            raise RefineError(
                f"the number of usable losses is {steps.size}; at least {LEAST_POINTS} are needed: name a log of a "
                "whole run"
            )
        if steps[0] < 0 or not np.all(np.diff(steps) > 0):
            raise RefineError("steps must be >= 0 and increase strictly; LossCurve.from_values sorts them")
        if not (losses.min() >= _SMALLEST and losses.max() <= _LARGEST):  # then all are finite
            raise RefineError(
                "losses must be finite and above 0; LossCurve.from_values drops those that are not finite"
            )
        if rates.ndim != 1 or rates.size < steps[-1]:
            raise RefineError(
                f"rates have shape {rates.shape} and the losses go to step {steps[-1]}; there must be one an update, "
                "(T,)"
            )
        if not (
            rates.min(initial=0.0) >= 0.0 and _SMALLEST <= rates.max(initial=0.0) <= _LARGEST
        ):  # then all are finite
            raise RefineError(
                f"rates must be finite, not below 0 and not all 0, their peak from {_SMALLEST:g} to {_LARGEST:g}; name "
                "the learning rate of every update"
            )
        if self.noise is not None and self.noise.shape != rates.shape:
            raise RefineError(f"noise has shape {self.noise.shape} and rates {rates.shape}; both must be (T,)")

    def __repr__(self) -> str:
        return (
            f"LossCurve(points={self.steps.size}, steps={self.steps[0]}..{self.steps[-1]}, "
            f"total_steps={self.total_steps}, peak_lr={self.peak_lr:g}, sort={self.sort!r}, name={self.name!r})"
        )

    @classmethod
    def from_values(
        cls,
        losses: npt.ArrayLike,
        steps: npt.ArrayLike | None = None,
        *,
        rates: Schedule | npt.ArrayLike,
        peak_lr: float | None = None,
        every: int = 1,
        sort: Sort = "validation",
        name: str = "array",
        total_steps: int | None = None,
    ) -> LossCurve:
        """Clean raw losses, and give every update its learning rate.

        Parameters
        ----------
        losses : array_like, shape (n,)
            As logged; those that are not finite are dropped and counted.
        steps : array_like, shape (n,), optional
            Updates done when each was measured; by default ``every, 2 * every, ...``. A later row of a step supersedes
            those before, as of a resumed run.
        rates : Schedule or array_like, shape (T,) or (n,)
            Learning rate of every update; a schedule, whose multipliers ``peak_lr`` turns into rates; or the rates at
            the same steps as the losses, which are interpolated.
        total_steps : int, optional
            Updates of the run, where the losses stop before.

        Examples
        --------
        >>> LossCurve.from_values([3.0, 2.5], [10, 20], rates=[0.2, 0.1]).rates[[0, 9, 14, 19]].round(3).tolist()
        [0.2, 0.2, 0.15, 0.1]
        """
        check_peak(peak_lr)
        values = numbers("losses", losses)
        every = check_count("every", every, least=1)
        axis = np.arange(1, values.size + 1) * float(every) if steps is None else numbers("steps", steps)
        kept, values, lost, notes = sound_losses(np.asarray(axis, dtype=np.float64), values)
        last = int(kept[-1]) if kept.size else 0
        total = last if total_steps is None else check_count("total_steps", total_steps, least=max(last, 1))
        if isinstance(rates, Schedule):
            if peak_lr is None:
                raise RefineError("a Schedule holds multipliers; give the peak learning rate of the run with peak_lr")
            fits = total_steps is None and len(rates) >= total
            rated = (rates if fits else rates.resample(total)).multiplier * peak_lr
            return cls(kept, values, rated, sort, name, notes=notes, lost=lost)
        if peak_lr is not None:
            raise RefineError("peak_lr goes with a Schedule, and rates are absolute; leave it out")
        rated = numbers("rates", rates)
        if rated.size == axis.size and rated.size < total:  # at the steps of the losses
            labels, found = last_of_each_step(np.asarray(axis, dtype=np.float64), rated)
            at = labels - int(labels.size > 0 and labels[0] > 0)
            if not at.size or found.min() < 0.0:
                raise RefineError("rates must be finite and not below 0; name the learning rate at every loss")
            rated, assumed = every_rate(at, found, total)
            known_from = min(int(at[0]), total - 1)
            return cls(kept, values, rated, sort, name, notes=(*notes, *assumed), lost=lost, known_from=known_from)
        if total_steps is not None and rated.size != total:
            raise RefineError(f"rates have shape {rated.shape} and total_steps is {total}; give one rate an update")
        return cls(kept, values, rated, sort, name, notes=notes, lost=lost)

    @property
    def total_steps(self) -> int:
        """Updates of the run, T."""
        return int(self.rates.size)

    @property
    def peak_lr(self) -> float:
        """Largest learning rate."""
        return float(self.rates.max())

    @property
    def warmup_steps(self) -> int:
        """Updates until the rate first reached its peak; 0 if it started there."""
        first = int(np.argmax(self.rates >= self.peak_lr * (1.0 - 1e-6)))
        return first + 1 if first else 0

    @property
    def diverged(self) -> bool:
        """Whether the run ended in losses that were not finite, or far above the lowest that it had held."""
        losses = self.losses
        if self.lost >= max(1.0, 0.01 * (losses.size + self.lost)):
            return True
        end = float(np.median(losses[-max(1, losses.size // 50) :]))
        each = min(_HELD, losses.size)
        low = float(np.median(losses[: losses.size // each * each].reshape(-1, each), axis=1).min())
        scatter = float(np.median(np.abs(np.diff(losses)))) if losses.size > 1 else 0.0
        return end > _DIVERGED * low and end - low > _SCATTER * scatter


def sound_losses(
    steps: NDArray[np.float64], losses: NDArray[np.float64], called: str = "losses"
) -> tuple[NDArray[np.int64], NDArray[np.float64], int, tuple[str, ...]]:
    """Steps and losses, (n,), in order, one a step; how many at the end were not finite; what was left out.

    Raises
    ------
    RefineError
        A loss below 0, or of 0 in more than 5 % of the rows; steps that count no updates.

    Examples
    --------
    >>> steps, losses, lost, notes = sound_losses(np.array([1.0, 2.0, 3.0]), np.array([3.0, 2.0, np.nan]))
    >>> steps.tolist(), losses.tolist(), lost, notes
    ([1, 2], [3.0, 2.0], 1, ('1 loss is not finite and left out',))
    """
    if steps.shape != losses.shape or steps.ndim != 1:
        raise RefineError(f"losses have shape {losses.shape} and steps {steps.shape}; both must be (n,)")
    placed = np.isfinite(steps) & (steps >= 0.0)
    steps, losses = steps[placed], losses[placed]
    notes = [_count(int(np.count_nonzero(~placed)), "without a step")]
    marks = losses == 0.0
    zeros, measured = int(np.count_nonzero(marks)), int(np.count_nonzero(np.isfinite(losses)))
    skipped = zeros <= _SKIPPED * measured
    if skipped:  # updates that were skipped, as loggers write them
        notes.append(_count(zeros, "0, as of a skipped update,"))
        steps, losses = steps[~marks], losses[~marks]
    low = np.flatnonzero((losses <= 0.0) & np.isfinite(losses))
    if low.size:
        few = "" if skipped else f", and of skipped updates at most {_SKIPPED:.0%} are 0, here {zeros} of {measured}"
        raise RefineError(
            f"{called}: {losses[low[0]]:g} at step {steps[low[0]]:.0f}; a loss is above 0{few}: choose another column "
            "with --loss-column"
        )
    finite = (losses >= _SMALLEST) & (losses <= _LARGEST)  # nan is not
    kept, values, again, _ = ordered(steps[finite], losses[finite])
    if kept.size and kept[-1] > MAX_STEPS:
        raise RefineError(
            f"a step is {int(kept[-1])}; steps count optimizer updates, and {MAX_STEPS} are the limit: choose another "
            "with --step-column"
        )
    bad = np.unique(steps[~finite])
    if bad.size:
        bad = bad[~np.isin(bad, kept)]  # a resumed run may have passed it well
    before = np.searchsorted(bad, kept)
    lost = int(bad.size - before[-1]) if kept.size else int(bad.size)
    # A column may hold nan wherever nothing was measured: those after its last loss are no divergence.
    if lost <= np.diff(before).max(initial=0):
        lost = 0
    notes.append(_count(int(bad.size), "not finite"))
    notes.append(f"{again.size} losses are superseded by later rows of their steps" if again.size else "")
    return kept, values, lost, tuple(filter(None, notes))


def _count(count: int, what: str) -> str:
    return "" if not count else f"{count} {'loss is' if count == 1 else 'losses are'} {what} and left out"


def as_curves(logs: CurveLike | Sequence[CurveLike], **read: Any) -> list[LossCurve]:
    """Loss curves of whatever the caller has, one a run: paths, DataFrames, GradientNorms, LossCurves.

    Of files that hold learning rates and no losses, those are taken for the one that holds losses. A log that holds
    several runs becomes as many curves unless ``run`` chooses. Cooldown branches get the rates of their trunks
    (`stitch`).

    Parameters
    ----------
    logs : path, DataFrame, GradientNorms, LossCurve, or a sequence of them
    **read
        Of `refine.read_losses`.

    Examples
    --------
    >>> curve = LossCurve.from_values([3.0, 2.0], rates=[0.1, 0.1])
    >>> as_curves([curve]) == [curve]
    True
    """
    read = {name: value for name, value in read.items() if value is not None}
    several = isinstance(logs, (list, tuple))
    given: list[Any] = list(logs) if several else [logs]  # type: ignore[arg-type]
    if several and not given:
        raise RefineError("there is no log; name one at least")
    paths = [os.fspath(log) for log in given if isinstance(log, (str, os.PathLike))]
    found: dict[str | int, list[LossCurve]] = {}
    if paths:
        from .readers.losses import read_curves

        found |= read_curves(paths, **read)
    curves: list[LossCurve] = []
    for place, log in enumerate(given):
        if isinstance(log, (str, os.PathLike)):
            curves += found.pop(os.fspath(log), [])
        elif isinstance(log, (LossCurve, GradientNorms)):
            if read:
                raise RefineError(f"{next(iter(read))} says how to read a log, and this one is read; leave it out")
            curves.append(log if isinstance(log, LossCurve) else _of_norms(log))
        elif hasattr(log, "columns") and hasattr(log, "iloc"):
            from .readers.losses import of_frame

            curves.append(of_frame(log, name=f"DataFrame {place + 1}" if several else "DataFrame", **read))
        else:
            raise RefineError(
                f"a log is a {type(log).__name__}; it must be a path, a DataFrame, GradientNorms or a LossCurve "
                "(LossCurve.from_values takes arrays)"
            )
    return stitch(curves)


def _of_norms(norms: GradientNorms) -> LossCurve:
    """The losses and rates that stand beside norms."""
    at, rates = logged_rates(norms) if norms.loss is not None else (np.zeros(0, dtype=np.int64), np.zeros(0))
    if norms.loss is None or not rates.any():
        missing = "losses" if norms.loss is None else "learning rates above 0"
        raise RefineError(
            f"{printable(norms.source.name)}: its norms have no {missing} beside them; give the log itself"
        )
    kept, losses, lost, notes = sound_losses(norms.steps.astype(np.float64), norms.loss)
    every, assumed = every_rate(at, rates, norms.total_steps)
    name, column = norms.source.name, norms.source.columns.get("loss", "loss")
    return LossCurve(
        kept,
        losses,
        every,
        "training",
        name,
        column,
        noise=None if norms.batch_size is None else norms.batch_size.max() / norms.batch_size,
        notes=(*notes, *assumed),
        known_from=min(int(at[0]), every.size - 1),
        lost=lost,
    )


def stitch(curves: Iterable[LossCurve]) -> list[LossCurve]:
    """Give cooldown branches and resumed runs, whose logs start late, the rates of their trunk before.

    A trunk is another of the curves whose rates are known long before, reach the branch, and are there within 10 % of
    the branch's first; its losses there are within 10 %, too. Where several are, and disagree, the nearest rate wins. A
    branch keeps its own losses alone, so that those of a trunk that is fitted too count once.

    Examples
    --------
    >>> trunk = LossCurve.from_values([4.0, 3.0, 2.9], every=20, rates=[0.1] * 10 + [0.2] * 50)
    >>> late = LossCurve.from_values([2.9, 2.8], [50, 60], rates=[0.19, 0.1])
    >>> late.rates[:3].tolist(), stitch([trunk, late])[1].rates[:3].tolist()
    ([0.19, 0.19, 0.19], [0.1, 0.1, 0.1])
    """
    curves = list(curves)
    return [_stitched(curve, [other for other in curves if other is not curve]) for curve in curves]


def _stitched(curve: LossCurve, others: Sequence[LossCurve]) -> LossCurve:
    start = curve.known_from
    trunks = [other for other in others if start and _is_trunk(other, curve)]
    if not trunks:
        return curve
    first = curve.rates[start]
    trunk = min(trunks, key=lambda other: abs(other.rates[min(start, other.total_steps) - 1] - first))
    shared = min(start, trunk.total_steps)
    rates = curve.rates.copy()
    rates[:shared] = trunk.rates[:shared]
    if shared < start:
        rates[shared:start] = np.interp(np.arange(shared, start), [shared - 1, start], [trunk.rates[shared - 1], first])
    notes = tuple(note for note in curve.notes if not note.startswith("rates before update"))
    note = f"the log starts at update {start + 1}: the rates before are those of {printable(trunk.name)}"
    return replace(curve, rates=rates, notes=(*notes, note), known_from=trunk.known_from)


def _is_trunk(other: LossCurve, branch: LossCurve) -> bool:
    """Whether a run was at the branch's rate, and at its loss, where the branch begins."""
    start, gap = branch.known_from, stride(branch.steps)
    if start < max(gap, _LATE * branch.total_steps):
        return False
    if other.known_from > _BEFORE * start or other.total_steps < start - gap:
        return False
    rate, first = other.rates[min(start, other.total_steps) - 1], branch.rates[start]
    if abs(rate - first) > _AGREE * max(rate, first):
        return False
    losses = branch.losses[:5]
    there = np.interp(branch.steps[:5], other.steps, other.losses)
    return other.sort != branch.sort or bool(abs(np.log(losses / there).mean()) < _AGREE)

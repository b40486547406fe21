"""What is compared: every way to a schedule that a suite tries.

A candidate is a line in `METHODS`. Families are tried with every warmup of `WARMUPS`; the tuned one is the best on the
tuning seeds. A refined schedule is fitted on the log of another method's tuned run, of another seed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..analysis import fit as refine_norms
from ..diagnostics import end_to_start, near_separable
from ..errors import RefineError
from ..families import with_warmup
from ..norms import GradientNorms, Source
from ..refinement import inverse_squared_norms
from ..result import Refinement
from ..schedule import Schedule
from ..smoothing import smooth
from .candidates import CANDIDATES, Evidence
from .outcome import Log
from .problems import Optimizer

__all__ = ["BASELINE", "CONFIRMED", "METHODS", "TRIED", "WARMUPS", "Fitted", "Method", "fit"]

BASELINE = "linear"

WARMUPS = (0.05, 0.0, 0.2)
"""Fractions of the run; the first is the fixed one."""

_PEAKS = (0.3, 0.1, 0.45)
"""Where one-cycle has its peak; the first is its default."""

_MODES = ("default", "paper", "refined", "unguarded", "progress")
"""What is made of a log: the recommended schedule; the published algorithm; the refined schedule with the guard of old,
linear decay where the norms fall a lot; without it; the progress form."""


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """A schedule that was made of a log, whether it is linear decay, and the suggested peak rates over the old one."""

    schedule: Schedule
    is_linear: bool
    peak_lr_ratio: float | None
    peak_lr_ratio_by_bound: float | None
    result: Refinement


@dataclass(frozen=True, slots=True)
class Method:
    """One way to a schedule.

    Attributes
    ----------
    name : str
    schedules : tuple of str
        A family: texts for `refine.from_name`, a warmup each, the fixed one first.
    mode : str
        A refined schedule: how it is fitted.
    prior : str
        Name of the method whose log it is fitted on.
    package : str
        A learning-rate-free method: its name in `refine.bench.packages`.
    again : bool
        A family that is tuned on other seeds than the rest: a control.
    """

    name: str
    schedules: tuple[str, ...] = ()
    mode: str = ""
    prior: str = ""
    package: str = ""
    again: bool = False


def _family(name: str, text: str) -> Method:
    """A family with every warmup; ``{rest}`` is the part of the run behind it."""
    return Method(name, tuple(f"{text.format(rest=f'{1 - w:g}')}warmup_fraction={w:g}" for w in WARMUPS))


def _refined(mode: str, prior: str) -> Method:
    return Method(f"{mode}({prior})", mode=mode, prior=prior)


METHODS: tuple[Method, ...] = (
    _family("linear", "linear:"),
    _family("constant", "constant:"),
    _family("step", "step:"),
    _family("cosine", "cosine:"),
    _family("1-sqrt", "wsd:{rest},shape=sqrt,"),
    _family("wsd", "wsd:0.2,"),
    Method("one-cycle", tuple(f"one_cycle:warmup_fraction={peak:g}" for peak in _PEAKS)),
    replace(_family("linear, again", "linear:"), again=True),
    *(_refined(mode, "linear") for mode in _MODES),
    *(_refined(mode, prior) for prior in ("constant", "wsd") for mode in ("default", "paper", "refined")),
    *(_refined(mode, f"{mode}(linear)") for mode in ("default", "paper", "refined")),
    *(Method(name, package=name) for name in ("schedulefree", "dadaptation", "prodigy", "mechanic")),
)


TRIED: tuple[Method, ...] = (
    *(method for method in METHODS if method.name.startswith(BASELINE)),
    *(Method(name, mode=name, prior=BASELINE) for name in CANDIDATES),
    _refined("default", BASELINE),
)
"""What the default was chosen from, the default, and the control."""

CONFIRMED: tuple[Method, ...] = (
    *(method for method in METHODS if method.schedules),
    *(Method(name, mode=name, prior=BASELINE) for name in ("(1-x)^0.75", "(1-x)^1.25", "base wsd 0.5")),
    _refined("default", BASELINE),
)
"""What the default is confirmed against: families with tuned warmups, the bends of an earlier rule, the control."""


def fit(mode: str, log: Log, multiplier: NDArray[np.float64], rate: float, optimizer: Optimizer) -> Fitted:
    """Refine from what was recorded: the l2 norm for SGD, l1 for the Adam family, and the rates.

    Parameters
    ----------
    mode : str
        Of `METHODS`.
    log : Log
    multiplier : ndarray, shape (T,)
        Schedule of the logged run.
    rate : float
        Its peak learning rate.
    """
    kind, values = ("l2", log.l2) if optimizer.family == "sgd" else ("l1", log.l1)
    norms = GradientNorms.from_values(
        values,
        kind=kind,  # type: ignore[arg-type]
        learning_rate=rate * multiplier,
        loss=log.loss,
        logged_steps=multiplier.size,
        source=Source(name="refine bench", format="refine bench", optimizer=optimizer.family, rows=values.size),
    )
    hold = None if mode == "default" else 0.0  # only the default asks the losses, which takes longer than all else
    result = refine_norms(norms, optimizer=optimizer.family, published=mode == "paper", hold=hold)
    if mode == "default":
        return _fitted(result, "recommended", result.shape == "linear")
    if mode in ("paper", "unguarded"):
        return _fitted(result, "refined", not result.computed)
    if mode == "refined":
        guarded = near_separable(result.checks) or not result.computed
        return _fitted(result, "linear" if guarded else "refined", guarded)
    return _candidate("progress 1/4" if mode == "progress" else mode, result)


def _fitted(result: Refinement, name: str, is_linear: bool) -> Fitted:
    own = result.measures[name]
    return Fitted(result.schedules[name], is_linear, own.peak_lr_ratio, own.peak_lr_ratio_by_bound, result)


def _candidate(name: str, like: Refinement) -> Fitted:
    """Linear decay as `refine.fit` gives it, with a candidate in its place, at equal area."""
    norms, rates = like.norms, like.prior.multiplier
    if rates is None or norms.loss is None:
        raise RefineError(f"{name} needs the learning rates and the losses of the log; it lacks them")
    loss = norms.on_updates(norms.loss, norms.total_steps)
    reflected, published = (
        norms.on_updates(column, norms.total_steps) for column in (like.smoothed, smooth(norms.values, left="nearest"))
    )
    squared, padded = (
        1.0 / inverse_squared_norms(column, optimizer=like.optimizer) for column in (reflected, published)
    )
    candidate = CANDIDATES[name](Evidence(squared, padded, rates, loss, end_to_start(reflected)))
    multiplier = with_warmup(candidate, like.warmup_steps)
    same = np.allclose(multiplier, like.linear.multiplier, rtol=1e-6, atol=0.0)
    schedule = like.linear if same else Schedule(multiplier)
    by_bound = like.measures["linear"].peak_lr_ratio_by_bound
    return Fitted(schedule, same, like.prior.peak_ratio(multiplier), by_bound, like)

"""What is compared: every way to a schedule that a suite tries.

A candidate is a line in `METHODS`. Families are tried with every warmup of `WARMUPS`; the tuned one is the best on the
tuning seeds. A refined schedule is fitted on the log of another method's tuned run, of another seed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..analysis import Refinement, refined_schedule
from ..diagnostics import end_to_start
from ..errors import RefineError
from ..families import with_warmup
from ..norms import GradientNorms, Source
from ..refinement import inverse_squared_norms
from ..schedule import Schedule
from ..smoothing import smooth
from .candidates import CANDIDATES, Evidence
from .outcome import Log
from .problems import Optimizer

__all__ = ["BASELINE", "CONFIRMED", "METHODS", "TRIED", "WARMUPS", "Method", "fit"]

BASELINE = "linear"

WARMUPS = (0.05, 0.0, 0.2)
"""Fractions of the run; the first is the fixed one."""

_PEAKS = (0.3, 0.1, 0.45)
"""Where one-cycle has its peak; the first is its default."""

_MODES: dict[str, dict[str, Any]] = {
    "default": {"mode": "auto"},
    "paper": {"mode": "paper"},
    "refined": {"mode": "refined"},
    "unguarded": {"mode": "refined", "guard": False},
    "progress": {"mode": "progress"},
}


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
"""What the default is confirmed against: families with tuned warmups, its own two bends everywhere, the control."""


def fit(mode: str, log: Log, multiplier: NDArray[np.float64], rate: float, optimizer: Optimizer) -> Refinement:
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
    if mode in _MODES:
        return refined_schedule(norms, optimizer=optimizer.family, **_MODES[mode])
    return _candidate(mode, norms, optimizer)


def _candidate(name: str, norms: GradientNorms, optimizer: Optimizer) -> Refinement:
    """Linear decay as `refine fit` would give it, with a candidate in its place, at equal area."""
    like = refined_schedule(norms, optimizer=optimizer.family, mode="linear")
    rates = like.prior.multiplier
    if rates is None or norms.loss is None:
        raise RefineError(f"{name} needs the learning rates and the losses of the log; it lacks them")
    loss = norms.on_updates(norms.loss, norms.total_steps)
    reflected, published = (
        norms.on_updates(column, norms.total_steps) for column in (like.smoothed, smooth(norms.values, left="nearest"))
    )
    squared, padded = (
        1.0 / inverse_squared_norms(column, optimizer=optimizer.family) for column in (reflected, published)
    )
    candidate = CANDIDATES[name](Evidence(squared, padded, rates, loss, end_to_start(reflected)))
    multiplier = with_warmup(candidate, like.warmup_steps)
    if np.allclose(multiplier, like.schedule.multiplier, rtol=1e-6, atol=0.0):
        return replace(like, peak_lr_ratio=like.prior.peak_ratio(multiplier))
    return replace(
        like,
        schedule=Schedule(multiplier),
        decision="refined",
        peak_lr_ratio=like.prior.peak_ratio(multiplier),
    )

"""What is compared: every way to a schedule that a suite tries.

A candidate is a line in `METHODS`. Families are tried with every warmup of `WARMUPS`; the tuned one is the best on the
tuning seeds. A refined schedule is fitted on the log of another method's tuned run, of another seed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ..analysis import fit as refine_norms
from ..default import choose, scheduled
from ..diagnostics import end_to_start, near_separable
from ..errors import RefineError
from ..families import with_warmup
from ..level_shifts import noise_level, shifts_of
from ..norms import GradientNorms, Source
from ..refinement import EXPONENTS, inverse_squared_norms
from ..result import Refinement
from ..schedule import Schedule
from ..smoothing import smooth
from .candidates import CANDIDATES, Evidence
from .outcome import Log
from .problems import Optimizer

__all__ = ["BASELINE", "CONFIRMED", "METHODS", "RECOMMENDED", "TRIED", "WARMUPS", "Fitted", "Method", "fit"]

BASELINE = "linear"

WARMUPS = (0.05, 0.0, 0.2)
"""Fractions of the run; the first is the fixed one."""

_ONE_CYCLE = (0.3, 0.1, 0.45)
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
    at : float
        Run at this multiple of the rate of tuned linear decay, not swept; a schedule that is fitted: at what is
        suggested from a log of such a run. 0: swept.
    """

    name: str
    schedules: tuple[str, ...] = ()
    mode: str = ""
    prior: str = ""
    package: str = ""
    again: bool = False
    at: float = 0.0


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
    Method("one-cycle", tuple(f"one_cycle:warmup_fraction={peak:g}" for peak in _ONE_CYCLE)),
    replace(_family("linear, again", "linear:"), again=True),
    *(_refined(mode, "linear") for mode in _MODES),
    *(_refined(mode, prior) for prior in ("constant", "wsd") for mode in ("default", "paper", "refined")),
    *(_refined(mode, f"{mode}(linear)") for mode in ("default", "paper", "refined")),
    *(Method(name, package=name) for name in ("schedulefree", "dadaptation", "prodigy", "mechanic")),
)


RECOMMENDED: tuple[Method, ...] = METHODS[0], _refined("default", BASELINE)
"""Tuned linear decay and what is recommended."""

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


_FIXED = {
    "linear": "linear:",
    "cosine": "cosine:",
    "1-sqrt": "wsd:{rest},shape=sqrt,",
    "wsd": "wsd:0.2,",
    "wsd 0.5": "wsd:0.5,",
}

_FIXED_FAMILIES = tuple(
    replace(_family(name, text), schedules=_family(name, text).schedules[:1]) for name, text in _FIXED.items()
)

CHANGING_CHOICES: tuple[Method, ...] = (
    *_FIXED_FAMILIES,
    *(
        _refined(mode, BASELINE)
        for mode in ("paper", "unguarded", "shifts", "shifts 2", "shifts 1/B", "hold", "hold on 1/N")
    ),
)
"""What was chosen from where the noise changes: one warmup, 5 %."""

CHANGING: tuple[Method, ...] = (
    *_FIXED_FAMILIES,
    *(_refined(mode, BASELINE) for mode in ("paper", "unguarded", "shifts", "hold", "hold on 1/N", "default")),
    *(Method(name, package=name) for name in ("schedulefree", "momo")),
)
"""What the recommended schedule is confirmed against there."""

_PEAKS = (1 / 16, 1 / 4, 1 / 2, 1.0, 2.0)
_HOLDS = (0.2, 0.4, 0.6, 0.75, 0.85)


def _at(factor: float) -> tuple[Method, ...]:
    """At one multiple of the best peak: linear decay, holds, and what is made of the log of linear decay there."""
    logged = f"linear at {factor:g}"
    holds = (Method(f"hold {h:g} at {factor:g}", (f"wsd:{1 - h:g},warmup_fraction=0.05",), at=factor) for h in _HOLDS)
    modes = ("unguarded", "hold on 1/N", "default")
    return (
        Method(logged, ("linear:warmup_fraction=0.05",), at=factor),
        *holds,
        *(Method(f"{mode}({logged})", mode=mode, prior=logged, at=factor) for mode in modes),
    )


UNDER_TUNED: tuple[Method, ...] = (_FIXED_FAMILIES[0], *(method for factor in _PEAKS for method in _at(factor)))
"""What is made of the logs of linear decay whose peak was too low, or too high."""


def fit(
    mode: str,
    log: Log,
    multiplier: NDArray[np.float64],
    rate: float,
    optimizer: Optimizer,
    sizes: NDArray[np.float64] | None = None,
) -> Fitted:
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
    sizes : ndarray, shape (T,), optional
        Its batch sizes, where they change.
    """
    norms = _norms(log, (rate * multiplier).tobytes(), optimizer, None if sizes is None else sizes.tobytes())
    hold = None if mode == "default" else 0.0  # only the default asks the losses, which takes longer than all else
    result = refine_norms(norms, optimizer=optimizer.family, published=mode == "paper", hold=hold)
    if mode == "default":
        return _fitted(result, "recommended", result.shape == "linear")
    if mode in ("paper", "unguarded"):
        return _fitted(result, "refined", not result.computed)
    if mode == "refined":
        guarded = near_separable(result.checks) or not result.computed
        return _fitted(result, "linear" if guarded else "refined", guarded)
    if mode == "hold":
        return _held(result, None)
    if mode == "hold on 1/N":
        on_updates = norms.on_updates(result.smoothed, norms.total_steps)
        return _held(result, 1.0 / inverse_squared_norms(on_updates, optimizer=optimizer.family))
    if mode in _SHIFTED:
        return _level(
            result, noise_level(shifts_of(norms), norms.total_steps, _SHIFTED[mode] * EXPONENTS[optimizer.family])
        )
    if mode == "shifts 1/B":
        return _level(result, None if sizes is None else sizes.max() / sizes)
    return _candidate("progress 1/4" if mode == "progress" else mode, result)


def _fitted(result: Refinement, name: str, is_linear: bool) -> Fitted:
    own = result.measures[name]
    return Fitted(result.schedules[name], is_linear, own.peak_lr_ratio, own.peak_lr_ratio_by_bound, result)


@lru_cache(maxsize=512)
def _norms(log: Log, rates: bytes, optimizer: Optimizer, sizes: bytes | None) -> GradientNorms:
    """One for all modes, so that the law of its losses is fitted once."""
    kind, values = ("l2", log.l2) if optimizer.family == "sgd" else ("l1", log.l1)
    return GradientNorms.from_values(
        values,
        kind=kind,  # type: ignore[arg-type]
        learning_rate=np.frombuffer(rates),
        loss=log.loss,
        logged_steps=values.size,
        batch_size=None if sizes is None else np.frombuffer(sizes),
        source=Source(name="refine bench", format="refine bench", optimizer=optimizer.family, rows=values.size),
    )


_SHIFTED = {"shifts": 1.0, "shifts 2": 2.0}


def _level(result: Refinement, level: NDArray[np.float64] | None) -> Fitted:
    """Theorem 3 on the level of the noise alone, at equal area."""
    if level is None or np.ptp(level) == 0.0:
        return _fitted(result, "linear", True)
    found = scheduled(result.norms.total_steps, result.warmup_steps, 1.0, level)
    by_bound = result.measures["linear"].peak_lr_ratio_by_bound
    return Fitted(Schedule(found), False, result.prior.peak_ratio(found), by_bound, result)


def _held(result: Refinement, level: NDArray[np.float64] | None) -> Fitted:
    """The hold that the losses of the log want, on a level of the noise; its peak the logged one where they speak."""
    norms, steps = result.norms, result.norms.total_steps
    choice = choose(norms, result.prior, steps)
    found = scheduled(steps, result.warmup_steps, choice.k, level)
    same = np.allclose(found, result.linear.multiplier, rtol=1e-6, atol=0.0)
    ratio = 1.0 if choice.keeps_peak else result.prior.peak_ratio(found)
    return Fitted(result.linear if same else Schedule(found), same, ratio, ratio, result)


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

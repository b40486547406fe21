"""Named schedules: total_steps and shape parameters in, `Schedule` out.

All count updates from 0 and spend none at rate zero: with linear warmup over W updates the peak is
update s = max(W - 1, 0), reached by ``(t + 1) / W``, and the anneal runs from there as a function of
the time left, ``v = (T - t) / (T - s)``, which falls from 1 to just above 0. Past the end a `Schedule`
holds its last multiplier.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from .errors import RefineError
from .schedule import Schedule, check_count

__all__ = ["FAMILIES", "constant", "cosine", "from_name", "linear", "with_warmup"]


def constant(total_steps: int, *, warmup_steps: int = 0) -> Schedule:
    """``h = 1`` after the warmup.

    Examples
    --------
    >>> constant(4, warmup_steps=2).multiplier.tolist()
    [0.5, 1.0, 1.0, 1.0]
    """
    return _family("constant", total_steps, warmup_steps, np.ones_like)


def linear(total_steps: int, *, warmup_steps: int = 0) -> Schedule:
    """``h = v``: linear decay, the worst-case optimum for constant norms (arXiv:2307.11134).

    Examples
    --------
    >>> linear(4).multiplier.tolist()
    [1.0, 0.75, 0.5, 0.25]
    >>> linear(5, warmup_steps=2).multiplier.tolist()
    [0.5, 1.0, 0.75, 0.5, 0.25]
    """
    return _family("linear", total_steps, warmup_steps, lambda v: v)


def cosine(total_steps: int, *, warmup_steps: int = 0) -> Schedule:
    """``h = (1 + cos(pi (1 - v))) / 2 = sin(pi v / 2)^2``: half a cosine towards zero (arXiv:1608.03983, no restarts).

    Examples
    --------
    >>> cosine(4).multiplier.round(3).tolist()
    [1.0, 0.854, 0.5, 0.146]
    """
    return _family("cosine", total_steps, warmup_steps, lambda v: np.sin(0.5 * np.pi * v) ** 2)


FAMILIES: dict[str, Callable[..., Schedule]] = {"constant": constant, "cosine": cosine, "linear": linear}


def from_name(name: str, total_steps: int) -> Schedule:
    """Build a family member from text: ``NAME`` or ``NAME:warmup_fraction=F`` or ``NAME:warmup_steps=W``.

    Examples
    --------
    >>> from_name("linear:warmup_fraction=0.5", 4).multiplier.tolist()
    [0.5, 1.0, 0.6666666666666666, 0.3333333333333333]
    """
    family, _, parameters = name.partition(":")
    if family not in FAMILIES:
        raise RefineError(f"schedule {name!r} is not a file and not a family; families: {', '.join(FAMILIES)}")
    warmup_steps = 0
    for parameter in filter(None, parameters.split(",")):
        key, _, text = parameter.partition("=")
        try:
            if key == "warmup_steps":
                warmup_steps = int(text)
            elif key == "warmup_fraction" and 0.0 <= float(text) <= 1.0:
                warmup_steps = round(float(text) * total_steps)
            else:
                raise ValueError
        except ValueError:
            raise RefineError(
                f"schedule {name!r} has the parameter {parameter!r}; "
                "it must be warmup_steps=INTEGER or warmup_fraction=NUMBER in [0, 1]"
            ) from None
    return FAMILIES[family](total_steps, warmup_steps=warmup_steps)


def with_warmup(multiplier: NDArray[np.float64], warmup_steps: int) -> NDArray[np.float64]:
    """Cap the first W multipliers by the straight line from 0 to the schedule's value at update W - 1.

    Where the schedule starts lower than that line it is kept. The result is scaled to peak 1; linear
    decay becomes linear decay with linear warmup.

    Examples
    --------
    >>> with_warmup(np.array([1.0, 0.8, 0.6, 0.4, 0.2]), 2).tolist()
    [0.5, 1.0, 0.7499999999999999, 0.5, 0.25]
    """
    w = min(warmup_steps, multiplier.size)
    if w < 2:
        return multiplier
    capped = multiplier.copy()
    line = capped[w - 1] * np.arange(1, w + 1) / w
    capped[:w] = np.minimum(capped[:w], line)
    return np.asarray(capped / capped.max(), dtype=np.float64)


def _family(
    name: str,
    total_steps: int,
    warmup_steps: int,
    shape: Callable[[NDArray[np.float64]], NDArray[np.float64]],
) -> Schedule:
    total_steps = check_count("total_steps", total_steps, least=1)
    warmup_steps = check_count("warmup_steps", warmup_steps, least=0)
    if warmup_steps > total_steps:
        raise RefineError(
            f"warmup_steps is {warmup_steps}; it must not exceed total_steps, {total_steps}: shorten the warmup"
        )
    peak = max(warmup_steps - 1, 0)
    multiplier = np.arange(1, total_steps + 1) / max(warmup_steps, 1)
    multiplier[peak:] = shape(np.arange(total_steps - peak, 0, -1) / (total_steps - peak))
    return Schedule(multiplier, {"family": name, "warmup_steps": warmup_steps})

"""The nearest member of one family: least squares over its parameters and the warmup."""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .base import Span
from .names import Family

__all__ = ["LOW_END", "MemberFit", "member_name", "points"]

LOW_END = 0.01
"""A last multiplier below it ends at 0, and so does what is fitted to it."""

_MOST_POINTS = 1000
_PHASES = ("decay_fraction", "cooldown_fraction")  # must fit behind the warmup
_LEAST_FINAL = 1e-4  # of an exponential cooldown
_ROUNDS = 40


def points(total_steps: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Updates that a fit looks at, all or about 1,000, and how many updates each stands for.

    Examples
    --------
    >>> t, weight = points(10**6)
    >>> len(t) <= 1000, float(weight.sum()), t[:4].tolist(), t[-2:].tolist()
    (True, 1000000.0, [0.0, 1.0, 2.0, 3.0], [999998.0, 999999.0])
    """
    if total_steps <= _MOST_POINTS:
        return np.arange(total_steps, dtype=np.float64), np.ones(total_steps)
    ends = np.geomspace(1.0, total_steps, _MOST_POINTS // 4) - 1.0
    even = np.linspace(0.0, total_steps - 1.0, _MOST_POINTS // 2)
    t = np.unique(np.round(np.concatenate((even, ends, total_steps - 1.0 - ends)))).astype(np.float64)
    edges = np.concatenate(([-0.5], (t[1:] + t[:-1]) / 2.0, [total_steps - 0.5]))
    return t, np.diff(edges)


@dataclass(frozen=True, slots=True)
class MemberFit:
    """Least squares over the parameters of a family, at the updates t of a schedule whose multipliers are ``target``.

    It starts from a fixed grid of parameters and descends from its two best points. ``warmup`` is fixed to so many
    updates, or fitted too where it is None; no cooldown starts before update ``plateau``. With ``low_end`` a final
    factor that may be 0 is 0, and that of an exponential cooldown at most `LOW_END`.
    """

    t: NDArray[np.float64]
    target: NDArray[np.float64]
    weight: NDArray[np.float64]
    total: int
    warmup: int | None = None
    plateau: int = 0
    low_end: bool = False

    def member(self, family: Family, choice: Mapping[str, Any]) -> tuple[float, dict[str, Any]]:
        """Weighted squares and rounded parameters of the nearest member with this choice."""
        fitted = {k: v for k, v in (family.fit or {}).items() if k not in choice}
        known = inspect.signature(family.curve).parameters
        if "cooldown_fraction" in fitted:
            left = 1.0 - self.plateau / self.total
            fitted["cooldown_fraction"] = tuple(left * x for x in fitted["cooldown_fraction"])
        if self.low_end and "final_factor" in fitted and fitted["final_factor"][0] == 0.0:
            if choice.get("shape") == "exponential":
                fitted["final_factor"] = (0.0, LOW_END, 0.0, LOW_END / 2.0)
            else:
                del fitted["final_factor"]
                choice = {**choice, "final_factor": 0.0}
        scales = {k: _Scale(*v[:2]) for k, v in fitted.items()}
        grid = [v[2:] for v in fitted.values()]
        if self.warmup is None:
            scales = {"warmup_steps": _Scale(1.0, max(self.total, 2.0)), **scales}
            grid = [tuple(self._warmups()), *grid]
        else:
            choice = {**choice, "warmup_steps": self.warmup}
        durations = {k: _in_steps(k) for k in family.fit or {} if _in_steps(k) in known}
        fixed = {k: p.default for k, p in family.parameters.items() if k in known and k not in durations.values()}

        def values(point: NDArray[np.float64]) -> dict[str, Any]:
            return dict(choice) | {k: scale.value(x) for (k, scale), x in zip(scales.items(), point, strict=True)}

        def residual(parameters: Mapping[str, Any], every: int = 1) -> NDArray[np.float64]:
            shape = {**fixed, **parameters}
            warmup = shape.pop("warmup_steps")
            room = self.total - max(warmup - 1.0, 0.0)
            for key, in_steps in durations.items():
                steps = shape.pop(key) * self.total
                if key in _PHASES:
                    steps = min(steps, room)
                    room -= steps
                shape[in_steps] = steps
            if shape.get("shape") == "exponential":
                shape["final_factor"] = max(shape["final_factor"], _LEAST_FINAL)
            curve = family.curve(Span(self.t[::every], self.total, warmup), **shape)
            return (curve - self.target[::every]) * self.weight[::every]

        starts = [
            np.array([scale.point(x) for scale, x in zip(scales.values(), start, strict=True)])
            for start in itertools.product(*grid)
        ]
        coarse = [float(np.sum(residual(values(start), 4) ** 2)) for start in starts]
        _, point = min(
            (_descend(lambda x: residual(values(x)), starts[i]) for i in np.argsort(coarse, kind="stable")[:2]),
            key=lambda found: found[0],
        )
        best = self._rounded(values(point), scales)
        return float(np.sum(residual(best) ** 2)), best

    def _warmups(self) -> list[float]:
        """Where to start: three fixed ones, up to the highest update, by the first update at half the height."""
        top, half = int(np.argmax(self.target)), int(np.argmax(self.target >= 0.5))
        seen = (self.t[top] + 1.0, (self.t[half] + 1.0) / max(self.target[half], 0.5))
        return sorted({float(np.clip(w, 1.0, self.total)) for w in (1.0, 0.02 * self.total, 0.2 * self.total, *seen)})

    def _rounded(self, parameters: Mapping[str, Any], scales: Mapping[str, _Scale]) -> dict[str, Any]:
        """Four digits, whole updates, and phases that fit behind the warmup."""
        rounded = {k: scales[k].rounded(v) if k in scales else v for k, v in parameters.items()}
        warmup = rounded["warmup_steps"] = min(round(parameters["warmup_steps"]), self.total)
        room = self.total - max(warmup - 1, 0)
        for key in _PHASES:
            if key in rounded:
                if round(rounded[key] * self.total) > room:
                    rounded[key] = math.floor(1e4 * room / self.total) / 1e4
                room -= round(rounded[key] * self.total)
        if rounded.get("shape") == "exponential":
            rounded["final_factor"] = max(rounded["final_factor"], _LEAST_FINAL)
        if "constant_factor" in rounded:
            rounded["final_factor"] = min(rounded["final_factor"], rounded["constant_factor"])
        return rounded


def _in_steps(key: str) -> str:
    return key.removesuffix("_fraction") + "_steps"


@dataclass(frozen=True, slots=True)
class _Scale:
    """A parameter's range as [0, 1]: evenly, or by ratios where its bounds are far apart."""

    low: float
    high: float

    @property
    def by_ratio(self) -> bool:
        return self.low > 0.0 and self.high >= 50.0 * self.low

    def value(self, point: float) -> float:
        if self.by_ratio:
            return float(self.low * (self.high / self.low) ** point)
        return float(self.low + (self.high - self.low) * point)

    def point(self, value: float) -> float:
        if self.by_ratio:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def rounded(self, value: float) -> float:
        return float(f"{value:.4g}") if self.by_ratio else round(value, 4)


def _descend(
    residual: Callable[[NDArray[np.float64]], NDArray[np.float64]], point: NDArray[np.float64]
) -> tuple[float, NDArray[np.float64]]:
    """Levenberg-Marquardt within [0, 1]; `scipy.optimize` would cost more to import than this to run."""
    r = residual(point)
    cost, damping = float(r @ r), 1e-3
    for _ in range(_ROUNDS if point.size else 0):
        steps = np.where(point < 0.5, 1e-6, -1e-6)
        columns = [
            (residual(point + step * axis) - r) / step for step, axis in zip(steps, np.eye(point.size), strict=True)
        ]
        jacobian = np.stack(columns, axis=1)
        size = np.linalg.norm(jacobian, axis=0)
        gradient = jacobian.T @ r
        free = (size > 1e-12) & ~(((point <= 0.0) & (gradient > 0.0)) | ((point >= 1.0) & (gradient < 0.0)))
        unit = jacobian[:, free] / size[free]
        before = cost
        while free.any() and damping < 1e6:
            move = np.linalg.solve(unit.T @ unit + damping * np.eye(unit.shape[1]), -unit.T @ r) / size[free]
            trial = point.copy()
            trial[free] = np.clip(point[free] + move, 0.0, 1.0)
            tried = residual(trial)
            if float(tried @ tried) < cost:
                point, r, cost, damping = trial, tried, float(tried @ tried), max(damping / 10.0, 1e-9)
                break
            damping *= 10.0
        if cost > before * (1.0 - 1e-6) or cost < 1e-22:
            break
    return cost, point


def member_name(family: Family, parameters: Mapping[str, Any], total_steps: int) -> tuple[str, dict[str, Any]]:
    """The member as text, and what it names: durations that have no ``_fraction`` of their own in updates."""
    named = {k: v for k, v in parameters.items() if k != "warmup_steps"}
    for key in [k for k in named if k not in family.parameters]:
        named[_in_steps(key)] = max(round(named.pop(key) * total_steps), 1)
    named["warmup_steps"] = parameters["warmup_steps"]
    if named["warmup_steps"] == 1 and family.parameters["warmup_steps"].default == 0:
        named["warmup_steps"] = 0  # the same
    told = {k: v for k, v in named.items() if v != family.parameters[k].default}
    text = ",".join(f"{k}={v:.6g}" if isinstance(v, float) else f"{k}={v}" for k, v in told.items())
    return family.name + (f":{text}" if text else ""), named

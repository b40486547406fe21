r"""Laws of the loss curve: what the learning rates of a run say about its loss.

A law writes the loss after t updates as

.. math:: L_t = L_0 + A P_t^{-\alpha} + B f_t, \qquad L_0, A, B \ge 0, \qquad
          P_t = \frac{1}{T_r} \sum_{k \le t} (\eta_k / \eta_r)^p

P is the *progress* and f the *noise term*: what the noise of the gradients adds and a decay of the rate takes away. The
laws differ in f. All rates are divided by the reference :math:`\eta_r`, the largest peak of the runs that are fitted,
so that an area, :math:`\sum \eta_k / \eta_r`, counts updates at that peak; :math:`T_r` is the longest of these runs.

A schedule is cut into blocks of constant rate (`cut`). A sum over updates becomes an integral over each block, in
closed form: with :math:`u_j` the area between the start of block j and update t, and F the integral of the kernel,
every sum telescopes to :math:`\sum_j (h_j \nu_j - h_{j-1} \nu_{j-1}) F(u_j)`, h the rate and :math:`\nu` the noise.

Every law is fitted by `refine.loss_fit`; `refine.prediction` is what users call.

References
----------
arXiv:2310.07831 (the bound), arXiv:2503.12811 (multi-power law), arXiv:2408.11029 (annealing), arXiv:2509.19189 (the
kernel of the functional scaling law).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["LAWS", "Blocks", "Exponent", "Law", "View", "cut"]

Array = NDArray[np.float64]

_MOST_BLOCKS, _WARMUP_BLOCKS = 256, 8
_BEFORE = np.array([0.0, 2.0, 16.0])
_LEAST_RATE = 1e-6
_LOOKED_AT = 1_000_000


@dataclass(frozen=True, slots=True, eq=False)
class Blocks:
    """A schedule in blocks of constant rate.

    Attributes
    ----------
    edges : (m + 1,)
        Updates done at the ends of the blocks, from 0.
    rates : (m,)
        Mean rate of each block, over the reference.
    noise : (m,)
        Relative level of the gradient noise, 1 where nothing is known.
    warmup : int
        Blocks up to the highest rate: a rise in them is no drop taken back.
    """

    edges: Array
    rates: Array
    noise: Array
    warmup: int

    def grown(self, power: float = 1.0) -> Array:
        """Sum of the rates to a power up to each edge, the area for 1; shape (m + 1,)."""
        return np.concatenate(([0.0], np.cumsum(self.rates**power * np.diff(self.edges))))


def cut(rates: Array, reference: float, at: Array, noise: Array | None = None, *, most: int = _MOST_BLOCKS) -> Blocks:
    """Cut a schedule into blocks of (nearly) constant rate, finer where the rate changes and just before ``at``.

    Parameters
    ----------
    rates : (T,)
        Learning rate of every update.
    reference : float
        Rate that counts as 1.
    at : (n,)
        Updates done where the laws will be evaluated: the kernels are steep there.
    noise : (T,), optional
        Relative noise level of every update.
    most : int
        Blocks at most, those of the warmup and before ``at`` apart.

    Notes
    -----
    O(T). Exact where the schedule has fewer steps than blocks; elsewhere the noise is within 0.1 %.
    """
    steps = rates.size
    # A million rates tell where a longer schedule changes.
    every = -(-steps // _LOOKED_AT)
    h = rates[::every] / reference
    level = h if noise is None else h * noise[::every]
    changes = np.abs(np.diff(h, prepend=h[0])) + np.abs(np.diff(level, prepend=level[0]))
    total = float(changes.sum())
    # Half of the edges are spent evenly over the updates, half evenly over the change of the rate.
    way = np.arange(h.size + 1) / h.size
    if total > 0.0:
        way = 0.5 * way + 0.5 * np.concatenate(([0.0], np.cumsum(changes))) / total
    marks = every * np.searchsorted(way, np.linspace(0.0, way[-1], most + 1)[1:-1])
    jumps = every * np.flatnonzero(changes > total / most) if total > 0.0 else np.zeros(0, dtype=np.intp)
    peak = int(np.argmax(rates))
    start = np.linspace(0, peak, _WARMUP_BLOCKS + 1)
    near = np.ravel(at[:, None] - _BEFORE)
    edges = np.unique(np.clip(np.round(np.concatenate((marks, jumps, start, near, [0, steps]))), 0, steps))
    first = edges[:-1].astype(np.intp)
    length = np.diff(edges)
    mean: Array = np.add.reduceat(rates, first) / (length * reference)
    noisy: Array = np.ones(length.size) if noise is None else np.add.reduceat(noise, first) / length
    return Blocks(np.asarray(edges, dtype=np.float64), mean, noisy, int(np.searchsorted(edges, peak)))


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """What a law needs of one schedule at some of its updates; made once, used for every trial of the exponents.

    Attributes
    ----------
    blocks : Blocks
    at : (n,)
        Updates done, at most those of the schedule.
    behind : (n, j)
        Area between each step of ``rate * noise`` (a start of a block, or the end) and ``at``, 0 where that lies ahead.
    steps : (j,)
        Those steps of ``rate * noise``.
    """

    blocks: Blocks
    at: Array
    behind: Array
    steps: Array

    @classmethod
    def of(cls, blocks: Blocks, at: Array) -> View:
        """Look at a schedule after ``at`` updates each."""
        area = blocks.grown()
        level = blocks.rates * blocks.noise
        steps = np.diff(level, prepend=0.0, append=0.0)
        kept = steps != 0.0
        done = np.interp(at, blocks.edges, area)
        return cls(blocks, at, np.maximum(done[:, None] - area[kept], 0.0), steps[kept])

    def progress(self, power: float, longest: float) -> Array:
        """P after each of ``at`` updates; shape (n,)."""
        return np.asarray(np.interp(self.at, self.blocks.edges, self.blocks.grown(power) / longest))

    def rate(self) -> Array:
        """Rate of the update before ``at``; shape (n,)."""
        which = np.searchsorted(self.blocks.edges, self.at, side="left") - 1
        return np.asarray(self.blocks.rates[np.clip(which, 0, self.blocks.rates.size - 1)])

    def drops(self) -> tuple[Array, Array, Array, Array]:
        """Falls of the rate after the warmup and the rates after them, (j,), the updates and the area since, (n, j)."""
        blocks = self.blocks
        fall = -np.diff(blocks.rates)[blocks.warmup :]
        kept = fall != 0.0
        edges = blocks.edges[1:-1][blocks.warmup :][kept]
        rates = np.maximum(blocks.rates[1:][blocks.warmup :][kept], _LEAST_RATE)
        grown = blocks.grown()
        done, then = np.interp(self.at, blocks.edges, grown), np.interp(edges, blocks.edges, grown)
        updates = np.maximum(self.at[:, None] - edges, 0.0)
        return fall[kept], rates, updates, np.maximum(done[:, None] - then, 0.0)

    def least_bound(self) -> Array:
        """``min_e (e + sum_k eta_k^2 / (S_t - S_k + e)) / 2``, the bound's noise after each of ``at``; shape (n,).

        The bound (arXiv:2310.07831, Theorem 10) with a free last entry e; convex in e, found by bisection.
        """
        low, high = np.full(self.at.size, -20.0), np.full(self.at.size, 18.0)
        for _ in range(40):
            e = np.exp(0.5 * (low + high))
            falling = (self.behind / (self.behind + e[:, None])) @ self.steps > e
            low, high = np.where(falling, np.log(e), low), np.where(falling, high, np.log(e))
        e = np.exp(0.5 * (low + high))
        return np.asarray(0.5 * (e + np.log1p(self.behind / e[:, None]) @ self.steps))


@dataclass(frozen=True, slots=True)
class Exponent:
    """A parameter inside a law with its prior: a median and the standard deviation of its logarithm.

    ``around_zero``: the prior is normal, its mean ``median``, its standard deviation ``sd``. An sd of 0 fixes it.
    """

    name: str
    median: float
    sd: float
    around_zero: bool = False

    def value(self, z: float) -> float:
        """Value that lies z standard deviations from the median."""
        return self.median + self.sd * z if self.around_zero else self.median * math.exp(self.sd * z)


Term = Callable[[View, Mapping[str, float], float], Array]
"""Noise term f after each of ``at`` of a view, by the exponents and T_r; shape (n,)."""


@dataclass(frozen=True, slots=True)
class Law:
    """One law: its name, its formula of f and where it is from, its exponents with their priors, and f.

    ``starts``: where the search for the exponents begins, in standard deviations from the medians.
    """

    name: str
    formula: str
    source: str
    exponents: tuple[Exponent, ...]
    term: Term
    starts: tuple[float, ...] = (0.0,)


def _remembered(view: View, c: float) -> Array:
    """``sum_k eta_k^2 nu_k c / (1 + c u_k)``; shape (n,). The integral over u is ``log(1 + c u)``."""
    return np.asarray(np.log1p(c * view.behind) @ view.steps)


def _memory(view: View, x: Mapping[str, float], longest: float) -> Array:
    return np.log1p(x["s"] * _remembered(view, x["c"])) * view.progress(x["p"], longest) ** -x["delta"]


def _memory_power(view: View, x: Mapping[str, float], longest: float) -> Array:
    return np.asarray(_remembered(view, x["c"]) ** x["beta"])


def _bound_power(view: View, x: Mapping[str, float], longest: float) -> Array:
    return np.asarray(view.least_bound() ** x["beta"])


def _two(view: View, x: Mapping[str, float], longest: float) -> Array:
    return np.asarray((x["a"] * view.rate() + view.least_bound()) ** x["beta"])


def _general(view: View, x: Mapping[str, float], longest: float) -> Array:
    grown, rest = np.log1p(x["c"] * view.behind), 1.0 - x["kappa"]
    # The integral of (1 + c u)^-kappa, log(1 + c u) / c in the limit of kappa = 1.
    kernel = grown if abs(rest) < 1e-9 else np.expm1(rest * grown) / rest
    return np.asarray((kernel @ view.steps / x["c"]) ** x["beta"])


def _multi_power(view: View, x: Mapping[str, float], longest: float) -> Array:
    fall, rate, _, since = view.drops()
    kernel = np.expm1(-x["beta"] * np.log1p(x["C"] * rate ** -x["gamma"] * since))
    return np.asarray(kernel @ fall)


def _annealing(view: View, x: Mapping[str, float], longest: float) -> Array:
    fall, _, updates, _ = view.drops()
    return np.asarray(np.expm1(-updates / x["tau"]) @ fall)


_ALPHA = Exponent("alpha", 0.46, 0.10)
_P, _P_OF_AREA = Exponent("p", 0.85, 0.0), Exponent("p", 1.0, 0.0)

LAWS: Mapping[str, Law] = {
    law.name: law
    for law in (
        Law(
            "memory",
            "P^-delta log(1 + s sum_k eta_k^2 nu_k c / (1 + c u_k))",
            "own; the kernel is the bound's (arXiv:2310.07831, Theorem 10)",
            (
                Exponent("alpha", 0.465, 0.065),
                Exponent("p", 1.02, 0.1),
                Exponent("c", 60.0, 1.2),
                Exponent("s", 0.16, 0.3),
                Exponent("delta", 0.0, 0.08, around_zero=True),
            ),
            _memory,
        ),
        Law(
            "memory-power",
            "(sum_k eta_k^2 nu_k c / (1 + c u_k))^beta",
            "own",
            (_ALPHA, _P, Exponent("c", 300.0, 1.2), Exponent("beta", 0.55, 0.25)),
            _memory_power,
        ),
        Law(
            "bound-power",
            "(min_e (e + sum_k eta_k^2 nu_k / (u_k + e)) / 2)^beta",
            "own; the noise of the bound (arXiv:2310.07831, Theorem 10)",
            (_ALPHA, _P, Exponent("beta", 0.6, 0.35)),
            _bound_power,
        ),
        Law(
            "two",
            "(a eta_t + b_t)^beta, b_t as in bound-power",
            "own",
            (_ALPHA, _P, Exponent("a", 3.0, 0.6), Exponent("beta", 0.6, 0.25)),
            _two,
        ),
        Law(
            "general",
            "(sum_k eta_k^2 nu_k (1 + c u_k)^-kappa)^beta",
            "kernel of the functional scaling law (arXiv:2509.19189)",
            (_ALPHA, _P, Exponent("c", 1.0, 2.0), Exponent("kappa", 1.1, 0.2), Exponent("beta", 0.55, 0.25)),
            _general,
        ),
        Law(
            "multi-power",
            "-sum_k (eta_{k-1} - eta_k) (1 - (1 + C eta_k^-gamma u_k)^-beta)",
            "arXiv:2503.12811",
            (
                _ALPHA,
                _P_OF_AREA,
                Exponent("C", 0.05, 0.8),
                Exponent("beta", 0.6, 0.25),
                Exponent("gamma", 0.64, 0.25),
            ),
            _multi_power,
            starts=(0.0, -1.5, 1.5),
        ),
        Law(
            "annealing",
            "-sum_k (eta_{k-1} - eta_k) (1 - exp(-(t - k) / tau))",
            "arXiv:2408.11029",
            (_ALPHA, _P_OF_AREA, Exponent("tau", 550.0, 0.4)),
            _annealing,
        ),
    )
}
"""By name; the first is what `refine predict` answers with."""

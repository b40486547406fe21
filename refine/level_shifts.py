"""Level shifts of the gradient norms: the part of them that the schedule did not cause.

The log norm is a smooth curve, shifts and noise,

    log G_t = f(t) + sum_j J_j [t >= t_j] + e_t,    f = a + b t + c t^2 + d exp(-t / (0.03 T))

where the noise e has the spectrum ``1 + (c / f)^p``: white, or wandering (p = 1, 2, 4) as 1/f noise, a random walk or
a curve that bends does. In cosine terms its covariance is diagonal [1]_, so that the likelihood of a shift at every
row is two sine transforms away, for each of some forty spectra. The noise is fitted with the shifts and without them:
a wandering log needs a greater shift to be believed than a steady one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray
from scipy.fft import dct, dst
from scipy.ndimage import median_filter

from .errors import RefineError

if TYPE_CHECKING:
    from .norms import GradientNorms

__all__ = [
    "Cause",
    "LevelShift",
    "level_shifts",
    "noise_level",
    "shifts_at_batches",
    "shifts_of",
    "shifts_of_losses",
    "without_shifts",
]

Cause = Literal["batch size", "planned", "unknown"]
"""What moved the norms: a logged or a planned change of the batch size, or something that the log does not say."""

Array = NDArray[np.float64]

SMALLEST = np.log(1.07)
"""No smaller shift is believed."""

LARGEST = np.log(1e6)
"""Nor a larger one: such a log is of other units before and after."""

SIGNIFICANT, WANDERING, ENOUGH_ROWS = 11.0, 1.0, 1000
"""Least gain in log likelihood with the noise of the fit; how much less will do with noise fitted without the shift.
Each halving of the rows below 1000 asks for 3 more."""

ROBUST = 4.5
"""Least shift over its standard error under white noise whose variance changes, in every window around it."""

EARLY, EARLY_SIGNIFICANT, EARLY_SHARP, SHARP = 0.2, 20.0, 4.0, -2.0
"""In the first fifth norms move anyway. ``SHARP``: least log likelihood of a shift over that of ramps."""

_BLOCKS, _MOST, _ROWS, _EDGE = 1000, 8, 20, 0.05
_RAMPS, _LOCAL_RAMPS = (0.03, 0.06, 0.12), (0.12, 0.24)
_AROUND, _ZOOM, _VISIBLE, _LOCAL = 0.35, 2.5, 8.0, 3.0
_RATE_STEP, _RATE_REACH = 0.15, 0.03
_GAP, _APART, _MOST_CHANGES = 3.0, 0.03, 20


@dataclass(frozen=True, slots=True)
class LevelShift:
    """Norms that jump between two updates, and stay.

    Attributes
    ----------
    step : int
        First update, from 0, of the new level that was logged.
    factor : float
        Norms after it over those before.
    cause : {"batch size", "planned", "unknown"}
    """

    step: int
    factor: float
    cause: Cause = "unknown"

    def __str__(self) -> str:
        """As text.

        Examples
        --------
        >>> print(LevelShift(2000, 1.62, "batch size"))
        x 1.62 at update 2,000 (batch size)
        """
        cause = "cause unknown" if self.cause == "unknown" else self.cause
        return f"x {self.factor:.3g} at update {self.step:,} ({cause})"


def level_shifts(
    values: npt.ArrayLike, updates: npt.ArrayLike, total_steps: int, *, rates: npt.ArrayLike | None = None
) -> tuple[LevelShift, ...]:
    """Find where the norms of a run jump and stay; a drift, a bend, a spike or noise that wanders is no shift.

    Up to eight shifts are added one by one where they raise the likelihood most; then the weakest is dropped until
    all gain enough, are sharper than ramps, and stand out in ever narrower windows for as long as the noise allows.

    Parameters
    ----------
    values : array_like, shape (n,)
        Norms, finite and positive.
    updates : array_like of int, shape (n,)
        Where they were logged, from 0, increasing.
    total_steps : int
        Updates of the run.
    rates : array_like, shape (n,), optional
        Learning rates at the same updates, nan where unknown: where they jump, the norms follow, and it is no shift.

    Returns
    -------
    tuple of LevelShift
        In the order of their steps, all of unknown cause.

    Notes
    -----
    O(n); the likelihoods take a thousand blocks of rows. No shift is looked for in the first and last 5 % and
    20 rows, nor closer to another one.

    References
    ----------
    .. [1] P. Whittle, Estimation and information in stationary time series, 1953; a shift in a smooth series: A. Harvey
       and S. J. Koopman, Diagnostic checking of unobserved-components time series models, 1992.

    Examples
    --------
    >>> noise = np.exp(0.3 * np.random.default_rng(1).standard_normal(2000))
    >>> level_shifts(noise, np.arange(2000), 2000)
    ()
    >>> noise[1200:] *= 1.5
    >>> found, = level_shifts(noise, np.arange(2000), 2000)
    >>> abs(found.step - 1200) < 10, round(found.factor, 1)
    (True, 1.5)
    """
    norms, at = np.asarray(values, dtype=np.float64), np.asarray(updates, dtype=np.int64)
    if norms.ndim != 1 or norms.shape != at.shape:
        raise RefineError(f"norms have shape {norms.shape} and updates {at.shape}; both must be (n,)")
    if norms.size and not (np.all(np.isfinite(norms)) and norms.min() > 0.0):
        raise RefineError("norms must be finite and positive; GradientNorms.from_values drops the others")
    if norms.size < 2 * _ROWS + 2 or np.ptp(norms) == 0.0:
        return ()
    logs = _clipped(np.log(norms))
    shares = (at + 0.5) / total_steps
    possible = _possible(at, total_steps, rates)
    blocks, size = _blocked(logs)
    curve = _Curve(blocks, start=True)
    found = _candidates(curve, size)
    while found:
        columns = curve.shifts(found)
        with_all, noise, weights = curve.best(columns)
        jumps = weights[-len(found) :]
        others = [np.delete(columns, j, axis=0) for j in range(len(found))]
        likelihoods = [curve.log_likelihoods(other) for other in others]
        gains = [min(with_all - each.max() + WANDERING, with_all - each[noise]) for each in likelihoods]
        weak = int(np.argmin(gains))
        needed = SIGNIFICANT + 3.0 * max(0.0, np.log2(ENOUGH_ROWS / norms.size))
        if gains[weak] * (1.0 - (3 + len(found)) / blocks.size) < needed:
            del found[weak]
            continue
        rows: list[int | None] = []
        for j, block in enumerate(found):
            early = shares[block * size] < EARLY
            sharp = EARLY_SHARP if early else SHARP
            if (
                not SMALLEST <= abs(jumps[j]) <= LARGEST
                or (early and gains[j] < EARLY_SIGNIFICANT)
                or curve.over_ramps(block, others[j], _RAMPS) < sharp
            ):
                rows.append(None)
                continue
            alone = logs.copy()
            for other, jump in zip(found, jumps, strict=True):
                if other != block:
                    alone[other * size :] -= jump
            row = _zoom(alone, block * size, jumps[j], size, sharp)
            rows.append(row if row is not None and possible[row] else None)
        if None in rows:
            del found[min((j for j, row in enumerate(rows) if row is None), key=lambda j: gains[j])]
            continue
        pairs = sorted((int(at[row]), float(jump)) for row, jump in zip(rows, jumps, strict=True) if row)
        # Of a wave that is too short to be seen whole, half of the jumps are found: levels where no norm ever was.
        if np.ptp(np.cumsum([0.0, *(jump for _, jump in pairs)])) > np.ptp(logs):
            return ()
        return tuple(LevelShift(step, float(np.exp(jump))) for step, jump in pairs)
    return ()


def shifts_at_batches(
    values: npt.ArrayLike, updates: npt.ArrayLike, batch_size: npt.ArrayLike
) -> tuple[LevelShift, ...]:
    """By how much the norms jump where the batch size changes; the place is known, so that a smaller jump is believed.

    Least squares of the log norms, spikes clipped, on a parabola, a transient at the start and a jump at every change.
    A larger batch has less noise: a jump the other way, or within two standard errors of nothing, is none, and none is
    larger than that of a norm of all noise, ``b^(1/2)``. More than twenty changes are a ramp, and no shifts.

    Parameters
    ----------
    values : array_like, shape (n,)
        Norms, finite and positive.
    updates : array_like of int, shape (n,)
        Where they were logged, from 0, increasing.
    batch_size : array_like, shape (T,)
        Of every update.

    Examples
    --------
    >>> sizes = np.repeat([8.0, 32.0], 500)
    >>> noise = np.exp(0.3 * np.random.default_rng(1).standard_normal(1000))
    >>> found, = shifts_at_batches(noise / sizes**0.25, np.arange(1000), sizes)
    >>> found.step, round(found.factor, 1), found.cause
    (500, 0.7, 'batch size')
    """
    norms, at = np.asarray(values, dtype=np.float64), np.asarray(updates, dtype=np.int64)
    sizes = np.asarray(batch_size, dtype=np.float64)
    logs_of_sizes = np.log(sizes)
    steps = np.flatnonzero(np.diff(sizes)) + 1
    if steps.size > _MOST_CHANGES:
        return ()
    before = np.searchsorted(at, steps)
    steps = steps[(before >= _ROWS // 2) & (before <= at.size - _ROWS // 2)]
    if not steps.size or at.size < 2 * _ROWS + 2:
        return ()
    x = (at + 0.5) / sizes.size
    design = np.stack([np.ones_like(x), x, x**2, np.exp(-x / 0.03), *(1.0 * (at >= step) for step in steps)], axis=1)
    logs = _clipped(np.log(norms))
    inverse = np.linalg.pinv(design)
    weights = inverse @ logs
    residual = logs - design @ weights
    errors = np.sqrt(inverse**2 @ residual**2)[-steps.size :]
    most = -0.5 * (logs_of_sizes[steps] - logs_of_sizes[steps - 1])
    jumps = np.clip(weights[-steps.size :], np.minimum(most, 0.0), np.maximum(most, 0.0))
    return tuple(
        LevelShift(int(step), float(np.exp(jump)), "batch size")
        for step, jump, error in zip(steps, jumps, errors, strict=True)
        if 2.0 * error < abs(jump) <= LARGEST
    )


@lru_cache(maxsize=32)
def shifts_of(norms: GradientNorms) -> tuple[LevelShift, ...]:
    """Shifts of a log: where its batch size changes, and wherever else its norms jump; none of pooled norms."""
    if norms.pool is not None:
        return ()
    found = level_shifts(norms.values, norms.updates, norms.total_steps, rates=norms.learning_rate)
    if norms.batch_size is None:
        return found
    changes = np.flatnonzero(np.diff(norms.batch_size)) + 1
    others = [x for x in found if np.abs(changes - x.step).min() > _APART * norms.total_steps]
    known = shifts_at_batches(norms.values, norms.updates, norms.batch_size)
    return tuple(sorted((*known, *others), key=lambda shift: shift.step))


@lru_cache(maxsize=32)
def shifts_of_losses(norms: GradientNorms) -> tuple[LevelShift, ...]:
    """Where the losses beside norms jump and stay, as where the data changes."""
    if norms.pool is not None or norms.loss is None:
        return ()
    fine = np.isfinite(norms.loss) & (norms.loss > 0.0)
    rates = None if norms.learning_rate is None else norms.learning_rate[fine]
    return level_shifts(norms.loss[fine], norms.updates[fine], norms.total_steps, rates=rates)


def without_shifts(norms: GradientNorms, shifts: tuple[LevelShift, ...]) -> GradientNorms:
    """Norms as they would be at the level of the start."""
    if not shifts:
        return norms
    with np.errstate(over="ignore", under="ignore"):
        values = norms.values / noise_level(shifts, norms.total_steps)[norms.updates]
    limits = np.finfo(np.float64)
    return replace(norms, values=np.clip(values, limits.tiny, limits.max))


def noise_level(shifts: tuple[LevelShift, ...], total_steps: int, power: float = 1.0) -> NDArray[np.float64]:
    """nu_t = prod_{j: t_j <= t} factor_j^power, t = 0..T-1: the level of the norms over that at the start; (T,).

    Examples
    --------
    >>> noise_level((LevelShift(2, 3.0), LevelShift(4, 0.5)), 5, power=2).tolist()
    [1.0, 1.0, 9.0, 9.0, 2.25]
    """
    ordered = sorted(shifts, key=lambda shift: shift.step)
    limits = np.finfo(np.float64)
    with np.errstate(over="ignore", under="ignore"):  # of a plan that goes up and down a thousand times
        levels = np.cumprod([1.0, *(shift.factor**power for shift in ordered)]).clip(limits.tiny, limits.max)
    edges = np.minimum([0, *(shift.step for shift in ordered), total_steps], total_steps)
    return np.repeat(levels, np.diff(edges))


class _Curve:
    """A smooth curve with shifts in wandering noise, in cosine terms (m - 1,), for each of K spectra of the noise."""

    def __init__(self, values: Array, *, start: bool) -> None:
        """``start``: a transient at the start is part of the smooth curve."""
        self.size = size = values.size
        self.k = k = np.arange(1.0, size)
        corners = np.geomspace(0.5 / size, 4.0, 12)
        spectra = np.array([0.0 * k + 1.0, *(1.0 + (c * size / k) ** p for p in (1.0, 2.0, 4.0) for c in corners)])
        self.inverse = 1.0 / spectra
        self.log_det = np.log(spectra).sum(axis=1)
        self.values = _cosines(values)
        self.edge = -np.sqrt(2.0 / size) / (2.0 * np.sin(np.pi * k / (2.0 * size)))
        x = (np.arange(size) + 0.5) / size
        self.smooth = np.array([_cosines(each) for each in (x, x**2, np.exp(-x / 0.03))[: 2 + start]])

    def shifts(self, blocks: list[int] | list[float], width: float = 0.0) -> Array:
        """Unit shifts before these blocks, or ramps ``width`` blocks long around them; (len(blocks), m - 1)."""
        sines = np.sin(np.pi * np.outer(blocks, self.k) / self.size)
        return np.asarray(self.edge * sines * np.sinc(self.k * width / (2.0 * self.size)))

    def log_likelihoods(self, columns: Array | None = None) -> Array:
        """(K,) with these columns beside the smooth ones."""
        return self._log_likelihood(self._fit(columns)[0])

    def best(self, columns: Array | None = None) -> tuple[float, int, Array]:
        """The highest of them, its spectrum, and the weights of the columns there."""
        squares, weights, _, _ = self._fit(columns)
        likelihoods = self._log_likelihood(squares)
        noise = int(np.argmax(likelihoods))
        return float(likelihoods[noise]), noise, weights[noise]

    def with_shift(self, columns: Array | None = None) -> Array:
        """The highest log likelihood of one more shift before each block 1..m-1; (m - 1,)."""
        squares, weights, gram, design = self._fit(columns)
        along = dst(self.inverse * (self.values - weights @ design) * self.edge, type=1) / 2.0
        power = np.pad(self.inverse * self.edge**2, ((0, 0), (1, 0)))
        own = (power.sum(axis=1, keepdims=True) - np.fft.fft(power, axis=1).real[:, 1:]) / 2.0
        shared = dst(self.inverse[:, None, :] * design * self.edge, type=1) / 2.0
        own -= np.einsum("wqt,wqt->wt", shared, np.linalg.solve(gram, shared))
        return self._with_one_more(squares, along, own)

    def over_ramps(self, block: int, columns: Array | None, widths: tuple[float, ...]) -> float:
        """Log likelihood of a shift over that of the best ramp around it, of these shares of the curve."""
        ramps = [
            self.shifts(np.clip(block + wide * np.linspace(-0.5, 0.5, 9), 1, self.size - 1).tolist(), wide)
            for wide in self.size * np.array(widths)
        ]
        more = np.vstack([self.shifts([block]), *ramps])
        squares, weights, gram, design = self._fit(columns)
        along = (self.inverse * (self.values - weights @ design)) @ more.T
        shared = (self.inverse[:, None, :] * design) @ more.T
        own = self.inverse @ (more**2).T - np.einsum("wqt,wqt->wt", shared, np.linalg.solve(gram, shared))
        likelihoods = self._with_one_more(squares, along, own)
        return float(likelihoods[0] - likelihoods[1:].max())

    def _fit(self, columns: Array | None) -> tuple[Array, Array, Array, Array]:
        """Squares left (K,), weights (K, q), Gram matrices (K, q, q) and the columns (q, m - 1)."""
        design = self.smooth if columns is None else np.vstack([self.smooth, columns])
        weighted = self.inverse[:, None, :] * design
        gram, along = weighted @ design.T, weighted @ self.values
        weights = np.linalg.solve(gram, along[..., None])[..., 0]
        squares = self.inverse @ self.values**2 - np.sum(along * weights, axis=1)
        return np.maximum(squares, 1e-300), weights, gram, design

    def _with_one_more(self, squares: Array, along: Array, own: Array) -> Array:
        """Highest log likelihood with each of t columns, by its products with the residual and itself; (t,)."""
        left = squares[:, None] - along**2 / np.maximum(own, 1e-9)
        return np.asarray(self._log_likelihood(np.maximum(left, 1e-9 * squares[:, None])).max(axis=0))

    def _log_likelihood(self, squares: Array) -> Array:
        """With the best variance: -(m - 1)/2 log(squares) - 1/2 log det."""
        log_det = self.log_det if squares.ndim == 1 else self.log_det[:, None]
        return np.asarray(-0.5 * (self.k.size * np.log(squares / self.k.size) + log_det))


def _candidates(curve: _Curve, size: int) -> list[int]:
    """Blocks before which up to eight shifts fit best, added one by one: of a staircase no step fits well alone."""
    apart = max(int(np.ceil(_EDGE * curve.size)), -(-_ROWS // size))
    free = np.zeros(curve.size, dtype=bool)
    free[apart : curve.size - apart + 1] = True
    found: list[int] = []
    while free.any() and len(found) < _MOST:
        likelihood = curve.with_shift(curve.shifts(found) if found else None)
        block = 1 + int(np.argmax(np.where(free[1:], likelihood, -np.inf)))
        found.append(block)
        free[max(block - apart + 1, 0) : block + apart] = False
    return found


def _zoom(logs: Array, row: int, jump: float, slack: int, sharp: float) -> int | None:
    """The row of a shift, by windows around it that narrow while it can be seen in them; None where it is none."""
    half, widest = int(_AROUND * logs.size), True
    while True:
        half = min(half, row, logs.size - row)
        part = logs[row - half : row + half]
        scatter = 1.4826 * np.median(np.abs(np.diff(part))) / np.sqrt(2.0)
        visible = abs(jump) * np.sqrt(half) >= _VISIBLE * 2.83 * scatter
        if half < _ROWS or not (visible or widest):
            return _between(logs, row, jump, int(max(2 * slack, 3, min(10 * (scatter / jump) ** 2, half / 8))))
        blocks, size = _blocked(part)
        curve = _Curve(blocks, start=False)
        middle, near = round(half / size), max(2, round(1.5 * slack / size), round(0.08 * half / size))
        low = max(middle - near, 1)
        block = low + int(np.argmax(curve.with_shift()[low - 1 : middle + near]))
        likelihood, _, weights = curve.best(curve.shifts([block]))
        if (
            likelihood - curve.log_likelihoods().max() < _LOCAL
            or weights[-1] * jump < 0.0
            or _over_error(blocks, block) * np.sign(jump) < ROBUST
            or curve.over_ramps(block, None, _LOCAL_RAMPS) < (sharp if widest else min(sharp, 0.0))
        ):
            return None
        row, slack, half, widest = row - half + block * size, size, int(half / _ZOOM), False


def _between(logs: Array, row: int, jump: float, slack: int) -> int:
    """The row near this one that parts two levels best."""
    low, high = max(row - slack, 1), min(row + slack, logs.size - 1)
    middle = (logs[max(row - 4 * slack, 0) : row].mean() + logs[row : row + 4 * slack].mean()) / 2.0
    return low + int(np.argmin(np.cumsum(np.append(0.0, jump * (logs[low:high] - middle)))))


def _over_error(blocks: Array, block: int) -> float:
    """A shift on a parabola over its standard error, of squared residuals: right where the variance changes."""
    x = (np.arange(blocks.size) + 0.5 - block) / blocks.size
    q, r = np.linalg.qr(np.stack([np.ones_like(x), x, x**2, x >= 0.0], axis=1))
    residual = blocks - q @ (q.T @ blocks)
    weights = np.linalg.inv(r)[-1] @ q.T
    error = np.sqrt(np.sum((weights * residual) ** 2) * x.size / (x.size - 4))
    return float(weights @ blocks / max(error, 1e-12))


def _possible(at: NDArray[np.int64], total_steps: int, rates: npt.ArrayLike | None) -> NDArray[np.bool_]:
    """Rows before which a shift may lie: none after a long gap, where a drift would do, or a jump of the rate; (n,)."""
    gaps = np.diff(at, prepend=at[0])
    possible = gaps <= _GAP * np.median(gaps[1:])
    if rates is None:
        return np.asarray(possible)
    rate = np.asarray(rates, dtype=np.float64)
    if rate.shape != at.shape:
        raise RefineError(f"rates have shape {rate.shape} and updates {at.shape}; both must be (n,)")
    known = np.flatnonzero(np.isfinite(rate))
    low, high = np.minimum(rate[known[:-1]], rate[known[1:]]), np.maximum(rate[known[:-1]], rate[known[1:]])
    jumps = np.flatnonzero(low < (1.0 - _RATE_STEP) * high)
    first = np.maximum(known[jumps] - 1, 0)
    last = np.searchsorted(at, at[known[jumps + 1]] + max(_RATE_REACH * total_steps, 2.0), side="right")
    last = np.maximum(last, np.minimum(known[jumps + 1] + 2, at.size))
    barred = np.zeros(at.size + 1, dtype=np.int64)
    np.add.at(barred, first, 1)
    np.add.at(barred, last, -1)
    return np.asarray(possible & (np.cumsum(barred)[:-1] == 0))


def _cosines(values: Array) -> Array:
    return np.asarray(dct(values, type=2, norm="ortho")[1:])


def _blocked(logs: Array) -> tuple[Array, int]:
    """Means of equal blocks, at most a thousand, and the rows in each; a rest at the end is left out."""
    size = -(-logs.size // _BLOCKS)
    whole = logs.size // size
    return logs[: whole * size].reshape(whole, size).mean(axis=1), size


def _clipped(logs: Array) -> Array:
    """Log norms within three (robust) standard deviations of a running median: spikes must not decide."""
    size = -(-logs.size // _BLOCKS)
    whole = logs.size // size
    centre = median_filter(np.median(logs[: whole * size].reshape(whole, size), axis=1), size=21, mode="reflect")
    block = np.minimum(np.arange(logs.size) // size, whole - 1)
    off = logs - centre[block]
    spread = np.median(np.abs(off[: whole * size]).reshape(whole, size), axis=1)
    spread = 1.4826 * median_filter(spread, size=41, mode="reflect")[block]
    spread = np.where(spread > 0.0, spread, np.abs(off).mean())  # rounded norms: half of them equal their median
    reach = 3.0 * spread
    return np.asarray(centre[block] + np.clip(off, -reach, reach))

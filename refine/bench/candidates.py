r"""What the default could have been: every rule that was tried, each from one log of a tuned run to a schedule.

All give a multiplier without warmup, to which the logged run's own is applied. They see `Evidence` and nothing else, so
that whatever wins can be had by a user with one log. `docs/default.md` has the results, the failures too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from ..families import from_name
from ..refinement import refined_multiplier

__all__ = ["CANDIDATES", "Candidate", "Evidence", "progress_multiplier"]

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """What a log says, on the T updates of its run.

    Attributes
    ----------
    squared, published : ndarray, shape (T,)
        The optimizer's squared norms N, smoothed with both ends reflected; with the published padding on the left.
    rates : ndarray, shape (T,)
        Learning rates of the logged run, in any unit.
    loss : ndarray, shape (T,)
        Of the minibatches, raw.
    rho : float
        G(T) / G(0.05 T) of the smoothed norms.
    """

    squared: Array
    published: Array
    rates: Array
    loss: Array
    rho: float

    @property
    def steps(self) -> int:
        """T."""
        return self.squared.size


Candidate = Callable[[Evidence], Array]

_START, _STOP = 0.1, 0.98
_WINDOWS = (0.08, 0.12), (0.48, 0.52), (0.96, 1.0)


def base(name: str, log: Evidence) -> Array:
    """A family's member whatever the log says: what norms must improve on."""
    return from_name(name, log.steps).multiplier


def time_form(log: Evidence, *, power: float = 1.0, clip: float = np.inf, declines: bool = False) -> Array:
    """Theorem 3 of arXiv:2310.07831 with weights N^-power.

    A power below 1 and a clip to [1/clip, clip] times the median damp it: most of what norms do in an annealed run
    comes from its annealing. With ``declines`` a rise is not believed (running minimum of N): weight decay and
    sharpening make norms rise without the noise that the theorem takes them for.
    """
    return refined_multiplier(_clipped(_falling(log.squared, declines), clip) ** -power)


def published_padding(log: Evidence) -> Array:
    """Theorem 3 on norms whose first half window is copies of the first: one large norm makes a warmup."""
    return refined_multiplier(1.0 / log.published)


def elasticity(log: Evidence) -> float:
    r"""Power e of the learning rate in the norms: least squares for :math:`\log N = a + b x + c x^2 + e \log h`.

    x is the share of updates done. On a linear log only the last part tells time from rate; kept within [-1, 2].
    """
    x = (np.arange(log.steps) + 0.5) / log.steps
    at = (x > _START) & (x < _STOP) & (log.rates > 0.0)
    terms = np.stack([np.ones(at.sum()), x[at], x[at] ** 2, np.log(log.rates[at])], axis=1)
    found, *_ = np.linalg.lstsq(terms, np.log(log.squared[at]), rcond=None)
    return float(np.clip(found[3], -1.0, 2.0))


def rate_divided_out(log: Evidence, inside: Candidate) -> Array:
    """The norms as they would be at a constant rate, N / h^e: an annealed run's fall because it anneals."""
    rates = np.maximum(log.rates / log.rates.max(), 1.0 - _STOP)
    return inside(replace(log, squared=log.squared / rates ** elasticity(log)))


def later_if_the_loss_falls_late(log: Evidence, *, share: float) -> Array:
    """The obvious reading of the loss: still falling in the second half, it wants the rate for longer."""
    at = [log.loss[int(a * log.steps) : int(b * log.steps) + 1].mean() for a, b in _WINDOWS]
    late = (at[1] - at[2]) / (at[0] - at[2]) if at[0] > at[2] else 0.0
    return base("polynomial:0.75" if late > share else "linear", log)


def progress_multiplier(
    squared_norms: npt.ArrayLike,
    logged_multiplier: npt.ArrayLike,
    *,
    total_steps: int,
    alpha: float = 0.25,
    clip: float = 2.0,
) -> NDArray[np.float64]:
    r"""Progress form: the norm as a function of the distance travelled, not of the clock.

    With R_t the share of the logged run's learning rates still to come at update t and
    x_t = 1 - sqrt(R_t), update t of the log takes the new time
    ``d tau_t = N_t^alpha (x_{t+1} - x_t)``, tau normalised to [0, 1]; the new rate at time tau is

    .. math:: h(\tau) \propto (1 - x(\tau)) / N(\tau)^\alpha

    Constant norms give linear decay from any logged schedule. The method keeps the logged run's
    area: its peak is the old one times mean(h_old) / mean(h_new).

    Parameters
    ----------
    squared_norms : array_like, shape (T,)
        N_t of the logged run, one per update, positive.
    logged_multiplier : array_like, shape (T,)
        The logged run's own learning rates, in any unit, >= 0.
    total_steps : int
        Updates of the next run.
    alpha : float
        0 is linear decay, 1/2 the undamped form. Measured best: 1/4.
    clip : float
        N is clipped to [1 / clip, clip] times its median first; with the defaults linear decay
        is bent by at most 2^(1/4), 19 %, either way.

    Returns
    -------
    ndarray, shape (total_steps,)
        Peak 1, positive.

    Notes
    -----
    Own derivation: minimise the integral of h n(s) / (S - s) over the distance s travelled, the
    time being fixed. It says nothing of warmup. O(T).

    Examples
    --------
    >>> progress_multiplier([3.0] * 4, [0.1, 1.0, 1.0, 0.3], total_steps=4).tolist()
    [1.0, 0.75, 0.5, 0.25]
    """
    n = np.asarray(squared_norms, dtype=np.float64)
    rates = np.asarray(logged_multiplier, dtype=np.float64)
    middle = np.median(n)
    power = np.clip(n / middle, 1.0 / clip, clip) ** alpha
    to_come = np.cumsum(rates[::-1])[::-1]
    remaining = np.sqrt(np.append(to_come, 0.0) / to_come[0])  # 1 - x_t
    tau = np.concatenate([[0.0], np.cumsum(power * -np.diff(remaining))])
    tau /= tau[-1]
    new = np.arange(total_steps) / total_steps
    eta = np.interp(new, tau, remaining) / np.interp(new, tau[:-1], power)
    return np.asarray(np.maximum(eta / eta.max(), np.finfo(np.float64).tiny), dtype=np.float64)


def progress_form(
    log: Evidence, *, alpha: float = 0.25, clip: float = 2.0, declines: bool = False, on: str = "linear"
) -> Array:
    """Norms as a function of the distance travelled (`progress_multiplier`), on another base."""
    bent = progress_multiplier(
        _falling(log.squared, declines), log.rates, total_steps=log.steps, alpha=alpha, clip=clip
    )
    return _on(bent, on)


def blended(log: Evidence, one: Candidate, *, share: Callable[[Evidence], float]) -> Array:
    """A mixture with linear decay: a share of the steps of `one`, both of the same area.

    The bound is convex in the steps: a mixture is never worse in it than the worse of the two.
    """
    part, line = one(log), base("linear", log)
    s = share(log)
    mixed = s * part / part.mean() + (1.0 - s) * line / line.mean()
    return np.asarray(mixed / mixed.max(), dtype=np.float64)


def guarded(log: Evidence, inside: Candidate, *, low: float, high: float) -> Array:
    """`inside` where low <= rho <= high, else linear decay."""
    return inside(log) if low <= log.rho <= high else base("linear", log)


def _falling(squared: Array, declines: bool) -> Array:
    return np.minimum.accumulate(squared) if declines else squared


def _clipped(squared: Array, clip: float) -> Array:
    middle = float(np.median(squared))
    return np.clip(squared / middle, 1.0 / clip, clip)


def _on(bent: Array, name: str) -> Array:
    """A schedule that bends linear decay, put on another base: h(tau) / (1 - tau) times the base."""
    if name == "linear":
        return bent
    steps = bent.size
    moved = bent / from_name("linear", steps).multiplier * from_name(name, steps).multiplier
    return np.asarray(moved / moved.max(), dtype=np.float64)


_SQRT = "wsd:1,shape=sqrt"

CANDIDATES: Mapping[str, Candidate] = {
    "base cosine": partial(base, "cosine"),
    "(1-x)^0.5": partial(base, "polynomial:0.5"),
    "(1-x)^0.75": partial(base, "polynomial:0.75"),
    "(1-x)^1.25": partial(base, "polynomial:1.25"),
    "(1-x)^1.5": partial(base, "polynomial:1.5"),
    "(1-x)^2": partial(base, "polynomial:2"),
    "base 1-sqrt": partial(base, _SQRT),
    "base wsd 0.2": partial(base, "wsd:0.2"),
    "base wsd 0.5": partial(base, "wsd:0.5"),
    "base wsd 0.8": partial(base, "wsd:0.8"),
    "time 1": time_form,
    "time 1/2": partial(time_form, power=0.5),
    "time 1/4": partial(time_form, power=0.25),
    "time, clip 4": partial(time_form, clip=4.0),
    "time, clip 2": partial(time_form, clip=2.0),
    "time, declines": partial(time_form, declines=True),
    "time -1/4": partial(time_form, power=-0.25),
    "progress 1/2": partial(progress_form, alpha=0.5, clip=np.inf),
    "progress 1/2, clip 2": partial(progress_form, alpha=0.5),
    "progress 1/4": progress_form,
    "progress 1/4, no clip": partial(progress_form, clip=np.inf),
    "progress 1/4, declines": partial(progress_form, declines=True),
    "progress 1/4 on 1-sqrt": partial(progress_form, on=_SQRT),
    "progress 1/4 on (1-x)^0.75": partial(progress_form, on="polynomial:0.75"),
    "progress -1/4": partial(progress_form, alpha=-0.25),
    "time 2": partial(time_form, power=2.0),
    "time, published padding": published_padding,
    "time, rate divided out": partial(rate_divided_out, inside=time_form),
    "progress 1/2, rate divided out": partial(rate_divided_out, inside=partial(progress_form, alpha=0.5, clip=np.inf)),
    "half time, half linear": partial(blended, one=time_form, share=lambda log: 0.5),
    "time, blended by rho": partial(
        blended, one=time_form, share=lambda log: float(np.clip((log.rho - 0.3) / 0.3, 0, 1))
    ),
    "time if rho in 0.3 .. 1.2": partial(guarded, inside=time_form, low=0.3, high=1.2),
    "progress 1/4, declines, if rho in 0.3 .. 1.2": partial(
        guarded, inside=partial(progress_form, declines=True), low=0.3, high=1.2
    ),
    "(1-x)^0.75 if the loss falls late": partial(later_if_the_loss_falls_late, share=1 / 3),
}
"""By name, as in the tables."""

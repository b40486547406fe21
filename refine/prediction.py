"""Predict the loss of a run that has not been run, from the losses and rates of finished ones, with error bars."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from .errors import RefineError
from .families.names import with_run_warmup
from .files import printable
from .loss_curve import CurveLike, LossCurve, as_curves
from .loss_fit import LEAST_SIGMA, Fit, Points, fit_points
from .loss_laws import LAWS, View
from .loss_limits import WIDER, check_curves, check_reach, limits_of_fit, limits_of_schedule
from .prior import check_peak, is_file, named_schedule
from .schedule import Schedule, check_array, check_count
from .transfer import retarget

if TYPE_CHECKING:
    import pandas as pd

    from .loss_table import LossTable

__all__ = ["Calibration", "Difference", "LossLaw", "Prediction", "calibration", "fit_loss", "points_of"]

Array = NDArray[np.float64]
Verdict = Literal["better", "tie", "worse"]
ScheduleLike: TypeAlias = "Schedule | str"

BURN_IN = 0.15
"""Share of a run before which losses are not used: no law holds there."""

LEAST_POINTS = 12
CURVE_POINTS = 120
_BINS = {"validation": 100, "training": 60}
_QUANTILE = 1.6449  # of a normal distribution: 90 % lie within
_FAR, _SAME_PEAK, _TIE_ACROSS_PEAKS, _ANCHORS = 2.0, 0.02, 0.007, 4


@dataclass(frozen=True, slots=True)
class Calibration:
    """By how much the errors of real predictions exceeded those that the fit alone expects.

    A 90 % bar is ``q sqrt(Laplace^2 + (horizon log2(T / T_logged))^2 + (peak log2(peak / peak_logged))^2)`` times the
    loss on either side, a difference's ``q_difference sqrt(Laplace^2 + least_difference^2 + ...)`` of the pair.

    Attributes
    ----------
    groups, cases : int
        Groups (model and data) and predictions that it was measured on.
    coverage : float
        Share of the predictions that their bars covered, each group with the bars of the others.
    """

    q: float
    horizon: float
    peak: float
    q_difference: float
    least_difference: float
    groups: int
    cases: int
    coverage: float


@cache
def calibration() -> Calibration:
    """The packaged calibration; ``tests/benchmarks/loss_calibration.py`` makes it."""
    known = json.loads(files("refine").joinpath("loss_calibration.json").read_text(encoding="utf-8"))
    return Calibration(**{name: known[name] for name in Calibration.__dataclass_fields__})


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """What a schedule is predicted to do.

    Attributes
    ----------
    name : str
    schedule : Schedule
    peak_lr : float
    final_loss, low, high : float
        After the last update, with its 90 % interval.
    steps : (k,) int64
        Updates done at the points of the curve.
    losses, lower, upper : (k,) float64
        The curve and its 90 % band.
    limits : tuple of str
        What makes this prediction less sure than others; its bar is wider for each.
    """

    name: str
    schedule: Schedule
    peak_lr: float
    final_loss: float
    low: float
    high: float
    steps: NDArray[np.int64]
    losses: Array
    lower: Array
    upper: Array
    limits: tuple[str, ...] = ()

    @property
    def total_steps(self) -> int:
        """Updates of the schedule."""
        return self.schedule.total_steps

    @property
    def bar(self) -> float:
        """Half of the width of the 90 % interval, where that is not cut at 0."""
        return self.high - self.final_loss

    @property
    def words(self) -> str:
        """Final loss and bar, as text."""
        return f"{self.final_loss:.4g} +- {self.bar:.2g}"

    @property
    def rates(self) -> Array:
        """Learning rate of every update, shape (T,)."""
        return self.schedule.multiplier * self.peak_lr


@dataclass(frozen=True, slots=True)
class Difference:
    """Predicted final loss of one schedule less that of another, with its 90 % interval.

    ``verdict``: "better" or "worse" beyond two standard errors, else "tie".
    """

    value: float
    low: float
    high: float
    verdict: Verdict


def points_of(curve: LossCurve) -> Points:
    """Losses of a run as a law is fitted to them: after the burn-in, in bins, with the scatter as their sigma.

    Examples
    --------
    >>> losses = 3.0 + np.arange(1, 401.0) ** -0.5
    >>> curve = LossCurve.from_values(losses, every=10, rates=np.linspace(1.0, 0.001, 4000))
    >>> points_of(curve).at.size
    100
    """
    start = max(BURN_IN * float(curve.steps[-1]), curve.warmup_steps if curve.warmup_steps < curve.steps[-1] / 2 else 0)
    kept = curve.steps >= start
    at, losses = curve.steps[kept] - 0.5 * (curve.window - 1), curve.losses[kept]
    if at.size < LEAST_POINTS:
        raise RefineError(
            f"{printable(curve.name)}: {at.size} losses lie after the burn-in, update {math.ceil(start):,}, and at "
            f"least {LEAST_POINTS} are needed: name a log with losses at more steps, or another --loss-column"
        )
    # Second differences tell the scatter from the trend.
    scatter = float(np.median(np.abs(np.diff(np.log(losses), 2)))) / (0.6745 * math.sqrt(6.0))
    edges = np.linspace(0, at.size, min(_BINS[curve.sort], at.size) + 1).astype(np.intp)
    size = np.diff(edges)
    sigma = np.maximum(scatter / np.sqrt(size), LEAST_SIGMA)
    middle, mean = (np.add.reduceat(values, edges[:-1]) / size for values in (at, losses))
    return Points(curve.rates, middle, mean, sigma, curve.noise, at.size)


def fit_loss(runs: CurveLike | Sequence[CurveLike], *, law: str = "memory", **read: Any) -> LossLaw:
    """Fit a law of the loss curve to one or several finished runs of one configuration.

    Parameters
    ----------
    runs : path, DataFrame, GradientNorms, LossCurve, or a sequence of them
        Of one model, data set and batch size. `refine.LossCurve.from_values` makes one of arrays.
    law : str
        One of `refine.loss_laws.LAWS`.
    **read
        Of `refine.read_losses`.

    Raises
    ------
    RefineError
        Where no answer can be given: no run lowers its rate, fewer than 12 losses after the burn-in, unknown rates, a
        run that diverged.

    Examples
    --------
    >>> import refine
    >>> rates = 1e-3 * refine.linear(2000, warmup_steps=100).multiplier
    >>> steps = np.arange(100, 2001, 20)
    >>> loss = 2.0 + 30.0 / np.sqrt(steps + 100.0) + 40.0 * rates[steps - 1]
    >>> law = refine.fit_loss(refine.LossCurve.from_values(loss, steps, rates=rates))
    >>> law.difference("constant", "linear").verdict
    'worse'
    """
    if law not in LAWS:
        raise RefineError(f"law is {law!r}; it must be one of {', '.join(LAWS)}")
    curves = tuple(as_curves(runs, **read))
    check_curves(curves)
    return LossLaw(fit_points([points_of(curve) for curve in curves], LAWS[law]), curves)


@dataclass(frozen=True, eq=False, repr=False)
class LossLaw:
    """A law fitted to runs. Make it with `refine.fit_loss`.

    Attributes
    ----------
    fit : Fit
    runs : tuple of LossCurve
    """

    fit: Fit
    runs: tuple[LossCurve, ...]

    def __repr__(self) -> str:
        return f"LossLaw({self.fit.law.name!r}, runs={len(self.runs)}, {self.formula})"

    @property
    def longest(self) -> LossCurve:
        """The run that lasted longest: its horizon, peak and warmup are those of schedules that name none."""
        return max(self.runs, key=lambda run: run.total_steps)

    @property
    def logged_steps(self) -> int:
        """Update of the last loss of any run."""
        return max(int(run.steps[-1]) for run in self.runs)

    @property
    def formula(self) -> str:
        """The fitted law."""
        constant, progress, noise = self.fit.coefficients
        alpha = self.fit.exponents["alpha"]
        return f"L = {constant:.4g} + {progress:.4g} P^-{alpha:.3g} + {noise:.4g} f"

    @property
    def rms(self) -> float:
        """Root mean square of the fitted over the measured losses, less 1."""
        return float(np.sqrt(np.mean(self.fit.residuals**2)))

    @cached_property
    def limits(self) -> tuple[str, ...]:
        """What limits every prediction of this law; each makes all bars wider by half."""
        return tuple(limits_of_fit(self.fit, self.runs))

    def summary(self, *, verbose: bool = False) -> str:
        """What was read, and how well the law fits it."""
        from .loss_table import law_words

        return "\n".join(law_words(self, verbose=verbose))

    def to_frame(self) -> pd.DataFrame:
        """The points that the law was fitted to: run, step, loss, fitted, sigma."""
        from .loss_table import law_to_frame

        return law_to_frame(self)

    def to_dict(self) -> dict[str, Any]:
        """The fitted law as JSON values."""
        from .loss_table import law_to_dict

        return law_to_dict(self)

    def compare(
        self,
        schedules: Iterable[ScheduleLike] | Mapping[str, ScheduleLike] | None = None,
        *,
        total_steps: int | None = None,
        peak_lr: float | None = None,
    ) -> LossTable:
        """Predict several schedules side by side (`refine.loss_table.predict_named`)."""
        from .loss_table import DEFAULT_NAMES, predict_named

        return predict_named(self, schedules or DEFAULT_NAMES, total_steps=total_steps, peak_lr=peak_lr)

    def _repr_html_(self) -> str:
        return self.compare()._repr_html_()

    def schedule(self, schedule: ScheduleLike, total_steps: int | None = None) -> Schedule:
        """The schedule that is meant: a family gets the horizon and the warmup of the longest run."""
        if isinstance(schedule, Schedule):
            return schedule if total_steps in (None, len(schedule)) else retarget(schedule, total_steps or 0)
        if is_file(schedule):
            return named_schedule(schedule, total_steps)
        steps = self.longest.total_steps if total_steps is None else check_count("total_steps", total_steps, least=1)
        try:
            return named_schedule(with_run_warmup(schedule, min(self.longest.warmup_steps, steps // 2)), steps)
        except RefineError:  # as wsd:1, all of which is cooldown
            return named_schedule(schedule, steps)

    def predict(
        self,
        schedule: ScheduleLike,
        *,
        total_steps: int | None = None,
        peak_lr: float | None = None,
        name: str | None = None,
        points: int = CURVE_POINTS,
        steps: npt.ArrayLike | None = None,
        anchored: bool = False,
    ) -> Prediction:
        """Predict the loss under a schedule.

        Parameters
        ----------
        schedule : Schedule or str
            Or a file, or a family's name (`refine.from_name`), which gets the warmup of the longest run.
        total_steps : int, optional
            Updates; by default those of the schedule, of a family those of the longest run.
        peak_lr : float, optional
            By default that of the longest run.
        name : str, optional
            For tables and figures.
        points : int
            Of the curve, 1 at least.
        steps : array_like of int, optional
            Updates done at which the curve is wanted, instead of so many points; the last update is added.
        anchored : bool
            For a schedule that goes on with the longest run: moved by what that run's last four losses lie off the law.
        """
        wanted = self.schedule(schedule, total_steps)
        peak, total = self._peak(peak_lr), wanted.total_steps
        first = min(math.ceil(BURN_IN * self.logged_steps), total)
        at = np.unique(np.append(np.linspace(first, total, points).round()[: points - 1], float(total)))
        if steps is not None:
            at = np.unique(np.append(check_array("steps", steps), float(total)))
            if at[0] < 1.0 or at[-1] > total or np.any(at != np.round(at)):
                raise RefineError(f"steps must be whole numbers from 1 to {total:,}, the updates of the schedule")
        view = self.fit.view(wanted.multiplier * peak, at, self.noise_of(total))
        check_reach(self.fit, view, total, peak)
        losses, slopes, calibrated = self.fit.losses(view), self.fit.gradient(view), calibration()
        if anchored:
            shift = math.exp(-self._last_residual)
            losses, slopes = losses * shift, slopes * shift
        further = calibrated.horizon * np.log2(np.maximum(at / self.logged_steps, 1.0))
        variance = np.einsum("ij,jk,ik->i", slopes, self.fit.covariance, slopes) / losses**2
        spread = np.sqrt(np.maximum(variance, 0.0) + further**2 + (calibrated.peak * self._octaves(peak)) ** 2)
        limits = (*self.limits, *limits_of_schedule(wanted.multiplier, self.runs))
        half = losses * calibrated.q * spread * WIDER ** len(limits)
        return Prediction(
            name or (schedule if isinstance(schedule, str) else "schedule"),
            wanted,
            peak,
            float(losses[-1]),
            float(max(losses[-1] - half[-1], 0.0)),
            float(losses[-1] + half[-1]),
            at.astype(np.int64),
            losses,
            np.maximum(losses - half, 0.0),
            losses + half,
            (*limits, *self._further(total, peak)),
        )

    def difference(self, a: Prediction | ScheduleLike, b: Prediction | ScheduleLike) -> Difference:
        """Predicted final loss of ``a`` less that of ``b``; what both have in common cancels in its interval.

        Examples
        --------
        See `fit_loss`.
        """
        first, second = (x if isinstance(x, Prediction) else self.predict(x, points=1) for x in (a, b))
        views = [self._end(prediction.rates) for prediction in (first, second)]
        value, loss = first.final_loss - second.final_loss, second.final_loss
        slope = (self.fit.gradient(views[0]) - self.fit.gradient(views[1]))[0]
        calibrated = calibration()
        apart = abs(math.log2(first.peak_lr / second.peak_lr))
        beyond = min(apart, self._octaves(first.peak_lr) + self._octaves(second.peak_lr))
        longer = math.log2(first.total_steps / second.total_steps)
        variance = max(float(slope @ self.fit.covariance @ slope), 0.0) / loss**2 + calibrated.least_difference**2
        variance += (calibrated.peak * beyond) ** 2 + (calibrated.horizon * longer) ** 2
        own = any(limits_of_schedule(each.schedule.multiplier, self.runs) for each in (first, second))
        half = loss * calibrated.q_difference * math.sqrt(variance) * WIDER ** (len(self.limits) + own)
        least = 2.0 * half / _QUANTILE
        if apart:  # by the evidence, differences across peaks below that are a tie
            least = max(least, _TIE_ACROSS_PEAKS * loss)
        verdict: Verdict = "tie" if abs(value) <= least else "better" if value < 0.0 else "worse"
        return Difference(value, value - half, value + half, verdict)

    def costs(self, candidates: Iterable[Array], plain: Array) -> list[tuple[float, float]]:
        """Predicted loss at each of some rates less that at plain ones, and its standard error; all of one peak, (T,).

        As `difference`, for searches: nothing is checked. The error of each is widened by its own limits, not also by
        those of the plain rates.
        """
        base, calibrated = self._end(plain), calibration()
        loss, slope = float(self.fit.losses(base)[0]), self.fit.gradient(base)[0]
        found = []
        for rates in candidates:
            view = self._end(rates)
            apart = self.fit.gradient(view)[0] - slope
            variance = max(float(apart @ self.fit.covariance @ apart), 0.0) / loss**2 + calibrated.least_difference**2
            wider = WIDER ** (len(self.limits) + bool(limits_of_schedule(rates, self.runs)))
            error = loss * calibrated.q_difference * math.sqrt(variance) * wider / _QUANTILE
            found.append((float(self.fit.losses(view)[0]) - loss, error))
        return found

    def best(
        self,
        candidates: Iterable[ScheduleLike] | Mapping[str, ScheduleLike],
        *,
        total_steps: int | None = None,
        peak_lr: float | None = None,
    ) -> Prediction:
        """The candidate with the lowest predicted final loss; of equals the first."""
        named = candidates.items() if isinstance(candidates, Mapping) else ((None, each) for each in candidates)
        predictions = [
            self.predict(each, total_steps=total_steps, peak_lr=peak_lr, name=name, points=1) for name, each in named
        ]
        if not predictions:
            raise RefineError("there are no candidates; give one schedule or more")
        return min(predictions, key=lambda prediction: prediction.final_loss)

    def final_loss(self, rates: Array) -> float:
        """Predicted loss after the last update at these rates, (T,), without an interval: for searches."""
        return float(self.fit.losses(self._end(rates))[0])

    @property
    def _last_residual(self) -> float:
        """By how much the law lies above the last four losses of the longest run, in the logarithm."""
        return float(np.mean(self.fit.residuals_by_curve[self.runs.index(self.longest)][-_ANCHORS:]))

    def _end(self, rates: Array) -> View:
        return self.fit.view(rates, np.array([float(rates.size)]), self.noise_of(rates.size))

    def _peak(self, peak_lr: float | None) -> float:
        check_peak(peak_lr)
        peak = self.longest.peak_lr if peak_lr is None else peak_lr
        if self._octaves(peak) and self.fit.law.name in ("multi-power", "annealing"):
            raise RefineError(
                f"peak_lr is {peak:g} and the logs have {self.longest.peak_lr:g}; the {self.fit.law.name} law cannot "
                "cross peaks: use the law memory"
            )
        return peak

    def _octaves(self, peak: float) -> float:
        """Octaves between a peak and the nearest logged one."""
        apart = min(abs(math.log2(peak / run.peak_lr)) for run in self.runs)
        return apart if apart > _SAME_PEAK else 0.0

    def noise_of(self, steps: int) -> Array | None:
        """Noise levels of a schedule's updates: those of the longest run at the same share of training."""
        known = self.longest.noise
        if known is None:
            return None
        return np.asarray(known[np.minimum(np.arange(steps) * known.size // steps, known.size - 1)])

    def _further(self, steps: int, peak: float) -> list[str]:
        """What the bars allow for by their formula."""
        found = []
        if steps > _FAR * self.logged_steps:
            found.append(f"{steps:,} updates are more than twice the {self.logged_steps:,} that are logged")
        if octaves := self._octaves(peak):
            found.append(f"the peak {peak:g} is {2.0**octaves:.3g} times away from what was logged")
        return found

r"""What `refine fit` recommends: hold the peak, then anneal, for as long as the losses say.

.. math:: h_t = \min(1, k\, r_t)

r is the refined schedule of the noise level: linear decay, unless that level shifts. k is the one number that a peak
leaves open (`refine.refinement.held_multiplier`). The law that `refine.fit_loss` fits to the losses beside the norms
says it; where the law must be silent, k is 1.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from .batch_plan import parse_batch_plan, planned
from .errors import RefineError
from .families import with_warmup
from .files import printable
from .foretold import law_of, why_not
from .level_shifts import noise_level, shifts_of, shifts_of_losses
from .loss_limits import bad_fit
from .norms import GradientNorms
from .prior import Prior
from .refinement import EXPONENTS, OptimizerFamily, held_multiplier, k_of_hold
from .schedule import Schedule

if TYPE_CHECKING:
    from .prediction import Difference, LossLaw, Prediction

__all__ = [
    "CAUTION",
    "DEFAULT_WARMUP_FRACTION",
    "LONG_HOLD",
    "TOO_HIGH",
    "Choice",
    "Shape",
    "batch_level",
    "cautious_hold",
    "choose",
    "decays_linearly",
    "next_warmup",
    "peak_advice",
    "scheduled",
    "words",
]

Shape = Literal["linear", "held", "shifted", "held, shifted"]

DEFAULT_WARMUP_FRACTION = 0.02
"""Warmup where the log does not show one, as a fraction of the next run."""

RISING, FALLING = 2.0, 1.0
"""Power of N = G^2 (SGD) or G (Adam family) that the anneal follows where the batch size changes: where the noise rises
and where it falls (docs/default.md)."""

CAUTION = 1.0
"""Standard errors of a predicted difference that a hold has to make up for; by gain against harm (docs/default.md)."""

LONG_HOLD = 0.25
"""A hold for more than this share of the run says that the peak is low."""

TOO_HIGH = "the losses say that the peak is too high: try half of it"

_SHARES = tuple(share / 20 for share in range(1, 17))
_END, _ANNEALED, _STRAIGHT = 0.05, 0.25, 0.9
_REMEDY = re.compile(r"[:;] |, and no law holds there")


@dataclass(frozen=True, slots=True)
class Choice:
    """What is recommended, and why.

    Attributes
    ----------
    k : float
        1: linear decay, or the anneal that follows the noise; more: the peak is held first.
    hold : float
        Share of the run for which the peak is held.
    spoke : {"loss", "noise", "neither", "user"}
        What decided.
    reason : str
        Part of a sentence.
    peak_advice : str
        What the losses say of the peak; empty where nothing.
    shifted : bool
        The anneal follows shifts of the noise level.
    """

    k: float
    hold: float
    spoke: Literal["loss", "noise", "neither", "user"]
    reason: str
    peak_advice: str = ""
    shifted: bool = False

    @property
    def shape(self) -> Shape:
        """In a word or two."""
        if self.k > 1.0:
            return "held, shifted" if self.shifted else "held"
        return "shifted" if self.shifted else "linear"

    @property
    def keeps_peak(self) -> bool:
        """Whether it was chosen for the logged peak: then that is the one to run it at."""
        return self.spoke == "loss"


def words(choice: Choice, steps: int | None = None) -> str:
    """Say what a choice looks like, over so many updates where they are given.

    Examples
    --------
    >>> words(Choice(2.0, 0.5, "loss", ""))
    'hold the peak for 50 % of the run, then anneal (k = 2.00)'
    >>> words(Choice(1.0, 0.0, "neither", ""), 5000)
    'linear decay over 5,000 updates'
    """
    anneal = "anneal with the noise level" if choice.shifted else "anneal"
    if choice.k > 1.0:
        span = "the run" if steps is None else f"{steps:,} updates"
        return f"hold the peak for {100.0 * choice.hold:.0f} % of {span}, then {anneal} (k = {choice.k:.2f})"
    span = "" if steps is None else f" over {steps:,} updates"
    return f"{anneal if choice.shifted else 'linear decay'}{span}"


def scheduled(steps: int, warmup_steps: int, k: float = 1.0, level: npt.ArrayLike | None = None) -> NDArray[np.float64]:
    """Multipliers ``min(1, k r)`` behind a warmup, r the refined schedule of a noise level; shape (steps,).

    Below 1 the largest of them is k: what the warmup scales to its peak is scaled back.

    Examples
    --------
    >>> scheduled(4, 2, 2.0).tolist(), scheduled(4, 0, 0.5).tolist()
    ([0.5, 1.0, 1.0, 0.5], [0.5, 0.375, 0.25, 0.125])
    """
    multiplier = held_multiplier(_weights(steps, level), k)
    top = float(multiplier.max())
    return with_warmup(multiplier / top, warmup_steps) * top


def batch_level(
    norms: GradientNorms, steps: int, family: OptimizerFamily, plan: str | None = None
) -> NDArray[np.float64] | None:
    """Noise level of the next run's updates, (steps,), by the batch sizes of the log or of a plan; None: no change.

    Parameters
    ----------
    norms : GradientNorms
    steps : int
        Updates of the next run.
    family : {"sgd", "adam"}
    plan : str, optional
        Batch sizes of the next run, as ``8@0,64@2000``, where they are not those of the log.
    """
    known = tuple(shift for shift in shifts_of(norms) if shift.cause == "batch size")
    parsed = None if plan is None else parse_batch_plan(plan)
    ahead = planned(known, steps, norms.total_steps, plan=parsed, logged_batch=norms.batch_size)
    if not ahead:
        return None
    powers = (RISING if shift.factor > 1.0 else FALLING for shift in ahead)
    raised = (replace(s, factor=s.factor ** (p * EXPONENTS[family])) for s, p in zip(ahead, powers, strict=True))
    return noise_level(tuple(raised), steps)


def next_warmup(prior: Prior, steps: int) -> int:
    """Warmup of the next run: that of the logged one in updates, or 2 % where that is unknown."""
    return round(DEFAULT_WARMUP_FRACTION * steps) if prior.warmup_steps is None else prior.warmup_steps


def choose(
    norms: GradientNorms,
    prior: Prior,
    steps: int,
    *,
    level: NDArray[np.float64] | None = None,
    hold: float | None = None,
) -> Choice:
    """Decide for how long the next run holds its peak.

    Parameters
    ----------
    norms : GradientNorms
        With losses and learning rates, or nothing speaks.
    prior : Prior
        Its warmup is that of the next run.
    steps : int
        Updates of the next run.
    level : ndarray, shape (steps,), optional
        Noise level of each of them; None: it does not shift.
    hold : float, optional
        Share of the run, as the user says.

    Examples
    --------
    >>> choose(GradientNorms.from_values([1.0, 1.0]), Prior(), 100, hold=0.5)
    Choice(k=2.0, hold=0.5, spoke='user', reason='the hold is as given', peak_advice='', shifted=False)
    >>> choose(GradientNorms.from_values([1.0, 1.0]), Prior(), 100).reason
    'neither loss nor noise speaks: its norms have no losses beside them'
    """
    shifted = level is not None
    if hold is not None:
        return Choice(k_of_hold(_weights(steps, level), hold), hold, "user", "the hold is as given", shifted=shifted)
    if shifted:
        why = "the anneal follows the noise of the batch sizes; the losses do not speak where the noise changes"
        return Choice(1.0, 0.0, "noise", why, shifted=True)

    def silent(why: str, peak: str = "") -> Choice:
        return Choice(1.0, 0.0, "neither", f"neither loss nor noise speaks: {why}", peak)

    law, warmup = law_of(norms), next_warmup(prior, steps)
    if law is None:
        return silent(_brief(why_not(norms), norms))
    if jumps := shifts_of(norms) or shifts_of_losses(norms):
        where = "where the batch size changes" if jumps[0].cause == "batch size" else "as where data changes"
        return silent(f"norms or losses jump at update {jumps[0].step:,}, {where}, which no law knows")
    if poor := bad_fit(law.fit):
        return silent(poor[0])
    try:
        peak = law.longest.peak_lr
        plain, half = (
            law.predict(Schedule.from_rates(scheduled(steps, warmup), {}), peak_lr=rate, points=1)
            for rate in (peak, 0.5 * peak)
        )
        held = cautious_hold(law, steps, warmup, peak)
        k = k_of_hold(np.ones(steps), held)
        schedule = Schedule.from_rates(scheduled(steps, warmup, k), {})
        best = law.predict(schedule, peak_lr=peak, points=1)
    except RefineError as error:  # the next run lies too far off for the law
        return silent(_brief(str(error), norms))
    if held == 0.0:
        too_high = law.difference(half, plain).verdict == "better"
        return silent("the losses want no hold that they are sure of", TOO_HIGH if too_high else "")
    gain, advice = law.difference(best, plain), peak_advice(law, best, held)
    return Choice(k, held, "loss", f"the losses foretell {_signed(gain)} against linear decay", advice)


def cautious_hold(law: LossLaw, steps: int, warmup_steps: int, peak_lr: float) -> float:
    r"""Share of the run to hold the peak for, in twentieths: the least of predicted difference and `CAUTION` errors.

    .. math:: \min_h \; d(h) + c\, \sigma(h), \qquad d(0) = \sigma(0) = 0

    d is the predicted final loss less that without a hold, sigma its standard error (`LossLaw.difference`). Losses that
    tell nothing give no hold, and those that tell little a short one. The anneal takes a fifth of the run at least: a
    shorter one gains next to nothing where the peak is low, and doubles what a false alarm costs (docs/default.md).
    """

    def rates(hold: float) -> NDArray[np.float64]:
        return scheduled(steps, warmup_steps, k_of_hold(np.ones(steps), hold)) * peak_lr

    costs = law.costs((rates(hold) for hold in _SHARES), rates(0.0))  # one at a time: a run may have many updates
    found = [value + CAUTION * error for value, error in costs]
    best = int(np.argmin(found))
    return _SHARES[best] if found[best] < 0.0 else 0.0


def peak_advice(law: LossLaw, best: Prediction, hold: float) -> str:
    """What a long hold says of the peak, that it is low; ``best``: the prediction with that hold."""
    if hold <= LONG_HOLD:
        return ""
    advice = "the peak is low for this horizon: try 2 to 4 times"
    try:
        steps, peak = best.total_steps, 2.0 * best.peak_lr
        gain = best.final_loss - law.predict("linear", total_steps=steps, peak_lr=peak, points=1).final_loss
    except RefineError:  # a law that cannot cross peaks
        return advice
    return advice if gain <= 0.0 else f"{advice}; linear decay at 2 times the peak is foretold to end {gain:.2g} lower"


def decays_linearly(prior: Prior) -> bool:
    """Whether a straight line from the end of the warmup on explains the rates, and they end low.

    Cosine passes, WSD with a short cooldown does not.
    """
    assert prior.multiplier is not None
    after = prior.multiplier[prior.warmup_steps or 0 :]
    if after[-_share(after.size) :].mean() > _ANNEALED or np.ptp(after) == 0.0:
        return False
    after = after[:: 1 + after.size // 1_000_000]  # of the longest runs, seconds otherwise
    after = after / after.max()  # behind a high warmup all may be so small that their squares are 0
    return bool(np.corrcoef(after, np.arange(after.size))[0, 1] ** 2 >= _STRAIGHT)


def _weights(steps: int, level: npt.ArrayLike | None) -> NDArray[np.float64]:
    return np.ones(steps) if level is None else 1.0 / np.asarray(level, dtype=np.float64)


def _signed(gain: Difference) -> str:
    return f"{gain.value:+.2g} ({gain.low:+.2g} to {gain.high:+.2g})"


def _brief(why: str, norms: GradientNorms) -> str:
    """A refusal without the log's name and its remedy."""
    return _REMEDY.split(why.removeprefix(f"{printable(norms.source.name)}: "))[0]


def _share(size: int) -> int:
    """Rows in the last twentieth."""
    return max(1, round(_END * size))

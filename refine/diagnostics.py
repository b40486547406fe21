"""When refinement will mislead: every check with its value, its threshold and its reason.

`RULES` is the one table that says which check keeps the refined schedule from being computed, which advises against
it, and which only warns. The thresholds come from trials on 14 convex problems and are to be revised by measurement.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .refinement import EXPONENTS, OptimizerFamily

__all__ = [
    "RHO",
    "RULES",
    "Check",
    "Rule",
    "check",
    "end_to_start",
    "late_rise",
    "near_separable",
    "spike_ratio",
    "tiny_norms",
]

RHO = "rho: the smoothed norm at the end over that at 5 % of the run"
"""What the tables of checks say below themselves."""

_PARTS = 5
_LEAST_POINTS = 10

Action = Literal["not computed", "not recommended", "warn"]


@dataclass(frozen=True, slots=True)
class Rule:
    """A check is raised where its value is on the wrong side of the threshold.

    Attributes
    ----------
    about : {"norms", "refined", "recommended"}
        What is measured: the norms, the refined schedule before its warmup, or the recommended one.
    name, side, threshold
    action : {"not computed", "not recommended", "warn"}
        What a raised check does to the refined schedule.
    words : str
        What is wrong, in a few words, with a place for the value, {0}, or for it in per cent, {1}.
    reason : str
        Why it matters, and what to do.
    """

    about: Literal["norms", "refined", "recommended"]
    name: str
    side: Literal["below", "above"]
    threshold: float
    action: Action
    words: str
    reason: str

    @property
    def advice(self) -> str:
        """When it does what."""
        return f"{self.action} if {self.side} {self.threshold:g}"


@dataclass(frozen=True, slots=True, repr=False)
class Check:
    """A rule applied: its value (None: not known for this log) and whether it is raised."""

    rule: Rule
    value: float | None
    raised: bool

    @property
    def against(self) -> bool:
        """Whether it advises against the refined schedule, or keeps it from being computed."""
        return self.raised and self.rule.action != "warn"

    @property
    def words(self) -> str:
        """What is wrong, in a few words."""
        return self.rule.words.format(self.value, 100.0 * (self.value or 0.0))

    def to_dict(self) -> dict[str, Any]:
        """JSON values; None is unknown, never nan."""
        value = self.value if self.value is not None and math.isfinite(self.value) else None
        rule = self.rule
        return {
            "name": rule.name,
            "about": rule.about,
            "value": value,
            "side": rule.side,
            "threshold": rule.threshold,
            "action": rule.action,
            "raised": self.raised,
            "reason": rule.reason,
        }

    @property
    def row(self) -> str:
        """A row of the table that commands print."""
        value = "unknown" if self.value is None else f"{self.value:,.0f}" if self.value >= 1000 else f"{self.value:.3g}"
        state = self.rule.action.upper() if self.raised else "not checked" if self.value is None else "ok"
        return f"{self.rule.name:17}{value:>9}   {self.rule.advice:32}{state}"

    def __repr__(self) -> str:
        shown = "unknown" if self.value is None else f"{self.value:.3g}"
        return f"Check({self.rule.name!r}, {shown}, {self.rule.advice!r}, raised={self.raised})"

    def __str__(self) -> str:
        shown = "unknown" if self.value is None else f"{self.value:.3g}"
        return f"{self.rule.name} is {shown}, {self.rule.side} {self.rule.threshold:g}: {self.rule.reason}"


RULES: tuple[Rule, ...] = (
    Rule("norms", "points", "below", 20, "not computed", "{0:.0f} norms are too few", "too few norms to smooth"),
    Rule(
        "norms",
        "tiny norms",
        "above",
        0.01,
        "not computed",
        "{1:.0f} % of the norms vanish",
        "this share of the norms is under 1e-6 of the largest (separable data, a collapse): 1/N puts all weight there",
    ),
    Rule(
        "norms",
        "rho",
        "below",
        0.3,
        "not recommended",
        "the norms fall to {0:.2g} of their value",
        "the norms fall this much from 5 % to the end, as they do where a run anneals or its loss vanishes; "
        "refined schedules lost 4-57 % to linear decay there",
    ),
    Rule(
        "norms",
        "rho",
        "above",
        1.2,
        "not recommended",
        "the norms rise to {0:.2f} times their value, as weight decay alone can make them",
        "rising norms make it anneal early, and weight decay alone can cause the rise: test it against linear decay",
    ),
    Rule(
        "norms",
        "late rise",
        "above",
        1.1,
        "not recommended",
        "the norms rise to {0:.2f} times their value while the rate falls, as weight decay makes them",
        "the norms rise this much while the rate falls: weight decay of normalised layers does that, and the schedule "
        "takes it for signal; AdamC (arXiv:2506.02285) corrects it: make_scheduler(..., scale_weight_decay=True)",
    ),
    Rule(
        "norms",
        "spikes",
        "above",
        2.0,
        "warn",
        "rare spikes make the mean of N {0:.3g} times that of its median",
        "mean raw over mean smoothed N: rare spikes, which the median hides and the guarantee does not; clip them",
    ),
    Rule(
        "norms",
        "longest gap",
        "above",
        0.1,
        "not recommended",
        "{1:.0f} % of the run has no norm in one stretch",
        "this share of the run has no norm in one stretch: there it is interpolated, or held at the ends",
    ),
    Rule(
        "norms",
        "like cases",
        "above",
        0.1,
        "not recommended",
        "it lost to linear decay in most cases like this log",
        "median of what it lost to linear decay, in per cent, in the benchmark cases most like this log",
    ),
    Rule(
        "refined",
        "first multiplier",
        "below",
        1e-3,
        "not recommended",
        "it starts at {0:.1g} of its peak, which one large norm may have decided",
        "one large first norm may have decided the start: look at it",
    ),
    Rule(
        "refined",
        "peak position",
        "above",
        0.3,
        "not recommended",
        "it peaks as late as at {1:.0f} % of the run",
        "a peak this late has hurt: test it against linear decay",
    ),
    Rule(
        "refined",
        "decay exponent",
        "above",
        3.0,
        "not recommended",
        "it falls as steeply as (1 - t/T)^{0:.1f}",
        "an anneal this steep spends little time at a high rate: test it against linear decay",
    ),
    Rule(
        "refined",
        "bound gain",
        "above",
        1.4,
        "not recommended",
        "linear decay's bound is {0:.2f} times its own, more than was ever seen in a loss",
        "a gain in the bound this large over linear decay was never seen in a loss: do not trust it",
    ),
    Rule(
        "refined",
        "raw bound",
        "above",
        1.2,
        "not recommended",
        "on the raw norms its bound is {0:.3g} times the least",
        "on the raw norms the bound is this much above the raw optimum: spikes or a fast change are smoothed away",
    ),
    Rule(
        "recommended",
        "peak LR ratio",
        "above",
        1.25,
        "warn",
        "the suggested peak is {0:.2f} times the old one: raise the rate this far only with a test run",
        "suggested over old peak: raise the rate this far only with a test run",
    ),
)


def check(values: Mapping[str, float | None]) -> tuple[Check, ...]:
    """Apply `RULES` to the values that are known.

    Examples
    --------
    >>> [str(found) for found in check({"points": 12}) if found.raised]
    ['points is 12, below 20: too few norms to smooth']
    """
    found = []
    for rule in RULES:
        value = values.get(rule.name)
        raised = value is not None and (value < rule.threshold if rule.side == "below" else value > rule.threshold)
        found.append(Check(rule, value, raised))
    return tuple(found)


def near_separable(checks: Iterable[Check]) -> bool:
    """Whether the norms fall so far that every rule for the peak learning rate has failed on such logs.

    Examples
    --------
    >>> near_separable(check({"rho": 0.2})), near_separable(check({"rho": 0.4}))
    (True, False)
    """
    return any(
        found.raised and (found.rule.name, found.rule.side) in {("rho", "below"), ("tiny norms", "above")}
        for found in checks
    )


def end_to_start(smoothed: NDArray[np.float64]) -> float:
    """Rho = G(T) / G(0.05 T) of smoothed norms on the updates of a run.

    Its rank correlation with the excess loss of refinement over linear decay was -0.94 (SGD) and
    -0.96 (Adam) over 14 convex problems.

    Examples
    --------
    >>> end_to_start(np.linspace(1.0, 0.0, 101))
    0.0
    """
    with np.errstate(over="ignore"):
        return float(smoothed[-1] / smoothed[int(0.05 * smoothed.size)])


def late_rise(
    norms: NDArray[np.float64], fractions: NDArray[np.float64], multiplier: NDArray[np.float64]
) -> float | None:
    r"""Rise of the norms at the end of a run, where the rate falls; the mark of uncorrected weight decay.

    .. math:: \exp\big(m_5 - \min_{i<5} m_i - 3 \sigma \sqrt{\pi / n}\big)

    with m_i the median log norm in fifth i of the window from half-time, or from the last update within 1 % of
    the peak rate if that is later, to the end. A rate that falls from before half-time on makes the fifths tenths
    of the run. The last term takes off three standard errors of a difference of medians of n points, sigma being
    the spread of the log norms within the fifths, so that noise alone does not look like a rise.

    Parameters
    ----------
    norms, fractions : ndarray, shape (n,)
        Raw norms, and where they stand, as fractions of the run.
    multiplier : ndarray, shape (T,)
        Learning rates of the logged run over their peak.

    Returns
    -------
    float or None
        1.11 to 1.30 on the whole LLM logs that anneal (AdamW, norms rising 13-32 %), 1.18 and 1.22 on our
        transformer, below 1 on our CNN without normalisation. None where the rate does not fall, or a fifth has
        fewer than 10 points.

    References
    ----------
    Defazio, *Why Gradients Rapidly Increase Near the End of Training*, arXiv:2506.02285.

    Examples
    --------
    >>> t = np.arange(1000) / 1000
    >>> round(late_rise(1 + np.maximum(4 * t - 3.6, 0), t, 1 - t), 2), late_rise(1 + t, t, np.ones(1000))
    (1.2, None)
    """
    at_peak = np.flatnonzero(multiplier >= 0.99 * multiplier.max())
    start = max(0.5, (int(at_peak[-1]) + 1) / multiplier.size)
    edges = np.linspace(start, 1.0, _PARTS + 1)
    logs = [np.log(norms[(a <= fractions) & (fractions < b)]) for a, b in pairwise(edges)]
    least = min(map(len, logs))
    if least < _LEAST_POINTS:
        return None
    levels = np.array([np.median(column) for column in logs])
    deviations = np.concatenate([np.abs(column - level) for column, level in zip(logs, levels, strict=True)])
    error = 1.4826 * float(np.median(deviations)) * math.sqrt(math.pi / least)
    with np.errstate(over="ignore"):
        return float(np.exp(levels[-1] - levels[:-1].min() - 3.0 * error))


def tiny_norms(smoothed: NDArray[np.float64], *, level: float = 1e-6) -> float:
    """Share of the smoothed norms under 1e-6 of their maximum."""
    return float(np.mean(smoothed < level * smoothed.max()))


def spike_ratio(raw: NDArray[np.float64], smoothed: NDArray[np.float64], *, optimizer: OptimizerFamily) -> float:
    """mean(N raw) / mean(N smoothed): the median hides rare spikes, the guarantee does not.

    Examples
    --------
    >>> spike_ratio(np.array([1.0, 1.0, 4.0, 2.0]), np.ones(4), optimizer="adam")
    2.0
    """
    scale = smoothed.max()
    power = EXPONENTS[optimizer]
    with np.errstate(over="ignore"):
        return float(np.mean((raw / scale) ** power) / np.mean((smoothed / scale) ** power))

"""`Refinement`: what a log gives, the refined and the recommended schedule side by side, and all that led to them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from .default import Choice, Shape
from .diagnostics import Check
from .errors import RefineError
from .files import printable
from .norms import GradientNorms
from .prior import Prior
from .refinement import OptimizerFamily, inverse_squared_norms, published_multiplier
from .schedule import Schedule
from .worth import Worth

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from .distance import DistanceEstimate
    from .prediction import Prediction

__all__ = ["Measures", "Refinement"]


@dataclass(frozen=True, slots=True)
class Measures:
    """What is computed of each schedule; None is unknown.

    Attributes
    ----------
    relative_bound : float
        Its bound on the last iterate over that of linear decay with the same warmup, each at its own best peak, on the
        norms smoothed with both ends reflected: below 1 is better.
    peak_lr_ratio : float or None
        Suggested peak learning rate over the old one, for equal area; None where it cannot be told, or where no rule
        has worked (`refine.diagnostics.near_separable`). 1 for a hold that the losses chose.
    peak_lr_ratio_by_bound : float or None
        The same by the bound on the raw norms (`refine.transfer.peak_ratio_by_bound`).
    """

    relative_bound: float
    peak_lr_ratio: float | None
    peak_lr_ratio_by_bound: float | None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Refinement:
    """Schedules for the next run, and everything that led to them.

    Attributes
    ----------
    schedules : mapping of str to Schedule
        By name: ``refined``, ``recommended``, and the baselines ``linear`` and ``cosine`` with the same warmup; each is
        an attribute too.
    choice : Choice
        For how long the recommended schedule holds the peak, and why.
    level : ndarray, shape (T,), or None
        Noise level of each update that the recommended schedule follows; None: it does not shift.
    reason : str
        Why that one is recommended, in a sentence.
    worth : Worth or None
        What the refined schedule was worth in the benchmark cases most like this log; None where none is alike.
    already_ran : bool
        The recommended schedule is the logged run's own, within 1 % of the peak.
    checks : tuple of Check
        Every rule of `refine.diagnostics.RULES` with its value.
    measures : mapping of str to Measures
        Of each schedule, by its name in `schedules`.
    published : bool
        ``refined`` is the published algorithm to the letter: no warmup, dips as they come.
    optimizer, smoothing
        As used.
    optimizer_source : {"given", "log", "assumed"}
        How the optimizer family is known.
    norms : GradientNorms
        The log.
    smoothed : ndarray, shape (n,)
        Smoothed norms at the logged points.
    warmup_steps : int
        Least number of warmup updates that was imposed.
    prior : Prior
        What is known of the logged run's own learning rates.
    distance : DistanceEstimate or None
        From how far the run travelled, where the log says so (`refine.distance`, experimental).
    assumptions, notes : tuple of str
        What the log did not say; what else to know.
    """

    schedules: Mapping[str, Schedule]
    choice: Choice
    level: NDArray[np.float64] | None
    reason: str
    worth: Worth | None
    already_ran: bool
    checks: tuple[Check, ...]
    measures: Mapping[str, Measures]
    published: bool
    optimizer: OptimizerFamily
    optimizer_source: Literal["given", "log", "assumed"]
    smoothing: float
    norms: GradientNorms
    smoothed: NDArray[np.float64]
    warmup_steps: int
    prior: Prior
    distance: DistanceEstimate | None
    assumptions: tuple[str, ...]
    notes: tuple[str, ...]

    def __repr__(self) -> str:
        return (
            f"Refinement(default={self.default!r}, shape={self.shape!r}, refined={self.refined!r}, "
            f"recommended={self.recommended!r})"
        )

    def __str__(self) -> str:
        return self.summary()

    @property
    def refined(self) -> Schedule:
        """Theorem 3 of arXiv:2310.07831 on the smoothed norms.

        It has one rise and one fall, and a warmup not shorter than the logged one. Linear decay stands in its place
        where it cannot be `computed`.
        """
        return self.schedules["refined"]

    @property
    def recommended(self) -> Schedule:
        """What the evidence says to run: linear decay with the run's warmup, the peak held before where losses say so.

        The rule is in `refine.default`.
        """
        return self.schedules["recommended"]

    @property
    def linear(self) -> Schedule:
        """Linear decay with the same warmup."""
        return self.schedules["linear"]

    @property
    def cosine(self) -> Schedule:
        """Cosine decay with the same warmup."""
        return self.schedules["cosine"]

    @property
    def shape(self) -> Shape:
        """Shape of the recommended schedule."""
        return self.choice.shape

    @property
    def against(self) -> tuple[Check, ...]:
        """Checks that advise against the refined schedule, or kept it from being computed."""
        return tuple(found for found in self.checks if found.against)

    @property
    def computed(self) -> bool:
        """Whether the norms allow a refined schedule; without, ``refined`` is linear decay."""
        return all(found.rule.action != "not computed" for found in self.against)

    @property
    def default(self) -> Literal["refined", "recommended"]:
        """The schedule that is used where none is named: the refined one, unless a check advises against it."""
        return "recommended" if self.against else "refined"

    def peak_lr(self, name: str) -> float | None:
        """Suggested peak learning rate with a schedule of `schedules`, for equal area; None where none is.

        The logged run's peak is needed, and trusted to have been tuned. A hold that the losses chose keeps that peak.
        """
        if name not in self.measures:
            raise RefineError(f"no schedule is called {printable(name)!r}; there are {', '.join(self.schedules)}")
        return self.prior.suggested_peak(self.measures[name].peak_lr_ratio)

    @property
    def predicted(self) -> dict[str, Prediction]:
        """Predicted final loss of every schedule at its suggested peak; empty where the log has no losses or rates.

        By the law of `refine.fit_loss` on the losses beside the norms, which also decides how long the peak is held.
        """
        from .foretold import foretell

        return foretell(self.norms, {n: (s, self.peak_lr(n)) for n, s in self.schedules.items()})

    @property
    def weights(self) -> NDArray[np.float64]:
        """1 / N at the logged points, maximum 1; shape (n,)."""
        return inverse_squared_norms(self.smoothed, optimizer=self.optimizer)

    @property
    def logged_multiplier(self) -> NDArray[np.float64]:
        """Theorem 3 on the logged points, last value 0: what the published code returns, if `published`; shape (n,)."""
        return published_multiplier(self.weights)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Raised checks and notes, a line each."""
        return (*(str(found) for found in self.checks if found.raised), *self.notes)

    def summary(self, *, verbose: bool = False) -> str:
        """What came out, as text; ``verbose``: with everything that is needed to judge it."""
        from .report import summary

        return summary(self, verbose=verbose)

    def to_dict(self) -> dict[str, Any]:
        """What was read, assumed, decided and found, as JSON values."""
        from .report import to_dict

        return to_dict(self)

    def to_frame(self) -> pd.DataFrame:
        """``step`` (update, from 0) and the multipliers of every schedule, one row an update."""
        import pandas as pd

        columns = {name: schedule.multiplier for name, schedule in self.schedules.items()}
        return pd.DataFrame({"step": np.arange(self.refined.total_steps), **columns})

    def plot(self) -> Figure:
        """All schedules, above the norms (`refine.plot`)."""
        from .figures import plot

        return plot(self)

    def save(self, folder: str | os.PathLike[str] = "refined", *, force: bool = False) -> dict[str, Path]:
        """Write the files of `refine.emit` into a folder, the figure among them."""
        from .export import emit

        return emit(self, folder, force=force)

    def _repr_html_(self) -> str:
        from .report import to_html

        return to_html(self)

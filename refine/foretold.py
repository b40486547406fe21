"""The predicted loss beside what other commands say, where a log holds losses and learning rates."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from .errors import RefineError
from .norms import GradientNorms
from .prediction import LossLaw, Prediction, fit_loss
from .schedule import Schedule

__all__ = ["foretell", "law_of", "to_dicts", "why_not"]


@lru_cache(maxsize=32)
def _fitted(norms: GradientNorms) -> LossLaw | str:
    """The law of the losses beside norms, or why there is none; kept, as text, JSON and figure each ask."""
    if norms.pool is not None:
        return "the losses of pooled logs are a median of runs, and those of no run"
    try:
        return fit_loss(norms)
    except RefineError as error:
        return str(error)


def law_of(norms: GradientNorms) -> LossLaw | None:
    """The law of the losses beside norms, None where there is none."""
    law = _fitted(norms)
    return None if isinstance(law, str) else law


def why_not(norms: GradientNorms) -> str:
    """Why there is no law; empty where there is one."""
    law = _fitted(norms)
    return law if isinstance(law, str) else ""


def foretell(
    norms: GradientNorms, schedules: Mapping[str, tuple[Schedule, float | None]], *, anchored: bool = False
) -> dict[str, Prediction]:
    """Final losses of schedules, each with its peak learning rate (None: the logged one).

    Empty without a law, or where one of them lies too far off for it.

    Parameters
    ----------
    norms : GradientNorms
        With losses and rates at the same steps.
    schedules : mapping of name to (Schedule, peak learning rate)
    anchored : bool
        As in `LossLaw.predict`.
    """
    law = law_of(norms)
    if law is None:
        return {}
    try:
        return {
            name: law.predict(schedule, peak_lr=peak_lr, name=name, points=1, anchored=anchored)
            for name, (schedule, peak_lr) in schedules.items()
        }
    except RefineError:
        return {}


def to_dicts(predictions: Mapping[str, Prediction]) -> dict[str, Any] | None:
    """As JSON values; None where there are none."""
    return {
        name: {
            "final_loss": found.final_loss,
            "low": found.low,
            "high": found.high,
            "peak_lr": found.peak_lr,
            "total_steps": found.total_steps,
        }
        for name, found in predictions.items()
    } or None

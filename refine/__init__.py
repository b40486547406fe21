"""Learning-rate schedule refinement from the gradient norms of a finished run.

The public names are handed out on first use, so that ``import refine`` costs nothing:

>>> import refine
>>> refine.linear(4)
Schedule(total_steps=4, first=1, peak=1 at update 0, last=0.25)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .analysis import fit, refined_schedule
    from .averaging import merge_weights
    from .comparison import compare
    from .continuation import continue_run
    from .describe import nearest
    from .errors import RefineError, RefineWarning
    from .explanation import explain
    from .export import emit
    from .families import constant, cosine, from_name, join, linear, wsd
    from .figures import plot
    from .loss_curve import LossCurve
    from .norms import GradientNorms
    from .prediction import LossLaw, fit_loss
    from .readers import read_losses, read_norms
    from .result import Refinement
    from .schedule import Schedule
    from .steps import steps_in
    from .transfer import retarget

_HOMES = {
    "GradientNorms": "norms",
    "LossCurve": "loss_curve",
    "LossLaw": "prediction",
    "RefineError": "errors",
    "RefineWarning": "errors",
    "Refinement": "result",
    "Schedule": "schedule",
    "compare": "comparison",
    "constant": "families",
    "continue_run": "continuation",
    "cosine": "families",
    "emit": "export",
    "explain": "explanation",
    "fit": "analysis",
    "fit_loss": "prediction",
    "from_name": "families",
    "join": "families",
    "linear": "families",
    "merge_weights": "averaging",
    "nearest": "describe",
    "plot": "figures",
    "read_losses": "readers",
    "read_norms": "readers",
    "refined_schedule": "analysis",
    "retarget": "transfer",
    "steps_in": "steps",
    "wsd": "families",
}

__all__ = [
    "GradientNorms",
    "LossCurve",
    "LossLaw",
    "RefineError",
    "RefineWarning",
    "Refinement",
    "Schedule",
    "__version__",
    "compare",
    "constant",
    "continue_run",
    "cosine",
    "emit",
    "explain",
    "fit",
    "fit_loss",
    "from_name",
    "join",
    "linear",
    "merge_weights",
    "nearest",
    "plot",
    "read_losses",
    "read_norms",
    "refined_schedule",
    "retarget",
    "steps_in",
    "wsd",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'refine' has no attribute {name!r}")
    value: object = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)

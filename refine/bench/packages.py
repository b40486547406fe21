"""Learning-rate-free methods that people would use instead of a schedule, run from their authors' own packages."""

from __future__ import annotations

import importlib
import importlib.util
import io
import time
import warnings
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import RefineError
from .outcome import Outcome, finite
from .problems import Optimizer

if TYPE_CHECKING:
    from .task import Task

__all__ = ["PACKAGES", "Package", "installed", "train_package", "unusable"]

WARMUP_FRACTION = 0.05
"""Of schedulefree's own warmup, which its authors recommend."""


@dataclass(frozen=True, slots=True)
class Package:
    """A package of a learning-rate-free method.

    Attributes
    ----------
    pip, module : str
        What is installed, and what is imported.
    rates : mapping from family to float
        Learning rate to use without a sweep, by its authors, for each optimizer family it has.
    schedule : str
        Text for `refine.from_name`: what its authors run it under.
    """

    pip: str
    module: str
    rates: Mapping[Literal["sgd", "adam"], float]
    schedule: str


PACKAGES: Mapping[str, Package] = MappingProxyType(
    {
        "schedulefree": Package("schedulefree", "schedulefree", {"sgd": 1.0, "adam": 0.0025}, "constant"),
        "dadaptation": Package(
            "dadaptation", "dadaptation", {"sgd": 1.0, "adam": 1.0}, f"linear:warmup_fraction={WARMUP_FRACTION}"
        ),
        "prodigy": Package("prodigyopt", "prodigyopt", {"adam": 1.0}, "cosine"),
        "mechanic": Package(
            "mechanic-pytorch",
            "mechanic_pytorch",
            {"sgd": 1.0, "adam": 1.0},
            f"linear:warmup_fraction={WARMUP_FRACTION}",
        ),
        "momo": Package("momo-opt", "momo", {"sgd": 1.0, "adam": 0.01}, "constant"),
    }
)
"""Rates and schedules from the READMEs: schedulefree 1.4 (its defaults; no schedule), dadaptation 3.2 ("set the LR
parameter to 1.0", "the same learning rate scheduler you would normally use"), prodigyopt 1.1 ("lr=1.", "no scheduler
or cosine annealing"), mechanic-pytorch 0.0.1 ("lr=1.0", "any schedule"), momo-opt 0.1 (its defaults, "a constant
learning rate")."""


def installed(name: str) -> bool:
    """Whether a package of `PACKAGES` can be imported."""
    return importlib.util.find_spec(PACKAGES[name].module) is not None


def unusable(name: str, optimizer: Optimizer) -> str | None:
    """Why a package of `PACKAGES` cannot stand in for an optimizer here, in one line; None if it can."""
    package = PACKAGES[name]
    if optimizer.family not in package.rates:
        return f"{package.pip} has no {optimizer.family} variant; it has {', '.join(package.rates)}"
    if not installed(name):
        return f"{package.pip} is not installed; pip install {package.pip}"
    return None


def train_package(
    task: Task, optimizer: Optimizer, name: str, multiplier: NDArray[np.float64], rate: float, seed: int
) -> Outcome:
    """Train one run; start and minibatches are those of `refine.bench.batched.train` with this seed.

    Parameters
    ----------
    task : Task
    optimizer : Optimizer
        What the package stands in for: its family, betas, weight decay and clipping.
    name : str
        Of `PACKAGES`.
    multiplier : ndarray, shape (T,)
        Times ``rate`` it is the learning rate that the package is given; above 0.
    rate : float
    seed : int

    Returns
    -------
    Outcome
        Of the point that the method says to evaluate: for schedulefree the average.

    Raises
    ------
    RefineError
        If the package is missing or has no such variant, or a learning rate is not above 0.
    """
    import torch
    from torch import nn

    from .batched import decays

    if (reason := unusable(name, optimizer)) is not None:
        raise RefineError(reason)
    rates = rate * np.asarray(multiplier, dtype=np.float64)
    if not np.all(rates > 0.0):
        at = int(np.argmin(rates > 0.0))
        raise RefineError(
            f"rate * multiplier[{at}] is {rates[at]:g}; {name} needs every one above 0: change the schedule"
        )
    started = time.perf_counter()
    generator = torch.Generator().manual_seed(seed)
    parameters = {key: nn.Parameter(value.clone()) for key, value in task.start(seed).items()}
    stacked = {key: value.detach()[None, None] for key, value in parameters.items()}
    groups = [
        {"params": [value for key, value in parameters.items() if decays(stacked[key]) == yes], "weight_decay": decay}
        for yes, decay in ((True, optimizer.weight_decay), (False, 0.0))
    ]
    method = _made(name, optimizer, [group for group in groups if group["params"]], float(rates[0]), len(rates))
    averages = name == "schedulefree"
    if averages:
        method.train()
    for number, now in enumerate(rates):
        for group in method.param_groups:
            group["lr"] = float(now)
        batch = task.batch(generator, number / len(rates))
        losses, gradients = task.gradients(stacked, tuple(part[None] for part in batch))
        for key, value in parameters.items():
            value.grad = gradients[key][0, 0]
        if optimizer.clip is not None:
            nn.utils.clip_grad_norm_(parameters.values(), optimizer.clip)
        if name == "momo":
            with warnings.catch_warnings():  # of groups, over which it sums as it should
                warnings.simplefilter("ignore")
                method.step(loss=losses[0, 0])
        else:
            method.step()
    if averages:
        method.eval()
    train_loss, test_loss = task.evaluate(stacked)
    seconds = time.perf_counter() - started
    error = task.error(stacked)
    return Outcome(
        finite(train_loss),
        None if test_loss is None else finite(test_loss),
        seconds,
        error=None if error is None else float(error),
    )


def _made(name: str, optimizer: Optimizer, groups: list[dict[str, Any]], rate: float, steps: int) -> Any:
    """The package's optimizer."""
    import torch

    package = importlib.import_module(PACKAGES[name].module)
    momentum, sgd = optimizer.betas[0], optimizer.family == "sgd"
    settings = {"lr": rate, **({"momentum": momentum} if sgd else {"betas": optimizer.betas})}
    if name == "momo":
        if sgd:
            return package.Momo(groups, lr=rate, beta=momentum)
        return package.MomoAdam(groups, **settings)
    if name == "mechanic":
        return package.mechanize(torch.optim.SGD if sgd else torch.optim.AdamW)(groups, **settings)
    if name == "schedulefree":
        settings["warmup_steps"] = round(WARMUP_FRACTION * steps)
        if not sgd:
            return package.AdamWScheduleFree(groups, **settings)
        # Where between the average and the last point gradients are taken: never 0.
        return package.SGDScheduleFree(groups, **{**settings, "momentum": momentum or 0.9})
    if sgd:
        return _dadapt_sgd(package, groups, settings)
    with redirect_stdout(io.StringIO()):  # they print that they decouple the decay
        if name == "prodigy":
            return package.Prodigy(groups, **settings)
        return package.DAdaptAdam(groups, decouple=True, **settings)


def _dadapt_sgd(package: Any, groups: list[dict[str, Any]], settings: dict[str, Any]) -> Any:
    """DAdaptSGD; it takes the weight decay of the first group for all, so that the decay is added before its step."""
    made = package.DAdaptSGD([value for group in groups for value in group["params"]], **settings)

    def decay(*_: Any) -> None:
        for group in groups:
            for value in group["params"]:
                value.grad.add_(value.detach(), alpha=group["weight_decay"])

    made.register_step_pre_hook(decay)
    return made

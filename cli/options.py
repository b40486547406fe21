"""Options that several commands share: how to read a log."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

LOG_OPTIONS = ("column", "step_column", "lr_column", "norm_kind", "optimizer", "every", "logged_steps")


def log_options(command: Command) -> Command:
    """Say what a log does not say itself; the parameters of `refine.read_norms`."""
    for option in (
        click.option(
            "--logged-steps",
            type=click.IntRange(min=1),
            help="Updates of the logged run, if its log stops early.",
        ),
        click.option(
            "--every",
            type=click.IntRange(min=1),
            metavar="K",
            help="Updates between two rows, if there is no step column.",
        ),
        click.option(
            "--optimizer",
            type=click.Choice(["sgd", "adam"]),
            help="Optimizer family of the logged run (Lion, RMSprop ...: adam).",
        ),
        click.option(
            "--norm-kind",
            type=click.Choice(["l2", "l1", "dual"]),
            help="Norm that the column holds, or that is wanted.",
        ),
        click.option("--lr-column", metavar="NAME", help="Column of the learning rate."),
        click.option("--step-column", metavar="NAME", help="Column of the step, in optimizer updates."),
        click.option("--column", metavar="NAME", help="Column of the gradient norm."),
    ):
        command = option(command)
    return command


def smoothing_option(command: Command) -> Command:
    """Width of the running median."""
    return click.option(
        "--smoothing-fraction",
        type=click.FloatRange(0.0, 1.0),
        default=0.1,
        show_default=True,
        help="Width of the running median, as a fraction of the points.",
    )(command)

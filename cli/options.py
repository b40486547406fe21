"""Options that several commands share: how to read a log."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


def log_options(command: Command) -> Command:
    """Say what a log does not say itself; the parameters of `refine.read_norms`."""
    for option in (
        click.option(
            "--logged-steps",
            type=Count(min=1),
            help="Updates of the logged run, if its log stops early.",
        ),
        click.option(
            "--every",
            type=Count(min=1),
            metavar="K",
            help="Updates between two rows, if there is no step column.",
        ),
        click.option(
            "--optimizer",
            type=Optimizer(),
            help="Optimizer of the logged run: its family, sgd or adam, or a member (AdamW, Lion ...).",
        ),
        click.option(
            "--norm-kind",
            type=click.Choice(["l2", "l1", "dual"]),
            help="Norm that the column holds, or that is wanted.",
        ),
        click.option("--run", metavar="NAME", help="Which run, if the log holds several."),
        click.option("--lr-column", metavar="NAME", help="Column of the learning rate."),
        click.option("--step-column", metavar="NAME", help="Column of the step, in optimizer updates."),
        click.option("--column", metavar="NAME", help="Column of the gradient norm."),
    ):
        command = option(command)
    return command


class Optimizer(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.2
    """Family of an optimizer, by its own name or that of a member."""

    name = "name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Refuse names that do not tell."""
        from refine.errors import RefineError
        from refine.readers.optimizers import named_family

        try:
            return named_family(str(value))
        except RefineError as error:
            self.fail(f"{error}.", param, ctx)


class Count(click.IntRange):
    """A whole number in a range, as people write it: 10000, 10_000, 10k, 2M or 1e5."""

    name = "count"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse what is not whole, as click does what is out of range."""
        from refine.text import whole_number

        number = value if isinstance(value, int) else whole_number(str(value))
        if number is None:
            shown = value if len(value) <= 40 else value[:37] + "..."
            forms = "10000, 10_000, 10k, 1.5k, 2M or 1e5: whole, without commas"
            self.fail(f"{shown!r} is not a count such as {forms}.", param, ctx)
        return super().convert(number, param, ctx)


class ScheduleName(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.2
    """A schedule's file or the name of a family; of a folder of refine fit the file that it stands for, and says so."""

    name = "schedule"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Leave all but folders as they are."""
        from refine.files import printable
        from refine.schedule import is_schedule, schedule_file

        if not (os.path.isdir(value) and is_schedule(value)):
            return str(value)
        file = str(schedule_file(value))
        click.echo(f"Note: of the folder {printable(value)} {printable(os.path.basename(file))} is taken", err=True)
        return file


class Number(click.FloatRange):
    """A float in a range; nan and inf are in none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse what is not finite, as click does what is out of range."""
        number = super().convert(value, param, ctx)
        return number if math.isfinite(number) else self.fail(f"{value} is not a finite number.", param, ctx)


def prior_schedule_option(command: Command) -> Command:
    """Schedule of the logged run."""
    return click.option(
        "--prior-schedule",
        metavar="NAME",
        help="Schedule of the logged run, if its log has no rates: a name or a file.",
    )(command)


def run_options(command: Command) -> Command:
    """What is to be known of the logged run and of the next one."""
    for option in (
        click.option("--total-steps", type=Count(min=1), help="Updates of the next run.  [default: as logged]"),
        click.option("--peak-lr", type=Number(min=0.0, min_open=True), help="Peak learning rate of the logged run."),
        prior_schedule_option,
    ):
        command = option(command)
    return command


def figure_options(default: str) -> Callable[[Command], Command]:
    """Where a figure is written."""

    def add(command: Command) -> Command:
        for option in (
            click.option("--force", is_flag=True, help="Replace the file if it exists."),
            click.option(
                "--out", "-o", default=default, show_default=True, metavar="FILE", help="PNG, PDF or SVG by its suffix."
            ),
        ):
            command = option(command)
        return command

    return add


def smoothing_option(command: Command) -> Command:
    """Width of the running median."""
    return click.option(
        "--smoothing-fraction",
        type=Number(0.0, 1.0),
        default=0.1,
        show_default=True,
        help="Width of the running median, as a fraction of the updates.",
    )(command)


def engine_options(when: str = "") -> Callable[[Command], Command]:
    """Where work that comes in many pieces is done; ``when`` says what the options go with."""

    def add(command: Command) -> Command:
        for option in (
            click.option("--address", metavar="URL", help=f"{when}Scheduler of the Dask or Ray cluster."),
            click.option(
                "--engine",
                type=click.Choice(["local", "dask", "ray"]),
                default="local",
                show_default=True,
                help=f"{when}Processes of this machine, or a cluster.",
            ),
            click.option("--jobs", type=Count(min=1), help=f"{when}Number of processes.  [default: as many as cores]"),
        ):
            command = option(command)
        return command

    return add

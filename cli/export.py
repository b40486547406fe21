"""``refine export``."""

from __future__ import annotations

import warnings
from pathlib import Path

import click

from .options import Count, Number, ScheduleName


class _WithTargets(click.Command):
    """Lists the targets below the options; what they are is only imported when it is asked for."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the registry as a table."""
        from refine.export import TARGETS

        with formatter.section("Targets"):
            formatter.write_dl([(target.name, target.about) for target in TARGETS.values()])


@click.command(cls=_WithTargets)
@click.argument("schedule", metavar="SCHEDULE", type=ScheduleName())
@click.option("--to", required=True, metavar="TARGET", help="One of the targets below.")
@click.option(
    "--total-steps",
    type=Count(min=1),
    help="Updates of the next run, as refine retarget.  [default: as the file]",
)
@click.option("--out", "-o", metavar="FILE", help="The file to write; - prints it.  [default: named after the target]")
@click.option(
    "--peak-lr",
    type=Number(min=0.0, min_open=True),
    help="Peak learning rate of the next run.  [default: as refine fit suggests]",
)
@click.option("--force", is_flag=True, help="Replace the file if it exists.")
def export(
    schedule: str, to: str, total_steps: int | None, out: str | None, peak_lr: float | None, force: bool
) -> None:
    """Write a schedule for another trainer: code that runs in it, or the nearest flags it takes.

    \b
    Examples:
      refine export refined --to optax
      refine export refined --to hf -o next_run.py
      refine export refined --to megatron --peak-lr 3e-4
      refine export wsd:cooldown_fraction=0.2 --total-steps 10000 --to keras -o -

    SCHEDULE is a folder of refine fit, a .json or .csv file in one, or the name of a family with --total-steps. Code
    is the schedule itself, needs the framework alone, and says in its first lines how to use it. Flags are the nearest
    schedule that the framework has, by the bound on the last iterate: how far it is from yours is stated, and warned of
    from 5 % of the peak on, 2 % at the last update. For a file of refine continue they are the nearest for the updates
    to come, and code says how to start in the middle.
    """
    from refine.errors import RefineError, RefineWarning
    from refine.export import render
    from refine.files import printable, write_files
    from refine.prior import named_schedule

    wanted = named_schedule(schedule, total_steps)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RefineWarning)
        rendering = render(wanted, to, None if out == "-" else out, peak_lr=peak_lr)
    for warning in caught:
        click.echo(_wrapped("Warning:", str(warning.message)), err=True)
    path, content = next(iter(rendering.contents.items()))
    if out == "-":
        if callable(content):
            raise RefineError(f"{to} is not text; name a file with --out")
        for text in content:
            click.echo(text, nl=False)
        return
    write_files(rendering.contents, force=force)
    click.echo(_wrapped("wrote", f"{printable(Path(path))}: {rendering.stated}"))
    for number, line in enumerate(rendering.use):
        click.echo(f"{'' if number else 'use':10}{line}")


def _wrapped(title: str, text: str) -> str:
    """The text behind its title, its first line wrapped; lines after that are to be pasted, and stay whole."""
    from refine.text import paragraph

    first, *whole = text.split("\n")
    indent = 9 if title == "Warning:" else 10
    return "\n".join([*paragraph(title, first, hanging=0, indent=indent), *(" " * indent + line for line in whole)])

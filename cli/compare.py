"""``refine compare``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click

from .options import Count, ScheduleName, log_options, prior_schedule_option, smoothing_option
from .progress import reading


@click.command()
@click.argument("items", metavar="[LOG] [SCHEDULE]...", nargs=-1, required=True, type=ScheduleName())
@click.option("--norms", metavar="LOG|constant", help="Norms to compare on.  [default: the LOG named, else constant]")
@prior_schedule_option
@click.option(
    "--total-steps",
    type=Count(min=1),
    help="Updates, of files as refine retarget.  [default: of the first file, else as logged]",
)
@log_options
@smoothing_option
@click.option("--plot", metavar="FILE", help="Draw schedules and bounds: PNG, PDF or SVG by its suffix.")
@click.option("--force", is_flag=True, help="Replace the figure if it exists.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list instead of the table.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV instead of the table.")
def compare(
    items: tuple[str, ...],
    norms: str | None,
    prior_schedule: str | None,
    total_steps: int | None,
    smoothing_fraction: float,
    plot: str | None,
    force: bool,
    as_json: bool,
    as_csv: bool,
    **read: Any,
) -> None:
    """Rank schedules by the bound on the last iterate, each at its own best peak learning rate.

    \b
    Examples:
      refine compare run.csv                              (refined, as logged, and five families)
      refine compare run.csv linear cosine wsd:0.2 --plot compare.pdf
      refine compare refined linear:warmup_steps=500 --norms constant
      refine compare linear cosine rex --total-steps 10000 --json

    A SCHEDULE is a folder or file of refine fit or a family (refine families); a family without its own warmup gets
    that of the logged run. The norms are those of a log, or constant: an assumed shape is refused.
    """
    from refine import figures
    from refine.comparison import compare_named
    from refine.errors import RefineError
    from refine.files import printable, write_files
    from refine.readers import ReadOptions, read_one

    if as_json and as_csv:
        raise click.UsageError("--json and --csv exclude each other")
    if plot is not None:
        figures.check_suffix(plot)
    logs = [item for item in items if _is_log(item)]
    if logs and norms is not None:
        raise RefineError(f"{printable(logs[0])} is a log and --norms names the norms too; give one of them")
    logs += _norms(norms)
    log = None
    if logs:
        with reading() as progress:
            log = read_one(logs, ReadOptions(**read), progress)
    found = compare_named(
        [item for item in items if item not in logs],
        log,
        optimizer=read["optimizer"],
        smoothing=smoothing_fraction,
        prior_schedule=prior_schedule,
        total_steps=total_steps,
    )
    if plot is not None:
        figure = figures.plot_comparison(found)
        write_files({Path(plot): lambda path: figures.save_figure(figure, path)}, force=force)
    if as_json or as_csv:
        for note in (f"peaks are relative to that of {printable(found.reference)}", *found.notes):
            click.echo(f"Note: {note}", err=True)
        click.echo(json.dumps(found.to_dicts(), indent=1) + "\n" if as_json else found.to_csv(), nl=False)
    else:
        click.echo(found.summary())
        if plot is not None:
            click.echo(f"wrote     {printable(plot)}")


def _is_log(item: str) -> bool:
    """Whether an argument is a log: a place that exists, or a URL, and neither a family nor a schedule file."""
    from refine.families import FAMILIES
    from refine.schedule import is_schedule

    if item.partition(":")[0] in FAMILIES or is_schedule(item):
        return False
    return item == "-" or "://" in item or os.path.exists(item)


def _norms(value: str | None) -> list[str]:
    """Return the log that --norms names."""
    from refine.errors import RefineError
    from refine.files import printable

    if value is None or value == "constant":
        return []
    if not _is_log(value):
        raise RefineError(
            f"--norms is {printable(value)!r}; it must be a log or the word constant: assumed shapes of the norms "
            "ranked real runs the wrong way round"
        )
    return [value]

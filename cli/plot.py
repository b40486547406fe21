"""``refine plot``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .options import Count, ScheduleName, figure_options, log_options, smoothing_option


@click.command()
@click.argument("schedules", metavar="SCHEDULE...", nargs=-1, required=True, type=ScheduleName())
@click.option("--norms", "log", metavar="LOG", help="Gradient-norm log to draw below.")
@log_options
@click.option("--total-steps", type=Count(min=1), help="Updates of the names.  [default: as the first file]")
@smoothing_option
@figure_options("schedules.png")
def plot(
    schedules: tuple[str, ...],
    log: str | None,
    total_steps: int | None,
    smoothing_fraction: float,
    out: str,
    force: bool,
    **read: Any,
) -> None:
    """Draw schedules over updates: folders or files of refine fit, or names.

    \b
    Examples:
      refine plot refined cosine linear
      refine plot refined linear:warmup_fraction=0.02 --norms grad_norms.csv -o fig.pdf
      refine plot wsd:0.2,shape=sqrt cosine:warmup_steps=500 --total-steps 10000

    A name is a family with its parameters, as refine families lists them. Without a warmup of its own it gets that of
    the first file.
    """
    from refine import figures, read_norms
    from refine.files import printable, write_files
    from refine.prior import named_schedules

    figures.check_suffix(out)
    drawn = named_schedules(schedules, total_steps)
    norms = read_norms(log, **read) if log is not None else None
    figure = figures.plot(drawn, norms, smoothing=smoothing_fraction)
    write_files({Path(out): lambda path: figures.save_figure(figure, path)}, force=force)
    click.echo(f"wrote     {printable(out)}")

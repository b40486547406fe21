"""``refine inspect``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from .options import log_options
from .progress import reading


@click.command()
@click.argument("logs", metavar="LOG...", nargs=-1, required=True)
@log_options
@click.option("--plot", metavar="FILE", help="Draw the log: PNG, PDF or SVG by its suffix.")
@click.option("--force", is_flag=True, help="Replace the figure if it exists.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
def inspect(logs: tuple[str, ...], plot: str | None, force: bool, as_json: bool, **read: Any) -> None:
    """Say what was read of a log, how healthy it is, and what refinement would object to.

    \b
    Examples:
      refine inspect trainer_state.json
      refine inspect lightning_logs/ --run version_3 --plot log.png
      refine inspect slurm-1234.out --json
      refine inspect norms.csv rates.csv       (two files of one run)
    """
    from refine.files import printable, write_files
    from refine.health import inspect as examine
    from refine.readers import ReadOptions, read_one

    if plot is not None:
        from refine import figures

        figures.check_suffix(plot)
    with reading() as progress:
        norms = read_one(logs, ReadOptions(**read), progress)
    found = examine(norms)
    if plot is not None:
        figure = figures.plot_log(norms)
        write_files({Path(plot): lambda path: figures.save_figure(figure, path)}, force=force)
    if as_json:
        click.echo(json.dumps({**found.to_dict(), "figure": plot}, indent=1))
        return
    click.echo(found.summary())
    if plot is not None:
        click.echo(f"{'wrote':12} {printable(plot)}")

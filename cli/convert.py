"""``refine convert``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .options import log_options
from .progress import reading


@click.command()
@click.argument("logs", metavar="LOG...", nargs=-1, required=True)
@log_options
@click.option("--out", "-o", required=True, metavar="FILE", help="The CSV to write; - for standard output.")
@click.option("--force", is_flag=True, help="Replace the file if it exists.")
def convert(logs: tuple[str, ...], out: str, force: bool, **read: Any) -> None:
    """Write what was read of a log as step,grad_norm,lr,loss: nothing smoothed, nothing filled.

    \b
    Examples:
      refine convert runs/ -o tidy.csv
      refine convert slurm-1234.out -o - | head
      refine convert trainer_state.json -o tidy.csv --force

    grad_norm is the l2 norm; l1, dual, single layers and batch sizes that change get columns of their own. An
    empty cell was not logged.
    """
    from refine.errors import RefineError
    from refine.export.tidy import tidy_csv
    from refine.files import printable, write_files
    from refine.readers import ReadOptions, read_one

    suffix = Path(out).suffix.lower()
    if out != "-" and suffix not in ("", ".csv", ".txt"):
        raise RefineError(f"{printable(out)} would hold CSV; name it .csv")
    with reading() as progress:
        norms = read_one(logs, ReadOptions(**read, extras=True), progress)
    if out == "-":
        for text in tidy_csv(norms):
            click.echo(text, nl=False)
        return
    write_files({Path(out): tidy_csv(norms)}, force=force)
    click.echo(f"wrote     {printable(out)}: {norms.steps.size:,} rows")

"""``refine fit``."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import click

from .options import Number, log_options, smoothing_option


@click.command()
@click.argument("log", metavar="LOG")
@log_options
@click.option(
    "--prior-schedule",
    metavar="NAME",
    help="Schedule of the logged run, if its log has no rates: a name or a file.",
)
@click.option("--peak-lr", type=Number(min=0.0, min_open=True), help="Peak learning rate of the logged run.")
@click.option("--total-steps", type=click.IntRange(min=1), help="Updates of the next run.  [default: as logged]")
@click.option(
    "--mode",
    type=click.Choice(["refined", "paper", "progress", "linear"]),
    default="refined",
    show_default=True,
    help="refined: with guard and warmup; paper: as published; progress: damped; linear: no norms.",
)
@click.option("--no-guard", is_flag=True, help="Refine even where the norms say that it will hurt.")
@smoothing_option
@click.option("--out", default="refined", show_default=True, metavar="DIR", help="Folder for the schedule files.")
@click.option("--force", is_flag=True, help="Replace an earlier result in that folder.")
@click.option("--no-plot", is_flag=True, help="Draw no figure.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
def fit(
    log: str,
    prior_schedule: str | None,
    peak_lr: float | None,
    total_steps: int | None,
    mode: Any,
    no_guard: bool,
    smoothing_fraction: float,
    out: str,
    force: bool,
    no_plot: bool,
    as_json: bool,
    **read: Any,
) -> None:
    """Turn the gradient-norm log of a finished run into a schedule for the next one.

    \b
    Examples:
      refine fit grad_norms.csv
      refine fit run.csv --optimizer sgd --total-steps 65000 --out next
      refine fit wandb_export.csv --prior-schedule cosine:warmup_steps=500 --peak-lr 3e-4

    Writes schedule.csv (and its metadata), schedule.json, refined_schedule.py (an importable PyTorch
    scheduler) and schedule.png.
    """
    from refine import emit, read_norms, refined_schedule
    from refine.errors import RefineWarning
    from refine.export import refuse_existing
    from refine.files import printable
    from refine.schedule import metadata_path

    if not force:
        refuse_existing(Path(out))
    norms = read_norms(log, **read)
    result = refined_schedule(
        norms,
        optimizer=read["optimizer"],
        smoothing=smoothing_fraction,
        mode=mode,
        guard=not no_guard,
        total_steps=total_steps,
        prior_schedule=prior_schedule,
        peak_lr=peak_lr,
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RefineWarning)
        files = emit(result, out, force=force, plot=not no_plot)
    rough = [str(w.message) for w in caught if issubclass(w.category, RefineWarning)]
    for message in rough:
        click.echo(f"Warning: {message}", err=True)
    if as_json:
        found = result.to_dict()
        found["warnings"] += rough
        paths = {role: str(files[role]) if role in files else None for role in ("csv", "json", "module", "figure")}
        click.echo(json.dumps({**found, "files": paths}, indent=1))
    else:
        click.echo(result.summary())
        written = [*files.values(), metadata_path(files["csv"])]
        click.echo(f"wrote     {printable(out)}/: {', '.join(path.name for path in written)}")

"""``refine continue``."""

from __future__ import annotations

from typing import Any

import click

from .options import Count, Number, log_options, smoothing_option
from .output import output_options, write
from .progress import reading


@click.command("continue")
@click.argument("logs", metavar="LOG...", nargs=-1, required=True)
@click.option("--at", type=Count(min=1), required=True, metavar="STEP", help="Updates done.")
@click.option("--total-steps", type=Count(min=1), help="Updates of the whole run, those done included.")
@click.option("--cooldown-steps", type=Count(min=1), help="Anneal from now on, in so many updates.")
@click.option("--rewarm", is_flag=True, help="Allow rates above the present one.")
@click.option(
    "--prior-schedule", metavar="NAME", help="The planned schedule, for which the peak was tuned: a name or a file."
)
@click.option("--peak-lr", type=Number(min=0.0, min_open=True), help="Peak learning rate of the run.")
@log_options
@smoothing_option
@output_options("continued")
def continue_run(
    logs: tuple[str, ...],
    at: int,
    total_steps: int | None,
    cooldown_steps: int | None,
    rewarm: bool,
    prior_schedule: str | None,
    peak_lr: float | None,
    smoothing_fraction: float,
    out: str,
    force: bool,
    no_plot: bool,
    as_json: bool,
    **read: Any,
) -> None:
    """Best schedule for the rest of a run that has done STEP updates.

    \b
    Examples:
      refine continue run.csv --at 40000 --total-steps 60000
      refine continue run.csv --at 40000 --cooldown-steps 5000       (anneal from here)
      refine continue run.csv --at 40000 --total-steps 60000 --rewarm
      refine continue run.csv --at 900 --total-steps 2000 --prior-schedule cosine --logged-steps 1000

    It holds the present rate as long as that is best and anneals then; only --rewarm lets it rise. The files hold
    the whole run, the updates done first: resume with make_scheduler(optimizer, last_epoch=STEP - 1, peak_lr=PEAK).
    """
    from refine.continuation import continue_run as best_rest
    from refine.export import refuse_existing
    from refine.readers import ReadOptions, read_one

    if (total_steps is None) == (cooldown_steps is None):
        raise click.UsageError("give --total-steps N or --cooldown-steps N, one of them")
    if cooldown_steps is not None and rewarm:
        raise click.UsageError("--cooldown-steps anneals from the present rate; --rewarm goes with --total-steps")
    with reading() as progress:
        norms = read_one(logs, ReadOptions(**read), progress)
    if not force:
        refuse_existing(out)
    result = best_rest(
        norms,
        at=at,
        total_steps=total_steps or at + (cooldown_steps or 0),
        optimizer=read["optimizer"],
        smoothing=smoothing_fraction,
        planned=prior_schedule,
        peak_lr=peak_lr,
        rewarm=rewarm,
        hold_steps=None if cooldown_steps is None else 0,
    )
    write(result.schedule, result.to_dict, result.summary, out, force=force, plot=not no_plot, as_json=as_json)

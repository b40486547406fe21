"""``refine describe``."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from .options import Count, ScheduleName


@click.command()
@click.argument("schedule", metavar="SCHEDULE", type=ScheduleName())
@click.option("--total-steps", type=Count(min=1), help="Updates, of a file as refine retarget.  [default: as the file]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
def describe(schedule: str, total_steps: int | None, as_json: bool) -> None:
    """Say what a schedule looks like, and which member of each family is nearest to it.

    \b
    Examples:
      refine describe refined
      refine describe rex --total-steps 10000 --json

    For trainers that take only flags. R^2 is of the multipliers, the largest error a fraction of the peak; a high R^2
    can hide a large error at the start. refine export turns the nearest one into flags. For a file of refine continue
    both are over the updates to come.
    """
    from refine.describe import description, nearest, updates_done
    from refine.prior import named_schedule

    wanted = named_schedule(schedule, total_steps)
    since = updates_done(wanted)
    members = nearest(wanted, since=since)
    found = {**description(wanted.multiplier), "since": since}
    if as_json:
        click.echo(json.dumps({**found, "nearest": [asdict(member) for member in members]}, indent=1))
        return
    exponent = found["decay_exponent"]
    anneal = "" if exponent is None else f", anneal like (1 - t/T)^{exponent:.2f} (R^2 {found['decay_r2']:.3f})"
    click.echo(
        f"{found['total_steps']:,} updates: 90 % of the peak at {found['warmup_fraction']:.1%}, the peak at "
        f"{found['peak_fraction']:.1%}{anneal}, last multiplier {found['last_multiplier']:.3g}"
    )
    over = f", over the updates after {since:,}" if since else ""
    click.echo(f"{'R^2':>7}  {'largest error':>13}  nearest member{over}")
    for member in members:
        r2 = "none" if member.r2 is None else f"{member.r2:.4f}"
        click.echo(f"{r2:>7}  {member.largest_error:>13.1%}  {member.name}")

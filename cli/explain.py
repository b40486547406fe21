"""``refine explain``."""

from __future__ import annotations

import json
from typing import Any

import click

from .options import figure_options, log_options, run_options, smoothing_option
from .progress import reading


@click.command()
@click.argument("logs", metavar="LOG...", nargs=-1, required=True)
@log_options
@run_options
@smoothing_option
@figure_options("explain.png")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
def explain(
    logs: tuple[str, ...],
    prior_schedule: str | None,
    peak_lr: float | None,
    total_steps: int | None,
    smoothing_fraction: float,
    out: str,
    force: bool,
    as_json: bool,
    **read: Any,
) -> None:
    """Show why refine fit returns the schedule it does: every step from the log on, and one figure of all.

    \b
    Examples:
      refine explain run.csv
      refine explain trainer_state.json --total-steps 65000 -o why.pdf
      refine explain norms.csv --optimizer adam --prior-schedule cosine --peak-lr 3e-4
      refine explain seed1.csv seed2.csv seed3.csv --json    (pooled, as refine fit does)

    LOG is as for refine fit. The figure shows the norms, the learning rates, N, what decides, the weights, the
    benchmark cases and the schedules; the text says which checks were raised, and what each step changed.
    """
    from refine.explanation import explain_logs
    from refine.explanation_figure import draw
    from refine.figures import check_suffix
    from refine.files import printable
    from refine.readers import ReadOptions
    from refine.text import paragraph

    check_suffix(out)
    how = {
        "optimizer": read["optimizer"],
        "smoothing": smoothing_fraction,
        "total_steps": total_steps,
        "prior_schedule": prior_schedule,
        "peak_lr": peak_lr,
    }
    with reading() as progress:
        found = explain_logs(logs, ReadOptions(**read), how, progress=progress)
    draw(found, out, force=force)
    if as_json:
        click.echo(json.dumps({**found.to_dict(), "figure": out}, indent=1))
        return
    click.echo(found.summary())
    click.echo("\n".join(paragraph("wrote", printable(out), indent=13)))

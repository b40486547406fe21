"""``refine predict``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from .options import Count, Number, ScheduleName, prior_schedule_option
from .progress import reading


@click.command()
@click.argument("logs", metavar="LOG...", nargs=-1, required=True)
@click.option(
    "--schedule",
    "schedules",
    metavar="NAME",
    multiple=True,
    type=ScheduleName(),
    help="What to predict: a family (refine families), a file or folder of refine fit. May be repeated.",
)
@click.option(
    "--total-steps", type=Count(min=1), help="Updates of the run to predict.  [default: as a file, else as logged]"
)
@click.option("--peak-lr", type=Number(min=0.0, min_open=True), help="Its peak learning rate.  [default: as logged]")
@click.option(
    "--choose",
    "what",
    type=click.Choice(["cooldown", "peak", "horizon", "hold"]),
    help="Choose by the predicted loss, instead of naming schedules.",
)
@click.option("--target-loss", type=Number(min=0.0, min_open=True), help="With --choose horizon: the loss to reach.")
@click.option("--loss-column", metavar="NAME", help="Column of the loss.  [default: held-out, else training]")
@click.option("--step-column", metavar="NAME", help="Column of the step, in optimizer updates.")
@click.option("--lr-column", metavar="NAME", help="Column of the learning rate.")
@click.option("--every", type=Count(min=1), metavar="K", help="Updates between two rows, if there is no step column.")
@click.option("--logged-steps", type=Count(min=1), help="Updates of the logged run, if its log stops early.")
@click.option("--run", metavar="NAME", help="Which run, if the log holds several.  [default: all]")
@prior_schedule_option
@click.option(
    "--logged-peak-lr",
    type=Number(min=0.0, min_open=True),
    help="Peak rate of the logged run, if its log has no rates.",
)
@click.option("--law", metavar="NAME", default="memory", show_default=True, help="Law of the loss curve.")
@click.option("--plot", metavar="FILE", help="Draw the curves: PNG, PDF or SVG by its suffix.")
@click.option("--force", is_flag=True, help="Replace the figure if it exists.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@click.option("--verbose", "-v", is_flag=True, help="Also the exponents, and what other laws say.")
def predict(
    logs: tuple[str, ...],
    schedules: tuple[str, ...],
    total_steps: int | None,
    peak_lr: float | None,
    what: Any,
    target_loss: float | None,
    logged_peak_lr: float | None,
    law: str,
    plot: str | None,
    force: bool,
    as_json: bool,
    verbose: bool,
    **read: Any,
) -> None:
    """Predict the final loss of runs that have not been run, from the losses and rates of finished ones.

    \b
    Examples:
      refine predict run.csv --schedule cosine --schedule wsd:0.2 --total-steps 50k
      refine predict run.csv cooldown.csv --schedule linear --peak-lr 1e-3 --plot predicted.png
      refine predict run.csv --choose cooldown
      refine predict run.csv --choose horizon --target-loss 2.9

    A LOG needs losses and learning rates, no gradient norms. Several are runs of one model, data set and batch size;
    one has to lower its rate. Every answer has a 90 % bar, and says what limits it.
    """
    from refine.errors import RefineError
    from refine.files import printable, write_files
    from refine.prediction import fit_loss

    if what is not None and schedules:
        raise click.UsageError("--choose and --schedule exclude each other")
    if target_loss is not None and what != "horizon":
        raise RefineError("--target-loss goes with --choose horizon; add that or leave it out")
    if plot is not None:
        from refine import figures

        figures.check_suffix(plot)
    if read["prior_schedule"] is not None and logged_peak_lr is None:
        logged_peak_lr = peak_lr
    with reading():
        fitted = fit_loss(
            list(logs), law=law, **read, **({} if logged_peak_lr is None else {"peak_lr": logged_peak_lr})
        )
    found: dict[str, Any] = {}
    if what is None:
        answer: Any = fitted.compare(schedules or None, total_steps=total_steps, peak_lr=peak_lr)
        table = answer
    else:
        from refine.loss_choice import choose

        answer = choose(fitted, what, total_steps=total_steps, peak_lr=peak_lr, target_loss=target_loss)
        table = answer.table
        found = {"choice": answer.to_dict()}
    if plot is not None:
        from refine import figures

        figure = table.plot()
        write_files({Path(plot): lambda path: figures.save_figure(figure, path)}, force=force)
    if as_json:
        click.echo(json.dumps({**found, "law": fitted.to_dict(), "predictions": table.to_dicts()}, indent=1))
    else:
        click.echo(answer.summary(verbose=verbose))
        if plot is not None:
            click.echo(f"wrote     {printable(plot)}")

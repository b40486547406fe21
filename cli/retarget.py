"""``refine retarget``."""

from __future__ import annotations

import click

from .options import Count, Number, ScheduleName
from .output import output_options, write


@click.command()
@click.argument("schedule", metavar="SCHEDULE", type=ScheduleName())
@click.option("--total-steps", type=Count(min=1), help="Updates of the next run.")
@click.option(
    "--batch-size",
    type=Number(min=0.0, min_open=True),
    nargs=2,
    metavar="OLD NEW",
    help="As many samples in other batches: updates and warmup times OLD / NEW.",
)
@click.option("--warmup-steps", type=Count(min=0), help="Warmup of the result.  [default: that of the schedule]")
@click.option("--log", metavar="LOG", help="Log of the run: predict the final loss at both lengths.")
@output_options("retargeted")
def retarget(
    schedule: str,
    total_steps: int | None,
    batch_size: tuple[float, float] | None,
    warmup_steps: int | None,
    log: str | None,
    out: str,
    force: bool,
    no_plot: bool,
    as_json: bool,
) -> None:
    """Give a schedule another horizon: its shape is kept, and the number of its warmup updates.

    \b
    Examples:
      refine retarget refined --total-steps 100000
      refine retarget refined --batch-size 256 1024 --out larger_batch
      refine retarget refined --total-steps 100000 --log run.csv

    The norms of the next run are taken to keep their shape over the fraction of training. Where the log is at
    hand, refine fit LOG --total-steps N does the same from the source, and is better behind the warmup. The peak
    learning rate is not in a schedule: what is known of it for other horizons and batches is printed.
    """
    from refine.errors import RefineError
    from refine.export.base import peak_of
    from refine.files import printable
    from refine.foretold import to_dicts
    from refine.prior import is_file
    from refine.schedule import Schedule
    from refine.text import paragraph
    from refine.transfer import for_batch_size, peak_advice
    from refine.transfer import retarget as stretch

    if (total_steps is None) == (batch_size is None):
        raise click.UsageError("give --total-steps N or --batch-size OLD NEW, one of them; updates are what counts")
    if not is_file(schedule):
        raise RefineError(
            f"{printable(schedule)} is not a schedule file; name the folder of a result, or a .json or .csv file in it"
        )
    old = Schedule.load(schedule)
    if batch_size is not None:
        new = for_batch_size(old, *batch_size, warmup_steps=warmup_steps)
    else:
        new = stretch(old, total_steps or 0, warmup_steps=warmup_steps)
    kept = new.provenance["warmup_steps"]
    losses = {}
    if log is not None:
        from refine.prediction import fit_loss

        law = fit_loss(log)
        both = (("as it was", old), ("retargeted", new))
        losses = {name: law.predict(each, peak_lr=peak_of(old), name=name, points=1) for name, each in both}
    advice = peak_advice(old.total_steps, new.total_steps, batch_size, peak_lr=peak_of(old))
    found = {"old_steps": old.total_steps, "total_steps": new.total_steps, "warmup_steps": kept, "advice": list(advice)}
    if losses:
        found["predicted_loss"] = to_dicts(losses)

    def text() -> str:
        warmup = f"{kept:,} of them warmup" if kept else "all of it stretched"
        lines = [f"{printable(schedule)}: {old.total_steps:,} updates become {new.total_steps:,}, {warmup}"]
        lines += paragraph("assumed", "the shape over the fraction of training suits the new length too")
        for name, loss in losses.items():
            what = f"predicted {name}, {loss.total_steps:,} updates: {loss.words}"
            lines += paragraph("loss", what)
        return "\n".join([*lines, *(line for text in advice for line in paragraph("peak", text))])

    write(new, lambda: found, text, out, force=force, plot=not no_plot, as_json=as_json)

"""``refine fit``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from .options import Number, engine_options, log_options, run_options, smoothing_option
from .output import output_options, write
from .progress import reading


@click.command()
@click.argument("logs", metavar="LOG...", nargs=-1, required=True)
@log_options
@run_options
@click.option(
    "--published", is_flag=True, help="Make refined the published algorithm to the letter: no warmup, dips kept."
)
@click.option(
    "--hold",
    type=Number(min=0.0, max=1.0, max_open=True),
    metavar="SHARE",
    help="Share of the run for which recommended holds the peak.  [default: as the losses say]",
)
@click.option(
    "--batch-size",
    metavar="SIZE@STEP,...",
    help="Batch sizes of the next run, as 8@0,64@2000.  [default: as the log shows them]",
)
@smoothing_option
@output_options("refined")
@click.option("--each", is_flag=True, help="Fit every LOG by itself, into a folder of its own below --out.")
@click.option("--per-group", is_flag=True, help="Fit every param group in LOG, into a folder of its own below --out.")
@engine_options("With --each: ")
@click.option("--verbose", "-v", is_flag=True, help="Print every check and all that was found.")
def fit(
    logs: tuple[str, ...],
    prior_schedule: str | None,
    peak_lr: float | None,
    total_steps: int | None,
    published: bool,
    hold: float | None,
    batch_size: str | None,
    smoothing_fraction: float,
    out: str,
    force: bool,
    no_plot: bool,
    as_json: bool,
    each: bool,
    per_group: bool,
    jobs: int | None,
    engine: str,
    address: str | None,
    verbose: bool,
    **read: Any,
) -> None:
    """Turn the gradient-norm log of a finished run into schedules for the next one: refined and recommended.

    \b
    Examples:
      refine fit trainer_state.json
      refine fit run.csv --optimizer sgd --total-steps 65000 --out next
      refine fit norms.csv rates.csv              (W&B exports one chart a file)
      refine fit seed1.csv seed2.csv seed3.csv    (pooled: the median of the seeds)
      refine fit runs/*.csv --each --out fitted   (a result a run)
      refine fit mlruns --each                    (also of the runs in one log)
      refine fit run.jsonl --per-group            (a schedule a param group, for ScheduleLR)

    LOG is a file or folder in any format of refine formats, compressed or not, a URL, or - for standard
    input. Writes refined.csv and .json, recommended.csv and .json, refined_schedule.py (an importable PyTorch
    scheduler with both, and with linear decay and cosine) and schedule.png.
    """
    from refine.batch import fit_each, fit_groups, fit_logs
    from refine.readers import ReadOptions

    if per_group and (each or len(logs) > 1):
        raise click.UsageError("--per-group takes one LOG, and not --each")
    options = ReadOptions(**read)
    how = {
        "optimizer": read["optimizer"],
        "smoothing": smoothing_fraction,
        "published": published,
        "total_steps": total_steps,
        "prior_schedule": prior_schedule,
        "peak_lr": peak_lr,
        "hold": hold,
        "batch_size": batch_size,
    }
    if each:
        rows = fit_each(
            logs, out, options, how, force=force, plot=not no_plot, engine=engine, address=address, jobs=jobs
        )
        _report_each(rows, out, as_json)
        return
    if jobs or address or engine != "local":
        raise click.UsageError("--jobs, --engine and --address go with --each")
    if per_group:
        with reading() as progress:
            rows = fit_groups(logs[0], out, options, how, force=force, plot=not no_plot, progress=progress)
        _report_each(rows, out, as_json, of="group")
        return
    with reading() as progress:
        result = fit_logs(logs, options, how, into=None if force else out, progress=progress)
    write(
        result,
        result.to_dict,
        lambda: result.summary(verbose=verbose),
        out,
        force=force,
        plot=not no_plot,
        as_json=as_json,
    )


_COLUMNS = (
    "norms: at the end over those at 5 % of the run; recommended: linear decay, or the peak held before it; "
    "refined at: where refined has its peak; bound: of refined in theory, against linear decay; use: the schedule "
    "where none is named; peak LR: with that one over the old one, for rates that add up to the old sum"
)


def _report_each(rows: list[dict[str, Any]], out: str, as_json: bool, *, of: str = "run") -> None:
    """A row a run or group, as text or JSON; exit code 1 if any failed."""
    from refine.files import printable
    from refine.text import aligned, paragraph

    failed = [row for row in rows if row["error"]]
    if as_json:
        click.echo(json.dumps(rows, indent=1))
    else:
        head: tuple[str, ...] = (of, "points", "updates", "optimizer", "warmup", "norms", "recommended")
        head += ("refined at", "bound", "use", "peak LR", "warnings")
        table: list[tuple[str, ...]] = [head]
        for row in rows:
            if row["error"]:
                continue
            table.append(
                (
                    _label(row["group"] if of == "group" else Path(row["folder"]).relative_to(out)),
                    f"{row['points']:,}",
                    f"{row['total_steps']:,}",
                    row["optimizer"],
                    f"{row['warmup_steps']:,}",
                    _shown(row["rho"], "x.2f"),
                    row["recommended"],
                    f"{row['refined_peak_fraction']:.1%}",
                    _shown(row["refined_bound"] and row["refined_bound"] - 1.0, "+.1%"),
                    row["default"],
                    _shown(row["peak_lr_ratio"], "x.2f"),
                    str(len(row["warnings"])),
                )
            )
        if len(table) > 1:
            click.echo("\n".join([*aligned(table), *paragraph("columns", _COLUMNS)]))
            made = f"a folder for each of {len(rows) - len(failed)} of {len(rows)} {of}s"
            click.echo(f"wrote     {printable(out)}/: {made}")
        if of == "group" and len(rows) > len(failed):
            files = {row["group"]: row["folder"] for row in rows if not row["error"]}
            mapping = ", ".join(f"{_literal(name)}: {_literal(file)}" for name, file in files.items())
            click.echo(f"use       ScheduleLR(optimizer, {{{mapping}}})")
            peaks = {row["group"]: row["suggested_peak_lr"] for row in rows if row["suggested_peak_lr"]}
            if peaks:
                shown = ", ".join(f"{_label(name)} lr={peak:.3g}" for name, peak in peaks.items())
                click.echo(f"peaks     {shown}")
        for row in rows if of == "group" else ():
            for text in row["warnings"] or ():
                click.echo("\n".join(paragraph("warning", printable(f"{row['group']}: {text}", limit=1000))))
    for row in failed:
        click.echo(f"Error: {row['error']}", err=True)
    if failed:
        raise SystemExit(1)


def _label(name: object) -> str:
    """A name in a table; of a long one both ends, as one of them tells it from the others."""
    from refine.files import printable

    shown = printable(name, limit=10_000)
    return shown if len(shown) <= 40 else f"{shown[:18]}...{shown[-19:]}"


def _literal(text: str) -> str:
    """A text as Python writes it, on one line."""
    return f'"{text}"' if text.isprintable() and not set(text) & {'"', "\\"} else repr(text)


def _shown(value: float | None, form: str) -> str:
    return "unknown" if value is None else f"{form[0]}{value:{form[1:]}}" if form[0] == "x" else f"{value:{form}}"

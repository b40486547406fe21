"""Measure on real problems whether a refined schedule helps; report what was measured."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import engine_options

if TYPE_CHECKING:
    from refine.bench.runner import Progress

_KINDS = ("convex", "deep", "changing", "changing-deep", "peaks")
_HALVES = tuple(f"{kind}-{half}" for half in ("choose", "confirm") for kind in _KINDS)
_SUITES = ("smoke", "convex", "deep", "recommended-convex", "recommended-deep", *_HALVES, "peaks-deep", "paper")
_OF_TRAINING = ("store", "scale", "only", "engine", "address", "jobs")
_OF_PAPER = ("logs", "out", "force")


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--suite", type=click.Choice(_SUITES), help="What is measured.")
@click.option(
    "--store", type=click.Path(), metavar="FILE", help="Results so far and to come; default bench/SUITE.sqlite."
)
@click.option(
    "--scale", type=click.Choice(["smoke", "cpu", "gpu"]), help="Sizes and lengths; default those of the suite."
)
@click.option("--only", multiple=True, metavar="PROBLEM", help="This problem; may be repeated.")
@engine_options()
@click.option("--logs", type=click.Path(), metavar="DIR", help="Suite paper: the folder of the paper's logs.")
@click.option("--out", "-o", type=click.Path(), metavar="FILE", help="Suite paper: a Markdown page to write.")
@click.option("--force", is_flag=True, help="Suite paper: replace that page.")
@click.pass_context
def bench(
    context: click.Context,
    suite: str | None,
    store: str | None,
    scale: Any,
    only: tuple[str, ...],
    engine: str,
    address: str | None,
    jobs: int | None,
    logs: str | None,
    out: str | None,
    force: bool,
) -> None:
    """Train problems on real data under every schedule and keep the results.

    Problems x optimizers x schedules x peak rates x seeds; interrupted, the same command goes on. Suite paper trains
    nothing: it computes the schedules of the paper's own logs and compares them with its figure.

    \b
    Examples:
      refine bench --suite smoke
      refine bench report bench/smoke.sqlite
      refine bench --suite deep --only shakespeare --scale gpu
      refine bench --suite convex --engine dask --address tcp://10.0.0.1:8786
    """
    if context.invoked_subcommand is not None:
        if given := _given(context, ("suite", *_OF_TRAINING, *_OF_PAPER)):
            name = context.invoked_subcommand
            if given in ("out", "force"):
                raise click.UsageError(f"--{given} stands before {name}; put it behind")
            raise click.UsageError(f"--{given} is for refine bench itself; leave it out, or the command {name}")
        return
    if suite is None:
        raise click.UsageError(f"say which suite: --suite {'|'.join(_SUITES)}, or refine bench report STORE")
    if suite == "paper":
        if given := _given(context, _OF_TRAINING):
            raise click.UsageError(f"--suite paper trains nothing: leave --{given} out")
        if logs is None:
            raise click.UsageError("--suite paper needs the folder of the paper's logs: --logs DIR")
        from refine.bench.parity import parity, parity_markdown, parity_table
        from refine.files import printable, write_files

        rows = parity(logs)
        click.echo(parity_table(rows))
        if out is not None:
            write_files({Path(out): [parity_markdown(rows)]}, force=force)
            click.echo(f"wrote     {printable(out)}")
        return
    if _given(context, _OF_PAPER):
        raise click.UsageError("--logs, --out and --force go with --suite paper; leave them out")
    from refine.bench.runner import run_suite
    from refine.files import printable

    place = store or f"bench/{suite}.sqlite"
    with _progress() as progress:
        skipped = run_suite(
            suite, place, scale=scale, only=only, engine=engine, address=address, jobs=jobs, progress=progress
        )
    for name, reason in skipped.items():
        click.echo(f"skipped {name}: {reason}", err=True)
    click.echo(f"wrote     {printable(place)}; next: refine bench report {printable(place)}")


def _given(context: click.Context, names: tuple[str, ...]) -> str | None:
    """The first of some options that stands in the command, whatever its value."""
    source = click.core.ParameterSource.COMMANDLINE
    return next((name for name in names if context.get_parameter_source(name) is source), None)


@bench.command()
@click.argument("places", nargs=-1, required=True, metavar="STORE...")
@click.option("--out", "-o", default="bench-report", show_default=True, metavar="DIR", help="Folder of the report.")
@click.option("--worth", type=click.Path(), metavar="FILE", help="Also write what refinement was worth, case by case.")
@click.option("--force", is_flag=True, help="Replace an earlier report in that folder, and FILE.")
def report(places: tuple[str, ...], out: str, worth: str | None, force: bool) -> None:
    """Write what was measured as Markdown, one HTML page and small result files.

    STORE is what refine bench wrote, or the folder of result files of an earlier report.

    \b
    Examples:
      refine bench report bench/convex.sqlite bench/deep.sqlite
      refine bench report docs/bench/results/convex -o again
      refine bench report docs/bench/results/{convex,deep} -o again --worth worth.json
    """
    from refine.bench.gather import gather
    from refine.bench.reporting.report import write_report
    from refine.bench.reporting.results import save
    from refine.bench.reporting.worth import worth_json
    from refine.bench.store import Store
    from refine.bench.suites import SUITES
    from refine.errors import RefineError
    from refine.files import Content, printable, write_files

    stores: dict[str, Path] = {}
    folders = []
    with tempfile.TemporaryDirectory() as made:
        for place in map(Path, places):
            if place.is_dir():
                folders.append(place)
                continue
            with Store(place) as store:
                found = gather(store)
            suite, scale = found.meta["suite"], found.meta["scale"]
            name = suite if scale == SUITES[suite].scale else f"{suite}-{scale}"
            if name in stores:
                raise RefineError(
                    f"{printable(stores[name])} and {printable(place)} both hold {name}; report one of them at a time"
                )
            stores[name] = place
            folders.append(Path(made, "results", name))
            save(found, folders[-1])
        pages = write_report(folders, made)
        files = [path for path in sorted(Path(made).rglob("*")) if path.is_file()]
        contents: dict[Path, Content] = {Path(out, path.relative_to(made)): partial(_copy, path) for path in files}
        if worth is not None:
            if os.path.abspath(worth) in map(os.path.abspath, contents):
                raise RefineError(f"{printable(worth)} is a file of the report; name another for --worth")
            contents[Path(worth)] = [worth_json(folders)]
        write_files(contents, force=force)
    for name in (*(Path(out, path.name) for path in pages), *([worth] if worth else [])):
        click.echo(f"wrote     {printable(name)}")


def _page(command: Callable[..., None]) -> click.Command:
    """A command that writes a page from folders of results."""
    for option in (
        click.option("--force", is_flag=True, help="Replace it."),
        click.option("--out", "-o", type=click.Path(), metavar="FILE", required=True, help="Markdown page to write."),
        click.argument("folders", metavar="DIR...", nargs=-1, required=True),
    ):
        command = option(command)
    return bench.command()(command)


def _write_page(out: str, text: str, force: bool) -> None:
    from refine.files import printable, write_files

    write_files({Path(out): [text]}, force=force)
    click.echo(f"wrote     {printable(out)}")


@_page
def selection(folders: tuple[str, ...], out: str, force: bool) -> None:
    """Write how the default does, and what else was tried, from folders of results of the suites for it.

    \b
    Examples:
      refine bench selection docs/bench/results/recommended-* -o selection.md
    """
    from refine.bench.reporting.selection import selection as page

    _write_page(out, page(folders), force)


@_page
def changing(folders: tuple[str, ...], out: str, force: bool) -> None:
    """Write what follows noise that changes during a run, from folders of results of the suites of changing noise.

    \b
    Examples:
      refine bench changing docs/bench/results/changing-* -o changing.md
    """
    from refine.bench.reporting.changing import changing as page

    _write_page(out, page(folders), force)


@_page
def peaks(folders: tuple[str, ...], out: str, force: bool) -> None:
    """Write what logs say whose peak rate was too low or too high, from folders of results of the suites of peaks.

    \b
    Examples:
      refine bench peaks docs/bench/results/peaks-* -o peaks.md
    """
    from refine.bench.reporting.peaks import peaks as page

    _write_page(out, page(folders), force)


def _copy(source: Path, target: Path) -> None:
    target.write_bytes(source.read_bytes())


class _progress:
    """A bar a round on a terminal; elsewhere a line a round."""

    def __init__(self) -> None:
        self._round = 0
        self._bar: Any = None

    def __enter__(self) -> Progress:
        return self._show

    def __exit__(self, *_: object) -> None:
        self._end()

    def _show(self, count: int, done: int, total: int) -> None:
        if count != self._round:
            self._end()
            self._round = count
            if sys.stderr.isatty():
                self._bar = click.progressbar(
                    length=total,
                    label=f"round {count}",
                    show_pos=True,
                    file=sys.stderr,
                    item_show_func=lambda _: "runs",
                )
                self._bar.__enter__()
            else:
                click.echo(f"round {count}: {total} runs", err=True)
        if self._bar is not None:
            self._bar.update(done - self._bar.pos)

    def _end(self) -> None:
        if self._bar is not None:
            self._bar.__exit__(None, None, None)
            self._bar = None

"""What the commands that make a schedule share: where its files go, and how a result is told."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from .options import Command

if TYPE_CHECKING:
    from refine.analysis import Refinement
    from refine.schedule import Schedule


def output_options(out: str) -> Callable[[Command], Command]:
    """Folder, with its default; replace an earlier result; no figure; JSON."""

    def add(command: Command) -> Command:
        for option in (
            click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text."),
            click.option("--no-plot", is_flag=True, help="Draw no figure."),
            click.option("--force", is_flag=True, help="Replace an earlier result in that folder."),
            click.option(
                "--out", "-o", default=out, show_default=True, metavar="DIR", help="Folder for the schedule files."
            ),
        ):
            command = option(command)
        return command

    return add


def write(
    result: Refinement | Schedule,
    found: dict[str, Any],
    text: Callable[[], str],
    out: str,
    *,
    force: bool,
    plot: bool,
    as_json: bool,
) -> None:
    """Write all files into a folder and print what was found, as text or as one JSON object."""
    from refine import emit
    from refine.errors import RefineWarning
    from refine.files import printable
    from refine.schedule import metadata_path

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RefineWarning)
        files = emit(result, out, force=force, plot=plot)
    rough = [str(w.message) for w in caught if issubclass(w.category, RefineWarning)]
    for message in rough:
        click.echo(f"Warning: {message}", err=True)
    if as_json:
        found = {**found, "warnings": [*found.get("warnings", []), *rough]}
        paths: dict[str, str | None] = {role: str(path) for role, path in files.items()}
        paths.setdefault("figure", None)
        click.echo(json.dumps({**found, "files": paths}, indent=1))
    else:
        click.echo(text())
        written = [*files.values(), *(metadata_path(path) for path in files.values() if path.suffix == ".csv")]
        click.echo(f"wrote     {printable(out)}/: {', '.join(path.name for path in written)}")

"""What the commands that make a schedule share: where its files go, and how a result is told."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import Command

if TYPE_CHECKING:
    from refine.result import Refinement
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
    found: Callable[[], dict[str, Any]],
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

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RefineWarning)
        files = emit(result, out, force=force, plot=plot)
    rough = [str(w.message) for w in caught if issubclass(w.category, RefineWarning)]
    for message in rough:
        click.echo(f"Warning: {message}", err=True)
    if as_json:
        known = found()
        known = {**known, "warnings": [*known.get("warnings", []), *rough]}
        paths: dict[str, str | None] = {role: str(path) for role, path in files.items()}
        paths.setdefault("figure", None)
        click.echo(json.dumps({**known, "files": paths}, indent=1))
    else:
        click.echo(text())
        click.echo("\n".join(_written(result, out, list(files.values()))))


def _written(result: Refinement | Schedule, out: str, files: list[Path]) -> list[str]:
    """What was written and, of a result, the line to paste."""
    from refine.files import printable
    from refine.schedule import Schedule, metadata_path
    from refine.text import paragraph

    if isinstance(result, Schedule):
        written = [*files, *(metadata_path(path) for path in files if path.suffix == ".csv")]
        return paragraph("wrote", f"{printable(out)}/: {', '.join(path.name for path in written)}")
    names = [path.name for path in files]
    roles = [name.removesuffix(".csv") for name in names if name.endswith(".csv")]
    both = [f"{role}.csv, .json" for role in roles]
    others = [name for name in names if not name.endswith((".csv", ".json"))]
    wrote = f"{printable(out)}/: {', '.join([*both, *others])}, CSV metadata"
    use = f'scheduler = make_scheduler(optimizer, schedule="{result.default}")'
    other = '"recommended"' if result.default == "refined" else '"refined": not recommended here'
    comment = f"  # or {other}" if result.computed else ""
    lines = paragraph("use", use + comment, indent=13, hanging=0)
    if len(lines) > 1:
        lines = paragraph("use", use, indent=13, hanging=0)
    return [*paragraph("wrote", wrote, indent=13, hanging=0), *lines]

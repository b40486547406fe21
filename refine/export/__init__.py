"""From a result, or any schedule, to the files that the next run uses."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from ..analysis import Refinement
from ..errors import RefineError
from ..files import Content, printable, write_files
from ..schedule import Schedule, metadata_path
from .module import module_text

if TYPE_CHECKING:
    from .base import Rendering, Target
    from .targets import TARGETS, export, render

__all__ = [
    "FILES",
    "TARGETS",
    "Rendering",
    "Target",
    "emit",
    "export",
    "module_text",
    "refuse_existing",
    "render",
]

FILES = {
    "csv": "schedule.csv",
    "json": "schedule.json",
    "module": "refined_schedule.py",
    "figure": "schedule.png",
}


def emit(
    result: Refinement | Schedule, out: str | os.PathLike[str] = "refined", *, force: bool = False, plot: bool = True
) -> dict[str, Path]:
    """Write the schedule files into a folder: all of them or none, each with its provenance.

    That of ``schedule.csv`` is in ``schedule.csv-metadata.json`` (`refine.Schedule.save`).

    Parameters
    ----------
    result : Refinement or Schedule
        From `refine.refined_schedule`, or any schedule.
    out : path-like
        Folder, made if it does not exist.
    force : bool
        Replace an earlier result; its figure is removed where ``plot`` is off.
    plot : bool
        Whether to draw ``schedule.png``.

    Returns
    -------
    dict
        ``csv``, ``json``, ``module`` and, with ``plot``, ``figure`` to the path written.
    """
    folder = Path(out)
    if not force:
        refuse_existing(folder)
    schedule = result if isinstance(result, Schedule) else result.schedule
    contents: dict[Path, Content] = {
        **schedule.contents(folder / FILES["csv"]),
        **schedule.contents(folder / FILES["json"]),
        folder / FILES["module"]: [module_text({"schedule": schedule}, "schedule")],
    }
    if plot:
        from ..figures import save_figure

        contents[folder / FILES["figure"]] = lambda path: save_figure(result, path)
    write_files(contents, force=force)
    stale = folder / FILES["figure"]
    if not plot and stale.is_file():
        stale.unlink()
    return {role: folder / name for role, name in FILES.items() if folder / name in contents}


def refuse_existing(out: str | os.PathLike[str]) -> None:
    """Raise if the folder holds a result already, or is a file."""
    folder = Path(out)
    try:
        is_file = folder.exists() and not folder.is_dir()
    except OSError as error:
        raise RefineError(f"cannot write {printable(folder)}: {error.strerror}; choose another --out") from None
    if is_file:
        raise RefineError(f"{printable(folder)} is not a folder; choose another one with --out")
    for name in (*FILES.values(), metadata_path(Path(FILES["csv"])).name):
        if os.path.lexists(folder / name):
            raise RefineError(
                f"{printable(folder / name)} exists; choose another folder with --out, or replace it with --force"
            )


def __getattr__(name: str) -> object:
    """Other trainers on first use: `refine fit` does without them."""
    home = {"Rendering": "base", "Target": "base", "TARGETS": "targets", "export": "targets", "render": "targets"}
    if name not in home:
        raise AttributeError(f"module 'refine.export' has no attribute {name!r}")
    value: object = getattr(import_module(f".{home[name]}", __name__), name)
    return value

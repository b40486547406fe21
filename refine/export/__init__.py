"""From a result, or any schedule, to the files that the next run uses."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import RefineError
from ..files import Content, printable, write_files
from ..result import Refinement
from ..schedule import Schedule, metadata_path
from .module import module_text

if TYPE_CHECKING:
    from .base import Rendering, Target
    from .targets import TARGETS, export, render

__all__ = [
    "FILES",
    "RESULT_FILES",
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
"""Of a schedule."""

RESULT_FILES = {
    "refined.csv": "refined.csv",
    "refined.json": "refined.json",
    "recommended.csv": "recommended.csv",
    "recommended.json": "recommended.json",
    "module": "refined_schedule.py",
    "figure": "schedule.png",
}
"""Of a result."""


def emit(
    result: Refinement | Schedule, out: str | os.PathLike[str] = "refined", *, force: bool = False, plot: bool = True
) -> dict[str, Path]:
    """Write the schedule files into a folder: all of them or none, each with its provenance.

    That of a CSV is beside it in ``<name>.csv-metadata.json`` (`refine.Schedule.save`).

    Parameters
    ----------
    result : Refinement or Schedule
        From `refine.refined_schedule`, or any schedule.
    out : path-like
        Folder, made if it does not exist. Of a result it stands for its default schedule (`refine.Schedule.load`).
    force : bool
        Replace an earlier result: what it has and this one has not is removed, so that no folder holds two.
    plot : bool
        Whether to draw ``schedule.png``.

    Returns
    -------
    dict
        Role to the path written. Of a result ``refined.csv``, ``refined.json``, ``recommended.csv``,
        ``recommended.json``, ``module`` (with the baselines too) and, with ``plot``, ``figure``; of a schedule
        ``csv``, ``json``, ``module`` and ``figure``.
    """
    folder = Path(out)
    if not force:
        refuse_existing(folder)
    if isinstance(result, Schedule):
        roles, default = FILES, "schedule"
        schedules: Mapping[str, Schedule] = {"schedule": result}
    else:
        roles, schedules, default = RESULT_FILES, result.schedules, result.default
    contents: dict[Path, Content] = {}
    for name in roles.values():
        path = folder / name
        if path.suffix in (".csv", ".json"):
            contents |= schedules[path.stem].contents(path)
    contents[folder / roles["module"]] = [module_text(schedules, default)]
    if plot:
        from ..figures import save_figure

        contents[folder / roles["figure"]] = lambda path: save_figure(result, path)
    write_files(contents, force=force, remove=_places(folder))
    return {role: folder / name for role, name in roles.items() if folder / name in contents}


def _places(folder: Path) -> list[Path]:
    """Where the files of either kind are, the multipliers first."""
    names = {*FILES.values(), *RESULT_FILES.values()}
    places = sorted((folder / name for name in names), key=lambda path: (path.suffix not in (".csv", ".json"), path))
    return places + [metadata_path(path) for path in places if path.suffix == ".csv"]


def refuse_existing(out: str | os.PathLike[str]) -> None:
    """Raise if the folder holds a result or a schedule already, or is a file."""
    folder = Path(out)
    try:
        is_file = folder.exists() and not folder.is_dir()
    except OSError as error:
        raise RefineError(f"cannot write {printable(folder)}: {error.strerror}; choose another --out") from None
    if is_file:
        raise RefineError(f"{printable(folder)} is not a folder; choose another one with --out")
    for path in _places(folder):
        if os.path.lexists(path):
            raise RefineError(f"{printable(path)} exists; choose another folder with --out, or replace it with --force")


def __getattr__(name: str) -> object:
    """Other trainers on first use: `refine fit` does without them."""
    home = {"Rendering": "base", "Target": "base", "TARGETS": "targets", "export": "targets", "render": "targets"}
    if name not in home:
        raise AttributeError(f"module 'refine.export' has no attribute {name!r}")
    value: object = getattr(import_module(f".{home[name]}", __name__), name)
    return value

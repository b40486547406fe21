"""Many schedules at once: one a run, in parallel through joblib, here or on its Dask and Ray backends; one a group."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from .analysis import fit as refine_norms
from .errors import RefineError, RefineWarning
from .export import emit, refuse_existing
from .files import printable
from .inputs import pooled
from .parallel import parallel
from .readers import ReadOptions, distinct, read_groups
from .readers.base import SeveralRuns
from .result import Refinement

__all__ = ["FIELDS", "fit_each", "fit_groups", "fit_logs", "folder_names"]

FIELDS = (
    "points",
    "total_steps",
    "optimizer",
    "recommended",
    "default",
    "rho",
    "warmup_steps",
    "refined_peak_fraction",
    "refined_bound",
    "peak_lr_ratio",
    "suggested_peak_lr",
    "warnings",
)
"""What the summary table of `fit_each` shows of each run, besides its log, its folder and its error.

The peak is that of the schedule that is used where none is named, ``default``.
"""

_EMPTY: dict[str, Any] = {"folder": None, "run": None, "error": None, **dict.fromkeys(FIELDS)}

Progress = Callable[[float], None]


def fit_logs(
    logs: Sequence[str],
    read: ReadOptions,
    fit: Mapping[str, Any],
    *,
    into: str | None = None,
    progress: Progress | None = None,
) -> Refinement:
    """Schedule from one log, or from the pooled norms of several (`refine.pool`).

    Parameters
    ----------
    logs : sequence of str
        Logs of one configuration; those with rates but without norms are joined to the one with norms.
    read : ReadOptions
    fit : mapping
        Keyword arguments of `refine.fit`.
    into : str, optional
        Folder that is refused, once the logs are read, if it holds a result.
    """
    norms, smoothing = pooled(logs, read, fit.get("smoothing", 0.1), progress)
    if into is not None:
        refuse_existing(into)
    return refine_norms(norms, **{**fit, "smoothing": smoothing})


def fit_each(
    logs: Sequence[str],
    out: str,
    read: ReadOptions,
    fit: Mapping[str, Any],
    *,
    force: bool = False,
    plot: bool = True,
    engine: str = "local",
    address: str | None = None,
    jobs: int | None = None,
) -> list[dict[str, Any]]:
    """Fit every log, and every run in a log that holds several, into a folder of its own below ``out``.

    A log that cannot be fitted, or is named again, does not stop the others: its row holds the ``error``. So it does
    where there is a result in its folder already, without ``force``.

    Parameters
    ----------
    logs, read, fit
        As in `fit_logs`; "-" is not for several processes.
    out : str
        Folder of the folders, each named after its log (`folder_names`).
    engine : {"local", "dask", "ray"}
        Processes of this machine, or a cluster through joblib's own backends (extras ``dask``, ``ray``). The
        logs and ``out`` must be on a file system that the workers share.
    address : str, optional
        Address of the cluster's scheduler.
    jobs : int, optional
        Processes; by default as many as cores.

    Returns
    -------
    list of dict
        A row a run, in order: ``log``, ``run`` (None where the log holds one), ``folder``, ``error`` (None where it
        went well) and `FIELDS`. The folders of several runs in one log lie in that of the log. Logs named again come
        last, and have none.
    """
    logs, again = distinct(logs)
    folders = [Path(out) / name for name in folder_names(logs)]
    # Workers may run in another folder.
    places = [os.path.abspath(log) if os.path.exists(log) else log for log in logs]
    tasks = [
        (log, os.path.abspath(folder), read, dict(fit), force, plot)
        for log, folder in zip(places, folders, strict=True)
    ]
    try:
        import joblib
    except ImportError:
        if engine != "local":
            raise RefineError(f"--engine {engine} needs joblib: pip install joblib") from None
        found = [_rows(*task) for task in tasks]
    else:
        with parallel(engine, address, jobs):
            found = joblib.Parallel()(joblib.delayed(_rows)(*task) for task in tasks)
    told = []
    for log, place, rows in zip(logs, places, found, strict=True):
        for row in rows:
            folder = os.path.join(out, os.path.relpath(row["folder"], os.path.abspath(out)))
            error = row["error"] and row["error"].replace(printable(place), printable(log), 1)
            error = error and error.replace(printable(row["folder"]), printable(folder), 1)
            told.append({**row, "log": log, "folder": folder, "error": error})
    told += [{**_EMPTY, "log": log, "error": f"{said}: it is fitted once; leave it out"} for log, said in again]
    return told


def fit_groups(
    log: str,
    out: str,
    read: ReadOptions,
    fit: Mapping[str, Any],
    *,
    force: bool = False,
    plot: bool = True,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Fit every param group of a log that holds the norms of each, into a folder of its own below ``out``.

    Parameters
    ----------
    log : str
        As `refine.torch.GradNormRecorder` writes it with ``per_group=True``: columns such as
        ``grad_norm_l2/group:decay``, and ``lr/group:decay``.
    out, read, fit, force, plot
        As in `fit_each`.

    Returns
    -------
    list of dict
        A row a group: ``log``, ``group``, ``folder``, ``error`` (None where it went well) and `FIELDS`.
    """
    groups = read_groups(log, read, progress)
    folders = [os.path.join(out, name) for name in _group_folders(list(groups))]
    if not force:
        for folder in folders:
            refuse_existing(Path(folder))
    rows = []
    for (name, norms), folder in zip(groups.items(), folders, strict=True):
        row = {"log": log, "group": name, "folder": folder, "error": None, **dict.fromkeys(FIELDS)}
        try:
            if isinstance(norms, RefineError):
                raise norms
            rows.append({**row, **_found(refine_norms(norms, **fit), folder, force, plot)})
        except RefineError as error:
            rows.append({**row, "error": f'group "{printable(name)}": {error}'})
    return rows


def _group_folders(names: Sequence[str]) -> list[str]:
    """A folder name a group: without what no file system takes, not hidden, different in more than case.

    Examples
    --------
    >>> _group_folders(["decay", "a/b", "..", "", "Decay", "layers.0.weight"])
    ['decay', 'a_b', 'group', 'group-2', 'Decay-2', 'layers.0.weight']
    """
    found: list[str] = []
    taken: set[str] = set()
    for name in names:
        plain = folder = re.sub(r"[^\w.-]+", "_", name)[:60].strip(".") or "group"
        count = 1
        while folder.lower() in taken:
            count += 1
            folder = f"{plain}-{count}"
        taken.add(folder.lower())
        found.append(folder)
    return found


def folder_names(logs: Sequence[str]) -> list[str]:
    """A folder name a log: the last part of its path without suffixes, with more of the path where that repeats.

    Examples
    --------
    >>> folder_names(["runs/a/metrics.csv", "runs/b/metrics.csv", "c.csv.gz"])
    ['a_metrics', 'b_metrics', 'c']
    """
    paths = [PurePosixPath(log.replace("\\", "/")).parts or ("log",) for log in logs]
    stems = [(*parts[:-1], parts[-1].split(".")[0] or parts[-1]) for parts in paths]
    names = []
    for own in stems:
        depth = 1
        while depth < len(own) and sum(other[-depth:] == own[-depth:] for other in stems) > 1:
            depth += 1
        names.append("_".join(part for part in own[-depth:] if part not in ("/", "..", ".")) or "log")
    seen: dict[str, int] = {}
    for i, name in enumerate(names):
        seen[name] = seen.get(name, 0) + 1
        names[i] = name if seen[name] == 1 else f"{name}-{seen[name]}"
    return names


def _rows(
    log: str, folder: str, read: ReadOptions, fit: dict[str, Any], force: bool, plot: bool
) -> list[dict[str, Any]]:
    """Fit a log, or every run in it."""
    try:
        return [_row(log, folder, read, fit, force, plot)]
    except SeveralRuns as several:
        places = zip(several.runs, folder_names([run.replace("/", "_") for run in several.runs]), strict=True)
        return [_row(log, os.path.join(folder, name), replace(read, run=run), fit, force, plot) for run, name in places]


def _row(log: str, folder: str, read: ReadOptions, fit: dict[str, Any], force: bool, plot: bool) -> dict[str, Any]:
    row = {**_EMPTY, "folder": folder, "run": read.run}
    try:
        return {**row, **_found(fit_logs([log], read, fit, into=None if force else folder), folder, force, plot)}
    except SeveralRuns:
        if read.run is None:
            raise
        return {**row, "error": f"{printable(log)}: run {printable(read.run)} holds several runs itself"}
    except RefineError as error:
        return {**row, "error": str(error)}


def _found(result: Refinement, folder: str, force: bool, plot: bool) -> dict[str, Any]:
    """Write the files of a result; what the summary table shows of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RefineWarning)  # the module says it itself
        emit(result, folder, force=force, plot=plot)
    found = result.to_dict()
    schedules = {row["name"]: row for row in found["schedules"]}
    refined, used = schedules["refined"], schedules[result.default]
    found["recommended"] = result.shape
    found["refined_peak_fraction"], found["refined_bound"] = refined["peak_fraction"], refined["relative_bound"]
    found["peak_lr_ratio"], found["suggested_peak_lr"] = used["peak_lr_ratio"], used["suggested_peak_lr"]
    found["rho"] = next((flag["value"] for flag in found["flags"] if flag["name"] == "rho"), None)
    return {name: found[name] for name in FIELDS}

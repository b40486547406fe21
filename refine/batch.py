"""Many schedules at once: one a run, in parallel through joblib, here or on its Dask and Ray backends; one a group."""

from __future__ import annotations

import os
import re
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from .analysis import fit as refine_norms
from .errors import RefineError, RefineWarning
from .export import emit, refuse_existing
from .files import clear_abandoned, printable, safe_names, scratch
from .inputs import pooled
from .interrupts import unwinding
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

_SUFFIX = re.compile(
    r"(\.(csv|tsv|txt|log|out|err|jsonl?|ndjson|parquet|npy|npz|db|sqlite3?|wandb|ya?ml))?(\.(gz|bz2|xz|zst|zstd))?\Z",
    re.IGNORECASE,
)
"""Of a log, behind its name."""

_URL = re.compile(r"[a-z][a-z0-9+.\-]*://(?:[^/@]*@)?([^?#]*).*", re.IGNORECASE | re.DOTALL)
"""A URL and the place in it; what is around that may be secret."""

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
    with _cleared(folders), scratch() as temporary:
        try:
            import joblib
        except ImportError:
            if engine != "local":
                raise RefineError(f"--engine {engine} needs joblib: pip install joblib") from None
            found = [_rows(*task) for task in tasks]
        else:
            with parallel(engine, address, jobs):
                here = str(temporary) if engine == "local" else None
                found = joblib.Parallel()(joblib.delayed(_worked)(here, *task) for task in tasks)
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
    folders = [os.path.join(out, name) for name in safe_names(list(groups), "group")]
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


def folder_names(logs: Sequence[str]) -> list[str]:
    """A folder name a log: the last part of its path without a known suffix, with more of the path where that repeats.

    Of logs that differ in the suffix alone each keeps its own. `refine.files.safe_names` makes the names safe.

    Examples
    --------
    >>> folder_names(["runs/a/metrics.csv", "runs/b/metrics.csv", "c.csv.gz", "lr0.1.csv", "lr0.01.csv"])
    ['a_metrics', 'b_metrics', 'c', 'lr0.1', 'lr0.01']
    """
    paths = [PurePosixPath(_URL.sub(r"\1", log).replace("\\", "/")).parts or ("",) for log in logs]
    short = [(*parts[:-1], _SUFFIX.sub("", parts[-1]) or parts[-1]) for parts in paths]
    same = Counter(dict(zip(paths, short, strict=True)).values())
    own = [bare if same[bare] == 1 else whole for bare, whole in zip(short, paths, strict=True)]
    ends = Counter(parts[-depth:] for parts in own for depth in range(1, len(parts) + 1))
    names = []
    for parts in own:
        depth = next((d for d in range(1, len(parts)) if ends[parts[-d:]] == 1), len(parts))
        names.append("_".join(part for part in parts[-depth:] if part not in ("/", "..", ".")))
    return safe_names(names, "log")


@contextmanager
def _cleared(folders: Sequence[Path]) -> Iterator[None]:
    """Remove, after an interruption, what killed workers were writing, and the folders that they left empty."""
    before = _standing(folders)
    try:
        yield
    except BaseException:
        places = _standing(folders)
        for place in places:
            clear_abandoned(place)
        for place in sorted(places - before, key=lambda path: len(path.parts), reverse=True):
            with suppress(OSError):
                place.rmdir()
        raise


def _standing(folders: Sequence[Path]) -> set[Path]:
    """Those of the folders, of what they lie in and of what lies in them that exist."""
    around = {path for folder in folders for path in (folder, *folder.parents) if os.path.isdir(path)}
    return around | {path for folder in around & {*folders} for path in folder.iterdir() if path.is_dir()}


def _worked(
    temporary: str | None, log: str, folder: str, read: ReadOptions, fit: dict[str, Any], force: bool, plot: bool
) -> list[dict[str, Any]]:
    """Do `_rows` in a worker, which joblib kills when it is interrupted: what it unpacks goes to ``temporary``."""
    before = tempfile.tempdir
    with unwinding():
        try:
            tempfile.tempdir = temporary or before
            return _rows(log, folder, read, fit, force, plot)
        finally:
            tempfile.tempdir = before


def _rows(
    log: str, folder: str, read: ReadOptions, fit: dict[str, Any], force: bool, plot: bool
) -> list[dict[str, Any]]:
    """Fit a log, or every run in it."""
    try:
        return [_row(log, folder, read, fit, force, plot)]
    except SeveralRuns as several:
        places = zip(several.runs, safe_names(several.runs), strict=True)
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

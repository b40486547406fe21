"""What a finished suite is reduced to: a folder of small text files that is read back only as it was written."""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any, get_args

import pandas as pd

from ...errors import RefineError
from ...files import printable, write_files
from ..problems import Scale

__all__ = ["Results", "checksums", "load", "load_suites", "save"]

_CELL = ("suite", "problem", "optimizer")
_KEYS: Mapping[str, tuple[str, ...]] = {
    "runs": (*_CELL, "method", "warmup", "rates", "seed"),
    "logs": (*_CELL, "method", "seed"),
    "costs": (*_CELL, "method", "warmup"),
}
_REST: Mapping[str, tuple[str, ...]] = {
    "runs": ("schedule", "rate", "loss", "train_loss", "test_loss"),
    "logs": ("decision", "default"),
    "costs": ("sweep_runs", "sweep_updates", "prior_updates", "run_updates", "at_limit"),
}
_MORE: Mapping[str, tuple[str, ...]] = {"runs": ("error",), "logs": (), "costs": ()}
"""Columns that older results lack."""

_FILES = {"runs": "runs.csv.gz", "logs": "logs.csv", "costs": "costs.csv"}
_TEXTS = {*_CELL, "method", "warmup", "rates", "schedule", "decision", "default"}
_WHOLE = {"seed", "sweep_runs", "sweep_updates", "prior_updates", "run_updates", "at_limit"}
_META = ("suite", "scale", "versions", "machine", "finished", "runs", "seconds", "wall_seconds", "skipped", "failed")
_KNOWN: Mapping[str, tuple[str, ...]] = {
    "suite": (
        *("smoke", "convex", "deep", "recommended-convex", "recommended-deep", "peaks-deep"),
        *(
            f"{kind}-{half}"
            for kind in ("convex", "deep", "changing", "changing-deep", "peaks")
            for half in ("choose", "confirm")
        ),
    ),
    "scale": get_args(Scale),
}


@dataclass(frozen=True, slots=True)
class Results:
    """A finished suite.

    Attributes
    ----------
    runs : DataFrame
        One row a final run: suite, problem, optimizer, method, warmup, rates, seed, schedule, rate, loss (the
        criterion; inf where it diverged), train_loss, test_loss (nan: none), error (share of the training data that is
        classified wrongly; nan: no table; older results lack it).
    logs : DataFrame
        One row a log that a schedule was refined from: suite, problem, optimizer, method, seed, decision
        ("linear" where the norms fall so far that the method "refined" is linear decay, else "refined"), default (the
        shape that `refine.default` chooses), its k, and the values of the checks of `refine.diagnostics.RULES` by name
        (nan: unknown); results that are older may hold those of rules that are gone, as the progress ratio.
    costs : DataFrame
        suite, problem, optimizer, method, warmup, sweep_runs, sweep_updates, prior_updates, run_updates, at_limit (1
        where the sweep ended at the furthest rate it may try, else 0).
    meta : mapping
        JSON values: suite, scale, versions, machine, finished, runs, seconds (of all runs), wall_seconds,
        skipped (reasons by problem), failed (by method: number of cells by reason).
    """

    runs: pd.DataFrame
    logs: pd.DataFrame
    costs: pd.DataFrame
    meta: Mapping[str, Any]


def save(results: Results, folder: str | os.PathLike[str], *, force: bool = False) -> None:
    """Write ``runs.csv.gz``, ``logs.csv``, ``costs.csv`` and ``meta.json``, all of them or none.

    Rows are sorted and numbers have 7 significant digits: the same results give the same bytes.
    """
    place = Path(folder)
    texts = {name: _csv(name, getattr(results, name)) for name in _KEYS}
    meta = {key: value for key, value in results.meta.items() if key != "sha256"}
    if missing := [key for key in _META if key not in meta]:
        raise RefineError(f"the meta data lack {', '.join(missing)}; give all of {', '.join(_META)}")
    sums = {name: _sha256(text.encode()) for name, text in {**texts, "meta": _json(meta)}.items()}
    write_files(
        {
            **{place / _FILES[name]: partial(_pack, text.encode()) for name, text in texts.items()},
            place / "meta.json": [_json({**meta, "sha256": sums})],
        },
        force=force,
    )


def load(folder: str | os.PathLike[str]) -> Results:
    """Read a folder of results; one whose files were changed since is refused."""
    place = Path(folder)
    meta = _meta(place)
    sums = meta.pop("sha256")
    tables = {name: _table(place, name, sums.get(name)) for name in _KEYS}
    return Results(**tables, meta=meta)


def load_suites(
    folders: Sequence[str | os.PathLike[str]], wanted: Callable[[str], bool], otherwise: str
) -> list[Results]:
    """Read folders of results of wanted suites; one of another suite is refused, with what is said of it otherwise."""
    results = [load(folder) for folder in folders]
    for folder, result in zip(folders, results, strict=True):
        if not wanted(suite := str(result.meta["suite"])):
            raise RefineError(f"{printable(folder)} holds the suite {suite}{otherwise}")
    return results


def checksums(folder: str | os.PathLike[str]) -> dict[str, str]:
    """SHA-256 of the tables of a folder of results, by name: runs, logs, costs, and meta."""
    return dict(_meta(Path(folder))["sha256"])


def _meta(place: Path) -> dict[str, Any]:
    path = place / "meta.json"
    content = _read(path)
    try:
        meta = json.loads(content)
    except ValueError:
        raise _edited(path) from None
    if not isinstance(meta, dict) or not isinstance(sums := meta.get("sha256"), dict):
        raise _edited(path)
    kept = {key: value for key, value in meta.items() if key != "sha256"}
    if sums.get("meta") != _sha256(_json(kept).encode()):
        raise _edited(path)
    if any(key not in kept for key in _META):
        raise _foreign(path)
    for key, values in _KNOWN.items():
        if meta[key] not in values:
            raise RefineError(
                f"{printable(path)} has the {key} {printable(meta[key])}, which is none of {', '.join(values)}: "
                "was it edited? Write it again from the store"
            )
    return meta


def _table(place: Path, name: str, sha256: str | None) -> pd.DataFrame:
    path = place / _FILES[name]
    content = _read(path)
    if path.suffix == ".gz":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error):
            raise _edited(path) from None
    if _sha256(content) != sha256:
        raise _edited(path)
    frame = pd.read_csv(StringIO(content.decode()), dtype=str, keep_default_na=False)
    if not {*_KEYS[name], *_REST[name]} <= set(frame):
        raise _foreign(path)
    for column in frame.columns:
        if column in _WHOLE:
            frame[column] = frame[column].astype("int64")
        elif column not in _TEXTS:
            frame[column] = frame[column].map(lambda text: float(text) if text else math.nan).astype("float64")
    return frame


def _csv(name: str, frame: pd.DataFrame) -> str:
    columns = [*_KEYS[name], *_REST[name]]
    if missing := [column for column in columns if column not in frame]:
        raise RefineError(f"{name} lacks the column {missing[0]}; give all of {', '.join(columns)}")
    columns += [column for column in _MORE[name] if column in frame]
    checks = [column for column in frame.columns if column not in columns]
    if checks and name != "logs":
        raise RefineError(f"{name} has an unknown column {printable(checks[0])}; its columns are {', '.join(columns)}")
    keys = list(_KEYS[name])
    if frame.duplicated(keys).any():
        twice = ", ".join(printable(value) for value in frame.loc[frame.duplicated(keys), keys].iloc[0])
        raise RefineError(f"{name} has two rows for {twice}; keep one")
    ordered = frame[[*columns, *checks]].sort_values(keys, kind="stable")
    shown = {
        column: [str(v) for v in ordered[column]]
        if column in _TEXTS
        else [str(int(v)) for v in ordered[column]]
        if column in _WHOLE
        else ["" if math.isnan(v) else f"{v:.7g}" for v in ordered[column].astype("float64")]
        for column in ordered.columns
    }
    return pd.DataFrame(shown).to_csv(index=False, lineterminator="\n")


def _pack(content: bytes, path: Path) -> None:
    """Write, compressed where the name says so; the checksums are of what is in it."""
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def _json(meta: Mapping[str, Any]) -> str:
    return json.dumps(meta, indent=2, sort_keys=True) + "\n"


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise RefineError(
            f"cannot read {printable(path)}: {error.strerror or error}; name a folder that the bench has written"
        ) from None


def _edited(path: Path) -> RefineError:
    return RefineError(f"{printable(path)} was edited after it was written; write it again from the store")


def _foreign(path: Path) -> RefineError:
    return RefineError(f"{printable(path)} was written by another version of refine; write it again from the store")

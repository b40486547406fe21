"""Stores that keep a text file a metric, with a value a line: MLflow's and DVCLive's."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from .base import ReadOptions
from .gather import number
from .long import Series
from .opening import Log

__all__ = ["files_by_metric", "read_series"]


def files_by_metric(log: Log, folder: Path, suffix: str = "") -> dict[str, Path]:
    """Files below a folder by the name of their metric; its slashes are folders."""
    found = log.sibling(folder).files(f"*{suffix}") if folder.is_dir() else []
    return {path.relative_to(folder).as_posix().removesuffix(suffix): path for path in found}


def read_series(
    log: Log,
    files: Mapping[str, Path],
    options: ReadOptions,
    fields: Callable[[str], tuple[str, str] | None],
    header: re.Pattern[str] | None = None,
) -> tuple[Series, dict[str, int]]:
    """All series that matter, and the count of lines that were dropped.

    ``fields`` takes step and value out of a line, None where it has none; lines like ``header`` are passed over.
    """
    series = Series(options)
    truncated = damaged = 0
    for name, path in files.items():
        if not series.wants(name):
            continue
        for line, whole in _lines(log.sibling(path)):
            if header and header.fullmatch(line):
                continue
            found = fields(line)
            step, value = (None, None) if found is None else (number(found[0]), number(found[1]))
            if not whole:
                truncated += 1
            elif step is None or value is None:
                damaged += 1
            else:
                series.add(name, step, value)
    dropped = {"truncated last line": truncated, "damaged lines": damaged}
    return series, {reason: count for reason, count in dropped.items() if count}


def _lines(log: Log) -> Iterator[tuple[str, bool]]:
    """Lines that hold anything, and whether each is whole: the last is not if no newline ends it."""
    with open(log.path, "rb") as stream:
        stream.seek(max(0, log.size - 1))
        ended = stream.read() == b"\n"
    last = ""
    for line in log.lines():
        if last.strip():
            yield last, True
        last = line
    if last.strip():
        yield last, ended

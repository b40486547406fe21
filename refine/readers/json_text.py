"""JSON lines and JSON documents of no particular framework, and the safe way to read either.

A line may carry the prefix of a logger before its ``{``. A document may be a list of rows, a mapping of columns, or
such a mapping one level down.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd

from ..errors import RefineError
from ..files import printable
from .base import Column, Format, ReadOptions, Records, choose_run
from .gather import Rows, check_width, number
from .long import LongTable, long_columns
from .opening import Log
from .runs import is_norm

__all__ = ["DOCUMENT", "LINES", "first_objects", "objects", "parse", "read_lines"]

_SMALL = 2**20
_DENSEST = 8


def parse(text: str) -> Any:
    """A JSON value; bare NaN and Infinity are taken, as many loggers write them.

    A text that is mostly brackets is refused: it would take twenty times its size of memory.
    """
    if len(text) > _SMALL and _DENSEST * (text.count("[") + text.count("{")) > len(text):
        raise RefineError(
            "the JSON is mostly brackets, or nested too deeply to be a log; name a log with a row per update"
        )
    try:
        return json.loads(text)
    except RecursionError:
        raise RefineError("the JSON is nested too deeply to be a log; name a log with a row per update") from None


def objects(lines: Iterator[str]) -> Iterator[dict[str, Any] | None]:
    """The JSON object of each line, from its first brace on; None for a line without one. Blank lines are left out."""
    for line in lines:
        start = line.find("{")
        value = None
        if start >= 0:
            try:
                value = parse(line[start:])
            except ValueError:
                value = None
        if start >= 0 or line.strip():
            yield value if isinstance(value, dict) else None


@lru_cache(maxsize=8)
def first_objects(log: Log, most: int = 200) -> list[dict[str, Any]]:
    """Objects in the first lines of a text that holds JSON lines, at least in part; empty for any other."""
    if "{" not in log.text[:200_000]:
        return []
    lines = log.text.splitlines()[:-1] or log.text.splitlines()
    try:
        found = [value for value in objects(iter(lines[: 5 * most])) if value]
    except RefineError:
        return []
    return found[:most]


def read_lines(log: Log, options: ReadOptions, row: Any = None) -> tuple[Rows, dict[str, int]]:
    """Rows of a log of JSON lines, and the count of lines that are none.

    ``row`` turns an object into a row, or into None to leave it out.
    """
    rows = Rows(options)
    unreadable = 0
    last_bad = False
    for value in objects(log.lines()):
        last_bad = value is None
        unreadable += value is None
        if value is not None:
            value = row(value) if row else value
            if value is not None:
                rows.add(value)
    dropped = {}
    if last_bad:
        dropped["truncated last line"] = 1
    if unreadable > last_bad:
        dropped["lines without an object"] = unreadable - last_bad
    return rows, dropped


def _read_lines(log: Log, options: ReadOptions) -> Records:
    if _is_long(islice(objects(log.lines()), 50)):
        return _read_long(filter(None, objects(log.lines())), "JSON lines", options)
    rows, dropped = read_lines(log, options)
    if not rows.count:
        raise RefineError("the file holds no JSON object; name a log with an object a line")
    return rows.records("JSON lines", dropped=dropped)


def _is_long(values: Iterable[Mapping[str, Any] | None]) -> bool:
    found = [value for value in values if value]
    return bool(found) and all(long_columns(list(value)) is not None for value in found)


def _read_long(values: Iterable[Mapping[str, Any]], format: str, options: ReadOptions) -> Records:
    frame = pd.DataFrame([dict(value) for value in values], dtype=object)
    names = [str(name) for name in frame.columns]
    long = LongTable(options)
    places = long_columns(names)
    if places is not None:
        metric, step, value, run = places
        of_run = None if run is None else frame.iloc[:, run]
        long.add(frame.iloc[:, metric], frame.iloc[:, step], frame.iloc[:, value], of_run)
    return long.records(f"{format}, one value a row", names)


def _read_document(log: Log, options: ReadOptions) -> Records:
    try:
        value = parse(log.read_json_text())
    except ValueError as error:
        if isinstance(error, RefineError):
            raise
        raise RefineError(f"the JSON is damaged ({printable(error)}); write the file again") from None
    return from_value(value, options)


def from_value(value: Any, options: ReadOptions, depth: int = 0) -> Records:
    """Rows or columns that a JSON value holds."""
    if isinstance(value, list) and value and all(isinstance(row, Mapping) for row in value):
        if _is_long(islice(value, 50)):
            return _read_long(value, "JSON list", options)
        rows = Rows(options)
        for row in value:
            rows.add(row)
        return rows.records("JSON list of rows")
    if isinstance(value, Mapping):
        lists = {
            str(k): v for k, v in value.items() if isinstance(v, list) and v and not isinstance(v[0], (list, dict))
        }
        check_width(len(lists))
        if any(options.wants(name) for name in lists):
            return _columns(lists, options)
        parts = _parts(value, options, depth) if depth < 4 else {}
        with_norm = [name for name, part in parts.items() if any(is_norm(c.name, options) for c in part.columns)]
        if len(with_norm) > 1 or (options.run is not None and options.run in parts):
            run = choose_run(with_norm, options.run)
            return replace(parts[run], run=run)
        if parts:
            return parts[(with_norm or list(parts))[0]]
    raise RefineError(
        "the JSON document holds no rows and no columns of numbers; "
        "name one with a list of objects, or a mapping from names to lists"
    )


def _parts(value: Mapping[str, Any], options: ReadOptions, depth: int) -> dict[str, Records]:
    """Those values of a mapping that hold rows or columns: runs, or training and validation."""
    found = {}
    for name, part in islice(value.items(), 1000):
        if isinstance(part, (Mapping, list)):
            with suppress(RefineError):
                found[str(name)] = from_value(part, options, depth + 1)
    return found


def _columns(lists: Mapping[str, list[Any]], options: ReadOptions) -> Records:
    columns = []
    length = max(len(values) for name, values in lists.items() if options.wants(name))
    for name, values in lists.items():
        if options.wants(name) and len(values) == length:
            parsed = [number(v) for v in values]
            present = np.array([v is not None for v in values])
            numbers = np.array([np.nan if v is None else v for v in parsed])
            columns.append(Column(name, numbers[present], None if present.all() else np.flatnonzero(present)))
    return Records("JSON document of columns", columns, length, names=list(lists))


def _mostly_objects(log: Log) -> bool:
    lines = [line for line in log.text.splitlines()[:400] if line.strip()]
    return 2 * len(first_objects(log)) > min(len(lines), 200)


def _is_document(log: Log) -> bool:
    text = log.text.lstrip()
    if text[:1] == "[":
        return text[1:].lstrip()[:1] in ("{", "[", "]")
    if text[:1] != "{" or text[1:].lstrip()[:1] not in ('"', "}"):
        return False
    first = first_objects(log, 1)
    alone = "\n" not in text.strip() and log.size == len(log.sample)
    return not first or (alone and any(isinstance(value, (list, dict)) for value in first[0].values()))


LINES = Format(
    "jsonl",
    get="your own script; W&B: scan_history() to JSON lines",
    lost="what it does not say: --optimizer, --norm-kind",
    sniff=_mostly_objects,
    read=_read_lines,
)
DOCUMENT = Format(
    "json",
    get="your own script; Comet: APIExperiment.get_metrics() to JSON",
    lost="what it does not say: --optimizer, --norm-kind",
    sniff=_is_document,
    read=_read_document,
)

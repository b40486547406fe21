"""Console logs: lines with a step and pairs of names and values, among lines of every other kind.

A framework's reader gives two patterns: one finds a line and its step, the other the pairs behind it. `FORMAT` reads
the lines of no framework in particular: those that name a step and a gradient norm.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from .base import Facts, Format, ReadOptions, Records
from .gather import Rows
from .opening import Log

__all__ = ["FORMAT", "NUMBER", "PIPED", "STEP", "collect", "pairs", "read"]

PIPED = re.compile(r"\| ?([A-Za-z][^|:]{0,80}): +([^|\s]{1,40})(?= *\||\s*$)")
"""Pairs such as ``| grad norm: 0.273 |``."""


def pairs(
    lines: Iterable[str], line: re.Pattern[str], pair: re.Pattern[str] | None = None, names: Mapping[str, str] = {}
) -> Iterator[dict[str, str]]:
    """A row for every line in which ``line`` is found: its named groups, then the pairs behind it; some renamed.

    Examples
    --------
    >>> list(pairs(["hello", "step 3/9 | norm: 0.5 |"], re.compile(r"step (?P<step>\\S+)"), PIPED, {"norm": "gnorm"}))
    [{'step': '3/9', 'gnorm': '0.5'}]
    """
    for text in lines:
        if found := line.search(text):
            row = {name: value for name, value in found.groupdict().items() if value is not None}
            for name, value in pair.findall(text, found.end()) if pair else ():
                row[names.get(name, name)] = value
            yield row


def collect(log: Log, options: ReadOptions, found: Iterable[Mapping[str, str]]) -> tuple[Rows, dict[str, int]]:
    """Rows of a console log, and the count of those left out.

    Lines that several ranks print alike count once. A last value that is shorter than the one before it, in a file that
    ends with it, was cut while it was written.
    """
    rows, repeated = Rows(options), 0
    before: dict[str, str] = {}
    row: Mapping[str, str] = {}

    def add() -> None:
        nonlocal before, repeated
        wanted = {name: value for name, value in row.items() if options.wants(name)}
        if wanted and wanted == before:
            repeated += 1
        elif wanted:
            rows.add(row)
            before = wanted

    for following in found:
        add()
        row = following
    cut = False
    if row:
        name, value = list(row.items())[-1]
        cut = options.wants(name) and log.text.endswith(value) and len(value) < len(before.get(name, ""))
    if not cut:
        add()
    dropped = {"repeated by another rank": repeated, "truncated last line": int(cut)}
    return rows, {reason: count for reason, count in dropped.items() if count}


def read(
    log: Log,
    options: ReadOptions,
    format: str,
    facts: Facts,
    found: Iterable[Mapping[str, str]],
    *,
    missing: str = "",
    notes: tuple[str, ...] = (),
) -> Records:
    """A console log as records; ``found`` are its rows."""
    rows, dropped = collect(log, options, found)
    return rows.records(format, facts, dropped=dropped, missing=missing, notes=notes)


NUMBER = r"[-+]?(?:\d[\d,]{0,20}(?:\.\d{0,20})?(?:e[-+]?\d{1,3})?|nan|inf)"
STEP = re.compile(
    r"\b(?:global[_ ])?(?:step|iteration|iter|update)s?['\"]?(?::|=|#)? {0,12}"
    r"(?P<step>\d{1,3}(?:,\d{3})+|\d{1,15}(?: {0,12}/ {0,12}\d{1,15})?)",
    re.IGNORECASE,
)
_NORM = r"[\w/]{0,40}grad(?:ient)?[_ ]?norm\w{0,20}|gnorm"
_PAIR = re.compile(
    rf"(?<![\w/])(?<!val )(?<!eval )(?<!test )(?<!validation )"
    rf"({_NORM}|train(?:ing)?[_ /]loss|loss|lr|learning[_ ]rate)['\"]?(?::|=)? {{0,12}}({NUMBER})\b",
    re.IGNORECASE,
)
_WITH_NORM = re.compile(rf"^.{{0,2000}}?(?:{_NORM})['\"]?(?::|=)? {{0,12}}{NUMBER}\b", re.IGNORECASE | re.MULTILINE)


def _rows(lines: Iterable[str]) -> Iterator[dict[str, str]]:
    for text in lines:
        if _WITH_NORM.match(text) and (found := STEP.search(text)):
            yield {"step": found["step"], **dict(_PAIR.findall(text[:4000]))}


def _sniff(log: Log) -> bool:
    named = (text for text in log.text.splitlines() if len(text) < 4000 and "norm" in text.lower())
    lines = (text for text in named if _WITH_NORM.match(text))
    return sum(1 for text, _ in zip(lines, range(20), strict=False) if STEP.search(text)) >= 2


FORMAT = Format(
    "console",
    get="console output of your own script: step 10 | loss 3.2 | grad_norm 0.5",
    lost="what it does not say: --optimizer, --norm-kind; digits that it did not print",
    sniff=_sniff,
    read=lambda log, options: read(log, options, "console log", Facts(), _rows(log.lines())),
)

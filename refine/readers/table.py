"""Delimited text: CSV, TSV, semicolons; with a header or without; W&B chart exports, TensorBoard downloads.

Read in chunks by pandas, only the columns that may matter are kept.
"""

from __future__ import annotations

import csv
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..errors import RefineError
from ..files import printable
from .base import Column, Format, ReadOptions, Records
from .columns import RUN_NAMES, run_in_name
from .gather import Growing, check_width, number
from .long import LongTable, coded, long_columns
from .opening import Log

__all__ = ["FORMAT", "header", "read_table"]

_EMPTY = ("", "na", "n/a", "null", "none", "-")
_CHUNK = 131_072
_EXACT: dict[str, Any] = (
    {"float_precision": "round_trip"} if tuple(map(int, pd.__version__.split(".")[:2])) < (3, 1) else {}
)
"""Before 3.1 pandas may be off in the last place unless told; since then it is exact, and the option is deprecated."""
_DOWNLOAD = ["Wall time", "Step", "Value"]
_TAG = re.compile(r"tag-(?P<tag>.+?)(?: ?\(\d+\))?\.csv$")  # run-NAME-tag-train_grad_norm.csv
_TAIL = 65_536


@dataclass(frozen=True, slots=True)
class _Layout:
    """How the text is laid out: all that the first and last bytes tell."""

    delimiter: str
    decimal: str
    names: list[str]
    header: bool
    skip: int
    cut: int

    @property
    def format(self) -> str:
        if self.header and any(map(run_in_name, self.names[1:])):
            return "W&B chart export (CSV)"
        if self.names[:2] == _DOWNLOAD[:2] and len(self.names) == 3:
            return "TensorBoard CSV download"
        return {"\t": "TSV", ";": "CSV with semicolons", "|": "table with bars", " ": "table with spaces"}.get(
            self.delimiter, "CSV"
        )


def header(log: Log) -> list[str]:
    """Names in the first line of a table; none where the text is not one with a header of two columns or more."""
    if not log.is_text or log.text.lstrip()[:1] in ("{", "["):
        return []
    try:
        layout = _sniff(log)
    except (RefineError, csv.Error):
        return []
    return layout.names if layout.header and len(layout.names) > 1 else []


def read_table(log: Log, options: ReadOptions) -> Records:
    """Read a delimited text file."""
    layout = _sniff(log)
    names = layout.names
    if names[0].startswith("Relative Time") and options.step_column is None and options.every is None:
        raise RefineError(
            f'the x axis of the chart is "{printable(names[0])}"; export it with a step as the x axis, '
            "or choose one of the columns with --step-column"
        )
    runs_at = next((i for i, name in enumerate(names) if name in RUN_NAMES), None) if layout.header else None
    pivot = long_columns(names) if layout.header else None
    if pivot is not None:
        long = LongTable(options)
        for chunk in _chunks(log, layout, options, text=[i for i in pivot if i is not None]):
            long.add(*(None if i is None else chunk[i] for i in pivot))
        return long.records(layout.format + ", one value a row", names)
    places = {name: i for i, name in reversed(list(enumerate(names)))}
    lowest = {i: places[f"{name}__MIN"] for i, name in enumerate(names) if f"{name}__MIN" in places}
    wanted = [i for i, name in enumerate(names) if not layout.header or options.wants(name)]
    load = sorted({*wanted, *(lowest[i] for i in wanted if i in lowest)})
    parts: dict[int, _Cells] = {i: _Cells(names[i] if layout.header else None, layout.decimal) for i in load}
    run_codes: list[NDArray[np.int64]] = []
    run_names: dict[str, int] = {}
    rows = repeated_headers = 0
    for chunk in _chunks(log, layout, options, text=[] if runs_at is None else [runs_at]):
        repeated = np.zeros(len(chunk), dtype=bool)
        for i in load:
            repeated |= parts[i].parse(chunk[i], rows)
        keep = ~repeated
        for i in load:
            parts[i].keep(keep)
        if runs_at is not None:
            codes, labels = coded(chunk[runs_at][keep])
            known = [run_names.setdefault(label, len(run_names)) for label in labels]
            run_codes.append(np.array(known, dtype=np.int64)[codes])
        rows += len(chunk)
        repeated_headers += int(np.count_nonzero(repeated))
    if not rows:
        raise RefineError("the file holds a header and no rows; name a log of a finished run")
    columns = {i: parts[i].growing.column(names[i], parts[i].bad) for i in load}
    dropped = {"repeated header": repeated_headers} if repeated_headers else {}
    if layout.cut:
        dropped["truncated last line"] = 1
    return Records(
        layout.format,
        [columns[i] for i in wanted],
        rows - repeated_headers,
        names=[name for name in names if not name.endswith(("__MIN", "__MAX"))],
        dropped=dropped,
        notes=_notes(columns, lowest),
        missing=_missing(layout),
        runs=(list(run_names), np.concatenate(run_codes)) if len(run_names) > 1 else None,
        header=layout.header,
    )


def _notes(columns: dict[int, Column], lowest: dict[int, int]) -> tuple[str, ...]:
    bucketed = any(
        i in columns and not np.array_equal(columns[i].values, columns[low].values, equal_nan=True)
        for i, low in lowest.items()
        if low in columns
    )
    note = "the export is bucketed (__MIN differs from the value): each point is a mean, spikes are lost"
    return (note,) if bucketed else ()


def _missing(layout: _Layout) -> str:
    if layout.format == "TensorBoard CSV download":
        return 'the download does not say which tag "Value" is: if it is the gradient norm, say --column Value'
    if any(name.startswith("Group: ") or " - Group: " in name for name in layout.names):
        return "a grouped chart holds means over runs: ungroup the runs and export again"
    return "choose one with --column"


class _Cells:
    """One column, chunk by chunk: numbers, which rows hold them, and the first cell that is none."""

    def __init__(self, name: str | None, decimal: str) -> None:
        self.name = name
        self.decimal = decimal
        self.growing = Growing()
        self.bad: tuple[int, str] | None = None

    def parse(self, cells: pd.Series[Any], before: int) -> NDArray[np.bool_]:
        """Numbers of a chunk; returns the rows that repeat the column's name."""
        repeated = np.zeros(len(cells), dtype=bool)
        if cells.dtype.kind in "iuf":
            self.chunk = cells.to_numpy(np.float64)
            self.present = ~np.isnan(self.chunk)  # pandas leaves no "nan" in a column of numbers
            return repeated
        self.chunk = np.full(len(cells), np.nan)
        self.present = cells.notna().to_numpy().copy()
        for row, cell in zip(np.flatnonzero(self.present), cells.to_numpy(object)[self.present], strict=True):
            text = str(cell).strip()
            try:
                self.chunk[row] = float(text.replace(self.decimal, "."))
            except ValueError:
                value = number(text) if self.decimal == "." else None  # 1,234
                if text.lower() in _EMPTY:
                    self.present[row] = False
                elif text == self.name:
                    repeated[row] = True
                elif value is not None:
                    self.chunk[row] = value
                elif self.bad is None:
                    self.bad = (before + int(row) + 1, text)
        return repeated

    def keep(self, keep: NDArray[np.bool_]) -> None:
        """Take the parsed chunk in, without the rows that are left out."""
        self.growing.add(self.chunk[keep], self.present[keep])


def _chunks(log: Log, layout: _Layout, options: ReadOptions, *, text: list[int]) -> Iterator[pd.DataFrame]:
    """All rows below the first line, all columns by position.

    Without a step column a blank line is a row too: it holds the place of its step.
    """
    width = len(layout.names)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            with (
                log.stream(cut=layout.cut, delimiter=layout.delimiter) as stream,
                pd.read_csv(
                    stream,
                    sep=layout.delimiter if layout.delimiter != " " else r"\s+",
                    decimal=layout.decimal,
                    header=None,
                    names=list(range(width)),
                    index_col=False,
                    skiprows=layout.skip,
                    skipinitialspace=True,
                    skip_blank_lines=options.every is None,
                    low_memory=False,
                    compression=None,
                    keep_default_na=False,
                    na_values=[""],
                    dtype=dict.fromkeys(text, str),
                    **_EXACT,
                    chunksize=_CHUNK,
                ) as chunks,
            ):
                yield from chunks
    except pd.errors.EmptyDataError:
        raise RefineError("the file holds a header and no rows; name a log of a finished run") from None
    except pd.errors.ParserWarning:
        raise RefineError(
            f"the first row has more than the {width} fields of the first line; repair the file"
        ) from None
    except pd.errors.ParserError as error:
        if "Calling read(nbytes) on source failed" in str(error):  # before Python 3.12 it loses what was raised there
            raise KeyboardInterrupt from None
        if not any(options.wants(name) for name in layout.names):
            raise RefineError("the text is no table, and none of the formats that refine formats lists") from None
        detail = printable(str(error).removeprefix("Error tokenizing data. C error: ").strip())
        raise RefineError(f"the rows do not fit the first line ({detail}); repair the file") from None
    except UnicodeDecodeError as error:
        raise RefineError(f"{error.object[error.start]:#04x} is not UTF-8; convert the file to UTF-8 first") from None


def _sniff(log: Log) -> _Layout:
    sample = log.sample
    if not sample.strip():
        raise RefineError("the file is empty; name a log with a header and rows, such as step,grad_norm")
    if not log.is_text:
        raise RefineError(
            "the file is binary or UTF-16, and none of the formats that refine reads: convert it to CSV in UTF-8 "
            "(refine formats lists them)"
        )
    whole_lines = sample[: sample.rfind(b"\n") + 1] or sample  # the last one may have been cut while written
    try:
        text = whole_lines.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RefineError(
            f"byte {error.object[error.start]:#04x} at offset {error.start} is not UTF-8; "
            "convert the file first, for example with iconv -f latin1 -t utf-8"
        ) from None
    lines = text.splitlines()
    skip = next((i for i, line in enumerate(lines) if line.strip() and not line.startswith("#")), len(lines))
    if skip == len(lines):
        raise RefineError("the file holds comments only; name a log with a header and rows, such as step,grad_norm")
    head = lines[skip]
    bare = re.sub(r'"[^"]*"', "", head)  # names may hold any of them
    delimiter = max(",;\t|", key=bare.count)
    if delimiter not in bare and " " in bare.strip():
        delimiter = " "
    try:
        first = [
            field.strip() for field in next(csv.reader([head.strip()], delimiter=delimiter, skipinitialspace=True))
        ]
    except csv.Error as error:
        raise RefineError(f"the first line cannot be split into fields ({error}); name a table of numbers") from None
    decimal = "," if delimiter == ";" and not any("." in line for line in lines[skip + 1 : skip + 20]) else "."
    header = not all(_is_number(field, decimal) for field in first)
    check_width(len(first))
    names = first if header else [str(i + 1) for i in range(len(first))]
    if not header and skip and lines[skip - 1].startswith("#"):  # as numpy.savetxt writes it
        commented = lines[skip - 1].lstrip("# ")
        told = commented.split() if delimiter == " " else [field.strip() for field in commented.split(delimiter)]
        if len(told) == len(names) and not any(_is_number(name, decimal) for name in told):
            return _Layout(delimiter, decimal, told, True, skip, _truncated(log, delimiter, len(told)))
    if names == _DOWNLOAD and (tag := _TAG.search(log.name)):
        names = [*_DOWNLOAD[:2], tag["tag"]]
    rest = sample[len(whole_lines) :]
    if header and not rest and not any(line.strip() for line in lines[skip + 1 :]):
        raise RefineError("the file holds a header and no rows; name a log of a finished run")
    return _Layout(delimiter, decimal, names, header, skip + header, _truncated(log, delimiter, len(names)))


def _is_number(field: str, decimal: str) -> bool:
    try:
        float(field.replace(decimal, ".") or "nan")
    except ValueError:
        return False
    return True


def _truncated(log: Log, delimiter: str, width: int) -> int:
    """Length in bytes of a last line that was cut off while it was written, or 0.

    A last line without a newline is cut if fields or a closing quote are missing, or if its last field
    is shorter than that of each of the lines before (and is not a plain 0, which reads the same).
    """
    with open(log.path, "rb") as stream:
        stream.seek(max(0, log.size - _TAIL))
        *before, last = stream.read().replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    if not last.strip():
        return 0
    try:
        text = last.decode("utf-8-sig")
        fields = text.split() if delimiter == " " else next(csv.reader([text], delimiter=delimiter, strict=True))
    except (csv.Error, UnicodeDecodeError):
        return len(last)
    if len(fields) < width:
        return len(last)
    if last.endswith(b'"') or len(before) < 4 or (_is_number(fields[-1], ".") and float(fields[-1] or "nan") == 0.0):
        return 0
    shortest = min(len(line.rsplit(delimiter.encode(), 1)[-1]) for line in before[1:])
    return len(last) if len(fields[-1]) < shortest else 0


FORMAT = Format(
    "csv",
    get="your own script; W&B: chart menu, CSV; TensorBoard: Download CSV (1,000 random points)",
    lost="what it does not say: --optimizer, --norm-kind; W&B charts and TensorBoard sample long runs",
    sniff=lambda log: log.is_text,
    read=read_table,
)

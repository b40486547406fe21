"""Delimited text: CSV, TSV, W&B chart exports; with a header or without."""

from __future__ import annotations

import csv
import io
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..errors import RefineError
from ..files import printable
from ..norms import GradientNorms, NormKind, Source
from ..refinement import OptimizerFamily
from .columns import find, kind_in_name, looks_like_norm, named_optimizer

__all__ = ["read_table"]

_SAMPLE = 65_536
_EMPTY = {"", "na", "n/a", "null", "none", "-"}
_STEP_COVERAGE = 0.95
_NARROW = 64


@dataclass(frozen=True, slots=True)
class _Layout:
    """How the text is laid out: all that the first and last bytes tell."""

    path: Path
    delimiter: str
    decimal: str
    names: list[str]
    header: bool
    skip: int
    cut: int

    @property
    def format(self) -> str:
        if self.header and any(name.endswith("__MIN") for name in self.names):
            return "W&B chart export (CSV)"
        return {"\t": "TSV", ";": "CSV with semicolons"}.get(self.delimiter, "CSV")

    def describe(self, position: int) -> str:
        return printable(self.names[position])

    def listed(self, positions: Iterable[int] | None = None) -> str:
        """Quoted names for a message: those given, else the first dozen."""
        chosen = range(len(self.names))[:12] if positions is None else positions
        return ", ".join(f'"{self.describe(i)}"' for i in chosen)

    def kind(self, position: int) -> NormKind | None:
        """Kind of norm that the name of a column says."""
        if position in find("dual", self.names):
            return "dual"
        return "l1" if position in find("l1", self.names) else kind_in_name(self.names[position])


def read_table(
    path: Path,
    *,
    column: str | None,
    step_column: str | None,
    lr_column: str | None,
    norm_kind: NormKind | None,
    optimizer: OptimizerFamily | None,
    every: int | None,
    logged_steps: int | None,
) -> GradientNorms:
    """Read a delimited text file; see `refine.read_norms`."""
    layout = _sniff(path)
    lr, notes = _choose_lr(layout, lr_column)
    named = named_optimizer(layout.names)
    norm = _choose_norm(layout, column, norm_kind, optimizer or named)
    in_name = layout.kind(norm)
    kind = norm_kind or in_name
    if in_name and kind != in_name:
        notes.append(f'column "{layout.describe(norm)}" is read as an {kind} norm, as given, and called {in_name}')
    if not layout.header and step_column is None and every is None:
        notes.append(f"the file has no header: column 1 is taken for the step, column {norm + 1} for the norm")
    if every is not None and layout.header and (unused := find("step", layout.names)):
        notes.append(f"steps are every {every}, as given, not from {layout.listed(unused[:1])}")
    if named is None and kind in ("l1", "dual") and not find("l2", layout.names):
        named = "adam"  # nobody logs only these for another family
    loss = next((i for i in find("loss", layout.names) if i != norm), None)
    steps = _candidate_steps(layout, step_column, norm, every)
    low = _bucket_minimum(layout, norm)

    wanted = sorted({i for i in (norm, lr, loss, low, *steps) if i is not None})
    # Without a step column a blank line is a row too: it holds the place of its step.
    frame = _load(layout, wanted, skip_blank=every is None)
    values, empty, repeated = _numbers(layout, frame, norm, skip_blank=every is None)
    if not np.isfinite(values).any():
        raise RefineError(
            f'column "{layout.describe(norm)}" holds no finite number in {len(frame)} rows; '
            "choose another with --column"
        )
    step, axis = _choose_steps(layout, frame, steps, np.isfinite(values), repeated)
    if step is not None and len(steps) > 1:
        others = layout.listed(i for i in steps if i != step)
        notes.append(f'steps are from "{layout.describe(step)}", not from {others}: --step-column chooses')
    if low is not None and not np.array_equal(_coerce(frame[low])[~empty], values[~empty], equal_nan=True):
        notes.append("the export is bucketed (__MIN differs from the value): each point is a mean, spikes are lost")
    if layout.format.startswith("W&B") and step is not None and layout.names[step] == "Step":
        notes.append('the x axis "Step" of W&B counts calls of wandb.log: check that it counts optimizer updates')
    extra = {"truncated last line": 1} if layout.cut else {}
    if repeated.any():
        extra["repeated header"] = int(np.count_nonzero(repeated))
    rows = len(frame) + (1 if layout.cut else 0)

    keep = ~repeated
    rates = None if lr is None else _coerce(frame[lr])
    if lr is not None and rates is not None and not np.any(rates > 0.0):
        notes.append(f'learning rates not used: column "{layout.describe(lr)}" holds none above 0')
        lr = rates = None
    columns = {"norm": norm, "step": step, "lr": lr, "loss": loss}
    norms = GradientNorms.from_values(
        values[keep],
        None if axis is None else axis[keep],
        kind=kind or "l2",
        every=every or 1,
        learning_rate=None if rates is None else rates[keep],
        loss=None if loss is None else _coerce(frame[loss])[keep],
        empty=empty[keep],
        logged_steps=logged_steps,
        source=Source(
            name=str(path),
            format=layout.format,
            columns={role: layout.names[i] for role, i in columns.items() if i is not None},
            rows=rows,
            kind_known=kind is not None,
            optimizer=named,
            notes=tuple(notes),
        ),
    )
    return norms.with_dropped(extra)


def _sniff(path: Path) -> _Layout:
    with open(path, "rb") as stream:
        sample = stream.read(_SAMPLE)
    if not sample.strip():
        raise RefineError("the file is empty; name a log with a header and rows, such as step,grad_norm")
    whole_lines = sample[: sample.rfind(b"\n") + 1] or sample  # the last one may have been cut while written
    if b"\0" in whole_lines or sample[:2] == b"\x1f\x8b":
        raise RefineError("the file is binary or UTF-16; refine reads CSV and TSV text in UTF-8: convert it first")
    try:
        text = whole_lines.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RefineError(
            f"byte {error.object[error.start]:#04x} at offset {error.start} is not UTF-8; "
            "convert the file first, for example with iconv -f latin1 -t utf-8"
        ) from None
    if re.match(r'\s*(\{\s*["}]|\[\s*[\[{"\d\]])', text):
        raise RefineError("the file looks like JSON; refine reads CSV and TSV: export the norms as step,grad_norm")
    lines = text.splitlines()
    skip = next((i for i, line in enumerate(lines) if line.strip() and not line.startswith("#")), len(lines))
    if skip == len(lines):
        raise RefineError("the file holds comments only; name a log with a header and rows, such as step,grad_norm")
    head = lines[skip]
    delimiter = max(",;\t", key=re.sub(r'"[^"]*"', "", head).count)  # names may hold any of them
    first = [field.strip() for field in next(csv.reader([head], delimiter=delimiter, skipinitialspace=True))]
    decimal = "," if delimiter == ";" and not any("." in line for line in lines[skip + 1 : skip + 20]) else "."
    header = not all(_is_number(field, decimal) for field in first)
    names = first if header else [str(i + 1) for i in range(len(first))]
    rest = sample[len(whole_lines) :]
    if header and not rest and not any(line.strip() for line in lines[skip + 1 :]):
        raise RefineError("the file holds a header and no rows; name a log of a finished run")
    return _Layout(path, delimiter, decimal, names, header, skip + header, _truncated(path, delimiter, len(names)))


def _is_number(field: str, decimal: str) -> bool:
    try:
        float(field.replace(decimal, ".") or "nan")
    except ValueError:
        return False
    return True


def _truncated(path: Path, delimiter: str, width: int) -> int:
    """Length in bytes of a last line that was cut off while it was written, or 0.

    A last line without a newline is cut if fields or a closing quote are missing, or if its last field
    is shorter than that of each of the lines before (and is not a plain 0, which reads the same).
    """
    with open(path, "rb") as stream:
        stream.seek(0, io.SEEK_END)
        stream.seek(max(0, stream.tell() - _SAMPLE))
        *before, last = stream.read().replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    if not last.strip():
        return 0
    try:
        fields = next(csv.reader([last.decode("utf-8-sig")], delimiter=delimiter, strict=True))
    except (csv.Error, UnicodeDecodeError):
        return len(last)
    if len(fields) < width:
        return len(last)
    if last.endswith(b'"') or len(before) < 4 or (_is_number(fields[-1], ".") and float(fields[-1] or "nan") == 0.0):
        return 0
    shortest = min(len(line.rsplit(delimiter.encode(), 1)[-1]) for line in before[1:])
    return len(last) if len(fields[-1]) < shortest else 0


def _choose_lr(layout: _Layout, lr_column: str | None) -> tuple[int | None, list[str]]:
    if lr_column is not None:
        return _by_name(layout, lr_column, "--lr-column"), []
    found = find("lr", layout.names)
    if len(found) > 1:
        listed = layout.listed(found)
        return None, [f"learning rates not used: {len(found)} columns ({listed}); choose one with --lr-column"]
    return (found[0] if found else None), []


def _choose_norm(
    layout: _Layout, column: str | None, norm_kind: NormKind | None, optimizer: OptimizerFamily | None
) -> int:
    """Position of the norm column."""
    if column is not None:
        return _by_name(layout, column, "--column")
    if not layout.header:
        if len(layout.names) > 2:
            raise RefineError(
                f"the file has no header and {len(layout.names)} columns; "
                "say which holds the norm and which the step with --column and --step-column (numbers from 1)"
            )
        return len(layout.names) - 1
    l2, l1, dual = ("l2 before clipping", "l2"), ("l1",), ("dual",)
    preference = {"l2": l2, "l1": l1, "dual": dual, "sgd": l2 + l1 + dual, "adam": dual + l1 + l2}
    roles = preference[norm_kind or optimizer or "adam"]
    candidates = next(filter(None, (find(role, layout.names) for role in roles)), [])
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        raise RefineError(
            f"{len(candidates)} columns may be the gradient norm: {layout.listed(candidates)}; choose one with --column"
        )
    others = [i for i, name in enumerate(layout.names) if looks_like_norm(name)]
    wanted = "a gradient norm" + (f" of kind {norm_kind}" if norm_kind else "")
    raise RefineError(
        f"no column is known to be {wanted}; "
        f"{'candidates' if others else 'columns'}: {layout.listed(others or None)}; "
        + ("is the file separated by spaces?" if len(layout.names) == 1 else "choose one with --column")
    )


def _by_name(layout: _Layout, name: str, option: str) -> int:
    found = [i for i, candidate in enumerate(layout.names) if candidate == name]
    if len(found) == 1:
        return found[0]
    problem = "several columns are" if found else "no column is"
    raise RefineError(f'{problem} called "{printable(name)}" ({option}); columns: {layout.listed()}')


def _candidate_steps(layout: _Layout, step_column: str | None, norm: int, every: int | None) -> list[int]:
    if every is not None and step_column is not None:
        raise RefineError("--every and --step-column exclude each other; --every is for logs without a step column")
    if step_column is not None:
        return [_by_name(layout, step_column, "--step-column")]
    if every is not None:
        return []
    found = find("step", layout.names) if layout.header else [0]
    candidates = [i for i in found if i != norm]
    if candidates:
        return candidates
    raise RefineError(
        f"no column is known to count optimizer steps; columns: {layout.listed()}; "
        "choose one with --step-column, or say with --every K how many updates lie between two rows"
    )


def _bucket_minimum(layout: _Layout, norm: int) -> int | None:
    name = layout.names[norm] + "__MIN"
    return layout.names.index(name) if name in layout.names else None


def _load(layout: _Layout, columns: Sequence[int], *, skip_blank: bool, **options: Any) -> pd.DataFrame:
    """Columns by position, for all rows below the first line.

    pandas checks the number of fields of every row only where it loads all columns.
    """
    source = io.BytesIO(layout.path.read_bytes()[: -layout.cut]) if layout.cut else layout.path
    width = len(layout.names)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame: pd.DataFrame = pd.read_csv(
                source,
                sep=layout.delimiter,
                decimal=layout.decimal,
                header=None,
                names=list(range(width)),
                usecols=list(columns) if width > _NARROW else None,
                index_col=False,
                skiprows=layout.skip,
                skipinitialspace=True,
                skip_blank_lines=skip_blank,
                low_memory=False,
                compression=None,
                **options,
            )
    except pd.errors.EmptyDataError:
        raise RefineError("the file holds a header and no rows; name a log of a finished run") from None
    except pd.errors.ParserWarning:
        raise RefineError(
            f"the first row has more than the {width} fields of the first line; repair the file"
        ) from None
    except pd.errors.ParserError as error:
        detail = printable(str(error).removeprefix("Error tokenizing data. C error: ").strip())
        raise RefineError(f"the rows do not fit the first line ({detail}); repair the file") from None
    except UnicodeDecodeError as error:
        raise RefineError(f"{error.object[error.start]:#04x} is not UTF-8; convert the file to UTF-8 first") from None
    return frame[list(columns)]


def _numbers(
    layout: _Layout, frame: pd.DataFrame, column: int, *, skip_blank: bool
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
    """Norms, rows without any, and rows that repeat the header; text is refused."""
    series = frame[column]
    none = np.zeros(len(series), dtype=bool)
    if series.dtype.kind in "iuf":
        values = series.to_numpy(np.float64)
        if not np.isnan(values).any():
            return values, none, none
    texts = [
        text.strip()
        for text in _load(layout, [column], skip_blank=skip_blank, dtype=str, na_filter=False)[column].tolist()
    ]
    values = np.full(len(texts), np.nan)
    empty, repeated = none.copy(), none.copy()
    for row, text in enumerate(texts):
        try:
            values[row] = float(text.replace(layout.decimal, "."))
        except ValueError:
            empty[row] = text.lower() in _EMPTY
            repeated[row] = layout.header and text == layout.names[column]
            if not empty[row] and not repeated[row]:
                raise RefineError(
                    f'column "{layout.describe(column)}" holds "{printable(text, limit=40)}" in row {row + 1} '
                    "below the first line; norms are numbers: repair the row, or choose another column with --column"
                ) from None
    return values, empty, repeated


def _choose_steps(
    layout: _Layout,
    frame: pd.DataFrame,
    candidates: Sequence[int],
    has_norm: NDArray[np.bool_],
    repeated: NDArray[np.bool_],
) -> tuple[int | None, NDArray[np.float64] | None]:
    """First candidate that is there in nearly all rows with a norm, else the fullest."""
    fullest, best = 0.0, None
    for position in candidates:
        axis = _coerce(frame[position])
        wrong = np.flatnonzero(np.isnan(axis) & frame[position].notna().to_numpy() & ~repeated)
        if wrong.size:
            text = printable(frame[position].iloc[wrong[0]], limit=40)
            raise RefineError(
                f'step column "{layout.describe(position)}" holds "{text}" in row {wrong[0] + 1} below the first line; '
                "steps are integers: choose another with --step-column"
            )
        share = float(np.mean(np.isfinite(axis[has_norm])))
        if share > fullest:
            fullest, best = share, (position, axis)
        if share >= _STEP_COVERAGE:
            break
    if not candidates:
        return None, None
    if best is None or fullest <= 0.5:
        raise RefineError(
            f'step column "{layout.describe(candidates[0])}" is empty in most rows that hold a norm; '
            "choose another with --step-column"
        )
    return best


def _coerce(series: pd.Series[Any]) -> NDArray[np.float64]:
    return np.asarray(pd.to_numeric(series, errors="coerce"), dtype=np.float64)

"""`Schedule`: the immutable multipliers of a run, one per optimizer update."""

from __future__ import annotations

import contextlib
import json
import operator
import os
import re
import stat
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any, TextIO, overload

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from .digits import csv_rows, json_rows
from .errors import RefineError
from .files import printable, write_files

__all__ = [
    "FORMAT_VERSION",
    "MAX_STEPS",
    "Schedule",
    "check_array",
    "check_count",
    "is_schedule",
    "metadata_path",
    "schedule_file",
]

FORMAT_VERSION = 1
MAX_STEPS = 50_000_000
"""More are taken for samples or tokens, not updates."""

MAX_PROVENANCE = 16 * 2**20
"""Characters of a provenance as JSON."""

_MOST_PER_STEP = 40
_MOST_BESIDE = 64 * 2**20
_MOST_PARTS = 2_000_000
_MOST_BYTES = _MOST_BESIDE + _MOST_PER_STEP * MAX_STEPS
"""What `Schedule.save` may write: bytes for an update; bytes, texts, lists and objects beside the multipliers."""

_TOO_MANY = f"more than {MAX_STEPS} multipliers: they are not of optimizer updates, but of samples or tokens"
_DEEPEST = 400
_BLOCK = 2**22
_FORMAT = "refine-schedule"
_RECOMMENDED, _ALONE = "recommended.json", "schedule.json"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Schedule:
    """A learning-rate schedule: ``multiplier[t]`` scales the base learning rate at update t.

    ``learning rate at update t = base (peak) learning rate * multiplier[t]``, t = 0 .. T - 1. An
    update is one step of the optimizer: not a micro-batch, not an epoch. Past the end the last
    multiplier holds.

    Parameters
    ----------
    multiplier : array_like, shape (T,)
        Finite, >= 0, maximum exactly 1. Copied, float64, read-only. `from_rates` scales any rates.
    provenance : mapping
        Where it came from and what was assumed; JSON values, at most 16 MiB of them. Not part of equality.

    Examples
    --------
    >>> schedule = Schedule([0.5, 1.0, 0.5, 0.25])
    >>> schedule
    Schedule(total_steps=4, first=0.5, peak=1 at update 1, last=0.25)
    >>> schedule.at(1), schedule.at(99)
    (1.0, 0.25)
    """

    multiplier: NDArray[np.float64]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        multiplier = check_array("multiplier", self.multiplier) + 0.0  # a copy, without -0.0
        if multiplier.ndim != 1 or multiplier.size == 0:
            raise RefineError(f"multiplier has shape {multiplier.shape}; it must be (T,), one per update, T >= 1")
        if not (multiplier.min() >= 0.0 and multiplier.max() == 1.0):  # then all are finite
            bad = np.flatnonzero(~(np.isfinite(multiplier) & (multiplier >= 0.0)))
            if bad.size:
                raise RefineError(
                    f"multiplier[{bad[0]}] is {multiplier[bad[0]]}; multipliers must be finite and >= 0: "
                    "correct that value"
                )
            raise RefineError(
                f"the largest multiplier is {float(multiplier.max())!r}; it must be 1: "
                "Schedule.from_rates divides by it"
            )
        try:
            text = json.dumps(dict(self.provenance), allow_nan=False)
            provenance = json.loads(text)
        except (TypeError, ValueError, RecursionError) as error:
            raise RefineError(f"provenance must hold JSON values only: {printable(error)}") from None
        if len(text) > MAX_PROVENANCE or _is_deep(provenance):
            raise RefineError(
                f"provenance holds {len(text):,} characters of JSON; at most {MAX_PROVENANCE:,} are taken, nested no "
                f"more than {_DEEPEST} deep: keep the rest in a file of its own"
            )
        multiplier.flags.writeable = False
        object.__setattr__(self, "multiplier", multiplier)
        object.__setattr__(self, "provenance", MappingProxyType(provenance))

    @classmethod
    def from_rates(cls, rates: npt.ArrayLike, provenance: Mapping[str, Any] | None = None) -> Schedule:
        """Schedule with the shape of any learning rates: they are divided by their largest.

        Examples
        --------
        >>> Schedule.from_rates([1e-3, 2e-3, 1e-3]).multiplier.tolist()
        [0.5, 1.0, 0.5]
        """
        array = check_array("rates", rates)
        peak = array.max(initial=0.0)
        if not (np.isfinite(peak) and peak > 0.0):
            raise RefineError(f"the largest rate is {peak}; it must be finite and positive")
        return cls(array / peak, provenance or {})

    @property
    def total_steps(self) -> int:
        """Number of updates T, the horizon."""
        return int(self.multiplier.size)

    @property
    def end(self) -> float:
        """Value at the end of the fraction axis, 1: the last segment continued, within [0, 1].

        Examples
        --------
        >>> Schedule([1.0, 0.75, 0.5, 0.25]).end, Schedule([1.0, 1.0]).end
        (0.0, 1.0)
        """
        h = self.multiplier
        return float(np.clip(2.0 * h[-1] - h[-2], 0.0, 1.0)) if h.size > 1 else float(h[-1])

    def __len__(self) -> int:
        return self.total_steps

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Schedule):
            return NotImplemented
        return np.array_equal(self.multiplier, other.multiplier)

    def __hash__(self) -> int:
        return hash(self.multiplier.tobytes())

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        """Multipliers, for numpy: a read-only view, unless a copy or another dtype is asked for."""
        wanted = np.dtype(np.float64 if dtype is None else dtype)
        if wanted != self.multiplier.dtype:
            if copy is False:
                raise RefineError(f"dtype is {wanted} and multipliers are float64; that needs a copy: drop copy=False")
            return self.multiplier.astype(wanted)
        return self.multiplier.copy() if copy else self.multiplier.view()

    def __reduce__(self) -> tuple[type[Schedule], tuple[NDArray[np.float64], dict[str, Any]]]:
        return Schedule, (self.multiplier, dict(self.provenance))

    def __repr__(self) -> str:
        first, last = self.multiplier[0], self.multiplier[-1]
        return (
            f"Schedule(total_steps={self.total_steps}, first={first:.6g}, "
            f"peak=1 at update {int(np.argmax(self.multiplier))}, last={last:.6g})"
        )

    @overload
    def at(self, step: int) -> float: ...
    @overload
    def at(self, step: npt.ArrayLike) -> float | NDArray[np.float64]: ...
    def at(self, step: npt.ArrayLike) -> float | NDArray[np.float64]:
        """Multiplier of update ``step``, counted from 0; past the end the last one holds.

        Parameters
        ----------
        step : int or array_like of int
            >= 0.

        Returns
        -------
        float, or ndarray of the shape of ``step``
        """
        steps = np.asarray(step)
        if steps.dtype.kind not in "iu" or (steps.size and steps.min() < 0):
            raise RefineError(f"step is {printable(step)}; steps are integers, counted from 0")
        values = self.multiplier[np.minimum(steps, self.total_steps - 1, dtype=np.int64)]
        return float(values) if steps.ndim == 0 else values

    def resample(self, total_steps: int) -> Schedule:
        """Stretch or shrink the same shape to another horizon.

        Linear interpolation over the fraction of training, update t standing at t / T; the value at
        1 continues the last segment (`end`). Linear decay and constant schedules come out
        exact. A warmup shrinks with the rest.

        Examples
        --------
        >>> Schedule([1.0, 0.5]).resample(4).multiplier.tolist()
        [1.0, 0.75, 0.5, 0.25]
        """
        total_steps = check_count("total_steps", total_steps, least=1)
        if total_steps == self.total_steps:
            return self
        position = np.arange(total_steps) * (self.total_steps / total_steps)
        rates = np.interp(position, np.arange(self.total_steps + 1), np.append(self.multiplier, self.end))
        if not np.any(rates > 0.0):  # so few updates that all fall where the schedule is 0
            rates = np.ones(total_steps)
        resampled_from = self.provenance.get("resampled_from", self.total_steps)
        return Schedule.from_rates(rates, {**self.provenance, "resampled_from": resampled_from})

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> Path:
        """Write ``.json`` or ``.csv`` (by the suffix), whole or not at all; floats read back exactly.

        The CSV is two bare columns, ``step,multiplier``, that anything reads. What it has no place for,
        provenance and format version, is beside it in ``<name>.csv-metadata.json`` (W3C, *Model for
        Tabular Data and Metadata on the Web*).
        """
        path = Path(path)
        write_files(self.contents(path), force=force)
        return path

    def contents(self, path: Path) -> dict[Path, Iterator[str]]:
        """Return the text of the files that `save` writes, in pieces."""
        if path.suffix == ".csv":
            return {path: self._csv(), metadata_path(path): self._metadata(path.name)}
        if path.suffix == ".json":
            return {path: self._json()}
        raise RefineError(f"a schedule is saved as .csv or .json, not {printable(path.suffix)!r}: change the suffix")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Schedule:
        """Read a schedule that `save` wrote, or any ``step,multiplier`` CSV.

        A folder of `refine.emit` stands for its schedule, that of a result for the default one (`schedule_file`).

        A file is opened like a log: it may be compressed, or a named pipe that somebody writes to.

        Raises
        ------
        RefineError
            Missing file, other format, newer format version, multipliers that are not a schedule, or more than
            `MAX_STEPS` of them.
        """
        return _resolved(path)[1]

    @classmethod
    def _load(cls, path: Path) -> Schedule:
        try:
            with _opened(path, _MOST_BYTES) as text:
                is_json = text.read(2**16).lstrip()[:1] == "{"
                text.seek(0)
                if is_json:
                    return cls(*_parse_json(text))
                multiplier = _parse_rows(text)
            return cls(multiplier, _parse_metadata(metadata_path(path), len(multiplier)))
        except _CannotRead as error:
            raise RefineError(str(error)) from None
        except (ValueError, RecursionError, OverflowError) as error:  # RefineError is a ValueError
            raise RefineError(f"{printable(path)} is not a schedule: {printable(error, limit=400)}") from None

    def _header(self) -> dict[str, Any]:
        return {
            "format_version": FORMAT_VERSION,
            "total_steps": self.total_steps,
            "provenance": dict(self.provenance),
        }

    def _csv(self) -> Iterator[str]:
        yield "step,multiplier\n"
        yield from csv_rows(self.multiplier)

    def _metadata(self, name: str) -> Iterator[str]:
        columns = [{"name": "step", "datatype": "integer"}, {"name": "multiplier", "datatype": "double"}]
        about = {"format": _FORMAT, **self._header()}
        table = {"@context": "http://www.w3.org/ns/csvw", "url": name, "tableSchema": {"columns": columns}}
        yield json.dumps({**table, "dc:provenance": about}, indent=1) + "\n"

    def _json(self) -> Iterator[str]:
        yield json.dumps({"format": _FORMAT, **self._header()}, indent=1).removesuffix("\n}")
        yield ',\n "multiplier": [\n'
        yield from json_rows(self.multiplier)
        yield "\n ]\n}\n"


def check_array(name: str, values: npt.ArrayLike) -> NDArray[np.float64]:
    """Return the values as float64, or raise: numbers only."""
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise RefineError(f"{name} is not an array of numbers: {printable(error)}") from None


def check_count(name: str, value: object, *, least: int) -> int:
    """Return ``value`` as an int, or raise: a count of updates is an integer from ``least`` to `MAX_STEPS`.

    Examples
    --------
    >>> check_count("total_steps", 10, least=1)
    10
    """
    try:
        count = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        count = least - 1
    if count < least or isinstance(value, bool):
        raise RefineError(f"{name} is {printable(repr(value))}; it must be an integer >= {least}, counted in updates")
    if count > MAX_STEPS:
        raise RefineError(f"{name} is {count}; more than {MAX_STEPS} are not optimizer updates, but samples or tokens")
    return count


def _is_deep(value: Any) -> bool:
    """Whether a JSON value is nested deeper than a header may be; the encoders of Python give up further down."""
    level = [value]
    for _ in range(_DEEPEST):
        nodes = (node.values() if isinstance(node, dict) else node for node in level if isinstance(node, (dict, list)))
        level = [child for children in nodes for child in children]
    return bool(level)


def _check_header(header: Any, length: int) -> dict[str, Any]:
    if not isinstance(header, dict) or not isinstance(header.get("provenance", {}), dict):
        raise RefineError("its header is damaged; write it again with refine")
    version, steps = header.get("format_version"), header.get("total_steps")
    if not isinstance(version, int) or isinstance(version, bool) or not 1 <= version <= FORMAT_VERSION:
        raise RefineError(
            f"its format version is {printable(repr(version), limit=60)}, this refine reads up to {FORMAT_VERSION}; "
            "upgrade lr-refine"
        )
    if isinstance(steps, bool) or steps != length:
        raise RefineError(
            f"it announces {printable(repr(steps), limit=60)} updates and holds {length}; the file is incomplete"
        )
    return dict(header.get("provenance", {}))


def _parse_json(stream: TextIO) -> tuple[NDArray[np.float64], dict[str, Any]]:
    data = _json(stream)
    if data.get("format") != _FORMAT or not isinstance(data.get("multiplier"), list):
        raise RefineError(f'it lacks "format": "{_FORMAT}" or the list "multiplier"')
    values = data["multiplier"]
    if not all(type(v) in (int, float) for v in values):
        raise RefineError('the list "multiplier" must hold numbers only')
    if len(values) > MAX_STEPS:
        raise RefineError(f"it holds {_TOO_MANY}")
    return np.array(values, dtype=np.float64), _check_header(data, len(values))


def _json(stream: TextIO) -> dict[str, Any]:
    """The JSON object in a file of a schedule; counted first, as a small text can unfold to much memory."""
    size = commas = parts = 0
    while block := stream.read(_BLOCK):
        size += len(block)
        commas += block.count(",")
        parts += sum(map(block.count, '"[{'))
        if parts > _MOST_PARTS or commas > MAX_STEPS + _MOST_PARTS:
            break
    if commas > MAX_STEPS + _MOST_PARTS:
        raise RefineError(f"it holds {_TOO_MANY}")
    if parts > _MOST_PARTS or size > _MOST_BESIDE + _MOST_PER_STEP * (commas + 1):
        raise RefineError(
            f"it holds more than {_MOST_BESIDE >> 20} MiB, or {_MOST_PARTS:,} texts and lists, beside its multipliers; "
            "write it again with refine"
        )
    stream.seek(0)
    try:
        data = json.load(stream)
    except UnicodeDecodeError:
        raise
    except (ValueError, RecursionError) as error:
        raise RefineError(
            f"the JSON is damaged or a log ({printable(error)}); of a log refine fit makes a schedule"
        ) from None
    if not isinstance(data, dict):
        raise RefineError(f"the JSON is no object, but a {type(data).__name__}; write it again with refine")
    return data


def _parse_rows(stream: TextIO) -> NDArray[np.float64]:
    """Multipliers of a CSV, some thousand rows at a time: what is none is told by its beginning."""
    if stream.readline(100).strip() != "step,multiplier":
        raise RefineError("its first line must be step,multiplier; of a log refine fit makes a schedule")
    parts, done, rest = [np.empty(0)], 0, ""
    for block in chain(iter(partial(stream.read, _BLOCK), ""), ("\n",)):
        whole, _, rest = (rest + block).rpartition("\n")
        whole = re.sub(r"\n\n+", "\n", whole).strip("\n")
        try:
            if len(rest) > _BLOCK:
                raise RefineError("a line is too long")
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*input contained no data")  # comments only
                table = np.loadtxt(whole.split("\n"), delimiter=",", ndmin=2) if whole else np.empty((0, 2))
        except ValueError as error:
            where = f", counted from row {done}" if done else ""
            raise RefineError(
                f"its rows must be step,multiplier ({printable(error, limit=160).rstrip('.')}{where})"
            ) from None
        steps = np.arange(done, done + len(table))
        if table.shape[1] != 2 or not np.array_equal(table[:, 0], steps):
            raise RefineError("its rows must be step,multiplier with the steps 0, 1, 2, ... in order")
        parts.append(table[:, 1])
        done += len(table)
        if done > MAX_STEPS:
            raise RefineError(f"it holds {_TOO_MANY}")
    return np.concatenate(parts)


def _parse_metadata(path: Path, length: int) -> dict[str, Any]:
    """Provenance in the file beside a CSV; none where there is no file, or one without a word of refine in it."""
    if not os.path.lexists(path):
        return {}
    with _opened(path, _MOST_BESIDE) as stream:
        try:
            about = _json(stream).get("dc:provenance")
            return {} if about is None else _check_header(about, length)
        except RefineError as error:
            raise RefineError(f"{printable(path.name)} beside it: {error}") from None


class _CannotRead(RefineError):
    """Of a file that cannot be opened; the message names it."""


@contextlib.contextmanager
def _opened(path: Path, most: int) -> Iterator[TextIO]:
    """Text of a file, opened like a log: no device, no pipe that nobody writes to, unpacked, at most so many bytes."""
    try:
        with contextlib.ExitStack() as stack:
            place = path if _is_plain(path) else _unpacked(stack, path, most)
            if (size := place.stat().st_size) > most:
                raise _CannotRead(
                    f"{printable(path)} holds {size / 2**20:,.0f} MiB and {most / 2**20:,.0f} MiB is the limit; "
                    "a schedule is a .csv or .json file that refine wrote"
                )
            yield stack.enter_context(open(place, encoding="utf-8-sig"))
    except OSError as error:
        raise _CannotRead(f"cannot read {printable(path)}: {error.strerror or error}; check the path") from None
    except UnicodeDecodeError:
        raise _CannotRead(
            f"{printable(path)} is not UTF-8 text; a schedule is a .csv or .json file that refine wrote"
        ) from None


def _is_plain(path: Path) -> bool:
    """Whether a path is that of a regular file that begins as `Schedule.save` begins one."""
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(21, "Is a directory")
    if not stat.S_ISREG(mode):
        return False
    with open(path, "rb") as stream:
        return stream.read(1) in (b"{", b"s")


def _unpacked(stack: contextlib.ExitStack, path: Path, most: int) -> Path:
    from .readers.opening import opened  # with all readers and pandas: not for the plain file of a training script

    try:
        return stack.enter_context(opened(os.fspath(path), most=most)).path
    except RefineError as error:
        named = str(error) if printable(path) in str(error) else f"cannot read {printable(path)}: {error}"
        raise _CannotRead(named) from None


def schedule_file(path: str | os.PathLike[str]) -> Path:
    """The file that a folder of `refine.emit` stands for; any other path as it is.

    Of a result that is ``recommended.json``, or ``refined.json`` where the provenance says ``"default": "refined"``.
    """
    return _resolved(path)[0] if os.path.isdir(path) else Path(path)


def _resolved(path: str | os.PathLike[str]) -> tuple[Path, Schedule]:
    """The file that a path stands for, and the schedule in it."""
    folder = Path(path)
    if not folder.is_dir():
        return folder, Schedule._load(folder)
    held = [name for name in (_RECOMMENDED, _ALONE) if os.path.lexists(folder / name)]
    if len(held) != 1:
        what = "two results, recommended.json and schedule.json" if held else "no result of refine"
        raise RefineError(f"{printable(folder)} holds {what}; name the .json or .csv file of a schedule")
    file = folder / held[0]
    schedule = Schedule._load(file)
    if held == [_RECOMMENDED] and schedule.provenance.get("default") == "refined":
        file = folder / "refined.json"
        schedule = Schedule._load(file)
    return file, schedule


def is_schedule(path: str | os.PathLike[str]) -> bool:
    """Whether a file, compressed or not, begins like one that `Schedule.save` wrote; or a folder holds one."""
    path = Path(path)
    if path.is_dir():
        return any(is_schedule(path / name) for name in (_RECOMMENDED, _ALONE) if not (path / name).is_dir())
    if not path.is_file():  # a pipe gives its first bytes once
        return False
    try:
        if _is_plain(path):
            with open(path, "rb") as stream:
                head = stream.read(4096)
        else:
            from .readers.opening import first_bytes

            head = first_bytes(path, 4096)
    except (OSError, ValueError):
        return False
    head = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    return head.startswith((b"step,multiplier\n", b"step,multiplier\r\n")) or (
        head.startswith(b"{") and re.search(rb'"format"\s*:\s*"refine-schedule"', head) is not None
    )


def metadata_path(path: Path) -> Path:
    """Where the provenance of a CSV is.

    Examples
    --------
    >>> str(metadata_path(Path("a/schedule.csv")))
    'a/schedule.csv-metadata.json'
    """
    return path.with_name(path.name + "-metadata.json")

"""`Schedule`: the immutable multipliers of a run, one per optimizer update."""

from __future__ import annotations

import json
import operator
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, overload

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
        Where it came from and what was assumed; JSON values. Not part of equality.

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
            provenance = json.loads(json.dumps(dict(self.provenance), allow_nan=False))
        except (TypeError, ValueError) as error:
            raise RefineError(f"provenance must hold JSON values only: {printable(error)}") from None
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

        Raises
        ------
        RefineError
            Missing file, other format, newer format version, or multipliers that are not a schedule.
        """
        return _resolved(path)[1]

    @classmethod
    def _load(cls, path: Path) -> Schedule:
        text = _read(path)
        try:
            if text.lstrip()[:1] == "{":
                return cls(*_parse_json(text))
            beside = metadata_path(path)
            return cls(*_parse_csv(text, _read(beside) if beside.is_file() else None))
        except (ValueError, RecursionError, OverflowError) as error:  # RefineError is a ValueError
            raise RefineError(f"{printable(path)} is not a schedule: {printable(error)}") from None

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


def _check_header(header: Any, length: int) -> dict[str, Any]:
    if not isinstance(header, dict) or not isinstance(header.get("provenance", {}), dict):
        raise RefineError("its header is damaged; write it again with refine")
    version = header.get("format_version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise RefineError(
            f"its format version is {version!r}, this refine reads up to {FORMAT_VERSION}; upgrade lr-refine"
        )
    if header.get("total_steps") != length:
        raise RefineError(
            f"it announces {header.get('total_steps')!r} updates and holds {length}; the file is incomplete"
        )
    return dict(header.get("provenance", {}))


def _parse_json(text: str) -> tuple[NDArray[np.float64], dict[str, Any]]:
    try:
        data = json.loads(text)
    except ValueError as error:
        raise RefineError(f"the JSON is damaged or a log ({error}); of a log refine fit makes a schedule") from None
    if data.get("format") != _FORMAT or not isinstance(data.get("multiplier"), list):
        raise RefineError(f'it lacks "format": "{_FORMAT}" or the list "multiplier"')
    values = data["multiplier"]
    if not all(isinstance(v, (int, float)) for v in values):
        raise RefineError('the list "multiplier" must hold numbers only')
    return np.array(values, dtype=np.float64), _check_header(data, len(values))


def _parse_csv(text: str, metadata: str | None) -> tuple[NDArray[np.float64], dict[str, Any]]:
    columns, _, body = text.partition("\n")
    if columns.strip() != "step,multiplier":
        raise RefineError("its first line must be step,multiplier; of a log refine fit makes a schedule")
    table = np.loadtxt(body.splitlines(), delimiter=",", ndmin=2) if body.strip() else np.empty((0, 2))
    if table.shape[1:] != (2,) or not np.array_equal(table[:, 0], np.arange(len(table))):
        raise RefineError("its rows must be step,multiplier with the steps 0, 1, 2, ... in order")
    about = None if metadata is None else json.loads(metadata).get("dc:provenance")
    return table[:, 1].copy(), {} if about is None else _check_header(about, len(table))


def _read(path: str | os.PathLike[str]) -> str:
    try:
        with open(path, encoding="utf-8-sig") as stream:
            return stream.read()
    except OSError as error:
        raise RefineError(f"cannot read {printable(path)}: {error.strerror}; check the path") from None
    except UnicodeDecodeError:
        raise RefineError(
            f"{printable(path)} is not UTF-8 text; a schedule is a .csv or .json file that refine wrote"
        ) from None


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
    held = [name for name in (_RECOMMENDED, _ALONE) if (folder / name).exists()]
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
    """Whether a file looks like one that `Schedule.save` wrote, by its first bytes; or a folder holds one."""
    path = Path(path)
    if path.is_dir():
        return any((path / name).is_file() and is_schedule(path / name) for name in (_RECOMMENDED, _ALONE))
    try:
        with open(path, "rb") as stream:
            head = stream.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    except (OSError, ValueError):
        return False
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

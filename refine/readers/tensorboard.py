"""TensorBoard event files, and folders of them: torch, tensorboardX, TF2, and all trainers that log through these.

The norm is whatever the trainer logs, of one step and before clipping in nearly all; names tell some of them
(`runs.facts_of`). Every point is read, where TensorBoard itself keeps 10,000 and its download 1,000. A resumed run adds
a file to the folder: its points come later and so win, or first purge what they replace (SessionLog START). Values are
float32. A file is read up to its first damaged record, TensorBoard stops there without a word.

Where no norm is logged, histograms of gradients (``add_histogram``) give that of each tensor: they hold its sum of
squares. TF2 has no such sum.
"""

from __future__ import annotations

import contextlib
import math
import re
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import RefineError
from ..files import printable
from .base import Format, ReadOptions, Records, planned
from .json_text import parse
from .long import Series
from .opening import Log
from .runs import choose_with_norm, facts_of, is_norm
from .settings import pick
from .tfrecord import OVERHEAD, DamagedRecord, records

__all__ = ["FORMAT"]

_TENSORS = {1: ("<f", "float_val"), 2: ("<d", "double_val"), 3: ("<i", "int_val"), 9: ("<q", "int64_val")}
_TEXTS = ("args/text_summary", "model_config/text_summary")  # of transformers: JSON
_LONGEST_TEXT = 2**20
_START = 1


def _sniff(log: Log) -> bool:
    if log.is_dir:
        return bool(log.files("*tfevents*"))
    return b"brain.Event:" in log.sample[:64] or ("tfevents" in log.name and not log.is_text)


def _read(log: Log, options: ReadOptions) -> Records:
    files = log.files("*tfevents*") if log.is_dir else [log.path]
    run = None
    if log.is_dir:
        by_run: dict[str, list[Path]] = {}
        for path in files:
            by_run.setdefault(path.parent.relative_to(log.path).as_posix(), []).append(path)
        run = choose_with_norm(by_run, lambda name: _holds_norm(by_run[name], options), options.run)
        files = by_run[run]
        log.size = sum(path.stat().st_size for path in files)
    reader, done = _Reader(options), 0
    for path in files:
        reader.file(path, partial(_report, log, done))
        done += path.stat().st_size
    return reader.records(run)


def _report(log: Log, before: int, done: int) -> None:
    log.report(before + done)


class _Reader:
    """Collects the events of one run, file after file."""

    def __init__(self, options: ReadOptions) -> None:
        self.series = Series(options)
        self.settings: dict[str, Any] = {}
        self.dropped: Counter[str] = Counter()
        self.notes: list[str] = []
        self._histograms: dict[str, str] = {}
        self._has_norm = False
        self._roles: dict[str, str] = {}

    def file(self, path: Path, report: Callable[[int], None]) -> None:
        """Read a file as far as it is whole."""
        try:
            for event in _events(path, report):
                for value in event.summary.value:
                    role = self._roles.get(value.tag) or self._role(value)
                    if role != "-":
                        self._add(role, event.step, value)
                if event.HasField("session_log") and event.session_log.status == _START:
                    self.dropped["purged by a restart"] += self.series.purge(event.step)
        except DamagedRecord as damage:
            reason = "truncated last record" if damage.truncated else "damaged records"
            self.dropped[reason] += 1
            self.notes.append(f"{printable(path.name)}: its last {damage.lost:,} bytes are lost ({reason})")

    def _role(self, value: Any) -> str:
        """What a tag is: "scalar", "histogram", "text", or "-" for all that is of no use."""
        tag, what = value.tag, value.WhichOneof("value")
        role = "-"
        if tag in _TEXTS:
            role = "text"
        elif what == "histo" and "grad" in tag.lower():
            role = "histogram"
        elif tag.endswith(" vs samples"):  # of Megatron: its steps are samples
            role = "-"
        elif (what == "simple_value" or value.metadata.plugin_data.plugin_name == "scalars") and self.series.wants(tag):
            role = "scalar"
            self._has_norm |= is_norm(tag, self.series.options)
        self._roles[tag] = role
        return role

    def _add(self, role: str, step: int, value: Any) -> None:
        if role == "scalar":
            plain = value.HasField("simple_value")
            self.series.add(value.tag, step, value.simple_value if plain else _scalar(value.tensor))
        elif role == "histogram" and not self._has_norm:
            name = self._histograms.setdefault(value.tag, f"gradient_norms/{value.tag}")  # l2 of a layer, by name
            self.series.add(name, step, math.sqrt(max(value.histo.sum_squares, 0.0)))
        elif role == "text":
            self.settings = {**_json(value.tensor.string_val), **self.settings}

    def records(self, run: str | None) -> Records:
        """All that was collected; histograms only where no norm was logged."""
        series, settings = self.series, self.settings
        facts = facts_of(series.names)
        if version := re.match(r"(\d+)\.(\d+)", str(settings.get("transformers_version"))):
            used = (int(version[1]), int(version[2])) >= (4, 51)
            facts = replace(facts, clipping="pre", lr_alignment="this_step" if used else "next_step")
        if self._histograms and not self._has_norm:
            self.notes.append("norms are from histograms of gradients, whose sums of squares are exact")
        found = series.records(
            "TensorBoard events",
            facts,
            settings=pick(settings),
            planned_steps=planned(settings.get("max_steps")),
            dropped=+self.dropped,
            notes=tuple(self.notes),
            missing="" if series.names else "the files hold no scalars; choose others",
            run=run,
        )
        useless = set(self._histograms.values()) if self._has_norm else set()
        return replace(found, columns=[column for column in found.columns if column.name not in useless])


def _events(path: Path, report: Callable[[int], None]) -> Iterator[Any]:
    try:
        from tensorboard.compat.proto.event_pb2 import Event
    except ImportError:
        raise RefineError("TensorBoard event files need tensorboard: pip install tensorboard") from None
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    left = path.stat().st_size
    for data in records(path, report):
        try:
            yield Event.FromString(data)
        except DecodeError:
            raise DamagedRecord(left) from None
        left -= len(data) + OVERHEAD


def _holds_norm(files: list[Path], options: ReadOptions) -> bool:
    """Whether any event of a run is about a norm; looks no further than the first."""
    seen: dict[str, bool] = {}
    for path in files:
        with contextlib.suppress(DamagedRecord):
            for event in _events(path, lambda done: None):
                for value in event.summary.value:
                    if value.tag not in seen:
                        gradient = value.HasField("histo") and "grad" in value.tag.lower()
                        seen[value.tag] = gradient or is_norm(value.tag, options)
                        if seen[value.tag]:
                            return True
    return False


def _scalar(tensor: Any) -> float:
    """The number in a scalar tensor; nan for other types of data."""
    code, field = _TENSORS.get(tensor.dtype, ("", ""))
    if code and len(tensor.tensor_content) == struct.calcsize(code):
        return float(struct.unpack(code, tensor.tensor_content)[0])
    values: Sequence[float] = getattr(tensor, field) if field else []
    return float(values[0]) if len(values) == 1 else math.nan


def _json(texts: Sequence[bytes]) -> dict[str, Any]:
    """The JSON object in a text, which may stand in a block of Markdown."""
    text = b"".join(texts[:1])[:_LONGEST_TEXT].decode(errors="replace")
    try:
        value = parse(text[text.find("{") : text.rfind("}") + 1])
    except (ValueError, RefineError):
        return {}
    return value if isinstance(value, dict) else {}


FORMAT = Format(
    "tensorboard",
    get="the folder that a SummaryWriter wrote, such as runs/<name> (extra: tensorboard)",
    lost="what the tags do not say: --optimizer, --norm-kind",
    sniff=_sniff,
    read=_read,
)

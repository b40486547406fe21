"""W&B run files (``.wandb``), which offline and online runs leave under ``wandb/``; read without wandb or protobuf.

A log of protobuf messages (`leveldb`), of which the history (what ``wandb.log`` was given) and the config are read.
Nested keys are joined with dots, as W&B shows them. What the norm is, and which step a rate belongs to, is up to the
script that logged them; ``_step`` counts calls of ``wandb.log``. A run that was resumed offline left a file a session:
they are read one after the other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

from ..errors import RefineError
from .base import Format, ReadOptions, Records
from .gather import Rows
from .json_text import parse
from .leveldb import fields, records
from .opening import Log
from .runs import choose_by_id, is_norm
from .settings import pick

__all__ = ["FORMAT"]

_MAGIC = b":W&B"
_FILE_HEAD = 7
# Numbers of fields in wandb_internal.proto of wandb 0.31; those of an item are the same in history and config.
_HISTORY, _CONFIG, _RUN = 2, 5, 17
_RUN_ID, _RUN_CONFIG, _RUN_NAME = 1, 4, 8
_ITEM, _KEY, _NESTED_KEY, _VALUE = 1, 1, 2, 16
_LONGEST_SETTING = 2**20


class _Session(NamedTuple):
    """A file, and the run that it is a part of."""

    log: Log
    id: str
    name: str


def _read(log: Log, options: ReadOptions) -> Records:
    sessions = [_identified(part) for part in _files(log)]
    chosen = _chosen(sessions, options)
    rows, config, lost = Rows(options), dict[str, Any](), Counter[str]()
    for session in sessions:
        if session.id == chosen:
            _read_session(session.log, rows, config, lost)
    if not rows.count:
        raise RefineError("the run has no history: nothing was logged with wandb.log, or it did not reach the disk")
    blocks = lost.pop("blocks", 0)
    note = f"damaged blocks of 32 KiB: {blocks}; the rows after the damage in each are missing"
    return rows.records(
        "W&B run file",
        settings=pick(config),
        dropped=dict(lost),
        notes=(note,) if blocks else (),
        run=chosen,
    )


def _files(log: Log) -> Iterator[Log]:
    """The file, or all in the folder, that start as a .wandb file does."""
    for path in log.files("*.wandb") if log.is_dir else [log.path]:
        with open(path, "rb") as stream:
            if stream.read(len(_MAGIC)) == _MAGIC:
                yield log.sibling(path) if log.is_dir else log


def _identified(log: Log) -> _Session:
    """Id and name of the run of a file, as in one of its first records or, failing that, in the name of the file."""
    for record in islice(records(log, _FILE_HEAD, Counter()), 200):
        for number, run in fields(record):
            if number == _RUN:
                texts = {key: text.decode("utf-8", errors="replace") for key, text in fields(run)}
                return _Session(log, texts.get(_RUN_ID) or log.path.stem, texts.get(_RUN_NAME, ""))
    return _Session(log, log.path.stem.removeprefix("run-"), "")


def _chosen(sessions: list[_Session], options: ReadOptions) -> str:
    """Id of the run that is meant: by its id, its name or its folder, else the only one with a norm."""
    for session in sessions:
        if options.run == session.log.path.parent.name:
            return session.id

    def holds_norm(run: str) -> bool:
        return any(session.id == run and _holds_norm(session.log, options) for session in sessions)

    return choose_by_id({session.id: session.name or session.id for session in sessions}, holds_norm, options.run)


def _holds_norm(log: Log, options: ReadOptions) -> bool:
    """Whether any row of a file holds a norm; looks no further than the first."""
    rows = Rows(options)
    return any(
        is_norm(name, options)
        for record in records(log, _FILE_HEAD, Counter())
        for number, content in fields(record)
        if number == _HISTORY
        for name, _ in _items(content, rows)
    )


def _read_session(log: Log, rows: Rows, config: dict[str, Any], lost: Counter[str]) -> None:
    for record in records(log, _FILE_HEAD, lost):
        for number, content in fields(record):
            if number == _HISTORY:
                rows.add(dict(_items(content, rows)))
            elif number == _CONFIG:
                config |= _items(content)
            elif number == _RUN:
                for part, update in fields(content):
                    config |= _items(update) if part == _RUN_CONFIG else {}


def _items(message: bytes, rows: Rows | None = None) -> Iterator[tuple[str, Any]]:
    """Names and values of a history row or of a change of the config; of a row only what may matter."""
    for part, item in fields(message):
        if part != _ITEM:
            continue
        keys, value = [], b"null"
        for number, content in fields(item):
            if number in (_KEY, _NESTED_KEY):
                keys.append(content)
            elif number == _VALUE:
                value = content
        name = b".".join(keys).decode("utf-8", errors="replace")
        if len(value) > _LONGEST_SETTING if rows is None else not rows.names[name]:
            continue
        try:
            yield name, parse(value.decode("utf-8", errors="replace"))
        except ValueError:
            continue


FORMAT = Format(
    "wandb-run",
    get="wandb/offline-run-*/run-ID.wandb, or the folder of the run; also of runs with the network on",
    lost="norm kind, clipping; the optimizer, if the config of the run does not say",
    sniff=lambda log: any(True for _ in _files(log)),
    read=_read,
)

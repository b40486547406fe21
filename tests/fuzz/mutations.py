"""What can happen to a log between its writer and its reader, and what a malicious one may hold."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import re
import sqlite3
import struct
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from samples import SCHEDULES, Sample, leveldb_record, tfrecord

__all__ = ["Case", "Link", "mutated"]


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link, in place of a file."""

    target: str


@dataclass(slots=True)
class Case:
    """An input: what lies where below its folder, and how it is read. None is a folder, ``...`` a FIFO.

    ``kind`` is what is done with it: a "log" is read, a "schedule" (``target`` in its folder) is loaded and exported,
    a "resume" is a recorder's log that a run goes on in.
    """

    name: str
    files: dict[str, Any]
    kind: str = "log"
    target: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    companion: bytes | None = None


_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
# fmt: off
_NUMBERS = [
    *b"0 -0.0 -1 1 1.5 1e308 1.7976931348623157e308 -1e308 1e309 5e-324 1e-310 1e-200 1e200 nan NaN -nan inf".split(),
    *b"-Infinity null None true 1,234 4.1K 1e9T 1_000 0x1p3 1e5 1e999999999 49999999 50000001 9007199254740992".split(),
    *b"9223372036854775808 18446744073709551616 -9223372036854775809 1. .5 1e 1/2 2/0 7/7 00 +1 x".split(),
    b"\xd9\xa3", b"\xef\xbc\x97", b"", b" ", b'""', b"9" * 30, b"9" * 400, b"1" * 5000, b"0." + b"3" * 500,
]
_TOKENS = [
    b"\0", b'"', b"'", b"\x1b[31m", b"\x1b]0;x\x07", b"\n", b"\r", b"\r\n", b"\\", b",", b";", b"\t", b"|", b"#", b":",
    b"{", b"}", b"[", b"]", b'{"', b'":', b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"\xc2\x85",
    b"\x0c", b"\x1c", b"\\ud800", b"\xe2\x80\xae", b"step", b"grad_norm", b" - ", b"__MIN", b"/", b"Group: ", b"-",
    b"[" * 5000, b'{"a":' * 3000, b"\0" * 4096, b"x" * 100_000, b"\n" * 5000, b"," * 3000, b'"' * 999,
    b"__import__('os')", b"!!python/object/apply:os.system [id]", b"&a [*a]", b"lr", b"run", b"val/", b"_epoch",
    b"_step", b"epoch",
]
_NAMES = [
    "grad_norm", "grad_norm_l1", "step", "lr", "loss", "run", "global_step/max_steps", "log_history", "history",
    "max_steps", "a - grad_norm", "", "\ud800", "\n\x1b[31m\0", "\u202e", '"', "a/" * 300, "x" * 3000,
    "grad/norm/\n\u2028",
]
_VALUES: list[Any] = [
    None, True, False, 0, -1, 1e308, -1e308, 5e-324, float("nan"), float("inf"), 10**30, 10**400, 2**63,
    "nan", "", "x", "\ud800", "\x1b[31m\n", "1/2", "x" * 9999,
    [], {}, [[]], [1, 2], {"": {}}, [{}], [None], [0.5] * 50,
]
_SUFFIXES = [".csv", ".json", ".jsonl", ".log", ".npy", ".npz", ".parquet", ".wandb", ".db", ".tsv", ".gz", ".zip", ""]
_HOSTILE = [
    "a\nb.csv", "\x1b[31mred.csv", "-", "--help", "%s{0}.csv", "\udcff.csv", "x" * 240, "a b'\".csv", "\u202egol.csv",
]
_FILES = [
    "trainer_state.json", "metrics.csv", "meta.yaml", "events.out.tfevents.1", "run.wandb", "metrics", "args.json",
]
_OPTIONS: list[dict[str, Any]] = [
    {"every": 1}, {"every": 50_000_000}, {"every": 10**30}, {"column": "grad_norm"}, {"column": "2"}, {"column": "\n"},
    {"step_column": "step"}, {"step_column": "1", "column": "2"}, {"lr_column": "lr"}, {"lr_column": "loss"},
    {"column": "step"}, {"run": "a"}, {"run": "abc"}, {"run": "\x1b"}, {"norm_kind": "l1"}, {"norm_kind": "dual"},
    {"optimizer": "sgd"}, {"logged_steps": 1}, {"logged_steps": 50_000_000}, {"logged_steps": 10**9}, {"extras": False},
]
_TYPES = ["|O", "<U9", "<c16", "<M8[s]", ">f2", "|V8", "<f16"]
_SHAPES = ["(2, 20)", "()", "(10**9,)", "(-1,)", "(0,)", "(1,)*70"]
# fmt: on


def mutated(random: Random, samples: Sequence[Sample]) -> Case:
    """One input, made of a sample: a fifth are schedules, a tenth are logs to go on in."""
    share = random.random()
    if share < 0.2:
        return _schedule(random, samples)
    if share < 0.3:
        return _resume(random, samples)
    sample = random.choice(samples)
    case = Case(sample.name, dict(sample.files))
    place = random.choice(sorted(case.files))
    if not sample.is_folder or random.random() < 0.6:
        case.files[place] = _content(random, case.files[place], samples)
    if sample.is_folder and random.random() < 0.6:
        _folder(random, case, place)
    if random.random() < 0.15:
        case.name = _name(random, case.name)
    if not sample.is_folder and random.random() < 0.01:
        case.files = {"": random.choice([Link("/dev/zero"), Link(case.name), Link("."), Link("none"), ...])}
    if random.random() < 0.35 or sample.name.startswith(("hf.log", "norms.npy", "runs.csv")):
        case.options = random.choice(_OPTIONS)
    if random.random() < 0.03:
        case.companion = _content(random, random.choice(sorted(random.choice(samples).files.items()))[1], samples)
    return case


def _schedule(random: Random, samples: Sequence[Sample]) -> Case:
    """A schedule's file or folder, or a good CSV with something else beside it."""
    target = random.choice(sorted(SCHEDULES))
    files: dict[str, Any] = dict(SCHEDULES[target])
    case = Case("of schedules", files, kind="schedule", target=target)
    place = random.choice(sorted(files))
    if random.random() < 0.15:
        _folder(random, case, place)
    else:
        files[place] = _content(random, files[place], samples)
    return case


def _resume(random: Random, samples: Sequence[Sample]) -> Case:
    """A recorder's log, damaged, and the update that a run goes on from."""
    sample = random.choice([sample for sample in samples if sample.is_recorded])
    case = Case(sample.name, {"": _content(random, sample.files[""], samples)}, kind="resume")
    if random.random() < 0.03:
        case.files = {"": random.choice([Link("/dev/zero"), Link(case.name), Link("none"), None, b"", b"\n"])}
    case.options = {"step": random.choice([0, 1, 7, 39, 40, 41, 1999, 2000, 3000, 49_999_990])}
    return case


def _name(random: Random, name: str) -> str:
    if random.random() < 0.3:
        return random.choice(_HOSTILE)
    return random.choice(_FILES) if random.random() < 0.3 else name.rsplit(".", 1)[0] + random.choice(_SUFFIXES)


def _folder(random: Random, case: Case, place: str) -> None:
    """Remove, replace, rename, copy or add an entry of a folder."""
    entry: Any = random.choice(
        [
            None,
            ...,
            Link(Path(place).name),
            Link("/dev/zero"),
            Link("/"),
            Link(".."),
            Link("none"),
            b"",
            b"\0" * 99,
            "gone",
        ]
    )
    content = case.files.pop(place)
    kind = random.random()
    if kind < 0.5:
        if entry != "gone":
            case.files[place] = entry
    elif kind < 0.7:
        case.files[str(Path(place).with_name(_name(random, Path(place).name)))] = content
    else:
        case.files |= {place: content, str(Path("again" if kind < 0.85 else "\n\x1b[31m", place)): content}


def _content(random: Random, data: bytes, samples: Sequence[Sample]) -> bytes:
    for _ in range(random.choice([1, 1, 1, 1, 2, 4])):
        with suppress(Exception), warnings.catch_warnings():  # a mutation may not fit what the last one has left
            warnings.simplefilter("ignore")
            data = _once(random, data, samples)
    if random.random() < 0.06:
        pack: Callable[[bytes], bytes] = random.choice([gzip.compress, bz2.compress, lzma.compress, _zstd])
        data = pack(data)
        if random.random() < 0.6:
            data = random.choice(_OF_BYTES)(random, data)
    return data


def _once(random: Random, data: bytes, samples: Sequence[Sample]) -> bytes:
    if random.random() < 0.7:
        for magic, mutate in _CONTAINERS.items():
            if magic in data[:40]:
                return mutate(random, data)
    if data.lstrip()[:1] in (b"{", b"[") and random.random() < 0.5:
        return _json(random, data)
    if random.random() < 0.05:
        other = random.choice(sorted(random.choice(samples).files.items()))[1]
        cut, start = random.randrange(len(data) + 1), random.randrange(len(other) + 1)
        return data[:cut] + other[start:]
    if b"\0" in data or random.random() < 0.35:
        return random.choice(_OF_BYTES)(random, data)
    return random.choice(_OF_TEXT)(random, data)


def _zstd(data: bytes) -> bytes:
    import zstandard

    return zstandard.compress(data)


# Any bytes


def _flip(random: Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(random.choice([1, 1, 4, 20]) if data else 0):
        changed[random.randrange(len(changed))] = random.choice([random.randrange(256), 0, 255, 10, 34])
    return bytes(changed)


def _truncate(random: Random, data: bytes) -> bytes:
    return data[: random.choice([random.randrange(len(data) + 1), len(data) - random.randrange(40)])]


def _insert(random: Random, data: bytes) -> bytes:
    for _ in range(random.choice([1, 1, 3])):
        at = random.choice([0, len(data), random.randrange(len(data) + 1)])
        token = random.choice(_TOKENS + _NUMBERS)
        data = data[:at] + token + data[at + random.choice([0, len(token)]) :]
    return data


def _swap(random: Random, data: bytes) -> bytes:
    a, b, c = sorted(random.randrange(len(data) + 1) for _ in range(3))
    return data[:a] + data[b:c] + data[a:b] + random.choice([data[c:], data[b:], b""])


def _integer(random: Random, data: bytes) -> bytes:
    """A length, a type, a number of rows: four or eight bytes of a binary format."""
    at, code = random.randrange(max(1, len(data) - 8)), random.choice(["<I", "<Q", ">I", "<H"])
    value = random.choice([0, 1, 2**15, 2**16 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1]) % 2 ** (
        8 * struct.calcsize(code)
    )
    return data[:at] + struct.pack(code, value) + data[at + struct.calcsize(code) :]


# Text


def _lines(random: Random, data: bytes) -> bytes:
    lines = data.split(b"\n")
    a, b = sorted(random.randrange(len(lines) + 1) for _ in range(2))
    kind = random.randrange(9)
    if kind == 0:
        lines[a:b] = []
    elif kind == 1:
        lines[a:a] = lines[a:b]
    elif kind == 2:
        lines[a:a] = lines[:1] * random.choice([1, 5])
    elif kind == 3:
        lines[a:b] = random.sample(lines[a:b], b - a)
    elif kind == 4:
        lines[a:b] = [b" ".join(lines[a:b])]
    elif kind == 5:
        lines = lines[a:] + lines[:a]
    elif kind == 6:
        lines *= 3
    elif kind == 7:
        lines[0] += b",".join(
            b"%s%d" % (random.choice([b"x", b"grad_norm/w"]), i) for i in range(random.choice([9, 5000]))
        )
    else:
        lines[a:b] = [line[: random.randrange(len(line) + 1)] for line in lines[a:b]]
    return b"\n".join(lines)


def _numbers(random: Random, data: bytes) -> bytes:
    """Change some or most numbers, each to another value or all to one."""
    share, one = random.choice([0.01, 0.1, 0.9]), random.choice([None, *_NUMBERS])

    def replaced(match: re.Match[bytes]) -> bytes:
        return match[0] if random.random() > share else random.choice(_NUMBERS) if one is None else one

    return _NUMBER.sub(replaced, data)


def _column(random: Random, data: bytes) -> bytes:
    """Change one field in (nearly) all lines."""
    comma = random.choice([b",", b"\t", b" ", b": ", b"="])
    place, value, share = random.randrange(6), random.choice([None, *_NUMBERS]), random.choice([0.5, 1.0])
    lines = []
    for number, line in enumerate(data.split(b"\n")):
        fields = line.split(comma)
        if number and place < len(fields) and random.random() < share:
            fields[place] = random.choice(_NUMBERS) if value is None else value
        lines.append(comma.join(fields))
    return b"\n".join(lines)


def _scale(random: Random, data: bytes) -> bytes:
    """Multiply all numbers with a point: tiny, huge or negative norms and rates."""
    factor = random.choice([1e300, 1e-300, 1e-320, 1e155, 1e-160, -1.0, 0.0, 1e16])
    return re.sub(rb"(?<!\d)\d+\.\d+(?:[eE][-+]?\d+)?", lambda match: repr(float(match[0]) * factor).encode(), data)


def _steps(random: Random, data: bytes) -> bytes:
    """Multiply all whole numbers, or move them."""
    factor, shift = (
        random.choice([0, 1, 1000, 10**6, 1_250_000, 10**9, 10**14, -1]),
        random.choice([0, 0, 1, -3, 10**7]),
    )
    whole = rb"(?<![\w.])\d{1,6}(?![\w.])"
    return re.sub(whole, lambda match: str(int(match[0]) * factor + shift).encode(), data)


def _name_inside(random: Random, data: bytes) -> bytes:
    name = random.choice(re.findall(rb"[a-zA-Z_/.]{2,}", data[:2000]) or [b"step"])
    return data.replace(name, random.choice(_NAMES).encode("utf-8", "surrogatepass"), random.choice([1, -1]))


def _recoded(random: Random, data: bytes) -> bytes:
    a, b = random.choice(
        [(b"\n", b"\r\n"), (b"\n", b"\r"), (b",", b";"), (b",", b"\t"), (b".", b","), (b" ", b"\t"), (b'"', b"'")]
    )
    if random.random() < 0.3:
        return data.decode(errors="replace").encode(
            random.choice(["utf-16", "latin-1", "utf-8-sig", "utf-32"]), "replace"
        )
    return data.replace(a, b)


# Structure


def _json(random: Random, data: bytes) -> bytes:
    """Change a node of a JSON document, or of one of its lines."""
    lines = [data]
    with suppress(ValueError):
        return _node_changed(random, json.loads(data))
    lines = data.split(b"\n")
    for _ in range(random.choice([1, 1, 20])):
        at = random.randrange(len(lines))
        start = lines[at].find(b"{")
        if start >= 0:
            with suppress(ValueError):
                lines[at] = lines[at][:start] + _node_changed(random, json.loads(lines[at][start:]))
    return b"\n".join(lines)


def _node_changed(random: Random, value: Any) -> bytes:
    nodes: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        for key in node if isinstance(node, dict) else range(len(node)):
            nodes.append((node, key))
            if isinstance(node[key], (dict, list)) and len(nodes) < 5000:
                walk(node[key])

    if isinstance(value, (dict, list)):
        walk(value)
    for _ in range(random.choice([1, 1, 5])):
        node, key = random.choice(nodes)
        kind = random.random()
        if kind < 0.6:
            node[key] = random.choice(_VALUES)
        elif kind < 0.8 and isinstance(node, dict):
            node[random.choice(_NAMES)] = node.pop(key, None)
        elif kind < 0.9:
            node[key] = [node[key]] if random.random() < 0.5 else {random.choice(_NAMES): node[key]}
        elif isinstance(node, dict):
            node.pop(key, None)
    return json.dumps(value).encode()


def _npz(random: Random, data: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as archive, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as changed:
        for info in archive.infolist():
            content = archive.read(info)
            if random.random() < 0.5:
                content = random.choice([_npy, _flip, _truncate, _integer])(random, content)
            changed.writestr(random.choice([info.filename, info.filename, "lr.npy", "\n.npy"]), content)
    return stream.getvalue()


def _npy(random: Random, data: bytes) -> bytes:
    """Another header of the same length."""
    head, end = data[:10], data.index(b"\n") if b"\n" in data[:200] else 10
    text = random.choice(
        [
            f"{{'descr': '{random.choice(_TYPES)}', 'fortran_order': False, 'shape': (40,), }}",
            f"{{'descr': '<f8', 'fortran_order': True, 'shape': {random.choice(_SHAPES)}, }}",
            "{'descr': [('grad_norm', '<f8', (2,)), ('step', 'O')], 'fortran_order': False, 'shape': (2,), }",
            "[" * 90,
            "__import__('os').system('id')",
        ]
    )
    return head + text.encode()[: end - 10].ljust(end - 10) + data[end:]


def _tfevents(random: Random, data: bytes) -> bytes:
    """Change the content of some records under their checksums."""
    out, at = [], 0
    while at + 16 <= len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        record = data[at : at + 16 + length]
        out.append(tfrecord(_payload(random, record[12:-4])) if random.random() < 0.1 else record)
        at += 16 + length
    return b"".join(out)


def _leveldb(random: Random, data: bytes) -> bytes:
    out, at = [data[:7]], 7
    while at + 7 <= len(data):
        (length,) = struct.unpack_from("<H", data, at + 4)
        record = data[at : at + 7 + length]
        out.append(leveldb_record(_payload(random, record[7:])) if random.random() < 0.1 else record)
        at += 7 + length
    return b"".join(out)


def _payload(random: Random, data: bytes) -> bytes:
    return random.choice([_flip, _flip, _truncate, _insert, _numbers])(random, data)[:50_000]


_SQL = (
    "UPDATE metrics SET step = {}",
    "UPDATE metrics SET step = {} WHERE rowid % 7 = 1",
    "UPDATE metrics SET metrics = {} WHERE rowid % 7 = 1",
    "UPDATE metrics SET value = {} WHERE rowid % 7 = 1",
    "UPDATE metrics SET value = {}, key = {}",
    "UPDATE metrics SET is_nan = {}, run_uuid = {} WHERE rowid % 5 = 1",
    "UPDATE metrics SET run_id = {}, run_name = {} WHERE rowid % 5 = 1",
    "UPDATE configs SET config = {}",
    "UPDATE params SET value = {}, key = {}",
    "UPDATE runs SET name = {}, lifecycle_stage = {}",
    "DROP TABLE runs",
    "DELETE FROM metrics",
    "ALTER TABLE metrics RENAME TO metrics2",
    "CREATE VIEW configs2 AS SELECT * FROM configs",
    "CREATE TABLE again AS SELECT * FROM metrics",
)
_CELLS = [
    "NULL", "-1", "1e308", "9e999", "0.5", "9223372036854775807", "rowid", "'x'", "x'ff00'", "''", "'lr'",
    "'grad_norm'", "char(0, 10, 27)", "zeroblob(9999)", "'[' || hex(zeroblob(9999))", "'{\"step\": \"x\"}'",
    "'{\"grad_norm\": {\"a\": 1}}'",
]  # fmt: skip


def _sqlite(random: Random, data: bytes) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "log.db")
        path.write_bytes(data)
        with closing(sqlite3.connect(path)) as database, suppress(sqlite3.Error), database:
            statement = random.choice(_SQL)
            database.execute(statement.format(*(random.choice(_CELLS) for _ in range(statement.count("{}")))))
        return path.read_bytes()


_OF_BYTES: list[Callable[[Random, bytes], bytes]] = [_flip, _flip, _truncate, _insert, _insert, _swap, _integer]
_OF_TEXT = [_lines, _lines, _numbers, _numbers, _column, _column, _scale, _steps, _name_inside, _recoded]
_CONTAINERS: dict[bytes, Callable[[Random, bytes], bytes]] = {
    b"brain.Event": _tfevents,
    b":W&B": _leveldb,
    b"PK\x03\x04": _npz,
    b"\x93NUMPY": _npy,
    b"SQLite format 3": _sqlite,
}

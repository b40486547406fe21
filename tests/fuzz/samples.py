"""Logs to mutate: all that lie in the given folders, and a small one of every format made here."""

from __future__ import annotations

import io
import json
import sqlite3
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from refine import RefineError, Schedule, linear
from refine.readers import find_format
from refine.readers.opening import opened

__all__ = ["SCHEDULES", "Sample", "gather", "leveldb_record", "tfrecord"]

_LONGEST_TEXT = 2**15
_LARGEST = 2**18
_SMALLEST = 64
_STEPS = 40


@dataclass(frozen=True, slots=True)
class Sample:
    """A log: one file, or the files of a folder by their relative path."""

    name: str
    files: dict[str, bytes]

    @property
    def is_folder(self) -> bool:
        return "" not in self.files

    @property
    def is_recorded(self) -> bool:
        """Whether a recorder has written it."""
        return b'{"format": "refine-gradient-norms"' in self.files.get("", b"")[:40]


def gather(folders: Iterable[Path]) -> list[Sample]:
    """All samples, in an order that does not depend on the file system."""
    found = [sample for folder in folders for sample in _in_folder(folder)]
    return found + [Sample(name, files) for name, files in _made().items()]


def _in_folder(root: Path) -> Iterator[Sample]:
    for path in sorted(root.rglob("*")):
        if path.is_file():
            if path.suffix in (".md", ".gz") or path.name.endswith(("-shm", "-wal")) or path.stat().st_size < _SMALLEST:
                continue
            yield Sample(path.name, {"": _head(path)})
        elif path.is_dir():
            inside = [part for part in sorted(path.rglob("*")) if part.is_file()]
            if sum(part.stat().st_size for part in inside) <= _LARGEST and _is_log(path):
                yield Sample(path.name, {part.relative_to(path).as_posix(): part.read_bytes() for part in inside})


def _head(path: Path) -> bytes:
    """A whole binary file, the first lines of a longer text."""
    with open(path, "rb") as stream:
        data = stream.read(_LARGEST)
    return data if b"\0" in data or len(data) <= _LONGEST_TEXT else data[: data.rindex(b"\n", 0, _LONGEST_TEXT) + 1]


def _is_log(folder: Path) -> bool:
    with suppress(RefineError), opened(str(folder)) as log:
        find_format(log)
        return True
    return False


_LINES = {
    "megatron.log": "7: iteration {t:8}/ 40 | consumed samples: {t} | learning rate: {lr:E} | lm loss: {loss:E} | "
    "loss scale: 1.0 | grad norm: {norm:.3f} | number of skipped iterations: 0 |",
    "nemo.log": "Training epoch 0, iteration {t}/40 | lr: {lr} | reduced_train_loss: {loss} | grad norm: {norm}",
    "titan.log": "\x1b[32m[titan] - INFO - step: {t:2}  loss: {loss:7.4f}  grad_norm: {norm:7.4f}  memory: 1GiB\x1b[0m",
    "fairseq.log": "x | INFO | train_inner | epoch 001: {t} / 40 loss={loss}, num_updates={t}, lr={lr}, gnorm={norm}, "
    "wall=1",
    "olmo.log": "INFO [step={t}/40,epoch=1]\n    optim/total grad norm={norm}\n    optim/LR (group 0)={lr}",
    "nanotron.log": "[INFO|DP=0]: iteration: {t} / 40 | consumed_tokens: {t}.1K | grad_norm: {norm:.3} | lr: {lr}",
    "lingua.log": "0: INFO step: {t}  acc: 0  loss: {loss}  grad: {norm:.2e}  lr: {lr:.2e}",
    "lingua.jsonl": '{{"global_step": {t}, "acc_step": 0, "optim/grad_norm": {norm}, "optim/lr": {lr}}}',
    "levanter.log": 'INFO {{"tracker": "json_logger", "event": "log", "step": {t}, "metrics": '
    '{{"train/loss": {loss}, "grad/norm/total": {norm}, "grad/norm/wte": {norm}, "optim/learning_rate": {lr}}}}}',
    "torchtune.jsonl": '{{"step": {t}, "loss": {loss}, "lr": {lr}, "tokens_per_second_per_gpu": 9.0, '
    '"grad_norm": {norm}}}',
    "torchtune.txt": "Step {t} | loss:{loss} lr:{lr} tokens_per_second_per_gpu:9.0 grad_norm:{norm} ",
    "verl.jsonl": '{{"step": {t}, "data": {{"actor/grad_norm": {norm}, "actor/lr": {lr}}}}}',
    "verl.log": "(TaskRunner pid=7) step:{t} - actor/grad_norm:{norm} - actor/lr:{lr}",
    "maxtext.jsonl": '{{"learning/loss": {loss}, "learning/raw_grad_norm": {norm}, "learning/grad_norm": 1.0, '
    '"learning/current_learning_rate": {lr}, "step": {t}.0}}',
    "llmc.log": "s:{t} trl:{loss} lr:{lr} norm:{norm:.2f}",
    "llmc.txt": "step {t:4}/40 | loss {loss} (+0.1z)| norm {norm:.4f} (+0.2z)| lr {lr:.2e} | 12.30 ms",
    "mmengine.json": '{{"lr": {lr}, "data_time": 0.1, "grad_norm": {norm}, "loss": {loss}, "time": 1, "iter": {t}, '
    '"step": {t}}}',
    "mmengine.log": "01/01 10:00:00 - mmengine - INFO - Iter(train) [{t:3}/40]  lr: {lr}  grad_norm: {norm}  loss: 5",
    "composer.txt": "[metric][batch={t}]: l2_norm/grad/global: {norm} \n[metric][batch={t}]: lr-AdamW/group0: {lr} ",
    "swift.jsonl": '{{"loss": {loss}, "grad_norm": {norm}, "learning_rate": {lr}, "global_step/max_steps": "{t}/40", '
    '"elapsed_time": "1s"}}',
    "hf.log": "{{'loss': '{loss}', 'grad_norm': '{norm}', 'learning_rate': '{lr}', 'epoch': '0.{t:02}'}}",
    "console.log": "step {t} | loss {loss} | grad_norm {norm} | lr {lr}",
    "plain.jsonl": '{{"step": {t}, "run": "a", "train": {{"grad_norm": {norm}, "lr": {lr}}}, "loss": {loss}}}',
    "long.jsonl": '{{"metric": "grad_norm", "step": {t}, "value": {norm}}}',
    "runs.csv": "a,{t},{norm},{lr},{loss}\nb,{t},{norm},{lr},{loss}",
    "semicolons.csv": "{t};{norm};{lr}",
    "recorder.jsonl": '{{"step": {t}, "grad_norm_l1": {norm}, "grad_norm_l2": {norm}, "grad_norm_dual": {norm}, '
    '"lr": {lr}, "loss": {loss}, "clip_coefficient": 0.5, "grad_norm_dual/group:a/lr": {norm}, '
    '"lr/group:a/lr": {lr}, "distance": {t}.5, "grad_dot_displacement": {loss}, "lr_grad_sum_norm": {norm}}}\n'
    '{{"step": {t}1, "grad_norm_l1": null, "grad_norm_l2": null, "resumed": 1, "skipped": 1}}',
    "recorder.csv": "{t},{norm},{norm},{lr},{loss},0.5,,,{t}.5,{loss},{norm},{norm}",
    "quoted.csv": '"{t}","{norm}","{norm}","{norm}"',
    "lightning/version_0/metrics.csv": "0,,{norm},{norm},{lr},{t}",
}
_HEADS = {
    "runs.csv": "run,step,grad_norm,lr,loss",
    "semicolons.csv": "step;grad_norm;lr",
    "quoted.csv": '"Step","a - b - train/grad_norm","a - b - train/grad_norm__MIN","a - b - train/grad_norm__MAX"',
    "lightning/version_0/metrics.csv": "epoch,grad_1.0_norm_total_epoch,grad_2.0_norm/w,"
    "grad_2.0_norm_total,lr-SGD,step",
}
_HEADER = (
    '{"format": "refine-gradient-norms", "format_version": 1, "generator": "refine 0.1.0", "optimizer": "NAME", '
    '"clipping": "pre", "planned_steps": 40, "settings": {"learning_rate": 0.04, "momentum": 0.9, "clip": 1.0}, '
    '"groups": ["a/lr"]}'
)
_HEADS["recorder.jsonl"] = _HEADER.replace("NAME", "AdamW")
_HEADS["recorder.csv"] = (
    f"# {_HEADER.replace('NAME', 'SGD')}\n"
    "step,grad_norm_l1,grad_norm_l2,lr,loss,clip_coefficient,skipped,resumed,distance,grad_dot_displacement,"
    "lr_grad_sum_norm,grad_norm_l2/group:a/lr"
)
_YAML = b"optimizer: sgd\nlr: 0.1\nmax_grad_norm: 1.0\ntrainer:\n  warmup_steps: 3\nwhen: 2024-01-01\n"


def _saved_schedules() -> dict[str, dict[str, bytes]]:
    """Files of schedules by the one that is opened: CSV with and without what is beside it, JSON, folders."""
    provenance = {
        "shape": "refined", "family": "wsd", "warmup_steps": 3, "default": "refined", "suggested_peak_lr": 0.1,
        "updates_done": 5, "norms": {"file": "a.csv", "kind": "l2"}, "notes": ["x", None, 1.5], "resampled_from": 40,
    }  # fmt: skip
    schedule = linear(_STEPS, warmup_steps=3)
    schedule = Schedule(schedule.multiplier, {**schedule.provenance, **provenance})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        saved = [schedule.save(folder / "s.csv"), schedule.save(folder / "s.json")]
        csv, json_text = (path.read_bytes() for path in saved)
        beside = (folder / "s.csv-metadata.json").read_bytes()
    return {
        "alone.csv": {"alone.csv": csv},
        "s.csv": {"s.csv": csv, "s.csv-metadata.json": beside},
        "t.csv": {"t.csv": csv, "t.csv-metadata.json": beside},
        "s.json": {"s.json": json_text},
        "result": {"result/recommended.json": json_text, "result/refined.json": json_text},
        "emitted": {"emitted/schedule.json": json_text},
    }


SCHEDULES = _saved_schedules()


def _values() -> Iterator[dict[str, Any]]:
    for t in range(1, _STEPS + 1):
        yield {
            "t": t,
            "norm": round(1.0 + 9.0 / t + 0.01 * (t * 7 % 5), 6),
            "lr": 0.001 * (_STEPS + 1 - t),
            "loss": 5.0 - 0.05 * t,
        }


def _made() -> dict[str, dict[str, bytes]]:
    made: dict[str, dict[str, bytes]] = {}
    for name, line in _LINES.items():
        head = [_HEADS[name]] if name in _HEADS else []
        text = "\n".join([*head, *(line.format(**values) for values in _values())]) + "\n"
        folder, _, inside = name.partition("/")
        made[folder] = {inside: text.encode()}
    made["lightning"]["version_0/hparams.yaml"] = _YAML
    steps, norms = np.arange(1, _STEPS + 1), np.array([values["norm"] for values in _values()])
    rows = [{"step": v["t"], "grad_norm": v["norm"], "learning_rate": v["lr"], "loss": v["loss"]} for v in _values()]
    state = {"global_step": 40, "max_steps": 40, "train_batch_size": 8, "log_history": rows}
    train = {"iter": steps.tolist(), "grad_norm": norms.tolist(), "train_lr": [0.1] * _STEPS}
    made["trainer_state.json"] = {"": json.dumps(state, indent=2).encode()}
    made["hf"] = {f"checkpoint-{n}/trainer_state.json": json.dumps(state).encode() for n in (20, 40)}
    made["hf"]["args.json"] = b'{"optim": "adamw_torch", "max_grad_norm": 1.0, "learning_rate": 0.04}'
    made["rows.json"] = {"": json.dumps(rows).encode()}
    made["columns.json"] = {"": json.dumps({"data": {"step": steps.tolist(), "grad_norm": norms.tolist()}}).encode()}
    made["epfl.json"] = {"": json.dumps({"config": {"lr": 0.1}, "history": {"train": train}}).encode()}
    made["norms.npy"] = {"": _saved(np.save, arr=norms)}
    made["table.npy"] = {"": _saved(np.save, arr=np.column_stack([steps, norms]))}
    both = np.array(list(zip(steps, norms, strict=True)), dtype=[("step", "<i8"), ("grad_norm", ">f4")])
    made["named.npy"] = {"": _saved(np.save, arr=both)}
    made["named.npz"] = {"": _saved(np.savez_compressed, step=steps, grad_norm=norms, lr=norms / 10)}
    made["dvclive"] = {
        "plots/metrics/train/grad_norm.tsv": _series("step\tgrad_norm\n", "{t}\t{norm}\n"),
        "plots/metrics/lr.tsv": _series("timestamp\tstep\tlr\n", "1\t{t}\t{lr}\n"),
        "params.yaml": _YAML,
    }
    meta = b"artifact_uri: x\nlifecycle_stage: active\nrun_id: abc\nrun_name: 'some run'\n"
    made["mlruns"] = {
        "0/meta.yaml": b"experiment_id: '0'\n",
        "0/abc/meta.yaml": meta,
        "0/abc/metrics/train/grad_norm": _series("", "17 {norm} {t}\n"),
        "0/abc/metrics/lr": _series("", "17 {lr} {t}\n"),
        "0/abc/params/optimizer": b"AdamW",
    }
    made["run.wandb"] = {"": _wandb()}
    made["wandb"] = {"offline-run-1-abc/run-abc.wandb": _wandb(), "latest-run/run-abc.wandb": _wandb()}
    made["events.out.tfevents.1.x"] = {"": _events()}
    made["tensorboard"] = {"a/events.out.tfevents.1.x": _events(), "a/events.out.tfevents.2.x": _events()}
    made["trackio.db"] = {"": _database(_TRACKIO)}
    made["mlflow.db"] = {"": _database(_MLFLOW)}
    with suppress(ImportError):
        made |= _parquets(steps, norms)
    return made


def _saved(save: Callable[..., None], **arrays: Any) -> bytes:
    stream = io.BytesIO()
    save(stream, **arrays)
    return stream.getvalue()


def _series(head: str, line: str) -> bytes:
    return (head + "".join(line.format(**values) for values in _values())).encode()


def _parquets(steps: Any, norms: Any) -> dict[str, dict[str, bytes]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = pa.array(["grad_norm", "lr"] * (_STEPS // 2))
    odd = {
        "step": pa.array([str(t) for t in steps]),
        "_step": pa.array(steps).cast(pa.decimal128(25, 6)),
        "grad_norm": pa.array([[v] for v in norms]),
        "train/grad_norm": pa.array(norms).cast(pa.float16()),
        "lr": pa.array([None] * _STEPS, pa.null()),
        "run": names.dictionary_encode(),
    }
    tables = {
        "plain.parquet": {"step": steps, "grad_norm": norms, "lr": norms / 10, "run": ["a"] * _STEPS},
        "long.parquet": {"run_id": ["a"] * _STEPS, "attribute_path": names, "step": steps, "float_value": norms},
        "odd.parquet": odd,
    }
    made = {}
    for name, table in tables.items():
        stream = io.BytesIO()
        pq.write_table(pa.table(table), stream)
        made[name] = {"": stream.getvalue()}
    return made


_TRACKIO = (
    "CREATE TABLE metrics (run_id TEXT, timestamp TEXT, run_name TEXT, step INTEGER, metrics TEXT)",
    "INSERT INTO metrics VALUES ('r', 'now', 'a', :t, json_object('train/grad_norm', :norm, 'lr', :lr))",
    "CREATE TABLE configs (run_id TEXT, run_name TEXT, config TEXT)",
)
_MLFLOW = (
    "CREATE TABLE metrics (key TEXT, value REAL, timestamp INTEGER, run_uuid TEXT, step INTEGER, is_nan BOOLEAN)",
    "INSERT INTO metrics VALUES ('grad_norm', :norm, 1, 'abc', :t, 0), ('lr', :lr, 1, 'abc', :t, 0)",
    "CREATE TABLE params (key TEXT, value TEXT, run_uuid TEXT)",
    "INSERT INTO params VALUES ('optimizer' || :t, 'sgd', 'abc'), ('lr', '0.1', 'abc')",
    "CREATE TABLE runs (run_uuid TEXT, name TEXT, lifecycle_stage TEXT)",
    "INSERT INTO runs VALUES ('abc', 'some run', 'active')",
)


def _database(statements: Iterable[str]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "made.db")
        with closing(sqlite3.connect(path)) as database, database:
            for statement in statements:
                if ":t" in statement:
                    database.executemany(statement, list(_values()))
                else:
                    database.execute(statement)
        return path.read_bytes()


def _varint(value: int) -> bytes:
    low, rest = value & 127, value >> 7
    return bytes([low | 128]) + _varint(rest) if rest else bytes([low])


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def leveldb_record(data: bytes) -> bytes:
    """One whole record of a LevelDB log, as in .wandb files, with its checksum."""
    return struct.pack("<IH", zlib.crc32(b"\1" + data), len(data)) + b"\1" + data


def _wandb() -> bytes:
    def item(name: str, value: object) -> bytes:
        return _field(1, _field(2, name.encode()) + _field(16, json.dumps(value).encode()))

    run = _field(17, _field(1, b"abc") + _field(4, item("optim", "adamw")) + _field(8, b"jolly"))
    rows = [
        _field(2, item("train/global_step", v["t"]) + item("train/grad_norm", v["norm"]) + item("lr", v["lr"]))
        for v in _values()
    ]
    return b":W&B\xe1\xbe\x00" + b"".join(map(leveldb_record, [run, *rows]))


def tfrecord(data: bytes) -> bytes:
    """One record of a TensorBoard event file, with its checksums."""
    length = struct.pack("<Q", len(data))
    return length + _masked_crc(length) + data + _masked_crc(data)


def _masked_crc(data: bytes) -> bytes:
    """CRC-32C, as TFRecord stores it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _crc_table() -> Iterator[int]:
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        yield value


_CRC = list(_crc_table())


def _events() -> bytes:
    def scalar(tag: str, value: float) -> bytes:
        return _field(1, _field(1, tag.encode()) + b"\x15" + struct.pack("<f", value))

    records = [_field(3, b"brain.Event:2")]
    for v in _values():
        records.append(b"\x10" + _varint(v["t"]) + _field(5, scalar("grad_norm", v["norm"]) + scalar("lr", v["lr"])))
    return b"".join(map(tfrecord, records))

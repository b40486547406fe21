""".wandb files: written by the wandb that is installed, and by hand to the layout of a LevelDB log."""

import contextlib
import json
import math
import random
import struct
import time
import warnings
import zlib

import pytest

from refine import RefineError, read_norms

MAGIC = b":W&B\xe1\xbe\x00"


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def varint(value: int) -> bytes:
    low, rest = value & 127, value >> 7
    return bytes([low | 128]) + varint(rest) if rest else bytes([low])


def item(name: str, value) -> bytes:
    keys = b"".join(field(2, key.encode()) for key in name.split("|"))
    return field(1, keys + field(16, (value if isinstance(value, str) else json.dumps(value)).encode()))


def history(row: dict) -> bytes:
    return b"\x08\x07" + field(2, b"".join(item(name, value) for name, value in row.items()))


def run_record(id: str, name: str = "", **config) -> bytes:
    updates = b"".join(item(key, value) for key, value in config.items())
    return field(17, field(1, id.encode()) + field(4, updates) + field(8, name.encode()))


def leveldb(records: list[bytes], block: int = 32 * 1024) -> bytes:
    log = bytearray(MAGIC)
    for record in records:
        start = True
        while start or record:
            left = block - len(log) % block
            if left < 7:
                log += bytes(left)
                continue
            piece, record = record[: left - 7], record[left - 7 :]
            kind = {(True, True): 1, (True, False): 2, (False, False): 3, (False, True): 4}[start, not record]
            data = bytes([kind]) + piece
            log += struct.pack("<IH", zlib.crc32(data), len(piece)) + data
            start = False
    return bytes(log)


def rows(steps) -> list[bytes]:
    return [history({"_step": t, "train/global_step": t, "train/grad_norm": 1.0 / t, "note": '"x"'}) for t in steps]


@pytest.fixture
def write(tmp_path):
    def write(records, place="wandb/offline-run-1-abc/run-abc.wandb"):
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(records if isinstance(records, bytes) else leveldb(records))
        return path

    return write


def settle(folder):
    """Wait until wandb's own process, which may outlive ``finish``, has written everything."""
    sizes, deadline = {}, time.monotonic() + 20.0
    while time.monotonic() < deadline:
        time.sleep(0.3)
        before, sizes = sizes, {path: path.stat().st_size for path in folder.rglob("*.wandb")}
        if sizes and sizes == before and min(sizes.values()) > len(MAGIC):
            return
    raise AssertionError(f"wandb wrote nothing: {sizes}")


def test_rows_and_settings(write):
    records = [run_record("abc", "jolly", optim='"adamw_torch"', trainer={"max_grad_norm": 0.5}), *rows(range(1, 6))]
    records.insert(3, field(5, item("weight_decay", 0.1)))
    norms = read_norms(write(records))
    assert norms.steps.tolist() == [1, 2, 3, 4, 5]
    assert norms.values.tolist() == [1.0, 1 / 2, 1 / 3, 1 / 4, 1 / 5]
    assert norms.source.columns == {"norm": "train/grad_norm", "step": "train/global_step"}
    assert norms.source.format == "W&B run file"
    assert norms.source.settings == {"optimizer": "adamw_torch", "clip": 0.5, "weight_decay": 0.1}
    assert norms.source.notes == ('steps are from "train/global_step", not from "_step": --step-column chooses',)


def test_names_of_nested_keys_are_joined_with_dots(write):
    nested = [history({"train|grad_norm": 0.5 * t, "train|lr": 0.1, "_step": t, "gpu|0|heat": 1}) for t in (1, 2)]
    norms = read_norms(write(nested))
    assert norms.source.columns == {"norm": "train.grad_norm", "lr": "train.lr", "step": "_step"}
    assert norms.values.tolist() == [0.5, 1.0]
    assert any("counts calls of wandb.log" in note for note in norms.source.notes)


def test_values_of_every_kind(write):
    values = ["NaN", "Infinity", '"0.25"', "null", "true", "[1]", '{"_type": "histogram"}', "", "{", "0.125", "1"]
    norms = read_norms(write([history({"step": t, "grad_norm": value}) for t, value in enumerate(values, 1)]))
    assert norms.steps.tolist() == [3, 10, 11]
    assert norms.values.tolist() == [0.25, 0.125, 1.0]
    assert norms.dropped["non-finite"] == 2


def test_records_larger_than_a_block(write):
    large = field(4, bytes(100_000))
    wide = history({"train/global_step": 4, "train/grad_norm": 9, "table": "1" * 70_000})
    assert read_norms(write([large, *rows(range(1, 4)), large, wide])).values.tolist() == [1.0, 1 / 2, 1 / 3, 9.0]


def test_a_file_cut_anywhere_gives_what_is_whole(write):
    whole = leveldb([run_record("abc"), *rows(range(1, 500))])
    assert 32 * 1024 < len(whole) < 64 * 1024
    full_block = read_norms(write(whole[: 32 * 1024])).steps.size
    for length in (*range(len(whole) - 220, len(whole)), *range(32 * 1024 - 120, 32 * 1024 + 120)):
        norms = read_norms(write(whole[:length]))
        assert norms.values.tolist() == [1.0 / t for t in range(1, norms.steps.size + 1)]
        assert norms.steps.size >= (496 if length > 40_000 else full_block - 2)
        assert dict(norms.dropped) in ({}, {"truncated last record": 1})
    cut = read_norms(write(whole[:-1]))
    assert (cut.steps.size, dict(cut.dropped)) == (498, {"truncated last record": 1})
    last = len(rows([499])[0]) + 7
    assert dict(read_norms(write(whole[: 3 - last])).dropped) == {"truncated last record": 1}
    assert dict(read_norms(write(whole[:-last])).dropped) == {}
    assert dict(read_norms(write(whole)).dropped) == {}
    assert dict(read_norms(write(whole + bytes(500))).dropped) == {}


def test_a_damaged_block_is_skipped_and_that_is_said(write):
    whole = bytearray(leveldb([run_record("abc"), *rows(range(1, 2000))]))
    whole[40_000] ^= 1
    norms = read_norms(write(bytes(whole)))
    missing = set(range(1, 2000)) - set(norms.steps.tolist())
    assert missing == set(range(min(missing), max(missing) + 1))
    assert 200 < len(missing) < 300  # up to the end of the block, which holds some 300
    assert norms.values.tolist() == [1.0 / t for t in norms.steps]
    assert "damaged blocks of 32 KiB: 1; the rows after the damage in each are missing" in norms.source.notes


def test_any_damage_is_survived(write):
    whole = leveldb([run_record("abc", lr=0.1), *rows(range(1, 1000))])
    generator = random.Random(0)
    for _ in range(150):
        broken = bytearray(whole)
        for _ in range(generator.choice([1, 3, 30])):
            broken[generator.randrange(7, len(broken))] = generator.randrange(256)
        with contextlib.suppress(RefineError):
            norms = read_norms(write(bytes(broken)))
            assert norms.values.tolist() == [1.0 / t for t in norms.steps]


def test_messages_that_are_no_protobuf_are_survived(write):
    generator = random.Random(1)
    junk = [generator.randbytes(generator.randrange(60)) for _ in range(300)]
    junk += [field(2, field(1, generator.randbytes(20))) for _ in range(300)] + [
        b"\x12",
        b"\x12\xff",
        b"\xff" * 30,
        b"",
    ]
    assert read_norms(write([*junk, *rows(range(1, 4)), *junk])).values.tolist() == [1.0, 1 / 2, 1 / 3]


def test_a_file_without_history_is_refused(write):
    for data in (MAGIC, b":W&B", leveldb([run_record("abc")])):
        with pytest.raises(RefineError, match="the run has no history"):
            read_norms(write(data))
    with pytest.raises(RefineError, match='no column is known to be a gradient norm; columns: "loss"'):
        read_norms(write([history({"loss": 1, "_step": 1})]))


def test_several_runs_are_told_by_name_id_or_folder(write, tmp_path):
    for id, name, last in (("a1", "jolly-frog-1", 3), ("b2", "calm-sun-2", 5), ("c3", "no-norm-3", 0)):
        write(
            [run_record(id, name), *rows(range(1, last + 1)), history({"loss": 1})], f"wandb/run-1-{id}/run-{id}.wandb"
        )
    for place in (tmp_path, tmp_path / "wandb"):
        with pytest.raises(RefineError, match='holds 2 runs: "calm-sun-2", "jolly-frog-1"; choose one with --run'):
            read_norms(place)
        for run in ("calm-sun-2", "b2", "run-1-b2"):
            assert read_norms(place, run=run).steps.size == 5
    with pytest.raises(RefineError, match='no run is called "x"'):
        read_norms(tmp_path, run="x")
    assert read_norms(tmp_path / "wandb/run-1-a1").steps.size == 3
    assert read_norms(tmp_path / "wandb/run-1-a1/run-a1.wandb", run="a1").steps.size == 3


def test_runs_of_one_name_are_told_by_id(write, tmp_path):
    for id in ("a1", "b2"):
        write([run_record(id, "same\n\x1b[31m"), *rows(range(1, 4))], f"wandb/run-1-{id}/run-{id}.wandb")
    with pytest.raises(RefineError, match=r'"same\\n\\x1b\[31m \(a1\)", "same\\n\\x1b\[31m \(b2\)"'):
        read_norms(tmp_path)
    assert read_norms(tmp_path, run="b2").steps.size == 3


def test_sessions_of_one_run_are_read_one_after_the_other(write, tmp_path):
    write([run_record("a1"), *rows(range(1, 8))], "wandb/offline-run-20260101_1-a1/run-a1.wandb")
    again = [history({"train/global_step": t, "train/grad_norm": 10.0 + t, "_step": t - 5}) for t in range(5, 11)]
    write([run_record("a1"), *again], "wandb/offline-run-20260102_1-a1/run-a1.wandb")
    norms = read_norms(tmp_path / "wandb")
    assert norms.steps.tolist() == list(range(1, 11))
    assert norms.values.tolist() == [1.0, 1 / 2, 1 / 3, 1 / 4, 15.0, 16.0, 17.0, 18.0, 19.0, 20.0]
    assert (dict(norms.dropped), norms.out_of_order) == ({"superseded": 3}, 1)


@pytest.fixture(scope="module")
def wandb(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, value in {"MODE": "offline", "SILENT": "true", "CONFIG_DIR": home, "CACHE_DIR": home}.items():
            patch.setenv(f"WANDB_{name}", str(value))
        yield pytest.importorskip("wandb")


def test_runs_of_wandb(wandb, tmp_path):
    config = {"optim": "sgd", "trainer": {"max_grad_norm": 1.0}}
    written = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ("jolly-frog-1", "calm-sun-2"):
            run = wandb.init(project="p", name=name, dir=tmp_path, config=config)
            for t in range(1, 501):
                norm = {7: math.nan, 8: math.inf}.get(t, random.random())
                if math.isfinite(norm):
                    written[name, 2 * t] = norm
                run.log({"train/grad_norm": norm, "train/global_step": 2 * t, "more": {"text": "x" * 99, "n": t}})
                run.log({"train/learning_rate": 0.1 / t, "train/loss": float(t), "train/global_step": 2 * t})
            run.config.update({"weight_decay": 0.25})
            run.finish()
    settle(tmp_path)
    with pytest.raises(RefineError, match='holds 2 runs: "calm-sun-2", "jolly-frog-1"'):
        read_norms(tmp_path)
    norms = read_norms(tmp_path, run="jolly-frog-1")
    assert {("jolly-frog-1", t): v for t, v in zip(norms.steps.tolist(), norms.values.tolist(), strict=True)} == {
        key: value for key, value in written.items() if key[0] == "jolly-frog-1"
    }
    assert norms.learning_rate.tolist() == [0.1 / (t // 2) for t in norms.steps.tolist()]
    assert norms.loss.tolist() == [t // 2 for t in norms.steps.tolist()]
    assert dict(norms.dropped) == {"without a norm": 500, "non-finite": 2}
    assert norms.source.settings == {"optimizer": "sgd", "clip": 1.0, "weight_decay": 0.25}
    assert norms.source.optimizer == "sgd"


def test_a_run_of_lightning_counts_from_0(wandb, tmp_path):
    pytest.importorskip("lightning")
    from lightning.pytorch.loggers import WandbLogger

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger = WandbLogger(save_dir=tmp_path, offline=True)
        for t in range(4):
            logger.log_metrics({"grad_2.0_norm_total": 1.0 + t}, step=t)
            logger.log_metrics({"lr-SGD": 0.1}, step=t)
        logger.experiment.finish()
    settle(tmp_path)
    norms = read_norms(tmp_path)
    assert norms.source.columns["step"] == "trainer/global_step"
    assert norms.steps.tolist() == [1, 2, 3, 4]
    assert norms.values.tolist() == [1.0, 2.0, 3.0, 4.0]

"""TensorBoard event files: those of the real writers, and what happens to them."""

from __future__ import annotations

import json
import math
import struct

import numpy as np
import pytest

from refine import RefineError, read_norms

pytest.importorskip("tensorboard")
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary

from refine.readers import tfrecord


def framed(*events: Event) -> bytes:
    out = b""
    for event in events:
        data = event.SerializeToString()
        sizes = np.full(1, len(data))
        check = tfrecord._masked(tfrecord._crc32c(np.frombuffer(data, np.uint8), np.zeros(1, np.int64), sizes))
        out += struct.pack("<QI", len(data), tfrecord._check_of_length(len(data))) + data + check.tobytes()
    return out


def scalar(tag: str, step: int, value: float) -> Event:
    return Event(wall_time=1.0, step=step, summary=Summary(value=[Summary.Value(tag=tag, simple_value=value)]))


START = Event(wall_time=1.0, file_version="brain.Event:2")


def norms_of(count: int, *, first: int = 1) -> list[Event]:
    return [scalar("grad_norm", t, 1 / t) for t in range(first, first + count)]


def f32(values) -> list[float]:
    return np.asarray(values, dtype=np.float32).astype(np.float64).tolist()


def truth(shared, name="first") -> np.ndarray:
    return np.genfromtxt(shared / "formats/rendered" / f"TRUTH_{name}.csv", delimiter=",", names=True)


def test_crc_of_the_rfc():
    # RFC 3720, B.4: 32 bytes of zeros, 32 of ones, 0..31
    data = np.frombuffer(bytes(32) + b"\xff" * 32 + bytes(range(32)), np.uint8)
    found = tfrecord._crc32c(data, np.array([0, 32, 64]), np.array([32, 32, 32]))
    assert [hex(crc) for crc in found] == ["0x8a9136aa", "0x62a8ab43", "0x46dd794e"]


def test_hf_sample(shared):
    norms = read_norms(shared / "formats/tensorboard/hf_v5.23.0")
    expected = json.loads((shared / "formats/expected.json").read_text())
    expected = expected["hf_trainer/v5.23.0_lr_is_this_step_trainer_state.json"]
    assert norms.steps.tolist() == expected["steps"]
    assert norms.values.tolist() == f32(expected["grad_norm"])
    assert norms.learning_rate is not None
    assert norms.learning_rate.tolist() == f32(expected["learning_rate"])
    source = norms.source
    assert (source.clipping, source.lr_alignment, source.format) == ("pre", "this_step", "TensorBoard events")
    assert source.settings["clip"] == 1.0
    assert source.settings["optimizer"] == "adamw_torch_fused"
    assert (norms.total_steps, norms.kind, dict(norms.dropped)) == (40, "l2", {})


@pytest.mark.parametrize("folder", ["resumed_no_purge", "resumed_purge_step"])
def test_resumed_samples(shared, folder):
    norms = read_norms(shared / "formats/tensorboard" / folder)
    first, resumed = truth(shared), truth(shared, "resumed")
    l2 = {int(row["step"]): row["l2"] for rows in (first[first["step"] <= 200], resumed) for row in rows}
    assert norms.steps.tolist() == list(range(5, 401, 5))
    assert norms.values.tolist() == f32([l2[t] for t in norms.steps])
    assert norms.learning_rate is not None
    assert norms.loss is not None
    assert norms.dropped.get("superseded", 0) == (6 if folder == "resumed_no_purge" else 0)
    assert bool(norms.dropped.get("purged by a restart")) == (folder == "resumed_purge_step")


def test_megatron_sample(shared):
    norms = read_norms(shared / "formats/tensorboard/megatron_tags")
    first = truth(shared)[:100]
    assert norms.steps.tolist() == list(range(1, 101))
    assert norms.values.tolist() == f32(first["l2"])
    assert norms.source.columns == {
        "norm": "grad-norm", "step": "step", "lr": "learning-rate", "loss": "lm loss",
    }  # fmt: skip
    assert (norms.source.clipping, norms.source.lr_alignment) == ("pre", "next_step")
    with pytest.raises(RefineError, match='no column is called "grad-norm vs samples"'):
        read_norms(shared / "formats/tensorboard/megatron_tags", column="grad-norm vs samples")


def test_scalars_in_tensors_sample(shared):
    norms = read_norms(shared / "formats/tensorboard/tf2_scalar_as_tensor", column="epoch_loss")
    assert norms.steps.tolist() == list(range(200))
    assert norms.values.tolist() == f32(1 / (1 + np.arange(200)))


def test_histogram_sample(shared):
    norms = read_norms(shared / "formats/tensorboard/histograms_only")
    assert norms.steps.tolist() == [0, 10, 20, 30, 40]
    assert norms.values[0] == math.sqrt(0.010508561407600984)
    assert norms.kind == "l2"
    assert any("histograms" in note for note in norms.source.notes)


def test_download_sample(shared):
    path = shared / "formats/tensorboard/tensorboard_download_1000_of_100000.csv"
    norms = read_norms(path, column="Value")
    assert (norms.steps.size, norms.steps[0], norms.values[0]) == (1000, 42, 0.9596928954124451)
    assert norms.source.format == "TensorBoard CSV download"
    with pytest.raises(RefineError, match="--column Value"):
        read_norms(path)


@pytest.fixture
def writer(tmp_path):
    tensorboard = pytest.importorskip("torch.utils.tensorboard")
    writers = []

    def make(name: str = "run", **more):
        writers.append(tensorboard.SummaryWriter(tmp_path / name, **more))
        return writers[-1]

    yield make
    for each in writers:
        each.close()


def test_torch_writer(writer, tmp_path):
    torch = pytest.importorskip("torch")
    values = np.random.default_rng(0).lognormal(size=60)
    values[[7, 8]] = math.nan, math.inf
    log = writer()
    for t, value in enumerate(values, 1):
        log.add_scalar("train/grad_norm", value, t, new_style=t % 2 == 0)
        log.add_scalar("train/learning_rate", 1e-3 / t, t, new_style=True, double_precision=True)
        log.add_scalar("train/loss", 1 / t, t)
        log.add_histogram("grad/w", torch.full((10,), 3.0), t)
        log.add_scalars("losses", {"grad_norm": 7.0}, t) if t == 1 else None
        log.add_text("note", "grad_norm: 7", t)
    log.add_text("args", json.dumps({"max_grad_norm": 0.5, "max_steps": 80}))
    log.close()
    norms = read_norms(tmp_path, run="run")
    kept = np.isfinite(values)
    assert norms.steps.tolist() == (np.flatnonzero(kept) + 1).tolist()
    assert norms.values.tolist() == f32(values[kept])
    assert norms.learning_rate is not None
    assert norms.learning_rate.tolist() == (1e-3 / norms.steps).tolist()
    assert norms.dropped == {"non-finite": 2}
    assert norms.source.settings == {"clip": 0.5}
    assert norms.total_steps == 80
    assert not any("histogram" in note for note in norms.source.notes)


def test_lightning_counts_from_zero(make_log):
    events = [scalar(tag, t, 1 / (t + 1)) for t in range(4, 50, 5) for tag in ("grad_2.0_norm_total", "lr-AdamW")]
    norms = read_norms(make_log(framed(START, *events), "tfevents"))
    assert norms.steps.tolist() == list(range(5, 51, 5))
    assert norms.values.tolist() == f32(1 / norms.steps)
    assert (norms.source.clipping, norms.source.lr_alignment, norms.source.optimizer) == ("pre", "this_step", "adam")


def test_histograms_of_several_tensors(writer, tmp_path):
    torch = pytest.importorskip("torch")
    draw = torch.Generator().manual_seed(0)
    log, expected = writer(), []
    for t in range(1, 6):
        parts = [torch.randn(n, generator=draw, dtype=torch.float64) for n in (5, 300)]
        for i, part in enumerate(parts):
            log.add_histogram(f"grad/layer{i}", part, t)
            log.add_histogram(f"weights/layer{i}", 100 * part, t)
        expected.append(math.sqrt(sum(float((part**2).sum()) for part in parts)))
    log.close()
    norms = read_norms(tmp_path / "run")
    np.testing.assert_allclose(norms.values, expected, rtol=1e-12)
    assert norms.kind == "l2"


def test_purge_drops_what_the_restart_logs_anew(writer, tmp_path):
    log = writer()
    for t in range(1, 31):
        log.add_scalar("grad_norm", t, t)
    log.close()
    log = writer(purge_step=21, filename_suffix=".later")
    for t in range(22, 41, 2):  # not the same steps: only the purge can tell that 21, 23 .. 29 are gone
        log.add_scalar("grad_norm", 100 + t, t)
    log.close()
    norms = read_norms(tmp_path / "run")
    assert norms.steps.tolist() == [*range(1, 21), *range(22, 41, 2)]
    assert norms.values.tolist() == [*range(1, 21), *range(122, 141, 2)]
    assert norms.dropped == {"purged by a restart": 10}


def test_several_runs(make_log, tmp_path):
    for name, tag in (("a", "grad_norm"), ("b", "grad_norm"), ("b/eval", "loss"), ("c", "eval/grad_norm")):
        (tmp_path / name).mkdir()
        make_log(framed(START, *[scalar(tag, t, ord(name[0])) for t in range(1, 30)]), f"{name}/x.tfevents.1")
    with pytest.raises(RefineError, match='2 runs: "a", "b"; choose one with --run'):
        read_norms(tmp_path)
    assert read_norms(tmp_path, run="b").values[0] == ord("b")
    with pytest.raises(RefineError, match='no run is called "d"'):
        read_norms(tmp_path, run="d")
    (tmp_path / "a/x.tfevents.1").unlink()
    assert read_norms(tmp_path).values[0] == ord("b")  # folders without a norm force no choice


def test_truncated_end(make_log, tmp_path):
    whole = framed(START, *norms_of(30))
    make_log(whole[:-5], "events.out.tfevents.1.a")
    make_log(framed(START, *norms_of(10, first=40)), "events.out.tfevents.2.a")
    norms = read_norms(tmp_path)
    assert norms.steps.tolist() == [*range(1, 30), *range(40, 50)]
    assert norms.dropped == {"truncated last record": 1}
    lost = len(framed(*norms_of(1, first=30))) - 5
    assert norms.source.notes == (f"events.out.tfevents.1.a: its last {lost} bytes are lost (truncated last record)",)


def test_every_length_of_a_file(make_log):
    whole = framed(START, *norms_of(6))
    ends = np.cumsum([len(framed(event)) for event in (START, *norms_of(6))])
    for length in range(len(whole) + 1):
        path = make_log(whole[:length], "tfevents")
        count = int(np.count_nonzero(ends[1:] <= length))
        if count < 2:
            with pytest.raises(RefineError):
                read_norms(path)
        else:
            norms = read_norms(path)
            assert norms.steps.size == count
            assert norms.dropped == ({} if length in ends else {"truncated last record": 1})


def test_any_flipped_byte_is_found(make_log):
    whole = framed(START, *norms_of(12))
    ends = np.cumsum([len(framed(event)) for event in (START, *norms_of(12))])
    for at in range(ends[3], len(whole)):
        path = make_log(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :], "tfevents")
        norms = read_norms(path)
        assert norms.dropped == {"damaged records": 1}
        assert norms.steps.size == np.count_nonzero(ends[1:] <= at)
        assert f"last {len(whole) - ends[ends <= at][-1]} bytes" in norms.source.notes[0]


def test_end_of_zeros(make_log):
    norms = read_norms(make_log(framed(START, *norms_of(30)) + bytes(4096), "tfevents"))
    assert (norms.steps.size, norms.dropped) == (30, {"damaged records": 1})
    assert "4,096 bytes" in norms.source.notes[0]


def test_no_message_in_a_whole_record(make_log):
    event = Event(wall_time=1.0)
    event.summary.value.add(tag="x" * 5000)  # too long for the check of its data
    broken = bytearray(framed(event))
    broken[12] = 0xFF
    norms = read_norms(make_log(framed(START, *norms_of(5)) + bytes(broken) + framed(*norms_of(3)), "tfevents"))
    assert (norms.steps.size, norms.dropped) == (5, {"damaged records": 1})
    assert f"last {len(broken) + len(framed(*norms_of(3))):,} bytes" in norms.source.notes[0]


def test_long_records_across_blocks(make_log, monkeypatch):
    monkeypatch.setattr(tfrecord, "_BLOCK", 1000)
    monkeypatch.setattr(tfrecord, "_LONGEST", 8000)
    events = [START]
    for t, size in enumerate([0, 10, 900, 1000, 3000, 7000, 9000, 20_000, 5], 1):
        events += [scalar("x" * size, t, 1.0), scalar("grad_norm", t, t)]
    norms = read_norms(make_log(framed(*events), "tfevents"))
    assert norms.values.tolist() == list(range(1, 10))
    assert norms.dropped == {}


def test_hostile_names(make_log):
    named = [
        scalar(tag, t, t + len(tag))
        for t in range(1, 5)
        for tag in ("grad_norm\n\x1b[31m", "../grad_norm", "", "é grad norm")
    ]
    with pytest.raises(RefineError, match=r"choose one with --column") as error:
        read_norms(make_log(framed(START, *named), "tfevents"))
    assert str(error.value).isprintable()


def test_huge_length(make_log):
    huge = 2**62
    record = struct.pack("<QI", huge, tfrecord._check_of_length(huge)) + b"x" * 50
    norms = read_norms(make_log(framed(START, *norms_of(5)) + record, "tfevents"))
    assert norms.dropped == {"truncated last record": 1}


def test_told_by_content_not_by_name(make_log):
    assert read_norms(make_log(framed(START, *norms_of(5)), "log.bin")).steps.size == 5


def test_progress_over_all_files(make_log, tmp_path, monkeypatch):
    monkeypatch.setattr(tfrecord, "_BLOCK", 1000)
    for i in range(3):
        make_log(framed(START, *norms_of(100, first=1 + 100 * i)), f"tfevents.{i}")
    seen: list[float] = []
    read_norms(tmp_path, progress=seen.append)
    assert seen == sorted(seen)
    assert len(seen) > 10
    assert seen[-1] == 1.0


def test_no_scalars(make_log, tmp_path):
    make_log(framed(START), "tfevents.1")
    with pytest.raises(RefineError, match="the files hold no scalars"):
        read_norms(tmp_path)
    make_log(b"", "tfevents.1")
    with pytest.raises(RefineError, match="the files hold no scalars"):
        read_norms(tmp_path)


def test_names_the_extra(make_log, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto.event_pb2", None)
    with pytest.raises(RefineError, match=r"pip install tensorboard$"):
        read_norms(make_log(framed(START, *norms_of(5)), "tfevents"))

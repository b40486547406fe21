from __future__ import annotations

import json
import warnings

import pytest

from refine import RefineError, read_norms


def test_sample(shared):
    norms = read_norms(shared / "formats/mmengine/scalars.json")
    rows = [json.loads(line) for line in (shared / "formats/mmengine/scalars.json").read_text().splitlines()]
    train = [row for row in rows if "grad_norm" in row]
    assert norms.steps.tolist() == [row["step"] for row in train] == list(range(10, 101, 10))
    assert norms.values.tolist() == [row["grad_norm"] for row in train]
    assert norms.learning_rate.tolist() == [row["lr"] for row in train]
    assert norms.loss.tolist() == [row["loss"] for row in train]
    assert not norms.source.kind_known
    assert norms.source.window_mean
    assert (norms.source.clipping, norms.source.lr_alignment, norms.source.notes) == ("pre", "this_step", ())


def test_folder(make_log, shared, tmp_path):
    text = (shared / "formats/mmengine/scalars.json").read_text()
    for run in ("20260101_000000", "20260102_000000"):
        (tmp_path / "work" / run / "vis_data").mkdir(parents=True)
        (tmp_path / "work" / run / "vis_data" / "scalars.json").write_text(text)
    assert read_norms(tmp_path / "work" / run).steps.size == 10
    with pytest.raises(RefineError, match='2 runs: "20260101_000000", "20260102_000000"; choose one with --run'):
        read_norms(tmp_path / "work")
    assert read_norms(tmp_path / "work", run=run).steps.size == 10


@pytest.mark.parametrize(
    ("mark", "total"),
    [
        ("Epoch(train)  [{epoch}][{at:2d}/50]  ", 100),
        ("Iter(train) [{step:3d}/200]  ", 200),
        ("Epoch [{epoch}][{at}/50]\t", 100),
    ],
)
def test_console(make_log, mark, total):
    text = "".join(
        "01/01 10:00:00 - mmengine - INFO - "
        + mark.format(epoch=(step - 1) // 50 + 1, at=(step - 1) % 50 + 1, step=step)
        + f"lr: {step / 1e4:.4e}  eta: 0:00:01  time: 0.1  data_time: 0.1  grad_norm: {step / 8:.4f}  loss: 5.1263\n"
        for step in range(10, 101, 10)
    )
    text += "01/01 10:00:00 - mmengine - INFO - Epoch(val) [2][25/25]    acc: 0.5  data_time: 0.1  time: 0.1\n"
    norms = read_norms(make_log(text, name="out.log"))
    assert norms.steps.tolist() == list(range(10, 101, 10))
    assert norms.values.tolist() == [step / 8 for step in range(10, 101, 10)]
    assert norms.learning_rate == pytest.approx([step / 1e4 for step in range(10, 101, 10)], rel=1e-4)
    assert norms.total_steps == total


def test_written_by_mmengine(tmp_path):
    pytest.importorskip("mmengine")
    pytest.importorskip("cv2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mmengine.visualization import LocalVisBackend

        backend = LocalVisBackend(str(tmp_path / "vis_data"))
        for step in range(10, 101, 10):
            scalars = {
                "lr": step / 1e4,
                "data_time": 0.1,
                "grad_norm": step / 8,
                "loss": 5.0,
                "time": 0.1,
                "iter": step,
            }
            backend.add_scalars(scalars, step=step)
            if step == 50:
                backend.add_scalars({"acc": 0.5, "data_time": 0.1, "time": 0.1}, step=1)
    norms = read_norms(tmp_path)
    assert norms.steps.tolist() == list(range(10, 101, 10))
    assert norms.values.tolist() == [step / 8 for step in range(10, 101, 10)]


def test_clipping_off(make_log):
    rows = [{"lr": 0.1, "data_time": 0.1, "loss": 5.0, "time": 0.1, "iter": s, "step": s} for s in range(10, 51, 10)]
    with pytest.raises(RefineError, match="only where optim_wrapper has clip_grad"):
        read_norms(make_log("".join(json.dumps(row) + "\n" for row in rows)))

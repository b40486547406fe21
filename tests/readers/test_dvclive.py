"""DVCLive's folders of TSV files."""

from __future__ import annotations

import math

import pytest

from refine import RefineError, read_norms


@pytest.mark.parametrize("where", [".", "dvclive", "dvclive/plots", "dvclive/plots/metrics"])
def test_sample(shared, where):
    norms = read_norms(shared / "formats/dvclive" / where)
    assert norms.steps.tolist() == [1, 2, 3, 4, 5]  # it counts from 0
    assert norms.values.tolist() == [1.0, 0.5, 1 / 3, 0.25, 0.2]
    assert norms.learning_rate is not None
    assert norms.learning_rate.tolist() == [1e-3] * 5
    assert norms.loss is not None
    assert norms.loss[[0, 1, 2, 4]].tolist() == [4.0, 3.0, 2.0, 0.0]
    assert math.isnan(norms.loss[3])
    assert norms.source.columns == {
        "norm": "train/grad_norm", "step": "step", "lr": "lr", "loss": "train/loss",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["train/grad_norm.tsv", "lr.tsv"])
def test_one_file_of_the_folder(shared, name):
    norms = read_norms(shared / "formats/dvclive/dvclive/plots/metrics" / name)
    assert norms.values.tolist() == [1.0, 0.5, 1 / 3, 0.25, 0.2]
    assert norms.learning_rate is not None
    assert norms.source.format == "DVCLive"


def test_written_by_dvclive(tmp_path, monkeypatch):
    dvclive = pytest.importorskip("dvclive")
    monkeypatch.chdir(tmp_path)
    values = [math.nan if t == 5 else math.inf if t == 9 else 1 / (t + 3) for t in range(30)]

    def train(first: int, shift: float, **more) -> None:
        live = dvclive.Live("exp/live", save_dvc_exp=False, dvcyaml=None, **more)
        live.log_params({"optimizer": "AdamW", "train": {"max_grad_norm": 0.5}})
        for t in range(first, 30):
            live.step = t
            live.log_metric("train/grad_norm", values[t] + shift, timestamp=True)
            live.log_metric("train/lr", 0.1 / (t + 1))
            live.make_summary()
        live.end()

    train(0, 0.0)
    train(20, 7.0, resume=True)
    for path in (tmp_path, "exp/live/plots/metrics/train/grad_norm.tsv"):
        norms = read_norms(path)
        assert norms.steps.tolist() == [t + 1 for t in range(30) if t not in (5, 9)]
        assert norms.values.tolist() == [values[t - 1] + 7.0 * (t > 20) for t in norms.steps]
        assert norms.learning_rate is not None
        assert norms.learning_rate.tolist() == [0.1 / t for t in norms.steps]
        assert norms.dropped == {"non-finite": 2, "superseded": 10}
        assert norms.source.settings == {"optimizer": "AdamW", "clip": 0.5}


@pytest.fixture
def live(tmp_path):
    def make(folder="dvclive", **metrics):
        top = tmp_path / folder / "plots/metrics"
        top.mkdir(parents=True)
        for name, text in metrics.items():
            (top / f"{name}.tsv").write_bytes(text.encode())
        return tmp_path

    return make


def lines(count: int, first: int = 0, scale: float = 1.0, end: str = "\n") -> str:
    return f"step\tx{end}" + "".join(f"{t}\t{scale / (t + 1)!r}{end}" for t in range(first, first + count))


def test_damage(live):
    path = live(grad_norm=lines(20) + "\x00\x00\n20\tx\n21\n22\t0.5\tx\t3\n23\t0.0", lr=lines(20, end="\r\n"))
    norms = read_norms(path)
    assert norms.steps.tolist() == list(range(1, 21))
    assert norms.learning_rate is not None
    assert norms.learning_rate.tolist() == norms.values.tolist()
    assert norms.dropped == {"damaged lines": 4, "truncated last line": 1}


def test_steps_from_one_are_kept(live):
    assert read_norms(live(grad_norm=lines(20, first=1))).steps.tolist() == list(range(1, 21))


def test_several_runs(live):
    live("a", grad_norm=lines(20))
    live("b/c", grad_norm=lines(20, scale=2.0))
    path = live("eval", loss=lines(20))
    with pytest.raises(RefineError, match='2 runs: "a", "b/c"; choose one with --run'):
        read_norms(path)
    assert read_norms(path, run="b/c").values[0] == 2.0


def test_a_table_elsewhere_is_a_table(make_log):
    assert read_norms(make_log("step\tgrad_norm\n1\t2.0\n2\t3.0\n", "plots.tsv")).source.format == "TSV"


def test_steps_of_transformers_are_questioned(live):
    text = lines(20)
    norms = read_norms(live(grad_norm=text, learning_rate=text, loss=text, epoch=text))
    assert any("a step is a log" in note for note in norms.source.notes)

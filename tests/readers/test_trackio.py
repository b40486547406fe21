"""trackio's project files."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sqlite3
import subprocess
import sys

import pytest

from refine import RefineError, read_norms


def test_sample(shared, tmp_path):
    norms = read_norms(shared / "formats/trackio/demo.db")
    with sqlite3.connect(shutil.copy(shared / "formats/trackio/demo.db", tmp_path / "copy.db")) as connection:
        found = connection.execute("SELECT step, metrics FROM metrics").fetchall()
    connection.close()
    rows = [(step, json.loads(text)) for step, text in found]
    kept = [(step, row) for step, row in rows if isinstance(row["train/grad_norm"], float)]
    assert len(kept) == 8 == len(rows) - 2
    assert norms.steps.tolist() == [step for step, _ in kept]
    assert norms.values.tolist() == [row["train/grad_norm"] for _, row in kept]
    assert norms.learning_rate is not None
    assert norms.learning_rate.tolist() == [row["train/learning_rate"] for _, row in kept]
    assert norms.loss is not None
    assert norms.dropped == {"non-finite": 2}


WRITER = """
import math, trackio
for name, scale in (("a", 1.0), ("b", 2.0)):
    trackio.init(project="p", name=name, config={"max_grad_norm": 0.5}, auto_log_gpu=False, auto_log_cpu=False)
    for t in range(1, 21):
        norm = {5: math.nan, 6: math.inf, 7: -math.inf}.get(t, scale / t)
        trackio.log({"train/grad_norm": norm, "train/learning_rate": 0.1 / t, "text": "x"}, step=t)
    trackio.finish()
trackio.init(project="p", name="b", resume="must", auto_log_gpu=False, auto_log_cpu=False)
for t in range(18, 26):
    trackio.log({"train/grad_norm": 9.0 + t}, step=t)
trackio.finish()
"""


def test_written_by_trackio(tmp_path):
    if importlib.util.find_spec("trackio") is None:
        pytest.skip("no trackio")
    places = {"TRACKIO_DIR": str(tmp_path), "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, "-c", WRITER], env={**os.environ, **places}, check=True, capture_output=True)
    with pytest.raises(RefineError, match='2 runs: "a", "b"; choose one with --run'):
        read_norms(tmp_path / "p.db")
    norms = read_norms(tmp_path / "p.db", run="a")
    assert norms.steps.tolist() == [t for t in range(1, 21) if t not in (5, 6, 7)]
    assert norms.values.tolist() == [1 / t for t in norms.steps]
    assert norms.learning_rate is not None
    assert norms.learning_rate.tolist() == [0.1 / t for t in norms.steps]
    assert norms.source.settings == {"clip": 0.5}
    resumed = read_norms(tmp_path / "p.db", run="b")
    assert resumed.steps.tolist() == [t for t in range(1, 26) if t not in (5, 6, 7)]
    assert resumed.values.tolist() == [2 / t if t < 18 else 9.0 + t for t in resumed.steps]
    assert resumed.dropped == {"non-finite": 3, "superseded": 3}


@pytest.fixture
def project(tmp_path):
    """A project file written by hand: rows of run id, run name, step, metrics."""

    def make(*rows, ids=True, config=None):
        path = tmp_path / "project.db"
        with sqlite3.connect(path) as connection:
            connection.execute(f"CREATE TABLE metrics ({'run_id,' if ids else ''} run_name, step, metrics)")
            rows = [row if ids else row[1:] for row in rows]
            connection.executemany(f"INSERT INTO metrics VALUES ({', '.join('?' * (3 + ids))})", rows)
            connection.execute(f"CREATE TABLE configs ({'run_id,' if ids else ''} run_name, config)")
            if config is not None:
                values = ("i1", "a", config) if ids else ("a", config)
                connection.execute(f"INSERT INTO configs VALUES ({', '.join('?' * (2 + ids))})", values)
        connection.close()
        return path

    return make


def rows_of(run: str, name: str, count: int = 20, first: int = 1, scale: float = 1.0, **more):
    return [
        (run, name, t, json.dumps({"grad_norm": scale / t, "lr": 0.1, **more})) for t in range(first, first + count)
    ]


@pytest.mark.parametrize("ids", [True, False])
def test_one_run(project, ids):
    rows = [*rows_of("i1", "a"), ("i1", "a", 21, "{damaged"), ("i1", "a", 22, b'{"grad_norm": "-Infinity"}')]
    rows += rows_of("i1", "a", first=15, scale=2.0)  # resumed
    rows += [("i2", "b", 1, '{"eval/grad_norm": 3.0}'), ("i2", "b", 2, "[]")]
    config = json.dumps({"optimizer": {"name": "sgd"}, "max_grad_norm": 2.5})
    norms = read_norms(project(*rows, ids=ids, config=config))
    assert norms.steps.tolist() == list(range(1, 35))
    assert norms.values.tolist() == [1 / t for t in range(1, 15)] + [2 / t for t in range(15, 35)]
    assert norms.dropped == {"non-finite": 1, "superseded": 6, "damaged rows": 1}
    assert norms.source.settings == {"clip": 2.5}


def test_several_runs(project):
    path = project(*rows_of("i1", "a"), *rows_of("i2", "a", scale=2), *rows_of("i3", "c", scale=3))
    with pytest.raises(RefineError, match='3 runs: "a \\(i1\\)", "a \\(i2\\)", "c"; choose one with --run'):
        read_norms(path)
    for run in ("i2", "a (i2)"):
        assert read_norms(path, run=run).values[0] == 2.0
    assert read_norms(path, run="c").values[0] == 3.0


def test_a_logged_step_is_preferred(project):
    rows = [("i", "a", t, json.dumps({"train/global_step": 5 * (t + 1), "train/grad_norm": 1.0 + t})) for t in range(9)]
    norms = read_norms(project(*rows))
    assert norms.steps.tolist() == list(range(5, 50, 5))
    assert norms.source.columns["step"] == "train/global_step"


def test_no_runs(project):
    with pytest.raises(RefineError, match="no run with metrics"):
        read_norms(project())


def test_no_norm(project):
    with pytest.raises(RefineError, match='no column is known to be a gradient norm; columns: "step", "loss"'):
        read_norms(project(("i", "a", 1, '{"loss": 1.0}')))

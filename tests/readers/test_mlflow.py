"""MLflow: both stores as MLflow writes them, and as nobody should find them."""

from __future__ import annotations

import math
import sqlite3
import warnings

import numpy as np
import pytest

from refine import RefineError, read_norms

VALUES = np.random.default_rng(0).lognormal(size=30)
VALUES[[4, 5, 6]] = math.nan, math.inf, -math.inf
KEPT = np.isfinite(VALUES)


def test_sample(shared):
    root = shared / "formats/mlflow_mlruns"
    for path in (root, root / "0", root / "0/f5af4cabd4454e238936ee2b7080fbcf"):
        norms = read_norms(path)
        t = np.array([0, 10, 20, 30, 40, 60, 70, 80, 90])
        assert norms.steps.tolist() == t.tolist()
        np.testing.assert_allclose(norms.values, 1 / (1 + t / 50), rtol=1e-15)
        assert norms.learning_rate is not None
        np.testing.assert_allclose(norms.learning_rate, 1e-3 * (1 - t / 100), rtol=1e-15)
        assert norms.loss is not None
        assert norms.source.columns["loss"] == "train/loss"
        assert norms.dropped == {"non-finite": 1}


@pytest.fixture(params=["files", "database"])
def tracked(request, tmp_path, monkeypatch):
    """A store written by MLflow itself: runs of two names, one of them twice, a resumed one, a deleted one."""
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    path = tmp_path / ("mlruns" if request.param == "files" else "mlflow.db")
    if request.param == "database":
        pytest.importorskip("sqlalchemy")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            client = mlflow.MlflowClient(f"sqlite:///{path}" if request.param == "database" else path.as_uri())
            experiment = client.create_experiment("test", artifact_location=(tmp_path / "artifacts").as_uri())
        except Exception as error:
            pytest.skip(f"this MLflow has no such store: {error}")
        from mlflow.entities import Metric, Param

        ids = []
        for name, scale in (("one", 1.0), ("two", 2.0), ("two", 3.0), ("gone", 4.0), ("eval", 5.0)):
            run = client.create_run(experiment, run_name=name).info.run_id
            ids.append(run)
            norm = "eval/grad_norm" if name == "eval" else "train/grad_norm"
            metrics = [Metric(norm, scale * float(v), 1000 + t, t) for t, v in enumerate(VALUES, 1)]
            metrics += [Metric("lr", 0.1 / t, 1000 + t, t) for t in range(1, 31)]
            if name == "one":  # resumed at 20
                metrics += [Metric(norm, float(v) + 7, 2000 + t, t) for t, v in enumerate(VALUES, 1) if t > 20]
            client.log_batch(run, metrics=metrics, params=[Param("optimizer", "AdamW"), Param("clip_norm", "0.5")])
        client.delete_run(ids[3])
    return path, ids


def test_written_by_mlflow(tracked):
    path, ids = tracked
    with pytest.raises(RefineError) as error:
        read_norms(path)
    listed = sorted(["one", f"two ({ids[1]})", f"two ({ids[2]})"])
    assert "3 runs: " + ", ".join(f'"{name}"' for name in listed) + "; choose one with --run" in str(error.value)
    norms = read_norms(path, run="one")
    resumed = np.where(np.arange(1, 31) > 20, VALUES + 7, VALUES)
    assert norms.steps.tolist() == (np.flatnonzero(KEPT) + 1).tolist()
    assert norms.values.tolist() == resumed[KEPT].tolist()
    assert norms.learning_rate is not None
    assert norms.learning_rate.tolist() == [0.1 / t for t in norms.steps]
    assert norms.dropped == {"non-finite": 3, "superseded": 10}
    assert norms.source.settings == {"optimizer": "AdamW", "clip": "0.5"}
    assert norms.source.optimizer == "adam"
    for run in (ids[2], f"two ({ids[2]})"):
        assert read_norms(path, run=run).values.tolist() == (3 * VALUES[KEPT]).tolist()
    for run in ("two", "gone"):
        with pytest.raises(RefineError, match=f'no run is called "{run}"'):
            read_norms(path, run=run)
    with pytest.raises(RefineError, match="no column is known to be a gradient norm"):
        read_norms(path, run="eval")


@pytest.fixture
def store(tmp_path):
    """A file store written by hand: one run, its metrics by name."""

    def make(**metrics):
        run = tmp_path / "mlruns/0/abc"
        (run / "metrics").mkdir(parents=True)
        (run / "meta.yaml").write_text("run_id: abc\nrun_name: 'x y'\nlifecycle_stage: active\n")
        for name, text in metrics.items():
            (run / "metrics" / name).write_text(text)
        return tmp_path / "mlruns"

    return make


def lines(count: int, more: str = "") -> str:
    return "".join(f"1795330953{t:03} {1 / t!r} {t}{more}\n" for t in range(1, count + 1))


def test_damaged_lines(store):
    norms = read_norms(store(grad_norm="1 2\nx y z\n\n1 nan x\n" + lines(20, " data digest") + "1795330953999 0.5 2"))
    assert norms.steps.tolist() == list(range(1, 21))
    assert norms.dropped == {"damaged lines": 3, "truncated last line": 1}


def test_name_in_meta_and_models_beside_runs(store):
    path = store(grad_norm=lines(20))
    model = path / "0/models/m-1"
    (model / "metrics").mkdir(parents=True)
    (model / "meta.yaml").write_text("model_id: m-1\n")
    (model / "metrics/grad_norm").write_text(lines(5))
    assert read_norms(path, run="x y").steps.size == 20
    assert read_norms(path).steps.size == 20


def test_hostile_names(store):
    path = store(**{"grad_norm\n\x1b[31m": lines(20), "b\\grad_norm": lines(20)})
    with pytest.raises(RefineError) as error:
        read_norms(path)
    assert str(error.value).isprintable()


@pytest.fixture
def database(tmp_path):
    def make(*statements):
        path = tmp_path / "mlflow.db"
        with sqlite3.connect(path) as connection:
            for statement in statements:
                connection.execute(statement)
        connection.close()
        return path

    return make


TABLE = "CREATE TABLE metrics (key, value, timestamp, run_uuid, step, is_nan)"
FILL = """WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t LIMIT 20)
INSERT INTO metrics SELECT 'grad_norm', 1.0 / n, 0, 'abc', n, 0 FROM t"""


def test_only_the_table_of_metrics(database):
    norms = read_norms(database(TABLE, FILL, "INSERT INTO metrics VALUES ('grad_norm', 'x', 0, 'abc', 21, NULL)"))
    assert norms.steps.tolist() == list(range(1, 21))
    assert norms.dropped == {"non-finite": 1}


@pytest.mark.parametrize(
    "statements",
    [
        ("CREATE TABLE t (key)", "CREATE VIEW metrics AS SELECT key, 1 value, 1 step, 1 run_uuid, 0 is_nan FROM t"),
        ("CREATE VIRTUAL TABLE metrics USING fts5(key, value, timestamp, run_uuid, step, is_nan)",),
        ("CREATE TABLE metrics (key, value, run_uuid, is_nan, step AS (hex(zeroblob(1000000000))))",),
    ],
)
def test_tables_that_run_code_are_refused(database, statements):
    with pytest.raises(RefineError, match="holds no table of metrics as MLflow or trackio write it"):
        read_norms(database(*statements))


def test_damaged_database(database):
    path = database(TABLE, FILL, *["INSERT INTO metrics SELECT * FROM metrics"] * 8)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RefineError, match=r"SQLite file cannot be read \(.*\); copy it again"):
        read_norms(path)
    random = np.random.default_rng(0)
    for _ in range(60):
        at = int(random.integers(100, 12_000))
        path.write_bytes(whole[:at] + random.bytes(3) + whole[at + 3 :])
        with pytest.raises(RefineError) as error:  # repeated steps, where not worse
            read_norms(path)
        assert str(error.value).isprintable()


def test_nothing_is_written(database):
    path = database("PRAGMA journal_mode = WAL", TABLE, FILL)
    before = path.read_bytes()
    assert read_norms(path).steps.size == 20
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["mlflow.db"]


def test_what_a_live_run_has_not_yet_moved_into_the_file(database):
    path = database("PRAGMA journal_mode = WAL", TABLE)
    writer = sqlite3.connect(path)
    writer.execute(FILL)
    writer.commit()  # in the -wal file only
    assert read_norms(path).steps.size == 20
    writer.close()


def test_names_that_need_quoting(database, tmp_path):
    path = database(TABLE, FILL)
    odd = path.rename(tmp_path / "a b?mode=rwc#%41.db")
    assert read_norms(odd).steps.size == 20

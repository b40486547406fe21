"""Parquet files, wide and long, written by pyarrow and pandas."""

from __future__ import annotations

import contextlib
from decimal import Decimal

import numpy as np
import pytest

from refine import RefineError, read_norms

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

T = list(range(1, 41))
NORMS = np.random.default_rng(0).lognormal(size=40).tolist()


@pytest.fixture
def save(tmp_path):
    def to(**columns):
        path = tmp_path / "log.parquet"
        pq.write_table(pa.table(columns), path, row_group_size=16)
        return path

    return to


def test_wandb_sample(shared):
    norms = read_norms(shared / "formats/rendered/wandb_history_shape.parquet")
    truth = np.genfromtxt(shared / "formats/rendered/TRUTH_first.csv", delimiter=",", names=True)[9:230:10]
    assert norms.steps.tolist() == truth["step"].tolist() == list(range(10, 231, 10))
    np.testing.assert_allclose(norms.values, truth["l2"], rtol=1e-6)
    assert norms.source.columns["step"] == "train/global_step"


def test_null_is_missing_and_nan_is_logged(save):
    norms = pa.array([None, float("nan"), *NORMS[2:]])
    lr = pa.array([None] * 20 + [0.1] * 20, pa.float32())
    read = read_norms(save(step=T, grad_norm=norms, lr=lr))
    assert read.values.tolist() == NORMS[2:]
    assert read.dropped == {"without a norm": 1, "non-finite": 1}
    assert read.learning_rate is not None
    assert read.learning_rate.tolist()[17:] == [pytest.approx(np.nan, nan_ok=True)] + [float(np.float32(0.1))] * 20


def test_types(save):
    step = pa.array([Decimal(t) for t in T], pa.decimal128(18, 6))
    nested = pa.array([{"grad_norm": 7.0}] * 40)
    norms = read_norms(save(step=step, grad_norm=pa.array(NORMS, pa.float32()), grad=nested, loss=["a"] * 40))
    assert norms.steps.tolist() == T
    assert norms.values.tolist() == np.float32(NORMS).astype(float).tolist()
    assert norms.loss is None


def test_names_with_dots(save):
    columns = {"step": [t - 1 for t in T], "grad_2.0_norm_total": NORMS, "grad_2": ["x"] * 40, "grad_2.0_norm/w": NORMS}
    norms = read_norms(save(**columns), extras=True)
    assert norms.values.tolist() == NORMS
    assert list(norms.extras) == ["grad_norm_l2/w"]
    assert norms.steps.tolist() == T  # Lightning counts from 0


def test_resumed(save):
    norms = read_norms(save(step=T[:30] + T[20:], grad_norm=[9.0] * 30 + NORMS[20:]))
    assert norms.values.tolist() == [9.0] * 20 + NORMS[20:]
    assert norms.dropped == {"superseded": 10}


@pytest.mark.parametrize("labels", [["b", "a"], [7, 8]])
def test_run_column(save, labels):
    run = [labels[0]] * 40 + [labels[1]] * 40
    path = save(run_id=run, step=T * 2, grad_norm=NORMS + [3.0] * 40, lr=[None] * 70 + [0.5] * 10)
    with pytest.raises(RefineError, match="2 runs"):
        read_norms(path)
    assert read_norms(path, run=str(labels[0])).values.tolist() == NORMS
    second = read_norms(path, run=str(labels[1]))
    assert second.values.tolist() == [3.0] * 40
    assert second.learning_rate is not None
    assert second.learning_rate[30:].tolist() == [0.5] * 10


def test_neptune_export(save):
    path = save(
        project_id=["p"] * 101,
        run_id=["RUN-1"] * 101,
        attribute_path=["train/grad_norm"] * 30 + ["train/lr"] * 40 + ["args/grad_norm"] + ["train/grad_norm"] * 30,
        attribute_type=["float_series"] * 70 + ["string"] + ["float_series"] * 30,
        step=pa.array([Decimal(t) for t in [*T[:30], *T, 0, *T[10:]]], pa.decimal128(18, 6)),
        float_value=pa.array([9.0] * 30 + [0.1] * 40 + [None, float("nan"), *NORMS[11:]]),
        string_value=pa.array([None] * 70 + ["x"] + [None] * 30),
    )
    norms = read_norms(path)
    assert norms.steps.tolist() == T  # the row of step 11 was logged anew as nan, so the first one is kept
    assert norms.values.tolist() == [9.0] * 11 + NORMS[11:]
    assert norms.dropped == {"non-finite": 1, "superseded": 19}
    assert norms.learning_rate is not None
    assert norms.learning_rate.tolist() == [0.1] * 40


def test_long_table_with_runs(save):
    runs = ["a"] * 80 + ["b"] * 80 + ["c"] * 40
    names = (["grad_norm"] * 40 + ["lr"] * 40) * 2 + ["accuracy"] * 40
    values = [*NORMS, *[0.1] * 40, *[3.0] * 40, *[0.2] * 40, *[1.0] * 40]
    path = save(run_id=runs, attribute_path=names, step=T * 5, float_value=values)
    with pytest.raises(RefineError, match='2 runs: "a", "b"'):
        read_norms(path)
    norms = read_norms(path, run="a")
    assert norms.values.tolist() == NORMS
    assert norms.learning_rate is not None
    assert norms.learning_rate.tolist() == [0.1] * 40


def test_no_norm(save):
    with pytest.raises(RefineError, match='columns: "step", "accuracy"'):
        read_norms(save(step=T, accuracy=NORMS))
    with pytest.raises(RefineError):
        read_norms(save(step=[], grad_norm=[]))


def test_constant_columns_of_many_rows_are_refused(tmp_path):
    path = tmp_path / "bomb.parquet"
    table = pa.table({"step": pa.array(np.ones(2**22)), "grad_norm": pa.array(np.ones(2**22))})
    with pq.ParquetWriter(path, table.schema) as writer:
        for _ in range(3):
            writer.write_table(table)
    with pytest.raises(RefineError, match="as no log does"):
        read_norms(path)


def test_damage_is_no_traceback(save, tmp_path):
    path = save(step=T, grad_norm=NORMS)
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    damaged = [whole[:length] for length in range(8, len(whole), 97)]
    damaged += [whole[:at] + random.bytes(4) + whole[at + 4 :] for at in range(8, len(whole) - 4, 11)]
    for data in damaged:
        path.write_bytes(data)
        with contextlib.suppress(RefineError):
            read_norms(path)


def test_progress(save, monkeypatch):
    monkeypatch.setattr("refine.readers.parquet._BATCH", 10)
    seen: list[float] = []
    read_norms(save(step=T, grad_norm=NORMS), progress=seen.append)
    assert seen == sorted(seen)
    assert len(seen) >= 4
    assert seen[-1] == 1.0


def test_names_the_extra(save, monkeypatch):
    import sys

    path = save(step=T, grad_norm=NORMS)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(RefineError, match=r"pip install pyarrow$"):
        read_norms(path)

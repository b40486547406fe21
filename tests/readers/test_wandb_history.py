"""Rows of a W&B history, as people save them: DataFrame.to_csv, JSON lines of scan_history, Parquet of an export."""

import json

import pytest

from refine import RefineError, read_norms

STEPS = range(10, 210, 10)


def history(extra=(), prefix="train/") -> list[dict]:
    """Rows as scan_history gives them: loss and norm in one, an evaluation in the next, all names in each."""
    rows = []
    for call, t in enumerate(STEPS):
        train = {f"{prefix}grad_norm": 1.0 / t, f"{prefix}learning_rate": 1e-3 - 1e-6 * t, f"{prefix}loss": 4.0 / t}
        common = {f"{prefix}global_step": t, "_runtime": 1.5 * call, "_timestamp": 1.7e9 + call}
        names = dict.fromkeys((*train, "eval/loss", "eval/grad_norm"))
        rows.append({**names, "_step": 2 * call, **common, **train})
        rows.append({**names, "_step": 2 * call + 1, **common, "eval/loss": 9.0, "eval/grad_norm": 9.0})
    return [*rows, *extra]


def as_csv(rows) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [names] + [["" if row.get(name) is None else str(row[name]) for name in names] for row in rows]
    return "".join(",".join(line) + "\n" for line in lines)


def as_indexed_csv(rows) -> str:
    """As DataFrame.to_csv writes it unless it is told not to."""
    head, *lines = as_csv(rows).splitlines()
    return f",{head}\n" + "".join(f"{i},{line}\n" for i, line in enumerate(lines))


def as_lines(rows) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def as_sparse_lines(rows) -> str:
    return as_lines([{k: v for k, v in row.items() if v is not None} for row in rows])


def as_list(rows) -> str:
    return json.dumps(rows, indent=1)


WAYS = [as_csv, as_indexed_csv, as_lines, as_sparse_lines, as_list]


@pytest.mark.parametrize("write", WAYS)
def test_a_history(make_log, write):
    norms = read_norms(make_log(write(history()), name="history"))
    assert norms.steps.tolist() == list(STEPS)
    assert norms.values.tolist() == [1.0 / t for t in STEPS]
    assert norms.learning_rate.tolist() == [1e-3 - 1e-6 * t for t in STEPS]
    assert norms.loss.tolist() == [4.0 / t for t in STEPS]
    assert norms.source.columns["step"] == "train/global_step"
    assert dict(norms.dropped) == {"without a norm": len(STEPS)}
    assert norms.total_steps == 200
    assert norms.source.notes == ('steps are from "train/global_step", not from "_step": --step-column chooses',)


@pytest.mark.parametrize("write", WAYS)
def test_numbers_that_are_none(make_log, write):
    norm = {30: float("nan"), 40: float("inf"), 50: None}
    rows = history()
    for row in rows[::2]:
        row["train/grad_norm"] = norm.get(row["train/global_step"], row["train/grad_norm"])
    norms = read_norms(make_log(write(rows), name="history"))
    assert norms.steps.tolist() == [t for t in STEPS if t not in norm]
    assert norms.dropped["non-finite"] == 2
    assert norms.dropped["without a norm"] == len(STEPS) + 1


@pytest.mark.parametrize("write", WAYS)
def test_a_resumed_run_repeats_its_steps(make_log, write):
    again = [
        {"_step": 100 + i, "train/global_step": t, "train/grad_norm": 50.0 + t}
        for i, t in enumerate((180, 190, 200, 210))
    ]
    norms = read_norms(make_log(write(history(again)), name="history"))
    assert norms.steps.tolist() == [*STEPS, 210]
    assert norms.values[-4:].tolist() == [230.0, 240.0, 250.0, 260.0]
    assert (norms.dropped["superseded"], norms.out_of_order) == (3, 1)


@pytest.mark.parametrize("write", WAYS)
def test_with_nothing_but_the_calls_of_log_that_is_said(make_log, write):
    rows = [{k: v for k, v in row.items() if not k.endswith("global_step")} for row in history()]
    norms = read_norms(make_log(write(rows), name="history"))
    assert norms.source.columns["step"] == "_step"
    assert norms.steps.tolist() == list(range(0, 2 * len(STEPS), 2))
    assert norms.source.notes == ('"_step" of W&B counts calls of wandb.log: check that it counts optimizer updates',)


@pytest.mark.parametrize("write", WAYS)
def test_a_step_that_is_not_in_the_rows_of_the_norm_is_not_used(make_log, write):
    rows = [{"_step": t, "train/grad_norm": 1.0 / t} for t in range(1, 30)]
    rows += [{"_step": 30 + t, "train/global_step": t, "eval/loss": 1.0} for t in range(1, 30)]
    norms = read_norms(make_log(write(rows), name="history"))
    assert norms.source.columns["step"] == "_step"
    assert norms.steps.tolist() == list(range(1, 30))


@pytest.mark.parametrize("write", WAYS)
def test_lightning_counts_from_0(make_log, write):
    rows = [{"_step": 2 * t, "trainer/global_step": t, "grad_2.0_norm_total": 1.0 + t, "epoch": 0} for t in range(5)]
    rows += [{"_step": 20 + t, "trainer/global_step": t, "lr-AdamW": 0.1 + t} for t in range(5)]
    norms = read_norms(make_log(write(rows), name="history"))
    assert norms.steps.tolist() == [1, 2, 3, 4, 5]
    assert norms.learning_rate.tolist() == [0.1 + t for t in range(5)]
    assert norms.total_steps == 5


@pytest.mark.parametrize("write", [as_csv, as_lines, as_list])
def test_histories_of_several_runs_in_one_file(make_log, write):
    rows = [{**row, "run_id": run} for run in ("a1b2", "c3d4") for row in history()]
    log = make_log(write(rows), name="history")
    with pytest.raises(RefineError, match='holds 2 runs: "a1b2", "c3d4"'):
        read_norms(log)
    assert read_norms(log, run="c3d4").steps.tolist() == list(STEPS)


def test_parquet_of_the_samples(shared):
    pytest.importorskip("pyarrow")
    norms = read_norms(shared / "formats/rendered/wandb_history_shape.parquet")
    assert norms.steps.tolist() == list(range(10, 240, 10))
    assert norms.source.columns["step"] == "train/global_step"

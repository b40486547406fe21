"""Charts that were exported as CSV from the pages of W&B."""

import csv

import numpy as np
import pytest

from refine import RefineError, read_norms


def chart(
    metric: str, runs: dict[str, list], x="train/global_step", steps=(10, 20, 30), spread=0.0, helpers=False
) -> str:
    """As the chart menu writes it: every field in quotes, with a range beside every value."""
    head, columns = [x], []
    for run, values in runs.items():
        known = [v is not None for v in values]
        if helpers:
            head += [f"{run} - _step{suffix}" for suffix in ("", "__MIN", "__MAX")]
            columns += 3 * [[t // 10 if k else "" for t, k in zip(steps, known, strict=True)]]
        head += [f"{run} - {metric}{suffix}" for suffix in ("", "__MIN", "__MAX")]
        columns += [[v + d if k else "" for v, k in zip(values, known, strict=True)] for d in (0.0, -spread, spread)]
    lines = [head, *zip(steps, *columns, strict=True)]
    return "".join(",".join(f'"{cell}"' for cell in line) + "\n" for line in lines)


@pytest.fixture
def samples(shared):
    folder = shared / "formats/rendered"
    truth = {}
    for name in ("first", "resumed"):
        with open(folder / f"TRUTH_{name}.csv", newline="") as stream:
            truth[name] = {int(row["step"]): row for row in csv.DictReader(stream)}
    return (
        folder / "wandb_ui_export_grad_norm_two_runs.csv",
        folder / "wandb_ui_export_lr_two_runs.csv",
        truth["first"],
        truth["resumed"],
    )


def test_samples_hold_two_runs(samples):
    norms, rates, _, _ = samples
    with pytest.raises(RefineError, match='holds 2 runs: "calm-sun-2", "jolly-frog-1"; choose one with --run'):
        read_norms(norms)
    with pytest.raises(RefineError, match="no column is known to be a gradient norm"):
        read_norms(rates)
    with pytest.raises(RefineError, match='no run is called "x"'):
        read_norms(norms, run="x")


@pytest.mark.parametrize(("run", "which"), [("jolly-frog-1", 2), ("calm-sun-2", 3)])
def test_samples_of_one_run_and_its_rates(samples, run, which):
    truth = samples[which]
    norms = read_norms(*samples[:2], run=run)
    assert norms.steps.size == {2: 23, 3: 20}[which]
    assert norms.values.tolist() == [float(truth[t]["l2"]) for t in norms.steps.tolist()]
    assert norms.learning_rate == pytest.approx([float(truth[t]["lr"]) for t in norms.steps.tolist()], rel=1e-12)
    assert norms.source.columns["norm"] == f"{run} - train/grad_norm"
    assert norms.source.columns["lr"] == f"{run} - train/learning_rate"
    assert norms.source.format == "W&B chart export (CSV)"
    assert read_norms(samples[0], run=run).learning_rate is None


def test_a_chart_of_one_run(make_log):
    log = make_log(chart("train/grad_norm", {"a - b": [1.0, None, 3.0]}))
    for options in ({}, {"run": "a - b"}):
        norms = read_norms(log, **options)
        assert (norms.steps.tolist(), norms.values.tolist()) == ([10, 30], [1.0, 3.0])
        assert dict(norms.dropped) == {"without a norm": 1}
        assert norms.source.notes == ()


def test_rates_of_a_chart_are_joined_by_step(make_log):
    norms = make_log(chart("train/grad_norm", {"a": [1.0, 2.0, 3.0], "b": [4.0, 5.0, 6.0]}), name="norms.csv")
    rates = make_log(chart("train/learning_rate", {"a": [0.1, 0.2], "b": [0.3, 0.4]}, steps=(30, 10)), name="rates.csv")
    found = read_norms(norms, rates, run="b")
    assert found.values.tolist() == [4.0, 5.0, 6.0]
    assert np.array_equal(found.learning_rate, [0.4, np.nan, 0.3], equal_nan=True)
    with pytest.raises(RefineError, match="holds 2 runs"):
        read_norms(norms, rates)
    plain = make_log("step,lr\n10,0.5\n20,0.25\n30,0.125\n")
    assert read_norms(norms, plain, run="b").learning_rate.tolist() == [0.5, 0.25, 0.125]


def test_a_grouped_chart_is_refused(make_log):
    log = make_log(chart("train/grad_norm", {"Group: adam": [1.0, 2.0, 3.0]}))
    for options in ({}, {"run": "Group: adam"}):
        with pytest.raises(RefineError, match="a grouped chart holds means over runs: ungroup the runs"):
            read_norms(log, **options)


@pytest.mark.parametrize("helpers", [False, True])
@pytest.mark.parametrize("x", ["Relative Time (Process)", "Relative Time (Wall)"])
def test_a_chart_over_time_is_refused(make_log, x, helpers):
    log = make_log(chart("train/grad_norm", {"a": [1.0, 2.0, 3.0]}, x=x, helpers=helpers))
    with pytest.raises(RefineError, match="the x axis of the chart is .*; export it with a step as the x axis"):
        read_norms(log)
    if helpers:
        norms = read_norms(log, step_column="a - _step")
        assert norms.steps.tolist() == [1, 2, 3]
        assert any("counts calls of wandb.log" in note for note in norms.source.notes)


def test_the_step_of_a_chart_counts_calls_of_log(make_log):
    norms = read_norms(make_log(chart("train/grad_norm", {"a": [1.0, 2.0, 3.0]}, x="Step")))
    assert norms.source.notes == ('"Step" of W&B counts calls of wandb.log: check that it counts optimizer updates',)


@pytest.mark.parametrize("x", ["Step", "train/global_step"])
def test_helper_columns_are_neither_norms_nor_better_steps(make_log, x):
    runs = {"a": [1.0, 2.0, None], "b": [4.0, 5.0, 6.0]}
    log = make_log(chart("train/grad_norm", runs, x=x, helpers=True))
    norms = read_norms(log, run="b")
    assert (norms.steps.tolist(), norms.values.tolist()) == ([10, 20, 30], [4.0, 5.0, 6.0])
    assert norms.source.columns["step"] == x
    with pytest.raises(RefineError, match='holds 2 runs: "a", "b"'):
        read_norms(log)


def test_a_range_beside_the_values_is_that_of_a_bucket(make_log):
    note = "the export is bucketed (__MIN differs from the value): each point is a mean, spikes are lost"
    for spread, found in ((0.0, False), (0.5, True)):
        norms = read_norms(make_log(chart("train/grad_norm", {"a": [1.0, 2.0, 3.0]}, spread=spread)))
        assert norms.values.tolist() == [1.0, 2.0, 3.0]
        assert (note in norms.source.notes) is found


def test_words_for_numbers_that_are_none(make_log):
    norms = read_norms(make_log(chart("grad_norm", {"a": [1.0, float("inf"), 2.0]}).replace("inf", "Infinity")))
    assert (norms.steps.tolist(), dict(norms.dropped)) == ([10, 30], {"non-finite": 1})


def test_lightning_counts_from_0(make_log):
    norms = read_norms(make_log(chart("grad_2.0_norm_total", {"a": [1.0, 2.0, 3.0]}, "trainer/global_step", (0, 1, 2))))
    assert norms.steps.tolist() == [1, 2, 3]


def test_names_of_runs_with_delimiters(make_log):
    for run in ("lr=1e-3, bs=64", "a;b - c", 'said ""so""', "émile\tx"):
        log = make_log(chart("train/grad_norm", {run: [1.0, 2.0, 3.0], "other": [4.0, 5.0, 6.0]}))
        assert read_norms(log, run=run.replace('""', '"')).values.tolist() == [1.0, 2.0, 3.0]

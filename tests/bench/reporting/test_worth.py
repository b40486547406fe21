"""The file of what refinement was worth: made from results, the same bytes again, and read back by the package."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from refine import RefineError
from refine.bench.reporting.prediction import evidence
from refine.bench.reporting.results import checksums, save
from refine.bench.reporting.statistics import CELL, cells, paired
from refine.bench.reporting.worth import worth_json
from refine.worth import read

from .synthetic import results

UNGUARDED = "unguarded(linear)"


@pytest.fixture(scope="module")
def made():
    return [results("convex", problems=3, seeds=3), results("deep", problems=2, optimizers=("sgd", "adamw"), seeds=3)]


def folders(tmp_path, *every):
    for i, one in enumerate(every):
        save(one, tmp_path / str(i))
    return [tmp_path / str(i) for i, _ in enumerate(every)]


def test_every_case_is_in_it(made, tmp_path) -> None:
    found = read(worth_json(folders(tmp_path, *made)))
    assert [(c.suite, c.problem, c.optimizer) for c in found] == [
        (suite, f"set {i:02}", optimizer)
        for suite, n, optimizers in (("convex", 3, ("adam", "sgd")), ("deep", 2, ("adamw", "sgd")))
        for i in range(n)
        for optimizer in optimizers
    ]
    assert [c.family for c in found if c.suite == "deep"] == ["adam", "sgd"] * 2


def test_what_changes_is_told_by_the_name_of_the_problem(tmp_path) -> None:
    names = ["a, batch up", "a, steady", "b"]
    (folder,) = folders(tmp_path, results("changing-confirm", seeds=3, names=names))
    found = read(worth_json([folder]))
    assert {case.problem: case.changing for case in found} == {"a, batch up": True, "a, steady": False, "b": False}


def test_its_numbers_are_those_of_the_report(made, tmp_path) -> None:
    (first, *_) = found = read(worth_json(folders(tmp_path, made[0])))
    statistics = cells(paired(made[0].runs))
    frame = evidence(statistics, made[0].logs, UNGUARDED).sort_values(CELL)
    np.testing.assert_allclose([c.rho for c in found], frame["rho"], rtol=1e-3)
    np.testing.assert_allclose([c.excess for c in found], frame["excess"], rtol=1e-3)
    rows = made[0].runs.set_index([*CELL, "method", "rates", "warmup"]).sort_index()
    cell = (first.suite, first.problem, first.optimizer)
    own, base = (rows.loc[(*cell, *arm), "loss"].to_numpy() for arm in ((UNGUARDED, "swept", ""), BASE))
    percent = 100.0 * (own / base - 1.0)
    assert first.excess == pytest.approx(percent.mean(), rel=1e-3)
    assert first.se == pytest.approx(percent.std(ddof=1) / math.sqrt(3), rel=1e-3)


BASE = ("linear", "swept", "tuned")


def test_the_text_is_small_json_a_case_a_line(made, tmp_path) -> None:
    where = folders(tmp_path, *made)
    text = worth_json(where)
    assert text == worth_json(where)
    assert text.isascii()
    loaded = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert list(loaded) == ["what", "columns", "made by", "sha256", "cases"]
    assert UNGUARDED in loaded["what"]
    assert loaded["made by"] == "refine bench report RESULTS/convex RESULTS/deep --worth FILE"
    for row, folder, suite in zip(loaded["sha256"], where, ("convex", "deep"), strict=True):
        sums = checksums(folder)
        assert row == {"suite": suite, "scale": "cpu", "runs": sums["runs"], "logs": sums["logs"]}
    rows = [line for line in text.splitlines() if '"problem"' in line]
    assert [json.loads(line.rstrip(",")) for line in rows] == loaded["cases"]
    assert all(float(f"{row[name]:.4g}") == row[name] for row in loaded["cases"] for name in ("rho", "excess", "se"))


def test_a_run_that_diverged_and_a_single_seed_are_null(made, tmp_path) -> None:
    runs = made[0].runs.copy()
    own = (runs["method"] == UNGUARDED) & (runs["problem"] == "set 01") & (runs["optimizer"] == "sgd")
    runs.loc[own & (runs["rates"] == "swept") & (runs["seed"] == 2), "loss"] = math.inf
    text = worth_json(folders(tmp_path, replace(made[0], runs=runs)))
    (row,) = [c for c in json.loads(text)["cases"] if (c["problem"], c["optimizer"]) == ("set 01", "sgd")]
    assert (row["excess"], row["se"]) == (None, None)
    assert [c.excess for c in read(text) if c.problem == "set 01"][1] == math.inf
    single = json.loads(worth_json(folders(tmp_path / "single", results(problems=2, seeds=1))))["cases"]
    assert all(row["se"] is None and row["excess"] is not None for row in single)


def test_a_case_without_rho_is_left_out(made, tmp_path) -> None:
    logs = made[0].logs.copy()
    logs.loc[logs["problem"] == "set 00", "rho"] = math.nan
    logs.loc[(logs["problem"] == "set 02") & (logs["optimizer"] == "sgd"), "rho"] = 0.0
    found = read(worth_json(folders(tmp_path, replace(made[0], logs=logs))))
    assert [(c.problem, c.optimizer) for c in found] == [("set 01", "adam"), ("set 01", "sgd"), ("set 02", "adam")]


def test_results_without_the_arm_are_refused(made, tmp_path) -> None:
    runs = made[0].runs[made[0].runs["method"] != UNGUARDED]
    with pytest.raises(RefineError) as error:
        worth_json(folders(tmp_path, replace(made[0], runs=runs)))
    assert str(error.value) == (
        "the results hold no case of unguarded(linear) at its swept rate with rho of its log; train it"
    )

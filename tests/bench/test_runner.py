"""Real training of the smallest suite: interrupted, in parallel, on a cluster that loses a worker."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from refine import RefineError
from refine.bench import runner
from refine.bench.gather import gather
from refine.bench.plan import Cell
from refine.bench.runner import cells, run_suite, train_batch
from refine.bench.store import Store
from refine.bench.suites import SUITES

ONLY = ("iris",)  # in scikit-learn: no download


@pytest.fixture(scope="module", autouse=True)
def data(tmp_path_factory):
    """Its own cache of data, for this process and those that it starts."""
    patch = pytest.MonkeyPatch()
    patch.setenv("REFINE_BENCH_DATA", str(tmp_path_factory.mktemp("data")))
    yield
    patch.undo()


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("store") / "smoke.sqlite"
    assert run_suite("smoke", path, only=ONLY, jobs=1) == {}
    return path


def losses(path: Path) -> dict[str, tuple[float, ...]]:
    with sqlite3.connect(path) as database:
        rows = database.execute("SELECT key, train_loss, test_loss FROM runs").fetchall()
    database.close()
    assert len({key for key, *_ in rows}) == len(rows)
    return {key: tuple(found) for key, *found in rows}


def test_it_trains_everything_that_is_planned(finished) -> None:
    with Store(finished) as store:
        found = list(cells(store))
    assert [(cell.problem.name, cell.optimizer.name) for cell in found] == [("iris", "sgd"), ("iris", "adam")]
    assert not any(cell.missing for cell in found)
    assert sum(len(cell.outcomes) for cell in found) == len(losses(finished)) > 500
    assert any(outcome.log is not None for cell in found for outcome in cell.outcomes.values())


def test_a_finished_suite_trains_nothing_more(finished, monkeypatch) -> None:
    monkeypatch.setattr(runner, "train_batch", None)
    before = losses(finished)
    run_suite("smoke", finished, only=ONLY, jobs=1)
    assert losses(finished) == before


def test_a_killed_suite_goes_on_and_ends_like_one_that_was_not(finished, tmp_path) -> None:
    path = tmp_path / "smoke.sqlite"
    command = [sys.executable, "-m", "refine.cli", "bench", "--suite", "smoke", "--store", str(path), "--jobs", "2"]
    command += ["--only", *ONLY]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        for _ in range(2400):
            if path.exists() and len(losses_so_far(path)) > 150:
                break
            time.sleep(0.05)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    kept = losses_so_far(path)
    everything = losses(finished)
    assert 150 < len(kept) < len(everything)
    run_suite("smoke", path, only=ONLY, jobs=1)
    found = losses(path)
    assert {key: found[key] for key in kept} == kept
    assert plainly(path) == plainly(finished)


def plainly(path: Path) -> Counter:
    """What was trained, without what rounding decides: other batches record logs that differ in the last digits."""
    with sqlite3.connect(path) as database:
        rows = database.execute("SELECT problem, optimizer, schedule, rate, seed, record FROM runs").fetchall()
    database.close()
    return Counter((*names, f"{rate:.2e}", *rest) for *names, rate, rest in ((*r[:4], r[4:]) for r in rows))


def losses_so_far(path: Path) -> dict[str, tuple[float, ...]]:
    try:
        return losses(path)
    except sqlite3.OperationalError:  # the tables are being made
        return {}


def test_dask_loses_a_worker_and_no_run(finished, tmp_path) -> None:
    distributed = pytest.importorskip("distributed")
    path = tmp_path / "smoke.sqlite"
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0", silence_logs=50
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        workers = client.run(os.getpid)

        def kill_one(count: int, done: int, total: int) -> None:
            if workers and done < total:
                os.kill(workers.popitem()[1], signal.SIGKILL)
                workers.clear()

        run_suite("smoke", path, only=ONLY, engine="dask", address=cluster.scheduler_address, progress=kill_one)
        assert not workers
        finished_by_task, lost = client.run_on_scheduler(count_ends)
    assert plainly(path) == plainly(finished)
    # No batch was finished twice, but for those whose result went down with the worker before it was fetched.
    assert finished_by_task <= Counter(finished_by_task.keys()) + lost
    assert lost.total() < 10


def count_ends(dask_scheduler) -> tuple[Counter, Counter]:
    """How often each task was finished, and how often its result went down with a worker."""
    finished, lost = Counter(), Counter()
    for key, start, end, _, why, *_ in dask_scheduler.transition_log:
        if (start, end) == ("processing", "memory"):
            finished[str(key)] += 1
        elif start == "memory" and why.startswith("handle-worker-cleanup"):
            lost[str(key)] += 1
    return finished, lost


def test_batches_are_rectangles_of_what_is_missing(finished) -> None:
    suite = SUITES["smoke"]
    problem = suite.problems[0]
    cell = Cell(problem, problem.optimizers[0], "smoke", suite.protocol, {})
    batches = list(runner._batches(cell, "smoke"))
    assert sorted(run.key for b in batches for row in b.runs for run in row) == sorted(r.key for r in cell.missing)
    for batch in batches:
        assert len({len(row) for row in batch.runs}) == 1
        assert batch.size <= problem.runs_at_once["smoke"]
        assert all(run.seed == seed for seed, row in zip(batch.seeds, batch.runs, strict=True) for run in row)


def test_a_batch_leaves_the_settings_of_torch_alone(finished) -> None:
    import torch

    suite = SUITES["smoke"]
    problem = next(p for p in suite.problems if p.name in ONLY)
    cell = Cell(problem, problem.optimizers[0], "smoke", suite.protocol, {})
    smallest = min(runner._batches(cell, "smoke"), key=lambda batch: batch.size)
    threads = torch.get_num_threads()
    assert len(train_batch(smallest)) == smallest.size
    assert torch.get_num_threads() == threads


def test_an_absent_set_is_skipped_by_name(finished, tmp_path, monkeypatch) -> None:
    from refine.bench.data import datasets

    whole = datasets.available
    monkeypatch.setattr(datasets, "available", lambda name: "no network" if name == "digits" else whole(name))
    path = tmp_path / "smoke.sqlite"
    path.write_bytes(finished.read_bytes())
    assert run_suite("smoke", path, only=("iris", "digits"), jobs=1) == {"digits": "no network"}
    run_suite("smoke", path, only=ONLY, jobs=1)
    with Store(path) as store:
        skipped = gather(store).meta["skipped"]
    assert skipped == {"digits": "no network", "fashion-cnn": "not run"}  # a later run of others does not forget it
    with pytest.raises(RefineError, match="no problem of the suite can be had; the first: no network"):
        run_suite("smoke", tmp_path / "s.sqlite", only=("digits",), jobs=1)
    assert not (tmp_path / "s.sqlite").exists()


@pytest.mark.parametrize("package", ["torch", "joblib"])
def test_a_missing_package_is_named(package, tmp_path, monkeypatch) -> None:
    import importlib.util

    whole = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else whole(name))
    with pytest.raises(RefineError, match=rf"refine bench needs {package}, .* pip install {package}$"):
        run_suite("smoke", tmp_path / "s.sqlite")


def test_a_wrong_engine_leaves_no_store(tmp_path) -> None:
    with pytest.raises(RefineError, match="--address is for --engine dask or ray"):
        run_suite("smoke", tmp_path / "s.sqlite", only=ONLY, address="tcp://x")
    assert list(tmp_path.iterdir()) == []


def test_a_backend_without_generators_gives_the_same(monkeypatch) -> None:
    """Ray's, which joblib derives from its own for multiprocessing."""
    import joblib

    monkeypatch.setattr(runner, "train_batch", abs)
    with joblib.parallel_config("multiprocessing", n_jobs=2):
        assert not joblib.parallel.get_active_backend()[0].supports_return_generator
        assert list(runner._trained(range(-20, 0))) == list(range(20, 0, -1))


def _die(_) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_is_one_line(monkeypatch) -> None:
    import cloudpickle
    import joblib

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.setattr(runner, "train_batch", _die)
    with joblib.parallel_config("loky", n_jobs=2), pytest.raises(RefineError, match="a worker process was killed"):
        list(runner._trained([1, 2]))


def test_an_unknown_problem_is_refused(tmp_path) -> None:
    with pytest.raises(RefineError, match="problem 'cats' is not in this suite; it has iris, digits"):
        run_suite("smoke", tmp_path / "s.sqlite", only=("cats",))
    assert list(tmp_path.iterdir()) == []


def test_what_is_gathered_is_what_the_report_takes(finished, tmp_path) -> None:
    from refine.bench.reporting.report import write_report
    from refine.bench.reporting.results import load, save

    with Store(finished) as store:
        found = gather(store)
    assert set(found.runs["problem"]) == {"iris"}
    finals = found.runs[(found.runs["method"] == "linear") & (found.runs["warmup"] == "tuned")]
    assert list(finals[finals["optimizer"] == "sgd"]["seed"]) == list(SUITES["smoke"].protocol.final_seeds)
    assert {"rho", "points"} <= set(found.logs.columns)
    for row in found.logs.to_dict("records"):
        assert row["default"] == ("held" if row["k"] > 1.0 else "linear")
    assert "progress ratio" not in found.logs
    assert set(found.logs[found.logs["method"] == "constant"]["default"]) == {"linear"}  # no rate drops there
    assert "no sgd variant" in next(iter(found.meta["failed"]["prodigy"]))
    linear = found.costs[(found.costs["method"] == "linear") & (found.costs["warmup"] == "tuned")].iloc[0]
    refined = found.costs[found.costs["method"] == "refined(linear)"].iloc[0]
    twice = found.costs[found.costs["method"] == "refined(refined(linear))"].iloc[0]
    assert linear["prior_updates"] == 0
    assert refined["prior_updates"] == linear["sweep_updates"] + linear["run_updates"]
    assert twice["prior_updates"] == refined["prior_updates"] + refined["sweep_updates"] + refined["run_updates"]
    save(found, tmp_path / "results")
    np.testing.assert_allclose(load(tmp_path / "results").runs["loss"].mean(), found.runs["loss"].mean(), rtol=1e-6)
    assert (tmp_path / "out/report.html") in write_report([tmp_path / "results"], tmp_path / "out")


def test_an_unfinished_suite_is_not_reported(finished, tmp_path) -> None:
    path = tmp_path / "smoke.sqlite"
    path.write_bytes(finished.read_bytes())
    with sqlite3.connect(path) as database:
        database.execute("DELETE FROM runs WHERE seed = 100")
    database.close()
    with Store(path) as store, pytest.raises(RefineError, match=r"lacks \d+ runs or more of iris with sgd"):
        gather(store)

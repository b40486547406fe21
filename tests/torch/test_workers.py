"""Processes that start before the first row is written: workers of DataLoaders, pools, forks, subprocesses."""

import importlib.util
import multiprocessing
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from refine import read_norms

SCRIPT = Path(__file__).parent / "with_workers.py"
NEEDS = {"huggingface": ("transformers", "accelerate"), "lightning": ("lightning",)}
METHODS = multiprocessing.get_all_start_methods()
UPDATES = 30


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["plain", "huggingface", "lightning"])
def test_workers_of_a_dataloader_leave_the_log_whole(tmp_path, kind, method):
    for package in NEEDS.get(kind, ()):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs {package}")
    command = [sys.executable, SCRIPT, kind, method, tmp_path]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "RefineWarning" not in done.stderr
    assert "gradient norms" not in done.stderr
    logs = sorted(tmp_path.glob("run.*"))
    assert [log.suffix for log in logs] == ([".csv", ".jsonl"] if kind == "plain" else [".jsonl"])
    for log in logs:
        assert read_norms(log).steps.tolist() == list(range(1, UPDATES + 1))


STARTS = {
    "fork_that_exits": """
        child = os.fork()
        if child == 0:
            sys.exit()  # with clean-up at exit, unlike a worker
        assert os.waitpid(child, 0)[1] == 0
    """,
    "fork_that_closes": """
        child = os.fork()
        if child == 0:
            recorder.close()
            del recorder
            os._exit(0)
        os.waitpid(child, 0)
    """,
    "pool": """
        with multiprocessing.get_context("fork").Pool(2) as pool:
            assert pool.map(abs, [-1, 2]) == [1, 2]
    """,
    "process_that_fails": """
        process = multiprocessing.get_context("fork").Process(target=sys.exit, args=(3,))
        process.start()
        process.join()
    """,
    "subprocess": """
        subprocess.run([sys.executable, "-c", "pass"], check=True)
        subprocess.run([sys.executable, "-c", "pass"], check=True, close_fds=False, preexec_fn=os.getpid)
    """,
}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("start", STARTS)
def test_a_process_that_starts_early_leaves_the_log_whole(tmp_path, start):
    script = """
        import multiprocessing, os, subprocess, sys
        import torch
        from refine.torch import GradNormRecorder

        def train(updates):
            for _ in range(updates):
                weight.grad = torch.ones(2) + recorder.step
                recorder.record()
                second.record()
                optimizer.step()

        weight = torch.nn.Parameter(torch.ones(2))
        optimizer = torch.optim.SGD([weight], lr=0.1)
        recorder, second = (GradNormRecorder(optimizer, f"run.{suffix}") for suffix in ("jsonl", "csv"))
        train(1)  # not written yet
        START
        train(4)
        recorder.close()
        second.close()
    """
    body = textwrap.dedent(script).replace("START\n", textwrap.dedent(STARTS[start]))
    done = subprocess.run([sys.executable, "-c", body], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    for suffix in ("jsonl", "csv"):
        assert read_norms(tmp_path / f"run.{suffix}").steps.tolist() == [1, 2, 3, 4, 5]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_that_goes_on_recording_is_told_and_harms_nothing(tmp_path):
    script = """
        import os, sys
        import torch
        from refine.torch import GradNormRecorder
        weight = torch.nn.Parameter(torch.ones(2))
        optimizer = torch.optim.SGD([weight], lr=0.1)
        recorder = GradNormRecorder(optimizer, sys.argv[1], buffer_steps=2)
        child = os.fork()
        for _ in range(5):
            weight.grad = torch.ones(2) + recorder.step
            recorder.record()
            optimizer.step()
        if child == 0:
            sys.exit()
        os.waitpid(child, 0)
        recorder.close()
    """
    path = tmp_path / "run.jsonl"
    command = [sys.executable, "-c", textwrap.dedent(script), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0
    told = [line for line in done.stderr.splitlines() if "RefineWarning" in line]
    assert len(told) == 1
    assert told[0].endswith("run.jsonl: it belongs to the process that this one was forked from")
    assert read_norms(path).steps.tolist() == [1, 2, 3, 4, 5]

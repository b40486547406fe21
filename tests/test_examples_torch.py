"""The examples that record, fit and train again, each for a few updates; their own settings are in their files."""

import subprocess
import sys

import pytest

from refine import Schedule, read_norms

EXAMPLES = {
    "plain_loop": ("sklearn", "--updates", 40),
    "accelerate": ("accelerate", "--epochs", 1),
    "lightning": ("lightning", "--updates", 40),
    "huggingface": ("transformers", "--updates", 40),
}


def run(root, name, out, *arguments):
    command = [sys.executable, root / "examples" / f"with_{name}.py", out, *arguments]
    return subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=240)


@pytest.mark.parametrize("name", EXAMPLES)
def test_it_records_refines_and_trains_again(root, tmp_path, name):
    needs, *arguments = EXAMPLES[name]
    pytest.importorskip(needs)
    out = tmp_path / "out"
    done = run(root, name, out, *arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "RefineWarning" not in done.stderr
    updates = 44 if name == "accelerate" else 40
    first, second = (read_norms(out / f"{which}.jsonl") for which in ("first", "second"))
    for norms in (first, second):
        assert (norms.steps.size, norms.total_steps, norms.loss.size) == (updates, updates, updates)
        assert norms.source.optimizer == ("sgd" if name == "plain_loop" else "adam")
    schedule = Schedule.load(out / "refined")
    peak = float(done.stdout.splitlines()[-1].partition("refined from ")[2].split()[0])
    assert second.learning_rate == pytest.approx(peak * schedule.multiplier, rel=1e-2)
    assert done.stdout.count("held-out loss ") == 2
    again = run(root, name, out, *arguments)
    assert again.returncode == 2
    assert "name a new folder" in again.stderr.splitlines()[-1]

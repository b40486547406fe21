"""The examples that record, fit and train again, each for a few updates; their own settings are in their files."""

import re
import subprocess
import sys
from itertools import combinations

import numpy as np
import pytest

from refine import Schedule, read_norms

EXAMPLES = {
    "plain_loop": ("sklearn", "--updates", 150),  # with fewer losses recommended is linear decay, as the first run
    "accelerate": ("accelerate", "--epochs", 1),
    "lightning": ("lightning", "--updates", 40),
    "huggingface": ("transformers", "--updates", 40),
}


def run(root, name, out, *arguments):
    command = [sys.executable, root / "examples" / f"with_{name}.py", out, *arguments]
    return subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=240)


@pytest.mark.parametrize("name", EXAMPLES)
def test_it_records_fits_and_trains_again(root, tmp_path, name):
    needs, *arguments = EXAMPLES[name]
    pytest.importorskip(needs)
    out = tmp_path / "out"
    done = run(root, name, out, *arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "RefineWarning" not in done.stderr
    updates = {"plain_loop": 150, "accelerate": 44}.get(name, 40)
    trained = re.findall(r"held-out loss \S+ with (\w+).* from (\S+)", done.stdout)
    runs = ["linear", "refined", "recommended"] if name == "plain_loop" else ["first", "second"]
    assert len(trained) == len(runs) == len(list(out.glob("*.jsonl")))
    logs = [read_norms(out / f"{which}.jsonl") for which in runs]
    for norms in logs:
        assert (norms.steps.size, norms.total_steps, norms.loss.size) == (updates, updates, updates)
        assert norms.source.optimizer == "adam"
    for norms, (schedule, peak) in zip(logs[1:], trained[1:], strict=True):
        expected = Schedule.load(out / "refined" / f"{schedule}.json")
        assert norms.learning_rate == pytest.approx(float(peak) * expected.multiplier, rel=1e-2)
    shapes = [norms.learning_rate / norms.learning_rate.max() for norms in logs]
    assert all(np.abs(one - other).max() > 0.01 for one, other in combinations(shapes, 2)), "no schedule runs twice"
    again = run(root, name, out, *arguments)
    assert again.returncode == 2
    assert "name a new folder" in again.stderr.splitlines()[-1]

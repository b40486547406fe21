import subprocess
import sys

import pytest

from refine import read_norms, refined_schedule


@pytest.mark.parametrize(("optimizer", "family", "kind"), [("adamw", "adam", "l1"), ("sgd", "sgd", "l2")])
def test_record_digits_writes_a_log_that_is_read_without_questions(root, tmp_path, optimizer, family, kind):
    log = tmp_path / "log.csv"
    script = root / "examples" / "record_digits.py"
    command = [sys.executable, script, "--optimizer", optimizer, "--updates", "40", "--warmup", "5", log]
    subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)
    norms = read_norms(log)
    assert (norms.steps.size, norms.total_steps, norms.kind) == (40, 40, kind)
    assert norms.source.optimizer == family
    assert norms.learning_rate.max() == norms.learning_rate[4]
    assert norms.loss.size == 40


@pytest.mark.parametrize(("name", "family"), [("digits_adamw.csv", "adam"), ("digits_sgd.csv", "sgd")])
def test_our_own_logs_are_refined(root, name, family):
    result = refined_schedule(read_norms(root / "data" / name))
    assert (result.optimizer, result.optimizer_source, result.decision) == (family, "log", "refined")
    assert (result.norms.steps.size, result.warmup_steps) == (3000, 150)
    assert dict(result.norms.dropped) == {}

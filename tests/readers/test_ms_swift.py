from __future__ import annotations

import json

import pytest

from refine import read_norms


@pytest.mark.parametrize("key", ["global_step/max_steps", "iteration"])
def test_step_is_text(make_log, key):
    times = {"elapsed_time": "1s", "remaining_time": "2s"}
    rows = [{"loss": 3.5, "grad_norm": s / 8, "learning_rate": s / 1e4, key: f"{s}/400", **times} for s in range(1, 9)]
    rows.insert(4, {"eval_loss": 3.0, key: "4/400", **times})
    rows.append({"train_loss": 3.0, "train_runtime": 9.0, "epoch": 1.0, key: "8/400"})
    rows.append({"last_model_checkpoint": "x", "global_step": 8, "log_history": [{"grad_norm": 99.0}]})
    norms = read_norms(make_log("".join(json.dumps(row) + "\n" for row in rows)))
    assert norms.steps.tolist() == list(range(1, 9))
    assert norms.values.tolist() == [s / 8 for s in range(1, 9)]
    assert norms.learning_rate.tolist() == [s / 1e4 for s in range(1, 9)]
    assert norms.total_steps == 400
    assert norms.source.columns["step"] == key
    assert norms.dropped == {"without a norm": 2}

from __future__ import annotations

import json

import pytest

from refine import RefineError, read_norms


def row(step, **data):
    return json.dumps({"step": step, "data": {"training/global_step": step, "perf/x": None, **data}}) + "\n"


def test_lines(make_log):
    text = row(0, **{"val-core/acc": 0.5})
    text += "".join(row(s, **{"actor/grad_norm": s / 8 if s != 3 else None, "actor/lr": 1e-6}) for s in range(1, 9))
    norms = read_norms(make_log(text))
    assert norms.steps.tolist() == [1, 2, 4, 5, 6, 7, 8]
    assert norms.values.tolist() == [s / 8 for s in (1, 2, 4, 5, 6, 7, 8)]
    assert norms.learning_rate.tolist() == [1e-6] * 7
    assert norms.dropped == {"without a norm": 2}
    assert norms.source.window_mean
    assert norms.source.clipping == "pre"
    assert len(norms.source.notes) == 1


@pytest.mark.parametrize("number", ["{}", "np.float64({})"])
def test_console(make_log, number):
    line = "(TaskRunner pid=12) step:{} - global_seqlen/min:1 - actor/grad_norm:" + number + " - actor/lr:1e-06\n"
    norms = read_norms(make_log("".join(line.format(s, s / 8) for s in range(1, 9))))
    assert norms.values.tolist() == [s / 8 for s in range(1, 9)]
    assert norms.learning_rate.tolist() == [1e-6] * 8


def test_actor_and_critic(make_log):
    text = "".join(
        row(s, **{"actor/grad_norm": s / 8, "critic/grad_norm": s / 4, "actor/lr": 1e-6, "critic/lr": 1e-5})
        for s in range(1, 9)
    )
    with pytest.raises(RefineError, match='2 columns may be the gradient norm: "actor/grad_norm", "critic/grad_norm"'):
        read_norms(make_log(text))
    norms = read_norms(make_log(text), column="critic/grad_norm", lr_column="critic/lr")
    assert norms.values.tolist() == [s / 4 for s in range(1, 9)]
    assert norms.learning_rate.tolist() == [1e-5] * 8


def test_scaled_rate_of_supervised_training(make_log):
    line = "step:{} - train/loss:0.5 - train/grad_norm:{} - train/lr(1e-3):0.25\n"
    norms = read_norms(make_log("".join(line.format(s, s / 8) for s in range(1, 9))))
    assert norms.learning_rate.tolist() == [0.25 * 1e-3] * 8
    assert not norms.source.window_mean

from __future__ import annotations

import json

import pytest

from refine import RefineError, read_norms


def event(**more):
    return (
        "2026-08-22 10:00:00 - levanter.json_logger - INFO - " + json.dumps({"tracker": "json_logger", **more}) + "\n"
    )


def log_of(metric):
    text = event(event="hparams", hparams={"optimizer": {"learning_rate": 6e-4, "max_grad_norm": 1.0}})
    for step in range(31):
        text += event(event="log", step=step, metrics={"train/loss": 3.0, "global_step": step})
        text += event(event="log", step=step, metrics={"optim/learning_rate": step / 1e4})
        if step % 10 == 0:
            norms = {
                metric: step / 8 + 1,
                "grad/norm/w": 0.5,
                "optim/pre_clip_update_norm": 9.0,
                "params/norm/total": 7,
            }
            text += "some other logger\n" + event(event="log", step=step, metrics=norms)
    return text + event(event="finish", summary={metric: 99.0})


def test_steps_count_from_zero(make_log):
    norms = read_norms(make_log(log_of("grad/norm/total")))
    assert norms.steps.tolist() == [1, 11, 21, 31]
    assert norms.values.tolist() == [1.0, 2.25, 3.5, 4.75]
    assert norms.learning_rate[1:].tolist() == [1e-3, 2e-3, 3e-3]
    assert norms.source.settings == {"learning_rate": 6e-4, "clip": 1.0}
    assert (norms.source.clipping, norms.source.lr_alignment) == ("pre", "unknown")
    assert list(norms.dropped) == ["without a norm"]


def test_no_norm(make_log):
    text = "".join(event(event="log", step=step, metrics={"train/loss": 3.0}) for step in range(9))
    with pytest.raises(RefineError, match="watch_targets"):
        read_norms(make_log(text))

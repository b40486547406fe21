from __future__ import annotations

import json

import pytest

from refine import RefineError, read_norms


def document(steps, **config):
    train = {
        "iter": steps,
        "train_perplexity": [9.0] * len(steps),
        "train_lr": [s / 1e6 for s in steps],
        "train_loss": [3.0] * len(steps),
        "grad_norm": [i / 8 + 0.125 for i in range(len(steps))],
    }
    val = {"iter": [200], "val_loss": [2.0]}
    config = {"lr": 0.001, "scheduler": "cos", "warmup_steps": 300, "grad_clip": 1, **config}
    return {"summary": {"grad_norm": 99.0}, "config": config, "name": "x", "history": {"val": val, "train": train}}


@pytest.mark.parametrize("indent", [None, 4])
def test_steps_that_go_back(make_log, indent):
    log = make_log(json.dumps(document([50, 100, 150, 200, 100, 150, 200, 250], iterations=500), indent=indent))
    norms = read_norms(log)
    assert norms.steps.tolist() == [50, 100, 150, 200, 250]
    assert norms.values.tolist() == [0.125, 0.625, 0.75, 0.875, 1.0]
    assert norms.learning_rate.tolist() == [s / 1e6 for s in (50, 100, 150, 200, 250)]
    assert norms.dropped == {"superseded": 3}
    assert norms.total_steps == 500
    assert norms.source.settings == {"learning_rate": 0.001, "schedule": "cos", "warmup_steps": 300, "clip": 1}
    assert (norms.source.clipping, norms.source.lr_alignment) == ("pre", "next_step")


def test_branch_only(make_log):
    norms = read_norms(make_log(json.dumps(document(list(range(40050, 50001, 50)), iterations=50000))))
    assert "starts at step 40050" in norms.source.notes[0]


@pytest.mark.parametrize("cut", [100, 300])
def test_damaged(make_log, cut):
    text = json.dumps(document([50, 100, 150]), indent=2)
    with pytest.raises(RefineError) as error:
        read_norms(make_log(text[:-cut], name="x.json"))
    assert "\n" not in str(error.value)


def test_without_norms(make_log):
    value = document([50, 100, 150])
    del value["history"]["train"]["grad_norm"]
    with pytest.raises(RefineError, match="no column is known to be a gradient norm"):
        read_norms(make_log(json.dumps(value, indent=1)))

from __future__ import annotations

import json

import pytest

from refine import read_norms


def rows(*names):
    shown = {"learning/raw_grad_norm": 2.0, "learning/grad_norm": 1.0}
    return "".join(
        json.dumps(
            {
                "learning/loss": 3.5,
                **{name: shown[name] + step / 8 for name in names},
                "learning/param_norm": 100.0,
                "learning/current_learning_rate": step / 1e4,
                "step": float(step),
                "run_name": "demo",
            }
        )
        + "\n"
        for step in range(9)
    )


@pytest.mark.parametrize(
    ("names", "column", "first", "clipping"),
    [
        (["learning/grad_norm", "learning/raw_grad_norm"], None, 2.0, "pre"),
        (["learning/grad_norm", "learning/raw_grad_norm"], "learning/grad_norm", 1.0, "post"),
        (["learning/grad_norm"], None, 1.0, "post"),
    ],
)
def test_before_and_after_clipping(make_log, names, column, first, clipping):
    norms = read_norms(make_log(rows(*names)), column=column)
    assert norms.steps.tolist() == list(range(1, 10))  # MaxText counts from 0
    assert norms.values.tolist() == [first + step / 8 for step in range(9)]
    assert norms.learning_rate[1:].tolist() == [step / 1e4 for step in range(1, 9)]
    assert (norms.source.clipping, norms.kind) == (clipping, "l2")

from __future__ import annotations

import json

import pytest

from refine import RefineError, read_norms

VALUES = [0.28001296520233154, float("nan"), 0.125, 1e-05]


def test_text_and_lines_agree(make_log):
    rows = [
        {"step": step, "loss": 3.5, "lr": step / 1e5, "tokens_per_second_per_gpu": 1e4, "grad_norm": norm}
        for step, norm in enumerate(VALUES, 1)
    ]
    lines = read_norms(make_log("".join(json.dumps(row) + "\n" for row in rows), name="log.jsonl"))
    text = "".join(
        f"Step {row['step']} | " + "".join(f"{k}:{v} " for k, v in row.items() if k != "step") + "\n" for row in rows
    )
    for norms in (lines, read_norms(make_log(text, name="log.txt"))):
        assert (norms.steps.tolist(), norms.values.tolist()) == ([1, 3, 4], [VALUES[0], 0.125, 1e-05])
        assert norms.learning_rate.tolist() == [1e-5, 3 / 1e5, 4 / 1e5]
        assert norms.dropped == {"non-finite": 1}
        assert (norms.kind, norms.source.clipping, norms.source.lr_alignment) == ("l2", "pre", "next_step")


def test_clipping_off(make_log):
    with pytest.raises(RefineError, match="only where clip_grad_norm is set"):
        read_norms(make_log("Step 1 | loss:1.2 lr:2e-05 \nStep 2 | loss:1.2 lr:2e-05 \n"))

from __future__ import annotations

import pytest

from refine import RefineError, read_norms

HEAD = "08/22/2026 10:00:00 [INFO|DP=0|PP=0|TP=0|ip-1]: "


def line(step, norm):
    text = "" if norm is None else f" | grad_norm: {norm}"
    return (
        f"{HEAD}iteration: {step} / 400 | consumed_tokens: {4.1 * step:.3g}K | tokens_per_sec: 1.2M{text}"
        " | lm_loss: 3.48 | lr: 0.00015 | model_tflops_per_gpu: 1.2\n"
    )


def test_units(make_log):
    norms = read_norms(make_log(line(1, "0.28") + line(2, "1.23K") + line(3, "nan") + line(4, "2")))
    assert (norms.steps.tolist(), norms.values.tolist()) == ([1, 2, 4], [0.28, 1230.0, 2.0])
    assert norms.learning_rate.tolist() == [0.00015] * 3
    assert norms.total_steps == 400
    assert norms.source.settings["tokens per update"] == pytest.approx(4100)
    assert (norms.source.clipping, norms.source.lr_alignment) == ("pre", "next_step")


def test_clipping_off(make_log):
    with pytest.raises(RefineError, match="only where optimizer.clip_grad is set"):
        read_norms(make_log(line(1, None) + line(2, None)))

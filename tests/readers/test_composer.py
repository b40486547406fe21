from __future__ import annotations

import pytest

from refine import RefineError, read_norms


def batch(step, norm, layer=0.5):
    return (
        f"[metric][batch={step}]: time/batch: {step} \n"
        f"[metric][batch={step}]: loss/train/total: 3.5 \n"
        f"[metric][batch={step}]: lr-AdamW/group0: {step / 1e4} \n"
        f"[metric][batch={step}]: l2_norm/grad/w: {layer} \n"
        f"[metric][batch={step}]: l2_norm/grad/global: {norm} \n"
    )


def test_after_clipping(make_log):
    text = "[hyperparameter]: seed: 1 \n" + batch(10, 0.25) + "[trace]: x: y\n" + batch(20, "nan") + batch(30, 0.125)
    norms = read_norms(make_log(text), extras=True)
    assert (norms.steps.tolist(), norms.values.tolist()) == ([10, 30], [0.25, 0.125])
    assert norms.learning_rate.tolist() == [1e-3, 3e-3]
    assert norms.loss.tolist() == [3.5, 3.5]
    assert norms.extras["grad_norm_l2/w"].tolist() == [0.5, 0.5]
    assert (norms.kind, norms.source.clipping, norms.source.optimizer) == ("l2", "post", "adam")


def test_resumed_and_cut(make_log):
    text = "".join(batch(s, s / 8) for s in (10, 20, 30)) + "".join(batch(s, s / 4) for s in (20, 30))
    norms = read_norms(make_log(text + "[metric][batch=40]: l2_norm/grad/global: 9"))
    assert norms.values.tolist() == [1.25, 5.0, 7.5]
    assert norms.dropped == {"superseded": 2, "truncated last line": 1}


def test_without_monitor(make_log):
    text = "".join(f"[metric][batch={s}]: loss/train/total: 3.5 \n" for s in range(9))
    with pytest.raises(RefineError, match="OptimizerMonitor"):
        read_norms(make_log(text))

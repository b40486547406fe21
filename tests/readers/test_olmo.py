from __future__ import annotations

import pytest

from refine import RefineError, read_norms

HEAD = "2026-08-22T10:00:00.0Z host:0 olmo_core.train.callbacks.console_logger:61 INFO "


def block(step, norm, prefix=""):
    lines = [
        f"{HEAD}[step={step}/400,epoch=1,eta=1h2m]",
        "    train/CE loss=3.484",
        *([] if norm is None else [f"    optim/total grad norm={norm}"]),
        "    optim/LR (group 0)=0.0002",
        "    optim/step skipped=0.0",
        "    throughput/device/TPS=12,345",
    ]
    return "".join(f"{prefix}{line}\n" for line in lines)


@pytest.mark.parametrize("prefix", ["", "[rank0]:", "3: "])
def test_core(make_log, prefix):
    marker = f"{HEAD}[step=7/400,epoch=1]\n"
    log = make_log(block(1, "0.2800", prefix) + marker + block(5, "1,234", prefix) + block(10, "nan", prefix))
    norms = read_norms(log)
    assert (norms.steps.tolist(), norms.values.tolist()) == ([1, 5], [0.28, 1234.0])
    assert norms.learning_rate.tolist() == [0.0002] * 2
    assert norms.loss.tolist() == [3.484] * 2
    assert norms.total_steps == 400
    assert norms.source.format == "OLMo-core console log"
    assert (norms.source.clipping, norms.source.lr_alignment) == ("pre", "this_step")
    assert "33 %" in norms.source.notes[0]


def test_first_olmo_and_unknown_total(make_log):
    text = "".join(
        f"[step={step}/???]\n    optim/total_grad_norm=0.{step}\n    optim/learning_rate_group0=0.0003\n"
        for step in (10, 20, 30)
    )
    norms = read_norms(make_log(text))
    assert (norms.values.tolist(), norms.total_steps) == ([0.1, 0.2, 0.3], 30)
    assert (norms.source.format, norms.source.lr_alignment) == ("OLMo console log", "unknown")


def test_clipping_off(make_log):
    with pytest.raises(RefineError, match="only where max_grad_norm is set"):
        read_norms(make_log(block(1, None) + block(5, None)))

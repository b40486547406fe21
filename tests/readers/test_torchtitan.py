from __future__ import annotations

import pytest

from refine import RefineError, read_norms

RED, GREEN, ORANGE, RESET = "\x1b[31m", "\x1b[32m", "\x1b[38;2;180;60;0m", "\x1b[39m"
HEAD = "[rank{rank}]:[titan] 2026-08-22 10:00:00,000 - root - INFO - "


def line(step, norm, rank=0):
    text = "" if norm is None else f"{ORANGE}grad_norm: {norm:7.4f}  "
    return (
        HEAD.format(rank=rank) + f"{RED}step: {step:2}  {GREEN}loss: {3.5:8.5f}  {text}"
        f"memory: 12.34GiB(25.00%)  tps: 12,346  tflops: 123.45  mfu: {rank}.34%{RESET}\n"
    )


def test_exact(make_log):
    plan = "Training starts at step 1, with local batch size 8, total steps 400 (warmup 20)\n"
    validate = HEAD.format(rank=0) + f"{RED}validate step: 20  {GREEN}loss:  9.0000  memory: 1GiB(1%)\n"
    log = make_log(HEAD.format(rank=0) + plan + line(1, 0.5) + line(10, 0.25) + line(20, 12.125) + validate)
    norms = read_norms(log)
    assert (norms.steps.tolist(), norms.values.tolist()) == ([1, 10, 20], [0.5, 0.25, 12.125])
    assert norms.loss.tolist() == [3.5] * 3
    assert norms.learning_rate is None
    assert norms.total_steps == 400
    assert norms.source.settings == {"warmup_steps": 20}
    assert (norms.source.clipping, norms.source.lr_alignment) == ("pre", "this_step")


def test_one_line_a_node(make_log):
    log = make_log("".join(line(step, step / 8, rank) for step in range(1, 9) for rank in (0, 8, 16, 24)))
    assert read_norms(log).values.tolist() == [step / 8 for step in range(1, 9)]


def test_old_version_has_no_norm(make_log):
    with pytest.raises(RefineError, match="torchtitan prints grad_norm since June 2025"):
        read_norms(make_log(line(1, None) + line(10, None)))

from __future__ import annotations

import time

import pytest

from refine import RefineError, read_norms


def test_own_script(make_log):
    norms = read_norms(
        make_log(
            "loading data, 3 steps to go\n"
            "Epoch 1, Step 1,000/3,000: Loss: 3.25, Grad Norm: 0.5, LR: 1e-3\n"
            "validation loss 3.0 at step 1000\n"
            "Epoch 1, Step 2,000/3,000: Loss: 3.20, Grad Norm: nan, LR: 2e-3\n"
            "Epoch 1, Step 3,000/3,000: Loss: 3.00, Val Loss: 9.0, Grad Norm: 1,024.5, LR: 3e-3\n",
            name="out.txt",
        )
    )
    assert norms.source.format == "console log"
    assert (norms.steps.tolist(), norms.values.tolist()) == ([1000, 3000], [0.5, 1024.5])
    assert (norms.learning_rate.tolist(), norms.loss.tolist()) == ([1e-3, 3e-3], [3.25, 3.0])
    assert norms.dropped == {"non-finite": 1}


@pytest.mark.parametrize(
    "line",
    [
        "step {} | loss 3.2 | grad_norm {} | lr 1e-4\n",
        "iter {}: loss 3.2000, time 12.30ms, mfu 40.1%, grad_norm {}\n",
        "step {:05d}/00400 (0.05%) | loss: 9.5 | grad norm: {} | lrm: 1.00 | dt: 1.0ms\n",
        "step:{}/400 train_loss:5.4 grad_norm:{} step_avg:99.9ms\n",
        "iteration={} gnorm={} loss=1\n",
        "2024-01-01 10:00:00 INFO train/gradient_norm: {1} global_step={0}\n",
    ],
)
def test_shapes_of_lines(make_log, line):
    text = "".join(line.format(step, norm) for step, norm in [(1, 0.5), (2, 0.25), (3, 0.75)])
    norms = read_norms(make_log(text, name="out.txt"))
    assert (norms.steps.tolist(), norms.values.tolist()) == ([1, 2, 3], [0.5, 0.25, 0.75])


def test_setting_is_no_norm(make_log):
    text = "".join(f"step {step} | loss 3.2 | max_grad_norm 1.0\n" for step in range(1, 9))
    with pytest.raises(RefineError):
        read_norms(make_log(text, name="out.txt"))


def test_ranks_that_print_alike_count_once(make_log):
    text = "".join(
        f"[rank{rank}]: step {step} | loss {3 - step / 10} | grad_norm {step / 8} | {rank}.5 s\n"
        for step in range(1, 9)
        for rank in (0, 8, 16)
    )
    norms = read_norms(make_log(text, name="out.txt"))
    assert norms.values.tolist() == [step / 8 for step in range(1, 9)]
    assert norms.dropped == {"repeated by another rank": 16}


@pytest.mark.parametrize(
    ("end", "last", "dropped"), [("0.37", 3, {"truncated last line": 1}), ("0.3750", 4, {}), ("0.3750\n", 4, {})]
)
def test_cut_last_line(make_log, end, last, dropped):
    text = "".join(f"step {step} | grad_norm {step / 8:.4f}\n" for step in (1, 2, 3)) + f"step 4 | grad_norm {end}"
    norms = read_norms(make_log(text, name="out.txt"))
    assert norms.steps[-1] == last
    assert norms.dropped == dropped


@pytest.mark.parametrize("filler", ["step 1 ", "grad norm ", "grad_norm 1", "1,", " ", "a", "step      ", "| lr: "])
def test_hostile_lines_are_read_fast(make_log, filler):
    line = filler * (10**6 // len(filler))
    text = f"step 1 | grad_norm 0.5\nstep 2 | grad_norm 0.25\n{line}\nstep 3 | grad_norm 0.125\n"
    started = time.perf_counter()
    norms = read_norms(make_log(text, name="out.txt"))
    assert time.perf_counter() - started < 3.0
    assert norms.steps[-1] >= 3

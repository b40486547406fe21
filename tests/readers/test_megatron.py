from __future__ import annotations

import pytest

from refine import RefineError, read_norms

LINE = (
    "{prefix} [2026-08-22 10:00:00.000000] iteration {step:8d}/{total:8d} | consumed samples: {samples:12d} |"
    " elapsed time per iteration (ms): 12.3 | learning rate: {lr:.6E} | global batch size:    16 |"
    " lm loss: {loss:.6E} | loss scale: 65536.0 |{norm} number of skipped iterations:   0 |"
    " number of nan iterations:   0 |\n"
)


def line(step, norm, prefix="", total=40):
    text = "" if norm is None else f" grad norm: {norm} |"
    return LINE.format(prefix=prefix, step=step, total=total, samples=16 * step, lr=step / 1e4, loss=3.5, norm=text)


@pytest.mark.parametrize("prefix", ["", "7: ", "[default7]:", "0: [rank7]:"])
def test_prefixes(make_log, prefix):
    norms = read_norms(make_log("starting\n" + "".join(line(s, f"{s / 8:.3f}", prefix) for s in range(1, 41))))
    assert norms.values.tolist() == [s / 8 for s in range(1, 41)]
    assert norms.learning_rate.tolist() == [s / 1e4 for s in range(1, 41)]
    assert norms.total_steps == 40
    assert norms.kind == "l2"
    source = norms.source
    assert source.format == "Megatron console log"
    assert (source.clipping, source.lr_alignment, source.window_mean) == ("pre", "next_step", False)
    assert source.settings["samples per update"] == 16.0


def test_skipped_iterations_have_no_norm(make_log):
    log = make_log(line(1, "1.000") + line(2, None) + line(3, "nan") + line(4, "2.000"))
    norms = read_norms(log)
    assert (norms.steps.tolist(), norms.values.tolist()) == ([1, 4], [1.0, 2.0])
    assert norms.dropped == {"without a norm": 1, "non-finite": 1}


def test_resumed_run_wins_and_validation_lines_are_none(make_log):
    first = "".join(line(s, f"{s}.000") for s in range(10, 31, 10))
    second = "".join(line(s, f"{s}.500") for s in range(20, 41, 10))
    between = " validation loss at iteration 30 | lm loss value: 3.0E+00 | lm loss PPL: 2.0E+01 |\n"
    norms = read_norms(make_log(first + between + second))
    assert norms.values.tolist() == [10.0, 20.5, 30.5, 40.5]
    assert norms.dropped == {"superseded": 2}


def test_unfinished_run(make_log):
    norms = read_norms(make_log("".join(line(s, "1.000", total=400) for s in (10, 20))))
    assert norms.total_steps == 400
    assert "the last norm is of step 20, and the run was planned for 400 updates" in norms.source.notes[0]


@pytest.mark.parametrize("cut", range(5, 60, 6))
def test_cut_anywhere_in_the_last_line(make_log, cut):
    last = line(4, "0.456")
    norms = read_norms(make_log("".join(line(s, "0.123") for s in (1, 2, 3)) + last[: last.index("0.456") + cut - 8]))
    assert norms.values.tolist() in ([0.123] * 3, [0.123] * 3 + [0.456])


def test_neox_and_nemo_without_norms(make_log):
    neox = (
        " samples/sec: 1.0 | iteration       10/     400 | elapsed time per iteration (ms): 1.0 |"
        " learning rate: 6.000E-05 | approx flops per GPU: 1.0TFLOPS | lm_loss: 8.1E+00 |\n"
    )
    with pytest.raises(RefineError, match="GPT-NeoX console: no gradient norm in this format; log the total"):
        read_norms(make_log(neox * 3))
    nemo = "Training epoch 0, iteration {0}/99 | lr: 1e-4 | global_step: {0} | reduced_train_loss: 10.3{1}\n"
    with pytest.raises(RefineError, match="NeMo console: no gradient norm"):
        read_norms(make_log("".join(nemo.format(i, "") for i in (9, 19, 29))))
    norms = read_norms(make_log("".join(nemo.format(i, f" | grad_norm: {i / 8:.3f}") for i in (9, 19, 99))))
    assert norms.steps.tolist() == [10, 20, 100]  # NeMo counts from 0
    assert norms.values.tolist() == [1.125, 2.375, 12.375]
    assert norms.total_steps == 100

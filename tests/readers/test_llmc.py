from __future__ import annotations

import pytest

from refine import RefineError, read_norms


def test_file(make_log):
    text = "s:0 tel:10.9\n" + "".join(
        f"s:{s} trl:3.4841 lr:0.000{s + 1:03d} norm:{s / 4 + 0.25:.2f}\n" for s in range(9)
    )
    resumed = (
        "s:7 trl:3.0 lr:0.000500 norm:9.00\ns:8 trl:3.0 lr:0.000500 norm:-nan\ns:9 trl:3.0 lr:0.000500 norm:9.50\n"
    )
    norms = read_norms(make_log(text + "s:8 eval:0.30\n" + resumed))
    assert norms.steps.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]  # the file counts from 0
    assert norms.values.tolist() == [0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 9.0, 2.25, 9.5]
    assert norms.learning_rate[0] == 1e-6
    assert norms.total_steps == 10
    assert (norms.source.format, norms.source.lr_alignment) == ("llm.c main.log", "this_step")


def test_cut_file(make_log):
    text = "".join(f"s:{s} trl:3.4 lr:0.001000 norm:0.25\n" for s in range(4))
    norms = read_norms(make_log(text + "s:4 trl:3.4 lr:0.001000 norm:0.2"))
    assert norms.steps.tolist() == [1, 2, 3, 4]
    assert norms.dropped == {"truncated last line": 1}


@pytest.mark.parametrize(
    "line",
    [
        "step {:4d}/400 | loss 3.484087 (+0.10z)| norm {:6.4f} (+0.20z)| lr 1.50e-04 | 12.30 ms | 45.6% bf16 MFU\n",
        "step {:4d}/400 | loss 3.484087 (+nanz)| norm {:6.4f} (+nanz)| lr 1.50e-04 | 12.30 ms | -100.0% MFU\n",
        "step {:4d}/400 | train loss 3.484087 | norm {:.4f} | lr 1.50e-04 | (12.3 ms | 170000 tok/s)\n",
    ],
)
def test_console(make_log, line):
    norms = read_norms(make_log("".join(line.format(s, n) for s, n in [(1, 0.28), (2, float("nan")), (3, 15.25)])))
    assert (norms.steps.tolist(), norms.values.tolist()) == ([1, 3], [0.28, 15.25])
    assert norms.dropped == {"non-finite": 1}
    assert norms.learning_rate.tolist() == [1.5e-4] * 2
    assert norms.loss.tolist() == [3.484087] * 2
    assert norms.total_steps == 400


def test_old_file(make_log):
    with pytest.raises(RefineError, match="llm.c writes the norm to main.log since"):
        read_norms(make_log("s:0 trl:3.4\ns:1 trl:3.4\n"))

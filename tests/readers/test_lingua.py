from __future__ import annotations

import json

from refine import read_norms


def test_metrics(make_log):
    rows = [
        {"global_step": 10 * i, "acc_step": 0, "optim/grad_norm": -1.0 if i % 4 == 0 else i / 8, "optim/lr": i / 1e4,
         "loss/out": 3.5, "speed/wps": 1.0}
        for i in range(1, 41)
    ]  # fmt: skip
    norms = read_norms(make_log("".join(json.dumps(row) + "\n" for row in rows) + '{"global_step": 410, "optim/gr'))
    assert norms.steps.tolist() == [10 * i for i in range(1, 41) if i % 4]
    assert norms.values.tolist() == [i / 8 for i in range(1, 41) if i % 4]
    assert norms.learning_rate.tolist() == [i / 1e4 for i in range(1, 41) if i % 4]
    assert norms.dropped == {"without a norm": 10, "truncated last line": 1}
    assert (norms.source.clipping, norms.source.lr_alignment) == ("pre", "this_step")


def test_console(make_log):
    line = (
        "0: INFO 26-08-22 10:00:00 - step: {}  acc: 0  loss:  3.4394  grad: {}  flops: 1.00e+14  wps: 1.00e+04"
        "  iter:  0.1234  data: 0.001  lr: 1.50e-03  mem: 10%  pow: 300.0 W\n"
    )
    norms = read_norms(make_log("".join(line.format(*v) for v in [(10, "2.80e-01"), (20, "-1.00e+00"), (30, "5e-1")])))
    assert (norms.steps.tolist(), norms.values.tolist()) == ([10, 30], [0.28, 0.5])
    assert norms.learning_rate.tolist() == [1.5e-3] * 2
    assert norms.loss.tolist() == [3.4394] * 2

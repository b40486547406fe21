from __future__ import annotations

import json

from refine import read_norms

HEAD = "2026-08-22 10:00:00 | INFO | "


def row(step, norm):
    shown = {"epoch": 1, "update": step / 400, "loss": "5.003", "num_updates": str(step), "lr": "0.0015"}
    return HEAD + "train_inner | " + json.dumps({**shown, "gnorm": norm, "clip": "100", "wall": "1"}) + "\n"


def test_json(make_log):
    epoch = HEAD + 'train | {"epoch": 1, "train_loss": "4", "train_num_updates": "30", "train_gnorm": "9.0"}\n'
    cut = row(40, "0.400")
    log = make_log(row(10, "0.291") + row(20, "nan") + row(30, "0.280") + epoch + cut[: cut.index("0.400") + 3])
    norms = read_norms(log)
    assert (norms.steps.tolist(), norms.values.tolist()) == ([10, 30], [0.291, 0.28])
    assert norms.learning_rate.tolist() == [0.0015] * 2
    assert norms.dropped == {"without a norm": 1, "non-finite": 1}
    source = norms.source
    assert source.columns["step"] == "num_updates"
    assert source.window_mean
    assert (source.clipping, source.lr_alignment) == ("pre", "next_step")
    assert source.notes == ("fairseq logs the loss in bits (base 2); it is left so",)


def test_simple(make_log):
    line = (
        "train_inner | epoch 001:  {0:5d} / 3715 loss=15.16, ppl=9, num_updates={0}, lr=1.25e-05, gnorm={1}, wall=9\n"
    )
    norms = read_norms(make_log("".join(HEAD + line.format(s, s / 800) for s in (100, 200, 300))))
    assert (norms.steps.tolist(), norms.values.tolist()) == ([100, 200, 300], [0.125, 0.25, 0.375])
    assert norms.learning_rate.tolist() == [1.25e-05] * 3

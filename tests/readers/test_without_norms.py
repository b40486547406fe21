"""Logs of frameworks that log no norm are refused with what to do; with a norm added by hand they are read."""

from __future__ import annotations

import json

import pytest

from refine import RefineError, read_norms

COUNT = range(1, 9)


def lines(pattern):
    return "".join(pattern.format(step) for step in COUNT)


def objects(**row):
    return "".join(json.dumps({k: s if v is None else v for k, v in row.items()}) + "\n" for s in COUNT)


LOGS = [
    ("nanoGPT console", "clip_grad_norm_", lines("iter {}: loss 3.2000, time 12.30ms, mfu 40.1%\n")),
    ("modded-nanogpt log", "clip_grad_norm_", lines("step:{}/8 train_loss:5.4 train_time:9ms step_avg:9.9ms\n")),
    ("nanochat console", "clip_grad_norm_", lines("step {:05d}/00008 (1.0%) | loss: 9.5 | lrm: 1.00 | dt: 1.0ms\n")),
    ("litgpt console", "clip_grad_norm_", lines("Epoch 1 | iter {0} step {0} | loss train: 3.2, val: n/a\n")),
    (
        "litgpt metrics.csv",
        "clip_gradients",
        "loss,iter,step,epoch,iter_time,remaining_time,learning_rate\n" + lines("3,{0},{0},0,1,1,0.1\n"),
    ),
    ("timm summary.csv", "clip_grad_norm_", "epoch,train_loss,eval_loss,eval_top1,lr\n" + lines("{},3,3,1,.1\n")),
    ("Keras CSVLogger", "train_step", "epoch,accuracy,loss,val_accuracy,val_loss\n" + lines("{},0.5,3,NA,3\n")),
    ("detectron2 metrics.json", "put_scalar", objects(iteration=None, total_loss=3.0, lr=0.1, data_time=0.1)),
    (
        "open_clip or open_lm console",
        "clip_grad_norm_",
        lines("INFO | Train Epoch: 0 [  {}/800 (1%)] Data (t): 0.1 Batch (t): 0.1, 9/s LR: 0.0001 Logit Scale: 14.2\n"),
    ),
    ("MaxText console", "metrics_file", lines("completed step: {}, seconds: 0.1, TFLOP/s/device: 9.9, loss: 3.5\n")),
    ("DeepSpeed log", "get_global_grad_norm", lines("[INFO] [Rank 0] step={}, skipped=0, lr=[0.1], mom=[0]\n")),
    (
        "LLaMA-Factory trainer_log.jsonl",
        "trainer_state.json beside it has one",
        objects(current_steps=None, total_steps=8, loss=3.0, lr=0.1, epoch=0.1, percentage=9.0),
    ),
]


@pytest.mark.parametrize(("name", "remedy", "text"), LOGS, ids=[log[0] for log in LOGS])
def test_refused_with_a_recipe(make_log, name, remedy, text):
    with pytest.raises(RefineError) as error:
        read_norms(make_log(text, name="log"))
    message = str(error.value)
    assert f"{name}: no gradient norm in this format; " in message
    assert remedy in message
    assert "\n" not in message


def test_deepspeed_monitor_is_known_by_its_name(make_log):
    with pytest.raises(RefineError, match="get_global_grad_norm"):
        read_norms(
            make_log("step,lr\n" + lines("{},0.1\n") + "step,lr\n" + lines("{},0.1\n"), name="Train_Samples_lr.csv")
        )


@pytest.mark.parametrize(
    "text",
    [
        lines("iter {0}: loss 3.2000, time 12.30ms, mfu 40.1%, grad_norm 0.{0}\n"),
        lines("step:{0}/8 train_loss:5.4 grad_norm:0.{0} step_avg:9.9ms\n"),
        lines("step {0:05d}/00008 (1.0%) | loss: 9.5 | grad norm: 0.{0} | lrm: 1.00 | dt: 1.0ms\n"),
        lines("Epoch 1 | iter {0} step {0} | loss train: 3.2, grad_norm: 0.{0}\n"),
        "epoch,step,loss,val_loss,grad_norm\n" + lines("0,{0},3,3,0.{0}\n"),
        "".join(json.dumps({"iteration": s, "total_loss": 3.0, "lr": 0.1, "grad_norm": s / 10}) + "\n" for s in COUNT),
        "".join(json.dumps({"current_steps": s, "total_steps": 8, "grad_norm": s / 10}) + "\n" for s in COUNT),
    ],
    ids=["nanogpt", "modded", "nanochat", "litgpt", "keras", "detectron2", "llamafactory"],
)
def test_norm_added_by_hand_is_read(make_log, text):
    norms = read_norms(make_log(text, name="log"))
    assert norms.steps.tolist() == list(COUNT)
    assert norms.values.tolist() == [step / 10 for step in COUNT]


def test_plain_table_keeps_its_message(make_log):
    log = make_log("step,lr,loss\n" + lines("{},0.1,3.0\n"))
    with pytest.raises(RefineError) as error:
        read_norms(log)
    assert str(error.value) == (
        f'{log}: no column is known to be a gradient norm; columns: "step", "lr", "loss"; choose one with --column'
    )


def test_damage_is_said_of_a_log_with_a_norm(make_log):
    text = "epoch,loss,val_loss,grad_norm\n1,3,3,0.5\n2,3,3,0.5,9,9,9\n"
    with pytest.raises(RefineError, match="do not fit the first line"):
        read_norms(make_log(text))


def test_companion_may_lack_norms(make_log):
    norms = make_log("step,grad_norm\n" + lines("{0},0.{0}\n"), name="norms.csv")
    rates = make_log(objects(current_steps=None, total_steps=8, lr=0.25, percentage=9.0), name="rates.jsonl")
    assert read_norms(norms, rates).learning_rate.tolist() == [0.25] * 8

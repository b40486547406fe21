"""Each log is taken by the reader of its own format, and no other framework's reader claims it."""

from __future__ import annotations

import time

import pytest

from refine.readers import FORMATS, find_format
from refine.readers.opening import opened

GENERIC = {"json", "jsonl", "console", "csv"}

RENDERED = {
    "ambiguous.csv": "csv",
    "composer_file_logger.txt": "composer",
    "fairseq_json.log": "fairseq",
    "generic.csv": "csv",
    "generic.tsv": "csv",
    "llamafactory_trainer_log.jsonl": "jsonl",
    "llmc_main.log": "llmc",
    "llmc_stdout.log": "llmc",
    "lr_scheduling_style.json": "lr-scheduling",
    "maxtext_metrics.jsonl": "maxtext",
    "megatron_stdout_interval10_resumed.log": "megatron",
    "megatron_stdout_interval1_with_skips.log": "megatron",
    "ms_swift_logging.jsonl": "ms-swift",
    "torchtitan_stdout_ansi_resumed.log": "torchtitan",
    "torchtune_log.jsonl": "torchtune",
    "wandb_ui_export_grad_norm_two_runs.csv": "csv",
    "wandb_ui_export_lr_two_runs.csv": "csv",
    "../mmengine/scalars.json": "mmengine",
    "../mmengine": "mmengine",
    "../hf_trainer/v5.23.0_stdout.txt": "hf-console",
    "../hf_trainer/v4.50.3_stdout.txt": "hf-console",
    "../../llm-runs/grad_norm/const_lr0.001_T50000.csv": "csv",
}

RECORDED = (
    '{"format": "refine-gradient-norms", "format_version": 1, "optimizer": "SGD", "clipping": "pre", '
    '"planned_steps": null, "settings": {"learning_rate": 0.1}, "groups": ["lr"]}'
)
INLINE = [
    ("recorder", f'{RECORDED}\n{{"step": 1, "grad_norm_l1": 9.5, "grad_norm_l2": 0.5, "lr": 0.1, "loss": 2.5}}'),
    ("recorder", f"# {RECORDED}\nstep,grad_norm_l1,grad_norm_l2,lr,loss\n1,9.5,0.5,0.1,2.5"),
    ("recorder", RECORDED),
    ("megatron", "[default7]: iteration       10/     400 | consumed samples: 160 | grad norm: 0.273 |\n"),
    ("megatron", "Training epoch 0, iteration 9/99 | lr: 0.0001 | reduced_train_loss: 10.3\n"),
    ("torchtitan", "[rank0]:[titan] - INFO - step: 10  loss:  7.9  grad_norm:  1.2  memory: 12.34GiB(25.00%)\n"),
    ("fairseq", "x | INFO | train_inner | epoch 001:  10 / 99 loss=5.0, num_updates=10, lr=1e-05, gnorm=2.5, wall=1\n"),
    ("olmo", "INFO [step=10/400,epoch=1,eta=1m]\n    optim/total grad norm=0.2800\n    train/CE loss=3.4\n"),
    ("olmo", "[step=10/400]\n    optim/total_grad_norm=0.2800\n    train/CrossEntropyLoss=3.4\n"),
    ("nanotron", "[INFO|DP=0]: iteration: 1 / 400 | consumed_tokens: 4.1K | grad_norm: 0.28 | lm_loss: 3.48\n"),
    ("lingua", '{"global_step": 10, "acc_step": 0, "optim/grad_norm": 0.28, "optim/lr": 1e-3, "loss/out": 3.4}\n'),
    ("lingua", "0: INFO step: 10  acc: 0  loss:  3.4394  grad: 2.80e-01  flops: 1e+14  lr: 1.50e-03\n"),
    ("levanter", 'INFO {"tracker": "json_logger", "event": "log", "step": 1, "metrics": {"train/loss": 1.0}}\n'),
    ("torchtune", '{"step": 1, "loss": 3.4, "lr": 1e-4, "tokens_per_second_per_gpu": 9.0, "grad_norm": 0.28}\n'),
    ("torchtune", "Step 1 | loss:1.2 lr:2e-05 tokens_per_second_per_gpu:100.5 grad_norm:0.5 \n"),
    ("verl", '{"step": 1, "data": {"actor/grad_norm": 0.5, "actor/lr": 1e-6}}\n'),
    ("verl", "(TaskRunner pid=7) step:1 - actor/grad_norm:0.5 - actor/lr:1e-06\n"),
    ("maxtext", '{"learning/loss": 3.4, "learning/raw_grad_norm": 0.28, "learning/grad_norm": 0.25, "step": 0.0}\n'),
    ("llmc", "s:0 tel:3.4841\ns:0 trl:3.4841 lr:0.000150 norm:0.28\n"),
    ("llmc", "step    1/400 | loss 3.484087 (+nanz)| norm 0.2800 (+nanz)| lr 1.50e-04 | 12.30 ms | 1 tok/s\n"),
    ("mmengine", '{"lr": 0.01, "data_time": 0.1, "grad_norm": 4.8, "loss": 5.1, "time": 1, "iter": 10, "step": 10}\n'),
    ("mmengine", "01/01 10:00:00 - mmengine - INFO - Epoch(train)  [1][10/50]  lr: 1e-3  grad_norm: 4.88  loss: 5.1\n"),
    ("mmengine", "01/01 10:00:00 - mmengine - INFO - Iter(train) [ 10/100]  lr: 1e-3  grad_norm: 4.88  loss: 5.1\n"),
    ("composer", "[metric][batch=10]: l2_norm/grad/global: 0.25 \n"),
    ("ms-swift", '{"loss": 3.4, "grad_norm": 0.28, "global_step/max_steps": "1/400", "elapsed_time": "1s"}\n'),
    ("ms-swift", '{"loss": 3.4, "grad_norm": 0.28, "iteration": "1/400", "remaining_time": "1s"}\n'),
    ("lr-scheduling", '{"config": {}, "history": {"train": {"iter": [50], "train_lr": [0.1], "grad_norm": [1.0]}}}'),
    ("hf-console", "{'loss': '3.9', 'grad_norm': '0.9', 'learning_rate': '0.0002', 'epoch': '0.02'}\n"),
    ("hf-console", "\r 2%|x| 1/50\r{'loss': 3.9, 'grad_norm': nan, 'learning_rate': 2e-4, 'epoch': 0.02}\n"),
    ("console", "step 1 | loss 3.2 | grad_norm 0.5\nstep 2 | loss 3.1 | grad_norm 0.4\n"),
    ("jsonl", '{"step": 1, "grad_norm": 0.5}\n'),
    ("json", '{"step": [1, 2],\n "grad_norm": [0.5, 0.4]}'),
    ("csv", "iteration,lr,grad norm\n1,0.1,0.5\n"),
]


def claims(log):
    return [format.name for format in FORMATS if format.name not in GENERIC and format.sniff(log)]


@pytest.mark.parametrize(("name", "expected"), RENDERED.items())
def test_samples(shared, name, expected):
    path = shared / "formats" / "rendered" / name
    with opened(str(path)) as log:
        assert find_format(log).name == expected
        assert claims(log) == ([] if expected in GENERIC else [expected])


@pytest.mark.parametrize(("expected", "text"), INLINE)
def test_inline(make_log, expected, text):
    with opened(str(make_log(text))) as log:
        assert find_format(log).name == expected
        assert claims(log) == ([] if expected in GENERIC else [expected])
    if text.endswith("\n") and expected not in GENERIC:
        with opened(str(make_log("a line of something else\n" + text * 2))) as log:
            assert find_format(log).name == expected


@pytest.mark.parametrize(
    "text",
    [b"", b"\0" * 999, b"{" * 500_000, b"[step=" * 200_000, b"{'loss': " * 120_000, b"step 1 " * 150_000,
     b"a b " * 300_000, b"{'" + b"x" * 10**6, b"| a" * 350_000, b"iteration  " * 100_000],
    ids=["empty", "zeros", "braces", "steps", "dicts", "step", "words", "open", "pipes", "iteration"],
)  # fmt: skip
def test_hostile_text_is_sniffed_fast(make_log, text):
    with opened(str(make_log(text))) as log:
        started = time.perf_counter()
        claims(log)
        assert time.perf_counter() - started < 2.0


def test_names_are_unique():
    names = [format.name for format in FORMATS]
    assert len(names) == len(set(names))

"""Two processes on gloo against one, with torchrun."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from numpy.testing import assert_allclose

SCRIPT = Path(__file__).with_name("two_processes.py")
spec = importlib.util.spec_from_file_location("refine_tests_distributed", SCRIPT)
one = importlib.util.module_from_spec(spec)
spec.loader.exec_module(one)


def torchrun(*arguments, processes=2):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    done = subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def compare(found, expected, *, columns, rtol=1e-6):
    assert [row["step"] for row in found] == [row["step"] for row in expected]
    for mine, its in zip(found, expected, strict=True):
        for column in columns:
            assert (column in mine) == (column in its)
            if column in its:
                assert_allclose(mine[column], its[column], rtol=rtol, atol=1e-12, err_msg=f"{column} of {its['step']}")


NORMS = ("grad_norm_l1", "grad_norm_l2", "grad_norm_dual", "clip_coefficient", "lr")
DISTANCES = ("distance", "grad_dot_displacement", "lr_grad_sum_norm")


@pytest.mark.parametrize("how", ["ddp", "fsdp", "hsdp"])
def test_data_parallel_norms_are_those_of_one_process(tmp_path, rows, how):
    torchrun(SCRIPT, how, tmp_path)
    model = one.network()
    one.train(model, list(model.parameters()), tmp_path / "one.jsonl", one.data(), per_group=how != "ddp")
    header, found = rows(tmp_path / "run.jsonl")
    _, expected = rows(tmp_path / "one.jsonl")
    assert (header["processes"], len(found)) == (2, one.UPDATES)
    # The dual norm divides by sqrt(v): what is 1e-7 in a tiny gradient is more there.
    compare(found, expected, columns=("grad_norm_l1", "grad_norm_l2", "clip_coefficient", "lr"))
    compare(found, expected, columns=("grad_norm_dual", *DISTANCES), rtol=1e-4)
    if how != "ddp":
        compare(found, expected, columns=("grad_norm_l2/group:0", "lr/group:0"))


def test_tensor_parallel_norms_are_those_of_one_process(tmp_path, rows):
    torchrun(SCRIPT, "tensor", tmp_path)
    model = one.network(34)
    parameters = list(model.parameters())
    one.train(model, parameters, tmp_path / "one.jsonl", one.data(), optimizer=torch.optim.SGD)
    found, expected = (rows(tmp_path / name)[1] for name in ("run.jsonl", "one.jsonl"))
    compare(found, expected, columns=("grad_norm_l1", "grad_norm_l2", "clip_coefficient"))
    compare(found, expected, columns=DISTANCES, rtol=1e-4)


def test_stages_of_a_pipeline_add_up(tmp_path, rows):
    torchrun(SCRIPT, "pipeline", tmp_path)
    model = one.network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    with one.GradNormRecorder(optimizer, tmp_path / "one.jsonl", distance_every=3) as recorder:
        for x in one.data():
            optimizer.zero_grad()
            (model[0](x).square().mean() + model[2](x.repeat(1, 2)[:, :33]).square().mean()).backward()
            recorder.record()
            optimizer.step()
    found, expected = (rows(tmp_path / name)[1] for name in ("run.jsonl", "one.jsonl"))
    compare(found, expected, columns=NORMS[:2])
    compare(found, expected, columns=(*NORMS[2:], *DISTANCES), rtol=1e-4)


def test_one_process_that_cannot_measure_does_not_stop_the_others(tmp_path, rows):
    done = torchrun(SCRIPT, "failing", tmp_path)
    assert done.stderr.count("gradient norms are not recorded any more, the run goes on") == 1
    _, found = rows(tmp_path / "run.jsonl")
    assert len(found) == one.UPDATES
    assert not any("grad_norm_l1" in row for row in found)  # half a sum is none


def test_gradients_that_are_sums_still_due(tmp_path, rows):
    torchrun(SCRIPT, "sequence", tmp_path)
    norm = torch.nn.LayerNorm(20)
    optimizer = torch.optim.SGD(norm.parameters(), lr=0.1)
    with one.GradNormRecorder(optimizer, tmp_path / "one.jsonl") as recorder:
        for x in one.data():
            optimizer.zero_grad()
            norm(x[None].repeat(1, 4, 1)).square().sum().backward()
            recorder.record()
            optimizer.step()
    found, expected = (rows(tmp_path / name)[1] for name in ("run.jsonl", "one.jsonl"))
    compare(found, expected, columns=("grad_norm_l1", "grad_norm_l2", "clip_coefficient"), rtol=1e-5)


def test_such_sums_do_not_hang_where_one_process_fails(tmp_path, rows):
    torchrun(SCRIPT, "sequence failing", tmp_path)
    assert len(rows(tmp_path / "run.jsonl")[1]) == one.UPDATES

import gc
import math
import subprocess
import sys
import textwrap
import time
import warnings
import weakref

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn

from refine import RefineError, RefineWarning, read_norms
from refine.torch import GradNormRecorder

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2),
    "fused": lambda p: torch.optim.AdamW(p, lr=1e-2, fused=True),
    "amsgrad": lambda p: torch.optim.Adam(p, lr=1e-2, amsgrad=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-3),
}


DYNAMO = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:The .grad attribute:UserWarning")
"""What torch.compile itself stumbles over."""


def flat(network):
    return torch.cat([p.grad.detach().double().flatten() for p in network.parameters()])


def norms(network):
    gradient = flat(network)
    return gradient.abs().sum().item(), gradient.norm().item()


def adam_norm(network, optimizer, raw):
    """sum g^2 / (sqrt(v / c) + eps) in float64, g as it was before clipping times g as the step saw it."""
    total, start = 0.0, 0
    for p in network.parameters():
        state = optimizer.state[p]
        v = state.get("max_exp_avg_sq", state["exp_avg_sq"]).double()
        root = (v / (1 - 0.999 ** float(state["step"]))).sqrt() + 1e-8
        g = raw[start : start + p.numel()].reshape(p.shape)
        total += (g * p.grad.double() / root).sum().item()
        start += p.numel()
    return total


@pytest.mark.parametrize("clip", [None, 0.05])
@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
@pytest.mark.parametrize("name", ["sgd", "adamw", "fused", "amsgrad"])
def test_every_update_equals_float64(tmp_path, network, step, name, suffix, clip):
    optimizer = OPTIMIZERS[name](network.parameters())
    expected = []
    with GradNormRecorder(optimizer, tmp_path / f"run.{suffix}", buffer_steps=8, total_steps=30) as recorder:
        for t in range(30):
            optimizer.param_groups[0]["lr"] = 0.1 / (t + 1)
            loss = step()
            recorder.record(loss=loss)
            raw = flat(network)
            l1, l2 = norms(network)
            if clip:
                nn.utils.clip_grad_norm_(network.parameters(), clip)
            factor = flat(network).norm().item() / l2
            optimizer.step()
            own = adam_norm(network, optimizer, raw) if name != "sgd" else math.nan
            expected.append((l1, l2, own, loss.item(), 0.1 / (t + 1), factor))
    l1, l2, own, losses, rates, factors = np.array(expected).T
    log = read_norms(tmp_path / f"run.{suffix}", norm_kind="l1")
    assert_allclose(log.values, l1, rtol=1e-6)
    assert_allclose(log.loss, losses, rtol=1e-6)
    assert_allclose(log.learning_rate, rates, rtol=1e-8)
    assert (log.steps.tolist(), log.total_steps) == (list(range(1, 31)), 30)
    assert dict(log.dropped) == {}
    if name != "sgd":
        assert_allclose(read_norms(tmp_path / f"run.{suffix}").values, own, rtol=2e-6)
        assert_allclose(read_norms(tmp_path / f"run.{suffix}", norm_kind="l2").values, l2, rtol=1e-6)
    else:  # what the step saw
        assert_allclose(read_norms(tmp_path / f"run.{suffix}").values, l2 * factors, rtol=2e-6)


@pytest.mark.parametrize("options", [{}, {"per_group": True, "distance_every": 3}, {"own_norm": "direction"}])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_is_bit_for_bit_the_same(tmp_path, name, options):
    def train(path):
        torch.manual_seed(3)
        network = nn.Sequential(nn.Linear(20, 80), nn.Dropout(0.1), nn.Linear(80, 20))
        optimizer = OPTIMIZERS[name](network.parameters())
        recorder = GradNormRecorder(optimizer, path, buffer_steps=4, **options) if path else None
        for _ in range(25):
            x = torch.randn(8, 20)
            optimizer.zero_grad()
            loss = (network(x) - x).square().mean()
            loss.backward()
            if recorder:
                recorder.record(loss=loss)
            nn.utils.clip_grad_norm_(network.parameters(), 0.2)
            optimizer.step()
        if recorder:
            recorder.close()
        return [p.detach().clone() for p in network.parameters()], torch.get_rng_state()

    (plain, state), (recorded, state_recorded) = train(None), train(tmp_path / "run.jsonl")
    assert all(torch.equal(a, b) for a, b in zip(plain, recorded, strict=True))
    assert torch.equal(state, state_recorded)
    assert (tmp_path / "run.jsonl").read_text().count("\n") == 26


class Idle(torch.optim.Optimizer):
    """Adam's state, on any device, and steps that do nothing."""

    def __init__(self, parameters):
        super().__init__(parameters, {"lr": 1e-3, "betas": (0.9, 0.99), "eps": 1e-8})
        for group in self.param_groups:
            for p in group["params"]:
                moment = torch.zeros_like(p)
                self.state[p] = {"step": torch.ones((), device=p.device), "exp_avg_sq": moment}

    def step(self, closure=None):
        pass


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nothing_is_read_on_the_host_until_half_the_buffer_is_full(tmp_path, dtype):
    """A meta tensor has no values: whoever asks for one fails."""
    weights = [nn.Parameter(torch.empty(300, 50, device="meta", dtype=dtype)) for _ in range(3)]
    rate = torch.tensor(1e-3, device="meta")
    optimizer = Idle([{"params": weights[:2], "name": "a"}, {"params": weights[2:], "lr": rate}])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        recorder = GradNormRecorder(optimizer, tmp_path / "run.csv", per_group=True, distance_every=2)
        for _ in range(64):
            for weight in weights:
                weight.grad = torch.empty_like(weight)
            recorder.record(loss=torch.empty((), device="meta"))
            optimizer.step()
        measured = recorder._rows[-2].measured
    assert len(recorder._rows) == 64
    assert {"l1/group:a", "own/group:a", "own/group:1", "lr/group:1", "loss", "distance", "dot", "sum"} <= measured
    with pytest.warns(RefineWarning, match="not recorded any more"):
        recorder.close()  # a copy to the host is a copy of nothing


class TestGradScaler:
    @pytest.mark.parametrize("fused", [False, True])
    @pytest.mark.parametrize("unscale", ["before", "after", "never"])
    def test_norms_are_unscaled_and_skipped_updates_marked(self, tmp_path, network, step, rows, unscale, fused):
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2, fused=fused)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=4)
        expected = []
        with GradNormRecorder(optimizer, tmp_path / "run.jsonl", scaler=scaler) as recorder:
            for t in range(12):
                loss = step(scaler.scale(torch.ones(())))
                expected.append(norms(network)[0] / scaler.get_scale())
                if t in (0, 5):
                    network[0].weight.grad[0, 0] = math.inf
                if unscale == "before":
                    scaler.unscale_(optimizer)
                recorder.record(loss=loss)
                if unscale == "after":
                    scaler.unscale_(optimizer)
                    nn.utils.clip_grad_norm_(network.parameters(), 0.05)
                scaler.step(optimizer)
                scaler.update()
        _, found = rows(tmp_path / "run.jsonl")
        assert [row["step"] for row in found] == list(range(1, 13))
        assert [row["step"] for row in found if "skipped" in row] == [1, 6]
        for row, l1 in zip(found, expected, strict=True):
            if "skipped" not in row:
                assert_allclose(row["grad_norm_l1"], l1, rtol=1e-6)
                assert (row["clip_coefficient"] < 0.9) == (unscale == "after")
        log = read_norms(tmp_path / "run.jsonl")
        assert log.steps.tolist() == [2, 3, 4, 5, 7, 8, 9, 10, 11, 12]

    def test_a_scaler_that_was_not_given_is_told(self, tmp_path, network, step):
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
        recorder = GradNormRecorder(optimizer, tmp_path / "run.jsonl")
        for _ in range(3):
            step(scaler.scale(torch.ones(())))
            recorder.record()
            scaler.step(optimizer)
            scaler.update()
        with pytest.warns(RefineWarning, match="shrinks 65,536-fold between record.* give scaler=") as found:
            recorder.close()
        assert len(found) == 1

    def test_a_disabled_scaler_is_none(self, tmp_path, network, step, rows):
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cpu", enabled=False)
        with GradNormRecorder(optimizer, tmp_path / "run.jsonl", scaler=scaler) as recorder:
            step()
            recorder.record()
            scaler.step(optimizer)
        assert rows(tmp_path / "run.jsonl")[1][0]["grad_norm_l2"] == pytest.approx(norms(network)[1], rel=1e-6)


def test_accumulated_gradients_are_recorded_once(tmp_path, network, rows):
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    with GradNormRecorder(optimizer, tmp_path / "run.jsonl") as recorder:
        for _ in range(3):
            optimizer.zero_grad()
            for _ in range(4):
                x = torch.randn(2, 20)
                ((network(x) - x).square().mean() / 4).backward()
            expected = norms(network)
            recorder.record()
            optimizer.step()
    _, found = rows(tmp_path / "run.jsonl")
    assert len(found) == 3
    assert_allclose([found[2]["grad_norm_l1"], found[2]["grad_norm_l2"]], expected, rtol=1e-6)


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
@pytest.mark.parametrize("make", [torch.optim.SparseAdam, lambda p: torch.optim.SGD(p, lr=0.1)])
def test_sparse_gradients(tmp_path, rows, make):
    table = nn.Embedding(50, 4, sparse=True)
    optimizer = make(list(table.parameters()))
    with GradNormRecorder(optimizer, tmp_path / "run.jsonl", distance_every=1) as recorder:
        for _ in range(3):
            optimizer.zero_grad()
            table(torch.tensor([1, 7, 7, 3])).square().sum().backward()
            recorder.record()
            gradient = table.weight.grad.to_dense().double()
            optimizer.step()
    _, found = rows(tmp_path / "run.jsonl")
    assert_allclose(found[2]["grad_norm_l1"], gradient.abs().sum().item(), rtol=1e-6)
    assert_allclose(found[2]["grad_norm_l2"], gradient.norm().item(), rtol=1e-6)
    assert found[2]["distance"] > 0
    if make is torch.optim.SparseAdam:
        v = optimizer.state[table.weight]["exp_avg_sq"].double() / (1 - 0.999**3)
        own = (gradient.square() / (v.sqrt() + 1e-8))[gradient != 0].sum()
        assert_allclose(found[2]["grad_norm_dual"], own.item(), rtol=1e-5)


def test_frozen_and_missing_gradients_count_as_nothing(tmp_path, network, step, rows):
    network[0].weight.requires_grad_(False)
    optimizer = torch.optim.AdamW(network.parameters())
    with GradNormRecorder(optimizer, tmp_path / "run.jsonl") as recorder:
        step()
        network[2].bias.grad = None
        expected = torch.cat([network[0].bias.grad.flatten(), network[2].weight.grad.flatten()]).double().abs().sum()
        recorder.record()
        optimizer.step()
        optimizer.zero_grad()
        with pytest.warns(RefineWarning, match="no parameter has a gradient: call record.* after backward"):
            recorder.record()
        optimizer.step()
    _, found = rows(tmp_path / "run.jsonl")
    assert_allclose(found[0]["grad_norm_l1"], expected.item(), rtol=1e-6)
    assert found[1]["grad_norm_l1"] == 0


@pytest.mark.parametrize("per_group", [False, True])
def test_groups_that_are_added_later(tmp_path, network, step, rows, per_group):
    optimizer = torch.optim.AdamW([{"params": network[0].parameters(), "name": "body"}], lr=1e-3)
    with GradNormRecorder(optimizer, tmp_path / "run.jsonl", per_group=per_group) as recorder:
        for t in range(6):
            if t == 3:
                optimizer.add_param_group({"params": network[2].parameters(), "lr": 5e-3})
            step()
            recorder.record()
            optimizer.step()
    header, found = rows(tmp_path / "run.jsonl")
    assert_allclose(found[5]["grad_norm_l1"], norms(network)[0], rtol=1e-6)
    assert ("groups" in header) == per_group
    if per_group:
        assert header["groups"] == ["body"]  # as it was when the log began
        assert "grad_norm_l2/group:1" not in found[2]
        assert found[5]["lr/group:1"] == 5e-3
        assert_allclose(
            math.hypot(found[5]["grad_norm_l2/group:body"], found[5]["grad_norm_l2/group:1"]),
            found[5]["grad_norm_l2"],
            rtol=1e-6,
        )
        parts = [found[5][f"grad_norm_dual/group:{name}"] for name in ("body", "1")]
        assert_allclose(sum(parts), found[5]["grad_norm_dual"], rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.complex64])
def test_other_types(tmp_path, rows, dtype):
    weight = nn.Parameter(torch.randn(3000, dtype=dtype))
    optimizer = torch.optim.AdamW([weight], lr=1e-3)
    with GradNormRecorder(optimizer, tmp_path / "run.jsonl", distance_every=1) as recorder:
        for _ in range(2):
            weight.grad = torch.randn(3000, dtype=dtype)
            recorder.record()
            optimizer.step()
    wide = torch.view_as_real(weight.grad) if weight.is_complex() else weight.grad
    _, found = rows(tmp_path / "run.jsonl")
    assert_allclose(found[1]["grad_norm_l1"], wide.double().abs().sum().item(), rtol=1e-6)
    assert_allclose(found[1]["grad_norm_l2"], wide.double().norm().item(), rtol=1e-6)
    assert found[1]["grad_norm_dual"] > 0
    assert found[1]["distance"] > 0


@DYNAMO
def test_a_tensor_rate_and_a_compiled_step(tmp_path, network, step, rows):
    rate = torch.tensor(1e-2)
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate)
    compiled = torch.compile(optimizer.step, backend="eager")
    expected = []
    with GradNormRecorder(optimizer, tmp_path / "run.jsonl") as recorder:
        for t in range(4):
            rate.fill_(0.01 * (t + 1))
            step()
            recorder.record()
            compiled()
            expected.append(norms(network)[0])
    _, found = rows(tmp_path / "run.jsonl")
    assert_allclose([row["lr"] for row in found], [0.01, 0.02, 0.03, 0.04], rtol=1e-6)
    assert_allclose([row["grad_norm_l1"] for row in found], expected, rtol=1e-6)
    assert not any("skipped" in row for row in found)


@DYNAMO
def test_a_compiled_update_with_the_recorder_inside(tmp_path, network, rows):
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    recorder = GradNormRecorder(optimizer, tmp_path / "run.jsonl")

    @torch.compile(backend="eager")
    def update(x):
        optimizer.zero_grad()
        loss = (network(x) - x).square().mean()
        loss.backward()
        recorder.record(loss=loss)
        optimizer.step()

    for _ in range(3):
        update(torch.randn(8, 20))
    recorder.close()
    _, found = rows(tmp_path / "run.jsonl")
    assert [row["step"] for row in found] == [1, 2, 3]
    assert_allclose(found[2]["grad_norm_l1"], norms(network)[0], rtol=1e-6)


def test_attached_it_records_by_itself_what_the_step_sees(tmp_path, network, step, rows):
    optimizer = torch.optim.AdamW(network.parameters())
    recorder = GradNormRecorder(optimizer, tmp_path / "run.jsonl").attach()
    for _ in range(3):
        step()
        nn.utils.clip_grad_norm_(network.parameters(), 0.05)
        optimizer.step()
    with pytest.raises(RefineError, match="attached to its optimizer and records by itself; call attach or record"):
        recorder.record()
    recorder.close()
    step()
    optimizer.step()
    header, found = rows(tmp_path / "run.jsonl")
    assert (header["clipping"], len(found)) == ("unknown", 3)
    assert_allclose([row["grad_norm_l2"] for row in found], 0.05, rtol=1e-4)
    assert found[0]["clip_coefficient"] == 1


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_the_direction_of_any_optimizer(tmp_path, network, step, rows, decay):
    """For plain SGD <g, direction> is ||g||^2, and ||g||^2 + decay <g, x> with weight decay."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5, weight_decay=decay)
    expected = []
    with GradNormRecorder(optimizer, tmp_path / "run.jsonl", own_norm="direction") as recorder:
        for _ in range(3):
            step()
            gradient = flat(network)
            here = torch.cat([p.detach().double().flatten() for p in network.parameters()])
            expected.append((gradient @ (gradient + decay * here)).item())
            recorder.record()
            optimizer.step()
    _, found = rows(tmp_path / "run.jsonl")
    assert_allclose([row["grad_norm_dual"] for row in found], expected, rtol=1e-4)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_distance_columns(tmp_path, network, step, rows, name):
    optimizer = OPTIMIZERS[name](network.parameters())

    def point():
        return torch.cat([p.detach().double().flatten() for p in network.parameters()])

    start, sums, expected = point(), 0.0, {}
    with GradNormRecorder(optimizer, tmp_path / "run.jsonl", distance_every=5) as recorder:
        for t in range(12):
            optimizer.param_groups[0]["lr"] = 0.01 * (t + 1)
            step()
            recorder.record()
            away = start - point()
            if t % 5 == 0:
                sums = sums + 0.01 * (t + 1) * flat(network)
                expected[t + 1] = [away.norm().item(), (flat(network) @ away).item()]
            optimizer.step()
            if t % 5 == 0:
                root = torch.ones_like(sums)
                if name == "adamw":
                    v = torch.cat([optimizer.state[p]["exp_avg_sq"].double().flatten() for p in network.parameters()])
                    root = (v / (1 - 0.999 ** (t + 1))).sqrt() + 1e-8
                expected[t + 1].append((sums.square() / root).sum().sqrt().item())
    _, found = rows(tmp_path / "run.jsonl")
    columns = ("distance", "grad_dot_displacement", "lr_grad_sum_norm")
    measured = {row["step"]: [row[c] for c in columns] for row in found if "distance" in row}
    assert measured.keys() == expected.keys() == {1, 6, 11}
    for t, values in expected.items():
        assert_allclose(measured[t], values, rtol=1e-4, atol=1e-9)


def test_a_second_call_in_an_update_replaces_the_first(tmp_path, network, step, rows):
    """As where it is called after every batch of an accumulation."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    recorder = GradNormRecorder(optimizer, tmp_path / "run.jsonl")
    expected = []
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for t in range(6):
            step()
            recorder.record(loss=1.0)
            if t:
                for parameter in network.parameters():
                    parameter.grad *= 2.0
                recorder.record(loss=2.0)
            expected.append(norms(network)[1])
            optimizer.step()
        recorder.close()  # until then the norms are on their device
    _, found = rows(tmp_path / "run.jsonl")
    (warning,) = told
    assert "record() was called twice between two steps of the optimizer: the last call counts" in str(warning.message)
    assert [row["step"] for row in found] == [1, 2, 3, 4, 5, 6]
    assert_allclose([row["grad_norm_l2"] for row in found], expected, rtol=1e-6)
    assert [row["loss"] for row in found] == [1, 2, 2, 2, 2, 2]
    assert not any("skipped" in row for row in found)


def test_flushed_before_its_step_a_row_is_not_skipped(tmp_path, network, step, rows):
    optimizer = torch.optim.AdamW(network.parameters())
    with GradNormRecorder(optimizer, tmp_path / "run.jsonl") as recorder:
        for t in range(3):
            step()
            recorder.record()
            if t == 1:
                recorder.flush()
            optimizer.step()
    _, found = rows(tmp_path / "run.jsonl")
    assert [sorted(row.keys() & {"skipped", "grad_norm_dual"}) for row in found] == [
        ["grad_norm_dual"],
        [],
        ["grad_norm_dual"],
    ]


def test_steps_in_a_cuda_graph_are_not_waited_for(tmp_path, network, step, rows, monkeypatch):
    """Its warm-up and its capture run the hooks, its replays do not."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    with GradNormRecorder(optimizer, tmp_path / "run.jsonl") as recorder:
        step()
        optimizer.step()
        with monkeypatch.context() as graph:
            graph.setattr("refine.torch.recorder.capturing", lambda: True)
            recorder.record()
            optimizer.step()
        for _ in range(5):
            step()
            recorder.record()  # after a replay
    _, found = rows(tmp_path / "run.jsonl")
    assert [row["step"] for row in found] == [1, 2, 3, 4, 5]
    assert not any("skipped" in row for row in found)


def test_a_closure_is_refused_where_it_is_attached(tmp_path, network):
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    recorder = GradNormRecorder(optimizer, tmp_path / "run.jsonl").attach()

    def closure():
        optimizer.zero_grad()
        loss = network(torch.ones(2, 20)).square().mean()
        loss.backward()
        return loss

    with pytest.warns(RefineWarning, match=r"step\(closure\) makes its own gradients; call record"):
        optimizer.step(closure)
    optimizer.step(closure)
    recorder.close()


def test_another_default_device_does_not_matter(tmp_path, network, step):
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    step()
    with torch.device("meta"), GradNormRecorder(optimizer, tmp_path / "run.jsonl") as recorder:
        recorder.record()
        optimizer.step()
        recorder.record()
        optimizer.step()
    assert read_norms(tmp_path / "run.jsonl").steps.tolist() == [1, 2]


def test_a_csv_has_its_columns_whatever_its_first_rows_are(tmp_path, network, step):
    optimizer = torch.optim.AdamW(network.parameters())
    scaler = torch.amp.GradScaler("cpu")
    recorder = GradNormRecorder(optimizer, tmp_path / "run.csv", scaler=scaler, distance_every=2)
    for t in range(4):
        step(scaler.scale(torch.ones(())))
        if t == 0:
            network[0].bias.grad.fill_(math.inf)
        recorder.record()
        scaler.step(optimizer)
        scaler.update()
        recorder.flush()
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))]})
    recorder.close()
    log = read_norms(tmp_path / "run.csv")
    assert (log.steps.tolist(), log.kind) == ([2, 3, 4], "dual")


def test_a_csv_tells_of_values_that_have_no_column(tmp_path, network, step):
    optimizer = torch.optim.SGD([{"params": network[0].parameters(), "name": "body"}], lr=0.1)
    recorder = GradNormRecorder(optimizer, tmp_path / "run.csv", per_group=True)
    step()
    recorder.record()
    optimizer.step()
    optimizer.add_param_group({"params": network[2].parameters(), "name": "head"})
    step()
    recorder.record()
    optimizer.step()
    with pytest.warns(RefineWarning, match="no column for grad_norm_l1/group:head, .*: a .jsonl takes new ones"):
        recorder.close()


def test_gradients_that_the_loop_lets_go_of_are_gone(tmp_path, network, step):
    """Where the optimizer's hooks do not run (CUDA graphs), the recorder must not double their memory."""
    recorder = GradNormRecorder(torch.optim.SGD(network.parameters(), lr=0.1), tmp_path / "run.jsonl")
    step()
    recorder.record()
    gradient = weakref.ref(network[0].weight.grad.untyped_storage())
    for parameter in network.parameters():
        parameter.grad = None
    gc.collect()
    assert gradient() is None
    recorder.close()


class TestHarm:
    @pytest.mark.parametrize("buffer_steps", [2, 128])
    def test_whatever_goes_wrong_warns_once_and_training_goes_on(self, tmp_path, network, step, rows, buffer_steps):
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        recorder = GradNormRecorder(optimizer, tmp_path / "run.jsonl", buffer_steps=buffer_steps)
        for t in range(6):
            step()
            if t == 3:
                optimizer.param_groups[0]["lr"] = [0.1]
                with pytest.warns(RefineWarning, match=r"not recorded any more, the run goes on: TypeError") as found:
                    recorder.record(loss=1.0)
                assert len(found) == 1
                optimizer.param_groups[0]["lr"] = 0.1
            else:
                recorder.record(loss=1.0)
            optimizer.step()
        recorder.close()
        _, found = rows(tmp_path / "run.jsonl")
        assert [row["step"] for row in found if "grad_norm_l1" in row] == [1, 2, 3]
        assert found[3:] == [{"step": 4}]

    def test_a_path_that_cannot_be_written_warns(self, tmp_path, network, step):
        (tmp_path / "file").write_text("")
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        with pytest.warns(RefineWarning, match=r"cannot write .*run\.csv: Not a directory") as found:
            recorder = GradNormRecorder(optimizer, tmp_path / "file" / "run.csv")
        assert found[0].filename == __file__
        step()
        recorder.record()
        optimizer.step()
        recorder.close()

    def test_a_full_disk_warns_once_and_leaves_whole_rows(self, tmp_path):
        script = textwrap.dedent("""
            import resource, signal, sys, torch
            from refine.torch import GradNormRecorder
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
            weight = torch.nn.Parameter(torch.ones(3))
            optimizer = torch.optim.SGD([weight], lr=0.1)
            with GradNormRecorder(optimizer, sys.argv[1], buffer_steps=8) as recorder:
                for t in range(100):
                    weight.grad = torch.full((3,), 1.0 + t % 2)
                    recorder.record()
                    optimizer.step()
            print(f"{weight[0].item():.4f}")
        """)
        path = tmp_path / "run.jsonl"
        done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True)
        assert done.stdout == "-14.0000\n"
        assert done.stderr.count("RefineWarning") == 1
        assert "File too large" in done.stderr
        log = read_norms(path)
        assert log.steps.size % 4 == 0
        assert dict(log.dropped) == {}

    def test_two_writers_are_refused(self, tmp_path, network):
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        recorder = GradNormRecorder(optimizer, tmp_path / "run.jsonl")
        with pytest.raises(RefineError, match="being written by another recorder"):
            GradNormRecorder(optimizer, tmp_path / "run.jsonl", step=5)
        recorder.close()

    @pytest.mark.parametrize(
        ("arguments", "error"),
        [
            ({"step": -1}, "step is -1; it must be an integer >= 0"),
            ({"total_steps": 0}, "total_steps is 0"),
            ({"own_norm": "l3"}, "own_norm is 'l3'; it must be one of state, direction, none"),
            ({"distance_every": 0}, "distance_every is 0"),
            ({"buffer_steps": 0}, "buffer_steps is 0"),
            ({"scaler": 1}, "scaler is a int; it must be a torch.amp.GradScaler"),
            ({"optimizer": nn.Linear(1, 1)}, "optimizer is a Linear; it must be a torch.optim.Optimizer"),
        ],
    )
    def test_arguments_that_cannot_be_meant(self, tmp_path, network, arguments, error):
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        with pytest.raises(RefineError, match=error):
            GradNormRecorder(**{"optimizer": optimizer, "path": tmp_path / "run.csv", **arguments})

    def test_a_log_of_another_optimizer_is_refused(self, tmp_path, network, step):
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        with GradNormRecorder(optimizer, tmp_path / "run.jsonl") as recorder:
            step()
            recorder.record()
        with pytest.raises(RefineError, match="run.jsonl is the log of SGD, this run has AdamW; name another file"):
            GradNormRecorder(torch.optim.AdamW(network.parameters()), tmp_path / "run.jsonl", step=1)
        with pytest.warns(RefineWarning, match="an earlier run, which this one supersedes from update 1 on"):
            GradNormRecorder(optimizer, tmp_path / "run.jsonl", step=0).close()

    def test_a_log_without_rows_is_removed(self, tmp_path, network):
        GradNormRecorder(torch.optim.SGD(network.parameters(), lr=0.1), tmp_path / "run.csv").close()
        assert list(tmp_path.iterdir()) == []

    def test_nothing_is_kept_alive(self, tmp_path, network):
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        recorder = GradNormRecorder(optimizer, tmp_path / "run.jsonl")
        seen = weakref.ref(recorder), weakref.ref(optimizer)
        del recorder, optimizer
        gc.collect()
        assert [each() for each in seen] == [None, None]
        GradNormRecorder(torch.optim.SGD(network.parameters(), lr=0.1), tmp_path / "run.jsonl").close()


class TestFile:
    def record(self, path, network, backward, updates, **options):
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        recorder = GradNormRecorder(optimizer, path, **options)
        for _ in range(updates):
            backward()
            recorder.record()
            optimizer.step()
        return recorder

    def test_it_is_readable_while_the_run_goes_on(self, tmp_path, network, step):
        path = tmp_path / "run.jsonl"
        recorder = self.record(path, network, step, 71, buffer_steps=20, total_steps=1000)
        log = read_norms(path)
        assert (log.steps[-1], log.total_steps) == (70, 1000)
        recorder.flush()
        assert read_norms(path).steps[-1] == 71
        recorder.close()
        recorder.close()
        assert read_norms(path).steps[-1] == 71

    def test_slow_updates_are_written_after_ten_seconds(self, tmp_path, network, step, monkeypatch):
        path = tmp_path / "run.jsonl"
        recorder = self.record(path, network, step, 3)
        assert path.read_text() == ""
        now = time.monotonic() + 11.0
        monkeypatch.setattr(time, "monotonic", lambda: now)
        recorder.record()
        assert read_norms(path).steps.tolist() == [1, 2, 3]
        recorder.close()

    @pytest.mark.parametrize("suffix", ["jsonl", "csv"])
    def test_a_resumed_run_supersedes_what_it_does_again(self, tmp_path, network, step, suffix):
        path = tmp_path / f"run.{suffix}"
        self.record(path, network, step, 10).close()
        first = read_norms(path)
        with pytest.raises(RefineError, match="holds the log of a run; say step=N"):
            self.record(path, network, step, 1)
        recorder = self.record(path, network, step, 3, step=6)
        assert recorder.step == 9
        recorder.close()
        log = read_norms(path)
        assert log.steps.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9]  # 10 was of the run that is given up
        assert log.values[:6].tolist() == first.values[:6].tolist()
        assert log.values[6] != first.values[6]
        assert dict(log.dropped) == {"superseded by a resume": 4}

    def test_the_end_of_the_process_writes_the_rest(self, tmp_path):
        script = textwrap.dedent("""
            import sys, torch
            from refine.torch import GradNormRecorder
            weight = torch.nn.Parameter(torch.ones(3))
            optimizer = torch.optim.SGD([weight], lr=0.1)
            recorder = GradNormRecorder(optimizer, sys.argv[1])
            for t in range(5):
                weight.grad = torch.full((3,), 1.0 + t)
                recorder.record()
                optimizer.step()
            raise RuntimeError("the training script fails")
        """)
        path = tmp_path / "run.jsonl"
        done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True)
        assert "the training script fails" in done.stderr
        assert "RefineWarning" not in done.stderr
        assert read_norms(path).steps.tolist() == [1, 2, 3, 4, 5]


KILLED = """
import sys, torch
from refine.torch import GradNormRecorder
path, done = sys.argv[1], int(sys.argv[2])
weight = torch.nn.Parameter(torch.ones(3))
optimizer = torch.optim.SGD([weight], lr=0.1)
recorder = GradNormRecorder(optimizer, path, step=done, buffer_steps=20)
flushed = 0
while True:
    weight.grad = torch.full((3,), float(recorder.step + 1))
    recorder.record()
    optimizer.step()
    print(recorder.step, flush=True)
"""


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_twenty_kills_lose_no_row_that_was_written(tmp_path, suffix):
    """Each run goes on where the log ends, and is killed at a random moment; the kernel gets what was written."""
    path, done, chance = tmp_path / f"run.{suffix}", 0, np.random.default_rng(0)
    for _ in range(10):
        process = subprocess.Popen([sys.executable, "-c", KILLED, path, str(done)], stdout=subprocess.PIPE, bufsize=0)
        process.stdout.readline()
        time.sleep(chance.uniform(0.0, 0.05))
        process.kill()
        said = process.stdout.read()
        process.wait()
        process.stdout.close()
        reached = max([int(line) for line in said.split(b"\n")[:-1]], default=done)
        log = read_norms(path)
        assert log.steps.tolist() == list(range(1, log.steps[-1] + 1))
        assert_allclose(log.values, np.sqrt(3.0) * log.steps, rtol=1e-6)
        assert reached - 20 <= log.steps[-1] <= reached + 1
        assert log.steps[-1] >= done
        done = int(log.steps[-1])
    assert done > 20

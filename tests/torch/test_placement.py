"""Where ``record()`` is called: what is told of a wrong place, what the log holds then, no alarm for a right one."""

import math
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from refine import RefineWarning, fit, read_norms
from refine.torch import GradNormRecorder
from refine.torch.placement import AFTER_CLIPPING, AFTER_STEP, GREW, Placement

TWICE = "record() was called twice between two steps of the optimizer: the last call counts"


def backward(network, scale=1.0):
    x = torch.randn(8, 20)
    (((network(x) - x).square().mean()) * scale).backward()


@pytest.fixture
def train(tmp_path, network, rows):
    """Train with ``update(t, optimizer, recorder)`` for each update; the rows, and what was told."""

    def run(update, *, updates=30, make=torch.optim.SGD, before=lambda optimizer: None, **options):
        optimizer = make(network.parameters(), lr=0.01)
        before(optimizer)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            with GradNormRecorder(optimizer, tmp_path / "run.jsonl", **options) as recorder:
                for t in range(updates):
                    update(t, optimizer, recorder)
                run.step = recorder.step
        return rows(tmp_path / "run.jsonl")[1], [str(each.message) for each in told]

    return run


class TestTwice:
    @pytest.mark.parametrize("buffer_steps", [2, 10, 128])
    def test_the_first_update_counts_once_like_the_others(self, tmp_path, network, train, buffer_steps):
        """With a small buffer rows of the first update are written before its step: they are superseded."""
        expected = []

        def update(t, optimizer, recorder):
            optimizer.zero_grad()
            for k in range(4):
                backward(network)
                recorder.record(loss=float(k) if k else None)
            expected.append(math.sqrt(sum(p.grad.double().square().sum().item() for p in network.parameters())))
            optimizer.step()

        found, told = train(update, updates=3, buffer_steps=buffer_steps)
        (text,) = told
        assert text.startswith(TWICE)
        assert train.step == 3
        if buffer_steps > 8:
            assert [row["step"] for row in found] == [1, 2, 3]
        log = read_norms(tmp_path / "run.jsonl")
        assert log.steps.tolist() == [1, 2, 3]
        np.testing.assert_allclose(log.values, expected, rtol=1e-6)
        assert log.loss.tolist() == [3.0, 3.0, 3.0]

    def test_a_resumed_first_update_keeps_its_mark(self, network, train):
        def update(t, optimizer, recorder):
            optimizer.zero_grad()
            for _ in range(2):
                backward(network)
                recorder.record()
            optimizer.step()

        found, _ = train(update, updates=3, step=7)
        assert [(row["step"], row.get("resumed")) for row in found] == [(8, 1), (9, None), (10, None)]

    def test_where_no_step_is_ever_seen_each_call_is_a_row(self, network, train):
        """As after the replay of a CUDA graph that was captured before the recorder was made."""

        def update(t, optimizer, recorder):
            optimizer.zero_grad()
            backward(network)
            recorder.record()

        found, told = train(update, updates=70)
        assert [row["step"] for row in found] == list(range(1, 71))
        assert not any("skipped" in row for row in found)
        assert told == []

    def test_a_step_after_very_many_calls_does_not_take_them_back(self, network, train, monkeypatch):
        monkeypatch.setattr("refine.torch.recorder._MOST_CALLS", 10)

        def update(t, optimizer, recorder):
            optimizer.zero_grad()
            backward(network)
            recorder.record()
            if t == 20:
                optimizer.step()

        found, told = train(update)
        assert [row["step"] for row in found] == list(range(1, 31))
        assert not any("skipped" in row or "resumed" in row for row in found)
        assert told == []

    @pytest.mark.parametrize("fused", [False, True])
    def test_per_micro_batch_under_a_scaler(self, tmp_path, network, train, fused):
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)

        def update(t, optimizer, recorder):
            optimizer.zero_grad()
            for _ in range(4):
                backward(network, scaler.scale(torch.ones(())) / 4)
                recorder.record()
            scaler.step(optimizer)
            scaler.update()

        found, told = train(
            update, make=lambda p, lr: torch.optim.AdamW(p, lr, fused=fused), scaler=scaler, total_steps=30
        )
        (text,) = told
        assert text.startswith(TWICE)
        if fused:  # which the scaler calls in every update
            assert [row["step"] for row in found] == list(range(1, 31))
        else:
            assert len(found) == 120
            (note,) = (text for text in fit(tmp_path / "run.jsonl").notes if "micro-batch" in text)
            assert note.startswith("120 rows are more than the 30 planned updates; 90 finite gradients are marked")

    @pytest.mark.parametrize("fused", [False, True])
    def test_what_a_scaler_skips_is_not_told(self, network, train, fused):
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)

        def update(t, optimizer, recorder):
            optimizer.zero_grad()
            backward(network, scaler.scale(torch.ones(())))
            if t in (0, 1, 7):
                network[0].bias.grad[0] = math.inf
            recorder.record()
            scaler.step(optimizer)
            scaler.update()

        found, told = train(update, make=lambda p, lr: torch.optim.AdamW(p, lr, fused=fused), scaler=scaler)
        assert [row["step"] for row in found if "skipped" in row] == [1, 2, 8]
        assert told == []

    @pytest.mark.parametrize("bad", [{0, 5, 9}, {0, 1, 2}, {28, 29}])
    def test_a_loop_that_skips_by_itself_is_not_told_and_counts_its_steps(self, tmp_path, network, train, bad):
        """An update that made no step is no update."""

        def update(t, optimizer, recorder):
            optimizer.zero_grad()
            backward(network)
            if t in bad:
                network[0].bias.grad[0] = math.nan
            recorder.record(loss=math.nan if t in bad else 1.0)
            if not torch.isfinite(nn.utils.clip_grad_norm_(network.parameters(), 1e9)):
                optimizer.zero_grad()
                return
            optimizer.step()

        found, told = train(update)
        made = [row for row in found if "skipped" not in row]
        assert [row["step"] for row in made] == list(range(1, 31 - len(bad)))
        assert all(row["grad_norm_l2"] > 0 and row["clip_coefficient"] == 1 for row in made)
        assert told == []
        assert read_norms(tmp_path / "run.jsonl").total_steps == len(made)

    def test_a_later_call_leaves_nothing_of_the_earlier_one(self, network, train):
        def update(t, optimizer, recorder):
            optimizer.zero_grad()
            backward(network)
            recorder.record(loss=5.0)
            optimizer.zero_grad()
            network[2].bias.grad = torch.ones(20)
            recorder.record()
            optimizer.step()

        found, _ = train(update, updates=3, per_group=True)
        assert [row["grad_norm_l1"] for row in found] == [20, 20, 20]
        assert not any("loss" in row for row in found)

    def test_the_last_update_of_a_run_that_is_cut_is_not_skipped(self, network, train):
        def update(t, optimizer, recorder):
            optimizer.zero_grad()
            backward(network)
            recorder.record()
            if t < 4:
                optimizer.step()

        found, told = train(update, updates=5)
        assert (len(found), told) == (5, [])
        assert not any("skipped" in row for row in found)


class TestAfterTheStep:
    @pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.AdamW])
    @pytest.mark.parametrize("updates", [3, 200])
    def test_it_is_told(self, network, train, make, updates):
        def update(t, optimizer, recorder):
            optimizer.zero_grad()
            backward(network)
            optimizer.step()
            recorder.record()

        _, told = train(update, make=make, updates=updates)
        assert told == [AFTER_STEP]

    def test_after_a_scaler_was_updated(self, network, train):
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)

        def update(t, optimizer, recorder):
            optimizer.zero_grad()
            backward(network, scaler.scale(torch.ones(())))
            scaler.step(optimizer)
            scaler.update()
            recorder.record()

        _, told = train(update, scaler=scaler)
        assert told == [GREW]

    def test_before_the_last_backward(self, network, train):
        def update(t, optimizer, recorder):
            optimizer.zero_grad()
            backward(network)
            recorder.record()
            for _ in range(3):
                backward(network)
            optimizer.step()

        _, told = train(update)
        assert told == [GREW]

    @pytest.mark.parametrize("how", ["mid-run", "warm-up step", "resumed"])
    def test_no_alarm(self, network, train, how):
        def step(optimizer):
            optimizer.zero_grad()
            backward(network)
            optimizer.step()

        def update(t, optimizer, recorder):
            if how == "warm-up step" and t == 0:
                step(optimizer)
            optimizer.zero_grad()
            backward(network)
            recorder.record()
            nn.utils.clip_grad_norm_(network.parameters(), 0.1)
            optimizer.step()

        _, told = train(update, before=step, **({"step": 1} if how == "resumed" else {}))
        assert told == []

    def test_an_optimizer_of_others_may_rewrite_its_gradients(self, network, train):
        class Adding(torch.optim.SGD):
            def step(self, closure=None):
                for p in self.param_groups[0]["params"]:
                    p.grad.mul_(3.0)
                super().step(closure)

        def update(t, optimizer, recorder):
            optimizer.zero_grad()
            backward(network)
            recorder.record()
            optimizer.step()

        _, told = train(update, make=Adding)
        assert told == []


class TestAfterClipping:
    @pytest.mark.parametrize("threshold", [0.1, 0.10327])
    def test_most_norms_at_the_threshold_are_told(self, network, train, threshold):
        def update(t, optimizer, recorder):
            optimizer.zero_grad()
            backward(network, 0.05 if t % 4 == 0 else 1.0)
            nn.utils.clip_grad_norm_(network.parameters(), threshold)
            recorder.record()
            optimizer.step()

        _, told = train(update, updates=60)
        assert told == [AFTER_CLIPPING.format("most")]

    @pytest.mark.parametrize("threshold", [0.1, 1e-3])
    def test_all_norms_at_a_round_threshold_are_told(self, network, train, threshold):
        def update(t, optimizer, recorder):
            optimizer.zero_grad()
            backward(network)
            nn.utils.clip_grad_norm_(network.parameters(), threshold)
            recorder.record()
            optimizer.step()

        _, told = train(update, updates=60)
        assert told == [AFTER_CLIPPING.format("all")]

    def test_in_the_right_place_it_is_not(self, network, train):
        def update(t, optimizer, recorder):
            optimizer.zero_grad()
            backward(network, 0.05 if t % 4 == 0 else 1.0)
            recorder.record()
            nn.utils.clip_grad_norm_(network.parameters(), 0.1)
            optimizer.step()

        _, told = train(update, updates=60)
        assert told == []

    @pytest.mark.parametrize(
        "norms",
        [
            np.full(200, 1.0327),
            1.0327 - 1e-7 * np.arange(200),  # of the whole data set, where the rate is low
            1.0327 - 1e-6 * np.arange(200),
            np.repeat([1.0, 0.9], 100),
            1.0 + np.arange(200) % 2,
            np.append(np.ones(10), 0.5),
            np.random.default_rng(0).lognormal(size=200),
        ],
    )
    def test_norms_that_say_nothing(self, norms):
        placement = Placement(rewritten=False)
        assert [placement.compare(norm**2, norm**2) for norm in norms] == [""] * norms.size
        assert placement.clipped() == ""


class TestCorrectLoopsHearNothing:
    def test_a_gradient_that_is_normalised_after_the_call(self, network, train):
        def update(t, optimizer, recorder):
            optimizer.zero_grad()
            backward(network, 0.001)
            recorder.record()
            norm = torch.cat([p.grad.flatten() for p in network.parameters()]).norm()
            for p in network.parameters():
                p.grad /= norm
            optimizer.step()

        assert train(update, updates=60)[1] == []

    def test_a_gradient_that_is_constant(self, network, train):
        def update(t, optimizer, recorder):
            for p in network.parameters():
                p.grad = torch.ones_like(p)
            recorder.record()
            optimizer.step()

        assert train(update, updates=60)[1] == []

    def test_every_gradient_of_lbfgs(self, network, train):
        x = torch.randn(8, 20)

        def update(t, optimizer, recorder):
            def closure():
                optimizer.zero_grad()
                loss = (network(x) - x).square().mean()
                loss.backward()
                recorder.record()
                return loss

            optimizer.step(closure)

        assert train(update, make=torch.optim.LBFGS, updates=30)[1] == []


def test_losses_of_many_shapes_are_told_once(network, train):
    def update(t, optimizer, recorder):
        optimizer.zero_grad()
        backward(network)
        recorder.record(torch.ones(t + 2))
        optimizer.step()

    found, told = train(update)
    assert len(told) == 1
    assert not any("loss" in row for row in found)


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.AdamW])
def test_nothing_is_read_on_the_host_where_calls_are_replaced(tmp_path, make):
    """A meta tensor has no values: whoever asks for one fails."""
    weight = nn.Parameter(torch.empty(300, device="meta"))
    optimizer = make([weight], lr=1e-3)
    optimizer.step = lambda: [hook(optimizer, (), {}) for hook in optimizer._optimizer_step_post_hooks.values()]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        recorder = GradNormRecorder(optimizer, tmp_path / "run.jsonl")
        for _ in range(10):
            for _ in range(3):
                weight.grad = torch.empty_like(weight)
                recorder.record(loss=torch.empty((), device="meta"))
            optimizer.step()
        assert recorder.step == 10
    with pytest.warns(RefineWarning, match="not recorded any more"):
        recorder.close()


class Odd:
    def __float__(self):
        raise ZeroDivisionError


@pytest.mark.parametrize(
    "loss",
    [
        *(torch.ones(4), torch.ones(2, 2), torch.tensor([]), torch.tensor(1j), torch.empty(3, device="meta")),
        *([1.0, 2.0], "0.5", "abc", b"1", 1j, np.complex64(1j), np.ones(2), {}, Odd(), 10**400, Odd),
    ],
    ids=lambda loss: str(type(loss).__name__),
)
def test_a_loss_that_is_no_number_is_left_out_and_the_norms_go_on(network, train, loss):
    def update(t, optimizer, recorder):
        optimizer.zero_grad()
        backward(network)
        recorder.record(loss=2.5 if t == 3 else loss)
        optimizer.step()

    found, told = train(update, updates=5)
    (text,) = told
    assert text.startswith(f"a loss of type {type(loss).__name__}")
    assert "is not recorded; give one real number" in text
    assert [row.get("loss") for row in found] == [None, None, None, 2.5, None]
    assert all(row["grad_norm_l2"] > 0 and row["clip_coefficient"] == 1 for row in found)


@pytest.mark.parametrize(
    "loss", [torch.ones(1), torch.ones((), dtype=torch.int64), np.float32(1), np.array(1.0), True, 1]
)
def test_a_loss_that_is_a_number(network, train, loss):
    def update(t, optimizer, recorder):
        optimizer.zero_grad()
        backward(network)
        recorder.record(loss=loss)
        optimizer.step()

    found, told = train(update, updates=2)
    assert ([row["loss"] for row in found], told) == ([1, 1], [])

"""The ten points of "What a scheduler must survive", and what the pre-hook sees."""

import ast
import copy
import gc
import pickle
import subprocess
import sys
import warnings
import weakref

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch.optim import SGD, Adagrad, AdamW, lr_scheduler
from torch.utils._python_dispatch import TorchDispatchMode

from refine import RefineError, RefineWarning, Schedule, cosine, linear
from refine.torch.scheduler import ScheduleLR

SCHEDULE = linear(20, warmup_steps=4)
H = SCHEDULE.multiplier
ORDERS = ["optimizer build scheduler", "build optimizer scheduler", "build scheduler optimizer"]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def parameter():
    p = torch.zeros(2, requires_grad=True)
    p.grad = torch.ones(2)
    return p


def make_optimizer(*lrs, kind=SGD, **options):
    return kind([{"params": [parameter()], "lr": lr} for lr in lrs or (1.0, 0.1)], **options)


def rates(optimizer):
    return [float(g["lr"]) for g in optimizer.param_groups]


def advance(optimizer, scheduler, updates):
    """Rates that the updates were made with."""
    seen = []
    for _ in range(updates):
        handle = optimizer.register_step_post_hook(lambda o, *_: seen.append(rates(o)))
        optimizer.step()
        handle.remove()
        scheduler.step()
    return np.array(seen) if len({len(s) for s in seen}) < 2 else seen


def in_order(order, build, optimizer, saved):
    """Build and load as the order says."""
    for action in order.split():
        if action == "build":
            scheduler = build(optimizer)
        elif action == "optimizer":
            optimizer.load_state_dict(saved["optimizer"])
        else:
            scheduler.load_state_dict(saved["scheduler"])
    return scheduler


def save(path, optimizer, scheduler):
    torch.save({"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}, path)
    return torch.load(path)  # weights_only=True


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("tensor", [False, True])
@pytest.mark.parametrize("done", [0, 1, 9, 20])
class TestPoint1ResumeInAnyOrder:
    def test_resume(self, tmp_path, order, tensor, done):
        def make():
            lrs = (torch.tensor(1.0), torch.tensor(0.1)) if tensor else (1.0, 0.1)
            return make_optimizer(*lrs, kind=AdamW, foreach=False)

        optimizer = make()
        scheduler = ScheduleLR(optimizer, SCHEDULE)
        advance(optimizer, scheduler, done)
        saved = save(tmp_path / "c.pt", optimizer, scheduler)
        again = make()
        resumed = in_order(order, lambda o: ScheduleLR(o, SCHEDULE), again, saved)
        now = np.outer(np.append(H, H[-1])[[done]], [1.0, 0.1])[0]
        assert rates(again) == rates(optimizer) == pytest.approx(now, rel=1e-6)
        assert resumed.get_last_lr() == scheduler.get_last_lr()
        assert resumed.state_dict() == scheduler.state_dict()
        expected = advance(optimizer, scheduler, 20 - done)
        assert np.array_equal(advance(again, resumed, 20 - done), expected)
        assert_allclose(expected.reshape(-1, 2), np.outer(H[done:], [1.0, 0.1]), rtol=1e-6)


class TestPoint2StartAnywhere:
    def test_no_initial_lr_is_needed(self):
        optimizer = make_optimizer()
        assert all("initial_lr" not in group for group in optimizer.param_groups)
        scheduler = ScheduleLR(optimizer, SCHEDULE, step=8)
        assert_allclose(advance(optimizer, scheduler, 12), np.outer(H[8:], [1.0, 0.1]), rtol=1e-12)
        scheduler.check_complete()

    def test_base_rates_are_our_own(self):
        optimizer = make_optimizer()
        scheduler = ScheduleLR(optimizer, SCHEDULE)
        for group in optimizer.param_groups:
            del group["initial_lr"]
        assert scheduler.base_lrs == [1.0, 0.1]
        assert_allclose(advance(optimizer, scheduler, 3)[2], H[2] * np.array([1.0, 0.1]))

    def test_the_initial_lr_of_an_earlier_scheduler_wins(self):
        optimizer = make_optimizer()
        advance(optimizer, lr_scheduler.LambdaLR(optimizer, lambda t: 0.5), 3)
        assert_allclose(advance(optimizer, ScheduleLR(optimizer, SCHEDULE, step=3), 1)[0], H[3] * np.array([1.0, 0.1]))

    @pytest.mark.parametrize(
        ("step", "text"),
        [
            (-1, "step is -1; it must be an integer >= 0, counted in updates"),
            (2.0, "step is 2.0; it must be an integer >= 0, counted in updates"),
            (21, "21 updates are done and the schedule has 20; take one that covers the run"),
        ],
    )
    def test_steps_are_checked(self, step, text):
        with pytest.raises(RefineError) as caught:
            ScheduleLR(make_optimizer(), SCHEDULE, step=step)
        assert str(caught.value) == text


def by_hand(*lrs, done=8, **options):
    """State of an optimizer whose loop writes the rates itself, as nanoGPT's does."""
    optimizer = make_optimizer(*lrs, **options)
    peaks = rates(optimizer)
    for t in range(done):
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * SCHEDULE.at(t)
        optimizer.step()
    return copy.deepcopy(optimizer.state_dict())


@pytest.mark.parametrize("options", [{"kind": AdamW}, {"kind": Adagrad}, {"momentum": 0.9}])
class TestPoint2ARateWrittenByHand:
    def loaded(self, options, *lrs):
        optimizer = make_optimizer(*lrs, **options)
        optimizer.load_state_dict(by_hand(*lrs, **options))
        return optimizer

    def test_it_is_no_peak(self, options):
        optimizer = self.loaded(options)
        for _ in range(2):  # and stays none
            with pytest.raises(RefineError) as caught:
                ScheduleLR(optimizer, SCHEDULE, step=8)
            assert str(caught.value) == (
                f"param group 0 was updated and has lr={H[7]:.6g} and no initial_lr: it may be a decayed rate, no "
                "peak; give peak_lr=, or build ScheduleLR before the optimizer's state is loaded"
            )
        assert all("initial_lr" not in group for group in optimizer.param_groups)

    @pytest.mark.parametrize("tensor", [False, True])
    def test_the_remedies(self, options, tensor):
        expected = np.outer(H[8:], [1.0, 0.1])
        for peak_lr, within in (([1.0, 0.1], expected), (0.1, np.outer(H[8:], [0.1, 0.1]))):
            optimizer = self.loaded(options | {"foreach": False})
            for group in optimizer.param_groups:
                group["lr"] = torch.tensor(group["lr"]) if tensor else group["lr"]
            scheduler = ScheduleLR(optimizer, SCHEDULE, step=8, peak_lr=peak_lr)
            assert_allclose(advance(optimizer, scheduler, 12), within, rtol=1e-6)
        optimizer = make_optimizer(**options)
        scheduler = ScheduleLR(optimizer, SCHEDULE, step=8)
        optimizer.load_state_dict(by_hand(**options))
        assert_allclose(advance(optimizer, scheduler, 12), expected, rtol=1e-12)

    def test_one_group_of_several(self, options):
        optimizer = self.loaded(options)
        optimizer.param_groups[0]["initial_lr"] = 1.0
        with pytest.raises(RefineError, match=f"^param group 1 was updated and has lr={0.1 * H[7]:.6g} and"):
            ScheduleLR(optimizer, SCHEDULE, step=8)
        optimizer.param_groups[1]["initial_lr"] = 0.1
        optimizer.add_param_group({"params": [parameter()], "lr": 0.5})  # a new one has no state of its own
        scheduler = ScheduleLR(optimizer, SCHEDULE, step=8)
        assert_allclose(advance(optimizer, scheduler, 12), np.outer(H[8:], [1.0, 0.1, 0.5]))

    def test_a_fresh_optimizer_goes_on(self, options):
        optimizer = make_optimizer(**options)
        _ = [optimizer.state[p] for group in optimizer.param_groups for p in group["params"]]  # as a reader leaves it
        assert_allclose(advance(optimizer, ScheduleLR(optimizer, SCHEDULE, step=8), 1)[0], H[8] * np.array([1.0, 0.1]))

    def test_the_start_of_a_schedule_is_at_the_present_rate(self, options):
        optimizer = self.loaded(options, 1.0)
        assert_allclose(advance(optimizer, ScheduleLR(optimizer, SCHEDULE), 3)[:, 0], H[7] * H[:3])

    def test_nor_is_it_with_the_counters_of_a_checkpoint(self, options):
        before = ScheduleLR(make_optimizer(), SCHEDULE, step=8).state_dict()
        with pytest.raises(RefineError, match="it may be a decayed rate, no peak"):
            ScheduleLR(self.loaded(options), SCHEDULE, override_checkpoint=True)
        optimizer = self.loaded(options)
        scheduler = ScheduleLR(optimizer, cosine(20), override_checkpoint=True, peak_lr=[2.0, 0.2])
        scheduler.load_state_dict(before)
        assert rates(optimizer) == pytest.approx(cosine(20).at(8) * np.array([2.0, 0.2]))

    def test_nor_that_of_a_group_added_before_loading(self, options):
        optimizer = make_optimizer(1.0, **options)
        scheduler = ScheduleLR(optimizer, SCHEDULE, step=8)
        optimizer.add_param_group({"params": [parameter()], "lr": 0.1})
        optimizer.load_state_dict(by_hand(**options))
        assert_allclose(advance(optimizer, scheduler, 12), np.outer(H[8:], [1.0, 0.1]), rtol=1e-12)

    def test_within_a_wrapper(self, options):
        accelerate = pytest.importorskip("accelerate")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            prepared = accelerate.Accelerator(cpu=True).prepare(self.loaded(options))
        with pytest.raises(RefineError, match="it may be a decayed rate, no peak"):
            ScheduleLR(prepared, SCHEDULE, step=8)
        ScheduleLR(prepared, SCHEDULE, step=8, peak_lr=[1.0, 0.1])
        assert rates(prepared) == pytest.approx([H[8], 0.1 * H[8]])

    def test_where_the_groups_are_empty(self, options):
        optimizer = self.loaded(options)
        for group in optimizer.param_groups:  # as DeepSpeed's ZeRO-3 leaves them
            group["params"] = []
        with pytest.raises(RefineError, match="it may be a decayed rate, no peak"):
            ScheduleLR(optimizer, SCHEDULE, step=8)


class TestPoint2PeakRate:
    def test_it_wins_over_an_earlier_one(self):
        optimizer = make_optimizer()
        advance(optimizer, ScheduleLR(optimizer, SCHEDULE), 3)
        scheduler = ScheduleLR(optimizer, SCHEDULE, step=3, peak_lr=np.array([3.0, 0.0]))
        assert rates(optimizer) == [3.0 * H[3], 0.0]
        assert scheduler.state_dict()["base_lrs"] == [3.0, 0.0]
        with pytest.raises(RefineError, match=r"has base_lrs=\[1.0, 0.1\] and this run \[3.0, 0.0\]"):
            scheduler.load_state_dict(ScheduleLR(make_optimizer(), SCHEDULE).state_dict())

    def test_groups_that_share_a_tensor_have_their_own(self):
        optimizer = SGD([{"params": [parameter()]} for _ in range(2)], lr=torch.tensor(1.0), foreach=False)
        ScheduleLR(optimizer, SCHEDULE, peak_lr=[2.0, 0.5])
        assert rates(optimizer) == pytest.approx([2.0 * H[0], 0.5 * H[0]])

    @pytest.mark.parametrize(
        "peak_lr",
        [
            True,
            "1e-3",
            -1.0,
            float("nan"),
            [1.0],
            [1.0, 2.0, 3.0],
            [[1.0, 2.0]],
            "high\n",
            {"a": 1.0},
            [1.0, float("inf")],
        ],
    )
    def test_it_is_checked(self, peak_lr):
        optimizer = make_optimizer()
        with pytest.raises(RefineError) as caught:
            ScheduleLR(optimizer, SCHEDULE, peak_lr=peak_lr)
        assert str(caught.value) == (
            f"peak_lr is {peak_lr!r}; it must be one rate of at least 0, or a list of 2, one for each param group"
        )
        assert "initial_lr" not in optimizer.param_groups[0]


class TestPoint3AnotherScheduleRaises:
    REMEDY = "; resume with the same, or build ScheduleLR with override_checkpoint=True to keep this run's"

    def saved(self, tmp_path, done=6):
        optimizer = make_optimizer()
        scheduler = ScheduleLR(optimizer, SCHEDULE)
        advance(optimizer, scheduler, done)
        return save(tmp_path / "c.pt", optimizer, scheduler)

    @pytest.mark.parametrize(
        ("schedule", "lrs", "text"),
        [
            (linear(30, warmup_steps=4), (1.0, 0.1), "the checkpoint has total_steps=20 and this run 30"),
            (linear(20), (1.0, 0.1), "the checkpoint has schedule="),
            (SCHEDULE, (1.0, 0.2), "the checkpoint has base_lrs=[1.0, 0.1] and this run [1.0, 0.2]"),
            (SCHEDULE, (1.0,), "the checkpoint has base_lrs=[1.0, 0.1] and this run [1.0]"),
            ({0: SCHEDULE, 1: SCHEDULE}, (1.0, 0.1), "the checkpoint has schedule="),
        ],
    )
    def test_it_raises_naming_both(self, tmp_path, schedule, lrs, text):
        optimizer = make_optimizer(*lrs)
        scheduler = ScheduleLR(optimizer, schedule)
        before = copy.deepcopy(scheduler.state_dict())
        with pytest.raises(ValueError, match="the checkpoint has") as caught:
            scheduler.load_state_dict(self.saved(tmp_path)["scheduler"])
        assert isinstance(caught.value, RefineError)
        assert str(caught.value).startswith(text)
        assert str(caught.value).endswith(self.REMEDY)
        assert scheduler.state_dict() == before

    @pytest.mark.parametrize("order", ORDERS[1:])
    def test_mine_win_if_the_caller_says_so(self, tmp_path, order):
        other, saved = cosine(30), self.saved(tmp_path)
        optimizer = make_optimizer(2.0, 0.5)
        scheduler = in_order(order, lambda o: ScheduleLR(o, other, override_checkpoint=True), optimizer, saved)
        seen = advance(optimizer, scheduler, 24)
        assert_allclose(seen, np.outer(other.multiplier[6:], [2.0, 0.5]), rtol=1e-12)
        state = save(tmp_path / "d.pt", optimizer, scheduler)
        for order in ORDERS:
            again = make_optimizer(2.0, 0.5)
            in_order(order, lambda o: ScheduleLR(o, other), again, state)
            assert rates(again) == rates(optimizer)

    def test_even_so_it_must_cover_the_run(self, tmp_path):
        scheduler = ScheduleLR(make_optimizer(), linear(5), override_checkpoint=True)
        with pytest.raises(
            RefineError, match="6 updates are done and the schedule has 5; take one that covers the run"
        ):
            scheduler.load_state_dict(self.saved(tmp_path)["scheduler"])

    def test_the_state_of_another_scheduler_raises(self):
        foreign = lr_scheduler.LambdaLR(make_optimizer(), lambda t: 1.0).state_dict()
        with pytest.raises(RefineError, match="has no 'total_steps', so no ScheduleLR saved it; to go on from another"):
            ScheduleLR(make_optimizer(), SCHEDULE).load_state_dict(foreign)

    def test_base_rates_may_differ_by_the_precision_of_a_tensor(self):
        tensor = ScheduleLR(make_optimizer(torch.tensor(0.1), foreach=False), SCHEDULE)
        plain = ScheduleLR(make_optimizer(0.1), SCHEDULE)
        plain.load_state_dict(tensor.state_dict())
        assert plain.base_lrs == tensor.base_lrs


class TestPoint4PlainState:
    @pytest.mark.parametrize("schedule", [SCHEDULE, {0: SCHEDULE, 1: linear(20)}])
    def test_state_holds_plain_values_only(self, schedule):
        state = ScheduleLR(make_optimizer(torch.tensor(1.0), 0.1, foreach=False), schedule).state_dict()
        assert ast.literal_eval(repr(state)) == state

    @pytest.mark.parametrize("copied", [lambda s: pickle.loads(pickle.dumps(s)), copy.deepcopy])
    def test_it_pickles_and_copies(self, copied):
        optimizer = make_optimizer()
        scheduler = ScheduleLR(optimizer, SCHEDULE)
        advance(optimizer, scheduler, 2)
        other = copied(scheduler)
        other.optimizer.add_param_group({"params": [parameter()], "lr": 0.5})
        seen = advance(other.optimizer, other, 18)
        assert_allclose(seen, np.outer(H[2:], [1.0, 0.1, 0.5]), rtol=1e-12)
        other.check_complete()
        assert (other.state_dict()["updates"], scheduler.state_dict()["updates"]) == (20, 2)
        assert rates(optimizer) == [H[2], 0.1 * H[2]]

    def test_a_copy_of_the_optimizer_is_free_of_us(self):
        optimizer = make_optimizer()
        scheduler = ScheduleLR(optimizer, SCHEDULE)
        alone = copy.deepcopy(optimizer)
        alone.step()
        pickle.loads(pickle.dumps(optimizer)).step()
        assert scheduler.state_dict()["updates"] == 0


def every(optimizer, scheduler, updates, stepped_at):
    """Step the scheduler so many times after the updates, as the function says."""
    for update in range(updates):
        optimizer.step()
        for _ in range(stepped_at(update)):
            scheduler.step()


class TestPoint5OneUnit:
    def test_past_the_horizon_with_both_counts_once(self):
        optimizer = make_optimizer(1.0)
        scheduler = ScheduleLR(optimizer, SCHEDULE)
        every(optimizer, scheduler, 10, lambda _: 2)
        with pytest.warns(RefineWarning) as caught:
            every(optimizer, scheduler, 5, lambda _: 2)
        assert [str(w.message) for w in caught] == [
            "the schedule was stepped 21 times and has 20 updates (11 optimizer updates were seen); the last rate is "
            "held: step it once per update, or take a longer one"
        ]
        assert caught[0].filename == __file__
        assert rates(optimizer) == [H[-1]]

    @pytest.mark.parametrize(
        ("stepped_at", "updates", "text"),
        [
            (
                lambda _: 2,
                50,
                "the schedule was stepped 100 times in 50 optimizer updates; step it once per update: not per batch of "
                "an accumulation, nor through accelerator.prepare, which steps it once per process",
            ),
            (
                lambda t: t % 40 == 39,
                100,
                "the schedule was stepped 2 times in 100 optimizer updates; step it after every update, not once an "
                "epoch",
            ),
        ],
    )
    @pytest.mark.parametrize("done", [0, 5000])
    def test_another_unit_is_reported_once(self, stepped_at, updates, text, done):
        optimizer = make_optimizer(1.0)
        scheduler = ScheduleLR(optimizer, linear(10_000), step=done)
        every(optimizer, scheduler, updates - 1, stepped_at)
        with pytest.warns(RefineWarning) as caught:
            every(optimizer, scheduler, 400, lambda t: stepped_at(t + updates - 1))
        assert [str(w.message) for w in caught] == [text]

    def test_a_few_skipped_updates_are_not_another_unit(self):
        optimizer = make_optimizer(1.0)
        scheduler = ScheduleLR(optimizer, linear(1000))
        for t in range(1000):
            if t >= 30:
                optimizer.step()
            scheduler.step()
        scheduler.check_complete()

    def test_short_of_the_horizon(self):
        optimizer = make_optimizer(1.0)
        scheduler = ScheduleLR(optimizer, SCHEDULE)
        advance(optimizer, scheduler, 12)
        text = (
            "the run ended after 12 of the 20 updates of its schedule (12 optimizer updates), before its rate was "
            "down; plan with the updates that the run makes (refine.steps_in counts them)"
        )
        with pytest.warns(RefineWarning) as caught:
            scheduler.check_complete()
        assert [str(w.message) for w in caught] == [text]

    @pytest.mark.parametrize("last", [True, False])
    def test_the_last_step_may_be_left_out(self, last):
        optimizer = make_optimizer(1.0)
        scheduler = ScheduleLR(optimizer, SCHEDULE)
        advance(optimizer, scheduler, 19)
        optimizer.step()
        if last:
            scheduler.step()
        scheduler.check_complete()

    def test_a_short_run_is_compared_at_its_end(self):
        optimizer = make_optimizer(1.0)
        scheduler = ScheduleLR(optimizer, SCHEDULE)
        every(optimizer, scheduler, 10, lambda _: 2)
        with pytest.warns(RefineWarning, match="was stepped 20 times in 10 optimizer updates"):
            scheduler.check_complete()

    def test_counts_go_on_after_a_resume(self):
        optimizer = make_optimizer(1.0)
        scheduler = ScheduleLR(optimizer, SCHEDULE)
        advance(optimizer, scheduler, 18)
        resumed = ScheduleLR(optimizer, SCHEDULE)
        resumed.load_state_dict(scheduler.state_dict())
        del scheduler
        with pytest.warns(
            RefineWarning, match=r"stepped 21 times and has 20 updates \(21 optimizer updates were seen\)"
        ):
            advance(optimizer, resumed, 3)

    def test_accelerate_must_not_step_it(self):
        """Its wrapper looks for a public total_steps, and with one stops stepping silently."""
        accelerate = pytest.importorskip("accelerate")
        optimizer = make_optimizer(1.0)
        scheduler = ScheduleLR(optimizer, linear(1000))
        assert not hasattr(scheduler, "total_steps")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            accelerator = accelerate.Accelerator(cpu=True)
            prepared = accelerator.prepare(optimizer)
        beside = ScheduleLR(prepared, linear(1000))
        every(prepared, beside, 3, lambda _: 1)
        assert beside.state_dict()["updates"] == beside.last_epoch == 3
        wrapped = accelerate.scheduler.AcceleratedScheduler(scheduler, [prepared])
        every(prepared, wrapped, 3, lambda _: 1)
        assert scheduler.last_epoch == 3


class TestPoint6Groups:
    def test_every_group_keeps_its_base_rate(self):
        optimizer = make_optimizer(1.0, 0.1, 3.0)
        assert_allclose(advance(optimizer, ScheduleLR(optimizer, SCHEDULE), 20), np.outer(H, [1.0, 0.1, 3.0]))

    @pytest.mark.parametrize("late", [float, torch.tensor])
    @pytest.mark.parametrize("saved", [False, True])
    def test_a_late_group_joins_before_its_first_update(self, late, saved):
        optimizer = make_optimizer(1.0, foreach=False)
        scheduler = ScheduleLR(optimizer, SCHEDULE)
        advance(optimizer, scheduler, 5)
        optimizer.add_param_group({"params": [parameter()], "lr": late(0.5)})
        if saved:
            scheduler.state_dict()
        assert_allclose(advance(optimizer, scheduler, 15), np.outer(H[5:], [1.0, 0.5]), rtol=1e-6)
        assert scheduler.base_lrs == [1.0, 0.5]
        scheduler.check_complete()

    @pytest.mark.parametrize("order", ORDERS[1:])
    @pytest.mark.parametrize("added", ["before", "after"])
    def test_a_late_group_resumes(self, tmp_path, order, added):
        optimizer = make_optimizer(1.0)
        scheduler = ScheduleLR(optimizer, SCHEDULE)
        advance(optimizer, scheduler, 3)
        optimizer.add_param_group({"params": [parameter()], "lr": 0.5})
        advance(optimizer, scheduler, 2)
        saved = save(tmp_path / "c.pt", optimizer, scheduler)

        def build(fresh):
            scheduler = ScheduleLR(fresh, SCHEDULE)
            if added == "after":
                fresh.add_param_group({"params": [parameter()], "lr": 0.5})
            return scheduler

        again = make_optimizer(*((1.0, 0.5) if added == "before" else (1.0,)))
        resumed = in_order(order, build, again, saved)
        assert rates(again) == rates(optimizer)
        assert np.array_equal(advance(again, resumed, 15), advance(optimizer, scheduler, 15))

    def test_a_removed_group_raises(self):
        optimizer = make_optimizer()
        scheduler = ScheduleLR(optimizer, SCHEDULE)
        optimizer.param_groups.pop()
        with pytest.raises(RefineError, match="the optimizer has 1 param groups and had 2; build a new ScheduleLR"):
            scheduler.step()

    def test_a_mapping_by_index_or_name(self, tmp_path):
        other = cosine(20)
        other.save(tmp_path / "other.json")
        optimizer = make_optimizer(1.0, 0.1, 0.2)
        optimizer.param_groups[2]["name"] = optimizer.param_groups[1]["name"] = "plain"
        scheduler = ScheduleLR(optimizer, {0: SCHEDULE, "plain": tmp_path / "other.json"})
        expected = np.stack([H, 0.1 * other.multiplier, 0.2 * other.multiplier], 1)
        assert_allclose(advance(optimizer, scheduler, 9), expected[:9], rtol=1e-12)
        saved = save(tmp_path / "c.pt", optimizer, scheduler)
        again = make_optimizer(1.0, 0.1, 0.2)
        swapped = ScheduleLR(again, {0: other, 1: SCHEDULE, 2: SCHEDULE})
        with pytest.raises(
            RefineError, match=r"the checkpoint has schedule=\['.{12}', '.{12}', '.{12}'\] and this run"
        ):
            swapped.load_state_dict(saved["scheduler"])
        resumed = ScheduleLR(again, {0: SCHEDULE, 1: other, 2: other}, step=3)
        resumed.load_state_dict(saved["scheduler"])
        assert_allclose(advance(again, resumed, 11), expected[9:], rtol=1e-12)

    def test_a_late_group_of_a_mapping_needs_a_schedule(self):
        optimizer = make_optimizer(1.0)
        optimizer.param_groups[0]["name"] = "decay"
        scheduler = ScheduleLR(optimizer, {"decay": SCHEDULE})
        optimizer.add_param_group({"params": [parameter()], "lr": 0.5, "name": "decay"})
        assert_allclose(advance(optimizer, scheduler, 2), np.outer(H[:2], [1.0, 0.5]))
        optimizer.add_param_group({"params": [parameter()], "lr": 0.5, "name": "new"})
        with pytest.raises(RefineError) as caught:
            optimizer.step()
        assert str(caught.value) == (
            "param group 2 has no schedule; the mapping has 'decay' and the optimizer 0 ('decay'), 1 ('decay'), "
            "2 ('new'): give each group one, by index or name"
        )

    @pytest.mark.parametrize(
        ("mapping", "text"),
        [
            (
                {0: SCHEDULE},
                "param group 1 has no schedule; the mapping has 0 and the optimizer 0, 1 ('b'): give each group one, "
                "by index or name",
            ),
            (
                {},
                "param group 0 has no schedule; the mapping has nothing and the optimizer 0, 1 ('b'): give each group",
            ),
            ({0: SCHEDULE, 1: SCHEDULE, "b": SCHEDULE}, "param group 1 has two schedules; the mapping has 0, 1, 'b'"),
            (
                {0: SCHEDULE, "b": SCHEDULE, "c": SCHEDULE},
                "schedule names the param group 'c'; the optimizer has 0, 1 ('b'): correct the key",
            ),
            (
                {0: SCHEDULE, "b": linear(30)},
                "the schedules differ in total_steps (0: 20, 'b': 30); resample them to the updates of the run",
            ),
        ],
    )
    def test_mappings_are_checked(self, mapping, text):
        optimizer = make_optimizer()
        optimizer.param_groups[1]["name"] = "b"
        with pytest.raises(RefineError) as caught:
            ScheduleLR(optimizer, mapping)
        assert str(caught.value).startswith(text)

    def test_a_group_without_a_rate_raises(self):
        optimizer = make_optimizer(1.0)
        optimizer.param_groups[0]["lr"] = None
        with pytest.raises(RefineError, match=r"param group 0 has no learning rate \(lr=None\); give the optimizer"):
            ScheduleLR(optimizer, SCHEDULE)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
class TestSharedTensorRate:
    """Adam(groups, lr=tensor) puts one tensor into all groups, points 6 and 7 together."""

    def make(self):
        weights = [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
        return torch.optim.Adam([{"params": [weight]} for weight in weights], lr=torch.tensor(1.0))

    def test_groups_of_a_mapping_have_their_own(self):
        optimizer = self.make()
        scheduler = ScheduleLR(optimizer, {0: linear(10), "1": cosine(10)})
        advance(optimizer, scheduler, 3)
        found = [float(group["lr"]) for group in optimizer.param_groups]
        assert found == pytest.approx([linear(10).at(3), cosine(10).at(3)])
        assert scheduler.get_last_lr() == pytest.approx(found)

    def test_a_late_group_has_the_base_rate_of_the_others(self):
        optimizer = self.make()
        scheduler = ScheduleLR(optimizer, linear(10))
        advance(optimizer, scheduler, 5)
        optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(2))]})
        optimizer.step()
        assert [float(group["lr"]) for group in optimizer.param_groups] == pytest.approx([0.5] * 3)
        assert scheduler.state_dict()["base_lrs"] == [1.0, 1.0, 1.0]


class TestPoint7Compile:
    @pytest.fixture(autouse=True)
    def no_recompilation(self):
        torch._dynamo.reset()
        with torch._dynamo.config.patch(error_on_recompile=True):
            yield
        torch._dynamo.reset()

    def test_a_tensor_rate_stays_the_same_tensor(self):
        rate = torch.tensor(1.0)
        optimizer = make_optimizer(rate, foreach=False)
        scheduler = ScheduleLR(optimizer, SCHEDULE)
        advance(optimizer, scheduler, 2)
        scheduler.load_state_dict(scheduler.state_dict())
        assert optimizer.param_groups[0]["lr"] is rate
        assert float(rate) == pytest.approx(H[2])

    def test_nothing_wraps_the_step_of_the_optimizer(self):
        optimizer = make_optimizer()
        ScheduleLR(optimizer, SCHEDULE).step()
        assert "step" not in vars(optimizer)
        assert optimizer.step.__func__ is SGD.step

    @pytest.mark.parametrize("backend", ["eager", "aot_eager"])
    @pytest.mark.parametrize("kind", [SGD, AdamW])
    @pytest.mark.parametrize("compiled", ["optimizer", "both"])
    def test_no_recompilation(self, backend, kind, compiled):
        def run(compile):
            optimizer = make_optimizer(torch.tensor(1.0), torch.tensor(0.1), kind=kind, weight_decay=0.1)
            scheduler = ScheduleLR(optimizer, SCHEDULE)
            if compiled == "optimizer":
                step = compile(optimizer.step)

                def update():
                    step()
                    scheduler.step()
            else:

                @compile
                def update():
                    optimizer.step()
                    scheduler.step()

            seen = []
            for _ in range(20):
                seen.append(rates(optimizer))
                update()
            scheduler.check_complete()
            return np.array(seen), torch.cat([p.detach() for g in optimizer.param_groups for p in g["params"]])

        plain, weights = run(lambda f: f)
        assert_allclose(plain, np.outer(H, [1.0, 0.1]), rtol=1e-6)
        torch._dynamo.utils.counters.clear()
        seen, compiled_weights = run(torch.compile(backend=backend))
        assert np.array_equal(seen, plain)
        torch.testing.assert_close(compiled_weights, weights, rtol=1e-4, atol=0)
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1  # of the whole optimizer step

    def test_a_late_group_joins_a_compiled_step(self):
        optimizer = make_optimizer(torch.tensor(1.0))
        scheduler = ScheduleLR(optimizer, SCHEDULE)
        step = torch.compile(optimizer.step, backend="eager")
        for _ in range(5):
            step()
            scheduler.step()
        optimizer.add_param_group({"params": [parameter()], "lr": torch.tensor(0.5)})
        with torch._dynamo.config.patch(error_on_recompile=False):
            step()
        assert rates(optimizer) == pytest.approx([H[5], 0.5 * H[5]])


def half(optimizer):
    return lr_scheduler.ConstantLR(optimizer, factor=0.5, total_iters=100)


def in_sequence(optimizer, *makers, milestone=4):
    return lr_scheduler.SequentialLR(optimizer, [make(optimizer) for make in makers], [milestone])


def ours(optimizer, **options):
    return ScheduleLR(optimizer, SCHEDULE, **options)


class TestPoint8OtherSchedulers:
    @pytest.mark.parametrize("ours_first", [False, True])
    def test_in_a_sequence(self, ours_first):
        optimizer = make_optimizer()
        sequence = in_sequence(optimizer, *((ours, half) if ours_first else (half, ours)))
        expected = np.append(H[:4], np.full(16, 0.5)) if ours_first else np.append(np.full(4, 0.5), H[:16])
        assert_allclose(advance(optimizer, sequence, 20), np.outer(expected, [1.0, 0.1]))

    @pytest.mark.parametrize("done", [0, 1, 3, 4, 5, 9])
    @pytest.mark.parametrize("makers", [(ours, half), (half, ours), (ours, ours)])
    @pytest.mark.parametrize("order", ORDERS)
    def test_resume_in_a_sequence(self, tmp_path, done, makers, order):
        optimizer = make_optimizer()
        sequence = in_sequence(optimizer, *makers)
        advance(optimizer, sequence, done)
        saved = save(tmp_path / "c.pt", optimizer, sequence)
        again = make_optimizer()
        resumed = in_order(order, lambda o: in_sequence(o, *makers), again, saved)
        assert rates(again) == rates(optimizer)
        assert resumed.get_last_lr() == sequence.get_last_lr()
        assert resumed.state_dict() == sequence.state_dict()
        for mine, theirs in zip(resumed._schedulers, sequence._schedulers, strict=True):
            assert not isinstance(mine, ScheduleLR) or mine.get_last_lr() == theirs.get_last_lr()
        assert_allclose(advance(again, resumed, 8), advance(optimizer, sequence, 8), rtol=1e-12)

    @pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step:UserWarning")  # by torch's own
    def test_nested_sequences_are_as_with_torchs_own(self):
        def seen(make):
            optimizer = make_optimizer(1.0)
            inner = in_sequence(optimizer, half, make, milestone=2)
            return advance(optimizer, lr_scheduler.SequentialLR(optimizer, [inner, make(optimizer)], [5]), 12)

        assert np.array_equal(seen(ours), seen(lambda o: lr_scheduler.LambdaLR(o, SCHEDULE.at)))

    def test_a_late_group_waits_for_our_turn(self):
        optimizer = make_optimizer(1.0)
        other = lr_scheduler.LambdaLR(optimizer, lambda t: 0.5)
        scheduler = ours(optimizer)
        sequence = lr_scheduler.SequentialLR(optimizer, [scheduler, other], [3])
        advance(optimizer, sequence, 5)
        optimizer.add_param_group({"params": [parameter()], "lr": 0.25})
        optimizer.step()
        assert rates(optimizer) == [0.5, 0.25]
        waiting = make_optimizer(1.0)
        scheduler = ours(waiting)
        scheduler.last_epoch -= 1  # as SequentialLR does with those whose turn is later
        waiting.add_param_group({"params": [parameter()], "lr": 0.25})
        waiting.step()
        assert rates(waiting)[1] == 0.25
        scheduler._update_lr(0)
        assert rates(waiting) == [H[0], 0.25 * H[0]]

    def test_updates_of_others_are_not_compared_with_our_steps(self):
        optimizer = make_optimizer(1.0)
        advance(optimizer, in_sequence(optimizer, ours, half, milestone=15), 215)
        optimizer = make_optimizer(1.0)
        sequence = in_sequence(optimizer, half, lambda o: ScheduleLR(o, linear(300)), milestone=500)
        advance(optimizer, sequence, 800)
        sequence._schedulers[1].check_complete()

    def test_nor_where_their_rate_is_our_last(self):
        optimizer = make_optimizer(1.0)
        warmup = Schedule([0.5, 1.0])
        sequence = in_sequence(
            optimizer, lambda o: ScheduleLR(o, warmup), lambda o: lr_scheduler.LambdaLR(o, lambda t: 1.0), milestone=2
        )
        assert advance(optimizer, sequence, 200)[:, 0].tolist() == [0.5] + [1.0] * 199

    def test_chained(self):
        optimizer = make_optimizer(1.0)
        chain = lr_scheduler.ChainedScheduler(
            [ours(optimizer), lr_scheduler.MultiplicativeLR(optimizer, lambda t: 0.5)]
        )
        seen = advance(optimizer, chain, 20)[:, 0]
        assert_allclose(seen[1:], 0.5 * H[1:])

    @pytest.mark.parametrize("skipped", [1, 3])
    def test_no_order_warning_under_a_grad_scaler(self, skipped):
        optimizer = make_optimizer(1.0)
        scheduler = ours(optimizer)
        scaler = torch.amp.GradScaler("cpu")
        (p,) = optimizer.param_groups[0]["params"]
        for t in range(20):
            optimizer.zero_grad()
            scaler.scale((p * (float("inf") if t < skipped else 1.0)).sum()).backward()
            scaler.step(optimizer)
            scaler.update()
            scheduler.step()
        scheduler.check_complete()
        assert scheduler.state_dict()["updates"] == 20 - skipped
        assert_allclose(p.detach(), -H[skipped:].sum(), rtol=1e-6)

    def test_the_rate_is_right_from_construction_on(self):
        optimizer = make_optimizer()
        scheduler = ours(optimizer)
        assert rates(optimizer) == scheduler.get_last_lr() == scheduler.get_lr() == [H[0], 0.1 * H[0]]
        assert isinstance(scheduler, lr_scheduler.LRScheduler)

    def test_stepping_first_is_no_torch_warning(self):
        ours(make_optimizer()).step()


class TestPoint9NothingNeedsTorchToPreview:
    def test_at_and_the_command_line(self, tmp_path):
        SCHEDULE.save(tmp_path / "s.json")
        script = (
            "import sys; sys.modules['torch'] = None\n"
            "from refine import Schedule, plot; from refine.cli.main import main\n"
            "s = Schedule.load('s.json'); print(s.at(0), s.at(19)); plot(s)\n"
            "main(['plot', 's.json', '-o', 's.png'])"
        )
        run = [sys.executable, "-c", script]
        done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(f"{H[0]} {H[19]}\n")
        assert (tmp_path / "s.png").is_file()

    def test_without_torch_the_room_says_what_it_needs(self, tmp_path):
        script = "import sys; sys.modules['torch'] = None; import refine.torch"
        done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert "ImportError: refine.torch needs PyTorch: pip install torch\n" in done.stderr


class TestPoint10FirstAndLastUpdate:
    @pytest.mark.parametrize("total_steps", [1, 2, 7, 20])
    def test_first_and_last_update(self, total_steps):
        schedule = linear(total_steps, warmup_steps=min(3, total_steps))
        optimizer = make_optimizer(1.0)
        scheduler = ScheduleLR(optimizer, schedule)
        seen = advance(optimizer, scheduler, total_steps)[:, 0]
        scheduler.check_complete()
        assert np.array_equal(seen, schedule.multiplier)
        assert seen[0] > 0
        assert seen[-1] > 0


class Reads(TorchDispatchMode):
    """Counts what makes the host wait for a device: tensors read as numbers."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


class TestHooks:
    @pytest.mark.parametrize("stepped_at", [lambda _: 1, lambda t: t % 40 == 39])
    @pytest.mark.filterwarnings("ignore::refine.RefineWarning")
    def test_no_update_waits_for_the_device(self, stepped_at):
        optimizer = make_optimizer(torch.tensor(1.0), torch.tensor(0.1), foreach=False)
        scheduler = ScheduleLR(optimizer, linear(10_000))
        optimizer.step = lambda: [hook(optimizer, (), {}) for hook in optimizer._optimizer_step_pre_hooks.values()]
        with Reads() as reads:
            float(optimizer.param_groups[0]["lr"])
            every(optimizer, scheduler, 200, stepped_at)
        assert reads.count == 1
        optimizer.param_groups[0]["lr"].fill_(0.5)  # as another scheduler does
        optimizer.add_param_group({"params": [parameter()], "lr": 0.25})
        with Reads() as reads:
            every(optimizer, scheduler, 5, lambda _: 0)
        assert reads.count == 1  # once, for the new group
        assert scheduler.state_dict()["updates"] == 205

    def test_a_captured_graph_is_not_counted(self, monkeypatch):
        optimizer = make_optimizer(1.0)
        scheduler = ours(optimizer)
        advance(optimizer, scheduler, 3)
        with monkeypatch.context() as capture:
            capture.setattr(torch.cuda, "is_initialized", lambda: True)
            capture.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
            optimizer.step()
        for _ in range(17):  # a replay calls no hook
            scheduler.step()
        scheduler.check_complete()
        assert "updates" not in scheduler.state_dict()

    def test_the_optimizer_does_not_keep_it_alive(self):
        optimizer = make_optimizer()
        reference = weakref.ref(scheduler := ours(optimizer))
        assert len(optimizer._optimizer_step_pre_hooks) == 1
        del scheduler
        gc.collect()
        assert reference() is None
        assert not optimizer._optimizer_step_pre_hooks
        assert not optimizer._optimizer_load_state_dict_pre_hooks
        assert not optimizer._optimizer_load_state_dict_post_hooks
        optimizer.step()

    def test_an_optimizer_without_hooks_is_not_counted(self):
        class Bare:
            def __init__(self):
                self.param_groups = [{"params": [], "lr": 1.0}]

        optimizer = Bare()
        scheduler = ScheduleLR(optimizer, SCHEDULE)
        assert "updates" not in scheduler.state_dict()
        for _ in range(20):
            scheduler.step()
        scheduler.check_complete()
        optimizer.param_groups.append({"params": [], "lr": 0.5})
        with pytest.warns(RefineWarning, match=r"has 20 updates \(no count of optimizer updates were seen\)"):
            scheduler.step()
        assert rates(optimizer) == [H[-1], 0.5 * H[-1]]

    def test_a_model_is_no_optimizer(self):
        with pytest.raises(RefineError, match="optimizer is a Linear; it must be a torch.optim.Optimizer"):
            ScheduleLR(torch.nn.Linear(1, 1), SCHEDULE)

    def test_a_fit_is_no_schedule(self):
        with pytest.raises(RefineError) as caught:
            ScheduleLR(make_optimizer(), [1.0, 0.5])
        assert str(caught.value) == (
            "schedule is a list; it must be a Schedule (of a fit: its .refined or .recommended), a path of one, or a "
            "mapping from group to these"
        )

    def test_a_path(self, tmp_path):
        SCHEDULE.save(tmp_path / "schedule.json")
        assert ScheduleLR(make_optimizer(), str(tmp_path)).get_lr() == ours(make_optimizer()).get_lr()
        with pytest.raises(RefineError, match="cannot read"):
            ScheduleLR(make_optimizer(), tmp_path / "none.json")

    @pytest.mark.parametrize("default", ["refined", "recommended"])
    def test_the_folder_of_a_fit_is_its_default(self, tmp_path, default):
        both = {"refined": cosine(20), "recommended": SCHEDULE}
        for name, schedule in both.items():
            Schedule(schedule.multiplier, {"default": default}).save(tmp_path / f"{name}.json")
        expected = ScheduleLR(make_optimizer(), both[default], step=7).get_lr()
        for path in (tmp_path, tmp_path / f"{default}.json"):
            assert ScheduleLR(make_optimizer(), path, step=7).get_lr() == expected

    def test_an_update_of_rate_zero_is_possible(self):
        optimizer = make_optimizer(torch.tensor(1.0), foreach=False)
        scheduler = ScheduleLR(optimizer, Schedule([0.0, 1.0, 1e-300]))
        assert advance(optimizer, scheduler, 3)[:, 0].tolist() == [0.0, 1.0, 0.0]
        assert scheduler.state_dict()["in_charge"]

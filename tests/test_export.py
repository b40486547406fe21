import ast
import copy
import os
import pickle
import subprocess
import sys
import warnings
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from refine import RefineError, RefineWarning, Schedule, cosine, emit, linear, read_norms, wsd
from refine.digits import on_grid
from refine.export import refuse_existing
from refine.export.module import TOLERANCE, knots, module_text
from refine.smoothing import smooth

SGD = torch.optim.SGD


def load(path, name="refined_schedule_under_test"):
    spec = spec_from_file_location(name, path)
    module = module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def alone(schedule):
    """The module of one schedule, as that of a family."""
    return module_text({"schedule": schedule}, "schedule")


def staircase(total_steps, levels=300, sigma=0.1, power=1.0, seed=0):
    """Warmup and decay in noisy steps, up to one peak and down from there, as a fit makes of a log."""
    t = np.arange(total_steps)
    h = np.minimum((t + 1) / max(0.02 * total_steps, 1), 1.0) * (1.0 - t / total_steps) ** power
    noise = np.exp(sigma * np.random.default_rng(seed).standard_normal(min(levels, total_steps)))
    return unimodal(h * noise[t * noise.size // total_steps])


def unimodal(h):
    peak = int(np.argmax(h))
    h = np.concatenate([np.maximum.accumulate(h[:peak]), np.minimum.accumulate(h[peak:])])
    return Schedule.from_rates(h, {"default": "recommended"})


def one_minus_sqrt(total_steps):
    return Schedule(1.0 - np.sqrt(np.arange(total_steps) / total_steps))


def errors(module, schedule, name=None):
    """Of multiplier() at every update: the largest, as a fraction of the peak, and of the rate above 1e-3 of it."""
    h = schedule.multiplier
    made = [module.multiplier(t, schedule=name) for t in range(h.size)]
    error = np.abs(np.array(made) - h)
    return error.max(), np.max(error[h > 1e-3] / h[h > 1e-3])


@dataclass
class Result:
    """What `emit` takes of a fit."""

    schedules: dict[str, Schedule]
    default: str


def fitted(default="recommended", total_steps=20, source="log.csv"):
    """A refined schedule, and linear decay, which is recommended."""
    told = {"source": source, "default": default}
    decay = linear(total_steps, warmup_steps=4)
    refined = Schedule(staircase(total_steps).multiplier, {**told, "name": "refined"})
    recommended = Schedule(on_grid(decay.multiplier), {**told, "name": "recommended"})  # as a fit writes it
    shapes = {"refined": refined, "recommended": recommended, "linear": decay}
    return Result({**shapes, "cosine": cosine(total_steps, warmup_steps=4)}, default)


@pytest.fixture
def module(tmp_path):
    """The module of linear decay with warmup over 20 updates."""
    path = tmp_path / "refined_schedule.py"
    path.write_text(alone(linear(20, warmup_steps=4)))
    return load(path)


@pytest.fixture
def four(tmp_path):
    """The module of a fit of 20 updates."""
    result = fitted()
    (tmp_path / "four.py").write_text(module_text(result.schedules, result.default))
    return load(tmp_path / "four.py", "four")


@pytest.fixture
def parameters():
    return [torch.zeros(2, requires_grad=True), torch.zeros(3, requires_grad=True)]


def groups(parameters):
    return [{"params": [parameters[0]], "lr": 1.0}, {"params": [parameters[1]], "lr": 0.1}]


def rates(optimizer):
    return [float(g["lr"]) for g in optimizer.param_groups]


def advance(optimizer, scheduler, updates):
    for _ in range(updates):
        optimizer.step()
        scheduler.step()


class TestKnots:
    @given(st.lists(st.floats(1e-9, 1.0), min_size=1, max_size=200))
    def test_error_is_within_the_tolerance_whatever_the_shape(self, values):
        h = np.array(values) / max(values)
        t, y = map(np.array, zip(*knots(Schedule(h), TOLERANCE), strict=True))
        error = np.abs(np.interp(np.arange(h.size), t, y) - h)
        assert error.max() <= TOLERANCE * (1 + 1e-9)
        assert np.all(error <= 0.02 * h * (1 + 1e-9))
        assert np.all(np.diff(t) > 0)
        assert y[:-1].min() > 0
        assert (t[0], t[-1], y.max()) == (0, h.size, 1.0)

    def test_straight_schedules_are_exact_and_short(self):
        assert knots(linear(1000), 1e-3) == [(0, 1.0), (999, 0.001), (1000, 0.0)]
        assert len(knots(linear(1000, warmup_steps=50), 1e-3)) == 4
        assert len(knots(cosine(100_000), 1e-3)) < 100


class TestModule:
    @pytest.mark.parametrize("total_steps", [1, 2, 3, 100, 12_345, 1_000_000])
    def test_multiplier_is_that_of_the_schedule(self, tmp_path, total_steps):
        schedule = cosine(total_steps, warmup_steps=min(7, total_steps))
        (tmp_path / "m.py").write_text(alone(schedule))
        m = load(tmp_path / "m.py")
        for t in {0, 1, total_steps // 3, total_steps - 1} & set(range(total_steps)):
            assert m.multiplier(t) == pytest.approx(schedule.at(t), abs=TOLERANCE)
            assert m.multiplier(t) > 0
        assert m.multiplier(total_steps + 5) == m.multiplier(total_steps - 1)

    def test_other_horizons_stretch_it(self, module):
        for total_steps in (5, 10, 200):
            stretched = [module.multiplier(t, total_steps) for t in range(total_steps)]
            assert min(stretched) > 0
            h = linear(20, warmup_steps=4).multiplier
            expected = np.interp(np.arange(total_steps) * 20 / total_steps, np.arange(21), np.append(h, 0.0))
            assert_allclose(stretched, expected, atol=TOLERANCE)

    def test_negative_steps_are_refused(self, module):
        for total_steps in (0, -1):
            with pytest.raises(ValueError, match=f"total_steps is {total_steps}; it must be the number of updates"):
                module.multiplier(0, total_steps)
        with pytest.raises(ValueError, match="step is -1; updates are counted from 0"):
            module.multiplier(-1)

    def test_first_and_last_update(self, module, parameters):
        optimizer = SGD(groups(parameters))
        scheduler = module.make_scheduler(optimizer)
        assert isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR)
        seen = []
        for _ in range(20):
            seen.append(rates(optimizer))
            advance(optimizer, scheduler, 1)
        h = linear(20, warmup_steps=4).multiplier
        assert_allclose(seen, np.outer(h, [1.0, 0.1]), atol=TOLERANCE)
        assert seen[-1][0] > 0

    def test_past_the_end_the_last_rate_is_held_with_one_warning(self, module, parameters):
        optimizer = SGD(groups(parameters))
        scheduler = module.make_scheduler(optimizer, total_steps=5)
        advance(optimizer, scheduler, 4)
        last = rates(optimizer)
        advance(optimizer, scheduler, 1)  # after the last update, as every loop does
        assert rates(optimizer) == last
        with pytest.warns(UserWarning, match="was stepped 6 times and total_steps is 5") as caught:
            advance(optimizer, scheduler, 5)
        assert len(caught) == 1
        assert rates(optimizer) == last

    @pytest.mark.parametrize(
        "order", ["optimizer, build, scheduler", "build, optimizer, scheduler", "build, scheduler, optimizer"]
    )
    @pytest.mark.parametrize("tensor", [False, True])
    def test_resume_in_any_order(self, module, parameters, tmp_path, order, tensor):
        def make():
            made = groups(parameters)
            if tensor:
                made = [{**g, "lr": torch.tensor(g["lr"])} for g in made]
            return SGD(made, foreach=False) if not tensor else torch.optim.AdamW(made, capturable=False, foreach=False)

        optimizer = make()
        scheduler = module.make_scheduler(optimizer)
        advance(optimizer, scheduler, 9)
        torch.save({"o": optimizer.state_dict(), "s": scheduler.state_dict()}, tmp_path / "c.pt")
        expected = rates(optimizer)
        advance(optimizer, scheduler, 1)
        next_expected = rates(optimizer)

        state = torch.load(tmp_path / "c.pt")  # weights_only=True
        fresh = make()
        for action in order.split(", "):
            if action == "build":
                resumed = module.make_scheduler(fresh)
            elif action == "optimizer":
                fresh.load_state_dict(state["o"])
            else:
                resumed.load_state_dict(state["s"])
        assert rates(fresh) == pytest.approx(expected, rel=1e-6)
        assert [float(r) for r in resumed.get_last_lr()] == pytest.approx(expected, rel=1e-6)
        advance(fresh, resumed, 1)
        assert rates(fresh) == pytest.approx(next_expected, rel=1e-6)

    def test_start_anywhere_without_a_state(self, module, parameters):
        optimizer = SGD(groups(parameters))
        module.make_scheduler(optimizer, last_epoch=8)
        assert rates(optimizer) == pytest.approx([module.multiplier(9), 0.1 * module.multiplier(9)])

    @pytest.mark.parametrize(("kind", "options"), [("AdamW", {}), ("Adagrad", {}), ("SGD", {"momentum": 0.9})])
    def test_a_rate_written_by_hand_is_no_peak(self, module, parameters, kind, options):
        def make():
            return getattr(torch.optim, kind)(parameters, lr=0.5, **options)

        def loaded():
            optimizer = make()
            for parameter in parameters:
                parameter.grad = torch.ones_like(parameter)
            for t in range(9):
                optimizer.param_groups[0]["lr"] = 0.5 * module.multiplier(t)
                optimizer.step()
            again = make()
            again.load_state_dict(optimizer.state_dict())
            return again

        optimizer = loaded()
        for _ in range(2):  # and stays none
            with pytest.raises(ValueError, match="no initial_lr") as caught:
                module.make_scheduler(optimizer, last_epoch=8)
            assert str(caught.value) == (
                f"param group 0 was updated and has lr={0.5 * module.multiplier(8):.6g} and no initial_lr: it may be a "
                "decayed rate, no peak; give peak_lr="
            )
        scheduler = module.make_scheduler(optimizer, last_epoch=8, peak_lr=0.5)
        assert rates(optimizer) == [0.5 * module.multiplier(9)]
        advance(optimizer, scheduler, 1)
        assert rates(optimizer) == [0.5 * module.multiplier(10)]
        optimizer.add_param_group({"params": [torch.zeros(1, requires_grad=True)], "lr": 0.1})  # no state of its own
        module.make_scheduler(optimizer, last_epoch=10)
        assert rates(optimizer) == [0.5 * module.multiplier(11), 0.1 * module.multiplier(11)]
        optimizer = loaded()
        optimizer.param_groups[0]["initial_lr"] = 0.25
        module.make_scheduler(optimizer, last_epoch=8)
        assert rates(optimizer) == [0.25 * module.multiplier(9)]
        optimizer = make()
        _ = [optimizer.state[parameter] for parameter in parameters]  # as a reader leaves a fresh one
        module.make_scheduler(optimizer, last_epoch=8)
        assert rates(optimizer) == [0.5 * module.multiplier(9)]

    @pytest.mark.parametrize("peak_lr", [0.0, -1.0, float("nan"), float("inf"), True, "1e-3", [1.0, 0.1]])
    def test_the_peak_is_checked(self, module, parameters, peak_lr):
        with pytest.raises(ValueError, match="peak_lr is") as caught:
            module.make_scheduler(SGD(groups(parameters)), peak_lr=peak_lr)
        assert str(caught.value) == f"peak_lr is {peak_lr!r}; it must be a positive number"

    def test_another_horizon_schedule_or_base_rate_raises(self, module, parameters, tmp_path):
        state = module.make_scheduler(SGD(groups(parameters))).state_dict()
        with pytest.raises(ValueError, match="the checkpoint has total_steps=20 and this run 30"):
            module.make_scheduler(SGD(groups(parameters)), total_steps=30).load_state_dict(state)
        with pytest.raises(ValueError, match=r"the checkpoint has base_lrs=\[1.0, 0.1\] and this run \[0.5\]"):
            module.make_scheduler(SGD(parameters, lr=0.5)).load_state_dict(state)
        (tmp_path / "other.py").write_text(alone(linear(20)))
        with pytest.raises(ValueError, match="the checkpoint has schedule="):
            load(tmp_path / "other.py", "other").make_scheduler(SGD(groups(parameters))).load_state_dict(state)
        plain = torch.optim.lr_scheduler.LambdaLR(SGD(groups(parameters)), lambda t: 1.0).state_dict()
        with pytest.raises(ValueError, match="was not saved by a scheduler that make_scheduler built"):
            module.make_scheduler(SGD(groups(parameters))).load_state_dict(plain)

    def test_state_holds_plain_values_only(self, module, parameters):
        state = module.make_scheduler(SGD(groups(parameters), lr=torch.tensor(1.0), foreach=False)).state_dict()
        assert ast.literal_eval(repr(state)) == state

    def test_it_pickles_and_copies(self, module, parameters):
        optimizer = SGD(groups(parameters))
        scheduler = module.make_scheduler(optimizer)
        advance(optimizer, scheduler, 3)
        for other in (pickle.loads(pickle.dumps(scheduler)), copy.deepcopy(scheduler)):
            other.step()
            assert rates(other.optimizer) == pytest.approx([module.multiplier(4), 0.1 * module.multiplier(4)])
        assert rates(optimizer)[0] == pytest.approx(module.multiplier(3))

    def test_groups_added_later_join(self, module, parameters):
        optimizer = SGD([parameters[0]], lr=1.0)
        scheduler = module.make_scheduler(optimizer)
        advance(optimizer, scheduler, 3)
        optimizer.add_param_group({"params": [parameters[1]], "lr": 0.5})
        advance(optimizer, scheduler, 1)
        assert rates(optimizer) == pytest.approx([module.multiplier(4), 0.5 * module.multiplier(4)])

    def test_groups_added_before_the_state_is_loaded_join_too(self, module, parameters):
        def make(updates):
            optimizer = SGD([parameters[0]], lr=1.0)
            scheduler = module.make_scheduler(optimizer)
            advance(optimizer, scheduler, updates)
            optimizer.add_param_group({"params": [parameters[1]], "lr": 0.5})
            return optimizer, scheduler

        optimizer, scheduler = make(2)
        advance(optimizer, scheduler, 3)
        resumed, again = make(0)
        again.load_state_dict(scheduler.state_dict())
        assert rates(resumed) == rates(optimizer)

    def test_base_rates_may_differ_by_the_precision_of_a_tensor(self, module, parameters):
        state = module.make_scheduler(SGD(parameters, lr=torch.tensor(0.1), foreach=False)).state_dict()
        module.make_scheduler(SGD(parameters, lr=0.1)).load_state_dict(state)

    def test_changing_the_horizon_as_the_error_says(self, module, parameters):
        optimizer = SGD(groups(parameters))
        scheduler = module.make_scheduler(optimizer)
        advance(optimizer, scheduler, 9)
        fresh = SGD(groups(parameters))
        fresh.load_state_dict(optimizer.state_dict())
        module.make_scheduler(fresh, total_steps=40, last_epoch=scheduler.last_epoch - 1)
        assert rates(fresh) == pytest.approx([module.multiplier(9, 40), 0.1 * module.multiplier(9, 40)])

    @pytest.mark.parametrize("done", [1, 3, 5, 9])
    @pytest.mark.parametrize("ours_first", [False, True])
    @pytest.mark.parametrize("order", ["obs", "bos", "bso"])
    @pytest.mark.filterwarnings("ignore:The epoch parameter")
    def test_resume_inside_sequential_lr(self, module, parameters, done, ours_first, order):
        def make(optimizer):
            other = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=0.5, total_iters=100)
            both = [other, module.make_scheduler(optimizer)]
            return torch.optim.lr_scheduler.SequentialLR(optimizer, both[::-1] if ours_first else both, [4])

        optimizer = SGD(groups(parameters))
        sequence = make(optimizer)
        advance(optimizer, sequence, done)
        saved, state = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(sequence.state_dict())
        expected = []
        for _ in range(6):
            expected.append(rates(optimizer))
            advance(optimizer, sequence, 1)
        fresh = SGD(groups(parameters))
        for action in order:
            if action == "b":
                again = make(fresh)
            elif action == "o":
                fresh.load_state_dict(saved)
            else:
                again.load_state_dict(state)
        seen = []
        for _ in range(6):
            seen.append(rates(fresh))
            advance(fresh, again, 1)
        assert_allclose(seen, expected, rtol=1e-9)

    def test_a_tensor_rate_stays_the_same_tensor(self, module, parameters):
        rate = torch.tensor(1.0)
        optimizer = SGD(parameters, lr=rate, foreach=False)
        scheduler = module.make_scheduler(optimizer)
        kept = optimizer.param_groups[0]["lr"]
        advance(optimizer, scheduler, 2)
        scheduler.load_state_dict(scheduler.state_dict())
        assert optimizer.param_groups[0]["lr"] is kept
        assert float(kept) == pytest.approx(module.multiplier(2))

    def test_it_works_inside_sequential_lr(self, module, parameters):
        optimizer = SGD(parameters, lr=1.0)
        first = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=0.5, total_iters=3)
        sequence = torch.optim.lr_scheduler.SequentialLR(optimizer, [first, module.make_scheduler(optimizer)], [3])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own call of step(0) is deprecated by torch
            advance(optimizer, sequence, 3)
            assert rates(optimizer) == pytest.approx([module.multiplier(0)])
            advance(optimizer, sequence, 2)
        assert rates(optimizer) == pytest.approx([module.multiplier(2)])

    def test_integers_of_numpy_are_integers(self, module, parameters):
        assert module.make_scheduler(SGD(parameters, lr=1.0), total_steps=np.int64(50)).total_steps == 50
        with pytest.raises(ValueError, match="last_epoch is -5; it must be the last update done, or -1 to start"):
            module.make_scheduler(SGD(parameters, lr=1.0), last_epoch=-5)

    @pytest.mark.parametrize("total_steps", [0, -3, 2.5, True, "9"])
    def test_horizons_are_checked(self, module, parameters, total_steps):
        with pytest.raises(ValueError, match="it must be a positive integer, the number of updates"):
            module.make_scheduler(SGD(parameters, lr=1.0), total_steps=total_steps)

    def test_it_needs_torch_alone_and_its_multiplier_nothing(self, tmp_path):
        (tmp_path / "refined").mkdir()
        (tmp_path / "refined" / "refined_schedule.py").write_text(alone(linear(4)))
        block = "import sys; sys.modules['refine'] = sys.modules['numpy'] = None; "
        run = [sys.executable, "-c"]
        script = (
            block
            + "from refined.refined_schedule import make_scheduler; import torch; "
            + (
                "o = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0); make_scheduler(o); "
                "print(o.param_groups[0]['lr'])"
            )
        )
        done = subprocess.run([*run, script], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert done.stdout == "1.0\n"
        script = (
            block
            + "sys.modules['torch'] = None; from refined.refined_schedule import multiplier, make_scheduler; "
            + ("print(multiplier(2), multiplier(500, 1000)); make_scheduler(None)")
        )
        done = subprocess.run([*run, script], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.stdout == "0.5 0.5\n"
        assert "ImportError: make_scheduler needs torch; multiplier() does not" in done.stderr

    @pytest.mark.parametrize(
        "name",
        [
            'x"""\nimport os; os.system("touch pwned")\n"""',
            "'''\nraise SystemExit('pwned')\n#",
            "\\",
            "a\\'); raise SystemExit('pwned')  #",
            "{__import__('os').system('touch pwned')}",
            "\u202e\u2028line\x00\x1b[31m\r\n# END GENERATED",
            "@VERSION@ %s {0} $x$",
            "y" * 50_000,
        ],
    )
    def test_names_cannot_break_out_of_their_strings(self, tmp_path, monkeypatch, name):
        monkeypatch.chdir(tmp_path)
        schedule = Schedule(linear(5).multiplier, {"source": name, name: [name, {name: name}], "n": 1, "none": None})
        text = alone(schedule)
        assert text.isascii()
        assert len(text) <= 16_384
        (tmp_path / "m.py").write_text(text)
        m = load(tmp_path / "m.py")
        assert m.PROVENANCE["n"] == 1
        assert m.multiplier(0) == 1.0
        assert not (tmp_path / "pwned").exists()
        # Nothing but the constants differs from the module of a harmless name.
        plain = ast.parse(alone(Schedule(linear(5).multiplier, {})))
        shape = [type(node).__name__ for node in ast.parse(text).body]
        assert shape == [type(node).__name__ for node in plain.body]

    @pytest.mark.parametrize("make", [linear, cosine, wsd, one_minus_sqrt, staircase])
    @pytest.mark.parametrize("total_steps", [1, 2, 7, 100, 2_345, 1_000_000])
    def test_every_update_is_within_the_peaks_thousandth_and_2_percent_of_the_rate(self, tmp_path, make, total_steps):
        schedule = make(total_steps)
        text = alone(schedule)
        assert len(text) <= 16_384
        (tmp_path / "m.py").write_text(text)
        m = load(tmp_path / "m.py")
        error, relative = errors(m, schedule)
        assert error <= TOLERANCE
        assert relative <= 0.02
        # The same horizon by name, and twice as many updates: linear between the full ones, up to the end.
        some = range(0, total_steps, 1 + total_steps // 1000)
        assert [m.multiplier(t, total_steps) for t in some] == [m.multiplier(t) for t in some]
        h = np.append(schedule.multiplier, schedule.end)
        between = (h[:-1] + h[1:]) / 2.0
        error = np.abs(np.array([m.multiplier(2 * t + 1, 2 * total_steps) for t in some]) - between[some])
        assert error.max() <= TOLERANCE
        assert np.all(error <= np.maximum(0.02 * between[some], 2e-5))

    @pytest.mark.parametrize("levels", [300, 1000])
    @pytest.mark.parametrize("sigma", [0.02, 0.3])
    @pytest.mark.parametrize("power", [1, 3])
    def test_noisy_fits_fit_in_16_kb_within_both_tolerances(self, tmp_path, levels, sigma, power):
        schedules = fitted(total_steps=20_000).schedules
        schedules["refined"] = staircase(20_000, levels, sigma, power)
        text = module_text(schedules, "refined")
        assert len(text) <= 16_384
        (tmp_path / "m.py").write_text(text)
        m = load(tmp_path / "m.py")
        for name, schedule in schedules.items():
            error, relative = errors(m, schedule, name)
            assert error <= TOLERANCE
            assert relative <= 0.02

    def test_a_schedule_too_rough_for_16_kb_is_said_to_be(self, tmp_path):
        rough = Schedule.from_rates(np.random.default_rng(0).random(20_000) + 0.1)
        with pytest.warns(RefineWarning, match="too rough for the module: its knots are within"):
            text = alone(rough)
        assert len(text) <= 16_384

    def test_only_what_is_too_rough_gets_coarser(self, tmp_path):
        rough = Schedule.from_rates(np.random.default_rng(0).random(20_000) + 0.1)
        smooth = cosine(20_000)
        with pytest.warns(RefineWarning, match="^refined is too rough .* the CSV file is exact") as caught:
            text = module_text({"refined": rough, "cosine": smooth}, "cosine")
        assert len(caught) == 1
        (tmp_path / "m.py").write_text(text)
        assert errors(load(tmp_path / "m.py"), smooth)[0] <= TOLERANCE

    @pytest.mark.parametrize("name", ["gpt.csv", "dlrm.csv", "imagenet_gnorm.csv", "roberta_l1.csv"])
    @pytest.mark.parametrize("power", [1, 2])
    def test_shapes_of_real_logs_fit_in_16_kb_within_both_tolerances(self, shared, tmp_path, name, power):
        norms = read_norms(shared / "logs" / name)
        w = norms.on_updates(smooth(norms.values, fraction=0.1), norms.total_steps) ** -float(power)
        schedule = unimodal(w * np.append(np.cumsum(w[:0:-1])[::-1], w[-1]))
        text = module_text({**fitted(total_steps=w.size).schedules, "refined": schedule}, "refined")
        assert len(text) <= 16_384
        (tmp_path / "m.py").write_text(text)
        error, relative = errors(load(tmp_path / "m.py"), schedule)
        assert error <= TOLERANCE
        assert relative <= 0.02


class TestNames:
    def test_none_is_the_default(self, four):
        of = fitted().schedules
        for t in range(20):
            assert four.multiplier(t) == four.multiplier(t, schedule="recommended")
            for name, schedule in of.items():
                assert four.multiplier(t, 20, name) == pytest.approx(schedule.at(t), abs=TOLERANCE)

    def test_a_scheduler_runs_the_one_named(self, four, parameters):
        for name in (None, "refined", "recommended", "linear", "cosine"):
            optimizer = SGD(groups(parameters))
            scheduler = four.make_scheduler(optimizer, 40, name)
            advance(optimizer, scheduler, 7)
            assert rates(optimizer) == [four.multiplier(7, 40, name), 0.1 * four.multiplier(7, 40, name)]

    def test_the_first_lines_say_what_none_is(self):
        result = fitted()
        first, _, second, third = module_text(result.schedules, "recommended").splitlines()[:4]
        assert first.endswith('for PyTorch; schedule=None is "recommended".')
        assert second == (
            '"refined" is not recommended on this log; make_scheduler(optimizer, schedule="refined") takes it anyway.'
        )
        assert third == 'Names for schedule=: "refined", "recommended" = "linear", "cosine".'
        first, _, second = module_text(result.schedules, "refined").splitlines()[:3]
        assert first.endswith('for PyTorch; schedule=None is "refined".')
        assert second == third
        assert 'schedule=None is "schedule", the only one.' in alone(linear(5)).splitlines()[0]

    @pytest.mark.parametrize("name", ["rex", "", 3, ["linear"]])
    def test_another_name_is_refused_with_those_there_are(self, four, parameters, name):
        expected = "it must be one of refined, recommended, linear, cosine, or None for recommended"
        with pytest.raises(ValueError, match=f"^schedule is .*; {expected}$"):
            four.multiplier(3, schedule=name)
        with pytest.raises(ValueError, match=expected):
            four.make_scheduler(SGD(parameters, lr=1.0), schedule=name)

    def test_the_state_of_another_schedule_is_refused_naming_both(self, four, parameters):
        state = four.make_scheduler(SGD(groups(parameters)), schedule="refined").state_dict()
        assert state["schedule"].split() == ["refined", four.SCHEDULES["refined"][0]]
        with pytest.raises(
            ValueError, match=r"has schedule='refined \w{12}' and this run 'recommended \w{12}'; resume"
        ):
            four.make_scheduler(SGD(groups(parameters))).load_state_dict(state)

    def test_the_same_knots_by_another_name_are_the_same(self, four, parameters, tmp_path):
        optimizer = SGD(groups(parameters))
        scheduler = four.make_scheduler(optimizer, schedule="linear")
        advance(optimizer, scheduler, 5)
        (tmp_path / "single.py").write_text(alone(fitted().schedules["linear"]))
        for other, name in ((four, "recommended"), (load(tmp_path / "single.py", "single"), None)):
            fresh = SGD(groups(parameters))
            again = other.make_scheduler(fresh, schedule=name)
            again.load_state_dict(scheduler.state_dict())
            assert rates(fresh) == rates(optimizer)
        assert four.SCHEDULES["linear"] == "recommended"  # stored once

    def test_changing_the_schedule_as_the_error_says(self, four, parameters):
        optimizer = SGD(groups(parameters))
        scheduler = four.make_scheduler(optimizer)
        advance(optimizer, scheduler, 9)
        fresh = SGD(groups(parameters))
        fresh.load_state_dict(optimizer.state_dict())
        four.make_scheduler(fresh, schedule="cosine", last_epoch=scheduler.last_epoch - 1)
        factor = four.multiplier(9, schedule="cosine")
        assert rates(fresh) == pytest.approx([factor, 0.1 * factor])

    def test_it_pickles_and_copies(self, four, parameters):
        optimizer = SGD(groups(parameters))
        scheduler = four.make_scheduler(optimizer, schedule="cosine")
        advance(optimizer, scheduler, 3)
        for other in (pickle.loads(pickle.dumps(scheduler)), copy.deepcopy(scheduler)):
            other.step()
            assert rates(other.optimizer)[0] == four.multiplier(4, schedule="cosine")

    def test_provenance_is_that_of_the_default(self, four):
        assert four.PROVENANCE["name"] == "recommended"

    def test_what_cannot_be_in_a_module_is_refused(self):
        with pytest.raises(RefineError, match="default is 'x'; it must be one of linear"):
            module_text({"linear": linear(5)}, "x")
        with pytest.raises(RefineError, match=r"differ in total_steps \(a: 5, b: 6\); resample them"):
            module_text({"a": linear(5), "b": linear(6)}, "a")
        with pytest.raises(RefineError, match="in a module it must have a Python name"):
            module_text({'"""': linear(5)}, '"""')


@pytest.fixture
def drawn(monkeypatch):
    """A figure of whatever there is."""
    monkeypatch.setattr("refine.figures.save_figure", lambda result, path: path.write_bytes(b"png"))


@pytest.mark.usefixtures("drawn")
class TestEmitResult:
    NAMES = ("refined.csv", "refined.json", "recommended.csv", "recommended.json")

    @pytest.mark.parametrize("default", ["refined", "recommended"])
    def test_files_of_both_schedules(self, tmp_path, default):
        result = fitted(default)
        files = emit(result, tmp_path / "out")
        assert {role: path.name for role, path in files.items()} == {
            **{name: name for name in self.NAMES},
            "module": "refined_schedule.py",
            "figure": "schedule.png",
        }
        metadata = {"refined.csv-metadata.json", "recommended.csv-metadata.json"}
        assert {path.name for path in (tmp_path / "out").iterdir()} == {path.name for path in files.values()} | metadata
        for name in self.NAMES:
            back, schedule = Schedule.load(files[name]), result.schedules[files[name].stem]
            assert (back, back.provenance) == (schedule, schedule.provenance)
        m = load(files["module"])
        assert (m.DEFAULT, list(m.SCHEDULES)) == (default, ["refined", "recommended", "linear", "cosine"])
        assert Schedule.load(tmp_path / "out") == result.schedules[default]

    @pytest.mark.parametrize("plot", [False, True])
    def test_a_folder_never_holds_two(self, tmp_path, plot):
        out = tmp_path / "out"
        results = [fitted(), linear(20), fitted("refined"), linear(30)]
        fresh = []
        for i, result in enumerate(results):
            emit(result, tmp_path / str(i), plot=plot)
            fresh.append({path.name: path.read_bytes() for path in (tmp_path / str(i)).iterdir()})
        (out / "mine").mkdir(parents=True)
        for result, expected in zip(results, fresh, strict=True):
            emit(result, out, force=True, plot=plot)
            assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == expected
            first = "schedule.csv" if isinstance(result, Schedule) else "recommended.csv"
            with pytest.raises(RefineError, match=f"{first} exists; choose another folder"):
                refuse_existing(out)
        assert (out / "mine").is_dir()

    @pytest.mark.parametrize("name", ["schedule.json", "recommended.csv", "refined.csv-metadata.json", "schedule.png"])
    def test_any_file_of_either_is_refused(self, tmp_path, name):
        (tmp_path / name).write_text("mine")
        for result in (fitted(), linear(5)):
            with pytest.raises(RefineError, match=f"{name} exists; choose another folder with --out, or replace it"):
                emit(result, tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == [name]

    def test_a_failure_half_way_keeps_the_other_kind(self, tmp_path, monkeypatch):
        emit(linear(20), tmp_path / "out")
        before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}

        def fail(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("refine.figures.save_figure", fail)
        with pytest.raises(RefineError, match="No space left on device"):
            emit(fitted(), tmp_path / "out", force=True)
        assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before

    @pytest.mark.parametrize("source", ['x"""\nraise SystemExit("pwned")\n"""', "'''\n# END GENERATED", "\\"])
    def test_hostile_texts_stay_strings(self, tmp_path, source):
        emit(fitted(source=source), tmp_path / "out")
        text = (tmp_path / "out" / "refined_schedule.py").read_text()
        assert text.isascii()
        shape = [type(node).__name__ for node in ast.parse(text).body]
        plain = module_text(fitted().schedules, "recommended")
        assert shape == [type(node).__name__ for node in ast.parse(plain).body]


class TestEmit:
    @pytest.fixture
    def result(self):
        about = {"source": "log.csv", "optimizer": "adam", "reference": "arXiv:2310.07831"}
        return Schedule(linear(400, warmup_steps=8).multiplier, about)

    def test_four_files_with_provenance(self, result, tmp_path):
        files = emit(result, tmp_path / "a" / "out")
        assert {role: path.name for role, path in files.items()} == {
            "csv": "schedule.csv",
            "json": "schedule.json",
            "module": "refined_schedule.py",
            "figure": "schedule.png",
        }
        written = sorted((tmp_path / "a" / "out").iterdir())
        assert [p.name for p in written] == [
            "refined_schedule.py",
            "schedule.csv",
            "schedule.csv-metadata.json",
            "schedule.json",
            "schedule.png",
        ]
        for path in written:
            if path.suffix == ".csv":
                continue
            assert b"log.csv" in path.read_bytes()
            assert b"arXiv:2310.07831" in path.read_bytes()
        for role in ("csv", "json"):
            back = Schedule.load(files[role])
            assert back == result
            assert back.provenance == result.provenance
        assert load(files["module"]).PROVENANCE["optimizer"] == "adam"
        umask = os.umask(0)
        os.umask(umask)
        assert {path.stat().st_mode & 0o777 for path in files.values()} == {0o666 & ~umask}

    def test_an_existing_result_is_kept_unless_forced(self, result, tmp_path):
        emit(result, tmp_path / "out")
        with pytest.raises(RefineError, match="exists; choose another folder with --out, or replace it with --force"):
            emit(result, tmp_path / "out")
        files = emit(result, tmp_path / "out", force=True, plot=False)
        assert "figure" not in files
        # No figure of another schedule beside the new files.
        assert not (tmp_path / "out" / "schedule.png").exists()

    def test_a_file_in_the_way_is_refused(self, result, tmp_path):
        (tmp_path / "out").write_text("")
        with pytest.raises(RefineError, match="is not a folder; choose another one with --out"):
            emit(result, tmp_path / "out")
        with pytest.raises(RefineError, match="cannot write .*Not a directory; choose another place for the output"):
            emit(result, tmp_path / "out" / "deeper")

    def test_any_place_for_the_output_that_cannot_be_is_one_error(self, result, tmp_path):
        with pytest.raises(RefineError, match="cannot write"):
            emit(result, tmp_path / ("x" * 300))
        files = emit(result, tmp_path / "a" / ".." / "b")
        assert files["csv"].is_file()

    def test_a_failure_half_way_leaves_nothing(self, result, tmp_path, monkeypatch):
        def fail(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("refine.figures.save_figure", fail)
        with pytest.raises(RefineError, match="No space left on device"):
            emit(result, tmp_path / "a" / "out")
        assert list(tmp_path.glob("a")) == []

    def test_a_failure_half_way_keeps_the_earlier_result(self, result, tmp_path, monkeypatch):
        emit(result, tmp_path / "out")
        before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}

        def interrupt(*_):
            raise KeyboardInterrupt

        monkeypatch.setattr("refine.figures.save_figure", interrupt)
        with pytest.raises(KeyboardInterrupt):
            emit(result, tmp_path / "out", force=True)
        assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before

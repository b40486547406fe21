"""AdamC's correction (arXiv:2506.02285) in the generated module: decay_t = base decay * multiplier(t) where marked."""

import ast
import copy
import pickle
import sys
import warnings
from importlib.util import module_from_spec, spec_from_file_location

import numpy as np
import pytest

from refine import GradientNorms, cosine, linear
from refine.export.module import module_text
from refine.health import inspect

torch = pytest.importorskip("torch")
T = 20


def load(path, name="refined_schedule_with_decay"):
    spec = spec_from_file_location(name, path)
    module = module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def module(tmp_path):
    path = tmp_path / "refined_schedule.py"
    path.write_text(module_text({"schedule": linear(T, warmup_steps=4)}, "schedule"))
    return load(path)


def adamw(make=None, **changes):
    """An AdamW of two groups, the first of them marked; float64."""
    torch.manual_seed(0)
    first, second = (torch.randn(3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    marked = {"params": [first], "lr": 0.1, "weight_decay": 0.5, "normalized": True, **changes}
    return (make or torch.optim.AdamW)([marked, {"params": [second], "lr": 0.2, "weight_decay": 0.3}])


def update(optimizer, scheduler=None):
    """One update of minus the sum of squares over 2, so that only the decay holds the weights."""
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = -p.detach().clone()
    optimizer.step()
    if scheduler is not None:
        scheduler.step()


def decays(optimizer):
    return [g["weight_decay"] for g in optimizer.param_groups]


def weights(optimizer):
    return torch.cat([p.detach() for g in optimizer.param_groups for p in g["params"]]).numpy()


def by_hand(module, updates):
    """Weights after each update of a loop that sets rate and decay by the formula."""
    optimizer, seen = adamw(), []
    for t in range(updates):
        optimizer.param_groups[0].update(lr=0.1 * module.multiplier(t), weight_decay=0.5 * module.multiplier(t))
        optimizer.param_groups[1].update(lr=0.2 * module.multiplier(t))
        update(optimizer)
        seen.append(weights(optimizer))
    return np.array(seen)


def test_adamw_reads_the_decay_of_its_group_at_every_step():
    p = torch.tensor([2.0], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.AdamW([p], lr=0.1, weight_decay=0.5)
    expected = 2.0
    for decay in (0.5, 0.25, 0.0, 1.0):
        optimizer.param_groups[0]["weight_decay"] = decay
        p.grad = torch.zeros_like(p)
        optimizer.step()
        expected *= 1 - 0.1 * decay
        assert float(p.detach()) == pytest.approx(expected, rel=1e-15)


def test_every_update_is_that_of_the_formula(module):
    expected = by_hand(module, T + 3)
    optimizer = adamw()
    scheduler = module.make_scheduler(optimizer, scale_weight_decay=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the schedule was stepped")
        for t in range(T + 3):
            assert decays(optimizer) == [0.5 * module.multiplier(t), 0.3]
            update(optimizer, scheduler)
            np.testing.assert_array_equal(weights(optimizer), expected[t])
    plain = adamw()
    scheduler = module.make_scheduler(plain)
    for _ in range(T):
        update(plain, scheduler)
    assert np.abs(weights(plain)[:3] / expected[T - 1][:3] - 1).min() > 0.05  # the correction matters
    np.testing.assert_array_equal(weights(plain)[3:], expected[T - 1][3:])


def test_another_horizon(module):
    optimizer = adamw()
    scheduler = module.make_scheduler(optimizer, total_steps=50, scale_weight_decay=True)
    for t in range(50):
        assert decays(optimizer) == [0.5 * module.multiplier(t, 50), 0.3]
        update(optimizer, scheduler)


def test_off_by_default_and_then_nothing_changes(module):
    optimizer = adamw()
    before = [set(g) for g in optimizer.param_groups]
    scheduler = module.make_scheduler(optimizer)
    for _ in range(5):
        update(optimizer, scheduler)
    assert decays(optimizer) == [0.5, 0.3]
    assert [set(g) - {"initial_lr"} for g in optimizer.param_groups] == before
    assert list(scheduler.state_dict()) == ["schedule", "total_steps", "base_lrs", "last_epoch", "step_count", "lrs"]


@pytest.mark.parametrize(
    "order", ["optimizer, build, scheduler", "build, optimizer, scheduler", "build, scheduler, optimizer"]
)
@pytest.mark.parametrize("done", [1, 9, T - 1])
def test_resume_in_any_order(module, tmp_path, order, done):
    expected = by_hand(module, T)
    optimizer = adamw()
    scheduler = module.make_scheduler(optimizer, scale_weight_decay=True)
    for _ in range(done):
        update(optimizer, scheduler)
    torch.save(
        {"o": optimizer.state_dict(), "s": scheduler.state_dict(), "p": weights(optimizer).tolist()},
        tmp_path / "c.pt",
    )
    state = torch.load(tmp_path / "c.pt")  # weights_only=True
    fresh = adamw()
    for action in order.split(", "):
        if action == "build":
            resumed = module.make_scheduler(fresh, scale_weight_decay=True)
        elif action == "optimizer":
            fresh.load_state_dict(state["o"])
        else:
            resumed.load_state_dict(state["s"])
    with torch.no_grad():
        for group, values in zip(fresh.param_groups, np.split(np.array(state["p"]), 2), strict=True):
            group["params"][0].copy_(torch.from_numpy(values))
    for t in range(done, T):
        assert decays(fresh) == [0.5 * module.multiplier(t), 0.3]
        update(fresh, resumed)
        np.testing.assert_array_equal(weights(fresh), expected[t])


def test_start_anywhere_without_a_state(module):
    optimizer = adamw()
    module.make_scheduler(optimizer, last_epoch=8, scale_weight_decay=True)
    assert decays(optimizer) == [0.5 * module.multiplier(9), 0.3]


def test_the_base_decays_are_those_of_the_scheduler(module):
    """The state of an optimizer that was saved without scaling has neither mark nor base decay."""
    unmarked = adamw(normalized=False)
    optimizer = adamw()
    scheduler = module.make_scheduler(optimizer, scale_weight_decay=True)
    for _ in range(3):
        update(unmarked)
        update(optimizer, scheduler)
    optimizer.load_state_dict(unmarked.state_dict())
    scheduler.load_state_dict(scheduler.state_dict())
    assert decays(optimizer) == [0.5 * module.multiplier(3), 0.3]
    saved = optimizer.state_dict()
    assert saved["param_groups"][0]["initial_weight_decay"] == 0.5


def test_state_holds_plain_values_only(module):
    state = module.make_scheduler(adamw(), scale_weight_decay=True).state_dict()
    assert ast.literal_eval(repr(state)) == state
    assert state["scale_weight_decay"] == [0.5, 0.0]


def test_a_state_of_another_setting_is_refused_by_name(module):
    on = module.make_scheduler(adamw(), scale_weight_decay=True).state_dict()
    off = module.make_scheduler(adamw()).state_dict()
    with pytest.raises(ValueError, match=r"the checkpoint has scale_weight_decay=\[\] and this run \[0.5, 0.0\]; res"):
        module.make_scheduler(adamw(), scale_weight_decay=True).load_state_dict(off)
    with pytest.raises(ValueError, match=r"the checkpoint has scale_weight_decay=\[0.5, 0.0\] and this run \[\]; res"):
        module.make_scheduler(adamw()).load_state_dict(on)
    with pytest.raises(ValueError, match=r"has scale_weight_decay=\[0.5, 0.0\] and this run \[0.4, 0.0\]; resume with"):
        module.make_scheduler(adamw(weight_decay=0.4), scale_weight_decay=True).load_state_dict(on)
    both = adamw()
    both.param_groups[1]["normalized"] = True
    with pytest.raises(ValueError, match=r"has scale_weight_decay=\[0.5, 0.0\] and this run \[0.5, 0.3\]; resume with"):
        module.make_scheduler(both, scale_weight_decay=True).load_state_dict(on)
    with pytest.raises(ValueError, match="this state was not saved by a scheduler that make_scheduler built"):
        module.make_scheduler(adamw(), scale_weight_decay=True).load_state_dict({"last_epoch": 3})


def test_changing_the_decay_as_the_error_says(module):
    optimizer = adamw()
    scheduler = module.make_scheduler(optimizer, scale_weight_decay=True)
    for _ in range(9):
        update(optimizer, scheduler)
    fresh = adamw()
    fresh.load_state_dict(optimizer.state_dict())
    fresh.param_groups[0]["initial_weight_decay"] = 0.8
    module.make_scheduler(fresh, last_epoch=scheduler.last_epoch - 1, scale_weight_decay=True)
    assert decays(fresh) == [0.8 * module.multiplier(9), 0.3]


def test_switched_off_it_gives_the_decay_back(module):
    optimizer = adamw()
    scheduler = module.make_scheduler(optimizer, scale_weight_decay=True)
    for _ in range(9):
        update(optimizer, scheduler)
    fresh = adamw()
    fresh.load_state_dict(optimizer.state_dict())
    module.make_scheduler(fresh, last_epoch=scheduler.last_epoch - 1)
    assert decays(fresh) == [0.5, 0.3]
    assert "initial_weight_decay" not in fresh.param_groups[0]


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: adamw(normalized=False), "scale_weight_decay: no param group has normalized=True; mark some"),
        (lambda: adamw(torch.optim.SGD), "a normalized group of SGD has weight_decay=0.5; it must be above 0 and deco"),
        (lambda: adamw(torch.optim.Adam), "a normalized group of Adam has weight_decay=0.5; it must be above 0 and de"),
        (lambda: adamw(weight_decay=0.0), "a normalized group of AdamW has weight_decay=0.0; it must be above 0 and d"),
        (
            lambda: torch.optim.Rprop([{"params": [torch.zeros(1, requires_grad=True)], "normalized": True}]),
            "a normalized group of Rprop has weight_decay=None; it must be above 0 and decoupled: use AdamW, or",
        ),
    ],
)
def test_what_cannot_be_scaled_is_refused_and_left_alone(module, make, error):
    optimizer = make()
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match=error) as caught:
        module.make_scheduler(optimizer, scale_weight_decay=True)
    assert "\n" not in str(caught.value)
    assert optimizer.state_dict() == before


@pytest.mark.parametrize(
    "make",
    [
        torch.optim.AdamW,
        lambda groups: torch.optim.Adam(groups, decoupled_weight_decay=True),
        type("AdamW8bit", (torch.optim.SGD,), {}),
        type("Muon", (torch.optim.SGD,), {}),
        lambda groups: torch.optim.SGD([{**g, "decoupled_weight_decay": True} for g in groups]),
    ],
)
def test_decoupled_by_name_or_by_what_the_group_says(module, make):
    optimizer = adamw(make)
    module.make_scheduler(optimizer, scale_weight_decay=True)
    assert decays(optimizer) == [0.5 * module.multiplier(0), 0.3]


def test_groups_added_later_join(module):
    optimizer = adamw()
    scheduler = module.make_scheduler(optimizer, scale_weight_decay=True)
    for _ in range(3):
        update(optimizer, scheduler)
    late = torch.ones(2, dtype=torch.float64, requires_grad=True)
    optimizer.add_param_group({"params": [late], "lr": 0.3, "weight_decay": 0.7, "normalized": True})
    assert decays(optimizer)[2] == 0.7
    update(optimizer, scheduler)
    assert decays(optimizer) == [0.5 * module.multiplier(4), 0.3, 0.7 * module.multiplier(4)]
    assert scheduler.state_dict()["scale_weight_decay"] == [0.5, 0.0, 0.7]

    resumed = adamw()
    again = module.make_scheduler(resumed, scale_weight_decay=True)
    resumed.add_param_group({"params": [late], "lr": 0.3, "weight_decay": 0.7, "normalized": True})
    again.load_state_dict(scheduler.state_dict())
    assert decays(resumed) == decays(optimizer)

    other = torch.ones(1, dtype=torch.float64, requires_grad=True)
    optimizer.add_param_group({"params": [other], "weight_decay": 0.0, "normalized": True})
    with pytest.raises(ValueError, match="a normalized group of AdamW has weight_decay=0.0"):
        scheduler.step()


def test_it_pickles_and_copies(module):
    optimizer = adamw()
    scheduler = module.make_scheduler(optimizer, scale_weight_decay=True)
    for _ in range(3):
        update(optimizer, scheduler)
    for other in (pickle.loads(pickle.dumps(scheduler)), copy.deepcopy(scheduler)):
        other.step()
        assert decays(other.optimizer) == [0.5 * module.multiplier(4), 0.3]
    assert decays(optimizer) == [0.5 * module.multiplier(3), 0.3]


def test_a_tensor_decay_stays_the_same_tensor(module):
    optimizer = adamw()
    decay = optimizer.param_groups[0]["weight_decay"] = torch.tensor(0.5)
    scheduler = module.make_scheduler(optimizer, scale_weight_decay=True)
    optimizer._opt_called = True
    scheduler.step()
    assert optimizer.param_groups[0]["weight_decay"] is decay
    assert float(decay) == pytest.approx(0.5 * module.multiplier(1))
    base = adamw(weight_decay=0.5 * (1 + 1e-8))
    module.make_scheduler(base, scale_weight_decay=True).load_state_dict(scheduler.state_dict())


@pytest.mark.parametrize("done", [1, 3, 5, 9])
@pytest.mark.parametrize("ours_first", [False, True])
@pytest.mark.parametrize("order", ["obs", "bos", "bso"])
@pytest.mark.filterwarnings("ignore:The epoch parameter")
def test_inside_sequential_lr(module, done, ours_first, order):
    """Update 0's decay before its turn, its last one after it; resumed in any order."""

    def make(optimizer):
        other = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=0.5, total_iters=100)
        both = [other, module.make_scheduler(optimizer, scale_weight_decay=True)]
        return torch.optim.lr_scheduler.SequentialLR(optimizer, both[::-1] if ours_first else both, [4])

    optimizer, seen = adamw(), []
    sequence = make(optimizer)
    for _ in range(done):
        seen.append(decays(optimizer)[0])
        update(optimizer, sequence)
    saved, state = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(sequence.state_dict())
    fresh = adamw()
    for action in order:
        if action == "b":
            again = make(fresh)
        elif action == "o":
            fresh.load_state_dict(saved)
        else:
            again.load_state_dict(state)
    for _ in range(6):
        seen.append(decays(fresh)[0])
        update(fresh, again)
    turn = [min(t, 3) if ours_first else max(t - 4, 0) for t in range(done + 6)]
    assert seen == [0.5 * module.multiplier(t) for t in turn]


def test_the_artefact_and_its_correction(tmp_path):
    """A scale-invariant loss of noise: its gradient is that of the direction over ||x||, which the decay shrinks.

    AdamW holds ||x||^2 near rate * d / (2 decay), so that the norm grows as the rate falls; with the decay scaled
    by the multiplier it is the same all the time.
    """
    steps, size = 2000, 64
    path = tmp_path / "cosine.py"
    path.write_text(module_text({"schedule": cosine(steps)}, "schedule"))
    raised = {}
    for scaled in (False, True):
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(size, generator=generator).requires_grad_()
        optimizer = torch.optim.AdamW([{"params": [x], "normalized": True}], lr=0.05, weight_decay=1.0)
        scheduler = load(path, "cosine").make_scheduler(optimizer, scale_weight_decay=scaled)
        norms, rates = [], []
        for _ in range(steps):
            noise, length = torch.randn(size, generator=generator), x.detach().norm()
            x.grad = (noise - x.detach() * (x.detach() @ noise) / length**2) / length
            norms.append(float(x.grad.norm()))
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        found = inspect(GradientNorms.from_values(norms, learning_rate=rates))
        raised[scaled] = next(check for check in found.checks if check.rule.name == "late rise")
    assert raised[False].value > 1.5
    assert raised[False].raised
    assert raised[True].value < 1.05
    assert not raised[True].raised

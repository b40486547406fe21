import json
import math
import pickle
import time

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from refine.cli.main import main

import refine
from refine import RefineError, Schedule, constant, from_name, linear, read_norms
from refine.bound import omega_at_best_peak
from refine.describe import (
    decay_exponent,
    dip_before_peak,
    nearest,
    peak_fraction,
    rise_after_peak,
    updates_done,
    warmup_fraction,
)
from refine.families import FAMILIES, multistep, polynomial


def test_linear_with_warmup():
    h = linear(1000, warmup_steps=100).multiplier
    assert warmup_fraction(h) == 0.089
    assert peak_fraction(h) == 0.099
    exponent, r2 = decay_exponent(h)
    assert exponent == pytest.approx(1.0, abs=1e-9)
    assert r2 == pytest.approx(1.0, abs=1e-9)
    assert rise_after_peak(h) == 0.0


@pytest.mark.parametrize("p", [0.5, 1.0, 3.0])
def test_exponent_equals_a_plain_least_squares_fit(p):
    rng = np.random.default_rng(0)
    x = np.arange(500) / 500
    h = (1 - x) ** p * np.exp(0.1 * rng.standard_normal(500))
    h[3] = 2 * h.max()
    h /= h.max()
    keep = slice(3, np.flatnonzero(x <= 0.99)[-1] + 1)
    slope, _ = np.polyfit(np.log(1 - x[keep]), np.log(h[keep]), 1)
    exponent, r2 = decay_exponent(h)
    assert exponent == pytest.approx(slope, rel=1e-10)
    assert r2 == pytest.approx(np.corrcoef(np.log(1 - x[keep]), np.log(h[keep]))[0, 1] ** 2, rel=1e-10)


@pytest.mark.parametrize(
    "h", [[1.0], [1.0, 0.5], constant(100).multiplier, np.arange(1, 101) / 100, [1.0, 0.0, 0.0, 0.0]]
)
def test_no_anneal_no_exponent(h):
    assert decay_exponent(h) is None


def test_dip_before_peak_is_the_largest_fall():
    assert dip_before_peak([0.2, 0.6, 0.3, 0.7, 0.5, 1.0, 0.1]) == pytest.approx(0.3)
    assert dip_before_peak(linear(100, warmup_steps=10).multiplier) == 0.0


def test_rise_after_peak_is_the_largest_climb():
    assert rise_after_peak([1.0, 0.4, 0.6, 0.3, 0.55, 0.1]) == pytest.approx(0.25)


MEMBERS = {
    "constant:warmup_fraction=0.3": {"warmup_steps": 0.3},
    "linear:0.1,warmup_fraction=0.05": {"final_factor": 0.1, "warmup_steps": 0.05},
    "d2z:warmup_fraction=0.005": {"warmup_steps": 0.005},
    "cosine:0.1,warmup_fraction=0.01": {"final_factor": 0.1, "warmup_steps": 0.01},
    "wsd:0.23,warmup_fraction=0.02": {"cooldown_fraction": 0.23, "shape": "linear", "warmup_steps": 0.02},
    "wsd:0.35,shape=sqrt,warmup_fraction=0.02": {"cooldown_fraction": 0.35, "shape": "sqrt", "final_factor": 0.0},
    "wsd:0.35,shape=cosine,final_factor=0.1": {"cooldown_fraction": 0.35, "shape": "cosine", "final_factor": 0.1},
    "wsd:0.6,shape=square,warmup_fraction=0.01": {"cooldown_fraction": 0.6, "shape": "square", "final_factor": 0.0},
    "wsd:0.2,shape=exponential,final_factor=0.05": {"cooldown_fraction": 0.2, "shape": "exponential"},
    "polynomial:1.37,warmup_fraction=0.07,final_factor=0.05": {"power": 1.37, "final_factor": 0.05},
    "polynomial:0.4": {"power": 0.4, "final_factor": 0.0, "warmup_steps": 0.0},
    "exponential:0.02": {"final_factor": 0.02},
    "inverse_sqrt:timescale_fraction=0.05,warmup_fraction=0.03": {"timescale_steps": 0.05, "warmup_steps": 0.03},
    "rex:0.3,final_factor=0.1": {"beta": 0.3, "final_factor": 0.1},
    "uba:5,warmup_fraction=0.1": {"phi": 5.0, "warmup_steps": 0.1},
    "power:0.4,cooldown_fraction=0.3,warmup_fraction=0.01": {"exponent": 0.4, "cooldown_fraction": 0.3},
    "infinite:0.4,decay_fraction=0.25,cooldown_fraction=0.15,warmup_fraction=0.01": {"constant_factor": 0.4},
    "step:0.3,every_fraction=0.25": {"factor": 0.3, "every_fraction": 0.25},
    "one_cycle:0.4,final_factor=0.1": {"initial_factor": 0.04, "final_factor": 0.1, "warmup_steps": 0.4},
    "triangular:2,rise_fraction=0.3": {"cycles": 2, "rise_fraction": 0.3},
    "warm_restarts:2,growth=2,warmup_fraction=0.05": {"cycles": 2, "growth": 2.0, "warmup_steps": 0.05},
}


@pytest.mark.parametrize("total_steps", [1000, 30_000])
@pytest.mark.parametrize("name", MEMBERS)
def test_a_member_is_found_again(name, total_steps):
    schedule = from_name(name, total_steps)
    family = name.partition(":")[0]
    found = nearest(schedule)
    assert found[0].r2 > 0.999999
    own = next(member for member in found if member.family == family)
    assert own.r2 > 0.999999
    assert own.largest_error < 2e-3
    for key, value in MEMBERS[name].items():
        expected = value * total_steps if key in ("warmup_steps", "timescale_steps") else value
        assert own.parameters[key] == (value if isinstance(value, str) else pytest.approx(expected, rel=1e-3, abs=1e-4))


@pytest.mark.parametrize(("name", "first"), [("linear", "linear"), ("wsd:0.3", "wsd:cooldown_fraction=0.3")])
def test_of_equal_members_the_simplest_is_first(name, first):
    """Linear decay is a polynomial, a REX and a wsd too."""
    assert nearest(from_name(name, 500))[0].name == first


@settings(max_examples=10)
@given(st.integers(1, 400), st.integers(0, 10**6), st.sampled_from(["noise", "spike", "walk"]))
def test_what_is_printed_is_true(total_steps, seed, kind):
    rng = np.random.default_rng(seed)
    rates = {
        "noise": rng.random(total_steps) + 1e-9,
        "spike": (np.arange(total_steps) == rng.integers(total_steps)).astype(float),
        "walk": np.exp(np.cumsum(rng.standard_normal(total_steps))),
    }[kind]
    schedule = Schedule.from_rates(rates)
    h = schedule.multiplier
    found = nearest(schedule)
    assert {member.family for member in found} == set(FAMILIES) - {"multistep"}
    for member in found:
        fit = from_name(member.name, total_steps).multiplier
        assert member.schedule == from_name(member.name, total_steps)
        assert member.largest_error == np.abs(fit - h).max()
        if h.min() < h.max():
            assert_allclose(member.r2, 1 - np.sum((fit - h) ** 2) / np.sum((h - h.mean()) ** 2), rtol=1e-9, atol=1e-12)
        else:
            assert member.r2 is None
    errors = [round(math.sqrt(np.mean((m.schedule.multiplier - h) ** 2)), 6) for m in found]
    assert errors == sorted(errors)


def test_what_is_printed_is_true_where_the_fit_sees_a_sample():
    h = linear(200_000, warmup_steps=4321).multiplier ** 1.7
    (member,) = nearest(Schedule.from_rates(h), ["cosine"])
    fit = from_name(member.name, h.size).multiplier
    assert member.largest_error == np.abs(fit - h).max()
    assert_allclose(member.r2, 1 - np.sum((fit - h) ** 2) / np.sum((h - h.mean()) ** 2), rtol=1e-9)


def test_no_member_is_much_nearer_than_the_nearest(root):
    """A refined schedule, and scipy's search over the whole range of polynomial's three parameters."""
    from scipy.optimize import differential_evolution

    norms = read_norms(root / "data" / "fashion_mnist_sgd.csv")
    h = refine.fit(norms).refined.resample(400).multiplier
    t = np.arange(400)

    def squares(x):
        warmup, power, final = x
        s = max(warmup - 1, 0)
        v = (400 - np.maximum(t, s)) / (400 - s)
        return np.sum((np.minimum((t + 1) / warmup, 1) * (final + (1 - final) * v**power) - h) ** 2)

    best = differential_evolution(squares, [(1, 399), (0.05, 50), (0, 1)], seed=0, tol=1e-10)
    (member,) = nearest(Schedule(h), ["polynomial"])
    assert np.sum((member.schedule.multiplier - h) ** 2) <= best.fun * 1.001 + 1e-9


def test_a_constant_schedule_has_no_r2():
    found = nearest(constant(100))
    assert (found[0].name, found[0].r2, found[0].largest_error) == ("constant", None, 0.0)
    assert all(member.r2 is None for member in found)


def test_families_and_choices_can_be_named():
    schedule = from_name("wsd:0.3,shape=sqrt", 500)
    best, line, curve = nearest(schedule, ["cosine", "wsd:shape=linear", "wsd"])
    assert best.name == "wsd:shape=sqrt,cooldown_fraction=0.3"
    assert (line.family, line.parameters["shape"]) == ("wsd", "linear")
    assert curve.family == "cosine"
    assert nearest(schedule, []) == ()


def test_a_name_may_fix_what_would_be_fitted():
    schedule = from_name("wsd:0.3,final_factor=0.1,warmup_steps=20", 500)
    free, high, short = nearest(
        schedule, ["wsd:shape=linear", "wsd:shape=linear,final_factor=0.2", "wsd:cooldown_fraction=0.1"]
    )
    assert free.name == "wsd:cooldown_fraction=0.3,final_factor=0.1,warmup_steps=20"
    assert high.parameters["final_factor"] == 0.2
    assert 0.3 < high.parameters["cooldown_fraction"] < 0.35
    assert short.schedule.provenance["cooldown_steps"] == 50


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ("wds", "'wds' is not a family that can be fitted; these are: constant, cosine, linear, d2z, wsd"),
        ("multistep", "'multistep' is not a family that can be fitted"),
        ("wsd:shape=bent", "'wsd:shape=bent' fixes what is not tried; wsd tries shape=linear|sqrt|cosine|exponential|"),
        ("linear:warmup_steps=3", "fixes what is not tried; linear tries final_factor from 0 to 1"),
        ("linear:final_factor=1.5", "fixes what is not tried; linear tries final_factor from 0 to 1"),
        ("linear:final_factor=low", "fixes what is not tried; linear tries final_factor from 0 to 1"),
        ("constant:shape=sqrt", "fixes what is not tried; constant tries nothing"),
    ],
)
def test_other_families_are_refused(family, message):
    with pytest.raises(RefineError) as refusal:
        nearest(linear(10), [family])
    assert message in str(refusal.value)


def test_the_nearest_is_the_same_every_time_and_can_be_pickled():
    schedule = Schedule.from_rates(polynomial(5000, warmup_steps=70, power=1.2).multiplier + 0.1)
    first, again = nearest(schedule), nearest(schedule)
    assert first == again == pickle.loads(pickle.dumps(first))


def test_a_schedule_with_drops_has_something_near():
    (member,) = nearest(multistep(900, milestone_fractions=(1 / 3, 2 / 3)), ["step"])
    assert member.r2 > 0.999


def test_refined_schedules_have_something_near(root):
    """Of our own SGD log."""
    found = nearest(refine.fit(root / "data" / "fashion_mnist_sgd.csv").refined)
    r2 = {member.family: member.r2 for member in found}
    assert r2["wsd"] == pytest.approx(0.980, abs=0.001)
    assert max(r2["linear"], r2["cosine"]) < 0.9 < r2["wsd"] <= found[0].r2


def test_a_million_updates_take_under_a_second():
    """0.3 to 0.5 s on two cores; the limit leaves room for a busy machine."""
    h = np.maximum(linear(10**6, warmup_steps=20_000).multiplier ** 1.3, 0.02)
    schedule = Schedule(h)
    start = time.perf_counter()
    nearest(schedule)
    assert time.perf_counter() - start < 3.0


class TestLowEnds:
    """Slow until the last twentieth, then down: a last multiplier well above 0 would be nearer in the middle."""

    x = np.arange(1000) / 1000
    h = np.minimum(1 - 0.6 * x, 8 * (1 - x))

    def test_what_ends_at_0_gets_members_that_do(self):
        assert self.h[-1] < 0.01
        for member in nearest(Schedule(self.h)):
            if member.family in ("exponential", "infinite"):
                assert member.parameters["final_factor"] > 0.0
            elif member.parameters.get("shape") == "exponential":
                assert member.parameters["final_factor"] <= 0.01
            else:
                assert member.parameters.get("final_factor", 0.0) == 0.0
        (exponential,) = nearest(Schedule(self.h), ["wsd:shape=exponential"])
        assert exponential.parameters["final_factor"] == pytest.approx(0.01)

    def test_what_does_not_is_fitted_freely(self):
        (member,) = nearest(Schedule(np.maximum(self.h, 0.01)), ["linear"])
        assert member.parameters["final_factor"] > 0.1

    def test_the_nearest_costs_less_in_the_bound_than_linear_decay(self, shared):
        """On a real log of 65,000 updates; with 0.076, which least squares alone prefer, it costs more."""
        norms = read_norms(shared / "logs" / "gpt.csv")
        schedule = refine.fit(norms).refined
        squared = norms.on_updates(norms.values, schedule.total_steps)
        straight = linear(schedule.total_steps, warmup_steps=1300)
        (member,) = nearest(schedule, ["wsd:shape=linear"])
        raised = from_name(f"{member.name},final_factor=0.076", schedule.total_steps)
        costs = [omega_at_best_peak(s.multiplier, squared).value for s in (member.schedule, straight, raised)]
        assert costs == sorted(costs)
        assert costs[2] > 1.05 * costs[1]


def continued(total_steps=35_000, at=30_000):
    """A constant rate whose warmup was no line, then a cooldown that is not quite one."""
    t = np.arange(total_steps)
    h = np.where(t < 300, np.maximum(0.175, (t + 1) / 300), 1.0)
    x = (t[at:] - at) / (total_steps - at)
    h[at:] = (1 - x) * (1 - 0.03 * np.sin(2 * np.pi * x))
    return Schedule(h / h.max(), {"updates_done": at})


class TestContinued:
    def test_only_the_updates_to_come_count(self):
        schedule = continued()
        (member,) = nearest(schedule, ["wsd:shape=linear"], since=30_000)
        assert member.name == "wsd:cooldown_fraction=0.1429,warmup_steps=300"
        error = (member.schedule.multiplier - schedule.multiplier)[30_000:]
        assert member.largest_error == np.abs(error).max() < 0.04
        rest = schedule.multiplier[30_000:]
        assert_allclose(member.r2, 1 - np.sum(error**2) / np.sum((rest - rest.mean()) ** 2), rtol=1e-9)
        (whole,) = nearest(schedule, ["wsd:shape=linear"])
        assert whole.largest_error > 0.15  # its first update

    @pytest.mark.parametrize("shape", ["linear", "cosine"])
    def test_no_cooldown_starts_in_what_is_done(self, shape):
        """Least squares alone would start the line 71 updates before, the cosine 337."""
        (member,) = nearest(continued(), [f"wsd:shape={shape}"], since=30_000)
        assert member.schedule.multiplier[29_995] == 1.0

    def test_a_cooldown_under_way_is_found(self):
        schedule = from_name("wsd:cooldown_steps=400,warmup_steps=50", 1000)
        (member,) = nearest(schedule, ["wsd:shape=linear"], since=800)
        assert member.name == "wsd:cooldown_fraction=0.4,warmup_steps=50"
        assert member.largest_error < 1e-9

    @settings(max_examples=10)
    @given(st.integers(2, 60), st.integers(0, 10**6))
    def test_what_is_printed_is_true(self, total_steps, seed):
        rng = np.random.default_rng(seed)
        schedule = Schedule.from_rates(np.exp(np.cumsum(rng.standard_normal(total_steps))))
        since = int(rng.integers(1, total_steps))
        done, rest = np.split(schedule.multiplier, [since])
        for member in nearest(schedule, since=since):
            assert member.largest_error == np.abs(member.schedule.multiplier[since:] - rest).max()
            warmup = int(np.argmax(done >= 0.999 * done.max())) + 1
            assert max(member.parameters["warmup_steps"], 1) == warmup
            assert (member.r2 is None) == (rest.min() == rest.max())

    @pytest.mark.parametrize("since", [10, 99, -1, 1.5])
    def test_other_counts_are_refused(self, since):
        with pytest.raises(RefineError, match=f"since is {since}"):
            nearest(linear(10), since=since)

    @pytest.mark.parametrize("done", [0, 4, -1, True, 1.0, "2", None, [1]])
    def test_only_a_count_within_the_run_is_believed(self, done):
        assert updates_done(Schedule([1.0, 0.9, 0.5, 0.2], {"updates_done": done})) == 0

    def test_a_stretched_schedule_has_none(self):
        schedule = Schedule([1.0, 0.9, 0.5, 0.2], {"updates_done": 2})
        assert updates_done(schedule) == 2
        assert updates_done(schedule.resample(8)) == 0
        assert updates_done(Schedule(schedule.multiplier, {"updates_done": 2, "retargeted_from": 9})) == 0


class TestCommand:
    def run(self, *arguments):
        done = CliRunner().invoke(main, ["describe", *map(str, arguments)], catch_exceptions=False)
        assert (done.exit_code, done.stderr) == (0, "")
        return done.stdout

    def test_a_family(self):
        lines = self.run("linear", "--total-steps", 100).splitlines()
        assert lines[0].startswith("100 updates: 90 % of the peak at 0.0%, ")
        assert lines[1:3] == ["    R^2  largest error  nearest member", " 1.0000           0.0%  linear"]

    def test_a_continued_schedule(self, tmp_path):
        path = continued().save(tmp_path / "schedule.json")
        lines = self.run(path).splitlines()
        assert lines[1] == "    R^2  largest error  nearest member, over the updates after 30,000"
        found = json.loads(self.run(path, "--json"), parse_constant=pytest.fail)
        assert found["since"] == 30_000
        first = nearest(continued(), since=30_000)[0]
        assert (found["nearest"][0]["name"], found["nearest"][0]["r2"]) == (first.name, first.r2)
        assert lines[2].endswith(first.name)

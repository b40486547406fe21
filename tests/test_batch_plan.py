"""Planned batch sizes, and the shifts that they make."""

import json
from pathlib import Path

import numpy as np
import pytest

from refine import RefineError, Schedule, fit
from refine.batch_plan import BATCH_EXPONENT, parse_batch_plan, planned
from refine.default import FALLING, RISING, scheduled
from refine.level_shifts import LevelShift


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", 'holds "";'),
        ("8,64@2000", 'holds "8";'),
        ("8@0,64", 'holds "64";'),
        ("0@0", 'holds "0@0";'),
        ("-8@0", 'holds "-8@0";'),
        ("8@0,x@5", 'holds "x@5";'),
        ("8@0,64@1.5", 'holds "64@1.5";'),
        ("8@0,1.2.3@5", 'holds "1.2.3@5";'),
        ("8@10,64@20", "starts at step 10; its first entry must be at 0"),
        ("8@0,64@20,128@20", "has step 20 after step 20; its steps must increase"),
        ("64@0,8@9007199254740992", "has step 9007199254740992; steps count optimizer updates"),
        ("0.5@0,1M@20", "has sizes from 0.5 to 1e+06, more than 1,000,000 times apart"),
        ("1.0e-320@0,8@5", "more than 1,000,000 times apart"),
    ],
)
def test_errors(text, message):
    with pytest.raises(RefineError) as caught:
        parse_batch_plan(text)
    assert message in str(caught.value)


def test_spaces_and_decimals():
    steps, sizes = parse_batch_plan(" 0.5e6 @ 0, 1e6@300 ")
    assert (steps.tolist(), sizes.tolist()) == ([0, 300], [5e5, 1e6])


def test_a_million_times_the_size_is_not_too_much():
    assert parse_batch_plan("1@0,1M@20")[1].tolist() == [1.0, 1e6]


def test_the_exponent_is_that_of_the_logged_change():
    batch = np.where(np.arange(1000) < 500, 8.0, 64.0)
    shifts = (LevelShift(503, 8**-0.4, "batch size"), LevelShift(800, 1.5))
    (first, second) = planned(shifts, 2000, 1000, plan=parse_batch_plan("64@0,16@400"), logged_batch=batch)
    assert (first.step, first.cause) == (400, "planned")
    assert first.factor == pytest.approx(4**0.4, rel=1e-12)
    assert second == LevelShift(1600, 1.5)


def test_without_a_logged_change_the_default_is_taken():
    (shift,) = planned((), 100, 100, plan=parse_batch_plan("8@0,64@50,64@70,1@200"))
    assert shift == LevelShift(50, 8**-BATCH_EXPONENT, "planned")


def test_norms_that_rise_with_the_batch_give_no_exponent():
    batch = np.where(np.arange(1000) < 500, 8.0, 64.0)
    shifts = (LevelShift(500, 1.3, "batch size"),)
    (shift,) = planned(shifts, 1000, 1000, plan=parse_batch_plan("8@0,64@300"), logged_batch=batch)
    assert shift.factor == 1.0


def test_a_constant_plan_does_not_hide_what_the_log_was(make_log):
    t = np.arange(1, 2001)
    random = np.random.default_rng(1)
    sizes = np.where(t <= 800, 16, 128)
    norms = (16 / sizes) ** 0.25 * random.lognormal(sigma=0.2, size=t.size)
    losses = (2.0 + 0.5 * (t + 50.0) ** -0.3) * random.lognormal(sigma=0.005, size=t.size)
    rates = 0.01 * np.minimum(t / 40, 1.0 - (t - 1) / 2000)
    log = make_log(step=t, grad_norm=norms, loss=losses, lr=rates, batch_size=sizes)
    assert fit(log).choice.spoke == "noise"
    choice = fit(log, batch_size="64").choice
    assert (choice.shape, choice.spoke) == ("linear", "neither")
    assert "jump at update 800, where the batch size changes, which no law knows" in choice.reason


class TestOnTheCommandLine:
    @pytest.fixture
    def log(self, make_log):
        return make_log(step=np.arange(1, 2001), grad_norm=np.ones(2000))

    def test_the_anneal_follows_the_plan(self, run, log):
        done = run("fit", log, "--batch-size", "64@0,8@1000", "--optimizer", "sgd", "--json", "--no-plot")
        found = json.loads(done.stdout)["recommended"]
        assert (found["name"], found["spoke"], found["k"]) == ("shifted", "noise", 1.0)
        multiplier = Schedule.load("refined/recommended.json").multiplier
        level = np.where(np.arange(2000) < 1000, 1.0, 8.0 ** (BATCH_EXPONENT * 2.0 * RISING))
        np.testing.assert_allclose(multiplier, scheduled(2000, 40, 1.0, level), rtol=1e-9)

    def test_of_a_longer_run_in_its_own_updates(self, run, log):
        options = ["--optimizer", "adam", "--total-steps", "4000", "--no-plot"]
        assert run("fit", log, "--batch-size", "8@0,64@2000", *options).exit_code == 0
        level = np.where(np.arange(4000) < 2000, 1.0, 8.0 ** (-BATCH_EXPONENT * FALLING))
        multiplier = Schedule.load("refined/recommended.json").multiplier
        np.testing.assert_allclose(multiplier, scheduled(4000, 80, 1.0, level), rtol=1e-9)

    def test_behind_a_hold(self, run, log):
        options = ["--batch-size", "8@0,64@1500", "--hold", "0.5", "--optimizer", "sgd", "--json", "--no-plot"]
        found = json.loads(run("fit", log, *options).stdout)["recommended"]
        assert (found["name"], found["spoke"], found["hold"]) == ("held, shifted", "user", 0.5)
        multiplier = Schedule.load("refined/recommended.json").multiplier
        level = np.where(np.arange(2000) < 1500, 1.0, 8.0 ** (-BATCH_EXPONENT * 2.0 * FALLING))
        np.testing.assert_allclose(multiplier, scheduled(2000, 40, found["k"], level), rtol=1e-3)
        assert np.count_nonzero(multiplier[40:] > 0.9999) == pytest.approx(1000 - 40, abs=3)  # in two pieces

    def test_for_each_log(self, run, make_log):
        logs = [make_log(name=f"{n}.csv", step=np.arange(1, 2001), grad_norm=np.full(2000, n)) for n in (1, 2)]
        done = run("fit", *logs, "--each", "--batch-size", "64@0,8@1000", "-o", "each", "--no-plot", "--json")
        assert [row["recommended"] for row in json.loads(done.stdout)] == ["shifted", "shifted"]

    def test_up_and_down_a_thousand_times_stays_finite(self, run, log):
        plan = ",".join(f"{1 + step % 2 * 1023}@{step}" for step in range(1000))
        done = run("fit", log, "--batch-size", plan, "--optimizer", "sgd", "--no-plot")
        assert done.exit_code == 0, done.stderr
        multiplier = Schedule.load("refined/recommended.json").multiplier
        assert np.isfinite(multiplier).all()
        assert multiplier.max() == 1.0

    @pytest.mark.parametrize("plan", ["64", "8@0,64@2000", "8@0,64@1e15", "8@0,8@500"])
    def test_what_changes_nothing_in_the_run(self, run, log, plan):
        run("fit", log, "-o", "plain", "--no-plot")
        run("fit", log, "--batch-size", plan, "-o", "planned", "--no-plot")
        assert Schedule.load("plain/recommended.json") == Schedule.load("planned/recommended.json")

    @pytest.mark.parametrize(
        "plan",
        [
            "",
            "x",
            "8@5",
            "8@0,64",
            "8@0,64@0",
            "0@0",
            "nan@0",
            "inf@0",
            "1e400@0",
            "8@0,64@-3",
            "8@0,,64@9",
            "8@0,64@9,",
            "8@0,64@9007199254740992",
            "1.0e-320@0,8@9",
            "8@0;rm -rf /",
            "\x1b[31m8@0",
            "8@0," + 5000 * "9" + "@9",
        ],
    )
    def test_a_bad_plan_is_one_line(self, run, log, plan):
        done = run("fit", log, "--batch-size", plan)
        assert done.exit_code == 1
        assert done.stderr.startswith("Error: the batch plan ")
        assert done.stderr.count("\n") == 1
        assert done.stderr[:-1].isprintable()
        assert not Path("refined").exists()

    def test_no_plan_is_a_usage_error(self, run, log):
        done = run("fit", log, "--batch-size")
        assert done.exit_code == 2
        assert "'--batch-size' requires an argument" in done.stderr

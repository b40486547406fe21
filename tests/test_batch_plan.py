"""Planned batch sizes, and the shifts that they make."""

import json
from pathlib import Path

import numpy as np
import pytest

from refine import RefineError, Schedule
from refine.batch_plan import BATCH_EXPONENT, parse_batch_plan, planned
from refine.default import RISING, scheduled
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
    ],
)
def test_errors(text, message):
    with pytest.raises(RefineError) as caught:
        parse_batch_plan(text)
    assert message in str(caught.value)


def test_spaces_and_decimals():
    steps, sizes = parse_batch_plan(" 0.5e6 @ 0, 1e6@300 ")
    assert (steps.tolist(), sizes.tolist()) == ([0, 300], [5e5, 1e6])


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

    def test_a_constant_plan_changes_nothing(self, run, log):
        run("fit", log, "-o", "plain", "--no-plot")
        run("fit", log, "--batch-size", "64", "-o", "planned", "--no-plot")
        assert Schedule.load("plain/recommended.json") == Schedule.load("planned/recommended.json")

    @pytest.mark.parametrize(
        "plan", ["", "x", "8@5", "8@0,64", "8@0,64@0", "0@0", "nan@0", "8@0,64@-3", "8@0;rm -rf /"]
    )
    def test_a_bad_plan_is_one_line(self, run, log, plan):
        done = run("fit", log, "--batch-size", plan)
        assert done.exit_code == 1
        assert done.stderr.startswith("Error: the batch plan ")
        assert done.stderr.count("\n") == 1
        assert not Path("refined").exists()

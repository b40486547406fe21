"""What refinement was worth: which cases are alike, and every way to say how they ended."""

import json
import math
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refine import RefineError
from refine import worth as module
from refine.worth import LIKE, Case, Worth, measured, no_case, packaged, read, worth

INF = math.inf
UNKNOWN = [None, math.nan, INF, -INF, 0.0, -0.5]


def case(name="a", rho=0.5, excess=1.0, family="sgd"):
    return Case("convex", name, "adamw" if family == "adam" else "sgd", family, rho, excess, 0.1)


def cases(*rhos, family="sgd"):
    """Cases a, b, c ... whose excess is their place."""
    return [case(chr(97 + i), rho, float(i), family) for i, rho in enumerate(rhos)]


class TestAlike:
    def test_by_hand(self):
        found = worth("sgd", 0.5, cases=cases(0.6, 0.45, 0.51, 0.9))
        assert found == Worth(3, 1.0, 0.0, 2.0, ("c (sgd)", "b (sgd)", "a (sgd)"))

    def test_the_median_of_an_even_number_is_between(self):
        assert worth("sgd", 0.5, cases=cases(0.5, 0.5, 0.5, 0.5)).median == 1.5

    def test_families_are_apart(self):
        both = [*cases(0.5, 0.5, 0.5), *cases(0.5, 0.5, 0.5, 0.5, family="adam")]
        assert worth("sgd", 0.5, cases=both).cases == 3
        assert worth("adam", 0.5, cases=both).problems[3] == "d (adamw)"

    @pytest.mark.parametrize("rho", [0.4, 0.9])
    def test_a_factor_of_one_and_a_half_is_alike(self, rho):
        """0.6 / 0.4 and 0.9 / 0.6, which round up or down."""
        assert LIKE == 1.5
        assert worth("sgd", 0.6, cases=cases(rho, rho, rho)).cases == 3
        beyond = rho * (0.9999 if rho < 0.6 else 1.0001)
        assert worth("sgd", 0.6, cases=cases(rho, rho, beyond)) is None

    def test_fewer_than_three_say_nothing(self):
        assert worth("sgd", 0.5, cases=cases(0.5, 0.5, 0.1, 2.0)) is None
        assert worth("sgd", 0.5, cases=()) is None

    def test_the_nine_nearest_are_taken(self):
        rhos = [0.5 * 1.04**i for i in range(-6, 7)]  # all within the factor
        found = worth("sgd", 0.5, cases=cases(*rhos))
        assert found.cases == 9
        assert (found.low, found.median, found.high) == (2.0, 6.0, 10.0)
        assert found.problems[0] == "g (sgd)"

    @pytest.mark.parametrize("reverse", [False, True])
    def test_of_equally_near_ones_the_first_by_name(self, reverse):
        """0.4 and 0.625 are both a factor 1.25 from 0.5, but for rounding."""
        near = cases(*[0.5] * 8)
        tied = [case("z", 0.4, 50.0), case("y", 0.625, 60.0), case("x", 0.625, 70.0)]
        every = [*near, *tied]
        found = worth("sgd", 0.5, cases=every[::-1] if reverse else every)
        assert found.high == 70.0
        assert found.problems == (*(f"{name} (sgd)" for name in "abcdefgh"), "x (sgd)")

    @pytest.mark.parametrize("rho", UNKNOWN)
    def test_an_unknown_rho_is_like_none(self, rho):
        assert worth("sgd", rho, cases=cases(0.5, 0.5, 0.5)) is None
        assert worth("adam", rho) is None

    @pytest.mark.parametrize("rho", [5e-324, 1e308])
    def test_an_extreme_rho_is_like_none(self, rho):
        assert worth("sgd", rho) is None

    def test_another_optimizer_is_refused(self):
        for call in (lambda: worth("adamw", 0.5), lambda: worth("adamw", None), lambda: measured("adamw")):
            with pytest.raises(RefineError, match=r"^optimizer is 'adamw'; it must be one of sgd, adam$"):
                call()

    @given(st.floats(0.3, 1.2), st.lists(st.floats(0.2, 2.0), max_size=20), st.floats(0.01, 100.0))
    def test_the_scale_of_rho_does_not_matter(self, rho, rhos, scale):
        every = [case(f"{i:02}", r, float(i)) for i, r in enumerate(rhos)]
        found = worth("sgd", rho, cases=every)
        if found is not None:
            assert found.low <= found.median <= found.high
            assert 3 <= found.cases == len(found.problems) <= 9
            edge = any(abs(abs(math.log(r / rho)) - math.log(1.5)) < 1e-6 for r in rhos)
            distances = sorted(abs(math.log(r / rho)) for r in rhos)
            ties = any(b - a < 1e-6 for a, b in pairwise(distances))
            if not edge and not ties:
                assert worth("sgd", rho * scale, cases=[replace(c, rho=c.rho * scale) for c in every]) == found

    def test_a_diverged_case_counts(self):
        three = [*cases(0.5, 0.5), case("c", 0.5, INF)]
        assert worth("sgd", 0.5, cases=three) == Worth(3, 1.0, 0.0, INF, ("a (sgd)", "b (sgd)", "c (sgd)"))
        assert worth("sgd", 0.5, cases=[*three, case("d", 0.5, INF)]).median == INF

    def test_it_is_a_value(self):
        found = worth("sgd", 0.5, cases=cases(0.5, 0.5, 0.5))
        with pytest.raises(FrozenInstanceError):
            found.cases = 4


class TestWords:
    @pytest.mark.parametrize(
        ("low", "median", "high", "said"),
        [
            (0.2, 0.8, 4.0, "ended 0.2 to 4.0 % above linear decay, median 0.8 %"),
            (0.01, 0.02, 0.08, "ended 0.01 to 0.08 % above linear decay, median 0.02 %"),
            (-0.9, -0.5, -0.2, "ended 0.9 to 0.2 % below linear decay, median 0.5 % below"),
            (-1.4, 0.04, 0.5, "ended 1.4 % below to 0.5 % above linear decay, median 0.04 % above"),
            (-1.4, -0.3, 0.5, "ended 1.4 % below to 0.5 % above linear decay, median 0.3 % below"),
            (-1.4, 0.001, 0.5, "ended 1.4 % below to 0.5 % above linear decay, median under 0.01 %"),
            (0.0, 0.0, 0.0, "ended within 0.01 % of linear decay"),
            (-0.004, 0.0, 0.004, "ended within 0.01 % of linear decay"),
            (0.0006, 0.0045, 0.5, "ended 0 to 0.5 % above linear decay, median under 0.01 %"),
            (-0.0006, 0.3, 0.5, "ended 0 to 0.5 % above linear decay, median 0.3 %"),
            (-0.9, -0.2, 0.004, "ended 0.9 to 0 % below linear decay, median 0.2 % below"),
            (-0.9, -0.004, -0.001, "ended 0.9 to 0 % below linear decay, median under 0.01 %"),
            (0.41, 0.42, 0.43, "ended 0.4 % above linear decay"),
            (-0.43, -0.42, -0.41, "ended 0.4 % below linear decay"),
            (-0.43, 0.0, 0.41, "ended 0.4 % below to 0.4 % above linear decay, median under 0.01 %"),
            (46.78, 258.0, 716.7, "ended 47 to 720 % above linear decay, median 260 %"),
            (9.94, 9.96, 99.6, "ended 9.9 to 100 % above linear decay, median 10 %"),
            (0.097, 1.0, 1234567.0, "ended 0.1 to 1,200,000 % above linear decay, median 1.0 %"),
            (0.2, 0.8, INF, "ended 0.2 % above linear decay at best and diverged at worst, median 0.8 % above"),
            (-0.2, -0.1, INF, "ended 0.2 % below linear decay at best and diverged at worst, median 0.1 % below"),
            (0.0, 0.8, INF, "ended within 0.01 % of linear decay at best and diverged at worst, median 0.8 % above"),
            (-0.2, INF, INF, "ended 0.2 % below linear decay at best and diverged in half of them or more"),
            (INF, INF, INF, "diverged"),
        ],
    )
    def test_how_it_ended(self, low, median, high, said):
        words = Worth(9, median, low, high, ()).in_words()
        assert words == f"in the 9 benchmark cases most like this log the refined schedule's loss {said}"

    @pytest.mark.parametrize("rho", UNKNOWN)
    def test_why_none_where_rho_is_unknown(self, rho):
        assert no_case("sgd", rho) == (
            "no benchmark case is like this log: how far its norms change from 5 % of the run to its end is not known"
        )

    @pytest.mark.parametrize(("optimizer", "name"), [("sgd", "SGD"), ("adam", "an optimizer of the Adam family")])
    def test_why_none(self, optimizer, name):
        assert no_case(optimizer, 7.0) == (
            f"no benchmark case is like this log: fewer than 3 of those with {name} have norms that change as much "
            "from 5 % of the run to its end, within a factor of 1.5"
        )

    def test_why_none_where_noise_changes(self):
        said = no_case("sgd", 7.0, changing=True)
        assert "of those with SGD whose noise changes during the run have norms" in said

    def test_to_dict_is_json(self):
        given = Worth(3, 0.5, -0.25, INF, ("a", "b", "c")).to_dict()
        assert json.loads(json.dumps(given, allow_nan=False)) == {
            "cases": 3,
            "median": 0.5,
            "low": -0.25,
            "high": None,
            "unit": "per cent of final loss over linear decay",
        }


def test_noise_that_changes_is_like_none_that_does_not():
    steady = cases(0.5, 0.5, 0.5)
    changing = [replace(each, excess=-4.0, changing=True) for each in steady]
    every = [*steady, *changing]
    assert worth("sgd", 0.5, cases=every) == worth("sgd", 0.5, cases=steady)
    assert worth("sgd", 0.5, changing=True, cases=every).median == -4.0
    assert worth("sgd", 0.5, changing=True, cases=steady) is None


class TestFile:
    def test_diverged_and_single_seeds_are_null(self):
        row = {
            "suite": "s",
            "problem": "p",
            "optimizer": "sgd",
            "family": "sgd",
            "rho": 0.5,
            "excess": None,
            "se": None,
        }
        (found,) = read(json.dumps({"cases": [row]}))
        assert (found.rho, found.excess) == (0.5, INF)
        assert math.isnan(found.se)

    def test_it_is_read_once(self, monkeypatch):
        assert packaged() is packaged()
        monkeypatch.setattr(module, "packaged", lambda: tuple(cases(0.5, 0.5, 0.5)))
        assert worth("sgd", 0.5).problems == ("a (sgd)", "b (sgd)", "c (sgd)")

    @pytest.mark.parametrize("optimizer", ["sgd", "adam"])
    def test_all_cases_of_a_family(self, optimizer):
        rho, excess = measured(optimizer)
        own = [c for c in packaged() if c.family == optimizer and not c.changing]
        assert rho.size == excess.size == len(own) >= 20
        assert rho.dtype == excess.dtype == np.float64
        assert (np.diff(rho) >= 0.0).all()
        assert rho[0] > 0.0
        assert set(zip(rho, excess, strict=True)) == {(c.rho, c.excess) for c in own}

    def test_neither_pandas_nor_torch_is_needed(self, tmp_path):
        script = (
            "import sys; from refine.worth import worth; print(worth('sgd', 0.5).cases);"
            "print([m for m in ('pandas', 'matplotlib', 'torch') if m in sys.modules])"
        )
        done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert done.stdout == "9\n[]\n"

"""The problems that the default was chosen on and those it was confirmed on, as they were committed beforehand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refine.bench.candidates import CANDIDATES
from refine.bench.halves import halves
from refine.bench.methods import _MODES, BASELINE, CONFIRMED, TRIED
from refine.bench.reporting.headline import DEFAULT
from refine.bench.reporting.statistics import NULL
from refine.bench.suites import SUITES

SPLIT = {
    "convex-choose": "iris wine shuttle glass sonar musk german-credit segment optdigits magic texture",
    "convex-confirm": "digits breast-cancer vehicle letter dna satellite ionosphere pima spam pendigits vowel",
    "deep-choose": "fashion-cnn python",
    "deep-confirm": "fashion-resnet shakespeare denoise",
}


@pytest.mark.parametrize("suite", SPLIT)
def test_no_problem_has_been_moved(suite):
    """To change a line above is to choose on what confirms, or to confirm on what was chosen on."""
    assert {problem.name for problem in SUITES[suite].problems} == set(SPLIT[suite].split())


@pytest.mark.parametrize("kind", ["convex", "deep"])
def test_the_halves_are_the_suite_and_share_nothing(kind):
    choose, confirm = (SUITES[f"{kind}-{half}"].problems for half in ("choose", "confirm"))
    assert not {problem.name for problem in choose} & {problem.name for problem in confirm}
    assert sorted([*choose, *confirm], key=repr) == sorted(SUITES[kind].problems, key=repr)


@given(st.lists(st.text(), unique=True, max_size=12), st.randoms())
def test_only_names_decide(names, random):
    found = halves(names)
    assert list(found) == names
    assert list(found.values()).count("choose") == len(names) // 2
    shuffled = random.sample(names, len(names))
    assert halves(shuffled) == found


def test_all_is_measured_on_more_seeds_and_none_is_tuned_on():
    for suite in SPLIT:
        protocol = SUITES[suite].protocol
        assert protocol.final_seeds == tuple(range(100, 116))
        assert protocol.tuning_seeds == (0, 1, 2, 3)
        seeds = (*protocol.tuning_seeds, *protocol.other_tuning_seeds, *protocol.final_seeds, *protocol.log_seeds)
        assert len(set(seeds)) == len(seeds)
        assert protocol.methods == (TRIED if suite.endswith("choose") else CONFIRMED)


@pytest.mark.parametrize("methods", [TRIED, CONFIRMED])
def test_every_method_can_be_fitted_on_one_that_comes_before_it(methods):
    names = [method.name for method in methods]
    assert len(set(names)) == len(names)
    assert {BASELINE, NULL, DEFAULT} <= set(names)
    for i, method in enumerate(methods):
        assert bool(method.schedules) != bool(method.mode)
        if method.mode:
            assert method.prior in names[:i]
            assert method.mode in CANDIDATES or method.mode in _MODES


def test_every_candidate_was_tried_and_every_rival_confirmed_against():
    assert set(CANDIDATES) <= {method.name for method in TRIED}
    assert {"cosine", "step", "one-cycle", "wsd"} <= {method.name for method in CONFIRMED}
    assert not set(CANDIDATES) & set(_MODES)

"""The page on how the default was chosen, on results of a few cells whose numbers can be worked out by hand."""

import math
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from refine import RefineError
from refine.bench.reporting.results import load, save
from refine.bench.reporting.selection import selection
from refine.bench.reporting.statistics import CELL, NULL, Arm

from .by_hand import RULE, SWEPT, asked, default, folder, pair, tables


class TestGoals:
    @pytest.mark.parametrize(
        ("mean", "error", "said"),
        [
            (0.49, 0.01, None),
            (0.51, 0.01, "+0.51 ± 0.01 %"),
            (1.0, 0.49, "+1.00 ± 0.49 %"),
            (1.0, 0.51, None),
            (-7.0, 0.01, None),
            (math.inf, 0.0, "diverged"),
        ],
    )
    def test_never_worse_by_half_a_percent_and_two_standard_errors(self, tmp_path, mean, error, said):
        good = pair(0.2)
        bad = pair(mean, error) if math.isfinite(mean) else [math.inf, 0.0]
        for which, arms in enumerate((default(bad, good), default(good, bad))):
            page = selection([folder(tmp_path / f"{which}", {("a", "sgd"): default(good), ("b", "adam"): arms})])
            goals = asked(page, "Never worse by more than 0.5 % and two standard errors")
            assert ["swept rate:" in goals[0], "without a sweep" in goals[1], len(goals)] == [True, True, 2]
            assert ": holds; worst +0.20 % of 2 cells." in goals[1 - which]
            if said is None:
                assert f": holds; worst +{max(mean, 0.2):.2f} % of 2 cells." in goals[which]
            else:
                assert f": misses in b, adam {said}" in goals[which]
                assert "a, sgd" not in goals[which]

    def test_of_a_single_pair_there_is_no_error_to_excuse_it(self, tmp_path):
        cells = {(name, "sgd"): default([d, d], [d, d]) for name, d in (("a", 0.4), ("b", 0.6))}
        assert asked(selection([folder(tmp_path, cells)]), "Never worse")[0].count("misses in b, sgd +0.60") == 1

    @pytest.mark.parametrize(("rule", "holds"), [(1.19, True), (1.21, False), (math.inf, False), (-5.0, True)])
    def test_without_a_sweep_within_a_percent(self, tmp_path, rule, holds):
        cells = {
            ("a", "sgd"): default(pair(0.2), pair(rule) if math.isfinite(rule) else [math.inf] * 2),
            ("b", "sgd"): default(pair(1.0), pair(1.3)),
            ("c", "adam"): default(pair(-1.0), pair(-0.9)),
        }
        (goal,) = asked(selection([folder(tmp_path, cells)]), "Without a sweep within 1 %")
        costs = [rule - 0.2, 0.3, 0.1]
        most = f"{max(costs):+.2f}" if math.isfinite(rule) else "diverged"
        assert goal.endswith(f"; median {np.median(costs):+.2f} %, most {most} %.")
        assert ("rate: holds;" in goal) == holds
        if not holds:
            assert f"rate: misses in a, sgd {most} %;" in goal

    def test_where_both_diverge_the_rate_without_a_sweep_misses(self, tmp_path):
        cells = {("a", "sgd"): default([math.inf, 0.0]), ("b", "sgd"): default(pair(0.2))}
        (goal,) = asked(selection([folder(tmp_path, cells)]), "Without a sweep within 1 %")
        assert ": misses in a, sgd diverged %;" in goal
        assert goal.endswith("most diverged %.")

    @pytest.mark.parametrize("left", [SWEPT, RULE])
    def test_without_both_rates_of_the_default_nothing_was_asked(self, tmp_path, left):
        cells = {(name, "sgd"): {left: pair(-1.0)} for name in "ab"}
        page = selection([folder(tmp_path, cells)])
        assert "What was asked" not in page
        assert "The default, cell by cell" in page
        assert not asked(page, "")

    def test_wins_ties_and_losses(self, tmp_path):
        cells = {
            (name, "sgd"): default(pair(d), pair(-d)) for name, d in (("a", -1.0), ("b", -2.0), ("c", 0.0), ("d", 0.1))
        }
        swept, rule = asked(selection([folder(tmp_path, cells)]), "Better / tied / worse")
        assert swept.endswith("each at its own swept rate: 2 / 1 / 1; mean -0.73 %.")
        assert rule.endswith("without a sweep of its own: 1 / 1 / 2; mean +0.73 %.")


class TestTables:
    def test_cell_by_cell(self, tmp_path):
        cells = {
            ("a", "sgd"): default(pair(-1.0, 0.2), pair(0.3, 0.1)),
            ("b", "adam"): default(pair(0.5, 0.05)),
        }
        nothing = math.nan
        logs = {
            ("a", "sgd"): [("linear", 0.9, nothing), ("linear", 0.7, nothing), ("linear", 0.8, nothing)],
            ("b", "adam"): [("held", 0.5, 1.4), ("linear", 0.3, nothing), ("held", 0.4, 1.3)],
        }
        ((header, rows),) = tables(selection([folder(tmp_path, cells, logs=logs)]), "Per cent over linear decay")
        assert header == [*CELL, "decides", "rho", "k", "swept", "no sweep"]
        suite = "recommended-convex"
        assert rows == [
            [suite, "a", "sgd", "linear", "0.8", "", "-1.00 ± 0.20", "+0.30 ± 0.10"],
            [suite, "b", "adam", "held 2, linear 1", "0.4", "1.35", "+0.50 ± 0.05", "+0.50 ± 0.05"],
        ]

    def test_older_results_say_that_their_rule_is_gone(self, tmp_path):
        place = folder(tmp_path, {("a", "sgd"): default(pair(-1.0))}, "convex-choose")
        found = load(place)
        assert "earlier rule" not in selection([place])
        save(replace(found, logs=found.logs.assign(**{"progress ratio": 1.3})), place, force=True)
        assert "are of an earlier rule, which bent linear decay" in selection([place])

    def test_logs_of_other_methods_tell_nothing(self, tmp_path):
        place = folder(tmp_path, {("a", "sgd"): default(pair(-1.0))})
        page, found = selection([place]), load(place)
        foreign = found.logs.assign(method="wsd", default="later", rho=9.0)
        save(replace(found, logs=pd.concat([found.logs, foreign])), place, force=True)
        assert selection([place]) == page

    def test_everything_that_was_tried_in_order_with_the_control(self, tmp_path):
        arms = {
            **default(pair(-1.0), pair(0.0)),
            Arm(NULL, "tuned", "swept"): pair(0.0, 0.2),
            Arm("cosine", "tuned", "swept"): pair(2.0, 0.1),
            Arm("cosine", "fixed", "swept"): pair(3.0, 0.1),
            Arm("cosine", "fixed", "rule"): pair(4.0, 0.1),
        }
        wsd = Arm("wsd", "tuned", "swept")
        cells = {
            ("a", "sgd"): {**arms, wsd: pair(-4.0)},
            ("b", "sgd"): {**arms, **default(pair(-2.0), [math.inf, 0.0]), wsd: pair(3.0)},
        }
        page = selection([folder(tmp_path, cells, "convex-confirm")])
        ((header, rows),) = tables(page, "convex-confirm, SGD: 2 cells")
        assert len(header) == 7
        assert rows == [
            ["default(linear)", "2 / 0 / 0", "-1.50", "-1.00", "0 / 1 / 1", "diverged", "diverged"],
            ["wsd", "1 / 0 / 1", "-0.50", "+3.00", "", "", ""],
            ["linear", "baseline", "0", "0", "", "", ""],
            ["linear, again", "0 / 2 / 0", "0.00", "0.00", "", "", ""],
            ["cosine", "0 / 0 / 2", "+2.00", "+2.00", "", "", ""],
            ["cosine, fixed warmup", "0 / 0 / 2", "+3.00", "+3.00", "0 / 0 / 2", "+4.00", "+4.00"],
        ]
        assert f"{NULL} is the control" in page

    def test_the_default_stands_before_what_was_tried(self, tmp_path):
        cells = {(name, "sgd"): default(pair(-1.0)) for name in "ab"}
        folders = [folder(tmp_path, cells, suite) for suite in ("deep-choose", "convex-confirm", "recommended-deep")]
        page = selection(folders)
        titles = [line for line in page.splitlines() if line.startswith("## ")]
        assert titles == [
            "## The default in every cell of the report",
            "## What else was tried: the half that confirmed",
            "## What else was tried: the half that chose",
        ]
        default_, confirm, choose = (page[page.index(title) :].split("\n## ")[0] for title in titles)
        assert ("What was asked" in default_, "What was asked" in confirm, "cell by cell" in choose) == (1, 0, 0)
        assert [suite in text for suite, text in (("convex-confirm", confirm), ("deep-choose", choose))] == [1, 1]


@pytest.mark.parametrize("name", ["a|b\n# h", "*x* _y_ `c`", "<i>&amp;", "\x1b[31m", "[a](b)"])
def test_names_are_text(tmp_path, name):
    cosine = Arm("cosine", "tuned", "swept")
    arms = {**default(pair(3.0)), cosine: pair(1.0), Arm(f"{name} too", "tuned", "swept"): pair(2.0)}
    cells = {(name, "sgd"): arms, ("plain", "sgd"): arms}
    page = selection([folder(tmp_path, cells, logs={(name, "sgd"): [("later", 0.5, 1.4)]})])
    plain = selection([folder(tmp_path / "plain", {("other", "sgd"): arms, ("plain", "sgd"): arms})])
    assert page.count("\n") == plain.count("\n")
    assert all(line.isprintable() for line in page.splitlines())
    for pattern in (r"(?<!\\)[*_`~]", r"<", r"(?<!\\)\[", r"(?<!\\)\|"):
        assert len(re.findall(pattern, page)) == len(re.findall(pattern, plain)), pattern
    assert re.findall(r"^#+ .*", page, re.MULTILINE) == re.findall(r"^#+ .*", plain, re.MULTILINE)
    assert "misses in" in page


def test_what_is_refused(tmp_path):
    place = folder(tmp_path, {("a", "sgd"): default(pair(-1.0))})
    with pytest.raises(
        RefineError, match="the runs hold recommended-convex, a, sgd, .* twice; give each folder of results"
    ):
        selection([place, place])
    with pytest.raises(RefineError, match=r"cannot read .*nowhere.meta\.json: No such file"):
        selection([place, tmp_path / "nowhere"])
    other = folder(tmp_path, {("a", "sgd"): default(pair(-1.0))}, "convex")
    with pytest.raises(RefineError, match="holds the suite convex; name folders of the suites") as e:
        selection([place, other])
    assert "\n" not in str(e.value)

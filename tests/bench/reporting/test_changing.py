"""The page on noise that changes, on cells whose numbers can be worked out by hand."""

import math

import pytest

from refine import RefineError
from refine.bench.reporting.changing import changing
from refine.bench.reporting.headline import DEFAULT
from refine.bench.reporting.results import load
from refine.bench.reporting.statistics import Arm

from .by_hand import asked, default, folder, pair, tables

SHIFTS = Arm("shifts(linear)", "", "swept")


def cells(**of_changes):
    """SGD on one table: by change the difference of the default."""
    return {(f"a, {change.replace('_', ' ')}", "sgd"): default(pair(mean)) for change, mean in of_changes.items()}


def page(tmp_path, found, suite="changing-confirm", **more):
    return changing([folder(tmp_path, found, suite, **more)])


def test_never_worse_by_half_a_percent(tmp_path):
    good = asked(page(tmp_path / "1", cells(steady=0.4, batch_up=-1.0)), "Never worse")
    assert [": holds; worst +0.40 % of 2 cells." in text for text in good] == [True, True]
    bad = asked(page(tmp_path / "2", cells(steady=0.6, batch_up=-1.0)), "Never worse")
    assert ": misses in a, steady sgd +0.60 ± 0.01 %; worst +0.60 %" in bad[0]


def test_steady_noise_is_no_change_and_what_is_wrong_is_no_batch(tmp_path):
    text = page(tmp_path, cells(steady=-3.0, batch_up=-1.0, batch_down=-1.0, dirty_last=0.0))
    assert asked(text, "Better beyond")[0].endswith("noise changes: holds; better in 2 of 3 cells, worse in 0.")
    assert asked(text, "Better beyond")[1].endswith("size does: holds; better in 2 of 2 cells, worse in 0.")
    less = page(tmp_path / "2", cells(batch_up=-1.0, batch_down=1.0))
    assert asked(less, "Better beyond")[0].endswith("misses; better in 1 of 2 cells, worse in 1.")


@pytest.mark.parametrize(
    ("gain", "said"), [(1.01, "holds; -1.01 % over 1 cell."), (0.99, "misses; -0.99 % over 1 cell.")]
)
def test_the_gain_where_noise_rises(tmp_path, gain, said):
    text = page(tmp_path, cells(batch_up=-9.0, batch_down=-gain, dirty_last=gain - 1.0))
    assert asked(text, "A median gain")[1].endswith(said)
    assert asked(text, "A median gain")[0].endswith("misses; -0.50 % over 2 cells.")


def test_means_by_change_and_every_cell(tmp_path):
    found = {
        ("a, batch up", "sgd"): {**default(pair(-1.0), pair(-0.5)), SHIFTS: pair(-2.0)},
        ("b, batch up", "sgd"): {**default(pair(-3.0), pair(-0.5)), SHIFTS: pair(2.0)},
        ("a, batch up", "adam"): {**default(pair(0.5)), SHIFTS: pair(0.0)},
    }
    text = page(tmp_path, found)
    ((head, rows),) = tables(text, "Mean over cells.*")
    assert head == ["", "change", "cells", "shifts(linear)", DEFAULT, "best in hindsight"]
    assert rows == [
        ["SGD", "batch up", "2", "0.00", "-2.00", "-2.50"],
        ["Adam family", "batch up", "1", "0.00", "+0.50", "0.00"],
    ]
    ((head, rows),) = tables(text, "Per cent over linear decay")
    assert head[3:] == [DEFAULT, f"{DEFAULT}, no sweep", "shifts(linear)", "best in hindsight"]
    assert ["changing-confirm", "a, batch up", "sgd", "-1.00 ± 0.01", "-0.50 ± 0.01", "-2.00 ± 0.01", "-2.00"] in rows


def test_the_training_error_stands_beside_the_loss(tmp_path):
    errors = {"linear": [0.10, 0.12], DEFAULT: [0.11, 0.15]}
    text = page(tmp_path, cells(batch_up=-1.0), errors=errors)
    ((head, (row,)),) = tables(text, "Per cent over linear decay")
    assert head[-1] == "training error in % of linear, and difference"
    assert row[-1] == "11, +2.00 ± 1.00"
    kept = load(tmp_path / "changing-confirm").runs
    assert sorted(kept["error"]) == [0.10, 0.11, 0.11, 0.12, 0.15, 0.15]
    assert "training error" not in page(tmp_path / "2", cells(batch_up=-1.0))


def test_both_halves_and_a_run_that_diverged(tmp_path):
    lost = {("a, batch up", "sgd"): default([math.inf, 0.0])}
    chosen = folder(tmp_path, lost, "changing-choose")
    confirmed = folder(tmp_path, cells(batch_up=-1.0), "changing-deep-confirm")
    text = changing([chosen, confirmed])
    assert text.index("## The half that it was confirmed on, once") < text.index("## The half it was chosen on")
    assert "misses in a, batch up sgd diverged %; worst diverged % of 1 cell" in text


def test_other_suites_are_refused(tmp_path):
    with pytest.raises(RefineError, match="holds the suite convex-confirm, whose noise does not change; name folders"):
        changing([folder(tmp_path, cells(batch_up=-1.0), "convex-confirm")])

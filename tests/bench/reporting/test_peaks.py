"""The page on peaks that were too low or too high, on a cell whose numbers can be worked out by hand."""

import pytest

from refine import RefineError
from refine.bench.reporting.peaks import peaks
from refine.bench.reporting.statistics import Arm

from .by_hand import folder, pair, tables


def arms(factor, default, best):
    """At one multiple of the best peak, over tuned linear decay, all 10 % worse there."""

    def at(name, over):
        return {Arm(name, "", "rule"): [10.0 + 1.1 * d for d in pair(over)]}

    logged = f"linear at {factor:g}"
    holds = {f"hold 0.2 at {factor:g}": 1.0, f"hold 0.6 at {factor:g}": best}
    return {
        Arm(logged, "", "rule"): [10.0, 10.0],
        **{arm: d for name, over in holds.items() for arm, d in at(name, over).items()},
        **at(f"default({logged})", default),
        **at(f"hold on 1/N({logged})", 2.0 * default),
        **at(f"unguarded({logged})", 3.0),
    }


def test_over_linear_decay_at_the_same_peak(tmp_path):
    found = {("a, steady", "sgd"): {**arms(0.25, -1.0, -2.0), **arms(2.0, 0.5, 1.0)}}
    text = peaks([folder(tmp_path, found, "peaks-confirm")])
    ((head, rows),) = tables(text, "Every cell")
    assert head[3:] == ["peak over the best", "best hold in hindsight", "default", "hold on 1/N", "unguarded"]
    assert [row[3:] for row in rows] == [
        ["0.25", "-2.00", "-1.00 ± 0.01", "-2.00 ± 0.01", "+3.00 ± 0.01"],
        ["2", "0.00", "+0.50 ± 0.01", "+1.00 ± 0.01", "+3.00 ± 0.01"],
    ]
    ((_, rows),) = tables(text, "Mean over cells, and the worst")
    assert rows[0] == ["SGD", "0.25", "1", "-2.00", "-1.00 (-1.00)", "-2.00 (-2.00)", "+3.00 (+3.00)"]


def test_other_suites_are_refused(tmp_path):
    with pytest.raises(RefineError, match="holds the suite convex-confirm, which has no peaks; name folders"):
        peaks([folder(tmp_path, {("a", "sgd"): arms(1.0, 0.0, 0.0)}, "convex-confirm")])

from dataclasses import replace

import numpy as np
import pytest

from refine import GradientNorms, RefineError, fit
from refine.pool import pool
from refine.smoothing import smooth


def seeds(count=3, n=200, **options):
    level = np.linspace(2.0, 1.0, n)
    return [
        GradientNorms.from_values(level * np.random.default_rng(seed).lognormal(sigma=0.3, size=n), **options)
        for seed in range(count)
    ]


def test_logs_at_the_same_steps_give_the_median_of_their_smoothed_norms():
    logs = seeds()
    pooled = pool(logs, smoothing=0.2)
    smoothed = np.array([smooth(log.values, fraction=0.2) for log in logs])
    np.testing.assert_allclose(pooled.values, np.median(smoothed, axis=0), rtol=1e-14)
    np.testing.assert_allclose(pooled.pool.highest, smoothed.max(axis=0), rtol=1e-14)
    np.testing.assert_allclose(pooled.pool.spread, smoothed.max(axis=0) / smoothed.min(axis=0) - 1, rtol=1e-12)


def test_one_log_three_times_is_that_log():
    log = seeds(1)[0]
    pooled = fit(pool([log] * 3), smoothing=0.0, optimizer="adam")
    alone = fit(log, smoothing=0.1, optimizer="adam")
    for name in pooled.schedules:
        one, other = pooled.schedules[name].multiplier, alone.schedules[name].multiplier
        np.testing.assert_allclose(one, other, rtol=1e-12)
    assert pooled.norms.pool.spread.max() == 0.0


def test_runs_of_other_lengths_and_strides_meet_at_the_fraction_of_training():
    t = np.arange(1, 1001)
    long = GradientNorms.from_values(3.0 - 2.0 * (t - 0.5) / 1000, t)
    short = GradientNorms.from_values(3.0 - 2.0 * (t[9:500:10] - 0.5) / 500, t[9:500:10])
    pooled = pool([long, short], smoothing=0.0)
    inside = (pooled.steps > 30) & (pooled.steps < 990)
    np.testing.assert_allclose(pooled.values[inside], long.values[inside], rtol=1e-12)
    assert pooled.total_steps == 1000
    assert any("500 to 1000 updates" in note for note in pooled.source.notes)


def test_rates_and_counts_are_pooled_where_all_logs_have_them():
    rates = [np.full(10, r) for r in (0.1, 0.2, 0.4)]
    logs = [GradientNorms.from_values([np.nan, *[1.0] * 9], learning_rate=r) for r in rates]
    pooled = pool(logs)
    assert pooled.learning_rate.tolist() == [0.2] * 9
    assert dict(pooled.dropped) == {"non-finite": 3}
    assert pool([logs[0], GradientNorms.from_values([1.0] * 9)]).learning_rate is None


def test_what_the_logs_do_not_agree_on_is_unknown():
    facts = ({"clipping": "pre", "lr_alignment": "this_step"}, {"clipping": "post", "window_mean": True})
    logs = [replace(log, source=replace(log.source, **f)) for log, f in zip(seeds(2), facts, strict=True)]
    source = pool(logs).source
    assert (source.clipping, source.lr_alignment, source.window_mean) == ("unknown", "unknown", True)
    assert any("do not agree on clipping" in note for note in source.notes)
    assert pool(logs[:1] * 2).source.clipping == "pre"


def test_logs_that_do_not_go_together_are_refused():
    with pytest.raises(RefineError, match=r"norms of different kinds: array \(l2\), array \(l1\); choose one"):
        pool([*seeds(1), *seeds(1, kind="l1")])
    far = GradientNorms.from_values(np.full(200, 1e-3))
    with pytest.raises(
        RefineError, match="differ 1,[0-9]+-fold: logs of one configuration do not; fit them one by one"
    ):
        pool([*seeds(1), far])
    with pytest.raises(RefineError, match="no logs to pool"):
        pool([])


def test_the_summary_and_the_figure_show_the_spread():
    result = fit(pool(seeds()), smoothing=0.0)
    text = " ".join(result.summary(verbose=True).split())
    assert "pooled: median of 3 logs on the fraction of training; their smoothed norms differ by" in text
    assert "each log's median over 10 % of its updates" in text
    assert result.to_dict()["pooled_logs"] == 3
    from refine import plot

    labels = [t.get_text() for t in plot(result).axes[1].get_legend().get_texts()]
    assert "range of 3 logs" in labels

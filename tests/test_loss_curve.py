import numpy as np
import pandas as pd
import pytest

from refine import RefineError, linear, wsd
from refine.loss_curve import LossCurve, as_curves, sound_losses, stitch
from refine.norms import GradientNorms


def curve(**more):
    values = {
        "losses": np.linspace(4.0, 3.0, 40),
        "steps": np.arange(100, 4001, 100),
        "rates": np.linspace(1.0, 0.1, 4000),
    }
    return LossCurve.from_values(**{**values, **more})


def test_a_curve_keeps_what_it_was_given_and_nobody_changes_it():
    losses, rates = np.linspace(4.0, 3.0, 40), np.linspace(1.0, 0.1, 4000)
    found = curve(losses=losses, rates=rates)
    losses[0] = rates[0] = 9.0
    assert (found.losses[0], found.rates[0], found.total_steps, found.peak_lr) == (4.0, 1.0, 4000, 1.0)
    with pytest.raises(ValueError, match="read-only"):
        found.losses[0] = 1.0


def test_rates_of_a_schedule_of_all_updates_and_of_the_steps_of_the_losses():
    schedule = linear(4000, warmup_steps=100)
    whole = curve(rates=schedule, peak_lr=2e-3)
    assert whole.rates == pytest.approx(2e-3 * schedule.multiplier)
    assert whole.warmup_steps == 100
    at_losses = curve(rates=whole.rates[np.arange(99, 4000, 100)])
    assert at_losses.rates[200:] == pytest.approx(whole.rates[200:], rel=1e-3)
    assert curve(rates=linear(10), peak_lr=1.0).total_steps == 4000


def test_later_rows_supersede_and_what_is_not_finite_is_counted():
    steps = [1, 2, 3, 4, 5, 3, 4, 5]
    found = LossCurve.from_values([5.0, np.nan, 3.5, 3.2, 3.1, 3.0, 2.5, 2.0], steps, rates=[1.0] * 5)
    assert found.steps.tolist() == [1, 3, 4, 5]
    assert found.losses.tolist() == [5.0, 3.0, 2.5, 2.0]
    assert set(found.notes) == {
        "1 loss is not finite and left out",
        "3 losses are superseded by later rows of their steps",
    }


def test_zeros_are_marks_of_skipped_updates_where_they_are_few():
    losses = np.full(100, 2.0)
    losses[7] = 0.0
    steps, kept, _, notes = sound_losses(np.arange(100.0), losses)
    assert 7 not in steps
    assert kept.min() == 2.0
    assert notes == ("1 loss is 0, as of a skipped update, and left out",)
    losses[:10] = 0.0
    with pytest.raises(RefineError, match="0 at step 0; a loss is above 0, .* at most 5% are 0, here 10 of 100"):
        sound_losses(np.arange(100.0), losses)


def test_the_share_of_zeros_is_that_of_losses_not_of_empty_cells():
    losses = np.full(1000, np.nan)
    losses[::20] = 2.0
    losses[:80:20] = 0.0  # 4 of 50, and of 1000 cells
    with pytest.raises(RefineError, match="here 4 of 50"):
        sound_losses(np.arange(1000.0), losses)


def test_minus_infinity_is_no_negative_loss():
    steps, losses, lost, notes = sound_losses(np.arange(4.0), np.array([3.0, -np.inf, 2.0, 1.9]))
    assert (steps.tolist(), losses.tolist(), lost) == ([0, 2, 3], [3.0, 2.0, 1.9], 0)
    assert notes == ("1 loss is not finite and left out",)


def test_nan_where_nothing_was_measured_is_no_divergence():
    steps = np.arange(1, 1001)
    measured = np.where(steps % 30 == 0, 2.0 + 10.0 / steps, np.nan)  # the last ten rows hold none
    assert not LossCurve.from_values(measured, steps, rates=np.ones(1000)).diverged
    assert LossCurve.from_values(np.where(steps < 700, measured, np.nan), steps, rates=np.ones(1000)).diverged


def test_a_run_that_diverged():
    losses = np.linspace(4.0, 3.0, 40)
    assert not curve().diverged
    assert curve(losses=np.where(np.arange(40) < 37, losses, np.nan)).diverged
    assert curve(losses=np.where(np.arange(40) < 30, losses, 9.0)).diverged
    assert not curve(losses=np.where(np.arange(40) == 30, 9.0, losses)).diverged  # a spike
    assert not curve(losses=np.where(np.arange(40) == 30, 1.0, losses)).diverged  # a good batch
    early = np.concatenate([np.linspace(11.0, 4.0, 15), np.full(25, 7.5)])  # and for the rest of the run
    assert curve(losses=early).diverged
    noisy = 2.0 * np.exp(0.5 * np.random.default_rng(0).standard_normal(4000))
    assert not curve(losses=noisy, steps=None, every=1).diverged


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"losses": [1.0]}, "steps have shape|both must be"),
        ({"losses": -np.ones(40)}, "losses: -1 at step 100; a loss is above 0"),
        ({"rates": np.zeros(4000)}, "not all 0"),
        ({"rates": -np.ones(4000)}, "not below 0"),
        ({"rates": np.ones(50)}, r"rates have shape \(50,\) and the losses go to step 4000"),
        ({"rates": linear(4000)}, "give the peak learning rate of the run with peak_lr"),
        ({"peak_lr": 1.0}, "peak_lr goes with a Schedule"),
        ({"sort": "test"}, "it must be one of validation, training"),
        ({"total_steps": 100}, "total_steps is 100"),
        ({"steps": np.arange(40.0) * 1e7}, "steps count optimizer updates"),
        ({"rates": np.full(4000, 1e200)}, r"their peak from 1e-30 to 1e\+30"),
        ({"rates": linear(4000), "peak_lr": "high"}, "peak_lr is 'high'; it must be a positive number"),
    ],
)
def test_what_cannot_be_a_curve_is_refused(more, message):
    with pytest.raises(RefineError, match=message):
        curve(**more)


def test_rates_at_steps_that_are_none_are_left_out():
    steps, rates = np.arange(40.0) * 100 - 500, np.linspace(1.0, 0.1, 40)
    found = LossCurve.from_values(np.linspace(4.0, 3.0, 40), steps, rates=rates)
    assert (found.known_from, found.total_steps) == (0, 3400)
    assert found.rates[::100] == pytest.approx(rates[5:39])
    losses = np.linspace(4.0, 3.0, 40)
    steps[20], losses[20] = 1e300, np.nan
    assert LossCurve.from_values(losses, steps, rates=rates).rates[::100] == pytest.approx(rates[5:39])


def test_rates_that_begin_after_the_losses_are_known_from_the_last_update():
    losses = np.where(np.arange(40) < 20, np.linspace(4.0, 3.0, 40), np.nan)
    late = curve(losses=losses, rates=np.where(np.arange(40) < 25, np.nan, 1.0))
    assert (late.known_from, late.total_steps) == (1999, 2000)
    assert stitch([late, curve()])[0].total_steps == 2000


def test_a_branch_gets_the_rates_of_its_trunk():
    schedule = wsd(10_000, cooldown_fraction=0.2, warmup_steps=500)
    rates = schedule.multiplier * 1e-3
    steps = np.arange(100, 10_001, 100)
    losses = 2.0 + 10.0 / np.sqrt(steps)
    trunk = LossCurve(
        steps[:85], losses[:85], np.where(np.arange(8_500) < 500, rates[:8_500], 1e-3), "training", "trunk.csv"
    )
    held = np.concatenate([np.full(8_000, rates[8_000]), rates[8_000:]])
    branch = LossCurve(steps[80:], losses[80:], held, "training", "branch.csv", known_from=8_000)
    kept, found = stitch([trunk, branch])
    assert kept is trunk
    assert found.rates == pytest.approx(rates)
    assert found.steps.tolist() == branch.steps.tolist()  # the losses of the trunk are counted once
    assert "the log starts at update 8001: the rates before are those of trunk.csv" in found.notes
    other = LossCurve(steps[:85], losses[:85] + 1.0, trunk.rates * 0.1, "training", "other.csv")
    assert stitch([other, branch])[1].rates == pytest.approx(held)
    assert stitch([branch]) == [branch]


def test_curves_of_tables_norms_and_paths(tmp_path):
    table = pd.DataFrame({"step": np.arange(1, 51), "loss": np.linspace(3, 2, 50), "lr": np.linspace(1, 0.02, 50)})
    path = tmp_path / "log.csv"
    table.to_csv(path, index=False)
    norms = GradientNorms.from_values(np.ones(50), table.step, learning_rate=table.lr, loss=table.loss)
    curves = as_curves([table, path, norms, curve()])
    for found in curves[:3]:
        assert found.losses == pytest.approx(table.loss.to_numpy())
        assert found.rates == pytest.approx(table.lr.to_numpy())
        assert found.sort == "training"
    with pytest.raises(RefineError, match="a log is a int; it must be a path"):
        as_curves(3)
    with pytest.raises(RefineError, match="there is no log"):
        as_curves([])
    with pytest.raises(RefineError, match="no losses beside them"):
        as_curves(GradientNorms.from_values(np.ones(50), learning_rate=table.lr))
    with pytest.raises(RefineError, match="says how to read a log"):
        as_curves(curve(), loss_column="loss")

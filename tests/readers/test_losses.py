import json

import numpy as np
import pandas as pd
import pytest

from refine import RefineError, read_losses
from refine.loss_curve import as_curves

STEPS = np.arange(1, 401)
RATES = np.minimum(STEPS / 40, (401 - STEPS) / 361) * 1e-3
LOSSES = 2.0 + 3.0 / np.sqrt(STEPS + 5.0)
EVERY = slice(9, None, 10)


@pytest.fixture
def table(tmp_path):
    def write(name="log.csv", **columns):
        path = tmp_path / name
        pd.DataFrame(columns).to_csv(path, index=False)
        return path

    return write


def test_a_plain_table_without_norms(table):
    found = read_losses(table(step=STEPS, loss=LOSSES, lr=RATES))
    assert (found.sort, found.column, found.total_steps, found.warmup_steps) == ("training", "loss", 400, 40)
    assert found.losses == pytest.approx(LOSSES)
    assert found.rates == pytest.approx(RATES)


def test_held_out_losses_at_other_steps_than_the_rates(table):
    held_out = np.where(STEPS % 20 == 0, LOSSES + 0.1, np.nan)
    found = read_losses(table(step=STEPS, **{"train/loss": LOSSES, "val/loss": held_out, "train/lr": RATES}))
    assert (found.sort, found.column, found.steps.size) == ("validation", "val/loss", 20)
    assert found.losses == pytest.approx(LOSSES[19::20] + 0.1)
    assert found.rates == pytest.approx(RATES)


def test_few_held_out_losses_are_left_for_those_of_training(table):
    held_out = np.where(STEPS % 100 == 0, LOSSES, np.nan)
    path = table(step=STEPS, loss=LOSSES, val_loss=held_out, lr=RATES)
    found = read_losses(path)
    assert found.sort == "training"
    assert '"val_loss" has only 4 points, fewer than 12: the training loss is read' in found.notes
    assert read_losses(path, loss_column="val_loss").steps.tolist() == [100, 200, 300, 400]


def test_a_trainer_state_of_hugging_face(tmp_path):
    rows = [
        {"step": int(s), "loss": LOSSES[s - 1], "learning_rate": RATES[s - 1], "epoch": s / 200} for s in STEPS[EVERY]
    ]
    rows += [{"step": int(s), "eval_loss": LOSSES[s - 1] + 0.2, "epoch": s / 200} for s in STEPS[24::25]]
    rows.append({"step": 400, "train_loss": 2.7, "train_runtime": 9.0, "epoch": 2.0})
    path = tmp_path / "trainer_state.json"
    path.write_text(
        json.dumps({"global_step": 400, "max_steps": 400, "log_history": sorted(rows, key=lambda r: r["step"])})
    )
    found = read_losses(path)
    assert (found.sort, found.column, found.steps.size, found.epochs) == ("validation", "eval_loss", 16, 2.0)
    assert found.losses == pytest.approx(LOSSES[24::25] + 0.2)
    training = read_losses(path, loss_column="loss")
    assert training.steps.tolist() == STEPS[EVERY].tolist()  # the mean of the whole run is none of them
    assert training.window == 10
    assert found.rates[60:390] == pytest.approx(RATES[60:390], rel=1e-6)


def test_lightning_rows_each_with_one_metric(table):
    blank = np.full(60, np.nan)
    step = np.repeat(STEPS[EVERY][:20] - 1, 3)
    lr, train, held = blank.copy(), blank.copy(), blank.copy()
    lr[::3], train[1::3], held[2::3] = RATES[EVERY][:20], LOSSES[EVERY][:20], LOSSES[EVERY][:20] + 0.1
    found = read_losses(
        table("metrics.csv", epoch=0, **{"lr-AdamW": lr, "step": step, "train_loss_step": train, "val_loss": held})
    )
    assert (found.sort, found.steps.size) == ("validation", 20)
    assert found.losses == pytest.approx(held[2::3])


def test_two_charts_of_one_run(table):
    run = "jolly-frog-1 - "
    losses = table("loss.csv", Step=STEPS, **{run + "eval/loss": LOSSES, run + "eval/loss__MIN": LOSSES})
    rates = table("lr.csv", Step=STEPS, **{run + "train/learning_rate": RATES})
    [found] = as_curves([losses, rates])
    assert found.rates == pytest.approx(RATES)
    assert any("the learning rates are from" in note for note in found.notes)
    with pytest.raises(RefineError, match="the log holds no learning rates.*--prior-schedule and --peak-lr"):
        read_losses(losses)


def test_charts_of_two_runs(table):
    runs = ("calm-sun-2", "jolly-frog-1")
    losses = table("l.csv", Step=STEPS, **{f"{run} - train/loss": LOSSES + i for i, run in enumerate(runs)})
    rates = table("r.csv", Step=STEPS, **{f"{run} - train/lr": RATES / (i + 1) for i, run in enumerate(runs)})
    calm, jolly = as_curves([losses, rates])
    assert jolly.losses == pytest.approx(LOSSES + 1)
    assert (calm.rates, jolly.rates) == (pytest.approx(RATES), pytest.approx(RATES / 2))
    assert any('"Step" of W&B counts calls of wandb.log' in note for note in jolly.notes)
    with pytest.raises(RefineError, match='the log holds 2 runs: "calm-sun-2", "jolly-frog-1"'):
        read_losses(losses, rates)
    others = {f"{run} - train/lr": RATES for run in ("d", "b", "a", "c")}
    with pytest.raises(RefineError, match='the learning rates of "a", "b", "c", "d": export both of one run'):
        read_losses(losses, table("o.csv", Step=STEPS, **others), run="calm-sun-2")


def test_which_of_two_step_columns_is_told(table):
    found = read_losses(table(step=STEPS, iteration=2 * STEPS, loss=LOSSES, lr=RATES))
    assert 'steps are from "step", not from "iteration": --step-column chooses' in found.notes


def test_a_given_peak_is_that_of_the_curve(table):
    """Though no row shows the peak: rates that fall from the first update, logged every tenth."""
    falling = 1e-3 * (1 - (STEPS - 1) / 400)
    found = read_losses(table(step=STEPS[EVERY], loss=LOSSES[EVERY], lr=falling[EVERY]), peak_lr=2e-3)
    assert found.rates == pytest.approx(2 * falling)
    assert "the peak learning rate is 0.002, as given; the log says 0.001" in found.notes


def test_a_rate_at_a_step_beyond_all_updates_is_refused(table):
    path = table(step=[*STEPS, 10**15], loss=[*LOSSES, np.nan], lr=[*RATES, 1e-4])
    with pytest.raises(RefineError, match="a learning rate is logged at step 1000000000000000; .* 50000000"):
        read_losses(path)


def test_megatrons_marks_of_skipped_updates(tmp_path):
    line = (
        " iteration {:8d}/     400 | consumed samples: {} | learning rate: {:.6E} | lm loss: {:.6E} | grad norm: 0.3 |"
    )
    path = tmp_path / "out.log"

    def log(skipped):
        rows = zip(STEPS, RATES, np.where(np.isin(STEPS, skipped), 0.0, LOSSES), strict=True)
        path.write_text("".join(line.format(s, 16 * s, rate, loss) + "\n" for s, rate, loss in rows))
        return path

    found = read_losses(log([137, 138]))
    assert (found.steps.size, found.losses.min() > 2.0) == (398, True)
    assert "2 losses are 0, as of a skipped update, and left out" in found.notes
    with pytest.raises(RefineError, match="0 at step 100; .* at most 5% are 0, here 21 of 400"):
        read_losses(log(np.arange(100, 121)))


def test_rates_of_the_next_step_are_told_without_norms(tmp_path):
    """As transformers logged them before 4.51, and before 4.38 without norms."""
    rates = 1e-3 * (1 - STEPS / 400)
    rows = [{"epoch": 1.0, "learning_rate": rates[s - 1], "loss": LOSSES[s - 1], "step": int(s)} for s in STEPS[EVERY]]
    path = tmp_path / "trainer_state.json"
    path.write_text(json.dumps({"global_step": 400, "max_steps": 400, "log_history": rows}))
    assert read_losses(path).rates == pytest.approx(1e-3 * (1 - (STEPS - 1) / 400))


def test_a_table_as_nanogpt_logs_it(table):
    steps = np.arange(0, 2001, 100)
    held_out = 2.0 + 1.0 / (1.0 + steps / 200)
    rates = np.minimum((steps + 1) / 200, 1.0) * 6e-4
    found = read_losses(table(iter=steps, **{"train/loss": held_out - 0.1, "val/loss": held_out, "lr": rates}))
    assert (found.sort, found.column, found.steps.tolist()) == ("validation", "val/loss", steps.tolist())
    assert found.rates[steps[:-1]] == pytest.approx(rates[:-1])


def test_a_run_that_ended_in_nan(table):
    assert read_losses(table(step=STEPS, loss=np.where(STEPS < 350, LOSSES, np.inf), lr=RATES)).diverged
    assert not read_losses(table("b.csv", step=STEPS, loss=LOSSES, lr=RATES)).diverged


def test_rates_of_a_schedule_that_is_named(table):
    path = table(step=STEPS, loss=LOSSES)
    found = read_losses(path, prior_schedule="linear:warmup_steps=40", peak_lr=2e-3)
    assert (found.peak_lr, found.warmup_steps) == (2e-3, 40)
    with pytest.raises(RefineError, match="the peak learning rate is unknown"):
        read_losses(path, prior_schedule="linear")


def test_perplexities_become_losses(table):
    found = read_losses(table(step=STEPS, val_ppl=np.exp(LOSSES), lr=RATES))
    assert found.losses == pytest.approx(LOSSES)
    assert any("is a perplexity: the losses are its logarithms" in note for note in found.notes)


@pytest.mark.parametrize(
    ("columns", "read", "message"),
    [
        ({"accuracy": LOSSES}, {}, "no column is known to be a loss"),
        ({"accuracy": LOSSES}, {"loss_column": "accuracy"}, "holds accuracies, by its name"),
        ({"smooth_loss": LOSSES}, {}, "is a running average by name, which lags behind the loss"),
        ({"ema_loss": LOSSES}, {"loss_column": "ema_loss"}, "is a running average by name"),
        ({"loss": -LOSSES}, {}, "a loss is above 0"),
        ({"val_ppl": np.where(STEPS == 9, -5.0, np.exp(LOSSES))}, {}, "-5 at step 9; a loss is above 0"),
        ({"val_loss": LOSSES, "test_loss": 2 * LOSSES}, {}, "2 columns may be the loss of held-out data"),
        ({"loss": LOSSES}, {"loss_column": "los"}, 'no column is called "los"'),
        ({"loss": np.full(400, np.nan)}, {}, "no column is known to be a loss|holds no finite loss"),
    ],
)
def test_what_is_no_loss_is_refused(table, columns, read, message):
    with pytest.raises(RefineError, match=message):
        read_losses(table(step=STEPS, lr=RATES, **columns), **read)


def test_a_running_average_beside_the_loss_is_passed_over(table):
    assert read_losses(table(step=STEPS, loss=LOSSES, avg_loss=LOSSES + 1.0, lr=RATES)).column == "loss"


def test_a_smooth_loss_of_every_step_is_told(table):
    rng = np.random.default_rng(0)
    noisy = LOSSES + 0.1 * rng.standard_normal(400)
    running = pd.Series(noisy).ewm(alpha=0.05).mean()
    said = "hardly scatter from step to step"
    assert not any(said in note for note in read_losses(table(step=STEPS, loss=noisy, lr=RATES)).notes)
    assert any(said in note for note in read_losses(table("b.csv", step=STEPS, loss=running, lr=RATES)).notes)


def test_a_resumed_run(table):
    again = np.concatenate([np.arange(250), np.arange(200, 400)])
    losses = np.where(np.arange(450) < 250, LOSSES[again] + 0.5, LOSSES[again])
    found = read_losses(table(step=STEPS[again], loss=losses, lr=RATES[again]))
    assert found.steps.tolist() == STEPS.tolist()
    assert found.losses[200:] == pytest.approx(LOSSES[200:])


def test_batch_sizes_that_change(table):
    sizes = np.where(STEPS <= 200, 64, 256)
    found = read_losses(table(step=STEPS, loss=LOSSES, lr=RATES, global_batch_size=sizes))
    assert found.noise[[0, 199, 200, 399]].tolist() == [4.0, 4.0, 1.0, 1.0]
    seen = np.cumsum(sizes)
    assert read_losses(table("b.csv", step=STEPS, loss=LOSSES, lr=RATES, consumed_samples=seen)).noise[0] == 4.0
    assert read_losses(table("c.csv", step=STEPS, loss=LOSSES, lr=RATES, global_batch_size=64)).noise is None


def test_epochs(table):
    assert read_losses(table(step=STEPS, loss=LOSSES, lr=RATES, epoch=(STEPS - 1) // 100)).epochs == 4.0
    assert read_losses(table("b.csv", step=STEPS, loss=LOSSES, lr=RATES)).epochs is None


def test_a_console_with_two_kinds_of_lines(tmp_path):
    lines = []
    for step in range(0, 401, 10):
        lines.append(f"iter {step}: loss {3.0 - step / 500:.4f}, time 21.5ms, mfu 9.1%")
        if step % 20 == 0:
            lines.append(f"step {step}: train loss {3.1 - step / 500:.4f}, val loss {3.2 - step / 500:.4f}")
    path = tmp_path / "train.log"
    path.write_text("\n".join(lines) + "\n")
    found = read_losses(path, prior_schedule="cosine", peak_lr=1e-3)
    assert (found.sort, found.steps.size) == ("validation", 21)
    assert found.losses[[0, -1]] == pytest.approx([3.2, 2.4])


def test_the_recorders_own_log(root):
    found = read_losses(root / "data" / "shakespeare_adamw.csv")
    assert (found.sort, found.steps.size, found.total_steps, found.warmup_steps) == ("training", 2000, 2000, 100)
    assert found.peak_lr == pytest.approx(0.004)


def test_a_branch_and_its_trunk_of_a_real_run(shared):
    folder = shared / "llm-runs" / "grad_norm"
    trunk, branch = as_curves([str(folder / f"{name}_lr0.0005_T50000.csv") for name in ("const", "wsd0.2")])
    assert branch.steps[0] == 40_050
    assert branch.peak_lr == pytest.approx(5e-4)
    assert branch.warmup_steps == trunk.warmup_steps == 300
    assert branch.rates[[299, 20_000, 39_000]] == pytest.approx(5e-4)


@pytest.mark.parametrize("size", ["25M", "100M"])
def test_curves_that_start_after_their_warmup(shared, size):
    paths = sorted((shared / "mpl-curves" / size).glob("*.csv"))
    assert paths
    for path in paths:
        found = read_losses(path)
        assert found.peak_lr == pytest.approx(3e-4, rel=1e-3)
        assert 2_100 < found.warmup_steps < 2_200


def test_rates_at_fractions_of_a_step_are_those_of_its_last_row(tmp_path):
    rows = [{"step": int(s), "loss": float(LOSSES[s - 1])} for s in STEPS]
    rows += [{"step": s, "lr": lr} for s, lr in ((0.0, 9e-3), (0.25, 1e-3), (100.0, 8e-4), (400.0, 1e-4))]
    path = tmp_path / "log.jsonl"
    path.write_text("\n".join(map(json.dumps, sorted(rows, key=lambda row: row["step"]))))
    found = read_losses(path)
    assert found.peak_lr == pytest.approx(1e-3, rel=0.1)
    assert found.rates[100] == pytest.approx(8e-4)


def test_first_row_at_its_stride_is_no_late_start(make_log):
    """Of rates that are the next step's, too: linear decay from the first update stays without a warmup."""
    rows = [
        {"step": step, "grad_norm": 1.0, "loss": 3.0 - step / 5500, "learning_rate": 2e-5 * (1 - step / 5500)}
        for step in range(250, 5501, 250)
    ]
    state = {"global_step": 5500, "max_steps": 5500, "log_history": rows}
    curve = read_losses(make_log(json.dumps(state), name="trainer_state.json"))
    assert curve.warmup_steps == 0
    np.testing.assert_allclose(curve.rates, 2e-5 * (1 - np.arange(5500) / 5500), rtol=1e-9)
    assert not any("not logged" in note for note in curve.notes)

"""The plan, with runs whose loss is a formula instead of training."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

from refine import Schedule
from refine.bench.methods import METHODS, TRIED, Fitted
from refine.bench.outcome import Log, Outcome
from refine.bench.plan import Cell, Protocol
from refine.bench.problems import Optimizer, Problem
from refine.bench.store import Run
from refine.families import polynomial, with_warmup

STEPS = 200
PROTOCOL = Protocol((0, 1), (100, 101, 102, 103, 104), window=1, half_octaves=True)
SGD = Optimizer("sgd", "sgd", rate=0.25)
ADAM = Optimizer("adam", "adam", rate=0.03)
PROBLEM = Problem("toy", "toy", (SGD, ADAM), {"cpu": STEPS}, {"cpu": 10}, lambda scale, device: None)
BEST = 3.3
LOWEST = {"cosine": 0.9, "linear:warmup_fraction=0.2": 0.8}

Loss = Callable[[Run], float]


def parabola(run: Run) -> float:
    """Least at rate `BEST`; a little better or worse by schedule and seed."""
    lowest = next((v for k, v in LOWEST.items() if run.schedule.startswith(k)), 1.0)
    return lowest + math.log2(run.rate / BEST) ** 2 + 1e-3 * (run.seed % 10)


def outcome(run: Run, loss: Loss, norms: np.ndarray | None = None, logged_losses: np.ndarray | None = None) -> Outcome:
    if not run.record:
        return Outcome(loss(run), None, 1.0)
    if norms is None:
        norms = 1.0 + np.exp(-np.arange(STEPS) / (5.0 + run.seed))
    return Outcome(loss(run), None, 1.0, Log(norms, 3.0 * norms, norms if logged_losses is None else logged_losses))


def finish(
    loss: Loss = parabola,
    optimizer: Optimizer = SGD,
    protocol: Protocol = PROTOCOL,
    norms: np.ndarray | None = None,
    logged_losses: np.ndarray | None = None,
) -> tuple[Cell, int]:
    """Do what the plan wants until it wants nothing."""
    outcomes: dict[Run, Outcome] = {}
    fits: dict[tuple[str, str], Fitted] = {}  # as the runner keeps them
    for round_ in range(200):
        cell = Cell(PROBLEM, optimizer, "cpu", protocol, outcomes, fits)
        if not cell.missing:
            return cell, round_
        assert not outcomes.keys() & set(cell.missing)
        assert len(set(cell.missing)) == len(cell.missing)
        outcomes = {**outcomes, **{run: outcome(run, loss, norms, logged_losses) for run in cell.missing}}
    raise AssertionError("the plan does not end")


def logged(recorded: dict[str, Run], run: Run) -> Run:
    return recorded[run.log.partition(":")[0]]


def rates(cell: Cell, method: str, warmup: str = "", kind: str = "swept") -> list[float]:
    return [f.run.rate for f in cell.finals if (f.method, f.warmup, f.rates) == (method, warmup, kind)]


@pytest.fixture(scope="module")
def done() -> Cell:
    return finish()[0]


def test_a_sweep_ends_at_the_best_half_octave(done) -> None:
    assert done.tuned["cosine"].factor == 2.0 ** (round(2 * math.log2(BEST)) / 2)
    without = finish(protocol=Protocol((0, 1), (9,), window=1, half_octaves=False))[0]
    assert without.tuned["cosine"].factor == 4.0


def test_the_best_warmup_is_found_and_the_fixed_one_kept(done) -> None:
    assert done.tuned["linear"].arm.schedule == "linear:warmup_fraction=0.2"
    assert done.fixed["linear"].arm.schedule == "linear:warmup_fraction=0.05"
    assert {f.run.schedule for f in done.finals if (f.method, f.warmup) == ("linear", "fixed")} == {
        "linear:warmup_fraction=0.05"
    }
    assert done.tuned["linear"].tried > 2 * done.fixed["linear"].tried


def test_every_method_that_can_is_there_with_and_without_a_sweep(done) -> None:
    kinds = {(f.method, f.rates) for f in done.finals}
    for method in METHODS:
        if method.name == "prodigy":
            assert "no sgd variant" in done.failed["prodigy"]
        elif not method.package:
            assert {(method.name, "swept"), (method.name, "rule")} - kinds == (
                {(method.name, "rule")} if method.again else set()
            )
    assert done.failed.keys() <= {"prodigy", "schedulefree", "dadaptation", "mechanic"}


def test_what_is_reported_decided_nothing(done) -> None:
    finals = {f.run for f in done.finals}
    assert {run.seed for run in finals} == set(PROTOCOL.final_seeds)
    others = {run for run in done.outcomes if run not in finals}
    assert not {run.seed for run in others} & set(PROTOCOL.final_seeds)
    tuning = set(PROTOCOL.tuning_seeds) | set(PROTOCOL.other_tuning_seeds)
    assert {run.seed for run in others if not run.record} == tuning
    assert {run.seed for run in others if run.record} == {*PROTOCOL.tuning_seeds, *PROTOCOL.log_seeds}
    assert not tuning & set(PROTOCOL.log_seeds)


def test_a_schedule_is_never_fitted_on_a_log_of_its_own_seed(done) -> None:
    recorded = {run.key: run for run in done.outcomes if run.record}
    fitted = [run for run in done.outcomes if run.log]
    assert fitted
    assert all(logged(recorded, run).seed != run.seed for run in fitted)


def test_every_final_run_has_a_log_of_its_own(done) -> None:
    for method in ("unguarded(linear)", "paper(wsd)", "paper(paper(linear))"):
        runs = [f.run for f in done.finals if (f.method, f.rates) == (method, "swept")]
        assert len({run.log for run in runs}) == len(runs) == len(PROTOCOL.final_seeds)


def test_a_second_refinement_is_fitted_on_the_first(done) -> None:
    recorded = {run.key: run for run in done.outcomes if run.record}
    twice = [f.run for f in done.finals if f.method == "paper(paper(linear))"]
    assert {logged(recorded, run).schedule for run in twice} == {"paper"}
    first = [logged(recorded, run) for run in twice]
    assert {logged(recorded, run).schedule for run in first} == {"linear:warmup_fraction=0.2"}


def test_the_rule_keeps_the_area_of_tuned_linear_decay(done) -> None:
    linear = done.tuned["linear"]
    area = linear.factor * done.multiplier(linear.arm.schedule, "").mean()
    for method in ("cosine", "wsd", "one-cycle"):
        for rate in rates(done, method, "fixed", "rule"):
            assert rate * done.multiplier(done.fixed[method].arm.schedule, "").mean() == pytest.approx(area, rel=1e-5)
    for final in done.finals:
        if (final.method, final.rates) == ("refined(linear)", "rule"):
            own = done.multiplier(final.run.schedule, final.run.log)
            assert final.run.rate * own.mean() == pytest.approx(area, rel=1e-5)


def test_a_sweep_that_never_gets_worse_ends() -> None:
    cell, _ = finish(lambda run: 1.0 / run.rate)
    assert cell.tuned["cosine"].factor == SGD.rate * 2**10


def test_everything_diverges_but_the_lowest_rates() -> None:
    cell, _ = finish(lambda run: run.rate if run.rate < 1e-3 else math.inf)
    assert cell.tuned["cosine"].factor < 1e-3


def test_what_is_interrupted_goes_on_to_the_same_end(done) -> None:
    """Whatever part of the runs is there, the plan wants only what is missing, and ends with the same finals."""
    rng = np.random.default_rng(0)
    everything = list(done.outcomes)
    for share in (0.2, 0.7, 0.95):
        kept = {run: done.outcomes[run] for run in everything if rng.random() < share}
        for _ in range(200):
            cell = Cell(PROBLEM, SGD, "cpu", PROTOCOL, kept)
            if not cell.missing:
                break
            assert set(cell.missing) <= set(everything) - set(kept)
            kept |= {run: done.outcomes[run] for run in cell.missing}
        assert cell.finals == done.finals


def test_a_log_that_cannot_be_refined_leaves_its_methods_out() -> None:
    cell, _ = finish(optimizer=ADAM, norms=np.full(STEPS, np.nan))
    assert not cell.missing
    assert {m.name for m in METHODS if m.prior} <= cell.failed.keys()
    assert "cosine" in cell.tuned


def test_adam_takes_its_l1_norm_and_sgd_l2() -> None:
    for optimizer, kind in ((SGD, "l2"), (ADAM, "l1")):
        cell, _ = finish(optimizer=optimizer)
        found = cell.fitted("refined", cell.logs["linear"][100]).result
        assert found.norms.kind == kind
        assert found.optimizer == optimizer.family
        assert found.prior.peak_lr == pytest.approx(cell.tuned["linear"].factor)


def test_a_fall_back_to_linear_decay_is_linear_decay_itself() -> None:
    """It is not trained again: rounding would make it another run."""
    cell, _ = finish(norms=np.exp(-np.arange(STEPS) / 20.0))
    assert cell.fitted("refined", cell.logs["linear"][100]).is_linear

    def runs(method: str, kind: str = "swept") -> list[Run]:
        return [f.run for f in cell.finals if (f.method, f.rates) == (method, kind) and f.warmup != "fixed"]

    assert runs("refined(linear)") == runs("linear")
    assert runs("unguarded(linear)") != runs("linear")
    assert not {run.schedule for run in cell.outcomes} & {"refined"}


def test_the_modes_are_what_they_say(done) -> None:
    log = done.logs["linear"][100]
    default, paper, refined, unguarded, progress = (
        done.fitted(mode, log) for mode in ("default", "paper", "refined", "unguarded", "progress")
    )
    assert [found.result.published for found in (default, paper, refined, unguarded)] == [False, True, False, False]
    assert default.schedule == default.result.recommended
    assert paper.schedule == paper.result.refined
    assert refined.schedule == unguarded.schedule == unguarded.result.refined
    assert progress.schedule == done.fitted("progress 1/4", log).schedule
    assert [found.is_linear for found in (default, paper, refined, unguarded, progress)] == [True, *[False] * 4]
    assert len({found.schedule.multiplier.tobytes() for found in (default, paper, refined, progress)}) == 4


def test_only_the_refined_arm_is_linear_decay_where_the_norms_fall_a_lot() -> None:
    falling, _ = finish(norms=np.exp(-np.arange(STEPS) / 20.0))
    guarded, free = (falling.fitted(mode, falling.logs["linear"][100]) for mode in ("refined", "unguarded"))
    assert (guarded.is_linear, free.is_linear) == (True, False)
    assert guarded.schedule == free.result.linear
    assert free.schedule == free.result.refined
    assert guarded.peak_lr_ratio == 1.0


@pytest.mark.parametrize("mode", ["paper", "refined", "unguarded"])
def test_norms_that_cannot_be_refined_give_linear_decay_itself(mode) -> None:
    vanishing = np.append(1.0, np.full(STEPS - 1, 1e-9)) * np.linspace(2.0, 1.0, STEPS)
    cell = finish_with("linear", f"{mode}(linear)", norms=np.where(np.arange(STEPS) < 40, 1.0, vanishing))
    found = cell.fitted(mode, cell.logs["linear"][100])
    assert not found.result.computed
    assert found.is_linear
    assert runs_of(cell, f"{mode}(linear)") == runs_of(cell, "linear")


def finish_with(*names: str, **how: Any) -> Cell:
    by_name = {method.name: method for method in (*METHODS, *TRIED)}
    return finish(protocol=replace(PROTOCOL, methods=tuple(by_name[name] for name in names)), **how)[0]


def runs_of(cell: Cell, method: str) -> set[Run]:
    return {f.run for f in cell.finals if f.method == method and f.rates == "swept" and f.warmup != "fixed"}


def test_a_suite_compares_the_methods_of_its_protocol_alone() -> None:
    falling, left = np.exp(-np.arange(STEPS) / 60.0), 1.0 - np.arange(STEPS) / STEPS
    held = 2.0 + 0.3 * (np.cumsum(left) / left.sum()) ** -0.46 + 0.05 * left  # little noise
    names = "linear", "(1-x)^0.75", "time 1", "default(linear)"
    cell = finish_with(*names, optimizer=ADAM, norms=falling, logged_losses=held)
    assert {final.method for final in cell.finals} == {"linear", "(1-x)^0.75", "time 1", "default(linear)"}
    assert set(cell.logs) == {"linear"}
    assert not cell.failed
    for final in cell.finals:
        if final.method == "(1-x)^0.75":
            bent = polynomial(STEPS, power=0.75).multiplier
            assert_allclose(cell.multiplier(final.run.schedule, final.run.log), with_warmup(bent, 40), rtol=1e-9)
    assert cell.fitted("default", cell.logs["linear"][100]).result.shape == "held"
    linear, *others = (runs_of(cell, name) for name in ("linear", "time 1", "default(linear)"))
    assert not any(linear & other for other in others)


def test_where_the_default_is_linear_decay_it_is_not_trained_again() -> None:
    cell = finish_with("linear", "default(linear)", optimizer=SGD)
    assert cell.fitted("default", cell.logs["linear"][100]).is_linear
    assert runs_of(cell, "linear") == runs_of(cell, "default(linear)")


def test_a_sweep_goes_by_the_mean_over_the_seeds() -> None:
    """One seed likes a rate that ruins the other."""

    def disagreeing(run: Run) -> float:
        return -5.0 if run.seed % 2 and run.rate == 8.0 else 10.0 if run.rate == 8.0 else parabola(run)

    cell, _ = finish(disagreeing)
    assert cell.tuned["cosine"].factor != 8.0
    loved = finish(lambda run: -5.0 if run.rate == 8.0 else parabola(run))[0]
    assert loved.tuned["cosine"].factor == 8.0


def test_the_window_is_where_a_sweep_starts() -> None:
    for window in (1, 3):
        cell = Cell(PROBLEM, SGD, "cpu", Protocol((0, 1), (9,), window=window, half_octaves=True), {})
        rates = sorted({run.rate for run in cell.missing if run.schedule == "cosine:warmup_fraction=0"})
        assert rates == [SGD.rate * 2.0**octave for octave in range(-window, window + 1)]


def test_a_suggested_rate_comes_from_the_bound_where_no_area_tells(done) -> None:
    found = done.fitted("paper", done.logs["constant"][100])
    assert found.peak_lr_ratio is None
    run = next(f.run for f in done.finals if (f.method, f.rates) == ("paper(constant)", "rule"))
    assert run.rate == pytest.approx(done.tuned["constant"].factor * found.peak_lr_ratio_by_bound, rel=1e-5)


def test_linear_decay_again_is_tuned_on_other_seeds_alone(done) -> None:
    assert done.tuned["linear, again"].arm.tuning == PROTOCOL.other_tuning_seeds
    assert {f.warmup for f in done.finals if f.method == "linear, again"} == {"tuned"}
    runs = [
        [f.run for f in done.finals if f.method == name and f.warmup == "tuned"] for name in ("linear", "linear, again")
    ]
    assert runs[0] == runs[1]  # the same choice here: the same runs


def test_another_algorithm_makes_other_runs(done, monkeypatch) -> None:
    from refine.bench import plan

    def changed(mode, *of_log):
        found = whole(mode, *of_log)
        return replace(found, schedule=Schedule(np.linspace(1.0, 0.5, STEPS))) if mode == "paper" else found

    whole = plan.fit
    monkeypatch.setattr(plan, "fit", changed)
    cell = Cell(PROBLEM, SGD, "cpu", PROTOCOL, done.outcomes)
    assert {run.schedule for run in cell.missing} == {"paper"}


def test_a_rate_is_the_same_whatever_the_last_digits() -> None:
    from refine.bench.plan import _rounded

    for rate in (0.25, 2**0.5, 0.1234567891, 3e-5):
        assert _rounded(rate) == _rounded(rate * (1 + 1e-15)) == pytest.approx(rate, rel=1e-5)
    assert _rounded(2**0.5 * 2**0.5 * (1 - 1e-9)) == 2.0


def test_a_sweep_that_is_cut_off_says_so(done) -> None:
    assert not done.tuned["cosine"].at_limit
    assert finish(lambda run: 1.0 / run.rate)[0].tuned["cosine"].at_limit

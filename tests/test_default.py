"""The default: what the losses of a log say of the hold, when they must be silent, and what comes out of a fit."""

import json
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.stats import norm

from refine import GradientNorms, RefineError, Schedule, fit, linear, read_norms
from refine.batch_plan import BATCH_EXPONENT
from refine.default import (
    CAUTION,
    FALLING,
    LONG_HOLD,
    RISING,
    TOO_HIGH,
    Choice,
    batch_level,
    choose,
    next_warmup,
    scheduled,
    words,
)
from refine.families import constant, cosine, with_warmup, wsd
from refine.foretold import law_of
from refine.health import inspect
from refine.level_shifts import shifts_of, shifts_of_losses
from refine.loss_choice import best_k
from refine.loss_limits import bad_fit
from refine.norms import Source
from refine.pool import pool
from refine.prior import Prior, read_prior
from refine.readers import ReadOptions, read_groups
from refine.refinement import held_multiplier, hold_of_k, k_of_hold

T, W, PEAK = 2000, 100, 0.01
STRAIGHT = linear(T, warmup_steps=W).multiplier
NORMS = 3.0 + np.sin(np.arange(T))
ADAM = Source(optimizer="adam")


def remembered(multiplier, c=30.0):
    """Noise of the updates so far, ``sum_j h_j (log(1 + c u_j) - log(1 + c u_{j+1}))``, after each of them; (T,)."""
    area = np.append(0.0, np.cumsum(multiplier))
    return np.array(
        [
            -np.sum(multiplier[: t + 1] * np.diff(np.log1p(c * (area[t + 1] - area[: t + 2]))))
            for t in range(area.size - 1)
        ]
    )


def losses(multiplier=STRAIGHT, progress=1.0, noise=0.4):
    """By a law much as the fitted one: a small share of noise wants a long hold, a large one a low peak."""
    travelled = np.cumsum(multiplier) / T
    scatter = 1.0 + 0.005 * np.random.default_rng(0).normal(size=multiplier.size)
    return (2.0 + progress * 0.35 * travelled**-0.46 + noise * np.log1p(0.15 * remembered(multiplier))) * scatter


KEPT, HIGH = losses(), losses(noise=4.0)


def log(loss=KEPT, multiplier=STRAIGHT, source=ADAM, norms=NORMS, **changes):
    rates = changes.pop("learning_rate", PEAK * multiplier)
    return GradientNorms.from_values(norms, kind="l1", learning_rate=rates, loss=loss, source=source, **changes)


def chosen(norms, steps=T, **how):
    return choose(norms, read_prior(norms), steps, **how)


class TestWords:
    @pytest.mark.parametrize(
        ("choice", "shape", "said"),
        [
            (Choice(1.0, 0.0, "neither", ""), "linear", "linear decay over 5,000 updates"),
            (Choice(1.0, 0.0, "noise", "", shifted=True), "shifted", "anneal with the noise level over 5,000 updates"),
            (Choice(1.92, 0.48, "loss", ""), "held", "hold the peak for 48 % of 5,000 updates, then anneal (k = 1.92)"),
            (
                Choice(1.92, 0.48, "user", "", shifted=True),
                "held, shifted",
                "hold the peak for 48 % of 5,000 updates, then anneal with the noise level (k = 1.92)",
            ),
        ],
    )
    def test_every_shape(self, choice, shape, said):
        assert (choice.shape, words(choice, 5000)) == (shape, said)
        assert words(choice) == said.replace(" over 5,000 updates", "").replace("5,000 updates", "the run")
        assert choice.keeps_peak == (choice.spoke == "loss")


class TestScheduled:
    def test_without_a_hold_it_is_linear_decay_with_the_warmup(self):
        assert_allclose(scheduled(T, W), STRAIGHT, rtol=1e-12)

    @pytest.mark.parametrize(("k", "rest"), [(2.0, 0.5), (4.0, 0.25)])
    def test_a_hold_is_wsd(self, k, rest):
        right = with_warmup(wsd(T, cooldown_fraction=rest).multiplier, W)
        assert_allclose(scheduled(T, W, k), right, rtol=1e-9)

    @pytest.mark.parametrize("warmup", [0, 2, W])
    def test_a_cap_below_1_survives_the_warmup(self, warmup):
        found = scheduled(T, warmup, 0.6)
        assert found.max() == pytest.approx(0.6)
        assert_allclose(found[warmup:] / found.max(), with_warmup(linear(T).multiplier, warmup)[warmup:], rtol=1e-9)

    def test_a_noise_level_is_followed(self):
        level = np.where(np.arange(T) < 1200, 1.0, 3.0)
        assert_allclose(scheduled(T, W, 1.5, level), with_warmup(held_multiplier(1.0 / level, 1.5), W), rtol=1e-12)
        assert_allclose(scheduled(T, W, 1.5, 7.0 * level), scheduled(T, W, 1.5, level), rtol=1e-12)

    def test_the_warmup_is_the_logged_one_or_2_percent(self):
        assert next_warmup(Prior(warmup_steps=37), 9000) == 37
        assert next_warmup(Prior(), 9000) == 180


class TestTheLossesSpeak:
    def test_the_hold_has_the_least_predicted_loss_and_one_error(self):
        choice, law = chosen(log()), law_of(log())
        assert (choice.spoke, choice.shape, choice.shifted) == ("loss", "held", False)
        plain = law.predict("linear", peak_lr=PEAK)

        def cost(hold):
            held = law.predict(Schedule(scheduled(T, W, 1.0 / (1.0 - hold))), peak_lr=PEAK)
            found = law.difference(held, plain)
            return found.value + CAUTION * (found.high - found.low) / (2.0 * norm.ppf(0.95))

        costs = {hold: cost(hold) for hold in (0.05, choice.hold - 0.05, choice.hold, choice.hold + 0.05, 0.95)}
        assert min(costs, key=costs.get) == choice.hold
        assert costs[choice.hold] < 0.0
        assert choice.k == pytest.approx(1.0 / (1.0 - choice.hold))
        gain = law.difference(
            law.predict(Schedule(scheduled(T, W, choice.k)), peak_lr=PEAK), law.predict("linear", peak_lr=PEAK)
        )
        assert choice.reason == (
            f"the losses foretell {gain.value:+.2g} ({gain.low:+.2g} to {gain.high:+.2g}) against linear decay"
        )
        assert gain.value < 0.0

    def test_a_lower_peak_is_held_for_longer(self):
        """The same law, and a run at half of the peak."""
        half = log(losses(0.5 * STRAIGHT), learning_rate=0.5 * PEAK * STRAIGHT)
        assert chosen(half).k > 1.1 * chosen(log()).k

    def test_caution_shortens_the_hold(self):
        best = hold_of_k(np.ones(T), best_k(law_of(log()), T, W, PEAK))
        assert best - 0.1 < chosen(log()).hold < best

    def test_at_another_horizon_a_short_run_holds_longer(self):
        holds = [chosen(log(), steps).hold for steps in (1000, T, 8000)]
        assert holds == sorted(holds, reverse=True)
        assert len(set(holds)) == 3

    def test_a_long_hold_says_that_the_peak_is_low(self):
        choice, law = chosen(log()), law_of(log())
        assert choice.hold > LONG_HOLD
        best = law.predict(Schedule(scheduled(T, W, choice.k)), peak_lr=PEAK)
        gain = best.final_loss - law.predict("linear", peak_lr=2.0 * PEAK).final_loss
        told = f"; linear decay at 2 times the peak is foretold to end {gain:.2g} lower" if gain > 0.0 else ""
        assert choice.peak_advice == f"the peak is low for this horizon: try 2 to 4 times{told}"

    def test_neither_the_optimizer_nor_the_norms_matter(self):
        for other in (
            log(source=Source()),
            log(source=Source(optimizer="sgd")),
            log(norms=np.linspace(5.0, 0.1, T)),
            replace(log(), kind="l2"),
        ):
            assert chosen(other) == chosen(log())

    def test_of_a_part_of_the_run_too(self):
        """Where the rates of the whole are logged up to the last loss."""
        kept = 1700
        part = log(KEPT[:kept], norms=NORMS[:kept], learning_rate=PEAK * STRAIGHT[:kept], logged_steps=T)
        assert chosen(part).spoke == "loss"
        assert chosen(part).k == pytest.approx(chosen(log()).k, rel=0.3)


def silent(norms, why, **how):
    choice = chosen(norms, **how)
    assert (choice.k, choice.hold, choice.spoke, choice.shape) == (1.0, 0.0, "neither", "linear")
    assert choice.reason.startswith(f"neither loss nor noise speaks: {why}"), choice.reason
    return choice


class TestTheLossesAreSilent:
    @pytest.mark.parametrize(
        ("norms", "why"),
        [
            (lambda: log(None), "its norms have no losses beside them"),
            (lambda: log(learning_rate=None), "its norms have no learning rates above 0 beside them"),
            (lambda: log(losses(np.ones(T)), np.ones(T)), "the rate never drops, so nothing says what a decay gains"),
            (lambda: log(np.where(np.arange(T) < 1500, KEPT, 900.0)), "the run diverged"),
            (lambda: pool([log(), log()]), "the losses of pooled logs are a median of runs, and those of no run"),
        ],
        ids=["losses", "rates", "constant", "diverged", "pooled"],
    )
    def test_without_a_law(self, norms, why):
        choice = silent(norms(), why)
        assert choice.peak_advice == ""
        assert "--" not in choice.reason  # remedies are for refine predict

    def test_where_the_fit_is_bad(self):
        norms = log(KEPT * np.where(np.arange(T) % 100 < 10, 3.0, 1.0))
        assert shifts_of_losses(norms) == ()
        (poor, *_) = bad_fit(law_of(norms).fit)
        assert silent(norms, poor).peak_advice == ""

    @pytest.mark.parametrize("jumping", ["losses", "norms"])
    def test_where_losses_or_norms_jump(self, jumping):
        jump = np.where(np.arange(T) < 1200, 1.0, 1.6)
        scatter = np.random.default_rng(1).lognormal(sigma=0.1, size=T)
        norms = log(KEPT * np.minimum(jump, 1.1)) if jumping == "losses" else log(norms=scatter * jump)
        silent(norms, "norms or losses jump at update 1,200, as where data changes, which no law knows")

    def test_where_the_next_run_lies_too_far_off(self):
        assert silent(log(), "4 updates at a peak of 0.01 do not get as far as the burn-in of the logs", steps=4)

    def test_where_the_peak_is_too_high_nothing_is_changed_but_that_is_said(self):
        norms = log(HIGH)
        law = law_of(norms)
        half, plain = (law.predict("linear", peak_lr=rate) for rate in (0.5 * PEAK, PEAK))
        assert law.difference(half, plain).verdict == "better"
        assert silent(norms, "the losses want no hold that they are sure of").peak_advice == TOO_HIGH
        result = fit(norms)
        assert result.recommended == result.linear
        assert result.measures["recommended"].peak_lr_ratio == 1.0  # already run
        assert TOO_HIGH in " ".join(result.summary().split())


def sized(before, after, at=1200, scatter=0.1, loss=KEPT):
    """A log whose batch size changes, and its norms with it; half of their squares is noise."""
    sizes = np.where(np.arange(T) < at, float(before), float(after))
    noise = np.random.default_rng(2).lognormal(sigma=scatter, size=T)
    return log(loss, norms=3.0 * noise * (before / sizes) ** 0.25, batch_size=sizes)


class TestNoise:
    LEVEL = np.where(np.arange(T) < 1200, 1.0, 3.0)

    @pytest.mark.parametrize("loss", [KEPT, None], ids=["losses", "none"])
    def test_where_the_batch_changes_it_speaks_alone(self, loss):
        choice = chosen(log(loss), level=self.LEVEL)
        assert (choice.spoke, choice.shape, choice.k, choice.hold) == ("noise", "shifted", 1.0, 0.0)
        assert choice.reason.startswith("the anneal follows the noise of the batch sizes; the losses do not speak")

    @pytest.mark.parametrize(("before", "after", "power"), [(16, 128, FALLING), (128, 16, RISING)])
    @pytest.mark.parametrize("family", ["sgd", "adam"])
    def test_by_the_power_of_its_direction_and_family(self, before, after, power, family):
        norms = sized(before, after)
        (shift,) = shifts_of(norms)
        assert (shift.step, shift.cause) == (1200, "batch size")
        assert shift.factor == pytest.approx((before / after) ** 0.25, rel=0.03)
        level = batch_level(norms, T, family)
        exponent = power * {"sgd": 2.0, "adam": 1.0}[family]
        assert_allclose(level, np.where(np.arange(T) < 1200, 1.0, shift.factor**exponent), rtol=1e-12)

    def test_it_is_theorem_3_of_the_level(self):
        result = fit(sized(128, 16))
        assert (result.shape, result.choice.spoke) == ("shifted", "noise")
        (shift,) = shifts_of(result.norms)
        slope = -np.diff(result.recommended.multiplier)
        assert slope[300] / slope[1500] == pytest.approx(shift.factor ** (2.0 * RISING), rel=1e-6)  # of 1 / level^2
        equal_area = result.peak_lr("recommended") * result.recommended.multiplier.sum()
        assert equal_area == pytest.approx(PEAK * STRAIGHT.sum(), rel=1e-9)

    def test_a_shift_of_unknown_cause_moves_nothing(self):
        norms = sized(128, 16)
        unknown = replace(norms, batch_size=None)
        assert [shift.cause for shift in shifts_of(unknown)] == ["unknown"]
        assert batch_level(unknown, T, "adam") is None
        result = fit(unknown)
        assert result.recommended == result.linear
        assert result.reason.startswith("neither loss nor noise speaks: norms or losses jump at update 1,2")

    def test_a_plan_of_the_next_run_goes_before_the_log(self):
        level = batch_level(log(), T, "sgd", "64@0,8@1000")
        assert level[999] == 1.0
        assert level[1000] == pytest.approx((64 / 8) ** (BATCH_EXPONENT * 2.0 * RISING))
        assert fit(log(), batch_size="64@0,8@1000").shape == "shifted"
        assert fit(sized(128, 16), batch_size="32@0").shape != "shifted"


class TestUser:
    @pytest.mark.parametrize("level", [None, TestNoise.LEVEL])
    @pytest.mark.parametrize("hold", [0.0, 0.3, 0.75])
    def test_the_hold_that_is_given(self, hold, level):
        choice = chosen(log(), hold=hold, level=level)
        assert (choice.spoke, choice.hold, choice.reason) == ("user", hold, "the hold is as given")
        assert choice.k == pytest.approx(k_of_hold(np.ones(T) if level is None else 1.0 / level, hold))
        assert choice.shifted == (level is not None)

    @pytest.mark.parametrize("hold", [-0.1, 1.0, float("nan"), "0.5"])
    def test_what_is_no_share_is_refused(self, hold):
        with pytest.raises(
            RefineError, match=r"hold is .*; it must be a number from 0 to below 1, the share of the run"
        ):
            fit(log(), hold=hold)

    def test_it_needs_no_losses_and_the_peak_is_that_of_equal_area(self):
        result = fit(log(None), hold=0.5)
        assert_allclose(result.recommended.multiplier, scheduled(T, W, 2.0), atol=1e-14)
        area = result.peak_lr("recommended") * result.recommended.multiplier.sum()
        assert area == pytest.approx(PEAK * STRAIGHT.sum(), rel=1e-9)
        assert fit(log(), hold=0.0).recommended == result.linear

    def test_on_the_command_line(self, run, make_log):
        path = make_log(step=np.arange(1, 401), grad_norm=np.ones(400))
        done = run("fit", path, "--hold", "0.25", "--json", "--no-plot")
        found = json.loads(done.stdout)["recommended"]
        assert (found["name"], found["spoke"], found["hold"]) == ("held", "user", 0.25)
        assert found["k"] == pytest.approx(4 / 3)
        assert Schedule.load("refined/recommended.json").provenance["hold"] == 0.25
        assert run("fit", path, "--hold", "1", "--force").exit_code == 2


class TestFit:
    @pytest.mark.parametrize("total_steps", [None, 3000])
    def test_the_multipliers_are_held_behind_the_logged_warmup(self, total_steps):
        result = fit(log(), total_steps=total_steps)
        steps = total_steps or T
        assert (result.shape, result.warmup_steps, result.level) == ("held", W, None)
        capped = np.minimum(1.0, result.choice.k * (1.0 - np.arange(steps) / steps))
        assert_allclose(result.recommended.multiplier, np.minimum(capped, (np.arange(steps) + 1) / W), rtol=1e-9)

    def test_the_peak_is_the_logged_one(self):
        result = fit(log())
        assert result.measures["recommended"].peak_lr_ratio == 1.0
        assert result.peak_lr("recommended") == pytest.approx(PEAK)
        assert result.measures["linear"].peak_lr_ratio == 1.0
        assert "keep the old one, lr=0.01, for which the hold was chosen" in " ".join(result.summary().split())

    def test_where_norms_fall_far_the_hold_still_has_its_peak(self):
        result = fit(log(norms=np.exp(-np.arange(T) / 300)))
        assert result.measures["refined"].peak_lr_ratio is None
        assert result.peak_lr("recommended") == pytest.approx(PEAK)
        assert not any(note.startswith("near-separable") for note in result.notes)
        without = fit(log(None, norms=np.exp(-np.arange(T) / 300), multiplier=cosine(T).multiplier))
        assert any(note.startswith("near-separable") for note in without.notes)

    @pytest.mark.parametrize("loss", [KEPT, HIGH, None], ids=["held", "high", "none"])
    def test_what_is_said_written_and_kept(self, loss):
        result = fit(log(loss))
        choice = result.choice
        said = " ".join(result.summary().split())
        assert f"recommended {words(choice, T)}, the first 100 of them warmup" in said
        assert f"why {result.reason}" in said
        assert result.reason.startswith(choice.reason)
        data = json.loads(json.dumps(result.to_dict(), allow_nan=False))
        assert data["recommended"] == {
            "name": choice.shape,
            "k": choice.k,
            "hold": choice.hold,
            "spoke": choice.spoke,
            "reason": result.reason,
            "peak_advice": choice.peak_advice,
        }
        assert "progress_ratio" not in data
        kept = result.recommended.provenance
        assert (kept["name"], kept["shape"], kept["reason"]) == ("recommended", choice.shape, result.reason)
        assert (kept["k"], kept["hold"]) == (round(choice.k, 3), round(choice.hold, 3))
        refined = result.refined.provenance
        assert (refined["name"], refined["shape"], "k" in refined) == ("refined", "refined", False)
        assert (refined["reference"], kept.get("reference")) == ("arXiv:2310.07831", None)

    def test_no_warmup_is_none(self):
        bare = linear(T).multiplier
        result = fit(log(losses(bare), bare))
        assert f"{words(result.choice, T)} why" in " ".join(result.summary().split())
        assert_allclose(result.recommended.multiplier, scheduled(T, 0, result.choice.k), atol=1e-14)

    def test_the_published_form_of_the_refined_one_changes_nothing_of_it(self):
        one, other = fit(log()), fit(log(), published=True)
        assert one.recommended == other.recommended
        assert (one.reason, one.choice) == (other.reason, other.choice)

    def test_raised_checks_are_warnings_of_the_refined_one_and_hold_nothing(self):
        """A late rise, spikes and a gap."""
        at = np.arange(T)
        values = np.exp(-at / 1000) + np.clip((at - 1500) / 600, 0.0, None) + np.where((at == 5) | (at == 6), 9e3, 0.0)
        kept = np.delete(at, np.arange(500, 750))
        norms = log(None, norms=values[kept], learning_rate=PEAK * STRAIGHT[kept], steps=kept + 1, logged_steps=T)
        result = fit(norms)
        assert shifts_of(norms) == ()
        raised = {found.rule.name for found in result.checks if found.raised and found.rule.about == "norms"}
        assert raised >= {"late rise", "spikes", "longest gap"}
        for name in raised:
            assert any(text.startswith(f"{name} is ") for text in result.warnings)
        assert {found.rule.name for found in result.against} >= {"late rise", "longest gap"}
        assert "spikes" not in {found.rule.name for found in result.against}
        assert result.recommended == result.linear
        shown = {flag["name"]: flag for flag in result.to_dict()["flags"]}
        assert all(shown[name]["raised"] for name in raised)


class TestAgain:
    def test_a_run_on_the_result_wants_about_the_same(self):
        """Nothing compounds: it is the anneal of the noise that is held, not the logged schedule."""
        first = fit(log())
        held = first.recommended.multiplier
        again = fit(log(losses(held), held))
        assert again.choice.k == pytest.approx(first.choice.k, rel=0.2)
        assert again.peak_lr("recommended") == pytest.approx(PEAK)

    def test_a_run_that_was_held_already_is_told_so(self):
        first = fit(log(None), hold=0.5)
        again = fit(log(None, first.recommended.multiplier), hold=0.5)
        assert again.already_ran
        assert again.measures["recommended"].peak_lr_ratio == 1.0

    def test_a_run_on_the_refined_one_is_no_run_on_the_recommended_one(self):
        values = np.where(np.arange(T) < 300, 9.0, 3.0)
        first = fit(log(None, norms=values))
        again = fit(log(None, first.refined.multiplier, norms=values))
        assert not again.already_ran
        assert again.measures["recommended"].peak_lr_ratio != 1.0


class TestGroups:
    def test_all_have_the_hold_of_the_run(self, tmp_path):
        """The loss is that of the whole run, whose groups share the course of their rates."""
        columns = {"grad_norm_l1": NORMS, "grad_norm_l2": np.sqrt(NORMS)}
        for name in ("w", "b"):
            columns |= {f"{column}/group:{name}": 0.5 * NORMS for column in list(columns) if "/" not in column}
            columns[f"lr/group:{name}"] = PEAK * STRAIGHT
        columns |= {"lr": PEAK * STRAIGHT, "loss": KEPT}
        header = {"format": "refine-gradient-norms", "format_version": 1, "optimizer": "AdamW", "clipping": "none"}
        header |= {"planned_steps": T, "groups": ["w", "b"]}
        rows = (f"{t},{','.join(repr(float(c[t - 1])) for c in columns.values())},,\n" for t in range(1, T + 1))
        path = tmp_path / "run.csv"
        path.write_text(f"# {json.dumps(header)}\nstep,{','.join(columns)},skipped,resumed\n" + "".join(rows))
        found = read_groups(str(path), ReadOptions())
        assert sorted(found) == ["b", "w"]
        assert {chosen(norms).k for norms in found.values()} == {chosen(read_norms(path)).k}


@pytest.mark.parametrize(
    ("schedule", "straight"),
    [(linear(T), True), (cosine(T), True), (wsd(T, cooldown_fraction=0.2), False), (constant(T), False)],
    ids=["linear", "cosine", "wsd", "constant"],
)
def test_what_decays_about_linearly(schedule, straight):
    from refine.default import decays_linearly

    for warmup in (0, W):
        assert decays_linearly(Prior(with_warmup(schedule.multiplier, warmup), PEAK, warmup)) == straight
    ends = [Prior(np.maximum(STRAIGHT, end), PEAK, W) for end in (0.249, 0.251)]
    assert [decays_linearly(prior) for prior in ends] == [True, False]


class TestOurOwnLogs:
    @pytest.mark.parametrize("name", ["shakespeare_adamw", "shakespeare_adamw_clipped", "fashion_mnist_sgd"])
    def test_inspect_tells_what_fit_will_decide(self, root, name):
        norms = read_norms(root / "data" / f"{name}.csv")
        result, found = fit(norms), inspect(norms)
        assert found.choice == result.choice
        assert found.to_dict()["decision"] == result.shape
        said = " ".join(found.summary().split())
        assert f"recommended {words(result.choice)}: {result.choice.reason}" in said

    def test_a_transformer_wants_its_peak_for_longer(self, root):
        result = fit(root / "data" / "shakespeare_adamw.csv")
        assert (result.shape, result.warmup_steps) == ("held", 100)
        assert (result.choice.k, result.choice.hold) == (2.0, 0.5)
        assert result.predicted["recommended"].final_loss < result.predicted["linear"].final_loss

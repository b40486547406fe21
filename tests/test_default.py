"""The default: how its ratio is defined, what decides, and what comes out of a fit and of the next one."""

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from refine import GradientNorms, linear, read_norms, refined_schedule
from refine.default import bend, choose, progress_ratio
from refine.families import constant, cosine, polynomial, with_warmup, wsd
from refine.health import inspect
from refine.norms import Source
from refine.pool import pool
from refine.readers import ReadOptions, read_groups

T, W = 400, 20
RATES = 0.01 * linear(T, warmup_steps=W).multiplier
FLAT = 3.0 + np.sin(np.arange(T))
FALLING = np.exp(-2.0 * np.arange(T) / T)
ADAM = Source(optimizer="adam")
MANY = 1900
POWERS = {"linear": 1.0, "later": 0.75, "earlier": 1.25}


def losses(ratio, rates, values):
    """Of a run with exactly this progress ratio: what each update's noise explains, times it, and 0 at the end."""
    lost = rates * values
    lost[-round(0.05 * lost.size) :] = 0.0
    return 5.0 + ratio * lost * np.sum(rates**2 * values) / (2.0 * np.sum(rates * lost))


def adam(ratio=2.0, values=FLAT, rates=RATES, kind="l1", source=ADAM, **changes):
    """A log of Adam; ``changes`` replace columns."""
    loss = changes.pop("loss", losses(ratio, rates, values))
    l1, rates = changes.pop("l1", None), changes.pop("learning_rate", rates)
    norms = GradientNorms.from_values(values, kind=kind, learning_rate=rates, loss=loss, source=source, **changes)
    return norms if l1 is None else replace(norms, l1=l1)


class TestProgressRatio:
    @pytest.mark.parametrize(("size", "last"), [(5, 1), (29, 1), (30, 2), (400, 20), (1010, 50)])
    def test_the_end_is_the_mean_of_the_last_twentieth(self, size, last):
        loss = np.zeros(size)
        loss[-last:] = 7.0 + np.linspace(-1.0, 1.0, last) if last > 1 else 7.0
        rates, squared = np.full(size, 0.5), np.full(size, 4.0)
        expected = 2.0 * (0.5 * -7.0 * (size - last)) / (0.25 * 4.0 * size)
        assert progress_ratio(loss, rates, squared) == pytest.approx(expected, rel=1e-12)

    @given(st.integers(0, 2**32 - 1), *[st.floats(1e-6, 1e6)] * 2, st.floats(-100.0, 100.0))
    def test_units_never_matter(self, seed, a, b, shift):
        """Loss b times as large, and so the gradient; steps a times as long. SGD's N = G^2, rates in a^2 / b."""
        rng = np.random.default_rng(seed)
        loss, rates, norm = rng.normal(size=60), rng.random(60), rng.lognormal(size=60)
        of_adam, of_sgd = (progress_ratio(loss, rates, squared) for squared in (norm, norm**2))
        close = {"rel": 1e-9, "abs": 1e-9}
        assert progress_ratio(b * loss, a * rates, norm * b / a) == pytest.approx(of_adam, **close)
        assert progress_ratio(b * loss, rates * a**2 / b, (norm * b / a) ** 2) == pytest.approx(of_sgd, **close)
        assert progress_ratio(loss + shift, rates, norm) == pytest.approx(of_adam, **close)
        thrice = (np.repeat(column, 3) for column in (loss, rates, norm))
        assert progress_ratio(*thrice) == pytest.approx(of_adam, **close)

    def test_of_no_noise_there_is_none(self):
        assert math.isnan(progress_ratio(np.ones(40), np.zeros(40), np.ones(40)))


def descend(sample, x, rates):
    """SGD from x: distance gained, squared; loss, N; ``sample(x)`` gives loss and gradient, the solution is 0."""
    start, found = x, []
    for rate in rates:
        loss, gradient = sample(x)
        found.append((loss, gradient @ gradient))
        x = x - rate * gradient
    return start @ start - x @ x, *np.array(found).T


def ratio_to_minimum(loss, rates, squared):
    """With 0, the exact minimum, for the last twentieth, at rate 0."""
    end = np.zeros(loss.size // 19)
    return progress_ratio(*(np.append(column, end) for column in (loss, rates, squared)))


class TestTheorem:
    """|x_1 - x*|^2 - |x_{T+1} - x*|^2 >= (ratio - 1) sum of eta^2 N."""

    @pytest.mark.parametrize("rate", [0.003, 0.03, 0.09])
    def test_minibatches_of_a_quadratic_make_it_twice_the_ratio(self, rate):
        """Least squares that can be solved: <g, x - x*> = 2 (L - L*) of every batch."""
        rng = np.random.default_rng(0)
        table = rng.normal(size=(200, 6)) * np.geomspace(1.0, 0.03, 6)

        def sample(x):
            rows = table[rng.integers(200, size=4)]
            return 0.5 * np.mean((rows @ x) ** 2), rows.T @ (rows @ x) / 4

        rates = rate * linear(MANY).multiplier
        gained, loss, squared = descend(sample, rng.normal(size=6), rates)
        noise, ratio = np.sum(rates**2 * squared), ratio_to_minimum(loss, rates, squared)
        assert gained == pytest.approx((2.0 * ratio - 1.0) * noise, rel=1e-9)
        assert gained > (ratio - 1.0) * noise

    @pytest.mark.parametrize("rate", [0.01, 0.3])
    def test_distances_attain_it_and_what_lies_between_lies_between(self, rate):
        rates, start = rate * linear(MANY).multiplier, np.array([3.0, -1.0, 0.2])
        gained, loss, squared = descend(lambda x: (np.abs(x).sum(), np.sign(x)), start, rates)
        noise, ratio = np.sum(rates**2 * squared), ratio_to_minimum(loss, rates, squared)
        assert gained == pytest.approx((ratio - 1.0) * noise, rel=1e-9)

        def rounded(x):
            root = np.sqrt(1.0 + x**2)
            return np.sum(root - 1.0), x / root

        gained, loss, squared = descend(rounded, start, rates)
        noise, ratio = np.sum(rates**2 * squared), ratio_to_minimum(loss, rates, squared)
        assert (ratio - 1.0) * noise < gained < (2.0 * ratio - 1.0) * noise

    def test_a_run_that_has_arrived_has_a_half(self):
        """A quadratic in 50 dimensions, gradients with noise, begun in its stationary spread; begun further out: more.

        Its last twentieth still lies above the minimum, which makes the ratio smaller.
        """
        rng, rate = np.random.default_rng(1), 0.02
        rates, spread = rate * linear(MANY).multiplier, math.sqrt(rate / (2.0 - rate))

        def noisy(x):
            return 0.5 * x @ x, x + rng.normal(size=50)

        for away, whole, shown in ((1.0, (0.47, 0.55), (0.38, 0.47)), (30.0, (5.0, 50.0), (5.0, 50.0))):
            _, loss, squared = descend(noisy, away * spread * rng.normal(size=50), rates)
            assert whole[0] < ratio_to_minimum(loss, rates, squared) < whole[1]
            assert shown[0] < progress_ratio(loss, rates, squared) < shown[1]


UP, DOWN = math.inf, -math.inf


class TestChoose:
    @pytest.mark.parametrize(
        ("rho", "ratio", "decision", "reason"),
        [
            (0.2, math.nextafter(1.2, UP), "later", "rho 0.2, progress ratio 1.2 is above 1.2: the loss fell by more"),
            (0.2, 1.2, "linear", "rho 0.2, progress ratio 1.2 not above 1.2"),
            (0.2, -5.0, "linear", "rho 0.2, progress ratio -5 not above 1.2"),
            (9.0, 50.0, "later", "rho 9, progress ratio 50 is above 1.2: the loss fell by more than noise explains"),
            (math.nextafter(0.2, DOWN), 50.0, "linear", "rho 0.2 is below 0.2, progress ratio 50 not below 1"),
            (0.1, 1.0, "linear", "rho 0.1 is below 0.2, progress ratio 1 not below 1"),
            (0.1, math.nextafter(1.0, DOWN), "earlier", "rho 0.1 is below 0.2, progress ratio 1 below 1: only its own"),
            (0.0, -5.0, "earlier", "rho 0 is below 0.2, progress ratio -5 below 1: only its own noise is left"),
            (0.9, "no losses", "linear", "rho 0.9, progress ratio unknown (no losses)"),
            (0.1, "no losses", "linear", "rho 0.1, progress ratio unknown (no losses)"),
        ],
    )
    def test_both_sides_of_every_threshold(self, rho, ratio, decision, reason):
        found = choose({"rho": rho, "progress ratio": ratio, "points": 12.0})
        assert found.bend == decision
        assert found.reason.startswith(reason)

    def test_without_rho_nothing_is_bent(self):
        assert choose({"rho": None, "progress ratio": 2.0}).bend == "linear"
        assert choose({}).bend == "linear"


def unknown(norms, **options):
    """Why there is no ratio, as it is said."""
    result = refined_schedule(norms, **options)
    assert result.decision == "linear"
    assert result.progress_ratio is None
    assert result.to_dict()["progress_ratio"] is None
    before, _, reason = result.reason.partition(", progress ratio unknown (")
    assert before.startswith("rho ")
    assert result.reason in result.summary()
    return reason.removesuffix(")")


OF_A_GROUP = "the loss is the whole model's, the norm a group's"


def at(places, value, column):
    return np.where(np.isin(np.arange(T), places), value, column)


class TestUnknown:
    """The same log has a ratio of 2, and is decided by it, where nothing is missing."""

    LOSS = losses(2.0, RATES, FLAT)

    def test_nothing_is_missing(self):
        """Nor where a tenth of the losses lack, or 39 of 400 in one stretch."""
        lacking = [adam(loss=at(gone, np.nan, self.LOSS)) for gone in (range(5, T, 10), range(100, 139))]
        for norms in (adam(), adam(kind="dual", values=1.0 / FLAT, loss=self.LOSS, l1=FLAT), *lacking):
            assert refined_schedule(norms).decision == "later"
        assert refined_schedule(adam()).progress_ratio == pytest.approx(2.0, rel=1e-12)
        assert refined_schedule(adam(source=Source()), optimizer="adam").decision == "later"

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"source": Source()}, "the optimizer is assumed: give --optimizer"),
            ({"source": Source(optimizer="sgd")}, "it was tried for the Adam family only"),
            ({"kind": "l2"}, "it takes the l1 norm, which GradNormRecorder logs"),
            ({"kind": "dual"}, "it takes the l1 norm, which GradNormRecorder logs"),
            ({"source": replace(ADAM, kind_known=False)}, "it takes the l1 norm, which GradNormRecorder logs"),
            ({"source": replace(ADAM, columns={"norm": "grad_norm_l1/group:w"})}, OF_A_GROUP),
            ({"loss": None}, "the log holds no losses"),
            ({"learning_rate": None}, "the learning rates of the whole run are not known"),
            ({"learning_rate": at(range(200, T), np.nan, RATES)}, "the learning rates of the whole run are not known"),
            ({"learning_rate": np.maximum(RATES, 0.00251)}, "the logged run did not decay about linearly"),
            ({"loss": at(range(100, 141), np.nan, LOSS)}, "359 losses are too few"),
            ({"loss": at([7], 1e9, LOSS)}, "a single update makes most of it"),
            ({"values": at([7], 1e9, FLAT), "loss": LOSS}, "a single update makes most of it"),
            ({"learning_rate": 1e-180 * RATES}, "loss, rates and norms give no number"),
        ],
    )
    def test_why(self, changes, reason):
        assert unknown(adam(**changes)) == reason

    def test_a_rate_that_ends_just_low_enough_is_annealed(self):
        assert refined_schedule(adam(learning_rate=np.maximum(RATES, 0.00249))).decision == "later"

    @pytest.mark.parametrize(("missing", "reason"), [(9, "99 losses are too few"), (8, None)])
    def test_a_hundred_losses_are_enough(self, missing, reason):
        """Of 108 updates."""
        rates, loss = 0.01 * linear(108).multiplier, np.linspace(3.0, 1.0, 108)
        loss[10 : 10 * missing + 1 : 10] = np.nan
        norms = adam(values=np.full(108, 0.5), rates=rates, loss=loss)
        assert unknown(norms) == reason if reason else refined_schedule(norms).decision == "later"

    @pytest.mark.parametrize(("kept", "known"), [(200, False), (359, False), (362, True)])
    def test_a_part_of_the_run_tells_nothing_of_the_whole(self, kept, known):
        part = GradientNorms.from_values(
            FLAT[:kept], kind="l1", loss=self.LOSS[:kept], logged_steps=T, source=ADAM, learning_rate=RATES[:kept]
        )
        prior = {"prior_schedule": linear(T, warmup_steps=W), "peak_lr": 0.01}
        if known:
            assert refined_schedule(part, **prior).progress_ratio
        else:
            assert re.fullmatch(r"\d+ updates in one stretch are not logged", unknown(part, **prior))
        if kept < 360:  # nine in ten of the rates would be the whole run's
            assert unknown(part) == "the learning rates of the whole run are not known"

    def test_the_peak_must_be_known(self):
        norms = adam(learning_rate=None)
        assert unknown(norms, prior_schedule=linear(T, warmup_steps=W)) == (
            "the peak learning rate is not known: give --peak-lr"
        )
        found = refined_schedule(norms, prior_schedule=linear(T, warmup_steps=W), peak_lr=0.01)
        assert found.progress_ratio == pytest.approx(2.0, rel=1e-9)

    @pytest.mark.parametrize("start", [0, 100, 340])
    def test_a_hole_of_more_than_a_tenth_is_refused(self, start):
        for size, refused in ((38, False), (50, True)):
            kept = np.delete(np.arange(T), np.arange(start, start + size))
            norms = adam(values=FLAT[kept], rates=RATES[kept], loss=self.LOSS[kept], steps=kept + 1, logged_steps=T)
            prior = {"prior_schedule": linear(T, warmup_steps=W), "peak_lr": 0.01}
            if refused:
                assert re.fullmatch(r"5[01] updates in one stretch are not logged", unknown(norms, **prior))
            else:
                assert refined_schedule(norms, **prior).progress_ratio == pytest.approx(2.0, rel=0.1)

    def test_pooled_logs_have_none(self):
        assert unknown(pool([adam(), adam()]), smoothing=0.0) == "it is that of a single log"

    @pytest.mark.parametrize(
        ("schedule", "straight"),
        [
            (linear(T), True),
            (cosine(T), True),
            (polynomial(T, power=0.75), True),
            (polynomial(T, power=1.25), True),
            (wsd(T, cooldown_fraction=0.2), False),
            (constant(T), False),
        ],
        ids=["linear", "cosine", "later", "earlier", "wsd", "constant"],
    )
    def test_what_decays_about_linearly(self, schedule, straight):
        for warmup in (0, W):
            rates = 0.01 * with_warmup(schedule.multiplier, warmup)
            norms = adam(rates=rates)
            if straight:
                found = refined_schedule(norms)
                assert (found.decision, found.progress_ratio) == ("later", pytest.approx(2.0, rel=1e-9))
            else:
                assert unknown(norms) == "the logged run did not decay about linearly"

    def test_one_in_ten_rows_are_enough(self):
        """A run of 4,000 updates of which every tenth is logged."""
        steps, rates = np.arange(10, 4001, 10), 0.01 * linear(4000, warmup_steps=200).multiplier[9::10]
        norms = GradientNorms.from_values(
            FLAT, steps, kind="l1", loss=losses(2.0, rates, FLAT), learning_rate=rates, source=ADAM
        )
        assert refined_schedule(norms).progress_ratio == pytest.approx(2.0, rel=1e-6)

    def test_rows_weigh_by_the_updates_they_stand_for(self):
        """Every update of the first tenth, then every 10th: the ratio of the full log."""
        total = 4000
        rates = 0.01 * linear(total, warmup_steps=200).multiplier
        values = 3.0 + np.sin(np.arange(total))
        early = 1.0 + 9.0 * np.exp(-np.arange(total) / 200)
        full = adam(2.0, values, rates, loss=5.0 + (losses(2.0, rates, values) - 5.0) * early)
        kept = np.concatenate([np.arange(400), np.arange(400, total, 10)])
        prior = {"prior_schedule": linear(total, warmup_steps=200), "peak_lr": 0.01}
        part = adam(values=values[kept], rates=rates[kept], loss=full.loss[kept], steps=kept + 1, logged_steps=total)
        whole = refined_schedule(full, **prior).progress_ratio
        assert whole == pytest.approx(progress_ratio(full.loss, rates, values), rel=1e-9)
        assert refined_schedule(part, **prior).progress_ratio == pytest.approx(whole, rel=0.1)
        assert progress_ratio(part.loss, rates[kept], values[kept]) > 1.2 * whole  # as many updates a row

    @given(st.lists(st.integers(1, 9), min_size=20, max_size=60), st.integers(0, 2**32 - 1))
    def test_a_row_for_many_updates_counts_as_often(self, each, seed):
        rng, each = np.random.default_rng(seed), np.array([*each, 1])
        columns = rng.normal(size=each.size), 1.0 + rng.random(each.size), 1.0 + rng.random(each.size)
        each[-1] = max(1, round(each.sum() / 19))  # the last row is the last twentieth
        repeated = progress_ratio(*(np.repeat(column, each) for column in columns))
        assert progress_ratio(*columns, each.astype(float)) == pytest.approx(repeated, rel=1e-9, abs=1e-9)


def recorded(place, l1=FLAT, dual=None, **groups):
    """A log as GradNormRecorder writes it; ``groups``: norms of each kind, of param groups."""
    columns = {"grad_norm_l1": l1, "grad_norm_l2": np.sqrt(FLAT)}
    columns |= {} if dual is None else {"grad_norm_dual": dual}
    for name, of_group in groups.items():
        columns |= {f"{column}/group:{name}": 0.5 * of_group for column in columns if "/" not in column}
        columns[f"lr/group:{name}"] = RATES
    columns |= {"lr": RATES, "loss": TestUnknown.LOSS}
    header = {"format": "refine-gradient-norms", "format_version": 1, "optimizer": "AdamW", "clipping": "none"}
    header |= {"planned_steps": T, "groups": list(groups)} if groups else {"planned_steps": T}
    rows = (f"{t},{','.join(repr(float(c[t - 1])) for c in columns.values())},,\n" for t in range(1, T + 1))
    text = f"# {json.dumps(header)}\nstep,{','.join(columns)},skipped,resumed\n"
    path = place / "run.csv"
    path.write_text(text + "".join(rows))
    return str(path)


class TestL1BesideDual:
    def test_it_decides(self, tmp_path):
        """The dual norm alone would have had a ratio of 0.2."""
        path = recorded(tmp_path, dual=10.0 * FLAT)
        read, told = read_norms(path), read_norms(path, norm_kind="l1")
        assert (read.kind, told.kind, told.l1) == ("dual", "l1", None)
        assert_allclose(read.l1, FLAT)
        own, other = refined_schedule(read), refined_schedule(told)
        assert own.progress_ratio == other.progress_ratio == pytest.approx(2.0, rel=1e-9)
        assert (own.decision, other.decision) == ("later", "later")

    def test_dual_alone_tells_nothing(self, tmp_path):
        path = recorded(tmp_path, dual=10.0 * FLAT)
        norms = replace(read_norms(path), l1=None)
        assert unknown(norms) == "it takes the l1 norm, which GradNormRecorder logs"

    @pytest.mark.parametrize("norm_kind", ["l1", "dual"])
    def test_groups_stay_linear(self, tmp_path, norm_kind):
        path = recorded(tmp_path, dual=10.0 * FLAT, w=FLAT, b=FLAT)
        found = read_groups(path, ReadOptions(norm_kind=norm_kind))
        assert sorted(found) == ["b", "w"]
        for norms in found.values():
            assert norms.kind == norm_kind
            assert unknown(norms) == OF_A_GROUP
        assert refined_schedule(read_norms(path, norm_kind=norm_kind)).decision == "later"


CASES = [("later", 2.0, FLAT), ("linear", 1.1, FLAT), ("earlier", 0.9, FALLING), ("linear", 1.1, FALLING)]


class TestFit:
    @pytest.mark.parametrize(("decision", "ratio", "values"), CASES)
    @pytest.mark.parametrize("total_steps", [None, 1000])
    def test_the_multipliers_are_those_of_the_bend_behind_the_logged_warmup(self, decision, ratio, values, total_steps):
        result = refined_schedule(adam(ratio, values), total_steps=total_steps)
        assert (result.mode, result.decision, result.warmup_steps) == ("auto", decision, W)
        assert result.progress_ratio == pytest.approx(ratio, rel=1e-9)
        left = 1.0 - np.arange(total_steps or T) / (total_steps or T)
        bent = left ** POWERS[decision]
        bent[: W - 1] = bent[W - 1] * np.arange(1, W) / W
        assert_allclose(result.schedule.multiplier, bent / bent[W - 1], rtol=1e-9)
        assert_allclose(bend(decision, 50), (1.0 - np.arange(50) / 50) ** POWERS[decision], rtol=1e-12)

    @pytest.mark.parametrize(("decision", "ratio", "about"), [("later", 2.0, 0.875), ("linear", 1.1, 1.0)])
    def test_the_peak_is_that_of_equal_area(self, decision, ratio, about):
        result = refined_schedule(adam(ratio))
        found = result.to_dict()
        assert result.decision == decision
        assert found["peak_lr_ratio"] == pytest.approx(about, abs=0.01)
        area = found["suggested_peak_lr"] * result.schedule.multiplier.sum()
        assert area == pytest.approx(RATES.sum(), rel=1e-9)

    def test_where_norms_fall_far_no_peak_is_suggested(self):
        result = refined_schedule(adam(0.9, FALLING))
        assert (result.decision, result.peak_lr_ratio, result.peak_lr_ratio_by_bound) == ("earlier", None, None)
        assert any(warning.startswith("near-separable") for warning in result.warnings)
        said = " ".join(result.summary().split())
        assert (
            "no rule is trusted on norms that fall this far; the old one is what was tried with this schedule" in said
        )

    @pytest.mark.parametrize(("decision", "ratio", "values"), CASES)
    def test_what_is_said_first_written_and_kept(self, decision, ratio, values):
        result = refined_schedule(adam(ratio, values))
        shape = (
            f"{decision} than linear decay, (1 - t/T)^{POWERS[decision]}," if decision != "linear" else "linear decay"
        )
        assert result.summary().splitlines()[0] == f"{shape} with warmup for 400 updates: {result.reason}"
        assert f"progress ratio {ratio:g} " in result.reason
        data = json.loads(json.dumps(result.to_dict(), allow_nan=False))
        assert (data["mode"], data["decision"], data["reason"]) == ("auto", decision, result.reason)
        assert data["progress_ratio"] == result.progress_ratio
        kept = result.schedule.provenance
        assert (kept["mode"], kept["decision"], kept["reason"]) == ("auto", decision, result.reason)

    def test_no_warmup_is_none(self):
        rates = 0.01 * linear(T).multiplier
        result = refined_schedule(adam(rates=rates))
        assert result.summary().startswith("later than linear decay, (1 - t/T)^0.75, for 400 updates: ")
        assert_allclose(result.schedule.multiplier, linear(T).multiplier ** 0.75, rtol=1e-9)

    def test_other_modes_give_no_reason(self):
        for mode in ("refined", "paper", "progress", "linear"):
            result = refined_schedule(adam(), mode=mode)
            data = result.to_dict()
            assert (result.reason, data["reason"], "reason" in result.schedule.provenance) == ("", None, False)
            assert data["progress_ratio"] == pytest.approx(2.0)

    def test_flags_about_weighting_by_norms_are_no_warnings(self):
        """A late rise: raised, and not said, as nothing was weighted; spikes and a gap are said in every mode."""
        values = np.where(np.arange(T) < 360, np.exp(-np.arange(T) / 200), 0.3) + at([5, 6], 9e3, np.zeros(T))
        steps = np.delete(np.arange(1, T + 1), np.arange(100, 150))
        kept = steps - 1
        norms = GradientNorms.from_values(
            values[kept], steps, kind="l1", learning_rate=RATES[kept], source=ADAM, logged_steps=T
        )
        result, weighted = refined_schedule(norms), refined_schedule(norms, mode="refined", guard=False)

        def named(of, among):
            return {name for name in among if any(text.startswith(f"{name} is ") for text in of.warnings)}

        raised = {flag.rule.name for flag in result.flags if flag.raised}
        assert raised == {"late rise", "spikes", "longest gap"}
        assert named(result, raised) == {"spikes", "longest gap"}
        assert named(weighted, raised) == raised
        assert {flag["name"] for flag in result.to_dict()["flags"] if flag["raised"]} == raised
        table = [line for line in result.summary().splitlines() if " if above " in line or " if below " in line]
        assert [row.strip().split("   ")[0] for row in table] == [
            "spikes",
            "longest gap",
            "dip before peak",
            "peak LR ratio",
        ]


class TestAgain:
    @pytest.mark.parametrize(("decision", "ratio", "values"), CASES)
    def test_a_run_on_the_result_gives_the_same_schedule(self, decision, ratio, values):
        """It is linear decay that is bent, not the logged schedule: nothing compounds."""
        first = refined_schedule(adam(ratio, values))
        rates = 0.008 * first.schedule.multiplier
        again = refined_schedule(adam(ratio, values, rates=rates))
        assert (again.decision, again.warmup_steps) == (decision, W)
        assert again.schedule == first.schedule
        assert again.peak_lr_ratio == 1.0

    def test_a_run_that_is_no_longer_far_goes_back_to_linear_decay(self):
        first = refined_schedule(adam(2.0))
        again = refined_schedule(adam(1.1, rates=0.008 * first.schedule.multiplier))
        assert again.schedule == refined_schedule(adam(1.1)).schedule
        assert again.peak_lr_ratio == pytest.approx(first.schedule.multiplier.mean() / again.schedule.multiplier.mean())


class TestOurOwnLogs:
    @pytest.mark.parametrize("name", ["shakespeare_adamw", "shakespeare_adamw_clipped", "fashion_mnist_sgd"])
    def test_inspect_tells_what_fit_will_decide(self, root, name):
        norms = read_norms(root / "data" / f"{name}.csv")
        result, found = refined_schedule(norms), inspect(norms)
        assert (found.choice.bend, found.choice.reason) == (result.decision, result.reason)
        assert (found.to_dict()["decision"], found.to_dict()["reason"]) == (result.decision, result.reason)
        (line,) = [line for line in found.summary().splitlines() if line.startswith("default")]
        assert result.reason[:50] in line

    def test_a_transformer_is_far_from_its_solution(self, root):
        path = root / "data" / "shakespeare_adamw.csv"
        result = refined_schedule(read_norms(path))
        norm, rate, loss = np.genfromtxt(path, delimiter=",", skip_header=2, usecols=(1, 5, 6)).T
        expected = 2.0 * np.sum(rate * (loss - loss[-100:].mean())) / np.sum(rate**2 * norm)
        assert result.progress_ratio == pytest.approx(expected, rel=1e-6)
        assert expected == pytest.approx(1.6992, abs=5e-5)
        assert (result.decision, result.warmup_steps) == ("later", 100)
        assert_allclose(result.schedule.multiplier, with_warmup(linear(2000).multiplier ** 0.75, 100), rtol=1e-9)

    def test_sgd_stays_linear(self, root):
        result = refined_schedule(read_norms(root / "data" / "fashion_mnist_sgd.csv"))
        assert (result.decision, result.progress_ratio) == ("linear", None)
        assert result.reason.endswith("progress ratio unknown (it was tried for the Adam family only)")
        assert_allclose(result.schedule.multiplier, linear(3000, warmup_steps=150).multiplier, rtol=1e-9)

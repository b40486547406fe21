"""Flags and configs: what is stated is the error of the rates that the framework really uses."""

import json
import math
import shlex
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.testing import assert_allclose
from refine.cli.main import main

from refine import RefineError, RefineWarning, Schedule, cosine, from_name, linear, read_norms, refined_schedule
from refine.bound import best_omega
from refine.export import export, render

PEAK = 3e-4
MEMBERS = [
    "constant",
    "constant:warmup_steps=5",
    "linear",
    "linear:warmup_steps=1",
    "linear:warmup_steps=7",
    "linear:warmup_steps=7,final_factor=0.1",
    "cosine",
    "cosine:warmup_steps=10,final_factor=0.05",
    "inverse_sqrt:warmup_steps=10,timescale_steps=10",
    "wsd:cooldown_steps=30,warmup_steps=10",
    "wsd:cooldown_steps=30,warmup_steps=10,shape=sqrt",
    "wsd:cooldown_steps=13,shape=cosine,final_factor=0.1",
    "wsd:cooldown_steps=13,shape=square",
]


def only(monkeypatch, *names):
    """Let these be the nearest members."""
    found = tuple(SimpleNamespace(name=name, family=name.partition(":")[0]) for name in names)
    monkeypatch.setattr("refine.export.flags.nearest", lambda schedule, families, since=0: found)


def bash_flags(text, tmp_path):
    """What bash passes on: flag to value."""
    (tmp_path / "flags.sh").write_text(text)
    script = 'source ./flags.sh; printf "%s\\n" "${REFINED_LR[@]}"'
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    words = done.stdout.split()
    return dict(zip(words[::2], words[1::2], strict=True))


def text_of(rendering):
    return "".join(next(iter(rendering.contents.values())))


# Each framework's rate of update t, an update at a time: its own class where it is installed, else its formula.


def megatron_by_formula(flags, total_steps):
    """get_lr of megatron/core/optimizer_param_scheduler.py, megatron-core 0.16.1; num_steps = t at update t."""
    peak, low, first = (float(flags[name]) for name in ("--lr", "--min-lr", "--lr-warmup-init"))
    warmup, end = int(flags["--lr-warmup-iters"]), int(flags["--lr-decay-iters"])
    for n in range(total_steps):
        if warmup > 0 and n <= warmup:
            yield first + (peak - first) * n / warmup
        elif flags["--lr-decay-style"] == "constant":
            yield peak
        elif flags["--lr-decay-style"] == "inverse-square-root":
            yield max(low, peak * max(warmup, 1) ** 0.5 / max(n, 1) ** 0.5)
        else:
            ratio = (n - warmup) / (end - warmup)
            if (style := flags["--lr-decay-style"]) == "WSD":
                start, style = end - int(flags["--lr-wsd-decay-iters"]), flags["--lr-wsd-decay-style"]
                if n <= start:
                    yield peak
                    continue
                ratio = (n - start) / (end - start)
            shapes = {"linear": 1 - ratio, "cosine": 0.5 * (math.cos(math.pi * ratio) + 1)}
            shapes |= {"exponential": 2 * 0.5**ratio - 1, "minus_sqrt": 1 - math.sqrt(ratio)}
            yield low + shapes[style] * (peak - low)


def megatron_itself(flags, total_steps):
    scheduler = pytest.importorskip("megatron.core.optimizer_param_scheduler").OptimizerParamScheduler
    optimizer = SimpleNamespace(param_groups=[{"lr": 0.0, "weight_decay": 0.0}])
    batch, wsd = 16, flags.get("--lr-wsd-decay-iters")
    made = scheduler(
        optimizer,
        init_lr=float(flags["--lr-warmup-init"]),
        max_lr=float(flags["--lr"]),
        min_lr=float(flags["--min-lr"]),
        lr_warmup_steps=int(flags["--lr-warmup-iters"]) * batch,
        lr_decay_steps=int(flags["--lr-decay-iters"]) * batch,
        lr_decay_style=flags["--lr-decay-style"],
        start_wd=0.0,
        end_wd=0.0,
        wd_incr_steps=total_steps * batch,
        wd_incr_style="constant",
        wsd_decay_steps=None if wsd is None else int(wsd) * batch,
        lr_wsd_decay_style=flags.get("--lr-wsd-decay-style"),
    )
    for _ in range(total_steps):
        yield optimizer.param_groups[0]["lr"]
        made.step(batch)


def torchtitan_by_formula(flags, total_steps):
    """linear_warmup_stable_decay of torchtitan/components/optimizer/lr_scheduler.py, torchtitan 0.3.0."""
    warmup = int(flags["--lr_scheduler.warmup_steps"])
    decay = round(total_steps * float(flags["--lr_scheduler.decay_ratio"]))
    assert warmup + decay <= total_steps  # else torchtitan warns
    stable = total_steps + 1 - warmup - decay
    low = float(flags["--lr_scheduler.min_lr_factor"])
    for step in range(total_steps):
        if step < warmup:
            yield PEAK * (step + 1) / warmup
        elif step < warmup + stable:
            yield PEAK
        else:
            progress = (step + 1 - warmup - stable) / decay
            shapes = {"linear": 1 - progress, "sqrt": 1 - math.sqrt(progress)}
            shapes["cosine"] = 0.5 * (1 + math.cos(math.pi * progress))
            yield PEAK * (low + (1 - low) * shapes[flags["--lr_scheduler.decay_type"]])


def torchtitan_itself(flags, total_steps):
    torch = pytest.importorskip("torch")
    container = pytest.importorskip("torchtitan.components.optimizer.lr_scheduler").LRSchedulersContainer
    convert = {"warmup_steps": int, "decay_ratio": float, "decay_type": str, "min_lr_factor": float}
    settings = {name: kind(flags[f"--lr_scheduler.{name}"]) for name, kind in convert.items()}
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=PEAK)
    made = container.Config(**settings).build(optimizers=[optimizer], training_steps=total_steps)
    for _ in range(total_steps):
        yield optimizer.param_groups[0]["lr"]
        optimizer.step()
        made.step()


def deepspeed_by_formula(config, total_steps):
    """get_lr of deepspeed/runtime/lr_schedules.py, DeepSpeed 0.19.8; last batch t - 1 at update t."""
    kind, p = config["scheduler"]["type"], config["scheduler"]["params"]
    for t in range(total_steps):
        last = t - 1
        if kind == "OneCycle":
            first, second = p["cycle_first_step_size"], p["cycle_second_step_size"]
            x, ratio = t / (first + second), first / (first + second)
            scale = x / ratio if x <= ratio else (x - 1) / (ratio - 1)
            yield p["cycle_min_lr"] + (p["cycle_max_lr"] - p["cycle_min_lr"]) * scale
            continue
        warmup = max(2, p["warmup_num_steps"])
        gamma = max(last, 0) / warmup if p["warmup_type"] == "linear" else math.log(max(last, 0) + 1) / math.log(warmup)
        if kind == "WarmupCosineLR":
            if last < 0:
                yield 0.0
            elif last < warmup:
                yield PEAK * (p["warmup_min_ratio"] + (1 - p["warmup_min_ratio"]) * gamma)
            else:
                x = min(1.0, (last - warmup + 1) / max(1, p["total_num_steps"] - warmup))
                yield PEAK * (p["cos_min_ratio"] + (1 - p["cos_min_ratio"]) * (1 + math.cos(math.pi * x)) / 2)
            continue
        if last >= warmup:
            gamma = 1.0
            if kind == "WarmupDecayLR":
                gamma = max(0.0, (p["total_num_steps"] - last) / max(1.0, p["total_num_steps"] - warmup))
        yield p["warmup_min_lr"] + (p["warmup_max_lr"] - p["warmup_min_lr"]) * gamma


def deepspeed_itself(config, total_steps):
    torch, schedules = pytest.importorskip("torch"), pytest.importorskip("deepspeed.runtime.lr_schedules")
    optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=PEAK)
    made = getattr(schedules, config["scheduler"]["type"])(optimizer, **config["scheduler"]["params"])
    for _ in range(total_steps):
        yield float(optimizer.param_groups[0]["lr"])
        optimizer.step()
        made.step()


BY_FORMULA = {
    "megatron": megatron_by_formula,
    "torchtitan": torchtitan_by_formula,
    "deepspeed": deepspeed_by_formula,
}
ITSELF = {"megatron": megatron_itself, "torchtitan": torchtitan_itself, "deepspeed": deepspeed_itself}


@pytest.fixture(params=BY_FORMULA)
def framework(request):
    return request.param


@pytest.mark.filterwarnings("ignore::refine.RefineWarning")
class TestStatedError:
    @pytest.mark.parametrize("source", [BY_FORMULA, ITSELF], ids=["formula", "itself"])
    @pytest.mark.parametrize("name", MEMBERS)
    @pytest.mark.parametrize("total_steps", [50, 1000])
    def test_it_is_that_of_the_real_rates(self, framework, source, name, total_steps, monkeypatch, tmp_path):
        family = name.partition(":")[0]
        members = {"megatron": (), "torchtitan": ("inverse_sqrt",), "deepspeed": ("inverse_sqrt",)}
        if family in members[framework]:
            pytest.skip(f"{framework} has no {family}")
        only(monkeypatch, name)
        rng = np.random.default_rng(total_steps)
        member = from_name(name, total_steps)
        for h in (member.multiplier, member.multiplier * (1 + 0.05 * rng.random(total_steps))):
            schedule = Schedule.from_rates(h)
            rendering = render(schedule, framework, peak_lr=PEAK)
            text = text_of(rendering)
            given = json.loads(text) if framework == "deepspeed" else bash_flags(text, tmp_path)
            used = np.array(list(source[framework](given, total_steps))) / PEAK
            difference = np.abs(used - schedule.multiplier)
            assert rendering.largest_error == pytest.approx(difference.max(), abs=1e-7)
            spread = np.sum((schedule.multiplier - schedule.multiplier.mean()) ** 2)
            if spread:
                assert rendering.r2 == pytest.approx(1 - np.sum(difference**2) / spread, abs=1e-6)
            else:
                assert rendering.r2 is None
            assert f"within {100 * rendering.largest_error:.3g} % of the peak" in rendering.stated

    @pytest.mark.parametrize("total_steps", [1, 2, 3])
    def test_short_runs(self, framework, total_steps, monkeypatch, tmp_path):
        only(monkeypatch, "constant", "linear")
        rendering = render(linear(total_steps), framework, peak_lr=PEAK)
        text = text_of(rendering)
        given = json.loads(text) if framework == "deepspeed" else bash_flags(text, tmp_path)
        used = np.array(list(BY_FORMULA[framework](given, total_steps))) / PEAK
        assert rendering.largest_error == pytest.approx(np.abs(used - linear(total_steps).multiplier).max(), abs=1e-7)


@pytest.mark.filterwarnings("ignore::refine.RefineWarning")
@pytest.mark.parametrize("total_steps", [1, 2, 3, 300])
def test_every_schedule_has_a_nearest_one(framework, total_steps, root, tmp_path):
    refined = refined_schedule(read_norms(root / "data" / "fashion_mnist_sgd.csv")).refined
    rendering = render(refined.resample(total_steps), framework, peak_lr=PEAK)
    text = text_of(rendering)
    given = json.loads(text) if framework == "deepspeed" else bash_flags(text, tmp_path)
    used = np.array(list(BY_FORMULA[framework](given, total_steps))) / PEAK
    difference = np.abs(used - refined.resample(total_steps).multiplier)
    assert rendering.largest_error == pytest.approx(difference.max(), abs=1e-7)
    if framework != "deepspeed" and total_steps > 3:
        assert rendering.r2 > 0.95


@pytest.mark.parametrize("name", [name for name in MEMBERS if "square" not in name and "inverse" not in name])
def test_megatron_runs_the_same_families_exactly(name, monkeypatch, tmp_path):
    """From peak / W in W - 1 iterations: no update at rate 0."""
    only(monkeypatch, name)
    schedule = from_name(name, 200)
    rendering = render(schedule, "megatron", peak_lr=PEAK)
    assert rendering.largest_error < 1e-8
    used = list(megatron_by_formula(bash_flags(text_of(rendering), tmp_path), 200))
    assert_allclose(used, PEAK * schedule.multiplier, rtol=0, atol=1e-8 * PEAK)
    assert used[0] > 0


def test_the_nearest_of_several_is_taken(monkeypatch):
    only(monkeypatch, "cosine", "linear:warmup_steps=20", "wsd:cooldown_steps=50")
    rendering = render(linear(200, warmup_steps=20), "torchtitan")
    assert rendering.stated.startswith("near linear:warmup_steps=20; the rates of torchtitan will be within ")
    assert rendering.largest_error < 0.01


def test_far_ones_are_warned_of(monkeypatch):
    only(monkeypatch, "cosine")
    with pytest.warns(RefineWarning, match=r"DeepSpeed has no schedule near this one: .* up to 100 % of the peak"):
        rendering = render(cosine(1000), "deepspeed", peak_lr=PEAK)
    assert rendering.largest_error == 1.0  # DeepSpeed's cosine begins with an update at rate 0


def used_by(framework, rendering, total_steps, tmp_path):
    """Rates over the peak, by the framework's formula."""
    text = text_of(rendering)
    given = json.loads(text) if framework == "deepspeed" else bash_flags(text, tmp_path)
    return np.array(list(BY_FORMULA[framework](given, total_steps))) / PEAK


ENDS = [
    *(
        "polynomial:0.5",
        "polynomial:2,final_factor=0.1",
        "exponential:0.1",
        "exponential:0.01",
        "rex:0.2,final_factor=0.1",
    ),
    *(
        "wsd:0.1,shape=square",
        "wsd:0.3,shape=exponential,final_factor=0.1",
        "wsd:0.3,final_factor=0.1",
        "wsd:0.5,shape=sqrt",
    ),
    *(
        "infinite",
        "step:0.5",
        "multistep",
        "power:warmup_steps=50",
        "uba:4",
        "one_cycle",
        "inverse_sqrt:100,warmup_steps=50",
    ),
    *("triangular", "warm_restarts:4"),
]


@pytest.mark.filterwarnings("ignore::refine.RefineWarning")
class TestTheLastIterate:
    """Settings are chosen by the bound on it: what is near the end counts most."""

    @pytest.mark.parametrize("name", [*ENDS, *(f"{n},warmup_steps=50" for n in ENDS[:9])])
    def test_the_last_update_is_within_two_per_cent(self, framework, name, tmp_path):
        schedule = from_name(name, 1000)
        rendering = render(schedule, framework, peak_lr=PEAK)
        assert abs(used_by(framework, rendering, 1000, tmp_path)[-1] - schedule.multiplier[-1]) <= 0.02
        assert ", the last at" not in rendering.stated

    @pytest.mark.parametrize("shape", ["linear", "sqrt", "cosine"])
    @pytest.mark.parametrize("warmup", [0, 50])
    @pytest.mark.parametrize("cooldown", [0.1, 0.3, 0.5])
    def test_wsd_holds_and_cools_down_in_deepspeed(self, shape, warmup, cooldown, tmp_path):
        """It became "constant" where the squares of all updates counted alike."""
        schedule = from_name(f"wsd:{cooldown},shape={shape},warmup_steps={warmup}", 1000)
        used = used_by("deepspeed", render(schedule, "deepspeed", peak_lr=PEAK), 1000, tmp_path)
        middle = round(500 * (1 - cooldown))
        assert used[middle] > (0.8 if warmup else 0.99)
        assert used[-1] < 0.02
        flat = np.ones(1000)
        assert 0.95 < best_omega(used, flat) / best_omega(schedule.multiplier, flat) < 1.05
        if shape == "cosine" and not warmup:
            assert_allclose(used[1:], schedule.multiplier[1:], rtol=0, atol=1e-8)

    @pytest.mark.parametrize("total_steps", [1, 2, 50, 1000])
    @pytest.mark.parametrize("name", ["constant", "linear", "linear:final_factor=0.1"])
    def test_constant_and_straight_lines_are_exact(self, framework, name, total_steps, tmp_path):
        schedule = from_name(name, total_steps)
        rendering = render(schedule, framework, peak_lr=PEAK)
        assert_allclose(used_by(framework, rendering, total_steps, tmp_path), schedule.multiplier, rtol=0, atol=1e-8)

    @pytest.mark.parametrize("total_steps", [50, 1000])
    @pytest.mark.parametrize("warmup", [0, 10])
    @pytest.mark.parametrize("end", ["", ",final_factor=0.1"])
    @pytest.mark.parametrize("name", ["cosine:", *(f"wsd:0.3,shape={s}," for s in ("linear", "sqrt", "cosine"))])
    def test_what_they_have_is_exact(self, name, end, warmup, total_steps, tmp_path):
        schedule = from_name(f"{name}warmup_steps={warmup}{end}", total_steps)
        both = ("megatron", "torchtitan")  # which holds the peak of a warmup once more
        for framework in both[:1] if warmup and name == "cosine:" else both:
            assert render(schedule, framework, peak_lr=PEAK).largest_error < 1e-8

    def test_a_straight_line_of_deepspeed_stays_down(self, tmp_path):
        """Its OneCycle is upside down, and would go up again after the last update."""
        rendering = render(linear(100), "deepspeed", peak_lr=PEAK)
        assert used_by("deepspeed", rendering, 200, tmp_path)[100:].max() < 0.01
        assert json.loads(text_of(rendering))["refine"]["about"].endswith("it is a straight line.")

    def test_a_straight_line_after_a_warmup_starts_low_in_deepspeed(self, tmp_path):
        schedule = from_name("linear:final_factor=0.1,warmup_steps=50", 1000)
        used = used_by("deepspeed", render(schedule, "deepspeed", peak_lr=PEAK), 1000, tmp_path)
        assert_allclose(used, schedule.multiplier, rtol=0, atol=0.02 + 1e-8)  # a rise from 0 to 1, not from 1 / 50

    @pytest.mark.parametrize(
        "name", ["polynomial:0.5", "polynomial:2", "rex:0.2", "wsd:0.3", "wsd:0.3,shape=square", "step"]
    )
    def test_the_member_that_is_named_is_what_the_settings_express(self, framework, name, tmp_path):
        """But for update 0 of a cosine in DeepSpeed, and Megatron's exponential, which is no exponential."""
        rendering = render(from_name(name, 1000), framework, peak_lr=PEAK)
        member = from_name(rendering.stated.partition("near ")[2].partition(";")[0], 1000).multiplier
        used = used_by(framework, rendering, 1000, tmp_path)
        assert_allclose(used[1:], member[1:], rtol=0, atol=0.09 if "exponential" in text_of(rendering) else 0.01)

    def test_an_error_near_the_end_weighs_more(self, monkeypatch):
        """Held for a tenth at the start, or ended at 1.5 % of the peak: the sums of squares are 33 and 0.75."""
        only(monkeypatch, "linear:final_factor=0.015", "wsd:0.9")
        assert render(linear(10_000), "torchtitan").stated.startswith("near wsd:0.9; ")

    def test_a_warmup_is_kept(self, monkeypatch):
        only(monkeypatch, "wsd:0.3", "wsd:0.34,warmup_steps=50")
        schedule = from_name("wsd:0.3,warmup_steps=50", 1000)
        assert render(schedule, "megatron", peak_lr=PEAK).stated.startswith("near wsd:0.34,warmup_steps=50; ")

    def test_a_first_update_at_zero_is_not_all_that_counts(self, monkeypatch):
        only(monkeypatch, "linear:warmup_steps=50", "cosine")
        h = np.where(np.arange(1000) == 0, 0.0, cosine(1000).multiplier)
        with pytest.warns(RefineWarning, match=r"up to 100 % of the peak away \(update 0\)"):
            assert render(Schedule.from_rates(h), "torchtitan").stated.startswith("near cosine; ")

    def test_rates_of_zero_at_the_end(self, framework, tmp_path):
        """As other libraries end: 1 - t / (T - 1)."""
        schedule = Schedule(np.linspace(1.0, 0.0, 1000))
        rendering = render(schedule, framework, peak_lr=PEAK)
        assert rendering.largest_error < 0.002
        assert rendering.stated.startswith("near linear; ")

    def test_a_last_update_that_none_reaches_is_told(self, monkeypatch):
        only(monkeypatch, "constant", "linear:final_factor=0.7")
        with pytest.warns(RefineWarning) as caught:
            rendering = render(from_name("linear:final_factor=0.64", 1000), "torchtitan")
        assert "(update 999), the last at 70 % of the peak and not at 64 %; it takes no other" in str(caught[0].message)
        assert "(farthest at update 999), the last at 70 % of the peak and not at 64 %, R^2 " in rendering.stated

    def test_so_it_is_where_the_largest_error_is_small(self, monkeypatch):
        only(monkeypatch, "linear:final_factor=0.13")
        with pytest.warns(
            RefineWarning, match=r"up to 3 % of the peak away \(update 999\), the last at 13.1 % .* 10.1 %"
        ):
            render(from_name("linear:final_factor=0.1", 1000), "torchtitan")


def test_none_is_an_error(monkeypatch):
    only(monkeypatch)
    with pytest.raises(RefineError, match="torchtitan has no schedule for 7 updates; it takes no other"):
        render(linear(7), "torchtitan")


@pytest.mark.filterwarnings("ignore::refine.RefineWarning")
class TestContinued:
    """A constant rate, its warmup no line, and a cooldown of 500 updates after 3,000."""

    t = np.arange(3500)
    h = np.minimum(np.where(t < 30, np.maximum(0.175, (t + 1) / 30), 1.0), np.minimum((3500 - t) / 500, 1.0) ** 1.02)
    schedule = Schedule(h, {"updates_done": 3000})

    def test_the_stated_error_is_that_of_the_updates_to_come(self, framework, tmp_path):
        rendering = render(self.schedule, framework, peak_lr=PEAK)
        text = text_of(rendering)
        given = json.loads(text) if framework == "deepspeed" else bash_flags(text, tmp_path)
        used = np.array(list(BY_FORMULA[framework](given, 3500))) / PEAK
        difference = np.abs(used - self.h)[3000:]
        assert rendering.largest_error == pytest.approx(difference.max(), abs=1e-7)
        rest = self.h[3000:]
        assert rendering.r2 == pytest.approx(1 - np.sum(difference**2) / np.sum((rest - rest.mean()) ** 2), abs=1e-6)
        assert "; over the updates after 3,000 the rates of " in rendering.stated
        assert f"(farthest at update {3000 + int(difference.argmax()):,})" in rendering.stated
        if framework != "deepspeed":  # which has no plateau behind a warmup
            assert rendering.largest_error < 0.01

    def test_megatron_cools_down_from_there_and_ignores_the_old_scheduler(self, tmp_path):
        rendering = render(self.schedule, "megatron", peak_lr=PEAK)
        flags = bash_flags(text_of(rendering), tmp_path)
        assert flags["--lr-decay-style"] == "WSD"
        assert abs(int(flags["--lr-wsd-decay-iters"]) - 500) <= 1
        assert flags["--lr-warmup-iters"] == "29"
        assert rendering.use[1].endswith('"${REFINED_LR[@]}" --override-opt_param-scheduler')
        whole = render(Schedule(self.h), "megatron", peak_lr=PEAK)
        assert "--override" not in text_of(whole)
        assert whole.largest_error > 0.1

    def test_a_checkpoint_of_megatron_takes_it(self, tmp_path):
        scheduler = pytest.importorskip("megatron.core.optimizer_param_scheduler").OptimizerParamScheduler
        old = {"max_lr": PEAK, "min_lr": 0.0, "lr_warmup_steps": 480, "lr_decay_steps": 80_000, "num_steps": 48_000}
        old |= {"lr_decay_style": "constant", "start_wd": 0.0, "end_wd": 0.0, "wd_incr_style": "constant"}
        flags = bash_flags(text_of(render(self.schedule, "megatron", peak_lr=PEAK)), tmp_path)
        optimizer = SimpleNamespace(param_groups=[{"lr": 0.0, "weight_decay": 0.0}])
        made = scheduler(
            optimizer,
            init_lr=float(flags["--lr-warmup-init"]),
            max_lr=float(flags["--lr"]),
            min_lr=float(flags["--min-lr"]),
            lr_warmup_steps=int(flags["--lr-warmup-iters"]) * 16,
            lr_decay_steps=int(flags["--lr-decay-iters"]) * 16,
            lr_decay_style=flags["--lr-decay-style"],
            start_wd=0.0,
            end_wd=0.0,
            wd_incr_steps=3500 * 16,
            wd_incr_style="constant",
            use_checkpoint_opt_param_scheduler=False,
            override_opt_param_scheduler=True,
            wsd_decay_steps=int(flags["--lr-wsd-decay-iters"]) * 16,
            lr_wsd_decay_style=flags["--lr-wsd-decay-style"],
        )
        made.load_state_dict({**old, "wd_incr_steps": 80_000})
        for t in range(3000, 3500):
            assert optimizer.param_groups[0]["lr"] == pytest.approx(PEAK * self.h[t], abs=0.01 * PEAK)
            made.step(16)


def test_torchtitan_gets_the_peak_where_it_is_known(monkeypatch, tmp_path):
    """The name in torchtitan 0.3.0, whose command line has no --optimizer.lr; 0.2.2 has that one."""
    only(monkeypatch, "linear")
    flags = bash_flags(text_of(render(linear(9), "torchtitan", peak_lr=PEAK)), tmp_path)
    assert flags["--optimizer.param_groups.0.optimizer_kwargs.lr"] == "0.0003"
    unknown = render(linear(9), "torchtitan")
    assert "--optimizer.param_groups.0.optimizer_kwargs.lr" not in bash_flags(text_of(unknown), tmp_path)
    assert unknown.use[0] == "source refined_torchtitan.sh    # the lr of the optimizer is the peak rate"


@pytest.mark.parametrize("framework", ["megatron", "torchtitan"])
def test_the_warning_names_the_command_to_try(framework, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    only(monkeypatch, "linear:warmup_steps=20")
    arguments = ["export", "constant", "--total-steps", "100", "--to", framework, "--peak-lr", "3e-4"]
    done = CliRunner().invoke(main, arguments, catch_exceptions=False)
    first, *rest, command = done.stderr.splitlines()
    assert first.startswith("Warning: ")
    assert all(len(line) <= 115 for line in (first, *rest))
    assert command == "         refine compare LOG SCHEDULE 'linear:warmup_steps=20'"
    words = shlex.split(command.replace("LOG", "constant").replace("SCHEDULE", "cosine"))
    assert CliRunner().invoke(main, [*words[1:], "--total-steps", "100"]).exit_code == 0


@pytest.mark.filterwarnings("ignore::refine.RefineWarning")
class TestFiles:
    HOSTILE = "$(touch pwned)`touch pwned`\ntouch pwned\n)\u2028#\x00"

    def test_texts_from_outside_stay_comments(self, framework, monkeypatch, tmp_path):
        only(monkeypatch, "linear")
        schedule = Schedule(linear(9).multiplier, {self.HOSTILE: [self.HOSTILE], "source": self.HOSTILE})
        text = text_of(
            export(schedule, framework, tmp_path / f"x{'.json' if framework == 'deepspeed' else '.sh'}", peak_lr=1.0)
        )
        if framework == "deepspeed":
            assert text.isascii()
            assert json.loads(text)["refine"]["provenance"]["source"] == self.HOSTILE
        else:
            assert bash_flags(text, tmp_path)["--lr" if framework == "megatron" else "--training.steps"] in ("1", "9")
            head = text.partition("REFINED_LR=(")[0]
            assert all(line.startswith("# ") for line in head.splitlines())
        assert not (tmp_path / "pwned").exists()

    def test_odd_names_are_quoted(self, monkeypatch, tmp_path):
        only(monkeypatch, "linear")
        rendering = export(linear(9), "megatron", tmp_path / "a b;\nc.sh", peak_lr=1.0)
        assert rendering.use[0] == "source " + shlex.quote("a b;\\nc.sh")
        assert bash_flags(text_of(rendering), tmp_path)["--lr"] == "1"

    def test_the_command_says_the_error_and_warns(self, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)
        only(monkeypatch, "cosine")
        arguments = ["export", "cosine", "--total-steps", "100", "--to", "deepspeed", "--peak-lr", "3e-4"]
        done = CliRunner().invoke(main, arguments, catch_exceptions=False)
        assert done.exit_code == 0
        assert done.stderr.startswith("Warning: DeepSpeed has no schedule near this one: ")
        assert "--to torch, and deepspeed.initialize(..., lr_scheduler=make_scheduler)" in done.stderr
        assert all(len(line) <= 115 for line in (done.stdout + done.stderr).splitlines())
        told = " ".join(done.stdout.split())
        assert "wrote refined_deepspeed.json: near cosine; the rates of DeepSpeed will be within 100 %" in told


@pytest.mark.filterwarnings("ignore")
def test_deepspeed_reads_the_file(monkeypatch, tmp_path):
    config = pytest.importorskip("deepspeed.runtime.config").DeepSpeedConfig
    only(monkeypatch, "cosine")
    path = tmp_path / "refined_deepspeed.json"
    export(linear(100), "deepspeed", path, peak_lr=PEAK)
    settings = json.loads(path.read_text())
    read = config({**settings, "train_batch_size": 1, "optimizer": {"type": "AdamW", "params": {"lr": PEAK}}})
    assert read.scheduler_name == settings["scheduler"]["type"]
    assert read.scheduler_params == settings["scheduler"]["params"]

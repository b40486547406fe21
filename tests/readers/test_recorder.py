"""Logs of `refine.torch.GradNormRecorder`, written by hand from the description of its format."""

from __future__ import annotations

import io
import json
import math
from csv import writer

import numpy as np
import pytest

from refine import RefineError, fit, read_norms
from refine.export.tidy import tidy_csv
from refine.health import inspect
from refine.readers import ReadOptions, read_groups
from refine.readers.columns import family, find, group, layer, looks_like_norm, lr_scale, run_in_name

HEADER = {
    "format": "refine-gradient-norms",
    "format_version": 1,
    "generator": "refine 0.1.0",
    "optimizer": "AdamW",
    "clipping": "pre",
    "planned_steps": 40,
    "settings": {"learning_rate": 0.002, "beta1": 0.9, "beta2": 0.999, "weight_decay": 0.05, "clip": 1.0},
}
ODD_NAMES = ["lr", "grad_norm", "step", "loss", "a/b", "x/lr", "x/grad_norm", "x/lr(1e-3)", "a - lr", "0", "adam", ""]


def row(t, **more):
    """One update: norms that all differ."""
    norm = 1.0 + 3.0 / t + 0.01 * (t * 7 % 5)
    return {"step": t, "grad_norm_l1": 9 * norm, "grad_norm_l2": norm, "grad_norm_dual": 3 * norm, "lr": 0.1 / t} | more


def rows(last, first=1, **more):
    return [row(t, **more) for t in range(first, last + 1)]


def jsonl(rows, header=HEADER):
    return "".join(json.dumps(each) + "\n" for each in [header, *rows])


def csv(rows, header=HEADER):
    names = list(dict.fromkeys(name for each in rows for name in each))
    head = io.StringIO()
    writer(head, lineterminator="").writerow(names)
    lines = [",".join("" if each.get(n) is None else f"{each[n]:.17g}" for n in names) for each in rows]
    return f"# {json.dumps(header)}\n" + "".join(line + "\n" for line in [head.getvalue(), *lines])


@pytest.fixture(params=[jsonl, csv], ids=["jsonl", "csv"])
def text(request):
    return request.param


def test_the_norm_of_the_optimizer_is_read(make_log, text):
    norms = read_norms(make_log(text(rows(40, loss=2.5))))
    assert norms.values.tolist() == [row(t)["grad_norm_dual"] for t in range(1, 41)]
    assert (norms.kind, norms.total_steps, norms.from_zero, norms.travel) == ("dual", 40, False, None)
    assert norms.learning_rate.tolist() == [0.1 / t for t in range(1, 41)]
    assert norms.loss.tolist() == [2.5] * 40
    source = norms.source
    assert source.format == {jsonl: "GradNormRecorder, JSON lines", csv: "GradNormRecorder, CSV"}[text]
    assert (source.kind_known, source.optimizer, source.clipping) == (True, "adam", "pre")
    assert (source.lr_alignment, source.notes, dict(norms.dropped)) == ("this_step", (), {})
    assert dict(source.settings) == {
        "optimizer": "AdamW", "learning_rate": 0.002, "beta1": 0.9, "beta2": 0.999, "weight_decay": 0.05, "clip": 1.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("optimizer", "dual", "family", "kind"),
    [("SGD", False, "sgd", "l2"), ("Lion", False, "adam", "l1"), ("SignSGD", False, "adam", "l1"),
     ("NAdam", True, "adam", "dual"), ("Muon", True, None, "dual"), ("Muon", False, None, "l1")],
)  # fmt: skip
def test_which_norm(make_log, text, optimizer, dual, family, kind):
    logged = [{k: v for k, v in each.items() if dual or k != "grad_norm_dual"} for each in rows(40)]
    norms = read_norms(make_log(text(logged, HEADER | {"optimizer": optimizer})))
    assert (norms.source.optimizer, norms.kind) == (family, kind)
    assert read_norms(make_log(text(logged)), norm_kind="l1").values.tolist() == [r["grad_norm_l1"] for r in logged]


def test_families_of_sign_methods():
    assert [family(name) for name in ("SignSGD", "sign_sgd", "Signum", "ASGD")] == ["adam", "adam", "adam", "sgd"]


def test_attached_recorder(make_log, text):
    norms = read_norms(make_log(text(rows(40), HEADER | {"clipping": "unknown"})))
    assert norms.source.clipping == "unknown"


def test_norms_that_are_not_finite_and_skipped_updates(make_log, text):
    lost = dict.fromkeys(["grad_norm_l1", "grad_norm_l2", "grad_norm_dual"])
    logged = rows(40, skipped=None)
    del logged[0]["grad_norm_dual"]  # Adam has no state yet
    logged[4] |= lost
    logged[9] |= lost | {"skipped": 1}
    norms = read_norms(make_log(text(logged)))
    assert norms.steps.tolist() == [t for t in range(2, 41) if t not in (5, 10)]
    assert dict(norms.dropped) == {"without a norm": 1, "non-finite": 1, "skipped by the run": 1}
    assert norms.source.rows == 40


def test_a_resume_undoes_all_from_its_step_on(make_log, text):
    first, second, third = rows(30, resumed=None), rows(25, 21), rows(28, 24)
    second[0]["resumed"] = third[0]["resumed"] = 1
    second, third = ([each | {"grad_norm_dual": n} for each in part] for part, n in ((second, 50.0), (third, 60.0)))
    norms = read_norms(make_log(text([*first, *second, *third])))
    assert norms.steps.tolist() == list(range(1, 29))
    assert norms.values.tolist() == [row(t)["grad_norm_dual"] for t in range(1, 21)] + [50.0] * 3 + [60.0] * 5
    assert dict(norms.dropped) == {"superseded by a resume": 12}
    assert norms.source.rows == 40


def test_a_resume_without_a_gap_undoes_nothing(make_log, text):
    logged = rows(40, resumed=None)
    logged[20]["resumed"] = 1
    norms = read_norms(make_log(text(logged)))
    assert (norms.steps.size, dict(norms.dropped)) == (40, {})


def test_a_resumed_run_that_begins_with_a_skipped_update(make_log, text):
    resumed = [{"step": 11, "resumed": 1, "skipped": 1}, *rows(14, 12)]
    norms = read_norms(make_log(text([*rows(40, resumed=None, skipped=None), *resumed])))
    assert norms.steps.tolist() == [*range(1, 11), 12, 13, 14]
    assert dict(norms.dropped) == {"skipped by the run": 1, "superseded by a resume": 30}


def test_a_running_job(make_log, text):
    """Cut anywhere after the second row, a log reads as the rows before the cut."""
    whole = text(rows(12))
    lines = whole.splitlines(keepends=True)
    begin = len(lines) - 12
    for cut in range(len("".join(lines[: begin + 2])), len(whole) + 1):
        norms = read_norms(make_log(whole[:cut]))
        complete = whole[:cut].count("\n") - begin
        if text is jsonl:
            complete += whole[cut - 1] == "}"
        assert norms.values.tolist() == [row(t)["grad_norm_dual"] for t in range(1, complete + 1)]
        assert norms.total_steps == 40
        cut_line = whole[cut - 1] != "\n" and not (text is jsonl and whole[cut - 1] == "}")
        assert dict(norms.dropped) == ({"truncated last line": 1} if cut_line else {})
        assert norms.source.notes == (
            f"the last norm is of step {complete}, and the run was planned for 40 updates: the rest is taken to be "
            "like the end; if the run is over, say so with --logged-steps",
        )


def test_damaged_lines_are_counted(make_log, text):
    lines = text(rows(40)).splitlines()
    lines[20] = lines[20][:9]
    norms = read_norms(make_log("\n".join(lines) + "\n"))
    assert (norms.steps.size, dict(norms.dropped)) == (39, {"unreadable lines": 1})


def test_a_log_without_updates(make_log, text):
    header = text([row(1)]).splitlines()[: 1 if text is jsonl else 2]
    for cut in range(1, len(header) + 1):
        with pytest.raises(RefineError, match=r"log\.csv: the log holds its header and no update yet; wait until the "):
            read_norms(make_log("\n".join(header[:cut]) + "\n"))
    with pytest.raises(RefineError, match=r"no update yet \(3 skipped by the run\); wait"):
        read_norms(make_log(text([{"step": t, "skipped": 1} for t in (1, 2, 3)])))


@pytest.mark.parametrize(("version", "shown"), [(2, "2"), ("1", "'1'"), (None, "None"), ([1], r"\[1\]")])
def test_another_version_is_refused(make_log, text, version, shown):
    with pytest.raises(RefineError, match=f"the log has format version {shown} and this refine reads 1; upgrade lr-r"):
        read_norms(make_log(text(rows(3), HEADER | {"format_version": version})))


@pytest.mark.parametrize("junk", [None, 7, "x", [], [1], {}, {"clip": [1]}, True, 1e400, -1])
def test_junk_in_the_header_says_nothing(make_log, text, junk):
    header = HEADER | dict.fromkeys(["optimizer", "clipping", "planned_steps", "settings", "groups", "generator"], junk)
    norms = read_norms(make_log(text(rows(40), header)))
    assert norms.values.tolist() == [each["grad_norm_dual"] for each in rows(40)]
    assert (norms.source.optimizer, norms.total_steps) == (None, 40)
    assert norms.source.clipping == "unknown"


def clipped(last=60, threshold=1.2):
    return [
        each | {"clip_coefficient": min(1.0, threshold / (each["grad_norm_l2"] + 1e-6))}
        for each in ({k: v for k, v in r.items() if k != "grad_norm_dual"} for r in rows(last))
    ]


def test_sgd_gets_the_norms_that_it_saw(make_log, text):
    """Up to the threshold, though many norms lie on it: that is no log of norms after clipping."""
    logged = clipped()
    path = make_log(text(logged, HEADER | {"optimizer": "SGD", "planned_steps": 60}))
    norms = read_norms(path, extras=True)
    expected = [each["grad_norm_l2"] * each["clip_coefficient"] for each in logged]
    np.testing.assert_allclose(norms.values, expected, rtol=1e-15)
    assert norms.values.max() <= 1.2
    assert np.mean(norms.values > 1.199) > 0.2
    assert norms.source.clipping == "post"
    assert dict(norms.source.columns) == {
        "norm": "grad_norm_l2", "step": "step", "lr": "lr", "clip": "clip_coefficient"
    }  # fmt: skip
    share = np.mean([each["clip_coefficient"] < 1.0 for each in logged])
    assert norms.source.notes == (
        f'{share:.1%} of the updates were clipped: the norms are "grad_norm_l2" times "clip_coefficient", '
        "as SGD saw them; where the threshold sets them, not the gradient, they are constant, and the schedule is "
        "linear decay",
    )
    assert inspect(norms).health.warnings == ()
    assert norms.extras["raw_grad_norm"].tolist() == [each["grad_norm_l2"] for each in logged]
    assert read_norms(path, optimizer="adam", norm_kind="l2").values.max() == logged[0]["grad_norm_l2"]


def test_other_families_get_the_norms_before_clipping(make_log, text):
    norms = read_norms(make_log(text(clipped(), HEADER | {"planned_steps": 60})), norm_kind="l2")
    assert norms.values.tolist() == [each["grad_norm_l2"] for each in clipped()]
    assert (norms.source.clipping, norms.source.notes) == ("pre", ())


def test_clipping_that_never_happened(make_log, text):
    logged = [{k: v for k, v in each.items() if k != "grad_norm_dual"} for each in rows(60, clip_coefficient=1.0)]
    norms = read_norms(make_log(text(logged, HEADER | {"optimizer": "SGD", "planned_steps": 60})))
    assert norms.values.tolist() == [each["grad_norm_l2"] for each in logged]
    assert (norms.source.clipping, norms.source.notes, "clip" in norms.source.columns) == ("pre", (), False)


def travelling(last, every=5, **more):
    sampled = {"distance": 0.5, "grad_dot_displacement": -0.25, "lr_grad_sum_norm": 2.0}
    found = rows(last, loss=3.0, **more)
    for each in found[every - 1 :: every]:
        each |= {name: value * each["step"] for name, value in sampled.items()}
    return found


def test_travel(make_log, text):
    logged = travelling(40)
    del logged[9]["loss"]
    travel = read_norms(make_log(text(logged))).travel
    at = np.arange(5, 41, 5)
    assert travel.steps.tolist() == at.tolist()
    assert travel.steps.dtype == np.int64
    assert travel.distance.tolist() == (0.5 * at).tolist()
    assert travel.dot.tolist() == (-0.25 * at).tolist()
    assert travel.gradient_sum_norm.tolist() == (2.0 * at).tolist()
    assert travel.learning_rate.tolist() == [0.1 / t for t in at]
    np.testing.assert_array_equal(travel.loss, [3.0, np.nan, *[3.0] * 6])


def test_travel_ends_at_a_resume_and_needs_all_columns(make_log, text):
    resumed = rows(40, 23)
    resumed[0]["resumed"] = 1
    travel = read_norms(make_log(text([*travelling(40, resumed=None), *resumed]))).travel
    assert travel.steps.tolist() == [5, 10, 15, 20]
    assert np.isnan(travel.loss).sum() == 0
    partly = [{k: v for k, v in each.items() if k not in ("distance", "lr")} for each in travelling(40)]
    assert read_norms(make_log(text(partly))).travel is None


def test_travel_in_any_log(make_log):
    columns = {"iteration": [0, 10, 20], "grad_norm": [3, 2, 1], "distance": [0, 1, 2]}
    columns |= {"grad_dot_displacement": [0, 4, 5], "lr_grad_sum_norm": [6, 7, 8]}
    travel = read_norms(make_log(**columns)).travel
    assert (travel.steps.tolist(), travel.dot.tolist()) == ([0, 10, 20], [0.0, 4.0, 5.0])
    assert np.isnan(travel.learning_rate).all()
    assert np.isnan(travel.loss).all()


def of_groups(names, last=40):
    found = []
    for each in rows(last, loss=2.5):
        for i, name in enumerate(names, start=2):
            for kind in ("l1", "l2", "dual"):
                each[f"grad_norm_{kind}/group:{name}"] = i * each[f"grad_norm_{kind}"]
            each[f"lr/group:{name}"] = i * each["lr"]
        found.append(each)
    return found


@pytest.mark.parametrize("name", ODD_NAMES)
def test_columns_of_a_group_are_not_those_of_the_model(name):
    for whole in ("grad_norm_l1", "grad_norm_l2", "grad_norm_dual", "lr"):
        column = f"{whole}/group:{name}"
        assert group(column) == (whole, name)
        assert all(
            not find(role, [column]) for role in ("l2 before clipping", "l2", "l1", "dual", "lr", "step", "loss")
        )
        assert not looks_like_norm(column)
        assert (layer(column), run_in_name(column), lr_scale(column)) == (None, None, 1.0)


def test_groups_do_not_disturb_the_whole(make_log, text):
    alone, grouped = (read_norms(make_log(text(found))) for found in (rows(40, loss=2.5), of_groups(ODD_NAMES)))
    assert alone.values.tolist() == grouped.values.tolist()
    assert alone.learning_rate.tolist() == grouped.learning_rate.tolist()
    assert alone.source.columns == grouped.source.columns
    assert grouped.source.notes == ()


def test_each_group_is_read_by_itself(make_log, text):
    groups = read_groups(str(make_log(text(of_groups(ODD_NAMES)))), ReadOptions())
    assert list(groups) == ODD_NAMES
    for i, (name, norms) in enumerate(groups.items(), start=2):
        assert norms.values.tolist() == [i * each["grad_norm_dual"] for each in rows(40)]
        assert norms.learning_rate.tolist() == [i * each["lr"] for each in rows(40)]
        assert (norms.kind, norms.source.kind_known, norms.source.optimizer) == ("dual", True, "adam")
        assert norms.source.columns["norm"] == f"grad_norm_dual/group:{name}"
        assert norms.source.notes == ()


def test_groups_of_the_kind_and_rates_that_are_asked_for(make_log, text):
    path = str(make_log(text(of_groups(["w"]))))
    assert read_groups(path, ReadOptions(norm_kind="l1"))["w"].kind == "l1"
    assert read_groups(path, ReadOptions(optimizer="sgd"))["w"].source.columns["norm"] == "grad_norm_l2/group:w"
    assert read_groups(path, ReadOptions(lr_column="lr"))["w"].source.columns["lr"] == "lr"


def test_groups_of_sgd_are_clipped_with_the_whole(make_log, text):
    logged = [each | {"grad_norm_l2/group:w": each["grad_norm_l2"] / 2} for each in clipped()]
    norms = read_groups(str(make_log(text(logged, HEADER | {"optimizer": "SGD"}))), ReadOptions())["w"]
    expected = [each["grad_norm_l2"] / 2 * each["clip_coefficient"] for each in logged]
    np.testing.assert_allclose(norms.values, expected, rtol=1e-15)


def test_travel_is_of_the_whole_model(make_log, text):
    logged = [each | {"grad_norm_dual/group:w": 1.0 / each["step"]} for each in travelling(40)]
    path = make_log(text(logged))
    assert read_norms(path).travel is not None
    assert read_groups(str(path), ReadOptions())["w"].travel is None


def test_a_log_without_groups(make_log, text):
    with pytest.raises(
        RefineError,
        match=r'log\.csv: no column holds "grad_norm_dual" of one param group; record the next run with '
        r"GradNormRecorder\(\.\.\., per_group=True\)",
    ):
        read_groups(str(make_log(text(rows(40)))), ReadOptions())


def test_converted_logs_hold_the_groups(make_log, text):
    norms = read_norms(make_log(text(of_groups(["a,b", "lr"]))), extras=True)
    names = ["grad_norm_l1/group:a,b", "grad_norm_l2/group:a,b", "grad_norm_dual/group:a,b", "grad_norm_l1/group:lr"]
    assert set(names) < set(norms.extras)
    assert norms.extras[names[1]].tolist() == [2 * each["grad_norm_l2"] for each in rows(40)]
    again = read_norms(make_log("".join(tidy_csv(norms)), name="tidy.csv"))
    assert again.values.tolist() == norms.values.tolist()
    assert again.learning_rate.tolist() == norms.learning_rate.tolist()


def test_large_logs_are_read_in_one_pass(make_log, text):
    """Columns of 5,000 rows, with marks in many of them: no time that grows with marks times rows."""
    logged = rows(5000)
    for each in logged[1::2]:
        each["resumed"] = 1
    norms = read_norms(make_log(text(logged, HEADER | {"planned_steps": None})))
    assert (norms.steps.size, norms.total_steps) == (5000, 5000)
    assert math.isclose(norms.values[-1], logged[-1]["grad_norm_dual"])


class TestRowsThatAreNoUpdates:
    """Logs of a loop that calls ``record()`` after every micro-batch, or after the step."""

    def marked(self, last, every=4, **more):
        return [row(t, **({"skipped": 1} if t % every else {}), **more) for t in range(1, last + 1)]

    def told(self, make_log, text):
        return [note for note in fit(read_norms(make_log(text))).notes if "record()" in note]

    def test_more_rows_than_planned_and_finite_gradients_that_are_skipped(self, make_log, text):
        (note,) = self.told(make_log, text(self.marked(160)))
        assert note == (
            "160 rows are more than the 40 planned updates; 120 finite gradients are marked as skipped, which a "
            "GradScaler never skips: record() was called more than once per update, as after every micro-batch, or the "
            "loop skipped updates; they do not count here; call record() after the last micro-batch"
        )

    def test_rows_that_are_no_updates_do_not_count(self, make_log, text):
        norms = read_norms(make_log(text(self.marked(160))))
        assert (norms.steps.tolist(), norms.total_steps) == (list(range(1, 41)), 40)
        assert dict(norms.dropped) == {"skipped by the run": 120}
        resumed = [row(t, skipped=None, resumed=int(t == 11)) for t in range(11, 41)]
        norms = read_norms(make_log(text([*self.marked(60, resumed=None), *resumed])))
        assert (norms.steps.tolist(), norms.total_steps) == (list(range(1, 41)), 40)

    def test_each_by_itself(self, make_log, text):
        (note,) = self.told(make_log, text(rows(160)))
        assert note.startswith("160 rows are more than the 40 planned updates: the run went past its plan, or record()")
        (note,) = self.told(make_log, text(self.marked(160), HEADER | {"planned_steps": None}))
        assert note.startswith("120 finite gradients are marked as skipped, which a GradScaler never skips: record()")

    def test_what_a_scaler_skipped_and_a_prolonged_run_are_no_such(self, make_log, text):
        skipped = {"skipped": 1, "grad_norm_l1": None, "grad_norm_l2": None, "grad_norm_dual": None}
        logged = [row(t, **(skipped if t in (41, 42, 43) else {"skipped": None})) for t in range(1, 44)]
        assert self.told(make_log, text(logged)) == []
        assert self.told(make_log, text([*rows(40), *(row(t, resumed=int(t == 41)) for t in range(41, 81))])) == []

    def test_gradients_that_are_larger_in_the_step(self, make_log, text):
        logged = [row(t, clip_coefficient=1.5 if t % 2 else 0.7) for t in range(1, 41)]
        (note,) = self.told(make_log, text(logged))
        assert note.startswith("20 gradients were larger in the step than record() saw them (clip_coefficient above 1)")
        assert self.told(make_log, text([row(t, clip_coefficient=1.0) for t in range(1, 41)])) == []
        assert self.told(make_log, text(logged, HEADER | {"optimizer": "Muon"})) == []  # it may rewrite its gradients


@pytest.mark.parametrize("name", ["Muon", "Prodigy", "LBFGS", "\x1b[31mX"])
def test_an_optimizer_of_no_known_family_is_called_by_its_name(make_log, text, name):
    result = fit(read_norms(make_log(text([row(t, loss=1.0) for t in range(1, 41)], HEADER | {"optimizer": name}))))
    assert (result.optimizer, result.optimizer_source) == ("adam", "assumed")
    shown = name.replace("\x1b", "\\x1b")
    assert result.assumptions[0] == f"optimizer adam for {shown} from the log, whose family is not known (--optimizer)"


@pytest.mark.parametrize("skips", [0, 1, 4])
def test_rates_of_skipped_updates_count(make_log, text, skips):
    """A loss scaler begins too high and skips the first updates; the schedule of the run goes on meanwhile."""
    lost = {"skipped": 1, "grad_norm_l1": None, "grad_norm_l2": None, "grad_norm_dual": None}
    logged = [row(t, lr=0.1 * (1 - (t - 1) / 40), **(lost if t <= skips else {"skipped": None})) for t in range(1, 41)]
    norms = read_norms(make_log(text(logged)))
    assert norms.steps.tolist() == list(range(skips + 1, 41))
    assert dict(norms.dropped) == ({"skipped by the run": skips} if skips else {})
    assert norms.source.rows == 40
    result = fit(norms)
    assert (result.prior.warmup_steps, result.prior.peak_lr) == (0, pytest.approx(0.1))


def test_what_a_resume_has_undone_of_skipped_updates_is_counted_once(make_log, text):
    lost = {"skipped": 1, "grad_norm_l1": None, "grad_norm_l2": None, "grad_norm_dual": None}
    logged = [row(t, **(lost if t in (5, 25) else {"skipped": None}), resumed=None) for t in range(1, 31)]
    norms = read_norms(make_log(text([*logged, *(row(t, resumed=int(t == 21), skipped=None) for t in range(21, 41))])))
    assert norms.steps.tolist() == [t for t in range(1, 41) if t != 5]
    assert dict(norms.dropped) == {"skipped by the run": 2, "superseded by a resume": 9}


def test_a_scaled_loss_and_clipping_before_the_call_are_told(make_log, text):
    scaled = [row(t, clip_coefficient=2.0**-16) for t in range(1, 41)]
    (note,) = [note for note in read_norms(make_log(text(scaled))).source.notes if "power of two" in note]
    assert note.startswith("40 gradients shrank by a power of two between record() and the step: the loss was scaled")
    cut = [row(t, grad_norm_l2=0.5 if t % 3 else 0.01 * t) for t in range(1, 41)]
    (note,) = [note for note in read_norms(make_log(text(cut))).source.notes if "after clipping" in note]
    assert note.startswith("68% of the l2 norms are at their maximum 0.5: record() was called after clipping, which")

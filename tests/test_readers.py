import json

import numpy as np
import pytest

from refine import RefineError, read_norms
from refine.prior import read_prior
from refine.readers.columns import find, named_optimizer

PLAIN = "step,grad_norm\n1,0.5\n2,0.25\n3,0.125\n"


def test_plain_csv(make_log):
    norms = read_norms(make_log(PLAIN))
    assert norms.steps.tolist() == [1, 2, 3]
    assert norms.values.tolist() == [0.5, 0.25, 0.125]
    assert (norms.kind, norms.source.kind_known) == ("l2", False)
    assert norms.source.columns == {"norm": "grad_norm", "step": "step"}
    assert (norms.source.format, norms.source.rows, dict(norms.dropped)) == ("CSV", 3, {})
    assert norms.learning_rate is None
    assert norms.loss is None


@pytest.mark.parametrize(
    "text",
    [
        PLAIN.replace(",", "\t"),
        PLAIN.replace("\n", "\r\n"),
        "\ufeff" + PLAIN,
        PLAIN.replace(",", ";").replace("0.", "0,"),
        PLAIN.replace(",", ";"),
        PLAIN.replace(",", ", "),
        PLAIN.replace(",", " "),
        "  " + PLAIN.replace(",", "   ").replace("\n", "\n   "),
        PLAIN.replace(",", " | "),
        PLAIN.replace("step,grad_norm", "globalStep,gradNorm"),
        PLAIN.replace("step,grad_norm", '"step","grad_norm"').replace(",", ", "),
        PLAIN.replace("\n", "\r"),
        "\n# made by hand\n" + PLAIN,
        "".join(",".join(f'"{cell}"' for cell in line.split(",")) + "\n" for line in PLAIN.split()),
        PLAIN.replace("step,grad_norm", "Iteration,train/Grad-Norm_step"),
        PLAIN.removeprefix("step,grad_norm\n"),
        PLAIN.rstrip("\n"),
        PLAIN.replace("\n", "\n\n"),
        PLAIN.replace("\n", ",\n").replace("norm,", "norm"),
    ],
)
def test_the_same_table_in_other_clothes(make_log, text):
    norms = read_norms(make_log(text.encode()))
    assert norms.steps.tolist() == [1, 2, 3]
    assert norms.values.tolist() == [0.5, 0.25, 0.125]
    assert dict(norms.dropped) == {}


def test_wandb_chart_export(make_log):
    name = "run - a - train/gnorm"
    head = f'"Step","{name}","{name}__MIN","{name}__MAX"\n'
    norms = read_norms(make_log(head + '"0","2.0","2.0","2.0"\n"10","","",""\n"20","1.0","1.0","1.0"'))
    assert norms.source.format == "W&B chart export (CSV)"
    assert norms.source.columns["norm"] == name
    assert norms.steps.tolist() == [0, 20]
    assert norms.total_steps == 40
    assert dict(norms.dropped) == {"without a norm": 1}
    assert len(norms.source.notes) == 1
    bucketed = read_norms(make_log(head + '"0","2.0","1.5","2.5"\n"20","1.0","1.0","1.0"'))
    assert any("bucketed" in note for note in bucketed.source.notes)


def test_delimiters_in_quoted_names_are_none(make_log):
    name = "lr=1e-3;bs=64;wd=0.1\tx - train/grad_norm"
    norms = read_norms(make_log(f'"Step","{name}","{name}__MIN"\n"1","0.5","0.5"\n"2","0.25","0.25"\n'))
    assert norms.source.columns["norm"] == name
    assert norms.values.tolist() == [0.5, 0.25]


def test_learning_rate_and_loss_are_read_from_sparse_rows(make_log):
    log = make_log("step,lr-SGD,grad_2.0_norm_total,train_loss_step\n4,0.1,,\n4,,2.5,1.0\n9,0.05,,\n9,,2.0,0.5\n")
    norms = read_norms(log)
    assert norms.learning_rate.tolist() == [0.1, 0.05]
    assert norms.loss.tolist() == [1.0, 0.5]
    assert (norms.kind, norms.source.kind_known, norms.source.optimizer) == ("l2", True, "sgd")


@pytest.mark.parametrize(
    ("options", "column"),
    [
        ({}, "gnorm_l1"),
        ({"optimizer": "adam"}, "gnorm_l1"),
        ({"optimizer": "sgd"}, "gnorm"),
        ({"norm_kind": "l2"}, "gnorm"),
    ],
)
def test_the_optimizer_decides_between_l1_and_l2(make_log, options, column):
    log = make_log(step=[1, 2], gnorm=[1, 2], gnorm_l1=[10, 20])
    assert read_norms(log, **options).source.columns["norm"] == column


def test_a_log_that_names_sgd_gives_its_l2_norm(make_log):
    log = make_log("step,grad_norm_l1,grad_norm_l2,lr-SGD\n1,10,1,0.1\n2,10,1,0.1\n")
    assert read_norms(log).kind == "l2"


def test_columns_by_name(make_log):
    log = make_log("a,b,c\n1,2,3\n4,5,6\n")
    norms = read_norms(log, column="c", step_column="a", lr_column="b", norm_kind="dual")
    assert norms.values.tolist() == [3.0, 6.0]
    assert norms.steps.tolist() == [1, 4]
    assert norms.learning_rate.tolist() == [2.0, 5.0]
    assert norms.kind == "dual"


def test_the_kind_is_read_from_the_name_also_of_a_given_column(make_log):
    log = make_log(step=[1, 2], l1=[1, 2], my_l2=[1, 2], other=[1, 2])
    assert [read_norms(log, column=c).kind for c in ("l1", "my_l2", "other")] == ["l1", "l2", "l2"]
    assert [read_norms(log, column=c).source.kind_known for c in ("l1", "my_l2", "other")] == [True, True, False]
    dual = make_log(step=[1, 2], grad_dual_norm=[1, 2], gnorm=[1, 2], name="dual.csv")
    assert read_norms(dual, column="grad_dual_norm").kind == "dual"
    contradicted = read_norms(log, column="l1", norm_kind="l2")
    assert 'column "l1" is read as an l2 norm, as given, and called l1' in contradicted.source.notes


def test_rates_that_cannot_be_used_are_said_to_be(make_log):
    for rate in ("0", "nan", "x", ""):
        norms = read_norms(make_log(f"step,grad_norm,lr\n1,1,{rate}\n2,1,{rate}\n"))
        assert norms.learning_rate is None
        assert "lr" not in norms.source.columns
        what = "holds none above 0" if rate else "is empty"
        assert norms.source.notes == (f'learning rates not used: column "lr" {what}',)


def test_every_beside_a_step_column_is_said(make_log):
    norms = read_norms(make_log(PLAIN), every=5)
    assert norms.steps.tolist() == [5, 10, 15]
    assert norms.source.notes == ('steps are every 5, as given, not from "step"',)


def test_without_a_header_columns_are_numbers(make_log):
    log = make_log("1,9,0.5\n2,9,0.25\n")
    assert read_norms(log, column="3", step_column="1").values.tolist() == [0.5, 0.25]
    single = make_log("0.5\n0.25\n0.125\n")
    assert read_norms(single, every=10).steps.tolist() == [10, 20, 30]


def test_every_keeps_the_place_of_rows_without_a_norm(make_log):
    for blank in ("", '""'):
        norms = read_norms(make_log(f"grad_norm\n1\n{blank}\n3\n4\n"), every=10)
        assert norms.steps.tolist() == [10, 30, 40]
        assert dict(norms.dropped) == {"without a norm": 1}


def test_a_name_that_means_compression_means_nothing(make_log):
    assert read_norms(make_log(PLAIN, name="log.csv.zip")).steps.size == 3


def test_several_learning_rates_are_not_used_and_that_is_said(make_log):
    norms = read_norms(make_log("step,grad_norm,lr,learning_rate\n1,1,0.1,0.2\n2,1,0.1,0.2\n"))
    assert norms.learning_rate is None
    assert any("learning rates not used: 2 columns" in note for note in norms.source.notes)
    groups = read_norms(make_log("step,grad_norm,lr-SGD/pg1,lr-SGD/pg2\n1,1,0.1,0.2\n2,1,0.1,0.2\n"))
    assert groups.learning_rate.tolist() == [0.1, 0.1]
    mixed = read_norms(make_log("step,grad_norm,lr-Adam,lr-SGD\n1,1,0.1,0.2\n2,1,0.1,0.2\n"))
    assert mixed.source.optimizer is None


def test_the_step_column_that_was_passed_over_is_named(make_log):
    norms = read_norms(make_log("step,global_step,grad_norm\n1,100,1\n2,200,1\n"))
    assert norms.steps.tolist() == [100, 200]
    assert 'steps are from "global_step", not from "step": --step-column chooses' in norms.source.notes


@pytest.mark.parametrize("end", [b"51,\0\0\0", b"51,0.0\xc3", b"51,\xff"])
def test_a_last_line_that_a_crash_left_is_dropped_and_counted(make_log, end):
    norms = read_norms(make_log(WHOLE.encode() + end))
    assert norms.steps[-1] == 50
    assert sum(norms.dropped.values()) == 1


def test_the_norm_before_clipping_is_preferred(make_log):
    log = make_log("step,learning/grad_norm,learning/raw_grad_norm\n1,1,5\n2,1,6\n")
    assert read_norms(log).values.tolist() == [5.0, 6.0]


def test_a_step_column_that_is_empty_beside_the_norms_is_passed_over(make_log):
    rows = "".join(f",{t},0.5\n" for t in range(1, 30))
    assert read_norms(make_log(f"global_step,step,grad_norm\n{rows}")).source.columns["step"] == "step"


def test_dirty_rows_are_counted_by_reason(make_log):
    log = make_log(
        "step,grad_norm\n1,1\n2,nan\n3,inf\n4,\n5,0\n6,-1\n,1\n8,1\n7,1\n8,2\nstep,grad_norm\n9,Infinity\n10,3\n"
    )
    norms = read_norms(log)
    assert norms.steps.tolist() == [1, 7, 8, 10]
    assert norms.values.tolist() == [1.0, 1.0, 2.0, 3.0]
    assert dict(norms.dropped) == {
        "without a norm": 1,
        "without a step": 1,
        "non-finite": 3,
        "zero": 1,
        "negative": 1,
        "superseded": 1,
        "repeated header": 1,
    }
    assert norms.out_of_order == 1
    assert norms.source.rows == 13 == norms.steps.size + sum(norms.dropped.values())


WHOLE = "step,grad_norm\n" + "".join(f"{t},0.{t:06d}\n" for t in range(1, 51))
QUOTED = '"Step","a - gnorm"\n' + "".join(f'"{t}","0.{t:06d}"\n' for t in range(1, 51))


@pytest.mark.parametrize("end", ["51", "51,", "51,0", "51,0.", "51,0.00", '51,"0.000051'])
def test_a_truncated_last_line_is_dropped_and_counted(make_log, end):
    norms = read_norms(make_log(WHOLE + end))
    assert norms.steps[-1] == 50
    assert sum(norms.dropped.values()) == 1
    assert norms.source.rows == 51


@pytest.mark.parametrize("end", ['"', '"5', '"51"', '"51","', '"51","0.00'])
def test_a_truncated_quoted_line_is_dropped_and_counted(make_log, end):
    norms = read_norms(make_log(QUOTED + end))
    assert norms.steps[-1] == 50
    assert dict(norms.dropped) == {"truncated last line": 1}


@pytest.mark.parametrize("whole", [WHOLE, QUOTED])
def test_a_complete_last_line_needs_no_newline(make_log, whole):
    norms = read_norms(make_log(whole.rstrip("\n")))
    assert norms.steps[-1] == 50
    assert dict(norms.dropped) == {}


def test_a_final_rate_of_zero_is_not_taken_for_a_truncated_line(make_log):
    rows = "\n".join(f"{t},0.5,{(50 - t) / 3e4!r}" for t in range(1, 51))
    assert read_norms(make_log(f"step,grad_norm,lr\n{rows}")).steps[-1] == 50


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {}, "the file is empty"),
        ("step,grad_norm\n", {}, "the file holds a header and no rows"),
        ("step,grad_norm", {}, "the file holds a header and no rows"),
        ("# nothing\n", {}, "the file holds comments only"),
        ("step,grad_norm\n1,0.5\n", {}, "the number of usable gradient norms is 1; at least 2 are needed"),
        ("step,grad_norm\n1,nan\n2,\n", {}, 'column "grad_norm" holds no finite number in 2 rows'),
        ("step,grad_norm\n1,0.5\n2,oops\n", {}, 'column "grad_norm" holds "oops" in row 2 below the first line'),
        ("step,grad_norm\n1,0.5\nx,0.5\nx,1\n", {}, 'step column "step" holds "x" in row 2'),
        ("step,grad_norm\n1.5,0.5\n2,0.5\n", {}, "a step is 1.5; steps count optimizer updates"),
        ("step,grad_norm\n,0.5\n,0.5\n", {}, 'step column "step" is empty in most rows that hold a norm'),
        ("step,grad_norm\n1,0.5,7\n2,0.5,7\n", {}, "the first row has more than the 2 fields of the first line"),
        (
            "step,grad_norm\n1,0.5\n2,0.5,7\n",
            {},
            r"the rows do not fit the first line \(Expected 2 fields in line 3, saw 3\)",
        ),
        ("step,loss\n1,0.5\n", {}, 'no column is known to be a gradient norm; columns: "step", "loss"'),
        ("step,my_grad_norm_x\n1,0.5\n", {}, 'candidates: "my_grad_norm_x"; choose one with --column'),
        (
            "step,a/grad_norm,b/grad_norm\n1,1,1\n",
            {},
            '2 columns may be the gradient norm: "a/grad_norm", "b/grad_norm"',
        ),
        ("step,grad_norm,gnorm\n1,1,1\n", {}, "2 columns may be the gradient norm"),
        ("step,gnorm\n1,1\n", {"norm_kind": "l1"}, "no column is known to be a gradient norm of kind l1"),
        ("step,gnorm\n1,1\n", {"column": "nope"}, r'no column is called "nope" \(--column\); columns: "step", "gnorm"'),
        ("step,gnorm\n1,1\n", {"lr_column": "nope"}, r'"nope" \(--lr-column\)'),
        ("gnorm,gnorm\n1,1\n", {"column": "gnorm"}, 'several columns are called "gnorm"'),
        ("grad_norm\n1\n", {}, "no column is known to count optimizer steps"),
        ("epoch,grad_norm\n1,1\n", {}, 'columns: "epoch", "grad_norm"; choose one with --step-column'),
        ("1,2,3\n4,5,6\n", {}, "the file has no header and 3 columns"),
        ("step,gnorm\n1,1\n", {"every": 2, "step_column": "step"}, "--every and --step-column exclude each other"),
        ('{"step": 1}\n', {}, 'no column is known to be a gradient norm; columns: "step"'),
        ('[{"step": 1}]\n', {}, 'no column is known to be a gradient norm; columns: "step"'),
        ("[default7]: iteration 1\n[default7]: iteration 2\n", {}, "no column is known to be a gradient norm"),
        ('"Step","Group: a - gnorm"\n"1","1"\n', {}, "no column is known to be a gradient norm"),
        ("step,val/grad_norm\n1,1\n2,1\n", {}, "no column is known to be a gradient norm"),
        ("sample,grad_norm\n1,1\n2,1\n", {}, "no column is known to count optimizer steps"),
        ("iter,grad_norm\n" + "1,1\n2,1\n" * 3, {}, "4 of 6 rows repeat a step of another row"),
        ("step,gnorm\n1,1\n", {"norm_kind": "l3"}, "norm_kind is 'l3'; it must be one of l2, l1, dual"),
        ("step,gnorm\n1,1\n", {"optimizer": "lion"}, "optimizer is 'lion'; it must be one of sgd, adam"),
        (b"step,grad_norm\xe9\n1,0.5\n", {}, "byte 0xe9 at offset 14 is not UTF-8"),
        (b"\xff\xfes\0t\0", {}, "the file is binary or UTF-16"),
        (b"\x1f\x8b\x08junk", {}, "the gzip data is damaged"),
        (bytes(range(256)) * 20, {}, "the file is binary or UTF-16"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(make_log, text, options, message):
    with pytest.raises(RefineError, match=message) as error:
        read_norms(make_log(text), **options)
    assert "\n" not in str(error.value)


def test_files_that_are_none_are_refused(tmp_path):
    with pytest.raises(RefineError, match="none.csv does not exist; check the path"):
        read_norms(tmp_path / "none.csv")
    with pytest.raises(RefineError, match="the folder holds no log that refine knows as a folder; name the log in it"):
        read_norms(tmp_path)
    with pytest.raises(RefineError, match="is not a regular file"):
        read_norms("/dev/null")


def test_bytes_that_are_not_utf8_far_into_the_file_are_refused(make_log):
    log = make_log(b"step,grad_norm\n" + b"1,0.5\n" * 20_000 + b"2,\xe9\n3,0.5\n")
    with pytest.raises(RefineError, match="UTF-8|holds"):
        read_norms(log)


@pytest.mark.parametrize(
    ("role", "name"),
    [
        ("l2", "train/grad_norm"),
        ("l2", "optim/total grad norm"),
        ("l2", "grad_2.0_norm_total_step"),
        ("l2", "l2_norm/grad/global"),
        ("l2", "run - x - train_inner/gnorm"),
        ("l1", "grad_1.0_norm_total"),
        ("l1", "r - sched/gnorm_l1"),
        ("l2 before clipping", "learning/raw_grad_norm"),
        ("lr", "optim/LR (group 0)"),
        ("lr", "train/learning_rate"),
        ("lr", "lr-AdamW/pg1"),
        ("lr", "lr/AdamW/0"),
        ("loss", "train/CE loss"),
        ("loss", "loss_metrics/global_avg_loss"),
        ("step", "train/global_step"),
        ("step", "Step"),
    ],
)
def test_names_of_the_frameworks(role, name):
    assert find(role, [name]) == [0]


@pytest.mark.parametrize(
    "name",
    [
        "grad_2.0_norm_total_epoch",
        "max_grad_norm",
        "grad_norm__MIN",
        "val/grad_norm_x",
        "param_norm",
        "lr-AdamW-momentum",
    ],
)
def test_names_that_are_something_else(name):
    assert all(not find(role, [name]) for role in ("l2", "l1", "l2 before clipping", "lr"))


def test_optimizers_by_name():
    assert [named_optimizer([n]) for n in ("lr-NAdam", "lr-Lion", "lr/SGD", "lr-Muon", "AdamW")] == [
        "adam",
        "adam",
        "sgd",
        None,
        None,
    ]


@pytest.mark.parametrize("name", ["generic.csv", "generic.tsv"])
def test_shared_samples(shared, name):
    truth = np.genfromtxt(shared / "formats" / "rendered" / "TRUTH_first.csv", delimiter=",", names=True)
    norms = read_norms(shared / "formats" / "rendered" / name)
    assert (norms.steps.size, norms.steps[0], norms.steps[-1]) == (228, 1, 230)
    at = {int(step): i for i, step in enumerate(truth["step"])}
    expected = truth["l2"][[at[int(s)] for s in norms.steps]]
    np.testing.assert_allclose(norms.values, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ambiguous.csv", '"actor/grad_norm", "critic/grad_norm"'),
        ("wandb_ui_export_grad_norm_two_runs.csv", '2 runs: "calm-sun-2", "jolly-frog-1"; choose one with --run'),
        ("wandb_ui_export_lr_two_runs.csv", "no column is known to be a gradient norm"),
    ],
)
def test_shared_samples_that_are_refused(shared, name, message):
    with pytest.raises(RefineError, match=message):
        read_norms(shared / "formats" / "rendered" / name)


def test_a_tensorboard_download_is_named_by_its_file(make_log):
    rows = "Wall time,Step,Value\r\n" + "".join(f"1.7e9,{t},{t / 100}\r\n" for t in range(1, 31))
    with pytest.raises(
        RefineError, match='does not say which tag "Value" is: if it is the gradient norm, say --column'
    ):
        read_norms(make_log(rows))
    norms = make_log(rows, name="run-run1_train-tag-train_grad_norm (1).csv")
    rates = make_log(rows, name="run-run1_train-tag-train_learning_rate.csv")
    joined = read_norms(norms, rates)
    assert joined.values.tolist() == joined.learning_rate.tolist() == [t / 100 for t in range(1, 31)]
    assert joined.source.format == "TensorBoard CSV download"


@pytest.mark.parametrize("label", ["experiment", "name", "rank", "seed", "run"])
def test_rows_of_several_runs_are_not_mixed(make_log, label):
    rows = "".join(f"{r},{t},{r + t / 100}\n" for r in (3, 4) for t in range(1, 31))
    log = make_log(f"{label},step,grad_norm\n{rows}")
    with pytest.raises(RefineError, match='holds 2 runs: "3", "4"; choose one with --run'):
        read_norms(log)
    assert read_norms(log, run="4").values[0] == 4.01


def test_a_label_matters_only_where_several_runs_hold_norms(make_log):
    rows = "".join(f"train,{t},{t / 100}\nval,{t},\n" for t in range(1, 31))
    assert read_norms(make_log(f"run,step,grad_norm\n{rows}")).steps.size == 30


def test_a_step_that_starts_anew_every_epoch_is_refused(make_log):
    rows = "".join(f"{e},{t},{t / 100}\n" for e in (0, 1) for t in range(1, 31))
    with pytest.raises(RefineError, match="30 of 60 rows repeat a step of another row"):
        read_norms(make_log(f"epoch,step,grad_norm\n{rows}"))


def test_rates_are_of_the_run_that_has_the_norms(make_log):
    rows = "".join(f"{t},{t / 100},0.1,0.2\n" for t in range(1, 31))
    assert read_norms(make_log(f"Step,A - grad_norm,A - lr,B - lr\n{rows}")).learning_rate[0] == 0.1
    assert read_norms(make_log(f"Step,A - grad_norm,B - loss,B - lr\n{rows}")).learning_rate is None
    norms = make_log(f"Step,A - grad_norm\n{rows.replace(',0.1,0.2', '')}", name="n.csv")
    rates = make_log(f"Step,B - lr\n{rows.replace(',0.1,0.2', '')}", name="r.csv")
    with pytest.raises(RefineError, match='the norms are those of run "A", and lr is of "B": export both of one run'):
        read_norms(norms, rates)


def test_columns_that_hold_the_same_norms_are_one(make_log):
    rows = "".join(f"{t},{t / 100},{t / 100:.6f}\n" for t in range(1, 31))
    norms = read_norms(make_log(f"step,grad-norm,l2_norm/grad/global\n{rows}"))
    assert norms.values[-1] == 0.3
    assert any("hold the same norms" in note for note in norms.source.notes)


@pytest.mark.parametrize("parts", ["mean,max,min", "train,val", "generator,discriminator"])
def test_statistics_and_splits_are_no_layers(make_log, parts):
    names = ",".join(f"grad_norm/{part}" for part in parts.split(","))
    rows = "".join(f"{t}" + f",{t / 100}" * (1 + parts.count(",")) + "\n" for t in range(1, 31))
    with pytest.raises(RefineError, match="no column is known to be a gradient norm; candidates"):
        read_norms(make_log(f"step,{names}\n{rows}"))


def test_layers_make_a_total_where_all_are_logged(make_log):
    log = make_log("step,grad_2.0_norm/a.w,grad_2.0_norm/b.w,lr\n0,3,4,0.1\n1,6,8,0.1\n2,5,,0.1\n3,0.3,0.4,0.1\n")
    norms = read_norms(log)
    assert norms.values.tolist() == pytest.approx([5.0, 10.0, 0.5], rel=1e-15)
    assert norms.steps.tolist() == [1, 2, 4]
    l1 = read_norms(make_log("step,grad_1.0_norm/a,grad_1.0_norm/b\n0,3,4\n1,6,8\n"))
    assert (l1.values.tolist(), l1.kind, l1.source.optimizer) == ([7.0, 14.0], "l1", "adam")


def test_json_documents_of_several_parts(make_log):
    def part(norm, n=30):
        return {"step": list(range(1, n + 1)), norm: [t / 100 for t in range(1, n + 1)]}

    two = make_log(json.dumps({"a": part("grad_norm"), "b": part("grad_norm")}), name="two.json")
    with pytest.raises(RefineError, match='holds 2 runs: "a", "b"; choose one with --run'):
        read_norms(two)
    assert read_norms(two, run="b").steps.size == 30
    split = make_log(json.dumps({"val": part("loss", 5), "train": part("grad_norm")}), name="split.json")
    assert read_norms(split).steps.size == 30
    assert read_norms(make_log(json.dumps(part("grad_norm")), name="one.json")).steps.size == 30


def test_norms_logged_less_often_than_rates(make_log):
    """Steps 0 ... 599 with a rate each, the norm at the end of every window of ten."""
    rates = [0.1 * (1 - t / 600) for t in range(600)]
    rows = (
        {"step": t, "lr": r, **({"grad_norm": 1 + 1 / (1 + t)} if t % 10 == 9 else {})} for t, r in enumerate(rates)
    )
    norms = read_norms(make_log("".join(json.dumps(row) + "\n" for row in rows), name="log.jsonl"))
    assert (norms.steps[0], norms.steps[-1], norms.total_steps) == (10, 600, 600)
    prior = read_prior(norms)
    assert (prior.peak_lr, prior.warmup_steps) == (0.1, 0)
    np.testing.assert_allclose(prior.multiplier, np.array(rates) / 0.1, rtol=1e-12)


def test_losses_that_go_further_than_the_norms_end_the_run(make_log):
    rows = "".join(f"{t},{1 / t if t % 10 == 1 else ''},{3 - t / 100}\n" for t in range(1, 101))
    norms = read_norms(make_log("step,grad_norm,loss\n" + rows))
    assert (norms.steps[-1], norms.total_steps) == (91, 100)


def test_the_rate_of_a_step_whose_norm_is_lost_is_kept(make_log):
    rows = "".join(f"{t},{'nan' if t < 3 else 1 / (t + 1)},{0.1 * (1 - t / 50)!r}\n" for t in range(50))
    norms = read_norms(make_log("step,grad_norm,lr\n" + rows))
    prior = read_prior(norms)
    assert (norms.steps[0], norms.total_steps, prior.peak_lr, prior.warmup_steps) == (3, 50, 0.1, 0)


def test_choices_against_the_log_are_said(make_log):
    rows = "".join(f"{t},{1 + 1 / t},0.1,2\n" for t in range(1, 31))
    log = make_log(f"step,grad_norm_sq,lr-AdamW,loss\n{rows}")
    notes = read_norms(log, column="grad_norm_sq", optimizer="sgd").source.notes
    assert 'column "grad_norm_sq" is read as a norm; its name says that it is squared' in notes
    assert "the optimizer is sgd, as given; the log names one of the adam family" in notes
    assert 'column "loss" is read as the norm, as given, and called loss' in read_norms(log, column="loss").source.notes


def test_a_companion_that_gives_nothing_is_refused(make_log):
    rows = "".join(f"{t},{1 + 1 / t},0.1\n" for t in range(1, 31))
    norms, rates = (make_log(f"step,{name},lr\n{rows}", name=f"{name}.csv") for name in ("grad_norm", "other"))
    with pytest.raises(
        RefineError, match="other.csv holds no gradient norm, and no learning rate or loss that .* lacks"
    ):
        read_norms(norms, rates)
    bare = make_log(f"step,grad_norm\n{rows.replace(',0.1', '')}", name="bare.csv")
    assert any("learning rates are from" in note for note in read_norms(bare, rates).source.notes)


def test_a_folder_with_the_one_log_of_a_framework_is_read(make_log, tmp_path):
    lines = "".join(f"s:{t} trl:3.0 lr:0.1 norm:{1 + t / 100:.2f}\n" for t in range(30))
    make_log(lines, name="main.log")
    (tmp_path / "notes.txt").write_text("hello")
    norms = read_norms(tmp_path)
    assert (norms.source.format, norms.steps.size) == ("llm.c main.log", 30)
    assert "of the folder main.log is read" in norms.source.notes
    (tmp_path / "main.log").rename(tmp_path / "log.csv")
    make_log(PLAIN, name="log.csv")
    with pytest.raises(RefineError, match='name the log in it: "log.csv"'):
        read_norms(tmp_path)


def test_a_header_in_a_comment_is_one(make_log):
    norms = read_norms(make_log("# step grad_norm lr\n" + "".join(f"{t} {1 + 1 / t} 0.1\n" for t in range(1, 31))))
    assert norms.source.columns == {"norm": "grad_norm", "step": "step", "lr": "lr"}
    assert norms.steps.size == 30

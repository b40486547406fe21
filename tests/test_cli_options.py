"""What the options of the command line take for a count, and for an optimizer."""

import time
from decimal import Decimal

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st
from refine.cli.main import main
from refine.cli.options import Count

from refine import RefineError, Schedule
from refine.readers import columns, optimizers
from refine.readers.optimizers import named_family


def read(text, least=0):
    return Count(min=least).convert(text, None, None)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("10000", 10_000),
        ("10_000", 10_000),
        ("0010", 10),
        (" 5 ", 5),
        ("+5", 5),
        ("10k", 10_000),
        ("10K", 10_000),
        ("1.5k", 1_500),
        ("2M", 2_000_000),
        ("0.000_1M", None),
        ("1e5", 100_000),
        ("1E5", 100_000),
        ("1e+5", 100_000),
        ("1.25e2", 125),
        ("10.0", 10),
        ("1.1e1", 11),
        ("9007199254740993", 9_007_199_254_740_993),  # 2^53 + 1, which no float is
        ("9007199254740.993k", 9_007_199_254_740_993),
        ("1.5e0", None),
        ("1.0005k", None),
        ("1e-3", None),
        ("10,000", None),
        ("10.000,5", None),
        ("1e400", None),
        ("1e999999999999", None),
        ("1" * 101, None),
        ("1" * 100_000, None),
        ("2m", None),
        ("1kk", None),
        ("1e5k", None),
        ("1__0", None),
        ("_1", None),
        ("1.", None),
        (".5k", None),
        ("", None),
        ("k", None),
        ("nan", None),
        ("inf", None),
        ("0x10", None),
        ("\u0663", None),
    ],
)
def test_counts(text, count):
    started = time.perf_counter()
    if count is None:
        with pytest.raises(
            click.BadParameter, match="is not a count such as 10000, 10_000, 10k, 1.5k, 2M or 1e5: whole"
        ):
            read(text)
    else:
        assert read(text) == count
    assert time.perf_counter() - started < 0.5


@given(st.integers(0, 10**15), st.integers(0, 12))
def test_every_form_of_a_number_is_that_number(number, power):
    digits = f"{number:0{power + 1}d}"
    at = len(digits) - power
    scaled = digits[:at] + ("." + digits[at:] if power else "")
    forms = [str(number), f"{number:_}", f"+{number}", f"{scaled}e{power}", f"{scaled}E+{power}"]
    forms += {3: [f"{scaled}k", f"{scaled}K"], 6: [f"{scaled}M"]}.get(power, [])
    assert {read(form) for form in forms} == {number}


@given(st.text("0123456789._eEkKM+-, ", max_size=12))
def test_what_is_read_is_exact_and_all_else_is_refused(text):
    try:
        found = read(text, least=-(10**99))
    except click.BadParameter:
        return
    plain = text.strip().replace("k", "e3").replace("K", "e3").replace("M", "e6")
    assert found == Decimal(plain)


def test_an_int_of_another_program_is_taken_as_it_is():
    assert read(7) == 7
    with pytest.raises(click.BadParameter, match="0 is not in the range x>=1"):
        read(0, least=1)


def test_every_option_that_counts_is_a_count():
    counting = ("steps", "every", "at", "jobs")
    for name, command in main.commands.items():
        for option in command.params:
            assert type(option.type) not in (click.types.IntParamType, click.IntRange)
            if option.name.split("_")[-1] in counting:
                assert isinstance(option.type, Count), (name, option.name)


def test_counts_reach_the_commands(run, falling_log):
    assert run("fit", falling_log, "--no-plot", "--total-steps", "1.5k").exit_code == 0
    assert {Schedule.load(f"refined/{name}.json").total_steps for name in ("refined", "recommended")} == {1500}
    done = run("fit", falling_log, "--total-steps", "10,000")
    assert done.exit_code == 2
    assert done.stderr.splitlines()[-1] == (
        "Error: Invalid value for '--total-steps': '10,000' is not a count such as 10000, 10_000, 10k, 1.5k, 2M or "
        "1e5: whole, without commas."
    )
    shown = run("fit", "--help").stdout
    assert "--total-steps COUNT" in shown
    assert "[x>=1]" in shown


MEMBERS = {
    "sgd": "sgd SGD Momentum nesterov SGDM ASGD sgd_momentum SGD-Nesterov torch.optim.SGD torch.optim.sgd.SGD SGDW "
    "FusedSGD apex.optimizers.FusedSGD DecoupledSGDW schedule_free_sgd SGDScheduleFree",
    "adam": "adam ADAM Adam AdamW adamw NAdam RAdam Adamax AdamC AMSGrad Adafactor Adagrad RMSprop RMSProp LAMB Lion "
    "SignSGD sign_sgd Signum NAdamW AdamW8bit bnb.optim.PagedAdamW8bit bnb.optim.Lion8bit PagedLion32bit SparseAdam "
    "torch.optim.AdamW torch.optim.adamw.AdamW'> transformers.optimization.Adafactor FusedAdam FusedLAMB fused_adam "
    "fusedadam DeepSpeedCPUAdam deepspeed.ops.adam.FusedAdam OneBitAdam ZeroOneAdam OneBitLamb DistributedFusedAdam "
    "FusedMixedPrecisionLamb DecoupledAdamW DecoupledLionW AdamWScheduleFree RAdamScheduleFree AnyPrecisionAdamW "
    "StableAdamW AdamMini",
}


@pytest.mark.parametrize("family", MEMBERS)
def test_known_optimizers_tell_their_family(family):
    for name in MEMBERS[family].split():
        assert named_family(name) == family, name


def test_optimizers_that_frameworks_name(run):
    """Of all that Hugging Face's ``optim`` and torch.optim hold, those of neither family are refused."""
    training_args = pytest.importorskip("transformers.training_args")
    torch = pytest.importorskip("torch")
    names = [member.value for member in training_args.OptimizerNames]
    names += [name for name in dir(torch.optim) if name[0].isupper() and name != "Optimizer"]
    refused = []
    for name in names:
        try:
            assert named_family(name) == columns.family(name), name
        except RefineError:
            refused.append(name.lower().replace("paged_", "").partition("_")[0])
    assert set(refused) <= {"ademamix", "lomo", "adalomo", "adadelta", "lbfgs", "muon", "rprop"}


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("adamm", "Adam"),
        ("adma", "Adamax"),
        ("AdmaW", "AdamW"),
        ("sdg", "SGD"),
        ("lionn", "Lion"),
        ("rmsprob", "RMSprop"),
        ("muon", None),
        ("Shampoo", None),
        ("MuonWithAuxAdam", None),
        ("million", "Lion"),
        ("adam_sgd", None),
        ("", None),
        ("torch.optim", None),
        ("fused", None),
        ("x" * 10_000, None),
        ("adam" * 10_000, None),
        ("fused" * 20 + "x", None),
    ],
)
def test_unknown_optimizers_are_refused_with_the_nearest_named(name, nearest):
    started = time.perf_counter()
    with pytest.raises(RefineError) as caught:
        named_family(name)
    assert time.perf_counter() - started < 0.5
    message = str(caught.value)
    assert "is not known to be of the sgd or the adam family" in message
    assert "say sgd or adam; known are SGD, SGDM," in message
    if nearest:
        assert f"(did you mean {nearest}?)" in message
    assert len(message) < 400


def test_every_known_optimizer_is_of_the_same_family_where_a_log_names_it():
    for family, names in optimizers._MEMBERS.items():
        for name in names:
            assert named_family(name) == columns.family(name) == family


def test_the_option_refuses_on_one_line(run, falling_log):
    done = run("fit", falling_log, "--optimizer", "adamm")
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].startswith(
        "Error: Invalid value for '--optimizer': 'adamm' is not known to be of the sgd or the adam family (did you "
        "mean Adam?): say sgd or adam; known are SGD, "
    )
    assert run("fit", falling_log, "--optimizer", "adamw_torch_fused", "--no-plot").exit_code == 0

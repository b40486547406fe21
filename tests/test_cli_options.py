"""What the options of the command line take for a count, and for an optimizer."""

import time
from decimal import Decimal

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st
from refine.cli.main import main
from refine.cli.options import Count

from refine import Schedule


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
    assert Schedule.load("refined/schedule.json").total_steps == 1500
    done = run("fit", falling_log, "--total-steps", "10,000")
    assert done.exit_code == 2
    assert done.stderr.splitlines()[-1] == (
        "Error: Invalid value for '--total-steps': '10,000' is not a count such as 10000, 10_000, 10k, 1.5k, 2M or "
        "1e5: whole, without commas."
    )
    shown = run("fit", "--help").stdout
    assert "--total-steps COUNT" in shown
    assert "[x>=1]" in shown

"""How wide text is, and how titled paragraphs break."""

import io
import os
import sys

import pytest

from refine.text import beside, paragraph, width


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("columns", "terminal", "expected"),
    [
        ("80", None, 80),
        ("80", 100, 80),
        ("20", None, 60),
        ("500", None, 120),
        ("much", 100, 100),
        ("", None, 115),
        (None, 100, 100),
        (None, 40, 60),
        (None, 300, 120),
        (None, None, 115),
    ],
)
def test_text_is_as_wide_as_the_terminal(monkeypatch, columns, terminal, expected):
    def size(_):
        if terminal is None:
            raise OSError
        return os.terminal_size((terminal, 24))

    monkeypatch.setattr(os, "get_terminal_size", size)
    monkeypatch.setattr(sys, "stdout", io.StringIO() if terminal is None else Terminal())
    if columns is not None:
        monkeypatch.setenv("COLUMNS", columns)
    assert width() == expected


def test_no_line_is_wider_and_options_stay_whole(monkeypatch):
    text = " ".join(f"word{i} --an-option-{i}" for i in range(40))
    for columns in (60, 80, 120):
        monkeypatch.setenv("COLUMNS", str(columns))
        for title, indent, hanging in (("note", 10, 2), ("at a glance", 13, 0), ("far too long a title", 10, 2)):
            first, *rest = paragraph(title, text, hanging=hanging, indent=indent)
            assert len(rest) > 1
            assert max(map(len, (first, *rest))) <= columns
            assert first.startswith(title)
            blank = " " * (indent + hanging)
            assert all(line.startswith(blank) and line[len(blank)] != " " for line in rest)
            assert " ".join([first[len(title) :], *rest]).split() == text.split()


def test_a_word_wider_than_the_line_is_not_broken(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    assert paragraph("wrote", "x" * 90) == ["wrote     " + "x" * 90]


def test_commands_fit_the_terminal(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "70")
    for command in (
        ("formats",),
        ("merge-weights", "linear", "--checkpoints", "5,10"),
        ("export", "cosine", "--total-steps", 100, "--to", "nanogpt"),
    ):
        done = run(*command)
        assert done.exit_code == 0
        told = done.stderr + done.stdout.partition("\nuse ")[0]  # below are lines to paste
        assert max(map(len, told.splitlines())) <= 70, command


def test_a_table_is_beside_its_title_or_below_it(monkeypatch):
    rows = ["a" * 70, "b"]
    monkeypatch.setenv("COLUMNS", "80")
    assert beside("norms", rows) == ["norms     " + "a" * 70, "          b"]
    assert beside("norms", rows, indent=11) == ["norms", *rows]

"""Markdown and HTML hide nothing and break out of nothing."""

import math

import pytest

from refine.bench.reporting import document as doc
from refine.bench.reporting.words import plus_minus


@pytest.mark.parametrize("write", [doc.to_markdown, doc.to_html])
def test_format_characters_are_shown(write):
    """A text that runs backwards, an invisible one, a lone surrogate: as files from elsewhere may hold."""
    hidden = "a\u202eb\u200bc\ufeffd\ud800e\u2028f"
    blocks = [
        doc.Heading(1, hidden),
        doc.Paragraph(hidden),
        doc.Items((hidden,)),
        doc.Code(f"{hidden}\n{hidden}"),
        doc.Table(hidden, (hidden,), ((hidden,), (doc.Cell(hidden),))),
        doc.Figure("x", hidden, "<svg x></svg>"),
    ]
    found = write(blocks)
    assert all(c.isprintable() or c == "\n" for c in found)
    assert found.replace("\\\\", "\\").count(r"a\u202eb\u200bc\ufeffd\ud800e f") >= 9
    found.encode()


def test_spaces_that_do_not_break_stay():
    assert "+1\u00a0%" in doc.to_markdown([doc.Paragraph("+1\u00a0%")])


@pytest.mark.parametrize(("text", "fence"), [("a", "```"), ("`a``", "```"), ("a\n```\nb", "````"), ("`````", "``````")])
def test_code_cannot_close_its_fence(text, fence):
    assert doc.to_markdown([doc.Code(text)]) == f"{fence}\n{text}\n{fence}\n"


@pytest.mark.parametrize(
    ("mean", "error", "shown"),
    [
        (-0.0031, 0.00042, "-0.0031 ± 0.00042"),
        (2e-7, 3e-8, "+2e-07 ± 3e-08"),
        (0.0031, 0.0, "+0.0031 ± 0"),
        (0.0031, 0.0042, "0.00 ± 0.00"),
        (0.0, 0.0, "0.00 ± 0.00"),
        (0.0031, 0.2, "0.00 ± 0.20"),
        (0.0031, math.nan, "0.00"),
        (-0.53, 0.001, "-0.53 ± 0.00"),
    ],
)
def test_what_is_marked_is_not_written_as_zero(mean, error, shown):
    assert plus_minus(mean, error) == shown

"""How results are laid out as text: titled paragraphs and tables; and how people write counts."""

from __future__ import annotations

import os
import re
import shutil
import sys
import textwrap
from collections.abc import Sequence
from fractions import Fraction

__all__ = ["aligned", "beside", "paragraph", "whole_number", "width"]

_LEAST, _MOST, _ELSEWHERE = 60, 120, 115


def width() -> int:
    """Columns that text is wrapped at: the terminal's or ``$COLUMNS``, 60 to 120; 115 where there is no terminal."""
    known = "COLUMNS" in os.environ or (sys.stdout is not None and sys.stdout.isatty())
    columns = shutil.get_terminal_size((_ELSEWHERE, 24)).columns if known else _ELSEWHERE
    return min(max(columns, _LEAST), _MOST)


def paragraph(title: str, text: str, *, hanging: int = 2, indent: int = 10) -> list[str]:
    """Lines of a text behind its title, wrapped to `width`.

    The text starts at column ``indent``, after its first line ``hanging`` further right. Only blanks are broken at:
    options and paths stay whole.

    Examples
    --------
    >>> paragraph("norms", "constant")
    ['norms     constant']
    """
    return textwrap.wrap(
        text,
        width(),
        initial_indent=f"{title:{indent - 1}} ",
        subsequent_indent=" " * (indent + hanging),
        break_long_words=False,
        break_on_hyphens=False,
    )


def beside(title: str, rows: Sequence[str], *, indent: int = 10) -> list[str]:
    """Lines of a table behind its title, or below it where they are too long for that.

    Examples
    --------
    >>> beside("norms", ["first   1", "last    2"])
    ['norms     first   1', '          last    2']
    """
    if indent + max(map(len, rows)) > width():
        return [title, *rows]
    return [f"{'' if number else title:{indent}}{row}" for number, row in enumerate(rows)]


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table: the first column to the left, the others to the right.

    Examples
    --------
    >>> aligned([("", "bound"), ("linear", "1")])
    ['        bound', 'linear      1']
    """
    first, *others = (max(map(len, column)) for column in zip(*rows, strict=True))
    return [
        "  ".join([name.ljust(first), *(c.rjust(w) for c, w in zip(cells, others, strict=True))]).rstrip()
        for name, *cells in rows
    ]


_COUNT = re.compile(r"([+-]?)([0-9]+(?:_[0-9]+)*)(?:\.([0-9]+))?(?:[eE]\+?([0-9]{1,2})|([kKM]))?")


def whole_number(text: str) -> int | None:
    """The whole number that a text means, as people write counts; None for all others.

    Examples
    --------
    >>> [whole_number(text) for text in ("10_000", "1.5k", "1e5", "1.5e0", "10,000")]
    [10000, 1500, 100000, None, None]
    """
    match = _COUNT.fullmatch(text.strip()) if len(text) <= 100 else None
    if match is None:
        return None
    sign, digits, part, power, unit = match.groups(default="")
    exponent = int(power) if power else {"": 0, "k": 3, "K": 3, "M": 6}[unit]
    number = int(sign + digits + part) * Fraction(10) ** (exponent - len(part))
    return int(number) if number.denominator == 1 else None

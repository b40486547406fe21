"""How numbers and methods are written in a report."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

__all__ = ["FAMILIES", "Key", "count", "groups", "label", "number", "percent", "plus_minus", "score", "slug", "suites"]

Key = tuple[str, str]
"""A suite and a family of optimizers."""

FAMILIES = {"sgd": "SGD", "adam": "Adam family"}


def suites(frame: pd.DataFrame) -> list[str]:
    """Suites of a table, by name."""
    return sorted(set(frame["suite"]))


def groups(frame: pd.DataFrame) -> Iterator[tuple[Key, pd.DataFrame]]:
    """Rows of each suite and family of optimizers, where there are any."""
    for suite in suites(frame):
        for family in FAMILIES:
            group = frame[(frame["suite"] == suite) & (frame["family"] == family)]
            if len(group):
                yield (suite, family), group


def score(counts: Mapping[Any, float] | pd.Series[float]) -> str:
    """Write a row of `refine.bench.reporting.statistics.summary` as wins / ties / losses.

    Examples
    --------
    >>> score({"wins": 3, "ties": 1, "losses": 0})
    '3 / 1 / 0'
    """
    return f"{counts['wins']:.0f} / {counts['ties']:.0f} / {counts['losses']:.0f}"


def label(method: str, warmup: str = "") -> str:
    """Name a method as tables do; the tuned warmup goes without saying.

    Examples
    --------
    >>> label("cosine", "fixed"), label("cosine", "tuned")
    ('cosine, fixed warmup', 'cosine')
    """
    return f"{method}, fixed warmup" if warmup == "fixed" else method


def percent(value: float) -> str:
    """Write a difference in %, with its sign.

    Examples
    --------
    >>> [percent(v) for v in (-0.534, 44.26, 210.4, 1234567.0, float("inf"))]
    ['-0.53', '+44.3', '+210', '+1.2e+06', 'diverged']
    """
    if not math.isfinite(value):
        return "" if math.isnan(value) else "diverged" if value > 0 else "-diverged"
    size = abs(value)
    if size < 0.005:
        return "0.00"
    return f"{value:+.2f}" if size < 9.995 else f"{value:+.1f}" if size < 99.95 else _large(value)


def _large(value: float) -> str:
    return f"{value:+,.0f}" if abs(value) < 1e5 else f"{value:+.1e}"


def plus_minus(mean: float, error: float) -> str:
    """Write a mean in % with its standard error; of a single pair there is none.

    More digits where both round to 0 and the mean is yet beyond two standard errors.

    Examples
    --------
    >>> plus_minus(-0.534, 0.2), plus_minus(0.1, float("nan")), plus_minus(-0.0031, 0.00042)
    ('-0.53 ± 0.20', '+0.10', '-0.0031 ± 0.00042')
    """
    if abs(mean) > 2.0 * error and percent(mean) == percent(error) == "0.00":
        return f"{mean:+.2g} ± {error:.2g}"
    return percent(mean) if math.isnan(error) else f"{percent(mean)} ± {percent(error).lstrip('+')}"


def number(value: float) -> str:
    """Write four digits; nothing for what is unknown.

    Examples
    --------
    >>> number(0.123456), number(float("nan")), number(float("inf"))
    ('0.1235', '', 'diverged')
    """
    return "" if math.isnan(value) else "diverged" if value == math.inf else f"{value:.4g}"


def count(n: int, noun: str) -> str:
    """Count things.

    Examples
    --------
    >>> count(1, "cell"), count(3, "cell")
    ('1 cell', '3 cells')
    """
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def slug(*parts: str) -> str:
    """Name a file after names from anywhere.

    Examples
    --------
    >>> slug("ranks", "a/b c", "sgd")
    'ranks-a_b_c-sgd'
    """
    return "-".join("".join(c if c.isalnum() and c.isascii() else "_" for c in part) for part in parts)

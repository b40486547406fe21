"""A progress bar for long reading: on a terminal only, and only after two seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

_PATIENCE_S = 2.0
_PARTS = 1000


@contextmanager
def reading() -> Iterator[Callable[[float], None] | None]:
    """What to give `refine.read_norms` as ``progress``; None where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    started = time.monotonic()
    bar = click.progressbar(length=_PARTS, label="reading", file=sys.stderr)
    shown = False

    def progress(share: float) -> None:
        nonlocal shown
        if not shown and time.monotonic() - started > _PATIENCE_S:
            shown = True
            bar.__enter__()
        if shown:
            bar.update(int(_PARTS * share) - bar.pos)

    try:
        yield progress
    finally:
        if shown:
            bar.__exit__(None, None, None)

"""``refine formats``."""

from __future__ import annotations

import textwrap

import click


@click.command()
def formats() -> None:
    """List the formats that refine reads, where to find such a log, and what it does not tell.

    \b
    Examples:
      refine formats | less
    """
    from refine.readers import FORMATS

    for format in sorted(FORMATS, key=lambda entry: entry.name):
        for name, text in ((format.name, format.get), ("", f"lost: {format.lost}")):
            lines = textwrap.wrap(text, 100)
            click.echo("\n".join(f"{name if i == 0 else '':16}{line}" for i, line in enumerate(lines)))

"""``refine formats``."""

from __future__ import annotations

import click


@click.command()
def formats() -> None:
    """List the formats that refine reads, where to find such a log, and what it does not tell.

    \b
    Examples:
      refine formats | less
    """
    from refine.readers import FORMATS
    from refine.text import paragraph

    for format in sorted(FORMATS, key=lambda entry: entry.name):
        for name, text in ((format.name, format.get), ("", f"lost: {format.lost}")):
            click.echo("\n".join(paragraph(name, text, hanging=0, indent=16)))

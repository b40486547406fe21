"""A report as blocks, written as Markdown or as one HTML page that needs nothing else."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ...files import printable

__all__ = ["Block", "Cell", "Code", "Figure", "Heading", "Items", "Paragraph", "Table", "to_html", "to_markdown"]


@dataclass(frozen=True, slots=True)
class Heading:
    """A title; level 1 is that of the page."""

    level: int
    text: str


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Plain text."""

    text: str


@dataclass(frozen=True, slots=True)
class Items:
    """A list of sentences."""

    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Code:
    """Lines to paste into a terminal."""

    text: str


@dataclass(frozen=True, slots=True)
class Cell:
    """Text of a table with a colour, which repeats what the text says."""

    text: str
    mark: Literal["", "win", "loss", "base"] = ""


@dataclass(frozen=True, slots=True)
class Table:
    """The first ``names`` columns are text, the others numbers."""

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str | Cell, ...], ...]
    names: int = 1


@dataclass(frozen=True, slots=True)
class Figure:
    """An SVG: ``<svg ...>`` as matplotlib writes it, on white."""

    name: str
    caption: str
    svg: str


Block = Heading | Paragraph | Items | Code | Table | Figure


def to_markdown(blocks: Sequence[Block]) -> str:
    """GitHub's Markdown; figures are linked as files beside it."""
    return "\n\n".join(_markdown(block) for block in blocks) + "\n"


def _markdown(block: Block) -> str:
    match block:
        case Heading(level, text):
            return f"{'#' * level} {_plain(text)}"
        case Paragraph(text):
            return _plain(text)
        case Items(texts):
            return "\n".join(f"- {_plain(text)}" for text in texts)
        case Code(text):
            fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
            return f"{fence}\n{_lines(text)}\n{fence}"
        case Figure(name, caption, _):
            return f"![{_plain(caption)}]({name}.svg)"
        case Table(caption, header, rows, names):
            rule = [":--" if i < names else "--:" for i in range(len(header))]
            shown = [[_plain(c.text if isinstance(c, Cell) else c) for c in row] for row in rows]
            lines = [[_plain(c) for c in header], rule, *shown]
            return f"**{_plain(caption)}**\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plain(text: str) -> str:
    r"""Text with nothing that Markdown or HTML would read as markup.

    Examples
    --------
    >>> print(_plain("a|b <i> 1_2*"))
    a\|b &lt;i&gt; 1\_2\*
    """
    return html.escape(re.sub(r"([\\`*_\[\]|~#])", r"\\\1", _one_line(text)), quote=False)


def _one_line(text: str) -> str:
    """Text without what names from files may hide: control characters become a space, format characters visible."""
    spaced = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+", " ", text)
    return "".join(c if c.isprintable() or c == "\u00a0" else printable(c) for c in spaced)


def _lines(text: str) -> str:
    return "\n".join(_one_line(line) for line in text.split("\n"))


def _escaped(text: str) -> str:
    return html.escape(_one_line(text))


_STYLE = """
:root { color-scheme: light dark; --page: #fff; --ink: #1b1f24; --soft: #5b6570; --line: #d9dee3; --head: #f3f5f7;
  --win: #cfe3f7; --loss: #fbdcc2; --base: #ececec; }
@media (prefers-color-scheme: dark) {
  :root { --page: #14171b; --ink: #e4e7ea; --soft: #9aa4af; --line: #343a41; --head: #1f242a;
    --win: #17395a; --loss: #5c3413; --base: #2b3036; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 76rem; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
p, li { max-width: 48rem; overflow-wrap: break-word; }
pre { background: var(--head); padding: .7rem; white-space: pre-wrap; overflow-wrap: anywhere; }
figure { margin: 1.5rem 0; } figure svg { display: block; max-width: 100%; height: auto; color: var(--ink); }
figcaption, caption { color: var(--soft); font-size: .9rem; text-align: left; }
caption { padding-bottom: .3rem; font-weight: 600; }
.scroll { overflow: auto; max-height: 80vh; margin: 1.2rem 0; width: fit-content; max-width: 100%; }
table { border-collapse: separate; border-spacing: 0; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .55rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
thead th { position: sticky; top: 0; z-index: 2; background: var(--head); vertical-align: bottom; }
thead th button { all: unset; cursor: pointer; } thead th button:focus-visible { outline: 2px solid; }
.name { text-align: left; }
tbody th { font-weight: 500; position: sticky; left: 0; z-index: 1; background: var(--page); }
thead th:first-child { left: 0; z-index: 3; }
.win { background: var(--win); } .loss { background: var(--loss); } .base { background: var(--base); }
@media (max-width: 40rem) {
  body { padding: .6rem; } th:first-child { white-space: normal; min-width: 8rem; }
  figure { overflow-x: auto; } figure svg { max-width: none; width: 34rem; }
}
"""

_SORT = """
const value = text => text.startsWith("diverged") ? Infinity : parseFloat(text.replace(/,/g, ""));
for (const button of document.querySelectorAll("thead button")) button.addEventListener("click", () => {
  const th = button.parentNode, i = th.cellIndex, body = th.closest("table").tBodies[0];
  const up = th.getAttribute("aria-sort") !== "ascending";
  for (const other of th.parentNode.cells) other.removeAttribute("aria-sort");
  th.setAttribute("aria-sort", up ? "ascending" : "descending");
  const rows = [...body.rows].map(row => [row.cells[i].textContent, row]);
  rows.sort(([a], [b]) => {
    const x = value(a), y = value(b), known = isNaN(x) - isNaN(y);
    const by = th.classList.contains("name") ? a.localeCompare(b) : x === y ? 0 : x - y;
    return (!th.classList.contains("name") && known) || (up ? 1 : -1) * (by || 0);
  });
  body.append(...rows.map(([, row]) => row));
});
"""

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def to_html(blocks: Sequence[Block]) -> str:
    """One page: no network, light and dark, figures inside it, tables that sort."""
    title = next((b.text for b in blocks if isinstance(b, Heading)), "report")
    body = "\n".join(_html(block) for block in blocks)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{_escaped(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
{body}
<script>{_SORT}</script>
</body>
</html>
"""


def _html(block: Block) -> str:
    match block:
        case Heading(level, text):
            return f"<h{level}>{_escaped(text)}</h{level}>"
        case Paragraph(text):
            return f"<p>{_escaped(text)}</p>"
        case Items(texts):
            return "<ul>\n" + "\n".join(f"<li>{_escaped(text)}</li>" for text in texts) + "\n</ul>"
        case Code(text):
            return f"<pre><code>{html.escape(_lines(text))}</code></pre>"
        case Figure(_, caption, svg):
            shown = _escaped(caption)
            drawing = _inline(svg).replace("<svg ", f'<svg role="img" aria-label="{shown}" ', 1)
            return f"<figure>\n{drawing}\n<figcaption>{shown}</figcaption>\n</figure>"
        case Table():
            return _html_table(block)


def _html_table(table: Table) -> str:
    def name(i: int) -> str:
        return ' class="name"' if i < table.names else ""

    head = "".join(
        f'<th scope="col"{name(i)}><button>{_escaped(text)}</button></th>' for i, text in enumerate(table.header)
    )
    lines = []
    for row in table.rows:
        shown = []
        for i, cell in enumerate(row):
            text, mark = (cell.text, cell.mark) if isinstance(cell, Cell) else (cell, "")
            classes = " ".join(filter(None, ("name" if i < table.names else "", mark)))
            tag, scope = ("th", ' scope="row"') if i == 0 else ("td", "")
            shown.append(
                f"<{tag}{scope}{f' class={chr(34)}{classes}{chr(34)}' if classes else ''}>{_escaped(text)}</{tag}>"
            )
        lines.append("<tr>" + "".join(shown) + "</tr>")
    body = "\n".join(lines)
    return (
        f'<div class="scroll" tabindex="0"><table><caption>{_escaped(table.caption)}</caption>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


def _inline(svg: str) -> str:
    """Take the drawing alone, its paper clear and its ink the colour of the page's text."""
    drawing = svg[svg.index("<svg ") :].rstrip()
    drawing = re.sub(r"<metadata>.*?</metadata>\s*", "", drawing, flags=re.DOTALL)
    drawing = drawing.replace("fill: #ffffff", "fill: none").replace("#000000", "currentColor")
    return re.sub(r"<text (?![^>]*fill:)", '<text fill="currentColor" ', drawing)

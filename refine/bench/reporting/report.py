"""The report of finished suites: Markdown, one HTML page, and figures, from the files of results alone.

Convex and deep suites are never averaged together, nor SGD with the Adam family.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ...errors import RefineError
from ...files import write_files
from . import document as doc
from .comparison_tables import baseline, each_problem, oracle, ranks, wins
from .headline import headline
from .prediction_tables import checks
from .results import Results, load
from .statistics import CELL, at_own_best, cells, confidence, paired
from .words import count, label, suites

__all__ = ["build", "write_report"]


def write_report(
    folders: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str], *, force: bool = False
) -> list[Path]:
    """Write ``report.md``, ``report.html`` and the figures (SVG) of some folders of results.

    Parameters
    ----------
    folders : sequence of path
        As `refine.bench.reporting.results.save` wrote them.
    out : path
        Folder to write to.
    force : bool
        Overwrite.

    Returns
    -------
    list of Path
        What was written. The same results give the same bytes.
    """
    blocks = build([load(folder) for folder in folders])
    place = Path(out)
    contents = {place / "report.md": [doc.to_markdown(blocks)], place / "report.html": [doc.to_html(blocks)]}
    contents |= {place / f"{b.name}.svg": [b.svg] for b in blocks if isinstance(b, doc.Figure)}
    write_files(contents, force=force)
    return list(contents)


def build(results: Sequence[Results]) -> list[doc.Block]:
    """Blocks of the report."""
    if not results:
        raise RefineError("no results to report; name at least one folder that the bench has written")
    runs = pd.concat([r.runs for r in results], ignore_index=True)
    logs = pd.concat([r.logs for r in results], ignore_index=True)
    costs = pd.concat([r.costs for r in results], ignore_index=True)
    differences = paired(runs)
    found = cells(differences)
    main = at_own_best(found)
    return [
        doc.Heading(1, "Learning-rate schedules, measured"),
        *headline(found, logs, differences),
        *_measured(results, found, costs),
        *wins(found, logs),
        *ranks(main),
        *each_problem(found),
        *baseline(runs),
        *checks(found, logs, differences),
        *oracle(differences, main),
        *_cost(costs),
        *_ends(results),
    ]


def _span(values: pd.Series[int]) -> str:
    low, high = int(values.min()), int(values.max())
    return str(low) if low == high else f"{low} to {high}"


def _measured(results: Sequence[Results], found: pd.DataFrame, costs: pd.DataFrame) -> list[doc.Block]:
    texts = []
    for suite in suites(found):
        own = found[found["suite"] == suite]
        cost = costs[costs["suite"] == suite]
        sweeps = cost.loc[cost["sweep_runs"] > 0, "sweep_runs"]
        trained = sum(int(r.meta["runs"]) for r in results if r.meta["suite"] == suite)
        texts.append(
            f"{suite}: {count(own['problem'].nunique(), 'problem')}, {count(len(own[CELL].drop_duplicates()), 'cell')} "
            f"(problem and optimizer), {_span(own['pairs'])} seeds; sweeps of "
            f"{f'{sweeps.median():.0f} runs in the median' if len(sweeps) else 'no run'}; {trained:,} runs trained."
        )
    pairs = int(found["pairs"].median())
    chance = (
        f"Of a method that equals linear decay about {100 * (1 - confidence(pairs)):.0f} % of the cells would be "
        "marked by chance (Student, the median number of seeds). "
        if pairs > 1
        else "Of a single seed there is no standard error: nothing is marked. "
    )
    return [
        doc.Heading(2, "How it was measured"),
        doc.Items(tuple(texts)),
        doc.Paragraph(
            "Every loss is that at the end of a run: training loss of convex problems, held-out loss of deep ones. "
            "Each method has its own peak rate: swept, on seeds that are used for nothing else, or "
            "by a rule without a sweep of its own (families: the swept rate of linear decay times the ratio of areas; "
            "refined schedules: what follows from the rate of the logged run; packages: their default). Runs of a seed "
            "share start and minibatches, so methods are compared in pairs: percent over linear decay with tuned "
            "warmup and swept rate, mean over seeds with its standard error."
        ),
        doc.Paragraph(
            f"W marks more than two standard errors below zero, L above. {chance}A method that diverged in a cell has "
            "lost it. Medians and worst cases are over cells."
        ),
    ]


def _cost(costs: pd.DataFrame) -> list[doc.Block]:
    blocks: list[doc.Block] = [
        doc.Heading(2, "Cost"),
        doc.Paragraph(
            "In runs of the final length, mean over cells: the sweep, the runs that had to be logged before, and all "
            "with the final run. A rate by a rule saves the sweep of a package and that of a refined schedule (what "
            "was logged before is still needed); the rule of a family needs the sweep of linear decay in place of its "
            "own."
        ),
    ]
    keys = ["method", "warmup"]
    for suite in suites(costs):
        own = costs[costs["suite"] == suite]
        frame = own.assign(
            sweep=own["sweep_updates"] / own["run_updates"],
            prior=own["prior_updates"] / own["run_updates"],
        )
        table = frame.groupby(keys)[["sweep_runs", "sweep", "prior"]].mean()
        table["total"] = table["sweep"] + table["prior"] + 1.0
        table = table.sort_values("total", kind="stable")
        names = [label(str(method), str(warmup)) for method, warmup in table.index]
        shown = [[f"{v:,.1f}" for v in table[c]] for c in ("sweep_runs", "sweep", "prior", "total")]
        rows = tuple(zip(names, *shown, strict=True))
        header = ("method", "sweep runs", "sweep", "logged before", "total")
        blocks.append(doc.Table(f"{suite}: cost in final runs", header, rows))
    return blocks + _at_limit(costs[costs["at_limit"] > 0])


def _at_limit(ended: pd.DataFrame) -> list[doc.Block]:
    if ended.empty:
        return []
    texts = []
    for (suite, method, warmup), group in ended.groupby(["suite", "method", "warmup"]):
        where = "; ".join(f"{problem}, {optimizer}" for problem, optimizer in group[CELL[1:]].to_numpy())
        texts.append(f"{suite}, {label(str(method), str(warmup))}: {where}")
    start = "These sweeps ended at the furthest rate they may try; a better one may lie beyond:"
    return [doc.Paragraph(start), doc.Items(tuple(texts))]


def _ends(results: Sequence[Results]) -> list[doc.Block]:
    skipped = [(r.meta["suite"], p, str(why)) for r in results for p, why in sorted(r.meta["skipped"].items())]
    failed = [
        (r.meta["suite"], method, why, str(cells))
        for r in results
        for method, reasons in sorted(r.meta["failed"].items())
        for why, cells in sorted(reasons.items())
    ]
    blocks: list[doc.Block] = [doc.Heading(2, "Left out")]
    if skipped:
        blocks.append(doc.Table("Left out", ("suite", "problem", "reason"), tuple(skipped), names=3))
    if failed:
        header = ("suite", "method", "reason", "cells")
        blocks.append(doc.Table("Methods that could not be tried", header, tuple(failed), names=3))
    if not skipped and not failed:
        blocks.append(doc.Paragraph("None."))
    blocks.append(doc.Heading(2, "Machine and versions"))
    for r in results:
        meta = r.meta
        versions = ", ".join(f"{name} {version}" for name, version in sorted(meta["versions"].items()))
        blocks.append(
            doc.Paragraph(
                f"{meta['suite']} ({meta['scale']}): {meta['machine']}; {versions}; finished {meta['finished']}; "
                f"{int(meta['runs']):,} runs, {float(meta['seconds']) / 60:.0f} minutes of one process each, "
                f"{float(meta['wall_seconds']) / 60:.0f} minutes in all."
            )
        )
    commands = [f"refine bench --suite {r.meta['suite']} --scale {r.meta['scale']}" for r in results]
    blocks += [
        doc.Heading(2, "To reproduce"),
        doc.Code("\n".join([*dict.fromkeys(commands), "refine bench report bench/SUITE.sqlite ... -o OUT"])),
        doc.Paragraph("Folders of results hold the checksums of their files; edited ones are refused."),
    ]
    return blocks

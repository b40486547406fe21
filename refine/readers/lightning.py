"""``metrics.csv`` of Lightning's CSVLogger, and the folders it lies in.

The norm is what ``self.log_dict(grad_norm(self, norm_type))`` logs in ``on_before_optimizer_step``: before clipping, of
one update, l2 or l1 by its name. Rows of one step stand apart: the rate of LearningRateMonitor (the one used in that
step), then the metrics; ``_epoch`` columns are means. Steps count from 0. Before Lightning 2.0 norms were rounded to
4 decimals. A resumed run starts a new ``version_N``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from .base import Facts, Format, ReadOptions, Records
from .opening import Log
from .runs import choose_with_norm, is_norm
from .settings import beside
from .table import header, read_table

__all__ = ["FORMAT"]

_NAME = "metrics.csv"
_NORM = re.compile(r"grad_[\d.]+_norm(_total|[/_])")
_RATE = re.compile(r"lr-[A-Za-z]\w*")


def _read(log: Log, options: ReadOptions) -> Records:
    if not log.is_dir:
        return _read_metrics(log, options)
    versions = {part.path.parent.relative_to(log.path).as_posix(): part for part in _logs(log)}
    run = choose_with_norm(versions, lambda name: any(is_norm(n, options) for n in header(versions[name])), options.run)
    records = _read_metrics(versions[run], options)
    return records.known_as(records.format, run=run)


def _read_metrics(log: Log, options: ReadOptions) -> Records:
    names = header(log)
    facts = Facts(
        clipping="pre" if any(map(_NORM.match, names)) else "unknown",
        lr_alignment="this_step" if any(map(_RATE.match, names)) else "unknown",
        from_zero=True,
    )
    return read_table(log, options).known_as(
        "Lightning metrics.csv",
        facts,
        settings=beside(log.path.parent, ["hparams.yaml", "config.yaml"]),
        missing="log it with self.log_dict(lightning.pytorch.utilities.grad_norm(self, norm_type=2)) in "
        "on_before_optimizer_step, or choose one with --column",
    )


def _logs(log: Log) -> Iterator[Log]:
    """The file, or all in the folder, that CSVLogger wrote."""
    for part in map(log.sibling, log.files(_NAME)) if log.is_dir else [log]:
        if _is_metrics(part):
            yield part


def _is_metrics(log: Log) -> bool:
    """A header sorted by name, as CSVLogger writes it, with a name that Lightning gives, or with epoch and CRLF."""
    names = header(log)
    if "step" not in names or names != sorted(names):
        return False
    if any(_NORM.match(name) or _RATE.match(name) for name in names):
        return True
    return "epoch" in names and log.sample.split(b"\n", 1)[0].endswith(b"\r")


FORMAT = Format(
    "lightning",
    get="lightning_logs/version_N/metrics.csv, or its folder (CSVLogger)",
    lost="the optimizer, unless LearningRateMonitor names it; --optimizer",
    sniff=lambda log: any(True for _ in _logs(log)),
    read=_read,
)

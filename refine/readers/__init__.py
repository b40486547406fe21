"""From a log that people have to `GradientNorms`: the registry of formats, and the way in."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from ..errors import RefineError
from ..files import printable
from ..norms import GradientNorms, NormKind
from ..refinement import OptimizerFamily
from ..schedule import Schedule
from . import (
    arrays,
    composer,
    console,
    dvclive,
    fairseq,
    hf_console,
    huggingface,
    json_text,
    levanter,
    lightning,
    lingua,
    llmc,
    loss_console,
    lr_scheduling,
    maxtext,
    megatron,
    mlflow,
    mmengine,
    ms_swift,
    nanotron,
    olmo,
    parquet,
    recorder,
    table,
    tensorboard,
    torchtitan,
    torchtune,
    trackio,
    verl,
    wandb_run,
    without_norms,
)
from .base import Format, LossOptions, ReadOptions, Records, quoted
from .choose import choose, group_options, holds_norms
from .columns import looks_like_norm
from .opening import Log, opened

if TYPE_CHECKING:
    from ..loss_curve import LossCurve
    from . import losses

__all__ = [
    "FORMATS",
    "ReadOptions",
    "curve_of",
    "distinct",
    "find_format",
    "read_groups",
    "read_logs",
    "read_losses",
    "read_norms",
    "read_one",
    "read_records",
]

Result = TypeVar("Result")

FORMATS: tuple[Format, ...] = (
    recorder.FORMAT,
    ms_swift.FORMAT,
    huggingface.FORMAT,
    lightning.FORMAT,
    wandb_run.FORMAT,
    tensorboard.FORMAT,
    mlflow.FOLDER,
    trackio.FORMAT,
    mlflow.DATABASE,
    dvclive.FORMAT,
    parquet.FORMAT,
    arrays.NPY,
    arrays.NPZ,
    megatron.FORMAT,
    torchtitan.FORMAT,
    olmo.FORMAT,
    nanotron.FORMAT,
    llmc.FORMAT,
    fairseq.FORMAT,
    composer.FORMAT,
    hf_console.FORMAT,
    lingua.FORMAT,
    levanter.FORMAT,
    torchtune.FORMAT,
    verl.FORMAT,
    maxtext.FORMAT,
    mmengine.FORMAT,
    lr_scheduling.FORMAT,
    json_text.DOCUMENT,
    json_text.LINES,
    console.FORMAT,
    table.FORMAT,
)
"""Tried in this order; the first whose ``sniff`` says yes reads the log."""

_OF_LOSSES = tuple(loss_console.FORMAT if format is console.FORMAT else format for format in FORMATS)
"""Where losses are read, lines without a norm count too."""

_PLAIN = (json_text.DOCUMENT, json_text.LINES, console.FORMAT, table.FORMAT)


def read_norms(
    path: str | os.PathLike[str],
    *companions: str | os.PathLike[str],
    column: str | None = None,
    step_column: str | None = None,
    lr_column: str | None = None,
    norm_kind: NormKind | None = None,
    optimizer: OptimizerFamily | None = None,
    every: int | None = None,
    logged_steps: int | None = None,
    run: str | None = None,
    extras: bool = False,
    progress: Callable[[float], None] | None = None,
) -> GradientNorms:
    """Read the gradient norms of a finished run, in any format of `FORMATS`.

    Formats are told by content; columns are found by name (`refine.readers.columns`); dirty rows are
    handled by `refine.hygiene` and counted.

    Parameters
    ----------
    path : path-like
        The log: a file or folder, compressed or not, a URL, or "-" for standard input.
    *companions : path-like
        More files of the same run that hold learning rates or losses, not norms (W&B exports a chart a file).
    column, step_column, lr_column : str, optional
        Names of the norm, step and learning-rate columns, where they cannot be found or there are
        several; in a file without a header their number, from 1.
    norm_kind : {"l2", "l1", "dual"}, optional
        Which norm the column holds, or which to take where the log holds several.
    optimizer : {"sgd", "adam"}, optional
        Decides between an l2 and an l1 column (SGD wants l2, the Adam family l1).
    every : int, optional
        Updates between two rows of a log without a step column.
    logged_steps : int, optional
        Updates of the whole logged run where the log stops early.
    run : str, optional
        Which run, where the log holds several.
    extras : bool
        Keep the other norms too: of the other kind, and of single layers.
    progress : callable, optional
        Called now and then with the share of the file that has been read.

    Raises
    ------
    RefineError
        Nothing that could be read without guessing; the message names the remedy.
    """
    options = ReadOptions(column, step_column, lr_column, norm_kind, optimizer, every, logged_steps, run, extras)
    others = {os.fspath(other): _read(os.fspath(other), options, None) for other in companions}
    return _chosen(os.fspath(path), _read(os.fspath(path), options, progress), others, options)


def read_losses(
    path: str | os.PathLike[str],
    *companions: str | os.PathLike[str],
    loss_column: str | None = None,
    step_column: str | None = None,
    lr_column: str | None = None,
    every: int | None = None,
    run: str | None = None,
    prior_schedule: Schedule | str | None = None,
    peak_lr: float | None = None,
    logged_steps: int | None = None,
    progress: Callable[[float], None] | None = None,
) -> LossCurve:
    """Read the losses of a run and the learning rate of its every update, from a log in any format of `FORMATS`.

    The log needs no gradient norms. Held-out losses are taken where there are 12 of them, else those of training; of a
    perplexity the logarithm. Rates may stand in other rows than losses, or in another file.

    Parameters
    ----------
    path, *companions : path-like
        The log, and files of the same run that hold its learning rates.
    loss_column, step_column, lr_column : str, optional
        Names of columns, where they cannot be found or there are several; in a file without a header their number,
        from 1.
    every : int, optional
        Updates between two rows of a log without a step column.
    run : str, optional
        Which run, where the log holds several.
    prior_schedule : Schedule or str, optional
        What the run used, where the log does not hold its rates: a schedule, a file or the name of a family, stretched
        to the run.
    peak_lr : float, optional
        Peak learning rate of the run.
    logged_steps : int, optional
        Updates of the whole run, where the log stops early.
    progress : callable, optional
        Called now and then with the share of the file that has been read.

    Raises
    ------
    RefineError
        No loss, several that differ, a running average, a loss of 0 or less; learning rates that are unknown.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "log.csv")
    >>> _ = path.write_text("step,val_loss,lr\\n10,3.5,0.1\\n20,3.0,0.2\\n30,2.5,0.1\\n")
    >>> curve = read_losses(path)
    >>> curve.steps.tolist(), curve.losses.tolist(), curve.rates[[9, 14, 19]].round(3).tolist(), curve.sort
    ([10, 20, 30], [3.5, 3.0, 2.5], [0.1, 0.15, 0.2], 'validation')
    """
    from . import losses  # it reads of the schedules of runs, which read settings here

    options = LossOptions(
        step_column=step_column,
        lr_column=lr_column,
        every=every,
        logged_steps=logged_steps,
        run=run,
        loss_column=loss_column,
    )
    others = {os.fspath(other): _read(os.fspath(other), options, None) for other in companions}
    records = _read(os.fspath(path), options, progress)
    return curve_of(os.fspath(path), records, others, options, losses.Given(prior_schedule, peak_lr))


def curve_of(
    path: str, records: Records, companions: Mapping[str, Records], options: LossOptions, given: losses.Given
) -> LossCurve:
    """Losses and rates of a log that was read."""
    from . import losses

    return _named(path, lambda: losses.choose_losses(records, options, given, name=path, companions=companions))


def read_records(path: str, options: ReadOptions) -> Records:
    """A log as it is read, before anything in it is chosen."""
    return _read(path, options, None)


def read_logs(
    paths: Sequence[str], options: ReadOptions, progress: Callable[[float], None] | None = None
) -> list[GradientNorms]:
    """Read several logs, each once; those that hold rates but no norms are joined to the one that holds norms."""
    paths, again = distinct(paths)
    read = [(path, _read(path, options, progress)) for path in paths]
    main = [each for each in read if len(read) > 1 and holds_norms(each[1], options)] or read[:1]
    others = [each for each in read if each not in main]
    if others and len(main) > 1:
        raise RefineError(
            f"{printable(others[0][0])}: no gradient norm, while {len(main)} other logs hold norms; "
            "pool logs that all hold norms, or give one of them with its learning rates"
        )
    norms = [_chosen(path, records, dict(others), options) for path, records in main]
    notes = [f"{said}: it counts once" for _, said in again]
    source = norms[0].source
    norms[0] = replace(norms[0], source=replace(source, notes=(*source.notes, *notes))) if notes else norms[0]
    return norms


def distinct(paths: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Each log once, and those that name one again, with what is to be said of that.

    Names of one file are one log, through links too; of what is no file, as URLs are, equal names.

    Examples
    --------
    >>> distinct(["-", "s3://bucket/a.csv", "-"])
    (['-', 's3://bucket/a.csv'], [('-', '- is named twice')])
    """
    first: dict[str, str] = {}
    again = []
    for path in paths:
        place = os.path.realpath(path) if path != "-" and os.path.exists(path) else path
        if place not in first:
            first[place] = path
        elif path == first[place]:
            again.append((path, f"{printable(path)} is named twice"))
        else:
            again.append((path, f"{printable(path)} is the same file as {printable(first[place])}"))
    return list(first.values()), list(dict.fromkeys(again))


def read_one(
    paths: Sequence[str], options: ReadOptions, progress: Callable[[float], None] | None = None
) -> GradientNorms:
    """Read the logs of one run: one that holds norms, the others its learning rates or losses."""
    norms = read_logs(paths, options, progress)
    if len(norms) > 1:
        raise RefineError(
            f"{printable(norms[0].source.name)} and {printable(norms[1].source.name)} hold norms both; name one log"
        )
    return norms[0]


def read_groups(
    path: str, options: ReadOptions, progress: Callable[[float], None] | None = None
) -> dict[str, GradientNorms | RefineError]:
    """Read the norms of each param group of a log, by its name; in place of those that cannot be used, why not."""
    records = _read(path, options, progress)
    found: dict[str, GradientNorms | RefineError] = {}
    for name, its in _named(path, lambda: group_options(records, options)).items():
        try:
            found[name] = _chosen(path, records, {}, its)
        except RefineError as error:
            found[name] = error
    return found


def _chosen(path: str, records: Records, companions: Mapping[str, Records], options: ReadOptions) -> GradientNorms:
    return _named(path, lambda: choose(records, options, name=path, companions=companions))


def _read(name: str, options: ReadOptions, progress: Callable[[float], None] | None) -> Records:
    def read() -> Records:
        with opened(name, progress) as log:
            log, notes = _in_folder(log)
            if isinstance(options, LossOptions):
                records = _format(log, _OF_LOSSES).read(log, options)
                return replace(records, notes=(*notes, *records.notes))
            try:
                records = find_format(log).read(log, options)
            except RefineError:
                remedy = without_norms.recipe(log, unread=True)
                if remedy is None:
                    raise
                raise RefineError(remedy) from None
            if not holds_norms(records, options):
                records = replace(records, missing=without_norms.recipe(log) or records.missing)
            return replace(records, notes=(*notes, *records.notes))

    return _named(name, read)


def find_format(log: Log) -> Format:
    """The format of a log, by its content."""
    return _format(log, FORMATS)


def _format(log: Log, formats: Sequence[Format]) -> Format:
    for format in formats:
        if format.sniff(log):
            return format
    if log.is_dir:
        known = quoted(path.name for path in log.path_files() if _is_known(log.sibling(path)))
        raise RefineError(
            "the folder holds no log that refine knows as a folder; name the log in it"
            + (f": {known}" if known else " (refine formats lists what can be read)")
        )
    table.read_table(log, ReadOptions())  # says what is wrong with it
    raise RefineError("no format that refine knows; refine formats lists them")


def _in_folder(log: Log) -> tuple[Log, list[str]]:
    """What to read of a folder: itself, or the one framework's log in it; with a note of what else it holds."""
    if not log.is_dir:
        return log, []
    formats = [format.name for format in FORMATS if format.sniff(log)]
    if len(formats) > 1:
        note = (
            f"the folder is read as {formats[0]}; it holds {', '.join(formats[1:])} too: name one of them to read that"
        )
        return log, [note]
    known = [] if formats else [path for path in log.path_files() if _is_known(log.sibling(path), plain=False)]
    if len(known) != 1:
        return log, []
    return log.sibling(known[0]), [f"of the folder {printable(known[0].name)} is read"]


def _is_known(log: Log, *, plain: bool = True) -> bool:
    """Whether a file has the format of a framework or, if ``plain``, is a plain log with a norm."""
    for format in FORMATS:
        if format.sniff(log):
            named = any(looks_like_norm(name) for name in table.header(log))
            return format not in _PLAIN or (plain and (named or format is not table.FORMAT))
    return False


def _named(name: str, read: Callable[[], Result]) -> Result:
    """Run a reader; whatever is wrong with the log becomes one line that names it."""
    name = printable(name)
    try:
        return read()
    except RefineError as error:
        if not str(error).startswith((name, f"cannot read {name}")):
            error.args = (f"{name}: {error}",)
        raise error from None
    except RecursionError:
        raise RefineError(f"{name}: nested too deeply to be a log") from None
    except MemoryError:
        raise RefineError(f"{name}: does not fit into memory; name a smaller log") from None
    except (OSError, ValueError) as error:
        raise RefineError(f"cannot read {name}: {printable(getattr(error, 'strerror', None) or error)}") from None

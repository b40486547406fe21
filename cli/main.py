"""The group of commands, and the one place that turns errors into a line and an exit code."""

from __future__ import annotations

import gc
import os
import signal
import sys
from contextlib import suppress
from typing import Any

import click

from refine import __version__
from refine.errors import RefineError
from refine.interrupts import ignore, unwinding

from .bench import bench
from .compare import compare
from .continue_run import continue_run
from .convert import convert
from .describe import describe
from .explain import explain
from .export import export
from .families import families
from .fit import fit
from .formats import formats
from .inspect import inspect
from .merge_weights import merge_weights
from .plot import plot
from .predict import predict
from .retarget import retarget


class _Refine(click.Group):
    came: list[int]
    """Signals that asked to stop."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run a command. SIGTERM and SIGHUP undo what is half-done, as Ctrl-C does: exit code 128 and their number."""
        _stand_in()
        with unwinding() as self.came:
            try:
                return super().main(*args, **extra)
            except SystemExit as ended:
                if ended.code and self.came and self.came[0] != signal.SIGINT:
                    raise SystemExit(128 + self.came[0]) from None
                raise
            except OSError as error:  # click prints help and errors itself
                if not _in_click(error):
                    raise
                with suppress(OSError):
                    click.echo(f"Error: {_full(error)}", err=True)
                raise SystemExit(1) from None
            finally:
                _drop_unwritten()

    def invoke(self, ctx: click.Context) -> Any:
        # Imports make many objects and no garbage: looking for some takes 4 % of a fit.
        gc.set_threshold(100_000)
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except KeyboardInterrupt:
            ignore()
            raise
        except Exception as error:
            if self.came:  # what was interrupted may raise anything: an import, a killed worker
                raise click.Abort from None
            if os.environ.get("REFINE_DEBUG"):
                raise
            if isinstance(error, RefineError):
                raise click.ClickException(" ".join(str(error).split("\n"))) from None
            if isinstance(error, OSError) and _in_click(error):
                raise click.ClickException(_full(error)) from None
            detail = " ".join(f"{type(error).__name__}: {error}".split())
            raise click.ClickException(
                f"refine failed ({detail}); this is a bug: REFINE_DEBUG=1 shows where, please report it"
            ) from None


def _stand_in() -> None:
    """Put something in the place of closed standard streams, so that no file of ours gets their number.

    Input is empty, what is said to standard error is lost; as output is asked for, writing to it fails.
    """
    for name, flags in (("stdin", os.O_RDONLY), ("stdout", os.O_RDONLY), ("stderr", os.O_WRONLY)):
        if getattr(sys, name) is None:
            number = os.open(os.devnull, flags)
            os.set_inheritable(number, True)  # by workers, which do not start without standard error
            setattr(sys, name, open(number, "r" if name == "stdin" else "w"))  # noqa: SIM115 (as long as the process)


def _in_click(error: OSError) -> bool:
    """Whether it was raised as click printed: no file is written there."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and str(trace.tb_frame.f_globals.get("__name__")).startswith("click.")


def _full(error: OSError) -> str:
    return f"cannot write to standard output: {error.strerror or error}"


def _drop_unwritten() -> None:
    """Keep Python from trying, as it ends, to write again what could not be written."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@click.group(cls=_Refine, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="refine")
def main() -> None:
    """Which learning-rate schedule should the next run use?

    refine reads the gradient norms of a finished run and computes the schedule for the next one.
    """


for command in (
    fit,
    explain,
    compare,
    predict,
    retarget,
    continue_run,
    describe,
    export,
    merge_weights,
    plot,
    inspect,
    convert,
    formats,
    families,
    bench,
):
    main.add_command(command)

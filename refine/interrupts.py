"""What SIGINT, SIGTERM and SIGHUP may interrupt, so that nothing half-made stays behind."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType
from typing import Any

__all__ = ["ignore", "uninterrupted", "unwinding"]

_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@contextmanager
def unwinding() -> Iterator[list[int]]:
    """Let each of the three raise `KeyboardInterrupt` in the main thread; gives the list of those that came.

    One that is ignored, or that somebody handles already, stays as it is. While an interruption unwinds, another one
    breaks no clean-up: it is only listed.
    """
    came: list[int] = []

    def interrupt(signum: int, frame: FrameType | None) -> None:
        came.append(signum)
        error = sys.exc_info()[1]  # what is cleaned up after, or what went wrong in that
        while error is not None and not isinstance(error, KeyboardInterrupt):
            error = error.__context__
        if error is None:
            raise KeyboardInterrupt

    before: dict[int, Any] = {}
    try:
        if threading.current_thread() is threading.main_thread():
            for signum in _SIGNALS:
                before[signum] = signal.getsignal(signum)
                if before[signum] in (signal.SIG_DFL, signal.default_int_handler):
                    signal.signal(signum, interrupt)
        yield came
    finally:
        for signum, handler in before.items():
            if handler is not None:  # None: that of another language
                signal.signal(signum, handler)


def ignore() -> None:
    """Ignore the three, until `unwinding` ends: what is left to do is to say so and to end."""
    if threading.current_thread() is threading.main_thread():
        for signum in _SIGNALS:
            if signal.getsignal(signum) is not None:
                signal.signal(signum, signal.SIG_IGN)


@contextmanager
def uninterrupted() -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """Let the three wait until the end, except inside of the context that is given; then they do what they did before.

    Inside of that context a signal that would end the process raises `KeyboardInterrupt`, and ends it after all.
    """
    waiting: list[int] = []
    before: dict[int, Any] = {}
    may_interrupt = False

    def take(signum: int, frame: FrameType | None) -> None:
        nonlocal may_interrupt
        if not may_interrupt:
            waiting.append(signum)
            return
        may_interrupt = False  # the clean-up waits for nobody
        if not callable(before[signum]):
            waiting.append(signum)
            raise KeyboardInterrupt
        before[signum](signum, frame)
        may_interrupt = True

    @contextmanager
    def interruptible() -> Iterator[None]:
        nonlocal may_interrupt
        try:
            may_interrupt = True
            while waiting:
                take(waiting.pop(), None)
            yield
        finally:
            may_interrupt = False

    try:
        if threading.current_thread() is threading.main_thread():  # elsewhere no signal arrives
            for signum in _SIGNALS:
                if signal.getsignal(signum) not in (signal.SIG_IGN, None):
                    before[signum] = signal.signal(signum, take)
        yield interruptible
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
        for signum in waiting:
            signal.raise_signal(signum)

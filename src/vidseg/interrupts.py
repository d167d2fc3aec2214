"""Ctrl-C and SIGTERM: one meaning for both, and a pause for what must be whole."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

ENDING_S = 10.0


@contextmanager
def hold_interrupts() -> Iterator[None]:
    """Let Ctrl-C, and SIGTERM where it is handled, wait for the end of what must be whole."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    handlers = {number: handler for number, handler in handlers.items() if callable(handler)}
    if threading.current_thread() is not threading.main_thread():
        handlers = {}
    held: list[int] = []
    for number in handlers:
        signal.signal(number, lambda number, _: held.append(number))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if held:
        handlers[signal.Signals(held[0])](held[0], None)


@contextmanager
def interruptible(*, leave: bool = False) -> Iterator[None]:
    """Let SIGTERM, by which services are stopped, mean Ctrl-C: each raises KeyboardInterrupt.

    What comes within ten seconds of the first one is passed over: the work is being ended, and a
    second exception in the midst of that would leave half of it behind.

    Args:
        leave: the process ends behind it, and once interrupted it may do so in peace.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    # What whoever started us wants ignored (nohup, a shell's background job) stays ignored.
    left_alone = (signal.SIG_IGN, None)
    before = {n: signal.getsignal(n) for n in numbers if signal.getsignal(n) not in left_alone}
    _ending.since_s = None
    for number in before:
        signal.signal(number, _interrupt)
    try:
        yield
    finally:
        is_leaving = leave and _ending.since_s is not None
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if is_leaving else handler)
        _ending.since_s = None


def begin_ending() -> None:
    """Say that the work is being ended already, before an interrupt has been raised for it."""
    _ending.since_s = time.monotonic()


class _Ending:
    since_s: float | None = None


_ending = _Ending()


def _interrupt(number: int, frame: object) -> None:
    del number, frame
    if _ending.since_s is None or time.monotonic() - _ending.since_s > ENDING_S:
        begin_ending()
        raise KeyboardInterrupt

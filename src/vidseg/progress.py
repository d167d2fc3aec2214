"""How long work is shown to those who wait for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Meter(Protocol):
    """Counts the steps of one piece of work."""

    def advance(self, count: int = 1, note: str = "") -> None:
        """Say that `count` more are done; `note` says what is at hand."""
        ...


class Display(Protocol):
    """Shows work of several pieces, each with a meter; `vidseg.cli.console.progress` is one."""

    def __call__(
        self, description: str, total: int | None = None, *, unit: str = ""
    ) -> AbstractContextManager[Meter]:
        """Begin a piece of work.

        Args:
            description: what is being done.
            total: how many steps it has; None if nobody knows yet.
            unit: what is counted.
        """
        ...


@contextmanager
def silent(description: str, total: int | None = None, *, unit: str = "") -> Iterator[Meter]:
    """A display that shows nothing."""
    del description, total, unit

    class Silent:
        def advance(self, count: int = 1, note: str = "") -> None:
            pass

    yield Silent()

"""A display that notes what it is told; a library, not a test."""

from collections.abc import Iterator
from contextlib import contextmanager


class Counting:
    """(done, total) each time that a meter advances."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, int | None]] = []
        self._done = 0

    @contextmanager
    def __call__(
        self, description: str, total: int | None = None, *, unit: str = ""
    ) -> Iterator["Counting"]:
        """Begin a piece of work."""
        del description, unit
        self._done, self._total = 0, total
        yield self

    def advance(self, count: int = 1, note: str = "") -> None:
        """Note `count` more, one by one."""
        del note
        for _ in range(count):
            self._done += 1
            self.steps.append((self._done, self._total))

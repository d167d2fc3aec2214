"""What commands write: prose and tables, progress, and the machine-readable product.

Prose and tables go to stdout through `console` and stop under `--quiet`; progress goes to stderr,
as a bar on a terminal and as plain lines elsewhere; `write` and `write_json` are what the user
asked for (`--json`) and always come.

Text is shown as it is: nothing in it is markup, and what a terminal would obey is shown as escapes.
A reader of stdout that leaves (`| head`) ends the writing, not the work.
"""

from __future__ import annotations

import io
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from vidseg.printable import VisibleFormatter, visible, visible_json

PIPED_WIDTH = 120  # rich would fold tables to 80 columns where there is no terminal to measure
LINE_INTERVAL_S = 10.0


class _Console(Console):
    """Shows text as it is, and stops writing once nobody reads."""

    def __init__(self, *, stderr: bool) -> None:
        stream = sys.stderr if stderr else sys.stdout
        width = None if stream is not None and stream.isatty() else PIPED_WIDTH
        super().__init__(stderr=stderr, highlight=False, markup=False, emoji=False, width=width)

    def render_str(self, text: str, **options: Any) -> Text:
        """Every string, also in the cells of a table, becomes text here."""
        return super().render_str(visible(text), **options)

    def on_broken_pipe(self) -> None:
        """Go on in silence; rich's own would end the program, in the middle of its work."""
        _forget(self.file)


console = _Console(stderr=False)
errors = _Console(stderr=True)


def _forget(stream: IO[str]) -> None:
    """Send what is still written to a stream that nobody reads to nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def open_standard_streams() -> None:
    """Give the process the streams that it was started without, and let them take any character.

    A file that is opened later would otherwise get the number of stdout, and what libraries print.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            nowhere = Path(os.devnull).open(mode, encoding="utf-8")  # noqa: SIM115 (stays open)
            setattr(sys, name, nowhere)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def finish_stdout() -> None:
    """Write out what stdout holds; nobody may be there any more to read it."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _forget(sys.stdout)


def be_quiet(quiet: bool = True) -> None:
    """Leave out prose, tables and progress (`--quiet`); errors and `write` still come."""
    console.quiet = quiet


class _Shown(logging.Handler):
    """What the library logs, above the progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        errors.print(self.format(record), soft_wrap=True)


def show_logs(level: int) -> Callable[[], None]:
    """Show what is logged at this level or above; returns what ends it."""
    root, handler = logging.getLogger(), _Shown()
    handler.setFormatter(VisibleFormatter("%(message)s"))
    before = root.level

    def end() -> None:
        root.removeHandler(handler)
        root.setLevel(before)

    root.addHandler(handler)
    root.setLevel(level)
    return end


def write(text: str) -> None:
    """Write a line of what the user asked for to stdout, `--quiet` or not."""
    try:
        sys.stdout.write(text + "\n")
    except BrokenPipeError:
        _forget(sys.stdout)
    finish_stdout()


def write_json(value: Any) -> None:
    """Write one JSON document to stdout (`--json`); NaN becomes null, which JSON has."""
    text = json.dumps(_without_nan(value), indent=2, ensure_ascii=False, allow_nan=False)
    write(visible_json(text))


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value


class Meter:
    """Counts what is done; made by `progress`."""

    def __init__(self, description: str, total: int | None, unit: str) -> None:
        self.description, self.total, self.unit = description, total, unit
        self.done = 0
        self._started_s = time.monotonic()

    @property
    def per_second(self) -> float:
        """Units a second since the start."""
        return self.done / max(time.monotonic() - self._started_s, 1e-9)

    def advance(self, count: int = 1, note: str = "") -> None:
        """Say that `count` more are done; `note` (a loss, a file) is shown beside the count."""
        self.done += count
        self._show(note)

    def _show(self, note: str) -> None:
        """Show nothing: this is the meter of `--quiet`."""

    def _close(self) -> None:
        pass

    def _line(self, note: str) -> str:
        count = f"{self.done}" if self.total is None else f"{self.done}/{self.total}"
        parts = [f"{self.description}: {count} {self.unit}".rstrip(), f"{self.per_second:.1f}/s"]
        if self.total is not None and 0 < self.done < self.total:
            left_s = (self.total - self.done) / self.per_second
            parts.append(f"{timedelta(seconds=round(left_s))} left")
        return ", ".join([*parts, note] if note else parts)


class _Lines(Meter):
    """Plain lines, at most one in `LINE_INTERVAL_S`, and one at the end."""

    def __init__(self, description: str, total: int | None, unit: str) -> None:
        super().__init__(description, total, unit)
        self._shown_s = time.monotonic()
        self._shown_done = -1
        self._note = ""

    def _show(self, note: str) -> None:
        self._note = note
        if time.monotonic() - self._shown_s >= LINE_INTERVAL_S:
            self._write()

    def _close(self) -> None:
        if self.done != self._shown_done:
            self._write()

    def _write(self) -> None:
        self._shown_s, self._shown_done = time.monotonic(), self.done
        errors.print(self._line(self._note), markup=False, soft_wrap=True)


class _Bar(Meter):
    """A bar that redraws itself on the terminal."""

    def __init__(self, description: str, total: int | None, unit: str) -> None:
        super().__init__(description, total, unit)
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[count]}", markup=False),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=errors,
        )
        self._task = self._bar.add_task(visible(description), total=total, count="", note="")
        self._bar.start()

    def _show(self, note: str) -> None:
        of = "" if self.total is None else f"/{self.total}"
        count = f"{self.done}{of} {self.unit} {self.per_second:.1f}/s"
        self._bar.update(self._task, completed=self.done, count=count, note=visible(note))

    def _close(self) -> None:
        self._bar.stop()


@contextmanager
def progress(description: str, total: int | None = None, *, unit: str = "") -> Iterator[Meter]:
    """Show how far a loop has come: a bar on a terminal, plain lines elsewhere, nothing when quiet.

    Args:
        description: what is being done ("segmenting").
        total: how many there are; None if nobody knows yet.
        unit: what is counted ("frames").

    Yields:
        The meter; call its `advance()` once for each one that is done.
    """
    kind = Meter if console.quiet else _Bar if errors.is_terminal else _Lines
    meter = kind(description, total, unit)
    try:
        yield meter
    finally:
        meter._close()

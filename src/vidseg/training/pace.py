"""How fast a run goes, and when it is asked to stop."""

import contextlib
import logging
import signal
import time
from collections.abc import Iterator
from typing import Any

log = logging.getLogger("vidseg.training")


class Pace:
    """Means of the records since the last line of the log, and the speed."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.total_steps, self.total_s = 0, 0.0
        self._reset()

    def _reset(self) -> None:
        self.records: list[dict[str, float]] = []
        self.waited_s = 0.0
        self.since_s = time.perf_counter()

    def add(self, record: dict[str, float]) -> None:
        """Take in the record of one step."""
        self.records.append(record)

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Time spent on waiting for data."""
        begin_s = time.perf_counter()
        yield
        self.waited_s += time.perf_counter() - begin_s

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Time that does not count."""
        begin_s = time.perf_counter()
        yield
        self.since_s += time.perf_counter() - begin_s

    @property
    def samples_per_s(self) -> float:
        """Samples of all processes together per second, since the last line of the log."""
        passed_s = max(time.perf_counter() - self.since_s, 1e-9)
        return len(self.records) * self.batch_size / passed_s

    def take(self) -> dict[str, float]:
        """The mean record, and begin anew."""
        names = [name for name in self.records[-1] if name not in ("step", "lr")]
        count = len(self.records)
        mean = {name: sum(record[name] for record in self.records) / count for name in names}
        last = self.records[-1]
        speed = {"samples_per_s": self.samples_per_s, "waited_s": self.waited_s / count}
        self._reset()
        return {"step": last["step"], **mean, "lr": last["lr"], **speed}


class StopSignal:
    """Turns the first Ctrl-C or SIGTERM into a wish; the second one acts at once."""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignal":
        with contextlib.suppress(ValueError):  # only the main thread may set handlers
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: object) -> None:
        del frame
        self.asked = True
        signal.signal(number, self._before[number])
        log.info("finishing this step and writing a checkpoint; again to stop at once")

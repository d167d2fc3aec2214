"""Time and memory of what is called in turns.

Everything that is compared runs within one process, a call of each at a time, so that whatever else
the machine does hits all of them alike.
"""

import ctypes
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vidseg.progress import Display, silent

Side = Callable[[], Any]


@dataclass(frozen=True)
class Timing:
    """One way to segment a frame.

    Attributes:
        milliseconds: per frame, one for each turn.
        cpu_milliseconds: the same in processor time of all threads, which other processes on the
            machine disturb less; empty where the work is done elsewhere.
        peak_bytes: most extra memory in use during a turn, beyond the weights and the stream's own
            memory; None where it cannot be measured.
    """

    milliseconds: tuple[float, ...]
    cpu_milliseconds: tuple[float, ...] = ()
    peak_bytes: int | None = None

    @property
    def median_ms(self) -> float:
        """Median time of a frame, in milliseconds."""
        return statistics.median(self.milliseconds)

    @property
    def p95_ms(self) -> float:
        """Time that 95 of 100 frames stay within, in milliseconds (nearest rank)."""
        ordered = sorted(self.milliseconds)
        return ordered[max(-(-95 * len(ordered) // 100) - 1, 0)]

    @property
    def cpu_median_ms(self) -> float | None:
        """Median processor time of a frame, in milliseconds."""
        return statistics.median(self.cpu_milliseconds) if self.cpu_milliseconds else None

    @property
    def fps(self) -> float:
        """Frames per second at the median."""
        return 1e3 / self.median_ms


def time_in_turns(
    sides: Mapping[str, Side],
    device: torch.device,
    frames: Mapping[str, int],
    *,
    num_turns: int,
    warm_up: int,
    progress: Display = silent,
) -> dict[str, Timing]:
    """Call every side once a turn, each turn beginning with another one; then once for its peak.

    Args:
        sides: name -> what is called.
        device: where it runs.
        frames: name -> frames that one call does, by which its time is divided.
        num_turns: turns that are timed.
        warm_up: turns before those.
        progress: shows how many turns are done.

    Returns:
        name -> times and peak.
    """
    clocks: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
    total = warm_up + num_turns
    with progress("measuring", total, unit="turns") as meter:
        for turn in range(total):
            for side in _rotated(list(sides), turn):
                wall_ms, cpu_ms = _timed_ms(sides[side], device)
                if turn >= warm_up:
                    clocks[side].append((wall_ms / frames[side], cpu_ms / frames[side]))
            meter.advance()
    return {
        side: Timing(
            milliseconds=tuple(wall for wall, _ in clocks[side]),
            cpu_milliseconds=tuple(cpu for _, cpu in clocks[side] if device.type == "cpu"),
            peak_bytes=peak_extra_bytes(run, device),
        )
        for side, run in sides.items()
    }


def peak_extra_bytes(run: Side, device: torch.device) -> int | None:
    """Most memory in use while `run()` runs, beyond what was in use before.

    On a GPU the allocator's own count. On Linux the peak of the process's resident set, which can
    be reset; pages that the process had already touched and freed are given back first, so they
    count again. None elsewhere.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    if device.type != "cpu":
        return None
    try:
        with suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        before = _resident_bytes("VmRSS")
        run()
        return max(_resident_bytes("VmHWM") - before, 0)
    except OSError:
        return None


def now_s(device: torch.device) -> float:
    """Seconds on a clock, once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _rotated(names: list[str], turn: int) -> list[str]:
    """Another side goes first each turn, so that none always runs in the wake of the same one."""
    first = turn % len(names)
    return names[first:] + names[:first]


def _timed_ms(run: Side, device: torch.device) -> tuple[float, float]:
    """Wall time and processor time of one call, in milliseconds."""
    begin_s, cpu_begin_s = now_s(device), time.process_time()
    run()
    return 1e3 * (now_s(device) - begin_s), 1e3 * (time.process_time() - cpu_begin_s)


def _resident_bytes(name: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise OSError(f"/proc/self/status has no {name}")

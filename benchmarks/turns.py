"""What benchmarks share: sides that take turns, and the memory of each in a process of its own."""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping

import torch

from vidseg.timing import peak_extra_bytes

Side = Callable[[], object]


def make_parser(description: str | None, sides: Iterable[str]) -> argparse.ArgumentParser:
    """The options of every script whose sides are compared.

    Args:
        description: the script's docstring.
        sides: their names.

    Returns:
        A parser of --turns, --threads, and --peak-of for the process of one side.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--peak-of", choices=tuple(sides), help=argparse.SUPPRESS)
    return parser


def cpu_seconds(sides: Mapping[str, Side], turns: int) -> dict[str, list[float]]:
    """Processor seconds of every turn, all sides in turns; the first turn is not counted."""
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for turn in range(turns + 1):
        for side, run in sides.items():
            begin_s = time.process_time()
            run()
            if turn:
                seconds[side].append(time.process_time() - begin_s)
    return seconds


def median_ratio(seconds: list[float], to: list[float]) -> float:
    """The median over the turns of the ratio within a turn."""
    return statistics.median(a / b for a, b in zip(seconds, to, strict=True))


def fresh_peak_bytes(side: str) -> int:
    """Extra bytes of one call of a side: this script anew, with the same arguments."""
    command = [sys.executable, *sys.argv, "--peak-of", side]
    child = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(child.stdout)


def print_peak(run: Side, small: Side) -> None:
    """Be the fresh process of one side.

    Args:
        run: the call that counts.
        small: one before it; thread pools and kernels are no part of a side.
    """
    small()
    print(peak_extra_bytes(run, torch.device("cpu")))

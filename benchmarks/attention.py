"""Memory and time of TMANet's memory read, beside attention written out in full.

    python benchmarks/attention.py                      # 512x1024, two memory frames, one thread
    python benchmarks/attention.py --size 256x512 --frames 4 --turns 5

Peak memory is the growth of the resident set of a fresh process for each side; time is measured
with both sides taking turns in one process. float32 on the CPU.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from vidseg.benchmark import peak_extra_bytes
from vidseg.layers.memory_read import read_memory

KEY_CHANNELS, VALUE_CHANNELS, OUTPUT_STRIDE = 64, 256, 8


def full_matrix(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """The formula as it stands: every affinity of (h w) x (T h w) at once."""
    flat_keys = keys.transpose(1, 2).flatten(2)
    flat_values = values.transpose(1, 2).flatten(2)
    affinity = torch.bmm(query.flatten(2).transpose(1, 2), flat_keys).softmax(-1)
    context = torch.bmm(affinity, flat_values.transpose(1, 2))
    return context.transpose(1, 2).unflatten(2, query.shape[-2:])


SIDES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "vidseg": read_memory,
    "full matrix": full_matrix,
}


def make_inputs(size: tuple[int, int], frames: int) -> tuple[Tensor, Tensor, Tensor]:
    """Keys after a ReLU, as the network's are."""
    h, w = (-(-side // OUTPUT_STRIDE) for side in size)
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(1, KEY_CHANNELS, h, w, generator=generator).relu_() / 4
    keys = torch.randn(1, frames, KEY_CHANNELS, h, w, generator=generator).relu_() / 4
    values = torch.randn(1, frames, VALUE_CHANNELS, h, w, generator=generator).relu_()
    return query, keys, values


def measure_peak(side: str, size: tuple[int, int], frames: int, threads: int) -> int:
    """Extra bytes of one call, in a process of its own."""
    words = ["--size", f"{size[0]}x{size[1]}", "--frames", str(frames), "--threads", str(threads)]
    child = subprocess.run(
        [sys.executable, __file__, "--peak-of", side, *words],
        capture_output=True,
        text=True,
        check=True,
    )
    return int(json.loads(child.stdout)["bytes"])


def measure_seconds(
    inputs: tuple[Tensor, Tensor, Tensor], turns: int
) -> dict[str, list[tuple[float, float]]]:
    """(Wall, processor) seconds of every turn, both sides in turns."""
    seconds: dict[str, list[tuple[float, float]]] = {side: [] for side in SIDES}
    for turn in range(turns + 1):
        for side, read in SIDES.items():
            wall_s, cpu_s = time.perf_counter(), time.process_time()
            read(*inputs)
            if turn:
                taken = time.perf_counter() - wall_s, time.process_time() - cpu_s
                seconds[side].append(taken)
    return seconds


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", default="512x1024", help="HEIGHTxWIDTH of the frame, px")
    parser.add_argument("--frames", type=int, default=2, help="T, memory frames")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--peak-of", choices=SIDES, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measure and print; with --peak-of, be the fresh process of one side."""
    arguments = parse()
    height, width = (int(side) for side in arguments.size.split("x"))
    torch.set_num_threads(arguments.threads)
    inputs = make_inputs((height, width), arguments.frames)
    with torch.inference_mode():
        if arguments.peak_of:
            # A small call first: thread pools and kernels are no part of the read.
            SIDES[arguments.peak_of](*make_inputs((64, 64), 1))
            extra = peak_extra_bytes(lambda: SIDES[arguments.peak_of](*inputs), torch.device("cpu"))
            print(json.dumps({"bytes": extra}))
            return
        h, w = inputs[0].shape[-2:]
        print(f"{h}x{w} map of a {height}x{width} frame, T={arguments.frames}, float32, CPU")
        difference = (read_memory(*inputs) - full_matrix(*inputs)).abs().max()
        print(f"largest difference of the results: {difference:.1e}")
        seconds = measure_seconds(inputs, arguments.turns)
    for side, taken in seconds.items():
        peak = measure_peak(side, (height, width), arguments.frames, arguments.threads)
        wall, cpu = (statistics.median(column) for column in zip(*taken, strict=True))
        print(f"{side:12} {wall:7.3f} s  {cpu:7.3f} CPU s  extra peak {peak / 2**30:.3f} GiB")
    pairs = zip(seconds["full matrix"], seconds["vidseg"], strict=True)
    ratio = statistics.median(full[1] / ours[1] for full, ours in pairs)
    print(f"full matrix takes {ratio:.2f} x the processor time of vidseg (median of turns)")


if __name__ == "__main__":
    main()

"""Memory and time of TMANet's memory read, beside attention written out in full.

    python benchmarks/attention.py                      # 512x1024, two memory frames, one thread
    python benchmarks/attention.py --size 256x512 --frames 4 --turns 5

Peak memory is the growth of the resident set of a fresh process for each side; time is processor
time, measured with both sides taking turns in one process. float32 on the CPU.
"""

import statistics
from collections.abc import Callable

import torch
from torch import Tensor
from turns import cpu_seconds, fresh_peak_bytes, make_parser, median_ratio, print_peak

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


def main() -> None:
    """Measure and print; with --peak-of, be the fresh process of one side."""
    parser = make_parser(__doc__, SIDES)
    parser.add_argument("--size", default="512x1024", help="HEIGHTxWIDTH of the frame, px")
    parser.add_argument("--frames", type=int, default=2, help="T, memory frames")
    arguments = parser.parse_args()
    height, width = (int(side) for side in arguments.size.split("x"))
    torch.set_num_threads(arguments.threads)
    inputs = make_inputs((height, width), arguments.frames)
    with torch.inference_mode():
        if arguments.peak_of:
            read, small = SIDES[arguments.peak_of], make_inputs((64, 64), 1)
            print_peak(lambda: read(*inputs), lambda: read(*small))
            return
        h, w = inputs[0].shape[-2:]
        print(f"{h}x{w} map of a {height}x{width} frame, T={arguments.frames}, float32, CPU")
        difference = (read_memory(*inputs) - full_matrix(*inputs)).abs().max()
        print(f"largest difference of the results: {difference:.1e}")
        sides = {name: lambda read=read: read(*inputs) for name, read in SIDES.items()}
        seconds = cpu_seconds(sides, arguments.turns)
    for side, taken in seconds.items():
        peak = fresh_peak_bytes(side) / 2**30
        print(f"{side:12} {statistics.median(taken):7.3f} CPU s  extra peak {peak:.3f} GiB")
    ratio = median_ratio(seconds["full matrix"], seconds["vidseg"])
    print(f"full matrix takes {ratio:.2f} x the processor time of vidseg (median of turns)")


if __name__ == "__main__":
    main()

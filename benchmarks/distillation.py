"""Memory and time of the pair-wise-frames loss, beside affinity matrices written out in full.

    python benchmarks/distillation.py                       # 97x97 maps of 19 channels, one thread
    python benchmarks/distillation.py --channels 256 --turns 1

Forward and backward, one sample, float32 on the CPU. Peak memory is the growth of the resident set
of a fresh process for each side; time is measured with both sides taking turns in one process.
"""

import statistics
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from turns import cpu_seconds, fresh_peak_bytes, make_parser, print_peak

from vidseg.losses import pair_wise_frames


def literal(student_t: Tensor, student_s: Tensor, teacher_t: Tensor, teacher_s: Tensor) -> Tensor:
    """The formula as it stands: both matrices of (h w) x (h w) cosines at once."""

    def affinity(maps_t: Tensor, maps_s: Tensor) -> Tensor:
        x, y = maps_t.flatten(2), maps_s.flatten(2)
        lengths = x.norm(dim=1)[:, :, None] * y.norm(dim=1)[:, None]
        return x.mT @ y / lengths

    return (affinity(student_t, student_s) - affinity(teacher_t, teacher_s)).square().mean()


SIDES: dict[str, Callable[..., Tensor]] = {"vidseg": pair_wise_frames, "literal": literal}


def make_maps(side_px: int, channels: int) -> list[Tensor]:
    """Two maps of the student, with gradients, and two of the teacher."""
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(1, channels, side_px, side_px, generator=generator) for _ in range(4)]
    for student in maps[:2]:
        student.requires_grad_()
    return maps


def value_and_gradients(side: str, maps: list[Tensor]) -> tuple[Tensor, ...]:
    """The loss, and its gradients to the student's maps."""
    loss = SIDES[side](*maps)
    return (loss.detach(), *torch.autograd.grad(loss, maps[:2]))


def main() -> None:
    """Measure and print; with --peak-of, be the fresh process of one side."""
    parser = make_parser(__doc__, SIDES)
    parser.add_argument("--side", type=int, default=97, help="height and width of the maps, px")
    parser.add_argument("--channels", type=int, default=19)
    parser.set_defaults(turns=3)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    maps = make_maps(arguments.side, arguments.channels)
    if arguments.peak_of:
        measure = partial(value_and_gradients, arguments.peak_of)
        print_peak(partial(measure, maps), partial(measure, make_maps(8, 4)))
        return
    print(f"{arguments.channels} channels of {arguments.side}x{arguments.side}, float32, CPU")
    ours, theirs = (value_and_gradients(side, maps) for side in SIDES)
    value = float((ours[0] - theirs[0]).abs() / theirs[0])
    gradient = max(
        float((a - b).abs().max() / b.abs().max())
        for a, b in zip(ours[1:], theirs[1:], strict=True)
    )
    print(f"difference: value {value:.1e} relative, gradients {gradient:.1e} of the largest")
    sides = {name: partial(value_and_gradients, name, maps) for name in SIDES}
    for side, taken in cpu_seconds(sides, arguments.turns).items():
        peak = fresh_peak_bytes(side) / 1e6
        print(f"{side:8} {statistics.median(taken):7.3f} CPU s  extra peak {peak:6.0f} MB")


if __name__ == "__main__":
    main()

"""Memory and time of LMANet's memory read, beside the formula as shifts and as an unfold.

    python benchmarks/local_attention.py            # 512x1024, three memory frames, one thread
    python benchmarks/local_attention.py --size 256x512 --frames 1 --turns 5
    python benchmarks/local_attention.py --model    # a frame of the stream, beside ERFNet

Peak memory is the growth of the resident set of a fresh process for each side; time is processor
time, measured with all sides taking turns in one process. Ratios are medians over the turns.
float32 on the CPU.
"""

import statistics
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from turns import cpu_seconds, fresh_peak_bytes, make_parser, median_ratio, print_peak

import vidseg
from vidseg.backbones import erfnet
from vidseg.layers.local_attention import local_attention
from vidseg.segmenter import VideoSegmenter

KEY_CHANNELS, VALUE_CHANNELS, OUTPUT_STRIDE, RADIUS_PX = 16, 64, 8, 10
PAD = (RADIUS_PX,) * 4
SIDE = 2 * RADIUS_PX + 1
Read = Callable[[Tensor, Tensor, Tensor], Tensor]


def tiled(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """The library's."""
    return local_attention(query, keys, values, radius_px=RADIUS_PX)


def shifted(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """One product and one sum for each of the window's positions."""
    h, w = query.shape[-2:]
    windows = [(i, j) for i in range(SIDE) for j in range(SIDE)]
    scores = [
        (query * frame[..., i : i + h, j : j + w]).sum(1)
        for frame in F.pad(keys, PAD).unbind(1)
        for i, j in windows
    ]
    weights = torch.stack(scores, 1).softmax(1).unbind(1)
    total = torch.zeros_like(values[:, 0])
    for t, frame in enumerate(F.pad(values, PAD).unbind(1)):
        for c, (i, j) in enumerate(windows):
            weight = weights[t * len(windows) + c]
            total = total + weight[:, None] * frame[..., i : i + h, j : j + w]
    return total


def unfolded(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Every window copied out, 441 times the map, and two products."""
    h, w = query.shape[-2:]
    copied = F.unfold(keys.flatten(0, 1), SIDE, padding=RADIUS_PX)
    copied = copied.view(*keys.shape[:3], -1, h * w)
    scores = torch.einsum("bdn,btdcn->btcn", query.flatten(2), copied)
    del copied
    weights = scores.flatten(1, 2).softmax(1).view_as(scores)
    total = torch.zeros_like(values[:, 0]).flatten(2)
    for t, frame in enumerate(values.unbind(1)):
        copied = F.unfold(frame, SIDE, padding=RADIUS_PX).view(*frame.shape[:2], -1, h * w)
        total = total + torch.einsum("bcn,bdcn->bdn", weights[:, t], copied)
    return total.unflatten(2, (h, w))


SIDES: dict[str, Read] = {"vidseg": tiled, "shifted slices": shifted, "unfold": unfolded}


def train(read: Read) -> Read:
    """Forward and backward."""

    def step(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        inputs = [x.detach().requires_grad_() for x in (query, keys, values)]
        result = read(*inputs)
        result.square().sum().backward()
        return result

    return step


def make_inputs(size: tuple[int, int], frames: int) -> tuple[Tensor, Tensor, Tensor]:
    """Noise."""
    h, w = (-(-side // OUTPUT_STRIDE) for side in size)
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(1, KEY_CHANNELS, h, w, generator=generator)
    keys = torch.randn(1, frames, KEY_CHANNELS, h, w, generator=generator)
    values = torch.randn(1, frames, VALUE_CHANNELS, h, w, generator=generator)
    return query, keys, values


def report(seconds: dict[str, list[float]], to: str, extra: dict[str, str]) -> None:
    """One line a side."""
    for side, taken in seconds.items():
        ratio, median_ms = median_ratio(taken, seconds[to]), 1e3 * statistics.median(taken)
        print(f"  {side:34} {median_ms:7.0f} CPU ms  {ratio:6.2f} x  {extra.get(side, '')}")


def measure_read(size: tuple[int, int], frames: int, turns: int) -> None:
    """The read alone, in inference and in training."""
    inputs = make_inputs(size, frames)
    h, w = inputs[0].shape[-2:]
    with torch.inference_mode():
        difference = (tiled(*inputs) - shifted(*inputs)).abs().max()
        print(f"{h}x{w} map of a {size[0]}x{size[1]} frame, T={frames}, window {SIDE}x{SIDE}")
        print(f"largest difference of the results: {difference:.1e}")
        sides = {name: lambda read=read: read(*inputs) for name, read in SIDES.items()}
        seconds = cpu_seconds(sides, turns)
    peaks = {side: f"extra peak {fresh_peak_bytes(side) / 1e6:5.0f} MB" for side in SIDES}
    print("read")
    report(seconds, "vidseg", peaks)
    print("forward and backward")
    steps = {name: train(SIDES[name]) for name in ("vidseg", "shifted slices")}
    sides = {name: lambda step=step: step(*inputs) for name, step in steps.items()}
    report(cpu_seconds(sides, max(turns // 2, 1)), "vidseg", {})


def without_folding(conv: nn.Module, norm: nn.Module, x: Tensor) -> Tensor:
    """Convolution, then norm."""
    return norm(conv(x))


def measure_model(size: tuple[int, int], frames: int, turns: int) -> None:
    """A frame of LMANet's stream, its memory full, beside its host."""
    frame = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    plain, host = vidseg.create("erfnet", num_classes=19).eval(), vidseg.create("erfnet", 19)
    model = vidseg.create("lmanet_erfnet", num_classes=19, memory_frames=frames)
    for optimised in (host, model):
        optimised.for_inference()
    folding = erfnet.conv_norm

    def run_plainly() -> None:
        erfnet.conv_norm = without_folding  # pyright: ignore[reportAttributeAccessIssue]
        plain.step(frame)
        erfnet.conv_norm = folding

    with torch.inference_mode():
        memory = full_memory(model, frame, frames)
        seconds = cpu_seconds(
            {
                "lmanet_erfnet": lambda: model.step(frame, memory),
                "erfnet, the same optimisations": lambda: host.step(frame),
                "erfnet, plain eager PyTorch": run_plainly,
            },
            turns,
        )
    print(f"a {size[0]}x{size[1]} frame, Q={frames}, memory full")
    report(seconds, "erfnet, the same optimisations", {})


def full_memory(model: VideoSegmenter, frame: Tensor, frames: int) -> object:
    """Of a stream that has run for so many frames."""
    memory = None
    for _ in range(frames):
        _, memory = model.step(frame, memory)
    return memory


def main() -> None:
    """Measure and print; with --peak-of, be the fresh process of one side."""
    parser = make_parser(__doc__, SIDES)
    parser.add_argument("--size", default="512x1024", help="HEIGHTxWIDTH of the frame, px")
    parser.add_argument("--frames", type=int, default=3, help="T, memory frames")
    parser.add_argument("--model", action="store_true", help="the whole model, not the read")
    arguments = parser.parse_args()
    height, width = (int(side) for side in arguments.size.split("x"))
    torch.set_num_threads(arguments.threads)
    if arguments.peak_of:
        inputs, small = make_inputs((height, width), arguments.frames), make_inputs((64, 64), 1)
        read = SIDES[arguments.peak_of]
        with torch.inference_mode():
            print_peak(lambda: read(*inputs), lambda: read(*small))
        return
    measure = measure_model if arguments.model else measure_read
    measure((height, width), arguments.frames, arguments.turns)


if __name__ == "__main__":
    main()

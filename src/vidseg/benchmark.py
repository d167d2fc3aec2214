"""Cost of a model, measured: time, memory and multiply-accumulates, beside its alternatives.

Everything that is compared runs in turns (`vidseg.timing`). Ratios are taken turn by turn, and the
median of those is what `Benchmark.ratio` gives.
"""

import copy
import math
import statistics
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from vidseg.inference.runner import Runner
from vidseg.layers.resize import resize
from vidseg.precision import Precision, check_precision
from vidseg.progress import Display, silent
from vidseg.segmenter import Memory, Segmentation, VideoSegmenter
from vidseg.sizes import Size
from vidseg.timing import Side, Timing, time_in_turns

MAX_FRAMES = 10_000
Finish = Callable[[Segmentation], Any]


@dataclass(frozen=True)
class Benchmark:
    """The measured cost of a model on one machine.

    Attributes:
        model: its name.
        size: (H, W) at which the model sees the frames.
        device: where it ran, in words.
        threads: of the CPU.
        precision: of the arithmetic.
        window_length: frames in a full window.
        timings: "stream" (one step per frame), "clip" (the window as one chunk, every frame read
            out), "window" (the whole window encoded anew for every frame), and "twin" where a
            per-frame model runs beside; for SegFormer and what is built on it also
            "window_written" and "twin_written", computed as the papers write it.
        macs: multiply-accumulates of one frame of the stream by hook: encode, fuse, decode,
            remember; of convolutions and matrix products, attention included.
        twin_macs: the same of the per-frame model, all hooks together.
        parameters: count.
        memory_bytes: of the memory value of one stream.
        notes: what else was fixed.
    """

    model: str
    size: tuple[int, int]
    device: str
    threads: int
    precision: str
    window_length: int
    timings: dict[str, Timing]
    macs: dict[str, int]
    parameters: int
    memory_bytes: int
    twin: str | None = None
    twin_macs: int | None = None
    notes: dict[str, Any] = field(default_factory=dict)

    def ratio(self, side: str, to: str = "stream") -> float:
        """Cost of `side` divided by that of `to`: the median of the ratio over turns."""
        return _ratio(self.timings[side].milliseconds, self.timings[to].milliseconds)

    def cpu_ratio(self, side: str, to: str = "stream") -> float | None:
        """The same in processor time; None where the work is not done by the CPU."""
        theirs, ours = (self.timings[name].cpu_milliseconds for name in (side, to))
        return _ratio(theirs, ours) if theirs else None

    def summary(self) -> dict[str, Any]:
        """The figures as plain JSON values."""
        return {
            "model": self.model,
            "twin": self.twin,
            "height_px": self.size[0],
            "width_px": self.size[1],
            "device": self.device,
            "threads": self.threads,
            "precision": self.precision,
            "window_frames": self.window_length,
            "timings": {
                name: {
                    "median_ms": timing.median_ms,
                    "p95_ms": timing.p95_ms,
                    "cpu_median_ms": timing.cpu_median_ms,
                    "fps": timing.fps,
                    "turns": len(timing.milliseconds),
                    "peak_extra_bytes": timing.peak_bytes,
                    "ratio_to_stream": self.ratio(name),
                    "cpu_ratio_to_stream": self.cpu_ratio(name),
                }
                for name, timing in self.timings.items()
            },
            "macs": {**self.macs, "total": sum(self.macs.values())},
            "twin_macs": self.twin_macs,
            "parameters": self.parameters,
            "memory_value_bytes": self.memory_bytes,
            **self.notes,
        }


def benchmark(
    model: VideoSegmenter,
    size: tuple[int, int],
    *,
    name: str = "model",
    twin: VideoSegmenter | None = None,
    twin_name: str | None = None,
    labels: tuple[int, int] | None = None,
    num_frames: int = 10,
    warm_up: int = 2,
    device: torch.device | str = "cpu",
    precision: Precision = "fp32",
    progress: Display = silent,
) -> Benchmark:
    """Measure a model on noise, batch 1, beside its alternatives.

    Args:
        model: moved to `device`, in eval mode.
        size: (H, W) px at which the model sees frames; rounded up to what it takes, as everywhere.
        name: of the model, for the record.
        twin: a per-frame model to compare with.
        twin_name: its name.
        labels: (H, W) of label maps that every side goes on to make; None stops at the logits. As
            written that is a resize to the frame, one to the labels, softmax and argmax.
        num_frames: turns that are timed; each runs every side once.
        warm_up: turns that are not.
        device: where to run.
        precision: of the network; "bf16" and "fp16" run under autocast.
        progress: shows how many turns are done.

    Returns:
        The figures. The stream and the window run in their steady state, with a full memory.

    Raises:
        ValueError: the size or a count is out of range, or a precision is unknown.
    """
    _check(size, labels, num_frames, warm_up, precision)
    device = torch.device(device)
    size = tuple(model.card.next_side(side) for side in size)  # pyright: ignore[reportAssignmentType]

    def run(network: VideoSegmenter) -> Runner:
        return Runner(network, device=device, precision=precision)

    # Moved before inference mode, under which weights would become unfit for training.
    written, twin_written = (_as_written(network, device) for network in (model, twin))
    with torch.inference_mode():
        sides = _sides(run(model), size, _finish(labels))
        plainly = _finish(labels, is_written=True)
        if twin is not None:
            sides["twin"] = _sides(run(twin), size, _finish(labels))["stream"]
        if written is not None:
            sides["window_written"] = _sides(run(written), size, plainly)["window"]
        if twin_written is not None:
            sides["twin_written"] = _sides(run(twin_written), size, plainly)["stream"]
        frames = {side: model.window_length if side == "clip" else 1 for side in sides}
        timings = time_in_turns(
            sides, device, frames, num_turns=num_frames, warm_up=warm_up, progress=progress
        )
    return Benchmark(
        model=name,
        size=size,
        device=_device_name(device),
        threads=torch.get_num_threads(),
        precision=precision,
        window_length=model.window_length,
        timings=timings,
        macs=count_macs(model, size),
        parameters=sum(p.numel() for p in model.parameters()),
        memory_bytes=_memory_of(model, size, device).nbytes,
        twin=None if twin is None else twin_name or "twin",
        twin_macs=None if twin is None else sum(count_macs(twin, size).values()),
        notes={} if labels is None else {"labels_px": list(labels)},
    )


def count_macs(model: VideoSegmenter, size: tuple[int, int]) -> dict[str, int]:
    """Multiply-accumulates of one frame in the steady state of a stream, by hook.

    Counted on a copy without data ("meta"), so it costs no time at any size: convolutions and
    matrix products, among them both products of attention; norms, activations and resizing are
    left out. Half of what torch calls FLOPs.

    Args:
        model: any.
        size: (H, W) of the frame.

    Returns:
        "encode", "fuse", "decode", "remember" -> count.
    """
    with torch.inference_mode():
        context = _context_of(model, size)
        bare = copy.deepcopy(model).to("meta").eval()
        frame = torch.empty(1, 3, *size, device="meta")
        feature, encode = _counted(lambda: bare.encode(frame))
        memory = _full_memory(bare, feature, context)
        fused, fuse = _counted(lambda: bare.fuse(feature, memory))
        _, decode = _counted(lambda: bare.decode(fused))
        _, remember = _counted(lambda: bare.remember(memory, feature, fused))
    return {"encode": encode, "fuse": fuse, "decode": decode, "remember": remember}


def _sides(runner: Runner, size: Size, finish: Finish) -> dict[str, Side]:
    """The ways to run a model on one window of frames that it sees at this size."""
    model, generator = runner.model, torch.Generator().manual_seed(0)
    frames = torch.randn(1, model.window_length, 3, *size, generator=generator).to(runner.device)
    contexts = (None if model.causal else model.summarize(frames),)
    stream = _Stream(runner, frames, contexts)

    def window(readout: Literal["all", "last"]) -> Any:
        return finish(runner.run(frames, contexts=contexts, readout=readout)[0][0])

    return {
        "stream": lambda: finish(stream.step(frames[:, -1:])),
        "window": lambda: window("last"),
        "clip": lambda: window("all"),
    }


def _finish(size: tuple[int, int] | None, *, is_written: bool = False) -> Finish:
    """Make the last step of a call: none, or a label map at this size."""
    if size is None:
        return lambda segmentation: None
    if not is_written:
        return lambda segmentation: segmentation.labels(size)

    def as_written(segmentation: Segmentation) -> Tensor:
        full = segmentation.resize().flatten(0, 1)
        return resize(full, size, align_corners=segmentation.align_corners).softmax(1).argmax(1)

    return as_written


def _as_written(model: VideoSegmenter | None, device: torch.device) -> VideoSegmenter | None:
    """A copy that folds nothing, in the plain memory layout; None where nothing is folded."""
    if model is None or not any(hasattr(part, "folded") for part in model.modules()):
        return None
    written = copy.deepcopy(model).eval()
    written.prefers_channels_last = False
    written.to(device).to(memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue]
    for part in written.modules():
        if hasattr(part, "folded"):
            part.folded = False  # pyright: ignore[reportArgumentType]
    return written


class _Stream:
    """A stream that goes on from turn to turn."""

    def __init__(self, runner: Runner, frames: Tensor, contexts: tuple[Any, ...]) -> None:
        self.runner = runner
        _, self.memories, _ = runner.run(frames, contexts=contexts, readout="last")

    def step(self, frame: Tensor) -> Segmentation:
        (segmentation,), self.memories, _ = self.runner.run(frame, self.memories)
        return segmentation


def _ratio(theirs: Sequence[float], ours: Sequence[float]) -> float:
    # Processor time comes in ticks: a tiny model may take none.
    pairs = zip(theirs, ours, strict=True)
    return statistics.median(one / other if other else math.inf for one, other in pairs)


def _context_of(model: VideoSegmenter, size: tuple[int, int]) -> Any:
    """Find the context that a non-causal model needs; None for other models."""
    if model.causal:
        return None
    device = next(model.parameters()).device
    return model.summarize(torch.randn(1, 1, 3, *size, device=device))


def _full_memory(model: VideoSegmenter, feature: Any, context: Any) -> Memory:
    """The memory of a stream that has run for a full window."""
    memory = model.initial_memory(feature, context)
    for _ in range(model.window_length):
        fused = model.fuse(feature, memory) if model.recurrent else None
        memory = model.remember(memory, feature, fused)
    return memory


def _memory_of(model: VideoSegmenter, size: tuple[int, int], device: torch.device) -> Memory:
    with torch.inference_mode():
        feature = model.encode(torch.zeros(1, 3, *size, device=device))
        return _full_memory(model, feature, _context_of(model, size))


def _counted(run: Callable[[], Any]) -> tuple[Any, int]:
    with FlopCounterMode(display=False) as counter:
        result = run()
    return result, counter.get_total_flops() // 2


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return device.type


def _check(
    size: tuple[int, int],
    labels: tuple[int, int] | None,
    num_frames: int,
    warm_up: int,
    precision: str,
) -> None:
    for name, value in (("size", size), ("labels", labels)):
        if value is not None and (len(value) != 2 or min(value) < 1):
            raise ValueError(f"{name} must be (height, width) in pixels, got {value}")
    if not 1 <= num_frames <= MAX_FRAMES:
        raise ValueError(f"num_frames must be 1..{MAX_FRAMES}, got {num_frames}")
    if warm_up < 0:
        raise ValueError(f"warm_up must be 0 or more, got {warm_up}")
    check_precision(precision)

"""What `Steady` gains around a model, and what of it is memory: variants, controls, spoilt frames.

    python benchmarks/steady.py camvid --root data/camvid
    python benchmarks/steady.py camvid --root data/camvid --frames 0:51            # the tuning half
    python benchmarks/steady.py camvid --root data/camvid --model runs/fcn_camvid
    python benchmarks/steady.py cityscapes --root data/cityscapes --model runs/clips_f0 \
        --size 256x512 --videos aachen_000000,aachen_000001
    python benchmarks/steady.py camvid --root data/camvid --spoilt

The network's logits are kept in a folder (--cache), so that a variant costs seconds, and so are
the figures of a row: a run that was stopped goes on. Motion is DIS, preset medium, at full size,
with the forward-backward mask; Farneback's is a second opinion. Intervals are 95 %, of the
difference to per frame, over blocks of 10 frames.
"""

import argparse
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from memory_off import Forgetful
from torch import Tensor, nn

import vidseg
from vidseg.data import VideoDataset, open_dataset
from vidseg.flow import DIS, CachedFlow, FlowEstimator, forward_backward_consistent
from vidseg.metrics import ConfusionMatrix, VideoConsistency
from vidseg.metrics.boundary import boundary_band
from vidseg.metrics.consistency import TemporalConsistency

torch.set_num_threads(1)
cv2.setNumThreads(1)

BLOCK_FRAMES = 10
BOUNDARY_PX = 5
SPOILT_EVERY = 4
Images = list[np.ndarray]


class Recorded(nn.Module):
    """An image model whose logits are kept on disk, by its name and the frame's values."""

    def __init__(self, model: nn.Module, name: str, folder: Path) -> None:
        super().__init__()
        self.model, self.name, self.folder = model, name, folder
        folder.mkdir(parents=True, exist_ok=True)

    def forward(self, frames: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, C, h, w)."""
        return torch.cat([self._one(frame[None]) for frame in frames])

    def _one(self, frame: Tensor) -> Tensor:
        content = self.name.encode() + frame.contiguous().numpy().tobytes()
        path = self.folder / f"{hashlib.sha256(content).hexdigest()[:32]}.npy"
        if not path.exists():
            part = path.with_suffix(".part.npy")
            np.save(part, self.model(frame).half().numpy())
            part.replace(path)
        return torch.from_numpy(np.load(path)).float()


class Farneback:
    """OpenCV's Farneback flow, a second opinion on what moved."""

    name = "farneback"

    def __call__(self, image_t: np.ndarray, image_s: np.ndarray) -> Tensor:
        """(2, H, W) px, from t to s."""
        grey = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (image_t, image_s)]
        start = np.zeros((*grey[0].shape, 2), np.float32)
        flow = cv2.calcOpticalFlowFarneback(*grey, start, 0.5, 4, 15, 3, 5, 1.2, 0)
        return torch.from_numpy(flow).permute(2, 0, 1).contiguous()


class NoMotion:
    """Things stay where they are."""

    name = "none"

    def __call__(self, image_t: np.ndarray, image_s: np.ndarray) -> Tensor:
        """(2, H, W) of zeros."""
        return torch.zeros(2, *image_t.shape[:2])


@dataclass(frozen=True)
class Clip:
    """Frames with a label each, or few, and how things move from each to the one before."""

    images: Images
    truth: list[np.ndarray | None]
    cache: Path

    @cached_property
    def motions(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Name of the flow -> (T-1, 2, H, W) px and where it is consistent."""
        return {
            "dis": self._motion(CachedFlow(DIS(), self.cache)),
            "farneback": self._motion(CachedFlow(Farneback(), self.cache)),
        }

    def _motion(self, flow: FlowEstimator) -> tuple[Tensor, Tensor]:
        pairs = list(zip(self.images[1:], self.images, strict=False))
        there = torch.stack([flow(now, then) for now, then in pairs])
        back = torch.stack([flow(then, now) for now, then in pairs])
        return there, forward_backward_consistent(there, back)


@dataclass
class Block:
    """Counts of some frames; they add up."""

    classes: int
    all: ConfusionMatrix = field(init=False)
    edge: ConfusionMatrix = field(init=False)
    steady: dict[str, TemporalConsistency] = field(init=False)

    def __post_init__(self) -> None:
        self.all, self.edge = (ConfusionMatrix(self.classes, void_labels="miss") for _ in range(2))
        self.steady = {name: TemporalConsistency(self.classes) for name in ("dis", "farneback")}

    def merge(self, other: "Block") -> None:
        """Add another's counts."""
        self.all.merge(other.all)
        self.edge.merge(other.edge)
        for name, measured in self.steady.items():
            measured.merge(other.steady[name])

    def figures(self) -> dict[str, float]:
        """In percent."""
        found = {
            "mIoU": self.all.mean_iou(),
            "boundary": self.edge.mean_iou(),
            "accuracy": self.all.pixel_accuracy(),
            "TC": self.steady["dis"].mean_iou(),
            "flicker": self.steady["dis"].flicker(),
            "Farneback": self.steady["farneback"].flicker(),
        }
        return {name: 100 * value for name, value in found.items()}


def blocks_of(labels: list[np.ndarray], clips: list[Clip], classes: int) -> list[Block]:
    """The counts of every ten frames."""
    blocks = []
    for maps, clip in zip(labels, clips, strict=True):
        for t, (found, truth) in enumerate(zip(maps, clip.truth, strict=True)):
            if t % BLOCK_FRAMES == 0:
                blocks.append(Block(classes))
            if truth is not None:
                blocks[-1].all.update(found, truth)
                blocks[-1].edge.update(found, truth, boundary_band(truth, BOUNDARY_PX, 255))
            for name, (there, valid) in clip.motions.items() if t else ():
                pair = (maps[t - 1 : t + 1], there[t - 1 : t], valid[t - 1 : t])
                blocks[-1].steady[name].update(*pair)
    return blocks


def summed(blocks: list[Block]) -> Block:
    """All of them together."""
    total = Block(blocks[0].classes)
    for block in blocks:
        total.merge(block)
    return total


def video_consistency(
    labels: list[np.ndarray], clips: list[Clip], classes: int, length: int
) -> float:
    """VC of the clips whose frames all have a label, in percent."""
    measured = VideoConsistency(length)
    for maps, clip in zip(labels, clips, strict=True):
        if all(truth is not None for truth in clip.truth):
            measured.update(maps, np.stack([truth for truth in clip.truth if truth is not None]))
    return 100 * measured.mean_consistency()


def interval(ours: list[Block], theirs: list[Block], figure: str) -> tuple[float, float]:
    """Of the difference, over resampled blocks."""
    generator = np.random.default_rng(0)
    found = []
    for _ in range(400):
        draw = generator.integers(0, len(ours), len(ours))
        sides = [summed([side[k] for k in draw]).figures()[figure] for side in (ours, theirs)]
        found.append(sides[0] - sides[1])
    low, high = np.nanpercentile(found, (2.5, 97.5))
    return float(low), float(high)


@dataclass(frozen=True)
class Bench:
    """A network, the clips, and how it sees them."""

    network: vidseg.VideoSegmenter
    clips: list[Clip]
    size: tuple[int, int] | None

    def label(
        self, model: vidseg.VideoSegmenter, *, repeats: int = 1, wrong: bool = False
    ) -> list[np.ndarray]:
        """Label maps (T, H, W) of every clip.

        Args:
            model: runs as a stream.
            repeats: how often each frame is shown, each time from an empty memory; 1 is a stream.
            wrong: each frame reads the memory of another clip's stream, or of frames far away.
        """
        return [self._label(model, k, repeats, wrong) for k in range(len(self.clips))]

    def _label(self, model: vidseg.VideoSegmenter, k: int, repeats: int, wrong: bool) -> np.ndarray:
        images, maps, memory, other = self.clips[k].images, [], None, None
        strangers = self.clips[(k + 1) % len(self.clips)].images
        shift = len(strangers) // 2 if len(self.clips) == 1 else 0
        with torch.inference_mode():
            for t, image in enumerate(images):
                frame = self._seen(model, image)
                if repeats > 1:
                    memory = None
                    for _ in range(repeats - 1):
                        _, memory = model.step(frame, memory)
                if wrong and t:
                    memory = other
                segmentation, memory = model.step(frame, memory)
                if wrong:
                    stranger = strangers[(t + shift) % len(strangers)]
                    _, other = model.step(self._seen(model, stranger), other)
                maps.append(segmentation.labels(image.shape[:2])[0, 0].to(torch.uint8).numpy())
        return np.stack(maps)

    def _seen(self, model: vidseg.VideoSegmenter, image: np.ndarray) -> Tensor:
        return model.card.fit(model.card.normalise(image)[None], self.size)


Row = Callable[[], list[np.ndarray]]


def rows(bench: Bench, video_model: vidseg.VideoSegmenter | None) -> Iterator[tuple[str, Row]]:
    """Every row of the table: its name, and what labels the clips."""
    steady, network = partial(vidseg.Steady, bench.network), bench.network
    yield "per frame", lambda: bench.label(network)
    yield "**Steady** (refine, K = 3)", lambda: bench.label(steady())
    for frames in (1, 2, 4):
        yield f"K = {frames}", lambda n=frames: bench.label(steady(memory_frames=n))
    yield "without hysteresis", lambda: bench.label(steady(hysteresis=0.0))
    yield "flow alone", lambda: bench.label(steady(carry="flow"))
    yield "flow alone, half grid", lambda: bench.label(steady(carry="flow", grid_px=2))
    yield "affinity, no flow", lambda: bench.label(steady(carry="affinity"))
    yield "refine, DIS medium", lambda: bench.label(steady(flow=DIS("medium")))
    if video_model is not None:
        yield "with its own memory", lambda: bench.label(video_model)
        yield "Steady around that", lambda: bench.label(vidseg.Steady(video_model))
    yield (
        "control: average without motion",
        lambda: bench.label(
            steady(carry="flow", flow=NoMotion(), residual_levels=1e6, hysteresis=0.0)
        ),
    )
    yield "control: the present frame 3 times", lambda: bench.label(steady(), repeats=3)
    yield "control: the memory of a wrong video", lambda: bench.label(steady(), wrong=True)


def table(bench: Bench, video_model: vidseg.VideoSegmenter | None, kept: Path) -> None:
    """Print the rows; label maps of finished ones are read."""
    kept.mkdir(parents=True, exist_ok=True)
    classes = bench.network.num_classes
    columns = ("mIoU", "boundary", "accuracy", "TC", "flicker", "Farneback", "VC8", "VC16")
    print("| | " + " | ".join(columns) + " | mIoU - per frame | flicker - per frame |")
    print("|---" * (len(columns) + 3) + "|")
    if all(truth is not None for clip in bench.clips for truth in clip.truth):
        truth = [np.stack([t for t in clip.truth if t is not None]) for clip in bench.clips]
        _print_row("the truth itself", blocks_of(truth, bench.clips, classes), [], columns)
    base: list[Block] = []
    for name, label in rows(bench, video_model):
        path = kept / f"{hashlib.sha256(name.encode()).hexdigest()[:16]}.npz"
        if path.exists():
            with np.load(path) as content:
                labels = [content[f"arr_{k}"] for k in range(len(bench.clips))]
        else:
            labels = label()
            np.savez_compressed(path, *labels)
        blocks = blocks_of(labels, bench.clips, classes)
        base = base or blocks
        extra = {f"VC{n}": video_consistency(labels, bench.clips, classes, n) for n in (8, 16)}
        _print_row(name, blocks, base, columns, extra)


def _print_row(
    name: str,
    blocks: list[Block],
    base: list[Block],
    columns: tuple[str, ...],
    extra: dict[str, float] | None = None,
) -> None:
    figures = summed(blocks).figures() | (extra or {})
    shown = [f"{figures[c]:.2f}" if c in figures else "" for c in columns]
    spans = ["", ""]
    if base and base is not blocks:
        spans = [
            "{:+.2f} .. {:+.2f}".format(*interval(blocks, base, figure))
            for figure in ("mIoU", "flicker")
        ]
    print(f"| {name} | " + " | ".join([*shown, *spans]) + " |", flush=True)


def spoil(image: np.ndarray, kind: str, seed: int) -> np.ndarray:
    """The image at half brightness with noise, as a bad JPEG, or blurred by motion."""
    if kind == "noise":
        noise = np.random.default_rng(seed).normal(0, 30, image.shape)
        return np.clip(image * 0.5 + noise, 0, 255).astype(np.uint8)
    if kind == "jpeg":
        _, content = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 5])
        return np.ascontiguousarray(cv2.imdecode(content, cv2.IMREAD_COLOR)[..., ::-1])
    kernel = np.zeros((17, 17), np.float32)
    kernel[8] = 1 / 17
    return np.asarray(cv2.filter2D(image, -1, kernel))


def spoilt_table(bench: Bench) -> None:
    """mIoU of spoilt frames, and of those between."""
    models = {
        "per frame": bench.network,
        "Steady": vidseg.Steady(bench.network),
        "Steady, no frame taken for spoilt": vidseg.Steady(bench.network, spoilt_drop=1.0),
    }
    print("| every 4th frame spoilt: mIoU there, and of the others | clean | noise | jpeg | blur |")
    print("|---|---|---|---|---|")
    for name, model in models.items():
        cells = []
        for kind in ("clean", "noise", "jpeg", "blur"):
            clips = [
                replace(
                    clip,
                    images=[
                        spoil(image, kind, t) if kind != "clean" and _is_spoilt(t) else image
                        for t, image in enumerate(clip.images)
                    ],
                )
                for clip in bench.clips
            ]
            there, others = ConfusionMatrix(model.num_classes), ConfusionMatrix(model.num_classes)
            for maps, clip in zip(replace(bench, clips=clips).label(model), clips, strict=True):
                for t, (found, truth) in enumerate(zip(maps, clip.truth, strict=True)):
                    if truth is not None:
                        (there if _is_spoilt(t) else others).update(found, truth)
            cells.append(f"{100 * there.mean_iou():.1f}, {100 * others.mean_iou():.1f}")
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def _is_spoilt(t: int) -> bool:
    return t % SPOILT_EVERY == SPOILT_EVERY // 2


def open_clips(dataset: VideoDataset, videos: list[str], span: slice, cache: Path) -> list[Clip]:
    """The clips of a data set."""
    chosen = [v for v in dataset.videos if not videos or any(name in v.name for name in videos)]
    clips = []
    for video in chosen:
        images = [dataset.read_frame(path) for path in video.frames[span]]
        truth = [None if path is None else dataset.read_label(path) for path in video.labels[span]]
        clips.append(Clip(images, truth, cache))
    return clips


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", choices=("camvid", "cityscapes"))
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--model", default=None)
    parser.add_argument("--frames", default=None, help="FIRST:END of each video")
    parser.add_argument("--videos", default="", help="parts of names, with commas")
    parser.add_argument("--split", default=None)
    parser.add_argument("--size", default=None, help="HEIGHTxWIDTH at which frames are seen")
    parser.add_argument("--cache", type=Path, default=Path("runs/steady"))
    parser.add_argument("--spoilt", action="store_true")
    given = parser.parse_args()
    names = [name for name in given.videos.split(",") if name]
    is_val = given.data == "camvid" or given.split == "val"
    options: dict[str, Any] = {} if is_val else {"labels": "gtPseudo"}
    split = given.split or ("val" if given.data == "camvid" else "train")
    dataset = open_dataset(given.data, given.root, split, **options)
    first, end = (given.frames or ("51:101" if given.data == "camvid" else "0:30")).split(":")
    clips = open_clips(dataset, names, slice(int(first), int(end)), given.cache / "flow")
    size = None if given.size is None else tuple(int(side) for side in given.size.split("x"))
    model = vidseg.load(given.model).for_inference()
    digest = hashlib.sha256(json.dumps([given.model, model.card.to_json()]).encode()).hexdigest()[
        :8
    ]
    forgetful = Recorded(Forgetful(model), digest, given.cache / "logits")
    network = vidseg.PerFrame(
        forgetful, num_classes=model.num_classes, align_corners=model.align_corners
    )
    network.card = model.card
    bench = Bench(network.eval(), clips, size)  # pyright: ignore[reportArgumentType]
    if given.spoilt:
        spoilt_table(bench)
        return
    key = json.dumps([digest, given.data, split, names, first, end, size])
    kept = given.cache / f"rows_{hashlib.sha256(key.encode()).hexdigest()[:8]}"
    has_memory = model.memory_type is not vidseg.Memory
    table(bench, model if has_memory else None, kept)


if __name__ == "__main__":
    main()

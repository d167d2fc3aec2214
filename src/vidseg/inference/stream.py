"""A model over a video: frames are read, segmented and handed out one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch

from vidseg.adapters.sliding import SlidingWindow
from vidseg.inference.context import check_context, find_context, pick
from vidseg.segmenter import VideoSegmenter
from vidseg.timing import now_s
from vidseg.video import render
from vidseg.video.cuts import CutDetector
from vidseg.video.reader import Frame, FrameReader, read_video


class DamagedVideoWarning(UserWarning):
    """A video is damaged or cut short; the frames that can be decoded were segmented."""


@dataclass(frozen=True, eq=False)
class FrameResult:
    """One segmented frame.

    Attributes:
        index: the frame's number in the source, from 0.
        time_s: seconds from the source's first frame.
        image: (H, W, 3) uint8 RGB, as decoded.
        labels: (H, W) uint8 class indices, at the size of the image.
        classes: C names.
        palette: (C, 3) uint8 RGB.
        is_cut: a new scene begins here.
        ms: the network's time for it: of its pass, divided by the frames of the pass.
        duration_s: how long the frame is shown, in seconds; None if nobody knows.
    """

    index: int
    time_s: float
    image: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    palette: np.ndarray
    is_cut: bool
    ms: float
    duration_s: float | None = None

    def overlay(
        self, opacity: float = 0.5, *, contour: bool = False, legend: bool = False
    ) -> np.ndarray:
        """The frame with its classes in colour.

        Args:
            opacity: of the colours, in [0, 1].
            contour: draw the borders of regions.
            legend: add a strip with the names of the classes below.

        Returns:
            (H, W, 3) uint8 RGB, higher with a legend.
        """
        picture = render.overlay(
            self.image, self.labels, self.palette, opacity=opacity, contour=contour
        )
        return render.with_legend(picture, self.classes, self.palette) if legend else picture

    def side_by_side(
        self, opacity: float = 0.5, *, contour: bool = False, legend: bool = False
    ) -> np.ndarray:
        """The frame beside its overlay; arguments as `overlay`; (H, 2 W, 3) uint8 RGB."""
        picture = render.side_by_side(self.image, self.overlay(opacity, contour=contour))
        return render.with_legend(picture, self.classes, self.palette) if legend else picture

    def save(
        self, path: str | Path, kind: Literal["overlay", "labels", "side_by_side"] = "overlay"
    ) -> Path:
        """Write the frame as a picture.

        Args:
            path: the file, .png or another picture format (labels need .png).
            kind: the "overlay", the "labels" as an indexed picture whose pixel values are the
                class indices, or "side_by_side".

        Returns:
            The path.

        Raises:
            ValueError: unknown kind or suffix.
        """
        if kind == "labels":
            return render.save_picture(path, render.label_picture(self.labels, self.palette))
        if kind not in ("overlay", "side_by_side"):
            raise ValueError(f'kind must be "overlay", "labels" or "side_by_side", got {kind!r}')
        return render.save_picture(path, getattr(self, kind)())

    def shares(self) -> dict[str, float]:
        """The share of pixels of every class, in [0, 1]; they add up to 1."""
        counts = np.bincount(self.labels.ravel(), minlength=len(self.classes))
        return {
            name: float(count) / self.labels.size
            for name, count in zip(self.classes, counts, strict=False)
        }


class SegmentedVideo(Iterator[FrameResult]):
    """The results of `segment`, computed as they are asked for.

    Attributes:
        reader: where the frames come from.
    """

    def __init__(
        self, reader: FrameReader, runner: _Runner, results: Iterator[FrameResult]
    ) -> None:
        self.reader = reader
        self._runner = runner
        self._results = results

    @property
    def fps(self) -> Fraction:
        """Frames a second of the video that the results make up."""
        return self.reader.fps

    @property
    def num_frames(self) -> int | None:
        """How many results will come; None if nobody knows."""
        return self.reader.num_frames

    @property
    def damage(self) -> str | None:
        """Where and why the source broke off; None while all is well."""
        return self.reader.damage

    @property
    def context(self) -> Any:
        """What the model knows of the whole video; if that must be found, by the first result."""
        return self._runner.context

    def __next__(self) -> FrameResult:
        return next(self._results)

    def close(self) -> None:
        """Close the source; no more results come."""
        self.reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def segment(
    model: VideoSegmenter,
    source: str | Path | int | Iterable[np.ndarray] | FrameReader,
    *,
    start: float | None = None,
    end: float | None = None,
    every: int = 1,
    device: str | torch.device | None = None,
    size: tuple[int, int] | None = None,
    sliding: tuple[int, int] | SlidingWindow | None = None,
    reset_on_cut: bool = False,
    chunk_frames: int = 1,
    context: Any = None,
) -> SegmentedVideo:
    """Segment a video, frame by frame, with bounded memory however long it is.

    The model is put into evaluation mode. Its card says how pixels are normalised and to which
    multiple frames are stretched. A damaged file ends early with a `DamagedVideoWarning`. A model
    that is not causal looks at the whole video first, with the first call of `next`.

    Args:
        model: any video segmenter; wrap an image model in `vidseg.PerFrame`.
        source: a video file, folder or glob of images, stream URL, camera number, (H, W, 3) uint8
            RGB arrays as they come, or what `read_video` returned (which has more options).
        start: seconds; frames before it are left out.
        end: seconds; the frame at `end` and later ones are left out.
        every: 2 segments every second frame, and so forth.
        device: where to run; by default where the model is.
        size: (H, W) at which the model sees the frames; labels still come at the frame's size.
        sliding: (H, W) of windows by which the model sees large frames, or a `SlidingWindow`.
        reset_on_cut: start with an empty memory where a new scene begins.
        chunk_frames: frames in one call of the model; more use a GPU better, and take more memory.
        context: what a model that is not causal knows of the video, if that was found before.

    Returns:
        An iterator of `FrameResult`, with `fps`, `num_frames`, `damage`, `context` and `close()`.

    Raises:
        FileNotFoundError: no such file, image or camera.
        ValueError: not a video; a model that needs the whole video on a source that has no end or
            can be read only once; a context of another video, or for a model that takes none; more
            than 255 classes; options that do not fit together.
        TypeError: `model` is no video segmenter, or an array is not uint8.

    Example:
        >>> import vidseg
        >>> model = vidseg.create("tmanet_tiny", num_classes=4)
        >>> frames = (np.full((32, 48, 3), 80 * k, np.uint8) for k in range(3))
        >>> [result.labels.shape for result in vidseg.segment(model, frames)]
        [(32, 48), (32, 48), (32, 48)]
    """
    if not isinstance(model, VideoSegmenter):
        raise TypeError(
            f"model must be a VideoSegmenter, got {type(model).__name__}; "
            "wrap an image model: vidseg.PerFrame(model, num_classes=...)"
        )
    if model.num_classes > 255:
        raise ValueError(f"labels are 8-bit, up to 255 classes; this model has {model.num_classes}")
    if chunk_frames < 1:
        raise ValueError(f"chunk_frames must be at least 1, got {chunk_frames}")
    if size is not None and min(size) < 1:
        raise ValueError(f"size must be (H, W) of at least 1 px, got {size}")
    if isinstance(source, FrameReader):
        if (start, end, every) != (None, None, 1):
            raise ValueError("give start, end and every to read_video, which made this source")
        reader = source
    else:
        reader = read_video(source, start=start, end=end, every=every)
    if reader.is_live and not model.causal:
        reader.close()
        raise ValueError(
            f"{type(model).__name__} needs to see the whole video before the first label, "
            f"and {reader.name} has no end; record it to a file first"
        )
    if context is not None and model.causal:
        raise ValueError(f"{type(model).__name__} takes no context here; leave it out")
    check_context(context, reader.name)
    if isinstance(sliding, tuple):
        sliding = SlidingWindow(model, sliding)
    runner = _Runner(sliding or model, device, size)
    runner.context = context
    if not model.causal and context is None:
        runner.find_context = _first_pass(runner, reader)
    return SegmentedVideo(reader, runner, _results(reader, runner, reset_on_cut, chunk_frames))


def classes_of(model: VideoSegmenter) -> tuple[tuple[str, ...], np.ndarray]:
    """Names and colours of a model's classes, made up where its card has none.

    Args:
        model: any video segmenter.

    Returns:
        C names and a (C, 3) uint8 palette.
    """
    card, count = model.card, model.num_classes
    known = len(card.classes) == count
    names = tuple(card.classes) if known else tuple(f"class {k}" for k in range(count))
    if len(card.palette) == count:
        return names, np.array(card.palette, dtype=np.uint8).reshape(-1, 3)
    return names, render.default_palette(count)


def _first_pass(runner: _Runner, reader: FrameReader) -> Callable[[], Any]:
    model, again, count = runner.model, reader.again, reader.num_frames
    if again is None or count is None:
        reader.close()
        raise ValueError(
            f"{type(model).__name__} needs to see the whole of {reader.name} first, and that can "
            "be read only once; give a file, or a list of images, or its context"
        )

    def find() -> Any:
        with again() as first:
            images = pick((frame.image for frame in first), model.context_frames(count))
            stacked = np.stack(list(images))
        fit = partial(model.card.fit, size=runner.size)
        return find_context(model, stacked, see=fit, name=reader.name)

    return find


def _results(
    reader: FrameReader, runner: _Runner, reset_on_cut: bool, chunk_frames: int
) -> Iterator[FrameResult]:
    import warnings

    names, palette = classes_of(runner.model)
    memory = None
    if runner.find_context is not None:
        runner.context = runner.find_context()
    with reader:
        for chunk, is_cut in _chunks(reader, chunk_frames):
            if is_cut and reset_on_cut:
                memory = None
            maps, memory, ms = runner(np.stack([frame.image for frame in chunk]), memory)
            for k, (frame, labels) in enumerate(zip(chunk, maps, strict=True)):
                yield FrameResult(
                    index=frame.index,
                    time_s=frame.time_s,
                    image=frame.image,
                    labels=labels,
                    classes=names,
                    palette=palette,
                    is_cut=is_cut and k == 0,
                    ms=ms,
                    duration_s=frame.duration_s,
                )
    if reader.damage is not None:
        warnings.warn(reader.damage, DamagedVideoWarning, stacklevel=3)


def _chunks(reader: FrameReader, length: int) -> Iterator[tuple[list[Frame], bool]]:
    """Runs of up to `length` frames of one scene, and whether a scene begins with the run."""
    detector = CutDetector()
    chunk: list[Frame] = []
    begins = False
    for frame in reader:
        is_cut = detector.is_cut(frame.image)
        if is_cut and chunk:
            yield chunk, begins
            chunk, begins = [], False
        begins = begins or is_cut
        chunk.append(frame)
        if len(chunk) == length:
            yield chunk, begins
            chunk, begins = [], False
    if chunk:
        yield chunk, begins


class _Runner:
    """Images and a memory in, label maps and the next memory out."""

    def __init__(
        self,
        model: VideoSegmenter,
        device: str | torch.device | None,
        size: tuple[int, int] | None,
    ) -> None:
        # Not under inference_mode: what moves here stays usable for training and export.
        self.model = model.for_inference(device)
        first = next(self.model.parameters(), None)
        self.device = torch.device(device or "cpu") if first is None else first.device
        self.size = size
        self.context: Any = None
        self.find_context: Callable[[], Any] | None = None

    def __call__(self, images: np.ndarray, memory: Any) -> tuple[list[np.ndarray], Any, float]:
        """(T, H, W, 3) uint8 -> T label maps (H, W) uint8, the next memory, ms per frame."""
        with torch.inference_mode():
            frames = self.model.card.normalise(torch.from_numpy(images).to(self.device))
            fitted = self.model.card.fit(frames, self.size)
            begin_s = now_s(self.device)
            context = self.context if memory is None else None
            segmentation, memory = self.model(fitted[None], memory, context=context)
            ms = 1e3 * (now_s(self.device) - begin_s) / len(images)
            labels = segmentation.labels((images.shape[1], images.shape[2]))
            return list(labels[0].to(torch.uint8).cpu().numpy()), memory, ms

"""A model over a video: frames are read, segmented and handed out one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from vidseg.inference.context import check_context, find_context, pick
from vidseg.inference.frame_result import FrameResult
from vidseg.inference.runner import Windows
from vidseg.inference.session import Session
from vidseg.precision import Precision
from vidseg.segmenter import VideoSegmenter
from vidseg.sizes import SeenSize, Size
from vidseg.video.reader import FrameReader, read_video


class DamagedVideoWarning(UserWarning):
    """A video is damaged or cut short; the frames that can be decoded were segmented."""


class SegmentedVideo(Iterator[FrameResult]):
    """The results of `segment`, computed as they are asked for.

    Attributes:
        reader: where the frames come from.
        session: what segments them; its memory is the stream's.
    """

    def __init__(
        self, reader: FrameReader, session: Session, results: Iterator[FrameResult]
    ) -> None:
        self.reader = reader
        self.session = session
        self._results = results

    @property
    def fps(self) -> Fraction:
        """Frames a second of the video that the results make up."""
        return self.reader.fps

    @property
    def num_frames(self) -> int | None:
        """The number of results to come; None if unknown."""
        return self.reader.num_frames

    @property
    def damage(self) -> str | None:
        """The place and reason of a break in the source; None while there is none."""
        return self.reader.damage

    @property
    def context(self) -> Any:
        """The context of the whole video; found, where needed, by the first result."""
        return self.session.context

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
    size: SeenSize = None,
    fit: Size | None = None,
    precision: Precision = "fp32",
    sliding: Windows = None,
    reset_on_cut: bool = False,
    chunk_frames: int = 1,
    context: Any = None,
) -> SegmentedVideo:
    """Segment a video, frame by frame, with bounded memory however long it is.

    The model is put into evaluation mode. Its card says how pixels are normalised and at which size
    it sees frames. Of a damaged file the frames come that can be decoded, and at the end a
    `DamagedVideoWarning`. A model that is not causal looks at the whole video first, with the first
    call of `next`.

    Args:
        model: any video segmenter; wrap an image model in `vidseg.PerFrame`.
        source: a video file, folder or glob of images, stream URL, camera number, (H, W, 3) uint8
            RGB arrays as they come, or what `read_video` returned (which has more options).
        start: seconds; frames before it are left out.
        end: seconds; the frame at `end` and later ones are left out.
        every: 2 segments every second frame, and so forth.
        device: where to run; by default where the model is.
        size: (H, W) to which frames are stretched for the model, or "full" for their own size;
            labels still come at the frame's size. By default frames larger than those that the
            model was trained on are seen at that size, in their own aspect.
        fit: (H, W) of a box that frames are fitted into instead, in their own aspect.
        precision: "fp32"; "bf16" and "fp16" run under autocast.
        sliding: (H, W) of windows by which the model sees large frames at their own size, or a
            `SlidingWindow`.
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
    if chunk_frames < 1:
        raise ValueError(f"chunk_frames must be at least 1, got {chunk_frames}")
    session = Session(
        model,
        device=device,
        size=size,
        fit=fit,
        precision=precision,
        sliding=sliding,
        reset_on_cut=reset_on_cut,
        context=context,
    )
    if isinstance(source, FrameReader):
        if (start, end, every) != (None, None, 1):
            raise ValueError("give start, end and every to read_video, which made this source")
        reader = source
    else:
        reader = read_video(source, start=start, end=end, every=every)
    return run_video(session, reader, chunk_frames=chunk_frames)


def run_video(session: Session, reader: FrameReader, *, chunk_frames: int = 1) -> SegmentedVideo:
    """Segment a whole video in a session, which goes on from its memory.

    Args:
        session: for another video, `reset()` it, and set the `context` of that video, or None.
        reader: gives the frames.
        chunk_frames: frames in one call of the model.

    Returns:
        The results, as `segment` gives them.

    Raises:
        ValueError: a model that needs the whole video on a source that has no end or can be read
            only once; a context of another video.
    """
    model = session.runner.model
    if reader.is_live and not model.causal:
        reader.close()
        raise ValueError(
            f"{type(model).__name__} needs to see the whole video before the first label, "
            f"and {reader.name} has no end; record it to a file first"
        )
    check_context(session.context, reader.name)
    is_known = model.causal or session.context is not None
    find = None if is_known else _first_pass(session, reader)
    return SegmentedVideo(reader, session, _results(reader, session, find, chunk_frames))


def _first_pass(session: Session, reader: FrameReader) -> Callable[[], Any]:
    model, again, count = session.runner.model, reader.again, reader.num_frames
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
        return find_context(model, stacked, see=session.runner.sees[0], name=reader.name)

    return find


def _results(
    reader: FrameReader, session: Session, find: Callable[[], Any] | None, chunk_frames: int
) -> Iterator[FrameResult]:
    import warnings

    if find is not None:
        session.context = find()
    with reader:
        yield from session.run(reader, chunk_frames=chunk_frames)
    if reader.damage is not None:
        warnings.warn(reader.damage, DamagedVideoWarning, stacklevel=3)

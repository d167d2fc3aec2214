"""One stream that a program feeds: a frame in, its labels out, the memory in between."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch

from vidseg.adapters.steady_memory import flicker_between
from vidseg.inference.frame_result import FrameResult, classes_of
from vidseg.inference.runner import Runner, Windows, make_views
from vidseg.precision import Precision
from vidseg.segmenter import Memory, VideoSegmenter
from vidseg.sizes import SeenSize, Size
from vidseg.video.cuts import CutDetector
from vidseg.video.reader import Frame, check_image


class Session:
    """One stream, frame by frame, with bounded memory however long it is.

    The model is put into evaluation mode; sessions may share it. Its card says how pixels are
    normalised and at which size it sees them; labels come at the size of the frame.

    Args:
        model: any video segmenter; wrap an image model in `vidseg.PerFrame`.
        device: where to run; by default where the model is.
        size: (H, W) to which frames are stretched for the model, or "full" for their own size. By
            default frames larger than what the model was trained on are seen at that size, in their
            own aspect.
        fit: (H, W) of a box that frames are fitted into instead, in their own aspect.
        precision: "fp32"; "bf16" and "fp16" run under autocast.
        sliding: (H, W) of windows by which the model sees large frames, or a `SlidingWindow`.
        reset_on_cut: forget the past where a new scene begins.
        context: what a model that is not causal knows of the whole video.
        fps: frames a second, for the time of frames that are pushed without one.

    Raises:
        TypeError: `model` is no video segmenter.
        ValueError: an option is out of range; more than 255 classes; a context for a model that
            takes none.

    Example:
        >>> import vidseg
        >>> session = Session(vidseg.create("tmanet_tiny", num_classes=4))
        >>> session.push(np.zeros((32, 48, 3), np.uint8)).labels.shape
        (32, 48)
        >>> kept = session.memory
        >>> session.push(np.zeros((32, 48, 3), np.uint8)).index
        1
        >>> session.memory = kept  # go on from frame 0 once more
    """

    def __init__(
        self,
        model: VideoSegmenter,
        *,
        device: torch.device | str | None = None,
        size: SeenSize = None,
        fit: Size | None = None,
        precision: Precision = "fp32",
        sliding: Windows = None,
        reset_on_cut: bool = True,
        context: Any = None,
        fps: float = 25.0,
    ) -> None:
        _check_model(model)
        if context is not None and model.causal:
            raise ValueError(f"{type(model).__name__} takes no context here; leave it out")
        if not fps > 0:
            raise ValueError(f"fps must be above 0, got {fps}")
        self.runner = Runner(
            model,
            device=device,
            views=make_views(size=size, fit=fit),
            precision=precision,
            sliding=sliding,
        )
        self.context = context
        self.reset_on_cut = reset_on_cut
        self.fps = fps
        self._names, self._palette = classes_of(model)
        self.reset()

    def reset(self) -> None:
        """Start anew: an empty memory, and the next frame is number 0."""
        self.memory = None
        self._count = 0

    @property
    def memory(self) -> Memory | None:
        """The memory of the stream; None before the first frame.

        It is a value: keep it, pickle it, set it here or in another session of the same model, and
        the stream goes on from there. Setting None forgets the past; the frames count on.
        """
        return self._memory

    @memory.setter
    def memory(self, memory: Memory | None) -> None:
        """Go on from this memory; TypeError for what is none."""
        if memory is not None and not isinstance(memory, Memory):
            raise TypeError(
                f"memory must be what another session's .memory was, or None, got "
                f"{type(memory).__name__}"
            )
        self._memory = None if memory is None else memory.to(self.runner.device)
        # The last frame may be of another stream than this memory: no cut lies between them.
        self._detector, self._shape = CutDetector(), None

    def push(self, frame: np.ndarray | Frame, *, time_s: float | None = None) -> FrameResult:
        """Segment the next frame.

        Args:
            frame: (H, W, 3) uint8 RGB, or what `read_video` gives. One of another size than the
                frame before it begins a new scene.
            time_s: of an array, in seconds from the first frame; by default as `fps` says.

        Raises:
            TypeError: the array is not uint8.
            ValueError: it is not (H, W, 3); the memory is of another model or size of frames; a
                model that is not causal has no context.
        """
        if not isinstance(frame, Frame):
            image = check_image(frame, self._count)
            time_s = self._count / self.fps if time_s is None else time_s
            frame = Frame(self._count, time_s, image)
        (result,) = self.run([frame])
        return result

    def run(self, frames: Iterable[Frame], *, chunk_frames: int = 1) -> Iterator[FrameResult]:
        """Segment frames as they come, several in one call of the model.

        Args:
            frames: such as those of `read_video`.
            chunk_frames: frames in one call; more use a GPU better, and take more memory.

        Yields:
            The result of each frame.

        Raises:
            ValueError: see `push`.
        """
        for chunk, is_cut in self._scenes(frames, chunk_frames):
            yield from self._segment(chunk, is_cut)

    def _scenes(self, frames: Iterable[Frame], length: int) -> Iterator[tuple[list[Frame], bool]]:
        """Runs of up to `length` frames of one scene, and whether a scene begins with the run."""
        chunk: list[Frame] = []
        begins = False
        for frame in frames:
            is_resized = self._shape not in (None, frame.image.shape)
            is_cut = self._detector.is_cut(frame.image) or is_resized
            self._shape = frame.image.shape
            if is_cut and chunk:
                yield chunk, begins
                chunk, begins = [], False
            if is_resized or (is_cut and self.reset_on_cut):
                self._memory = None  # of the scene before, whose frames have all been segmented
            begins = begins or is_cut
            chunk.append(frame)
            if len(chunk) == length:
                yield chunk, begins
                chunk, begins = [], False
        if chunk:
            yield chunk, begins

    def _segment(self, chunk: list[Frame], is_cut: bool) -> Iterator[FrameResult]:
        """The results of some frames of one scene, which may begin with them."""
        model, memory = self.runner.model, self._memory
        if memory is None and self.context is None and not model.causal:
            raise ValueError(
                f"{type(model).__name__} needs to know the whole video before its first label; "
                "give what it knows of it: Session(model, context=...)"
            )
        images = np.stack([frame.image for frame in chunk])[None]
        found = self.runner(images, (memory,), contexts=(self.context,))
        (self._memory,) = found.memories
        flicker = flicker_between(memory, self._memory)
        for k, (frame, labels) in enumerate(zip(chunk, found.labels[0], strict=True)):
            self._count += 1
            yield FrameResult(
                index=frame.index,
                time_s=frame.time_s,
                image=frame.image,
                labels=labels,
                classes=self._names,
                palette=self._palette,
                is_cut=is_cut and k == 0,
                ms=found.ms,
                duration_s=frame.duration_s,
                flicker=flicker if k == len(chunk) - 1 else None,
            )


def _check_model(model: object) -> None:
    if not isinstance(model, VideoSegmenter):
        raise TypeError(
            f"model must be a VideoSegmenter, got {type(model).__name__}; "
            "wrap an image model: vidseg.PerFrame(model, num_classes=...)"
        )
    if model.num_classes > 255:
        raise ValueError(f"labels are 8-bit, up to 255 classes; this model has {model.num_classes}")

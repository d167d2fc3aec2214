"""A model that labels frames as an evaluation asks: views, precision, sliding windows, time."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vidseg.adapters.sliding import SlidingWindow, sliding_name
from vidseg.card import Card
from vidseg.data.transforms import size_within
from vidseg.precision import Precision, autocast
from vidseg.segmenter import Memory, Segmentation, VideoSegmenter
from vidseg.timing import now_s
from vidseg.values import Size


class View(NamedTuple):
    """One way to look at a frame.

    Attributes:
        scale: ratio to the frame, or to the size that `fit` gives it.
        flip: mirrored.
        fit: (H, W) of a box; the frame is the largest of its own aspect in it, long side to long
            side.
    """

    scale: float = 1.0
    flip: bool = False
    fit: Size | None = None

    def see(self, frames: Tensor, card: Card) -> Tensor:
        """Resize and mirror (..., 3, H, W), to a size that the model takes."""
        size = frames.shape[-2], frames.shape[-1]
        if self.fit is not None:
            size = size_within(size, self.fit)
        height, width = (max(1, int(side * self.scale + 0.5)) for side in size)
        frames = card.fit(frames, (height, width))
        return frames.flip(-1) if self.flip else frames


def views(scales: Sequence[float], flip: bool, fit: Size | None = None) -> tuple[View, ...]:
    """Every scale, and its mirror image with `flip`."""
    return tuple(
        View(scale, mirrored, fit) for scale in scales for mirrored in ((False, True)[: 1 + flip])
    )


class Runner:
    """Frames and one memory per view in, label maps out; measures the network's time."""

    def __init__(
        self,
        model: VideoSegmenter,
        device: torch.device,
        precision: Precision,
        sliding: tuple[Size, Size] | None,
        views: tuple[View, ...],
        void_to: int | None,
    ) -> None:
        self.card = model.card
        self.last_class, self.void_to = model.num_classes - 1, void_to
        self.model = model if sliding is None else SlidingWindow(model, *sliding)
        self.sliding = sliding
        self.window_frames, self.period = model.window_frames, model.period
        self.device = device
        self.precision: Precision = precision
        self.views = views
        self._passes: list[tuple[float, int]] = []

    @property
    def conventions(self) -> dict[str, Any]:
        """How frames are run, for people and for the record."""
        fit = self.views[0].fit
        return {
            "window_frames": self.model.window_length,
            "image": sliding_name(self.sliding),
            **({} if fit is None else {"fit": f"within {fit[0]}x{fit[1]}, aspect kept"}),
            "scales": [view.scale for view in self.views if not view.flip],
            "flip": any(view.flip for view in self.views),
            "precision": self.precision,
            "device": self.device.type,
        }

    @property
    def ms_per_frame(self) -> float | None:
        """Mean over all passes but the first, which pays for the warm-up."""
        timed = self._passes[1:] or self._passes
        frames = sum(count for _, count in timed)
        return 1e3 * sum(seconds for seconds, _ in timed) / frames if frames else None

    def __call__(
        self,
        images: np.ndarray,
        memories: tuple[Memory | None, ...] | None,
        sizes: Sequence[Size],
        contexts: tuple[Any, ...],
        phase: int = 0,
    ) -> tuple[list[np.ndarray], tuple[Memory | None, ...], float | None]:
        """Label the last of the frames.

        Args:
            images: (B, T, H, W, 3) uint8.
            memories: one per view, or None at the start of a stream.
            sizes: the (h, w) at which the label maps are wanted, one per stream.
            contexts: of the streams, one per view; read at the start of a stream.
            phase: of the first frame, at the start of a stream.

        Returns:
            B label maps (h, w) uint8, the next memories, and the network's ms per frame, which
            the first pass has not: it pays for the warm-up.
        """
        frames = self.card.normalise(torch.from_numpy(images).to(self.device))
        outputs, after = [], []
        begin_s = now_s(self.device)
        turn = {"phase": phase} if phase else {}
        begun = memories or (None,) * len(self.views)
        for view, memory, context in zip(self.views, begun, contexts, strict=True):
            with autocast(self.device, self.precision):
                segmentation, memory = self.model(
                    view.see(frames, self.card),
                    memory,
                    readout="last",
                    context=context if memory is None else None,
                    **turn,
                )
            outputs.append(segmentation)
            after.append(memory)
        seconds, num_frames = now_s(self.device) - begin_s, images.shape[0] * images.shape[1]
        ms = 1e3 * seconds / num_frames if self._passes else None
        self._passes.append((seconds, num_frames))
        by_size = {size: self._labels(outputs, size) for size in set(sizes)}
        labels = [by_size[size][row] for row, size in enumerate(sizes)]
        return labels, tuple(after), ms

    def _labels(self, outputs: list[Segmentation], size: Size) -> np.ndarray:
        if len(self.views) == 1 and not self.views[0].flip:
            labels = outputs[0].labels(size)[:, 0]
        else:
            total: Any = 0
            for view, segmentation in zip(self.views, outputs, strict=True):
                scores = segmentation.resize(size)[:, 0].float().softmax(1)
                total = total + (scores.flip(-1) if view.flip else scores)
            labels = total.argmax(1)
        if self.void_to is not None:
            labels = labels.masked_fill(labels == self.last_class, self.void_to)
        return labels.to(torch.uint8).cpu().numpy()

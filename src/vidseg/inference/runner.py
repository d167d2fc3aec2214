"""How a model is run: at which size, through which views, how precisely, how fast."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vidseg.adapters.sliding import SlidingWindow, sliding_name
from vidseg.card import Card
from vidseg.data.transforms import size_within
from vidseg.inference.context import See
from vidseg.precision import Precision, autocast, check_precision
from vidseg.segmenter import Memory, Segmentation, VideoSegmenter
from vidseg.sizes import SeenSize, Size, height_x_width, width_x_height
from vidseg.timing import now_s

Windows = SlidingWindow | Size | tuple[Size, Size] | None
"""(H, W) of windows, or ((H, W) of windows, (H, W) between them); None for the whole image."""

Memories = tuple[Memory | None, ...]
"""One per view; None before the first frame."""

log = logging.getLogger("vidseg.inference")


class View(NamedTuple):
    """One way to look at a frame.

    Attributes:
        scale: ratio to the size that the other attributes give.
        flip: mirrored.
        fit: (H, W) of a box; the frame is the largest of its own aspect in it, long side to long
            side.
        size: where there is no box: (H, W), to which frames are stretched; "full" for their own
            size; None for the size of their own aspect that the model's card knows.
    """

    scale: float = 1.0
    flip: bool = False
    fit: Size | None = None
    size: SeenSize = "full"

    def size_of(self, frame: Size, card: Card) -> Size:
        """The (H, W) of frames of this size in the view, before the rounding of `Card.fit`."""
        if self.fit is not None:
            seen = size_within(frame, self.fit)
        elif self.size is None:
            seen = card.known_size(frame)
        else:
            seen = frame if self.size == "full" else self.size
        height, width = (max(1, int(side * self.scale + 0.5)) for side in seen)
        return height, width

    def see(self, frames: Tensor, card: Card) -> Tensor:
        """Resize and mirror (..., 3, H, W), to a size that the model takes."""
        frames = card.fit(frames, self.size_of((frames.shape[-2], frames.shape[-1]), card))
        return frames.flip(-1) if self.flip else frames


def make_views(
    *,
    size: SeenSize = None,
    fit: Size | None = None,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
) -> tuple[View, ...]:
    """Every scale of a size, and its mirror image with `flip`.

    Args:
        size: as in `View`.
        fit: as in `View`, instead of a size.
        scales: ratios to that size.
        flip: also mirrored.

    Raises:
        ValueError: a size, a box or a scale is out of range, or there is both a size and a box.
    """
    if size is not None and size != "full" and (len(size) != 2 or min(size) < 1):
        raise ValueError(f'size must be (H, W) of at least 1 px, or "full", got {size}')
    if fit is not None and (len(fit) != 2 or min(fit) < 1):
        raise ValueError(f"fit must be (height, width) of 1 px or more, got {fit}")
    if fit is not None and size is not None:
        raise ValueError(
            "give a size (--size), to which frames are stretched, or a box that they fit into "
            "(--fit), not both"
        )
    if not scales or any(not 0 < scale <= 8 for scale in scales):
        raise ValueError(f"scales must be ratios in (0, 8], got {tuple(scales)}")
    mirrored = (False, True)[: 1 + flip]
    return tuple(View(scale, is_flipped, fit, size) for scale in scales for is_flipped in mirrored)


class Labelled(NamedTuple):
    """The outcome of a pass.

    Attributes:
        labels: of each stream (T', h, w) uint8, the frames that were read out.
        memories: the next ones, one per view.
        ms: the network's time per frame of the pass, all views together.
    """

    labels: list[np.ndarray]
    memories: Memories
    ms: float


class Runner:
    """Images and one memory per view in, label maps and the next memories out.

    Args:
        model: put into evaluation mode, in the memory layout that is fastest where it runs.
        device: where to run; by default where the model is.
        views: ways to look at a frame; scores of several are averaged after the softmax.
        precision: of the network.
        sliding: windows by which the model sees a frame of a view.
        void_to: the label that the model's last class becomes, where that class is void.
    """

    def __init__(
        self,
        model: VideoSegmenter,
        *,
        device: torch.device | str | None = None,
        views: tuple[View, ...] = (View(),),
        precision: Precision = "fp32",
        sliding: Windows = None,
        void_to: int | None = None,
    ) -> None:
        check_precision(precision)
        # Not under inference_mode: what moves here stays usable for training and export.
        self.model = _windowed(model, sliding).for_inference(device)
        first = next(self.model.parameters(), None)
        self.device = torch.device(device or "cpu") if first is None else first.device
        self.precision: Precision = precision
        if isinstance(self.model, SlidingWindow):  # windows are for frames at their own size
            views = tuple(view._replace(size=view.size or "full") for view in views)
        self.views = views
        self._void_to = void_to
        self._passes: list[tuple[float, int]] = []
        self._told: set[Size] = set()

    @property
    def sees(self) -> list[See]:
        """For each view, what brings normalised frames to the size at which the model sees them."""
        return [partial(view.see, card=self.model.card) for view in self.views]

    @property
    def conventions(self) -> dict[str, Any]:
        """Describe how frames are run, for people and for the record."""
        view, model = self.views[0], self.model
        is_sliding = isinstance(model, SlidingWindow)
        return {
            "window_frames": model.window_length,
            "image": sliding_name((model.crop, model.stride) if is_sliding else None),
            **_seen_as(view, model.card),
            "scales": [view.scale for view in self.views if not view.flip],
            "flip": any(view.flip for view in self.views),
            "precision": self.precision,
            "device": self.device.type,
        }

    @property
    def is_warm(self) -> bool:
        """Whether the first pass, which pays for the warm-up, lies behind the last one."""
        return len(self._passes) > 1

    @property
    def ms_per_frame(self) -> float | None:
        """Mean over all passes but the first, which pays for the warm-up."""
        timed = self._passes[1:] or self._passes
        frames = sum(count for _, count in timed)
        return 1e3 * sum(seconds for seconds, _ in timed) / frames if frames else None

    def __call__(
        self,
        images: np.ndarray,
        memories: Memories | None = None,
        *,
        sizes: Sequence[Size] | None = None,
        contexts: tuple[Any, ...] | None = None,
        readout: Literal["all", "last"] = "all",
        phase: int = 0,
    ) -> Labelled:
        """Label frames of streams that run in lockstep.

        Args:
            images: (B, T, H, W, 3) uint8 RGB.
            memories: one per view, or None at the start of the streams.
            sizes: the (h, w) at which label maps are wanted, one per stream; the images' own by
                default.
            contexts: of the streams, one per view; read at the start of the streams.
            readout: which frames get label maps: "all", or the "last" of the pass.
            phase: of the first frame, at the start of the streams.
        """
        size = (images.shape[2], images.shape[3])
        self._tell(size)
        with torch.inference_mode():
            frames = self.model.card.normalise(torch.from_numpy(images).to(self.device))
            outputs, after, seconds = self.run(
                frames, memories, contexts=contexts, readout=readout, phase=phase
            )
            wanted = sizes or [size] * len(images)
            by_size = {size: self._labels(outputs, size) for size in set(wanted)}
        num_frames = images.shape[0] * images.shape[1]
        self._passes.append((seconds, num_frames))
        labels = [by_size[size][row] for row, size in enumerate(wanted)]
        return Labelled(labels, after, 1e3 * seconds / num_frames)

    def run(
        self,
        frames: Tensor,
        memories: Memories | None = None,
        *,
        contexts: tuple[Any, ...] | None = None,
        readout: Literal["all", "last"] = "all",
        phase: int = 0,
    ) -> tuple[list[Segmentation], Memories, float]:
        """Run the network alone.

        Args:
            frames: (B, T, 3, H, W), normalised.
            memories: as for `__call__`.
            contexts: as for `__call__`.
            readout: as for `__call__`.
            phase: as for `__call__`.

        Returns:
            The segmentation in each view, the next memories, and the seconds that it took.
        """
        outputs, after, seconds = [], [], 0.0
        turn = {"phase": phase} if phase else {}  # models of one's own may take none
        begun = memories or (None,) * len(self.views)
        for k, (view, memory) in enumerate(zip(self.views, begun, strict=True)):
            context = contexts[k] if contexts is not None and memory is None else None
            seen = view.see(frames, self.model.card)
            begin_s = now_s(self.device)
            with autocast(self.device, self.precision):
                output, memory = self.model(seen, memory, readout=readout, context=context, **turn)
            seconds += now_s(self.device) - begin_s
            outputs.append(output)
            after.append(memory)
        return outputs, tuple(after), seconds

    def _labels(self, outputs: list[Segmentation], size: Size) -> np.ndarray:
        """(B, T', h, w) uint8."""
        if len(self.views) == 1 and not self.views[0].flip:
            labels = outputs[0].labels(size)
        else:
            total: Any = 0
            for view, output in zip(self.views, outputs, strict=True):
                scores = output.resize(size).float().softmax(2)
                total = total + (scores.flip(-1) if view.flip else scores)
            labels = total.argmax(2)
        if self._void_to is not None:
            labels = labels.masked_fill(labels == self.model.num_classes - 1, self._void_to)
        return labels.to(torch.uint8).cpu().numpy()

    def _tell(self, size: Size) -> None:
        """Say, once for each size of frames, that the card decided at which the model sees them."""
        view = self.views[0]
        seen = self.model.card.known_size(size)
        if view.fit is None and view.size is None and seen != size and size not in self._told:
            self._told.add(size)
            log.info(
                "seeing %s at %s, the size this model knows; --size full for all of it",
                width_x_height(size),
                width_x_height(seen),
            )


def _windowed(model: VideoSegmenter, sliding: Windows) -> VideoSegmenter:
    """The model as it sees whole images, or through windows."""
    if sliding is None or isinstance(sliding, SlidingWindow):
        return sliding or model
    first, second = sliding
    if isinstance(first, int) or isinstance(second, int):
        return SlidingWindow(model, sliding)  # pyright: ignore[reportArgumentType]
    return SlidingWindow(model, first, second)


def _seen_as(view: View, card: Card) -> dict[str, str]:
    """At which size frames are seen, in words; nothing where that is their own."""
    if view.fit is not None:
        return {"fit": f"within {height_x_width(view.fit)}, aspect kept"}
    if view.size == "full" or (view.size is None and card.size is None):
        return {}
    size = height_x_width(view.size or card.size or (0, 0))
    if view.size is None:
        return {"size": f"as many pixels as {size} at most, aspect kept"}
    return {"size": size}

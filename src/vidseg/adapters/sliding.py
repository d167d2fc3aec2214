"""Sliding windows: a large frame as many small streams, averaged where they overlap."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from vidseg.card import Card
from vidseg.layers.resize import resize
from vidseg.segmenter import Segmentation, VideoSegmenter
from vidseg.sizes import height_x_width


def window_starts(size: int, crop: int, stride: int) -> tuple[int, ...]:
    """Where windows begin along one axis: a regular grid whose last window ends at the border.

    TMANet specification, section 4 (mmsegmentation's grid).

    Args:
        size: of the image, in pixels.
        crop: of a window; one larger than the image is cut to it.
        stride: from window to window.

    Returns:
        The first pixel of each window.

    Example:
        >>> window_starts(1024, 769, 513), window_starts(2048, 769, 513)
        ((0, 255), (0, 513, 1026, 1279))
    """
    count = max(size - crop + stride - 1, 0) // stride + 1
    return tuple(max(min(k * stride + crop, size) - crop, 0) for k in range(count))


def default_stride(crop: tuple[int, int]) -> tuple[int, int]:
    """Two thirds of the crop, rounded up: 513 for 769, as the official Cityscapes protocol."""
    return -(-2 * crop[0] // 3), -(-2 * crop[1] // 3)


def sliding_name(sliding: tuple[tuple[int, int], tuple[int, int]] | None) -> str:
    """How a frame is seen, in words: whole, or through windows of (crop, stride)."""
    if sliding is None:
        return "whole"
    crop, stride = sliding
    return f"sliding, crop {height_x_width(crop)}, stride {height_x_width(stride)}"


class SlidingWindow(VideoSegmenter):
    """A model that sees large frames through windows, with the interface of a model.

    Every window position is a stream of its own: B streams of a frame with N windows run as B * N
    streams of the inner model, each with its own memory. Scores are resized to the window, summed
    and divided by the number of windows that saw the pixel. TMANet specification, section 4.

    Args:
        model: the model that sees the windows.
        crop: (H, W) of a window in pixels; larger than the image means the whole of it.
        stride: (H, W) between windows; two thirds of the crop by default.

    Raises:
        ValueError: a crop or stride below 1, a stride that leaves gaps, or a crop that does not fit
            the model's size rule.

    Example:
        >>> from vidseg.adapters.per_frame import PerFrame
        >>> inner = PerFrame(torch.nn.Conv2d(3, 5, 1), num_classes=5)
        >>> model = SlidingWindow(inner, crop=(8, 8))
        >>> segmentation, memory = model.step(torch.zeros(1, 3, 12, 20))
        >>> segmentation.logits.shape
        torch.Size([1, 1, 5, 12, 20])
    """

    def __init__(
        self,
        model: VideoSegmenter,
        crop: tuple[int, int],
        stride: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        stride = default_stride(crop) if stride is None else stride
        _check_windows(crop, stride, model.card)
        self.model = model
        self.crop = crop
        self.stride = stride
        self.num_classes = model.num_classes
        self.align_corners = model.align_corners
        self.period = model.period
        self.horizon = model.horizon
        self.card = model.card
        self.prefers_channels_last = model.prefers_channels_last
        # Class attributes elsewhere; a wrapper takes them from the model that it wraps.
        self.recurrent = model.recurrent  # pyright: ignore[reportAttributeAccessIssue]
        self.causal = model.causal  # pyright: ignore[reportAttributeAccessIssue]
        self.memory_type = model.memory_type  # pyright: ignore[reportAttributeAccessIssue]

    def window_frames(self, t: int) -> tuple[int, ...]:
        """The frame indices that frame `t` needs (windows in time, not these in space)."""
        return self.model.window_frames(t)

    def context_frames(self, num_frames: int) -> tuple[int, ...]:
        """The frames that `summarize` reads of a video."""
        return self.model.context_frames(num_frames)

    def summarize(self, video: Tensor, *, name: str = "") -> Any:
        """The inner model's context of whole frames; every window reads the same one."""
        return self.model.summarize(video, name=name)

    def corners(self, size: tuple[int, int]) -> list[tuple[int, int]]:
        """The (y, x) of every window on a frame of (H, W), row by row."""
        rows = window_starts(size[0], self.crop[0], self.stride[0])
        columns = window_starts(size[1], self.crop[1], self.stride[1])
        return [(y, x) for y in rows for x in columns]

    def forward(
        self,
        frames: Tensor,
        memory: Any = None,
        *,
        readout: Literal["all", "last"] = "all",
        aux: bool | None = None,
        context: Any = None,
        phase: int | None = None,
    ) -> tuple[Segmentation, Any]:
        """Segment a chunk of frames through windows.

        Args:
            frames: (B, T, 3, H, W) float, normalised.
            memory: what an earlier call returned for the same streams and size; None to start.
            readout: "all" frames or the "last".
            aux: training outputs; windows have none.
            context: of B streams, given with the first chunk.
            phase: of the first frame of a stream, for a model with a `period`.

        Returns:
            The segmentation with logits at full size, (B, T', C, H, W), and the memory of all
            window streams.

        Raises:
            ValueError: frames of wrong rank, `aux=True`, or what the inner model refuses.
        """
        if frames.dim() != 5:
            raise ValueError(
                f"frames must be (B, T, 3, H, W), got {tuple(frames.shape)}; "
                "for one frame call model.step(frame, memory)"
            )
        if aux:
            raise ValueError("sliding windows have no training outputs; train on crops instead")
        size = (frames.shape[-2], frames.shape[-1])
        crop = (min(self.crop[0], size[0]), min(self.crop[1], size[1]))
        corners = self.corners(size)
        windows = torch.stack(
            [frames[..., y : y + crop[0], x : x + crop[1]] for y, x in corners], dim=1
        ).flatten(0, 1)
        if context is not None:
            context = pytree.tree_map(lambda x: x.repeat_interleave(len(corners), 0), context)
        seen, memory = self.model(
            windows, memory, readout=readout, aux=False, context=context, phase=phase
        )
        logits = seen.logits.unflatten(0, (frames.shape[0], len(corners)))
        # At least float32: sums of half precision round away what the windows agree on.
        dtype = torch.promote_types(logits.dtype, torch.float32)
        total = logits.new_zeros((*logits.shape[:1], *logits.shape[2:4], *size), dtype=dtype)
        visits = logits.new_zeros(size, dtype=dtype)
        for k, (y, x) in enumerate(corners):
            window = logits[:, k].flatten(0, 1).to(dtype)
            scores = resize(window, crop, align_corners=seen.align_corners)
            place = (..., slice(y, y + crop[0]), slice(x, x + crop[1]))
            total[place] += scores.unflatten(0, total.shape[:2])
            visits[place] += 1
        return Segmentation(total / visits, {}, size, self.align_corners), memory


def _check_windows(crop: tuple[int, int], stride: tuple[int, int], card: Card) -> None:
    if min(*crop, *stride) < 1:
        raise ValueError(f"crop and stride must be at least 1 px, got {crop} and {stride}")
    if stride[0] > crop[0] or stride[1] > crop[1]:
        raise ValueError(
            f"a stride of {stride} leaves gaps between windows of {crop}; "
            "the stride may be as large as the crop at most"
        )
    if any(card.next_side(side) != side for side in crop):
        rule = (
            f"a multiple of {card.size_multiple}{f' + {card.size_offset}' * (card.size_offset > 0)}"
        )
        raise ValueError(f"this model wants windows of {rule} px, got {crop}")

"""Any segmenter, steadier, without training: its class scores are carried along the motion.

Each frame's scores p join the scores S of the past, behind which n frames stand and which are
carried to where things are now, on a grid coarser than the frame:

    n' = trust * min(carried n, K)
    S  = (n' * carried S + p) / (n' + 1)
    n  = n' + 1

Trust is 1 where the motion is known and the carried picture looks like the present one, and falls
to 0 where it does not: what was hidden before starts anew. A frame that is suddenly unclear (noise,
compression, darkness) while the scene is the same shows the carried past, and is not remembered.

Shapes: B streams, C classes, h w the grid.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from vidseg.adapters.steady_memory import SteadyMemory
from vidseg.flow.dis import DIS
from vidseg.flow.estimator import FlowEstimator
from vidseg.flow.warp import forward_backward_consistent, warp
from vidseg.layers.local_attention import local_attention
from vidseg.layers.resize import resize
from vidseg.segmenter import VideoSegmenter
from vidseg.sizes import Size

Carry = Literal["refine", "flow", "affinity"]

LONGEST_SIDE_PX = 1024
"""Of the grid, unless its cells are given."""

MIN_SIDE_PX = 12
"""Of the grid: DIS refuses smaller pictures."""

RADIUS_PX = {"affinity": 5, "refine": 3}
"""How far a place looks for its like, on the grid."""

# Of 255, per value of a 3x3 patch: patches that differ by so much count exp(-27) of equal ones.
PATCH_LEVELS = 30.0
# A score's logarithm must stay a number that can be averaged when logits are resized.
SMALLEST_SCORE = 1e-4
# Thumbnails of one scene correlate with 0.98 and more, also where one frame of them is spoilt;
# those of two driving videos with 0.86 at most (CamVid).
THUMBNAIL_PX, SAME_SCENE = 16, 0.9
# How fast the usual confidence follows the present one: after some spoilt frames it is the usual.
CONFIDENCE_RATE = 0.3


class _Feature(NamedTuple):
    inner: Any
    picture: Tensor


class _Fused(NamedTuple):
    """The model's own pytree, what is to be remembered, and last the scores that are shown."""

    inner: Any
    picture: Tensor
    scores: Tensor
    evidence: Tensor
    labels: Tensor
    confidence: Tensor
    tally: Tensor
    shown: Tensor


class _Past(NamedTuple):
    """The past where things are now.

    `trust` (B, 1, h, w) in [0, 1]; `is_known` (B, 1, h, w) bool says where labels can be compared.
    """

    scores: Tensor
    evidence: Tensor
    labels: Tensor
    trust: Tensor
    is_known: Tensor


class Steady(VideoSegmenter):
    """Any segmenter, steadier, without training.

    Its memory holds the model's own and, on a grid, the scores of the past: bounded, a value as
    every memory. docs/steady.md says what it gains and what it costs.

    Args:
        model: any segmenter, per frame or with a memory of its own.
        carry: how the past comes to the present. "flow": along optical flow; "refine": along the
            flow and then each place takes what looks like it nearby, which sharpens edges;
            "affinity": the latter alone, further around, where no flow is to be had.
        memory_frames: K, how many frames the past counts for at most against the present one;
            more is steadier, and small things shrink.
        residual_levels: how far the carried picture may be from the present one, in levels of 255,
            where trust has fallen to exp(-1).
        tolerance_px: how far the way along the flow and back may end from its start, on the grid.
        hysteresis: a label changes only if the new score leads the old one by more than this share.
        spoilt_drop: a frame of the same scene whose confidence is lower than usual by more than
            this share is spoilt; 1 takes none for spoilt.
        grid_px: side of a cell of the grid in pixels; None for 2, or 4 where the model's logits are
            no finer, or more where the grid would be longer than 1024 cells.
        flow: estimates the motion; by default DIS with the preset fast.

    Raises:
        TypeError: `model` is no segmenter.
        ValueError: an option is out of range.

    Example:
        >>> from vidseg.adapters.per_frame import PerFrame
        >>> model = Steady(PerFrame(torch.nn.Conv2d(3, 5, 1), num_classes=5))
        >>> segmentation, memory = model(torch.zeros(1, 3, 3, 48, 64))
        >>> segmentation.labels().shape, memory.scores.shape
        (torch.Size([1, 3, 48, 64]), torch.Size([1, 5, 24, 32]))
    """

    recurrent = True
    memory_type = SteadyMemory

    def __init__(
        self,
        model: VideoSegmenter,
        *,
        carry: Carry = "refine",
        memory_frames: float = 3.0,
        residual_levels: float = 20.0,
        tolerance_px: float = 1.5,
        hysteresis: float = 0.1,
        spoilt_drop: float = 0.08,
        grid_px: int | None = None,
        flow: FlowEstimator | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(model, VideoSegmenter):
            raise TypeError(
                f"model must be a VideoSegmenter, got {type(model).__name__}; "
                "wrap an image model: vidseg.PerFrame(model, num_classes=...)"
            )
        if carry not in get_args(Carry):
            raise ValueError(f"carry must be one of {', '.join(get_args(Carry))}, got {carry!r}")
        _check_range("memory_frames", memory_frames, 0.0, math.inf)
        _check_range("residual_levels", residual_levels, 0.0, math.inf, is_open=True)
        _check_range("tolerance_px", tolerance_px, 0.0, math.inf)
        _check_range("hysteresis", hysteresis, 0.0, 1.0)
        _check_range("spoilt_drop", spoilt_drop, 0.0, 1.0, is_open=True)
        if grid_px is not None and (
            isinstance(grid_px, bool) or grid_px != int(grid_px) or grid_px < 1
        ):
            raise ValueError(f"grid_px must be a whole number of 1 or more, got {grid_px}")
        self.model = model
        self.carry: Carry = carry
        self.memory_frames = memory_frames
        self.residual_levels = residual_levels
        self.tolerance_px = tolerance_px
        self.hysteresis = hysteresis
        self.spoilt_drop = spoilt_drop
        self.grid_px = grid_px
        self.flow = DIS("fast") if flow is None else flow
        self.num_classes = model.num_classes
        self.align_corners = model.align_corners
        self.horizon = math.inf
        self.period = model.period
        self.card = model.card
        self.prefers_channels_last = model.prefers_channels_last
        # A class attribute elsewhere; a wrapper takes it from the model that it wraps.
        self.causal = model.causal  # pyright: ignore[reportAttributeAccessIssue]

    def encode(self, frames: Tensor, *phase: int) -> _Feature:
        """The model's own feature, and the picture on the grid."""
        return _Feature(self.model.encode(frames, *phase), self._picture(frames))

    def initial_memory(self, feature: _Feature, context: Any) -> SteadyMemory:
        """The first frame starts with no evidence."""
        batch, _, height, width = feature.picture.shape
        empty = torch.zeros(batch, 1, height, width, device=feature.picture.device)
        return SteadyMemory(
            inner=self.model.initial_memory(feature.inner, context),
            picture=feature.picture,
            scores=empty.repeat(1, self.num_classes, 1, 1),
            evidence=empty,
            labels=empty.repeat(1, 2, 1, 1).to(torch.int16),
            confidence=empty.amax((2, 3)),
            tally=torch.zeros(batch, 3, dtype=torch.int64, device=empty.device),
        )

    def fuse(self, feature: _Feature, memory: SteadyMemory) -> _Fused:
        """The model's own scores of this frame, joined with those of the past."""
        inner = self.model.fuse(feature.inner, memory.turn)
        logits = self.model.decode(inner)
        picture = self._fitting(feature.picture, logits)
        size = picture.shape[-2], picture.shape[-1]
        precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
        own = resize(precise, size, align_corners=self.align_corners).softmax(1)
        best, own_labels = own.max(1, keepdim=True)
        confidence = best.mean((2, 3))
        if memory.frames_seen == 0:
            labels = own_labels.to(torch.int16).repeat(1, 2, 1, 1)
            ones = torch.ones_like(best)
            return _Fused(inner, picture, own, ones, labels, confidence, memory.tally, own)
        past = self._carried(picture, memory)
        is_spoilt = self._is_spoilt(picture, confidence, memory)[:, None, None, None]
        weight = past.trust * past.evidence.clamp(max=self.memory_frames)
        scores = torch.lerp(past.scores, own, 1 / (weight + 1))
        shown = torch.where(is_spoilt, past.scores, scores)
        if self.hysteresis:
            kept = _one_hot(past.labels[:, 1:], self.num_classes)
            shown = shown * (1 + self.hysteresis * (weight > 0) * kept)
        labels = torch.cat([own_labels, shown.argmax(1, keepdim=True)], 1).to(torch.int16)
        changed = past.is_known & (labels != past.labels)
        counts = torch.cat([past.is_known, changed], 1).flatten(2).sum(2)
        return _Fused(
            inner,
            torch.where(is_spoilt, memory.picture, picture),
            torch.where(is_spoilt, memory.scores, scores),
            torch.where(is_spoilt, memory.evidence, weight + 1),
            torch.where(is_spoilt, memory.labels, labels),
            torch.lerp(memory.confidence, confidence, CONFIDENCE_RATE),
            memory.tally + counts,
            shown,
        )

    def decode(self, fused: _Fused) -> Tensor:
        """The logarithms of the scores, on the grid."""
        return fused.shown.clamp_min(SMALLEST_SCORE).log()

    def remember(
        self, memory: SteadyMemory, feature: _Feature, fused: _Fused | None
    ) -> SteadyMemory:
        """This frame is the last one now, unless it is spoilt."""
        assert fused is not None, "a recurrent segmenter remembers what was fused"
        seen = fused.inner if self.model.recurrent else None
        return SteadyMemory(
            inner=self.model.remember(memory.turn, feature.inner, seen),
            **{name: getattr(fused, name) for name in _REMEMBERED},
            frames_seen=1,
        )

    def window_frames(self, t: int) -> tuple[int, ...]:
        """Those of the model; no window holds all that a steady stream has seen."""
        return self.model.window_frames(t)

    def context_frames(self, num_frames: int) -> tuple[int, ...]:
        """The frames that `summarize` reads of a video."""
        return self.model.context_frames(num_frames)

    def summarize(self, video: Tensor, *, name: str = "") -> Any:
        """The model's own context."""
        return self.model.summarize(video, name=name)

    def check_memory(self, memory: Any, feature: _Feature) -> None:
        """Raise ValueError where `memory` cannot belong to these streams."""
        super().check_memory(memory, feature)
        self.model.check_memory(memory.inner, feature.inner)
        size, theirs = ((x.shape[-2], x.shape[-1]) for x in (feature.picture, memory.picture))
        if theirs not in (size, _halved(size)):
            raise ValueError(
                f"the memory is of frames of another size (a grid of {theirs}, these give {size}); "
                "start a new stream with memory=None"
            )

    def _picture(self, frames: Tensor) -> Tensor:
        """Normalised frames -> their pixels on the grid, (N, 3, h, w) uint8."""
        height, width = frames.shape[-2:]
        side = self.grid_px or max(2, -(-max(height, width) // LONGEST_SIDE_PX))
        if self.grid_px is None and min(height, width) < side * MIN_SIDE_PX:
            side = 1
        if -(-min(height, width) // side) < MIN_SIDE_PX:
            raise ValueError(
                f"a steady stream needs a grid of {MIN_SIDE_PX} cells a side or more; frames of "
                f"{width}x{height} px in cells of {side} px give fewer; enlarge the frames"
            )
        frames = frames.to(torch.promote_types(frames.dtype, torch.float32))
        mean = frames.new_tensor(self.card.mean).view(3, 1, 1)
        std = frames.new_tensor(self.card.std).view(3, 1, 1)
        # Rounded first: the mean over a cell is then the same however frames are batched.
        pixels = (frames * std + mean).nan_to_num(0.0).round().clamp(0, 255)
        return _mean_over_cells(pixels, side)

    def _fitting(self, picture: Tensor, logits: Tensor) -> Tensor:
        """The picture on a grid of half as many cells a side where the logits are no finer."""
        size = (picture.shape[-2], picture.shape[-1])
        if self.grid_px is not None or min(_halved(size)) < MIN_SIDE_PX:
            return picture
        is_coarse = max(size) <= LONGEST_SIDE_PX and logits.shape[-1] <= _halved(size)[1] + 1
        return _mean_over_cells(picture.to(torch.float32), 2) if is_coarse else picture

    def _is_spoilt(self, picture: Tensor, confidence: Tensor, memory: SteadyMemory) -> Tensor:
        """(B,) bool: the model knows less than usual of what is the same scene as before."""
        is_low = confidence < (1 - self.spoilt_drop) * memory.confidence
        views = torch.stack([picture, memory.picture], 1).to(torch.float32).mean(2)
        thumbnails = F.adaptive_avg_pool2d(views, THUMBNAIL_PX).flatten(2)
        centred = F.normalize(thumbnails - thumbnails.mean(2, keepdim=True), dim=2)
        return is_low[:, 0] & (centred.prod(1).sum(1) > SAME_SCENE)

    def _carried(self, picture: Tensor, memory: SteadyMemory) -> _Past:
        """The past where things are now."""
        dtype = memory.scores.dtype
        values = torch.cat([memory.picture.to(dtype), memory.evidence, memory.scores], 1)
        if self.carry == "affinity":
            # Labels are carried as shares of the places that they come from, and never blended.
            shares = _one_hot(memory.labels, self.num_classes).flatten(1, 2).to(dtype)
            values = torch.cat([values, shares], 1)
            values = _taken_from_alike(picture, memory.picture, values, RADIUS_PX["affinity"])
            seen, evidence, scores, shares = values.split([3, 1, *_split(self.num_classes)], 1)
            trust = self._trust(picture, seen)
            labels = shares.unflatten(1, (2, -1)).argmax(2).to(torch.int16)
            return _Past(scores, evidence, labels, trust, trust > 0.5)
        there, back = self._flows(picture, memory.picture)
        is_known = forward_backward_consistent(there, back, self.tolerance_px)[:, None]
        values = warp(values, there)
        if self.carry == "refine":
            values = _taken_from_alike(picture, values[:, :3], values, RADIUS_PX["refine"])
        seen, evidence, scores = values.split([3, 1, self.num_classes], 1)
        labels = warp(memory.labels, there, mode="nearest")
        return _Past(scores, evidence, labels, is_known * self._trust(picture, seen), is_known)

    def _trust(self, picture: Tensor, carried: Tensor) -> Tensor:
        """How like the present the carried picture looks, (B, 1, h, w) in [0, 1]."""
        off = (picture.to(carried.dtype) - carried).abs().mean(1, keepdim=True)
        around = F.avg_pool2d(off, 3, stride=1, padding=1, count_include_pad=False)
        return torch.exp(-((around / self.residual_levels) ** 2))

    def _flows(self, now: Tensor, then: Tensor) -> tuple[Tensor, Tensor]:
        """The flow from now to then and back, each (B, 2, h, w) px of the grid."""
        if now.is_meta:
            flow = now.new_zeros(now.shape[0], 2, *now.shape[2:], dtype=torch.float32)
            return flow, flow
        images = (x.permute(0, 2, 3, 1).contiguous().cpu().numpy() for x in (now, then))
        pairs = [(self.flow(a, b), self.flow(b, a)) for a, b in zip(*images, strict=True)]
        there, back = (torch.stack(flows).to(now.device) for flows in zip(*pairs, strict=True))
        return there, back


_REMEMBERED = ("picture", "scores", "evidence", "labels", "confidence", "tally")


def _taken_from_alike(now: Tensor, then: Tensor, values: Tensor, radius_px: int) -> Tensor:
    """Each place of `now` takes the values of the places of `then` whose 3x3 patch looks like its.

    The weights are the softmax of -|patch - patch'|^2 / PATCH_LEVELS^2, in a window.

    Args:
        now: (B, 3, h, w) pixels, 0..255.
        then: (B, 3, h, w).
        values: (B, D, h, w), on the grid of `then`.
        radius_px: half side of the window.

    Returns:
        (B, D, h, w), on the grid of `now`.
    """
    query, key = (_patches(picture.to(values.dtype)) / PATCH_LEVELS for picture in (now, then))
    # -|q - k|^2 = 2 q k - |k|^2 - |q|^2, of which the last is one for all keys of a query.
    query = torch.cat([2 * query, torch.ones_like(query[:, :1])], 1)
    key = torch.cat([key, -key.square().sum(1, keepdim=True)], 1)
    return local_attention(query, key[:, None], values[:, None], radius_px=radius_px, border="mask")


def _patches(picture: Tensor) -> Tensor:
    """(B, 3, h, w) 0..255 -> (B, 27, h, w), around 0, where products lose the fewest digits."""
    padded = F.pad(picture - 127.5, (1, 1, 1, 1), mode="replicate")
    return F.unfold(padded, 3).unflatten(2, picture.shape[-2:])


def _mean_over_cells(pixels: Tensor, side: int) -> Tensor:
    """(N, 3, H, W) floats, 0..255 -> (N, 3, h, w) uint8; the last cells may be smaller."""
    return F.avg_pool2d(pixels, side, ceil_mode=True).round().to(torch.uint8)


def _one_hot(labels: Tensor, num_classes: int) -> Tensor:
    """(B, L, h, w) -> (B, L, C, h, w), or (B, C, h, w) where L is 1; int64."""
    hot = F.one_hot(labels.long(), num_classes).movedim(-1, 2)
    return hot[:, 0] if labels.shape[1] == 1 else hot


def _split(num_classes: int) -> tuple[int, int]:
    return num_classes, 2 * num_classes


def _halved(size: Size) -> Size:
    return -(-size[0] // 2), -(-size[1] // 2)


def _check_range(
    name: str, value: float, low: float, high: float, *, is_open: bool = False
) -> None:
    if not (low < value if is_open else low <= value) or not value <= high or math.isinf(value):
        least = "above" if is_open else "at least"
        most = "" if math.isinf(high) else f" and at most {high:g}"
        raise ValueError(f"{name} must be {least} {low:g}{most}, got {value}")

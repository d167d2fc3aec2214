"""CFFM++: CFFM, and prototypes of the whole video.

Sun, Liu, Ding, Wu and Van Gool, "Learning Local and Global Temporal Contexts for Video
Semantic Segmentation", TPAMI 2024. Matches GuoleiSun/VSS-CFFM at a3e4595, written from a
description of it.

Each pixel attends to K prototypes of the video, found by k-means among the features of ten of its
frames; what comes out is classified on its own and added, by half, to CFFM's logits. CFFM itself is
trained before and stays as it is. What the paper does not say and the published weights need:

1. The first three frames of a video, which CFFM classifies alone, read no prototypes.
2. In training the branch is supervised alone, not the sum.
3. Pixels and prototypes go through one norm, and there is no code for positions.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from vidseg.context import Prototypes
from vidseg.layers.mlp_decoder import PixelClassifier
from vidseg.layers.prototypes import (
    PrototypeAttention,
    kmeans,
    move_centers,
    random_points,
    spread_points,
)
from vidseg.methods.cffm import (
    FeatureMiningSegmenter,
    Fused,
    Mined,
    MinedMemory,
    at_stride_8,
    to_map,
)
from vidseg.methods.method import Options
from vidseg.segmenter import check_frames, check_range

SUMMARY_FRAMES = 10
WEIGHT = 0.5
"""Of the branch's logits in the sum."""
KEEP = 0.99
"""Running prototypes: what a frame counts for after each further one; half of it after 69."""


@dataclass(frozen=True)
class CFFMPlusMemory(MinedMemory):
    """CFFM's memory with prototypes, which are given or found on the way.

    Attributes:
        context: (B, K, D).
        weights: for running prototypes, (B, K): the points that they are the mean of.
    """

    context: Prototypes
    weights: tuple[Tensor, ...]


_SIZES: dict[str, Options] = {
    **FeatureMiningSegmenter.variants,
    "tiny": {**FeatureMiningSegmenter.variants["tiny"], "num_prototypes": 6},
}


class CFFMPlus(FeatureMiningSegmenter):
    """CFFM and a branch that reads prototypes; only the branch is trained.

    In training mode the logits are the branch's alone, on every frame; in evaluation they are
    CFFM's plus half of the branch's.

    Args:
        num_classes: C.
        prototypes: "video": of the whole video, given as `context` (see `summarize`), so not
            causal; "running": of the frames so far, causal. Weights fit both.
        num_prototypes: K; the authors use 100.
        heads: of the blocks and the branch.
        channels: D.
        dropout: of whole channels before the classifiers.
        options: as `FeatureMiningSegmenter`.

    Raises:
        ValueError: `prototypes` is unknown, or `num_prototypes` is less than 1.
    """

    # *_running: this library's, for live video.
    variants: ClassVar[Mapping[str, Options]] = {
        **_SIZES,
        **{f"{size}_running": {**made, "prototypes": "running"} for size, made in _SIZES.items()},
    }
    # The per-frame model that each is compared with.
    twins: ClassVar[Mapping[str, str]] = {
        size + suffix: f"segformer_{size}" for size in _SIZES for suffix in ("", "_running")
    }
    official_names: ClassVar[tuple[str, ...]] = ("cffmpp",)
    memory_type = CFFMPlusMemory

    def __init__(
        self,
        num_classes: int,
        *,
        prototypes: Literal["video", "running"] = "video",
        num_prototypes: int = 100,
        channels: int = 256,
        heads: int = 8,
        dropout: float = 0.1,
        **options: Any,
    ) -> None:
        if prototypes not in ("video", "running"):
            raise ValueError(f'prototypes must be "video" or "running", got {prototypes!r}')
        _check_count(num_prototypes)
        super().__init__(num_classes, channels=channels, heads=heads, dropout=dropout, **options)
        self.requires_grad_(False)
        self.branch = PrototypeAttention(channels, heads)
        self.prototype_classifier = PixelClassifier(channels, num_classes, dropout)
        self.num_prototypes = num_prototypes
        self.is_running = prototypes == "running"
        # A class attribute elsewhere; set per instance here.
        self.causal = self.is_running  # pyright: ignore[reportAttributeAccessIssue]
        if self.is_running:
            self.horizon = float("inf")

    def train(self, mode: bool = True) -> "CFFMPlus":
        """Training mode, but for the decoder's norm, whose statistics stay."""
        super().train(mode)
        self.decoder.eval()
        return self

    def forward(self, frames: Tensor, memory: Any = None, **options: Any) -> tuple[Any, Any]:
        """Segment a chunk of frames: see `VideoSegmenter.forward`.

        In training the branch reads a frame and prototypes that are given, so where only the last
        frame is read out the others are not looked at, and the memory returned knows none of them.
        """
        is_last = options.get("readout") == "last" and not self.is_running
        if self.training and is_last and frames.dim() == 5:
            frames = frames[:, -1:]
        return super().forward(frames, memory, **options)

    def context_frames(self, num_frames: int) -> tuple[int, ...]:
        """The middles of ten equal parts; what is left over at the end is not looked at.

        Of fewer than ten frames it is ten times the first, as in the authors' code. Running
        prototypes read no frame ahead.
        """
        if self.is_running:
            return ()
        part = num_frames // SUMMARY_FRAMES
        return tuple(int((k + 0.5) * part) for k in range(SUMMARY_FRAMES))

    @torch.no_grad()
    def summarize(
        self, video: Tensor, *, num_prototypes: int | None = None, seed: int = 0, name: str = ""
    ) -> Prototypes | None:
        """Find the prototypes of videos: k-means, at most ten rounds, from random points.

        Args:
            video: (B, T, 3, H, W), normalised; the frames of `context_frames(T)` are read, so those
                alone may be given as well.
            num_prototypes: K; the model's by default.
            seed: of the points to start from.
            name: of the video, to be kept with the prototypes.

        Returns:
            The context for `forward`; None for running prototypes, which are found on the way.

        Raises:
            ValueError: rank, dtype or range of `video` are wrong, it has fewer pixels than
                prototypes, or `num_prototypes` is less than 1.
        """
        check_frames(video)
        check_range(video)
        if self.is_running:
            return None
        count = self.num_prototypes if num_prototypes is None else num_prototypes
        _check_count(count)
        was_training = self.training
        self.eval()
        try:
            places = self.context_frames(video.shape[1])
            maps = {t: self._eighth(video[:, t]) for t in set(places)}
        finally:
            self.train(was_training)
        points = torch.stack([maps[t] for t in places], 1).flatten(1, 3)
        centers = [kmeans(of_one, random_points(of_one, count, seed))[0] for of_one in points]
        return Prototypes(torch.stack(centers), name)

    def initial_memory(self, feature: Mined, context: Any) -> CFFMPlusMemory:
        """No frames; the given prototypes, or, running, those of the first frame."""
        slots = self.empty_slots(feature)
        if not self.is_running:
            return CFFMPlusMemory(*slots, _checked(context, feature.eighth), ())
        if context is not None:
            raise ValueError(
                'this model finds its prototypes on the way (prototypes="running") and takes no '
                'context; make it with prototypes="video" to give them'
            )
        points = feature.eighth.detach().flatten(1, 2)
        found = [kmeans(of_one, spread_points(of_one, self.num_prototypes))[0] for of_one in points]
        centers = torch.stack(found)
        # Weight 0: `remember` counts the first frame, and must count it once.
        return CFFMPlusMemory(*slots, Prototypes(centers), (torch.zeros_like(centers[..., 0]),))

    def fuse(self, feature: Mined, memory: MinedMemory) -> Fused:
        """CFFM's logits and half of the branch's; in training the branch's alone."""
        assert isinstance(memory, CFFMPlusMemory)
        is_alone = len(self.window_frames(memory.frames_seen)) == 1
        if is_alone and not self.training:
            return super().fuse(feature, memory)
        centers = memory.context.centers.to(feature.eighth.dtype)
        read = to_map(self.branch(feature.eighth, centers))
        logits = self.to_stride_4(self.prototype_classifier(read), feature)
        if self.training:
            return Fused(logits, read)
        mined = super().fuse(feature, memory)
        return Fused(mined.logits + WEIGHT * logits, mined.target)

    def remember(self, memory: MinedMemory, feature: Mined, fused: Fused | None) -> MinedMemory:
        """As CFFM; running prototypes take in the frame."""
        memory = super().remember(memory, feature, fused)
        assert isinstance(memory, CFFMPlusMemory)
        if not self.is_running:
            return memory
        points = feature.eighth.detach().flatten(1, 2)
        (weights,) = memory.weights
        centers = memory.context.centers
        # All zero where nothing finite has come yet: this frame then is the first.
        is_unborn = ~centers.flatten(1).any(1)[:, None, None]
        first = torch.stack([spread_points(of_one, self.num_prototypes) for of_one in points])
        streams = zip(
            first.to(centers.dtype).where(is_unborn, centers), weights, points, strict=True
        )
        moved = [move_centers(*stream, keep=KEEP) for stream in streams]
        centers, weights = (torch.stack(parts) for parts in zip(*moved, strict=True))
        return replace(memory, context=Prototypes(centers), weights=(weights,))

    def check_memory(self, memory: Any, feature: Mined) -> None:
        """Raise ValueError for a memory of another model, batch, length or size."""
        super().check_memory(memory, feature)
        if bool(memory.weights) != self.is_running:
            kinds = ("given", "running")
            raise ValueError(
                f"the memory has {kinds[bool(memory.weights)]} prototypes, this model's are "
                f"{kinds[self.is_running]}; start the stream anew with memory=None"
            )

    def _eighth(self, frames: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, h, w, D) at stride 8: `encode` without what the blocks need."""
        return at_stride_8(self.decoder(self.backbone(frames)))


def _check_count(num_prototypes: int) -> None:
    if num_prototypes < 1:
        raise ValueError(f"num_prototypes must be at least 1, got {num_prototypes}")


def _checked(context: Any, eighth: Tensor) -> Prototypes:
    """The prototypes, on the device of the frames, if they can be theirs."""
    if context is None:
        raise ValueError(
            "CFFM++ reads prototypes of the whole video; pass "
            "context=model.summarize(video), or Prototypes.load(path), with the first chunk, or "
            'make the model with prototypes="running"'
        )
    if not isinstance(context, Prototypes):
        raise ValueError(
            f"context must be vidseg.Prototypes, got {type(context).__name__}; wrap a tensor "
            "(B, K, D): vidseg.Prototypes(centers)"
        )
    batch, width = eighth.shape[0], eighth.shape[-1]
    shape = tuple(context.centers.shape)
    if len(shape) != 3 or shape[0] != batch or shape[1] == 0 or shape[2] != width:
        raise ValueError(
            f"prototypes must be (B, K, D) with B = {batch} streams and D = {width} channels, got "
            f"{shape}; are they of another model, or of another number of videos?"
        )
    return context if context.centers.device == eighth.device else context.to(eighth.device)

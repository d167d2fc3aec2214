"""CFFM: coarse-to-fine feature mining.

Sun, Liu, Ding, Probst and Van Gool, "Coarse-to-Fine Feature Mining for Video Semantic
Segmentation", CVPR 2022. Matches GuoleiSun/VSS-CFFM at a3e4595, written from a description of it.

A frame's windows attend to themselves and to three earlier frames, seen the coarser the older they
are. What the paper does not say and the published weights need:

1. Only the target is updated; the blocks see the earlier frames as the decoder gave them. So what
   they need of a frame depends on it alone, and is kept instead of the frame: tokens' keys and
   values, of each block, for the three places that it will have.
2. The first frames of a video have clips of their own (`START`).
3. The video logits replace the per-frame ones; the two are not added up.
4. The windows have quirks of their own: see `layers/windows.py`.

CFFM++ (`cffmpp.py`) builds on `FeatureMiningSegmenter`: encoder, blocks, memory, the clips of a
video's first frames, and how the authors' checkpoints are read.

N frames or streams, D channels, M heads, d channels of a head; h w is stride 4.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn

from vidseg.backbones import build_backbone
from vidseg.backbones.imagenet import load_imagenet
from vidseg.backbones.mit import MIT_CARD
from vidseg.backbones.mit_layouts import OFFICIAL_LICENCE, backbone_of, decoder_of, encoder_of
from vidseg.classes import CITYSCAPES, VSPW, ClassSet
from vidseg.layers.mlp_decoder import MLPDecoder, PixelClassifier
from vidseg.layers.resize import resize
from vidseg.layers.windows import WindowMining, relative_index, rolled_index
from vidseg.losses.criterion import CROSS_ENTROPY, Criterion
from vidseg.methods.method import Method, Options
from vidseg.segmenter import Memory, Segmentation
from vidseg.training_needs import TrainingNeeds
from vidseg.weights import load_strictly

# The clip of each of the first frames, as in the authors' test; afterwards it is three frames, at
# equal gaps, and the frame itself. Clip k of n < 9 is what ceil(k n / 3) says, from n = 3 on.
START = (
    (0,),
    (1,),
    (2,),
    (0, 1, 2, 3),
    (0, 2, 3, 4),
    (0, 2, 4, 5),
    (0, 2, 4, 6),
    (0, 3, 5, 7),
    (0, 3, 6, 8),
)


Slots = tuple[tuple[Tensor, ...], ...]
"""For each frame, for each block, a tensor."""


@dataclass(frozen=True)
class MinedMemory(Memory):
    """Keys and values of earlier frames' tokens, for each place that a frame has in a clip.

    Each is a tuple of frames, oldest first, and a frame a tuple with a tensor (B, M, rows, columns,
    2 d) for each block.

    Attributes:
        oldest: 9 frames, one token a window.
        middle: 6 frames, 4 tokens a window.
        nearest: 3 frames, 9 tokens a window.
    """

    oldest: Slots
    middle: Slots
    nearest: Slots


class Mined(NamedTuple):
    """A frame: its map at stride 4 (N, D, h, w) and at stride 8 (N, h/2, w/2, D), and its tokens.

    `tokens` has, for the three places in a clip, a tensor for each block.
    """

    quarter: Tensor
    eighth: Tensor
    tokens: Slots


class Fused(NamedTuple):
    """Logits (N, C, h, w), and the map at stride 8 that they were made of, last."""

    logits: Tensor
    target: Tensor


class FeatureMiningSegmenter(Method):
    """SegFormer, and blocks that mine each frame's own surroundings and three earlier frames.

    Args:
        num_classes: C.
        backbone: "mit_b0" to "mit_b5", or "mit_tiny".
        backbone_weights: None, "imagenet" (from the hub; non-commercial) or a local file.
        channels: D of decoder and blocks.
        heads: of the blocks.
        depth: number of blocks.
        gap_frames: from one frame of a clip to the next; the authors use 3.
        dropout: of whole channels before the classifiers.
        backbone_options: further arguments of the backbone, such as drop_path.

    Raises:
        ValueError: the backbone is no MiT, `gap_frames` or `depth` is less than 1, or `heads` do
            not divide `channels`.
    """

    # Both papers have B0, B1, B2 and B5.
    variants: ClassVar[Mapping[str, Options]] = {
        "b0": {"backbone": "mit_b0", "depth": 1},
        "b1": {"backbone": "mit_b1", "depth": 2},
        "b2": {"backbone": "mit_b2", "depth": 2},
        "b3": {"backbone": "mit_b3", "depth": 2},
        "b4": {"backbone": "mit_b4", "depth": 4},
        "b5": {"backbone": "mit_b5", "depth": 4},
        "tiny": {"backbone": "mit_tiny", "channels": 16, "heads": 2, "depth": 1},
    }
    official_classes: ClassVar[Mapping[int, ClassSet]] = {19: CITYSCAPES, 124: VSPW}
    memory_type: ClassVar[type[Memory]] = MinedMemory
    card = MIT_CARD
    prefers_channels_last = True

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: str = "mit_b0",
        backbone_weights: str | Path | None = None,
        channels: int = 256,
        heads: int = 8,
        depth: int = 1,
        gap_frames: int = 3,
        dropout: float = 0.1,
        **backbone_options: Any,
    ) -> None:
        super().__init__()
        if not backbone.startswith("mit_"):
            raise ValueError(f'backbone must be "mit_b0" to "mit_b5", got {backbone!r}')
        if gap_frames < 1 or depth < 1:
            raise ValueError(f"gap_frames and depth must be at least 1, got {gap_frames}, {depth}")
        self.num_classes = num_classes
        self.gap_frames, self.horizon = gap_frames, 3 * gap_frames
        self.backbone = build_backbone(backbone, **backbone_options)
        if backbone_weights is not None:
            load_imagenet(self.backbone, backbone, backbone_weights)
        self.decoder = MLPDecoder(self.backbone.channels, channels)
        self.blocks = nn.ModuleList(WindowMining(channels, heads) for _ in range(depth))
        self.classifier = PixelClassifier(channels, num_classes, dropout)
        self.video_classifier = PixelClassifier(2 * channels, num_classes, dropout)

    def encode(self, frames: Tensor) -> Mined:
        """(N, 3, H, W) -> maps at stride 4 and 8, and what later frames will read of them."""
        quarter = self.decoder(self.backbone(frames))
        eighth = at_stride_8(quarter)
        tokens = [block.references(eighth) for block in self.blocks]  # pyright: ignore[reportCallIssue]
        return Mined(quarter, eighth, tuple(zip(*tokens, strict=True)))

    def initial_memory(self, feature: Mined, context: Any) -> MinedMemory:
        """Empty slots."""
        if context is not None:
            raise ValueError(f"{type(self).__name__} takes no context; CFFM++ does")
        return MinedMemory(*self.empty_slots(feature))

    def fuse(self, feature: Mined, memory: MinedMemory) -> Fused:
        """Mine the clip that ends here; a frame without one is classified alone."""
        *past, now = self.window_frames(memory.frames_seen)
        if not past:
            return Fused(self.classifier(feature.quarter), to_map(feature.eighth))
        slots = zip(self._slots(memory), past, strict=True)
        references = [frames[index - now] for frames, index in slots]
        target = feature.eighth
        for block, *tokens in zip(self.blocks, *references, strict=True):
            target = block(target, tuple(tokens))
        joined = to_map(torch.cat([feature.eighth, target], 3))
        return Fused(self.to_stride_4(self.video_classifier(joined), feature), to_map(target))

    def decode(self, fused: Fused) -> Tensor:
        """-> (N, C, h, w) logits at stride 4; the two classifiers work on maps of two sizes."""
        return fused.logits

    def remember(self, memory: MinedMemory, feature: Mined, fused: Fused | None) -> MinedMemory:
        """The frame becomes the newest for each place, the oldest ones are forgotten."""
        pairs = zip(self._slots(memory), feature.tokens, strict=True)
        oldest, middle, nearest = ((*frames[1:], tokens) for frames, tokens in pairs)
        seen = min(memory.frames_seen + 1, 3 * self.gap_frames)
        return replace(memory, oldest=oldest, middle=middle, nearest=nearest, frames_seen=seen)

    def window_frames(self, t: int) -> tuple[int, ...]:
        """The three frames that t is mined from, and t; t alone for the first three frames."""
        gap = self.gap_frames
        if t >= 3 * gap:
            return (t - 3 * gap, t - 2 * gap, t - gap, t)
        if gap == 3:
            return START[t]
        return (0, -(-t // 3), -(-2 * t // 3), t) if t >= 3 else (t,)

    def check_memory(self, memory: Any, feature: Mined) -> None:
        """Raise ValueError for a memory of another model, batch, length or size."""
        super().check_memory(memory, feature)
        held = [len(frames) for frames in self._slots(memory)]
        wanted = [self.gap_frames * k for k in (3, 2, 1)]
        if held != wanted:
            raise ValueError(
                f"the memory holds {held} frames for the three places, this model keeps {wanted}; "
                "start the stream anew with memory=None"
            )
        shapes = [tuple(x.shape) for x in memory.oldest[-1]]
        if shapes != [tuple(x.shape) for x in feature.tokens[0]]:
            raise ValueError(
                f"the memory's tokens are {shapes[0]} in {len(shapes)} blocks, this frame's "
                f"{tuple(feature.tokens[0][0].shape)} in {len(feature.tokens[0])}; frames of one "
                "stream have one size"
            )

    @staticmethod
    def _slots(memory: MinedMemory) -> tuple[Slots, Slots, Slots]:
        return memory.oldest, memory.middle, memory.nearest

    def empty_slots(self, feature: Mined) -> tuple[Slots, Slots, Slots]:
        """Zeros, a tensor of its own for each frame, place and block."""
        oldest, middle, nearest = (
            tuple(tuple(torch.zeros_like(x) for x in tokens) for _ in range(self.gap_frames * k))
            for tokens, k in zip(feature.tokens, (3, 2, 1), strict=True)
        )
        return oldest, middle, nearest

    def to_stride_4(self, logits: Tensor, feature: Mined) -> Tensor:
        """Resize logits of stride 8 to the output stride."""
        size = (feature.quarter.shape[-2], feature.quarter.shape[-1])
        return resize(logits, size, align_corners=False)

    @classmethod
    def from_official(cls, tensors: dict[str, Tensor], **options: Any) -> tuple[Self, Options]:
        """Build the model that the authors' state dict belongs to.

        Args:
            tensors: the authors' state dict (`backbone.`, `decode_head.`). The index buffers in it
                are compared with what they must be; they may be missing.
            options: what the tensors cannot tell: gap_frames (3), for CFFM++ also prototypes.

        Returns:
            The model, and the arguments that it was made with.

        Raises:
            ValueError: keys are missing, unexpected or mis-shaped; an index buffer is another; it
                is a checkpoint of the other method.
        """
        has_branch = any(name.startswith("decode_head.decoder_swin.") for name in tensors)
        theirs = "cffmpp" if has_branch else "cffm"
        if theirs not in cls.official_names and any(".decoder_focal." in name for name in tensors):
            raise ValueError(
                f"this is a checkpoint of {theirs}, not of {cls.official_names[0]} (whether it has "
                f'decode_head.decoder_swin tells); load it with load_official("{theirs}", ...)'
            )
        check_constants(tensors)
        encoder, head = encoder_of(tensors), decoder_of(tensors)
        first = "decode_head.decoder_focal.blocks.0.attn.relative_position_bias_table"
        needed = ("classifier.weight", "fusion.conv.weight", first)
        missing = [name for name in needed if name not in head]
        if missing:
            raise ValueError(
                f"not a whole checkpoint of {cls.__name__}: there is no {', '.join(missing)}; its "
                f"first keys are {', '.join(list(tensors)[:3])}"
            )
        known = {
            "num_classes": head["classifier.weight"].shape[0],
            "backbone": backbone_of(encoder),
            "channels": head["fusion.conv.weight"].shape[0],
            "heads": head[first].shape[1],
            "depth": len({k.split(".")[3] for k in head if ".decoder_focal.blocks." in k}),
        }
        options = known | options
        model = cls(**options)
        renamed = {f"backbone.{name}": value for name, value in encoder.items()}
        renamed |= head_of(head)
        load_strictly(model, renamed, dead=cls.dead_keys(tensors))
        model.card = replace(model.card, licence=OFFICIAL_LICENCE)
        return model, options

    @classmethod
    def dead_keys(cls, tensors: dict[str, Tensor]) -> dict[str, str]:
        """The keys of an authors' checkpoint that play no part.

        Args:
            tensors: the authors' state dict.

        Returns:
            key -> reason.
        """
        return {
            name: reason for name in tensors for part, reason in DEAD_PARTS.items() if part in name
        }


class CFFM(FeatureMiningSegmenter):
    """A frame and three earlier ones, mined; arguments as `FeatureMiningSegmenter`."""

    official_names: ClassVar[tuple[str, ...]] = ("cffm",)
    # The per-frame model that each is compared with.
    twins: ClassVar[Mapping[str, str]] = {
        size: f"segformer_{size}" for size in FeatureMiningSegmenter.variants
    }

    def auxiliary(self, features: Mined, fused: Fused) -> dict[str, Tensor]:
        """ "frames": per-frame logits of all frames of the chunk, (B, T, C, h, w)."""
        logits = self.classifier(features.quarter.flatten(0, 1))
        return {"frames": logits.unflatten(0, features.quarter.shape[:2])}

    def losses(
        self,
        segmentation: Segmentation,
        batch: Mapping[str, Tensor],
        criterion: Criterion = CROSS_ENTROPY,
    ) -> dict[str, tuple[Tensor, float]]:
        """The last frame, mined, and all frames of the clip by themselves, as far as labelled."""
        align, has_labels = segmentation.align_corners, batch["labelled"]
        main = criterion(segmentation.logits[:, -1], batch["labels"], align_corners=align)
        logits, labels = segmentation.aux["frames"][has_labels], batch["clip_labels"][has_labels]
        frames = criterion(logits, labels, align_corners=align, is_main=False)
        return {"main": (main, 1.0), "frames": (frames, criterion.frame_weight)}

    def training_needs(self) -> TrainingNeeds:
        """The labels of all frames of a clip."""
        return TrainingNeeds(clip_labels=True)


def at_stride_8(quarter: Tensor) -> Tensor:
    """(N, D, h, w) -> (N, h / 2, w / 2, D), rounded down."""
    size = (quarter.shape[-2] // 2, quarter.shape[-1] // 2)
    return resize(quarter, size, align_corners=False).permute(0, 2, 3, 1).contiguous()


def to_map(x: Tensor) -> Tensor:
    """(N, h, w, D) -> (N, D, h, w), a view."""
    return x.permute(0, 3, 1, 2)


CONSTANTS: dict[str, np.ndarray] = {
    "relative_position_index": relative_index(7),
    "valid_ind_rolled": rolled_index(),
    "relative_position_index_0": relative_index(5),
    "relative_position_index_clips_0": relative_index(7),
    "relative_position_index_clips_1": relative_index(5),
    "relative_position_index_clips_2": relative_index(3),
}
"""Index buffers in the authors' checkpoints, by the last part of their names."""

_UNUSED = "the authors' code makes it and never uses it for what this model computes"
DEAD_PARTS = {
    "decode_head.conv_seg.": "the base class of the authors' heads makes a classifier, unused",
    "decoder_swin.blocks.0.attn.proj.": _UNUSED,
    "decoder_swin.blocks.0.attn.relative_position_bias_table": _UNUSED,
    **{f".attn.{name}": "constant, and as it must be" for name in CONSTANTS},
}
"""A part of a name in the authors' checkpoints -> why what has it is left out."""

# the authors' names -> ours, in a block of CFFM and in CFFM++'s branch
_BLOCK = {
    "pool_layers.0": "pool_target",
    "pool_layers_clips": "pool_references",
    "attn.relative_position_bias_table_to_neighbors": "rolled_bias",
    "attn.relative_position_bias_table_to_windows_clips": "reference_biases",
    "attn.relative_position_bias_table_to_windows.0": "target_bias",
    "attn.relative_position_bias_table": "own_bias",
    "attn.qkv_cluster": "key_value",
    "attn.proj_cluster": "proj",
    "attn.qkv": "qkv",
    "attn.proj": "proj",
    "mlp.": "",
}


def block_of(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A block of the authors', under the names of `WindowMining` or `PrototypeAttention`."""
    renamed = {}
    for name, value in tensors.items():
        theirs = next((part for part in _BLOCK if name.startswith(part)), "")
        renamed[_BLOCK.get(theirs, "") + name.removeprefix(theirs)] = value
    return renamed


def head_of(head: dict[str, Tensor]) -> dict[str, Tensor]:
    """The authors' head, as `decoder_of` left it, under our names; what is unknown keeps its."""
    renamed: dict[str, Tensor] = {}
    for name, value in head.items():
        part, _, rest = name.removeprefix("decode_head.").partition(".")
        if any(dead in name for dead in DEAD_PARTS):
            renamed[name] = value
        elif part in ("laterals", "fusion"):
            renamed[f"decoder.{name}"] = value
        elif part in _CLASSIFIERS:
            renamed[f"{_CLASSIFIERS[part]}.{rest}"] = value
        elif part == "decoder_focal":
            _, number, inner = rest.split(".", 2)
            (ours,) = block_of({inner: value})
            renamed[f"blocks.{number}.{ours}"] = value
        elif part == "decoder_swin":
            (ours,) = block_of({rest.removeprefix("blocks.0."): value})
            if ours.startswith("qkv."):  # its keys and values are dead, those of qkv_cluster live
                ours, value = ours.replace("qkv", "query"), value[: value.shape[0] // 3]
            renamed[f"branch.{ours}"] = value
        else:
            renamed[name] = value
    return renamed


_CLASSIFIERS = {
    "classifier": "classifier",
    "linear_pred2": "video_classifier",
    "linear_pred3": "prototype_classifier",
}


def check_constants(tensors: dict[str, Tensor]) -> None:
    """Raise ValueError if an index buffer is not what it must be."""
    wrong = []
    for name, value in tensors.items():
        constant = CONSTANTS.get(name.rsplit(".", 1)[-1])
        if constant is not None and not np.array_equal(constant, value.cpu().numpy()):
            wrong.append(name)
    if wrong:
        raise ValueError(
            f"these index buffers are not those of CFFM: {', '.join(wrong)}; was it trained with "
            "other windows? Without the buffers, the checkpoint would be loaded as CFFM's"
        )

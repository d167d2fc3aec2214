"""TDNet: sub-networks that take turns, and attention between what they saw.

Hu, Caba, Wang, Lin, Sclaroff and Perazzi, "Temporally Distributed Networks for Fast Video Semantic
Segmentation", CVPR 2020. Matches feinanshan/TDNet (MIT) at 342f434, written from a description of
it.

N sub-networks, the paths, of one architecture and separate weights: frame t is encoded by path
t mod N alone, and completed by what the N - 1 frames before it said of other channels. A chain of
attentions carries that from the oldest to the present frame. What the paper does not say and the
published weights need:

1. The chain's modules are those of the present path, one for each frame before it.
2. Without N - 1 frames before it a frame is classified alone; there is no shorter chain.
3. Four paths, too, see two halves of the pyramid's channels in turn.
4. Keys and values of a frame are those of every 4th place of its map (3rd while the authors train).
5. Layer norms have a scale for each place, so they are tied to the frames' size: see `MapNorm`.

B streams, D channels of a value, d of a key; h w is stride 8, h' w' the places that are remembered.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidseg.backbones import build_backbone
from vidseg.backbones.imagenet import load_imagenet
from vidseg.card import Card
from vidseg.classes import CITYSCAPES, ClassSet
from vidseg.layers.chained_attention import (
    ChainedAttention,
    QueryKeyValue,
    subsampled,
    to_tokens,
)
from vidseg.layers.fast_attention import FastAttentionNeck, LeakyBlock
from vidseg.layers.map_norm import MapNorm
from vidseg.layers.pyramid import PyramidPooling, pyramid_head
from vidseg.losses.criterion import CROSS_ENTROPY, Criterion
from vidseg.losses.distillation import class_divergence
from vidseg.methods.method import Method, Options
from vidseg.methods.pspnet import PSPNet
from vidseg.methods.tdnet_layout import (
    DEAD,
    from_official_keys,
    infer_options,
    pyramid_channels,
    split_among_paths,
)
from vidseg.segmenter import Memory, Segmentation, VideoSegmenter
from vidseg.training_needs import TrainingNeeds
from vidseg.weights import load_strictly


@dataclass(frozen=True)
class TDNetMemory(Memory):
    """Queries, keys and values of the N - 1 frames before this one; empty slots are zero.

    Attributes:
        queries: N - 1 tensors (B, h', w', d), oldest first; links within the chain ask with them.
        keys: N - 1 tensors (B, h', w', d).
        values: N - 1 tensors (B, h', w', D).
    """

    queries: tuple[Tensor, ...]
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]


class Encoded(NamedTuple):
    """A frame: stage 3 of its backbone (N, D', h, w), and what its pyramid gave (N, D'', h, w)."""

    third: Tensor
    pooled: Tensor


class Fused(NamedTuple):
    """A frame beside its memory.

    Logits (N, C, h, w), its own value (N, D, h, w), stage 3, its path (N,), which training asks
    for, and the sum of value and chain.
    """

    logits: Tensor
    value: Tensor
    third: Tensor
    path: Tensor
    completed: Tensor


class TDNet(Method):
    """N paths in turn, and a chain of attentions through the last N - 1 frames.

    Args:
        num_classes: C.
        backbone: "resnet18_multigrid" and others of a pyramid, or "resnet18_fanet".
        backbone_weights: None, "imagenet" (from the hub) or a local file, for every path.
        paths: N.
        value_channels: D; a quarter of the pyramid's width by default.
        key_channels: d.
        kv_stride: every so many-th place of a map is remembered; the authors train with 3.
        norm_size: (h, w) of the layer norms' maps, at stride 8; None for one scale and one shift.
        auxiliary: with the auxiliary heads, used in training only; a FANet has none.
        dropout: in attentions, and of whole channels before classifiers.
        backbone_options: further arguments of the backbone.

    Raises:
        ValueError: `paths` is less than 2, or `kv_stride` less than 1.
    """

    variants: ClassVar[Mapping[str, Options]] = {
        "td4_psp18": {"backbone": "resnet18_multigrid", "paths": 4, "value_channels": 512},
        "td4_psp34": {"backbone": "resnet34_multigrid", "paths": 4, "value_channels": 512},
        "td4_psp50": {"backbone": "resnet50_multigrid", "paths": 4},
        "td2_psp18": {"backbone": "resnet18_multigrid", "paths": 2},
        "td2_psp34": {"backbone": "resnet34_multigrid", "paths": 2},
        "td2_psp50": {"backbone": "resnet50_multigrid", "paths": 2},
        "td2_psp101": {"backbone": "resnet101_multigrid", "paths": 2},
        "td2_fa18": {
            "backbone": "resnet18_fanet",
            "paths": 2,
            "value_channels": 256,
            "kv_stride": 3,
            "norm_size": (96, 192),
        },
        "tiny": {
            "backbone": "resnet_tiny",
            "paths": 4,
            "key_channels": 8,
            "kv_stride": 2,
            "norm_size": (5, 7),
        },
    }
    whole_names: ClassVar[frozenset[str]] = frozenset(variants) - {"tiny"}
    twins: ClassVar[Mapping[str, str]] = {
        **{name: f"pspnet_r{name[7:]}_multigrid" for name in variants if "_psp" in name},
        "tiny": "pspnet_tiny",
    }
    official_names: ClassVar[tuple[str, ...]] = ("tdnet",)
    official_classes: ClassVar[Mapping[int, ClassSet]] = {19: CITYSCAPES}
    memory_type = TDNetMemory
    # Lists of modules, one for each path; an item of a ModuleList has no type of its own.
    backbone: Any
    neck: Any
    projection: Any
    attention: Any

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: str = "resnet18_multigrid",
        backbone_weights: str | Path | None = None,
        paths: int = 4,
        value_channels: int | None = None,
        key_channels: int = 64,
        kv_stride: int = 4,
        norm_size: Sequence[int] | None = (97, 193),
        auxiliary: bool = True,
        dropout: float = 0.1,
        **backbone_options: Any,
    ) -> None:
        super().__init__()
        if paths < 2 or kv_stride < 1:
            raise ValueError(
                f"paths must be at least 2 and kv_stride at least 1, got {paths} and {kv_stride}"
            )
        self.num_classes, self.align_corners, self.kv_stride = num_classes, True, kv_stride
        self.period, self.horizon = paths, paths - 1
        self.is_fanet = backbone.endswith("_fanet")
        self.card = Card(size_multiple=8, size_offset=0 if self.is_fanet else 1)
        self.backbone = nn.ModuleList(
            build_backbone(backbone, **backbone_options) for _ in range(paths)
        )
        if backbone_weights is not None:
            for network in self.backbone:
                load_imagenet(network, backbone, backbone_weights)
        *_, third, last = widths = self.backbone[0].channels
        self.neck = nn.ModuleList(
            FastAttentionNeck(widths) if self.is_fanet else PyramidPooling(last, part=(p % 2, 2))
            for p in range(paths)
        )
        pooled = self.neck[0].out_channels
        width = value_channels or max(pooled // 4, 1)
        self.projection = nn.ModuleList(
            QueryKeyValue(pooled, key_channels, width) for _ in range(paths)
        )
        # One for each frame before the present one, oldest first.
        self.attention = nn.ModuleList(
            nn.ModuleList(ChainedAttention(width, dropout) for _ in range(paths - 1))
            for _ in range(paths)
        )
        size = (1, 1) if norm_size is None else (norm_size[0], norm_size[1])
        self.norm = nn.ModuleList(MapNorm(size) for _ in range(paths))
        self.head = nn.ModuleList(
            _fast_head(width, num_classes)
            if self.is_fanet
            else pyramid_head(width, width // paths, num_classes, dropout)
            for _ in range(paths)
        )
        self.auxiliary_head = None
        if auxiliary and not self.is_fanet:
            self.auxiliary_head = nn.ModuleList(
                pyramid_head(third, third // 4, num_classes, dropout) for _ in range(paths)
            )

    @property
    def paths(self) -> int:
        """N."""
        return self.period

    def encode(self, frames: Tensor, phase: int = 0) -> Encoded:
        """(N, 3, H, W), all of one phase -> stage 3, and the pyramid's half of this path."""
        stages = self.backbone[phase](frames)
        pooled = self.neck[phase](stages if self.is_fanet else stages[-1])
        return Encoded(stages[-2], pooled)

    def initial_memory(self, feature: Encoded, context: Any) -> TDNetMemory:
        """N - 1 empty slots."""
        if context is not None:
            raise ValueError(f"{type(self).__name__} takes no context; CFFM++ does")
        key, value = self._slot_shapes(feature)
        slots = range(self.paths - 1)
        return TDNetMemory(
            tuple(feature.pooled.new_zeros(key) for _ in slots),
            tuple(feature.pooled.new_zeros(key) for _ in slots),
            tuple(feature.pooled.new_zeros(value) for _ in slots),
        )

    def fuse(self, feature: Encoded, memory: TDNetMemory) -> Fused:
        """Complete the frame through the chain, and classify it; without N - 1 frames alone."""
        path, pooled = memory.phase, feature.pooled
        value = self.projection[path].value(pooled)
        completed = value
        if memory.frames_seen == self.paths - 1:
            query = to_tokens(self.projection[path].query(pooled))
            read = self._chain(path, query, memory).mT.unflatten(2, value.shape[2:])
            completed = value + read
        logits = self.head[path](self.norm[path](completed))
        number = torch.full((len(value),), path, device=value.device)
        return Fused(logits, value, feature.third, number, completed)

    def decode(self, fused: Fused) -> Tensor:
        """-> (N, C, h, w) logits at stride 8; a frame's head is its path's, so `fuse` knows it."""
        return fused.logits

    def remember(self, memory: TDNetMemory, feature: Encoded, fused: Fused | None) -> TDNetMemory:
        """The frame becomes the newest, the oldest is forgotten."""
        project = self.projection[memory.phase]
        kept = subsampled(feature.pooled, self.kv_stride)
        query, key, value = (
            to_tokens(part(kept)) for part in (project.query, project.key, project.value)
        )
        return TDNetMemory(
            (*memory.queries[1:], query),
            (*memory.keys[1:], key),
            (*memory.values[1:], value),
            frames_seen=min(memory.frames_seen + 1, self.paths - 1),
        )

    def auxiliary(self, features: Encoded, fused: Fused) -> dict[str, Tensor]:
        """Logits of the frames alone, "alone", and of their third stages, "auxiliary"."""
        frames = list(enumerate(fused.path[0].tolist()))
        alone = [self.head[p](self.norm[p](fused.value[:, t])) for t, p in frames]
        outputs = {"alone": torch.stack(alone, 1)}
        if self.auxiliary_head is not None:
            third = [self.auxiliary_head[p](fused.third[:, t]) for t, p in frames]
            outputs["auxiliary"] = torch.stack(third, 1)
        return outputs

    def losses(
        self,
        segmentation: Segmentation,
        batch: Mapping[str, Tensor],
        criterion: Criterion = CROSS_ENTROPY,
    ) -> dict[str, tuple[Tensor, float]]:
        """The authors' loss: the frame with its memory, the frame alone, stage 3, the teacher.

        Args:
            segmentation: of the last frames.
            batch: "labels"; with a teacher also "teacher" and "teacher_group", logits (B, C, h, w)
                of all of its head and of the channels that this path sees.
            criterion: `frame_weight` is that of the frame alone, in the teacher's term, too.
        """
        align, labels = segmentation.align_corners, batch["labels"]
        logits, alone = segmentation.logits[:, -1], segmentation.aux["alone"][:, -1]
        terms = {
            "main": (criterion(logits, labels, align_corners=align), 1.0),
            "alone": (criterion(alone, labels, align_corners=align), criterion.frame_weight),
        }
        if "auxiliary" in segmentation.aux:
            third = segmentation.aux["auxiliary"][:, -1]
            term = criterion(third, labels, align_corners=align, is_main=False)
            terms["auxiliary"] = (term, criterion.auxiliary_weight)
        if "teacher" in batch:
            whole = class_divergence(logits, batch["teacher"])
            group = class_divergence(alone, batch["teacher_group"])
            terms["distillation"] = (
                whole + criterion.frame_weight * group,
                criterion.distillation_weight,
            )
        return terms

    def training_needs(self) -> TrainingNeeds:
        """The answers of a teacher, for all of its channels and for those of a path."""
        return TrainingNeeds(ask_teacher=partial(ask_teacher, paths=self.paths))

    def window_frames(self, t: int) -> tuple[int, ...]:
        """The N - 1 frames before t, as far as there are any, and t."""
        return tuple(range(max(t - self.paths + 1, 0), t + 1))

    def check_memory(self, memory: Any, feature: Encoded) -> None:
        """Raise ValueError for a memory of another model, batch, length or size."""
        super().check_memory(memory, feature)
        if len(memory.keys) != self.paths - 1:
            raise ValueError(
                f"the memory is of {len(memory.keys) + 1} paths, this model has {self.paths}; "
                "start the stream anew with memory=None"
            )
        held = tuple(memory.keys[-1].shape), tuple(memory.values[-1].shape)
        wanted = self._slot_shapes(feature)
        if held != wanted:
            raise ValueError(
                f"the memory's keys and values are {held[0]} and {held[1]}, this frame's "
                f"{wanted[0]} and {wanted[1]}; frames of one stream have one size"
            )

    def _chain(self, path: int, query: Tensor, memory: TDNetMemory) -> Tensor:
        """Run the chain of attentions up to the present frame; -> (B, h w, D)."""
        attentions = self.attention[path]
        keys, values = ([x.flatten(1, 2) for x in kept] for kept in (memory.keys, memory.values))
        asking = [*(x.flatten(1, 2) for x in memory.queries[1:]), query.flatten(1, 2)]
        carried = values[0]
        for attend, asks, key, value in zip(
            attentions[:-1], asking[:-1], keys[:-1], values[1:], strict=True
        ):
            carried = attend(asks, key, carried) + value
        return attentions[-1](asking[-1], keys[-1], carried)

    def _slot_shapes(self, feature: Encoded) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of a key and a value in the memory."""
        batch, _, height, width = feature.pooled.shape
        places = (batch, -(-height // self.kv_stride), -(-width // self.kv_stride))
        project = self.projection[0]
        return (*places, project.query[-1].out_channels), (*places, project.value.out_channels)

    def adopt(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """A per-frame PSPNet's weights go to every path; see `split_among_paths`."""
        is_own = any(name.startswith("backbone.0.") for name in tensors)
        return tensors if is_own else split_among_paths(tensors, self.paths)

    @classmethod
    def from_official(
        cls,
        tensors: dict[str, Tensor],
        *,
        paths: int | None = None,
        kv_stride: int | None = None,
    ) -> tuple[Self, Options]:
        """Build the model that the authors' state dict belongs to.

        Paths, backbone, widths, classes and the size of the layer norms are read from the tensors.

        Args:
            tensors: the authors' state dict, of testing or of training: `pretrained1.`, `psp1.` or
                `ffm_32_1.`, `enc1.`, `atn1_2.`, `layer_norm1.`, `head1.`; also `auxlayer1.`.
            paths: N, if you want to be sure; the tensors tell it.
            kv_stride: 4, as in the authors' testing code, by default; 3 for a FANet, of which there
                is their training code alone.

        Returns:
            The model, and the arguments that it was made with.

        Raises:
            ValueError: keys are missing, unexpected or mis-shaped; the checkpoint has another
                number of paths.
        """
        options = infer_options(tensors)
        if kv_stride is not None:
            options["kv_stride"] = kv_stride
        if paths not in (None, options["paths"]):
            raise ValueError(
                f"the checkpoint has {options['paths']} paths, each with weights of its own, so it "
                f"cannot be used with paths={paths}"
            )
        dead = cls.dead_keys(tensors)
        alive = {name: value for name, value in tensors.items() if name not in dead}
        model = cls(**options)
        load_strictly(model, from_official_keys(alive, options["paths"]))
        return model, options

    @classmethod
    def dead_keys(cls, tensors: dict[str, Tensor]) -> dict[str, str]:
        """The keys of an authors' checkpoint that play no part: key -> reason."""
        return {
            name: reason for name in tensors for pattern, reason in DEAD if re.match(pattern, name)
        }


def ask_teacher(
    teacher: VideoSegmenter, frames: Tensor, *, phase: int, paths: int
) -> dict[str, Tensor]:
    """Ask a PSPNet for its logits, and for those of the group of channels that a path stands for.

    The 3x3 convolution of its head is split by groups of input channels: their sum is the whole.
    The authors scale a group by 4 where there are 4, and do not by 2 where there are 2.

    Args:
        teacher: a `PSPNet`.
        frames: (B, 3, H, W), normalised.
        phase: the path. Paths 0 and 2 see the first half of a pyramid, so of four groups the second
            belongs to path 2.
        paths: N, the number of groups.

    Returns:
        "teacher" and "teacher_group", logits (B, C, h, w).

    Raises:
        ValueError: the teacher is no PSPNet.
    """
    if not isinstance(teacher, PSPNet):
        raise ValueError(
            f"TDNet's paths copy groups of a PSPNet's channels, so the teacher must be one; got "
            f"{type(teacher).__name__}"
        )
    pooled = teacher.encode(frames).last
    convolution, *tail = teacher.cls
    assert isinstance(convolution, nn.Conv2d)
    group = phase % 2 * (paths // 2) + phase // 2
    kept = pyramid_channels(pooled.shape[1], group, paths)
    part = F.conv2d(pooled[:, kept], convolution.weight[:, kept], padding=convolution.padding)
    scale = paths if paths == 4 else 1
    classify = nn.Sequential(*tail)
    return {
        "teacher": classify(convolution(pooled)),
        "teacher_group": classify(scale * part),
    }


def _fast_head(channels: int, num_classes: int) -> nn.Sequential:
    """FANet's head: a 3x3 block and a classifier without bias."""
    classifier = nn.Conv2d(channels, num_classes, 1, bias=False)
    return nn.Sequential(LeakyBlock(channels, channels, 3), classifier)

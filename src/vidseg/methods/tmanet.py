"""TMANet: temporal memory attention.

Wang, Wang and Liu, "Temporal Memory Attention for Video Semantic Segmentation", ICIP 2021.
Matches wanghao9610/TMANet (Apache-2.0) at 1fc4784a.

Each frame attends to every pixel of the T frames before it. What the paper does not say and the
published weights need:

1. Encoders are not shared over time: memory position 0 (the oldest frame) .. T - 1 each has its
   own key and value encoder, the query has a further pair. A checkpoint fits one T.
2. Attention is the softmax of unscaled dot products of keys that went through a ReLU.
3. The fusion reads the query's value first, then what the memory gave.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from vidseg.classes import CAMVID, CAMVID_WITH_VOID, CITYSCAPES, ClassSet
from vidseg.layers.heads import Classifier, ConvBlock, FCNHead
from vidseg.layers.memory_read import read_memory
from vidseg.methods.method import Options
from vidseg.methods.staged import StagedSegmenter, Stages
from vidseg.segmenter import Memory
from vidseg.training_needs import TrainingNeeds
from vidseg.weights import load_strictly


@dataclass(frozen=True)
class TMANetMemory(Memory):
    """The backbone's last map of the T frames before this one.

    Attributes:
        frames: T tensors (B, D, h, w), oldest first.
    """

    frames: tuple[Tensor, ...]


class TMAHead(nn.Module):
    """Temporal memory attention, fusion and classifier (paper, section 2; `tma_head.py`).

    Args:
        in_channels: D of the backbone's last map.
        num_classes: C.
        memory_frames: T.
        key_channels: width of keys.
        value_channels: width of values.
        channels: width of the fusion.
        dropout: of whole channels before the classifier.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        memory_frames: int,
        key_channels: int,
        value_channels: int,
        channels: int,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        positions = range(memory_frames)
        self.memory_key = nn.ModuleList(_encoder(in_channels, key_channels) for _ in positions)
        self.memory_value = nn.ModuleList(_encoder(in_channels, value_channels) for _ in positions)
        self.query_key = _encoder(in_channels, key_channels)
        self.query_value = _encoder(in_channels, value_channels)
        self.fusion = ConvBlock(2 * value_channels, channels, 3)
        self.classifier = Classifier(channels, num_classes, dropout=dropout)

    def read(self, query: Tensor, memory: tuple[Tensor, ...]) -> Tensor:
        """Read the memory, and join the result with the frame's own value.

        Args:
            query: (B, D, h, w), the frame's map.
            memory: T maps (B, D, h, w), oldest first.

        Returns:
            (B, 2 * value_channels, h, w): the query's value, then the context.
        """
        keys = [encode(frame) for encode, frame in zip(self.memory_key, memory, strict=True)]
        values = [encode(frame) for encode, frame in zip(self.memory_value, memory, strict=True)]
        context = read_memory(self.query_key(query), torch.stack(keys, 1), torch.stack(values, 1))
        return torch.cat([self.query_value(query), context], 1)

    def classify(self, fused: Tensor) -> Tensor:
        """(N, 2 * value_channels, h, w) -> (N, C, h, w) logits."""
        return self.classifier(self.fusion(fused))


class TMANet(StagedSegmenter):
    """A backbone, temporal memory attention over the last T frames, and an auxiliary head.

    At the start of a video the first frame fills the memory, as the authors advise (their issue
    23). The memory holds backbone maps and not keys, since a frame's key changes with its position.

    Args:
        num_classes: C.
        backbone: a name of `vidseg.backbones.BACKBONES`.
        backbone_weights: None, "imagenet" (from the hub) or a local file.
        memory_frames: T; the authors use 2 on Cityscapes and 4 on CamVid.
        key_channels: width of keys.
        value_channels: width of values.
        channels: width of the fusion.
        auxiliary_channels: width of the auxiliary head, used in training only.
        align_corners: how logits are resized: true on Cityscapes, false on CamVid.
        dropout: of whole channels before both classifiers.
        frame_statistics: in training, batch norms see one time index at a time (as the authors).
        backbone_options: further arguments of the backbone, such as output_stride.

    Raises:
        ValueError: `memory_frames` is less than 1.
    """

    variants: ClassVar[Mapping[str, Options]] = {
        "r18": {"backbone": "resnet18_v1c", "auxiliary_channels": 64},
        "r50": {"backbone": "resnet50_v1c"},
        "r101": {"backbone": "resnet101_v1c"},
        "r152": {"backbone": "resnet152_v1c"},
        "mobilenetv2": {
            "backbone": "mobilenetv2",
            "key_channels": 32,
            "value_channels": 128,
            "channels": 256,
        },
        "tiny": {
            "backbone": "resnet_tiny",
            "memory_frames": 2,
            "key_channels": 8,
            "value_channels": 16,
            "channels": 32,
            "auxiliary_channels": 16,
        },
    }
    # The authors' data sets, by number of classes.
    official_classes: ClassVar[Mapping[int, ClassSet]] = {
        19: CITYSCAPES,
        12: CAMVID_WITH_VOID,
        11: CAMVID,
    }
    official_names: ClassVar[tuple[str, ...]] = ("tmanet",)
    memory_type = TMANetMemory

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: str = "resnet50_v1c",
        backbone_weights: str | Path | None = None,
        memory_frames: int = 4,
        key_channels: int = 64,
        value_channels: int = 256,
        channels: int = 512,
        auxiliary_channels: int = 256,
        align_corners: bool = False,
        dropout: float = 0.1,
        frame_statistics: bool = False,
        **backbone_options: Any,
    ) -> None:
        super().__init__()
        if memory_frames < 1:
            raise ValueError(f"memory_frames must be at least 1, got {memory_frames}")
        self.num_classes = num_classes
        self.align_corners = align_corners
        self.frame_statistics = frame_statistics
        self.memory_frames = self.horizon = memory_frames
        third, last = self.build_encoder(backbone, backbone_weights, backbone_options)
        self.head = TMAHead(
            last,
            num_classes,
            memory_frames=memory_frames,
            key_channels=key_channels,
            value_channels=value_channels,
            channels=channels,
            dropout=dropout,
        )
        self.auxiliary_head = FCNHead(
            third, auxiliary_channels, num_classes, num_blocks=1, join=False, dropout=dropout
        )

    def training_needs(self) -> TrainingNeeds:
        """Statistics of one time index at a time, where the option asks for them."""
        return TrainingNeeds(frame_statistics=self.frame_statistics)

    def initial_memory(self, feature: Stages, context: Any) -> TMANetMemory:
        """The first frame, T times; clones, since aliased slots make a compiler start again."""
        return TMANetMemory(tuple(feature.last.clone() for _ in range(self.memory_frames)))

    def fuse(self, feature: Stages, memory: TMANetMemory) -> Tensor:
        """Attend to the memory; -> (N, 2 * value_channels, h, w)."""
        return self.head.read(feature.last, memory.frames)

    def decode(self, fused: Tensor) -> Tensor:
        """-> (N, C, h, w) logits."""
        return self.head.classify(fused)

    def remember(self, memory: TMANetMemory, feature: Stages, fused: Tensor | None) -> TMANetMemory:
        """The frame becomes the newest position, the oldest is forgotten."""
        seen = min(memory.frames_seen + 1, self.memory_frames)
        return TMANetMemory((*memory.frames[1:], feature.last), frames_seen=seen)

    def window_frames(self, t: int) -> tuple[int, ...]:
        """The T frames before t, the first one repeated where the video starts, and t."""
        return tuple(max(i, 0) for i in range(t - self.memory_frames, t + 1))

    def check_memory(self, memory: Any, feature: Stages) -> None:
        """Raise ValueError for a memory of another model, batch, length or size."""
        super().check_memory(memory, feature)
        if len(memory.frames) != self.memory_frames:
            raise ValueError(
                f"the memory holds {len(memory.frames)} frames, this model reads "
                f"{self.memory_frames}; start the stream anew with memory=None"
            )
        if memory.frames[0].shape != feature.last.shape:
            raise ValueError(
                f"the memory's maps are {tuple(memory.frames[0].shape)}, this frame's "
                f"{tuple(feature.last.shape)}; frames of one stream have one size"
            )

    @classmethod
    def from_official(
        cls,
        tensors: dict[str, Tensor],
        *,
        align_corners: bool | None = None,
        memory_frames: int | None = None,
    ) -> tuple[Self, Options]:
        """Build the model that the authors' state dict belongs to.

        Args:
            tensors: the authors' state dict, under their names (`backbone.`, `decode_head.`, ...).
            align_corners: what the tensors cannot tell; known for 19 classes (Cityscapes: true)
                and for 11 or 12 (CamVid: false), else required.
            memory_frames: T, if you want to be sure; the tensors tell it.

        Returns:
            The model, and the arguments that it was made with.

        Raises:
            ValueError: keys are missing, unexpected or mis-shaped; `align_corners` is required;
                the checkpoint was trained with another T.
        """
        renamed = {_from_official_key(name): value for name, value in tensors.items()}
        options = _infer_options(tensors)
        if memory_frames not in (None, options["memory_frames"]):
            raise ValueError(
                f"the checkpoint was trained with memory_frames={options['memory_frames']} and has "
                f"encoders for that many positions, so it cannot be used with {memory_frames}"
            )
        is_known = options["num_classes"] in cls.official_classes
        if align_corners is None and not is_known:
            raise ValueError(
                f"pass align_corners=True or False: the tensors cannot tell it for "
                f"{options['num_classes']} classes (true on Cityscapes, false on CamVid)"
            )
        if align_corners is None:
            align_corners = cls.official_classes[options["num_classes"]] is CITYSCAPES
        options["align_corners"] = align_corners
        model = cls(**options)
        load_strictly(model, renamed)
        return model, options


def _encoder(in_channels: int, channels: int) -> nn.Sequential:
    return nn.Sequential(ConvBlock(in_channels, channels, 1), ConvBlock(channels, channels, 3))


# official prefix -> ours; in memory branches the official order is (layer, position)
_RENAMES = (
    (r"^decode_head\.memory_(key|value)_conv\.(\d+)\.(\d+)\.", r"head.memory_\1.\3.\2."),
    (r"^decode_head\.query_(key|value)_conv\.(\d+)\.", r"head.query_\1.\2."),
    (r"^decode_head\.bottleneck\.", "head.fusion."),
    (r"^decode_head\.conv_seg\.", "head.classifier.conv_seg."),
    (r"^auxiliary_head\.conv_seg\.", "auxiliary_head.classifier.conv_seg."),
)


def _from_official_key(name: str) -> str:
    for pattern, ours in _RENAMES:
        name, changed = re.subn(pattern, ours, name)
        if changed:
            return name
    return name


def _infer_options(tensors: dict[str, Tensor]) -> dict[str, Any]:
    """The arguments of the model that these tensors, under the authors' names, belong to."""
    needed = (
        "backbone.stem.6.weight",
        "decode_head.conv_seg.weight",
        "decode_head.memory_key_conv.0.0.conv.weight",
        "decode_head.memory_value_conv.0.0.conv.weight",
        "auxiliary_head.convs.0.conv.weight",
    )
    missing = [name for name in needed if name not in tensors]
    if missing:
        raise ValueError(
            f"not a whole TMANet checkpoint: there is no {', '.join(missing)}; its first keys are "
            f"{', '.join(list(tensors)[:3])}"
        )
    classifier, key, value, auxiliary = (tensors[name].shape for name in needed[1:])
    blocks = {name.split(".")[2] for name in tensors if name.startswith("backbone.layer3.")}
    has_bottlenecks = "backbone.layer1.0.conv3.weight" in tensors
    depths = {6: 50, 23: 101, 36: 152} if has_bottlenecks else {2: 18}
    if len(blocks) not in depths:
        raise ValueError(f"no ResNet-V1c has {len(blocks)} blocks in its third stage")
    first = "decode_head.memory_key_conv.0."  # the first layer of every memory position
    return {
        "num_classes": classifier[0],
        "backbone": f"resnet{depths[len(blocks)]}_v1c",
        "memory_frames": len({name.split(".")[3] for name in tensors if name.startswith(first)}),
        "key_channels": key[0],
        "value_channels": value[0],
        "channels": classifier[1],
        "auxiliary_channels": auxiliary[0],
    }

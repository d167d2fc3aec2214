"""FCN: the per-frame baseline that TMANet's paper starts from.

Shelhamer et al., "Fully Convolutional Networks for Semantic Segmentation", TPAMI 2017, with the
backbone and the head of mmsegmentation's baseline (23.6 M parameters in the head of R50).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from vidseg.layers.heads import FCNHead
from vidseg.methods.method import Options
from vidseg.methods.staged import StagedSegmenter, Stages


class FCN(StagedSegmenter):
    """A backbone and a fully convolutional head; no memory.

    Args:
        num_classes: C.
        backbone: a name of `vidseg.backbones.BACKBONES`.
        backbone_weights: None, "imagenet" (from the hub) or a local file.
        channels: D inside the head.
        auxiliary_channels: D inside the auxiliary head.
        align_corners: how logits are resized.
        dropout: of whole channels before both classifiers.
        backbone_options: further arguments of the backbone, such as output_stride.
    """

    variants: ClassVar[Mapping[str, Options]] = {
        "r18": {"backbone": "resnet18_v1c", "auxiliary_channels": 64},
        "r50": {"backbone": "resnet50_v1c"},
        "r101": {"backbone": "resnet101_v1c"},
        "mobilenetv2": {"backbone": "mobilenetv2", "channels": 256},
        "tiny": {"backbone": "resnet_tiny", "channels": 32, "auxiliary_channels": 16},
    }

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: str = "resnet50_v1c",
        backbone_weights: str | Path | None = None,
        channels: int = 512,
        auxiliary_channels: int = 256,
        align_corners: bool = False,
        dropout: float = 0.1,
        **backbone_options: Any,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.align_corners = align_corners
        third, last = self.build_encoder(backbone, backbone_weights, backbone_options)
        self.head = FCNHead(last, channels, num_classes, dropout=dropout)
        self.auxiliary_head = FCNHead(
            third, auxiliary_channels, num_classes, num_blocks=1, join=False, dropout=dropout
        )

    def decode(self, fused: Stages) -> Tensor:
        """-> (N, C, h, w) logits."""
        return self.head(fused.last)

"""PSPNet, per frame: the host of LMANet and the student and teacher of ETC.

Zhao et al., "Pyramid Scene Parsing Network", CVPR 2017, in semseg's layout (r50, r101) and with
ETC's ResNet-18, whose dilation sits on the second convolution of each block.
"""

from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

from torch import Tensor, nn

from vidseg.backbones import build_backbone
from vidseg.backbones.imagenet import load_imagenet
from vidseg.layers.pyramid import PyramidPooling
from vidseg.segmenter import VideoSegmenter


class Feature(NamedTuple):
    """Maps of N frames: `third` for the auxiliary head, `last` for the pyramid."""

    third: Tensor
    last: Tensor


class PSPNet(VideoSegmenter):
    """A backbone, pyramid pooling and a 3x3 head; no memory.

    Args:
        num_classes: C.
        backbone: a name of `vidseg.backbones.BACKBONES`.
        backbone_weights: None, "imagenet" (from the hub) or a local file.
        channels: D inside the head.
        auxiliary_channels: D inside the auxiliary head.
        align_corners: how logits are resized; the published weights want true.
        dropout: of whole channels before both classifiers.
        backbone_options: further arguments of the backbone, such as output_stride.
    """

    variants: ClassVar[dict[str, dict[str, Any]]] = {
        "r18": {"backbone": "resnet18_etc", "channels": 256},
        "r50": {"backbone": "resnet50_semseg"},
        "r101": {"backbone": "resnet101_semseg"},
        "mobilenetv2": {"backbone": "mobilenetv2", "channels": 256},
        "tiny": {"backbone": "resnet_tiny", "channels": 32, "auxiliary_channels": 16},
    }

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: str = "resnet50_semseg",
        backbone_weights: str | Path | None = None,
        channels: int = 512,
        auxiliary_channels: int = 256,
        align_corners: bool = True,
        dropout: float = 0.1,
        **backbone_options: Any,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.align_corners = align_corners
        self.backbone = build_backbone(backbone, **backbone_options)
        if backbone_weights is not None:
            load_imagenet(self.backbone, backbone, backbone_weights)
        *_, third, last = self.backbone.channels
        self.ppm = PyramidPooling(last)
        self.cls = _make_head(self.ppm.out_channels, channels, num_classes, dropout)
        self.aux = _make_head(third, auxiliary_channels, num_classes, dropout)

    @classmethod
    def tiny(cls, num_classes: int = 5, **options: Any) -> Self:
        """A network small enough for tests."""
        return cls(num_classes, **{**cls.variants["tiny"], **options})

    def encode(self, frames: Tensor) -> Feature:
        """(N, 3, H, W) -> stage 3 and stage 4 of the backbone."""
        *_, third, last = self.backbone(frames)
        return Feature(third, last)

    def decode(self, fused: Feature) -> Tensor:
        """-> (N, C, h, w) logits."""
        return self.cls(self.ppm(fused.last))

    def auxiliary(self, features: Feature, fused: Feature) -> dict[str, Tensor]:
        """The auxiliary head on stage 3 of the frames that are read out."""
        third = fused.third
        return {"auxiliary": self.aux(third.flatten(0, 1)).unflatten(0, third.shape[:2])}


def _make_head(in_channels: int, channels: int, num_classes: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
        nn.Dropout2d(dropout),
        nn.Conv2d(channels, num_classes, 1),
    )

"""PSPNet, per frame: the host of LMANet and the student and teacher of ETC.

Zhao et al., "Pyramid Scene Parsing Network", CVPR 2017, in semseg's layout (r50, r101) and with
ETC's ResNet-18, whose dilation sits on the second convolution of each block.
"""

from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from vidseg.backbones.staged import StagedSegmenter, Stages
from vidseg.layers.pyramid import PyramidPooling


class PSPNet(StagedSegmenter):
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
        third, last = self.build_encoder(backbone, backbone_weights, backbone_options)
        self.ppm = PyramidPooling(last)
        self.cls = _make_head(self.ppm.out_channels, channels, num_classes, dropout)
        self.auxiliary_head = _make_head(third, auxiliary_channels, num_classes, dropout)

    def decode(self, fused: Stages) -> Tensor:
        """-> (N, C, h, w) logits."""
        return self.cls(self.ppm(fused.last))


def _make_head(in_channels: int, channels: int, num_classes: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
        nn.Dropout2d(dropout),
        nn.Conv2d(channels, num_classes, 1),
    )

"""Image networks with the papers' dilation and stem variants; nothing here knows about time."""

from typing import Any

from vidseg.backbones.erfnet import ERFNetEncoder
from vidseg.backbones.mit import MiT
from vidseg.backbones.mobilenet import MobileNetV2
from vidseg.backbones.resnet import ResNet

# name -> how it is built. v1c: mmsegmentation's deep stem, contracted dilation. etc: dilation on
# second convolutions alone. semseg: deep stem of width 64, constant dilation. multigrid and fanet:
# TDNet's sub-networks, whose stages have stride 8 and 64 at the end.
BACKBONES: dict[str, dict[str, Any]] = {
    "resnet18_v1c": {"depth": 18, "stem": "deep"},
    "resnet50_v1c": {"depth": 50, "stem": "deep"},
    "resnet101_v1c": {"depth": 101, "stem": "deep"},
    "resnet152_v1c": {"depth": 152, "stem": "deep"},
    "resnet18_etc": {"depth": 18, "rule": "second_conv"},
    "resnet50_semseg": {"depth": 50, "stem": "deep", "stem_width": 64, "rule": "constant"},
    "resnet101_semseg": {"depth": 101, "stem": "deep", "stem_width": 64, "rule": "constant"},
    **{
        f"resnet{depth}_multigrid": {
            "depth": depth,
            "rule": "multi_grid",
            **({"stem": "deep", "stem_width": 64} if depth >= 50 else {}),
        }
        for depth in (18, 34, 50, 101)
    },
    "resnet18_fanet": {
        "depth": 18,
        "strides": (2, 2, 2, 2),
        "dilations": (1, 1, 1, 1),
        "slope": 0.01,
    },
    "resnet_tiny": {"depth": 18, "widths": (16, 32, 48, 64), "blocks": (1, 1, 1, 1)},
    "mobilenetv2": {},
    "erfnet": {},
    "erfnet_tiny": {"widths": (8, 16, 24), "num_plain": 1, "dilations": (2, 4)},
    "mit_b0": {"widths": (32, 64, 160, 256), "blocks": (2, 2, 2, 2)},
    "mit_b1": {"widths": (64, 128, 320, 512), "blocks": (2, 2, 2, 2)},
    "mit_b2": {"widths": (64, 128, 320, 512), "blocks": (3, 4, 6, 3)},
    "mit_b3": {"widths": (64, 128, 320, 512), "blocks": (3, 4, 18, 3)},
    "mit_b4": {"widths": (64, 128, 320, 512), "blocks": (3, 8, 27, 3)},
    "mit_b5": {"widths": (64, 128, 320, 512), "blocks": (3, 6, 40, 3)},
    "mit_tiny": {"widths": (8, 16, 24, 32), "blocks": (1, 1, 1, 1), "heads": (1, 2, 3, 4)},
}

Backbone = ResNet | MobileNetV2 | ERFNetEncoder | MiT


def build_backbone(name: str, **options: Any) -> Backbone:
    """Build a backbone by name.

    Args:
        name: one of BACKBONES.
        options: further arguments of the network's class, such as output_stride.

    Returns:
        A module from (N, 3, H, W) to its stages' maps (four; three of ERFNet), with their widths
        as `.channels`.

    Raises:
        ValueError: the name is unknown.
        TypeError: an option does not belong to this network.
    """
    if name not in BACKBONES:
        raise ValueError(f"unknown backbone {name!r}; there are {', '.join(BACKBONES)}")
    return network_of(name)(**{**BACKBONES[name], **options})


def network_of(name: str) -> type[Backbone]:
    """The class of a backbone of this name."""
    if name.startswith("erfnet"):
        return ERFNetEncoder
    if name.startswith("mit_"):
        return MiT
    return MobileNetV2 if name == "mobilenetv2" else ResNet


__all__ = [
    "BACKBONES",
    "Backbone",
    "ERFNetEncoder",
    "MiT",
    "MobileNetV2",
    "ResNet",
    "build_backbone",
    "network_of",
]

"""PSPNet, per frame: the host of LMANet, the student and teacher of ETC, the teacher of TDNet.

Zhao et al., "Pyramid Scene Parsing Network", CVPR 2017, in semseg's layout (r50, r101), with ETC's
ResNet-18, whose dilation sits on the second convolution of each block, and with TDNet's ResNets,
whose last stage has several dilations (multigrid).
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from torch import Tensor

from vidseg.backbones.imagenet import to_backbone_keys
from vidseg.classes import CAMVID, CITYSCAPES, ClassSet
from vidseg.layers.pyramid import PyramidPooling, pyramid_head
from vidseg.methods.method import Options
from vidseg.methods.staged import StagedSegmenter, Stages
from vidseg.weights import load_strictly


class PSPNet(StagedSegmenter):
    """A backbone, pyramid pooling and a 3x3 head; no memory.

    The pyramid is a part of the encoder: what a student copies from its teacher (`distillable`) is
    the pooled map, 1024 channels for R18.

    Args:
        num_classes: C.
        backbone: a name of `vidseg.backbones.BACKBONES`.
        backbone_weights: None, "imagenet" (from the hub) or a local file.
        channels: D inside the head.
        auxiliary_channels: D inside the auxiliary head; None for no such head.
        align_corners: how logits are resized; the published weights want true.
        dropout: of whole channels before both classifiers.
        backbone_options: further arguments of the backbone, such as output_stride.
    """

    variants: ClassVar[Mapping[str, Options]] = {
        "r18": {"backbone": "resnet18_etc", "channels": 256},
        "r50": {"backbone": "resnet50_semseg"},
        "r101": {"backbone": "resnet101_semseg"},
        "mobilenetv2": {"backbone": "mobilenetv2", "channels": 256},
        "r18_multigrid": {
            "backbone": "resnet18_multigrid",
            "channels": 128,
            "auxiliary_channels": 64,
        },
        "r34_multigrid": {
            "backbone": "resnet34_multigrid",
            "channels": 128,
            "auxiliary_channels": 64,
        },
        "r50_multigrid": {"backbone": "resnet50_multigrid"},
        "r101_multigrid": {"backbone": "resnet101_multigrid"},
        "tiny": {"backbone": "resnet_tiny", "channels": 32, "auxiliary_channels": 16},
    }

    # The authors' data sets, by number of classes.
    official_names: ClassVar[tuple[str, ...]] = ("etc", "pspnet")
    official_classes: ClassVar[Mapping[int, ClassSet]] = {19: CITYSCAPES, 11: CAMVID}

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: str = "resnet50_semseg",
        backbone_weights: str | Path | None = None,
        channels: int = 512,
        auxiliary_channels: int | None = 256,
        align_corners: bool = True,
        dropout: float = 0.1,
        **backbone_options: Any,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.align_corners = align_corners
        third, last = self.build_encoder(backbone, backbone_weights, backbone_options)
        self.ppm = PyramidPooling(last)
        self.cls = pyramid_head(self.ppm.out_channels, channels, num_classes, dropout)
        self.auxiliary_head = None
        if auxiliary_channels is not None:
            self.auxiliary_head = pyramid_head(third, auxiliary_channels, num_classes, dropout)

    def encode(self, frames: Tensor) -> Stages:
        """(N, 3, H, W) -> stage 3 of the backbone and the pooled last stage."""
        third, last = super().encode(frames)
        return Stages(third, self.ppm(last))

    def decode(self, fused: Stages) -> Tensor:
        """-> (N, C, h, w) logits."""
        return self.cls(fused.last)

    @classmethod
    def from_official(cls, tensors: dict[str, Tensor]) -> tuple[Self, Options]:
        """Build the model that a checkpoint of ETC's or TDNet's authors holds.

        Depth, classes and widths are read from the tensors: ETC is a way to train, and its student
        is a PSPNet-18; a PSPNet-50 or -101 in semseg's layout loads as well. TDNet's baseline and
        teacher is a PSPNet-101.

        Args:
            tensors: the authors' state dict. ETC's: `layer0` to `layer4`, `ppm`, `cls`, `aux`, with
                any of the prefixes `module.` and `student.`. TDNet's: `pretrained`, `head.conv5`
                and, where there is one, `auxlayer.conv5`. What `dead_keys` lists is left out.

        Returns:
            The model, and the arguments that it was made with.

        Raises:
            ValueError: keys are missing, unexpected or mis-shaped (all are listed).
        """
        dead = cls.dead_keys(tensors)
        student = {_without_wrappers(k): value for k, value in tensors.items() if k not in dead}
        is_tdnet = any(name.startswith("pretrained.") for name in student)
        student = _from_tdnet(student) if is_tdnet else student
        options = _infer_options(student, len(dead), is_tdnet=is_tdnet)
        model = cls(**options)
        load_strictly(model, {_from_official_key(k): value for k, value in student.items()})
        return model, options

    @classmethod
    def dead_keys(cls, tensors: dict[str, Tensor]) -> dict[str, str]:
        """The keys of a training checkpoint that are no part of the student.

        Args:
            tensors: the authors' state dict.

        Returns:
            key -> reason.
        """
        return {
            name: reason for word, reason in _DEAD_WORDS.items() for name in tensors if word in name
        }


# What ETC's training saves beside the student, by a word in the key, as its own loader drops it.
_DEAD_WORDS = {
    "flow": "the optical flow network, used in training only",
    "teacher": "the teacher, used in training only",
    "criterion": "a loss, used in training only",
    "pretrained.fc.": "ImageNet's classifier, never used",
}

# TDNet's names of the head -> semseg's
_TDNET_HEAD = {"head.conv5.1.": "cls.0.", "head.conv5.2.": "cls.1.", "head.conv5.5.": "cls.4."}


def _from_tdnet(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names of ETC's authors for those of TDNet's."""
    prefix = "pretrained."
    network = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    renamed = {
        name.replace("stem.", "layer0.", 1): value
        for name, value in to_backbone_keys(network).items()
    }
    for name, value in tensors.items():
        if match := re.match(r"head\.conv5\.0\.conv(\d)\.(\d)\.(.*)", name):
            branch, layer = int(match[1]) - 1, int(match[2]) + 1
            renamed[f"ppm.features.{branch}.{layer}.{match[3]}"] = value
        elif not name.startswith(prefix):
            ours = name.replace("auxlayer.conv5.", "aux.", 1)
            for theirs, place in _TDNET_HEAD.items():
                ours = ours.replace(theirs, place, 1)
            renamed[ours] = value
    return renamed


def _without_wrappers(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in ("module", "student"))


def _from_official_key(name: str) -> str:
    part, _, rest = name.partition(".")
    if part == "aux":
        return f"auxiliary_head.{rest}"
    if part == "layer0":
        return f"backbone.stem.{rest}"
    return f"backbone.{name}" if part.startswith("layer") else name


# Dilations are the authors', no tensor tells them: (TDNet's?, bottlenecks?) -> blocks -> backbone
_BACKBONES = {
    (False, False): {2: "resnet18_etc"},
    (False, True): {6: "resnet50_semseg", 23: "resnet101_semseg"},
    (True, False): {2: "resnet18_multigrid", 6: "resnet34_multigrid"},
    (True, True): {6: "resnet50_multigrid", 23: "resnet101_multigrid"},
}


def _infer_options(tensors: dict[str, Tensor], num_dead: int, *, is_tdnet: bool) -> Options:
    """The arguments of the model that these tensors, under ETC's names, belong to."""
    needed = ["layer0.0.weight", "cls.0.weight", "cls.4.weight"]
    if not is_tdnet:
        needed.append("aux.0.weight")
    missing = [name for name in needed if name not in tensors]
    if missing:
        found = (
            f"its first keys are {', '.join(list(tensors)[:3])}" if tensors else "nothing is left"
        )
        raise ValueError(
            f"not a whole PSPNet of {'TDNet' if is_tdnet else 'ETC'}'s authors: there is no "
            f"{', '.join(missing)}; {found}, {num_dead} keys of flow, teacher or criterion left out"
        )
    blocks = {name.split(".")[1] for name in tensors if name.startswith("layer3.")}
    backbones = _BACKBONES[is_tdnet, "layer1.0.conv3.weight" in tensors]
    if len(blocks) not in backbones:
        raise ValueError(
            f"the checkpoint has {len(blocks)} blocks in its third stage, wanted 2 (R18), 6 (R50) "
            "or 23 (R101)"
        )
    has_auxiliary = "aux.0.weight" in tensors
    return {
        "num_classes": tensors["cls.4.weight"].shape[0],
        "backbone": backbones[len(blocks)],
        "channels": tensors["cls.0.weight"].shape[0],
        "auxiliary_channels": tensors["aux.0.weight"].shape[0] if has_auxiliary else None,
    }

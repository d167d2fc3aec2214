"""SegFormer, per frame: the host of CFFM.

Xie et al., "SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers",
NeurIPS 2021; written from a description of it.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

from torch import Tensor

from vidseg.backbones import build_backbone
from vidseg.backbones.imagenet import load_imagenet
from vidseg.backbones.mit import MIT_CARD
from vidseg.backbones.mit_layouts import (
    NORM_EPS,
    OFFICIAL_LICENCE,
    backbone_of,
    decoder_of,
    encoder_of,
    layout_of,
)
from vidseg.classes import VSPW, ClassSet
from vidseg.layers.mlp_decoder import Lateral, MLPDecoder, PixelClassifier
from vidseg.methods.method import Method, Options
from vidseg.weights import load_strictly


class SegFormer(Method):
    """A Mix Transformer and the all-MLP decoder, at stride 4; no memory.

    Args:
        num_classes: C.
        backbone: "mit_b0" to "mit_b5", or "mit_tiny".
        backbone_weights: None, "imagenet" (from the hub; non-commercial) or a local file.
        channels: D of the decoder: 256 for B0 and B1, 768 for larger ones (CFFM: 256 for all).
        lateral: see `MLPDecoder`; "normed" is mmsegmentation's.
        dropout: of whole channels before the classifier.
        backbone_options: further arguments of the backbone, such as drop_path or norm_eps.

    Raises:
        ValueError: the backbone is no MiT.
    """

    variants: ClassVar[Mapping[str, Options]] = {
        "b0": {"backbone": "mit_b0"},
        "b1": {"backbone": "mit_b1"},
        "b2": {"backbone": "mit_b2", "channels": 768},
        "b3": {"backbone": "mit_b3", "channels": 768},
        "b4": {"backbone": "mit_b4", "channels": 768},
        "b5": {"backbone": "mit_b5", "channels": 768},
        "tiny": {"backbone": "mit_tiny", "channels": 16},
    }
    official_names: ClassVar[tuple[str, ...]] = ("segformer",)
    # Not 19: anybody trains a SegFormer on as many classes of their own.
    official_classes: ClassVar[Mapping[int, ClassSet]] = {124: VSPW}
    card = MIT_CARD
    prefers_channels_last = True

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: str = "mit_b0",
        backbone_weights: str | Path | None = None,
        channels: int = 256,
        lateral: Lateral = "linear",
        dropout: float = 0.1,
        **backbone_options: Any,
    ) -> None:
        super().__init__()
        if not backbone.startswith("mit_"):
            raise ValueError(f'backbone must be "mit_b0" to "mit_b5", got {backbone!r}')
        self.num_classes = num_classes
        self.backbone = build_backbone(backbone, **backbone_options)
        if backbone_weights is not None:
            load_imagenet(self.backbone, backbone, backbone_weights)
        self.decoder = MLPDecoder(self.backbone.channels, channels, lateral=lateral)
        self.classifier = PixelClassifier(channels, num_classes, dropout)

    def encode(self, frames: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, D, H / 4, W / 4): the four scales, mixed."""
        return self.decoder(self.backbone(frames))

    def decode(self, fused: Tensor) -> Tensor:
        """-> (N, C, H / 4, W / 4) logits."""
        return self.classifier(fused)

    @classmethod
    def from_official(cls, tensors: dict[str, Tensor]) -> tuple[Self, Options]:
        """Build the model that a checkpoint belongs to.

        Args:
            tensors: the state dict of SegFormer's authors, of mmsegmentation or of transformers;
                each is computed with the epsilons that its own code uses.

        Returns:
            The model, and the arguments that it was made with.

        Raises:
            ValueError: keys are missing, unexpected or mis-shaped (all are listed).
        """
        dead = cls.dead_keys(tensors)
        layout = layout_of(tensors)
        encoder, decoder = encoder_of(tensors), decoder_of(tensors)
        needed = ("fusion.conv.weight", "classifier.weight")
        missing = [name for name in needed if name not in decoder]
        if missing:
            raise ValueError(
                f"not a whole SegFormer: there is no {' and no '.join(missing)} (here so called) "
                f"under decode_head; its first keys are {', '.join(list(tensors)[:3])}"
            )
        options: dict[str, Any] = {
            "num_classes": decoder["classifier.weight"].shape[0],
            "backbone": backbone_of(encoder),
            "channels": decoder["fusion.conv.weight"].shape[0],
            "lateral": "normed" if "laterals.0.bn.weight" in decoder else "linear",
        }
        if NORM_EPS[layout] is not None:
            options["norm_eps"] = NORM_EPS[layout]
        model = cls(**options)
        renamed = {f"backbone.{name}": value for name, value in encoder.items()}
        for name, value in decoder.items():
            ours = name.startswith(("laterals.", "fusion."))
            renamed[f"decoder.{name}" if ours else name] = value
        load_strictly(model, renamed, dead=dead)
        model.card = replace(model.card, licence=OFFICIAL_LICENCE)
        return model, options

    @classmethod
    def dead_keys(cls, tensors: dict[str, Tensor]) -> dict[str, str]:
        """The keys of a checkpoint that play no part.

        Args:
            tensors: the state dict.

        Returns:
            key -> reason.
        """
        if layout_of(tensors) != "authors":
            return {}
        reason = "the base class of the authors' heads makes a classifier that theirs never uses"
        return {name: reason for name in tensors if name.startswith("decode_head.conv_seg.")}

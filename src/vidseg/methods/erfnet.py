"""ERFNet, per frame: the fast host of LMANet.

Romera, Alvarez, Bergasa and Arroyo, "ERFNet: Efficient Residual Factorized ConvNet for Real-time
Semantic Segmentation", T-ITS 2018. Loads the weights of Eromera/erfnet_pytorch.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from vidseg.backbones import ERFNetEncoder, build_backbone
from vidseg.backbones.erfnet import ERFNET_CARD, ERFNetDecoder
from vidseg.classes import CITYSCAPES, CITYSCAPES_WITH_VOID, ClassSet
from vidseg.methods.method import Method, Options
from vidseg.weights import load_strictly


class ERFNet(Method):
    """Factorised convolutions down to stride 8 and transposed ones up again; no memory.

    A classifier on the encoder is the auxiliary head; the authors train the encoder with it alone
    first. Pixels go in as they are, in [0, 1], at a size that is a multiple of 8.

    Args:
        num_classes: C.
        backbone: "erfnet", or "erfnet_tiny".
        backbone_options: further arguments of the encoder, such as dropout.
    """

    # The one size of the paper has no name of its own: `create("erfnet")`.
    variants: ClassVar[Mapping[str, Options]] = {
        "": {"backbone": "erfnet"},
        "tiny": {"backbone": "erfnet_tiny"},
    }
    official_names: ClassVar[tuple[str, ...]] = ("erfnet",)
    official_classes: ClassVar[Mapping[int, ClassSet]] = {20: CITYSCAPES_WITH_VOID, 19: CITYSCAPES}
    card = ERFNET_CARD
    prefers_channels_last = True

    def __init__(
        self, num_classes: int, *, backbone: str = "erfnet", **backbone_options: Any
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.backbone = build_backbone(backbone, **backbone_options)
        if not isinstance(self.backbone, ERFNetEncoder):
            raise ValueError(f'backbone must be "erfnet" or "erfnet_tiny", got {backbone!r}')
        first, middle, last = self.backbone.channels
        self.decoder = ERFNetDecoder(last, num_classes, widths=(middle, first))
        self.auxiliary_head = nn.Conv2d(last, num_classes, 1)

    def encode(self, frames: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, D, H / 8, W / 8)."""
        return self.backbone(frames)[-1]

    def decode(self, fused: Tensor) -> Tensor:
        """-> (N, C, H, W) logits."""
        return self.decoder(fused)

    def auxiliary(self, features: Tensor, fused: Tensor) -> dict[str, Tensor]:
        """ "auxiliary": logits of the classifier on the encoder, at stride 8."""
        logits = self.auxiliary_head(fused.flatten(0, 1))
        return {"auxiliary": logits.unflatten(0, fused.shape[:2])}

    @classmethod
    def from_official(cls, tensors: dict[str, Tensor]) -> tuple[Self, Options]:
        """Build the model that the authors' state dict belongs to.

        Args:
            tensors: the authors' state dict: `encoder.` and `decoder.`.

        Returns:
            The model, and the arguments that it was made with.

        Raises:
            ValueError: keys are missing, unexpected or mis-shaped.
        """
        classifier = "decoder.output_conv.weight"
        if classifier not in tensors:
            raise ValueError(
                f"not a whole ERFNet checkpoint: there is no {classifier}; its first keys are "
                f"{', '.join(list(tensors)[:3])}"
            )
        options = {"num_classes": tensors[classifier].shape[1], "backbone": "erfnet"}
        model = cls(**options)
        load_strictly(model, {_from_official_key(k): value for k, value in tensors.items()})
        return model, options


def _from_official_key(name: str) -> str:
    for prefix, ours in (("encoder.output_conv.", "auxiliary_head."), ("encoder.", "backbone.")):
        if name.startswith(prefix):
            return ours + name.removeprefix(prefix)
    return name

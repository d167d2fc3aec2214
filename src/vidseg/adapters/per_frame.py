"""Any image segmentation model as a video model without memory."""

from collections.abc import Callable, Mapping
from typing import Any, cast

from torch import Tensor, nn

from vidseg.card import Card
from vidseg.segmenter import VideoSegmenter


class PerFrame(VideoSegmenter):
    """Any image segmentation model as a video model without memory.

    Args:
        model: (N, 3, H, W) -> (N, C, h, w) logits, or {"out": logits} (torchvision), or an object
            with `.logits` (transformers).
        num_classes: C; by default as many as the card names.
        card: what it takes to use the model; ImageNet's normalisation by default.
        output: picks the logits out of what `model` returns, where the rules above do not.
        align_corners: how the model's logits are resized.

    Raises:
        ValueError: neither `num_classes` nor a card that names classes, or another number of them.

    Example:
        >>> model = PerFrame(nn.Conv2d(3, 5, 1), num_classes=5)
        >>> segmentation, memory = model.step(torch.zeros(1, 3, 8, 8))
        >>> segmentation.labels().shape
        torch.Size([1, 1, 8, 8])
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        num_classes: int | None = None,
        card: Card | None = None,
        output: Callable[[Any], Tensor] | None = None,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        named = 0 if card is None else len(card.classes)
        if not num_classes and not named:
            raise ValueError("give num_classes, or a card that names the classes")
        if num_classes and named and num_classes != named:
            raise ValueError(f"num_classes is {num_classes}, and the card names {named} classes")
        self.model = model
        self.num_classes = num_classes or named
        self.output = output or find_logits
        self.align_corners = align_corners
        if card is not None:
            self.card = card

    def encode(self, frames: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, C, h, w): the whole of the image model."""
        return self.checked(self.output(self.model(frames)))

    def checked(self, logits: Tensor) -> Tensor:
        """The logits, if they are (N, C, h, w); ValueError otherwise."""
        if logits.dim() != 4 or logits.shape[1] != self.num_classes:
            raise ValueError(
                f"the image model gave {tuple(logits.shape)}, wanted (N, {self.num_classes}, h, w)"
                "; pass its num_classes, or output=... to pick the logits"
            )
        return logits

    def decode(self, fused: Tensor) -> Tensor:
        """The logits as they are."""
        return fused


def find_logits(result: Any) -> Tensor:
    """The logits in what an image model returned; TypeError where there are none."""
    if isinstance(result, Tensor):
        return result
    if isinstance(result, Mapping) and "out" in result:
        return cast(Tensor, result["out"])
    logits = getattr(result, "logits", None)
    if isinstance(logits, Tensor):
        return logits
    raise TypeError(
        f"the image model returned {type(result).__name__}; pass output=... to pick the logits"
    )

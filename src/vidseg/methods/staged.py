"""What segmenters on a four-stage backbone share: encoding, and an auxiliary head on stage 3."""

from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from vidseg.backbones import build_backbone
from vidseg.backbones.imagenet import load_imagenet
from vidseg.methods.method import Method


class Stages(NamedTuple):
    """Maps of N frames: `third` for the auxiliary head, `last` for the method."""

    third: Tensor
    last: Tensor


class StagedSegmenter(Method):
    """A segmenter whose encoder is a ResNet or a MobileNetV2.

    A subclass calls `build_encoder` in its constructor and sets `auxiliary_head`.

    Attributes:
        auxiliary_head: (N, D, h, w) of stage 3 -> (N, C, h, w); used in training only. None where
            a checkpoint has none.
    """

    auxiliary_head: nn.Module | None

    def build_encoder(
        self, name: str, weights: str | Path | None, options: dict[str, Any]
    ) -> tuple[int, int]:
        """Make `self.backbone`.

        Args:
            name: one of `vidseg.backbones.BACKBONES`.
            weights: None, "imagenet" (from the hub) or a local file.
            options: further arguments of the backbone, such as output_stride.

        Returns:
            The widths of stage 3 and of the last stage.

        Raises:
            ValueError: the name is unknown; the weights do not fit.
            FileNotFoundError: there is no such file, or the hub cannot be reached.
        """
        self.backbone = build_backbone(name, **options)
        if weights is not None:
            load_imagenet(self.backbone, name, weights)
        *_, third, last = self.backbone.channels  # pyright: ignore[reportGeneralTypeIssues]
        return third, last

    def encode(self, frames: Tensor) -> Stages:
        """(N, 3, H, W) -> stage 3 and the last stage of the backbone."""
        *_, third, last = self.backbone(frames)
        return Stages(third, last)

    def auxiliary(self, features: Stages, fused: Any) -> dict[str, Tensor]:
        """ "auxiliary": logits of a head on stage 3 of the frames that are read out."""
        if self.auxiliary_head is None:
            return {}
        num_read = pytree.tree_leaves(fused)[0].shape[1]
        third = features.third[:, -num_read:]
        logits = self.auxiliary_head(third.flatten(0, 1)).unflatten(0, third.shape[:2])
        return {"auxiliary": logits}

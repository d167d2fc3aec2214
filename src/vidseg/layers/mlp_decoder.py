"""SegFormer's all-MLP decoder: maps of four scales become one at the finest of them.

Xie et al., "SegFormer", NeurIPS 2021, section 3.2. As written there, every map goes through a
linear layer, is resized to the finest grid, all are joined and a 1x1 convolution mixes them. A 1x1
map and bilinear resizing commute, so here each scale is mixed on its own grid and the sum is taken
on the finest: the same to rounding, without the joined map of four times the width.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidseg.layers.heads import ConvBlock
from vidseg.layers.resize import resize

Lateral = Literal["linear", "normed"]


class PixelClassifier(nn.Conv2d):
    """Dropout of whole channels, then a 1x1 convolution to classes.

    Args:
        channels: D of the map.
        num_classes: C.
        dropout: probability for each channel.
    """

    def __init__(self, channels: int, num_classes: int, dropout: float) -> None:
        super().__init__(channels, num_classes, 1)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, input: Tensor) -> Tensor:
        """(N, D, h, w) -> (N, C, h, w) logits."""
        return super().forward(self.dropout(input))


class MLPDecoder(nn.Module):
    """One map out of four.

    Args:
        in_channels: D of each scale, finest first.
        channels: D of the output.
        lateral: what each scale goes through first. "linear": a linear layer, as in the paper, so
            in the authors' code, in transformers and in CFFM. "normed": a 1x1 convolution without
            bias, batch norm and ReLU, as in mmsegmentation.

    Attributes:
        folded: mix before resizing, and in evaluation put the norm into the mixing weights; false
            computes as it is written in the paper, for comparison.

    Raises:
        ValueError: `lateral` is unknown.
    """

    def __init__(
        self, in_channels: tuple[int, ...], channels: int, *, lateral: Lateral = "linear"
    ) -> None:
        super().__init__()
        if lateral not in ("linear", "normed"):
            raise ValueError(f'lateral must be "linear" or "normed", got {lateral!r}')
        self.folded = True
        self.laterals = nn.ModuleList(
            nn.Linear(width, channels) if lateral == "linear" else ConvBlock(width, channels, 1)
            for width in in_channels
        )
        self.fusion = ConvBlock(len(in_channels) * channels, channels, 1)

    def forward(self, maps: tuple[Tensor, ...]) -> Tensor:
        """Mix the scales.

        Args:
            maps: (N, D_i, h_i, w_i), finest first.

        Returns:
            (N, D, h, w) on the first map's grid, not negative.
        """
        return self._folded(maps) if self.folded else self._as_written(maps)

    def _as_written(self, maps: tuple[Tensor, ...]) -> Tensor:
        size = (maps[0].shape[-2], maps[0].shape[-1])
        resized = [
            resize(_lateral(layer, x), size, align_corners=False)
            for layer, x in zip(self.laterals, maps, strict=True)
        ]
        return self.fusion(torch.cat(resized[::-1], 1))

    def _folded(self, maps: tuple[Tensor, ...]) -> Tensor:
        size = (maps[0].shape[-2], maps[0].shape[-1])
        weight, shift = self.fusion.conv.weight.flatten(1), None
        norm = self.fusion.bn
        if not norm.training:
            assert norm.running_mean is not None
            assert norm.running_var is not None
            scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
            shift = norm.bias - norm.running_mean * scale
            weight = weight * scale[:, None]
        total: Tensor | None = None
        # The joined map has the coarsest scale first.
        parts = weight.chunk(len(maps), 1)[::-1]
        for layer, x, part in zip(self.laterals, maps, parts, strict=True):
            y = resize(_mixed(layer, x, part, shift), size, align_corners=False)
            total, shift = (y if total is None else total + y), None
        assert total is not None, "there is at least one scale"
        return F.relu(self.fusion.bn(total) if norm.training else total)


def _lateral(layer: nn.Module, x: Tensor) -> Tensor:
    if isinstance(layer, nn.Linear):
        return layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    return layer(x)


def _mixed(layer: nn.Module, x: Tensor, weight: Tensor, shift: Tensor | None) -> Tensor:
    """`weight` (D, D) after the lateral layer, plus `shift` (D,)."""
    if isinstance(layer, nn.Linear):
        bias = weight @ layer.bias
        weight = weight @ layer.weight
        shift = bias if shift is None else bias + shift
    else:
        x = layer(x)
    return F.linear(x.permute(0, 2, 3, 1), weight, shift).permute(0, 3, 1, 2)

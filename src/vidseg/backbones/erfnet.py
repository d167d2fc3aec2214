"""ERFNet's encoder and decoder: factorised convolutions, fast at stride 8.

Romera, Alvarez, Bergasa and Arroyo, "ERFNet: Efficient Residual Factorized ConvNet for Real-time
Semantic Segmentation", T-ITS 2018. Parameter names are those of the published weights.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidseg.card import Card
from vidseg.layers.conv_norm import conv_norm
from vidseg.sizes import height_x_width

ERFNET_CARD = Card(mean=(0.0, 0.0, 0.0), std=(255.0, 255.0, 255.0), size_multiple=8)
"""What the network takes: pixels in [0, 1], not normalised, at multiples of 8."""

NORM_EPS = 1e-3
"""Of every batch norm."""


class Down(nn.Module):
    """Half the size: a 3x3 convolution beside a maximum pool, joined, then norm and ReLU."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels - in_channels, 3, stride=2, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.bn = nn.BatchNorm2d(channels, eps=NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """(N, D_in, h, w) -> (N, D, h / 2, w / 2)."""
        return F.relu(self.bn(torch.cat([self.conv(x), self.pool(x)], 1)), inplace=True)


class NonBottleneck(nn.Module):
    """Two pairs of a 3x1 and a 1x3 convolution around a shortcut.

    Args:
        channels: D.
        dilation: of the second pair.
        dropout: of whole channels, before the shortcut joins.
    """

    def __init__(self, channels: int, dilation: int, dropout: float) -> None:
        super().__init__()
        d = dilation
        self.conv3x1_1 = nn.Conv2d(channels, channels, (3, 1), padding=(1, 0))
        self.conv1x3_1 = nn.Conv2d(channels, channels, (1, 3), padding=(0, 1))
        self.bn1 = nn.BatchNorm2d(channels, eps=NORM_EPS)
        self.conv3x1_2 = nn.Conv2d(channels, channels, (3, 1), padding=(d, 0), dilation=(d, 1))
        self.conv1x3_2 = nn.Conv2d(channels, channels, (1, 3), padding=(0, d), dilation=(1, d))
        self.bn2 = nn.BatchNorm2d(channels, eps=NORM_EPS)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(N, D, h, w) -> the same."""
        y = F.relu(self.conv3x1_1(x), inplace=True)
        y = F.relu(conv_norm(self.conv1x3_1, self.bn1, y), inplace=True)
        y = F.relu(self.conv3x1_2(y), inplace=True)
        y = self.dropout(conv_norm(self.conv1x3_2, self.bn2, y))
        return F.relu(y + x, inplace=True)


class Up(nn.Module):
    """Twice the size: a transposed convolution, norm and ReLU."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(
            in_channels, channels, 3, stride=2, padding=1, output_padding=1
        )
        self.bn = nn.BatchNorm2d(channels, eps=NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """(N, D_in, h, w) -> (N, D, 2 h, 2 w)."""
        return F.relu(conv_norm(self.conv, self.bn, x), inplace=True)


class ERFNetEncoder(nn.Module):
    """From a frame to a map at stride 8.

    Args:
        widths: D at strides 2, 4 and 8.
        num_plain: blocks at stride 4.
        dilations: of the blocks at stride 8, one each.
        dropout: of the blocks at strides 4 and 8.

    Attributes:
        channels: D of the maps that it returns.
    """

    def __init__(
        self,
        *,
        widths: tuple[int, int, int] = (16, 64, 128),
        num_plain: int = 5,
        dilations: Sequence[int] = (2, 4, 8, 16, 2, 4, 8, 16),
        dropout: tuple[float, float] = (0.03, 0.3),
    ) -> None:
        super().__init__()
        first, middle, last = widths
        self.initial_block = Down(3, first)
        self.layers = nn.ModuleList(
            [
                Down(first, middle),
                *(NonBottleneck(middle, 1, dropout[0]) for _ in range(num_plain)),
                Down(middle, last),
                *(NonBottleneck(last, dilation, dropout[1]) for dilation in dilations),
            ]
        )
        self.channels = widths
        self._ends = num_plain, num_plain + 1 + len(dilations)

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N, 3, H, W) -> the maps at strides 2, 4 and 8.

        Raises:
            ValueError: H or W is not a multiple of 8.
        """
        if not torch.compiler.is_compiling() and any(side % 8 for side in frames.shape[-2:]):
            raise ValueError(
                f"ERFNet takes frames whose height and width are multiples of 8, got "
                f"{height_x_width(frames.shape[-2:])}; model.card.fit(frames) makes them so"
            )
        if _is_channels_last(self.initial_block.conv.weight):
            # The first pool would keep the other layout and make its joint with the convolution
            # a copy.
            frames = frames.contiguous(memory_format=torch.channels_last)
        maps = [self.initial_block(frames)]
        x = maps[0]
        for index, layer in enumerate(self.layers):
            x = layer(x)
            if index in self._ends:
                maps.append(x)
        first, middle, last = maps
        return first, middle, last


class ERFNetDecoder(nn.Module):
    """From a map at stride 8 to logits of the frame's size.

    Args:
        in_channels: D of the map.
        num_classes: C.
        widths: D at strides 4 and 2.
    """

    def __init__(
        self, in_channels: int, num_classes: int, *, widths: tuple[int, int] = (64, 16)
    ) -> None:
        super().__init__()
        first, last = widths
        self.layers = nn.ModuleList(
            [
                Up(in_channels, first),
                *(NonBottleneck(first, 1, 0.0) for _ in range(2)),
                Up(first, last),
                *(NonBottleneck(last, 1, 0.0) for _ in range(2)),
            ]
        )
        self.output_conv = nn.ConvTranspose2d(last, num_classes, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(N, D, h, w) -> (N, C, 8 h, 8 w)."""
        for layer in self.layers:
            x = layer(x)
        return self.output_conv(x)


def _is_channels_last(weight: Tensor) -> bool:
    return weight.stride(1) == 1 and weight.stride(3) == weight.shape[1]

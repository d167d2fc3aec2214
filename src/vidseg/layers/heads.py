"""Convolution blocks and the fully convolutional head, in mmsegmentation's layout."""

from itertools import pairwise

import torch
from torch import Tensor, nn


class ConvBlock(nn.Module):
    """Convolution without bias, batch norm, ReLU; keys `conv` and `bn`."""

    def __init__(self, in_channels: int, channels: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, kernel, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """(N, D_in, h, w) -> (N, D, h, w)."""
        return self.relu(self.bn(self.conv(x)))


class Classifier(nn.Module):
    """Channel dropout, then a 1x1 convolution; key `conv_seg`."""

    def __init__(self, in_channels: int, num_classes: int, *, dropout: float = 0.1) -> None:
        super().__init__()
        self.dropout = nn.Dropout2d(dropout)
        self.conv_seg = nn.Conv2d(in_channels, num_classes, 1)
        nn.init.normal_(self.conv_seg.weight, std=0.01)
        nn.init.zeros_(self.conv_seg.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """(N, D, h, w) -> (N, C, h, w)."""
        return self.conv_seg(self.dropout(x))


class FCNHead(nn.Module):
    """3x3 blocks, a 3x3 block on their output joined with the input, and the classifier.

    Shelhamer et al., "Fully Convolutional Networks", in the form of mmsegmentation's baseline
    head; with one block and no join it is the auxiliary head of TMANet.

    Args:
        in_channels: D of the input.
        channels: D inside.
        num_classes: C.
        num_blocks: blocks before the join.
        join: read the input once more, beside the last block's output.
        dropout: of whole channels, before the classifier.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        num_classes: int,
        *,
        num_blocks: int = 2,
        join: bool = True,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        widths = [in_channels] + [channels] * num_blocks
        self.convs = nn.Sequential(*(ConvBlock(a, b, 3) for a, b in pairwise(widths)))
        self.conv_cat = ConvBlock(in_channels + channels, channels, 3) if join else None
        self.classifier = Classifier(channels, num_classes, dropout=dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(N, D_in, h, w) -> (N, C, h, w)."""
        y = self.convs(x)
        if self.conv_cat is not None:
            y = self.conv_cat(torch.cat([x, y], 1))
        return self.classifier(y)

"""FANet's neck: attention whose cost grows with the number of places, at four scales.

Hu et al., "Real-time Semantic Segmentation with Fast Attention", RA-L 2020, in the form that
TDNet's authors use (feinanshan/TDNet at 342f434); written from a description of it.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidseg.layers.resize import resize

SLOPE = 0.01


class LeakyBlock(nn.Sequential):
    """Convolution without bias, batch norm and, unless `is_plain`, leaky ReLU."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        kernel: int = 1,
        *,
        padding: int | None = None,
        is_plain: bool = False,
    ) -> None:
        padding = kernel // 2 if padding is None else padding
        conv = nn.Conv2d(in_channels, channels, kernel, padding=padding, bias=False)
        nn.init.kaiming_normal_(conv.weight, a=1)
        activation = [] if is_plain else [nn.LeakyReLU(SLOPE, inplace=True)]
        super().__init__(conv, nn.BatchNorm2d(channels), *activation)


class FastAttention(nn.Module):
    """Linear attention over all places of one scale, with what the coarser scale passes up.

    Queries and keys have length one and go through no softmax, so the product of keys and values,
    (d, D), is taken first. It is not divided by the number of places.

    Args:
        channels: D.
        key_channels: d.
        smooth_channels: width of the 3x3 output; 0 for none.
        passes_up: also give a map of D / 2 for the next finer scale.
    """

    def __init__(
        self, channels: int, *, key_channels: int, smooth_channels: int, passes_up: bool
    ) -> None:
        super().__init__()
        self.query = LeakyBlock(channels, key_channels, is_plain=True)
        self.key = LeakyBlock(channels, key_channels, is_plain=True)
        self.value = LeakyBlock(channels, channels)
        self.lateral = LeakyBlock(channels, channels)
        # The authors pad this 1x1 convolution: the map grows by 2, and the weights rely on it.
        self.up = LeakyBlock(channels, channels // 2, padding=1) if passes_up else None
        self.smooth = LeakyBlock(channels, smooth_channels, 3) if smooth_channels else None

    def forward(self, x: Tensor, coarser: Tensor | None = None) -> Tensor:
        """(N, D, h, w), and the coarser scale's `up` (N, D, h', w') -> (N, D, h, w)."""
        query, key = (F.normalize(part(x).flatten(2), dim=1) for part in (self.query, self.key))
        value = self.value(x).flatten(2)
        read = (value @ key.mT) @ query
        y = self.lateral(read.unflatten(2, x.shape[2:])) + x
        if coarser is None:
            return y
        return y + resize(coarser, (x.shape[-2], x.shape[-1]), align_corners=True)


class FastAttentionNeck(nn.Module):
    """From the four maps of a backbone to one at the stride of the finest.

    Args:
        channels: widths of the four maps, finest first; each has twice the width of the one before.
        key_channels: width of queries and keys.
        smooth_channels: width of each of the two maps that are joined.

    Attributes:
        out_channels: width of the result.
    """

    def __init__(
        self, channels: tuple[int, ...], *, key_channels: int = 32, smooth_channels: int = 128
    ) -> None:
        super().__init__()
        is_smooth = (True, False, True, False)
        self.scales = nn.ModuleList(
            FastAttention(
                width,
                key_channels=key_channels,
                smooth_channels=smooth_channels * smooths,
                passes_up=index > 0,
            )
            for index, (width, smooths) in enumerate(zip(channels, is_smooth, strict=True))
        )
        self.out_channels = 2 * smooth_channels

    def forward(self, stages: tuple[Tensor, ...]) -> Tensor:
        """Maps (N, D_i, h_i, w_i), finest first -> (N, out_channels, h_0, w_0)."""
        smoothed, coarser = [], None
        for scale, x in reversed(list(zip(self.scales, stages, strict=True))):
            assert isinstance(scale, FastAttention)
            y = scale(x, coarser)
            coarser = None if scale.up is None else scale.up(y)
            if scale.smooth is not None:
                smoothed.append(scale.smooth(y))
        coarse, fine = smoothed
        size = (fine.shape[-2], fine.shape[-1])
        return torch.cat([resize(coarse, size, align_corners=True), fine], 1)

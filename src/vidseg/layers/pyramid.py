"""Pyramid pooling: context at four scales, joined with the input; and the head on top of it."""

import torch
from torch import Tensor, nn

from vidseg.layers.resize import resize


class PyramidPooling(nn.Module):
    """Zhao et al., "Pyramid Scene Parsing Network", CVPR 2017, in semseg's layout.

    Args:
        in_channels: D of the input.
        channels: D of each pooled branch; in_channels / number of bins by default.
        bins: side of each pooled grid.
        part: (j, n): the output is part j of n equal parts of the input's channels, and of each
            branch's; all of them by default (TDNet's sub-networks share a pyramid like this).

    Attributes:
        out_channels: D of the output, the input's and all branches' together.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int | None = None,
        *,
        bins: tuple[int, ...] = (1, 2, 3, 6),
        part: tuple[int, int] = (0, 1),
    ) -> None:
        super().__init__()
        channels = channels or in_channels // len(bins)
        self.bins = bins
        self.part = part
        self.features = nn.ModuleList(
            nn.Sequential(
                nn.AdaptiveAvgPool2d(bin_side),
                nn.Conv2d(in_channels, channels, 1, bias=False),
                nn.BatchNorm2d(channels),
                nn.ReLU(inplace=True),
            )
            for bin_side in bins
        )
        self.out_channels = (in_channels + channels * len(bins)) // part[1]

    def forward(self, x: Tensor) -> Tensor:
        """(N, D, h, w) -> (N, out_channels, h, w); the input comes first, then bins 1, 2, 3, 6."""
        size = (x.shape[-2], x.shape[-1])
        # Branches are cut before they are resized; on grids of a few places the rest costs nothing.
        branches = [self._cut(branch(x)) for branch in self.features]
        return torch.cat(
            [self._cut(x), *(resize(maps, size, align_corners=True) for maps in branches)], 1
        )

    def _cut(self, maps: Tensor) -> Tensor:
        index, count = self.part
        return maps if count == 1 else maps.chunk(count, 1)[index]


def pyramid_head(
    in_channels: int, channels: int, num_classes: int, dropout: float = 0.1
) -> nn.Sequential:
    """PSPNet's 3x3 block, channel dropout and classifier, in semseg's layout.

    Args:
        in_channels: D of the input.
        channels: D inside.
        num_classes: C.
        dropout: of whole channels before the classifier.

    Returns:
        (N, D_in, h, w) -> (N, C, h, w).
    """
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
        nn.Dropout2d(dropout),
        nn.Conv2d(channels, num_classes, 1),
    )

"""Attention from the places of one map to those of an earlier one, as TDNet chains it.

Hu, Caba, Wang, Lin, Sclaroff and Perazzi, "Temporally Distributed Networks for Fast Video Semantic
Segmentation", CVPR 2020; written from a description of feinanshan/TDNet at 342f434.

B streams, P places of the query, S places of the source, d channels of a key, D of a value.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CHUNK_BYTES = 2**24
"""What a block of rows of an attention matrix may take."""


class QueryKeyValue(nn.Module):
    """Query, key and value of a map, by 1x1 convolutions.

    Args:
        in_channels: of the map.
        key_channels: d.
        value_channels: D.
    """

    def __init__(self, in_channels: int, key_channels: int, value_channels: int) -> None:
        super().__init__()
        self.query = _two_layers(in_channels, key_channels)
        self.key = _two_layers(in_channels, key_channels)
        self.value = nn.Conv2d(in_channels, value_channels, 1)
        _initialise(self.value)


class ChainedAttention(nn.Module):
    """One head of attention and a linear layer behind it; no residual, norm or position.

    Args:
        channels: D.
        dropout: of attention weights and of the result.
    """

    def __init__(self, channels: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, channels)
        self.dropout = nn.Dropout(dropout)
        _initialise(self.linear)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Read the source at each place of the query.

        Args:
            query: (B, P, d).
            key: (B, S, d).
            value: (B, S, D).

        Returns:
            (B, P, D).
        """
        # The linear layer goes first, on S places instead of P: attention is linear in its values.
        value = F.linear(value, self.linear.weight)
        dropped = self.dropout.p if self.training else 0.0
        # Keys and values differ in width, for which a CPU has no fused kernel: some rows at a time.
        num_rows = max(1, CHUNK_BYTES // (4 * len(key) * key.shape[1]))
        parts = [
            F.scaled_dot_product_attention(rows, key, value, dropout_p=dropped)
            for rows in query.split(num_rows, 1)
        ]
        return self.dropout(torch.cat(parts, 1) + self.linear.bias)


def to_tokens(maps: Tensor) -> Tensor:
    """(N, D, h, w) -> (N, h, w, D), contiguous."""
    return maps.permute(0, 2, 3, 1).contiguous()


def subsampled(maps: Tensor, stride: int) -> Tensor:
    """(N, D, h, w) -> (N, D, ceil(h / stride), ceil(w / stride)): every stride-th place."""
    return maps[..., ::stride, ::stride]


def _two_layers(in_channels: int, channels: int) -> nn.Sequential:
    first, last = nn.Conv2d(in_channels, channels, 1), nn.Conv2d(channels, channels, 1)
    _initialise(first)
    _initialise(last)
    return nn.Sequential(first, nn.BatchNorm2d(channels), nn.LeakyReLU(0.01), last)


def _initialise(layer: nn.Conv2d | nn.Linear) -> None:
    nn.init.kaiming_normal_(layer.weight, a=1)
    assert layer.bias is not None
    with torch.no_grad():
        layer.bias.zero_()

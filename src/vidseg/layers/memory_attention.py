"""A memory between the halves of an image network: encode, read within a window, fuse.

LMANet's module (`vidseg.methods.lmanet`); what is remembered, and for how long, is the method's.
"""

import torch
from torch import Tensor, nn

from vidseg.layers.gated_fusion import REDUCED, build_fusion
from vidseg.layers.local_attention import Border, local_attention


class KeyValue(nn.Module):
    """A key and a value for each pixel, from one 3x3 convolution.

    Args:
        in_channels: D of the map.
        key_channels: width of keys.
        value_channels: width of values; None: the value is the map itself.
    """

    def __init__(self, in_channels: int, key_channels: int, value_channels: int | None) -> None:
        super().__init__()
        self.widths = key_channels, value_channels
        self.conv = nn.Conv2d(in_channels, key_channels + (value_channels or 0), 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, D, h, w) -> key and value."""
        key_channels, value_channels = self.widths
        y = self.conv(x)
        return (y, x) if value_channels is None else y.split([key_channels, value_channels], 1)


class LocalMemoryAttention(nn.Module):
    """Encoders of keys and values, the read within a window, and the fusion.

    It fits between the halves of any image network: maps in, maps of the same width out.

    Args:
        channels: D of the maps.
        key_channels: width of keys.
        window: side of the window that a pixel sees, odd, in pixels of the map.
        fusion: a name of `vidseg.layers.gated_fusion`: "sigmoid-down1" takes the map itself as
            value, any other one values of half its width.
        border: "mask": outside the map there is nothing; "zero": zero keys, as published weights.
        learnable_constant: a learned logit more in the softmax, whose share goes to nothing.

    Attributes:
        value_channels: width of values; None where they are the maps.

    Raises:
        ValueError: the window is even; the fusion is unknown, or the width odd.
    """

    def __init__(
        self,
        channels: int,
        *,
        key_channels: int,
        window: int,
        fusion: str,
        border: Border,
        learnable_constant: bool,
    ) -> None:
        super().__init__()
        if not isinstance(window, int) or window < 1 or window % 2 == 0:
            raise ValueError(f"window must be a whole number, odd and at least 1, got {window}")
        if border not in ("zero", "mask"):
            raise ValueError(f'border must be "zero" or "mask", got {border!r}')
        self.value_channels = None if fusion == REDUCED else channels // 2
        self.key_channels, self.radius_px = key_channels, window // 2
        self.border: Border = border
        self.memory_encoder = KeyValue(channels, key_channels, self.value_channels)
        self.query_encoder = KeyValue(channels, key_channels, self.value_channels)
        self.constant = nn.Parameter(torch.zeros(1)) if learnable_constant else None
        self.fusion = build_fusion(fusion, self.value_channels or channels)
        if self.fusion.out_channels != channels:
            raise ValueError(f"the fusion {fusion!r} needs maps of even width, got {channels}")
        with torch.no_grad():
            for ours, theirs in zip(
                self.memory_encoder.parameters(), self.query_encoder.parameters(), strict=True
            ):
                ours[:key_channels] = theirs[:key_channels]

    def slot_shapes(self, x: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The shapes of the key and the value of a map `x`."""
        batch, channels, height, width = x.shape
        size = (height, width)
        return (batch, self.key_channels, *size), (batch, self.value_channels or channels, *size)

    def forward(
        self, x: Tensor, keys: tuple[Tensor, ...], values: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor]:
        """Read a memory of one frame or more.

        Args:
            x: (B, channels, h, w).
            keys: of each remembered frame, (B, d, h, w).
            values: of each remembered frame, (B, D, h, w).

        Returns:
            The fused map (B, channels, h, w), and what was read (B, D, h, w).
        """
        query, value = self.query_encoder(x)
        read = local_attention(
            query,
            _stack(keys),
            _stack(values),
            radius_px=self.radius_px,
            border=self.border,
            constant=self.constant,
        )
        if x.is_contiguous():
            read = read.contiguous()  # it comes channels last, which the rest would take over
        return self.fusion(read, value), read


def _stack(maps: tuple[Tensor, ...]) -> Tensor:
    """K times (B, D, h, w) -> (B, K, D, h, w), channels last, as the attention wants them."""
    return torch.stack([x.movedim(1, -1) for x in maps], 1).movedim(-1, 2)

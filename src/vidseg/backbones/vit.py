"""Plain vision transformers: DINOv2 and DINOv3, at patch 16, with registers.

Oquab et al., "DINOv2", TMLR 2024; Darcet et al., "Vision Transformers Need Registers", ICLR 2024;
Simeoni et al., "DINOv3", 2025; written from a description of them.

| | DINOv2 | DINOv3 |
|---|---|---|
| positions | learned on a square grid, added once to the patches | rotary, in every block |
| key bias | yes | no |
| epsilon of layer norms | 1e-6 | 1e-5 |

N frames, D channels, M heads, d channels of a head, P prefix tokens (class and registers) and then
h w patches in a sequence of S tokens.
"""

import math
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Kind = Literal["dinov2", "dinov3"]
NORM_EPS: dict[str, float] = {"dinov2": 1e-6, "dinov3": 1e-5}
PATCH = 16
# Base of the rotary frequencies, and the range of the random zoom of coordinates in training.
ROTARY_BASE, ROTARY_ZOOM = 100.0, 2.0

Rotation = tuple[Tensor, Tensor]
"""Cosine and sine, (h w, d) each, of the patches' rotary angles."""


class Tokens(NamedTuple):
    """A sequence that remembers its grid.

    Attributes:
        prefix: (N, P, D), the class token and the registers.
        patches: (N, h, w, D).
    """

    prefix: Tensor
    patches: Tensor

    def joined(self) -> Tensor:
        """The sequence (N, P + h w, D)."""
        return torch.cat([self.prefix, self.patches.flatten(1, 2)], 1)

    def replaced(self, sequence: Tensor) -> "Tokens":
        """Tokens of the same grid, from the sequence (N, P + h w, D)."""
        num_prefix = self.prefix.shape[1]
        patches = sequence[:, num_prefix:].unflatten(1, self.patches.shape[1:3])
        return Tokens(sequence[:, :num_prefix], patches)


class SelfAttention(nn.Module):
    """Multi-head attention of a sequence to itself, patches rotated by their places.

    Args:
        width: D.
        heads: M; they divide D.
        key_bias: whether keys have a bias.
    """

    def __init__(self, width: int, heads: int, *, key_bias: bool) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"heads must divide the width, got {heads} heads for {width} channels")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=key_bias)
        if not key_bias:
            self.query_bias = nn.Parameter(torch.zeros(width))
            self.value_bias = nn.Parameter(torch.zeros(width))
        self.key_bias = key_bias
        self.projection = nn.Linear(width, width)

    def forward(
        self, x: Tensor, rotation: Rotation | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """(N, S, D) -> (N, S, D).

        Args:
            x: the sequence.
            rotation: turns the last h w tokens.
            mask: (N, 1, S, S) bool, True where a token attends to another; None for everywhere.
        """
        bias = self.qkv.bias
        if not self.key_bias:
            bias = torch.cat([self.query_bias, torch.zeros_like(self.query_bias), self.value_bias])
        joined = F.linear(x, self.qkv.weight, bias)
        query, key, value = joined.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if rotation is not None:
            query, key = rotate(query, rotation), rotate(key, rotation)
        read = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.projection(read.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and a two-layer perceptron, each after a norm, scaled, beside a shortcut.

    Args:
        width: D.
        heads: M.
        hidden: width inside the perceptron.
        eps: of the layer norms.
        key_bias: see `SelfAttention`.
        scale: where the layer scales start.
    """

    def __init__(
        self, width: int, heads: int, hidden: int, *, eps: float, key_bias: bool, scale: float = 1.0
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps)
        self.attention = SelfAttention(width, heads, key_bias=key_bias)
        self.scale1 = nn.Parameter(torch.full((width,), scale))
        self.norm2 = nn.LayerNorm(width, eps)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.scale2 = nn.Parameter(torch.full((width,), scale))

    def forward(
        self, x: Tensor, rotation: Rotation | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """(N, S, D) -> (N, S, D); arguments as `SelfAttention.forward`."""
        x = x + self.scale1 * self.attention(self.norm1(x), rotation, mask)
        return x + self.scale2 * self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    """Patches of 16 x 16 pixels as tokens, and blocks of attention over all of them.

    Args:
        kind: "dinov2" or "dinov3", see the table above.
        width: D.
        depth: number of blocks.
        heads: M; the published sizes have 64 channels a head.
        registers: number of register tokens.
        position_grid: side of the square grid of learned positions (DINOv2 alone).

    Raises:
        ValueError: the kind is unknown, or the heads do not divide the width.
    """

    def __init__(
        self,
        *,
        kind: Kind = "dinov2",
        width: int = 384,
        depth: int = 12,
        heads: int = 6,
        registers: int = 4,
        position_grid: int = 40,
    ) -> None:
        super().__init__()
        if kind not in NORM_EPS:
            raise ValueError(f'backbone must be "dinov2" or "dinov3", got {kind!r}')
        self.kind: Kind = kind
        self.width, self.heads = width, heads
        self.patch_embed = nn.Conv2d(3, width, PATCH, PATCH)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.register_tokens = nn.Parameter(torch.zeros(1, registers, width))
        if kind == "dinov2":
            self.positions = nn.Parameter(torch.zeros(1, position_grid**2, width))
        eps, key_bias = NORM_EPS[kind], kind == "dinov2"
        # Layer scales start small in both papers: 1e-5.
        self.blocks = nn.ModuleList(
            Block(width, heads, 4 * width, eps=eps, key_bias=key_bias, scale=1e-5)
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width, eps)
        _initialise(self)

    @property
    def num_prefix(self) -> int:
        """P: the class token and the registers."""
        return 1 + self.register_tokens.shape[1]

    def embed(self, frames: Tensor) -> Tokens:
        """Turn frames into the tokens that the first block takes.

        Args:
            frames: (N, 3, H, W), sides multiples of 16.

        Returns:
            Prefix and patches, the latter with their positions added (DINOv2).

        Raises:
            ValueError: a side is no multiple of 16, or less than 16.
        """
        height, width = frames.shape[-2:]
        if height % PATCH or width % PATCH or not height or not width:
            raise ValueError(
                f"frames must have sides that are multiples of {PATCH}, got {height}x{width}"
            )
        patches = self.patch_embed(frames).permute(0, 2, 3, 1)
        if self.kind == "dinov2":
            patches = patches + self.positions_on(patches.shape[1], patches.shape[2])
        prefix = torch.cat([self.class_token, self.register_tokens], 1)
        return Tokens(prefix.expand(frames.shape[0], -1, -1), patches)

    def positions_on(self, h: int, w: int) -> Tensor:
        """The learned positions on a grid, (1, h, w, D)."""
        side = math.isqrt(self.positions.shape[1])
        return resize_positions(self.positions.unflatten(1, (side, side)), h, w)

    def zoom(self) -> Tensor | None:
        """DINOv3 in training: one factor in [1/2, 2], log-uniform, on all rotary coordinates."""
        if self.kind == "dinov2" or not self.training:
            return None
        limit = math.log(ROTARY_ZOOM)
        return torch.empty((), device=self.class_token.device).uniform_(-limit, limit).exp()

    def rotation(self, patches: Tensor, zoom: Tensor | None = None) -> Rotation | None:
        """The rotary angles of patches (N, h, w, D); None for DINOv2, which has none."""
        if self.kind == "dinov2":
            return None
        return rotary(patches, self.width // self.heads, zoom)

    def run_blocks(
        self, sequence: Tensor, first: int, last: int, rotation: Rotation | None
    ) -> Tensor:
        """Run the blocks `first` up to, not including, `last` on (N, S, D)."""
        for block in self.blocks[first:last]:
            sequence = block(sequence, rotation)
        return sequence


def resize_positions(grid: Tensor, h: int, w: int) -> Tensor:
    """Bring learned positions (1, H, W, D) to (1, h, w, D): bicubic with antialias, in float32."""
    if tuple(grid.shape[1:3]) == (h, w):
        return grid
    maps = grid.permute(0, 3, 1, 2).float()
    resized = F.interpolate(maps, (h, w), mode="bicubic", antialias=True, align_corners=False)
    return resized.permute(0, 2, 3, 1).to(grid.dtype)


def rotary(patches: Tensor, head_width: int, zoom: Tensor | None = None) -> Rotation:
    """Cosine and sine of the angles by which a patch's queries and keys are rotated.

    The centre of patch i of n is at 2 (i + 0.5) / n - 1, y before x; the frequencies are
    100^(-4 j / d) for j = 0 .. d/4 - 1; an angle is 2 pi times their product.

    Args:
        patches: (N, h, w, D), for the grid, the device and the dtype.
        head_width: d, a multiple of 4.
        zoom: a factor on the coordinates, () float.

    Returns:
        (h w, d) each, computed in float32 (float64 for float64 patches).

    Raises:
        ValueError: d is no multiple of 4.
    """
    if head_width % 4:
        raise ValueError(f"rotary positions need heads of 4 k channels, got {head_width}")
    dtype = torch.promote_types(patches.dtype, torch.float32)
    made: dict[str, Any] = {"dtype": dtype, "device": patches.device}
    centres = [2 * (torch.arange(n, **made) + 0.5) / n - 1 for n in patches.shape[1:3]]
    if zoom is not None:
        centres = [c * zoom for c in centres]
    steps = torch.arange(head_width // 4, **made)
    frequencies = ROTARY_BASE ** (-4 * steps / head_width)
    y, x = (2 * math.pi * c[:, None] * frequencies for c in centres)
    rows, columns = len(y), len(x)
    angles = torch.cat(
        [y[:, None].expand(-1, columns, -1), x[None].expand(rows, -1, -1)], -1
    ).flatten(0, 1)
    angles = angles.tile(1, 2)
    return angles.cos().to(patches.dtype), angles.sin().to(patches.dtype)


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Rotate the last h w tokens of (N, M, S, d); those before them have no place."""
    cosine, sine = rotation
    still, moved = x.split([x.shape[2] - cosine.shape[0], cosine.shape[0]], 2)
    first, second = moved.chunk(2, -1)
    turned = moved * cosine + torch.cat([-second, first], -1) * sine
    return torch.cat([still, turned], 2)


def _initialise(network: nn.Module) -> None:
    """Truncated normal weights and zero biases, as timm starts a vision transformer."""
    for module in network.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for name, parameter in network.named_parameters():
        if name.endswith(("class_token", "register_tokens", "positions")):
            nn.init.trunc_normal_(parameter, std=0.02)

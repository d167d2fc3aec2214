"""Mix Transformer (MiT-B0 to B5), the encoder of SegFormer, with the authors' key names.

Xie et al., "SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers",
NeurIPS 2021; written from a description of it.

N frames, L tokens of a map of h x w, D channels, M heads. Tokens are (N, L, D), which is the
channels-last memory of the map, so turning one into the other copies nothing.
"""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidseg.card import Card
from vidseg.layers.drop_path import DropPath
from vidseg.sizes import Size, height_x_width

MIT_CARD = Card(size_multiple=32)
"""What SegFormer's authors assume: ImageNet's normalisation, sides of a multiple of 32."""

STAGES = (1, 2, 3, 4)


def to_map(tokens: Tensor, size: Size) -> Tensor:
    """(N, h w, D) -> (N, D, h, w), a view in channels-last memory."""
    return tokens.transpose(1, 2).unflatten(2, size)


def to_tokens(x: Tensor) -> Tensor:
    """(N, D, h, w) -> (N, h w, D), a view if the map is in channels-last memory."""
    return x.flatten(2).transpose(1, 2).contiguous()


class PatchEmbedding(nn.Module):
    """A strided convolution over overlapping patches, then layer norm."""

    def __init__(
        self, in_channels: int, channels: int, *, kernel: int, stride: int, eps: float
    ) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, channels, kernel, stride, padding=kernel // 2)
        self.norm = nn.LayerNorm(channels, eps)

    def forward(self, x: Tensor) -> tuple[Tensor, Size]:
        """(N, D_in, H, W) -> (N, h w, D) and (h, w)."""
        x = self.proj(x)
        return self.norm(to_tokens(x)), (x.shape[-2], x.shape[-1])


class EfficientAttention(nn.Module):
    """Every token attends to a map that is `reduction` times smaller.

    The reduction is a convolution without padding: what is left over at the right and the bottom
    of the map is dropped.
    """

    def __init__(self, channels: int, heads: int, *, reduction: int, eps: float) -> None:
        super().__init__()
        self.heads, self.reduction = heads, reduction
        self.q = nn.Linear(channels, channels)
        self.kv = nn.Linear(channels, 2 * channels)
        self.proj = nn.Linear(channels, channels)
        if reduction > 1:
            self.sr = nn.Conv2d(channels, channels, reduction, reduction)
            self.norm = nn.LayerNorm(channels, eps)

    def forward(self, x: Tensor, size: Size) -> Tensor:
        """(N, h w, D) -> (N, h w, D)."""
        source = x
        if self.reduction > 1:
            source = self.norm(to_tokens(self.sr(to_map(x, size))))
        heads = (self.heads, -1)
        query = self.q(x).unflatten(2, heads).transpose(1, 2)
        keys, values = self.kv(source).unflatten(2, (2, *heads)).permute(2, 0, 3, 1, 4)
        read = F.scaled_dot_product_attention(query, keys, values)
        return self.proj(read.transpose(1, 2).flatten(2))


class _DepthwiseConv(nn.Module):
    """Named as the authors name it, so that their keys fit."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)

    def forward(self, x: Tensor, size: Size) -> Tensor:
        return to_tokens(self.dwconv(to_map(x, size)))


class MixFFN(nn.Module):
    """Two linear layers with a depthwise 3x3 convolution between them, which tells positions."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.dwconv = _DepthwiseConv(hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor, size: Size) -> Tensor:
        """(N, h w, D) -> (N, h w, D)."""
        return self.fc2(F.gelu(self.dwconv(self.fc1(x), size)))


class MiTBlock(nn.Module):
    """Attention and feed-forward, each after a norm and beside a shortcut."""

    def __init__(
        self,
        channels: int,
        heads: int,
        *,
        reduction: int,
        mlp_ratio: int,
        drop_path: float,
        eps: float,
        reduction_eps: float,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps)
        self.attn = EfficientAttention(channels, heads, reduction=reduction, eps=reduction_eps)
        self.norm2 = nn.LayerNorm(channels, eps)
        self.mlp = MixFFN(channels, mlp_ratio * channels)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, size: Size) -> Tensor:
        """(N, h w, D) -> (N, h w, D)."""
        x = x + self.drop_path(self.attn(self.norm1(x), size))
        return x + self.drop_path(self.mlp(self.norm2(x), size))


class MiT(nn.Module):
    """Four stages at strides 4, 8, 16 and 32; sizes are rounded up.

    Args:
        widths: D of each stage.
        blocks: of each stage.
        heads: of each stage.
        reductions: of the map that each stage's attention reads.
        mlp_ratio: width inside the feed-forward layers, in D.
        drop_path: rate of the last block in training; it grows from 0 at the first one.
        norm_eps: of every norm; None for the authors', 1e-6 in blocks and after stages, 1e-5 in
            patch embeddings and reductions.

    Attributes:
        channels: D of the maps that `forward` returns.
        smallest_px: least height and width of a frame.
    """

    def __init__(
        self,
        *,
        widths: tuple[int, ...] = (32, 64, 160, 256),
        blocks: tuple[int, ...] = (2, 2, 2, 2),
        heads: tuple[int, ...] = (1, 2, 5, 8),
        reductions: tuple[int, ...] = (8, 4, 2, 1),
        mlp_ratio: int = 4,
        drop_path: float = 0.1,
        norm_eps: float | None = None,
    ) -> None:
        super().__init__()
        self.channels = widths
        eps, embedding_eps = (1e-6, 1e-5) if norm_eps is None else (norm_eps, norm_eps)
        rates = [drop_path * k / max(sum(blocks) - 1, 1) for k in range(sum(blocks))]
        for stage, (before, width) in zip(STAGES, pairwise((3, *widths)), strict=True):
            kernel, stride = (7, 4) if stage == 1 else (3, 2)
            embedding = PatchEmbedding(
                before, width, kernel=kernel, stride=stride, eps=embedding_eps
            )
            stack = nn.ModuleList(
                MiTBlock(
                    width,
                    heads[stage - 1],
                    reduction=reductions[stage - 1],
                    mlp_ratio=mlp_ratio,
                    drop_path=rates.pop(0),
                    eps=eps,
                    reduction_eps=embedding_eps,
                )
                for _ in range(blocks[stage - 1])
            )
            self.add_module(f"patch_embed{stage}", embedding)
            self.add_module(f"block{stage}", stack)
            self.add_module(f"norm{stage}", nn.LayerNorm(width, eps))
        # A map must hold at least one cell of the reduction of its stage.
        sides = (4 * 2**k * (cell - 1) + 1 for k, cell in enumerate(reductions))
        self.smallest_px = max(sides)
        self.apply(_initialise)

    def forward(self, frames: Tensor) -> tuple[Tensor, ...]:
        """Encode frames.

        Args:
            frames: (N, 3, H, W).

        Returns:
            Four maps (N, D, h, w), in channels-last memory.

        Raises:
            ValueError: the frames are smaller than `smallest_px`.
        """
        if min(frames.shape[-2:]) < self.smallest_px and not torch.compiler.is_compiling():
            raise ValueError(
                f"frames must be at least {self.smallest_px} px high and wide for MiT, got "
                f"{height_x_width(frames.shape[-2:])}; enlarge them"
            )
        maps, x = [], frames
        for stage in STAGES:
            tokens, size = getattr(self, f"patch_embed{stage}")(x)
            for block in getattr(self, f"block{stage}"):
                tokens = block(tokens, size)
            x = to_map(getattr(self, f"norm{stage}")(tokens), size)
            maps.append(x)
        return tuple(maps)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
        assert module.bias is not None, "every convolution of MiT has a bias"
        nn.init.zeros_(module.bias)

"""Attention from each pixel to a square window around it in every remembered frame.

Windows of neighbouring pixels share most of their positions. So the map is cut into tiles; the
scores of a tile's pixels against all that any of them can see (the tile and a halo of the radius
around it) are one matrix product, and what lies outside a pixel's own window is masked.

Shapes: B samples, K frames, d key and D value channels, h w the map, P = 2 * radius + 1 the side
of a window, C tiles beside each other, Q pixels of a tile, N positions that a tile sees: rows,
frames and columns of the halo, in this order.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from vidseg.precision import without_autocast

Border = Literal["zero", "mask"]

CHUNK_BYTES = 2**24
"""What `local_attention` may take for halos and scores at once; larger maps go in parts."""

# Of the pixels of a tile: the fastest on CPUs (benchmarks/local_attention.py).
TILE_HEIGHT, TILE_WIDTH = 4, 8


def local_attention(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    radius_px: int,
    border: Border = "zero",
    constant: Tensor | None = None,
) -> Tensor:
    """Attend from each pixel to a square window around it in every remembered frame.

    LMANet, local memory attention; matches mattpfr/lmanet models/correlation.py: one softmax of
    unscaled dot products over the windows of all frames. A position outside the map has a zero
    key there, which takes part in the softmax, and a zero value: the published weights rely on it.

    Args:
        query: (B, d, h, w).
        keys: (B, K, d, h, w).
        values: (B, K, D, h, w).
        radius_px: half side of the window on the map; 10 sees 21 x 21.
        border: "zero" as above; "mask": positions outside the map take no part.
        constant: one element, a further logit whose share of the softmax goes to nothing.

    Returns:
        (B, D, h, w), of the type of `values`. Half precision is scored in float32.

    Raises:
        ValueError: the shapes disagree, the radius is negative, or the border is unknown.

    Example:
        >>> query, keys = torch.ones(1, 4, 5, 5), torch.ones(1, 2, 4, 5, 5)
        >>> local_attention(query, keys, torch.ones(1, 2, 3, 5, 5), radius_px=1).shape
        torch.Size([1, 3, 5, 5])
    """
    _check(query, keys, values, radius_px)
    if border not in ("zero", "mask"):
        raise ValueError(f'border must be "zero" or "mask", got {border!r}')
    tiling = _Tiling(query.shape[2], query.shape[3], radius_px, keys.shape[1])
    precise = torch.float64 if query.dtype == torch.float64 else torch.float32
    # Scores reach the hundreds, where a half has no digits left for the softmax.
    with without_autocast(query.device.type):
        query, keys = query.to(precise), keys.to(precise)
        constant = None if constant is None else constant.to(precise)
        samples, columns, channels = tiling.parts(query, values)
        window_QN = tiling.window_mask(query)
        parts = []
        for sample in range(0, len(query), samples):
            part = slice(sample, sample + samples)
            strips = []
            for strip in tiling.strips(columns):
                weights = _weigh(
                    query[part], keys[part], strip, window_QN, border=border, constant=constant
                )
                strips.append(_read(weights, values[part], strip, channels))
            parts.append(strips[0] if len(strips) == 1 else torch.cat(strips, 2))
    read = parts[0] if len(parts) == 1 else torch.cat(parts)
    return read.movedim(-1, 1)


def local_scores(query: Tensor, keys: Tensor, *, radius_px: int) -> Tensor:
    """The dot products whose softmax `local_attention` takes, each at its place.

    LMANet's correlation (models/correlation.py). To look at an attention; it takes P * P / Q times
    the memory of the attention itself.

    Args:
        query: (B, d, h, w).
        keys: (B, K, d, h, w).
        radius_px: half side of the window on the map.

    Returns:
        (B, K, P * P, h, w): channel i * P + j at (y, x) is the product of the query there and the
        key at (y + i - radius, x + j - radius), 0 outside the map.

    Raises:
        ValueError: the shapes disagree, or the radius is negative.
    """
    _check(query, keys, keys, radius_px)
    tiling = _Tiling(query.shape[2], query.shape[3], radius_px, keys.shape[1])
    halo, index_QM = tiling.halo(keys), tiling.window_index(query.device)
    rows = []
    for row, query_Qd in enumerate(tiling.tiles(query)):
        scores_QN = torch.bmm(query_Qd, tiling.seen(halo, row).transpose(1, 2))
        rows.append(scores_QN.gather(2, index_QM.expand(len(scores_QN), -1, -1)))
    return tiling.join(rows, len(query)).movedim(-1, 1).unflatten(1, (keys.shape[1], -1))


@dataclass(frozen=True)
class _Tiling:
    """Tiles on a map, or on a strip of it: tile columns `first` up to `last`."""

    height: int
    width: int
    radius: int
    frames: int
    first: int = 0
    last: int | None = None

    @property
    def rows(self) -> int:
        return -(-self.height // TILE_HEIGHT)

    @property
    def columns(self) -> range:
        whole = -(-self.width // TILE_WIDTH)
        return range(self.first, whole if self.last is None else min(self.last, whole))

    @property
    def halo_size(self) -> tuple[int, int]:
        return TILE_HEIGHT + 2 * self.radius, TILE_WIDTH + 2 * self.radius

    def strips(self, columns: int) -> Iterator["_Tiling"]:
        """Cut into strips of so many tile columns."""
        for first in self.columns[::columns]:
            yield _Tiling(self.height, self.width, self.radius, self.frames, first, first + columns)

    def parts(self, query: Tensor, values: Tensor) -> tuple[int, int, int]:
        """Count the samples, tile columns and value channels that fit into CHUNK_BYTES."""
        tile_height, tile_width = self.halo_size
        whole, channels = len(self.columns), values.shape[2]
        line = self.frames * tile_width * query.element_size()
        # Of a tile column: its halo and the map that this is cut from; scores of a row, twice, and
        # their softmax.
        halo = (self.rows * TILE_HEIGHT + 2 * self.radius) * line * (tile_width + TILE_WIDTH)
        halo //= tile_width
        scores = 3 * TILE_HEIGHT * TILE_WIDTH * tile_height * line
        fitting = CHUNK_BYTES // (halo * (query.shape[1] + channels) + scores)
        if fitting >= whole:
            return fitting // whole, whole, channels
        if fitting:
            return 1, -(-whole // -(-whole // fitting)), channels
        return 1, 1, min(max(CHUNK_BYTES // 2 // halo, 32), channels)

    def tiles(self, maps: Tensor) -> Tensor:
        """(B, D, h, w) -> (tile rows, B * C, Q, D)."""
        left, right = self.columns.start * TILE_WIDTH, self.columns.stop * TILE_WIDTH
        missing = max(right - self.width, 0)
        pad = (0, missing, 0, self.rows * TILE_HEIGHT - self.height)
        strip = F.pad(maps[..., left : right - missing], pad)
        cut = strip.unflatten(3, (-1, TILE_WIDTH)).unflatten(2, (-1, TILE_HEIGHT))
        return cut.permute(2, 0, 4, 3, 5, 1).flatten(3, 4).flatten(1, 2)

    def join(self, rows: list[Tensor], batch: int) -> Tensor:
        """Tile rows of (B * C, Q, D) -> (B, h, the strip's width, D), the inverse of `tiles`."""
        cut = torch.stack(rows).unflatten(2, (TILE_HEIGHT, TILE_WIDTH)).unflatten(1, (batch, -1))
        strip = cut.permute(1, 0, 3, 2, 4, 5).flatten(3, 4).flatten(1, 2)
        width = self.width - self.columns.start * TILE_WIDTH
        return strip[:, : self.height, :width]

    def halo(self, maps: Tensor, *, has_edge: bool = False) -> Tensor:
        """(B, K, D, h, w) -> (B * C, rows, K, columns that a tile sees, D).

        Only columns are repeated: what a tile sees is then a slice of rows, and a view. With an
        edge there is one channel more: 0 on the map, outside as far below as softmax needs.
        """
        repeated = self._repeat(maps, 0.0)
        if has_edge:
            inside = maps.new_zeros(1, 1, 1, *maps.shape[-2:]).expand(*maps.shape[:2], -1, -1, -1)
            # Finite: a pixel that only fills up a tile may see nothing but outside.
            edge = self._repeat(inside, torch.finfo(maps.dtype).min / 4)
            repeated = torch.cat([repeated, edge], -1)
        return repeated.contiguous().flatten(0, 1)

    def _repeat(self, maps: Tensor, outside: float) -> Tensor:
        columns, radius = self.columns, self.radius
        first, last = columns.start * TILE_WIDTH - radius, columns.stop * TILE_WIDTH + radius
        left, right = max(-first, 0), max(last - self.width, 0)
        below = radius + self.rows * TILE_HEIGHT - self.height
        strip = maps[..., first + left : last - right].movedim(2, -1)
        padded = F.pad(strip, (0, 0, left, right, radius, below), value=outside)
        return padded.unfold(3, self.halo_size[1], TILE_WIDTH).permute(0, 3, 2, 1, 5, 4)

    def seen(self, halo: Tensor, row: int) -> Tensor:
        """The halo of tile row `row`: (B * C, N, D), a view."""
        top = row * TILE_HEIGHT
        return halo[:, top : top + self.halo_size[0]].flatten(1, 3)

    def window_index(self, device: torch.device) -> Tensor:
        """(Q, K * P * P): where in N each pixel of a tile has its windows, by frame and place."""
        height, width = self.halo_size
        place = torch.arange(height * self.frames * width, device=device)
        windows = place.view(height, self.frames, width)
        windows = windows.unfold(0, 2 * self.radius + 1, 1).unfold(2, 2 * self.radius + 1, 1)
        return windows.permute(0, 2, 1, 3, 4).flatten(2).flatten(0, 1)

    def window_mask(self, like: Tensor) -> Tensor:
        """(Q, N): 0 inside each pixel's window, -inf elsewhere."""
        height, width = self.halo_size
        size = (TILE_HEIGHT * TILE_WIDTH, height * self.frames * width)
        mask = like.new_full(size, -math.inf)
        return mask.scatter(1, self.window_index(like.device), 0.0)


def _weigh(
    query: Tensor,
    keys: Tensor,
    strip: _Tiling,
    window_QN: Tensor,
    *,
    border: Border,
    constant: Tensor | None,
) -> Iterator[Tensor]:
    """The softmax of each tile row of a strip, (B * C, Q, N), one at a time."""
    has_edge = border == "mask"
    halo, tiles = strip.halo(keys, has_edge=has_edge), strip.tiles(query)
    if has_edge:
        tiles = torch.cat([tiles, torch.ones_like(tiles[..., :1])], -1)
    for row, query_Qd in enumerate(tiles):
        scores = torch.baddbmm(window_QN, query_Qd, strip.seen(halo, row).transpose(1, 2))
        if constant is not None:
            further = constant.view(1, 1, 1).expand(*scores.shape[:2], 1)
            yield torch.cat([scores, further], -1).softmax(-1)[..., :-1]
            continue
        weights = scores.softmax(-1)
        del scores  # not to be held while the weights are used
        yield weights


def _read(weights: Iterator[Tensor], values: Tensor, strip: _Tiling, channels: int) -> Tensor:
    """Sum a strip's values with the weights of each tile row; so many channels at a time."""
    groups = values.split(channels, 2)
    # Kept only where they are needed more than once.
    kept = weights if len(groups) == 1 else list(weights)
    sums = []
    for group in groups:
        halo = strip.halo(group)
        rows = [
            torch.bmm(weights_QN.to(values.dtype), strip.seen(halo, row))
            for row, weights_QN in enumerate(kept)
        ]
        sums.append(strip.join(rows, len(values)))
    return sums[0] if len(sums) == 1 else torch.cat(sums, 3)


def _check(query: Tensor, keys: Tensor, values: Tensor, radius_px: int) -> None:
    same = (keys.shape[0], keys.shape[1], *keys.shape[3:])
    if (
        query.dim() != 4
        or keys.dim() != 5
        or query.shape != (keys.shape[0], *keys.shape[2:])
        or same != (values.shape[0], values.shape[1], *values.shape[3:])
    ):
        raise ValueError(
            f"query {tuple(query.shape)}, keys {tuple(keys.shape)} and values "
            f"{tuple(values.shape)} must be (B, d, h, w), (B, K, d, h, w) and (B, K, D, h, w)"
        )
    if not keys.numel():
        raise ValueError(f"keys {tuple(keys.shape)} hold no frame to read, or no pixel")
    if radius_px < 0:
        raise ValueError(f"radius_px must be 0 or more, got {radius_px}")

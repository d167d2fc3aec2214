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
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Border = Literal["zero", "mask"]

CHUNK_BYTES = 2**26
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
    with _without_autocast(query.device.type):
        query, keys = query.to(precise), keys.to(precise)
        constant = None if constant is None else constant.to(precise)
        samples, tile_rows, channels = tiling.parts(query, values)
        window_QN = tiling.window_mask(query)
        parts = []
        for sample in range(0, len(query), samples):
            part = slice(sample, sample + samples)
            bands = []
            for band in tiling.bands(tile_rows):
                weights = _weigh(
                    query[part], keys[part], band, window_QN, border=border, constant=constant
                )
                bands.append(_read(weights, values[part], band, channels))
            parts.append(bands[0] if len(bands) == 1 else torch.cat(bands, 2))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


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
    return tiling.join(rows, len(query)).unflatten(1, (keys.shape[1], -1))


def local_sum(weights: Tensor, values: Tensor, *, radius_px: int) -> Tensor:
    """The sum of the values in each pixel's windows, with weights of its own.

    Args:
        weights: (B, K, P * P, h, w), channels as those of `local_scores`.
        values: (B, K, D, h, w).
        radius_px: half side of the window on the map.

    Returns:
        (B, D, h, w).

    Raises:
        ValueError: the shapes disagree, or the radius is negative.
    """
    _check(weights[:, 0], weights, values, radius_px)
    if weights.shape[2] != (2 * radius_px + 1) ** 2:
        raise ValueError(
            f"weights must be (B, K, {(2 * radius_px + 1) ** 2}, h, w) for radius_px={radius_px}, "
            f"got {tuple(weights.shape)}"
        )
    tiling = _Tiling(values.shape[3], values.shape[4], radius_px, values.shape[1])
    halo, index_QM = tiling.halo(values), tiling.window_index(values.device)
    rows = []
    for row, weights_QM in enumerate(tiling.tiles(weights.flatten(1, 2))):
        seen_ND = tiling.seen(halo, row)
        dense_QN = weights_QM.new_zeros(*weights_QM.shape[:2], seen_ND.shape[1])
        index = index_QM.expand(len(dense_QN), -1, -1)
        rows.append(torch.bmm(dense_QN.scatter(2, index, weights_QM), seen_ND))
    return tiling.join(rows, len(values))


@dataclass(frozen=True)
class _Tiling:
    """Rows of tiles on a map, or on a band of it: tile rows `first` up to `last`."""

    height: int
    width: int
    radius: int
    frames: int
    first: int = 0
    last: int | None = None

    @property
    def tile_rows(self) -> range:
        whole = -(-self.height // TILE_HEIGHT)
        return range(self.first, whole if self.last is None else min(self.last, whole))

    @property
    def columns(self) -> int:
        return -(-self.width // TILE_WIDTH)

    @property
    def halo_size(self) -> tuple[int, int]:
        return TILE_HEIGHT + 2 * self.radius, TILE_WIDTH + 2 * self.radius

    def bands(self, tile_rows: int) -> Iterator["_Tiling"]:
        """Cut into bands of so many tile rows."""
        for first in self.tile_rows[::tile_rows]:
            yield _Tiling(
                self.height, self.width, self.radius, self.frames, first, first + tile_rows
            )

    def parts(self, query: Tensor, values: Tensor) -> tuple[int, int, int]:
        """How many samples, tile rows and value channels fit into CHUNK_BYTES at a time."""
        tile_height, tile_width = self.halo_size
        num_rows, channels = len(self.tile_rows), values.shape[2]
        line = self.frames * self.columns * tile_width * query.element_size()
        scores = line * tile_height * TILE_HEIGHT * TILE_WIDTH
        padded = num_rows * TILE_HEIGHT + 2 * self.radius
        sample = padded * line * (query.shape[1] + channels) + 2 * scores
        if sample <= CHUNK_BYTES:
            return CHUNK_BYTES // sample, num_rows, channels
        # A quarter each for scores and halo; padding, softmax and sums need about as much again.
        rows = min(max(CHUNK_BYTES // 4 // scores, 1), num_rows)
        fitting = CHUNK_BYTES // 4 // (line * (rows * TILE_HEIGHT + 2 * self.radius))
        return 1, rows, min(max(fitting, 32), channels)

    def tiles(self, maps: Tensor) -> Tensor:
        """(B, D, h, w) -> (tile rows, B * C, Q, D)."""
        rows, columns = self.tile_rows, self.columns
        top, bottom = rows.start * TILE_HEIGHT, rows.stop * TILE_HEIGHT
        missing = max(bottom - self.height, 0)
        pad = (0, columns * TILE_WIDTH - self.width, 0, missing)
        band = F.pad(maps[..., top : bottom - missing, :], pad)
        cut = band.unflatten(3, (columns, TILE_WIDTH)).unflatten(2, (len(rows), TILE_HEIGHT))
        return cut.permute(2, 0, 4, 3, 5, 1).flatten(3, 4).flatten(1, 2)

    def join(self, rows: list[Tensor], batch: int) -> Tensor:
        """Tile rows of (B * C, Q, D) -> (B, D, the band's height, w), the inverse of `tiles`."""
        cut = torch.stack(rows).unflatten(2, (TILE_HEIGHT, TILE_WIDTH)).unflatten(1, (batch, -1))
        band = cut.permute(1, 5, 0, 3, 2, 4).flatten(4, 5).flatten(2, 3)
        height = self.height - self.tile_rows.start * TILE_HEIGHT
        return band[..., :height, : self.width]

    def halo(self, maps: Tensor, outside: float = 0.0) -> Tensor:
        """(B, K, D, h, w) -> (B * C, rows, K, columns that a tile sees, D).

        Only columns are repeated: what a tile sees is then a slice of rows, and a view.
        """
        rows, radius = self.tile_rows, self.radius
        top, bottom = rows.start * TILE_HEIGHT - radius, rows.stop * TILE_HEIGHT + radius
        above, below = max(-top, 0), max(bottom - self.height, 0)
        right = radius + self.columns * TILE_WIDTH - self.width
        band = maps[..., top + above : bottom - below, :]
        padded = F.pad(band, (radius, right, above, below), value=outside)
        repeated = padded.unfold(4, self.halo_size[1], TILE_WIDTH)
        return repeated.permute(0, 4, 3, 1, 5, 2).contiguous().flatten(0, 1)

    def seen(self, halo: Tensor, row: int) -> Tensor:
        """What the tiles of the band's row number `row` see: (B * C, N, D), a view."""
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
    band: _Tiling,
    window_QN: Tensor,
    *,
    border: Border,
    constant: Tensor | None,
) -> Iterator[Tensor]:
    """The softmax of each tile row of a band, (B * C, Q, N), one at a time."""
    halo = band.halo(keys)
    edge = None
    if border == "mask":
        # Finite: a pixel that only fills up a tile may see nothing but outside.
        inside = query.new_zeros(1, 1, 1, *query.shape[-2:]).expand(1, band.frames, 1, -1, -1)
        edge = band.halo(inside, outside=torch.finfo(query.dtype).min / 4)
    for row, query_Qd in enumerate(band.tiles(query)):
        mask = window_QN
        if edge is not None:
            edge_1N = band.seen(edge, row).transpose(1, 2)
            mask = (window_QN + edge_1N).repeat(len(query), 1, 1)
        scores = torch.baddbmm(mask, query_Qd, band.seen(halo, row).transpose(1, 2))
        if constant is None:
            yield scores.softmax(-1)
        else:
            further = constant.view(1, 1, 1).expand(*scores.shape[:2], 1)
            yield torch.cat([scores, further], -1).softmax(-1)[..., :-1]


def _read(weights: Iterator[Tensor], values: Tensor, band: _Tiling, channels: int) -> Tensor:
    """Sum a band's values with the weights of each tile row; so many channels at a time."""
    groups = values.split(channels, 2)
    # Kept only where they are needed more than once.
    kept = weights if len(groups) == 1 else list(weights)
    sums = []
    for group in groups:
        halo = band.halo(group)
        rows = [
            torch.bmm(weights_QN.to(values.dtype), band.seen(halo, row))
            for row, weights_QN in enumerate(kept)
        ]
        sums.append(band.join(rows, len(values)))
    return sums[0] if len(sums) == 1 else torch.cat(sums, 1)


def _without_autocast(device: str) -> AbstractContextManager[object]:
    """Scores reach the hundreds, where a half has no digits left for the softmax."""
    if device != "meta" and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()


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
    if radius_px < 0:
        raise ValueError(f"radius_px must be 0 or more, got {radius_px}")

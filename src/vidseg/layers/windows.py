"""Cross-frame attention of a frame's windows: CFFM's coarse-to-fine features, mined.

Sun, Liu, Ding, Probst and Van Gool, "Coarse-to-Fine Feature Mining for Video Semantic
Segmentation", CVPR 2022; matches GuoleiSun/VSS-CFFM at a3e4595, written from a description of it.

A map is cut into windows of 7 x 7. Each of a window's 49 pixels attends to 289 keys:

    own      49  the window itself
    rolled  132  the ring around it, 3 wide, of the target; in four corners that overlap
    pooled   25  the 5 x 5 windows around it, each pooled to one token
    oldest   49  of the oldest frame, 7 x 7 tokens of one window each
    middle   25  5 x 5 tokens of half a window's side
    nearest   9  3 x 3 tokens of a third of a window's side

What published weights rely on, though it looks like a mistake: the ring wraps around at the border
of the map, as on a torus, and 12 of its pixels are there twice; what pads the map to whole windows
takes part as keys; the tokens of the middle and the nearest frame sit off the window's centre,
towards top and left; and a window of these two frames is resampled from 7 to 6 px before pooling.

N streams, h w the map, H W padded to whole windows, P windows, M heads, d channels of a head,
Q = 49 queries, K = 289 keys, R rows that keys are taken from.
"""

import itertools
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

WINDOW = 7
ROLL = 3
OUTSIDE = -100.0
"""Added to the scores of tokens beyond the border of a pooled map."""

Grid = tuple[int, int]


class Level(NamedTuple):
    """The coarseness and the reach at which a frame is read.

    Attributes:
        cells: tokens along a side of a window.
        pooled: pixels along a side of a token.
        reach: tokens along the side of what a window sees.
    """

    cells: int
    pooled: int
    reach: int


TARGET_LEVEL = Level(1, 7, 5)
REFERENCE_LEVELS = (Level(1, 7, 7), Level(2, 3, 5), Level(3, 2, 3))
"""Of the oldest, the middle and the nearest reference."""
LEVELS = (TARGET_LEVEL, *REFERENCE_LEVELS)


def window_grid(size: Grid) -> Grid:
    """Windows along each side of a map of (h, w)."""
    return -(-size[0] // WINDOW), -(-size[1] // WINDOW)


def relative_index(reach: int) -> np.ndarray:
    """Index the bias table by a window's pixel and a token that it reads.

    Args:
        reach: tokens along the side of what a window sees.

    Returns:
        (49, reach^2) int64, smaller than (6 + reach)^2.
    """
    query, key = np.arange(WINDOW), np.arange(reach)
    away = query[:, None] - key[None, :] + reach - 1
    rows, columns = away[:, None, :, None], away[None, :, None, :]
    return (rows * (WINDOW - 1 + reach) + columns).reshape(WINDOW**2, reach**2)


def rolled_index() -> np.ndarray:
    """Index the pixels of the four rolled windows that count.

    Returns:
        (132,) int64, of 4 x 49, top left, top right, bottom left, bottom right: those of each that
        lie outside of the window itself.
    """
    low, high = range(ROLL + 1), range(ROLL, WINDOW)
    corners = [(rows, columns) for rows in (low, high) for columns in (low, high)]
    places = itertools.product(corners, range(WINDOW), range(WINDOW))
    return np.array(
        [k for k, ((rows, cols), y, x) in enumerate(places) if y not in rows or x not in cols]
    )


def key_rows(grid: Grid, device: torch.device) -> tuple[Tensor, Tensor]:
    """Index the rows that are the keys of each window.

    Rows are, in this order: the pixels of the padded target, its pooled tokens, those of the three
    references, each row by row, and one row of zeros.

    Args:
        grid: windows along each side.
        device: where the answers are wanted.

    Returns:
        (P, 289) int64, and (P, 289) float32, what is added to their scores: 0 or OUTSIDE.
    """
    index = torch.from_numpy(_row_numbers(grid)).to(device)
    return index, torch.where(index == _zero_row(grid), OUTSIDE, 0.0)


# Numbers, not tensors: a tensor made while a step is traced or exported is a fake one, and one of
# an inference serves no training; kept in a cache it would reach every later call.
@lru_cache(maxsize=16)
def _row_numbers(grid: Grid) -> np.ndarray:
    height, width = grid[0] * WINDOW, grid[1] * WINDOW
    down, right = (places.reshape(-1, 1) for places in np.indices(grid))  # of the P windows
    inside = np.arange(WINDOW)

    def pixels(y: int, x: int) -> np.ndarray:
        rows = (down * WINDOW + inside + y) % height
        columns = (right * WINDOW + inside + x) % width
        return (rows[:, :, None] * width + columns[:, None, :]).reshape(len(down), -1)

    corners = [pixels(y, x) for y in (ROLL, -ROLL) for x in (ROLL, -ROLL)]
    parts = [pixels(0, 0), np.concatenate(corners, 1)[:, rolled_index()]]
    first = height * width
    for level in LEVELS:
        tokens_high, tokens_wide = grid[0] * level.cells, grid[1] * level.cells
        away = np.arange(level.reach) - level.reach // 2
        rows = (down * level.cells + away)[:, :, None]
        columns = (right * level.cells + away)[:, None, :]
        is_in = (rows >= 0) & (rows < tokens_high) & (columns >= 0) & (columns < tokens_wide)
        index = np.where(is_in, first + rows * tokens_wide + columns, _zero_row(grid))
        parts.append(index.reshape(len(down), -1))
        first += tokens_high * tokens_wide
    return np.concatenate(parts, 1)


def _zero_row(grid: Grid) -> int:
    """The row of zeros: the one after all pixels and tokens."""
    return grid[0] * grid[1] * (WINDOW**2 + sum(level.cells**2 for level in LEVELS))


def pad_to_windows(x: Tensor) -> Tensor:
    """(N, h, w, D) -> (N, H, W, D), zeros at the right and the bottom."""
    below, right = (-side % WINDOW for side in x.shape[1:3])
    return F.pad(x, (0, 0, 0, right, 0, below)) if below or right else x


def pool(x: Tensor, layer: nn.Linear, side: int) -> Tensor:
    """Weigh the pixels of each `side` x `side` cell, all channels alike.

    Args:
        x: (N, H, W, D), whole cells.
        layer: from side^2 pixels, row by row, to 1.
        side: of a cell, in pixels.

    Returns:
        (N, H / side, W / side, D).
    """
    cells = x.unflatten(2, (-1, side)).unflatten(1, (-1, side))
    weight = layer.weight.view(side, side)
    return torch.einsum("nistjd,st->nijd", cells.transpose(3, 4), weight) + layer.bias


class WindowMining(nn.Module):
    """One block: a frame's windows attend to themselves and to three references, then an MLP.

    The references pass through unchanged, so what a block needs of them depends on them alone:
    `references` gives it, once a frame.

    Args:
        channels: D.
        heads: M.
        mlp_ratio: width inside the MLP, in D.

    Raises:
        ValueError: the heads do not divide the channels.
    """

    def __init__(self, channels: int = 256, heads: int = 8, mlp_ratio: int = 4) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"{heads} heads cannot share {channels} channels evenly")
        self.heads = heads
        self.norm1 = nn.LayerNorm(channels)
        self.pool_target = _mean_layer(TARGET_LEVEL)
        self.pool_references = nn.ModuleList(_mean_layer(level) for level in REFERENCE_LEVELS)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.own_bias = nn.Parameter(torch.zeros((2 * WINDOW - 1) ** 2, heads))
        num_rolled = 4 * (WINDOW**2 - (ROLL + 1) ** 2)
        self.rolled_bias = nn.Parameter(torch.empty(1, heads, WINDOW**2, num_rolled))
        self.target_bias = nn.Parameter(_table(heads, TARGET_LEVEL))
        self.reference_biases = nn.ParameterList(_table(heads, k) for k in REFERENCE_LEVELS)
        for table in (self.rolled_bias, self.target_bias, *self.reference_biases):
            nn.init.trunc_normal_(table, std=0.02)
        # Constant, so they are in no state dict of ours.
        for reach in sorted({WINDOW, *(level.reach for level in LEVELS)}):
            index = torch.from_numpy(relative_index(reach))
            self.register_buffer(f"index_{reach}", index, persistent=False)
        self.norm2 = nn.LayerNorm(channels)
        self.fc1 = nn.Linear(channels, mlp_ratio * channels)
        self.fc2 = nn.Linear(mlp_ratio * channels, channels)

    def references(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute what later frames read of these: keys and values as oldest, middle and nearest.

        Args:
            x: (N, h, w, D).

        Returns:
            For each level (N, M, rows, columns, 2 d): tokens' keys, then their values.
        """
        x = pad_to_windows(self.norm1(x))
        maps = []
        for layer, level in zip(self.pool_references, REFERENCE_LEVELS, strict=True):
            tokens = self.pool_reference(x, layer, level)  # pyright: ignore[reportArgumentType]
            maps.append(self._keys_and_values(tokens))
        return tuple(maps)

    def pool_reference(self, x: Tensor, layer: nn.Linear, level: Level) -> Tensor:
        """(N, H, W, D), padded, -> tokens (N, rows, columns, D) of a level."""
        side = level.cells * level.pooled
        if side != WINDOW:
            size = [pixels // WINDOW * side for pixels in x.shape[1:3]]
            resized = F.interpolate(x.permute(0, 3, 1, 2), size, mode="bilinear")
            x = resized.permute(0, 2, 3, 1)
        return pool(x, layer, level.pooled)

    def forward(self, target: Tensor, references: tuple[Tensor, ...]) -> Tensor:
        """Mine the target's own surroundings and the references.

        Args:
            target: (N, h, w, D).
            references: what `references` gave of the oldest, the middle and the nearest frame, a
                level of each.

        Returns:
            (N, h, w, D).
        """
        windows = self.attend(pad_to_windows(self.norm1(target)), references)
        x = target + _to_map(windows, (target.shape[1], target.shape[2]))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))

    def attend(self, x: Tensor, references: tuple[Tensor, ...]) -> Tensor:
        """Attend from each pixel of a padded target (N, H, W, D); -> (N, P, 49, D), by windows."""
        query, rows = self.queries_and_rows(x, references)
        index, outside = key_rows(window_grid((x.shape[1], x.shape[2])), x.device)
        bias = self.bias()
        if x.device.type == "cpu":
            # One head at a time stays in the processor's cache: twice as fast as all at once.
            heads = zip(query.unbind(1), rows.unbind(1), bias, strict=True)
            read = torch.stack([_read_head(*head, index, outside) for head in heads], 3)
        else:
            read = _read_heads(query, rows, bias, index, outside)
        return self.proj(read.flatten(3))

    def queries_and_rows(self, x: Tensor, references: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Queries of a padded target (N, H, W, D), and the rows that keys are taken from.

        Returns:
            (N, M, P, 49, d), scaled, and (N, M, R, 2 d), keys and then values, in the order of
            `key_rows`.
        """
        query, keys, values = self.qkv(x).unflatten(3, (3, self.heads, -1)).unbind(3)
        scaled = query * query.shape[-1] ** -0.5
        windows = scaled.unflatten(2, (-1, WINDOW)).unflatten(1, (-1, WINDOW))
        query = windows.permute(0, 5, 1, 3, 2, 4, 6).flatten(4, 5).flatten(2, 3)
        own = torch.cat([keys, values], 4).flatten(1, 2).transpose(1, 2)
        pooled = self._keys_and_values(pool(x, self.pool_target, WINDOW))
        rows = [own, *(tokens.flatten(2, 3) for tokens in (pooled, *references))]
        return query, torch.cat([*rows, torch.zeros_like(own[:, :, :1])], 2)

    def bias(self) -> Tensor:
        """(M, 49, 289): what is added to the scores for the places of pixel and key."""
        tables = zip((self.target_bias, *self.reference_biases), LEVELS, strict=True)
        own = self.own_bias.t()[:, self._index(WINDOW)]
        pooled = [table[:, self._index(level.reach)] for table, level in tables]
        return torch.cat([own, self.rolled_bias[0], *pooled], 2)

    def _index(self, reach: int) -> Tensor:
        return self.get_buffer(f"index_{reach}")

    def _keys_and_values(self, tokens: Tensor) -> Tensor:
        """(N, rows, columns, D) -> (N, M, rows, columns, 2 d)."""
        channels = tokens.shape[-1]
        both = F.linear(tokens, self.qkv.weight[channels:], self.qkv.bias[channels:])
        return both.unflatten(3, (2, self.heads, -1)).permute(0, 4, 1, 2, 3, 5).flatten(4)


def _read_head(query: Tensor, rows: Tensor, bias: Tensor, index: Tensor, outside: Tensor) -> Tensor:
    """One head: (N, P, 49, d) queries, (N, R, 2 d) rows, (49, 289) bias -> (N, P, 49, d)."""
    taken = rows.index_select(1, index.flatten()).unflatten(1, index.shape)
    keys, values = taken.chunk(2, 3)
    scores = query @ keys.transpose(2, 3) + bias + outside[:, None].to(query.dtype)
    return scores.softmax(3) @ values


def _read_heads(
    query: Tensor, rows: Tensor, bias: Tensor, index: Tensor, outside: Tensor
) -> Tensor:
    """All heads: (N, M, P, 49, d), (N, M, R, 2 d), (M, 49, 289) -> (N, P, 49, M, d)."""
    taken = rows.index_select(2, index.flatten()).unflatten(2, index.shape)
    keys, values = (x.transpose(1, 2).flatten(0, 1) for x in taken.chunk(2, 4))
    queries = query.transpose(1, 2).flatten(0, 1)
    scores = (bias + outside[:, None, None]).to(query.dtype).repeat(query.shape[0], 1, 1, 1)
    read = F.scaled_dot_product_attention(queries, keys, values, attn_mask=scores, scale=1.0)
    return read.unflatten(0, (query.shape[0], -1)).transpose(2, 3)


def _to_map(windows: Tensor, size: Grid) -> Tensor:
    """(N, P, 49, D) -> (N, h, w, D), without what padded it."""
    x = windows.unflatten(2, (WINDOW, WINDOW)).unflatten(1, window_grid(size))
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)[:, : size[0], : size[1]]


def _mean_layer(level: Level) -> nn.Linear:
    """A pooling layer that starts as the mean."""
    layer = nn.Linear(level.pooled**2, 1)
    nn.init.constant_(layer.weight, level.pooled**-2)
    nn.init.zeros_(layer.bias)
    return layer


def _table(heads: int, level: Level) -> Tensor:
    return torch.empty(heads, (WINDOW - 1 + level.reach) ** 2)

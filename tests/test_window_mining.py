"""CFFM's block against the same in other words: maps that are rolled, cut and unfolded."""

import pytest
import torch
from settled import settle
from torch.nn import functional as F

from vidseg.layers.windows import WindowMining

LOW, HIGH = range(4), range(3, 7)
# (down, right) of the roll -> rows and columns of the rolled window that lie in the window itself
CORNERS = {(-3, -3): (LOW, LOW), (-3, 3): (LOW, HIGH), (3, -3): (HIGH, LOW), (3, 3): (HIGH, HIGH)}
LEVELS = ((1, 7, 5), (1, 7, 7), (2, 3, 5), (3, 2, 3))  # tokens a side, px a token, reach


def cut(x):
    """(N, H, W, D) -> (N, P, 49, D)."""
    x = x.unflatten(2, (-1, 7)).unflatten(1, (-1, 7))
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def unfold(x, cells, reach):
    """(N, rows, columns, D) -> (N, P, reach^2, D), zeros outside."""
    tokens = F.unfold(x.permute(0, 3, 1, 2), reach, stride=cells, padding=reach // 2)
    return tokens.unflatten(1, (x.shape[3], reach**2)).permute(0, 3, 2, 1)


def rolled(x):
    """(N, H, W, D) -> (N, P, 132, D)."""
    parts = []
    for (down, right), (rows, columns) in CORNERS.items():
        kept = [k for k in range(49) if k // 7 not in rows or k % 7 not in columns]
        parts.append(cut(torch.roll(x, (down, right), (1, 2)))[:, :, kept])
    return torch.cat(parts, 2)


def bias_of(table, reach):
    """(M, (6 + reach)^2) -> (M, 49, reach^2), by the places of pixel and token."""
    places = [(k // 7, k % 7) for k in range(49)]
    tokens = [(k // reach, k % reach) for k in range(reach**2)]
    index = [
        [(y - v + reach - 1) * (6 + reach) + x - u + reach - 1 for v, u in tokens]
        for y, x in places
    ]
    return table[:, torch.tensor(index)]


def tokens_of(block, x, layer, level):
    """(N, H, W, D) -> (N, rows, columns, 3 D): queries, keys and values of a level's tokens."""
    cells, side, _ = level
    size = [pixels // 7 * cells * side for pixels in x.shape[1:3]]
    if size != list(x.shape[1:3]):
        x = F.interpolate(x.permute(0, 3, 1, 2), size, mode="bilinear").permute(0, 2, 3, 1)
    pixels = x.unflatten(2, (-1, side)).unflatten(1, (-1, side)).transpose(2, 3).flatten(3, 4)
    return block.qkv(layer(pixels.transpose(3, 4)).squeeze(4))


def mine(block, clip):
    """(N, 4, h, w, D), oldest first -> the last frame, refined."""
    height, width = clip.shape[2:4]
    padded = F.pad(block.norm1(clip), (0, 0, 0, -width % 7, 0, -height % 7))
    target = padded[:, 3]
    query, keys, values = block.qkv(target).chunk(3, 3)
    key_parts, value_parts = ([cut(x), rolled(x)] for x in (keys, values))
    biases = [bias_of(block.own_bias.t(), 7), block.rolled_bias[0]]
    outside = [torch.zeros(cut(query).shape[1], 49 + 132)]
    sources = (target, *padded[:, :3].unbind(1))
    layers = (block.pool_target, *block.pool_references)
    tables = (block.target_bias, *block.reference_biases)
    for source, layer, table, level in zip(sources, layers, tables, LEVELS, strict=True):
        cells, _, reach = level
        tokens = tokens_of(block, source, layer, level)
        _, keys, values = (unfold(x, cells, reach) for x in tokens.chunk(3, 3))
        key_parts.append(keys)
        value_parts.append(values)
        biases.append(bias_of(table, reach))
        is_in = unfold(torch.ones_like(tokens[:1, ..., :1]), cells, reach)[0, :, :, 0]
        outside.append(torch.where(is_in > 0, 0.0, -100.0))
    query, keys, values = (
        torch.cat(parts, 2).unflatten(3, (block.heads, -1)).transpose(2, 3)
        for parts in ([cut(query)], key_parts, value_parts)
    )
    scores = (query / query.shape[-1] ** 0.5) @ keys.transpose(3, 4)
    scores = scores + torch.cat(biases, 2) + torch.cat(outside, 1)[None, :, None, None]
    read = block.proj((scores.softmax(4) @ values).transpose(2, 3).flatten(3))
    across = (target.shape[1] // 7, target.shape[2] // 7)
    read = read.unflatten(2, (7, 7)).unflatten(1, across).transpose(2, 3)
    x = clip[:, 3] + read.flatten(3, 4).flatten(1, 2)[:, :height, :width]
    return x + block.fc2(F.gelu(block.fc1(block.norm2(x))))


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (4, 13), (14, 9), (22, 8)])
def test_a_block_in_other_words(size):
    """Also on maps smaller than a window, where the ring wraps around within it."""
    block = settle(WindowMining(8, 2)).double()
    generator = torch.Generator().manual_seed(0)
    clip = torch.randn(2, 4, *size, 8, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        references = tuple(block.references(clip[:, k])[k] for k in range(3))
        torch.testing.assert_close(block(clip[:, 3], references), mine(block, clip))

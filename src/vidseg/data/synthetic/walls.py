"""The long walls of the street: houses, railings, fences and hedges, with side streets between."""

import numpy as np

from vidseg.data.synthetic import sprites
from vidseg.data.synthetic.sprites import BUILDING, EMPTY, FENCE, TREE, Texture, patch_of_grain

LOOP_M = 160.0
# Side streets cross the loop here; each is `2 * SIDE_STREET_M` wide.
CROSSINGS_M = (44.0, 121.0)
SIDE_STREET_M = 5.0
WALL_TEXELS_PER_M = 8.0
FACADES = np.array(
    [(158, 92, 72), (196, 176, 146), (176, 166, 150), (206, 196, 176), (136, 120, 108),
     (184, 148, 112), (150, 156, 160), (122, 84, 70), (214, 206, 192), (168, 136, 122)], float
)  # fmt: skip


def wall(rng: np.random.Generator, *, shade: float, behind: bool = False) -> Texture:
    """One side of the whole loop.

    Args:
        rng: draws what stands where.
        shade: brightness, 1 in the sun.
        behind: the second row, seen through the gaps of the first: houses and hedges alone.
    """
    scale = WALL_TEXELS_PER_M / 2 if behind else WALL_TEXELS_PER_M
    length, height = int(LOOP_M * scale), int(16 * scale)
    colours = np.zeros((height, length, 3), np.float32)
    labels = np.full((height, length), EMPTY, np.uint8)
    column = 0
    while column < length:
        stop = min(column + int(rng.uniform(7, 17) * scale), length)
        kind = rng.choice(4, p=(0.55, 0.0, 0.45, 0.0) if behind else (0.5, 0.2, 0.18, 0.12))
        part = colours[:, column:stop], labels[:, column:stop]
        if kind == 0:
            facade(rng, *part, scale)
        elif kind == 1:
            _railing(rng, *part, scale)
        elif kind == 2:
            _hedge(rng, *part, scale * (2.6 if behind else 1.0))
        else:
            _board_fence(rng, *part, scale)
        column = stop
    for crossing in CROSSINGS_M:
        low, high = ((crossing + side * SIDE_STREET_M) * scale for side in (-1, 1))
        labels[:, int(low) : int(high)] = EMPTY
    colours += 7 * patch_of_grain(rng, height, length)[..., None]
    colours *= np.float32(shade)
    return sprites.texture(colours, labels, scale)


def facade(rng: np.random.Generator, colours: np.ndarray, labels: np.ndarray, m: float) -> None:
    """Draw the front of a house into a part of a wall; `m` texels are a metre."""
    base = FACADES[rng.integers(len(FACADES))] * rng.uniform(0.75, 1.1)
    floors = int(rng.integers(2, 5))
    storey, top = int(3 * m), int((floors * 3 + rng.uniform(0.6, 1.4)) * m)
    columns = labels.shape[1]
    along = np.arange(columns)
    eaves = np.full(columns, top)
    if rng.random() < 0.4:
        slope = np.minimum(along, columns - 1 - along) * rng.uniform(0.3, 0.7)
        eaves = eaves + np.minimum(slope, 3 * m).astype(int)
    # Only the rows below the ridge; row 0 of `up` is the highest.
    rows = min(int(eaves.max()), labels.shape[0])
    colours, labels = colours[-rows:], labels[-rows:]
    up = np.arange(rows)[::-1]
    labels[up[:, None] < eaves] = BUILDING
    colours[:] = base
    colours[up >= top] = np.array((96, 66, 58)) * rng.uniform(0.7, 1.1)
    colours[(up >= top - 3) & (up < top)] = base * 1.15

    period, wide = int(rng.uniform(2.0, 3.2) * m), int(rng.uniform(0.9, 1.4) * m)
    sill, tall = int(0.9 * m), int(rng.uniform(1.3, 1.7) * m)
    along = along + int(rng.integers(period))
    place, level = along % period, up % storey
    upper = (up >= storey) & (up < min(floors * storey, top - 4))
    frame = upper & (level >= sill - 1) & (level < sill + tall + 1)
    colours[np.ix_(frame, place < wide + 2)] = base * 1.2
    pane = upper & (level >= sill) & (level < sill + tall), (place >= 1) & (place < wide + 1)
    number = along // period + 7 * (up // storey)[:, None]
    brightness = 0.7 + 0.8 * (number * 0.618 % 1.0) ** 2
    panes = np.ix_(*pane)
    colours[panes] = np.array((62, 70, 80)) * brightness[panes][..., None]

    ground = rng.random()
    if ground < 0.5:
        glass = np.ix_((up < int(2.6 * m)) & (up >= int(0.5 * m)), place < period - 3)
        colours[glass] = np.array((58, 60, 64)) * rng.uniform(0.7, 1.3)
        awning = sprites.PAINTS[rng.integers(len(sprites.PAINTS))]
        colours[(up >= int(2.5 * m)) & (up < int(3.1 * m))] = awning
    elif ground < 0.8:
        door = (place < int(1.1 * m)) & (along // period % 3 == 0)
        colours[np.ix_(up < int(2.2 * m), door)] = base * 0.45
    colours[up < int(0.5 * m)] = base * 0.7


def _railing(rng: np.random.Generator, colours: np.ndarray, labels: np.ndarray, m: float) -> None:
    rows = int(2 * m)
    colours, labels = colours[-rows:], labels[-rows:]
    up, along = np.arange(labels.shape[0])[::-1, None], np.arange(labels.shape[1])[None]
    top = int(rng.uniform(1.2, 1.8) * m)
    mask = np.broadcast_to(up < top, labels.shape)
    labels[mask] = FENCE
    bars = (along % 3 == 0) | (up >= top - 2) | (up == 2) | (along % int(2.5 * m) < 3)
    paint = np.array((52, 58, 56)) * rng.uniform(0.7, 1.5)
    colours[mask] = np.where(bars[..., None], paint, (104, 112, 96))[mask]


def _board_fence(
    rng: np.random.Generator, colours: np.ndarray, labels: np.ndarray, m: float
) -> None:
    rows = int(2.2 * m)
    colours, labels = colours[-rows:], labels[-rows:]
    up, along = np.arange(labels.shape[0])[::-1, None], np.arange(labels.shape[1])[None]
    mask = np.broadcast_to(up < int(rng.uniform(1.4, 2.1) * m), labels.shape)
    labels[mask] = FENCE
    wood = np.array((126, 100, 76)) * rng.uniform(0.7, 1.2)
    board = 0.85 + 0.25 * ((along // 2) * 0.618 % 1.0)
    colours[mask] = np.broadcast_to((wood * board[..., None]), colours.shape)[mask]


def _hedge(rng: np.random.Generator, colours: np.ndarray, labels: np.ndarray, m: float) -> None:
    height, width = labels.shape
    up = np.arange(height)[::-1, None]
    leaves = patch_of_grain(rng, height, width)
    outline = patch_of_grain(rng, 1, width, 3) * 0.25 * m + rng.uniform(1.6, 3.4) * m
    mask = up < outline + leaves
    labels[mask] = TREE
    green = np.array((70, 90, 50)) * rng.uniform(0.8, 1.2) + rng.uniform(-8, 8, 3)
    shade = 0.8 + 0.25 * leaves + 0.2 * up / (3 * m)
    colours[mask] = (green * shade.clip(0.4, 1.5)[..., None])[mask]

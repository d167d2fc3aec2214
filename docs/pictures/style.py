"""What the pictures of docs/metrics.md have in common: colours, a stand-in for a model, saving."""

import io
from pathlib import Path

import matplotlib as mpl

mpl.use("agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from vidseg.data.synthetic import CLASSES, PALETTE, SyntheticVideo, render
from vidseg.data.synthetic.sprites import patch_of_grain

HERE = Path(__file__).parent
INK, PALE, GREY = "#22303c", "#eef0ee", "#a9b2b6"
GREEN, BLUE, ORANGE, RED = "#2a9d8f", "#3a6ea5", "#f0a04b", "#d62839"
VOID = 255

mpl.rcParams.update(
    {
        "figure.facecolor": "white",
        "figure.dpi": 150,
        "font.family": "DejaVu Sans",
        "font.size": 9,
        "text.color": INK,
        "axes.edgecolor": GREY,
        "axes.labelcolor": INK,
        "axes.titlesize": 9.5,
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "xtick.color": INK,
        "ytick.color": INK,
        "legend.frameon": False,
    }
)


def rgb(colour: str) -> np.ndarray:
    """A colour such as "#22303c" as three bytes."""
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)], np.uint8)


def street(seed: int, num_frames: int, size: tuple[int, int] = (192, 384)) -> SyntheticVideo:
    """A synthetic video that is large enough to look at."""
    return render(seed, num_frames, size)


def mistaken(
    labels: np.ndarray, rng: np.random.Generator, *, zoom: int = 5, coarse_px: int = 3
) -> np.ndarray:
    """Coarse truth with patches of it moved by a few pixels: a stand-in for a model's labels."""
    rows, columns = (np.arange(side) for side in labels.shape)
    coarse = labels[np.ix_(rows // coarse_px * coarse_px, columns // coarse_px * coarse_px)]
    moved = coarse[np.ix_((rows - 6).clip(0), (columns - 18).clip(0))]
    wrong = patch_of_grain(rng, *labels.shape, zoom=zoom) > 1.1
    model = np.where(wrong, moved, coarse)
    return np.where(model == VOID, CLASSES.index("road"), model).astype(np.uint8)


def coloured(labels: np.ndarray) -> np.ndarray:
    """Labels in the colours of their classes; void is pale."""
    table = np.broadcast_to(rgb(PALE), (256, 3)).copy()
    table[: len(PALETTE)] = PALETTE
    # CamVid's colours, half way to white: what is marked must stand out.
    table[: len(PALETTE)] = 110 + table[: len(PALETTE)] * 0.57
    return table[labels]


def masks(size: tuple[int, ...], *layers: tuple[np.ndarray, str]) -> np.ndarray:
    """Boolean masks painted in their colours, one over the other, on a pale ground."""
    canvas = np.empty((*size, 3), np.uint8)
    canvas[:] = rgb(PALE)
    for mask, colour in layers:
        canvas[mask] = rgb(colour)
    return canvas


def show(axes: Axes, image: np.ndarray, title: str, *, color: str = INK) -> None:
    """An image in its own pixels, under its title."""
    axes.imshow(image, interpolation="nearest")
    axes.set_title(title, color=color)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(True)
        spine.set_color("#d5dadc")


def save(figure: Figure, name: str) -> None:
    """Write docs/pictures/NAME.png with as many colours as it takes to look the same."""
    drawn = io.BytesIO()
    figure.savefig(drawn, bbox_inches="tight", pad_inches=0.08)
    plt.close(figure)
    image = Image.open(drawn).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    image.save(HERE / f"{name}.png", optimize=True)

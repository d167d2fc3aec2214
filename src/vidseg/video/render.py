"""Pictures of label maps: colours, overlays, outlines, side by side, a legend."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vidseg.atomic import replacing

if TYPE_CHECKING:
    from PIL.Image import Image

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


def default_palette(num_classes: int) -> np.ndarray:
    """Colours for classes that have none: far apart in hue, then in lightness.

    Args:
        num_classes: C.

    Returns:
        (C, 3) uint8 RGB; the first colours do not depend on `num_classes`.
    """
    import colorsys

    golden_angle = 0.381966  # of a turn: no two of the first few hundred hues meet
    lightness = (0.55, 0.4, 0.7)
    colours = [
        colorsys.hls_to_rgb(k * golden_angle % 1.0, lightness[k % 3], 0.75)
        for k in range(num_classes)
    ]
    return np.rint(255 * np.array(colours).reshape(-1, 3)).astype(np.uint8)


def colourise(labels: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Paint a label map in the colours of its classes.

    Args:
        labels: (H, W) integers; what has no colour in `palette` (255 = ignored) becomes black.
        palette: (C, 3) uint8 RGB.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: `labels` is not (H, W), or `palette` not (C, 3).
    """
    labels = np.asarray(labels)
    if labels.ndim != 2 or labels.dtype.kind not in "iu":
        raise ValueError(f"labels must be (H, W) integers, got {labels.shape} {labels.dtype}")
    return _colour_table(palette)[np.clip(labels, 0, 255).astype(np.uint8)]


def overlay(
    image: np.ndarray,
    labels: np.ndarray,
    palette: np.ndarray,
    *,
    opacity: float = 0.5,
    contour: bool = False,
) -> np.ndarray:
    """Lay the colours of the classes over a frame; ignored pixels keep the frame's.

    Args:
        image: (H, W, 3) uint8 RGB.
        labels: (H, W) integers.
        palette: (C, 3) uint8 RGB.
        opacity: of the colours, in [0, 1]; 0 with `contour` draws outlines alone.
        contour: draw the border of each region in its full colour.

    Returns:
        (H, W, 3) uint8 RGB, a new array.

    Raises:
        ValueError: sizes disagree; `opacity` is not in [0, 1].
    """
    labels = np.asarray(labels)
    if image.shape != (*labels.shape, 3):
        raise ValueError(
            f"labels {labels.shape} do not fit the image {image.shape}; both must be of one size"
        )
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity must be in [0, 1], got {opacity}")
    colours = colourise(labels, palette)
    # In 8-bit steps: integer arithmetic blends a frame four times as fast as floats.
    weight = round(256 * opacity)
    blended = (
        (image.astype(np.uint16) * (256 - weight) + colours.astype(np.uint16) * weight + 128) >> 8
    ).astype(np.uint8)
    unknown = labels >= len(palette)
    if unknown.any():
        blended[unknown] = image[unknown]
    if contour:
        edges = borders(labels, width_px=max(1, round(min(labels.shape) / 270))) & ~unknown
        blended[edges] = colours[edges]
    return blended


def borders(labels: np.ndarray, *, width_px: int = 1) -> np.ndarray:
    """Where regions meet.

    Args:
        labels: (H, W) integers.
        width_px: how far the line reaches into the regions on both sides.

    Returns:
        (H, W) bool.
    """
    down = labels[1:] != labels[:-1]
    right = labels[:, 1:] != labels[:, :-1]
    edges = np.zeros(labels.shape, bool)
    edges[1:] |= down
    edges[:-1] |= down
    edges[:, 1:] |= right
    edges[:, :-1] |= right
    for _ in range(width_px - 1):
        wide = edges.copy()
        wide[1:] |= edges[:-1]
        wide[:-1] |= edges[1:]
        wide[:, 1:] |= edges[:, :-1]
        wide[:, :-1] |= edges[:, 1:]
        edges = wide
    return edges


def side_by_side(*pictures: np.ndarray) -> np.ndarray:
    """Put pictures of one height next to each other, left to right.

    Args:
        pictures: each (H, W_i, 3) uint8.

    Returns:
        (H, sum of W_i, 3) uint8.

    Raises:
        ValueError: there is none, or heights differ.
    """
    if not pictures or len({picture.shape[0] for picture in pictures}) > 1:
        raise ValueError(
            f"side_by_side wants pictures of one height, got {[p.shape for p in pictures]}"
        )
    return np.concatenate(pictures, axis=1)


def legend(classes: Sequence[str], palette: np.ndarray, width_px: int) -> np.ndarray:
    """A strip with the name and colour of every class, to go below a picture.

    Args:
        classes: C names.
        palette: (C, 3) uint8 RGB.
        width_px: width of the strip; its height follows from it.

    Returns:
        (h, width_px, 3) uint8 RGB, h even.

    Raises:
        ValueError: `classes` and `palette` differ in length.
    """
    if len(classes) != len(palette):
        raise ValueError(f"{len(classes)} classes and {len(palette)} colours; one colour each")
    colours = tuple(tuple(int(value) for value in colour) for colour in palette)
    return _draw_legend(tuple(classes), colours, width_px)


def with_legend(picture: np.ndarray, classes: Sequence[str], palette: np.ndarray) -> np.ndarray:
    """A picture with the legend of its classes below it.

    Args:
        picture: (H, W, 3) uint8 RGB.
        classes: C names.
        palette: (C, 3) uint8 RGB.

    Returns:
        (H + h, W, 3) uint8 RGB.
    """
    return np.concatenate((picture, legend(classes, palette, picture.shape[1])), axis=0)


def label_picture(labels: np.ndarray, palette: np.ndarray) -> Image:
    """An indexed picture whose pixel values are the class indices, shown in class colours.

    Args:
        labels: (H, W) uint8.
        palette: (C, 3) uint8 RGB.

    Returns:
        A Pillow image of mode P; `np.array(picture)` gives the labels back.
    """
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(labels, dtype=np.uint8))
    picture.putpalette(_colour_table(palette).tobytes())  # an L image becomes P
    return picture


def save_picture(path: str | Path, picture: np.ndarray | Image) -> Path:
    """Write a picture, whole or not at all.

    Args:
        path: the file; its suffix names the format (.png, .jpg, .webp, ...).
        picture: (H, W, 3) uint8 RGB or a Pillow image.

    Returns:
        The path.

    Raises:
        ValueError: the suffix names no picture format.
        OSError: the file, which it names, cannot be written; nothing is left under `path`.
    """
    from PIL import Image

    path = Path(path)
    if path.suffix.lower() not in PICTURE_SUFFIXES:
        raise ValueError(
            f"cannot save a picture as {path.name}; use one of {', '.join(PICTURE_SUFFIXES)}"
        )
    if isinstance(picture, np.ndarray):
        picture = Image.fromarray(np.ascontiguousarray(picture))
    if picture.mode == "P" and path.suffix.lower() in (".jpg", ".jpeg", ".webp"):
        raise ValueError(f"class indices cannot be kept in {path.suffix}; save labels as .png")
    Image.init()
    with replacing(path) as file:
        picture.save(file, Image.EXTENSION[path.suffix.lower()])
    return path


def _colour_table(palette: np.ndarray) -> np.ndarray:
    """(256, 3): a colour for every possible label."""
    palette = np.asarray(palette, dtype=np.uint8)
    if palette.ndim != 2 or palette.shape[1] != 3 or len(palette) > 256:
        raise ValueError(f"palette must be (C, 3) with C up to 256, got {palette.shape}")
    table = np.zeros((256, 3), np.uint8)
    table[: len(palette)] = palette
    return table


@functools.lru_cache(maxsize=8)
def _draw_legend(
    classes: tuple[str, ...], colours: tuple[tuple[int, ...], ...], width_px: int
) -> np.ndarray:
    from PIL import Image, ImageDraw, ImageFont

    text_px = int(np.clip(width_px / 60, 10, 22))
    font = ImageFont.load_default(text_px)
    pad = max(2, text_px // 3)
    line = text_px + 2 * pad
    longest = max((font.getlength(name) for name in classes), default=0)
    column = int(min(width_px, line + longest + 2 * pad))
    per_row = max(1, min(len(classes), width_px // max(column, 1)))
    rows = -(-len(classes) // per_row)
    height = rows * line + pad
    strip = Image.new("RGB", (width_px, height + height % 2), (24, 24, 24))
    draw = ImageDraw.Draw(strip)
    for k, (name, colour) in enumerate(zip(classes, colours, strict=True)):
        x = k % per_row * (width_px // per_row) + pad
        y = k // per_row * line + pad
        draw.rectangle((x, y, x + text_px, y + text_px), fill=colour, outline=(230, 230, 230))
        draw.text((x + text_px + pad, y + text_px // 2), name, (240, 240, 240), font, anchor="lm")
    strip_array = np.array(strip)
    strip_array.setflags(write=False)  # the cache hands the same array to every frame
    return strip_array

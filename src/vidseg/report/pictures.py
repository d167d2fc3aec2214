"""Pictures inside a report: photos, label maps, and what is marked on a dimmed frame.

Every picture is a data URI of at most `MAX_PICTURE_BYTES`, so a page of many stays small.
"""

import io
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from vidseg.evaluation.result import Agreement
from vidseg.report import html
from vidseg.report.html import Html

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_SIDE_PX = 480
MAX_PICTURE_BYTES = 64_000
MIN_SIDE_PX = 64
MARK_COLOUR = (255, 214, 0)  # yellow on a dark grey frame: seen by every kind of colour vision
HATCH_COLOUR = (150, 150, 165)


def photo(image: np.ndarray, alt: str, *, quality: int = 82) -> Html:
    """An image as embedded JPEG, at most `MAX_SIDE_PX` on each side.

    Args:
        image: (H, W, 3) uint8 RGB.
        alt: what it shows.
        quality: of the JPEG.
    """
    from PIL import Image

    def shrunk(divisor: int) -> Image.Image:
        return Image.fromarray(shrink_image(image, divisor))

    return _embedded(shrunk, alt, "JPEG", quality=quality)


def label_map(labels: np.ndarray, palette: np.ndarray, alt: str, *, void: int = 255) -> Html:
    """Labels as embedded palette PNG: exact colours, black where void.

    Args:
        labels: (H, W) uint8.
        palette: (C, 3) uint8 RGB.
        alt: what it shows.
        void: the value that is no class.
    """
    from PIL import Image

    colours = np.zeros((256, 3), np.uint8)
    colours[: len(palette)] = palette
    colours[void] = 0

    def shrunk(divisor: int) -> Image.Image:
        picture = Image.fromarray(shrink_labels(labels, divisor))
        picture.putpalette(colours.tobytes())
        return picture

    return _embedded(shrunk, alt, "PNG", optimize=True)


def marked_frame(image: np.ndarray | None, state: np.ndarray, alt: str) -> Html:
    """A dimmed frame with marked pixels in yellow and hatching where nothing was compared.

    Args:
        image: (H, W, 3) uint8 RGB of any size; None for an even grey.
        state: (h, w) uint8 of `Agreement`; `OTHER` is marked.
        alt: what it shows.
    """
    from PIL import Image

    def shrunk(divisor: int) -> Image.Image:
        return Image.fromarray(mark(image, shrink_state(state, divisor)))

    # Without chroma subsampling the marks keep their edges.
    return _embedded(shrunk, alt, "JPEG", quality=80, subsampling=0)


def mark(image: np.ndarray | None, state: np.ndarray) -> np.ndarray:
    """Paint `marked_frame` at the size of `state`: (h, w, 3) uint8 RGB."""
    from PIL import Image

    height, width = state.shape
    if image is None:
        grey = np.full((height, width), 128, np.uint8)
    else:
        small = Image.fromarray(image).convert("L").resize((width, height), Image.Resampling.BOX)
        grey = np.asarray(small)
    painted = np.repeat((grey * 0.45).astype(np.uint8)[..., None], 3, axis=2)
    rows, columns = np.indices(state.shape)
    stripes = (rows + columns) % 8 < 3
    painted[(state == Agreement.NOT_COMPARED) & stripes] = HATCH_COLOUR
    painted[state == Agreement.OTHER] = MARK_COLOUR
    return painted


def shrink_image(image: np.ndarray, divisor: int = 1) -> np.ndarray:
    """An image whose sides fit `MAX_SIDE_PX // divisor`; a smaller one stays as it is."""
    from PIL import Image

    picture = Image.fromarray(image)
    side = MAX_SIDE_PX // divisor
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    return np.array(picture)


def shrink_labels(labels: np.ndarray, divisor: int = 1) -> np.ndarray:
    """Every n-th pixel, so that both sides fit `MAX_SIDE_PX // divisor`; labels never blend."""
    step = _step(labels.shape, divisor)
    return labels[::step, ::step].copy()


def shrink_state(state: np.ndarray, divisor: int = 1) -> np.ndarray:
    """A mark stays where any pixel under it was marked, so that none gets lost.

    Args:
        state: (H, W) uint8, as `marked_frame` takes it.
        divisor: both sides will fit `MAX_SIDE_PX // divisor`.
    """
    step = _step(state.shape, divisor)
    height, width = (math.ceil(side / step) for side in state.shape)
    padded = np.full((height * step, width * step), Agreement.NOT_COMPARED, np.uint8)
    padded[: state.shape[0], : state.shape[1]] = state
    blocks = padded.reshape(height, step, width, step)
    is_compared = (blocks != Agreement.NOT_COMPARED).any((1, 3))
    small = np.where(is_compared, Agreement.SAME, Agreement.NOT_COMPARED)
    is_marked = (blocks == Agreement.OTHER).any((1, 3))
    return np.where(is_marked, Agreement.OTHER, small).astype(np.uint8)


def _step(shape: tuple[int, ...], divisor: int) -> int:
    return math.ceil(max(shape) / (MAX_SIDE_PX // divisor))


def _embedded(shrunk: Callable[[int], "Image"], alt: str, kind: str, **options: Any) -> Html:
    """The largest of the sizes 1, 1/2, 1/3, ... whose file fits `MAX_PICTURE_BYTES`."""
    divisor = 0
    while True:
        divisor += 1
        picture = shrunk(divisor)
        buffer = io.BytesIO()
        picture.save(buffer, kind, **options)
        if buffer.tell() <= MAX_PICTURE_BYTES or max(picture.size) <= MIN_SIDE_PX:
            break
    return html.picture(buffer.getvalue(), kind.lower(), alt, picture.size)

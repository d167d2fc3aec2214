"""Sizes in pixels, and the two ways in which they are written."""

from collections.abc import Sequence
from typing import Literal

Size = tuple[int, int]
"""(H, W) in pixels."""
SeenSize = Size | Literal["full"] | None
"""(H, W) at which a model sees frames; "full" for their own; None for what its card knows."""


def width_x_height(size: Sequence[int]) -> str:
    """A size as people know it from pictures and videos.

    Args:
        size: (H, W, ...), such as the shape of an image.

    Example:
        >>> width_x_height((1080, 1920, 3))
        '1920x1080'
    """
    return f"{size[1]}x{size[0]}"


def height_x_width(size: Sequence[int]) -> str:
    """A size as options take it and records keep it.

    Args:
        size: (H, W, ...), such as the shape of a label map.

    Example:
        >>> height_x_width((512, 1024))
        '512x1024'
    """
    return f"{size[0]}x{size[1]}"

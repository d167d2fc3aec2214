"""Read the words of options: HEIGHTxWIDTH sizes and name=value pairs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from vidseg.printable import shortened
from vidseg.shortage import MAX_PIXELS
from vidseg.sizes import Size

Sliding = Annotated[
    str | None,
    typer.Option(
        "--sliding",
        help="See large frames through windows: CROP or CROP/STRIDE, HEIGHTxWIDTH px each.",
        rich_help_panel="How the model runs",
    ),
]


def parse_size(text: str, option: str = "--size") -> Size:
    """Read HEIGHTxWIDTH in pixels.

    Raises:
        ValueError: it is anything else, or larger than any frame.

    Example:
        >>> parse_size("512x1024")
        (512, 1024)
    """
    match = re.fullmatch(r"(\d+)[xX](\d+)", text.strip())
    if match is None or 0 in (size := (int(match[1]), int(match[2]))):
        raise ValueError(f"{option} wants HEIGHTxWIDTH in pixels, such as 512x1024, got {text!r}")
    if size[0] * size[1] > MAX_PIXELS:
        raise ValueError(
            f"{option} wants at most {MAX_PIXELS} pixels (8192x8192), got {shortened(text)}, which "
            "no memory holds; choose a smaller size"
        )
    return size


def parse_sliding(text: str) -> tuple[Size, Size | None]:
    """Read CROP or CROP/STRIDE, each HEIGHTxWIDTH.

    Returns:
        The crop, and the stride or None where it is left out.

    Raises:
        ValueError: it is anything else.

    Example:
        >>> parse_sliding("769x769/513x513"), parse_sliding("480x640")
        (((769, 769), (513, 513)), ((480, 640), None))
    """
    crop, slash, stride = text.partition("/")
    return parse_size(crop, "--sliding"), parse_size(stride, "--sliding") if slash else None


def parse_options(words: Sequence[str], option: str = "--option") -> dict[str, Any]:
    """Read name=value words.

    Args:
        words: such as "align_corners=true"; values are JSON, anything else is text.
        option: what the words were given with.

    Returns:
        name -> value.

    Raises:
        ValueError: a word has no "=".
    """
    import json

    options = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name:
            raise ValueError(f"{option} wants name=value, got {word!r}")
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = {"True": True, "False": False, "None": None}.get(text, text)
        options[name.replace("-", "_")] = value
    return options

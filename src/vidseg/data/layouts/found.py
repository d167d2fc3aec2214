"""What a reader of a layout finds: frames, their masks, and the classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vidseg.data.classes_file import Classes
from vidseg.documents import parse_json, read_text
from vidseg.printable import shortened
from vidseg.sizes import Size, width_x_height

# Called with the (H, W) of the upright frame; gives its (H, W) uint8 label indices.
ReadMask = Callable[[Size], np.ndarray]

SPLITS = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
}
BACKGROUND = "background"
_MAX_BYTES = 2**30  # COCO's panoptic_train2017.json has 0.4 GB
FILM_SUFFIXES = (
    *(".mp4", ".mov", ".avi", ".mkv", ".webm", ".mxf", ".mpg", ".mpeg", ".m4v", ".ts", ".mts"),
    *(".m2ts", ".wmv", ".flv", ".3gp", ".ogv", ".dv", ".y4m"),
)


@dataclass(frozen=True)
class Asked:
    """What the person at the keyboard says of a source.

    Attributes:
        classes: names and colours of the classes; None to take those of the source.
        masks: folder of the masks, where it is not found by its name.
        offset: the frame of mask n is n + offset; None where none is said.
        unlabelled: what pixels in no shape are, "background" or "void".
    """

    classes: Path | None = None
    masks: Path | None = None
    offset: int | None = None
    unlabelled: str = BACKGROUND


@dataclass(frozen=True)
class Item:
    """A frame.

    Attributes:
        video: of the frame; one part of a path.
        name: of the frame, without suffix.
        image: the picture file; or the frame's number, from 0, in the film of its video.
        mask: reads its labels; None where it has none.
        split: "train", "val", ...; None where the layout does not say.
    """

    video: str
    name: str
    image: Path | int
    mask: ReadMask | None = None
    split: str | None = None


@dataclass
class Found:
    """A source, read.

    Attributes:
        what: the layout and where it was seen, for the person at the keyboard.
        classes: of the label indices that masks give.
        items: frames in the order of time, video by video.
        films: video file of each video whose frames are numbers.
        problems: what was left out or guessed, one sentence each.
    """

    what: str
    classes: Classes
    items: list[Item]
    films: dict[str, Path] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


class NoSuchLayout(ValueError):
    """A source is not in the layout that a reader reads."""


def split_of(name: str) -> str | None:
    """The split that a folder or file is named after: `panoptic_val2017` -> "val"."""
    words = "".join(c if c.isalpha() else " " for c in name.lower()).split()
    return next((SPLITS[word] for word in words if word in SPLITS), None)


def read_json(path: Path) -> Any:
    """Read a JSON file of an annotation program, which may be large; errors as `parse_json`."""
    return parse_json(read_text(path, limit_bytes=_MAX_BYTES), str(path))


def mentions(path: Path, word: bytes) -> bool:
    """Whether a file holds a word; read in parts, as other files may be large."""
    tail = b""
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            if word in tail + block:
                return True
            tail = block[-len(word) :]
    return False


def get(where: str, holder: Any, key: str, kind: type | tuple[type, ...]) -> Any:
    """A field of JSON that must be there, and of a kind.

    Raises:
        ValueError: names the place, the field, what was wanted and what came.
    """
    value = holder.get(key) if isinstance(holder, dict) else None
    if not isinstance(value, kind) or isinstance(value, bool):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        wanted = " or ".join(_WORDS.get(k, k.__name__) for k in kinds)
        came = shortened(value) if isinstance(holder, dict) else f"no object: {shortened(holder)}"
        raise ValueError(f"{where}: {key!r} must be {wanted}, got {came}")
    return value


_WORDS = {dict: "an object", list: "a list", str: "text", int: "a whole number", float: "a number"}


def fits(labels: np.ndarray, size: Size, path: Path) -> np.ndarray:
    """The labels, once their size is that of the frame; else ValueError."""
    if labels.shape != size:
        raise ValueError(
            f"{path} is {width_x_height(labels.shape)}, its frame is {width_x_height(size)}"
        )
    return labels

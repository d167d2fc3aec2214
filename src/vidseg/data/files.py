"""Image and label files: read with errors that name the file, written whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np

from vidseg.atomic import replacing
from vidseg.classes import IGNORE
from vidseg.video.images import (
    IMAGE_SUFFIXES,
    in_order,
    picture_files,
    read_image,
    read_values,
)

Colour = tuple[int, int, int]
LABEL_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif", ".pgm", ".pnm")


def read_rgb(path: Path) -> np.ndarray:
    """Read a frame as (H, W, 3) uint8 RGB, upright; see `read_image`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no image, or damaged.
    """
    return _read(path, "frame", read_image)


def read_indices(path: Path) -> np.ndarray:
    """Read a single-channel or palette image as (H, W) uint8 indices, colours never applied.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no image, damaged, in colour, or has values above 255.
    """
    values = read_label_image(path)
    if values.ndim != 2:
        raise ValueError(
            f"{path}: labels must be one channel of class indices, got a colour image; "
            "convert colours to indices first (vidseg data prepare)"
        )
    return values


def read_label_image(path: Path) -> np.ndarray:
    """Read a label image as uint8: (H, W) indices, or (H, W, 3) colours if it is in colour.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no image, damaged, or has values above 255.
    """
    values = _read(path, "label", read_values)
    if values.size and (values.min() < 0 or values.max() > 255):
        raise ValueError(f"{path}: label values must be 0..255, got up to {values.max()}")
    return values.astype(np.uint8)


def _read(path: Path, what: str, read: Callable[[Path], np.ndarray]) -> np.ndarray:
    try:
        return read(path)
    except FileNotFoundError:
        raise missing_file(what, path) from None


def missing_file(what: str, path: Path) -> FileNotFoundError:
    """The error for a frame or label that is not there any more."""
    return FileNotFoundError(
        f"{what} {path} does not exist; vidseg data check lists what is missing"
    )


def identity_table(num_classes: int) -> np.ndarray:
    """Table of files that hold the indices themselves, 255 ignored."""
    table = np.full(256, -1, dtype=np.int16)
    table[:num_classes] = np.arange(num_classes)
    table[IGNORE] = IGNORE
    return table


def map_values(values: np.ndarray, table: np.ndarray, path: Path, num_classes: int) -> np.ndarray:
    """Send file values through a table; ValueError for those that it does not allow."""
    present = np.flatnonzero(np.bincount(values.ravel(), minlength=len(table)))
    wrong = [int(value) for value in present if table[value] < 0]
    if wrong:
        shown = f"{wrong[:10]}"[:-1] + (", ...]" if len(wrong) > 10 else "]")
        raise ValueError(
            f"{path}: label values {shown} mean nothing among {num_classes} classes "
            f"(allowed: {_as_ranges(np.flatnonzero(table >= 0))}); were these labels made for "
            "another set of classes, or not yet converted (vidseg data prepare)?"
        )
    return table.astype(np.uint8)[values]


def _as_ranges(values: np.ndarray) -> str:
    """[0, 1, 2, 255] -> "0..2, 255"."""
    runs = np.split(values, np.flatnonzero(np.diff(values) > 1) + 1)
    return ", ".join(f"{run[0]}..{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def colours_to_indices(image: np.ndarray, colours: Mapping[Colour, int], path: Path) -> np.ndarray:
    """Send the colours of a label image to label indices.

    Args:
        image: (H, W, 3) uint8 RGB.
        colours: index of each colour that may occur.
        path: of the image, for the message.

    Returns:
        (H, W) uint8.

    Raises:
        ValueError: a colour that is not in `colours`; the message shows up to five.
    """
    packed = image.astype(np.uint32) @ np.array([65536, 256, 1], np.uint32)
    table = np.zeros(1 << 24, np.uint16)  # memory is taken only where it is touched
    for (red, green, blue), index in colours.items():
        table[red << 16 | green << 8 | blue] = 1 + index
    found = table[packed]
    if not found.all():
        wrong = np.unique(packed[found == 0])
        shown = [(int(c) >> 16, int(c) >> 8 & 255, int(c) & 255) for c in wrong[:5]]
        raise ValueError(
            f"{path}: {len(wrong)} colours belong to no class, such as {shown}; were the "
            "colours blended by resizing or JPEG, or made with another palette?"
        )
    return (found - 1).astype(np.uint8)


# What file systems and programs leave in folders, beside names that begin with a dot.
_LEFT_BEHIND = {
    *("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir", "#recycle"),
    *("$recycle.bin", "system volume information", "lost+found"),
}


def visible(folder: Path) -> list[Path]:
    """List a folder in natural order, without hidden files and those of systems."""
    found = (path for path in folder.iterdir() if path.name.lower() not in _LEFT_BEHIND)
    return in_order(found)


def list_images(folder: Path, suffixes: Sequence[str] = IMAGE_SUFFIXES) -> dict[str, Path]:
    """Images of a folder by stem, in the order of their numbers; a .png wins over others.

    Names that begin with a dot are none: `._00000.jpg` of a Mac holds no pixels.

    Args:
        folder: it must exist.
        suffixes: lower case; names may be in either case.
    """
    images: dict[str, Path] = {}
    for path in picture_files(folder, suffixes):
        twin = images.setdefault(path.stem, path)
        if path.suffix.lower() == ".png" or twin.suffix.lower() != ".png":
            images[path.stem] = path
    return images


def list_labels(folder: Path, suffixes: Sequence[str] = LABEL_SUFFIXES) -> dict[str, Path]:
    """Label pictures of a folder by stem, of lossless formats; none without the folder."""
    return list_images(folder, suffixes) if folder.is_dir() else {}


class MissingFilesError(FileNotFoundError):
    """Files that other files call for are not there.

    Attributes:
        files: all of them; the message shows the first three.
    """

    def __init__(self, folder: Path, names: list[str], reason: str, advice: str = "") -> None:
        super().__init__(name_missing(folder, names, reason) + (f"; {advice}" if advice else ""))
        self.files = [folder / name for name in names]


def name_missing(folder: Path, names: list[str], reason: str) -> str:
    """Message that says how many files a folder lacks, and the first of them."""
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return f"{folder}: {reason}; {len(names)} missing: {shown}"


def write_whole(path: Path, content: bytes) -> None:
    """Write a file and the folders above it, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(content)


def write_image(path: Path, image: np.ndarray) -> None:
    """Write an (H, W) or (H, W, 3) uint8 image in the format of the suffix, whole or not at all."""
    from PIL import Image

    options = {"quality": 95, "subsampling": 0} if path.suffix.lower() != ".png" else {}
    buffer = BytesIO()
    kind = "PNG" if path.suffix.lower() == ".png" else "JPEG"
    Image.fromarray(image).save(buffer, kind, **options)
    write_whole(path, buffer.getvalue())

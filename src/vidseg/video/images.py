"""Image files: listed in the order of their numbers, read upright, by one way everywhere."""

from __future__ import annotations

import os
import re
import struct
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from vidseg.shortage import MAX_PIXELS

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".tif", ".tiff", ".webp", ".avif", ".jp2"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)
# A number of a name, with decimals where exactly one point is between digits: dates have two.
_NUMBER = re.compile(r"(?<!\d)(?<!\d[.,])(\d+)[.,](\d+)(?![.,]?\d)|(\d+)")


def picture_files(folder: Path, suffixes: Sequence[str] = IMAGE_SUFFIXES) -> list[Path]:
    """The images of a folder in the order of their numbers; names that begin with a dot are none.

    Args:
        folder: it must exist.
        suffixes: lower case, with their dots; names may be in either case.

    Returns:
        The files; folders below are not looked into.
    """
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if not entry.is_dir()]
    return in_order(folder / name for name in names if Path(name).suffix.lower() in suffixes)


def in_order(paths: Iterable[Path]) -> list[Path]:
    """Sort paths by the numbers in their names, folder by folder, without hidden files.

    frame_10 comes after frame_9, and 1.5 after 1.25, as times are printed. Where decimals end in
    a zero that no such time has (1.10 beside 1.9), the point separates two whole numbers.
    """
    found = [path for path in paths if not path.name.startswith(".")]
    decimals = {m[2] for path in found for m in _NUMBER.finditer(path.stem) if m[2]}
    is_time = len({len(d) for d in decimals}) == 1 or not any(
        len(d) > 1 and d.endswith("0") for d in decimals
    )
    return sorted(found, key=lambda path: _key(path, is_time=is_time))


def _key(path: Path, *, is_time: bool) -> tuple[object, ...]:
    folders = tuple(_numbers(part, is_time=False) for part in path.parent.parts)
    return folders, _numbers(path.stem, is_time=is_time), path.name


def _numbers(name: str, *, is_time: bool) -> tuple[tuple[int, str], ...]:
    """Text as (-1, text), numbers as (whole, decimals): decimals compare as text, "25" < "5"."""
    parts: list[tuple[int, str]] = []
    end = 0
    for number in _NUMBER.finditer(name):
        parts.append((-1, name[end : number.start()]))
        end = number.end()
        if number[2] is None:
            parts.append((int(number[3]), ""))
        elif is_time:
            parts.append((int(number[1]), number[2]))
        else:
            parts += [(int(number[1]), ""), (-1, "."), (int(number[2]), "")]
    return (*parts, (-1, name[end:]))


def read_image(path: Path) -> np.ndarray:
    """Read a picture as (H, W, 3) uint8 RGB, upright as its EXIF orientation says.

    Grey, palette and CMYK pictures become RGB; alpha is left out; of 16 bits a channel the upper
    8 are kept; of several pictures in one file the first is read. Colour profiles are not applied.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no picture, is cut short or damaged, or has pixels of 32 bits.
    """
    image = _open_upright(path)
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        grey = (np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("I", "F"):  # their range is not known, and convert() would clip them
        raise ValueError(
            f"{path} has {image.mode} pixels of 32 bits; pictures have 8 or 16 bits a channel"
        )
    try:
        return np.array(image.convert("RGB"))
    except ValueError as error:
        raise ValueError(f"{path} has {image.mode} pixels, which are not read: {error}") from error


@dataclass(frozen=True, eq=False)
class Stored:
    """A picture with its values as they are stored.

    Attributes:
        values: (H, W) of one channel: the indices of a palette picture, 0 and 1 of a picture of
            one bit, grey values of up to 32 bits; or (H, W, 3) uint8 RGB of a picture in colour.
            Alpha is left out.
        palette: the colours of those indices of a palette picture that occur; else empty.
        form: Pillow's name of the file's format, such as "PNG".
        num_pictures: how many the file holds; these values are of the first.
    """

    values: np.ndarray
    palette: dict[int, tuple[int, int, int]]
    form: str
    num_pictures: int


def read_stored(path: Path) -> Stored:
    """Read a label picture as it is stored, upright as `read_image` turns it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no picture, is cut short or damaged.
    """
    image = _open_upright(path, is_counted=True)
    bands = image.getbands()
    palette = image.getpalette("RGB") if bands[0] == "P" else None
    if bands in (("L", "A"), ("P", "A")):
        image = image.getchannel(0)
    elif len(bands) > 1:
        image = image.convert("RGB")
    values = np.array(image)
    values = values.astype(np.uint8) if values.dtype == bool else values
    colours: dict[int, tuple[int, int, int]] = {}
    if palette is not None:
        for i in np.flatnonzero(np.bincount(values.ravel(), minlength=256)).tolist():
            red, green, blue = (*palette[3 * i : 3 * i + 3], 0, 0, 0)[:3]
            colours[i] = red, green, blue
    return Stored(values, colours, image.format or "", image.info[_COUNT])


def read_values(path: Path) -> np.ndarray:
    """The values of `read_stored` alone; the colours of a palette are not applied."""
    return read_stored(path).values


_COUNT = "vidseg: pictures in the file"


def check_pixels(width: int, height: int) -> None:
    """Raise ValueError for a picture that is larger than any frame, before memory is taken."""
    if width * height > MAX_PIXELS:
        raise ValueError(
            f"it declares {width}x{height} pixels, wanted at most {MAX_PIXELS} (8192x8192)"
        )


@contextmanager
def open_picture(file: Path | IO[bytes], name: str) -> Iterator[Image]:
    """Open a picture by its head; what fails then, or while it is decoded, names it.

    Args:
        file: a path or a file.
        name: of it, for messages.

    Yields:
        Pillow's image, whose pixels are read when they are asked for.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no picture, damaged, or declares more than `MAX_PIXELS`; a file of a few
            kilobytes can claim gigabytes.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        # Pillow warns of odd tags and still reads the pixels; and of sizes that are refused here.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                check_pixels(image.width, image.height)
                yield image
    except FileNotFoundError:
        raise FileNotFoundError(f"no such file: {name}") from None
    except UnidentifiedImageError:
        raise ValueError(f"{name} cannot be read as an image; it is none, or is damaged") from None
    except (OSError, MemoryError) as error:
        if isinstance(error, MemoryError) or error.errno is not None:
            raise  # of the machine or the file system: a folder, no permission
        raise ValueError(f"{name} cannot be read as an image: {error}") from error
    except Exception as error:  # Pillow's readers raise whatever their parsing meets
        raise ValueError(f"{name} cannot be read as an image: {error}") from error


def _open_upright(path: Path, *, is_counted: bool = False) -> Image:
    """Decode a file whole and turn it; `format` is that of the file, `info` has the count."""
    from PIL import ImageOps

    with open_picture(path, str(path)) as image:
        form, count = image.format, 1
        if is_counted and form in ("GIF", "TIFF"):
            count = getattr(image, "n_frames", 1)
        image.load()
        try:
            turned = ImageOps.exif_transpose(image)
        except (SyntaxError, struct.error, ValueError, KeyError, TypeError):
            turned = image.copy()  # damaged EXIF: nothing says how to turn it
        turned.format, turned.info[_COUNT] = form, count
        return turned

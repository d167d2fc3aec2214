"""CVAT's XML: tracks of shapes over the frames of a video, or shapes image by image."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from vidseg.classes import IGNORE
from vidseg.data.classes_file import Classes
from vidseg.data.files import Colour, visible
from vidseg.data.layouts.film import films_in
from vidseg.data.layouts.found import (
    BACKGROUND,
    Asked,
    Found,
    Item,
    NoSuchLayout,
    get,
    split_of,
)
from vidseg.data.layouts.mask_classes import coloured, read_names
from vidseg.data.layouts.matching import sources
from vidseg.data.layouts.shapes import Area, drawer, ellipse, number_in, read_points, rectangle
from vidseg.video.images import picture_files

_DEPTH = 3
_MAX_FRAME = 10**7
_MAX_MASK_PX = 10**8
_AREAS = ("polygon", "box", "ellipse", "mask")
_NO_AREA = ("polyline", "points", "skeleton", "cuboid", "tag")


@dataclass
class _Drawn:
    """What an XML draws.

    Attributes:
        areas: (order of drawing, area) of each frame: its number, or the name of its image.
        unsure: frames between two key frames of a track that the file leaves out.
        no_area: shapes without an area.
    """

    areas: dict[int | str, list[tuple[float, Area]]] = field(default_factory=dict)
    unsure: set[int] = field(default_factory=set)
    no_area: int = 0


def read_cvat(source: Path, asked: Asked) -> Found:
    """CVAT for video 1.1 or for images 1.1, beside the video file or the images.

    A frame is labelled where a shape is visible in it. Shapes of a higher z_order lie over lower
    ones, later ones over earlier ones.

    Raises:
        NoSuchLayout: there is no such XML.
        ValueError: a shape is malformed, or its frame is not there.
    """
    roots = {p: root for p in _xml_files(source) if (root := _open(p)) is not None}
    if not roots:
        raise NoSuchLayout("no XML of CVAT (for video 1.1, for images 1.1)")
    folder = source.parent if source.is_file() else source
    names = _class_names(roots, asked)
    index = {name: i for i, name in enumerate(names)}
    start = index[BACKGROUND] if asked.unlabelled == BACKGROUND else IGNORE
    found = Found(f"cvat: {', '.join(map(str, list(roots)[:3]))}", Classes(coloured(names)), [])
    for path, root in roots.items():
        drawn = _draw(path, root, index)
        if drawn.no_area:
            found.problems.append(f"{path}: {drawn.no_area} shapes without area are left out")
        if drawn.unsure:
            found.problems.append(
                f"{path} leaves frames between the key frames of tracks out; {len(drawn.unsure)} "
                "frames stay unlabelled (CVAT exports all frames; do not thin them)"
            )
        masks = {
            frame: drawer([area for _, area in sorted(areas, key=lambda pair: pair[0])], start)
            for frame, areas in drawn.areas.items()
            if frame not in drawn.unsure
        }
        if root.find("image") is None:
            found.items += _of_video(path, root, masks, folder, len(roots), asked, found)
        else:
            found.items += _of_images(path, masks, folder, found)
    return found


def _xml_files(source: Path) -> Iterator[Path]:
    waiting = [source]
    while waiting:
        path = waiting.pop(0)
        if path.is_file() and path.suffix.lower() == ".xml":
            yield path
        elif path.is_dir() and (path == source or len(path.relative_to(source).parts) <= _DEPTH):
            waiting += [p for p in visible(path) if p.is_dir() or p.suffix.lower() == ".xml"]


def _open(path: Path) -> ElementTree.Element | None:
    """The root of a file of CVAT's; None for another XML."""
    content = path.read_bytes()
    if not re.search(rb"<annotations[\s>]", content[:4096]):
        return None
    if b"<!DOCTYPE" in content or b"<!ENTITY" in content:
        raise ValueError(f"{path} declares entities, which CVAT does not; it is not read")
    try:
        return ElementTree.fromstring(content)
    except ElementTree.ParseError as error:
        raise ValueError(f"{path} is no XML: {error}") from None


def _class_names(roots: dict[Path, ElementTree.Element], asked: Asked) -> dict[str, Colour | None]:
    """Classes of --classes, or of the XML's labels in their order, or as the shapes name them."""
    found: dict[str, Colour | None] = {}
    for root in roots.values():
        for label in root.iterfind("meta//labels/label"):
            name, colour = label.findtext("name", ""), label.findtext("color", "")
            is_rgb = re.fullmatch(r"#[0-9a-fA-F]{6}", colour)
            red, green, blue = bytes.fromhex(colour[1:]) if is_rgb else (0, 0, 0)
            found.setdefault(name, (red, green, blue) if is_rgb else None)
    if asked.classes is not None:
        found, _ = read_names(asked.classes)
    if not found:
        elements = [element for root in roots.values() for element in root.iter()]
        found = dict.fromkeys(sorted({e.get("label", "") for e in elements} - {""}))
    if len({colour for colour in found.values() if colour}) < len(found):
        found = dict.fromkeys(found)  # one colour for two classes tells neither
    if asked.unlabelled == BACKGROUND and BACKGROUND not in found:
        found = {BACKGROUND: None, **found}
    if not 1 <= len(found) <= IGNORE:
        raise ValueError(f"{next(iter(roots))} must name 1..{IGNORE} labels, got {len(found)}")
    return found


def _draw(path: Path, root: ElementTree.Element, index: dict[str, int]) -> _Drawn:
    drawn = _Drawn()
    areas: dict[int | str, list[tuple[float, Area]]] = defaultdict(list)
    for i, track in enumerate(root.iterfind("track")):
        where = f"{path}: track {track.get('id', i)}"
        value = _value(where, track, index)
        before: tuple[int, bool] | None = None
        shapes = [shape for shape in track if shape.tag in (*_AREAS, *_NO_AREA)]
        for shape in sorted(shapes, key=lambda shape: _frame(where, shape)):
            number = _frame(where, shape)
            is_outside = shape.get("outside") == "1"
            if before is not None and not before[1]:
                drawn.unsure.update(range(before[0] + 1, min(number, before[0] + _MAX_FRAME)))
            before = number, is_outside
            if is_outside:
                continue
            _add(f"{where}, frame {number}", shape, value, areas[number], drawn)
    for image in root.iterfind("image"):
        name = get(f"{path}: image {image.get('id')}", dict(image.attrib), "name", str)
        for shape in image:
            where = f"{path}: image {name}"
            if shape.tag in (*_AREAS, *_NO_AREA):
                _add(where, shape, _value(where, shape, index), areas[name], drawn)
    drawn.areas = {frame: found for frame, found in areas.items() if found}
    return drawn


def _add(
    where: str,
    shape: ElementTree.Element,
    value: int,
    areas: list[tuple[float, Area]],
    drawn: _Drawn,
) -> None:
    if shape.tag in _NO_AREA:
        drawn.no_area += 1
        return
    order = number_in(where, dict(shape.attrib), "z_order") if shape.get("z_order") else 0.0
    areas.append((order, _area(where, shape, value)))


def _area(where: str, shape: ElementTree.Element, value: int) -> Area:
    words = dict(shape.attrib)

    def number(key: str) -> float:
        return number_in(where, words, key)

    turn = number("rotation") if words.get("rotation") else 0.0
    if shape.tag == "polygon":
        texts = get(where, words, "points", str).split(";")
        points = [[_float(word) for word in text.split(",")] for text in texts if text.strip()]
        found = read_points(where, points)
        if len(found) < 3:
            raise ValueError(f"{where}: a polygon needs 3 points, got {len(found)}")
        return Area(value, found)
    if shape.tag == "box":
        sides = (number("xtl"), number("ytl"), number("xbr"), number("ybr"))
        return Area(value, rectangle(*sides, turn))
    if shape.tag == "ellipse":
        return Area(value, ellipse(number("cx"), number("cy"), number("rx"), number("ry"), turn))
    left, top, width, height = (int(number(key)) for key in ("left", "top", "width", "height"))
    runs = [int(word) for word in re.findall(r"\d+", get(where, words, "rle", str))]
    area = width * height
    if not (min(width, height) > 0 and area <= _MAX_MASK_PX and sum(runs) == area):
        raise ValueError(
            f"{where}: the runs of a mask must fill its {width}x{height} px, got {sum(runs)}"
        )
    bits = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
    return Area(value, (), bits, left, top)


def _float(word: str) -> float | str:
    try:
        return float(word)
    except ValueError:
        return word  # read_points says what is wrong with it


def _value(where: str, element: ElementTree.Element, index: dict[str, int]) -> int:
    name = get(where, dict(element.attrib), "label", str)
    if name not in index:
        raise ValueError(f"{where}: the label {name!r} is no class; there are {', '.join(index)}")
    return index[name]


def _frame(where: str, shape: ElementTree.Element) -> int:
    number = int(number_in(where, dict(shape.attrib), "frame"))
    if not 0 <= number <= _MAX_FRAME:
        raise ValueError(f"{where}: frame must be 0..{_MAX_FRAME}, got {number}")
    return number


def _of_video(
    path: Path,
    root: ElementTree.Element,
    masks: dict,
    folder: Path,
    count: int,
    asked: Asked,
    found: Found,
) -> Iterator[Item]:
    """The frames of tracks: of a video file that lies there, or of a folder of images."""
    split = split_of(path.parent.relative_to(folder).as_posix())
    films = films_in(path.parent) or films_in(folder)
    said = re.split(r"[\\/]", root.findtext("meta//source", "") or "")[-1]
    film = next((f for f in films if f.name == said or f.stem == path.stem), None)
    if film is None and len(films) == 1 and count == 1:
        film = films[0]
    offset = asked.offset or 0
    if film is not None:
        found.films[film.stem] = film
        for number in sorted(masks):
            name = f"{number + offset:06d}"
            yield Item(film.stem, name, number + offset, masks[number], split)
        return
    images = _images_near(path, folder)
    if not images:
        raise ValueError(
            f"{path} tells of a video{' ' * bool(said)}{said}, and neither it nor its frames "
            f"(images/) lie in {folder}; put it there"
        )
    numbers = [re.search(r"(\d+)$", image.stem) for image in images]
    by_number = {int(n[1]): image for n, image in zip(numbers, images, strict=True) if n}
    are_exported = all(re.fullmatch(r"frame_\d+", image.stem) for image in images)
    if not are_exported and asked.offset is None and max(masks, default=0) < len(images):
        by_number = dict(enumerate(images))
    lacking = [number for number in masks if number + offset not in by_number]
    if lacking:
        raise ValueError(
            f"{path} labels frame {min(lacking)}, and {images[0].parent} has no image for it; "
            "--offset N says that frame n is image n + N"
        )
    video = folder.name if count == 1 else path.stem
    for number, image in sorted(by_number.items()):
        yield Item(video, image.stem, image, masks.get(number - offset), split)


def _of_images(path: Path, masks: dict, folder: Path, found: Found) -> Iterator[Item]:
    """Images with shapes of their own, found by the last part of their names."""
    near = _images_near(path, folder)
    by_name = {image.name: image for image in near}
    lacking = [n for n in masks if re.split(r"[\\/]", n)[-1] not in by_name]
    if lacking:
        found.problems.append(f"{path}: {len(lacking)} images are not there, such as {lacking[0]}")
    of_image = {by_name[n]: n for name in masks if (n := re.split(r"[\\/]", name)[-1]) in by_name}
    whole = {re.split(r"[\\/]", name)[-1]: name for name in masks}
    of_name = sources([image.stem for image in near], "video")
    for image in near:
        mask = masks[whole[image.name]] if image in of_image else None
        yield Item(of_name[image.stem], image.stem, image, mask, split_of(image.parent.name))


def _images_near(path: Path, folder: Path) -> list[Path]:
    places = [path.parent, *(path.parent / name for name in ("images", "frames", "data"))]
    places += [folder, *(folder / name for name in ("images", "frames", "data"))]
    below = [p for place in places if place.is_dir() for p in visible(place) if p.is_dir()]
    for place in [*places, *below]:
        if place.is_dir() and (found := picture_files(place)):
            return found
    return []

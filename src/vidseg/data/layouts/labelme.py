"""LabelMe: a JSON of shapes beside each frame that was labelled."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vidseg.classes import IGNORE
from vidseg.data.classes_file import Classes
from vidseg.data.files import visible
from vidseg.data.layouts.found import (
    BACKGROUND,
    Asked,
    Found,
    Item,
    NoSuchLayout,
    get,
    mentions,
    read_json,
    split_of,
)
from vidseg.data.layouts.mask_classes import CLASS_FILES, coloured, read_names
from vidseg.data.layouts.matching import sources
from vidseg.data.layouts.shapes import Area, drawer, ellipse, read_points, rectangle
from vidseg.video.images import open_picture, picture_files

_DEPTH = 3
_NO_AREA = ("line", "linestrip", "point", "points")
_NAMES = {"_background_": BACKGROUND, "__ignore__": None}


def read_labelme(source: Path, asked: Asked) -> Found:
    """LabelMe's files: FRAME.json beside FRAME.jpg, or in a folder of their own.

    Later shapes lie over earlier ones. `_background_` is the background and `__ignore__` void, as
    LabelMe's own converters have it.

    Raises:
        NoSuchLayout: there is no JSON with shapes.
        ValueError: a JSON lacks a field, or a shape is malformed.
    """
    files = list(_json_files(source))
    root = source.parent if source.is_file() else source
    contents = {path: content for path in files if (content := _open(path)) is not None}
    if not contents:
        raise NoSuchLayout("no JSON with shapes")
    frames = _Frames(root)
    names = _class_names(contents, root, asked)
    classes = Classes(coloured(names))
    first = next(iter(contents))
    found = Found(f"labelme: {len(contents)} files such as {first}", classes, [])
    masks: dict[Path, Path] = {}
    for path, content in contents.items():
        frame = frames.of(path, get(str(path), content, "imagePath", str))
        if frame is None:
            found.problems.append(f"{path}: its image {content['imagePath']!r} is not in {root}")
        elif frame in masks:
            found.problems.append(f"{path} is left out: {masks[frame]} is of the same image")
        else:
            masks[frame] = path
    index = {name: i for i, name in enumerate(names)}
    start = index[BACKGROUND] if asked.unlabelled == BACKGROUND else IGNORE
    no_area = 0
    for folder, pictures in frames.by_folder.items():
        if not any(picture in masks for picture in pictures):
            continue
        parts = folder.relative_to(root).parts
        named = [p for p in parts if split_of(p) is None and p.lower() not in ("images", "frames")]
        split = next((split_of(p) for p in parts if split_of(p)), None)
        of_name = sources([picture.stem for picture in pictures], "_".join(named) or "video")
        for picture in pictures:
            mask = None
            if picture in masks:
                shapes = _read_shapes(masks[picture], contents[masks[picture]], index)
                no_area += sum(shape is None for shape in shapes)
                mask = drawer([s for s in shapes if s is not None], start)
            video = "_".join(named) or of_name[picture.stem]
            found.items.append(Item(video, picture.stem, picture, mask, split))
    if no_area:
        found.problems.append(f"{no_area} lines and points have no area and are left out")
    return found


class _Frames:
    """The pictures below a folder, found by the names that JSON files give."""

    def __init__(self, root: Path) -> None:
        self.by_folder: dict[Path, list[Path]] = {}
        waiting = [root]
        while waiting:
            folder = waiting.pop(0)
            pictures = picture_files(folder)
            if pictures:
                self.by_folder[folder] = pictures
            if len(folder.relative_to(root).parts) < _DEPTH:
                waiting += [path for path in visible(folder) if path.is_dir()]

    def of(self, file: Path, name: str) -> Path | None:
        """The picture of a JSON: of its folder first; only the last part of `name` counts."""
        last = re.split(r"[\\/]", name)[-1]
        folders = sorted(self.by_folder, key=lambda folder: folder != file.parent)
        wanted = (last, file.stem)
        everywhere = [p for folder in folders for p in self.by_folder[folder]]
        found = next((p for p in everywhere if p.name == wanted[0]), None)
        return found or next((p for p in everywhere if p.stem == wanted[1]), None)


def _json_files(source: Path) -> Iterator[Path]:
    waiting = [source] if source.is_dir() else []
    if source.is_file() and source.suffix.lower() == ".json":
        yield source
    while waiting:
        folder = waiting.pop(0)
        for path in visible(folder):
            if path.is_dir() and len(folder.relative_to(source).parts) < _DEPTH:
                waiting.append(path)
            elif path.suffix.lower() == ".json":
                yield path


def _open(path: Path) -> dict[str, Any] | None:
    """The content of a LabelMe file; None for another JSON."""
    content = read_json(path) if mentions(path, b'"imagePath"') else None
    if not isinstance(content, dict) or "shapes" not in content:
        return None
    content.pop("imageData", None)  # the image once more, in megabytes
    return content


def _class_names(
    contents: dict[Path, dict[str, Any]], root: Path, asked: Asked
) -> dict[str, tuple[int, int, int] | None]:
    """Names of the classes, in the order of the file that names them, or of the alphabet."""
    used = set()
    for path, content in contents.items():
        for i, shape in enumerate(get(str(path), content, "shapes", list)):
            name = get(f"{path}: shapes[{i}]", shape, "label", str)
            used.add(_NAMES.get(name, name))
    used.discard(None)
    named = asked.classes
    places = (root / name for name in CLASS_FILES if not name.endswith(".json"))
    named = named or next((path for path in places if path.is_file()), None)
    if named is None:
        found = dict.fromkeys(sorted(name for name in used if name is not None))
    else:
        found, _ = read_names(named)
        found = {_NAMES.get(name, name) or name: colour for name, colour in found.items()}
        lacking = sorted(name for name in used if name is not None and name not in found)
        if lacking:
            raise ValueError(f"{named} does not name {', '.join(lacking[:5])}, which shapes have")
    if asked.unlabelled == BACKGROUND and BACKGROUND not in found:
        found = {BACKGROUND: None, **found}
    return found


def _read_shapes(path: Path, content: dict[str, Any], index: dict[str, int]) -> list[Area | None]:
    """What each shape draws, in order; None for one that has no area."""
    drawn: list[Area | None] = []
    for i, shape in enumerate(content["shapes"]):
        where = f"{path}: shapes[{i}]"
        name = _NAMES.get(shape["label"], shape["label"])
        value = IGNORE if name is None else index[name]
        kind = shape.get("shape_type") or "polygon"
        points = read_points(where, get(where, shape, "points", list))
        if kind in _NO_AREA:
            drawn.append(None)
        elif kind == "polygon" and len(points) > 2:
            drawn.append(Area(value, points))
        elif kind == "rectangle" and len(points) == 2:
            (x, y), (right, bottom) = points
            drawn.append(Area(value, rectangle(x, y, right, bottom)))
        elif kind == "circle" and len(points) == 2:
            (x, y), (edge_x, edge_y) = points
            radius = ((x - edge_x) ** 2 + (y - edge_y) ** 2) ** 0.5
            drawn.append(Area(value, ellipse(x, y, radius, radius)))
        elif kind == "mask" and len(points) == 2:
            bits = _mask(where, get(where, shape, "mask", str))
            drawn.append(Area(value, (), bits, round(points[0][0]), round(points[0][1])))
        else:
            raise ValueError(f"{where}: no {kind!r} with {len(points)} points is known")
    return drawn


def _mask(where: str, text: str) -> np.ndarray:
    try:
        file = io.BytesIO(base64.b64decode(text, validate=True))
        with open_picture(file, "the mask") as picture:
            return np.array(picture.convert("L")) > 0
    except ValueError as error:
        raise ValueError(f"{where}: 'mask' must be a PNG as base64: {error}") from None

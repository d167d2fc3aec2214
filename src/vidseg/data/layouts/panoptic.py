"""COCO's panoptic PNG: a JSON of categories and segments, and a PNG of segment ids a frame."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vidseg.classes import IGNORE
from vidseg.data.classes_file import Classes
from vidseg.data.files import Colour, visible
from vidseg.data.layouts.found import (
    Asked,
    Found,
    Item,
    NoSuchLayout,
    ReadMask,
    fits,
    get,
    mentions,
    read_json,
    split_of,
)
from vidseg.data.layouts.mask_classes import coloured
from vidseg.data.layouts.matching import sources
from vidseg.sizes import Size
from vidseg.video.images import IMAGE_SUFFIXES, picture_files, read_stored

_DEPTH = 5
_MAX_ID = 1 << 24


@dataclass(frozen=True)
class _Annotation:
    """A frame with its segments.

    Attributes:
        name: path of the frame without suffix, as the JSON gives it.
        mask: name of the PNG.
        segments: label index of each segment id.
        video: as the JSON names it; None to take the folder.
    """

    name: str
    mask: str
    segments: dict[int, int]
    video: str | None


def read_panoptic(source: Path, asked: Asked) -> Found:
    """COCO's panoptic format, for pictures (COCO, Cityscapes) or for videos (VIPSeg, VPS).

    An id of the PNG is R + 256 G + 65536 B; ids without a segment are void. A category is a class,
    things and stuff alike, in the order of the ids.

    Raises:
        NoSuchLayout: there is no JSON with segments_info.
        ValueError: a JSON lacks a field, or names a PNG or frame that is not there.
    """
    files = list(_json_files(source))
    contents = [(path, content) for path in files if (content := _open(path)) is not None]
    if not contents:
        raise NoSuchLayout("no JSON whose annotations have segments_info")
    root = source.parent if source.is_file() else source
    pictures = _Pictures(root)
    classes, index = _categories(contents)
    found = Found(f"coco-panoptic: {', '.join(str(p) for p, _ in contents[:3])}", classes, [])
    lacking: list[str] = []
    for path, content in contents:
        for one in _annotations(path, content, index):
            mask = pictures.find(one.mask, near=path.stem, is_mask=True)
            frame = pictures.find(one.name, near=path.stem, is_mask=False, unlike=mask)
            if mask is None or frame is None:
                lacking.append(one.mask if mask is None else one.name)
                continue
            folder = one.name.rpartition("/")[0].rpartition("/")[2]
            video = one.video or (folder if split_of(folder) is None else "")
            reader = _reader(mask, one.segments)
            found.items.append(Item(video, frame.stem, frame, reader, split_of(path.stem)))
    if lacking:
        shown = ", ".join(lacking[:3]) + ", ..." * (len(lacking) > 3)
        found.problems.append(f"{len(lacking)} files of the JSON are not in {root}: {shown}")
    found.items = _grouped(found.items)
    return found


def _grouped(items: list[Item]) -> list[Item]:
    """Frames without a video: by what stands before the number in their names."""
    of_name = sources([item.name for item in items if not item.video], "video")
    return [replace(item, video=item.video or of_name[item.name]) for item in items]


def _json_files(source: Path) -> Iterator[Path]:
    if source.is_file():
        yield from [source] if source.suffix.lower() == ".json" else []
        return
    for folder in (source, *(path for path in visible(source) if path.is_dir())):
        yield from (path for path in visible(folder) if path.suffix.lower() == ".json")


def _open(path: Path) -> dict[str, Any] | None:
    """The content of a panoptic JSON; None for another one."""
    content = read_json(path) if mentions(path, b'"segments_info"') else None
    is_panoptic = isinstance(content, dict) and "categories" in content
    return content if is_panoptic else None


def _categories(contents: Iterable[tuple[Path, dict[str, Any]]]) -> tuple[Classes, dict[int, int]]:
    """Classes, and the label index of each category id."""
    named: dict[int, str] = {}
    colours: dict[int, Colour | None] = {}
    for path, content in contents:
        for i, one in enumerate(get(str(path), content, "categories", list)):
            where = f"{path}: categories[{i}]"
            number, name = get(where, one, "id", int), get(where, one, "name", str)
            if named.setdefault(number, name) != name:
                raise ValueError(f"{where}: id {number} is {name!r}, and {named[number]!r} before")
            colour = one.get("color")
            is_rgb = isinstance(colour, list) and len(colour) == 3
            is_rgb = is_rgb and all(isinstance(c, int) and 0 <= c <= 255 for c in colour)
            colours[number] = (colour[0], colour[1], colour[2]) if is_rgb else None
    order = sorted(named)
    names = [named[number] for number in order]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or not 1 <= len(names) <= IGNORE:
        raise ValueError(
            f"categories must be 1..{IGNORE} of different names, got {len(names)}"
            + (f", {', '.join(twice[:3])} twice" if twice else "")
        )
    palette = coloured({named[number]: colours[number] for number in order})
    return Classes(palette), {number: i for i, number in enumerate(order)}


def _annotations(
    path: Path, content: dict[str, Any], index: dict[int, int]
) -> Iterator[_Annotation]:
    names = {}
    for i, image in enumerate(content.get("images") or ()):
        where = f"{path}: images[{i}]"
        names[get(where, image, "id", (int, str))] = get(where, image, "file_name", str)
    for i, one in enumerate(get(str(path), content, "annotations", list)):
        where = f"{path}: annotations[{i}]"
        if isinstance(one, dict) and "annotations" in one:  # a video with a list of frames
            video = str(get(where, one, "video_id", (int, str)))
            for j, frame in enumerate(get(where, one, "annotations", list)):
                inner = f"{where}.annotations[{j}]"
                mask = get(inner, frame, "file_name", str)
                yield _Annotation(
                    f"{video}/{mask}", f"{video}/{mask}", _segments(inner, frame, index), video
                )
            continue
        mask = get(where, one, "file_name", str)
        name = names.get(one.get("image_id"), mask)
        yield _Annotation(name, mask, _segments(where, one, index), None)


def _segments(where: str, holder: dict[str, Any], index: dict[int, int]) -> dict[int, int]:
    found = {}
    for i, one in enumerate(get(where, holder, "segments_info", list)):
        inner = f"{where}.segments_info[{i}]"
        number, category = get(inner, one, "id", int), get(inner, one, "category_id", int)
        if category not in index:
            raise ValueError(f"{inner}: category_id {category} is in no category")
        if not 0 <= number < _MAX_ID:
            raise ValueError(f"{inner}: id must be 0..{_MAX_ID - 1}, got {number}")
        found[number] = index[category]
    return found


def _reader(path: Path, segments: dict[int, int]) -> ReadMask:
    def read(size: Size) -> np.ndarray:
        values = read_stored(path).values
        if values.ndim == 3:
            values = values.astype(np.uint32) @ np.array([1, 256, 65536], np.uint32)
        present, inverse = np.unique(values, return_inverse=True)
        labels = [segments.get(int(number), IGNORE) for number in present]
        return fits(np.array(labels, np.uint8)[inverse].reshape(values.shape), size, path)

    return read


class _Pictures:
    """The pictures below a folder, found by the end of their paths."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._by_stem: dict[str, list[Path]] = defaultdict(list)
        waiting = [root]
        while waiting:
            folder = waiting.pop()
            for path in picture_files(folder, IMAGE_SUFFIXES):
                self._by_stem[path.stem].append(path)
            if len(folder.relative_to(root).parts) < _DEPTH:
                waiting += [path for path in visible(folder) if path.is_dir()]

    def find(
        self, name: str, *, near: str, is_mask: bool, unlike: Path | None = None
    ) -> Path | None:
        """The picture of a name that a JSON gives: never outside the folder, as it is looked up.

        Args:
            name: such as "video/0001.png"; its suffix does not count for frames.
            near: stem of the JSON; masks lie in a folder of this name or of another with "pan".
            is_mask: of the ids, or a frame.
            unlike: the mask of a frame that is looked for.
        """
        parts = tuple(part for part in name.replace("\\", "/").split("/") if part)
        *folders, last = parts or ("",)
        stem = last.rpartition(".")[0] or last
        same = self._by_stem.get(stem, ())
        ending = f"/{'/'.join(folders)}" if folders else ""
        fitting = [p for p in same if p != unlike and p.parent.as_posix().endswith(ending)]

        def rank(path: Path) -> tuple[bool, bool, int]:
            words = path.relative_to(self._root).parent.as_posix().lower()
            is_theirs = near.lower() in words or "pan" in words or "mask" in words
            is_split = split_of(words) == split_of(near)
            return is_theirs != is_mask, not is_split, len(path.parts)

        return min(fitting, key=rank, default=None)

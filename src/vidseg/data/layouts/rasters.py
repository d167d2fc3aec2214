"""Frames and masks that are pictures: two folders, PASCAL VOC's three, DAVIS's one a video."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vidseg.data.classes_file import Classes
from vidseg.data.files import list_labels, visible
from vidseg.data.folder import MASK_SUFFIXES
from vidseg.data.label_code import LabelCode
from vidseg.data.layouts.found import (
    BACKGROUND,
    SPLITS,
    Asked,
    Found,
    Item,
    NoSuchLayout,
    ReadMask,
    fits,
    get,
    read_json,
    split_of,
)
from vidseg.data.layouts.mask_classes import CLASS_FILES, coloured, find_classes
from vidseg.data.layouts.matching import match, sources
from vidseg.documents import read_text
from vidseg.sizes import Size
from vidseg.video.images import picture_files

FRAME_FOLDERS = (
    *("images", "image", "imgs", "img", "frames", "frame", "rgb", "jpegimages", "img_dir"),
    *("inputs", "input", "leftimg8bit"),
)
MASK_FOLDERS = (
    *("masks", "mask", "labels", "label", "annotations", "annotation", "ann_dir", "annots", "gt"),
    *("ground_truth", "groundtruth", "segmentationclass", "segmentation", "segmentations"),
    *("targets", "seg"),
)
_DEPTH = 4


@dataclass(frozen=True)
class _Pair:
    """A folder of frames and the folder of their masks (which may not be there)."""

    frames: Path
    masks: Path
    parts: tuple[str, ...]  # of the path that name a split or a video


def read_flat(source: Path, asked: Asked) -> Found:
    """A folder of frames beside a folder of masks: images/ and masks/, or others of such names.

    Folders below or above them are splits, where they are named so, or else videos. Frames of one
    folder are sorted into videos by what stands before the number in their names.

    Raises:
        NoSuchLayout: there are no such folders.
        ValueError: masks and frames, or masks and classes, do not fit.
    """
    pairs = list(_find_pairs(source, asked.masks))
    if not any(_holds_masks(pair) for pair in pairs):
        raise NoSuchLayout(
            f"no folder of frames ({', '.join(FRAME_FOLDERS[:6])}, ...) beside one of masks "
            f"({', '.join(MASK_FOLDERS[:6])}, ...)"
        )
    first = next(pair for pair in pairs if _holds_masks(pair))
    what = f"flat: frames in {first.frames}, masks in {first.masks}"
    return _read_pairs(source, pairs, asked, f"{what}{', ...' * (len(pairs) > 1)}")


def read_voc(source: Path, asked: Asked) -> Found:
    """PASCAL VOC's layout: JPEGImages/, SegmentationClass/, ImageSets/Segmentation/train.txt, ...

    Raises:
        NoSuchLayout: the folders are not there.
        ValueError: as for `read_flat`; or a list names a frame that is not there.
    """
    frames, masks = source / "JPEGImages", source / "SegmentationClass"
    if not (frames.is_dir() and masks.is_dir()):
        raise NoSuchLayout("no JPEGImages/ beside SegmentationClass/")
    what = f"voc: {frames} and {masks}"
    found = _read_pairs(source, [_Pair(frames, masks, ())], asked, what)
    lists = _read_lists(source / "ImageSets" / "Segmentation", found.problems)
    if lists:
        found.items = [
            Item(item.video, item.name, item.image, item.mask, lists[item.name])
            for item in found.items
            if item.name in lists
        ]
    return found


def read_davis(source: Path, asked: Asked) -> Found:
    """DAVIS's layout: JPEGImages/480p/VIDEO/00000.jpg, Annotations/480p/VIDEO/00000.png.

    Also that of YouTube-VOS, with train/ above it and meta.json. The values of the masks number
    objects of a video: they become the class "object", or the categories of meta.json; where a
    file names classes (classes.json, --classes), they are its indices or colours.

    Raises:
        NoSuchLayout: the folders are not there.
        ValueError: as for `read_flat`.
    """
    pairs, problems = [], []
    for root in [source, *(p for p in visible(source) if p.is_dir() and split_of(p.name))]:
        pairs += _davis_pairs(root, problems)
    if not pairs:
        raise NoSuchLayout("no JPEGImages/VIDEO/ beside Annotations/VIDEO/")
    what = f"davis: {len(pairs)} videos such as {pairs[0].frames}"
    metas = [path for path in (source / "meta.json", *source.glob("*/meta.json")) if path.is_file()]
    is_named = asked.classes or any((source / name).is_file() for name in CLASS_FILES)
    if is_named:
        found = _read_pairs(source, pairs, asked, what)
    else:
        objects = _objects(metas)
        found = _read_objects(pairs, objects, asked, what)
    lists = {}
    for folder in visible(source / "ImageSets") if (source / "ImageSets").is_dir() else ():
        lists |= _read_lists(folder, found.problems) if folder.is_dir() else {}
    found.problems += problems
    if lists:
        found.items = [
            Item(i.video, i.name, i.image, i.mask, lists.get(i.video, i.split))
            for i in found.items
            if i.video in lists or i.split
        ]
    return found


def _davis_pairs(root: Path, problems: list[str]) -> list[_Pair]:
    frames, masks = root / "JPEGImages", root / "Annotations"
    if not (frames.is_dir() and masks.is_dir()):
        return []
    top = () if split_of(root.name) is None else (root.name,)

    def videos(folder: Path) -> list[Path]:
        return [p for p in visible(folder) if p.is_dir() and picture_files(p)]

    if not videos(frames):  # a folder for each resolution lies between
        sizes = [p for p in visible(frames) if p.is_dir() and (masks / p.name).is_dir()]
        sizes = [p for p in sizes if videos(p)]
        if not sizes:
            return []
        chosen = next((p for p in sizes if p.name == "480p"), sizes[0])
        if len(sizes) > 1:
            problems.append(f"of {', '.join(p.name for p in sizes)}, {chosen.name} is taken")
        frames, masks = chosen, masks / chosen.name
    return [_Pair(path, masks / path.name, (*top, path.name)) for path in videos(frames)]


def _objects(metas: list[Path]) -> dict[str, dict[int, str]]:
    """Category of each object of each video, as meta.json of YouTube-VOS says."""
    found: dict[str, dict[int, str]] = {}
    for path in metas:
        videos = get(str(path), read_json(path), "videos", dict)
        for video, content in videos.items():
            where = f"{path}, video {video}"
            objects = get(where, content, "objects", dict)
            found[video] = {
                int(number): get(f"{where}, object {number}", one, "category", str)
                for number, one in objects.items()
                if number.isdecimal() and len(number) < 4
            }
    return found


def _read_objects(
    pairs: list[_Pair], objects: dict[str, dict[int, str]], asked: Asked, what: str
) -> Found:
    """Masks whose values number objects; every number without a category is an "object"."""
    named = sorted({name for video in objects.values() for name in video.values()})
    names = [BACKGROUND, *([n for n in named if n != BACKGROUND] or ["object"])]
    palette = coloured(dict.fromkeys(names))

    def reader_of(pair: _Pair) -> LabelCode:
        ours = objects.get(pair.parts[-1], {})
        values = {0: 0, 255: 255}
        for number in range(1, 255):
            name = ours.get(number, None if objects else "object")
            values[number] = 255 if name is None else names.index(name)
        return LabelCode(list(palette.values()), names, values=values)

    found = Found(what, Classes(palette), [])
    if not objects:
        found.problems.append(
            "the masks number objects; all of them are the class object (--classes FILE says that "
            "they hold classes)"
        )
    for pair in pairs:
        code = reader_of(pair)
        found.items += _items(pair, asked, code, found.problems, video=pair.parts[-1])
    return found


def _read_pairs(source: Path, pairs: list[_Pair], asked: Asked, what: str) -> Found:
    problems: list[str] = []
    folders = [pair.masks for pair in pairs]
    masks = [path for folder in folders for path in list_labels(folder, MASK_SUFFIXES).values()]
    places = dict.fromkeys((source, *(p.masks for p in pairs), *(p.masks.parent for p in pairs)))
    classes = find_classes(masks, list(places), asked.classes, problems)
    code = classes.code()
    found = Found(what, Classes(classes.palette, classes.fps), [], problems=problems)
    for pair in pairs:
        found.items += _items(pair, asked, code, problems)
    return found


def _items(
    pair: _Pair, asked: Asked, code: LabelCode, problems: list[str], video: str | None = None
) -> Iterator[Item]:
    frames = {path.stem: path for path in picture_files(pair.frames)}
    masks = list_labels(pair.masks, MASK_SUFFIXES)
    if pair.frames == pair.masks:
        frames = {path.stem: path for path in picture_files(pair.frames, (".jpg", ".jpeg"))}
        masks = {stem: path for stem, path in masks.items() if path not in frames.values()}
    pairs, orphans = match(list(frames), list(masks), asked.offset, pair.masks)
    if orphans:
        shown = ", ".join(orphans[:3]) + ", ..." * (len(orphans) > 3)
        problems.append(f"{pair.masks}: {len(orphans)} masks have no frame, left out: {shown}")
    split = next((SPLITS[p.lower()] for p in pair.parts if p.lower() in SPLITS), None)
    above = "_".join(p for p in pair.parts if p.lower() not in SPLITS)
    of_name = sources(list(frames), above or "video")
    for stem, path in frames.items():
        mask = mask_reader(masks[pairs[stem]], code) if stem in pairs else None
        yield Item(video or above or of_name[stem], stem, path, mask, split)


def mask_reader(path: Path, code: LabelCode) -> ReadMask:
    """Reads a mask that is a picture, of the size of its frame."""

    def read(size: Size) -> np.ndarray:
        return fits(code.read(path), size, path)

    return read


def _find_pairs(source: Path, masks: Path | None) -> Iterator[_Pair]:
    """Folders of frames, each with that of its masks."""
    if masks is not None:
        frames = next((p for p in _children(source) if p.name.lower() in FRAME_FOLDERS), source)
        yield from _below(frames, masks, ())
        return
    waiting = [(source, ())]
    while waiting:
        folder, parts = waiting.pop(0)
        children = _children(folder)
        theirs = _named(children, FRAME_FOLDERS)
        ours = _named(children, MASK_FOLDERS)
        if theirs is not None and ours is not None:
            yield from _below(theirs, ours, parts)
        elif twins := _twins(children):
            for frames, labels in twins:
                yield from _below(frames, labels, (*parts, frames.name))
        elif len(parts) < _DEPTH:
            waiting += [(child, (*parts, child.name)) for child in children]
    if _holds_masks(_Pair(source, source, ())) and not _children(source):
        yield _Pair(source, source, ())


def _twins(children: list[Path]) -> list[tuple[Path, Path]]:
    """Folders such as train/ and trainannot/, SegNet's way."""
    by_name = {path.name: path for path in children}
    return [
        (path, by_name[f"{path.name}{end}"])
        for path in children
        for end in ("annot", "_annot", "_labels", "_masks", "_mask", "_gt")
        if f"{path.name}{end}" in by_name
    ]


def _below(frames: Path, masks: Path, parts: tuple[str, ...]) -> Iterator[_Pair]:
    """The folder of frames itself, and those below it, each with its counterpart."""
    if picture_files(frames):
        yield _Pair(frames, masks, parts)
    if len(parts) <= _DEPTH:
        for child in _children(frames):
            yield from _below(child, masks / child.name, (*parts, child.name))


def _children(folder: Path) -> list[Path]:
    return [path for path in visible(folder) if path.is_dir()]


def _named(children: list[Path], names: tuple[str, ...]) -> Path | None:
    by_name = {path.name.lower(): path for path in children}
    return next((by_name[name] for name in names if name in by_name), None)


def _holds_masks(pair: _Pair) -> bool:
    if pair.frames == pair.masks:
        kinds = {path.suffix.lower() for path in picture_files(pair.frames)}
        return ".png" in kinds and bool(kinds & {".jpg", ".jpeg"})
    return bool(list_labels(pair.masks, MASK_SUFFIXES))


def _read_lists(folder: Path, problems: list[str]) -> dict[str, str]:
    """Split of each name, of train.txt, val.txt, test.txt; the first of them that has it counts."""
    found: dict[str, str] = {}
    for name in ("train", "val", "test"):
        path = folder / f"{name}.txt"
        for line in read_text(path).splitlines() if path.is_file() else ():
            words = line.split()
            if words and found.setdefault(words[0], name) != name:
                problems.append(f"{path} names {words[0]}, which is in {found[words[0]]} already")
    return found

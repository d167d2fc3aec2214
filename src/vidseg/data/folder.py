"""Your own videos: a folder of frames and a folder of masks for each, and a classes.json."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vidseg.data.clip import IGNORE, Video, VideoDataset, split_at_gaps
from vidseg.data.files import (
    Colour,
    MissingFilesError,
    colours_to_indices,
    identity_table,
    list_images,
    map_values,
    read_label_image,
)
from vidseg.suggest import did_you_mean

_KEYS = ("classes", "fps", "ignore")


@dataclass(frozen=True)
class Classes:
    """What classes.json says.

    Attributes:
        palette: RGB colour of each class by name, in the order of the label indices.
        fps: ticks per second of the frame numbers; None if it is not said.
        ignore_values: values of index masks that count nowhere.
        ignore_colours: colours of colour masks that count nowhere.
    """

    palette: dict[str, Colour]
    fps: float | None = None
    ignore_values: tuple[int, ...] = (IGNORE,)
    ignore_colours: tuple[Colour, ...] = ()


class Folder(VideoDataset):
    """Any videos in this layout; masks only where frames are labelled.

    ```
    root/classes.json                     {"classes": {"road": [128, 64, 128], "car": [0, 0, 142]},
                                           "fps": 25, "ignore": [255, [0, 0, 0]]}
    root/train/<video>/frames/00017.jpg   .jpg or .png, numbered at the end of the name
    root/train/<video>/masks/00017.png    of the same stem; class indices, or the colours
    root/val/...                          as many splits as you like
    ```
    Numbers may start anywhere and rise by any step; a step above three times the usual one starts
    another video. `fps` counts numbers, so 25 with every fifth frame stored means 5 frames/s.
    """

    def __init__(self, root: Path, split: str) -> None:
        """Index a split.

        Args:
            root: see the class.
            split: folder below `root`.

        Raises:
            FileNotFoundError: classes.json, the split or frames are missing, or masks lack theirs.
            ValueError: classes.json is malformed.
        """
        root = Path(root)
        self.described = read_classes(root / "classes.json")
        if not (root / split).is_dir():
            there = [path.name for path in sorted(root.glob("[!.]*/"))]
            raise FileNotFoundError(f"{root} has no split {split!r}{did_you_mean(split, there)}")
        videos = []
        for folder in sorted((root / split).glob("[!.]*/")):
            videos += split_at_gaps(_read_video(folder, self.described.fps))
        table = identity_table(len(self.described.palette))
        table[IGNORE] = -1
        table[list(self.described.ignore_values)] = IGNORE
        super().__init__(
            f"{root.name}/{split}",
            videos,
            tuple(self.described.palette),
            list(self.described.palette.values()),
            label_table=table,
        )
        self._colours = {colour: i for i, colour in enumerate(self.described.palette.values())}
        self._colours |= dict.fromkeys(self.described.ignore_colours, IGNORE)

    def read_label(self, path: Path) -> np.ndarray:
        """Read a mask as (H, W) uint8 label indices, from indices or from colours.

        Raises:
            ValueError: a value or a colour is no class, or the file cannot be read.
        """
        values = read_label_image(path)
        if values.ndim == 3:
            if len(self._colours) < len(self.described.palette):
                raise ValueError(f"{path} is in colour, but classes.json gives two classes one")
            return colours_to_indices(values, self._colours, path)
        return map_values(values, self.label_table, path, self.num_classes)


def read_classes(path: Path) -> Classes:
    """Read a classes.json.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is no JSON, has unknown keys, or a name, colour or value is malformed.
    """
    example = '{"classes": {"road": [128, 64, 128], "car": [0, 0, 142]}, "fps": 25}'
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; it names the classes, like {example}")
    try:
        content = json.loads(path.read_text(), object_pairs_hook=_without_repeats)
    except ValueError as error:
        raise ValueError(f"{path}: {error}; it should look like {example}") from error
    if not isinstance(content, dict) or not isinstance(content.get("classes"), dict):
        raise ValueError(f"{path} must name the classes and their colours, like {example}")
    for key in content:
        if key not in _KEYS:
            raise ValueError(f"{path}: unknown key {key!r}{did_you_mean(key, _KEYS)}")
    palette = {name: _colour(path, name, colour) for name, colour in content["classes"].items()}
    if not 1 <= len(palette) <= IGNORE:
        raise ValueError(f"{path} must name 1..{IGNORE} classes, got {len(palette)}")
    fps = content.get("fps")
    if fps is not None and not (isinstance(fps, int | float) and fps > 0):
        raise ValueError(f"{path}: fps must be a number above 0, got {fps!r}")
    ignore = content.get("ignore", [IGNORE])
    ignore = ignore if isinstance(ignore, list) else [ignore]
    values = tuple(value for value in ignore if isinstance(value, int))
    colours = tuple(_colour(path, "ignore", c) for c in ignore if not isinstance(c, int))
    wrong = [value for value in values if not len(palette) <= value <= 255]
    if wrong:
        raise ValueError(
            f"{path}: ignored values must lie in {len(palette)}..255, above the classes' indices, "
            f"got {wrong}"
        )
    return Classes(palette, fps, values, colours)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{twice} given twice")
    return dict(pairs)


def _colour(path: Path, name: str, colour: Any) -> Colour:
    is_rgb = isinstance(colour, list) and len(colour) == 3
    if not is_rgb or not all(isinstance(c, int) and 0 <= c <= 255 for c in colour):
        raise ValueError(f"{path}: colour of {name!r} must be [red, green, blue], got {colour!r}")
    return colour[0], colour[1], colour[2]


def _read_video(folder: Path, fps: float | None) -> Video:
    if not (folder / "frames").is_dir():
        raise FileNotFoundError(f"{folder / 'frames'} is missing; it holds the images of a video")
    frames = list_images(folder / "frames")
    if not frames:
        raise FileNotFoundError(f"{folder / 'frames'} holds no .png or .jpg image")
    masks = {}
    if (folder / "masks").is_dir():
        masks = {path.stem: path for path in (folder / "masks").glob("[!.]*.png")}
    orphans = sorted(masks.keys() - frames.keys())
    if orphans:
        raise MissingFilesError(folder / "frames", orphans, "masks have no frame of their stem")
    numbered = sorted((_number(stem), stem) for stem in frames)
    numbers = [number for number, _ in numbered]
    if numbers[0] < 0 or len(set(numbers)) < len(numbers):
        raise ValueError(
            f"{folder / 'frames'}: every image needs a number of its own at the end of its name, "
            f"like 00017.jpg; got {', '.join(stem for _, stem in numbered[:3])}"
        )
    stems = [stem for _, stem in numbered]
    return Video(
        name=folder.name,
        frames=tuple(frames[stem] for stem in stems),
        labels=tuple(masks.get(stem) for stem in stems),
        numbers=tuple(numbers),
        rate_hz=fps,
    )


def _number(stem: str) -> int:
    match = re.search(r"(\d+)$", stem)
    return int(match[1]) if match else -1

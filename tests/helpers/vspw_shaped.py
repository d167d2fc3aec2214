"""A folder like VSPW's, of rendered streets: frames, masks and lists of videos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from vidseg.classes import VSPW
from vidseg.data.files import write_image
from vidseg.data.synthetic import CLASSES, render

# What each class of the street is in VSPW.
NAMES = {
    "sky": "sky",
    "building": "building",
    "pole": "pole",
    "road": "road",
    "pavement": "path",
    "tree": "tree",
    "sign": "billboard_or_Bulletin_Board",
    "fence": "handrail_or_fence",
    "car": "car",
    "pedestrian": "person",
    "bicyclist": "bicycle",
}
LENGTHS = {"train": (12, 11), "val": (18,), "test": (10,)}


def file_values() -> np.ndarray:
    """(256,) what VSPW's files hold for each label of the street; ignored is 0, "others"."""
    table = np.zeros(256, np.uint8)
    table[: len(CLASSES)] = [VSPW.names.index(NAMES[name]) + 1 for name in CLASSES]
    return table


def write_vspw(
    root: Path,
    lengths: Mapping[str, Sequence[int]] = LENGTHS,
    size: tuple[int, int] = (48, 64),
) -> Path:
    """Write videos train_0, train_1, ..., of so many frames; the test split has no masks."""
    table = file_values()
    for number, (split, counts) in enumerate(lengths.items()):
        names = [f"{split}_{i}" for i in range(len(counts))]
        root.mkdir(parents=True, exist_ok=True)
        (root / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
        for i, (name, count) in enumerate(zip(names, counts, strict=True)):
            video = render(100 * number + i, count, size)
            for t in range(count):
                folder = root / "data" / name
                write_image(folder / "origin" / f"{t:08d}.jpg", video.frames[t])
                if split != "test":
                    write_image(folder / "mask" / f"{t:08d}.png", table[video.labels[t]])
    return root

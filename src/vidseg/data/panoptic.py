"""Data sets of panoptic video, read as semantic ones: VIPSeg and KITTI-STEP.

Their label files hold a class and an instance for each pixel; the instance is dropped.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vidseg.classes import CITYSCAPES, VSPW
from vidseg.data.clip import IGNORE, Video, VideoDataset
from vidseg.data.files import MissingFilesError, identity_table, list_images, map_values
from vidseg.data.vspw import read_list
from vidseg.inside import inside
from vidseg.video.images import read_values


class VIPSeg(VideoDataset):
    """VIPSeg in the layout of its authors, original or at 720p: VSPW's 124 classes.

    ```
    root/train.txt, val.txt, test.txt    a video a line
    root/imgs/<video>/*.jpg
    root/panomasks/<video>/*.png         of the same stem; 16 bits a pixel
    ```
    A label is a category 1..124, or 100 times a category plus the number of an instance; 0 is void.
    About five frames a second are stored and labelled.
    """

    def __init__(self, root: Path, split: str) -> None:
        """Index a split.

        Args:
            root: see the class.
            split: "train", "val" or "test".

        Raises:
            FileNotFoundError: the list, a video of it or its frames are missing, or labels lack
                their frames.
            ValueError: the list is empty or names a video twice.
        """
        root = Path(root)
        names = read_list(root, split)
        lacking = [n for n in names if not inside(root / "imgs", n, links=True).is_dir()]
        if lacking:
            reason = f"{split}.txt lists more videos; copy them, or take them out of it"
            raise MissingFilesError(root / "imgs", lacking, reason)
        videos = [
            _video(
                name,
                inside(root / "imgs", name, links=True),
                inside(root / "panomasks", name, links=True),
            )
            for name in names
        ]
        super().__init__(f"vipseg/{split}", videos, *VSPW)

    def read_label(self, path: Path) -> np.ndarray:
        """Read a panoptic mask as (H, W) uint8 label indices, 255 where void.

        Raises:
            ValueError: the file is in colour (panomasksRGB/), or holds a category above 124.
        """
        values = read_values(path)
        if values.ndim != 2:
            raise ValueError(
                f"{path} is in colour; VIPSeg's labels are read from panomasks/, 16 bits a pixel"
            )
        values = values.astype(np.int64)
        category = np.where(values > len(VSPW.names), values // 100, values)
        table = np.full(max(256, int(category.max(initial=0)) + 1), -1, np.int16)
        table[1 : len(VSPW.names) + 1] = np.arange(len(VSPW.names))
        table[0] = IGNORE
        return map_values(category, table, path, self.num_classes)


class KittiStep(VideoDataset):
    """KITTI-STEP: Cityscapes' 19 classes, every frame labelled, 10 frames a second.

    ```
    root/images/<split>/<sequence>/*.png
    root/panoptic_maps/<split>/<sequence>/*.png    of the same stem
    ```
    A label is a colour: red is the train id of the class, 255 for void; green and blue are the
    number of the instance.
    """

    def __init__(self, root: Path, split: str) -> None:
        """Index a split.

        Args:
            root: see the class.
            split: "train" or "val"; "test" has no labels.

        Raises:
            FileNotFoundError: the split is missing, or labels lack their frames.
        """
        folder = Path(root) / "images" / split
        if not folder.is_dir():
            there = ", ".join(sorted(path.name for path in folder.parent.glob("[!.]*/")))
            raise FileNotFoundError(
                f"{folder} is missing; there is: {there or 'no folder of a split'}"
            )
        masks = Path(root) / "panoptic_maps" / split
        sequences = sorted(path for path in folder.glob("[!.]*/") if path.is_dir())
        videos = [_video(path.name, path, masks / path.name, rate_hz=10.0) for path in sequences]
        super().__init__(f"kitti-step/{split}", videos, *CITYSCAPES)

    def read_label(self, path: Path) -> np.ndarray:
        """Read a panoptic map as (H, W) uint8 train ids, 255 where void.

        Raises:
            ValueError: the file has one channel, or holds a class above 18.
        """
        values = read_values(path)
        if values.ndim != 3:
            raise ValueError(
                f"{path} has one channel; KITTI-STEP's panoptic maps are in colour, with the class "
                "in red"
            )
        return map_values(values[..., 0], identity_table(19), path, self.num_classes)


def _video(name: str, frames: Path, masks: Path, *, rate_hz: float | None = None) -> Video:
    found = list_images(frames)
    if not found:
        raise FileNotFoundError(f"{frames} holds no .jpg or .png image")
    labels = {path.stem: path for path in masks.glob("[!.]*.png")} if masks.is_dir() else {}
    orphans = sorted(labels.keys() - found.keys())
    if orphans:
        raise MissingFilesError(frames, orphans, "labels have no frame of their stem")
    return Video(
        name=name,
        frames=tuple(found.values()),
        labels=tuple(labels.get(stem) for stem in found),
        numbers=tuple(range(len(found))),
        rate_hz=rate_hz,
    )

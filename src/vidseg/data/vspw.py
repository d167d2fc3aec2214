"""VSPW, "Video Scene Parsing in the Wild": 124 classes, every frame labelled, 15 frames/s."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vidseg.classes import VSPW as CLASSES
from vidseg.data.clip import IGNORE, Video, VideoDataset
from vidseg.data.files import MissingFilesError, list_images, list_labels
from vidseg.documents import read_text
from vidseg.inside import fault_of, inside
from vidseg.suggest import did_you_mean

SPLITS = ("train", "val", "test")
RATE_HZ = 15.0


class VSPW(VideoDataset):
    """VSPW in the layout of its authors, at any size: that of 480p, or the original one.

    ```
    root/train.txt, val.txt, test.txt     a video a line
    root/data/<video>/origin/*.jpg        in the order of their names
    root/data/<video>/mask/*.png          of the same stem; the test split has none
    ```
    In the files 1..124 are the classes, 0 ("others") and 255 are ignored. Frames are counted, their
    numbers are not read: some are missing in VSPW, and its authors count them so.
    """

    official_score = "vspw"

    def __init__(self, root: Path, split: str, *, videos: Sequence[str] | None = None) -> None:
        """Index a split.

        Args:
            root: see the class.
            split: "train", "val", "test", or another list of videos beside them.
            videos: only these, such as "1001_5z_ijQjUf_0"; None for all.

        Raises:
            FileNotFoundError: the list, a video of it or its frames are missing, or masks lack
                their frames.
            ValueError: the list is empty or names a video twice, or `videos` is not in it.
        """
        root = Path(root)
        names = read_list(root, split)
        if videos is not None:
            names = _only(names, videos, split)
        lacking = [n for n in names if not inside(root / "data", n, links=True).is_dir()]
        if lacking:
            reason = f"{split}.txt lists more videos; copy them, or take them out of it"
            raise MissingFilesError(root / "data", lacking, reason)
        found = [read_video(root, name) for name in names]
        super().__init__(f"vspw/{split}", found, *CLASSES, label_table=label_table())


def label_table() -> np.ndarray:
    """(256,) label index of each file value: 1..124 -> 0..123, 0 and 255 ignored, -1 else."""
    table = np.full(256, -1, np.int16)
    table[1 : len(CLASSES.names) + 1] = np.arange(len(CLASSES.names))
    table[[0, IGNORE]] = IGNORE
    return table


def lists_of(root: Path) -> dict[str, Path]:
    """The lists of videos by split, of those that are there."""
    files = {split: root / f"{split}.txt" for split in SPLITS}
    return {split: path for split, path in files.items() if path.is_file()}


def read_list(root: Path, split: str) -> list[str]:
    """Names of the videos of a split, in the order of its list.

    Raises:
        FileNotFoundError: there is no such list.
        ValueError: it is empty, or names a video twice.
    """
    path = root / f"{split}.txt"
    if not path.is_file():
        there = ", ".join(found.name for found in sorted(root.glob("*.txt")))
        raise FileNotFoundError(
            f"{path} is missing; it names the videos, one a line; there is: {there or 'no list'}"
        )
    names = names_in(path)
    twice = sorted(name for name, times in Counter(names).items() if times > 1)
    if twice:
        raise ValueError(f"{path} names videos twice: {', '.join(twice[:3])}; delete the repeats")
    if not names:
        raise ValueError(f"{path} is empty; it should name videos, one a line")
    return names


def names_in(path: Path) -> list[str]:
    """Read the names in a list, one a line, with any line ending.

    Raises:
        ValueError: a line is no name of a folder in data/.
    """
    lines = read_text(path).splitlines()
    for number, line in enumerate(lines, 1):
        fault = fault_of(line.strip()) if line.strip() else ""
        if fault:
            raise ValueError(
                f"{path}, line {number}: the name {line.strip()!r} {fault}; a list names the "
                "folders in data/"
            )
    return [line.strip() for line in lines if line.strip()]


def list_faults(root: Path) -> list[tuple[Path, str]]:
    """List the faults of the lists of videos, each with its file or folder."""
    found = []
    where: dict[str, Path] = {}
    for path in lists_of(root).values():
        if not path.read_bytes().endswith(b"\n"):
            message = "has no newline at its end; the authors' code cuts its last character off"
            found.append((path, message))
        for name in names_in(path):
            if name in where:
                found.append((path, f"names {name}, which {where[name].name} names already"))
            where.setdefault(name, path)
    folders = sorted((root / "data").glob("[!.]*/"))
    found += [(path, "is in no list of videos") for path in folders if path.name not in where]
    return found


def read_video(root: Path, name: str) -> Video:
    """Index the frames and masks of a video.

    Raises:
        FileNotFoundError: there are no frames, or masks lack theirs.
    """
    folder = inside(root / "data", name, links=True)
    if not (folder / "origin").is_dir():
        raise FileNotFoundError(f"{folder / 'origin'} is missing; it holds the frames of a video")
    frames = list_images(folder / "origin")
    if not frames:
        raise FileNotFoundError(f"{folder / 'origin'} holds no .jpg or .png image")
    masks = list_labels(folder / "mask")
    orphans = sorted(masks.keys() - frames.keys())
    if orphans:
        raise MissingFilesError(folder / "origin", orphans, "masks have no frame of their stem")
    return Video(
        name=name,
        frames=tuple(frames.values()),
        labels=tuple(masks.get(stem) for stem in frames),
        numbers=tuple(range(len(frames))),
        rate_hz=RATE_HZ,
    )


def _only(names: list[str], wanted: Sequence[str], split: str) -> list[str]:
    if isinstance(wanted, str):
        raise ValueError(
            f'videos must be a list of names, such as ["1_a"], got the text {wanted!r}'
        )
    for name in wanted:
        if name not in names:
            raise ValueError(f"{split} has no video {name!r}{did_you_mean(name, names)}")
    return [name for name in names if name in wanted]

"""Cityscapes with its video sequences, in the official layout."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from vidseg.classes import CITYSCAPES
from vidseg.data.clip import IGNORE, Video, VideoDataset, split_at_gaps, videos_by_source
from vidseg.data.files import MissingFilesError, identity_table, list_images
from vidseg.data.lists import Lists, Naming, frame_stem, names_of, read_lists
from vidseg.suggest import did_you_mean

# labelIds of the 19 classes, in the order of their train ids; the other ids are ignored.
LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
NUM_LABEL_IDS = 34
RATE_HZ = 17.0
FRAME_FOLDERS = ("leftImg8bit_sequence", "leftImg8bit")
_FRAME = re.compile(r"(?P<source>.+_\d+)_(?P<number>\d+)_leftImg8bit")
_LABEL = re.compile(r"(?P<frame>.+_\d+_\d+)_[^_]+_(?P<coding>labelTrainIds|labelIds)")
# TMANet's authors keep train ids in files that are still called labelIds.
TRAIN_IDS_BY_ANY_NAME = ("gtFine_19",)


class Cityscapes(VideoDataset):
    """Cityscapes: 19 classes, snippets of 30 frames at 17 Hz with the 20th labelled.

    A frame is looked for in leftImg8bit/ and in leftImg8bit_sequence/ (.png or .jpg). A missing
    frame ends a video: what is before it is no memory of what comes after.
    """

    def __init__(
        self,
        root: Path,
        split: str,
        *,
        labels: str = "gtFine",
        max_step: int = 1,
        sequences: Sequence[str] | None = None,
        lists: Lists | None = None,
    ) -> None:
        """Index a split, or what list files name.

        Args:
            root: holds leftImg8bit/ and/or leftImg8bit_sequence/, and a folder of labels.
            split: "train", "val", or another folder of the same level.
            labels: folder of the labels: "gtFine", "gtCoarse", or dense machine labels of the same
                naming such as "gtPseudo". Files *_labelTrainIds.png are read as they are,
                *_labelIds.png are mapped to train ids; the former win. In "gtFine_19", the folder
                of TMANet's authors, files of either name hold train ids.
            max_step: numbers from one frame to the next within a video; above 1 for sequences
                that were thinned.
            sequences: only these, such as "aachen_000000", for folds; None for all.
            lists: instead of the split, list files in the format of ETC's authors, such as
                "val.lst", or a folder with a list for each clip; see `vidseg.data.lists`.

        Raises:
            FileNotFoundError: the split or its labels are missing, labels lack their frame, or a
                list names files that are not there.
            ValueError: a file name is not of the official form, there is no such sequence, or a
                list is malformed.
        """
        root = Path(root)
        self.labels = labels
        if lists is not None:
            if sequences is not None:
                raise ValueError("lists name the frames themselves; leave sequences out")
            videos = _of_lists(root, lists, labels, max_step)
            super().__init__(f"cityscapes/{names_of(lists)}", videos, *CITYSCAPES)
            return
        frames = find_frames(root, split)
        found = find_labels(root, split, labels)
        if sequences is not None:
            frames = _only(frames, sequences, split)
            found = {stem: path for stem, path in found.items() if _sequence(stem) in sequences}
        lacking = sorted(found.keys() - frames.keys())
        if lacking:
            raise MissingFilesError(
                root / "leftImg8bit" / split, lacking, f"{labels}/ labels more frames"
            )
        super().__init__(f"cityscapes/{split}", _group(frames, found, max_step), *CITYSCAPES)

    def table_for(self, path: Path) -> np.ndarray:
        """Train ids as they are, label ids by the official table."""
        if path.stem.endswith("labelTrainIds") or self.labels in TRAIN_IDS_BY_ANY_NAME:
            return self.label_table
        return label_id_table()


def label_id_table() -> np.ndarray:
    """(256,) train id of each labelId; -1 above 33, and 255 stays ignored."""
    table = identity_table(0)
    table[:NUM_LABEL_IDS] = IGNORE
    table[list(LABEL_IDS)] = np.arange(len(LABEL_IDS))
    return table


def parse_frame(path: Path) -> tuple[str, int]:
    """Source and frame number of an image such as aachen_000000_000019_leftImg8bit.png.

    Raises:
        ValueError: the name is not of that form.

    Example:
        >>> parse_frame(Path("aachen_000000_000019_leftImg8bit.png"))
        ('aachen_000000', 19)
    """
    match = _FRAME.fullmatch(path.stem)
    if match is None:
        raise ValueError(
            f"{path}: a Cityscapes image is named like aachen_000000_000019_leftImg8bit.png; "
            "move other files out of the folder"
        )
    return match["source"], int(match["number"])


def find_frames(root: Path, split: str) -> dict[str, Path]:
    """Image files of a split by their name without ending; FileNotFoundError without a folder."""
    folders = [root / name / split for name in FRAME_FOLDERS if (root / name / split).is_dir()]
    if not folders:
        there = sorted(
            f"{name}/{path.name}" for name in FRAME_FOLDERS for path in (root / name).glob("[!.]*/")
        )
        raise FileNotFoundError(
            f"{root} has neither leftImg8bit/{split} nor leftImg8bit_sequence/{split}; "
            f"there is: {', '.join(there) or 'no folder of either name'}"
        )
    frames = {}
    for folder in folders:  # leftImg8bit comes last: labelled frames are taken from there
        for city in sorted(folder.glob("[!.]*/")):
            for path in list_images(city).values():
                parse_frame(path)
                frames[frame_stem(path)] = path
    return frames


def find_labels(root: Path, split: str, labels: str) -> dict[str, Path]:
    """Label files of a split by the name of their frame; FileNotFoundError without a folder."""
    folder = root / labels / split
    if not folder.is_dir():
        there = sorted(path.name for path in root.glob("gt*/") if (path / split).is_dir())
        raise FileNotFoundError(
            f"{folder} is missing; folders of labels of this split: {', '.join(there) or 'none'} "
            "(option labels=)"
        )
    found: dict[str, Path] = {}
    for path in sorted(
        folder.glob("[!.]*/[!.]*.png")
    ):  # labelTrainIds sorts after labelIds, and wins
        match = _LABEL.fullmatch(path.stem)
        if match:  # color and instanceIds lie beside them
            found[match["frame"]] = path
    return found


def _sequence(stem: str) -> str:
    """aachen_000000_000019 -> aachen_000000."""
    return stem.rpartition("_")[0]


def _only(frames: dict[str, Path], sequences: Sequence[str], split: str) -> dict[str, Path]:
    if isinstance(sequences, str):
        raise ValueError(f"sequences must be a list of names, got the text {sequences!r}")
    there = sorted({_sequence(stem) for stem in frames})
    for name in sequences:
        if name not in there:
            raise ValueError(f"{split} has no sequence {name!r}{did_you_mean(name, there)}")
    return {stem: path for stem, path in frames.items() if _sequence(stem) in sequences}


def _of_lists(root: Path, lists: Lists, labels: str, max_step: int) -> list[Video]:
    found: dict[str, dict[str, Path]] = {}

    def folders(city: Path) -> list[Path]:
        split, kind = city.parent, city.parent.parent
        if kind.name not in FRAME_FOLDERS:
            return [city]
        others = (kind.with_name(name) for name in FRAME_FOLDERS if name != kind.name)
        return [city, *(other / split.name / city.name for other in others)]

    def find_label(image: Path) -> Path | None:
        split = image.parent.parent.name
        if split not in found:
            has_labels = (root / labels / split).is_dir()
            found[split] = find_labels(root, split, labels) if has_labels else {}
        return found[split].get(frame_stem(image))

    naming = Naming(parse_frame, folders, find_label, RATE_HZ, max_step)
    return read_lists(root, lists, naming)


def _group(frames: dict[str, Path], labels: dict[str, Path], max_step: int) -> list[Video]:
    places = {stem: parse_frame(path) for stem, path in frames.items()}
    return [
        replace(part, name=f"{video.name}_{part.numbers[0]:06d}")
        for video in videos_by_source(places, frames, labels, RATE_HZ)
        for part in split_at_gaps(video, max_step)
    ]

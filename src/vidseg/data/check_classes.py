"""What the labels of a whole data set say of its classes: which have no pixel, and why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vidseg.data.clip import VideoDataset
from vidseg.data.folder import Folder
from vidseg.data.glance import describe_missing


@dataclass
class Tally:
    """The label pixels of a split, once its files are read.

    Attributes:
        dataset: the split.
        counts: (256,) pixels of each label index.
        read: label files that could be read.
        void: those of them without a pixel that counts.
    """

    dataset: VideoDataset
    counts: np.ndarray
    read: int = 0
    void: int = 0

    def add(self, counts: np.ndarray) -> bool:
        """Count one label; -> whether it is void throughout."""
        self.counts += counts
        self.read += 1
        is_void = bool(counts.sum() == counts[self.dataset.ignore])
        self.void += is_void
        return is_void


def judge_classes(tallies: list[Tally], root: Path) -> Iterator[tuple[bool, Path, str]]:
    """What is wrong, or worth knowing: whether it is a fault, where, and what.

    Args:
        tallies: of all splits that could be opened.
        root: of the data set.
    """
    for tally in tallies:
        name = tally.dataset.name
        if not tally.dataset.num_labelled:
            yield False, root, f"no frame of {name} is labelled"
        elif tally.void and tally.void == tally.read:
            message = f"not one pixel of its {tally.read} labels counts, all are void"
            # Makers of published sets hand out parts of them, and know why.
            yield _is_own(tally), root, f"{name}: {message}{_binary_hint(tally.dataset)}"
        elif tally.void:
            yield False, root, f"{name}: {tally.void} of {tally.read} labels are void throughout"
    yield from _missing_classes([tally for tally in tallies if tally.read], root)


def _missing_classes(labelled: list[Tally], root: Path) -> Iterator[tuple[bool, Path, str]]:
    if not labelled:
        return
    dataset = labelled[0].dataset
    counts = np.sum([tally.counts for tally in labelled], axis=0)[: dataset.num_classes]
    void = sum(int(tally.counts[dataset.ignore]) for tally in labelled)
    seen = [name for name, count in zip(dataset.classes, counts, strict=True) if count]
    missing = tuple(name for name in dataset.classes if name not in seen)
    for tally in labelled:
        ours = tally.counts[: dataset.num_classes]
        lacking = tuple(
            n for n, c in zip(dataset.classes, ours, strict=True) if not c and n in seen
        )
        if lacking and len(lacking) < len(seen):
            yield False, root, f"{tally.dataset.name} has no pixel of {describe_missing(lacking)}"
    if not missing or not seen:
        return
    message = f"no label has a pixel of {describe_missing(missing)}"
    if len(seen) == 1:
        hint = _binary_hint(dataset) if void else ""
        is_whole = all(tally.read == tally.dataset.num_labelled for tally in labelled)
        message += f"; there is nothing but {seen[0]} to learn{hint}"
        yield is_whole and _is_own(labelled[0]), root, message
    else:
        yield False, root, message


def _is_own(tally: Tally) -> bool:
    return isinstance(tally.dataset, Folder)


def _binary_hint(dataset: VideoDataset) -> str:
    is_said = isinstance(dataset, Folder) and dataset.described.values is not None
    if not isinstance(dataset, Folder) or is_said:
        return ""
    if dataset.num_classes != 2:
        return '; 255 is void: if it stands for a class, say so with "values" in classes.json'
    nothing, thing = dataset.classes
    return (
        f'; 255 is void: if it stands for {thing}, say so in classes.json with "values": '
        f'{{"0": "{nothing}", "255": "{thing}"}}'
    )


def unread_files(dataset: VideoDataset) -> Iterator[tuple[bool, Path, str]]:
    """What lies beside the frames and masks of one's own videos and is not read."""
    if not isinstance(dataset, Folder):
        return
    bare = {video.frames[0].parent.parent for video in dataset.videos if not video.labelled}
    for path in dataset.passed_over:
        is_lost = path.is_dir() and path.parent in bare
        reason = ", and the video has no mask: they lie in masks/" if is_lost else ""
        yield is_lost, path, f"is not read{reason}"

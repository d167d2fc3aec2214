"""A look at a data set's labels before anything is learned from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vidseg.data.clip import VideoDataset

LOOKED_AT = 200  # label files; one of VSPW's takes 10 ms


@dataclass(frozen=True)
class Glance:
    """The classes and values found in some labels of a data set.

    Attributes:
        missing: classes without a pixel in them, in the order of the classes.
        is_void: no pixel of them counts.
        looked: how many label files were read.
        total: how many there are.
    """

    missing: tuple[str, ...]
    is_void: bool
    looked: int
    total: int


def glance(dataset: VideoDataset, limit: int = LOOKED_AT) -> Glance:
    """Read labels, evenly spread over the data set, until each class has been seen.

    Args:
        dataset: with labels or without.
        limit: so many label files at most.

    Raises:
        ValueError: a label file is damaged, or holds a value that is no class.
    """
    files = [label for video in dataset.videos for label in video.labels if label is not None]
    chosen = [files[i * len(files) // limit] for i in range(limit)] if limit < len(files) else files
    counts = np.zeros(256, np.int64)
    looked = 0
    # The middle first: where the classes change along the drive, they are all seen sooner.
    for path in [*chosen[len(chosen) // 2 :], *chosen[: len(chosen) // 2]]:
        counts += np.bincount(dataset.read_label(path).ravel(), minlength=256)
        looked += 1
        if counts[: dataset.num_classes].all():
            break
    missing = tuple(name for i, name in enumerate(dataset.classes) if not counts[i])
    is_void = looked > 0 and len(missing) == dataset.num_classes
    return Glance(missing, is_void, looked, len(files))


def describe_missing(names: tuple[str, ...], shown: int = 8) -> str:
    """Names of classes as a list to read: `the class lane`, `the classes car, bus`."""
    listed = ", ".join(names[:shown]) + (f" and {len(names) - shown} more" * (len(names) > shown))
    return f"the class{'es' * (len(names) > 1)} {listed}"

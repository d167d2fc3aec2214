"""CamVid in the layout of TMANet's authors (960x720) and in the common 480x360 layout."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

import numpy as np

from vidseg.classes import CAMVID, CAMVID_WITH_VOID
from vidseg.data.clip import IGNORE, Video, VideoDataset, split_at_gaps, videos_by_source
from vidseg.data.files import MissingFilesError, list_images, list_labels
from vidseg.data.lists import Lists, Naming, names_of, read_lists
from vidseg.documents import read_text
from vidseg.inside import inside

SPLITS = ("train", "val", "test")
PROTOCOLS = ("11", "12", "11-void-counted")
RATE_HZ = 30.0  # frame numbers count the frames of the original videos

_STEM = re.compile(r"(?P<source>[^_]+)_(?P<mark>f?)(?P<number>-?\d+)")
_SEQUENCE_FOLDERS = ("images_sequence", "image_sequence")


class CamVid(VideoDataset):
    """CamVid, read by one of three protocols.

    "11": 11 classes, void ignored: what the literature reports. "12": void is class 0, trained and
    scored, as TMANet's authors do. "11-void-counted": 11 classes, and whatever is predicted on
    void pixels is a false positive (ESPNet's README; see `VideoDataset.void_is_error`).

    Videos are the unbroken runs of frames of a split. In the authors' layout these are raw frames
    at 30 Hz, in the 480x360 layout the labelled frames alone: 1 s apart in train and test, 1/15 s
    in val.
    """

    def __init__(
        self,
        root: Path,
        split: str,
        *,
        protocol: str = "11",
        frames: Literal["all", "labelled"] = "all",
        void_value: int | None = None,
        lists: Lists | None = None,
    ) -> None:
        """Index a split, or what list files name.

        Args:
            root: holds images/, images_sequence/, labels/, annotations/ (the authors' layout) or
                train/, trainannot/, val/, ... (480x360 layout).
            split: "train", "val" or "test".
            protocol: see the class.
            frames: "all" raw frames, or the "labelled" ones alone. Only the authors' layout.
            void_value: what void is in the label files: 0 with the classes from 1 on, or 11 with
                the classes from 0 on. None for the layout's custom, 0 and 11.
            lists: instead of the split, list files in the format of ETC's authors: image, label
                and raw frame on a line, or image and label, or image; see `vidseg.data.lists`.

        Raises:
            FileNotFoundError: a folder, a split list, or a frame or label that it lists is missing.
            ValueError: an unknown split, protocol or file name, or a malformed list.
        """
        root, protocol = Path(root), str(protocol)  # a command line or YAML may give the number 11
        if lists is None:
            _check_choice("split", split, SPLITS)
        _check_choice("protocol", protocol, PROTOCOLS)
        _check_choice("frames", frames, ("all", "labelled"))
        _check_choice("void_value", void_value, (None, 0, 11))
        is_small = (root / f"{split}annot").is_dir()
        if lists is not None:
            naming = Naming(parse_stem, lambda folder: [folder], _beside(root), RATE_HZ)
            videos = read_lists(root, lists, naming)
            files = [path for video in videos for path in video.labels if path is not None]
            is_small = any(path.parent.name.endswith("annot") for path in files)
        elif is_small:
            videos = _read_small_layout(root, split)
        elif (root / "annotations").is_dir():
            videos = _read_authors_layout(root, split, frames)
        else:
            raise FileNotFoundError(
                f"{root} is no CamVid folder: neither {split}annot/ (480x360 layout) nor "
                "annotations/ (images/, images_sequence/, labels/, annotations/) is there"
            )
        if void_value is None:
            void_value = 11 if is_small else 0
        has_void = protocol == "12"
        super().__init__(
            f"camvid/{split if lists is None else names_of(lists)}",
            videos,
            *(CAMVID_WITH_VOID if has_void else CAMVID),
            label_table=label_table(protocol, void_value),
            void_is_error=protocol == "11-void-counted",
        )
        self.protocol = protocol


def label_table(protocol: str, void_value: int) -> np.ndarray:
    """(256,) label index of each file value under a protocol, -1 where none may occur.

    Args:
        protocol: one of `PROTOCOLS`.
        void_value: 0 (classes are 1..11) or 11 (classes are 0..10).
    """
    table = np.full(256, -1, dtype=np.int16)
    first = 1 if void_value == 0 else 0
    table[first : first + 11] = np.arange(11) + (1 if protocol == "12" else 0)
    table[void_value] = 0 if protocol == "12" else IGNORE
    table[IGNORE] = table[void_value]  # some copies write void as 255
    return table


def parse_stem(path: Path) -> tuple[str, int]:
    """Source and frame number of a file such as 0006R0_f00930.png.

    Raises:
        ValueError: the name is not of that form.

    Example:
        >>> parse_stem(Path("0006R0_f00930.png")), parse_stem(Path("0001TP_006690.png"))
        (('0006R0', 930), ('0001TP', 6690))
    """
    match = _STEM.fullmatch(path.stem)
    if match is None:
        raise ValueError(
            f"{path}: a CamVid file is named like 0006R0_f00930 or 0016E5_00390; "
            "move other files out of the folder"
        )
    return match["source"], int(match["number"])


def _read_small_layout(root: Path, split: str) -> list[Video]:
    if not (root / split).is_dir():
        raise FileNotFoundError(f"{root / split} is missing; it holds the frames of {split}annot/")
    frames = list_images(root / split)
    labels = list_labels(root / f"{split}annot")
    orphans = sorted(labels.keys() - frames.keys())
    if orphans:
        raise MissingFilesError(root / split, orphans, "labels have no frame")
    bare = sorted(frames.keys() - labels.keys())
    if bare:
        raise MissingFilesError(root / f"{split}annot", bare, "frames have no label")
    return _group(frames, labels)


def _read_authors_layout(root: Path, split: str, which: str) -> list[Video]:
    listing = root / "annotations" / f"{split}.txt"
    if not listing.is_file():
        raise FileNotFoundError(f"{listing} is missing; it lists the labelled frames, one per line")
    stems = [line.strip() for line in read_text(listing).splitlines() if line.strip()]
    wanted = set(stems)
    labels = {stem: inside(root / "labels", f"{stem}_L.png", links=True) for stem in stems}
    lacking = [stem for stem, path in labels.items() if not path.is_file()]
    if lacking:
        names = [f"{stem}_L.png" for stem in lacking]
        raise MissingFilesError(root / "labels", names, f"{listing} lists more labels")
    still = list_images(root / "images") if (root / "images").is_dir() else {}
    frames = {stem: path for stem, path in still.items() if stem in wanted}
    if which == "all" or wanted - frames.keys():
        raw = _list_sequence(root, which)
        sources = {parse_stem(Path(stem))[0] for stem in stems}
        for stem, path in raw.items():
            is_ours = parse_stem(path)[0] in sources if which == "all" else stem in wanted
            if is_ours:
                frames.setdefault(stem, path)
    lacking = sorted(wanted - frames.keys())
    if lacking:
        raise MissingFilesError(root / "images", lacking, f"{listing} lists more frames")
    return _group(frames, labels)


def _list_sequence(root: Path, which: str) -> dict[str, Path]:
    for folder in _SEQUENCE_FOLDERS:
        if (root / folder).is_dir():
            return list_images(root / folder)
    if which == "labelled":
        return {}
    raise FileNotFoundError(
        f"{root / _SEQUENCE_FOLDERS[0]} is missing: the raw frames, made by vidseg data prepare "
        'camvid; with the option frames="labelled" the labelled frames alone are used, 1 s apart'
    )


def _beside(root: Path) -> Callable[[Path], Path | None]:
    """Find the label file of an image, in either layout."""

    def find_label(image: Path) -> Path | None:
        small = image.parent.with_name(f"{image.parent.name}annot") / f"{image.stem}.png"
        places = (root / "labels" / f"{image.stem}_L.png", small)
        return next((path for path in places if path.is_file()), None)

    return find_label


def _group(frames: dict[str, Path], labels: dict[str, Path]) -> list[Video]:
    places = {stem: parse_stem(path) for stem, path in frames.items()}
    whole = videos_by_source(places, frames, labels, RATE_HZ)
    return [part for video in whole for part in split_at_gaps(video)]


def _check_choice(what: str, value: object, choices: Iterable[object]) -> None:
    if value not in tuple(choices):
        raise ValueError(f"{what} of CamVid must be one of {list(choices)}, got {value!r}")

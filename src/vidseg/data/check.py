"""Find what is wrong with a data set before a training run does."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vidseg.data import open_dataset, vspw
from vidseg.data.camvid import SPLITS
from vidseg.data.check_classes import Tally, judge_classes, unread_files
from vidseg.data.cityscapes import FRAME_FOLDERS
from vidseg.data.clip import Video, VideoDataset
from vidseg.data.files import MissingFilesError
from vidseg.data.folder import SoundVideos
from vidseg.data.threads import in_threads
from vidseg.progress import Display, silent
from vidseg.sizes import width_x_height
from vidseg.suggest import did_you_mean

KINDS_ON_DISK = ("camvid", "cityscapes", "folder", "kitti-step", "vipseg", "vspw")
# Gaps up to this many usual steps are missing frames; longer ones are cuts between drives.
_MAX_GAP_STEPS = 3
# The frames that a clip of CFFM spans: three gaps of three frames.
_CLIP_SPAN = 10


@dataclass(frozen=True)
class Fault:
    """Something wrong.

    Attributes:
        kind: "open", "missing file", "missing frame", "frame" (unreadable), "label" (unreadable, or
            values that are no class), "size", "duplicate", "class" (without a pixel), "unread" (a
            folder), and of VSPW "list" (its lists of videos) and "short" (a video).
        path: the file (for a missing frame, the file that comes next).
        message: what is wrong with it.
    """

    kind: str
    path: Path
    message: str

    def __str__(self) -> str:
        """The message, with its file where it does not begin with it."""
        is_named = self.message.startswith(str(self.path))
        return self.message if is_named else f"{self.path}: {self.message}"

    @property
    def what(self) -> str:
        """What equal faults share: the message without files, and without numbers that count."""
        text = self.message.replace(str(self.path), "")
        text = re.sub(r"\S*/\S+", "FILE", text)
        text = re.sub(r"\d+ colours (.*?), such as \[.*?\)\]", r"colours \1", text)
        return re.sub(r"\d+", "N", text) if self.kind == "missing frame" else text


@dataclass
class Check:
    """What was found.

    Attributes:
        faults: everything wrong, in the order of splits and videos.
        notes: what is worth knowing and no fault.
        splits: for each split its videos, frames and labelled frames, the frame sizes (as
            "WxH") with how many frames have them, and the share of each class in the labels.
    """

    faults: list[Fault] = field(default_factory=list)
    notes: list[Fault] = field(default_factory=list)
    splits: dict[str, dict[str, Any]] = field(default_factory=dict)

    def tell(self, is_fault: bool, fault: Fault) -> None:
        """Note something that is a fault, or worth knowing."""
        (self.faults if is_fault else self.notes).append(fault)


def grouped(faults: Sequence[Fault]) -> list[list[Fault]]:
    """Equal faults together, in the order in which the first of each was found."""
    groups: dict[tuple[str, str], list[Fault]] = {}
    for fault in faults:
        groups.setdefault((fault.kind, fault.what), []).append(fault)
    return list(groups.values())


@dataclass(frozen=True)
class _Seen:
    """One file, read."""

    size: tuple[int, int] | None
    digest: bytes | None
    counts: np.ndarray | None
    fault: str | None


def check_dataset(
    kind: str,
    root: Path,
    *,
    splits: Sequence[str] | None = None,
    memory_frames: int = 0,
    progress: Display = silent,
    **options: Any,
) -> Check:
    """Read every frame and label of a data set and list all faults.

    Looked for: splits that cannot be opened, missing frames (gaps of up to three usual steps, and
    frames that a window of `memory_frames` before a label would need), unreadable files, sizes
    that differ within a video or between a frame and its label, label values that are no class,
    frames with the same content (in all splits together), labels of which no pixel counts, classes
    without a pixel, and folders that are not read. Of VSPW also: lists that lack or
    repeat videos, short videos, frames without a mask, and masks of nothing but void.

    Args:
        kind: as for `open_dataset`.
        root: folder of the data set.
        splits: those to check; None for all that are there.
        memory_frames: frames that must be there before each labelled one.
        progress: shows how far it is.
        **options: of the kind.

    Raises:
        FileNotFoundError: there is no split at all.
        ValueError: an unknown kind.
    """
    if kind not in KINDS_ON_DISK:
        raise ValueError(f"no data set of kind {kind!r} on disk{did_you_mean(kind, KINDS_ON_DISK)}")
    root = Path(root)
    result = Check()
    seen: dict[bytes, Path] = {}
    is_vspw = kind == "vspw"
    splits = splits or find_splits(kind, root)
    tallies: list[Tally] = []
    if is_vspw:
        result.faults += [Fault("list", *found) for found in vspw.list_faults(root)]
    for split in splits:
        dataset = _open(kind, root, split, result, options)
        if dataset is None:
            continue
        for video in dataset.videos:
            result.faults += find_missing(video, memory_frames)
            result.faults += _find_short(video) if is_vspw else ()
        if is_vspw and dataset.num_labelled:
            result.faults += _find_unlabelled(dataset)
        for is_fault, path, message in unread_files(dataset):
            result.tell(is_fault, Fault("unread", path, message))
        tallies.append(_check_files(dataset, split, result, seen, progress, void_is_fault=is_vspw))
    for is_fault, path, message in judge_classes(tallies, root):
        result.tell(is_fault, Fault("class", path, message))
    return result


def _open(
    kind: str, root: Path, split: str, result: Check, options: dict[str, Any]
) -> VideoDataset | None:
    # Cityscapes cuts videos at any missing frame; here small gaps are to be seen.
    lenient = {"max_step": _MAX_GAP_STEPS} if kind == "cityscapes" else {}
    try:
        return open_dataset(kind, root, split, **lenient, **options)
    except (ValueError, OSError) as error:
        dataset = None
        if kind == "vspw":
            dataset = _open_sound(root, split, result, **options)
        elif kind == "folder":
            dataset = _open_sound_folder(root, split, result)
        if dataset is None:
            result.faults += _why_not_open(error, root / split)
        return dataset


def _open_sound(
    root: Path, split: str, result: Check, videos: Sequence[str] | None = None
) -> VideoDataset | None:
    """The videos of a split of VSPW that can be opened; what ails the others is noted."""
    path = root / f"{split}.txt"
    listed = vspw.names_in(path) if path.is_file() else []
    sound, faults = [], []
    for name in dict.fromkeys(listed):
        if videos is None or (name in videos and not isinstance(videos, str)):
            try:
                sound.append(vspw.read_video(root, name))
            except (ValueError, OSError) as error:
                faults += _why_not_open(error, root / "data" / name)
    if not sound:
        return None
    result.faults += faults
    return VideoDataset(f"vspw/{split}", sound, *vspw.CLASSES, label_table=vspw.label_table())


def _open_sound_folder(root: Path, split: str, result: Check) -> VideoDataset | None:
    """The videos of one's own split that can be opened; what ails the others is noted."""
    try:
        dataset = SoundVideos(root, split)
    except (ValueError, OSError):
        return None
    for folder, error in dataset.errors:
        result.faults += _why_not_open(error, folder)
    return dataset


def _why_not_open(error: Exception, place: Path) -> list[Fault]:
    if isinstance(error, MissingFilesError):
        return [Fault("missing file", path, str(error)) for path in error.files]
    return [Fault("open", place, str(error))]


def _find_short(video: Video) -> Iterator[Fault]:
    if len(video) < _CLIP_SPAN:
        message = f"{len(video)} frames; a clip of CFFM's training spans {_CLIP_SPAN}"
        yield Fault("short", video.frames[0].parent.parent, message)


def _find_unlabelled(dataset: VideoDataset) -> Iterator[Fault]:
    for video in dataset.videos:
        for frame, label in zip(video.frames, video.labels, strict=True):
            if label is None:
                yield Fault("missing file", frame, f"has no mask, as others of {dataset.name} have")


def find_splits(kind: str, root: Path) -> list[str]:
    """Names of the splits of a data set on disk.

    Raises:
        FileNotFoundError: there is none.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"{root}, the folder of the data set {kind!r}, does not exist")
    if kind in ("vspw", "vipseg"):
        names = list(vspw.lists_of(root))
    elif kind == "kitti-step":
        names = sorted(path.name for path in (root / "images").glob("[!.]*/"))
    elif kind == "camvid":
        names = [
            split
            for split in SPLITS
            if (root / f"{split}annot").is_dir() or (root / "annotations" / f"{split}.txt").exists()
        ]
    elif kind == "cityscapes":
        names = sorted(
            {path.name for name in FRAME_FOLDERS for path in (root / name).glob("[!.]*/")}
        )
    else:
        names = sorted(path.name for path in root.glob("[!.]*/"))
    if not names:
        raise FileNotFoundError(
            f"{root} holds no split of a data set of kind {kind!r}; is it another kind, or another "
            "folder? docs/data.md shows the layout"
        )
    return names


def find_missing(video: Video, memory_frames: int = 0) -> list[Fault]:
    """Faults of the numbering: holes, and labelled frames with too few frames before them."""
    faults = []
    step = video.step
    for i in range(1, len(video)):
        # Half a step of play: CamVid's labels are 29..31 frames apart here and there.
        lost = round((video.numbers[i] - video.numbers[i - 1]) / step) - 1
        if lost > 0:
            between = f"{video.numbers[i - 1]} and {video.numbers[i]}"
            faults.append(
                Fault("missing frame", video.frames[i], f"{lost} missing between {between}")
            )
    for i in video.labelled:
        if i < memory_frames:
            message = f"{i} frames before it in {video.name}, {memory_frames} are needed"
            faults.append(Fault("missing frame", video.frames[i], message))
    return faults


def _check_files(
    dataset: VideoDataset,
    split: str,
    result: Check,
    seen: dict[bytes, Path],
    progress: Display,
    *,
    void_is_fault: bool,
) -> Tally:
    sizes: Counter[tuple[int, int]] = Counter()
    tally = Tally(dataset, np.zeros(256, np.int64))
    with progress(f"checking {split}", dataset.num_frames, unit="frames") as meter:
        for video in dataset.videos:
            usual: tuple[Path, tuple[int, int]] | None = None
            for path, frame, label_path, label in _read(dataset, video):
                meter.advance()
                result.faults += _judge_frame(path, frame, usual, seen)
                if frame.size is not None:
                    usual = usual or (path, frame.size)
                    sizes[frame.size] += 1
                if label_path is None or label is None:
                    continue
                if label.fault:
                    result.faults.append(Fault("label", label_path, label.fault))
                elif frame.size is not None and label.size != frame.size:
                    message = f"is {_wxh(label.size)}, its frame {path} is {_wxh(frame.size)}"
                    result.faults.append(Fault("size", label_path, message))
                if label.counts is not None:
                    is_void = tally.add(label.counts)
                    if void_is_fault and is_void:
                        result.faults.append(Fault("label", label_path, "is void throughout"))
    counts = tally.counts
    total = max(int(counts.sum()), 1)
    shares = {name: int(counts[i]) / total for i, name in enumerate(dataset.classes)}
    result.splits[split] = {
        "videos": len(dataset.videos),
        "frames": dataset.num_frames,
        "labelled": dataset.num_labelled,
        "sizes": {_wxh(size): count for size, count in sizes.items()},
        "class_share": {**shares, "ignored": int(counts[dataset.ignore]) / total},
    }
    return tally


def _judge_frame(
    path: Path,
    frame: _Seen,
    usual: tuple[Path, tuple[int, int]] | None,
    seen: dict[bytes, Path],
) -> Iterator[Fault]:
    if frame.fault:
        yield Fault("frame", path, frame.fault)
        return
    if usual is not None and frame.size != usual[1]:
        message = f"is {_wxh(frame.size)}, {usual[0]} of the same video is {_wxh(usual[1])}"
        yield Fault("size", path, message)
    assert frame.digest is not None, "a frame without fault was read"
    twin = seen.setdefault(frame.digest, path)
    if twin != path:
        yield Fault("duplicate", path, f"has the content of {twin}")


def _read(
    dataset: VideoDataset, video: Video
) -> Iterator[tuple[Path, _Seen, Path | None, _Seen | None]]:
    def read_both(i: int) -> tuple[Path, _Seen, Path | None, _Seen | None]:
        path, label = video.frames[i], video.labels[i]
        frame = _look(dataset.read_frame, path, is_label=False)
        return path, frame, label, label and _look(dataset.read_label, label, is_label=True)

    yield from in_threads(read_both, range(len(video)))


def _look(read: Callable[[Path], np.ndarray], path: Path, *, is_label: bool) -> _Seen:
    try:
        pixels = read(path)
    except (ValueError, OSError) as error:
        return _Seen(None, None, None, str(error))
    size = pixels.shape[0], pixels.shape[1]
    if is_label:
        return _Seen(size, None, np.bincount(pixels.ravel(), minlength=256), None)
    digest = hashlib.blake2b(pixels.tobytes(), digest_size=16)
    digest.update(repr(size).encode())
    return _Seen(size, digest.digest(), None, None)


def _wxh(size: tuple[int, int] | None) -> str:
    return "unknown" if size is None else width_x_height(size)

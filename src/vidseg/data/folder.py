"""Your own videos: a folder of frames and a folder of masks for each, and a classes.json."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from fractions import Fraction
from pathlib import Path

from vidseg.data.classes_file import read_classes
from vidseg.data.clip import Video, VideoDataset, split_at_gaps
from vidseg.data.files import MissingFilesError, list_images, visible
from vidseg.suggest import did_you_mean
from vidseg.video.images import IMAGE_SUFFIXES

PARTS = ("frames", "masks")
MASK_SUFFIXES = (*IMAGE_SUFFIXES, ".gif")


class Folder(VideoDataset):
    """Any videos in this layout; masks only where frames are labelled.

    ```
    root/classes.json                     {"classes": {"road": [128, 64, 128], "car": [0, 0, 142]},
                                           "fps": 25, "ignore": [255, [0, 0, 0]]}
    root/train/<video>/frames/00017.jpg   pictures, numbered at the end of the name
    root/train/<video>/masks/00017.png    of the same stem; class indices, or the colours
    root/val/...                          as many splits as you like
    ```
    Numbers may start anywhere and rise by any step; a step above three times the usual one starts
    another video. `fps` counts numbers, so 25 with every fifth frame stored means 5 frames/s.
    Names that are times in seconds, such as 12.5.jpg, are a clock of their own.

    Attributes:
        described: what classes.json says.
        passed_over: what lies in the folders of the videos and is not read, hidden files apart.
    """

    seen_size = None  # one's own frames may be far larger than those of training

    def __init__(self, root: Path, split: str) -> None:
        """Index a split.

        Args:
            root: see the class.
            split: folder below `root`.

        Raises:
            FileNotFoundError: classes.json, the split or frames are missing, or masks lack theirs.
            ValueError: classes.json is malformed, frames have no number of their own, or a frame
                has two masks, or one that is no picture.
        """
        root = Path(root)
        self.described = read_classes(root / "classes.json")
        if not (root / split).is_dir():
            there = [path.name for path in visible(root) if path.is_dir()]
            raise FileNotFoundError(f"{root} has no split {split!r}{did_you_mean(split, there)}")
        videos: list[Video] = []
        passed_over: list[Path] = []
        for folder in sorted(path for path in visible(root / split) if path.is_dir()):
            found, others = self._read_video(folder)
            videos += found
            passed_over += others
        self.passed_over = tuple(passed_over)
        super().__init__(
            f"{root.name}/{split}",
            videos,
            tuple(self.described.palette),
            list(self.described.palette.values()),
            code=self.described.code(),
        )

    def _read_video(self, folder: Path) -> tuple[list[Video], list[Path]]:
        """The parts of a video, and what lies in its folder and is not read."""
        video, others = _read_video(folder, self.described.fps)
        return split_at_gaps(video), others


class SoundVideos(Folder):
    """The videos of a split that can be opened.

    Attributes:
        errors: of the others, each with its folder.
    """

    def __init__(self, root: Path, split: str) -> None:
        """Index what can be; errors as `Folder`, but for those of single videos."""
        self.errors: list[tuple[Path, Exception]] = []
        super().__init__(root, split)

    def _read_video(self, folder: Path) -> tuple[list[Video], list[Path]]:
        try:
            return super()._read_video(folder)
        except (ValueError, OSError) as error:
            self.errors.append((folder, error))
            return [], []


def _read_video(folder: Path, fps: float | None) -> tuple[Video, list[Path]]:
    """A video, and what lies in its folder and is not read."""
    if not (folder / "frames").is_dir():
        reason = "it holds the images of a video"
        if folder.name in PARTS:
            reason = f"a folder for each video lies between {folder.parent} and {folder.name}/"
        raise FileNotFoundError(f"{folder / 'frames'} is missing; {reason}")
    frames = list_images(folder / "frames")
    if not frames:
        raise FileNotFoundError(
            f"{folder / 'frames'} holds no .png or .jpg image, nor another that is read: "
            f"{', '.join(IMAGE_SUFFIXES)}"
        )
    passed_over = [path for path in visible(folder) if path.name not in PARTS]
    masks: dict[str, Path] = {}
    if (folder / "masks").is_dir():
        masks, others = find_masks(folder / "masks", frames.keys())
        passed_over += others
    orphans = sorted(masks.keys() - frames.keys())
    if orphans:
        raise MissingFilesError(
            folder / "frames",
            orphans,
            "masks have no frame of their stem",
            "vidseg data prepare folder matches masks that are named otherwise",
        )
    stems = list(frames)
    try:
        numbers, ticks_hz = number_frames(stems)
    except ValueError as error:
        raise ValueError(f"{folder / 'frames'}: {error}") from None
    in_time = sorted(zip(numbers, stems, strict=True))
    video = Video(
        name=folder.name,
        frames=tuple(frames[stem] for _, stem in in_time),
        labels=tuple(masks.get(stem) for _, stem in in_time),
        numbers=tuple(number for number, _ in in_time),
        rate_hz=ticks_hz or fps,
    )
    return video, passed_over


def find_masks(folder: Path, frames: Collection[str]) -> tuple[dict[str, Path], list[Path]]:
    """Masks of a folder by stem, and what else lies in it; a .png wins over other pictures.

    Args:
        folder: of the masks.
        frames: stems of the frames.

    Raises:
        ValueError: a frame has two masks, or a file of its stem that is no picture and no mask.
    """
    there = visible(folder)
    pictures = [path for path in there if path.suffix.lower() in MASK_SUFFIXES]
    masks: dict[str, Path] = {}
    passed_over: list[Path] = []
    for path in sorted(pictures, key=lambda path: path.suffix.lower() != ".png"):
        twin = masks.setdefault(path.stem, path)
        if twin == path:
            continue
        if twin.suffix.lower() != ".png" or path.suffix.lower() == ".png":
            raise ValueError(f"{twin} and {path.name} are masks of one frame; keep one of them")
        passed_over.append(path)
    for path in there:
        if path in pictures:
            continue
        if path.is_file() and path.stem in frames and path.stem not in masks:
            raise ValueError(
                f"{path} is no picture that is read, and its frame has no other mask; masks are "
                "PNG (or another lossless picture) of class indices or of the classes' colours"
            )
        passed_over.append(path)
    return masks, passed_over


_TIME = re.compile(r"(\D*)(\d+)(?:\.(\d+))?", re.ASCII)


def number_frames(stems: Sequence[str]) -> tuple[list[int], int | None]:
    """Number of each frame by its name, and ticks per second where the names are times.

    The number stands at the end of the name. Names of nothing but a time in seconds (12.5, as
    most languages print it) give its ticks: tenths, hundredths, as many decimals as there are.

    Args:
        stems: names without suffix; in the order of time, as `list_images` gives them.

    Returns:
        The numbers, each once, and ticks per second; None where the names do not say.

    Raises:
        ValueError: a name has no number at its end, or two have one.

    Example:
        >>> number_frames(["f_05", "f_10"]), number_frames(["0.04", "0.08", "0.1"])
        (([5, 10], None), ([4, 8, 10], 100))
    """
    times = [_TIME.fullmatch(stem) for stem in stems]
    decimals = [time[3] or "" for time in times if time]
    is_varied = len(set(map(len, decimals))) > 1
    is_one_clock = all(times) and len({time[1] for time in times if time}) == 1
    # 1.9 is followed by 1.10 where the point is between whole numbers; no time is printed as 1.10.
    counts_on = is_varied and any(len(text) > 1 and text.endswith("0") for text in decimals)
    # seq1.0001, of one length and with a word before it, is number 1 of seq1.
    is_bare = is_varied or not any(time[1] for time in times if time)
    if is_one_clock and any(decimals) and not counts_on and is_bare:
        places = max(map(len, decimals))
        seconds = (Fraction(f"{time[2]}.{time[3] or 0}") for time in times if time)
        numbers, ticks_hz = [int(second * 10**places) for second in seconds], 10**places
    else:
        found = [re.search(r"(\d+)$", stem, re.ASCII) for stem in stems]
        numbers, ticks_hz = [int(match[1]) if match else -1 for match in found], None
    if min(numbers) < 0 or len(set(numbers)) < len(numbers):
        raise ValueError(
            "every image needs a number of its own at the end of its name, like 00017.jpg; got "
            f"{', '.join(list(stems)[:3])}"
        )
    return numbers, ticks_hz

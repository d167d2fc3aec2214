"""Which frames: videos, data sets of them, and the index of their labelled frames."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median_low
from typing import TYPE_CHECKING

import numpy as np

from vidseg.classes import IGNORE
from vidseg.data.files import identity_table, map_values, read_indices, read_rgb
from vidseg.data.label_code import LabelCode
from vidseg.data.windows import Drawn, Window

if TYPE_CHECKING:
    from vidseg.sizes import SeenSize


@dataclass(frozen=True)
class Video:
    """An unbroken run of frames, some of them labelled.

    Attributes:
        name: unique in its dataset.
        frames: image files in time order.
        labels: for each frame its label file, or None.
        numbers: for each frame its number on a clock of `rate_hz`, rising.
        rate_hz: ticks of that clock per second; None where it is unknown.
    """

    name: str
    frames: tuple[Path, ...]
    labels: tuple[Path | None, ...]
    numbers: tuple[int, ...]
    rate_hz: float | None = None

    def __post_init__(self) -> None:
        lengths = len(self.frames), len(self.labels), len(self.numbers)
        if len(set(lengths)) != 1 or not self.frames:
            raise ValueError(
                f"video {self.name!r} needs as many labels and numbers as frames, and at least "
                f"one frame; got {lengths[0]} frames, {lengths[1]} labels, {lengths[2]} numbers"
            )
        for earlier, later in pairwise(self.numbers):
            if later <= earlier:
                raise ValueError(
                    f"video {self.name!r}: frame numbers must rise, got {later} after {earlier}"
                )

    def __len__(self) -> int:
        return len(self.frames)

    def __repr__(self) -> str:
        return f"<video {self.name}: {len(self)} frames, {len(self.labelled)} labelled>"

    @property
    def labelled(self) -> tuple[int, ...]:
        """Indices of the frames that have labels."""
        return tuple(i for i, label in enumerate(self.labels) if label is not None)

    @property
    def step(self) -> int:
        """Usual distance of two frames in numbers (the median); 1 for a single frame."""
        return usual_step(self.numbers)

    @property
    def fps(self) -> float | None:
        """Frames per second of the stored frames; None where the clock is unknown."""
        return None if self.rate_hz is None else self.rate_hz / self.step


def usual_step(numbers: Sequence[int]) -> int:
    """Median distance of neighbouring frame numbers, one that occurs; 1 for fewer than two."""
    steps = [later - earlier for earlier, later in pairwise(numbers)]
    # Low: where every 30th frame is kept with the one before it, steps are 1 and 29, never 15.
    return median_low(steps) if steps else 1


def videos_by_source(
    places: Mapping[str, tuple[str, int]],
    frames: Mapping[str, Path],
    labels: Mapping[str, Path],
    rate_hz: float,
) -> list[Video]:
    """Sort the files of a data set into one video a source, in the order of their numbers.

    Args:
        places: name of a frame -> its source and its number.
        frames: name of a frame -> its image.
        labels: name of a frame -> its labels, where it has any.
        rate_hz: see `Video`.

    Raises:
        ValueError: two frames of a source have one number.
    """
    sources: dict[str, dict[int, str]] = defaultdict(dict)
    for name, (source, number) in places.items():
        twin = sources[source].setdefault(number, name)
        if twin != name:
            raise ValueError(f"{frames[name]} and {frames[twin]} have one frame number")
    videos = []
    for source, names in sorted(sources.items()):
        numbers = sorted(names)
        videos.append(
            Video(
                name=source,
                frames=tuple(frames[names[n]] for n in numbers),
                labels=tuple(labels.get(names[n]) for n in numbers),
                numbers=tuple(numbers),
                rate_hz=rate_hz,
            )
        )
    return videos


def split_at_gaps(video: Video, max_step: int | None = None) -> list[Video]:
    """Cut a video wherever more than `max_step` numbers lie between two frames.

    Args:
        video: the whole source.
        max_step: longest step that is no gap; None for three times the usual step.

    Returns:
        One video of the same name if nothing was cut, else parts named with their first number.
    """
    limit = 3 * video.step if max_step is None else max_step
    starts = [0]
    starts += [i for i in range(1, len(video)) if video.numbers[i] - video.numbers[i - 1] > limit]
    if len(starts) == 1:
        return [video]
    parts = []
    for start, stop in zip(starts, [*starts[1:], len(video)], strict=True):
        parts.append(
            Video(
                name=f"{video.name}_{video.numbers[start]:06d}",
                frames=video.frames[start:stop],
                labels=video.labels[start:stop],
                numbers=video.numbers[start:stop],
                rate_hz=video.rate_hz,
            )
        )
    return parts


class VideoDataset:
    """Videos with labels of one set of classes, read file by file.

    Attributes:
        name: such as "camvid/val".
        videos: unbroken runs of frames.
        classes: names, in the order of the label indices.
        palette: (C, 3) uint8 RGB.
        ignore: label of pixels that count nowhere.
        void_is_error: labels predicted on pixels whose truth is void (`ignore`) count as false
            positives: `ConfusionMatrix(..., void_truth="false_positive")`.
        seen_size: at which size models see the frames unless it is asked for another: "full", as
            published protocols have it, or None for what the model's card knows.
        official_score: "vspw" where evaluations also give what VSPW's own tool would print.
    """

    ignore = IGNORE
    seen_size: SeenSize = "full"
    official_score: str | None = None

    def __init__(
        self,
        name: str,
        videos: Sequence[Video],
        classes: Sequence[str],
        palette: Sequence[Sequence[int]] | np.ndarray,
        *,
        label_table: np.ndarray | None = None,
        void_is_error: bool = False,
        code: LabelCode | None = None,
    ) -> None:
        """Collect videos.

        Args:
            name: shown in reports.
            videos: at least one; their names are unique.
            classes: one name per class.
            palette: one RGB colour per class.
            label_table: (256,) the label index of each value in a label file, -1 for values that
                must not occur; None if files hold the indices themselves and 255 is ignored.
            void_is_error: see the class.
            code: reads label files that may have palettes and colours, instead of `label_table`.

        Raises:
            ValueError: no video, a name used twice, or palette and classes disagree.
        """
        if not videos:
            raise ValueError(f"{name}: no frames found; is this the folder of the data set?")
        names = [video.name for video in videos]
        if len(set(names)) != len(names):
            twice = sorted({n for n in names if names.count(n) > 1})
            raise ValueError(f"{name}: video names must be unique, these are not: {twice}")
        self.name = name
        self.videos = tuple(videos)
        self.classes = tuple(classes)
        self.palette = np.asarray(palette, dtype=np.uint8)
        self.void_is_error = void_is_error
        if self.palette.shape != (len(self.classes), 3):
            raise ValueError(
                f"{name}: palette must be ({len(self.classes)}, 3), one colour per class, "
                f"got {self.palette.shape}"
            )
        self.code = code
        self.label_table = identity_table(len(self.classes)) if label_table is None else label_table

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @property
    def num_frames(self) -> int:
        """Frames of all videos."""
        return sum(len(video) for video in self.videos)

    @property
    def num_labelled(self) -> int:
        """Labelled frames of all videos."""
        return sum(len(video.labelled) for video in self.videos)

    def read_frame(self, path: Path) -> np.ndarray:
        """Read an image file as (H, W, 3) uint8 RGB."""
        return read_rgb(path)

    def read_label(self, path: Path) -> np.ndarray:
        """Read a label file as (H, W) uint8 label indices, `ignore` where nothing counts.

        Raises:
            ValueError: the file holds a value that is no class (the message names both), is in
                colour, or cannot be read.
        """
        if self.code is not None:
            return self.code.read(path)
        return map_values(read_indices(path), self.table_for(path), path, self.num_classes)

    def table_for(self, path: Path) -> np.ndarray:
        """The (256,) table from file values to label indices that holds for this file."""
        del path
        return self.label_table

    def __repr__(self) -> str:
        return (
            f"<{self.name}: {len(self.videos)} videos, {self.num_frames} frames, "
            f"{self.num_labelled} labelled, {self.num_classes} classes>"
        )


@dataclass(frozen=True)
class Snippet:
    """A labelled frame and the frames that its labels are predicted from.

    Attributes:
        video: where they come from.
        label_index: index of the labelled frame in `video.frames`.
        frame_indices: oldest first, the labelled frame last; may repeat a frame. They fall where
            the video runs backwards.
    """

    video: Video
    label_index: int
    frame_indices: tuple[int, ...]

    @property
    def name(self) -> str:
        """Video and file of the labelled frame."""
        return f"{self.video.name}/{self.video.frames[self.label_index].stem}"

    @property
    def frames(self) -> tuple[Path, ...]:
        """Files of the frames, in the order of `frame_indices`."""
        return tuple(self.video.frames[i] for i in self.frame_indices)

    @property
    def label(self) -> Path:
        """File of the labels."""
        label = self.video.labels[self.label_index]
        assert label is not None, f"{self.name} was indexed as labelled"
        return label


def snippets(dataset: VideoDataset, window: Window) -> list[Snippet]:
    """List a snippet for every labelled frame.

    Args:
        dataset: where from.
        window: from the index of a frame in its video to the indices that it is predicted from,
            oldest first, itself last: `model.window_frames`, `preceding(n)` or `drawn(n, within)`.
            An empty window leaves the frame out.

    Raises:
        ValueError: nothing is labelled, everything is left out, or a window is malformed.

    Example:
        >>> from vidseg.data import preceding
        >>> video = Video("v", (Path("0.png"), Path("1.png")), (None, Path("1_label.png")), (0, 1))
        >>> street = VideoDataset("street", [video], ["road"], [(128, 64, 128)])
        >>> [snippet.frame_indices for snippet in snippets(street, preceding(2))]
        [(0, 0, 1)]
    """
    found = []
    for video in dataset.videos:
        window_of = window.for_video(video.name) if isinstance(window, Drawn) else window
        for t in video.labelled:
            indices = tuple(window_of(t))
            if not indices:
                continue
            if indices[-1] != t or min(indices) < 0 or max(indices) >= len(video):
                raise ValueError(
                    f"the window of frame {t} of {video.name!r} must end with {t} and stay in "
                    f"0..{len(video) - 1}, got {indices}"
                )
            found.append(Snippet(video, t, indices))
    if not found:
        reason = "no frame is labelled" if not dataset.num_labelled else "the window left all out"
        raise ValueError(f"{dataset.name}: no snippet, {reason}; for a lone frame use preceding(0)")
    return found

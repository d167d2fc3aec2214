"""Video consistency: where the truth stands still for n frames, do the labels too?"""

import math
from collections.abc import Iterable
from fractions import Fraction
from itertools import zip_longest
from typing import Literal, Protocol

import torch
from torch import Tensor

from vidseg.metrics.arrays import IntegerArray, as_integers

OFFICIAL_SHORTEST_FRAMES = 17
"""VSPW's tool leaves out shorter videos for every n, because it was written for n = 16."""


class VideoConsistency:
    """VC_n: of the pixels whose truth stays for n frames, the share whose labels stay too.

    VSPW (Miao et al., CVPR 2021). One share per window of n neighbouring frames, then the mean over
    the windows of all videos; windows in which no truth stays are left out. Every n has a
    `VideoConsistency` of its own. Shares are summed exactly, so the order of the videos and their
    split over processes change nothing.

    - `"vidseg"`: all T - n + 1 windows of a video; void truth counts nowhere.
    - `"vspw-official"` imitates VSPW's VC_perclip.py with its artefacts: the last window is left
      out, so are videos of 16 frames or fewer (whatever n is), and void is one class more.

    Both count labels that stay, be they right or wrong; with `correct` they must also be right.
    Figures of two protocols, or with and without `correct`, do not compare.

    Args:
        n: frames of a window, 2 or more; the field reports 8 and 16.
        protocol: which rules to count by.
        ignore: the value of void.
        correct: labels must also equal the truth; not part of "vspw-official".
        num_classes: refuse values that are no class; None takes any from 0 on.

    Attributes:
        total: sum of the windows' shares, an exact `Fraction`.
        num_windows: how many there are.

    Raises:
        ValueError: `n` is below 2, `num_classes` is below 1, the protocol is unknown, or it has no
            `correct`.

    Example:
        >>> consistency = VideoConsistency(2)
        >>> truth = torch.tensor([[[0, 0, 1, 1]], [[0, 0, 1, 0]]])  # two frames of 1 x 4
        >>> labels = torch.tensor([[[0, 1, 0, 1]], [[0, 0, 0, 1]]])
        >>> consistency.update(labels, truth)
        >>> consistency.mean_consistency()  # three pixels stay in the truth, two of them here
        0.6666666666666666
    """

    def __init__(
        self,
        n: int,
        *,
        protocol: Literal["vidseg", "vspw-official"] = "vidseg",
        ignore: int = 255,
        correct: bool = False,
        num_classes: int | None = None,
    ) -> None:
        if n < 2:
            raise ValueError(f"n must be 2 frames or more, got {n}; the field reports 8 and 16")
        if num_classes is not None and num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, or None, got {num_classes}")
        if protocol not in ("vidseg", "vspw-official"):
            raise ValueError(f'protocol must be "vidseg" or "vspw-official", got {protocol!r}')
        if correct and protocol != "vidseg":
            raise ValueError(
                f'"{protocol}" does not compare labels with truth; use protocol="vidseg" with '
                "correct=True"
            )
        self.n = n
        self.protocol = protocol
        self.ignore = ignore
        self.correct = correct
        self.num_classes = num_classes
        self.num_windows = 0
        self.total = Fraction(0)

    def video(self) -> "RunningVideo":
        """Start a video that is added frame by frame; several may be under way at once."""
        return RunningVideo(self)

    def update(self, labels: Iterable[IntegerArray], truth: Iterable[IntegerArray]) -> None:
        """Add one whole video.

        Args:
            labels: (T, H, W) integers, oldest first; or any iterable of (H, W) frames, which are
                read one at a time.
            truth: the same; `ignore` marks void.

        Raises:
            TypeError: not integers.
            ValueError: shapes or lengths differ, or a value is negative or not below
                `num_classes`; or, by "vidseg", a label is `ignore`.
        """
        shapes = [tuple(v.shape) for v in (labels, truth) if hasattr(v, "shape")]  # pyright: ignore[reportAttributeAccessIssue]
        if any(len(shape) != 3 for shape in shapes) or len(set(shapes)) > 1:
            raise ValueError(
                f"labels and truth must be (T, H, W) of one shape, got {shapes}; resize the logits "
                "to the truth first, not the labels"
            )
        add_frames(self.video(), labels, truth)

    def merge(self, other: "VideoConsistency") -> "VideoConsistency":
        """Add the windows of another one to this one, and return this one.

        Raises:
            ValueError: the two were made with different settings.
        """
        if self._settings() != other._settings():
            raise ValueError(
                "only consistencies with the same settings can be merged, got "
                f"{self._settings()} and {other._settings()}"
            )
        self.total += other.total
        self.num_windows += other.num_windows
        return self

    def mean_consistency(self) -> float:
        """VC_n: mean share over all windows, in [0, 1]; NaN, shown as "-", without any."""
        return float(self.total) / self.num_windows if self.num_windows else math.nan

    def _settings(self) -> tuple[int, str, int, bool, int | None]:
        return self.n, self.protocol, self.ignore, self.correct, self.num_classes

    def __repr__(self) -> str:
        return (
            f'VideoConsistency(n={self.n}, protocol="{self.protocol}", '
            f"num_windows={self.num_windows}, mean_consistency={self.mean_consistency():.4f})"
        )


class FrameByFrame(Protocol):
    """One video that is added frame by frame, and then counted."""

    def add(self, labels: IntegerArray, truth: IntegerArray) -> None:
        """Add the next frame, (H, W) integers each."""
        ...

    def finish(self) -> object:
        """Count the video."""
        ...


def add_frames(
    video: FrameByFrame, labels: Iterable[IntegerArray], truth: Iterable[IntegerArray]
) -> None:
    """Add all frames of a video, and finish it.

    Args:
        video: as it was started.
        labels: (H, W) integers each, oldest first; read one at a time.
        truth: the same.

    Raises:
        ValueError: one of the two has fewer frames; as `video.add`.
    """
    for frame_labels, frame_truth in zip_longest(labels, truth):
        if frame_labels is None or frame_truth is None:
            raise ValueError("labels and truth must have as many frames, one ended first")
        video.add(frame_labels, frame_truth)
    video.finish()


class RunningVideo:
    """One video of a `VideoConsistency`, frame by frame; made by its `video()`.

    It holds one frame and two counts per pixel, however long the video.

    Example:
        >>> consistency = VideoConsistency(2)
        >>> video = consistency.video()
        >>> for labels in ([[0, 1]], [[0, 0]], [[0, 0]]):
        ...     video.add(torch.tensor(labels), truth=torch.tensor([[0, 0]]))
        >>> video.finish()  # shares 1/2 and 1
        (Fraction(3, 2), 2)
        >>> consistency.mean_consistency()
        0.75
    """

    def __init__(self, consistency: VideoConsistency) -> None:
        self._consistency = consistency
        self._num_frames = 0
        self._total = Fraction(0)
        self._num_windows = 0
        # "vspw-official" leaves out the last window, so that each waits for the next.
        self._waiting: Fraction | None = None
        self._before: tuple[Tensor, Tensor] | None = None
        # The number of the frame since which each pixel has its value.
        self._labels_since = self._truth_since = torch.zeros(0, dtype=torch.int32)
        self._is_finished = False

    def add(self, labels: IntegerArray, truth: IntegerArray) -> None:
        """Add the next frame.

        Args:
            labels: (H, W) integers.
            truth: the same; `ignore` marks void.

        Raises:
            TypeError: not integers.
            ValueError: the sizes differ, from each other or from the frame before; a value is
                not allowed (see `VideoConsistency.update`); or the video is finished.
        """
        if self._is_finished:
            raise ValueError("this video is finished; call video() for another one")
        frame = self._checked(labels, truth)
        if self._before is None:
            self._labels_since, self._truth_since = (
                torch.zeros_like(values, dtype=torch.int32) for values in frame
            )
        else:
            self._labels_since.masked_fill_(frame[0] != self._before[0], self._num_frames)
            self._truth_since.masked_fill_(frame[1] != self._before[1], self._num_frames)
        self._before = frame
        self._num_frames += 1
        share = self._share(*frame)
        if self._consistency.protocol == "vspw-official":
            share, self._waiting = self._waiting, share
        if share is not None:
            self._total += share
            self._num_windows += 1

    def finish(self) -> tuple[Fraction, int]:
        """Add the windows of this video to its `VideoConsistency`.

        Returns:
            The sum of the shares of this video's windows, and how many there are; (0, 0) for a
            video without any.

        Raises:
            ValueError: the video is finished already.
        """
        if self._is_finished:
            raise ValueError("this video is finished; call video() for another one")
        self._is_finished = True
        is_official = self._consistency.protocol == "vspw-official"
        if is_official and self._num_frames < OFFICIAL_SHORTEST_FRAMES:
            self._total, self._num_windows = Fraction(0), 0
        self._consistency.total += self._total
        self._consistency.num_windows += self._num_windows
        return self._total, self._num_windows

    def _share(self, labels: Tensor, truth: Tensor) -> Fraction | None:
        """The share of the window that ends with this frame, if one does."""
        rules = self._consistency
        first = self._num_frames - rules.n
        if first < 0:
            return None
        stays = self._truth_since <= first
        if rules.protocol == "vidseg" and _fits(rules.ignore, truth):
            stays &= truth != rules.ignore
        num_pixels = int(stays.sum())
        if not num_pixels:
            return None
        hits = stays & (self._labels_since <= first)
        if rules.correct:
            hits &= labels == truth
        # The double of the quotient, as the official tool has it, is summed without rounding: its
        # denominator is a power of two, so the sum stays small however many are added.
        return Fraction(int(hits.sum()) / num_pixels)

    def _checked(self, labels: IntegerArray, truth: IntegerArray) -> tuple[Tensor, Tensor]:
        given = as_integers(labels, "labels"), as_integers(truth, "truth")
        for values, name in zip(given, ("labels", "truth"), strict=True):
            if values.dim() != 2:
                raise ValueError(f"a frame of {name} must be (H, W), got {tuple(values.shape)}")
        if given[0].shape != given[1].shape:
            raise ValueError(
                "labels and truth must have one size, got "
                f"{tuple(given[0].shape)} and {tuple(given[1].shape)}; resize the logits to the "
                "truth first, not the labels"
            )
        if self._before is not None and given[0].shape != self._before[0].shape:
            raise ValueError(
                "all frames of a video must have one size, got "
                f"{tuple(self._before[0].shape)} and {tuple(given[0].shape)}"
            )
        self._check_values(given[0], "labels", self._consistency.protocol == "vspw-official")
        self._check_values(given[1], "truth", True)
        # Copies: the caller may fill the same memory with the next frame.
        return given[0].clone(), given[1].to(given[0].device, copy=True)

    def _check_values(self, values: Tensor, name: str, may_be_void: bool) -> None:
        ignore, num_classes = self._consistency.ignore, self._consistency.num_classes
        if values.numel() == 0:
            return
        low, high = (int(value) for value in values.aminmax())
        if low <= ignore <= high:
            void = values == ignore
            if not may_be_void and bool(void.any()):
                raise ValueError(
                    f"{name} must be classes, got {ignore} (void), which only the truth may have"
                )
            low, high = (int(value) for value in values.masked_fill(void, 0).aminmax())
        if low < 0:
            raise ValueError(f"{name} must be 0 or more, got {low}")
        if num_classes is not None and high >= num_classes:
            raise ValueError(
                f"{name} must be 0..{num_classes - 1}"
                f"{f' or {ignore} (void)' if may_be_void else ''}, got {high}"
            )


def _fits(value: int, values: Tensor) -> bool:
    # A uint8 tensor would wrap -1 to 255 when compared.
    return torch.iinfo(values.dtype).min <= value <= torch.iinfo(values.dtype).max


def video_consistency(
    labels: Iterable[IntegerArray],
    truth: Iterable[IntegerArray],
    n: int,
    *,
    protocol: Literal["vidseg", "vspw-official"] = "vidseg",
    ignore: int = 255,
    correct: bool = False,
) -> float:
    """VC_n of one video: where the truth stays for n frames, the share of labels that stay.

    To pool videos use `VideoConsistency`, which also says what counts.

    Args:
        labels: (T, H, W) integers, oldest first, or an iterable of (H, W) frames.
        truth: the same; `ignore` marks void.
        n: frames of a window.
        protocol: "vidseg", or "vspw-official" for the published tool with its artefacts.
        ignore: the value of void.
        correct: labels must also equal the truth; not part of "vspw-official".

    Returns:
        In [0, 1], 1 is steady; NaN for a video shorter than n, and where nothing counts.
    """
    measured = VideoConsistency(n, protocol=protocol, ignore=ignore, correct=correct)
    measured.update(labels, truth)
    return measured.mean_consistency()

"""Video consistency: where the truth stands still for n frames, do the labels too?"""

import math
from collections.abc import Iterable
from fractions import Fraction
from itertools import zip_longest
from typing import Literal, Protocol

import numpy as np

from vidseg.metrics.arrays import IntegerArray, as_integers

WINDOWS_FRAMES = (8, 16)
"""The n of VC_n that the field reports."""
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
        void_labels: whether a label may be `ignore`: "error" refuses it, as models never predict
            void; by "miss" it never stays. By "vspw-official" it is a class more in any case.

    Attributes:
        total: sum of the windows' shares, an exact `Fraction`.
        num_windows: how many there are.

    Raises:
        ValueError: `n` is below 2, `num_classes` is below 1, the protocol or `void_labels` is
            unknown, or the protocol has no `correct` or no "miss".

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
        void_labels: Literal["error", "miss"] = "error",
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
        if void_labels not in ("error", "miss"):
            raise ValueError(f'void_labels must be "error" or "miss", got {void_labels!r}')
        if void_labels == "miss" and protocol != "vidseg":
            raise ValueError(f'"{protocol}" takes void for a class; leave void_labels out')
        self.n = n
        self.protocol = protocol
        self.ignore = ignore
        self.correct = correct
        self.num_classes = num_classes
        self.void_labels = void_labels
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
            ValueError: shapes or lengths differ, a value is negative or not below `num_classes`,
                or a label is `ignore` and may not be.
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

    def _settings(self) -> tuple[int, str, int, bool, int | None, str]:
        classes = self.num_classes, self.void_labels
        return self.n, self.protocol, self.ignore, self.correct, *classes

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

    It holds one frame, and for each of the n - 1 last steps a bit per pixel for the labels and one
    for the truth, however long the video.

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
        self._before: tuple[np.ndarray, np.ndarray] | None = None
        # Where labels and truth kept their value in the last n - 1 steps: (2, n - 1, words).
        self._kept = np.zeros((2, consistency.n - 1, 0), np.uint64)
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
        if self._before is not None:
            # The oldest step leaves; in what order the others lie is no matter to their AND.
            row = self._num_frames % (self._consistency.n - 1)
            for kept, now, before in zip(self._kept, frame, self._before, strict=True):
                kept[row] = _bits(now == before)
        else:
            words = _bits(np.zeros(frame[0].shape, bool)).size
            self._kept = np.zeros((2, self._consistency.n - 1, words), np.uint64)
        # Copies: the caller may fill the same memory with the next frame.
        self._before = frame[0].copy(), frame[1].copy()
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

    def _share(self, labels: np.ndarray, truth: np.ndarray) -> Fraction | None:
        """The share of the window that ends with this frame, if one does."""
        rules = self._consistency
        if self._num_frames < rules.n:
            return None
        labels_stay, stays = np.bitwise_and.reduce(self._kept, axis=1)
        if rules.protocol == "vidseg":
            stays &= _bits(truth != rules.ignore)
        num_pixels = _count(stays)
        if not num_pixels:
            return None
        hits = stays & labels_stay
        if rules.correct:
            hits &= _bits(labels == truth)
        elif rules.void_labels == "miss":
            hits &= _bits(labels != rules.ignore)
        # The double of the quotient, as the official tool has it, is summed without rounding: its
        # denominator is a power of two, so the sum stays small however many are added.
        return Fraction(_count(hits) / num_pixels)

    def _checked(self, labels: IntegerArray, truth: IntegerArray) -> tuple[np.ndarray, np.ndarray]:
        given = tuple(
            as_integers(values, name).cpu().numpy()
            for values, name in ((labels, "labels"), (truth, "truth"))
        )
        for values, name in zip(given, ("labels", "truth"), strict=True):
            if values.ndim != 2:
                raise ValueError(f"a frame of {name} must be (H, W), got {values.shape}")
        if given[0].shape != given[1].shape:
            raise ValueError(
                f"labels and truth must have one size, got {given[0].shape} and "
                f"{given[1].shape}; resize the logits to the truth first, not the labels"
            )
        if self._before is not None and given[0].shape != self._before[0].shape:
            raise ValueError(
                "all frames of a video must have one size, got "
                f"{self._before[0].shape} and {given[0].shape}"
            )
        rules = self._consistency
        may_be_void = rules.protocol == "vspw-official" or rules.void_labels == "miss"
        self._check_values(given[0], "labels", may_be_void)
        self._check_values(given[1], "truth", True)
        return given[0], given[1]

    def _check_values(self, values: np.ndarray, name: str, may_be_void: bool) -> None:
        ignore, num_classes = self._consistency.ignore, self._consistency.num_classes
        if values.size == 0:
            return
        low, high = int(values.min()), int(values.max())
        if not may_be_void and low <= ignore <= high and (values == ignore).any():
            raise ValueError(
                f"{name} must be classes, got {ignore} (void), which only the truth may have; "
                'void_labels="miss" takes it for a label that never stays'
            )
        beyond = high + 1 if num_classes is None else num_classes
        if low >= 0 and high < beyond:
            return
        bad = values[((values < 0) | (values >= beyond)) & (values != ignore)]
        if bad.size and bad.min() < 0:
            raise ValueError(f"{name} must be 0 or more, got {bad.min()}")
        if bad.size:
            raise ValueError(
                f"{name} must be 0..{beyond - 1}"
                f"{f' or {ignore} (void)' if may_be_void else ''}, got {bad.max()}"
            )


def _bits(mask: np.ndarray) -> np.ndarray:
    """Pack a mask into words of 64 pixels, the rest of the last one 0: eight times less to AND."""
    packed = np.packbits(mask)
    words = np.zeros(-(-packed.size // 8), np.uint64)
    words.view(np.uint8)[: packed.size] = packed
    return words


def _count(words: np.ndarray) -> int:
    return int(np.bitwise_count(words).sum())


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

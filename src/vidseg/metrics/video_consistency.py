"""Video consistency: where the truth stands still for n frames, do the labels too?"""

import math
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Literal

import torch
from torch import Tensor

from vidseg.metrics.confusion import IntegerArray, as_integers

# The official tool leaves these out for every n, because it was written for n = 16.
_OFFICIAL_SHORTEST_FRAMES = 17


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

    Raises:
        ValueError: `n` is below 2, the protocol is unknown, or it has no `correct`.

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
    ) -> None:
        if n < 2:
            raise ValueError(f"n must be 2 frames or more, got {n}; the field reports 8 and 16")
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
        self.num_windows = 0
        self._total = Fraction(0)

    def update(self, labels: Iterable[IntegerArray], truth: Iterable[IntegerArray]) -> None:
        """Add one whole video.

        Args:
            labels: (T, H, W) integers, oldest first; or any iterable of (H, W) frames, which are
                read one at a time.
            truth: the same; `ignore` marks void.

        Raises:
            TypeError: not integers.
            ValueError: shapes or lengths differ, or a value is negative; or, by "vidseg", a label
                is `ignore`.
        """
        num_frames, num_windows = 0, 0
        total, waiting = Fraction(0), None
        is_official = self.protocol == "vspw-official"
        for share in self._shares(labels, truth):
            num_frames += 1
            if is_official:  # one behind: the tool leaves out the last window
                share, waiting = waiting, share
            if share is not None:
                total += share
                num_windows += 1
        if is_official and num_frames < _OFFICIAL_SHORTEST_FRAMES:
            return
        self._total += total
        self.num_windows += num_windows

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
        self._total += other._total
        self.num_windows += other.num_windows
        return self

    def mean_consistency(self) -> float:
        """VC_n: mean share over all windows, in [0, 1]; NaN, shown as "-", without any."""
        return float(self._total) / self.num_windows if self.num_windows else math.nan

    def _shares(
        self, labels: Iterable[IntegerArray], truth: Iterable[IntegerArray]
    ) -> Iterator[Fraction | None]:
        """For every frame, the share of the window that ends there; None without one."""
        before: tuple[Tensor, Tensor] | None = None
        stays = torch.zeros(0, dtype=torch.int32), torch.zeros(0, dtype=torch.int32)
        for frame in self._frames(labels, truth):
            if before is None:
                stays = tuple(torch.ones_like(f, dtype=torch.int32) for f in frame)
            elif frame[0].shape != before[0].shape:
                raise ValueError(
                    "all frames of a video must have one size, got "
                    f"{tuple(before[0].shape)} and {tuple(frame[0].shape)}"
                )
            else:
                # How many frames each pixel has had its value, this one included.
                stays = tuple(
                    (stay * (now == was)).add_(1)
                    for stay, now, was in zip(stays, frame, before, strict=True)
                )
            before = frame
            steady_labels, steady_truth = (stay >= self.n for stay in stays)
            yield self._share(*frame, steady_labels, steady_truth)

    def _share(
        self, labels: Tensor, truth: Tensor, steady_labels: Tensor, steady_truth: Tensor
    ) -> Fraction | None:
        if self.protocol == "vidseg":
            steady_truth = steady_truth & (truth != self.ignore)
        hits = steady_truth & steady_labels
        if self.correct:
            hits = hits & (labels == truth)
        num_pixels = int(steady_truth.sum())
        # The double of the quotient, as the official tool has it, is summed without rounding: its
        # denominator is a power of two, so the sum stays small however many are added.
        return Fraction(int(hits.sum()) / num_pixels) if num_pixels else None

    def _frames(
        self, labels: Iterable[IntegerArray], truth: Iterable[IntegerArray]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        shapes = [tuple(v.shape) for v in (labels, truth) if hasattr(v, "shape")]  # pyright: ignore[reportAttributeAccessIssue]
        if any(len(shape) != 3 for shape in shapes) or len(set(shapes)) > 1:
            raise ValueError(
                f"labels and truth must be (T, H, W) of one shape, got {shapes}; resize the logits "
                "to the truth first, not the labels"
            )
        for one, other in zip(labels, truth, strict=True):
            pair = self._checked(one, "labels"), self._checked(other, "truth")
            if pair[0].shape != pair[1].shape:
                raise ValueError(
                    "labels and truth must have one size, got "
                    f"{tuple(pair[0].shape)} and {tuple(pair[1].shape)}; resize the logits to the "
                    "truth first, not the labels"
                )
            yield pair[0], pair[1].to(pair[0].device)

    def _checked(self, frame: IntegerArray, name: str) -> Tensor:
        values = as_integers(frame, name)
        if values.dim() != 2:
            raise ValueError(f"a frame of {name} must be (H, W), got {tuple(values.shape)}")
        # int32: a uint8 tensor would wrap ignore=-1 to 255.
        values = values.to(torch.int32 if values.dtype.itemsize < 4 else values.dtype)
        is_void = values == self.ignore
        if bool(((values < 0) & ~is_void).any()):
            raise ValueError(f"{name} must be 0 or more, got {int(values.min())}")
        if name == "labels" and self.protocol == "vidseg" and bool(is_void.any()):
            raise ValueError(
                f"labels must be classes, got {self.ignore} (void), which only the truth may have"
            )
        return values

    def _settings(self) -> tuple[int, str, int, bool]:
        return self.n, self.protocol, self.ignore, self.correct

    def __repr__(self) -> str:
        return (
            f'VideoConsistency(n={self.n}, protocol="{self.protocol}", '
            f"num_windows={self.num_windows}, mean_consistency={self.mean_consistency():.4f})"
        )


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

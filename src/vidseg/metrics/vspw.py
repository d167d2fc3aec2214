"""What VSPW's own tool prints of label maps, its artefacts included."""

from collections.abc import Iterable
from typing import Literal

from vidseg.metrics.arrays import IntegerArray
from vidseg.metrics.confusion import ConfusionMatrix
from vidseg.metrics.video_consistency import (
    OFFICIAL_SHORTEST_FRAMES,
    WINDOWS_FRAMES,
    VideoConsistency,
    add_frames,
)


class VspwScore:
    """The figures of VSPW's VC_perclip.py, which papers on VSPW report.

    VSPW (Miao et al., CVPR 2021); matches the copy of the tool in GuoleiSun/VSS-CFFM, which prints
    all figures in one run. Beside `ConfusionMatrix` and `VideoConsistency` it differs in:

    - **Videos of 16 frames or fewer are left out of every figure**, also of the IoU.
    - **`mean_iou`** is the mean over the classes in the truth; one that is only predicted lowers no
      mean. (mmseg, whose mIoU is in most tables, takes all videos, and such a class scores 0: that
      is `ConfusionMatrix.mean_iou()`.)
    - **VC** is by "vspw-official": without the last window, and void is one class more.

    Args:
        num_classes: classes are 0 .. num_classes - 1.
        ignore: the value of void.
        void_labels: whether a label may be `ignore`, see `ConfusionMatrix`.

    Attributes:
        confusion: of the videos that count.
        vc: n -> VC_n, of 8 and 16 frames.
        num_videos: that count.

    Example:
        >>> score = VspwScore(num_classes=3)
        >>> truth = torch.zeros(17, 2, 2, dtype=torch.int64)
        >>> labels = truth.clone()
        >>> labels[0, 0, 0] = 2  # predicted once, and never there
        >>> score.update(labels, truth)
        >>> score.update(labels[:16], truth[:16])  # too short: left out
        >>> score.num_videos, score.mean_iou() == 67 / 68, score.confusion.mean_iou() == 67 / 136
        (1, True, True)
    """

    def __init__(
        self,
        num_classes: int = 124,
        ignore: int = 255,
        *,
        void_labels: Literal["error", "miss"] = "error",
    ) -> None:
        self.confusion = ConfusionMatrix(num_classes, ignore, void_labels=void_labels)
        self.vc = {
            n: VideoConsistency(n, protocol="vspw-official", ignore=ignore) for n in WINDOWS_FRAMES
        }
        self.num_videos = 0

    def video(self) -> "VspwVideo":
        """Start a video that is added frame by frame; several may be under way at once."""
        return VspwVideo(self)

    def update(self, labels: Iterable[IntegerArray], truth: Iterable[IntegerArray]) -> None:
        """Add one whole video.

        Args:
            labels: (T, H, W) integers, oldest first, or an iterable of (H, W) frames.
            truth: the same; `ignore` marks void.

        Raises:
            TypeError: not integers.
            ValueError: shapes or lengths differ, or a value is no class.
        """
        add_frames(self.video(), labels, truth)

    def merge(self, other: "VspwScore") -> "VspwScore":
        """Add the videos of another score to this one, and return this one.

        Raises:
            ValueError: the two were made with different settings.
        """
        self.confusion.merge(other.confusion)
        for n, consistency in self.vc.items():
            consistency.merge(other.vc[n])
        self.num_videos += other.num_videos
        return self

    def mean_iou(self) -> float:
        """Mean IoU of the classes in the truth, in [0, 1]; NaN without any."""
        in_truth = self.confusion.counts[:-1].sum(1) > 0
        return float(self.confusion.iou()[in_truth].mean())

    def figures(self) -> dict[str, float]:
        """Every figure that the tool prints, by name, in [0, 1]; NaN for a missing one."""
        return {
            "mean_iou": self.mean_iou(),
            "weighted_iou": self.confusion.weighted_iou(),
            "pixel_accuracy": self.confusion.pixel_accuracy(),
            "class_accuracy": self.confusion.mean_class_accuracy(),
            **{f"vc{n}": consistency.mean_consistency() for n, consistency in self.vc.items()},
        }

    def __repr__(self) -> str:
        return f"VspwScore(num_videos={self.num_videos}, mean_iou={self.mean_iou():.4f})"


class VspwVideo:
    """One video of a `VspwScore`, frame by frame; made by its `video()`.

    It holds one frame and four counts per pixel, however long the video.

    Attributes:
        num_frames: that were added.
    """

    def __init__(self, score: VspwScore) -> None:
        self._score = score
        rules = score.confusion
        self._confusion = ConfusionMatrix(
            rules.num_classes, rules.ignore, void_labels=rules.void_labels
        )
        self._windows = [consistency.video() for consistency in score.vc.values()]
        self.num_frames = 0

    def add(self, labels: IntegerArray, truth: IntegerArray) -> None:
        """Add the next frame.

        Args:
            labels: (H, W) integers.
            truth: the same; `ignore` marks void.

        Raises:
            TypeError: not integers.
            ValueError: the sizes differ, from each other or from the frame before; a value is no
                class; or the video is finished.
        """
        for windows in self._windows:
            windows.add(labels, truth)
        self._confusion.update(labels, truth)
        self.num_frames += 1

    def finish(self) -> None:
        """Add this video to its score, unless it is too short.

        Raises:
            ValueError: the video is finished already.
        """
        for windows in self._windows:
            windows.finish()
        if self.num_frames >= OFFICIAL_SHORTEST_FRAMES:
            self._score.confusion.merge(self._confusion)
            self._score.num_videos += 1

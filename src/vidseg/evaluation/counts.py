"""All that is counted of a video, and the figures that come of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vidseg.data.clip import IGNORE
from vidseg.evaluation.figure import class_figures_of, figures_of
from vidseg.evaluation.figures import figures_by
from vidseg.evaluation.sums import Sums, sums_of
from vidseg.metrics.confusion import ConfusionMatrix
from vidseg.metrics.consistency import OFFICIAL_PROTOCOLS, Protocol, TemporalConsistency
from vidseg.metrics.official_consistency import OfficialTemporalConsistency
from vidseg.metrics.ratios import VoidTruth
from vidseg.metrics.video_consistency import WINDOWS_FRAMES, VideoConsistency


@dataclass
class VideoCounts:
    """The counts of one video; counts of several videos add up to those of the set.

    Attributes:
        confusion: of all pixels with a true class.
        boundary: of those within 5 px of another true class.
        consistency: labels against the previous labels along the motion; by an official protocol
            of TC against the next ones, and then it has no flicker.
        truth_consistency: by "vidseg" the same of the truth, which shows what the measure itself
            costs; empty by an official protocol, which knows no void.
        vc: window length -> video consistency.
        vc_correct: the same, of labels that are also right.
        tc: protocol of `consistency`.
        num_frames: frames that were measured: those with a truth, or all.
        num_scored: those of them that have a truth.
        num_pairs: neighbouring frames that were compared.
    """

    confusion: ConfusionMatrix
    boundary: ConfusionMatrix
    consistency: TemporalConsistency | OfficialTemporalConsistency
    truth_consistency: TemporalConsistency
    vc: dict[int, VideoConsistency]
    vc_correct: dict[int, VideoConsistency]
    tc: Protocol = "vidseg"
    num_frames: int = 0
    num_scored: int = 0
    num_pairs: int = 0

    @classmethod
    def empty(
        cls,
        num_classes: int,
        ignore: int = IGNORE,
        *,
        void_truth: VoidTruth = "ignored",
        has_void_labels: bool = False,
        tc: Protocol = "vidseg",
    ) -> VideoCounts:
        """Counts of nothing.

        Args:
            num_classes: classes are 0 .. num_classes - 1.
            ignore: the value of void.
            void_truth: what labels on void pixels are.
            has_void_labels: label maps may hold void, which is a miss of the true class, and never
                stays.
            tc: protocol of `consistency`.
        """
        void_labels = "miss" if has_void_labels else "error"

        def matrix() -> ConfusionMatrix:
            return ConfusionMatrix(
                num_classes, ignore, void_truth=void_truth, void_labels=void_labels
            )

        def windows(correct: bool) -> dict[int, VideoConsistency]:
            rules = {"ignore": ignore, "correct": correct, "void_labels": void_labels}
            return {n: VideoConsistency(n, **rules) for n in WINDOWS_FRAMES}

        return cls(
            matrix(),
            matrix(),
            empty_consistency(tc, num_classes, ignore),
            TemporalConsistency(num_classes, ignore),
            windows(correct=False),
            windows(correct=True),
            tc,
        )

    def merge(self, other: VideoCounts) -> VideoCounts:
        """Add the counts of another video, or set of videos, to these, and return these.

        Raises:
            ValueError: the two were made with different settings.
        """
        self.confusion.merge(other.confusion)
        self.boundary.merge(other.boundary)
        # Both are of one protocol, or this raises.
        self.consistency.merge(other.consistency)  # pyright: ignore[reportArgumentType]
        self.truth_consistency.merge(other.truth_consistency)
        for n in WINDOWS_FRAMES:
            self.vc[n].merge(other.vc[n])
            self.vc_correct[n].merge(other.vc_correct[n])
        self.num_frames += other.num_frames
        self.num_scored += other.num_scored
        self.num_pairs += other.num_pairs
        return self

    def emptied(self) -> VideoCounts:
        """Counts of nothing, with the settings of these."""
        return self.empty(
            self.confusion.num_classes,
            self.confusion.ignore,
            void_truth=self.confusion.void_truth,
            has_void_labels=self.confusion.void_labels == "miss",
            tc=self.tc,
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """The counts by their names in counts.npz, which has them of every video."""
        vc, vc_correct = self.vc.values(), self.vc_correct.values()
        return {
            "confusion": self.confusion.counts.numpy(),
            "boundary": self.boundary.counts.numpy(),
            "consistency": self.consistency.counts.numpy(),
            "truth_consistency": self.truth_consistency.counts.numpy(),
            "vc_total": np.array([float(one.total) for one in vc]),
            "vc_windows": np.array([one.num_windows for one in vc], np.int64),
            "vc_correct_total": np.array([float(one.total) for one in vc_correct]),
            "num_frames": np.array(self.num_frames, np.int64),
            "num_scored": np.array(self.num_scored, np.int64),
            "num_pairs": np.array(self.num_pairs, np.int64),
        }

    def sums(self) -> Sums:
        """The sums that every figure is computed from, without leading axes."""
        return sums_of(self.arrays(), self.confusion.void_truth)

    def figures(self) -> dict[str, float | None]:
        """The figures of these counts by key, ratios in [0, 1]; None where there is none."""
        figures = [figure for figure in figures_by(self.tc).values() if not figure.is_of_set]
        return figures_of(self.sums(), sorted(figures, key=lambda figure: figure.truth_of != ""))

    def class_figures(self) -> dict[str, list[float | None]]:
        """The figures of each class by key; None where it does not occur."""
        return class_figures_of(self.sums(), figures_by(self.tc).values())


def array_shapes(num_classes: int) -> dict[str, tuple[int, ...]]:
    """The shapes of `VideoCounts.arrays`."""
    with_void, square = (num_classes + 1, num_classes + 1), (num_classes, num_classes)
    windows = (len(WINDOWS_FRAMES),)
    return {
        "confusion": with_void,
        "boundary": with_void,
        "consistency": square,
        "truth_consistency": square,
        "vc_total": windows,
        "vc_windows": windows,
        "vc_correct_total": windows,
        "num_frames": (),
        "num_scored": (),
        "num_pairs": (),
    }


def empty_consistency(
    tc: Protocol, num_classes: int, ignore: int = IGNORE
) -> TemporalConsistency | OfficialTemporalConsistency:
    """Counts of no pair, by a protocol of TC."""
    if tc in OFFICIAL_PROTOCOLS:
        return OFFICIAL_PROTOCOLS[tc](num_classes)
    return TemporalConsistency(num_classes, ignore)

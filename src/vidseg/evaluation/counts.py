"""All that is counted of a video, and the figures that come of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from vidseg.data.clip import IGNORE
from vidseg.evaluation.figures import CLASS_FIGURES, WINDOWS_FRAMES
from vidseg.metrics.confusion import ConfusionMatrix
from vidseg.metrics.consistency import OFFICIAL_PROTOCOLS, Protocol, TemporalConsistency
from vidseg.metrics.official_consistency import OfficialTemporalConsistency
from vidseg.metrics.video_consistency import VideoConsistency


@dataclass
class VideoCounts:
    """All that is counted of one video; those of several videos add up to those of the set.

    Attributes:
        confusion: of all pixels with a true class.
        boundary: of those within 5 px of another true class.
        consistency: labels against the previous labels along the motion; by an official protocol
            of TC against the next ones, and then it has no flicker.
        truth_consistency: by "vidseg" the same of the truth, which shows what the measure itself
            costs; empty by an official protocol, which knows no void.
        vc: window length -> video consistency.
        vc_correct: the same, of labels that are also right.
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
    num_frames: int = 0
    num_scored: int = 0
    num_pairs: int = 0

    @classmethod
    def empty(
        cls,
        num_classes: int,
        ignore: int = IGNORE,
        *,
        void_is_error: bool = False,
        has_void_labels: bool = False,
        tc: Protocol = "vidseg",
    ) -> VideoCounts:
        """Counts of nothing.

        Args:
            num_classes: classes are 0 .. num_classes - 1.
            ignore: the value of void.
            void_is_error: labels on void pixels are false positives.
            has_void_labels: label maps may hold void, which is a miss of the true class, and never
                stays.
            tc: protocol of `consistency`.
        """

        void_labels = "miss" if has_void_labels else "error"

        def matrix() -> ConfusionMatrix:
            void_truth = "false_positive" if void_is_error else "ignored"
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

    def figures(self) -> dict[str, float | None]:
        """The figures of these counts by name, ratios in [0, 1]; None where there is none."""
        figures = {
            "mean_iou": self.confusion.mean_iou(),
            "boundary_mean_iou": self.boundary.mean_iou(),
            "weighted_iou": self.confusion.weighted_iou(),
            "pixel_accuracy": self.confusion.pixel_accuracy(),
            "mean_class_accuracy": self.confusion.mean_class_accuracy(),
            "temporal_consistency": self.consistency.mean_iou(),
            "flicker": self._flicker().flicker(),
            **{f"vc{n}": vc.mean_consistency() for n, vc in self.vc.items()},
            **{f"vc{n}_correct": vc.mean_consistency() for n, vc in self.vc_correct.items()},
            "truth_temporal_consistency": self.truth_consistency.mean_iou(),
            "truth_flicker": self.truth_consistency.flicker(),
        }
        return {name: _or_none(value) for name, value in figures.items()}

    def class_figures(self) -> dict[str, list[float | None]]:
        """Figures of each class by the names of `CLASS_FIGURES`; None where it does not occur."""
        columns = (
            self.confusion.iou(),
            self.boundary.iou(),
            self.confusion.class_accuracy(),
            self.consistency.iou(),
            self._flicker().class_flicker(),
        )
        return {
            name: [_or_none(value) for value in column.tolist()]
            for name, column in zip(CLASS_FIGURES, columns, strict=True)
        }

    def _flicker(self) -> TemporalConsistency:
        """What flicker is computed from: nothing by an official protocol."""
        if isinstance(self.consistency, TemporalConsistency):
            return self.consistency
        return TemporalConsistency(self.consistency.num_classes)


def empty_consistency(
    tc: Protocol, num_classes: int, ignore: int = IGNORE
) -> TemporalConsistency | OfficialTemporalConsistency:
    """Counts of no pair, by a protocol of TC."""
    if tc in OFFICIAL_PROTOCOLS:
        return OFFICIAL_PROTOCOLS[tc](num_classes)
    return TemporalConsistency(num_classes, ignore)


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value

"""What an evaluation is: the figures of all videos and of every frame, and their files."""

from __future__ import annotations

import csv
import functools
import io
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from vidseg.atomic import replacing, together, write_text
from vidseg.data.clip import Video
from vidseg.evaluation.counts import VideoCounts
from vidseg.evaluation.figures import CLASS_FIGURES, FIGURES, OVER_CLASSES, WINDOWS_FRAMES
from vidseg.metrics.consistency import Protocol
from vidseg.metrics.vspw import VspwScore
from vidseg.printable import csv_cell

SAVED_MAPS = "saved label maps"
"""What the convention `run_as` says where no model ran."""
SAME, CHANGED, NOT_COMPARED = 0, 1, 2
"""Values of `FrameFigures.changed`."""


@dataclass(frozen=True, eq=False)
class Observed:
    """One frame with its label map.

    Attributes:
        video: the video that it belongs to.
        frame_index: its place in the video; the frames of a video come in order.
        image: (H, W, 3) uint8 RGB; None where saved label maps are scored.
        labels: (h, w) uint8 at the size of the video's truth (of its images where there is none).
        truth: (h, w) uint8, 255 where void; None for a frame that is not scored.
        ms: the network's time for it: of its pass, divided by the frames of the pass; None for
            the first pass, which pays for the warm-up, and where no network ran.
        is_cut: a new scene begins here, so it is not compared with the frame before.
    """

    video: Video
    frame_index: int
    image: np.ndarray | None
    labels: np.ndarray
    truth: np.ndarray | None
    ms: float | None = None
    is_cut: bool = False


@dataclass(frozen=True, eq=False)
class FrameFigures:
    """What was measured of one frame; None where it cannot be.

    Attributes:
        video: its video's name.
        number: the frame's number on the clock of its video.
        time_s: seconds since the first frame of the video.
        pixel_accuracy: share of its labelled pixels that are right.
        flicker: share of the pixels that changed class along the motion since the frame before.
        ms: the network's time for it.
        changed: (h, w) uint8, where: 0 the same class as before, 1 another, 2 not compared. For
            observers; neither kept in `Evaluation.series` nor saved.
    """

    video: str
    number: int
    time_s: float | None = None
    pixel_accuracy: float | None = None
    flicker: float | None = None
    ms: float | None = None
    changed: np.ndarray | None = None

    def row(self) -> dict[str, Any]:
        """The figures as JSON values, without `changed`."""
        return {name: value for name, value in vars(self).items() if name != "changed"}


Observer = Callable[[Observed, FrameFigures], None]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Evaluation:
    """Figures of one model, or of saved label maps. Ratios are in [0, 1].

    Attributes:
        classes: names of the classes.
        palette: (C, 3) uint8 RGB.
        videos: name -> counts; all figures come from these.
        conventions: how it was measured, for people and for the record.
        protocols: what two evaluations must share for their figures to compare: of "accuracy",
            and of "consistency" (its protocol, flow and validity).
        series: what was measured of each of these frames, in the order of the videos.
        ms_per_frame: mean time of the network per encoded frame, in milliseconds, without
            reading, resizing to the label and scoring; None for saved label maps.
        vspw: what VSPW's own tool would print; None for other data.
    """

    classes: tuple[str, ...]
    palette: np.ndarray
    videos: dict[str, VideoCounts]
    conventions: dict[str, Any]
    protocols: dict[str, dict[str, Any]] = field(default_factory=dict)
    series: Sequence[FrameFigures] = ()
    ms_per_frame: float | None = None
    vspw: VspwScore | None = None

    def __post_init__(self) -> None:
        if not self.videos:
            raise ValueError("an evaluation needs at least one video")

    @cached_property
    def total(self) -> VideoCounts:
        """The counts of all videos together; do not add to them."""
        first = next(iter(self.videos.values())).confusion
        empty = VideoCounts.empty(
            first.num_classes,
            first.ignore,
            void_is_error=first.void_truth == "false_positive",
            has_void_labels=first.void_labels == "miss",
            tc=self.tc,
        )
        return functools.reduce(VideoCounts.merge, self.videos.values(), empty)

    @property
    def tc(self) -> Protocol:
        """The protocol of TC."""
        return self.protocols.get("consistency", {}).get("protocol", "vidseg")

    @cached_property
    def figures(self) -> dict[str, float | None]:
        """Every figure of the set by its name; None for one that cannot be had (see `absent`)."""
        found = self.total.figures()
        means = [counts.confusion.mean_iou() for counts in self.videos.values()]
        known = [mean for mean in means if not math.isnan(mean)]
        found["mean_video_iou"] = sum(known) / len(known) if known else None
        found["ms_per_frame"] = self.ms_per_frame
        official = {} if self.vspw is None else self.vspw.figures()
        return {name: found[name] for name in FIGURES} | {
            f"vspw_{name}": None if math.isnan(value) else value for name, value in official.items()
        }

    @property
    def class_iou(self) -> Tensor:
        """Intersection over union per class: (C,) float64, NaN where it does not occur."""
        return self.total.confusion.iou()

    @property
    def mean_iou(self) -> float:
        """Mean of `class_iou` over the classes that occur; NaN without any truth."""
        return self.total.confusion.mean_iou()

    @property
    def pixel_accuracy(self) -> float:
        """Share of labelled pixels that are right; NaN without any truth."""
        return self.total.confusion.pixel_accuracy()

    @property
    def mean_class_accuracy(self) -> float:
        """Mean recall over the classes in the truth; NaN without any truth."""
        return self.total.confusion.mean_class_accuracy()

    @property
    def num_frames(self) -> int:
        """Frames that were measured: those with a truth, or all."""
        return self.total.num_frames

    @property
    def num_scored(self) -> int:
        """Frames that have a truth."""
        return self.total.num_scored

    @cached_property
    def absent(self) -> dict[str, str]:
        """Why a figure is None, by its name, in words."""
        return {name: _why(name, self) for name, value in self.figures.items() if value is None}

    def summary(self, name: str, command: str | None = None) -> dict[str, Any]:
        """All that is known as plain JSON values, but for the counts; None stands for no figure.

        Args:
            name: of the model, or of where the label maps came from.
            command: what made the evaluation.
        """
        columns = self.total.class_figures()
        return {
            "name": name,
            "command": command,
            "figures": self.figures,
            "absent": self.absent,
            "num_frames": self.num_frames,
            "num_scored": self.num_scored,
            "num_pairs": self.total.num_pairs,
            "classes": {
                one: {figure: column[i] for figure, column in columns.items()}
                for i, one in enumerate(self.classes)
            },
            "videos": {
                one: {
                    **counts.figures(),
                    "num_frames": counts.num_frames,
                    "num_scored": counts.num_scored,
                    "num_pairs": counts.num_pairs,
                }
                for one, counts in self.videos.items()
            },
            "conventions": self.conventions,
            "protocols": self.protocols,
            "series": [frame.row() for frame in self.series],
        }

    def save(self, folder: Path | str, name: str, command: str | None = None) -> None:
        """Write `metrics.json`, `metrics.csv` (a row per class) and `counts.npz`.

        A figure that cannot be had is null in the one and "-" in the other. The counts are what
        every figure came from, per video; see docs/evaluate.md for their names.

        Args:
            folder: is made.
            name: of the model, or of where the label maps came from.
            command: what made the evaluation.

        Raises:
            OSError: a file cannot be written; those of an earlier evaluation stay as they are.
        """
        with together(Path(folder)) as stage:
            with replacing(stage / "counts.npz") as file:
                np.savez_compressed(file, **self.counts())  # pyright: ignore[reportArgumentType]
            write_text(stage / "metrics.csv", self._csv())
            write_text(stage / "metrics.json", json_text(self.summary(name, command)))

    def counts(self) -> dict[str, np.ndarray]:
        """The counts of V videos as arrays, by the names of `counts.npz`."""
        videos = list(self.videos.values())

        def stacked(read: Callable[[VideoCounts], Any], dtype: type) -> np.ndarray:
            return np.stack([np.asarray(read(counts), dtype) for counts in videos])

        return {
            "names": np.array(list(self.videos), dtype=str),
            "confusion": stacked(lambda v: v.confusion.counts, np.int64),
            "boundary": stacked(lambda v: v.boundary.counts, np.int64),
            "consistency": stacked(lambda v: v.consistency.counts, np.int64),
            "truth_consistency": stacked(lambda v: v.truth_consistency.counts, np.int64),
            "vc_n": np.array(WINDOWS_FRAMES, np.int64),
            "vc_total": stacked(lambda v: [float(v.vc[n].total) for n in v.vc], np.float64),
            "vc_windows": stacked(lambda v: [v.vc[n].num_windows for n in v.vc], np.int64),
            "vc_correct_total": stacked(
                lambda v: [float(v.vc_correct[n].total) for n in v.vc], np.float64
            ),
            "num_frames": stacked(lambda v: v.num_frames, np.int64),
            "num_scored": stacked(lambda v: v.num_scored, np.int64),
            "num_pairs": stacked(lambda v: v.num_pairs, np.int64),
        }

    def _csv(self) -> str:
        rows = io.StringIO(newline="")
        writer = csv.writer(rows)
        writer.writerow(["class", *CLASS_FIGURES])
        columns = self.total.class_figures()
        for i, name in enumerate(self.classes):
            writer.writerow([csv_cell(name), *_dashed(column[i] for column in columns.values())])
        writer.writerow(["all", *_dashed(self.figures[name] for name in OVER_CLASSES.values())])
        return rows.getvalue()


def json_text(summary: dict[str, Any]) -> str:
    """A summary as JSON: a line per frame of the series, the rest indented."""
    rows = [json.dumps(row, allow_nan=False) for row in summary["series"]]
    rest = {name: value for name, value in summary.items() if name != "series"}
    text = json.dumps(rest, indent=2, allow_nan=False, ensure_ascii=False)
    series = ",\n    ".join(rows)
    return f'{text.removesuffix("}").rstrip()},\n  "series": [\n    {series}\n  ]\n}}\n'


def _why(name: str, evaluation: Evaluation) -> str:
    """Why a figure cannot be had."""
    total, tc = evaluation.total, evaluation.tc
    if name == "ms_per_frame":
        return "no network ran"
    needs_truth = name not in ("temporal_consistency", "flicker")
    if needs_truth and not total.num_scored:
        return "there are no true labels"
    needs_flow = "temporal_consistency" in name or "flicker" in name
    if needs_flow and evaluation.protocols.get("consistency", {}).get("flow") is None:
        return "no flow was asked for"
    if needs_flow and tc != "vidseg" and name != "temporal_consistency":
        return f"protocol {tc} is of TC alone; the protocol vidseg (--tc vidseg) measures it"
    if needs_flow and not total.num_pairs:
        return "no two neighbouring frames were scored" + _hint(evaluation.conventions)
    if needs_flow:
        return "nothing could be followed from one frame to the next"
    if name.startswith("vspw"):
        return "VSPW's tool reads whole videos of more than 16 frames, with a truth on each frame"
    if name.startswith("vc"):
        n = int(name.removeprefix("vc").removesuffix("_correct"))
        if all(counts.num_scored < n for counts in evaluation.videos.values()):
            return f"no video has {n} labelled frames in a row"
        return f"no pixel keeps its true class through {n} labelled frames in a row"
    if name == "boundary_mean_iou":
        return "no two true classes are within 5 px of each other"
    return "no pixel has a true class"


def _hint(conventions: dict[str, Any]) -> str:
    if conventions.get("every_frame") is not False:  # nothing ran, or all frames did
        return ""
    return "; every_frame=True (--every-frame) runs all frames of the videos"


def _dashed(values: Any) -> list[Any]:
    return ["-" if value is None else value for value in values]

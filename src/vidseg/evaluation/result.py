"""What an evaluation is: the figures of all videos and of every frame, and their files."""

from __future__ import annotations

import csv
import functools
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vidseg.atomic import replacing, together, write_text
from vidseg.data.clip import Video
from vidseg.evaluation.counts import VideoCounts
from vidseg.evaluation.figure import Figure, figures_of, score_figures_of, with_classes
from vidseg.evaluation.figures import SPEED, figures_by
from vidseg.evaluation.sums import Sums
from vidseg.metrics.consistency import Protocol
from vidseg.metrics.video_consistency import WINDOWS_FRAMES
from vidseg.metrics.vspw import VspwScore
from vidseg.printable import csv_cell


class Agreement(IntEnum):
    """How the class of a pixel compares with that of the frame before, or of the truth."""

    SAME = 0
    OTHER = 1
    NOT_COMPARED = 2


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
    """The figures of one frame; None for one that cannot be measured.

    Attributes:
        video: its video's name.
        number: the frame's number on the clock of its video.
        time_s: seconds since the first frame of the video.
        pixel_accuracy: share of its labelled pixels that are right.
        flicker: share of the pixels that changed class along the motion since the frame before.
        ms: the network's time for it.
        changed: (h, w) uint8 of `Agreement`, the classes beside those before. For observers;
            neither kept in `Evaluation.series` nor saved.
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
        first = next(iter(self.videos.values()))
        return functools.reduce(VideoCounts.merge, self.videos.values(), first.emptied())

    @property
    def tc(self) -> Protocol:
        """The protocol of TC."""
        return self.total.tc

    @cached_property
    def table(self) -> dict[str, Figure]:
        """The entry of each of `figures`, by its key."""
        known = figures_by(self.tc).values()
        return {f.key: f for f in known if f.of_score is None or self.vspw is not None}

    @cached_property
    def sums(self) -> Sums:
        """The sums that the figures of the set are computed from."""
        # Shares of VC are summed exactly in the total; only a mean over videos wants each of them.
        videos = [counts.sums() for counts in self.videos.values()]
        names = ("video_iou", "videos_with_iou")
        sums = {name: sum(float(getattr(one, name)) for one in videos) for name in names}
        tensors = {name: torch.tensor(value, dtype=torch.float64) for name, value in sums.items()}
        return replace(self.total.sums(), **tensors)

    @cached_property
    def figures(self) -> dict[str, float | None]:
        """Every figure of the set by its key; None for one that cannot be had (see `absent`)."""
        found = figures_of(self.sums, self.table.values()) | {SPEED.key: self.ms_per_frame}
        if self.vspw is not None:
            found |= score_figures_of(self.vspw, self.table.values())
        return found

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
        missing = [self.table[key] for key, value in self.figures.items() if value is None]
        return {figure.key: _why_absent(figure, self) for figure in missing}

    def summary(self, name: str, command: str | None = None) -> dict[str, Any]:
        """Everything but the counts as plain JSON values; None stands for a missing figure.

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
        videos = [counts.arrays() for counts in self.videos.values()]
        stacks = {name: np.stack([video[name] for video in videos]) for name in videos[0]}
        return {
            "names": np.array(list(self.videos), dtype=str),
            "vc_n": np.array(WINDOWS_FRAMES, np.int64),
            **stacks,
        }

    def _csv(self) -> str:
        rows = io.StringIO(newline="")
        writer = csv.writer(rows)
        columns = self.total.class_figures()
        writer.writerow(["class", *columns])
        for i, name in enumerate(self.classes):
            writer.writerow([csv_cell(name), *_dashed(column[i] for column in columns.values())])
        over_all = with_classes(self.table.values())
        writer.writerow(["all", *_dashed(self.figures[key] for key in over_all)])
        return rows.getvalue()


def json_text(summary: dict[str, Any]) -> str:
    """A summary as JSON: a line per frame of the series, the rest indented."""
    rows = [json.dumps(row, allow_nan=False) for row in summary["series"]]
    rest = {name: value for name, value in summary.items() if name != "series"}
    text = json.dumps(rest, indent=2, allow_nan=False, ensure_ascii=False)
    series = ",\n    ".join(rows)
    return f'{text.removesuffix("}").rstrip()},\n  "series": [\n    {series}\n  ]\n}}\n'


def _why_absent(figure: Figure, evaluation: Evaluation) -> str:
    """Why a figure cannot be had."""
    total = evaluation.total
    if figure.needs_truth and not total.num_scored:
        return "there are no true labels"
    if figure.needs_flow and evaluation.protocols.get("consistency", {}).get("flow") is None:
        return "no flow was asked for"
    if figure.needs_flow and not total.num_pairs:
        return "no two neighbouring frames were scored" + _hint(evaluation.conventions)
    longest = max(counts.num_scored for counts in evaluation.videos.values())
    if longest < figure.window_frames:
        return f"no video has {figure.window_frames} labelled frames in a row"
    return figure.absent


def _hint(conventions: dict[str, Any]) -> str:
    if conventions.get("every_frame") is not False:  # nothing ran, or all frames did
        return ""
    return "; every_frame=True (--every-frame) runs all frames of the videos"


def _dashed(values: Any) -> list[Any]:
    return ["-" if value is None else value for value in values]

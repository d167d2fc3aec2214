"""What an evaluation is: figures with their conventions, and the scoring of label maps."""

import csv
import io
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from vidseg.atomic import write_text
from vidseg.data.clip import Video, VideoDataset
from vidseg.data.files import read_indices
from vidseg.metrics.confusion import ConfusionMatrix


@dataclass(frozen=True)
class Observed:
    """One frame with its label map.

    Attributes:
        video: the video that it belongs to.
        frame_index: its place in the video; the frames of a video come in order.
        image: (H, W, 3) uint8 RGB; None where saved label maps are scored.
        labels: (h, w) uint8 at the size of the truth (of the image where there is none).
        truth: (h, w) uint8, 255 where void; None for a frame that is not scored.
    """

    video: Video
    frame_index: int
    image: np.ndarray | None
    labels: np.ndarray
    truth: np.ndarray | None


Observer = Callable[[Observed], None]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Evaluation:
    """Figures of one model on one data set. Ratios are in [0, 1]; absent classes are NaN.

    Attributes:
        classes: names of the classes.
        palette: (C, 3) uint8 RGB.
        matrix: counts over the whole set; every figure comes from these.
        videos: the same per video, by its name.
        conventions: how it was measured, for people and for the record.
        num_frames: labelled frames that were scored.
        ms_per_frame: mean time of the network per encoded frame, in milliseconds, without
            reading, resizing to the label and scoring; None for saved label maps.
    """

    classes: tuple[str, ...]
    palette: np.ndarray
    matrix: ConfusionMatrix
    videos: dict[str, ConfusionMatrix]
    conventions: dict[str, Any]
    num_frames: int
    ms_per_frame: float | None = None

    @property
    def class_iou(self) -> Tensor:
        """Intersection over union per class: (C,) float64."""
        return self.matrix.iou()

    @property
    def class_accuracy(self) -> Tensor:
        """Recall per class: (C,) float64."""
        return self.matrix.class_accuracy()

    @property
    def mean_iou(self) -> float:
        """Mean of `class_iou` over the classes that occur."""
        return self.matrix.mean_iou()

    @property
    def pixel_accuracy(self) -> float:
        """Share of labelled pixels that are right."""
        return self.matrix.pixel_accuracy()

    @property
    def mean_class_accuracy(self) -> float:
        """Mean of `class_accuracy` over the classes in the truth."""
        return self.matrix.mean_class_accuracy()

    def summary(self) -> dict[str, Any]:
        """The figures as plain JSON values; None stands for NaN."""
        iou, accuracy = self.class_iou.tolist(), self.class_accuracy.tolist()
        return {
            "mean_iou": _or_none(self.mean_iou),
            "pixel_accuracy": _or_none(self.pixel_accuracy),
            "mean_class_accuracy": _or_none(self.mean_class_accuracy),
            "num_frames": self.num_frames,
            "ms_per_frame": self.ms_per_frame,
            "classes": {
                name: {"iou": _or_none(iou[i]), "accuracy": _or_none(accuracy[i])}
                for i, name in enumerate(self.classes)
            },
            "videos": {
                name: {
                    "mean_iou": _or_none(matrix.mean_iou()),
                    "pixel_accuracy": _or_none(matrix.pixel_accuracy()),
                }
                for name, matrix in self.videos.items()
            },
            "conventions": self.conventions,
        }

    def save(self, folder: Path | str, **extra: Any) -> None:
        """Write `metrics.json` (everything, with the counts) and `metrics.csv` (a row per class).

        Absent classes are null in the one and "-" in the other.

        Args:
            folder: is made.
            extra: further JSON values for `metrics.json`.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        summary = self.summary()
        everything = {**summary, **extra, "confusion": self.matrix.counts.tolist()}
        text = json.dumps(everything, indent=2, allow_nan=False)
        write_text(folder / "metrics.json", text + "\n")
        rows = io.StringIO(newline="")
        writer = csv.writer(rows)
        writer.writerow(["class", "iou", "accuracy"])
        for name, row in summary["classes"].items():
            writer.writerow([name, *("-" if v is None else v for v in row.values())])
        writer.writerow(["mean", summary["mean_iou"], summary["mean_class_accuracy"]])
        write_text(folder / "metrics.csv", rows.getvalue())


class Scorer:
    """Adds label maps to the counts, over the set and per video.

    Args:
        dataset: its classes and its rule for void.
        observe: called with every frame.
        has_void_labels: label maps may hold void, which is a miss of the true class.
    """

    def __init__(
        self, dataset: VideoDataset, observe: Observer | None, *, has_void_labels: bool = False
    ) -> None:
        self.dataset = dataset
        self.observe = observe
        self.has_void_labels = has_void_labels
        self.matrix = self._empty()
        self.videos: dict[str, ConfusionMatrix] = {}
        self.num_frames = 0

    def _empty(self) -> ConfusionMatrix:
        return ConfusionMatrix(
            self.dataset.num_classes,
            self.dataset.ignore,
            void_truth="false_positive" if self.dataset.void_is_error else "ignored",
            void_labels="miss" if self.has_void_labels else "error",
        )

    def add(self, results: Iterable[Observed]) -> None:
        """Count the frames that have a truth, and show all of them to `observe`."""
        for result in results:
            if result.truth is not None:
                frame = self._empty()
                frame.update(result.labels, result.truth)
                self.matrix.merge(frame)
                self.videos.setdefault(result.video.name, self._empty()).merge(frame)
                self.num_frames += 1
            if self.observe:
                self.observe(result)

    def evaluation(self, conventions: dict[str, Any], ms_per_frame: float | None) -> Evaluation:
        """The figures so far."""
        return Evaluation(
            classes=self.dataset.classes,
            palette=self.dataset.palette,
            matrix=self.matrix,
            videos=self.videos,
            conventions=conventions,
            num_frames=self.num_frames,
            ms_per_frame=ms_per_frame,
        )


def evaluate_predictions(
    folder: Path | str,
    dataset: VideoDataset,
    *,
    max_videos: int | None = None,
    max_frames: int | None = None,
    observe: Observer | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Score saved label maps: PNG files named as the labels, at the labels' size.

    A value that is no class counts as void: it is a miss of the true class and a false positive
    of none.

    Args:
        folder: holds one PNG of class indices (grey or palette) per labelled frame.
        dataset: the truth.
        max_videos: score only the first videos.
        max_frames: score at most so many labelled frames, evenly spread.
        observe: called with every frame.
        progress: called with the frames done and the frames in all.

    Raises:
        FileNotFoundError: the folder, or the label map of a labelled frame, is missing.
        ValueError: a label map has another size than the label, or is no index map.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder of label maps at {folder}")
    wanted = labelled_frames(dataset, max_videos=max_videos, max_frames=max_frames)
    scorer = Scorer(dataset, observe, has_void_labels=True)
    total = sum(map(len, wanted.values()))
    places = ((video, index) for video, indices in wanted.items() for index in indices)
    for done, (video, index) in enumerate(places, start=1):
        truth = read_truth(dataset, video, index)
        labels = _read_label_map(folder, label_file(video, index), truth.shape, dataset)
        scorer.add([Observed(video, index, None, labels, truth)])
        if progress:
            progress(done, total)
    conventions = {**dataset_conventions(dataset), "run_as": "saved label maps"}
    return scorer.evaluation(conventions, None)


def dataset_conventions(dataset: VideoDataset) -> dict[str, Any]:
    """What of the data set decides the figures: name, protocol, rate of the frames, void rule."""
    protocol = getattr(dataset, "protocol", None)
    rates = sorted({round(video.fps, 3) for video in dataset.videos if video.fps is not None})
    return {
        "data": dataset.name,
        **({} if protocol is None else {"protocol": protocol}),
        **({"frames_per_second": rates} if rates else {}),
        "num_classes": dataset.num_classes,
        "void": "counted as false positives" if dataset.void_is_error else "ignored",
        "mean": "over the classes that occur, counts summed over the set",
    }


def labelled_frames(
    dataset: VideoDataset, *, max_videos: int | None = None, max_frames: int | None = None
) -> dict[Video, tuple[int, ...]]:
    """Which frames are scored: video -> indices of its labelled frames.

    Args:
        dataset: where from.
        max_videos: only the first videos that have labels.
        max_frames: at most so many labelled frames, evenly spread over these videos.

    Raises:
        ValueError: a limit is below 1, or nothing is labelled.
    """
    for name, limit in (("max_videos", max_videos), ("max_frames", max_frames)):
        if limit is not None and limit < 1:
            raise ValueError(f"{name} must be at least 1, got {limit}")
    videos = [video for video in dataset.videos if video.labelled][:max_videos]
    places = [(video, index) for video in videos for index in video.labelled]
    if not places:
        raise ValueError(f"{dataset.name} has no labelled frame to score")
    if max_frames is not None and max_frames < len(places):
        places = [places[i * len(places) // max_frames] for i in range(max_frames)]
    chosen: dict[Video, list[int]] = {}
    for video, index in places:
        chosen.setdefault(video, []).append(index)
    return {video: tuple(indices) for video, indices in chosen.items()}


def label_file(video: Video, index: int) -> Path:
    """The label file of a labelled frame."""
    path = video.labels[index]
    assert path is not None, f"frame {index} of {video.name} was listed as labelled"
    return path


def read_truth(dataset: VideoDataset, video: Video, index: int) -> np.ndarray:
    """The label of a labelled frame: (h, w) uint8, `dataset.ignore` where void."""
    return dataset.read_label(label_file(video, index))


def _read_label_map(
    folder: Path, label: Path, shape: tuple[int, ...], dataset: VideoDataset
) -> np.ndarray:
    path = folder / f"{label.stem}.png"
    if not path.is_file():
        raise FileNotFoundError(
            f"no label map {path.name} in {folder}; every labelled frame of {dataset.name} needs "
            "a PNG that is named as its label"
        )
    labels = read_indices(path)
    if labels.shape != shape:
        raise ValueError(
            f"{path} is {labels.shape[1]}x{labels.shape[0]}, its label is {shape[1]}x{shape[0]}; "
            "label maps are scored at the size of the label and never resized"
        )
    return np.where(labels < dataset.num_classes, labels, dataset.ignore).astype(np.uint8)


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value

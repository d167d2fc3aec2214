"""Which frames of a data set are scored, and how their truth is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from vidseg.data.clip import Video, VideoDataset
from vidseg.flow.estimator import FlowEstimator
from vidseg.layers.resize import resize_labels
from vidseg.metrics.ratios import VoidTruth
from vidseg.sizes import Size, height_x_width

_VOID_WORDS = {"ignored": "ignored", "false_positive": "counted as false positives"}


def void_truth_of(dataset: VideoDataset) -> VoidTruth:
    """What labels on pixels of void truth are, as `ConfusionMatrix` has it."""
    return "false_positive" if dataset.void_is_error else "ignored"


def labelled_frames(
    dataset: VideoDataset,
    *,
    max_videos: int | None = None,
    max_frames: int | None = None,
    every_frame: bool = False,
) -> dict[Video, tuple[int, ...]]:
    """List the frames to score: video -> indices of its labelled frames.

    Args:
        dataset: where from.
        max_videos: only the first videos that have labels.
        max_frames: at most so many labelled frames, evenly spread over these videos.
        every_frame: videos without labels are listed too, with no index.

    Raises:
        ValueError: a limit is below 1, or nothing is labelled.
    """
    for name, limit in (("max_videos", max_videos), ("max_frames", max_frames)):
        if limit is not None and limit < 1:
            raise ValueError(f"{name} must be at least 1, got {limit}")
    videos = [video for video in dataset.videos if every_frame or video.labelled][:max_videos]
    places = [(video, index) for video in videos for index in video.labelled]
    if not places and not every_frame:
        raise ValueError(
            f"{dataset.name} has no labelled frame to score; every_frame=True (--every-frame) "
            "measures steadiness and speed without labels"
        )
    if max_frames is not None and max_frames < len(places):
        places = [places[i * len(places) // max_frames] for i in range(max_frames)]
    chosen: dict[Video, list[int]] = {video: [] for video in videos if not video.labelled}
    for video, index in places:
        chosen.setdefault(video, []).append(index)
    return {video: tuple(indices) for video, indices in chosen.items()}


def label_file(video: Video, index: int) -> Path:
    """The label file of a labelled frame."""
    path = video.labels[index]
    assert path is not None, f"frame {index} of {video.name} was listed as labelled"
    return path


def read_truth(
    dataset: VideoDataset, video: Video, index: int, size: Size | None = None
) -> np.ndarray:
    """The label of a labelled frame: (h, w) uint8, `dataset.ignore` where void.

    Args:
        dataset: reads it.
        video: of the frame.
        index: of the frame.
        size: (h, w) to reduce it to, each pixel to the nearest one; None for its own size.
    """
    truth = dataset.read_label(label_file(video, index))
    if size is None:
        return truth
    # torch warns on read-only memory.
    return resize_labels(torch.from_numpy(np.require(truth, requirements=["W"])), size).numpy()


def check_score_size(size: Size | None, flow: FlowEstimator | Literal["exact"] | None) -> None:
    """Refuse a size to score at that is none, or at which the flow is not known.

    Raises:
        ValueError: see above.
    """
    if size is None:
        return
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"score_size must be (height, width) of 1 px or more, got {size}")
    if flow == "exact":
        raise ValueError(
            "the exact flow is of the labels' own size; leave the score size (--score-size) out, "
            "or have the flow estimated: dis"
        )


def dataset_conventions(dataset: VideoDataset, score_size: Size | None = None) -> dict[str, Any]:
    """List what decides the figures: data set, protocol, frame rate, void rule, size."""
    protocol = getattr(dataset, "protocol", None)
    rates = sorted({round(video.fps, 3) for video in dataset.videos if video.fps is not None})
    return {
        "data": dataset.name,
        **({} if protocol is None else {"protocol": protocol}),
        **({"frames_per_second": rates} if rates else {}),
        "num_classes": dataset.num_classes,
        **({} if score_size is None else {"score_size": height_x_width(score_size)}),
        "void": _VOID_WORDS[void_truth_of(dataset)],
        "mean": "over the classes that occur, counts summed over the set",
    }

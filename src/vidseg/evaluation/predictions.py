"""Scoring label maps that another tool, or an earlier run, has saved."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from vidseg.data.clip import Video, VideoDataset
from vidseg.data.label_code import LabelCode
from vidseg.evaluation.label_maps import label_map_file
from vidseg.evaluation.motion import open_motion
from vidseg.evaluation.result import Evaluation, Observed, Observer
from vidseg.evaluation.scorer import Scorer
from vidseg.evaluation.truth import (
    check_score_size,
    dataset_conventions,
    label_file,
    labelled_frames,
    read_truth,
)
from vidseg.flow.estimator import FlowEstimator
from vidseg.metrics.consistency import Protocol
from vidseg.progress import Display, silent
from vidseg.sizes import Size, width_x_height


def evaluate_predictions(
    folder: Path | str,
    dataset: VideoDataset,
    *,
    flow: FlowEstimator | Literal["exact"] | None = None,
    tc: Protocol = "vidseg",
    score_size: Size | None = None,
    max_videos: int | None = None,
    max_frames: int | None = None,
    observe: Observer | None = None,
    progress: Display = silent,
) -> Evaluation:
    """Score saved label maps: PNG files, VIDEO/FRAME.png or named as the labels.

    A value that is no class counts as void: it is a miss of the true class and a false positive
    of none; it is not compared along the flow, and in video consistency it never stays.

    Args:
        folder: holds one PNG of class indices (grey or palette) or of the classes' colours per
            labelled frame (see `LabelCode`), in folders of videos under the frame's name (as
            `evaluate` saves them, VSPW's form), or under the label's name.
        dataset: the truth.
        flow: along which labelled neighbours are compared: an estimator, "exact" where the data
            set was rendered, or None for no comparison.
        tc: protocol of TC, as for `evaluate`; the official ones allow no void in label maps.
        score_size: (h, w) of the label maps; the truth is reduced to it, each pixel to the nearest
            one. By default label maps are of the size of the label.
        max_videos: score only the first videos.
        max_frames: score at most so many labelled frames, evenly spread.
        observe: called with every frame and what was measured of it.
        progress: shows how many frames are done.

    Raises:
        FileNotFoundError: the folder, or the label map of a labelled frame, is missing.
        ValueError: a label map has another size than the label, or is no index map; or the data
            set does not know its exact flow.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder of label maps at {folder}")
    check_score_size(score_size, flow)
    wanted = labelled_frames(dataset, max_videos=max_videos, max_frames=max_frames)
    scorer = Scorer(
        dataset,
        {video.name: frozenset(indices) for video, indices in wanted.items()},
        motion=open_motion(flow, dataset, tc),
        observe=observe,
        has_void_labels=True,
    )
    total = sum(map(len, wanted.values()))
    code = LabelCode(dataset.palette, dataset.classes)
    places = ((video, index) for video, indices in wanted.items() for index in indices)
    with progress("scoring", total, unit="frames") as meter:
        for video, index in places:
            truth = read_truth(dataset, video, index, score_size)
            labels = _read_label_map(folder, video, index, truth.shape, dataset, code)
            scorer.add([Observed(video, index, None, labels, truth)])
            meter.advance()
    conventions = {**dataset_conventions(dataset, score_size), "run_as": "saved label maps"}
    return scorer.evaluation(conventions, None)


def _read_label_map(
    folder: Path,
    video: Video,
    index: int,
    shape: tuple[int, ...],
    dataset: VideoDataset,
    code: LabelCode,
) -> np.ndarray:
    # By its video first: VSPW's frames have the same names in every video.
    of_frame = label_map_file(folder, video, index)
    of_label = folder / f"{label_file(video, index).stem}.png"
    path = of_frame if of_frame.is_file() else of_label
    if not path.is_file():
        raise FileNotFoundError(
            f"no label map {of_frame.relative_to(folder)} or {of_label.name} in {folder}; every "
            f"labelled frame of {dataset.name} needs a PNG, in a folder of its video and named as "
            "the frame, or named as its label"
        )
    labels = code.read(path, others=dataset.ignore)
    if labels.shape != shape:
        raise ValueError(
            f"{path} is {width_x_height(labels.shape)}, its label is {width_x_height(shape)}; "
            "label maps are never resized: the truth can be (--score-size HEIGHTxWIDTH)"
        )
    return labels

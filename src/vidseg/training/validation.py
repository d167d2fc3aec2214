"""Validation during training: figures of the whole images, and pictures to look at."""

from pathlib import Path
from typing import Any

import numpy as np

from vidseg.data import VideoDataset
from vidseg.evaluation.datasets import evaluate
from vidseg.evaluation.result import FrameFigures, Observed
from vidseg.evaluation.truth import labelled_frames
from vidseg.segmenter import VideoSegmenter
from vidseg.training.config import TrainingConfig
from vidseg.training.contexts import SavedContexts
from vidseg.training.folder import write_sample
from vidseg.training.samples import open_source


def open_validation(config: TrainingConfig, dataset: VideoDataset) -> VideoDataset:
    """The data set to validate on; that of training where the config never validates.

    Raises:
        ValueError: it has another number of classes than that of training.
    """
    if not config.validation.every:
        return dataset
    found = open_source(config.validation_source(), "validation")
    if found.num_classes != dataset.num_classes:
        raise ValueError(
            f"{dataset.name} has {dataset.num_classes} classes, {found.name} has "
            f"{found.num_classes}; train and validate with the same protocol"
        )
    return found


def validate(
    model: VideoSegmenter,
    dataset: VideoDataset,
    config: TrainingConfig,
    folder: Path,
    step: int,
    contexts: SavedContexts | None = None,
) -> dict[str, float]:
    """Score the model and write overlays of some frames, frame | truth | labels.

    Args:
        model: on its device.
        dataset: what to validate on.
        config: of the run.
        folder: the run folder; pictures go to samples/.
        step: steps done.
        contexts: what a model that is not causal wants to know of the videos; what it lacks is
            found.

    Returns:
        mean_iou, pixel_accuracy, mean_class_accuracy and "iou/CLASS", shares; NaN where a class
        is absent.
    """
    total = min(dataset.num_labelled, config.validation.limit or dataset.num_labelled)
    wanted = config.validation.samples
    shown = set(np.linspace(0, total - 1, min(wanted, total)).round().astype(int).tolist())
    seen = 0

    def observe(frame: Observed, figures: FrameFigures) -> None:
        del figures
        nonlocal seen
        if frame.truth is None:
            return
        if seen in shown and frame.image is not None:
            name = f"step-{step:08d}-{seen:04d}.png"
            write_sample(
                folder / "samples" / name, frame.image, frame.truth, frame.labels, dataset.palette
            )
        seen += 1

    if contexts is not None:
        wanted = labelled_frames(dataset, max_frames=config.validation.limit)
        contexts.fill(model, dataset, tuple(wanted))
    result = evaluate(
        model,
        dataset,
        precision=config.precision,
        size="full",
        sliding=config.validation.sliding,
        scales=(config.validation.scale,),
        context=None if contexts is None else contexts.folder,
        max_frames=config.validation.limit,
        observe=observe if wanted else None,
    )
    classes: dict[str, Any] = {
        f"iou/{name}": iou
        for name, iou in zip(result.classes, result.class_iou.tolist(), strict=True)
    }
    return {
        "mean_iou": result.mean_iou,
        "pixel_accuracy": result.pixel_accuracy,
        "mean_class_accuracy": result.mean_class_accuracy,
        **classes,
    }

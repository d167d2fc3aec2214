"""Ratios of counts: each formula once, for one table of counts and for a stack of them.

Classes lie on the last axis; any axes before it are those of a stack: videos, or draws of videos.
Counts may be int64 or float64, ratios are float64, and 0 / 0 is NaN.
"""

from typing import Literal

import torch
from torch import Tensor

VoidTruth = Literal["ignored", "false_positive"]
"""What a label on a pixel of void truth is."""


def divide(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Divide counts in float64; 0 / 0 is NaN."""
    return numerator.double() / denominator.double()


def overlap(counts: Tensor, void_truth: VoidTruth = "ignored") -> tuple[Tensor, Tensor, Tensor]:
    """Reduce confusion matrices to what IoU and accuracy are computed from.

    Args:
        counts: (..., C+1, C+1), `[truth, label]`, void last, as those of `ConfusionMatrix`.
        void_truth: "false_positive" counts labels on void pixels against the predicted class.

    Returns:
        hits, pixels of the truth, and union of truth and labels, (..., C) each.
    """
    size = counts.shape[-1] - 1
    rows = size + 1 if void_truth == "false_positive" else size
    hits = counts.diagonal(dim1=-2, dim2=-1)[..., :size]
    truth = counts[..., :size, :].sum(-1)
    return hits, truth, truth + counts[..., :rows, :size].sum(-2) - hits


def agreement(counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Reduce counts of neighbouring frames to what TC and flicker are computed from.

    Args:
        counts: (..., C, C), `[one frame, the other]`.

    Returns:
        Pixels that keep their class, pixels of the class in the one frame, and union of the two
        frames, (..., C) each.
    """
    hits = counts.diagonal(dim1=-2, dim2=-1)
    before = counts.sum(-1)
    return hits, before, before + counts.sum(-2) - hits


def mean_over_classes(values: Tensor) -> Tensor:
    """Mean of (..., C) over the classes that occur, those that are not NaN; NaN if none does."""
    return values.nanmean(-1)


def weighted_iou(hits: Tensor, truth: Tensor, union: Tensor) -> Tensor:
    """IoU of each class weighted by its share of the true pixels, summed: (..., C) to (...)."""
    weighted = torch.where(truth > 0, truth * divide(hits, union), 0.0)
    return divide(weighted.sum(-1), truth.sum(-1))


def share(part: Tensor, whole: Tensor) -> Tensor:
    """Share of all classes together: (..., C) pixels each to (...)."""
    return divide(part.sum(-1), whole.sum(-1))

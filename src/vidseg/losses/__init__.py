"""Losses: pure functions, tensors in, a scalar out."""

from vidseg.losses.distillation import (
    THREE_FRAMES,
    TWO_FRAMES,
    MultiFrameDependency,
    MultiFrameTerms,
    class_divergence,
    pair_wise_distillation,
    pair_wise_frames,
    pixel_wise_distillation,
    sum_over_frames,
)
from vidseg.losses.segmentation import (
    CITYSCAPES_CLASS_WEIGHTS,
    class_frequencies,
    clip_cross_entropy,
    cross_entropy,
    deep_supervision,
    hardest_cross_entropy,
    ohem_cross_entropy,
)
from vidseg.losses.temporal import temporal_loss, visibility

__all__ = [
    "CITYSCAPES_CLASS_WEIGHTS",
    "THREE_FRAMES",
    "TWO_FRAMES",
    "MultiFrameDependency",
    "MultiFrameTerms",
    "class_divergence",
    "class_frequencies",
    "clip_cross_entropy",
    "cross_entropy",
    "deep_supervision",
    "hardest_cross_entropy",
    "ohem_cross_entropy",
    "pair_wise_distillation",
    "pair_wise_frames",
    "pixel_wise_distillation",
    "sum_over_frames",
    "temporal_loss",
    "visibility",
]

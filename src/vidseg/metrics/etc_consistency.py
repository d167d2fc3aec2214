"""Temporal consistency exactly as ETC's published evaluation computes it, artefacts included."""

import math

import numpy as np
import torch
from torch import Tensor

from vidseg.metrics.confusion import ConfusionMatrix, IntegerArray, as_integers, as_tensor


class EtcTemporalConsistency:
    """TC by protocol "etc-official": to compare with published figures, and for nothing else.

    ETC (Liu et al., ECCV 2020), tool/eval_tc.py. Its artefacts are kept: the *next* frame's labels
    are warped to this one, as numbers, bilinearly, and their fraction is cut off, so that classes
    appear on boundaries that neither frame has; nothing is masked, and places outside the frame
    repeat its border; a class that never occurs counts 0. Perfectly steady labels score well below
    1. `TemporalConsistency` has none of this; figures of the two do not compare.

    Cut-off fractions depend on rounding, so the arithmetic is that of FlowNet2's Resample2d kernel,
    on the CPU whatever the device: fractions in float32, products in float64 rounded to float32,
    summed in float32 from the top left to the bottom right.

    `counts[current, next]` is int64 over all pairs of frames; counts add, so order and split over
    processes change nothing.

    Args:
        num_classes: classes are 0 .. num_classes - 1; the published figures have Cityscapes' 19.

    Raises:
        ValueError: `num_classes` is below 1 or above 255.

    Example:
        >>> official = EtcTemporalConsistency(num_classes=3)
        >>> labels = torch.tensor([[[0, 0, 2, 2]], [[0, 0, 2, 2]]])  # two frames of 1 x 4
        >>> half_a_pixel = torch.tensor([0.5, 0.0]).view(1, 2, 1, 1).expand(1, 2, 1, 4)
        >>> official.update(labels, half_a_pixel)
        >>> official.counts[0].tolist()  # between 0 and 2 it sees a 1
        [1, 1, 0]
        >>> round(official.mean_iou(), 6)  # (1/2 + 0 + 1) / 3
        0.5
    """

    def __init__(self, num_classes: int) -> None:
        if num_classes > 255:
            raise ValueError(
                f"num_classes must be at most 255, got {num_classes}: the official code has bytes"
            )
        self._matrix = ConfusionMatrix(num_classes, ignore=-1)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self._matrix.num_classes

    @property
    def counts(self) -> Tensor:
        """(C, C) int64 pixels by the current class and the warped class of the next frame."""
        return self._matrix.counts[: self.num_classes, : self.num_classes]

    def update(self, labels: IntegerArray, flows_t_to_next: Tensor | np.ndarray) -> None:
        """Add the T - 1 pairs of neighbouring frames of a clip.

        Args:
            labels: (T, H, W) integers, oldest first; void is not allowed.
            flows_t_to_next: (T-1, 2, H, W) px, x then y: entry i lives on frame i and points into
                frame i + 1. Rounded to float32, as in flow files.

        Raises:
            TypeError: labels are not integers.
            ValueError: shapes do not fit, a label is out of range, or a flow is not finite.
        """
        labels = as_integers(labels, "labels").cpu()
        flows = as_tensor(flows_t_to_next).cpu()
        shape = tuple(labels.shape)
        if len(shape) != 3 or flows.shape != (max(shape[0] - 1, 0), 2, *shape[1:]):
            raise ValueError(
                "labels must be (T, H, W) and flows_t_to_next (T-1, 2, H, W) of one size, got "
                f"{shape} and {tuple(flows.shape)}"
            )
        if not flows.is_floating_point() or not bool(flows.isfinite().all()):
            raise ValueError(f"flows_t_to_next must be finite floats in pixels, got {flows.dtype}")
        if flows.numel() == 0:
            return
        low, high = (int(value) for value in labels.aminmax())
        if low < 0 or high >= self.num_classes:
            raise ValueError(
                f"labels must be 0..{self.num_classes - 1}, got {low if low < 0 else high}; "
                "the official evaluation has no void labels"
            )
        for current, following, flow in zip(labels[:-1], labels[1:], flows, strict=True):
            self._matrix.update(_resample(following, flow), current)

    def merge(self, other: "EtcTemporalConsistency") -> "EtcTemporalConsistency":
        """Add the counts of another one to this one, and return this one.

        Raises:
            ValueError: the two have different classes.
        """
        self._matrix.merge(other._matrix)
        return self

    def iou(self) -> Tensor:
        """Agreement per class: (C,) float64, 0 where a class never occurs."""
        hits = self.counts.diagonal()
        union = self.counts.sum(0) + self.counts.sum(1) - hits
        return hits.double() / (union.double() + 1e-10)

    def mean_iou(self) -> float:
        """TC: mean of `iou()` over all classes, in [0, 1]; NaN, shown as "-", without pixels."""
        return float(self.iou().mean()) if int(self.counts.sum()) else math.nan

    def __repr__(self) -> str:
        return (
            f"EtcTemporalConsistency(num_classes={self.num_classes}, "
            f"pixels={int(self.counts.sum())}, mean_iou={self.mean_iou():.4f})"
        )


def _resample(labels: Tensor, flow: Tensor) -> Tensor:
    """Warp (H, W) labels as numbers, with the kernel's rounding, and cut off the fraction."""
    height, width = labels.shape
    u, v = flow.to(torch.float32)
    x = u + torch.arange(width, dtype=torch.float32)
    y = v + torch.arange(height, dtype=torch.float32)[:, None]
    right_share, lower_share = ((p - p.floor()).double() for p in (x, y))
    # Clamped as floats: a far target does not fit an integer.
    left, right = ((x.floor() + step).clamp(0, width - 1).to(torch.int64) for step in (0, 1))
    upper, lower = ((y.floor() + step).clamp(0, height - 1).to(torch.int64) for step in (0, 1))
    values = labels.double()
    blended = torch.zeros(height, width, dtype=torch.float32)
    for row, row_share in ((upper, 1 - lower_share), (lower, lower_share)):
        for column, column_share in ((left, 1 - right_share), (right, right_share)):
            blended += (column_share * row_share * values[row, column]).float()
    return blended.to(torch.int64)

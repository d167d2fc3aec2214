"""Temporal consistency exactly as published evaluations compute it, artefacts included."""

from abc import ABC, abstractmethod
from typing import Self

import numpy as np
import torch
from torch import Tensor

from vidseg.metrics.arrays import IntegerArray, as_flows, as_integers
from vidseg.metrics.confusion import ConfusionMatrix
from vidseg.metrics.ratios import agreement, divide, mean_over_classes


class OfficialTemporalConsistency(ABC):
    """The shared part of published TC: the *next* frame's labels, warped to this one.

    `counts[current, next]` is int64 over all pairs of frames; counts add, so order and split over
    processes change nothing. All arithmetic is done on the CPU, whatever the device.
    """

    def __init__(self, num_classes: int) -> None:
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
        flows = as_flows(flows_t_to_next, "flows_t_to_next", labels)
        if flows.numel() == 0:
            return
        low, high = (int(value) for value in labels.aminmax())
        if low < 0 or high >= self.num_classes:
            raise ValueError(
                f"labels must be 0..{self.num_classes - 1}, got {low if low < 0 else high}; "
                "the official evaluation has no void labels"
            )
        for current, following, flow in zip(labels[:-1], labels[1:], flows, strict=True):
            self._matrix.update(self._resample(following, flow.to(torch.float32)), current)

    def merge(self, other: Self) -> Self:
        """Add the counts of another one to this one, and return this one.

        Raises:
            TypeError: the other one follows another protocol.
            ValueError: the two have different classes.
        """
        if type(other) is not type(self):
            raise TypeError(
                f"only the same protocol can be merged, got {type(self).__name__} and "
                f"{type(other).__name__}"
            )
        self._matrix.merge(other._matrix)
        return self

    def iou(self) -> Tensor:
        """Agreement per class, by `iou_of`: (C,) float64."""
        hits, _, union = agreement(self.counts)
        return self.iou_of(hits, union)

    def mean_iou(self) -> float:
        """TC, by `mean_iou_of`, in [0, 1]; NaN, shown as "-", without pixels."""
        hits, _, union = agreement(self.counts)
        return float(self.mean_iou_of(hits, union))

    @staticmethod
    @abstractmethod
    def iou_of(hits: Tensor, union: Tensor) -> Tensor:
        """Agreement per class of a stack of counts: (..., C) to (..., C) float64."""

    @staticmethod
    @abstractmethod
    def mean_iou_of(hits: Tensor, union: Tensor) -> Tensor:
        """TC of a stack of counts: (..., C) to (...) float64; NaN without pixels."""

    @staticmethod
    @abstractmethod
    def _resample(labels: Tensor, flow: Tensor) -> Tensor:
        """Warp (H, W) labels along a (2, H, W) float32 flow."""

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(num_classes={self.num_classes}, "
            f"pixels={int(self.counts.sum())}, mean_iou={self.mean_iou():.4f})"
        )


class EtcTemporalConsistency(OfficialTemporalConsistency):
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
        super().__init__(num_classes)

    @staticmethod
    def iou_of(hits: Tensor, union: Tensor) -> Tensor:
        """Agreement per class: (..., C) float64, 0 where a class never occurs."""
        return hits.double() / (union.double() + 1e-10)

    @staticmethod
    def mean_iou_of(hits: Tensor, union: Tensor) -> Tensor:
        """TC: mean over all classes, (...) in [0, 1]; NaN, shown as "-", without pixels."""
        mean = EtcTemporalConsistency.iou_of(hits, union).mean(-1)
        return mean.where(union.sum(-1) > 0, torch.nan)

    @staticmethod
    def _resample(labels: Tensor, flow: Tensor) -> Tensor:
        """Warp labels as numbers, with the kernel's rounding, and cut off the fraction."""
        height, width = labels.shape
        x, y = _targets(flow)
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


class VspwTemporalConsistency(OfficialTemporalConsistency):
    """TC by protocol "vspw-official": to compare with published figures, and for nothing else.

    The TC of VSPW's evaluation (Miao et al., CVPR 2021), written after a description of its code;
    neither the code nor any output of it was at hand. The description says:

    - Flow is RAFT's ("things" weights, 20 iterations), from each frame to the *next*, whose labels
      are warped to this one, from the nearest pixel.
    - The sampling grid is normalised by width - 1 and height - 1, but read with
      `align_corners=False`: the frame is stretched by a pixel about its centre, so that labels
      come from up to half a pixel off towards its sides. Even where nothing moves, the last
      column and the last row fall outside if the side is even.
    - Nothing is masked; outside the frame is class 0.
    - The counts of all pairs of the first 100 videos of the val split go into one table.

    Not described, and chosen here: TC is the mean over the classes that occur in either frame, and
    the arithmetic is that of `torch.nn.functional.grid_sample` in float32, on the CPU whatever the
    device; another processor may round otherwise where a target lies halfway between two pixels.

    `TemporalConsistency` has none of the artefacts; figures of the two do not compare.

    Args:
        num_classes: classes are 0 .. num_classes - 1; the published figures have VSPW's 124.

    Raises:
        ValueError: `num_classes` is below 1.

    Example:
        >>> official = VspwTemporalConsistency(num_classes=3)
        >>> labels = torch.tensor([[[1, 1, 2, 2]], [[1, 1, 2, 2]]])  # two frames of 1 x 4
        >>> official.update(labels, torch.zeros(1, 2, 1, 4))  # nothing moves
        >>> official.counts.tolist()  # the last pixel is sampled outside the frame
        [[0, 0, 0], [0, 2, 0], [1, 0, 1]]
        >>> official.mean_iou()  # (0 + 1 + 1/2) / 3
        0.5
    """

    @staticmethod
    def iou_of(hits: Tensor, union: Tensor) -> Tensor:
        """Agreement per class: (..., C) float64, NaN where a class never occurs."""
        return divide(hits, union)

    @staticmethod
    def mean_iou_of(hits: Tensor, union: Tensor) -> Tensor:
        """TC: mean over the classes that occur, (...) in [0, 1]; NaN without pixels."""
        return mean_over_classes(divide(hits, union))

    @staticmethod
    def _resample(labels: Tensor, flow: Tensor) -> Tensor:
        """Take the label nearest to each target, stretched as above; 0 outside the frame."""
        sides = reversed(labels.shape)
        column, row = (
            _stretched(p, side).round() for p, side in zip(_targets(flow), sides, strict=True)
        )
        height, width = labels.shape
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        # Far targets do not fit an integer.
        column, row = (p.where(inside, 0).to(torch.int64) for p in (column, row))
        return labels[row, column].masked_fill(~inside, 0)


def _targets(flow: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the pixel that (2, H, W) float32 flow points to."""
    height, width = flow.shape[1:]
    columns = torch.arange(width, dtype=torch.float32)
    rows = torch.arange(height, dtype=torch.float32)
    return flow[0] + columns, flow[1] + rows[:, None]


def _stretched(targets: Tensor, side_px: int) -> Tensor:
    """Pixels to the grid's -1..1 as if corners were aligned, and back as if they were not."""
    grid = 2 * targets / max(side_px - 1, 1) - 1
    return ((grid + 1) * side_px - 1) / 2

"""Counts reduced to what every figure is computed from: of a set, of its videos, of draws."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vidseg.metrics.ratios import VoidTruth, agreement, divide, mean_over_classes, overlap


@dataclass(frozen=True, eq=False)
class Sums:
    """Sums over videos, as float64 with any leading axes.

    No leading axis stands for one set of videos, (V, ...) for V videos one by one, (R, ...) for R
    draws of videos. Pixels are below 2 ** 53, so that their sums stay exact.

    Attributes:
        hits: (..., C) pixels that are right, by true class.
        truth: (..., C) pixels of each true class.
        union: (..., C) pixels of each class in truth or labels.
        boundary_hits: as `hits`, near a border of the truth.
        boundary_union: as `union`, near a border of the truth.
        steady_hits: (..., C) pixels that keep their class from one frame to the next.
        steady_before: (..., C) pixels of the class before; by an official protocol of TC, which
            knows no flicker, of the class now.
        steady_union: (..., C) pixels of each class in one of the two frames.
        truth_steady_hits: as `steady_hits`, of the true labels.
        truth_steady_before: as `steady_before`, of the true labels.
        truth_steady_union: as `steady_union`, of the true labels.
        vc_total: (..., N) shares of labels that stay, summed over the windows, for each window
            length of `WINDOWS_FRAMES`.
        vc_correct_total: the same of labels that are also right.
        vc_windows: (..., N) windows in which a true class stays.
        video_iou: (...) mean IoU of each video, summed; 0 for one without truth and labels.
        videos_with_iou: (...) videos that have one.
    """

    hits: Tensor
    truth: Tensor
    union: Tensor
    boundary_hits: Tensor
    boundary_union: Tensor
    steady_hits: Tensor
    steady_before: Tensor
    steady_union: Tensor
    truth_steady_hits: Tensor
    truth_steady_before: Tensor
    truth_steady_union: Tensor
    vc_total: Tensor
    vc_correct_total: Tensor
    vc_windows: Tensor
    video_iou: Tensor
    videos_with_iou: Tensor

    def map(self, change: Callable[[Tensor], Tensor]) -> Sums:
        """Sums of what `change` makes of each tensor, such as the sum over the leading axis."""
        return Sums(**{name: change(values) for name, values in vars(self).items()})

    def pooled(self) -> Sums:
        """Sums of all videos together, added in their order: (V, ...) to (...)."""
        # torch.sum adds in an order of its own, which the last digit of a share of VC shows.
        return self.map(lambda values: functools.reduce(torch.add, values))


def sums_of(counts: Mapping[str, np.ndarray], void_truth: VoidTruth = "ignored") -> Sums:
    """Reduce counts.

    Args:
        counts: by the names of counts.npz, with any leading axes.
        void_truth: what labels on void pixels are.
    """
    given = {name: torch.from_numpy(values) for name, values in counts.items() if name != "names"}
    hits, truth, union = overlap(given["confusion"], void_truth)
    boundary_hits, _, boundary_union = overlap(given["boundary"], void_truth)
    iou = mean_over_classes(divide(hits, union))
    return Sums(
        hits,
        truth,
        union,
        boundary_hits,
        boundary_union,
        *agreement(given["consistency"]),
        *agreement(given["truth_consistency"]),
        given["vc_total"],
        given["vc_correct_total"],
        given["vc_windows"],
        iou.nan_to_num(0.0),
        ~iou.isnan(),
    ).map(Tensor.double)

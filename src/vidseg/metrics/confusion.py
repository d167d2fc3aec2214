"""Intersection over union and accuracy from one integer matrix."""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from vidseg.metrics.arrays import IntegerArray, as_integers, as_tensor, checked_counts
from vidseg.metrics.ratios import (
    VoidTruth,
    divide,
    mean_over_classes,
    overlap,
    share,
    weighted_iou,
)


class ConfusionMatrix:
    """Count how often each class is taken for each other; divide once, at the end.

    `counts[truth, label]` is int64. The last row holds void truth (value `ignore`), the last
    column void predictions; neither is a class. Counts add, so neither the order of the frames,
    nor their grouping in batches, nor their split over processes changes a figure.

    - **IoU** of a class is `hits / (truth + labels - hits)`, as in Cityscapes, VOC and mmseg. A
      class that is in neither truth nor labels is NaN and left out of the mean; one that is
      predicted and never there scores 0.
    - **Void truth** never counts, whatever is predicted there. `void_truth="false_positive"`
      counts labels on void pixels against the predicted class, as the ESPNet README does
      for CamVid (55.65 instead of 57.17 mIoU for the same label maps).
    - **Void labels** are an error by default. With `void_labels="miss"` a label of `ignore`
      where the truth has a class is a miss of that class (it lowers IoU and both accuracies) and
      no false positive of any; a model cannot raise its score by abstaining.

    Args:
        num_classes: classes are 0 .. num_classes - 1.
        ignore: the value of void, outside that range.
        void_truth: what to do with labels on void pixels.
        void_labels: whether a label may be `ignore`.

    Raises:
        ValueError: `num_classes` is below 1, `ignore` is one of the classes, or an option is
            unknown.

    Example:
        >>> matrix = ConfusionMatrix(num_classes=3)
        >>> matrix.update(labels=torch.tensor([0, 0, 1, 1]), truth=torch.tensor([0, 1, 1, 255]))
        >>> matrix.iou()
        tensor([0.5000, 0.5000,    nan], dtype=torch.float64)
        >>> matrix.mean_iou()
        0.5
    """

    def __init__(
        self,
        num_classes: int,
        ignore: int = 255,
        *,
        void_truth: VoidTruth = "ignored",
        void_labels: Literal["error", "miss"] = "error",
    ) -> None:
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        if 0 <= ignore < num_classes:
            raise ValueError(
                f"ignore={ignore} is one of the {num_classes} classes; give a value outside "
                f"0..{num_classes - 1}"
            )
        if void_truth not in ("ignored", "false_positive"):
            raise ValueError(
                f'void_truth must be "ignored" or "false_positive", got {void_truth!r}'
            )
        if void_labels not in ("error", "miss"):
            raise ValueError(f'void_labels must be "error" or "miss", got {void_labels!r}')
        self.num_classes = num_classes
        self.ignore = ignore
        self.void_truth: VoidTruth = void_truth
        self.void_labels: Literal["error", "miss"] = void_labels
        self.counts = torch.zeros(num_classes + 1, num_classes + 1, dtype=torch.int64)

    @classmethod
    def from_counts(
        cls,
        counts: IntegerArray,
        ignore: int = 255,
        *,
        void_truth: VoidTruth = "ignored",
        void_labels: Literal["error", "miss"] = "error",
    ) -> "ConfusionMatrix":
        """Make a matrix from the `counts` of another one, such as saved ones.

        Args:
            counts: (C+1, C+1) integers, void last; copied.
            ignore: as for the class, like the options.
            void_truth: what was done with labels on void pixels.
            void_labels: whether a label could be `ignore`.

        Raises:
            TypeError: the counts are not integers.
            ValueError: the counts are not square or negative, or as for the class.
        """
        counts = checked_counts(counts, smallest_side=2)
        matrix = cls(counts.shape[0] - 1, ignore, void_truth=void_truth, void_labels=void_labels)
        matrix.counts += counts
        return matrix

    def update(
        self,
        labels: IntegerArray,
        truth: IntegerArray,
        valid: Tensor | np.ndarray | None = None,
    ) -> None:
        """Add the pixels of any number of frames.

        Args:
            labels: predicted classes, integers of any shape; torch (any device) or numpy.
            truth: the same shape; `ignore` marks void.
            valid: the same shape, bool, True = use, such as `boundary_band(truth)`; None for all.
                What is left out is not looked at.

        Raises:
            TypeError: not integers (labels are never blended or scored).
            ValueError: shapes differ, or a value is neither a class nor (where allowed) `ignore`.
        """
        labels, truth = as_integers(labels, "labels"), as_integers(truth, "truth")
        if labels.shape != truth.shape:
            raise ValueError(
                f"labels and truth must have one shape, got {tuple(labels.shape)} and "
                f"{tuple(truth.shape)}; resize the logits to the truth first, not the labels"
            )
        truth = truth.to(labels.device)
        if valid is not None:
            valid = as_tensor(valid).to(labels.device)
            if valid.shape != labels.shape or valid.dtype != torch.bool:
                raise ValueError(
                    f"valid must be {tuple(labels.shape)} bool, got {tuple(valid.shape)} "
                    f"{valid.dtype}"
                )
        if labels.numel() == 0:
            return
        columns, rows = _as_bytes(labels), _as_bytes(truth)
        if columns is not None and rows is not None:
            self.counts += self._count_bytes(columns, rows, valid)
            return
        if valid is not None:
            labels, truth = labels[valid], truth[valid]
        if labels.numel():
            self.counts += self._count(labels, truth)

    def merge(self, other: "ConfusionMatrix") -> "ConfusionMatrix":
        """Add the counts of another matrix to this one.

        Returns:
            This matrix, so that `functools.reduce(ConfusionMatrix.merge, parts)` works.

        Raises:
            ValueError: the two were made with different settings.
        """
        if self._settings() != other._settings():
            raise ValueError(
                "only matrices with the same settings can be merged, got "
                f"{self._settings()} and {other._settings()}"
            )
        self.counts += other.counts
        return self

    def iou(self) -> Tensor:
        """Intersection over union per class: (C,) float64, NaN where a class never occurs."""
        hits, _, union = self._overlap()
        return divide(hits, union)

    def mean_iou(self) -> float:
        """Mean of `iou()` over the classes that occur, in [0, 1]; NaN if none does."""
        return float(mean_over_classes(self.iou()))

    def weighted_iou(self) -> float:
        """Mean of `iou()` weighted by each class's share of the true pixels, in [0, 1].

        Also called frequency weighted IoU. It answers for the pixels where `mean_iou()` answers
        for the classes: a class that is rare hardly moves it. NaN without any true pixel.
        """
        return float(weighted_iou(*self._overlap()))

    def class_accuracy(self) -> Tensor:
        """Share of each class's pixels that are found (recall): (C,) float64, NaN if absent."""
        hits, truth, _ = self._overlap()
        return divide(hits, truth)

    def mean_class_accuracy(self) -> float:
        """Mean of `class_accuracy()` over the classes that are in the truth, in [0, 1]."""
        return float(mean_over_classes(self.class_accuracy()))

    def pixel_accuracy(self) -> float:
        """Share of the pixels with a true class that are right, in [0, 1]; NaN without any."""
        hits, truth, _ = self._overlap()
        return float(share(hits, truth))

    def _count_bytes(self, labels: Tensor, truth: Tensor, valid: Tensor | None) -> Tensor:
        # The table has room for every byte, so that no pixel need be looked at before: what is
        # neither a class nor void is found in the table.
        cells = truth.to(torch.int32).mul_(256).add_(labels)
        if valid is not None:
            cells.masked_fill_(~valid, 256 * 256)
        table = torch.bincount(cells.flatten(), minlength=256 * 256 + 1)[:-1].view(256, 256).cpu()
        size, is_void_a_byte = min(self.num_classes, 256), 0 <= self.ignore < 256
        counts = torch.zeros_like(self.counts)
        counts[:size, :size] = table[:size, :size]
        if is_void_a_byte:
            counts[-1, :size] = table[self.ignore, :size]
        if is_void_a_byte and self.void_labels == "miss":
            counts[:size, -1] = table[:size, self.ignore]
            counts[-1, -1] = table[self.ignore, self.ignore]
        if not torch.equal(counts.sum(), table.sum()):
            used = (labels, truth) if valid is None else (labels[valid], truth[valid])
            self._count(*used)  # raises, and says which value
        return counts

    def _count(self, labels: Tensor, truth: Tensor) -> Tensor:
        column = self._index(labels, "labels", allow_void=self.void_labels == "miss")
        row = self._index(truth, "truth", allow_void=True)
        side = self.num_classes + 1
        counts = torch.bincount((row * side + column).flatten(), minlength=side * side)
        return counts.view(side, side).cpu()

    def _index(self, values: Tensor, name: str, *, allow_void: bool) -> Tensor:
        # int32 before comparing: a uint8 tensor would wrap ignore=-1 to 255.
        values = values.to(torch.int32 if values.dtype.itemsize < 4 else values.dtype)
        void = values == self.ignore
        low, high = (values.masked_fill(void, 0) if allow_void else values).aminmax()
        if int(low) < 0 or int(high) >= self.num_classes:
            raise ValueError(self._out_of_range(values, name, allow_void))
        return (values.masked_fill(void, self.num_classes) if allow_void else values).int()

    def _out_of_range(self, values: Tensor, name: str, allow_void: bool) -> str:
        allowed = {*range(self.num_classes), *([self.ignore] if allow_void else [])}
        bad = [v for v in values.unique().tolist() if v not in allowed]
        shown = ", ".join(map(str, bad[:8])) + (", ..." if len(bad) > 8 else "")
        wanted = f"0..{self.num_classes - 1}" + (f" or {self.ignore} (void)" if allow_void else "")
        hint = ""
        if name == "labels" and self.ignore in bad:
            hint = '; ConfusionMatrix(..., void_labels="miss") counts void labels as misses'
        return f"{name} must be {wanted}, got {shown}{hint}"

    def _overlap(self) -> tuple[Tensor, Tensor, Tensor]:
        return overlap(self.counts, self.void_truth)

    def _settings(self) -> tuple[int, int, str, str]:
        return self.num_classes, self.ignore, self.void_truth, self.void_labels

    def __repr__(self) -> str:
        return (
            f"ConfusionMatrix(num_classes={self.num_classes}, "
            f"pixels={int(self.counts[:-1].sum())}, mean_iou={self.mean_iou():.4f})"
        )


def _as_bytes(values: Tensor) -> Tensor | None:
    """Return the same values as uint8, or None where they do not fit."""
    if values.dtype == torch.uint8:
        return values
    low, high = values.aminmax()
    return values.to(torch.uint8) if int(low) >= 0 and int(high) <= 255 else None

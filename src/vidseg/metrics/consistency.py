"""Steadiness over time: do the labels follow the motion of what they are on?"""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from vidseg.flow.warp import in_frame, warp
from vidseg.metrics.arrays import (
    IntegerArray,
    as_flows,
    as_integers,
    as_tensor,
    checked_counts,
)
from vidseg.metrics.confusion import ConfusionMatrix
from vidseg.metrics.official_consistency import (
    EtcTemporalConsistency,
    VspwTemporalConsistency,
)
from vidseg.metrics.ratios import agreement, divide, mean_over_classes, share

Protocol = Literal["vidseg", "etc-official", "vspw-official"]
"""The rules that TC is counted by."""
OFFICIAL_PROTOCOLS = {
    "etc-official": EtcTemporalConsistency,
    "vspw-official": VspwTemporalConsistency,
}


class TemporalConsistency:
    """Compare each frame's labels with the previous frame's, carried along the motion.

    `counts[previous, current]` is int64: the previous labels are sampled where the flow points
    (the nearest pixel; labels are never blended) and compared with the current ones there. Pixels
    whose flow leaves the previous frame, that `valid` rules out, or where either label is `ignore`
    do not count. No truth is needed, and a model that always says "road" is perfectly steady:
    read these figures beside mIoU.

    - **TC** (`mean_iou`): intersection over union between previous and current labels per class,
      counts summed over all pairs of frames, mean over the classes that occur. 1 is steady.
      The form of ETC (Liu et al., ECCV 2020), with its artefacts left out: the official code
      blends class numbers, counts absent classes as 0, and warps the next frame to this one;
      `EtcTemporalConsistency` imitates it, `VspwTemporalConsistency` that of VSPW.
    - **Flicker** (`flicker`): share of the pixels whose class changes along the motion; per class,
      of the pixels that were of the class in the previous frame. 0 is steady.

    Figures made with different flows, or with and without `valid`, do not compare: print the
    flow's name beside them.

    Args:
        num_classes: classes are 0 .. num_classes - 1.
        ignore: label of pixels without a class (void in the truth); model labels have none.

    Raises:
        ValueError: as `ConfusionMatrix`.

    Example:
        >>> steadiness = TemporalConsistency(num_classes=2)
        >>> labels = torch.tensor([[[0, 0, 1, 1]], [[0, 0, 0, 1]]])  # two frames of 1 x 4
        >>> steadiness.update(labels, torch.zeros(1, 2, 1, 4))
        >>> steadiness.flicker(), steadiness.class_flicker().tolist()
        (0.25, [0.0, 0.5])
        >>> steadiness.mean_iou()  # (2/3 + 1/2) / 2
        0.5833333333333333
    """

    def __init__(self, num_classes: int, ignore: int = 255) -> None:
        self._matrix = ConfusionMatrix(num_classes, ignore, void_labels="miss")

    @classmethod
    def from_counts(cls, counts: IntegerArray, ignore: int = 255) -> "TemporalConsistency":
        """Make one from the `counts` of another one, such as saved ones.

        Args:
            counts: (C, C) integers by previous and current class; copied.
            ignore: as for the class.

        Raises:
            TypeError: the counts are not integers.
            ValueError: the counts are not square or negative, or as for the class.
        """
        counts = checked_counts(counts, smallest_side=1)
        consistency = cls(counts.shape[0], ignore)
        consistency.counts.add_(counts)
        return consistency

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self._matrix.num_classes

    @property
    def counts(self) -> Tensor:
        """(C, C) int64 pixels by previous and current class."""
        return self._matrix.counts[: self.num_classes, : self.num_classes]

    def update(
        self,
        labels: IntegerArray,
        flows_t_to_previous: Tensor | np.ndarray,
        valid: Tensor | np.ndarray | None = None,
    ) -> None:
        """Add the T - 1 pairs of neighbouring frames of a clip.

        Args:
            labels: (T, H, W) integers, oldest first. For a stream, stack two frames.
            flows_t_to_previous: (T-1, 2, H, W) px, x then y: entry i lives on frame i + 1 and
                points into frame i. Where there is none, give any number and valid=False.
            valid: (T-1, H, W) bool, True = use, such as what was visible before; None for all.

        Raises:
            TypeError: labels are not integers.
            ValueError: shapes do not fit, a label is out of range, or a flow is not finite.
        """
        labels = as_integers(labels, "labels")
        flows = as_flows(flows_t_to_previous, "flows_t_to_previous", labels)
        pairs = (len(flows), *labels.shape[1:])
        if pairs[0] == 0:
            return
        use = in_frame(flows)
        if valid is not None:
            valid = as_tensor(valid).to(labels.device)
            if valid.shape != pairs or valid.dtype != torch.bool:
                raise ValueError(
                    f"valid must be {pairs} bool, got {tuple(valid.shape)} {valid.dtype}"
                )
            use = use & valid
        ignore = self._matrix.ignore
        if not torch.iinfo(labels.dtype).min <= ignore <= torch.iinfo(labels.dtype).max:
            labels = labels.to(torch.int64)
        previous = warp(labels[:-1], flows, mode="nearest")
        self._matrix.update(labels[1:], previous.masked_fill_(~use, ignore))

    def merge(self, other: "TemporalConsistency") -> "TemporalConsistency":
        """Add the counts of another one to this one, and return this one.

        Raises:
            ValueError: the two were made with different settings.
        """
        self._matrix.merge(other._matrix)
        return self

    def iou(self) -> Tensor:
        """Agreement per class: (C,) float64, NaN where a class never occurs."""
        hits, _, union = agreement(self.counts)
        return divide(hits, union)

    def mean_iou(self) -> float:
        """TC: mean of `iou()` over the classes that occur, in [0, 1]; NaN without pixels."""
        return float(mean_over_classes(self.iou()))

    def class_flicker(self) -> Tensor:
        """Share of each class's pixels that change class: (C,) float64, NaN where it never was."""
        hits, before, _ = agreement(self.counts)
        return divide(before - hits, before)

    def flicker(self) -> float:
        """Share of all pixels that change class, in [0, 1]; NaN without pixels."""
        hits, before, _ = agreement(self.counts)
        return float(share(before - hits, before))

    def __repr__(self) -> str:
        return (
            f"TemporalConsistency(num_classes={self.num_classes}, pixels={int(self.counts.sum())}, "
            f"mean_iou={self.mean_iou():.4f}, flicker={self.flicker():.4f})"
        )


def temporal_consistency(
    labels: IntegerArray,
    flows_t_to_previous: Tensor | np.ndarray | None = None,
    valid: Tensor | np.ndarray | None = None,
    *,
    num_classes: int,
    ignore: int = 255,
    protocol: Protocol = "vidseg",
    flows_t_to_next: Tensor | np.ndarray | None = None,
) -> float:
    """TC of one clip: mean IoU between the labels of neighbouring frames along the motion.

    To sum over videos, and for figures per class, use `TemporalConsistency` ("vidseg"),
    `EtcTemporalConsistency` ("etc-official") or `VspwTemporalConsistency` ("vspw-official"), which
    also say what counts. Figures of two protocols do not compare.

    Args:
        labels: (T, H, W) integers, oldest first.
        flows_t_to_previous: (T-1, 2, H, W) px, from each frame but the first to the one before;
            for "vidseg".
        valid: (T-1, H, W) bool, True = use; for "vidseg".
        num_classes: classes are 0 .. num_classes - 1.
        ignore: label of pixels without a class; the official protocols have none.
        protocol: which rules to count by.
        flows_t_to_next: (T-1, 2, H, W) px, from each frame but the last to the one after; for the
            official protocols.

    Returns:
        In [0, 1], 1 is steady; NaN where nothing counts.

    Raises:
        ValueError: an unknown protocol, flow of the other protocol's direction, or as `update`.
    """
    if protocol in OFFICIAL_PROTOCOLS:
        if flows_t_to_next is None or flows_t_to_previous is not None or valid is not None:
            raise ValueError(
                f'protocol "{protocol}" needs flows_t_to_next, and neither flows_t_to_previous '
                "nor valid: it warps the next frame to this one, without a mask"
            )
        official = OFFICIAL_PROTOCOLS[protocol](num_classes)
        official.update(labels, flows_t_to_next)
        return official.mean_iou()
    if protocol != "vidseg":
        known = ", ".join(f'"{name}"' for name in ("vidseg", *OFFICIAL_PROTOCOLS))
        raise ValueError(f"protocol must be one of {known}, got {protocol!r}")
    if flows_t_to_previous is None or flows_t_to_next is not None:
        raise ValueError(
            'protocol "vidseg" needs flows_t_to_previous, and not flows_t_to_next: it warps the '
            "previous frame to this one"
        )
    measured = TemporalConsistency(num_classes, ignore)
    measured.update(labels, flows_t_to_previous, valid)
    return measured.mean_iou()


def flicker(
    labels: IntegerArray,
    flows_t_to_previous: Tensor | np.ndarray,
    valid: Tensor | np.ndarray | None = None,
    *,
    num_classes: int,
    ignore: int = 255,
) -> float:
    """Flicker of one clip: share of the pixels whose class changes along the motion.

    Args: as `temporal_consistency` by "vidseg".

    Returns:
        In [0, 1], 0 is steady; NaN where nothing counts.
    """
    measured = TemporalConsistency(num_classes, ignore)
    measured.update(labels, flows_t_to_previous, valid)
    return measured.flicker()

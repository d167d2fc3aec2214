"""Losses between logits and labels."""

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from vidseg.classes import IGNORE
from vidseg.layers.resize import resize

# fmt: off
CITYSCAPES_CLASS_WEIGHTS = (
    0.8373, 0.918, 0.866, 1.0345, 1.0166, 0.9969, 0.9754, 1.0489, 0.8786, 1.0023,
    0.9539, 0.9843, 1.1116, 0.9037, 1.0865, 1.0955, 1.0865, 1.1529, 1.0507,
)
# fmt: on
"""Weight of each of the 19 classes in the cross entropy of ETC's authors (`CriterionDSN`)."""


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    align_corners: bool,
    ignore: int = IGNORE,
    weight: Tensor | None = None,
    average: Literal["valid", "all"] = "valid",
) -> Tensor:
    """Cross entropy per pixel at the size of the labels.

    Args:
        logits: (N, C, h, w); resized bilinearly to the labels.
        labels: (N, H, W) int64, 0..C-1 or `ignore`.
        align_corners: how the logits are resized.
        ignore: the label of pixels that add nothing.
        weight: (C,) weight of each class.
        average: what the sum is divided by. "valid": the (weighted) pixels that are not ignored,
            0 where there are none. "all": every pixel, ignored ones too, as TMANet's authors do.

    Returns:
        A scalar.

    Raises:
        ValueError: a label is neither a class nor `ignore`; `average` is unknown.
    """
    if average not in ("valid", "all"):
        raise ValueError(f'average must be "valid" or "all", got {average!r}')
    _check_labels(labels, logits.shape[1], ignore)
    full = resize(logits, (labels.shape[-2], labels.shape[-1]), align_corners=align_corners)
    total = F.cross_entropy(full, labels, weight=weight, ignore_index=ignore, reduction="sum")
    if average == "all":
        return total / labels.numel()
    valid = labels != ignore
    if weight is None:
        return total / valid.sum().clamp_min(1)
    return total / (weight[labels.where(valid, 0)] * valid).sum().clamp_min(1e-12)


def ohem_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    align_corners: bool,
    threshold: float = 0.7,
    min_kept: int = 100_000,
    ignore: int = IGNORE,
    weight: Tensor | None = None,
) -> Tensor:
    """Cross entropy of the hard pixels of a batch: online hard example mining.

    ETC's `OhemCrossEntropy2d`. A pixel is kept where the probability of its true class is at most
    `threshold`; where that keeps fewer than `min_kept` pixels of the batch, the threshold rises to
    the `min_kept`-th smallest probability. A `min_kept` of all valid pixels or more keeps all.

    Args:
        logits: (N, C, h, w); resized bilinearly to the labels.
        labels: (N, H, W) int64, 0..C-1 or `ignore`.
        align_corners: how the logits are resized.
        threshold: 0..1; the authors' class takes 0.6 by default, their training loss 0.7.
        min_kept: pixels of the whole batch.
        ignore: the label of pixels that add nothing.
        weight: (C,) weight of each class.

    Returns:
        A scalar, the (weighted) mean over the kept pixels; 0 where none is kept (theirs: NaN).

    Raises:
        ValueError: a label is neither a class nor `ignore`; `threshold` or `min_kept` is out of
            range.
    """
    if not 0 <= threshold <= 1 or min_kept < 0:
        raise ValueError(
            f"threshold must be 0..1 and min_kept 0 or more, got {threshold} and {min_kept}"
        )
    _check_labels(labels, logits.shape[1], ignore)
    full = resize(logits, (labels.shape[-2], labels.shape[-1]), align_corners=align_corners)
    losses = F.cross_entropy(full, labels, ignore_index=ignore, reduction="none")
    valid = labels != ignore
    probability = torch.exp(-losses.detach())[valid]
    kept = valid
    if min_kept < probability.numel():
        limit = probability.new_tensor(threshold)
        if min_kept > 0:
            limit = torch.maximum(limit, probability.kthvalue(min_kept).values)
        kept = valid.masked_scatter(valid, probability <= limit)
    if weight is None:
        return losses[kept].sum() / kept.sum().clamp_min(1)
    shares = weight[labels[kept]]
    return (losses[kept] * shares).sum() / shares.sum().clamp_min(1e-12)


def hardest_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    align_corners: bool,
    threshold: float = 0.7,
    min_kept: int = 100_000,
    ignore: int = IGNORE,
    weight: Tensor | None = None,
) -> Tensor:
    """Cross entropy of the hard pixels, found by sorting: TDNet's form of hard example mining.

    Losses are sorted, the largest first. Where more than `min_kept` of them exceed -ln(threshold),
    all that do are kept, else the first `min_kept`. Ignored pixels count as losses of zero: where
    few pixels are valid, they take part in the mean (a quirk of the authors').

    Args:
        logits: (N, C, h, w); resized bilinearly to the labels.
        labels: (N, H, W) int64, 0..C-1 or `ignore`.
        align_corners: how the logits are resized.
        threshold: above 0 and at most 1; the authors take 0.7.
        min_kept: pixels of the whole batch; the authors take a sixteenth of the crop per image.
        ignore: the label of pixels that add nothing.
        weight: (C,) weight of each class.

    Returns:
        A scalar.

    Raises:
        ValueError: a label is neither a class nor `ignore`; `threshold` or `min_kept` is out of
            range.
    """
    if not 0 < threshold <= 1 or min_kept < 1:
        raise ValueError(
            f"threshold must be above 0 and at most 1, min_kept 1 or more, got {threshold} and "
            f"{min_kept}"
        )
    _check_labels(labels, logits.shape[1], ignore)
    full = resize(logits, (labels.shape[-2], labels.shape[-1]), align_corners=align_corners)
    losses = F.cross_entropy(full, labels, weight=weight, ignore_index=ignore, reduction="none")
    ordered = losses.flatten().sort(descending=True).values
    hard = ordered > -math.log(threshold)
    first = torch.arange(len(ordered), device=ordered.device) < min_kept
    kept = torch.where(hard.sum() > min_kept, hard, first)  # without waiting for the device
    return (ordered * kept).sum() / kept.sum()


def deep_supervision(
    logits: Tensor,
    auxiliary: Tensor,
    labels: Tensor,
    *,
    align_corners: bool,
    auxiliary_weight: float = 0.4,
    weight: Tensor | None = None,
    ohem: Literal["none", "main", "both"] = "none",
    threshold: float = 0.7,
    min_kept: int = 100_000,
    ignore: int = IGNORE,
) -> Tensor:
    """Cross entropy of the logits and, with a smaller weight, of the auxiliary head's.

    ETC's `CriterionDSN` (its class weights are CITYSCAPES_CLASS_WEIGHTS), `CriterionOhemDSN_single`
    (ohem="main") and `CriterionOhemDSN` (ohem="both").

    Args:
        logits: (N, C, h, w).
        auxiliary: (N, C, h', w'), of a head on an earlier stage.
        labels: (N, H, W) int64, 0..C-1 or `ignore`.
        align_corners: how both are resized to the labels; the authors' is true.
        auxiliary_weight: of the auxiliary term.
        weight: (C,) weight of each class.
        ohem: which terms count hard pixels alone; see `ohem_cross_entropy`.
        threshold: of the hard pixels.
        min_kept: of the hard pixels.
        ignore: the label of pixels that add nothing.

    Returns:
        A scalar: main + auxiliary_weight * auxiliary.

    Raises:
        ValueError: `ohem` is unknown; as `ohem_cross_entropy`.
    """
    if ohem not in ("none", "main", "both"):
        raise ValueError(f'ohem must be "none", "main" or "both", got {ohem!r}')

    def term(maps: Tensor, *, is_mined: bool) -> Tensor:
        if not is_mined:
            return cross_entropy(
                maps, labels, align_corners=align_corners, ignore=ignore, weight=weight
            )
        return ohem_cross_entropy(
            maps,
            labels,
            align_corners=align_corners,
            threshold=threshold,
            min_kept=min_kept,
            ignore=ignore,
            weight=weight,
        )

    main = term(logits, is_mined=ohem != "none")
    return main + auxiliary_weight * term(auxiliary, is_mined=ohem == "both")


def clip_cross_entropy(
    logits: Tensor,
    frame_logits: Tensor,
    labels: Tensor,
    *,
    align_corners: bool,
    frame_weight: float = 0.5,
    average: Literal["valid", "all"] = "all",
    weight: Tensor | None = None,
    ignore: int = IGNORE,
) -> Tensor:
    """Cross entropy of a clip's last frame, and with a smaller weight of all its frames alone.

    The loss of CFFM, whose authors average over all pixels, ignored ones too.

    Args:
        logits: (N, C, h, w), of the last frames, mined from the clips.
        frame_logits: (N, T, C, h', w'), of every frame by itself.
        labels: (N, T, H, W) int64, 0..C-1 or `ignore`.
        align_corners: how both are resized to the labels; CFFM's is false.
        frame_weight: of the frames by themselves.
        average: see `cross_entropy`.
        weight: (C,) weight of each class.
        ignore: the label of pixels that add nothing.

    Returns:
        A scalar.

    Raises:
        ValueError: the logits are not those of as many frames as there are labels; as
            `cross_entropy`.
    """
    if frame_logits.shape[:2] != labels.shape[:2] or len(logits) != len(labels):
        raise ValueError(
            f"labels {tuple(labels.shape[:2])} must be of the same clips and frames as the logits, "
            f"got {tuple(frame_logits.shape[:2])} by frame and {len(logits)} of clips"
        )

    def term(maps: Tensor, truth: Tensor) -> Tensor:
        return cross_entropy(
            maps, truth, align_corners=align_corners, ignore=ignore, weight=weight, average=average
        )

    frames = term(frame_logits.flatten(0, 1), labels.flatten(0, 1))
    return term(logits, labels[:, -1]) + frame_weight * frames


def class_frequencies(labels: Tensor, num_classes: int, *, ignore: int = IGNORE) -> Tensor:
    """Share of each class among the valid pixels of a batch.

    The class weights of ETC's `CrossEntropy2d(use_weight=True)`: the frequency and not its inverse,
    so that rare classes count least. A quirk for parity; the authors train with fixed weights.

    Args:
        labels: (N, H, W) int64, 0..C-1 or `ignore`.
        num_classes: C.
        ignore: the label of pixels that are not counted.

    Returns:
        (C,) float32; sums to 1, or to 0 where no pixel is valid.

    Raises:
        ValueError: a label is neither a class nor `ignore`.

    Example:
        >>> class_frequencies(torch.tensor([[[0, 0, 2, 255]]]), num_classes=3)
        tensor([0.6667, 0.0000, 0.3333])
    """
    _check_labels(labels, num_classes, ignore)
    counts = torch.bincount(labels[labels != ignore], minlength=num_classes)
    return counts / counts.sum().clamp_min(1)


def _check_labels(labels: Tensor, num_classes: int, ignore: int) -> None:
    # On an accelerator the check would wait for the device at every step; torch asserts there.
    if labels.device.type != "cpu":
        return
    wrong = (labels != ignore) & ((labels < 0) | (labels >= num_classes))
    if bool(wrong.any()):
        value = int(labels[wrong][0])
        raise ValueError(
            f"label {value} is neither a class 0..{num_classes - 1} nor ignored ({ignore}); "
            "map the labels, or build the model with more classes"
        )

"""Losses between logits and labels."""

from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from vidseg.layers.resize import resize
from vidseg.segmenter import IGNORE


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

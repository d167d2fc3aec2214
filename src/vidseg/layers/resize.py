"""Resizing of logits and of labels; the two never share a rule."""

import torch
from torch import Tensor
from torch.nn import functional as F


def resize(maps: Tensor, size: tuple[int, int], *, align_corners: bool) -> Tensor:
    """Resize float maps bilinearly.

    Args:
        maps: (N, C, h, w) float.
        size: (H, W) wanted.
        align_corners: the convention that the method was trained with.

    Returns:
        (N, C, H, W), the input itself when the size is already right.
    """
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=align_corners)


CHUNK_BYTES = 2**26
"""What `largest_class` may take for full-size logits."""


def largest_class(logits: Tensor, size: tuple[int, int], *, align_corners: bool) -> Tensor:
    """The most likely class at full size, without all classes at full size in memory at once.

    Args:
        logits: (N, C, h, w).
        size: (H, W) wanted.
        align_corners: the convention that the method was trained with.

    Returns:
        (N, H, W) int64; equals `resize(logits, size).argmax(1)`.
    """
    per_chunk = max(1, CHUNK_BYTES // (4 * size[0] * size[1]))
    maps = []
    for frame in logits:
        best, labels = resize(frame[None, :per_chunk], size, align_corners=align_corners)[0].max(0)
        for first in range(per_chunk, len(frame), per_chunk):
            part = frame[None, first : first + per_chunk]
            top, index = resize(part, size, align_corners=align_corners)[0].max(0)
            labels = torch.where(top > best, index + first, labels)
            best = torch.maximum(best, top)
        maps.append(labels)
    return torch.stack(maps)


def resize_labels(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize label maps to the nearest exact pixel; labels are never blended.

    Args:
        labels: (..., h, w), an integer type.
        size: (H, W) wanted.

    Returns:
        (..., H, W), same type.

    Raises:
        TypeError: `labels` is a float tensor.

    Example:
        >>> resize_labels(torch.tensor([[0, 7]]), (2, 4))
        tensor([[0, 0, 7, 7],
                [0, 0, 7, 7]])
    """
    if labels.is_floating_point():
        raise TypeError(
            f"labels must be an integer tensor, got {labels.dtype}; resize scores with resize(...)"
        )
    height, width = labels.shape[-2:]
    rows = ((torch.arange(size[0], device=labels.device) + 0.5) * height / size[0]).long()
    columns = ((torch.arange(size[1], device=labels.device) + 0.5) * width / size[1]).long()
    return labels[..., rows, :][..., columns]

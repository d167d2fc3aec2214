"""Where one true class meets another: the band in which labels are hardest to get right."""

from collections.abc import Callable

import torch
from torch import Tensor

from vidseg.metrics.arrays import IntegerArray, as_integers


def boundary_band(truth: IntegerArray, width_px: int = 5, ignore: int = 255) -> Tensor:
    """Say which pixels lie within a few pixels of another true class (a "trimap").

    Kohli et al., IJCV 2009; also the DeepLab papers. IoU of these pixels alone, the boundary IoU of
    this library, is a `ConfusionMatrix` with `update(labels, truth, valid=boundary_band(truth))`.
    It is not the Boundary IoU of Cheng et al. (CVPR 2021), which compares two bands.

    Distance is that of a chess king: `width_px=1` is the pixels that touch another class, if only
    by a corner. Void is no class: it draws no boundary, and is in no band itself.

    Args:
        truth: (..., H, W) integers, torch (any device) or numpy.
        width_px: how far the band reaches on either side, 1 or more.
        ignore: the value of void.

    Returns:
        (..., H, W) bool, True in the band.

    Raises:
        TypeError: not integers.
        ValueError: fewer than two dimensions, or `width_px` below 1.

    Example:
        >>> boundary_band(torch.tensor([[0, 0, 0, 1, 1, 255]]), width_px=1).int()
        tensor([[0, 0, 1, 1, 0, 0]], dtype=torch.int32)
    """
    truth = as_integers(truth, "truth")
    if truth.dim() < 2:
        raise ValueError(f"truth must be (..., H, W), got {tuple(truth.shape)}")
    if width_px < 1:
        raise ValueError(f"width_px must be 1 or more, got {width_px}")
    low, high = torch.iinfo(truth.dtype).min, torch.iinfo(truth.dtype).max
    if not low <= ignore <= high:  # void does not occur; compared as it is, it would wrap
        void = torch.zeros_like(truth, dtype=torch.bool)
    else:
        void = truth == ignore
    # Void and what lies outside the frame take the value that no extreme is changed by.
    largest = _over_squares(torch.maximum, truth.masked_fill(void, low), width_px, outside=low)
    smallest = _over_squares(torch.minimum, truth.masked_fill(void, high), width_px, outside=high)
    return ((largest != truth) | (smallest != truth)) & ~void


def _over_squares(
    extreme: Callable[[Tensor, Tensor], Tensor], values: Tensor, radius_px: int, outside: int
) -> Tensor:
    """Take the extreme of the square around each pixel, one direction after the other."""
    for dim in (-1, -2):
        size = values.shape[dim]
        radius = min(radius_px, max(size - 1, 0))
        border = list(values.shape)
        border[dim] = radius
        frame = values.new_full(border, outside)
        values = torch.cat((frame, values, frame), dim)
        # values[i] is the extreme of `seen` places from i on; two of them make up to twice that.
        seen = 1
        while seen < 2 * radius + 1:
            step = min(seen, 2 * radius + 1 - seen)
            length = values.shape[dim] - step
            values = extreme(values.narrow(dim, 0, length), values.narrow(dim, step, length))
            seen += step
    return values

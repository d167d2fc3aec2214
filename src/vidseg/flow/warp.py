"""The one warp, and its one direction: flow lives on t's grid and points into s."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


def warp(
    image_s: Tensor, flow_t_to_s: Tensor, mode: Literal["bilinear", "nearest"] = "bilinear"
) -> Tensor:
    """Sample frame s along the flow, so that the result looks like frame t.

    `warped[y, x] = image_s[y + v, x + u]` with `(u, v) = flow_t_to_s[:, y, x]`. Integer
    coordinates are pixel centres and places outside s repeat its border, as in FlowNet2's
    Resample2d and `grid_sample(padding_mode="border", align_corners=True)`; coordinates stay in
    pixels, so a whole-pixel flow gives the very values of s, at any size. `in_frame` says which
    pixels come from inside s.

    Args:
        image_s: (B, C, H, W), or (B, H, W) for labels; without B where the flow has none.
            Floating point for "bilinear" (images, logits, scores); any type for "nearest".
        flow_t_to_s: (B, 2, H, W) or (2, H, W) px, x then y.
        mode: "nearest" takes the pixel whose centre is nearest (half a pixel rounds right and
            down) and is the only mode for labels.

    Returns:
        The shape and type of `image_s`. Gradients reach `image_s` and, in "bilinear", the flow.

    Raises:
        TypeError: integers with "bilinear": labels are never blended.
        ValueError: the shapes do not fit, or an unknown mode.

    Example:
        >>> row = torch.tensor([[[[1.0, 2.0, 3.0]]]])
        >>> one_to_the_right = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 1, 3)
        >>> warp(row, one_to_the_right)
        tensor([[[[2., 3., 3.]]]])
    """
    _check(image_s, flow_t_to_s, mode)
    batch = flow_t_to_s.shape[0] if flow_t_to_s.dim() == 4 else 1
    height, width = flow_t_to_s.shape[-2:]
    x, y = (p.reshape(batch, height, width) for p in _target(flow_t_to_s))
    planes = image_s.reshape(batch, -1, height, width)
    sample = _bilinear if mode == "bilinear" else _nearest
    return sample(planes, x, y).reshape(image_s.shape)


def in_frame(flow_t_to_s: Tensor) -> Tensor:
    """Say which pixels of t point inside frame s: True where warping needs no border.

    Args:
        flow_t_to_s: (B, 2, H, W) or (2, H, W) px, x then y.

    Returns:
        (B, H, W) or (H, W) bool, True = use. A flow that is not a number is False.

    Raises:
        ValueError: the flow has another shape.
    """
    _check_flow(flow_t_to_s)
    height, width = flow_t_to_s.shape[-2:]
    x, y = _target(flow_t_to_s)
    return (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)


def _bilinear(planes: Tensor, x: Tensor, y: Tensor) -> Tensor:
    height, width = planes.shape[-2:]
    # grid_sample wants coordinates as shares of the image and scales them back. Both steps are
    # exact where the side is a power of two; elsewhere even a whole-pixel flow would blend.
    rows, columns = 1 << (height - 1).bit_length(), 1 << (width - 1).bit_length()
    # Its coordinates have the image's type, and half precision cannot count columns.
    image = planes.to(torch.promote_types(planes.dtype, torch.float32))
    image = F.pad(image, (0, columns - width, 0, rows - height), mode="replicate")
    grid = torch.stack(((2 * x + 1) / columns - 1, (2 * y + 1) / rows - 1), dim=-1).to(image.dtype)
    warped = F.grid_sample(image, grid, padding_mode="border", align_corners=False)
    return warped.to(planes.dtype)


def _nearest(planes: Tensor, x: Tensor, y: Tensor) -> Tensor:
    height, width = planes.shape[-2:]
    # Clamped twice: before the cast for infinities, after it for NaN.
    column = (x + 0.5).floor().clamp(0, width - 1).long().clamp(0, width - 1)
    row = (y + 0.5).floor().clamp(0, height - 1).long().clamp(0, height - 1)
    flat = planes.flatten(2)
    index = (row * width + column).flatten(1).unsqueeze(1)
    return flat.gather(2, index.expand_as(flat))


def _target(flow_t_to_s: Tensor) -> tuple[Tensor, Tensor]:
    # Half precision cannot count the columns of a wide frame.
    dtype = torch.promote_types(flow_t_to_s.dtype, torch.float32)
    height, width = flow_t_to_s.shape[-2:]
    u, v = flow_t_to_s.to(dtype).unbind(-3)
    columns = torch.arange(width, dtype=dtype, device=u.device)
    rows = torch.arange(height, dtype=dtype, device=u.device)
    return u + columns, v + rows[:, None]


def _check_flow(flow_t_to_s: Tensor) -> None:
    shape = tuple(flow_t_to_s.shape)
    if len(shape) not in (3, 4) or shape[-3] != 2 or not flow_t_to_s.is_floating_point():
        raise ValueError(
            f"flow_t_to_s must be (B, 2, H, W) or (2, H, W) floats in pixels, got {shape} "
            f"{flow_t_to_s.dtype}"
        )


def _check(image_s: Tensor, flow_t_to_s: Tensor, mode: str) -> None:
    _check_flow(flow_t_to_s)
    if mode not in ("bilinear", "nearest"):
        raise ValueError(f'mode must be "bilinear" or "nearest", got {mode!r}')
    if mode == "bilinear" and not image_s.is_floating_point():
        raise TypeError(
            f'mode "bilinear" needs floats, got {image_s.dtype}; labels are never blended: '
            'use mode="nearest", or make the image a float'
        )
    lead = flow_t_to_s.shape[:-3]
    size = flow_t_to_s.shape[-2:]
    fits = image_s.shape[: len(lead)] == lead and image_s.shape[-2:] == size
    if not fits or image_s.dim() not in (len(lead) + 2, len(lead) + 3):
        raise ValueError(
            f"image_s {tuple(image_s.shape)} and flow_t_to_s {tuple(flow_t_to_s.shape)} must agree "
            "in B, H and W; resize both to one size (a resized flow is also rescaled)"
        )

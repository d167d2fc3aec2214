"""The one warp, and its one direction: flow lives on t's grid and points into s."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

WarpMode = Literal["bilinear", "nearest", "one-hot"]
MODES: tuple[WarpMode, ...] = ("bilinear", "nearest", "one-hot")
Outside = Literal["border", "zero"]


def warp(
    image_s: Tensor,
    flow_t_to_s: Tensor,
    mode: WarpMode = "bilinear",
    *,
    outside: Outside = "border",
) -> Tensor:
    """Sample frame s along the flow, so that the result looks like frame t.

    `warped[y, x] = image_s[y + v, x + u]` with `(u, v) = flow_t_to_s[:, y, x]`. Integer
    coordinates are pixel centres; coordinates stay in pixels, so a whole-pixel flow gives the very
    values of s, at any size. What is outside s repeats its border, as in FlowNet2's Resample2d and
    NetWarp, or is zero, as in DFF, Accel and GRFP. `in_frame` says which pixels come from inside s.

    Args:
        image_s: (B, C, H, W), or (B, H, W) for labels; without B where the flow has none.
            Floating point for "bilinear" (images, logits, scores), whole numbers for "one-hot",
            any type for "nearest".
        flow_t_to_s: (B, 2, H, W) or (2, H, W) px, x then y.
        mode: "nearest" takes the pixel whose centre is nearest (half a pixel rounds right and
            down); "one-hot" the label with the largest share of the four pixels around, the
            smallest of equal ones: the argmax of bilinearly warped one-hot maps.
        outside: "border" moves a place outside s to the nearest one inside; "zero" makes every
            pixel around s zero: a place less than a pixel away fades, all others are zero.
            For "bilinear" and "nearest".

    Returns:
        The shape and type of `image_s`. Gradients reach `image_s` and, in "bilinear", the flow.

    Raises:
        TypeError: integers with "bilinear" (labels are never blended), or floats with "one-hot".
        ValueError: the shapes do not fit, an unknown mode or outside, or "one-hot" with "zero",
            which is a label.

    Example:
        >>> row = torch.tensor([[[[1.0, 2.0, 3.0]]]])
        >>> one_to_the_right = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 1, 3)
        >>> warp(row, one_to_the_right)
        tensor([[[[2., 3., 3.]]]])
        >>> warp(row, one_to_the_right, outside="zero")
        tensor([[[[2., 3., 0.]]]])
    """
    _check(image_s, flow_t_to_s, mode, outside)
    batch = flow_t_to_s.shape[0] if flow_t_to_s.dim() == 4 else 1
    height, width = flow_t_to_s.shape[-2:]
    x, y = (p.reshape(batch, height, width) for p in _target(flow_t_to_s))
    planes = image_s.reshape(batch, -1, height, width)
    if outside == "zero":
        # A ring of zeros is the border then, and is as far away as the border was.
        planes, x, y = F.pad(planes, (1, 1, 1, 1)), x + 1, y + 1
    sample = {"bilinear": _bilinear, "nearest": _nearest, "one-hot": _one_hot}[mode]
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


def forward_backward_consistent(
    flow_t_to_s: Tensor, flow_s_to_t: Tensor, tolerance_px: float = 1.5
) -> Tensor:
    """Say where going along the flow to s, and back along the flow from there, ends at the start.

    It fails where a pixel of t is hidden in s, leaves the frame, or its flow is wrong: the mask of
    what temporal measures may compare. The flow back is sampled bilinearly.

    Args:
        flow_t_to_s: (B, 2, H, W) or (2, H, W) px, x then y.
        flow_s_to_t: the same shape, the flow of the opposite direction.
        tolerance_px: how far from the start the way back may end.

    Returns:
        (B, H, W) or (H, W) bool, on t's grid, True = use. What is not in frame is False, and so is
        a flow that is not a number.

    Raises:
        ValueError: the shapes do not fit, or `tolerance_px` is negative or not a number.
    """
    _check_flow(flow_t_to_s)
    if flow_s_to_t.shape != flow_t_to_s.shape:
        raise ValueError(
            f"both flows must have one shape, got {tuple(flow_t_to_s.shape)} and "
            f"{tuple(flow_s_to_t.shape)}"
        )
    if not tolerance_px >= 0 or math.isinf(tolerance_px):
        raise ValueError(f"tolerance_px must be 0 or more, got {tolerance_px}")
    dtype = torch.promote_types(flow_t_to_s.dtype, torch.float32)
    there = flow_t_to_s.to(dtype)
    u, v = (there + warp(flow_s_to_t.to(dtype), there)).unbind(-3)
    return (u * u + v * v <= tolerance_px**2) & in_frame(flow_t_to_s)


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
    return flat.gather(2, index.expand(-1, flat.shape[1], -1))


def _one_hot(planes: Tensor, x: Tensor, y: Tensor) -> Tensor:
    height, width = planes.shape[-2:]
    x, y = x.nan_to_num(0).clamp(0, width - 1), y.nan_to_num(0).clamp(0, height - 1)
    left, top = x.floor(), y.floor()
    rows = top.long(), (top.long() + 1).clamp(max=height - 1)
    columns = left.long(), (left.long() + 1).clamp(max=width - 1)
    index = torch.stack([row * width + column for row in rows for column in columns], 1)
    index = index.flatten(1).unsqueeze(1).expand(-1, planes.shape[1], -1)
    around = planes.flatten(2).gather(2, index).unflatten(2, (4, -1))  # (B, C, 4, H * W)
    down, right = y - top, x - left
    shares = [v * u for v in (1 - down, down) for u in (1 - right, right)]
    shares = torch.stack(shares, 1).flatten(2).unsqueeze(1)
    # A pixel has four neighbours, so four candidates, however many classes there are.
    totals = [((around == around[:, :, k : k + 1]) * shares).sum(2) for k in range(4)]
    totals = torch.stack(totals, 2)
    is_best = totals == totals.amax(2, keepdim=True)
    return torch.where(is_best, around, around.amax(2, keepdim=True)).amin(2)


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


def _check(image_s: Tensor, flow_t_to_s: Tensor, mode: str, outside: str) -> None:
    _check_flow(flow_t_to_s)
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
    if outside not in ("border", "zero"):
        raise ValueError(f'outside must be "border" or "zero", got {outside!r}')
    if outside == "zero" and mode == "one-hot":
        raise ValueError('mode "one-hot" takes outside="border" alone: 0 is a label as any other')
    if mode == "bilinear" and not image_s.is_floating_point():
        raise TypeError(
            f'mode "bilinear" needs floats, got {image_s.dtype}; labels are never blended: '
            'use mode="nearest" or "one-hot", or make the image a float'
        )
    if mode == "one-hot" and image_s.is_floating_point():
        raise TypeError(
            f'mode "one-hot" needs labels, whole numbers, got {image_s.dtype}; '
            'use mode="bilinear" for images and scores'
        )
    lead = flow_t_to_s.shape[:-3]
    size = flow_t_to_s.shape[-2:]
    fits = image_s.shape[: len(lead)] == lead and image_s.shape[-2:] == size
    if not fits or image_s.dim() not in (len(lead) + 2, len(lead) + 3):
        raise ValueError(
            f"image_s {tuple(image_s.shape)} and flow_t_to_s {tuple(flow_t_to_s.shape)} must agree "
            "in B, H and W; resize both to one size (a resized flow is also rescaled)"
        )

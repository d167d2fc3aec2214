"""The motion-guided temporal loss: logits that move with the image."""

from typing import Literal

import torch
from torch import Tensor

from vidseg.flow.warp import warp
from vidseg.layers.resize import resize


def temporal_loss(
    logits_t: Tensor,
    logits_s: Tensor,
    image_t: Tensor,
    image_s: Tensor,
    flow_t_to_s: Tensor,
    *,
    weight: float = 1.0,
    align_corners: bool = True,
    on: Literal["logits", "probabilities"] = "logits",
    colour: Literal["signed-sum", "absolute-sum"] = "signed-sum",
    valid: Tensor | None = None,
) -> Tensor:
    """Squared difference of frame t's logits and frame s's, warped to t along the flow.

    ETC, section 3.1 (`FlowModel.cal_loss`): the mean over all N * C * H * W elements of
    (V * logits_t - V * warp(logits_s))^2 with the mask V of `visibility`. As in the authors' code
    the logits are compared raw and at full size, places outside s repeat its border, V comes in
    squared, and pixels that V puts down stay in the denominator. Gradients reach both frames'
    logits and not the mask; the flow's network is the caller's, who runs it without gradients.

    Args:
        logits_t: (N, C, h, w); resized bilinearly to the images.
        logits_s: (N, C, h, w), of a frame nearby.
        image_t: (N, 3, H, W), normalised.
        image_s: (N, 3, H, W), normalised, with the same augmentation.
        flow_t_to_s: (N, 2, H, W) px, x then y.
        weight: of the term; the authors' configurations have 0.1 and 0.01.
        align_corners: how the logits are resized; the authors' is true.
        on: "logits" as the authors' code, "probabilities" (softmax at full size) as their paper.
        colour: see `visibility`.
        valid: (N, H, W) bool, True = use, such as `vidseg.flow.in_frame(flow_t_to_s)`; other
            pixels leave the sum and the denominator. None uses all pixels, as the authors do.

    Returns:
        A scalar; 0 where no pixel is valid.

    Raises:
        ValueError: the shapes do not fit; `on` or `colour` is unknown.
    """
    _check(logits_t, logits_s, image_t, image_s, flow_t_to_s, valid)
    if on not in ("logits", "probabilities"):
        raise ValueError(f'on must be "logits" or "probabilities", got {on!r}')
    if valid is not None:
        # A flow that is not a number must not reach the gradient by way of 0 * NaN.
        flow_t_to_s = flow_t_to_s.masked_fill(~valid[:, None], 0)
    mask = visibility(image_t, image_s, flow_t_to_s, colour=colour)
    if valid is not None:
        mask = mask * valid[:, None]

    def at_full_size(logits: Tensor) -> Tensor:
        size = (image_t.shape[-2], image_t.shape[-1])
        full = resize(logits, size, align_corners=align_corners)
        return full if on == "logits" else full.softmax(1)

    # One expression and in place: full-size maps are large, and none but these two need stay.
    difference = (at_full_size(logits_t) - warp(at_full_size(logits_s), flow_t_to_s)).mul_(mask)
    num_elements = difference.numel()
    if valid is not None:
        num_elements = (valid.sum() * difference.shape[1]).clamp_min(1)
    return weight * difference.square().sum() / num_elements


@torch.no_grad()
def visibility(
    image_t: Tensor,
    image_s: Tensor,
    flow_t_to_s: Tensor,
    *,
    colour: Literal["signed-sum", "absolute-sum"] = "signed-sum",
) -> Tensor:
    """Measure how well the flow explains a pixel's colour: ETC's mask V, without gradient.

    Args:
        image_t: (N, 3, H, W), normalised.
        image_s: (N, 3, H, W), normalised.
        flow_t_to_s: (N, 2, H, W) px, x then y.
        colour: "signed-sum" is exp(-|sum of the channels' differences|) as the authors' code, where
            opposite differences cancel; "absolute-sum" is exp(-sum of |difference|) as their paper.

    Returns:
        (N, 1, H, W) in 0..1; 1 where the warped frame s has the very colour of t.

    Raises:
        ValueError: `colour` is unknown; the shapes do not fit.
    """
    if colour not in ("signed-sum", "absolute-sum"):
        raise ValueError(f'colour must be "signed-sum" or "absolute-sum", got {colour!r}')
    difference = warp(image_s, flow_t_to_s).sub_(image_t)
    if colour == "absolute-sum":
        difference.abs_()
    return difference.sum(1, keepdim=True).abs_().neg_().exp_()


def _check(
    logits_t: Tensor,
    logits_s: Tensor,
    image_t: Tensor,
    image_s: Tensor,
    flow_t_to_s: Tensor,
    valid: Tensor | None,
) -> None:
    if logits_t.dim() != 4 or logits_t.shape != logits_s.shape:
        raise ValueError(
            f"logits_t and logits_s must be (N, C, h, w) alike, got {tuple(logits_t.shape)} and "
            f"{tuple(logits_s.shape)}"
        )
    if image_t.shape != image_s.shape:
        raise ValueError(
            f"image_t and image_s must be (N, 3, H, W) alike, got {tuple(image_t.shape)} and "
            f"{tuple(image_s.shape)}; give both frames the same crop"
        )
    batch, *_, height, width = image_t.shape
    if logits_t.shape[0] != batch or flow_t_to_s.shape != (batch, 2, height, width):
        raise ValueError(
            f"{batch} images of {height}x{width} want as many logits and a flow "
            f"({batch}, 2, {height}, {width}), got {tuple(logits_t.shape)} and "
            f"{tuple(flow_t_to_s.shape)}"
        )
    if valid is not None and (valid.dtype != torch.bool or valid.shape != (batch, height, width)):
        raise ValueError(
            f"valid must be ({batch}, {height}, {width}) bool, True = use, got "
            f"{tuple(valid.shape)} {valid.dtype}"
        )

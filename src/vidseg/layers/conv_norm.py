"""A convolution and the batch norm after it; one convolution where the statistics are fixed."""

from torch import Tensor, nn
from torch.nn import functional as F


def conv_norm(conv: nn.Conv2d | nn.ConvTranspose2d, norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """Apply a convolution and a batch norm.

    In evaluation on a CPU, where a norm costs a pass through memory, its scale and shift go into
    the convolution's weights. They are computed anew at each call, so they are never out of date,
    and gradients reach the norm as ever.

    Args:
        conv: with or without bias.
        norm: of its output; it keeps running statistics.
        x: (N, D, h, w).

    Returns:
        What `norm(conv(x))` gives, to rounding.
    """
    if norm.training or x.device.type != "cpu":
        return norm(conv(x))
    assert norm.running_mean is not None, "a norm without running statistics cannot be folded"
    assert norm.running_var is not None
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    shift = -norm.running_mean if conv.bias is None else conv.bias - norm.running_mean
    bias = norm.bias + shift * scale
    if isinstance(conv, nn.Conv2d):
        return conv._conv_forward(x, conv.weight * scale.view(-1, 1, 1, 1), bias)
    return F.conv_transpose2d(
        x,
        conv.weight * scale.view(1, -1, 1, 1),
        bias,
        conv.stride,  # pyright: ignore[reportArgumentType]
        conv.padding,  # pyright: ignore[reportArgumentType]
        conv.output_padding,  # pyright: ignore[reportArgumentType]
        conv.groups,
        conv.dilation,  # pyright: ignore[reportArgumentType]
    )

"""MobileNetV2 at output stride 8, 16 or 32, with torchvision's key names.

Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# expansion, channels, repeats, stride: table 2 of the paper
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class _SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's SAME padding: what is odd goes right and bottom."""

    def forward(self, input: Tensor) -> Tensor:
        pads = []
        for size, stride, kernel in zip(
            reversed(input.shape[-2:]),
            reversed(self.stride),
            reversed(self.kernel_size),
            strict=True,
        ):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            pads += [total // 2, total - total // 2]
        return F.conv2d(
            F.pad(input, pads), self.weight, self.bias, self.stride, 0, self.dilation, self.groups
        )


class _InvertedResidual(nn.Module):
    def __init__(
        self, before: int, after: int, expansion: int, *, stride: int, dilation: int, same: bool
    ) -> None:
        super().__init__()
        wide = before * expansion
        layers: list[nn.Module] = [] if expansion == 1 else [_conv(before, wide, 1)]
        layers += [
            _conv(wide, wide, 3, stride=stride, dilation=dilation, groups=wide, same=same),
            nn.Conv2d(wide, after, 1, bias=False),
            nn.BatchNorm2d(after),
        ]
        self.conv = nn.Sequential(*layers)
        self.has_shortcut = stride == 1 and before == after

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.has_shortcut else self.conv(x)


class MobileNetV2(nn.Module):
    """MobileNetV2 up to its 320-channel map; the classifier's 1280 channels are left out.

    Args:
        output_stride: 8, 16 or 32. Where a stage gives up its stride, its first block keeps the
            dilation of the stage before and the blocks after it take twice as much, so that
            ImageNet weights see what they saw in training.
        tensorflow: the weights come from TensorFlow: SAME padding (right and bottom) at stride 2.

    Attributes:
        channels: D of the maps that `forward` returns.
    """

    channels = (24, 32, 96, 320)

    def __init__(self, *, output_stride: int = 8, tensorflow: bool = False) -> None:
        super().__init__()
        if output_stride not in (8, 16, 32):
            raise ValueError(f"output_stride must be 8, 16 or 32, got {output_stride}")
        self.tensorflow = tensorflow
        layers: list[nn.Module] = [_conv(3, 32, 3, stride=2, same=tensorflow)]
        before, reached, dilation = 32, 2, 1
        for expansion, channels, repeats, stage_stride in _STAGES:
            for block in range(repeats):
                stride = stage_stride if block == 0 else 1
                given_up = stride == 2 and reached == output_stride
                if given_up:
                    stride = 1
                reached *= stride
                layers.append(
                    _InvertedResidual(
                        before,
                        channels,
                        expansion,
                        stride=stride,
                        dilation=dilation,
                        same=tensorflow,
                    )
                )
                if given_up:
                    dilation *= 2
                before = channels
        self.features = nn.Sequential(*layers)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(N, 3, H, W) -> maps of 24, 32, 96 and 320 channels; the last at the output stride."""
        maps = []
        x = frames
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in (3, 6, 13, 17):
                maps.append(x)
        first, second, third, last = maps
        return first, second, third, last


def _conv(
    before: int,
    after: int,
    kernel: int,
    *,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    same: bool = False,
) -> nn.Sequential:
    if same and stride == 2:
        conv: nn.Conv2d = _SameConv2d(before, after, kernel, stride, groups=groups, bias=False)
    else:
        padding = dilation * (kernel // 2)
        conv = nn.Conv2d(
            before, after, kernel, stride, padding, dilation, groups=groups, bias=False
        )
    return nn.Sequential(conv, nn.BatchNorm2d(after), nn.ReLU6(inplace=True))


@torch.no_grad()
def unfold_batch_norm(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Give folded (identity) batch norms real statistics without changing the function.

    Weights converted from an inference format have their norms folded into the convolutions; in
    train mode such identity norms would destroy the pretrained function. Each norm gets mean m and
    variance v of its input, weight sqrt(v + eps) * w and bias b + w * m, which is the same map.

    Args:
        network: any module with BatchNorm2d; its norms must hold the folded form (mean 0, var 1).
        batches: (N, 3, H, W) normalised images, one pass; a hundred images are enough.

    Raises:
        ValueError: `batches` is empty.
    """
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    sums: dict[nn.BatchNorm2d, list[Tensor]] = {}

    def watch(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, nn.BatchNorm2d)
        x = inputs[0].double()
        count = torch.tensor(float(x.numel() / x.shape[1]))
        parts = [count, x.sum((0, 2, 3)), x.square().sum((0, 2, 3))]
        sums[norm] = (
            [a + b for a, b in zip(sums[norm], parts, strict=True)] if norm in sums else parts
        )

    hooks = [norm.register_forward_pre_hook(watch) for norm in norms]
    was_training = network.training
    network.eval()
    try:
        for batch in batches:
            network(batch)
    finally:
        for hook in hooks:
            hook.remove()
        network.train(was_training)
    if not sums:
        raise ValueError("unfold_batch_norm needs at least one batch of images, got none")
    for norm, (count, total, squares) in sums.items():
        mean = total / count
        variance = (squares / count - mean.square()).clamp_min(0)
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()  # type: ignore[operator]
        shift = norm.bias - scale * norm.running_mean  # type: ignore[operator]
        norm.running_mean.copy_(mean)  # type: ignore[union-attr]
        norm.running_var.copy_(variance)  # type: ignore[union-attr]
        norm.weight.copy_(scale * (variance + norm.eps).sqrt())
        norm.bias.copy_(shift + scale * mean)

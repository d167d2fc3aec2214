"""ResNet with every stem and dilation rule that the papers' code bases use.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016. The stride of a bottleneck
sits in its 3x3 convolution, shortcuts are projections (1x1 convolution and batch norm), nothing
has a bias; published weights of the code bases below fit after a change of names only.
"""

from typing import ClassVar, Literal

from torch import Tensor, nn

DilationRule = Literal["contracted", "constant", "second_conv", "multi_grid"]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut (depth 18 and 34).

    Args:
        in_channels: D of the input.
        channels: D of the output.
        stride: of the first convolution.
        dilations: of the first and of the second convolution.
        slope: of the leaky ReLU after the first norm; 0 is the usual ReLU.
    """

    expansion: ClassVar[int] = 1

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        stride: int,
        dilations: tuple[int, int],
        slope: float = 0.0,
        project: bool = False,
    ) -> None:
        super().__init__()
        first, second = dilations
        self.conv1 = _conv3x3(in_channels, channels, stride, first)
        self.bn1 = nn.BatchNorm2d(channels)
        self.activation = _activation(slope)
        self.conv2 = _conv3x3(channels, channels, 1, second)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _projection(in_channels, channels, stride) if project else None

    def forward(self, x: Tensor) -> Tensor:
        """(N, D_in, h, w) -> (N, D_out, h / stride, w / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.activation(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        return self.relu(x + shortcut)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions around a shortcut (depth 50, 101 and 152).

    Args: as `BasicBlock`; the 3x3 convolution takes the second of `dilations`.
    """

    expansion: ClassVar[int] = 4

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        stride: int,
        dilations: tuple[int, int],
        slope: float = 0.0,
        project: bool = False,
    ) -> None:
        super().__init__()
        wide = channels * self.expansion
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.activation = _activation(slope)
        self.conv2 = _conv3x3(channels, channels, stride, dilations[1])
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, wide, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(wide)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _projection(in_channels, wide, stride) if project else None

    def forward(self, x: Tensor) -> Tensor:
        """(N, D_in, h, w) -> (N, 4 * channels, h / stride, w / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.activation(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x))
        return self.relu(x + shortcut)


_BLOCKS: dict[int, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, ...]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}


class ResNet(nn.Module):
    """A dilated ResNet that returns all four stages.

    Args:
        depth: 18, 34, 50, 101 or 152.
        stem: "7x7", or "deep": three 3x3 convolutions.
        stem_width: channels of the deep stem's first two convolutions; the third has twice as
            many. 32 is mmsegmentation's V1c, 64 is semseg's (and TDNet's).
        strides: of the four stages; with the stem's 4 the default gives output stride 8.
        dilations: of the four stages, before the rule is applied.
        rule: which convolutions of a stage of dilation d are dilated.
            "contracted" (mmsegmentation, TMANet): d everywhere, d / 2 in the stage's first block;
            in a basic block the first convolution alone is dilated.
            "constant" (semseg, LMANet's PSPNet): d in every block.
            "second_conv" (ETC): d on the second convolution of every basic block, 1 on the first.
            "multi_grid" (TDNet): the third stage's first block has (1, 2), its others (2, 2); in
            the fourth stage block b has (4 * 2^b, 4), a bottleneck 4 * 2^b.
        slope: of leaky ReLUs after the stem and each block's first norm (TDNet's FANet: 0.01).
        widths: base channels of the stages; the default is the paper's.
        blocks: blocks of each stage; the default is the depth's.

    Attributes:
        channels: D of the four stages.
    """

    def __init__(
        self,
        depth: int,
        *,
        stem: Literal["7x7", "deep"] = "7x7",
        stem_width: int = 32,
        strides: tuple[int, int, int, int] = (1, 2, 1, 1),
        dilations: tuple[int, int, int, int] = (1, 1, 2, 4),
        rule: DilationRule = "contracted",
        slope: float = 0.0,
        widths: tuple[int, int, int, int] = (64, 128, 256, 512),
        blocks: tuple[int, int, int, int] | None = None,
    ) -> None:
        super().__init__()
        if depth not in _BLOCKS:
            raise ValueError(f"ResNet depth must be one of {sorted(_BLOCKS)}, got {depth}")
        block, counts = _BLOCKS[depth]
        self.stem, in_channels = _make_stem(stem, stem_width, widths[0], slope)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        stages = []
        for stage, count in enumerate(blocks or counts):
            layout = block_dilations(rule, block, stage, count, dilations[stage])
            stages.append(
                _make_stage(block, in_channels, widths[stage], strides[stage], layout, slope)
            )
            in_channels = widths[stage] * block.expansion
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.channels = tuple(width * block.expansion for width in widths)
        _initialise(self)

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(N, 3, H, W) -> the maps of the four stages, at strides 4, 8, 8, 8 by default."""
        first = self.layer1(self.maxpool(self.stem(frames)))
        second = self.layer2(first)
        third = self.layer3(second)
        return first, second, third, self.layer4(third)


def block_dilations(
    rule: DilationRule,
    block: type[BasicBlock] | type[Bottleneck],
    stage: int,
    count: int,
    dilation: int,
) -> list[tuple[int, int]]:
    """The dilations of both 3x3 convolutions of every block of a stage.

    Args:
        rule: see `ResNet`.
        block: the kind of block; a bottleneck uses the second number alone.
        stage: 0 to 3.
        count: number of blocks.
        dilation: of the stage.

    Returns:
        One pair for each block.

    Raises:
        ValueError: the rule is unknown, or does not exist for this kind of block.
    """
    basic = block is BasicBlock
    if rule == "contracted":
        per_block = [max(dilation // 2, 1) if b == 0 else dilation for b in range(count)]
        return [(d, 1) if basic else (1, d) for d in per_block]
    if rule == "constant":
        return [(dilation, dilation)] * count
    if rule == "second_conv":
        if not basic:
            raise ValueError('the rule "second_conv" is for basic blocks (depth 18 and 34)')
        return [(1, dilation)] * count
    if rule == "multi_grid":
        if dilation == 1:
            return [(1, 1)] * count
        if stage < 3:
            first = (1, 2) if basic else (1, 1)
            return [first] + [(2, 2)] * (count - 1)
        return [(4 * 2**b, 4) if basic else (1, 4 * 2**b) for b in range(count)]
    raise ValueError(f"unknown dilation rule {rule!r}")


def _make_stem(kind: str, width: int, plain_width: int, slope: float) -> tuple[nn.Sequential, int]:
    if kind == "7x7":
        conv = nn.Conv2d(3, plain_width, 7, stride=2, padding=3, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(plain_width), _activation(slope)), plain_width
    if kind != "deep":
        raise ValueError(f'stem must be "7x7" or "deep", got {kind!r}')
    layers: list[nn.Module] = []
    for before, after, stride in ((3, width, 2), (width, width, 1), (width, 2 * width, 1)):
        layers += [_conv3x3(before, after, stride, 1), nn.BatchNorm2d(after), _activation(slope)]
    return nn.Sequential(*layers), 2 * width


def _make_stage(
    block: type[BasicBlock] | type[Bottleneck],
    in_channels: int,
    channels: int,
    stride: int,
    layout: list[tuple[int, int]],
    slope: float,
) -> nn.Sequential:
    blocks = []
    for index, dilations in enumerate(layout):
        step = stride if index == 0 else 1
        project = index == 0 and (stride != 1 or in_channels != channels * block.expansion)
        blocks.append(
            block(
                in_channels,
                channels,
                stride=step,
                dilations=dilations,
                slope=slope,
                project=project,
            )
        )
        in_channels = channels * block.expansion
    return nn.Sequential(*blocks)


def _conv3x3(in_channels: int, channels: int, stride: int, dilation: int) -> nn.Conv2d:
    return nn.Conv2d(
        in_channels, channels, 3, stride=stride, padding=dilation, dilation=dilation, bias=False
    )


def _projection(in_channels: int, channels: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels))


def _activation(slope: float) -> nn.Module:
    return nn.LeakyReLU(slope, inplace=True) if slope else nn.ReLU(inplace=True)


def _initialise(network: ResNet) -> None:
    """Kaiming (fan-out) convolutions; the last norm of each block starts at zero."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, BasicBlock):
            nn.init.zeros_(module.bn2.weight)
        elif isinstance(module, Bottleneck):
            nn.init.zeros_(module.bn3.weight)

"""Layer norm over the places of a map, with a scale and a shift for each place."""

import logging
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidseg.layers.resize import resize

log = logging.getLogger("vidseg.layers.map_norm")


class MapNorm(nn.LayerNorm):
    """Normalise each channel of each sample over (h, w); scale and shift are maps of that size.

    TDNet's `layer_norm`. The maps tie a model to one size of frames; on maps of another size they
    are resized bilinearly, as its authors advise (their issues 11 and 55). Of size (1, 1) they are
    two numbers, and fit every size.

    Args:
        size: (h, w) of the scale and the shift.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__(list(size))

    def forward(self, input: Tensor) -> Tensor:
        """(N, D, h, w) -> the same."""
        size = (input.shape[-2], input.shape[-1])
        held = (self.normalized_shape[0], self.normalized_shape[1])
        if size == held:
            return super().forward(input)
        if held != (1, 1) and not torch.compiler.is_compiling():
            _tell(held, size)
        scale, shift = (
            resize(maps[None, None], size, align_corners=True)[0, 0]
            for maps in (self.weight, self.bias)
        )
        return F.layer_norm(input, size, scale, shift, self.eps)


@cache
def _tell(held: tuple[int, ...], size: tuple[int, int]) -> None:
    """Say once for each pair of sizes that learned maps are stretched."""
    log.warning(
        "the layer norms were trained on maps of %dx%d and are resized to %dx%d; figures may be "
        "lower than at the frame size of training",
        *held,
        *size,
    )

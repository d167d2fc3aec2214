"""What a segmenter wants of its trainer, as one value; see `VideoSegmenter.training_needs`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor
from torch.utils import _pytree as pytree

Feature = Any
"""A pytree of (N, ...) tensors: what `decode` reads of N frames."""


def last_leaf(fused: Feature) -> Tensor:
    """The last tensor of a pytree."""
    return pytree.tree_leaves(fused)[-1]


def no_layer(name: str) -> int | None:
    """None: no parameter is of a pre-trained encoder whose layers have an order."""
    return None


def do_nothing(step: int, num_steps: int) -> None:
    """Nothing follows from where in the run a step is."""


@dataclass(frozen=True)
class TrainingNeeds:
    """What a segmenter wants of its trainer, and nobody else asks for.

    Attributes:
        frame_statistics: encode frame by frame, the last one first, so that batch normalisation
            sees one time index at a time (TMANet's authors); otherwise a clip is one batch.
        clip_labels: `losses` also reads the labels of earlier frames of the chunk.
        readout: the frames that `losses` reads: the "last" of a clip, or "all".
        layers_above: how many layers of a pre-trained encoder lie above a parameter of this name; 0
            for the last layer, None where it is no part of the encoder.
        begin_step: told the number of each step before it, from 0, and how many there are.
        host_parts: names of the modules that an image network brought, where the method was put
            into one; a second stage of training keeps them as they are.
        distilled: picks the (N, D, h, w) map that a student copies from a teacher out of what
            `decode` reads.
        ask_teacher: for a method whose own `losses` copy a teacher: from (teacher, the last frames
            (B, 3, H, W), phase=) to tensors that `losses` then finds in the batch.
    """

    frame_statistics: bool = False
    clip_labels: bool = False
    readout: Literal["last", "all"] = "last"
    layers_above: Callable[[str], int | None] = no_layer
    begin_step: Callable[[int, int], None] = do_nothing
    host_parts: tuple[str, ...] = ()
    distilled: Callable[[Feature], Tensor] = last_leaf
    ask_teacher: Callable[..., dict[str, Tensor]] | None = None

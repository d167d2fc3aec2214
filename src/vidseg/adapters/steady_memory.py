"""What a steady stream remembers, and what it measured of itself on the way."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vidseg.values import Memory


@dataclass(frozen=True)
class SteadyMemory(Memory):
    """The past of a steady stream.

    Attributes:
        inner: the memory of the model itself.
        picture: (B, 3, h, w) uint8 RGB, the last frame that was not spoilt.
        scores: (B, C, h, w), of the classes there; they add up to 1.
        evidence: (B, 1, h, w), how many frames stand behind the scores.
        labels: (B, 2, h, w) int16, there: the model's own, and the steady ones.
        confidence: (B, 1), the usual mean over the frame of the largest score.
        tally: (B, 3) int64 pixels of the grid since the stream began: compared with the frame
            before along the motion; of these, the model's own label changed; the steady one did.
    """

    inner: Memory
    picture: Tensor
    scores: Tensor
    evidence: Tensor
    labels: Tensor
    confidence: Tensor
    tally: Tensor

    @property
    def context(self) -> Any:
        """The wrapped model's context of the whole video."""
        return getattr(self.inner, "context", None)

    @property
    def turn(self) -> Memory:
        """The model's own memory, at the phase of this one."""
        inner = self.inner
        return inner if inner.phase == self.phase else replace(inner, phase=self.phase)


class Flicker(NamedTuple):
    """Pixels of the grid that were followed along the motion, and of these, changed labels.

    Attributes:
        compared: with the frame before.
        own: of these, the label that the model gives by itself changed.
        steady: of these, the steady label changed.
    """

    compared: int
    own: int
    steady: int


def flicker_between(before: Memory | None, after: Memory | None) -> Flicker | None:
    """What a steady stream measured between two memories; None for any other stream.

    Args:
        before: of the stream; None at its start.
        after: of the same stream, some frames later.
    """
    if not isinstance(after, SteadyMemory):
        return None
    begun = before.tally if isinstance(before, SteadyMemory) else torch.zeros_like(after.tally)
    return Flicker(*(after.tally - begun).sum(0).tolist())

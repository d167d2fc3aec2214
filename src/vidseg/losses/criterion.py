"""How a training run compares logits with labels, as one value that every method's loss reads."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from vidseg.losses.segmentation import (
    cross_entropy,
    hardest_cross_entropy,
    ohem_cross_entropy,
)


@dataclass(frozen=True)
class HardPixels:
    """Online hard example mining.

    Attributes:
        threshold: pixels count whose true class has at most this probability ...
        min_kept: ... and so many pixels of a batch at least.
        auxiliary: in the auxiliary terms, too.
        form: "etc" is `ohem_cross_entropy`, "tdnet" is `hardest_cross_entropy`.
    """

    threshold: float = 0.7
    min_kept: int = 100_000
    auxiliary: bool = False
    form: Literal["etc", "tdnet"] = "etc"


@dataclass(frozen=True)
class Criterion:
    """Cross entropy with the settings of a run.

    Attributes:
        average: what the sum over pixels is divided by; see `cross_entropy`.
        class_weights: (C,), or None for equal ones.
        hard_pixels: count these alone.
        auxiliary_weight: of each auxiliary term.
        frame_weight: of what is said of frames by themselves (CFFM of all frames of a clip, TDNet
            of the last one without its memory).
        distillation_weight: of what is copied from a teacher, where the method's own loss does.
    """

    average: Literal["valid", "all"] = "valid"
    class_weights: Tensor | None = None
    hard_pixels: HardPixels | None = None
    auxiliary_weight: float = 0.4
    frame_weight: float = 0.5
    distillation_weight: float = 1.0

    def __call__(
        self, logits: Tensor, labels: Tensor, *, align_corners: bool, is_main: bool = True
    ) -> Tensor:
        """Compare logits with labels.

        Args:
            logits: (N, C, h, w); taken to float32.
            labels: (N, H, W) int64.
            align_corners: how the logits are resized.
            is_main: False for an auxiliary term.

        Returns:
            A scalar.

        Raises:
            ValueError: as `cross_entropy` and `ohem_cross_entropy`.
        """
        logits, hard = logits.float(), self.hard_pixels
        if hard is not None and (is_main or hard.auxiliary):
            mined = ohem_cross_entropy if hard.form == "etc" else hardest_cross_entropy
            return mined(
                logits,
                labels,
                align_corners=align_corners,
                weight=self.class_weights,
                threshold=hard.threshold,
                min_kept=hard.min_kept,
            )
        return cross_entropy(
            logits,
            labels,
            align_corners=align_corners,
            weight=self.class_weights,
            average=self.average,
        )


CROSS_ENTROPY = Criterion()
"""The plain mean over the pixels that are not ignored."""

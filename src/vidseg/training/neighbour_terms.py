"""What ETC adds to a training step: the temporal loss, and what is copied from a teacher."""

import logging
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from vidseg.losses.distillation import (
    THREE_FRAMES,
    TWO_FRAMES,
    MultiFrameDependency,
    pair_wise_distillation,
    pair_wise_frames,
    pixel_wise_distillation,
    sum_over_frames,
)
from vidseg.losses.temporal import temporal_loss
from vidseg.segmenter import Segmentation
from vidseg.training.loss_config import DistillationConfig, LossConfig
from vidseg.training.teacher import Teacher

log = logging.getLogger("vidseg.training")

Batch = Mapping[str, Tensor]
Run = Callable[[Tensor], Segmentation]


class MotionTerms(nn.Module):
    """The terms of the loss that need frames near the labelled one.

    Args:
        loss: `temporal` and `distillation` count.
        teacher: needed where `distillation` copies from a network that runs along.
    """

    def __init__(self, loss: LossConfig, teacher: Teacher | None = None) -> None:
        super().__init__()
        self.temporal = loss.temporal
        self.distillation = loss.distillation
        self.teacher = teacher
        spec = loss.distillation
        self.multi_frame = None
        if spec is not None and spec.multi_frame:
            self.multi_frame = MultiFrameDependency(
                of=spec.multi_frame_of, weight_limit=spec.multi_frame_limit
            )

    def forward(
        self, batch: Batch, current: Segmentation, run: Run
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Compare a frame with its neighbours, and both with the teacher.

        Args:
            batch: what `vidseg.data.pairs.PairDataset` gives, with a leading axis of samples;
                the frames t are "anchors" if there are such, else "frames".
            current: the network's answer for the frames t.
            run: asks the network about (B, 1, 3, H, W) more frames.

        Returns:
            The terms as they are, and their weighted sum.
        """
        near = [frame[:, None] for frame in batch["neighbours"].unbind(1)]
        answers = [run(frames) for frames in near]  # apart: batch norm sees a frame at a time
        terms: dict[str, Tensor] = {}
        total = current.logits.new_zeros((), dtype=torch.float32)
        if self.temporal is not None:
            terms["temporal"] = self._temporal(batch, current, answers)
            total = total + self.temporal.weight * terms["temporal"]
        if self.distillation is not None:
            anchors = batch.get("anchors", batch["frames"])
            copied = self._distil(self.distillation, batch, [anchors, *near], [current, *answers])
            weights = {
                "pixel": self.distillation.pixel,
                "pair_wise": self.distillation.pair_wise,
                "pair_wise_frames": self.distillation.pair_wise_frames,
                "multi_frame": self.distillation.multi_frame,
                "enlarging": self.distillation.multi_frame * self.distillation.enlarging,
            }
            for name, term in copied.items():
                total = total + weights[name] * term
            terms |= copied
        return terms, total

    def after_step(self) -> None:
        """Clip the ConvLSTM's weights to their range, after each step of the optimiser."""
        if self.multi_frame is not None:
            self.multi_frame.clip_weights()

    def _temporal(self, batch: Batch, current: Segmentation, answers: list[Segmentation]) -> Tensor:
        assert self.temporal is not None
        image = batch.get("anchors", batch["frames"])[:, -1]
        losses = [
            temporal_loss(
                current.logits[:, -1].float(),
                answer.logits[:, -1].float(),
                image,
                batch["neighbours"][:, k],
                batch["flows"][:, k],
                align_corners=current.align_corners,
                on=self.temporal.on,
                colour=self.temporal.colour,
                valid=batch["valid"][:, k] if "valid" in batch else None,
            )
            for k, answer in enumerate(answers)
        ]
        return torch.stack(losses).mean()

    def _distil(
        self,
        spec: DistillationConfig,
        batch: Batch,
        frames: list[Tensor],
        answers: list[Segmentation],
    ) -> dict[str, Tensor]:
        """`frames` and `answers`: frame t first, then the neighbours, oldest first."""
        logits = [answer.logits[:, -1].float() for answer in answers]
        align = answers[0].align_corners
        if "teacher" in batch:
            theirs: list[Segmentation] = []
            copied = list(batch["teacher"].unbind(1))
        else:
            assert self.teacher is not None, "a teacher or its scores are given"
            theirs = [self.teacher(frame) for frame in frames]
            copied = [answer.logits[:, -1].float() for answer in theirs]
        is_pair = len(frames) == 2
        weights = (
            TWO_FRAMES[::-1] if is_pair else (THREE_FRAMES[1], THREE_FRAMES[0], THREE_FRAMES[2])
        )
        terms = {}
        if spec.pixel:
            pixel = partial(
                pixel_wise_distillation, temperature=spec.temperature, align_corners=align
            )
            terms["pixel"] = sum_over_frames(pixel, logits, copied, weights)
        if spec.pair_wise_frames:
            # At the student's grid: a finer teacher's affinities would grow with its fourth power.
            size = logits[0].shape[-2:]
            small = [_to(size, maps) for maps in copied]
            others = zip(logits[1:], small[1:], strict=True)
            near = [
                pair_wise_frames(logits[0], other, small[0], their_other, affinity=spec.affinity)
                for other, their_other in others
            ]
            terms["pair_wise_frames"] = torch.stack(near).mean()
        if spec.pair_wise or spec.multi_frame:
            terms |= self._copy_features(answers, theirs, weights if spec.pair_wise else None)
        return terms

    def _copy_features(
        self,
        answers: list[Segmentation],
        theirs: list[Segmentation],
        weights: tuple[float, ...] | None,
    ) -> dict[str, Tensor]:
        """`weights`: of the frames in the pair-wise term; None for no such term."""
        terms = {}
        ours = [_feature(answer) for answer in answers]
        size = ours[0].shape[-2:]
        features = [_to(size, _feature(answer)) for answer in theirs]
        if weights is not None:
            terms["pair_wise"] = sum_over_frames(pair_wise_distillation, ours, features, weights)
        if self.multi_frame is not None:
            found = self.multi_frame(_in_time(ours), _in_time(features))
            terms["multi_frame"], terms["enlarging"] = found
        return terms


def _feature(answer: Segmentation) -> Tensor:
    if answer.feature is None:
        raise ValueError(
            "distillation.pair_wise and distillation.multi_frame compare features, which this "
            "model does not give; use pixel and pair_wise_frames"
        )
    return answer.feature[:, -1].float()


def _in_time(maps: list[Tensor]) -> list[Tensor]:
    """The maps of a triplet, frame t first -> oldest first."""
    current, before, after = maps
    return [before, current, after]


def _to(size: tuple[int, ...], maps: Tensor) -> Tensor:
    """Average maps down to a smaller grid, or blend them up; as they are if they fit."""
    if maps.shape[-2:] == size:
        return maps
    return torch.nn.functional.interpolate(
        maps, size=tuple(size), mode="bilinear", align_corners=False, antialias=True
    )

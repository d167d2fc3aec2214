"""What ETC adds to a training step: the temporal loss, and what is copied from a teacher."""

import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vidseg import methods
from vidseg.atomic import replacing
from vidseg.data import Video, VideoDataset
from vidseg.data.transforms import resize_image, size_within
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
from vidseg.segmenter import Segmentation, VideoSegmenter
from vidseg.training.config import DistillationConfig, LossConfig
from vidseg.training.digest import digest

log = logging.getLogger("vidseg.training")

Batch = Mapping[str, Tensor]
Run = Callable[[Tensor], Segmentation]


class MotionTerms(nn.Module):
    """The terms of the loss that need frames near the labelled one.

    Args:
        loss: `temporal` and `distillation` count.
        teacher: needed where `distillation` copies from a network that runs along.
    """

    def __init__(self, loss: LossConfig, teacher: "Teacher | None" = None) -> None:
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
        """What follows each step of the optimiser: the ConvLSTM's weights stay in their range."""
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


class Teacher:
    """A frozen network that is asked, never trained; no part of the student's weights.

    Args:
        model: per frame, on its device.
        student: its classes must be the teacher's; by number alone where one names none.
        precision: "fp32", "bf16" or "fp16", under autocast.

    Raises:
        ValueError: the classes differ, or the teacher needs more than one frame.
    """

    def __init__(self, model: VideoSegmenter, student: VideoSegmenter, precision: str) -> None:
        names = [[name.casefold() for name in side.card.classes] for side in (model, student)]
        if model.num_classes != student.num_classes or (all(names) and names[0] != names[1]):
            raise ValueError(
                f"the teacher has {_classes(model)}, the student {_classes(student)}; train both "
                "on one set of classes"
            )
        check_per_frame(model, "a teacher")
        self.model = model.eval().requires_grad_(False)
        self.precision = precision
        ours, theirs = student.card, model.card
        # Frames come normalised for the student: x * scale + shift is normalised for the teacher.
        scale = [ours.std[c] / theirs.std[c] for c in range(3)]
        shift = [(ours.mean[c] - theirs.mean[c]) / theirs.std[c] for c in range(3)]
        is_alike = (ours.mean, ours.std) == (theirs.mean, theirs.std)
        self._affine = None if is_alike else (torch.tensor(scale), torch.tensor(shift))

    @torch.no_grad()
    def __call__(self, frames: Tensor) -> Segmentation:
        """What the teacher says of (B, 1, 3, H, W) frames that are normalised for the student."""
        if self._affine is not None:
            scale, shift = (v.to(frames.device).view(3, 1, 1) for v in self._affine)
            frames = frames * scale + shift
        with _autocast(frames.device, self.precision):
            segmentation, _ = self.model(frames, aux=True)
        return segmentation


@dataclass(frozen=True)
class SavedScores:
    """A teacher's scores of whole frames, read from files.

    Attributes:
        folder: holds VIDEO/FRAME.npy, (C, h, w) float16.
        base_size: (W, H) within which frames are scored, that of training at scale 1; None for
            their own size.
    """

    folder: Path
    base_size: tuple[int, int] | None = None

    def __call__(self, dataset: VideoDataset, video: Video, index: int) -> Tensor:
        """(C, h, w) float16 of one frame."""
        del dataset
        return torch.from_numpy(np.load(self._path(video, index), allow_pickle=False))

    def _path(self, video: Video, index: int) -> Path:
        return self.folder / video.name / f"{video.frames[index].stem}.npy"

    def fill(self, dataset: VideoDataset, teacher: VideoSegmenter, precision: str) -> None:
        """Score every frame that is not there yet.

        Raises:
            OSError: the disk is full; what was written before is whole.
        """
        device = next(teacher.parameters()).device
        missing = [
            (video, index)
            for video in dataset.videos
            for index in range(len(video))
            if not self._path(video, index).is_file()
        ]
        if missing:
            log.info("scoring %d frames with the teacher, into %s", len(missing), self.folder)
        for video, index in missing:
            image = dataset.read_frame(video.frames[index])
            if self.base_size is not None:
                image = resize_image(image, size_within(image.shape[:2], self.base_size))
            normalised = teacher.card.normalise(torch.tensor(image, device=device)[None, None])
            frames = teacher.card.fit(normalised)
            with torch.inference_mode(), _autocast(device, precision):
                segmentation, _ = teacher(frames)
            path = self._path(video, index)
            path.parent.mkdir(parents=True, exist_ok=True)
            scores = segmentation.logits[0, 0].to(torch.float16).cpu().numpy()
            with replacing(path, shared=True) as file:
                np.save(file, scores)


def saved_scores(
    spec: DistillationConfig, teacher: VideoSegmenter, base_size: tuple[int, int] | None
) -> SavedScores:
    """Where a teacher's scores lie: a folder of its own, by its weights and the frames' size."""
    assert spec.precomputed is not None
    name = digest(teacher.state_dict(), str(base_size))
    return SavedScores(Path(spec.precomputed).expanduser() / name, base_size)


def load_teacher(
    spec: DistillationConfig, student: VideoSegmenter, device: torch.device
) -> Teacher:
    """The teacher of a config; errors as `vidseg.load` and `Teacher`."""
    return Teacher(methods.load(spec.teacher, device=str(device)), student, spec.precision)


def check_per_frame(model: VideoSegmenter, what: str) -> None:
    """ValueError unless a model sees one frame at a time."""
    if model.window_length != 1:
        raise ValueError(
            f"{what} of temporal and distillation losses must be a per-frame model, got "
            f"{type(model).__name__}, which reads {model.window_length} frames"
        )


def _classes(model: VideoSegmenter) -> str:
    names = f" ({', '.join(model.card.classes)})" if model.card.classes else ""
    return f"{model.num_classes} classes{names}"


def _autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    if precision == "fp32":
        return torch.autocast(device.type, enabled=False)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float16
    return torch.autocast(device.type, dtype=dtype)


def _feature(answer: Segmentation) -> Tensor:
    if "feature" not in answer.aux:
        raise ValueError(
            "distillation.pair_wise and distillation.multi_frame compare features, which this "
            'model does not give as its auxiliary output "feature"; use pixel and pair_wise_frames'
        )
    return answer.aux["feature"][:, -1].float()


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

"""The frozen network that a student copies: asked in training, or its scores read from files."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vidseg import methods
from vidseg.array_files import read_array, write_array
from vidseg.data import Video, VideoDataset
from vidseg.data.transforms import resize_image, size_within
from vidseg.inside import inside
from vidseg.precision import Precision, autocast
from vidseg.segmenter import Segmentation, VideoSegmenter
from vidseg.training.digest import digest
from vidseg.training.loss_config import DistillationConfig, GroupedConfig

log = logging.getLogger("vidseg.training")


class Teacher:
    """A frozen network that is asked, never trained; no part of the student's weights.

    Args:
        model: per frame, on its device.
        student: its classes must be the teacher's; by number alone where one names none.
        precision: "fp32", "bf16" or "fp16", under autocast.

    Raises:
        ValueError: the classes differ, or the teacher needs more than one frame.
    """

    def __init__(
        self, model: VideoSegmenter, student: VideoSegmenter, precision: Precision
    ) -> None:
        names = [[name.casefold() for name in side.card.classes] for side in (model, student)]
        if model.num_classes != student.num_classes or (all(names) and names[0] != names[1]):
            raise ValueError(
                f"the teacher has {_classes(model)}, the student {_classes(student)}; train both "
                "on one set of classes"
            )
        check_per_frame(model, "a teacher")
        self.model = model.eval().requires_grad_(False)
        self.precision: Precision = precision
        ours, theirs = student.card, model.card
        # Frames come normalised for the student: x * scale + shift is normalised for the teacher.
        scale = [ours.std[c] / theirs.std[c] for c in range(3)]
        shift = [(ours.mean[c] - theirs.mean[c]) / theirs.std[c] for c in range(3)]
        is_alike = (ours.mean, ours.std) == (theirs.mean, theirs.std)
        self._affine = None if is_alike else (torch.tensor(scale), torch.tensor(shift))

    @torch.no_grad()
    def __call__(self, frames: Tensor) -> Segmentation:
        """Run the teacher on (B, 1, 3, H, W) frames that are normalised for the student."""
        with autocast(frames.device, self.precision):
            segmentation, _ = self.model(self._normalised(frames), aux=True)
        return segmentation

    @torch.no_grad()
    def ask(
        self, frames: Tensor, question: Callable[[VideoSegmenter, Tensor], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """What a method wants to know of the teacher.

        Args:
            frames: (B, 3, H, W), normalised for the student.
            question: of the teacher and the frames, which it gets normalised for the teacher.
        """
        with autocast(frames.device, self.precision):
            return question(self.model, self._normalised(frames))

    def _normalised(self, frames: Tensor) -> Tensor:
        if self._affine is None:
            return frames
        scale, shift = (v.to(frames.device).view(3, 1, 1) for v in self._affine)
        return frames * scale + shift


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
        return torch.from_numpy(read_array(self._path(video, index)))

    def _path(self, video: Video, index: int) -> Path:
        return inside(self.folder, f"{video.name}/{video.frames[index].stem}.npy")

    def fill(self, dataset: VideoDataset, teacher: VideoSegmenter, precision: Precision) -> None:
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
            with torch.inference_mode(), autocast(device, precision):
                segmentation, _ = teacher(frames)
            path = self._path(video, index)
            path.parent.mkdir(parents=True, exist_ok=True)
            scores = segmentation.logits[0, 0].to(torch.float16).cpu().numpy()
            write_array(path, scores)


def saved_scores(
    spec: DistillationConfig, teacher: VideoSegmenter, base_size: tuple[int, int] | None
) -> SavedScores:
    """Where a teacher's scores lie: a folder of its own, by its weights and the frames' size."""
    assert spec.precomputed is not None
    name = digest(teacher.state_dict(), str(base_size))
    return SavedScores(Path(spec.precomputed).expanduser() / name, base_size)


def load_teacher(
    spec: DistillationConfig | GroupedConfig, student: VideoSegmenter, device: torch.device
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

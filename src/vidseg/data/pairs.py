"""A frame and frames near it, with the motion between them: what temporal losses are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vidseg.classes import IGNORE
from vidseg.data.clip import Video, VideoDataset
from vidseg.data.placement import Placement
from vidseg.data.sampling import ClipDataset, permutation
from vidseg.data.transforms import TrainTransform
from vidseg.flow.estimator import FlowEstimator
from vidseg.flow.warp import forward_backward_consistent

# From the frame's file to the scores of a network for the whole frame, (C, h, w).
ReadScores = Callable[[VideoDataset, Video, int], Tensor]


@dataclass(frozen=True)
class Neighbours:
    """The rule that chooses neighbours of frame t.

    A pair takes one offset, drawn uniformly from those whose frame is there; a triplet takes the
    frames at -gap and +gap, for a drawn gap of the offsets (their absolute values).

    ETC's authors draw a pair from -2, -1, 1, 2, 3: their -3 is never drawn, since the upper end of
    the draw is exclusive and the sign is turned afterwards (`OFFICIAL_OFFSETS`); their triplets
    have gaps 1 and 2.

    Attributes:
        offsets: distances in frames, not 0.
        triplet: the frame before and the frame after, instead of one of them.

    Raises:
        ValueError: no offset, or one that is 0.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> Neighbours((1, 2), triplet=True).draw(5, 30, rng)
        (3, 7)
    """

    offsets: tuple[int, ...] = (-3, -2, -1, 1, 2, 3)
    triplet: bool = False

    def __post_init__(self) -> None:
        if not self.offsets or 0 in self.offsets:
            raise ValueError(
                f"offsets must be distances in frames other than 0, got {self.offsets}"
            )

    def choices(self, t: int, num_frames: int) -> list[tuple[int, ...]]:
        """All neighbours that frame `t` can have in a video of `num_frames`, oldest first."""
        if self.triplet:
            found = [(t - gap, t + gap) for gap in sorted({abs(o) for o in self.offsets})]
        else:
            found = [(t + offset,) for offset in sorted(set(self.offsets))]
        return [near for near in found if min(near) >= 0 and max(near) < num_frames]

    def draw(self, t: int, num_frames: int, rng: np.random.Generator) -> tuple[int, ...]:
        """Indices of the neighbours of frame `t`, oldest first; empty if it can have none."""
        choices = self.choices(t, num_frames)
        return choices[int(rng.integers(len(choices)))] if choices else ()


OFFICIAL_OFFSETS = (-2, -1, 1, 2, 3)


# Of a teacher's scores for a crop: the output stride of the papers' teachers.
SCORES_STRIDE_PX = 8

# By name; `PairDataset` says what is in it.
PairSample = dict[str, Any]


class PairDataset(torch.utils.data.Dataset[PairSample]):
    """Frames with their neighbours by global sample number, as pure a function as `ClipDataset`.

    A sample holds, with K = 1 for pairs and 2 for triplets:

    - "frames" (1, 3, H, W) float32, frame t; "labels" (H, W) int64, 255 everywhere if it has none;
      "name" of its file;
    - "neighbours" (K, 3, H, W) float32, oldest first;
    - with `flow`, "flows" (K, 2, H, W) float32 px, on t's grid and into the neighbours; with
      `occlusion` also "valid" (K, H, W) bool, what is seen in both frames;
    - with `read_scores`, "teacher" (1 + K, C, h, w) float32, of frame t, then of the neighbours.

    Flow is estimated between the frames as they are stored, and follows the crop; so a cache
    serves every crop of a frame. (ETC's authors estimate it between the crops.) Frames without
    any neighbour are left out.

    Args:
        dataset: reads the files.
        transform: one draw for the frame and its neighbours.
        neighbours: which frames go with a frame.
        flow: estimates the motion; None for none.
        occlusion: also say where the flows there and back agree.
        read_scores: gives a teacher's scores of a frame.
        align_corners: how the teacher's scores lie over the frame.
        labelled: the frames with labels alone, or every frame of the videos.
        seed: of order, neighbours and augmentation; 0 or more.
        shuffle: another order in each epoch.

    Raises:
        ValueError: no frame has a neighbour; and when a sample is read, a file is damaged, sizes
            differ within it, or the flow has another size than the frames.
    """

    def __init__(
        self,
        dataset: VideoDataset,
        transform: TrainTransform,
        neighbours: Neighbours,
        *,
        flow: FlowEstimator | None = None,
        occlusion: bool = False,
        read_scores: ReadScores | None = None,
        align_corners: bool = True,
        labelled: bool = True,
        seed: int = 0,
        shuffle: bool = False,
    ) -> None:
        self.dataset = dataset
        self.transform = transform
        self.neighbours = neighbours
        self.flow = flow
        self.occlusion = occlusion
        self.read_scores = read_scores
        self.align_corners = align_corners
        self.seed = seed
        self.shuffle = shuffle
        self.places = [
            (video, t)
            for video in dataset.videos
            for t in (video.labelled if labelled else range(len(video)))
            if neighbours.choices(t, len(video))
        ]
        if not self.places:
            raise ValueError(
                f"{dataset.name}: no {'labelled ' if labelled else ''}frame has a neighbour at "
                f"{'both sides of ' if neighbours.triplet else ''}offsets {neighbours.offsets}; "
                "its videos are too short, or the frames between the labelled ones are missing"
            )

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, number: int) -> PairSample:
        """Read and transform a frame and its neighbours.

        Args:
            number: global sample number, 0 or more, without upper limit.

        Raises:
            ValueError: a file is damaged, sizes differ within the sample, or the flow has another
                size than the frames.
        """
        if number < 0:
            raise IndexError(f"sample numbers start at 0, got {number}")
        epoch, place = divmod(number, len(self.places))
        if self.shuffle:
            place = int(permutation(self.seed, epoch, len(self.places))[place])
        video, t = self.places[place]
        rng = np.random.default_rng([self.seed, number])
        near = self.neighbours.draw(t, len(video), rng)
        images = [self.dataset.read_frame(video.frames[i]) for i in (*near, t)]
        file = video.labels[t]
        label = (
            np.full(images[-1].shape[:2], IGNORE, np.uint8)
            if file is None
            else self.dataset.read_label(file)
        )
        clip, target, placement = self.transform.place(images, label, rng)
        sample: PairSample = {
            "frames": clip[-1:],
            "neighbours": clip[:-1],
            "labels": target,
            "name": f"{video.name}/{video.frames[t].stem}",
        }
        if self.flow is not None:
            sample |= self._motion(self.flow, images, placement)
        if self.read_scores is not None:
            sample["teacher"] = self._teacher(self.read_scores, video, (t, *near), placement, label)
        return sample

    def _motion(
        self, flow: FlowEstimator, images: Sequence[np.ndarray], placement: Placement
    ) -> PairSample:
        *near, image = images
        flows = [_checked(flow(image, other), image, flow) for other in near]
        motion: PairSample = {"flows": torch.stack([placement.flow(f) for f in flows])}
        if self.occlusion:
            valid = [
                forward_backward_consistent(there, flow(other, image))
                for there, other in zip(flows, near, strict=True)
            ]
            motion["valid"] = torch.stack([placement.mask(v) for v in valid])
        return motion

    def _teacher(
        self,
        read_scores: ReadScores,
        video: Video,
        indices: tuple[int, ...],
        placement: Placement,
        label: np.ndarray,
    ) -> Tensor:
        frame_size = label.shape[0], label.shape[1]
        found = []
        for index in indices:
            scores = read_scores(self.dataset, video, index)
            rows, columns = (-(-side // SCORES_STRIDE_PX) for side in placement.crop)
            found.append(
                placement.scores(
                    scores, frame_size, (rows, columns), align_corners=self.align_corners
                )
            )
        return torch.stack(found)


def _checked(flow: Tensor, image: np.ndarray, estimator: FlowEstimator) -> Tensor:
    wanted = (2, image.shape[0], image.shape[1])
    if tuple(flow.shape) != wanted:
        raise ValueError(
            f"{estimator.name} must give a flow of the frame's size {wanted}, got "
            f"{tuple(flow.shape)}; scale it up, and its pixels with it"
        )
    return flow


class WithVideo(torch.utils.data.Dataset[PairSample]):
    """Labelled samples of one data set, each with a pair of another: labels here, motion there.

    Args:
        labelled: as `ClipDataset`; gives "frames", "labels" and "name".
        pairs: gives the rest, and the frame t of the pair as "anchors".
    """

    def __init__(self, labelled: ClipDataset, pairs: PairDataset) -> None:
        self.labelled = labelled
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.labelled)

    def __getitem__(self, number: int) -> PairSample:
        """The labelled sample and the pair of one global sample number."""
        sample, pair = self.labelled[number], self.pairs[number]
        rest = {k: v for k, v in pair.items() if k not in ("frames", "labels", "name")}
        return {**sample, **rest, "anchors": pair["frames"]}

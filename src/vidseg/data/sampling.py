"""Clips by sample number: which one it is, read and transformed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, product
from typing import Literal, NotRequired, TypedDict

import numpy as np
import torch
from torch import Tensor

from vidseg.data.clip import IGNORE, Snippet, Video, VideoDataset
from vidseg.data.windows import Drawn, Window, mirrored, reach
from vidseg.sizes import width_x_height

Transform = Callable[
    [Sequence[np.ndarray], np.ndarray, np.random.Generator], tuple[torch.Tensor, torch.Tensor]
]


class Sample(TypedDict):
    """One sample of `ClipDataset`: a window of frames and the labels of its last frame."""

    frames: Tensor
    labels: Tensor
    name: str
    clip_labels: NotRequired[Tensor]
    labelled: NotRequired[Tensor]
    context: NotRequired[Tensor]
    phase: NotRequired[int]


@dataclass(frozen=True)
class Choice:
    """Windows of a video, of which every sample takes one, drawn anew.

    Attributes:
        video: where they lie.
        forward: windows, oldest frame first, the labelled one last.
        backward: windows in the video as it runs backwards, newest frame first.
        reverse: probability of a backward one; where one direction has none, it is the other.
    """

    video: Video
    forward: tuple[tuple[int, ...], ...]
    backward: tuple[tuple[int, ...], ...] = ()
    reverse: float = 0.0

    def draw(self, rng: np.random.Generator) -> Snippet:
        """One of the windows."""
        chosen = self.backward if rng.random() < self.reverse else self.forward
        chosen = chosen or self.forward or self.backward
        indices = chosen[int(rng.integers(len(chosen)))]
        return Snippet(self.video, indices[-1], indices)


def choices(
    dataset: VideoDataset,
    window: Window,
    *,
    each: Literal["frames", "videos"],
    reverse: float = 0.0,
) -> list[Choice]:
    """List what the samples of an epoch are drawn from.

    CFFM's authors take a frame of each video in an epoch (VSPW, `each="videos", reverse=0.5`), or
    each labelled frame, with earlier or with later ones (Cityscapes, `each="frames", reverse=0.5`).

    Args:
        dataset: where from.
        window: see `snippets`.
        each: "frames": a choice for each labelled frame; "videos": one for each video, of all its
            labelled frames that have a whole window, not one of a video's start.
        reverse: probability that a sample is of the video as it runs backwards.

    Returns:
        The choices that have a whole window in one direction at least.
    """
    far = reach(window)
    length = len(window(far))
    found = []
    for video in dataset.videos:
        window_of = window.for_video(video.name) if isinstance(window, Drawn) else window
        ends = [t for t in video.labelled if t >= far or each == "frames"]
        windows = {t: tuple(window_of(t)) for t in ends}
        forward = {t: indices for t, indices in windows.items() if len(indices) == length}
        later = [t for t in video.labelled if len(video) - 1 - t >= far] if reverse else []
        backward = {t: mirrored(window_of, t, len(video)) for t in later}
        if each == "videos":
            found.append(Choice(video, tuple(forward.values()), tuple(backward.values()), reverse))
        else:
            found += [
                Choice(video, _of(forward, t), _of(backward, t), reverse) for t in video.labelled
            ]
    return [choice for choice in found if choice.forward or choice.backward]


def gapped(dataset: VideoDataset, num_frames: int, within: int) -> list[Choice]:
    """List a choice for each labelled frame: all windows with gaps of 1 to `within` frames.

    A sample takes one of them, so each gap is drawn by itself, as TDNet's authors do it (within 2).

    Args:
        dataset: where from.
        num_frames: memory frames before the labelled one.
        within: largest distance of two neighbours in a window, in frames.

    Returns:
        The choices; frames that no whole window ends at are left out.
    """
    gaps = list(product(range(1, within + 1), repeat=num_frames))
    offsets = [tuple(accumulate((0, *combination)))[::-1] for combination in gaps]
    found = []
    for video in dataset.videos:
        for t in video.labelled:
            windows = [tuple(t - back for back in backs) for backs in offsets if backs[0] <= t]
            found.append(Choice(video, tuple(windows)))
    return [choice for choice in found if choice.forward]


def _of(windows: dict[int, tuple[int, ...]], t: int) -> tuple[tuple[int, ...], ...]:
    return (windows[t],) if t in windows else ()


@lru_cache(maxsize=4)
def permutation(seed: int, epoch: int, length: int) -> np.ndarray:
    """The order of `length` samples in an epoch."""
    # The 1 keeps this stream apart from the augmentation's, which is seeded [seed, number].
    return np.random.default_rng([seed, epoch, 1]).permutation(length)


class ClipDataset(torch.utils.data.Dataset[Sample]):
    """Clips by global sample number: a pure function of (seed, number), in any worker.

    Sample `number` belongs to epoch `number // len(self)`, so a sampler that counts on over the
    epochs visits each snippet once per epoch, and a resumed run needs the count alone.
    """

    def __init__(
        self,
        dataset: VideoDataset,
        snippets: Sequence[Snippet | Choice],
        transform: Transform,
        seed: int = 0,
        *,
        shuffle: bool = False,
        clip_labels: bool = False,
        read_context: Callable[[Video], Tensor] | None = None,
        phase_of: Callable[[int], int] | None = None,
    ) -> None:
        """Index snippets.

        Args:
            dataset: reads the files.
            snippets: from `snippets(dataset, window)`, or `choices(dataset, window, ...)`.
            transform: `TrainTransform`, `EvalTransform` or alike.
            seed: of order and augmentation; 0 or more.
            shuffle: another order in each epoch, else the order of `snippets`.
            clip_labels: also give the labels of the frames before the last one.
            read_context: what the model wants to know of a whole video.
            phase_of: the phase of the first frame of a sample, by its number, for a model that has
                a period.

        Raises:
            ValueError: no snippets, or a negative seed.
        """
        if not snippets:
            raise ValueError(f"{dataset.name}: a ClipDataset needs at least one snippet")
        if seed < 0:
            raise ValueError(f"seed must be 0 or more, got {seed}")
        self.dataset = dataset
        self.snippets = tuple(snippets)
        self.transform = transform
        self.seed = seed
        self.shuffle = shuffle
        self.clip_labels = clip_labels
        self.read_context = read_context
        self.phase_of = phase_of

    def __len__(self) -> int:
        return len(self.snippets)

    def __iter__(self) -> Iterator[Sample]:
        return (self[number] for number in range(len(self)))

    def snippet(self, number: int) -> Snippet:
        """The snippet of a global sample number."""
        if number < 0:
            raise IndexError(f"sample numbers start at 0, got {number}")
        epoch, place = divmod(number, len(self.snippets))
        if self.shuffle:
            place = int(permutation(self.seed, epoch, len(self.snippets))[place])
        chosen = self.snippets[place]
        if isinstance(chosen, Snippet):
            return chosen
        # The 2 keeps this stream apart from those of order and augmentation.
        return chosen.draw(np.random.default_rng([self.seed, number, 2]))

    def __getitem__(self, number: int) -> Sample:
        """Read and transform one clip.

        Args:
            number: global sample number, 0 or more, without upper limit.

        Returns:
            frames (T, 3, H, W) float32, labels (H, W) int64 of the last one, name; if asked for,
            clip_labels (T, H, W) int64 of all frames, and labelled (T,) bool, which of them have
            any: the others are ignored everywhere; context, what `read_context` gives; and phase,
            what `phase_of` gives.

        Raises:
            ValueError: a file is damaged, or sizes differ within the snippet.
        """
        snippet = self.snippet(number)
        images = self._read(snippet)
        rng = np.random.default_rng([self.seed, number])
        sample: Sample
        if self.clip_labels:
            indices = snippet.frame_indices
            maps = {i: self._read_labels(snippet, i, images[-1]) for i in dict.fromkeys(indices)}
            frames, targets = self.transform(images, np.stack([maps[i] for i in indices]), rng)
            has_labels = [snippet.video.labels[i] is not None for i in indices]
            sample = {"frames": frames, "labels": targets[-1], "name": snippet.name}
            sample["clip_labels"], sample["labelled"] = targets, torch.tensor(has_labels)
        else:
            labels = self._read_labels(snippet, snippet.label_index, images[-1])
            frames, target = self.transform(images, labels, rng)
            sample = {"frames": frames, "labels": target, "name": snippet.name}
        if self.read_context is not None:
            sample["context"] = self.read_context(snippet.video)
        if self.phase_of is not None:
            sample["phase"] = self.phase_of(number)
        return sample

    def _read_labels(self, snippet: Snippet, index: int, image: np.ndarray) -> np.ndarray:
        file = snippet.video.labels[index]
        if file is None:
            return np.full(image.shape[:2], IGNORE, np.uint8)
        labels = self.dataset.read_label(file)
        if labels.shape != image.shape[:2]:
            raise ValueError(
                f"{file} is {width_x_height(labels.shape)}, but its frame "
                f"{snippet.video.frames[index]} is {width_x_height(image.shape)}; "
                "labels and frames must have one size"
            )
        return labels

    def _read(self, snippet: Snippet) -> list[np.ndarray]:
        images = {path: self.dataset.read_frame(path) for path in dict.fromkeys(snippet.frames)}
        newest = images[snippet.frames[-1]]
        for path, image in images.items():
            if image.shape != newest.shape:
                raise ValueError(
                    f"{path} is {width_x_height(image.shape)}, but {snippet.frames[-1]} of the "
                    f"same video is {width_x_height(newest.shape)}; the frames of a video "
                    "must have one size"
                )
        return [images[path] for path in snippet.frames]

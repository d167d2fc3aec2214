"""Runs over the videos of a data set: as streams in lockstep, or as windows, one per label."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from vidseg.data.clip import Video, VideoDataset
from vidseg.data.threads import in_threads
from vidseg.evaluation.result import Observed
from vidseg.evaluation.truth import read_truth
from vidseg.inference.context import VideoContexts
from vidseg.inference.runner import Memories, Runner
from vidseg.sizes import Size, width_x_height

_AHEAD = 3  # frames or windows that are read while the network runs


class _Window(NamedTuple):
    """A labelled frame and those before it that it is labelled from: (T, H, W, 3) uint8.

    `phase` is that of the first of them in a stream of the whole video.
    """

    video: Video
    frame_index: int
    clip: np.ndarray
    truth: np.ndarray
    phase: int


@dataclass(frozen=True)
class Passes:
    """Ways to run through the videos of a data set.

    Attributes:
        runner: labels the frames.
        dataset: reads them.
        contexts: what the model knows of whole videos.
        wanted: the frames of each video that have a truth to compare with.
        batch_size: streams or windows that run together, where their frames are of one size.
        score_size: (h, w) of truth and label maps; None for that of each label.
    """

    runner: Runner
    dataset: VideoDataset
    contexts: VideoContexts
    wanted: dict[Video, tuple[int, ...]]
    batch_size: int = 1
    score_size: Size | None = None

    def streams(self, videos: Sequence[Video]) -> Iterator[list[Observed]]:
        """Step through videos in lockstep; one that has ended repeats its last frame, unscored.

        Args:
            videos: to run through, all of their frames.

        Yields:
            What was seen at each step.
        """
        for group in self._same_size(videos):
            # One grid for a video: frames without a truth are labelled at the size of the truth.
            grids = [self._grid(video) for video in group]
            steps = range(max(len(video) for video in group))
            contexts = self.contexts(group)
            memories = None
            for step, loaded in enumerate(
                in_threads(self._reader(group), steps, workers=1, ahead=_AHEAD)
            ):
                images = np.stack([image for image, _ in loaded])[:, None]
                sizes = [
                    grid if truth is None else _size(truth)
                    for grid, (_, truth) in zip(grids, loaded, strict=True)
                ]
                labels, memories, ms = self._label(images, memories, sizes, contexts)
                yield [
                    Observed(video, step, image, label, truth, ms)
                    for video, label, (image, truth) in zip(group, labels, loaded, strict=True)
                    if step < len(video)
                ]

    def windows(self, videos: Sequence[Video]) -> Iterator[list[Observed]]:
        """Run one window for each wanted frame.

        Args:
            videos: whose frames are wanted.

        Yields:
            What was seen in each batch.
        """
        batch: list[_Window] = []
        places = [(video, index) for video in videos for index in self.wanted[video]]
        for window in in_threads(self._read_window, places, workers=2, ahead=_AHEAD):
            is_full = len(batch) == self.batch_size
            kinds = {(w.clip.shape, w.phase) for w in (*batch[:1], window)}
            if batch and (is_full or len(kinds) > 1):
                yield self._run(batch)
                batch = []
            batch.append(window)
        if batch:
            yield self._run(batch)

    def _run(self, batch: list[_Window]) -> list[Observed]:
        clips = np.stack([window.clip for window in batch])
        sizes = [_size(window.truth) for window in batch]
        contexts = self.contexts([window.video for window in batch])
        labels, _, ms = self._label(clips, None, sizes, contexts, phase=batch[0].phase)
        return [
            Observed(w.video, w.frame_index, w.clip[-1], label, w.truth, ms)
            for label, w in zip(labels, batch, strict=True)
        ]

    def _label(
        self,
        images: np.ndarray,
        memories: Memories | None,
        sizes: Sequence[Size],
        contexts: tuple[Any, ...],
        phase: int = 0,
    ) -> tuple[list[np.ndarray], Memories, float | None]:
        """The last frame's labels of each stream, the next memories, and the ms of a warm pass."""
        how = {"sizes": sizes, "contexts": contexts, "phase": phase}
        found = self.runner(images, memories, readout="last", **how)
        labels = [maps[-1] for maps in found.labels]
        return labels, found.memories, found.ms if self.runner.is_warm else None

    def _read_window(self, at: tuple[Video, int]) -> _Window:
        video, index = at
        image, truth = self._read(video, index)
        assert truth is not None, "only labelled frames are wanted"
        *past, _ = window = self.runner.model.window_frames(index)
        images = [*(self.dataset.read_frame(video.frames[i]) for i in past), image]
        phase = window[0] % self.runner.model.period
        return _Window(video, index, _stack(images, video), truth, phase)

    def _reader(
        self, group: list[Video]
    ) -> Callable[[int], list[tuple[np.ndarray, np.ndarray | None]]]:
        return lambda step: [self._read(video, min(step, len(video) - 1)) for video in group]

    def _read(self, video: Video, index: int) -> tuple[np.ndarray, np.ndarray | None]:
        image = self.dataset.read_frame(video.frames[index])
        is_wanted = index in self.wanted[video]
        return image, self._truth(video, index) if is_wanted else None

    def _truth(self, video: Video, index: int) -> np.ndarray:
        return read_truth(self.dataset, video, index, self.score_size)

    def _grid(self, video: Video) -> Size:
        """The size of a video's label maps: of its truth, of its frames where it has none."""
        if self.score_size is not None:
            return self.score_size
        if self.wanted[video]:
            return _size(self._truth(video, self.wanted[video][0]))
        return _size(self.dataset.read_frame(video.frames[0]))

    def _same_size(self, videos: Sequence[Video]) -> Iterator[list[Video]]:
        """Groups of at most `batch_size` videos that can run in lockstep."""
        if self.batch_size == 1:
            yield from ([video] for video in videos)
            return
        by_size: dict[Size, list[Video]] = {}
        for video in sorted(videos, key=len):
            size = _size(self.dataset.read_frame(video.frames[0]))
            by_size.setdefault(size, []).append(video)
        for alike in by_size.values():
            starts = range(0, len(alike), self.batch_size)
            yield from (alike[i : i + self.batch_size] for i in starts)


def _stack(images: list[np.ndarray], video: Video) -> np.ndarray:
    if len({image.shape for image in images}) > 1:
        raise ValueError(f"the frames of {video.name} must have one size, got {_sizes(images)}")
    return np.stack(images)


def _sizes(images: list[np.ndarray]) -> str:
    return " and ".join(sorted({width_x_height(image.shape) for image in images}))


def _size(array: np.ndarray) -> Size:
    return array.shape[0], array.shape[1]

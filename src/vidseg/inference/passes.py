"""Runs over the videos of a data set: as streams in lockstep, or as windows, one per label."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from vidseg.data.clip import Video, VideoDataset
from vidseg.inference.evaluation import Observed
from vidseg.inference.labelled import read_truth
from vidseg.inference.motion import Size
from vidseg.inference.runner import Runner

Item = TypeVar("Item")
Made = TypeVar("Made")


def run_streams(
    runner: Runner,
    dataset: VideoDataset,
    videos: Sequence[Video],
    wanted: dict[Video, tuple[int, ...]],
    batch_size: int,
) -> Iterator[list[Observed]]:
    """Step through videos in lockstep; one that has ended repeats its last frame, unscored.

    Args:
        runner: labels the frames.
        dataset: reads them.
        videos: to run through, all of their frames.
        wanted: the frames of each that have a truth to compare with.
        batch_size: videos that run together, where their frames are of one size.

    Yields:
        What was seen at each step.
    """
    for group in _same_size(dataset, videos, batch_size):
        steps = range(max(len(video) for video in group))
        # One grid for a video: frames without a truth are labelled at the size of the truth too.
        sizes = [_grid(dataset, video, wanted[video]) for video in group]

        def read(
            step: int, group: list[Video] = group
        ) -> list[tuple[np.ndarray, np.ndarray | None]]:
            return [
                _read(dataset, video, min(step, len(video) - 1), wanted[video]) for video in group
            ]

        memories = None
        for step, loaded in enumerate(_read_ahead(steps, read, workers=1)):
            images = np.stack([image for image, _ in loaded])[:, None]
            at = [s if t is None else _size(t) for s, (_, t) in zip(sizes, loaded, strict=True)]
            labels, memories, ms = runner(images, memories, at)
            yield [
                Observed(video, step, image, label, truth, ms)
                for video, label, (image, truth) in zip(group, labels, loaded, strict=True)
                if step < len(video)
            ]


def run_windows(
    runner: Runner,
    dataset: VideoDataset,
    videos: Sequence[Video],
    wanted: dict[Video, tuple[int, ...]],
    batch_size: int,
) -> Iterator[list[Observed]]:
    """Run one window for each wanted frame.

    Args:
        runner: labels the frames.
        dataset: reads them.
        videos: whose frames are wanted.
        wanted: the frames of each; all have a truth.
        batch_size: windows that run together, where they are of one size.

    Yields:
        What was seen in each batch.
    """

    def read(at: tuple[Video, int]) -> tuple[Video, int, np.ndarray, np.ndarray]:
        video, index = at
        image, truth = _read(dataset, video, index, wanted[video])
        assert truth is not None, "only labelled frames are wanted"
        past = [dataset.read_frame(video.frames[i]) for i in runner.window_frames(index)[:-1]]
        return video, index, _stack([*past, image], video), truth

    def run(batch: list[tuple[Video, int, np.ndarray, np.ndarray]]) -> list[Observed]:
        clips = np.stack([clip for _, _, clip, _ in batch])
        labels, _, ms = runner(clips, None, [_size(truth) for *_, truth in batch])
        return [
            Observed(video, index, clip[-1], label, truth, ms)
            for label, (video, index, clip, truth) in zip(labels, batch, strict=True)
        ]

    batch: list[tuple[Video, int, np.ndarray, np.ndarray]] = []
    places = [(video, index) for video in videos for index in wanted[video]]
    for window in _read_ahead(places, read):
        if batch and (len(batch) == batch_size or batch[0][2].shape != window[2].shape):
            yield run(batch)
            batch = []
        batch.append(window)
    if batch:
        yield run(batch)


def _read(
    dataset: VideoDataset, video: Video, index: int, wanted: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray | None]:
    image = dataset.read_frame(video.frames[index])
    return image, read_truth(dataset, video, index) if index in wanted else None


def _grid(dataset: VideoDataset, video: Video, wanted: tuple[int, ...]) -> Size:
    """The size of a video's label maps: of its truth, of its frames where it has none."""
    if wanted:
        return _size(read_truth(dataset, video, wanted[0]))
    return _size(dataset.read_frame(video.frames[0]))


def _stack(images: list[np.ndarray], video: Video) -> np.ndarray:
    if len({image.shape for image in images}) > 1:
        raise ValueError(f"the frames of {video.name} must have one size, got {_sizes(images)}")
    return np.stack(images)


def _sizes(images: list[np.ndarray]) -> str:
    return " and ".join(sorted({f"{image.shape[1]}x{image.shape[0]}" for image in images}))


def _size(array: np.ndarray) -> Size:
    return array.shape[0], array.shape[1]


def _read_ahead(
    items: Iterable[Item], read: Callable[[Item], Made], *, workers: int = 2, depth: int = 3
) -> Iterator[Made]:
    """Read the next few while the network runs; order is kept, the queue is bounded."""
    with ThreadPoolExecutor(max_workers=workers) as pool:
        waiting: deque[Future[Made]] = deque()
        for item in items:
            waiting.append(pool.submit(read, item))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _same_size(
    dataset: VideoDataset, videos: Sequence[Video], batch_size: int
) -> Iterator[list[Video]]:
    """Groups of at most `batch_size` videos that can run in lockstep."""
    if batch_size == 1:
        yield from ([video] for video in videos)
        return
    by_size: dict[Size, list[Video]] = {}
    for video in sorted(videos, key=len):
        by_size.setdefault(_size(dataset.read_frame(video.frames[0])), []).append(video)
    for alike in by_size.values():
        yield from (alike[i : i + batch_size] for i in range(0, len(alike), batch_size))

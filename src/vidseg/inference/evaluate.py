"""Run a model over a data set and score it: streams, windows, sliding windows, flips and scales."""

import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from typing import Any, Literal, NamedTuple, TypeVar, get_args

import numpy as np
import torch
from torch import Tensor

from vidseg.data.clip import Video, VideoDataset
from vidseg.flow.estimator import FlowEstimator
from vidseg.inference.evaluation import Evaluation, Observed, Observer, Progress
from vidseg.inference.labelled import dataset_conventions, labelled_frames, read_truth
from vidseg.inference.motion import Size, open_motion
from vidseg.inference.scoring import Scorer
from vidseg.inference.sliding import SlidingWindow, sliding_name
from vidseg.inference.stream import now_s
from vidseg.metrics.consistency import Protocol
from vidseg.segmenter import Memory, Segmentation, VideoSegmenter
from vidseg.weights import Card

Precision = Literal["fp32", "bf16", "fp16"]
Item = TypeVar("Item")
Made = TypeVar("Made")


def evaluate(
    model: VideoSegmenter,
    dataset: VideoDataset,
    *,
    flow: FlowEstimator | Literal["exact"] | None = None,
    tc: Protocol = "vidseg",
    every_frame: bool = False,
    device: torch.device | str | None = None,
    precision: Precision = "fp32",
    batch_size: int = 1,
    sliding: tuple[Size, Size] | None = None,
    flip: bool = False,
    scales: Sequence[float] = (1.0,),
    max_videos: int | None = None,
    max_frames: int | None = None,
    observe: Observer | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Score a model on every labelled frame, at the size of the label: is it right, and steady?

    A video runs as a stream, one step per frame, or as one window (`model.window_frames`) per
    label: whichever encodes fewer frames. Both give the same label maps (the window law), so
    densely labelled video costs one step per frame and sparse labels cost one window each.
    Consistency is measured between neighbouring labelled frames, or all with `every_frame`.
    Counts are added as they come; only a few figures are kept of each frame.

    Args:
        model: put into eval mode while it is scored, and back.
        dataset: labels are compared at their own size, whatever the frames' size is.
        flow: along which neighbouring frames are compared: an estimator, such as
            `vidseg.flow.DIS()`, "exact" where the data set was rendered, or None for no comparison.
        tc: protocol of TC. "etc-official" and "vspw-official" are for comparison with published
            figures; they measure no flicker. See `vidseg.metrics.temporal_consistency`.
        every_frame: run through all frames of the videos, also where labels are sparse or missing,
            so that neighbouring frames can be compared.
        device: where to run; default: where the model is. The model is moved there.
        precision: "bf16" and "fp16" run under autocast.
        batch_size: windows, or streams in lockstep, per forward pass.
        sliding: ((crop height, crop width), (stride height, stride width)); default whole image.
        flip: average the softmax maps with those of the mirrored frames.
        scales: average the softmax maps over these sizes of the frames. Every scale and flip is
            a stream of its own: memory frames are transformed as the frame is.
        max_videos: score only the first videos.
        max_frames: score at most so many labelled frames, evenly spread.
        observe: called with every frame that is scored, and with those a stream passes through,
            and with what was measured of it.
        progress: called with the frames done and the frames in all.

    Returns:
        The figures, over the set and per video.

    Raises:
        ValueError: an option is out of range, the model's classes are not the data set's (a last
            one called void may come on top: it is a miss of the true class wherever it is), there
            is no labelled frame, or the data set does not know its exact flow.
    """
    _check_options(precision, batch_size, scales)
    has_void = _has_void(model, dataset)
    _check_classes(model, dataset, has_void=has_void)
    wanted = labelled_frames(
        dataset, max_videos=max_videos, max_frames=max_frames, every_frame=every_frame
    )
    device = torch.device(device) if device is not None else _device_of(model)
    motion = open_motion(flow, dataset, tc)
    streamed = [v for v in wanted if every_frame or _stream_is_cheaper(model, v, wanted)]
    windowed = [video for video in wanted if video not in streamed]
    total = sum(len(video) for video in streamed) + sum(len(wanted[video]) for video in windowed)
    coming = {video.name: frozenset(wanted[video]) for video in windowed}
    coming |= {video.name: range(len(video)) for video in streamed}
    scorer = Scorer(
        dataset,
        coming,
        motion=motion,
        observe=observe,
        has_void_labels=has_void,
        every_frame=every_frame,
    )
    was_training = model.training
    model.for_inference(device)
    void_to = dataset.ignore if has_void else None
    runner = _Runner(model, device, precision, sliding, _views(scales, flip), void_to)
    runs = chain(
        _run_streams(runner, dataset, streamed, wanted, batch_size),
        _run_windows(runner, dataset, windowed, wanted, batch_size),
    )
    done = 0
    try:
        with torch.inference_mode():
            for results in runs:
                scorer.add(results)
                done += len(results)
                if progress:
                    progress(done, total)
    finally:
        model.train(was_training)
    conventions = {
        **dataset_conventions(dataset),
        "run_as": " and ".join(
            name for name, some in (("stream", streamed), ("windows", windowed)) if some
        ),
        "every_frame": every_frame,
        "window_frames": model.window_length,
        "image": sliding_name(sliding),
        "scales": list(scales),
        "flip": flip,
        "precision": precision,
        "device": device.type,
    }
    if has_void:
        conventions["void_labels"] = "the model's last class is void: a miss of the true class"
    return scorer.evaluation(conventions, runner.ms_per_frame)


class _View(NamedTuple):
    scale: float
    flip: bool


def _views(scales: Sequence[float], flip: bool) -> tuple[_View, ...]:
    return tuple(
        _View(scale, mirrored) for scale in scales for mirrored in ((False, True)[: 1 + flip])
    )


class _Runner:
    """Frames and one memory per view in, label maps out; measures the network's time."""

    def __init__(
        self,
        model: VideoSegmenter,
        device: torch.device,
        precision: Precision,
        sliding: tuple[Size, Size] | None,
        views: tuple[_View, ...],
        void_to: int | None,
    ) -> None:
        self.card = model.card
        self.last_class, self.void_to = model.num_classes - 1, void_to
        self.model = model if sliding is None else SlidingWindow(model, *sliding)
        self.window_frames = model.window_frames
        self.device = device
        self.precision = precision
        self.views = views
        self._passes: list[tuple[float, int]] = []

    @property
    def ms_per_frame(self) -> float | None:
        """Mean over all passes but the first, which pays for the warm-up."""
        timed = self._passes[1:] or self._passes
        frames = sum(count for _, count in timed)
        return 1e3 * sum(seconds for seconds, _ in timed) / frames if frames else None

    def __call__(
        self,
        images: np.ndarray,
        memories: tuple[Memory | None, ...] | None,
        sizes: Sequence[Size],
    ) -> tuple[list[np.ndarray], tuple[Memory | None, ...], float | None]:
        """Label the last of the frames.

        Args:
            images: (B, T, H, W, 3) uint8.
            memories: one per view, or None at the start of a stream.
            sizes: the (h, w) at which the label maps are wanted, one per stream.

        Returns:
            B label maps (h, w) uint8, the next memories, and the network's ms per frame, which
            the first pass has not: it pays for the warm-up.
        """
        frames = self.card.normalise(torch.from_numpy(images).to(self.device))
        outputs, after = [], []
        begin_s = now_s(self.device)
        for view, memory in zip(self.views, memories or (None,) * len(self.views), strict=True):
            with self._autocast():
                segmentation, memory = self.model(
                    _transformed(frames, view, self.card), memory, readout="last"
                )
            outputs.append(segmentation)
            after.append(memory)
        seconds, num_frames = now_s(self.device) - begin_s, images.shape[0] * images.shape[1]
        ms = 1e3 * seconds / num_frames if self._passes else None
        self._passes.append((seconds, num_frames))
        by_size = {size: self._labels(outputs, size) for size in set(sizes)}
        labels = [by_size[size][row] for row, size in enumerate(sizes)]
        return labels, tuple(after), ms

    def _labels(self, outputs: list[Segmentation], size: Size) -> np.ndarray:
        if self.views == (_View(1.0, False),):
            labels = outputs[0].labels(size)[:, 0]
        else:
            total: Any = 0
            for view, segmentation in zip(self.views, outputs, strict=True):
                scores = segmentation.resize(size)[:, 0].float().softmax(1)
                total = total + (scores.flip(-1) if view.flip else scores)
            labels = total.argmax(1)
        if self.void_to is not None:
            labels = labels.masked_fill(labels == self.last_class, self.void_to)
        return labels.to(torch.uint8).cpu().numpy()

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.precision == "fp32":
            return nullcontext()
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float16
        return torch.autocast(self.device.type, dtype=dtype)


def _transformed(frames: Tensor, view: _View, card: Card) -> Tensor:
    """Resize and mirror (B, T, 3, H, W) for one view, to a size that the model takes."""
    height, width = (max(1, int(side * view.scale + 0.5)) for side in frames.shape[-2:])
    frames = card.fit(frames, (height, width))
    return frames.flip(-1) if view.flip else frames


def _device_of(model: VideoSegmenter) -> torch.device:
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def _stream_is_cheaper(
    model: VideoSegmenter, video: Video, wanted: dict[Video, tuple[int, ...]]
) -> bool:
    return len(video) <= sum(len(model.window_frames(index)) for index in wanted[video])


def _run_streams(
    runner: _Runner,
    dataset: VideoDataset,
    videos: Sequence[Video],
    wanted: dict[Video, tuple[int, ...]],
    batch_size: int,
) -> Iterator[list[Observed]]:
    """Step through videos in lockstep; one that has ended repeats its last frame, unscored."""
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


def _run_windows(
    runner: _Runner,
    dataset: VideoDataset,
    videos: Sequence[Video],
    wanted: dict[Video, tuple[int, ...]],
    batch_size: int,
) -> Iterator[list[Observed]]:
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


def _check_options(precision: str, batch_size: int, scales: Sequence[float]) -> None:
    if precision not in get_args(Precision):
        raise ValueError(
            f"precision must be one of {', '.join(get_args(Precision))}, got {precision!r}"
        )
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if not scales or any(not 0 < scale <= 8 for scale in scales):
        raise ValueError(f"scales must be ratios in (0, 8], got {tuple(scales)}")


def _has_void(model: VideoSegmenter, dataset: VideoDataset) -> bool:
    """Whether the model has one class more than the data set, the last, for no class at all."""
    is_more = model.num_classes == dataset.num_classes + 1
    return is_more and [name.casefold() for name in model.card.classes[-1:]] == ["void"]


def _check_classes(model: VideoSegmenter, dataset: VideoDataset, *, has_void: bool) -> None:
    if model.num_classes - has_void != dataset.num_classes:
        raise ValueError(
            f"the model has {model.num_classes} classes and {dataset.name} has "
            f"{dataset.num_classes} ({', '.join(dataset.classes)}); choose the data set or "
            "protocol that it was trained on"
        )
    names = model.card.classes[:-1] if has_void else model.card.classes
    named = [name.casefold() for name in names]
    wanted = [name.casefold() for name in dataset.classes]
    if named != wanted and sorted(named) == sorted(wanted):
        raise ValueError(
            f"the model's classes are those of {dataset.name} in another order: "
            f"{', '.join(names)} instead of {', '.join(dataset.classes)}"
        )
    pairs = zip(names, dataset.classes, strict=False)
    differ = [
        f"{mine} as {theirs}" for mine, theirs in pairs if mine.casefold() != theirs.casefold()
    ]
    if differ:
        warnings.warn(
            f"the model's classes are named otherwise than those of {dataset.name}; it is scored "
            f"with {', '.join(differ)}",
            stacklevel=3,
        )

"""Run a model over a data set and score it: streams, windows, sliding windows, flips and scales."""

import math
import warnings
from collections.abc import Collection, Iterable, Sequence
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from vidseg.data.clip import Video, VideoDataset
from vidseg.evaluation.label_maps import LabelMaps
from vidseg.evaluation.motion import open_motion
from vidseg.evaluation.passes import Passes
from vidseg.evaluation.result import Evaluation, Observed, Observer
from vidseg.evaluation.scorer import Scorer
from vidseg.evaluation.truth import check_score_size, dataset_conventions, labelled_frames
from vidseg.flow.estimator import FlowEstimator
from vidseg.inference.context import VideoContexts, check_contexts, context_name
from vidseg.inference.runner import Runner, Windows, make_views
from vidseg.metrics.consistency import Protocol
from vidseg.precision import Precision, check_precision
from vidseg.progress import Display, Meter, silent
from vidseg.segmenter import VideoSegmenter
from vidseg.sizes import SeenSize, Size


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
    size: SeenSize = None,
    fit: Size | None = None,
    sliding: Windows = None,
    flip: bool = False,
    scales: Sequence[float] = (1.0,),
    context: Path | str | None = None,
    score_size: Size | None = None,
    save_labels: Path | str | None = None,
    max_videos: int | None = None,
    max_frames: int | None = None,
    observe: Observer | None = None,
    progress: Display = silent,
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
        size: (H, W) to which frames are stretched for the model, or "full" for their own size. By
            default as the data set has it: published ones at their own size; folders of one's own
            as `segment` does, larger frames at the size that the model's card knows.
        fit: (H, W) of a box instead: the model sees a frame at the largest size of its own aspect
            in it (`size_within`), then stretched to what it takes. Published VSPW figures are of
            (480, 853). `scales` multiply it, or the size.
        sliding: ((crop height, crop width), (stride height, stride width)), or the crop alone;
            default whole image.
        flip: average the softmax maps with those of the mirrored frames.
        scales: average the softmax maps over these sizes of the frames. Every scale and flip is
            a stream of its own: memory frames are transformed as the frame is.
        context: of a model that is not causal: a folder of what it wants to know of each video,
            `VIDEO.safetensors` or `VIDEO/centers.pt`. By default it is found in a first pass over
            each video, in every scale and flip, which `ms_per_frame` does not count.
        score_size: (h, w) at which labels are compared: the truth is reduced to it, each pixel to
            the nearest one, and the logits are resized to it. By default the size of each label.
        save_labels: a folder that gets the label map of every frame that runs, scored or passed
            through, as VIDEO/FRAME.png (VSPW's form), at the size at which labels are compared.
        max_videos: score only the first videos.
        max_frames: score at most so many labelled frames, evenly spread.
        observe: called with every frame that is scored, and with those a stream passes through,
            and with what was measured of it.
        progress: shows how many frames are done.

    Returns:
        The figures, over the set and per video.

    Raises:
        FileNotFoundError: `context` holds none of a video.
        FileExistsError: the folder of `save_labels` holds files that this run does not write.
        ValueError: an option is out of range, the model's classes are not the data set's (a last
            one called void may come on top: it is a miss of the true class wherever it is), there
            is no labelled frame, or the data set does not know its exact flow.
    """
    check_precision(precision)
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    shown = dataset.seen_size if size is None and fit is None else size
    views = make_views(size=shown, fit=fit, scales=scales, flip=flip)
    check_score_size(score_size, flow)
    has_void = _has_void(model, dataset)
    _check_classes(model, dataset, has_void=has_void)
    wanted = labelled_frames(
        dataset, max_videos=max_videos, max_frames=max_frames, every_frame=every_frame
    )
    motion = open_motion(flow, dataset, tc)
    folder = None if context is None else Path(context)
    check_contexts(model, folder, (video.name for video in wanted))
    plan = _planned(model, wanted, every_frame=every_frame)
    maps = None if save_labels is None else LabelMaps(save_labels, dataset.palette, plan.coming)
    scorer = Scorer(
        dataset,
        {video.name: indices for video, indices in plan.coming.items()},
        motion=motion,
        observe=observe,
        has_void_labels=has_void,
        every_frame=every_frame,
    )
    was_training = model.training
    runner = Runner(
        model,
        device=device,
        views=views,
        precision=precision,
        sliding=sliding,
        void_to=dataset.ignore if has_void else None,
    )
    contexts = VideoContexts(model, dataset, runner.sees, folder)
    passes = Passes(runner, dataset, contexts, wanted, batch_size, score_size)
    runs = chain(passes.streams(plan.streamed), passes.windows(plan.windowed))
    total = sum(map(len, plan.coming.values()))
    try:
        with (
            torch.inference_mode(),
            maps or nullcontext(),
            progress("evaluating", total, unit="frames") as meter,
        ):
            _take(runs, scorer, maps, meter)
    finally:
        model.train(was_training)
    conventions: dict[str, Any] = {
        **dataset_conventions(dataset, score_size),
        "run_as": plan.run_as,
        "every_frame": every_frame,
        **runner.conventions,
    }
    if not model.causal:
        conventions["context"] = context_name(folder)
    if has_void:
        conventions["void_labels"] = "the model's last class is void: a miss of the true class"
    return scorer.evaluation(conventions, runner.ms_per_frame)


def _take(
    runs: Iterable[list[Observed]],
    scorer: Scorer,
    maps: LabelMaps | None,
    meter: Meter,
) -> None:
    """Score and save what comes, and count it."""
    for results in runs:
        scorer.add(results)
        if maps is not None:
            for frame in results:
                maps.write(frame.video, frame.frame_index, frame.labels)
        meter.advance(len(results))


class _Plan(NamedTuple):
    """The plan of an evaluation: which videos run as streams or windows, and their frames."""

    streamed: list[Video]
    windowed: list[Video]
    coming: dict[Video, Collection[int]]

    @property
    def run_as(self) -> str:
        named = (("stream", self.streamed), ("windows", self.windowed))
        return " and ".join(name for name, videos in named if videos)


def _planned(
    model: VideoSegmenter, wanted: dict[Video, tuple[int, ...]], *, every_frame: bool
) -> _Plan:
    """Streams where they are cheaper, or where no window reaches back as far as the model."""

    def streams(video: Video) -> bool:
        frames = sum(len(model.window_frames(index)) for index in wanted[video])
        return every_frame or len(video) <= frames or math.isinf(model.horizon)

    streamed = [video for video in wanted if streams(video)]
    windowed = [video for video in wanted if video not in streamed]
    coming: dict[Video, Collection[int]] = {video: range(len(video)) for video in streamed}
    return _Plan(streamed, windowed, coming | {video: wanted[video] for video in windowed})


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

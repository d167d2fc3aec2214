"""Which sample comes when: a pure function of the config, the step and the process."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

import numpy as np
import torch

from vidseg.card import Card
from vidseg.data import (
    Choice,
    ClipDataset,
    Snippet,
    TrainTransform,
    Video,
    VideoDataset,
    choices,
    drawn,
    gapped,
    open_dataset,
    preceding,
    snippets,
    spaced,
)
from vidseg.data.glance import describe_missing, glance
from vidseg.data.pairs import Neighbours, PairDataset, WithVideo
from vidseg.data.windows import Window, reach
from vidseg.flow import open_flow
from vidseg.inference.runner import View
from vidseg.segmenter import VideoSegmenter
from vidseg.sizes import Size
from vidseg.training.config import (
    ChosenMemory,
    DataConfig,
    NeighboursConfig,
    Source,
    TrainingConfig,
)
from vidseg.training.teacher import saved_scores

log = logging.getLogger("vidseg.training")
_ADVICE = "vidseg data check says what the files hold"


def open_source(source: Source, where: str = "data") -> VideoDataset:
    """Open the data set that a config names; errors as `open_dataset`.

    Args:
        source: kind, root, split and options.
        where: the part of the config that names it, for messages.
    """
    root = None if source.root is None else Path(source.root).expanduser()
    try:
        return open_dataset(source.kind, root, source.split, **source.options)
    except TypeError as error:
        raise TypeError(f"{where}.options: {error}") from error


def check_labels(dataset: VideoDataset, *, trained: bool = True) -> None:
    """Warn of labels that teach nothing, before the first step.

    Args:
        dataset: some of its labels are read (`glance`).
        trained: it is trained on; else it is validated on, and may well lack a class.

    Raises:
        ValueError: every label was read, and no pixel of them counts; or a label is damaged.
    """
    seen = glance(dataset)
    is_whole = seen.looked == seen.total
    which = f"its {seen.looked} labels" if is_whole else f"{seen.looked} of its {seen.total} labels"
    if seen.is_void:
        said = (
            f"{dataset.name}: not one pixel of {which} counts, all are void; {_ADVICE} (in masks "
            "of 0 and 255, 255 is void)"
        )
        if trained and is_whole:
            raise ValueError(said)
        log.warning(said)
    elif seen.missing and trained:
        log.warning(
            "%s: %s have no pixel of %s, which will not be learned; %s",
            dataset.name,
            which,
            describe_missing(seen.missing),
            _ADVICE,
        )


def training_snippets(
    dataset: VideoDataset, data: DataConfig, model: VideoSegmenter, seed: int
) -> list[Snippet]:
    """The labelled frames to train on, with their memory frames, all windows of one length.

    A batch is one tensor: where the model's own window drops what lies before the video (LMANet's),
    such a frame is left out; its first frame, which reads nothing, would teach a memory nothing.

    Raises:
        ValueError: no labelled frame has enough frames before it.
    """
    window, length = _window(data, model, seed)
    whole = [s for s in snippets(dataset, window) if len(s.frame_indices) == length]
    if not whole:
        raise ValueError(
            f"{dataset.name}: no labelled frame has the {length - 1} frames before it that the "
            "model needs"
        )
    return whole


def _window(data: DataConfig, model: VideoSegmenter, seed: int) -> tuple[Window, int]:
    """The window of a config, and the number of its frames."""
    choice, length = data.memory, model.window_length
    if isinstance(choice, ChosenMemory):
        length = 1 + (choice.frames or length - 1)
        if choice.drawn_within is not None:
            return drawn(length - 1, choice.drawn_within, seed, start=choice.start), length
        return spaced(length - 1, choice.every or 1, start=choice.start), length
    if choice == "skip":
        return preceding(length - 1, start="skip"), length
    return model.window_frames, length


def training_choices(
    dataset: VideoDataset, data: DataConfig, model: VideoSegmenter, seed: int
) -> list[Choice]:
    """What is drawn from where `data.sampling` is "videos", time may run backwards, or gaps vary.

    Videos without a whole window are left out, with one warning.

    Raises:
        ValueError: no video has a whole window; gaps are drawn beside videos or directions.
    """
    window, length = _window(data, model, seed)
    within = data.memory.gap_within if isinstance(data.memory, ChosenMemory) else None
    if within is None:
        found = choices(dataset, window, each=data.sampling, reverse=data.reverse)
    elif data.sampling == "videos" or data.reverse:
        raise ValueError(
            "data.memory.gap_within goes through the labelled frames in the order of time; leave "
            "out data.sampling=videos and data.reverse"
        )
    else:
        found = gapped(dataset, length - 1, within)
    kept = {choice.video.name for choice in found}
    short = [video.name for video in dataset.videos if video.name not in kept]
    if not found:
        raise ValueError(
            f"{dataset.name}: no video has a labelled frame with the {reach(window)} frames "
            f"{'beside' if data.reverse else 'before'} it that a window of {length} frames spans"
        )
    if short:
        log.warning(
            "left out %d of the %d videos of %s, which have no labelled frame with the %d frames "
            "that a window spans: %s",
            len(short),
            len(dataset.videos),
            dataset.name,
            reach(window),
            ", ".join(short[:5]) + (", ..." if len(short) > 5 else ""),
        )
    return found


def window_fps(chosen: list[Snippet]) -> float | None:
    """Frames per second of the windows (median over the snippets); None where unknown."""
    gaps, rate_hz = [], None
    for snippet in chosen:
        numbers = [snippet.video.numbers[i] for i in snippet.frame_indices]
        gaps += [abs(late - early) for early, late in pairwise(numbers) if late != early]
        rate_hz = rate_hz or snippet.video.rate_hz
    return rate_hz / median(gaps) if gaps and rate_hz else None


@dataclass(frozen=True)
class Turns:
    """The phase of the first frame of a sample, by the sample's number.

    All samples of an optimiser step have one, and the last frames take the phases in turn: that of
    step 0 has phase 1, as TDNet's authors begin.

    Attributes:
        period: of the model.
        batch_size: samples of a step.
        length: frames of a sample.
    """

    period: int
    batch_size: int
    length: int

    def __call__(self, number: int) -> int:
        """0 .. period - 1."""
        last = number // self.batch_size + 1
        return (last - (self.length - 1)) % self.period


def turns_of(model: VideoSegmenter, config: TrainingConfig) -> Turns | None:
    """The phases of a run's samples; None for a model that treats all frames alike."""
    if model.period == 1:
        return None
    _, length = _window(config.data, model, config.seed)
    return Turns(model.period, config.batch_size, length)


Samples = ClipDataset | PairDataset | WithVideo


def training_samples(
    dataset: VideoDataset,
    config: TrainingConfig,
    model: VideoSegmenter,
    teacher: VideoSegmenter | None = None,
    read_context: Callable[[Video], torch.Tensor] | None = None,
) -> Samples:
    """The augmented samples of a run, by global sample number.

    Args:
        dataset: where the labelled frames come from.
        config: of the run.
        model: its window says which frames make a sample.
        teacher: runs over whole frames here if its scores are to be precomputed.
        read_context: gives what the model wants to know of a whole video; for one that is not
            causal.

    Raises:
        ValueError: no frame has the frames before it, or beside it, that the config asks for.
        FileNotFoundError: the unlabelled video is missing.
    """
    data = config.data
    transform = TrainTransform(
        crop=data.crop,
        base_size=data.base_size,
        scale=data.scale,
        max_class_share=data.max_class_share,
        flip=data.flip,
        photometric=data.photometric,
        rotation=data.rotation,
        blur=data.blur,
        translate_px=data.translate_px,
        padding=data.padding,
        mean=model.card.mean,
        std=model.card.std,
    )
    near = data.neighbours
    if near is not None and near.video is None:
        return _pairs(dataset, transform, near, config, teacher, labelled=True)
    is_gapped = isinstance(data.memory, ChosenMemory) and data.memory.gap_within is not None
    is_drawn = data.sampling == "videos" or data.reverse > 0 or is_gapped
    find = training_choices if is_drawn else training_snippets
    chosen = find(dataset, data, model, config.seed)
    clips = ClipDataset(
        dataset,
        chosen,
        transform,
        config.seed,
        shuffle=True,
        clip_labels=model.training_needs().clip_labels,
        read_context=read_context,
        phase_of=turns_of(model, config),
    )
    if near is None or near.video is None:
        return clips
    video = open_source(near.video)
    return WithVideo(clips, _pairs(video, transform, near, config, teacher, labelled=False))


def _pairs(
    dataset: VideoDataset,
    transform: TrainTransform,
    near: NeighboursConfig,
    config: TrainingConfig,
    teacher: VideoSegmenter | None,
    *,
    labelled: bool,
) -> PairDataset:
    temporal, distillation = config.loss.temporal, config.loss.distillation
    flow, scores = None, None
    if temporal is not None:
        flow = open_flow(temporal.flow, weights=temporal.flow_weights, cache=temporal.flow_cache)
    if distillation is not None and distillation.precomputed is not None:
        assert teacher is not None, "the teacher's scores are to be precomputed"
        scores = saved_scores(distillation, teacher, config.data.base_size)
        scores.fill(dataset, teacher, distillation.precision)
    return PairDataset(
        dataset,
        transform,
        Neighbours(near.offsets, near.triplet),
        flow=flow,
        occlusion=temporal is not None and temporal.occlusion,
        read_scores=scores,
        align_corners=teacher is None or teacher.align_corners,
        labelled=labelled,
        seed=config.seed,
        shuffle=True,
    )


def samples_fps(samples: Samples) -> float | None:
    """Frames per second of the windows or pairs (median); None where unknown."""
    if isinstance(samples, ClipDataset):
        return window_fps([samples.snippet(number) for number in range(len(samples))])
    return (samples.pairs if isinstance(samples, WithVideo) else samples).dataset.videos[0].fps


def trained_size(dataset: VideoDataset, data: DataConfig) -> Size:
    """The (H, W) of whole frames as training shows them; those of the first video stand for all."""
    image = dataset.read_frame(dataset.videos[0].frames[0])
    frame = (image.shape[0], image.shape[1])
    scale = min(max(1.0, data.scale[0]), data.scale[1])
    return View(scale, fit=data.base_size).size_of(frame, Card())


def plain_frames(
    dataset: VideoDataset, model: VideoSegmenter, count: int
) -> Iterator[torch.Tensor]:
    """`count` labelled frames spread over the data set, normalised, each (1, 3, H, W)."""
    frames = [video.frames[i] for video in dataset.videos for i in video.labelled]
    for place in np.linspace(0, len(frames) - 1, min(count, len(frames))).round().astype(int):
        yield model.card.normalise(dataset.read_frame(frames[place]))[None]

"""Figures of a model on plain videos: steadiness and speed, and accuracy where labelled."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch

from vidseg.data.clip import Video, VideoDataset
from vidseg.data.folder import find_masks
from vidseg.data.label_code import LabelCode
from vidseg.evaluation.motion import open_motion
from vidseg.evaluation.result import Evaluation, Observed, Observer
from vidseg.evaluation.scorer import Scorer
from vidseg.evaluation.truth import dataset_conventions
from vidseg.flow.estimator import FlowEstimator
from vidseg.inference.context import check_contexts, context_name, read_context
from vidseg.inference.frame_result import FrameResult, classes_of
from vidseg.inference.runner import Windows
from vidseg.inference.session import Session
from vidseg.inference.stream import run_video
from vidseg.metrics.consistency import Protocol
from vidseg.precision import Precision
from vidseg.progress import Display, silent
from vidseg.segmenter import VideoSegmenter
from vidseg.sizes import SeenSize, Size, width_x_height
from vidseg.video.images import in_order
from vidseg.video.reader import FrameReader, read_video


def evaluate_videos(
    model: VideoSegmenter,
    sources: Sequence[str | Path],
    *,
    labels: Sequence[Path | str] = (),
    flow: FlowEstimator | None = None,
    tc: Protocol = "vidseg",
    device: torch.device | str | None = None,
    size: SeenSize = None,
    fit: Size | None = None,
    precision: Precision = "fp32",
    sliding: Windows = None,
    context: Path | str | None = None,
    max_frames: int | None = None,
    observe: Observer | None = None,
    progress: Display = silent,
) -> Evaluation:
    """Measure a model on videos that belong to no data set, one frame after the other.

    Without labels it is measured how steady and how fast the model is, and not how right. A scene
    cut empties the memory, and nothing is compared across it.

    Args:
        model: its classes are those of the labels.
        sources: video files, or folders or globs of frames.
        labels: for each source, or for none, a folder of label maps at the size of the frames: PNG
            of class indices, 255 where void, named as the frame's image, or with the number of
            the frame (from 0) at the end of the name. Frames without one are not scored.
        flow: along which neighbouring frames are compared; None for no comparison.
        tc: protocol of TC, as for `evaluate`.
        device: where to run; default: where the model is. The model is moved there.
        size: as for `segment`: (H, W), "full", or by default the size that the model's card knows.
        fit: as for `segment`.
        precision: "bf16" and "fp16" run under autocast.
        sliding: ((crop height, crop width), (stride height, stride width)), or the crop alone;
            default whole image.
        context: of a model that is not causal, a folder as for `evaluate`. By default each video
            is read twice, first the whole of it, whatever `max_frames` is.
        max_frames: only so many frames of each video, from its start.
        observe: called with every frame and what was measured of it.
        progress: shows how many frames are done.

    Raises:
        FileNotFoundError: a source, a folder of labels, or the context of a video is missing.
        ValueError: a source is no video or has no end, is given twice, or its labels do not fit.
    """
    _check(sources, labels, max_frames)
    session = Session(
        model, device=device, size=size, fit=fit, precision=precision, sliding=sliding
    )
    # Behind damage the neighbour of a frame is missing, so the measure ends there.
    readers = [read_video(source, strict=True) for source in sources]
    dataset = _described(model, readers, labels, max_frames)
    folder = None if context is None else Path(context)
    check_contexts(model, folder, (video.name for video in dataset.videos))
    scorer = Scorer(
        dataset,
        {video.name: range(len(video)) for video in dataset.videos},
        motion=open_motion(flow, dataset, tc),
        observe=observe,
        every_frame=True,
    )
    runner = session.runner
    with progress("evaluating", dataset.num_frames, unit="frames") as meter:
        for video, reader in zip(dataset.videos, readers, strict=True):
            session.reset()
            session.context = None if folder is None else read_context(folder, video.name)
            with closing(run_video(session, reader)) as results:
                for frame in _observed(dataset, video, islice(results, len(video))):
                    scorer.add([frame if runner.is_warm else replace(frame, ms=None)])
                    meter.advance()
    conventions = {
        **dataset_conventions(dataset),
        "run_as": "stream",
        "scene_cuts": "the memory begins anew; nothing is compared across one",
        **{
            name: value
            for name, value in runner.conventions.items()
            if name not in ("scales", "flip")
        },
    }
    if not model.causal:
        conventions["context"] = context_name(folder)
    return scorer.evaluation(conventions, runner.ms_per_frame)


def _check(
    sources: Sequence[str | Path], labels: Sequence[Path | str], max_frames: int | None
) -> None:
    if max_frames is not None and max_frames < 1:
        raise ValueError(f"max_frames must be at least 1, got {max_frames}")
    if not sources:
        raise ValueError("give one video or more to measure, got none")
    if labels and len(labels) != len(sources):
        raise ValueError(
            f"give as many folders of labels as videos, or none: got {len(labels)} for "
            f"{len(sources)}"
        )


def _described(
    model: VideoSegmenter,
    readers: Sequence[FrameReader],
    labels: Sequence[Path | str],
    max_frames: int | None,
) -> VideoDataset:
    """The videos as a data set, so that they are scored as one."""
    names = _names([reader.name for reader in readers])
    videos = []
    for i, reader in enumerate(readers):
        if reader.is_live or reader.num_frames is None:
            raise ValueError(f"{reader.name} has no end; record it to a file first")
        length = min(reader.num_frames, max_frames or reader.num_frames)
        files = _label_files(Path(labels[i]), reader) if labels else {}
        videos.append(
            Video(
                name=names[i],
                frames=tuple(reader.files[:length]) or (Path(reader.name),) * length,
                labels=tuple(files.get(index) for index in range(length)),
                numbers=tuple(range(length)),
                rate_hz=float(reader.fps),
            )
        )
    classes, palette = classes_of(model)
    code = LabelCode(palette, classes)
    return VideoDataset("plain video", videos, classes, palette, code=code)


def _observed(
    dataset: VideoDataset, video: Video, results: Iterator[FrameResult]
) -> Iterator[Observed]:
    for result in results:
        file = video.labels[result.index]
        truth = None if file is None else dataset.read_label(file)
        if truth is not None and truth.shape != result.labels.shape:
            raise ValueError(
                f"{file} is {width_x_height(truth.shape)}, its frame is "
                f"{width_x_height(result.labels.shape)}; labels of a plain video must have the "
                "size of its frames"
            )
        yield Observed(
            video, result.index, result.image, result.labels, truth, result.ms, result.is_cut
        )


def _label_files(folder: Path, reader: FrameReader) -> dict[int, Path]:
    """Frame index -> label map, by the stem of the frame's image or the number in the name."""
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder of labels at {folder}")
    stems = {path.stem: index for index, path in enumerate(reader.files)}
    files, _ = find_masks(folder, stems)
    found: dict[int, Path] = {}
    for path in in_order(files.values()):
        number = re.search(r"(\d+)$", path.stem)
        index = stems.get(path.stem) if stems else None if number is None else int(number[1])
        if index is None or index >= (reader.num_frames or 0):
            wanted = "the image of a frame" if stems else "a frame of it, by its last number"
            raise ValueError(f"{path} names no frame of {reader.name}; it should name {wanted}")
        if index in found:
            raise ValueError(f"{path} and {found[index].name} name the same frame")
        found[index] = path
    if not found:
        example = f"{next(iter(stems), '000000')}.png"
        raise FileNotFoundError(
            f"{folder} holds no PNG of labels; wanted class indices, named such as {example}"
        )
    return found


def _names(sources: list[str]) -> list[str]:
    """Short names where they differ, else the sources themselves."""
    twice = sorted({source for source in sources if sources.count(source) > 1})
    if twice:
        raise ValueError(f"{', '.join(twice)} is given twice")
    short = [Path(source).stem or source for source in sources]
    return short if len(set(short)) == len(short) else sources

"""Counting frames as they come: accuracy and consistency, of videos one by one or mixed."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vidseg.data.clip import VideoDataset
from vidseg.evaluation.counts import VideoCounts
from vidseg.evaluation.motion import Motion
from vidseg.evaluation.result import (
    Agreement,
    Evaluation,
    FrameFigures,
    Observed,
    Observer,
)
from vidseg.evaluation.truth import void_truth_of
from vidseg.flow.warp import in_frame, warp
from vidseg.metrics.boundary import boundary_band
from vidseg.metrics.consistency import Protocol, TemporalConsistency
from vidseg.metrics.video_consistency import RunningVideo
from vidseg.metrics.vspw import VspwScore, VspwVideo
from vidseg.sizes import width_x_height

BOUNDARY_PX = 5


class Scorer:
    """Adds frames to the counts of their videos.

    Frames of one video come in order; videos may be mixed, as in a batch of streams. Of a video
    it holds the last frame and what VC needs, and only while its next frame is to come.

    Args:
        dataset: its classes, its rule for void, and the frames of saved label maps.
        coming: name of a video -> the indices of its frames that will come.
        motion: along which neighbouring frames are compared, and by which protocol of TC; None:
            they are not.
        observe: called with every frame and what was measured of it.
        every_frame: frames without a truth count too, for consistency. Otherwise they are passed
            over, so that a figure does not depend on whether a model ran through them.
        has_void_labels: label maps may hold void, which is a miss of the true class, and never
            stays.
    """

    def __init__(
        self,
        dataset: VideoDataset,
        coming: Mapping[str, Container[int]],
        *,
        motion: Motion | None = None,
        observe: Observer | None = None,
        every_frame: bool = False,
        has_void_labels: bool = False,
    ) -> None:
        self.dataset = dataset
        self.coming = coming
        self.motion = motion
        self.tc: Protocol = "vidseg" if motion is None else motion.protocol
        self.observe = observe
        self.every_frame = every_frame
        self.has_void_labels = has_void_labels
        self.videos: dict[str, VideoCounts] = {}
        self._official = (
            VspwVideos(dataset, has_void_labels=has_void_labels)
            if dataset.official_score == "vspw"
            else None
        )
        self._series: dict[str, list[FrameFigures]] = {}
        self._last: dict[str, Observed] = {}
        self._windows: dict[str, list[RunningVideo]] = {}

    def add(self, frames: Iterable[Observed]) -> None:
        """Count frames, and show each to `observe`.

        Raises:
            ValueError: label maps of neighbouring frames differ in size, a value is no class, or
                a flow is unfit.
        """
        for frame in frames:
            if self._official is not None:
                self._official.add(frame)
            counts_it = self.every_frame or frame.truth is not None
            figures, changed = self._add(frame) if counts_it else self._pass_over(frame)
            if self.observe:
                self.observe(frame, replace(figures, changed=changed))

    def _pass_over(self, frame: Observed) -> tuple[FrameFigures, None]:
        """A frame that only leads to the next one that counts."""
        self._finish_windows(frame.video.name)
        self._last.pop(frame.video.name, None)
        self._end(frame)
        return _figures(frame), None

    def _end(self, frame: Observed) -> None:
        is_last = frame.frame_index + 1 not in self.coming[frame.video.name]
        if is_last and self.motion is not None:
            self.motion.end(frame.video)

    def _add(self, frame: Observed) -> tuple[FrameFigures, np.ndarray | None]:
        """Count a frame; what was measured of it, and where its classes changed."""
        name = frame.video.name
        counts = self.videos.setdefault(name, self._empty())
        goes_on = frame.frame_index + 1 in self.coming[name]
        before = self._last.pop(name, None)
        if frame.is_cut:
            before = None
            self._finish_windows(name)
        _check_sizes(before, frame)
        counts.num_frames += 1
        accuracy = self._add_truth(counts, frame)
        self._add_to_windows(counts, frame, goes_on)
        flicker, changed = None, None
        if self.motion is not None:
            frame = self._with_image(frame, needed=goes_on or before is not None)
            if before is not None:
                flicker, changed = self._add_pair(self.motion, counts, before, frame)
        if goes_on:
            self._last[name] = frame
        self._end(frame)
        figures = _figures(frame, accuracy, flicker)
        self._series.setdefault(name, []).append(figures)
        return figures, changed

    def evaluation(self, conventions: dict[str, Any], ms_per_frame: float | None) -> Evaluation:
        """The figures of all videos, in the order of the data set."""
        for name in list(self._windows):
            self._finish_windows(name)
        order = [video.name for video in self.dataset.videos if video.name in self.videos]
        of_pairs = ("frames_per_second", "score_size")
        decides = ("data", "protocol", "num_classes", "score_size", "void", "mean")
        # For programs, so not in the words that conventions have for people.
        stated = {**conventions, "void": void_truth_of(self.dataset)}
        flow: dict[str, Any] = {"flow": None}
        if self.motion is not None:
            pairs = "frames" if self.every_frame else "labelled frames"
            flow = {"flow": self.motion.name, "valid": self.motion.valid}
            flow["pairs"] = f"of neighbouring {pairs}"
        return Evaluation(
            classes=self.dataset.classes,
            palette=self.dataset.palette,
            videos={name: self.videos[name] for name in order},
            conventions=conventions,
            protocols={
                "accuracy": {
                    **{key: stated[key] for key in decides if key in stated},
                    "boundary": f"within {BOUNDARY_PX} px of another true class",
                },
                "consistency": {
                    "protocol": self.tc,
                    **flow,
                    **{key: conventions[key] for key in of_pairs if key in conventions},
                },
            },
            series=[figures for name in order for figures in self._series[name]],
            ms_per_frame=ms_per_frame,
            vspw=None if self._official is None else self._official.score(),
        )

    def _empty(self) -> VideoCounts:
        return VideoCounts.empty(
            self.dataset.num_classes,
            self.dataset.ignore,
            void_truth=void_truth_of(self.dataset),
            has_void_labels=self.has_void_labels,
            tc=self.tc,
        )

    def _add_truth(self, counts: VideoCounts, frame: Observed) -> float | None:
        """Count a frame against its truth; its pixel accuracy."""
        if frame.truth is None:
            return None
        alone = self._empty()
        alone.num_scored = 1
        alone.confusion.update(frame.labels, frame.truth)
        band = boundary_band(frame.truth, BOUNDARY_PX, self.dataset.ignore)
        alone.boundary.update(frame.labels, frame.truth, band)
        counts.merge(alone)
        accuracy = alone.confusion.pixel_accuracy()
        return None if np.isnan(accuracy) else accuracy

    def _add_to_windows(self, counts: VideoCounts, frame: Observed, goes_on: bool) -> None:
        """Add a frame to the windows of VC, which end where frames without truth begin."""
        name = frame.video.name
        if frame.truth is None:
            self._finish_windows(name)
            return
        if name not in self._windows and goes_on:
            measures = (*counts.vc.values(), *counts.vc_correct.values())
            self._windows[name] = [measure.video() for measure in measures]
        for windows in self._windows.get(name, ()):
            windows.add(frame.labels, frame.truth)
        if not goes_on:
            self._finish_windows(name)

    def _finish_windows(self, name: str) -> None:
        for windows in self._windows.pop(name, ()):
            windows.finish()

    def _with_image(self, frame: Observed, *, needed: bool) -> Observed:
        if frame.image is not None or not needed:
            return frame
        path = frame.video.frames[frame.frame_index]
        return replace(frame, image=self.dataset.read_frame(path))

    def _add_pair(
        self, motion: Motion, counts: VideoCounts, before: Observed, now: Observed
    ) -> tuple[float | None, np.ndarray | None]:
        """Compare a frame with the one before it; its flicker, and where its class changed."""
        assert before.image is not None, "the frame before was given its image"
        assert now.image is not None, "the frame was given its image"
        size = now.labels.shape[0], now.labels.shape[1]
        flow, valid = motion(now.video, now.frame_index, before.image, now.image, size)
        counts.num_pairs += 1
        labels = np.stack([before.labels, now.labels])
        if not isinstance(counts.consistency, TemporalConsistency):
            counts.consistency.update(labels, flow[None])
            return None, None
        assert valid is not None, "the motion says where the past was visible"
        alone = TemporalConsistency(self.dataset.num_classes, self.dataset.ignore)
        alone.update(labels, flow[None], valid[None])
        counts.consistency.merge(alone)
        if before.truth is not None and now.truth is not None:
            truths = np.stack([before.truth, now.truth])
            counts.truth_consistency.update(truths, flow[None], valid[None])
        flicker = alone.flicker()
        changed = self._changed(before, now, flow, valid) if self.observe else None
        return None if np.isnan(flicker) else flicker, changed

    def _changed(self, before: Observed, now: Observed, flow: Tensor, valid: Tensor) -> np.ndarray:
        carried = warp(torch.from_numpy(before.labels), flow, mode="nearest").numpy()
        ignore = self.dataset.ignore
        use = (valid & in_frame(flow)).numpy() & (carried != ignore) & (now.labels != ignore)
        changed = np.where(carried == now.labels, Agreement.SAME, Agreement.OTHER)
        return np.where(use, changed, Agreement.NOT_COMPARED).astype(np.uint8)


def _check_sizes(before: Observed | None, now: Observed) -> None:
    if before is not None and before.labels.shape != now.labels.shape:
        sizes = (width_x_height(one.labels.shape) for one in (before, now))
        raise ValueError(
            f"the label maps of {now.video.name} must have one size to be compared, got "
            f"{' and '.join(sizes)} (frame {now.video.numbers[now.frame_index]})"
        )


def _figures(
    frame: Observed, pixel_accuracy: float | None = None, flicker: float | None = None
) -> FrameFigures:
    numbers, rate_hz = frame.video.numbers, frame.video.rate_hz
    number = numbers[frame.frame_index]
    time_s = None if rate_hz is None else (number - numbers[0]) / rate_hz
    return FrameFigures(frame.video.name, number, time_s, pixel_accuracy, flicker, frame.ms)


class VspwVideos:
    """Feeds VSPW's score with frames as they come: of one video in order, of several mixed.

    The tool reads whole videos, so a frame that is left out, or has no truth, leaves no score at
    all. Videos without any label are passed over.

    Args:
        dataset: its classes and its value of void.
        has_void_labels: label maps may hold void, which is a miss of the true class.
    """

    def __init__(self, dataset: VideoDataset, *, has_void_labels: bool = False) -> None:
        self._score = VspwScore(
            dataset.num_classes,
            dataset.ignore,
            void_labels="miss" if has_void_labels else "error",
        )
        self._running: dict[str, VspwVideo] = {}
        self._is_whole = True

    def add(self, frame: Observed) -> None:
        """Add a frame, scored or passed through."""
        if not self._is_whole or not any(frame.video.labels):
            return
        running = self._running.setdefault(frame.video.name, self._score.video())
        if frame.truth is None or frame.frame_index != running.num_frames:
            self._is_whole = False
            self._running.clear()
            return
        running.add(frame.labels, frame.truth)
        if running.num_frames == len(frame.video):
            running.finish()
            del self._running[frame.video.name]

    def score(self) -> VspwScore:
        """The score of all videos; an empty one where a frame of one was left out."""
        is_whole = self._is_whole and not self._running
        return self._score if is_whole else VspwScore(self._score.confusion.num_classes)

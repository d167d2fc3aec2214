"""Frames that a report shows: the worst and the slowest of a whole run, and some evenly spread.

They are made small when they are kept, and there are never more than a few dozen: memory does not
grow with the videos.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from vidseg.data.clip import Video
from vidseg.evaluation.result import FrameFigures, Observed
from vidseg.report.pictures import shrink_image, shrink_labels, shrink_state

APART_FRAMES = 5


class Reason(StrEnum):
    """Why a frame is kept."""

    FLICKERS = "flickers most"
    INACCURATE = "least accurate"
    SLOW = "slowest"
    SPREAD = "evenly spread"


NUM_KEPT = {Reason.FLICKERS: 4, Reason.INACCURATE: 3, Reason.SLOW: 2, Reason.SPREAD: 3}


@dataclass(frozen=True, eq=False)
class Moment:
    """A frame that is kept, at the size of a picture in a report.

    Attributes:
        video: the video that it belongs to.
        frame_index: its place in the video.
        figures: what was measured of it; `changed` is small too.
        image: (H, W, 3) uint8 RGB; None where saved label maps are scored.
        labels: (h, w) uint8.
        truth: (h, w) uint8, or None.
        reasons: why it is kept.
    """

    video: Video
    frame_index: int
    figures: FrameFigures
    image: np.ndarray | None
    labels: np.ndarray
    truth: np.ndarray | None
    reasons: tuple[Reason, ...] = ()


class Samples:
    """An observer that keeps a few frames: see `NUM_KEPT`.

    Two frames that are kept for one reason lie `APART_FRAMES` or more apart, so that one bad
    second does not fill the page. The frames that are evenly spread are chosen among those with a
    truth, if there are any.
    """

    def __init__(self) -> None:
        self._worst = {
            reason: _Worst(NUM_KEPT[reason])
            for reason in (Reason.FLICKERS, Reason.INACCURATE, Reason.SLOW)
        }
        self._spread = _Spread(NUM_KEPT[Reason.SPREAD])
        self._labelled = _Spread(NUM_KEPT[Reason.SPREAD])

    def __call__(self, frame: Observed, figures: FrameFigures) -> None:
        """Look at a frame."""

        @functools.cache
        def small() -> Moment:
            return _small(frame, figures)

        errors = None if figures.pixel_accuracy is None else 1 - figures.pixel_accuracy
        badness = {
            Reason.FLICKERS: figures.flicker,
            Reason.INACCURATE: errors,
            Reason.SLOW: figures.ms,
        }
        for reason, value in badness.items():
            if value is not None:
                self._worst[reason].offer(value, frame, small)
        self._spread.offer(small)
        if frame.truth is not None:
            self._labelled.offer(small)

    @property
    def kept(self) -> list[Moment]:
        """The frames, worst first, each once with all its reasons; the evenly spread at the end."""
        spread = self._labelled.chosen() or self._spread.chosen()
        lists = {reason: worst.chosen() for reason, worst in self._worst.items()}
        found: dict[tuple[str, int], Moment] = {}
        for reason, moments in {**lists, Reason.SPREAD: spread}.items():
            for moment in moments:
                key = moment.video.name, moment.frame_index
                known = found.get(key, moment)
                found[key] = replace(known, reasons=(*known.reasons, reason))
        return list(found.values())


class _Worst:
    """The frames with the largest values, no two of them close to each other."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._held: list[tuple[float, Moment]] = []
        self._least = math.inf

    def offer(self, value: float, frame: Observed, make: Callable[[], Moment]) -> None:
        held = self._held
        self._least = min(self._least, value)
        near = [i for i, (_, moment) in enumerate(held) if _is_near(moment, frame)]
        if near:  # frames come in order, so only the last of a video can be near
            place = near[0]
        elif len(held) < self._size:
            held.append((value, make()))
            return
        else:
            place = min(range(len(held)), key=lambda i: held[i][0])
        if value > held[place][0]:
            held[place] = value, make()

    def chosen(self) -> list[Moment]:
        """Worst first; where all frames are alike, none is."""
        worst = sorted(self._held, key=lambda pair: -pair[0])
        return [moment for value, moment in worst if value > self._least]


class _Spread:
    """Every n-th frame; n doubles when there are too many, so the length need not be known."""

    def __init__(self, wanted: int) -> None:
        self._wanted = wanted
        self._distance, self._seen = 1, 0
        self._held: list[Moment] = []

    def offer(self, make: Callable[[], Moment]) -> None:
        if self._seen % self._distance == 0:
            self._held.append(make())
            if len(self._held) > 4 * self._wanted:
                self._held = self._held[::2]
                self._distance *= 2
        self._seen += 1

    def chosen(self) -> list[Moment]:
        count = min(self._wanted, len(self._held))
        return [self._held[(2 * i + 1) * len(self._held) // (2 * count)] for i in range(count)]


def _is_near(moment: Moment, frame: Observed) -> bool:
    same = moment.video.name == frame.video.name
    return same and abs(moment.frame_index - frame.frame_index) < APART_FRAMES


def _small(frame: Observed, figures: FrameFigures) -> Moment:
    return Moment(
        video=frame.video,
        frame_index=frame.frame_index,
        figures=replace(
            figures,
            changed=None if figures.changed is None else shrink_state(figures.changed),
        ),
        image=None if frame.image is None else shrink_image(frame.image),
        labels=shrink_labels(frame.labels),
        truth=None if frame.truth is None else shrink_labels(frame.truth),
    )

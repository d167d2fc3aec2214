"""The figures of a data set's own tool, beside those of this library."""

from __future__ import annotations

from vidseg.data.clip import VideoDataset
from vidseg.inference.evaluation import Observed
from vidseg.metrics.vspw import VspwScore, VspwVideo


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

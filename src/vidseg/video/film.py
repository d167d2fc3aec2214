"""A video file as frames: exact numbers and times, and what is to be said of its faults."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vidseg.video.decoding import Decoder
from vidseg.video.packets import DamagedError, scan
from vidseg.video.pictures import Pictures, display_matrix, shown_aspect
from vidseg.video.sound import SoundSource
from vidseg.video.sources import local_address, open_video

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream


@dataclass(frozen=True, eq=False)
class Frame:
    """One decoded frame.

    Attributes:
        index: its number in the source, in display order, from 0; a picture that cannot be
            decoded keeps its number, unless it stands before all that can.
        time_s: seconds from the source's first frame.
        image: (H, W, 3) uint8 RGB, upright.
        duration_s: how long it is shown, in seconds; None if nobody knows.
    """

    index: int
    time_s: float
    image: np.ndarray
    duration_s: float | None = None


class Film:
    """The pictures of one video file. Frame 0 is the first that can be decoded.

    Args:
        path: the file.
        end_s: seconds from the first frame; what comes later is not looked at. None for all.
        is_strict: end at the first damaged picture, instead of going on behind it.

    Attributes:
        num_frames: pictures from the first that can be decoded on; some may turn out damaged.
        rate_hz: frames a second.
        sound: where the sound is; None if there is none.
        pixel_aspect: width : height of a shown pixel.
        notes: what the user should know and is no damage; it grows while frames are read.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a video, or no frame of it can be decoded.
    """

    def __init__(self, path: Path, end_s: float | None, *, is_strict: bool) -> None:
        def open_file() -> tuple[InputContainer, VideoStream]:
            return open_video(local_address(path), str(path))

        container, stream = open_file()
        with container:
            index = scan(container, stream, end_s)
            aspect = Fraction(stream.sample_aspect_ratio or 1)
            sound = SoundSource.of(path, container)
            self._pictures = Pictures(stream)
        if index.num_packets == 0:
            fault = index.damage or "its video stream is empty"
            raise ValueError(f"{path} holds no frames: {fault}")
        try:
            self._decoder = Decoder(open_file, index, is_strict=is_strict)
        except DamagedError as damage:
            raise ValueError(f"no frame of {path} can be decoded: {damage}") from damage
        self._index, self._clock, self._begin = index, index.clock, self._decoder.begin
        self._begin_s = self._clock.time_s(self._begin)
        self.notes = self._pictures.notes
        self.num_frames = index.num_packets - self._begin
        self.rate_hz = self._clock.rate_hz
        self.pixel_aspect = shown_aspect(aspect, display_matrix(self._decoder.first_frame))
        self.sound = sound and sound.beside(
            self._clock.stretches,
            zero_s=self._clock.zero_s + self._begin_s,
            end_s=self.time_s(self.num_frames - 1) + self._clock.last_s if index.is_whole else None,
        )
        if self._begin:
            self.notes.append(self._late_start())
        if index.corrupt and not is_strict:
            self.notes.append(
                f"{len(index.corrupt)} of {index.num_packets} packets were damaged on the way; "
                "pictures behind them, up to the next keyframe, may be wrong"
            )

    def time_s(self, index: int) -> float:
        """Seconds from the first frame to frame `index`."""
        return self._clock.time_s(self._begin + index) - self._begin_s

    def first_at(self, time_s: float) -> int:
        """The first frame at or after a time."""
        return max(0, self._clock.first_at(self._begin_s + time_s) - self._begin)

    def close(self) -> None:
        """Close the file."""
        self._decoder.close()

    def frames(self, wanted: range, end_s: float | None) -> Iterator[Frame]:
        """Decode frames.

        Args:
            wanted: their numbers.
            end_s: seconds; the last frame stands until then, at most.

        Raises:
            DamagedError: at the end, if pictures were missing or the file is cut short.
        """
        last, gaps = wanted.start - 1, []
        for place, picture in self._decoder.frames(self._begin + wanted.start):
            index = place - self._begin
            if index >= wanted.stop:
                break
            gaps += [range(last + 1, index)] if index > last + 1 else []
            last = index
            if index in wanted:
                yield self._frame(index, self._pictures(picture), wanted.step, end_s)
        gaps += [range(last + 1, wanted.stop)] if last + 1 < wanted.stop else []
        self._tell(last, gaps, reads_to_end=wanted.stop >= self.num_frames)

    def _frame(self, index: int, image: np.ndarray, step: int, end_s: float | None) -> Frame:
        time_s, follower = self.time_s(index), index + step
        if follower < self.num_frames:
            until_s = self.time_s(follower)
        else:
            until_s = self.time_s(self.num_frames - 1) + self._clock.last_s
        if end_s is not None:
            until_s = min(until_s, end_s)
        return Frame(index, time_s, image, until_s - time_s)

    def _tell(self, last: int, gaps: list[range], *, reads_to_end: bool) -> None:
        """Raise for what was lost. A packet without a frame is no loss if nothing was wrong."""
        faults = []
        if gaps and (self._decoder.reason or self._index.corrupt):
            last = max(0, gaps[0].start - 1)
            count = sum(len(gap) for gap in gaps)
            reason = self._decoder.reason or "packets are damaged"
            faults.append(f"{count} frame{'s'[: count != 1]} cannot be decoded ({reason})")
        if self._index.damage is not None and reads_to_end:
            faults.append(self._index.damage)
        if faults:
            raise DamagedError("; ".join(faults), (last, self.time_s(last)))

    def _late_start(self) -> str:
        what = f"the first {self._begin} pictures" if self._begin > 1 else "the first picture"
        if 0 in self._index.keyframes:
            return f"{what} cannot be decoded: the file begins with damage"
        return f"{what} cannot be decoded: the recording begins between two keyframes"

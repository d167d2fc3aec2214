"""What a source holds beside its pictures, carried over into the video written from them.

Sound never costs the pictures: what cannot be carried over is left out, and said in `notes`.
"""

from __future__ import annotations

import errno
import io
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vidseg.video.clock import JUMP_S, WRAP, Stretch
from vidseg.video.sources import is_cover, local_address

if TYPE_CHECKING:
    from av.container import InputContainer, OutputContainer

AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
AAC_FRAME = 1024  # samples
NOT_PLAYED_IN_MP4 = ("pcm_", "vorbis", "truehd")  # libav writes them; browsers are silent
PROBE_PACKETS = 8
DRIFT_S = 0.1  # sound that is off by less follows the sound before it without a gap
NEAR_S = 2.0  # sound and pictures of one recording begin and end within this
DISK_ERRORS = (errno.ENOSPC, errno.EIO, errno.EFBIG, errno.EDQUOT, errno.EROFS, errno.EACCES)
WRAP_S = WRAP / 90_000
TICK = Fraction(1, 1_000_000)  # finer than the clocks of AVI (a frame) and Matroska (1 ms)


@dataclass(frozen=True)
class SoundSource:
    """What a video file holds beside its pictures, and how its clock fits the frames' times.

    Attributes:
        path: the file.
        has_sound: there is a sound track.
        others: what there is beside the first video and the first sound track, in words.
        stretches: runs of the file's clock, see `Clock`.
        zero_s: where frames have `time_s` 0, on the clock of the first stretch.
        end_s: `time_s` of the end of the file's last picture; None if the file was not read whole.
    """

    path: Path
    has_sound: bool = True
    others: tuple[str, ...] = ()
    stretches: tuple[Stretch, ...] = ()
    zero_s: float = 0.0
    end_s: float | None = None

    @classmethod
    def of(cls, path: Path, container: InputContainer) -> SoundSource | None:
        """What an open file holds; None for nothing but pictures."""
        has_sound, others = bool(container.streams.audio), _others(container)
        return cls(path, has_sound, others) if has_sound or others else None

    def beside(
        self, stretches: tuple[Stretch, ...], *, zero_s: float, end_s: float | None
    ) -> SoundSource:
        """The same, on the clock of the pictures."""
        return replace(self, stretches=stretches, zero_s=zero_s, end_s=end_s)


def _others(container: InputContainer) -> tuple[str, ...]:
    """Tracks beside the first pictures and the first sound, counted by kind."""
    covers = sum(is_cover(stream) for stream in container.streams.video)
    is_timecode = [_is_timecode(stream) for stream in container.streams.data]
    counts = {
        "more video track": len(container.streams.video) - covers - 1,
        "more sound track": len(container.streams.audio) - 1,
        "subtitle track": len(container.streams.subtitles),
        "timecode track": sum(is_timecode),
        "data track": len(is_timecode) - sum(is_timecode),
        "cover picture": covers,
        "attachment": len(container.streams.attachments),
    }
    return tuple(f"{n} {what}{'s'[: n != 1]}" for what, n in counts.items() if n > 0)


def _is_timecode(stream: Any) -> bool:
    return "timecode" in stream.metadata


class SoundTracks:
    """Tracks of a file, handed over packet by packet as the pictures go on.

    Args:
        source: the file.
        start_s: `time_s` of the first frame that is written.
        notes: what is left out or changed is added here.
        keeps_all: every track that the output takes, and not only the first sound.
    """

    def __init__(
        self, source: SoundSource, start_s: float, notes: list[str], *, keeps_all: bool = False
    ) -> None:
        import av

        self._notes = notes
        self._source = source
        self._start_s = start_s
        self._keeps_all = keeps_all
        self._container = av.open(local_address(source.path), metadata_errors="replace")
        self._tracks: list[_Track] = []
        self._items: Generator[tuple[float, _Track, Any], None, None] = self._read()
        self._next: tuple[float, _Track, Any] | None = None

    def attach(self, output: OutputContainer) -> None:
        """Add streams to a file that has not begun yet."""
        streams = [*self._container.streams.audio, *self._container.streams.subtitles]
        if not self._keeps_all:
            streams = streams[: self._source.has_sound]
        for stream in streams:
            try:
                track = _make_track(stream, output, self._source.path)
            except _sound_errors() as error:
                _raise_if_disk(error)
                track = None
            if track is None:
                self._notes.append(f"the {_name(stream)} cannot be kept in {output.format.name}")
            else:
                track.seek(self._source)
                self._tracks.append(track)
        kept = ("sound", "subtitle") if self._keeps_all else ()
        lost = [what for what in self._source.others if not any(kind in what for kind in kept)]
        if lost:
            advice = (
                "" if self._keeps_all else "; --all-tracks keeps sound and subtitles in an .mkv"
            )
            self._notes.append(f"left out: {', '.join(lost)}{advice}")
        self._seek()
        self._next = next(self._items, None)

    def write_until(self, time_s: float) -> None:
        """Hand over what comes before a time, counted from the first picture written."""
        while self._next is not None and self._next[0] < time_s:
            self._write(self._next[1], lambda track, item=self._next: track.write(item[0], item[2]))
            self._next = next(self._items, None)

    def finish(self, end_s: float) -> None:
        """Hand over the rest.

        Args:
            end_s: of the last picture written, counted from the first; if it is the last one of
                the source, its sound goes on to its own end.
        """
        last_s = self._source.end_s
        is_whole = last_s is not None and end_s >= last_s - self._start_s - DRIFT_S
        self.write_until(float("inf") if is_whole else end_s)
        for track in list(self._tracks):
            self._write(track, lambda track: track.finish())

    def close(self) -> None:
        """Close the source."""
        self._items.close()
        self._container.close()

    def _write(self, track: _Track, act: Any) -> None:
        if track not in self._tracks:
            return
        try:
            act(track)
        except _sound_errors() as error:
            _raise_if_disk(error)
            self._tracks.remove(track)
            self._notes.append(f"the {track.name} breaks off: {error}")

    def _seek(self) -> None:
        from av.error import FFmpegError

        if self._start_s > 1 and len(self._source.stretches) < 2:
            target_s = self._source.zero_s + self._start_s - 1
            with suppress(FFmpegError):
                self._container.seek(int(target_s * 1e6))

    def _read(self) -> Generator[tuple[float, _Track, Any], None, None]:
        """(time, track, packet or decoded frame), from the first picture on."""
        from av.error import FFmpegError

        of_stream = {track.stream.index: track for track in self._tracks}
        if not of_stream:
            return
        with suppress(FFmpegError):  # damaged sound ends early
            for packet in self._container.demux([track.stream for track in self._tracks]):
                track = of_stream[packet.stream.index]
                for item in track.items(packet):
                    time_s = track.time_s(item) - self._start_s
                    if time_s >= 0:
                        yield time_s, track, item


class _Track:
    """One track on its way; see `_Copied` and `_Encoded`."""

    def __init__(self, stream: Any, target: Any, output: OutputContainer) -> None:
        self.stream = stream
        self.name = _name(stream)
        self._target = target
        self._output = output
        self._stretches: tuple[Stretch, ...] = ()
        self._stretch = 0
        self._zero_s = 0.0
        self._last_s: float | None = None

    def seek(self, source: SoundSource) -> None:
        """Learn how the clock of the file fits the times of the frames."""
        self._stretches, self._zero_s = source.stretches, source.zero_s

    def time_s(self, item: Any) -> float:
        """`time_s` of a packet or decoded frame, also behind a place where recordings join."""
        raw_s, last_s = float(item.pts * item.time_base), self._last_s
        if last_s is not None and self._stretches and self._stretches[0].wraps:
            raw_s = last_s + (raw_s - last_s + WRAP_S / 2) % WRAP_S - WRAP_S / 2
        self._last_s = raw_s
        rest = self._stretches[self._stretch + 1 :]
        if rest and last_s is not None and not -DRIFT_S <= raw_s - last_s <= JUMP_S:
            near = (
                k for k, s in enumerate(rest) if s.begin_s - NEAR_S <= raw_s <= s.end_s + NEAR_S
            )
            self._stretch += 1 + next(near, 0)
        shift_s = self._stretches[self._stretch].shift_s if self._stretches else 0.0
        return raw_s + shift_s - self._zero_s

    def items(self, packet: Any) -> list[Any]:
        """The packet, or what is decoded from it."""
        raise NotImplementedError

    def write(self, time_s: float, item: Any) -> None:
        """Hand over one item of `items`."""
        raise NotImplementedError

    def finish(self) -> None:
        """Hand over what is held back."""


class _Copied(_Track):
    """Packets as they are, with times that rise."""

    _end: int | None = None

    def items(self, packet: Any) -> list[Any]:
        return [packet] if packet.size and packet.pts is not None else []

    def write(self, time_s: float, item: Any) -> None:
        pts = round(time_s / TICK)
        if self._end is not None and pts < self._end and self.stream.type == "audio":
            if pts < self._end - DRIFT_S / TICK:
                return  # a jump back in damaged sound
            pts = self._end  # rounded by a clock that is coarse
        duration = round((item.duration or 0) * item.time_base / TICK)
        item.pts = item.dts = pts
        item.duration = duration
        item.time_base = TICK
        item.stream = self._target
        self._end = pts + max(1, duration)
        self._output.mux(item)


class _Encoded(_Track):
    """Sound decoded and encoded anew, on a clock that counts its samples."""

    def __init__(self, stream: Any, target: Any, output: OutputContainer) -> None:
        from av import AudioResampler

        super().__init__(stream, target, output)
        codec = target.codec_context
        self._rate, self._layout = codec.sample_rate, codec.layout.name
        self._resampler = AudioResampler("fltp", codec.layout, codec.sample_rate)
        self._held = np.zeros((len(codec.layout.channels), 0), np.float32)
        self._begin = 0  # of what is held, in samples

    def items(self, packet: Any) -> list[Any]:
        from av.error import FFmpegError

        try:
            return [frame for frame in packet.decode() if frame.pts is not None]
        except FFmpegError:
            return []  # a gap, in damaged sound

    def write(self, time_s: float, item: Any) -> None:
        at, end = round(time_s * self._rate), self._begin + self._held.shape[1]
        if at < end - DRIFT_S * self._rate:
            return  # a jump back in damaged sound
        if at > end + DRIFT_S * self._rate or not end:
            self._pad()
            self._begin = at
        item.pts = None
        for frame in self._resampler.resample(item):
            self._held = np.concatenate([self._held, frame.to_ndarray()], axis=1)
        self._encode()

    def finish(self) -> None:
        for frame in self._resampler.resample(None):
            self._held = np.concatenate([self._held, frame.to_ndarray()], axis=1)
        self._pad()
        self._output.mux(self._target.encode(None))

    def _pad(self) -> None:
        """Encode all that is held, up to a whole frame of silence behind it."""
        short = -self._held.shape[1] % AAC_FRAME
        self._held = np.pad(self._held, ((0, 0), (0, short)))
        self._encode()

    def _encode(self) -> None:
        from av import AudioFrame

        while self._held.shape[1] >= AAC_FRAME:
            part, self._held = self._held[:, :AAC_FRAME], self._held[:, AAC_FRAME:]
            frame = AudioFrame.from_ndarray(np.ascontiguousarray(part), "fltp", self._layout)
            frame.sample_rate = self._rate
            frame.pts, frame.time_base = self._begin, Fraction(1, self._rate)
            self._begin += AAC_FRAME
            self._output.mux(self._target.encode(frame))


def _name(stream: Any) -> str:
    kind = "sound" if stream.type == "audio" else stream.type
    codec = stream.codec_context.codec.canonical_name if stream.codec_context else "unknown codec"
    return f"{kind} ({codec})"


def _make_track(stream: Any, output: OutputContainer, path: Path) -> _Track | None:
    """A track of the output: copied if the container takes it, else as AAC; None for neither."""
    if _takes(output, stream, path):
        target = output.add_stream_from_template(stream)
        track: _Track = _Copied(stream, target, output)
    elif stream.type == "audio" and stream.codec_context is not None:
        rate, layout = stream.codec_context.sample_rate, stream.codec_context.layout
        target = output.add_stream("aac", rate=rate if rate in AAC_RATES else 48000)
        target.codec_context.layout = layout.name if _fits_aac(layout) else "stereo"
        track = _Encoded(stream, target, output)
    else:
        return None
    for key in ("language", "title"):
        if key in stream.metadata:
            target.metadata[key] = stream.metadata[key]
    return track


def _fits_aac(layout: Any) -> bool:
    return layout.name in ("mono", "stereo", "3.0", "4.0", "5.0", "5.1", "7.1")


def _takes(output: OutputContainer, stream: Any, path: Path) -> bool:
    """Whether a container takes packets of a stream as they are: it is tried, in memory."""
    import av

    if stream.codec_context is None:
        return False
    name = stream.codec_context.codec.canonical_name
    is_mp4 = output.format.name in ("mp4", "ipod", "m4v")
    if name not in output.supported_codecs or (is_mp4 and name.startswith(NOT_PLAYED_IN_MP4)):
        return False
    try:
        with (
            av.open(local_address(path), metadata_errors="replace") as source,
            av.open(io.BytesIO(), "w", format=output.format.name) as trial,
        ):
            target = trial.add_stream_from_template(source.streams[stream.index])
            trial.start_encoding()
            track = _Copied(source.streams[stream.index], target, trial)
            for packet in _some_packets(source, stream.index):
                for item in track.items(packet):
                    track.write(track.time_s(item), item)
    except _sound_errors():
        return False
    return True


def _some_packets(source: InputContainer, index: int) -> Iterator[Any]:
    for count, packet in enumerate(source.demux(source.streams[index])):
        if count == PROBE_PACKETS:
            return
        yield packet


def _sound_errors() -> tuple[type[Exception], ...]:
    from av.error import FFmpegError

    return FFmpegError, ValueError


def _raise_if_disk(error: Exception) -> None:
    """A full or failing disk is no fault of the sound."""
    if isinstance(error, OSError) and error.errno in DISK_ERRORS:
        raise error

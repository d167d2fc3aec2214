"""The sound of a source, carried over into the video that is written from its pictures."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from av.container import OutputContainer

COPIED_CODECS = ("aac", "mp3", "ac3", "eac3", "alac", "opus", "flac")
"""What MP4 can hold as it is; other codecs become AAC."""
AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)


class SoundTrack:
    """The first sound stream of a file, handed over packet by packet as the pictures go on.

    Args:
        path: the file.
        start_s: time of the first picture that is written, counted from the file's first picture.
    """

    def __init__(self, path: str | Path, start_s: float = 0.0) -> None:
        import av
        from av.error import FFmpegError

        self._container = av.open(str(path))
        self._stream = self._container.streams.audio[0]
        self._copies = self._stream.codec_context.name in COPIED_CODECS
        self._output: Any = None
        self._target: Any = None
        self._last_dts: int | None = None
        video = self._container.streams.video[0]
        picture_s = float((video.start_time or 0) * (video.time_base or 1))
        self._origin_s = picture_s + start_s
        if start_s > 1:
            try:
                self._container.seek(int((self._origin_s - 1) * 1e6))
            except FFmpegError:
                self._container.seek(0)
        self._items = self._read()
        self._next = next(self._items, None)

    @classmethod
    def of(cls, path: str | Path | None, start_s: float = 0.0) -> SoundTrack | None:
        """The sound of a file, or None where there is none that can be read."""
        import av
        from av.error import FFmpegError

        if path is None:
            return None
        try:
            with av.open(str(path)) as container:
                audio = container.streams.audio
                if not audio or audio[0].codec_context is None or not container.streams.video:
                    return None
            return cls(path, start_s)
        except FFmpegError:
            return None

    def attach(self, output: OutputContainer) -> None:
        """Add a stream for the sound to a file that has not begun yet."""
        self._output = output
        if self._copies:
            self._target = output.add_stream_from_template(self._stream)
        else:
            rate = self._stream.codec_context.sample_rate
            self._target = output.add_stream("aac", rate=rate if rate in AAC_RATES else 48000)

    def write_until(self, time_s: float) -> None:
        """Hand over the sound before a time, counted from the first picture written."""
        while self._next is not None and self._next[0] < time_s:
            self._write(self._next[1])
            self._next = next(self._items, None)

    def finish(self) -> None:
        """Hand over what the sound encoder still holds."""
        if not self._copies:
            self._output.mux(self._target.encode(None))

    def close(self) -> None:
        """Close the source."""
        self._items.close()
        self._container.close()

    def _read(self) -> Generator[tuple[float, Any], None, None]:
        """(time, packet or decoded frame), from the origin on; damaged sound ends early."""
        from av.error import FFmpegError

        try:
            for packet in self._container.demux(self._stream):
                items: list[Any] = [packet] if self._copies else packet.decode()
                for item in items:
                    if item.pts is None or (self._copies and not packet.size):
                        continue
                    time_s = float(item.pts * item.time_base) - self._origin_s
                    if time_s >= 0:
                        yield time_s, item
        except FFmpegError:
            return

    def _write(self, item: Any) -> None:
        origin = round(self._origin_s / item.time_base)
        item.pts -= origin
        if not self._copies:
            self._output.mux(self._target.encode(item))
            return
        if item.dts is not None:
            item.dts -= origin
            if self._last_dts is not None and item.dts <= self._last_dts:
                return  # a jump back in damaged sound, which MP4 refuses
            self._last_dts = item.dts
        item.stream = self._target
        self._output.mux(item)

"""Video in and out: files, folders, streams and cameras as frames; frames as an H.264 file."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from vidseg.video.packets import DEFAULT_RATE_HZ, DamagedError, PacketIndex, frames_from, scan
from vidseg.video.sources import camera, find_images, open_video, read_image
from vidseg.video.writer import MAX_FPS, VideoWriter

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

__all__ = ["Frame", "FrameReader", "VideoWriter", "read_video"]

LIVE_SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "rtp", "srt", "udp", "tcp", "mms")
NETWORK_TIMEOUT_S = 20.0


@dataclass(frozen=True, eq=False)
class Frame:
    """One decoded frame.

    Attributes:
        index: its number in the source, in display order, from 0.
        time_s: seconds from the source's first frame.
        image: (H, W, 3) uint8 RGB, upright.
    """

    index: int
    time_s: float
    image: np.ndarray


class FrameReader(Iterator[Frame]):
    """The frames of a source, decoded one by one as they are asked for; made by `read_video`.

    Attributes:
        name: the source, for messages and file names.
        fps: frames a second of what comes out (after `every`).
        num_frames: how many will come; None if nobody knows.
        is_live: a camera or a live stream: no end, no second pass.
        damage: where and why the source broke off, once it has; None while all is well.
        sound_source: the file that holds the sound; None if there cannot be any.
        pixel_aspect: width : height of a pixel; 1 unless the video is anamorphic.
        files: the images, where every frame is a file of its own; else empty.
        again: opens the same frames once more, from the first one; None if they come only once.
    """

    def __init__(
        self, name: str, frames: Iterator[Frame], *, fps: Fraction, num_frames: int | None
    ) -> None:
        self.name = name
        self.fps = fps
        self.num_frames = num_frames
        self.is_live = False
        self.damage: str | None = None
        self.sound_source: Path | None = None
        self.pixel_aspect = Fraction(1)
        self.files: Sequence[Path] = ()
        self.again: Callable[[], FrameReader] | None = None
        self._frames = frames
        self._shape: tuple[int, ...] | None = None
        self._last: tuple[int, float] | None = None

    def __next__(self) -> Frame:
        """Give the next frame.

        Raises:
            StopIteration: the source has ended; see `damage` for whether it ended properly.
            ValueError: no frame at all could be decoded, or a frame has another size.
        """
        try:
            frame = next(self._frames)
        except DamagedError as damage:
            if self._last is None:
                raise ValueError(f"no frame of {self.name} can be decoded: {damage}") from damage
            self.damage = (
                f"{self.name} is damaged after frame {self._last[0]} "
                f"({self._last[1]:.2f} s): {damage}"
            )
            raise StopIteration from None
        if self._shape is not None and frame.image.shape != self._shape:
            file = f" ({self.files[frame.index].name})" if self.files else ""
            raise ValueError(
                f"frame {frame.index} of {self.name}{file} is {_size(frame.image.shape)}, the "
                f"frames before it are {_size(self._shape)}; all frames of a video must be of "
                "one size"
            )
        self._shape = frame.image.shape
        self._last = (frame.index, frame.time_s)
        return frame

    def close(self) -> None:
        """Close the source; no more frames come."""
        if hasattr(self._frames, "close"):
            self._frames.close()  # pyright: ignore[reportAttributeAccessIssue]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_video(
    source: str | Path | int | Iterable[np.ndarray],
    *,
    start: float | None = None,
    end: float | None = None,
    every: int = 1,
    fps: float | None = None,
) -> FrameReader:
    """Read the frames of a video file, folder or glob of images, stream URL, camera or program.

    Frames of a file are exact: a frame's index is its place in a decode from the beginning, also
    after a jump to `start`. Interlaced frames come as they are stored. A file that is cut short or
    damaged gives the frames before the damage, then ends, and `damage` says what happened.

    Args:
        source: a path, a folder or glob of images (sorted by the numbers in their names), a URL,
            the number of a camera, or (H, W, 3) uint8 RGB arrays one after the other, such as a
            list or a generator.
        start: seconds from the first frame; frames before it are left out.
        end: seconds from the first frame; the frame at `end` and later ones are left out.
        every: 2 keeps every second frame from `start` on, and so forth.
        fps: frame rate of a folder of images or of arrays; 25 by default. Videos know their own.

    Returns:
        An iterator of `Frame`.

    Raises:
        FileNotFoundError: no such file, image or camera.
        ValueError: not a video; nothing between `start` and `end`; `every` below 1; an impossible
            `fps`, or one for what is no set of images.
        TypeError: when it is read, an array is not uint8.
    """
    start = start or 0.0
    if every < 1:
        raise ValueError(f"every must be at least 1, got {every}")
    if not math.isfinite(start) or start < 0 or (end is not None and end <= start):
        raise ValueError(f"want 0 <= start < end in seconds, got start={start}, end={end}")
    cut = (start, end, every)
    if fps is not None and not 0 < fps <= MAX_FPS:
        raise ValueError(f"fps must be above 0 and at most {MAX_FPS}, got {fps}")
    reader = _open(source, cut, fps)
    if reader.num_frames is not None:
        reader.again = partial(_open, source, cut, fps)
    return reader


def _open(
    source: str | Path | int | Iterable[np.ndarray],
    cut: tuple[float, float | None, int],
    fps: float | None,
) -> FrameReader:
    rate = Fraction(fps or 25).limit_denominator(100_000)
    if isinstance(source, Iterable) and not isinstance(source, str):
        return _read_arrays(source, cut, rate)
    text = str(source)
    path = Path(text.removeprefix("file://"))
    is_camera = isinstance(source, int) or (text.isdecimal() and not path.exists())
    is_url = bool(re.match(r"[a-z][a-z0-9+.-]+://", text)) and not text.startswith("file:")
    images = None if is_camera or is_url else find_images(path)
    if images is not None:
        return _read_images(images, path, cut, rate)
    if fps is not None:
        raise ValueError(f"fps is for folders of images; {text} has a frame rate of its own")
    if is_camera:
        return _read_live(*camera(int(text)), cut, f"camera {text}")
    if is_url:
        return _read_live(text, {"timeout": (NETWORK_TIMEOUT_S, NETWORK_TIMEOUT_S)}, cut, text)
    return _read_file(path, cut)


def _read_file(path: Path, cut: tuple[float, float | None, int]) -> FrameReader:
    start, end, every = cut

    def open_file() -> tuple[InputContainer, VideoStream]:
        return open_video(str(path), str(path))

    container, stream = open_file()
    with container:
        index = scan(container, stream, end)
        aspect = stream.sample_aspect_ratio or Fraction(1)
        has_sound = bool(container.streams.audio)
    if index.num_frames == 0:
        raise ValueError(f"{path} holds no frames: {index.damage or 'its video stream is empty'}")
    first = index.first_at(start)
    stop = None if end is None else index.first_at(end)
    if first >= (index.num_frames if stop is None else stop):
        raise ValueError(
            f"{path} has no frame from {start:g} s"
            + ("" if end is None else f" to {end:g} s")
            + f"; its last frame is at {index.time_s(index.num_frames - 1):.3f} s"
        )
    known = index.num_frames if stop is None else min(stop, index.num_frames)
    reader = FrameReader(
        str(path),
        _decode_file(open_file, index, (first, stop, every)),
        fps=index.rate_hz / every,
        num_frames=-(-(known - first) // every),
    )
    reader.sound_source = path if has_sound else None
    reader.pixel_aspect = Fraction(aspect)
    return reader


def _decode_file(
    open_file: Callable[[], Any], index: PacketIndex, wanted: tuple[int, int | None, int]
) -> Iterator[Frame]:
    first, stop, every = wanted
    to_rgb = _RGB()
    for position, frame in frames_from(open_file, index, first):
        if stop is not None and position >= stop:
            return
        if (position - first) % every == 0:
            yield Frame(position, index.time_s(position), to_rgb(frame))
    if index.damage is not None:
        raise DamagedError(index.damage)


def _read_images(
    images: Sequence[Path], source: Path, cut: tuple[float, float | None, int], fps: Fraction
) -> FrameReader:
    start, end, every = cut
    index = PacketIndex(num_frames=len(images), rate_hz=fps)
    stop = len(images) if end is None else min(index.first_at(end), len(images))
    wanted = range(index.first_at(start), stop, every)
    if not wanted:
        raise ValueError(
            f"{source} has no frame from {start:g} s on: {len(images)} images at {float(fps):g} "
            f"frames a second last {len(images) / fps:.2f} s"
        )
    frames = (Frame(k, index.time_s(k), read_image(images[k])) for k in wanted)
    reader = FrameReader(str(source), frames, fps=fps / every, num_frames=len(wanted))
    reader.files = images
    return reader


def _read_arrays(
    images: Iterable[np.ndarray], cut: tuple[float, float | None, int], fps: Fraction
) -> FrameReader:
    start, end, every = cut
    index = PacketIndex(rate_hz=fps)
    wanted = slice(index.first_at(start), None if end is None else index.first_at(end), every)
    chosen = islice(enumerate(images), wanted.start, wanted.stop, every)
    frames = (Frame(k, index.time_s(k), _checked(image, k)) for k, image in chosen)
    count = None
    if isinstance(images, Sized) and not isinstance(images, Iterator):
        count = len(range(len(images))[wanted])
        if count == 0:
            raise ValueError(f"no frame from {start:g} s on: {len(images)} images were given")
    return FrameReader("the images", frames, fps=fps / every, num_frames=count)


def _checked(image: Any, index: int) -> np.ndarray:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        got = image.dtype if isinstance(image, np.ndarray) else type(image).__name__
        raise TypeError(
            f"frame {index} must be a numpy array of uint8, got {got}; image files go in as a "
            "folder or glob"
        )
    if image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(
            f"frame {index} must be (H, W, 3), RGB, got {image.shape}; one image goes in a list"
        )
    return np.ascontiguousarray(image)


def _read_live(
    address: str, options: dict[str, Any], cut: tuple[float, float | None, int], name: str
) -> FrameReader:
    container, stream = open_video(address, name, **options)
    rate = Fraction(stream.average_rate or stream.guessed_rate or DEFAULT_RATE_HZ)
    frames = _decode_live(container, stream, cut, rate)
    reader = FrameReader(name, frames, fps=rate / cut[2], num_frames=None)
    reader.is_live = name.startswith("camera") or address.split("://")[0] in LIVE_SCHEMES
    return reader


def _decode_live(
    container: InputContainer,
    stream: VideoStream,
    cut: tuple[float, float | None, int],
    rate: Fraction,
) -> Iterator[Frame]:
    """Frames as they come; a damaged one is skipped, since the stream goes on."""
    from av.error import FFmpegError, InvalidDataError

    start, end, every = cut
    to_rgb, index, num_wanted, first_pts = _RGB(), -1, 0, None
    with container:
        try:
            for packet in container.demux(stream):
                try:
                    frames = packet.decode()
                except InvalidDataError:
                    continue
                for frame in frames:
                    index += 1
                    first_pts = frame.pts if first_pts is None else first_pts
                    time_s = float(index / rate)
                    if frame.pts is not None and first_pts is not None:
                        time_s = float((frame.pts - first_pts) * (frame.time_base or 0))
                    if end is not None and time_s >= end:
                        return
                    if time_s >= start:
                        if num_wanted % every == 0:
                            yield Frame(index, time_s, to_rgb(frame))
                        num_wanted += 1
        except FFmpegError as error:
            raise DamagedError(error.strerror) from error


class _RGB:
    """Decoded frames as upright RGB arrays."""

    def __init__(self) -> None:
        from av.video.reformatter import VideoReformatter

        self._reformatter = VideoReformatter()

    def __call__(self, frame: VideoFrame) -> np.ndarray:
        image = self._reformatter.reformat(frame, format="rgb24").to_ndarray()
        turns = round(getattr(frame, "rotation", 0) / 90) % 4
        return np.ascontiguousarray(np.rot90(image, turns)) if turns else image


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]}"

"""Video in and out: files, folders, streams and cameras as frames; frames as an H.264 file."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from fractions import Fraction
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, Self

import numpy as np

from vidseg.sizes import width_x_height
from vidseg.video.clock import JUMP_S, Clock, measured_rate
from vidseg.video.film import Film, Frame
from vidseg.video.images import read_image
from vidseg.video.packets import DamagedError
from vidseg.video.pictures import Pictures
from vidseg.video.sources import camera, find_images, open_video
from vidseg.video.writer import MAX_FPS, MIN_FPS, VideoWriter

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream

    from vidseg.video.sound import SoundSource

__all__ = ["Frame", "FrameReader", "VideoWriter", "read_video"]

MEASURED_PACKETS = 32
LIVE_SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "rtp", "srt", "udp", "tcp", "mms")
NETWORK_TIMEOUT_S = 20.0


class FrameReader(Iterator[Frame]):
    """The frames of a source, decoded one by one as they are asked for; made by `read_video`.

    Attributes:
        name: the source, for messages and file names.
        fps: frames a second of what comes out (after `every`).
        num_frames: how many come; less each time that one turns out damaged. None if nobody knows.
        is_live: a camera or a live stream: no end, no second pass.
        damage: what of the source was lost, and where, at its end; None if nothing.
        notes: what else is to be known of the frames, such as a change of their size.
        sound_source: where the sound and other tracks are; None if there are none.
        pixel_aspect: width : height of a pixel; 1 unless the video is anamorphic.
        files: the images, where every frame is a file of its own; else empty.
        again: opens the same frames once more, from the first one; None if they come only once.
    """

    def __init__(
        self,
        name: str,
        frames: Iterator[Frame],
        *,
        fps: Fraction,
        num_frames: int | None,
        wanted: range | None = None,
    ) -> None:
        self.name = name
        self.fps = fps
        self.num_frames = num_frames
        self.is_live = False
        self.damage: str | None = None
        self.notes: list[str] = []
        self.sound_source: SoundSource | None = None
        self.pixel_aspect = Fraction(1)
        self.files: Sequence[Path] = ()
        self.again: Callable[[], FrameReader] | None = None
        self._frames = frames
        self._wanted = wanted
        self._num_given = 0
        self._close: Callable[[], None] | None = None
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
            self._break_off(str(damage), damage.after)
        except StopIteration:
            self._count(None)
            raise
        if self._shape is not None and frame.image.shape != self._shape:
            before = width_x_height(self._shape)
            got = f"{width_x_height(frame.image.shape)}, the frames before it are {before}"
            if not self.files:
                raise ValueError(
                    f"frame {frame.index} of {self.name} is {got}; all frames of a video must be "
                    "of one size"
                )
            self._break_off(f"{self.files[frame.index].name} is {got}")
        self._shape = frame.image.shape
        self._last = (frame.index, frame.time_s)
        self._count(frame.index)
        return frame

    def _break_off(self, reason: str, after: tuple[int, float] | None = None) -> NoReturn:
        index, time_s = after or self._last or (0, 0.0)
        self.damage = f"{self.name} is damaged after frame {index} ({time_s:.2f} s): {reason}"
        self._count(None)
        raise StopIteration

    def _count(self, index: int | None) -> None:
        """Correct `num_frames` by what has come: frame `index`, or the end."""
        self._num_given += index is not None
        if self._wanted is not None and index is not None:
            behind = len(self._wanted) - 1 - self._wanted.index(index)
            self.num_frames = self._num_given + behind
        elif index is None and self.num_frames is not None:
            self.num_frames = self._num_given

    def close(self) -> None:
        """Close the source; no more frames come."""
        if hasattr(self._frames, "close"):
            self._frames.close()  # pyright: ignore[reportAttributeAccessIssue]
        if self._close is not None:
            self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Cut(NamedTuple):
    """Which frames are wanted: from `start` to `end`, in seconds, every so many."""

    start: float
    end: float | None
    every: int
    strict: bool


def read_video(
    source: str | Path | int | Iterable[np.ndarray],
    *,
    start: float | None = None,
    end: float | None = None,
    every: int = 1,
    fps: float | None = None,
    strict: bool = False,
) -> FrameReader:
    """Read the frames of a video file, folder or glob of images, stream URL, camera or program.

    Frames of a file are exact: a frame's index is its place among the pictures of the file, and its
    time is its own, also after a jump to `start` and behind damage. Interlaced frames come as they
    are stored. Of a file that is cut short or damaged all frames come that can be decoded, and
    `damage` says in the end what was lost. Where recordings are joined in one file, times go on.

    Args:
        source: a path, a folder or glob of images (sorted by the numbers in their names), a URL,
            the number of a camera, or (H, W, 3) uint8 RGB arrays one after the other, such as a
            list or a generator.
        start: seconds from the first frame; frames before it are left out.
        end: seconds from the first frame; the frame at `end` and later ones are left out.
        every: 2 keeps every second frame from `start` on, and so forth.
        fps: frame rate of a folder of images or of arrays; 25 by default. Videos know their own.
        strict: end at the first damage, instead of going on behind it.

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
    cut = Cut(start, end, every, strict)
    if fps is not None and not MIN_FPS <= fps <= MAX_FPS:
        raise ValueError(f"fps must be {MIN_FPS} to {MAX_FPS}, got {fps}")
    reader = _open(source, cut, fps)
    if reader.num_frames is not None:
        reader.again = partial(_open, source, cut, fps)
    return reader


def _open(
    source: str | Path | int | Iterable[np.ndarray],
    cut: Cut,
    fps: float | None,
) -> FrameReader:
    rate = Fraction(fps or 25).limit_denominator(100_000)
    if isinstance(source, Iterable) and not isinstance(source, str):
        return _read_arrays(source, cut, rate)
    text = str(source)
    path = Path(text.removeprefix("file://"))
    is_camera = isinstance(source, int) or (text.isdecimal() and not path.exists())
    is_url = bool(re.match(r"[a-z][a-z0-9+.-]+://", text)) and not path.exists()
    is_url = is_url and not text.startswith("file:")
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


def _read_file(path: Path, cut: Cut) -> FrameReader:
    film = Film(path, cut.end, is_strict=cut.strict)
    first, stop = film.first_at(cut.start), film.num_frames
    if cut.end is not None:
        stop = min(stop, film.first_at(cut.end))
    if first >= stop:
        film.close()
        raise ValueError(
            f"{path} has no frame from {cut.start:g} s"
            + ("" if cut.end is None else f" to {cut.end:g} s")
            + f"; its last frame is at {film.time_s(film.num_frames - 1):.3f} s"
        )
    wanted = range(first, stop, cut.every)
    reader = FrameReader(
        str(path),
        film.frames(wanted, cut.end),
        fps=film.rate_hz / cut.every,
        num_frames=len(wanted),
        wanted=wanted,
    )
    reader.notes = film.notes
    reader.sound_source = film.sound
    reader.pixel_aspect = film.pixel_aspect
    reader._close = film.close
    return reader


def _read_images(images: Sequence[Path], source: Path, cut: Cut, fps: Fraction) -> FrameReader:
    clock = Clock(fps)
    stop = len(images) if cut.end is None else min(clock.first_at(cut.end), len(images))
    wanted = range(clock.first_at(cut.start), stop, cut.every)
    if not wanted:
        raise ValueError(
            f"{source} has no frame from {cut.start:g} s on: {len(images)} images at "
            f"{float(fps):g} frames a second last {float(len(images) / fps):.2f} s"
        )
    reader = FrameReader(
        str(source),
        _read_each(images, wanted, clock, is_strict=cut.strict),
        fps=fps / cut.every,
        num_frames=len(wanted),
        wanted=wanted,
    )
    reader.files = images
    return reader


def _read_each(
    images: Sequence[Path], wanted: range, clock: Clock, *, is_strict: bool
) -> Iterator[Frame]:
    faults: list[str] = []
    after = (0, 0.0)
    for k in wanted:
        try:
            image = read_image(images[k])
        except (OSError, ValueError) as error:
            faults.append(str(error))
            if is_strict:
                raise DamagedError(faults[0]) from error
            continue
        if not faults:
            after = (k, clock.time_s(k))
        yield Frame(k, clock.time_s(k), image, float(wanted.step / clock.rate_hz))
    if faults:
        rest = f", and {len(faults) - 1} more" if len(faults) > 1 else ""
        raise DamagedError(f"{faults[0]}{rest}", after)


def _read_arrays(images: Iterable[np.ndarray], cut: Cut, fps: Fraction) -> FrameReader:
    clock = Clock(fps)
    stop = None if cut.end is None else clock.first_at(cut.end)
    wanted = slice(clock.first_at(cut.start), stop, cut.every)
    chosen = islice(enumerate(images), wanted.start, wanted.stop, cut.every)
    stands_s = float(cut.every / fps)
    frames = (Frame(k, clock.time_s(k), check_image(image, k), stands_s) for k, image in chosen)
    count = None
    if isinstance(images, Sized) and not isinstance(images, Iterator):
        count = len(range(len(images))[wanted])
        if count == 0:
            raise ValueError(f"no frame from {cut.start:g} s on: {len(images)} images were given")
    return FrameReader("the images", frames, fps=fps / cut.every, num_frames=count)


def check_image(image: Any, index: int) -> np.ndarray:
    """A frame that a program gives, as one block of memory.

    Args:
        image: wanted (H, W, 3) uint8 RGB.
        index: of the frame, for messages.

    Raises:
        TypeError: it is no array, or not of uint8.
        ValueError: it has another shape, or no pixel.
    """
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


def _read_live(address: str, options: dict[str, Any], cut: Cut, name: str) -> FrameReader:
    container, stream = open_video(address, name, **options)
    head, rate = _measure(container, stream)
    pictures = Pictures(stream)
    packets = chain(head, container.demux(stream))
    frames = _decode_live(container, packets, cut, rate, pictures)
    reader = FrameReader(name, frames, fps=rate / cut.every, num_frames=None)
    reader.notes = pictures.notes
    reader._close = container.close
    reader.is_live = name.startswith("camera") or address.split("://")[0] in LIVE_SCHEMES
    return reader


def _measure(container: InputContainer, stream: VideoStream) -> tuple[list[Packet], Fraction]:
    """The rate of a stream that cannot be read twice; its first packets, if they had to tell."""
    for rate in (stream.average_rate, stream.guessed_rate):
        if rate and rate <= MAX_FPS:
            return [], Fraction(rate)
    head = list(islice(container.demux(stream), MEASURED_PACKETS))
    times = sorted(packet.pts for packet in head if packet.pts is not None)
    return head, measured_rate(np.array(times, np.int64), Fraction(stream.time_base or 1))


def _decode_live(
    container: InputContainer,
    packets: Iterable[Packet],
    cut: Cut,
    rate: Fraction,
    pictures: Pictures,
) -> Iterator[Frame]:
    """Frames as they come; a damaged one is skipped, since the stream goes on."""
    from av.error import FFmpegError, InvalidDataError

    index, num_wanted, shift_s, time_s = -1, 0, None, 0.0
    with container:
        try:
            for packet in packets:
                try:
                    frames = packet.decode()
                except InvalidDataError:
                    continue
                for frame in frames:
                    if frame.is_corrupt:
                        continue
                    index += 1
                    last_s, time_s = time_s, float(index / rate)
                    if frame.pts is not None:
                        own_s = float(frame.pts * (frame.time_base or 0))
                        if shift_s is None or not 0 <= own_s - shift_s - last_s < JUMP_S:
                            shift_s = own_s - (last_s + float(1 / rate) if index else 0.0)
                        time_s = own_s - shift_s
                    if cut.end is not None and time_s >= cut.end:
                        return
                    if time_s >= cut.start:
                        if num_wanted % cut.every == 0:
                            yield Frame(index, time_s, pictures(frame))
                        num_wanted += 1
        except FFmpegError as error:
            raise DamagedError(error.strerror or str(error)) from error

"""Frames as an H.264 file that browsers play, with the sound of the source."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from vidseg.atomic import Part
from vidseg.interrupts import hold_interrupts
from vidseg.video.sound import SoundSource, SoundTracks

if TYPE_CHECKING:
    from av import VideoFrame

VIDEO_SUFFIXES = {".mp4": "mp4", ".m4v": "ipod", ".mov": "mov", ".mkv": "matroska"}
"""libav's container for each suffix."""
X264 = {
    "preset": "fast",
    # Most of an encoder's memory: 20 frames instead of 40.
    "rc-lookahead": "20",
    # By its lookahead thread's pace, and by the number of cores, the same frames would give other
    # bits. Costs no time (within 3 %); files are 4 to 20 % larger, at about the same quality.
    "mbtree": "0",
    "threads": "4",
}
MIN_FPS = 0.001
TICKS_PER_FRAME = 16  # at 25 frames a second and above; below, as many a second as at 25
KEYFRAME_S = 2.0  # the longest time without a keyframe, where pictures stand
MAX_FPS = 1000
BT709, LIMITED_RANGE = 1, 1  # ISO/IEC 23091-2 and libav


class VideoWriter:
    """Frames as an H.264 video that browsers play: yuv420p, index in front, a keyframe a second.

    The file is written under a temporary name beside `path` and renamed when it is closed. Used
    with `with`, Ctrl-C closes it (what is written so far plays), and any other error removes it.
    Odd sides are padded to even by repeating the last row or column, which H.264 asks for.

    Args:
        path: .mp4, .m4v, .mov or .mkv; replaced if it exists.
        fps: frames a second.
        sound_from: a video file whose sound goes along, from the `time_s` of the first frame on;
            or what a reader says of it.
        quality: constant rate factor of x264; lower is better and larger.
        pixel_aspect: width : height of a pixel.
        all_tracks: keep every sound and subtitle track; only .mkv takes them.

    Attributes:
        notes: what of the source's sound and other tracks is left out or changed; to gather them,
            put a list of your own here.

    Raises:
        ValueError: another suffix, or an impossible frame rate.
        FileNotFoundError: the folder does not exist.

    Example:
        >>> import tempfile
        >>> from vidseg.video.reader import read_video
        >>> path = Path(tempfile.mkdtemp()) / "clip.mp4"
        >>> with VideoWriter(path, fps=25) as writer:
        ...     for shade in range(5):
        ...         writer.write(np.full((48, 64, 3), 40 * shade, np.uint8))
        >>> len(list(read_video(path)))
        5
    """

    def __init__(
        self,
        path: str | Path,
        *,
        fps: float | Fraction,
        sound_from: str | Path | SoundSource | None = None,
        quality: int = 20,
        pixel_aspect: Fraction = Fraction(1),
        all_tracks: bool = False,
    ) -> None:
        self.path = Path(path)
        if self.path.suffix.lower() not in VIDEO_SUFFIXES:
            raise ValueError(
                f"cannot write a video as {self.path.name}; use {', '.join(VIDEO_SUFFIXES)}"
            )
        if not self.path.parent.is_dir():
            raise FileNotFoundError(f"no folder {self.path.parent} to write {self.path.name} into")
        if not 0 < fps <= MAX_FPS:
            raise ValueError(f"fps must be above 0 and at most {MAX_FPS}, got {fps}")
        if all_tracks and self.path.suffix.lower() != ".mkv":
            raise ValueError(f"only .mkv takes all tracks; {self.path.name} is none")
        self.num_frames = 0
        self.notes: list[str] = []
        # A slower rate only says how long the last frame stands; times come with the frames.
        self._fps = max(Fraction(fps).limit_denominator(100_000), Fraction(1, 1000))
        self._quality = quality
        self._aspect = pixel_aspect
        self._part: Part | None = None
        self._sound_from = sound_from
        self._all_tracks = all_tracks
        self._sound: SoundTracks | None = None
        self._container: Any = None
        self._stream: Any = None
        self._reformatter: Any = None
        self._shape: tuple[int, ...] = ()
        self._first_s = 0.0
        self._ticks_per_frame = TICKS_PER_FRAME * max(1, math.ceil(25 / self._fps))
        self._pts = self._end = -1
        # MP4 and MOV keep the distance of two frames in 32 bits.
        self._longest = 2**62 if self.path.suffix.lower() == ".mkv" else 2**31 - 1
        self._key, self._since_key = 0, 0

    def write(
        self, image: np.ndarray, time_s: float | None = None, duration_s: float | None = None
    ) -> None:
        """Append a frame.

        Args:
            image: (H, W, 3) uint8 RGB, of the same size every time.
            time_s: its time in the source, so that a varying rate is kept; the first frame's is
                where the file begins. By default one frame after the last.
            duration_s: how long it is shown if no other follows; by default one frame.

        Raises:
            ValueError: wrong shape or dtype, or another size than the first frame's.
            OSError: the disk is full or fails; nothing is left behind.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(f"image must be (H, W, 3) uint8, got {image.shape} {image.dtype}")
        with hold_interrupts(), self._nothing_left_on_error():
            container = self._container or self._begin(image.shape, time_s or 0.0)
            if image.shape != self._shape:
                raise ValueError(f"this video has frames of {self._shape}, got {image.shape}")
            ticks = float(self._fps) * self._ticks_per_frame
            shown = self.num_frames * self._ticks_per_frame
            if time_s is not None:
                shown = round((time_s - self._first_s) * ticks)
            if shown - self._pts > self._longest:
                raise ValueError(
                    f"frames lie {(shown - self._pts) / ticks:.0f} s apart, which "
                    f"{self.path.suffix} cannot hold; write .mkv, or no video (--format npz)"
                )
            self._pts = max(self._pts + 1, shown)
            stands = self._ticks_per_frame if duration_s is None else round(duration_s * ticks)
            self._end = self._pts + min(max(1, stands), self._longest)
            container.mux(self._stream.encode(self._picture(image)))
            self.num_frames += 1
            if self._sound is not None:
                self._sound.write_until(self._pts / ticks)

    def close(self) -> None:
        """Finish the file and give it its name; without any frame there is no file.

        Raises:
            OSError: the disk is full or fails; nothing is left behind.
        """
        with hold_interrupts(), self._nothing_left_on_error():
            container = self._container
            if container is None:
                self._release()
                return
            packets = self._stream.encode(None)
            for packet in packets:
                # What is decoded last closes the track; the last picture stands until then.
                if packet is packets[-1] or packet.pts == self._pts:
                    packet.duration = self._end - packet.pts
            container.mux(packets)
            if self._sound is not None:
                self._sound.finish(self._end / float(self._fps * self._ticks_per_frame))
            container.close()
            self._container = None
            self._release()
            assert self._part is not None, "a container has its file"
            self._part.finish()

    def discard(self) -> None:
        """Give up the file; nothing is left behind."""
        from av.error import FFmpegError

        container, self._container = self._container, None
        if container is not None:
            with suppress(FFmpegError, OSError):
                container.close()
        self._release()
        if self._part is not None:
            self._part.discard()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None or issubclass(kind, KeyboardInterrupt):
            self.close()
        else:
            self.discard()

    def _begin(self, shape: tuple[int, ...], time_s: float) -> Any:
        import av
        from av.video.reformatter import VideoReformatter

        self._part = Part(self.path)
        self._shape, self._first_s = shape, time_s
        self._reformatter = VideoReformatter()
        kind = VIDEO_SUFFIXES[self.path.suffix.lower()]
        options = {} if kind == "matroska" else {"movflags": "+faststart"}
        # What stands before a colon would else be a protocol.
        url = f"file:{self._part.path}"
        self._container = av.open(url, "w", format=kind, options=options)
        stream = self._container.add_stream("libx264", rate=self._fps)
        stream.width, stream.height = (side + side % 2 for side in (shape[1], shape[0]))
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": str(self._quality), **X264}
        codec = stream.codec_context
        codec.gop_size = max(1, round(self._fps))
        codec.time_base = 1 / (self._fps * self._ticks_per_frame)
        codec.colorspace = codec.color_primaries = codec.color_trc = BT709
        codec.color_range = LIMITED_RANGE
        if self._aspect != 1:
            codec.sample_aspect_ratio = self._aspect
        self._stream = stream
        self._add_sound(time_s)
        return self._container

    def _add_sound(self, time_s: float) -> None:
        source = self._sound_from
        if isinstance(source, (str, Path)):
            from vidseg.video.film import Film

            film = Film(Path(source), None, is_strict=False)
            film.close()
            source = film.sound
        if source is not None:
            self._sound = SoundTracks(source, time_s, self.notes, keeps_all=self._all_tracks)
            self._sound.attach(self._container)

    def _picture(self, image: np.ndarray) -> VideoFrame:
        from av import VideoFrame
        from av.video.frame import PictureType
        from av.video.reformatter import ColorRange, Colorspace

        height, width = image.shape[:2]
        if height % 2 or width % 2:
            image = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        picture = self._reformatter.reformat(
            VideoFrame.from_ndarray(np.ascontiguousarray(image)),
            format="yuv420p",
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
        )
        if self._needs_keyframe():
            picture.pict_type = PictureType.I
        picture.pts = self._pts
        picture.time_base = self._stream.codec_context.time_base
        return picture

    def _needs_keyframe(self) -> bool:
        """Whether to ask for a keyframe, where frames come too seldom for one a second."""
        since_s = (self._pts - self._key) / float(self._fps * self._ticks_per_frame)
        is_regular = self._since_key % self._stream.codec_context.gop_size == 0
        is_key = is_regular or since_s >= KEYFRAME_S
        self._key = self._pts if is_key else self._key
        self._since_key = 1 if is_key else self._since_key + 1
        return is_key and not is_regular

    def _release(self) -> None:
        sound, self._sound = self._sound, None
        if sound is not None:
            sound.close()

    @contextmanager
    def _nothing_left_on_error(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.discard()
            raise OSError(error.errno, error.strerror, str(self.path)) from error
        except BaseException:
            self.discard()
            raise

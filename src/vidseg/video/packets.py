"""Exact access to the frames of a video file: an index of its packets, and counting.

Timestamps are not trusted for this: MXF files with B-frames carry them in decoding order. Every
packet gets its number in the place of a timestamp and the decoder hands it on to the frame, so it
is known how many frames come before any keyframe, whether or not the decoder drops frames that it
cannot build.
"""

from __future__ import annotations

import bisect
import itertools
import math
import re
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream

DEFAULT_RATE_HZ = Fraction(25)
REORDER_FRAMES = 16  # the most by which H.264 and HEVC may change the order of frames
SETTLE_FRAMES = 40  # frames after which it is certain which packets gave none
PREROLL_FRAMES = 64  # a keyframe is used this long before the first wanted frame, or not at all
SCAN_MARGIN_S = 10.0
TIME_TOLERANCE_S = 1e-4
END_SLACK_S = 1.0

Signature = tuple[int | None, int]


class DamagedError(Exception):
    """The file ends, or cannot be decoded, before its proper end. Raised inside this package."""


@dataclass
class PacketIndex:
    """What one pass over the packets of a file tells, without decoding.

    Attributes:
        num_frames: packets that hold a frame; as far as the scan went.
        rate_hz: frame rate.
        time_base: of timestamps, in seconds.
        timestamps: in display order; empty where frame i simply comes at i / rate.
        keyframes: packet numbers, ascending.
        seek_to: timestamp by which to find each keyframe.
        number_of: packet signature -> number, for keyframes whose signature is unique.
        damage: what is wrong with the end of the file; None if nothing is.
        is_whole: the scan reached the end of the file.
    """

    num_frames: int = 0
    rate_hz: Fraction = DEFAULT_RATE_HZ
    time_base: Fraction = Fraction(1)
    timestamps: array[int] = field(default_factory=lambda: array("q"))
    keyframes: list[int] = field(default_factory=list)
    seek_to: list[int | None] = field(default_factory=list)
    number_of: dict[Signature, int | None] = field(default_factory=dict)
    damage: str | None = None
    is_whole: bool = True

    def time_s(self, index: int) -> float:
        """Seconds from the first frame to frame `index`."""
        if index < len(self.timestamps):
            return float((self.timestamps[index] - self.timestamps[0]) * self.time_base)
        return float(index / self.rate_hz)

    def first_at(self, time_s: float) -> int:
        """The first frame at or after a time."""
        if self.timestamps:
            ticks = (time_s - TIME_TOLERANCE_S) / float(self.time_base)
            return bisect.bisect_left(self.timestamps, self.timestamps[0] + math.ceil(ticks))
        return max(0, math.ceil((time_s - TIME_TOLERANCE_S) * self.rate_hz))


def scan(container: InputContainer, stream: VideoStream, end_s: float | None) -> PacketIndex:
    """Read all packets once; 1 to 20 ms for 300 frames.

    Args:
        container: a file at its start; it is left somewhere else.
        stream: the video stream.
        end_s: stop a little after this time; None reads on to the end.

    Returns:
        The index.
    """
    from av.error import FFmpegError

    index = PacketIndex(time_base=Fraction(stream.time_base or 1))
    timestamps: array[int] = array("q")
    has_times, last_dts, num_discarded = True, None, 0
    try:
        for packet in container.demux(stream):
            if not packet.size:
                continue
            if packet.is_corrupt:
                index.damage = "a packet is cut short or damaged"
                break
            if packet.is_discard:
                num_discarded += 1
                continue
            if packet.is_keyframe:
                _add_keyframe(index, packet)
            index.num_frames += 1
            if packet.pts is None or _goes_back(packet.dts, last_dts):
                has_times = False
            last_dts = packet.dts if packet.dts is not None else last_dts
            if has_times and packet.pts is not None:
                timestamps.append(packet.pts)
                passed_s = (packet.pts - timestamps[0]) * index.time_base
                if end_s is not None and passed_s > end_s + SCAN_MARGIN_S:
                    index.is_whole = False
                    break
    except FFmpegError as error:
        index.damage = error.strerror
    _set_clock(index, stream, np.array(timestamps if has_times else (), dtype=np.int64))
    if index.is_whole and index.damage is None:
        index.damage = _missing_end(container, stream, index, num_discarded)
    return index


def frames_from(
    open_file: Callable[[], tuple[InputContainer, VideoStream]], index: PacketIndex, first: int
) -> Iterator[tuple[int, VideoFrame]]:
    """Decode from an exact frame on.

    Args:
        open_file: opens the file anew and picks its video stream.
        index: of the same file.
        first: display index of the first frame wanted.

    Yields:
        The display index and the frame.

    Raises:
        DamagedError: after the last frame before the damage.
    """
    latest = first - PREROLL_FRAMES
    if any(0 < k <= latest for k in index.keyframes):
        leading = _count_leading(*open_file())
        container, stream = open_file()
        with container:
            found = None if leading is None else _seek(container, stream, index, latest)
            if leading is not None and found is not None:
                keyframe, packets = found
                counted = _count_on(decode(packets, stream, keyframe), keyframe, leading)
                shown = next(counted, None)
                if shown is not None and shown[0] <= first:
                    rest = itertools.chain([shown], counted)
                    yield from itertools.dropwhile(lambda item: item[0] < first, rest)
                    return
    container, stream = open_file()
    with container:
        for position, (_, frame) in enumerate(decode(container.demux(stream), stream, 0)):
            if position >= first:
                yield position, frame


def decode(
    packets: Iterable[Packet], stream: VideoStream, number: int
) -> Iterator[tuple[Any, VideoFrame]]:
    """Decode packets up to their end or to the first damage.

    Args:
        packets: of one video stream; the first has `number`.
        stream: their stream.
        number: of the first packet.

    Yields:
        The number of the packet that the frame came from (None if unknown), and the frame.

    Raises:
        DamagedError: after the last frame that could be decoded whole.
    """
    from av.error import FFmpegError

    damage = None
    is_running = False  # decoders mark frames as damaged until they have found their feet
    try:
        for packet in packets:
            if packet.is_corrupt:
                damage = "a packet is cut short or damaged"
                break
            if packet.size and not packet.is_discard:
                packet.pts = packet.dts = number  # the decoder hands it on to the frame
                number += 1
            for frame in packet.decode():
                if frame.is_corrupt and is_running:
                    raise DamagedError("a frame is damaged")
                is_running = is_running or not frame.is_corrupt
                yield frame.pts, frame
    except FFmpegError as error:
        damage = error.strerror
    if damage is not None:
        yield from _drain(stream)
        raise DamagedError(damage)


def _drain(stream: VideoStream) -> Iterator[tuple[Any, VideoFrame]]:
    """What the decoder still holds when its packets end: frames from before the damage."""
    from av.error import FFmpegError

    with suppress(FFmpegError):
        for frame in stream.decode(None):
            if frame.is_corrupt:
                return
            yield frame.pts, frame


def _count_on(
    frames: Iterator[tuple[Any, VideoFrame]], keyframe: int, leading: int
) -> Iterator[tuple[int, VideoFrame]]:
    """Give frames after a keyframe their display index, once it is certain; else nothing.

    The n-th frame out is number `keyframe` + n, plus the packets just after the keyframe that gave
    no frame (they lean on the frames before it), minus those that give none at the file's start.
    """
    seen: set[Any] = set()
    dropped = 0
    for count, (number, frame) in enumerate(frames):
        if count < SETTLE_FRAMES:
            seen.add(number)
        if count == SETTLE_FRAMES - 1:
            missing = _missing(seen, keyframe)
            if missing is None:
                return
            dropped = missing - leading
        if count >= SETTLE_FRAMES - 1:
            yield keyframe + count + dropped, frame


def _count_leading(container: InputContainer, stream: VideoStream) -> int | None:
    """How many of the first packets give no frame; None if packets and frames do not match."""
    with container:
        try:
            frames = itertools.islice(decode(container.demux(stream), stream, 0), SETTLE_FRAMES)
            seen = {number for number, _ in frames}
        except DamagedError:
            return None
    return _missing(seen, 0)


def _missing(seen: set[Any], keyframe: int) -> int | None:
    """How many packets just after a keyframe gave none of the first frames.

    None where it is not one frame a packet, so that counting would be wrong.
    """
    settled = range(keyframe + REORDER_FRAMES, keyframe + SETTLE_FRAMES - REORDER_FRAMES)
    if len(seen) != SETTLE_FRAMES or None in seen or not seen.issuperset(settled):
        return None
    return sum(k not in seen for k in range(keyframe, keyframe + REORDER_FRAMES))


def _seek(
    container: InputContainer, stream: VideoStream, index: PacketIndex, latest: int
) -> tuple[int, Iterator[Packet]] | None:
    """Go to a keyframe at or before packet `latest`, known by its signature, not by its time."""
    from av.error import FFmpegError

    place = bisect.bisect_right(index.keyframes, latest)
    for timestamp in reversed(index.seek_to[max(0, place - 3) : place]):
        if timestamp is None:
            continue
        try:
            container.seek(timestamp, stream=stream, backward=True)
            stream.codec_context.flush_buffers()
            packets = container.demux(stream)
            packet = next((p for p in packets if p.is_keyframe and p.size), None)
        except FFmpegError:
            continue
        number = None if packet is None else index.number_of.get(_signature(packet))
        if packet is not None and number is not None and number <= latest:
            return number, itertools.chain([packet], packets)
    return None


def _signature(packet: Packet) -> Signature:
    # Without dts: Matroska only knows it while reading from the start.
    return packet.dts if packet.pts is None else packet.pts, packet.size


def _add_keyframe(index: PacketIndex, packet: Packet) -> None:
    signature = _signature(packet)
    index.number_of[signature] = None if signature in index.number_of else index.num_frames
    index.keyframes.append(index.num_frames)
    index.seek_to.append(packet.dts if packet.dts is not None else packet.pts)


def _goes_back(dts: int | None, last_dts: int | None) -> bool:
    return dts is not None and last_dts is not None and dts < last_dts


def _set_clock(index: PacketIndex, stream: VideoStream, timestamps: np.ndarray) -> None:
    """Find the frame rate; keep the timestamps only where it does not explain them.

    Sorted, the timestamps are those of the frames in display order, also in files that carry them
    in decoding order.
    """
    rates = [Fraction(rate) for rate in (stream.guessed_rate, stream.average_rate) if rate]
    index.rate_hz = rates[-1] if rates else DEFAULT_RATE_HZ
    timestamps = np.sort(timestamps)
    if len(timestamps) != index.num_frames or (np.diff(timestamps) == 0).any():
        return
    passed = timestamps - timestamps[:1]
    for rate in rates:
        ticks = float(1 / (rate * index.time_base))
        if (np.abs(passed - ticks * np.arange(len(passed))) < ticks / 2).all():
            index.rate_hz = rate
            return
    index.timestamps = array("q", timestamps.tolist())


def _missing_end(
    container: InputContainer, stream: VideoStream, index: PacketIndex, num_discarded: int
) -> str | None:
    """Compare what the file's head promises with what the file holds."""
    num_packets = index.num_frames + num_discarded
    if stream.frames > num_packets:
        return f"it holds {num_packets} of the {stream.frames} frames that its head announces"
    promised_s = _promised_s(container, stream)
    held_s = index.time_s(index.num_frames - 1)
    if promised_s is not None and promised_s - held_s > END_SLACK_S:
        return f"it holds {held_s:.1f} of the {promised_s:.1f} s that its head announces"
    return None


def _promised_s(container: InputContainer, stream: VideoStream) -> float | None:
    # A tag of the stream (Matroska); a container's own length may be that of its sound.
    written = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
    if written:
        hours, minutes, seconds = (float(part) for part in written.groups())
        return 3600 * hours + 60 * minutes + seconds
    is_in_head = container.format.name in ("matroska,webm", "mxf")
    if is_in_head and len(container.streams) == 1 and container.duration is not None:
        return container.duration / 1e6
    return None

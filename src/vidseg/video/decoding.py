"""Exact access to the pictures of a video file, which go on behind damage.

Every packet gets its number in the place of a timestamp and the decoder hands it on to the frame,
so each frame is known by its packet: packets that give no frame shift neither times nor numbers.
MXF files with B-frames carry timestamps in decoding order; their frames are counted.
"""

from __future__ import annotations

import bisect
import heapq
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from vidseg.video.clock import REORDER_FRAMES
from vidseg.video.packets import (
    DamagedError,
    PacketIndex,
    holds_picture,
    number_of,
    read_packets,
)

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream

SETTLE_FRAMES = 40  # frames after which it is certain which packets gave none
HELD_FRAMES = 3  # by which damaged timestamps are put in order
PREROLL_FRAMES = 64  # a keyframe is used this long before the first wanted frame, or not at all

Opener = Callable[[], "tuple[InputContainer, VideoStream]"]
Placed = Iterator[tuple[int, "VideoFrame"]]


class Decoder:
    """The pictures of one file, each with its place in display order.

    Args:
        open_file: opens the file anew and picks its video stream.
        index: of the same file.
        is_strict: end at the first picture that is damaged, instead of going on behind it.

    Attributes:
        begin: place of the first picture that can be decoded.
        first_frame: that picture.
        reason: why the decoder gave up a picture behind it; None while it gave up none.

    Raises:
        DamagedError: not a single picture can be decoded.
    """

    def __init__(self, open_file: Opener, index: PacketIndex, *, is_strict: bool = False) -> None:
        self._open_file = open_file
        self._index = index
        self._is_strict = is_strict
        self.reason: str | None = None
        self._opened = self._from_start()
        first = next(self._opened, None)
        if first is None:
            raise DamagedError(self.reason or index.damage or "its video stream is empty")
        self.begin, self.first_frame = first
        self._opened = _Peeked(first, self._opened)
        self.reason = None  # what lies before the first picture is no damage

    def close(self) -> None:
        """Close the file."""
        self._opened.close()

    def frames(self, first: int) -> Placed:
        """Decode from an exact place on.

        Raises:
            DamagedError: with `is_strict`, after the last picture before the damage.
        """
        latest = first - PREROLL_FRAMES
        if any(0 < k <= latest for k in self._index.keyframes):
            found = self._sought(first, latest)
            if found is not None:
                self._opened.close()
                yield from found
                return
        try:
            for place, frame in self._opened:
                if place >= first:
                    yield place, frame
        finally:
            self._opened.close()

    def _from_start(self) -> Any:
        container, stream = self._open_file()
        with container:
            frames = self._decode(read_packets(container, stream), stream, 0)
            if len(self._index.clock.places):
                yield from self._placed(frames)
            else:
                yield from ((count, frame) for count, (_, frame) in enumerate(frames))

    def _sought(self, first: int, latest: int) -> Placed | None:
        """Decode from a keyframe on; None where that would not be exact."""
        container, stream = self._open_file()
        is_counted = not len(self._index.clock.places)
        leading = _count_leading(*self._open_file()) if is_counted else 0
        sought = None if leading is None else _seek(container, stream, self._index, latest)
        if sought is None or leading is None:
            container.close()
            return None
        keyframe, packets = sought
        frames = self._decode(packets, stream, keyframe)
        placed = _counted(frames, keyframe, leading) if is_counted else self._placed(frames)
        shown = next(placed, None)
        if shown is None or shown[0] > first:
            container.close()
            self.reason = None
            return None
        return self._from_wanted(container, itertools.chain([shown], placed), first)

    def _from_wanted(self, container: InputContainer, placed: Placed, first: int) -> Placed:
        with container:
            for shown in placed:
                if shown[0] >= first:
                    self.reason = None  # that of a picture before the wanted ones
                    yield shown
                    break
            yield from placed

    def _placed(self, frames: Iterator[tuple[Any, VideoFrame]]) -> Placed:
        """Each frame at the place of its packet; places rise, whatever damaged timestamps say.

        The decoder's order stands: of a few frames, the first gets the first of their places.
        """
        places, last = self._index.clock.places, -1
        held: deque[VideoFrame] = deque()
        waiting: list[int] = []
        for number, frame, damage in _to_the_end(frames):
            if frame is not None:
                place = last + 1 if number is None or number >= len(places) else places[number]
                heapq.heappush(waiting, int(place))
                held.append(frame)
            while held and (frame is None or len(held) > HELD_FRAMES):
                last = max(heapq.heappop(waiting), last + 1)
                if last >= len(places):  # more frames than packets
                    return
                yield last, held.popleft()
            if damage is not None:
                raise damage

    def _decode(
        self, packets: Iterable[Packet], stream: VideoStream, number: int
    ) -> Iterator[tuple[Any, VideoFrame]]:
        """Frames that are whole, and the numbers of their packets (None where unknown).

        Of a file that begins with a damaged keyframe, nothing is whole before the next one.
        """
        has_begun, waits_for_key = False, False
        bad = self._index.corrupt if self._is_strict else frozenset()
        for frames, error in decode(packets, stream, number, self._index, bad):
            if error is not None:
                yield from self._lose(error, stream, has_begun=has_begun)
            for frame in frames:
                waits_for_key = waits_for_key and not frame.key_frame
                if frame.is_corrupt or waits_for_key:
                    is_first = not has_begun and number == 0 and len(self._index.keyframes) > 1
                    waits_for_key = waits_for_key or is_first
                    yield from self._lose("a picture is damaged", stream, has_begun=has_begun)
                    continue
                has_begun = True
                yield frame.pts, frame

    def _lose(
        self, reason: str, stream: VideoStream, *, has_begun: bool
    ) -> Iterator[tuple[Any, VideoFrame]]:
        self.reason = self.reason or reason
        if self._is_strict and has_begun:
            yield from _drain(stream)
            raise DamagedError(reason)


class _Peeked:
    """An iterator that gives back what was taken from it, and can be closed before its start."""

    def __init__(self, first: tuple[int, VideoFrame], rest: Any) -> None:
        self._items = itertools.chain([first], rest)
        self._rest = rest

    def __iter__(self) -> Placed:
        return self._items

    def close(self) -> None:
        self._rest.close()


def _to_the_end(
    frames: Iterator[tuple[Any, VideoFrame]],
) -> Iterator[tuple[Any, VideoFrame | None, DamagedError | None]]:
    """Frames with the numbers of their packets; at the end none, and what ended them."""
    try:
        for number, frame in frames:
            yield number, frame, None
    except DamagedError as damage:
        yield None, None, damage
    else:
        yield None, None, None


def decode(
    packets: Iterable[Packet],
    stream: VideoStream,
    number: int,
    index: PacketIndex,
    bad: frozenset[int] = frozenset(),
) -> Iterator[tuple[list[VideoFrame], str | None]]:
    """Decode packets one by one, and go on where one cannot be decoded.

    Args:
        packets: of one video stream; the first has `number`.
        stream: their stream.
        number: of the first packet.
        index: of their file.
        bad: packets not to decode.

    Yields:
        The frames that a packet gave, with the number of their packet in the place of `pts`; and
        what was wrong with it, or None.
    """
    from av.error import FFmpegError

    with suppress(DamagedError):  # the scan met it, too: it is said at the end
        for packet in packets:
            if holds_picture(packet):
                if index.has_cut_packet and number == index.num_packets:
                    continue
                if number in bad:
                    yield [], "a packet is damaged"
                packet.pts = packet.dts = number  # the decoder hands it on to the frame
                number += 1
            try:
                yield packet.decode(), None
            except FFmpegError as error:
                yield [], error.strerror


def _drain(stream: VideoStream) -> Iterator[tuple[Any, VideoFrame]]:
    """What the decoder still holds when its packets end: frames from before the damage."""
    from av.error import FFmpegError

    with suppress(FFmpegError):
        for frame in stream.decode(None):
            if frame.is_corrupt:
                return
            yield frame.pts, frame


def _counted(
    frames: Iterator[tuple[Any, VideoFrame]], keyframe: int, leading: int
) -> Iterator[tuple[int, VideoFrame]]:
    """Give frames after a keyframe their place, once it is certain; else nothing.

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
    seen: set[Any] = set()
    with container:
        for frames, error in decode(read_packets(container, stream), stream, 0, PacketIndex()):
            if error is not None:
                return None
            seen.update(frame.pts for frame in frames[: SETTLE_FRAMES - len(seen)])
            if len(seen) == SETTLE_FRAMES:
                break
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
            packets = read_packets(container, stream)
            packet = next((p for p in packets if p.is_keyframe and p.size), None)
        except (FFmpegError, DamagedError):
            continue
        number = None if packet is None else number_of(index, packet)
        if packet is not None and number is not None and number <= latest:
            return number, itertools.chain([packet], packets)
    return None

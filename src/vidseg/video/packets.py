"""The packets of a video file: numbered, timed, and what they tell of damage; nothing decoded."""

from __future__ import annotations

import bisect
import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vidseg.video.clock import NO_TIME, Clock, Stamps, make_clock
from vidseg.video.ends import clusters_end, missing_bytes

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream

SCAN_MARGIN_S = 10.0
END_SLACK_BYTES = 256  # behind the last packet of a Matroska file, within its clusters
JOIN_PACKETS = 3  # from the packet that the demuxer marks to the keyframe behind a join
CLOCK_MAY_JUMP = 0x0200  # AVFMT_TS_DISCONT
MAX_READ_ERRORS = 20  # without a packet between them

Signature = tuple[int | None, int]


class DamagedError(Exception):
    """A file is damaged. Raised inside this package, after the last frame that can be had.

    Args:
        reason: what is wrong.
        after: number and time in seconds of the frame before the damage; None for the last one.
    """

    def __init__(self, reason: str, after: tuple[int, float] | None = None) -> None:
        super().__init__(reason)
        self.after = after


@dataclass
class PacketIndex:
    """What one pass over the packets of a file tells, without decoding.

    Attributes:
        num_packets: packets that hold a picture; as far as the scan went.
        clock: their display order and times.
        keyframes: packet numbers, ascending.
        seek_to: timestamp by which to find each keyframe.
        number_of: packet signature -> number, for keyframes whose signature is unique.
        corrupt: packets that came in damaged; the ends of joined recordings are none.
        damage: what is wrong with the end of the file; None if nothing is.
        has_cut_packet: the last packet of the file is only a part, and is not counted.
        is_whole: the scan reached the end of the file.
    """

    num_packets: int = 0
    clock: Clock = field(default_factory=Clock)
    keyframes: list[int] = field(default_factory=list)
    seek_to: list[int | None] = field(default_factory=list)
    number_of: dict[Signature, int | None] = field(default_factory=dict)
    corrupt: frozenset[int] = frozenset()
    damage: str | None = None
    has_cut_packet: bool = False
    is_whole: bool = True


def read_packets(container: InputContainer, stream: VideoStream | None) -> Iterator[Packet]:
    """The packets of a stream (None: of all), and of what follows places that cannot be read.

    Raises:
        DamagedError: after the last packet, where the file cannot be read on to its end.
    """
    from av.error import FFmpegError

    num_errors = 0
    while True:
        try:
            for packet in container.demux(*([] if stream is None else [stream])):
                num_errors = 0
                yield packet
        except FFmpegError as error:
            num_errors += 1
            if num_errors > MAX_READ_ERRORS or isinstance(error, OSError):
                raise DamagedError(error.strerror or str(error)) from error
        else:
            return


def holds_picture(packet: Packet) -> bool:
    """Whether a packet counts: an empty one says that the picture before it stays."""
    return packet.size > 0 and not packet.is_discard


def scan(container: InputContainer, stream: VideoStream, end_s: float | None) -> PacketIndex:
    """Read all packets once; 1 to 20 ms for 300 frames.

    Args:
        container: a file at its start; it is left somewhere else.
        stream: the video stream.
        end_s: stop a little after this time; None reads on to the end.

    Returns:
        The index.
    """
    index = PacketIndex()
    time_base = Fraction(stream.time_base or 1)
    columns = array("q"), array("q"), array("q")
    num_others, is_corrupt, first = 0, False, None
    corrupt: list[int] = []
    is_matroska, last_byte = "matroska" in container.format.name, 0
    try:
        for packet in read_packets(container, None if is_matroska else stream):
            if is_matroska and packet.pos is not None:
                last_byte = max(last_byte, packet.pos + packet.size)
            if packet.stream.index != stream.index:
                continue
            if not holds_picture(packet):
                num_others += packet.dts is not None
                continue
            if packet.is_keyframe:
                _add_keyframe(index, packet)
            is_corrupt = packet.is_corrupt
            corrupt += [index.num_packets] if is_corrupt else []
            index.num_packets += 1
            stamps = packet.pts, packet.dts, packet.duration
            for column, stamp in zip(columns, stamps, strict=True):
                column.append(NO_TIME if stamp is None else stamp)
            first = packet.pts if first is None else first
            if end_s is not None and packet.pts is not None and first is not None:
                passed_s = (packet.pts - first) * time_base
                if passed_s > end_s + SCAN_MARGIN_S:
                    index.is_whole = False
                    break
    except DamagedError as damage:
        index.damage = str(damage)
    index.has_cut_packet = is_corrupt and index.is_whole and index.num_packets > 1
    index.num_packets -= index.has_cut_packet
    index.corrupt = frozenset(number for number in corrupt if not _is_join(index, number))
    if container.format.name == "avi" and not stream.codec_context.has_b_frames:
        columns[0][:] = array("q", [NO_TIME]) * len(columns[0])  # AVI has none: libav guesses them
    pts, dts, durations = (np.array(column[: index.num_packets], np.int64) for column in columns)
    index.clock = make_clock(
        Stamps(pts, dts, np.maximum(durations, 0), time_base),
        [Fraction(rate) for rate in (stream.guessed_rate, stream.average_rate) if rate],
        reorders=stream.codec_context.has_b_frames,
        may_jump=bool(container.format.flags & CLOCK_MAY_JUMP),
    )
    if index.is_whole and index.damage is None:
        index.damage = _missing_end(container, stream, index, num_others, last_byte)
        if index.damage is None:
            index.clock = index.clock.standing_until(_told_end_s(container, stream))
    return index


def _is_join(index: PacketIndex, number: int) -> bool:
    """Whether a packet marked as damaged is only the last of a recording that another follows.

    The demuxer marks a jump of the packets' counter. A recording begins with a keyframe.
    """
    place = bisect.bisect_left(index.keyframes, number)
    return place < len(index.keyframes) and index.keyframes[place] <= number + JOIN_PACKETS


def _signature(packet: Packet) -> Signature:
    # Without dts: Matroska only knows it while reading from the start.
    return packet.dts if packet.pts is None else packet.pts, packet.size


def _add_keyframe(index: PacketIndex, packet: Packet) -> None:
    signature = _signature(packet)
    index.number_of[signature] = None if signature in index.number_of else index.num_packets
    index.keyframes.append(index.num_packets)
    index.seek_to.append(packet.dts if packet.dts is not None else packet.pts)


def number_of(index: PacketIndex, packet: Packet) -> int | None:
    """The number of a keyframe's packet; None where it cannot be told."""
    return index.number_of.get(_signature(packet))


def _missing_end(
    container: InputContainer,
    stream: VideoStream,
    index: PacketIndex,
    num_others: int,
    last_byte: int,
) -> str | None:
    """Compare what the file's head promises with what the file holds."""
    missing = missing_bytes(Path(container.name)) if Path(container.name).is_file() else 0
    if missing:
        return f"the file is cut short: {missing} bytes that its head announces are missing"
    if index.has_cut_packet:
        return "the file is cut short: its last packet is only a part"
    unread = clusters_end(Path(container.name)) - last_byte if last_byte else 0
    if unread > END_SLACK_BYTES:
        return f"{unread} bytes behind it cannot be read"
    # Only these have a table of every picture; AVI counts empty places, others estimate.
    num_packets = index.num_packets + num_others
    if "mp4" in container.format.name and stream.frames > num_packets:
        return f"it holds {num_packets} of the {stream.frames} frames that its head announces"
    return None


def _told_end_s(container: InputContainer, stream: VideoStream) -> float | None:
    """Where the last picture of a whole file ends, on the file's clock, if its head says so."""
    if "mp4" in container.format.name and stream.duration:
        return float((stream.duration + (stream.start_time or 0)) * (stream.time_base or 0))
    if "matroska" not in container.format.name:
        return None
    written = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
    if written:
        hours, minutes, seconds = (float(part) for part in written.groups())
        return 3600 * hours + 60 * minutes + seconds
    # The container's length may be that of its sound.
    if len(container.streams) == 1 and container.duration is not None:
        return container.duration / 1e6
    return None

"""Whether a file was cut short: its own structure promises more bytes than it has."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

MAX_BOXES = 100_000
BOXES = (b"ftyp", b"moov", b"mdat", b"moof", b"free", b"skip", b"wide", b"styp", b"sidx", b"pnot")
EBML, SEGMENT, CLUSTER = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67", b"\x1f\x43\xb6\x75"
MXF_PARTITION = bytes.fromhex("060e2b34020501010d01020101")
MXF_FOOTER_FIELD = 24  # bytes of a partition pack before the place of the footer, SMPTE 377


def missing_bytes(path: Path) -> int:
    """How many bytes a file lacks of what its head announces.

    AVI and other RIFF files, MP4 and MOV, Matroska and WebM, and MXF say how long they are;
    transport streams and live recordings do not. No count of frames and no duration is compared:
    these are off in whole files, too (empty chunks of AVI, pictures that begin late).

    Returns:
        0 for a whole file, and for one that does not say.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        if head[:4] == b"RIFF":
            end = _riff_end(file, size)
        elif head[4:8] in BOXES:
            end = _boxes_end(file, size)
        elif head[:4] == EBML:
            end = _matroska_end(file)
        elif head.startswith(MXF_PARTITION[: len(head)]):
            end = _mxf_end(file)
        else:
            end = 0
    return max(0, end - size)


def _riff_end(file: BinaryIO, size: int) -> int:
    """The end of the chain of RIFF chunks; AVI files above 1 GB have several."""
    end = begin = 0
    while begin < size:
        file.seek(begin)
        head = file.read(8)
        if head[:4] != b"RIFF" or len(head) < 8:
            break
        (length,) = struct.unpack("<I", head[4:])
        if length == 0:  # a recorder that was switched off never came back to write it
            break
        end = begin + 8 + length
        begin = end + length % 2
    return end


def _boxes_end(file: BinaryIO, size: int) -> int:
    end = 0
    for _ in range(MAX_BOXES):
        if end >= size:
            break
        file.seek(end)
        head = file.read(16)
        if len(head) < 8:
            return end + 8
        (length,) = struct.unpack(">I", head[:4])
        if length == 1 and len(head) == 16:
            (length,) = struct.unpack(">Q", head[8:])
        if length < 8:  # 0: up to the end of the file
            return 0
        end += length
    return end


def _matroska_end(file: BinaryIO) -> int:
    length = _enter_segment(file)
    return 0 if length is None else file.tell() + length


def clusters_end(path: Path) -> int:
    """Where the last packets of a Matroska file lie; 0 where it does not say.

    A reader that loses its way in damage ends before, without an error.
    """
    end = 0
    with path.open("rb") as file:
        file.seek(0)
        if file.read(len(EBML)) != EBML or _enter_segment(file) is None:
            return 0
        for _ in range(MAX_BOXES):
            element = _ebml_id(file)
            length = _ebml_size(file)
            if not element or length is None:
                break
            file.seek(length, 1)
            end = file.tell() if element == CLUSTER else end
    return end


def _enter_segment(file: BinaryIO) -> int | None:
    """Go to the first element of a Matroska file; the length of all, None where it is unknown."""
    file.seek(len(EBML))
    header = _ebml_size(file)
    if header is None:
        return None
    file.seek(header, 1)
    return _ebml_size(file) if file.read(len(SEGMENT)) == SEGMENT else None


def _ebml_id(file: BinaryIO) -> bytes:
    first = file.read(1)
    return first + file.read(8 - first[0].bit_length()) if first and first[0] >= 16 else b""


def _ebml_size(file: BinaryIO) -> int | None:
    """A length of RFC 8794; None where it is unknown, as in live recordings."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    width = 9 - first[0].bit_length()
    rest = file.read(width - 1)
    value = int.from_bytes(bytes([first[0] & (1 << (8 - width)) - 1]) + rest)
    return None if len(rest) < width - 1 or value == (1 << 7 * width) - 1 else value


def _mxf_end(file: BinaryIO) -> int:
    """Where the footer partition begins, if the header partition knows it."""
    file.seek(16)
    first = file.read(1)[0]
    if first & 0x80:
        file.seek(first & 0x7F, 1)
    file.seek(MXF_FOOTER_FIELD, 1)
    field = file.read(8)
    footer = int.from_bytes(field) if len(field) == 8 else 0
    return footer + 17 if footer else 0

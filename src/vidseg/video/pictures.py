"""Decoded frames as pictures: upright, in standard colours, of one size."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from vidseg.sizes import width_x_height
from vidseg.video.hdr import ToStandard

if TYPE_CHECKING:
    from av import VideoFrame
    from av.video.stream import VideoStream


class Pictures:
    """Turn decoded frames into RGB arrays, as players show them.

    The display matrix of the file turns and mirrors them; high dynamic range and wide colours
    become standard ones; a frame of another size than the first is scaled to the first's.

    Args:
        stream: where they come from; its colour tags count.

    Attributes:
        notes: what was done to the pictures, each said once.
    """

    def __init__(self, stream: VideoStream) -> None:
        from av.video.reformatter import VideoReformatter

        codec = stream.codec_context
        self.notes: list[str] = []
        self._to_standard = ToStandard.of(int(codec.color_trc), int(codec.color_primaries))
        self._reformatter = VideoReformatter()
        self._size: tuple[int, int] | None = None

    def __call__(self, frame: VideoFrame) -> np.ndarray:
        """(H, W, 3) uint8 RGB, upright."""
        size = frame.height, frame.width
        if self._size is None:
            self._size = size
        elif size != self._size:
            self._note(
                f"frames of {width_x_height(size)} are scaled to {width_x_height(self._size)}, the "
                "size of the first"
            )
        if self._to_standard is None:
            image = self._rgb(frame, "rgb24")
        else:
            self._note(self._to_standard.note)
            image = self._to_standard(self._rgb(frame, "rgb48le"))
        return upright(image, display_matrix(frame))

    def _rgb(self, frame: VideoFrame, form: str) -> np.ndarray:
        assert self._size is not None
        height, width = self._size
        return self._reformatter.reformat(frame, width, height, form).to_ndarray()

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


Matrix = tuple[int, int, int, int]
IDENTITY: Matrix = (1, 0, 0, 1)


def display_matrix(frame: VideoFrame) -> Matrix:
    """How a stored picture is shown: (a, b, c, d) of ISO/IEC 14496-12, to the nearest quarter turn.

    A point (x, y) of the stored picture is shown at (a x + c y, b x + d y), up to a shift; each
    number is -1, 0 or 1.
    """
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return IDENTITY
    a, b, _, c, d = (int(v) for v in np.frombuffer(data, np.int32)[:5])
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return (-1 if a < 0 else 1, 0, 0, -1 if d < 0 else 1)
    return (0, -1 if b < 0 else 1, -1 if c < 0 else 1, 0)


def upright(image: np.ndarray, matrix: Matrix) -> np.ndarray:
    """Turn and mirror an (H, W, 3) picture as a display matrix says."""
    if matrix == IDENTITY:
        return image
    a, b, c, d = matrix
    if not a:  # x and y change places
        image = image.swapaxes(0, 1)
        a, d = c, b
    return np.ascontiguousarray(image[:: d or 1, :: a or 1])


def shown_aspect(aspect: Fraction, matrix: Matrix) -> Fraction:
    """Width : height of a shown pixel, from that of a stored one."""
    return aspect if matrix[0] else 1 / aspect

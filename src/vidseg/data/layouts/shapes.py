"""Shapes of annotation programs, drawn as label maps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vidseg.data.layouts.found import ReadMask, get
from vidseg.sizes import Size

Points = Sequence[tuple[float, float]]
_CORNERS = 64  # of a circle: a millionth of the radius off


def fill_polygon(labels: np.ndarray, points: Points, value: int) -> None:
    """Give a value to the pixels whose centres lie in a polygon (even-odd rule).

    Args:
        labels: (H, W); changed in place. The pixel in the first row and column has its centre at
            (0.5, 0.5).
        points: corners (x, y) in px; the last is joined to the first.
        value: the label index.
    """
    x, y = np.array(points, np.float64).T
    next_x, next_y = np.roll(x, -1), np.roll(y, -1)
    height, width = labels.shape
    first = max(math.ceil(y.min() - 0.5), 0)
    for row in range(first, min(math.floor(y.max() - 0.5) + 1, height)):
        centre = row + 0.5
        crosses = (y <= centre) != (next_y <= centre)
        share = (centre - y[crosses]) / (next_y[crosses] - y[crosses])
        edges = np.sort(x[crosses] + share * (next_x[crosses] - x[crosses]))
        columns = np.clip(np.ceil(edges - 0.5), 0, width).astype(int)
        for start, stop in zip(columns[::2], columns[1::2], strict=True):
            labels[row, start:stop] = value


@dataclass(frozen=True, eq=False)
class Area:
    """A shape of one class: corners, or a small mask and where it lies.

    Attributes:
        value: its label index.
        points: corners (x, y) in px, of a polygon.
        bits: (h, w) bool, instead of them.
        left: column of the first pixel of `bits`.
        top: row of it.
    """

    value: int
    points: Points = ()
    bits: np.ndarray | None = None
    left: int = 0
    top: int = 0

    def draw(self, labels: np.ndarray) -> None:
        """Give its pixels its value; `labels` is changed in place."""
        if self.bits is None:
            fill_polygon(labels, self.points, self.value)
            return
        height, width = labels.shape
        x, y = max(self.left, 0), max(self.top, 0)
        part = self.bits[y - self.top : height - self.top, x - self.left : width - self.left]
        if part.size:
            labels[y : y + part.shape[0], x : x + part.shape[1]][part] = self.value


def drawer(areas: Sequence[Area], start: int) -> ReadMask:
    """A mask with these areas, the later ones on top, and the label index `start` elsewhere."""

    def read(size: Size) -> np.ndarray:
        labels = np.full(size, start, np.uint8)
        for area in areas:
            area.draw(labels)
        return labels

    return read


def rectangle(left: float, top: float, right: float, bottom: float, turn: float = 0) -> Points:
    """Corners of a rectangle, turned clockwise around its middle by so many degrees."""
    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    if not turn:
        return corners
    x, y, angle = (left + right) / 2, (top + bottom) / 2, math.radians(turn)
    cosine, sine = math.cos(angle), math.sin(angle)
    moved = ((a - x, b - y) for a, b in corners)
    return [(x + cosine * a - sine * b, y + sine * a + cosine * b) for a, b in moved]


def ellipse(x: float, y: float, radius_x: float, radius_y: float, turn: float = 0) -> Points:
    """Corners of a polygon around an ellipse's area; turned as `rectangle`."""
    angle = math.radians(turn)
    cosine, sine = math.cos(angle), math.sin(angle)
    steps = (2 * math.pi * i / _CORNERS for i in range(_CORNERS))
    round_ = [(radius_x * math.cos(step), radius_y * math.sin(step)) for step in steps]
    return [(x + cosine * a - sine * b, y + sine * a + cosine * b) for a, b in round_]


def read_points(where: str, points: list[Any]) -> list[tuple[float, float]]:
    """Check points from a file.

    Raises:
        ValueError: they are no pairs of finite numbers.
    """
    found = []
    for point in points:
        if not (isinstance(point, list) and len(point) == 2 and all(map(_is_place, point))):
            raise ValueError(
                f"{where}: points must be pairs of numbers (x, y), got {str(point)[:60]}"
            )
        found.append((float(point[0]), float(point[1])))
    return found


def _is_place(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and abs(value) < 1e6  # also refuses NaN


def number_in(where: str, holder: dict[str, str], key: str) -> float:
    """A number in an attribute of XML; ValueError names the place."""
    text = get(where, holder, key, str)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not _is_place(value):
        raise ValueError(f"{where}: {key!r} must be a number, got {text[:40]!r}")
    return value

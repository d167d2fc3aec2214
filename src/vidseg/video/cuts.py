"""Scene cuts: where one shot ends and another begins."""

from __future__ import annotations

from collections import deque

import numpy as np

GRID = (36, 64)
RECENT_FRAMES = 12
# Measured on driving video at 12 to 25 frames a second: within a shot the change stays under 0.14
# and the colour shift under 0.08; at 8 cuts between similar streets they are above 0.15 and 0.22.
MIN_CHANGE = 0.14  # mean difference of grid cells, in quarters of the frame's contrast
MIN_COLOUR_SHIFT = 0.15  # share of grid cells that change their histogram bin
MIN_JUMP = 1.8  # change against the median of recent frames


class CutDetector:
    """Says of each frame whether a new scene begins with it.

    A cut changes the picture in place, changes its colours as a set, and does both suddenly
    compared with the frames before it. Motion fails the second test, a change of exposure too (the
    mean and contrast of each frame are removed first), and a shaky shot the third.

    Example:
        >>> detector, rng = CutDetector(), np.random.default_rng(0)
        >>> day = rng.integers(100, 255, (48, 64, 3)).astype(np.uint8)
        >>> night = np.kron(rng.integers(0, 2, (6, 8, 3)) * 60, np.ones((8, 8, 1))).astype(np.uint8)
        >>> [detector.is_cut(image) for image in (day, day, day, night, night)]
        [False, False, False, True, False]
    """

    def __init__(self) -> None:
        self._last: np.ndarray | None = None
        self._recent: deque[float] = deque(maxlen=RECENT_FRAMES)

    def is_cut(self, image: np.ndarray) -> bool:
        """Compare a frame with the one before.

        Args:
            image: (H, W, 3) uint8 RGB.

        Returns:
            Whether a scene begins here; False for the first frame.
        """
        small = _shrink(image)
        last, self._last = self._last, small
        if last is None or last.shape != small.shape:
            return False
        now, before = _steady(small), _steady(last)
        change = float(np.abs(now - before).mean()) / 4
        usual = float(np.median(self._recent)) if self._recent else 0.0
        found = (
            change > max(MIN_CHANGE, MIN_JUMP * usual)
            and _colour_shift(now, before) > MIN_COLOUR_SHIFT
        )
        if found:
            self._recent.clear()  # the new scene moves in its own way
        else:
            self._recent.append(change)
        return found


def _shrink(image: np.ndarray) -> np.ndarray:
    """(36, 64, 3) float in [0, 1]: means of cells, of every second pixel of large frames."""
    step = max(1, min(image.shape[0] // (4 * GRID[0]), image.shape[1] // (4 * GRID[1])))
    image = image[::step, ::step]
    rows = np.linspace(0, image.shape[0], min(GRID[0], image.shape[0]), endpoint=False).astype(int)
    cols = np.linspace(0, image.shape[1], min(GRID[1], image.shape[1]), endpoint=False).astype(int)
    sums = np.add.reduceat(np.add.reduceat(image, rows, 0, dtype=np.uint32), cols, 1)
    counts = np.outer(np.diff([*rows, image.shape[0]]), np.diff([*cols, image.shape[1]]))
    return sums / (255.0 * counts[..., None])


def _steady(small: np.ndarray) -> np.ndarray:
    """Mean 0, contrast 1 (at least a tenth of full scale, so that darkness is no scene)."""
    return (small - small.mean()) / max(float(small.std()), 0.1)


def _colour_shift(now: np.ndarray, last: np.ndarray) -> float:
    """Half the L1 distance of the channels' histograms, in [0, 1]."""
    edges = np.linspace(-3, 3, 17)
    shifts = []
    for channel in range(3):
        counts = [
            np.histogram(np.clip(x[..., channel], -2.99, 2.99), edges)[0] for x in (now, last)
        ]
        shifts.append(np.abs(counts[0] - counts[1]).sum() / (2 * now[..., 0].size))
    return float(np.mean(shifts))

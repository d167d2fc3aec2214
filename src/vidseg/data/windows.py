"""Windows: which earlier frames of a video a labelled frame is predicted from."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

Start = Literal["repeat", "skip"]
# From the index of a frame in its video to the indices it needs, oldest first, itself last.
Window = Callable[[int], Sequence[int]]
_FAR = 10**6  # further into a video than any window goes back


@dataclass(frozen=True)
class Drawn:
    """Window of memory frames drawn from a range, once per labelled frame (see `drawn`)."""

    num_frames: int
    within: int
    seed: int
    start: Start
    video: str = ""

    def for_video(self, name: str) -> Drawn:
        """The same draw for another video, independent of this one."""
        return replace(self, video=name)

    def __call__(self, t: int) -> tuple[int, ...]:
        """The window of frame `t`."""
        rng = np.random.default_rng([self.seed, zlib.crc32(self.video.encode()), t])
        offsets = 1 + rng.choice(self.within, size=self.num_frames, replace=False)
        return _window(t, sorted(offsets.tolist(), reverse=True), self.start)


def preceding(num_frames: int, *, start: Start = "repeat") -> Window:
    """Window of the directly preceding frames and the frame itself.

    TMANet, section 3.1 of its protocol: what its released settings use (2 and 4 frames).

    Args:
        num_frames: memory frames, so the window holds one more; 0 for image models.
        start: at the start of a video "repeat" its first frame, or "skip" the sample.

    Example:
        >>> preceding(2)(5), preceding(2)(1), preceding(2, start="skip")(1)
        ((3, 4, 5), (0, 0, 1), ())
    """
    _check_window(num_frames, num_frames, start)
    offsets = range(num_frames, 0, -1)
    return lambda t: _window(t, offsets, start)


def spaced(num_frames: int, every: int, *, start: Start = "repeat") -> Window:
    """Window of every n-th frame before the frame itself.

    LMANet's memory strategy `skip_0n`, with every = n + 1.

    Args:
        num_frames: memory frames.
        every: distance of neighbours in the window, in frames; 1 is `preceding(num_frames)`.
        start: at the start of a video "repeat" its first frame, or "skip" the sample.

    Example:
        >>> spaced(3, every=2)(7), spaced(3, every=2)(3)
        ((1, 3, 5, 7), (0, 0, 1, 3))
    """
    if every < 1:
        raise ValueError(f"every must be at least 1, got {every}")
    _check_window(num_frames, num_frames, start)
    offsets = range(every * num_frames, 0, -every)
    return lambda t: _window(t, offsets, start)


def drawn(num_frames: int, within: int, seed: int = 0, *, start: Start = "repeat") -> Drawn:
    """Window of distinct frames drawn from the last `within` ones, and the frame itself.

    TMANet draws once when the data set is built, not per epoch; so does this. The draw is a pure
    function of (seed, video, frame). With `within == num_frames` it is `preceding(num_frames)`.

    Args:
        num_frames: memory frames.
        within: how far back they may lie, in frames.
        seed: of the draw.
        start: where a drawn frame lies before the video, "repeat" the first, or "skip" the sample.
    """
    _check_window(num_frames, within, start)
    return Drawn(num_frames, within, seed, start)


def reach(window: Window) -> int:
    """Count how many frames back a full window reaches.

    Example:
        >>> reach(spaced(3, every=2)), reach(drawn(2, within=10))
        (6, 10)
    """
    return window.within if isinstance(window, Drawn) else _FAR - window(_FAR)[0]


def mirrored(window: Window, t: int, num_frames: int) -> tuple[int, ...]:
    """The window of frame `t` in a video of `num_frames` that runs backwards: latest first.

    Example:
        >>> mirrored(spaced(3, every=3), 20, 30)
        (29, 26, 23, 20)
    """
    newest = num_frames - 1
    return tuple(newest - index for index in window(newest - t))


def _window(t: int, offsets: Sequence[int], start: Start) -> tuple[int, ...]:
    indices = (*(t - offset for offset in offsets), t)
    if start == "skip" and indices[0] < 0:
        return ()
    return tuple(max(index, 0) for index in indices)


def _check_window(num_frames: int, within: int, start: str) -> None:
    if num_frames < 0 or within < num_frames:
        raise ValueError(
            "a window needs 0 or more memory frames and a range that holds them, "
            f"got {num_frames} frames within {within}"
        )
    if start not in ("repeat", "skip"):
        raise ValueError(f'start must be "repeat" or "skip", got {start!r}')

"""When every picture of a file is shown: from the packets' own timestamps, on one rising clock."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

import numpy as np

DEFAULT_RATE_HZ = Fraction(25)
MAX_RATE_HZ = 1000
TIME_TOLERANCE_S = 1e-4
REORDER_FRAMES = 16  # the most by which H.264 and HEVC may change the order of frames
JUMP_S = 10.0  # a step of a transport stream above this is another recording, as for ffmpeg
MAX_STAND_S = 86_400.0  # of the last picture; above it, the duration in the file is no duration
NO_TIME = -(2**63)
WRAP = 2**33  # ticks of 90 kHz, of transport and program streams


@dataclass(frozen=True)
class Stretch:
    """A part of a file on one run of its clock; joined recordings have one each.

    Attributes:
        first: number of its first packet.
        begin_s: its first picture, on the file's clock.
        end_s: its last picture, on the file's clock.
        shift_s: what to add to the file's clock, so that times rise from stretch to stretch.
        wraps: the clock starts from 0 again after 2**33 ticks of 90 kHz; here it does not.
    """

    first: int
    begin_s: float
    end_s: float
    shift_s: float
    wraps: bool = False


@dataclass(frozen=True, eq=False)
class Clock:
    """The display order and the times of the pictures of one stream.

    Attributes:
        rate_hz: frames a second; measured where the container guesses it.
        time_base: of `ticks`, in seconds.
        ticks: times in display order, rising; empty where picture i comes at i / rate.
        places: place in display order of every packet; empty where timestamps do not tell it.
        zero_s: the first picture, on the file's clock.
        last_s: how long the last picture stands.
        stretches: one unless recordings were joined.
    """

    rate_hz: Fraction = DEFAULT_RATE_HZ
    time_base: Fraction = Fraction(1)
    ticks: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    places: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    zero_s: float = 0.0
    last_s: float = 0.0
    stretches: tuple[Stretch, ...] = ()

    def time_s(self, place: int) -> float:
        """Seconds from picture 0 to a picture."""
        if place < len(self.ticks):
            return float(int(self.ticks[place] - self.ticks[0]) * self.time_base)
        return float(place / self.rate_hz)

    def first_at(self, time_s: float) -> int:
        """The first picture at or after a time, in seconds from picture 0."""
        if len(self.ticks):
            ticks = math.ceil((time_s - TIME_TOLERANCE_S) / float(self.time_base))
            return bisect.bisect_left(self.ticks, int(self.ticks[0]) + ticks)
        return max(0, math.ceil((time_s - TIME_TOLERANCE_S) * self.rate_hz))

    def standing_until(self, end_s: float | None) -> Clock:
        """The same, with a last picture that stands until a time on the file's clock, or longer."""
        if end_s is None or len(self.stretches) != 1:
            return self
        last_s = end_s - self.stretches[0].end_s
        return replace(self, last_s=last_s) if self.last_s < last_s <= MAX_STAND_S else self


@dataclass(frozen=True, eq=False)
class Stamps:
    """What the packets of a stream say of their times, in the order of the file.

    Attributes:
        pts, dts: int64, NO_TIME where there is none.
        durations: int64, 0 where there is none.
        time_base: of all three, in seconds.
    """

    pts: np.ndarray
    dts: np.ndarray
    durations: np.ndarray
    time_base: Fraction


def make_clock(
    stamps: Stamps, rates_hz: Sequence[Fraction], *, reorders: bool, may_jump: bool
) -> Clock:
    """Find display order, times and rate of a stream.

    Args:
        stamps: of its packets, all of which hold a picture.
        rates_hz: what the container says, the most exact first; guesses among them do no harm.
        reorders: the decoder may give pictures in another order than that of the packets.
        may_jump: the format allows its clock to jump (transport and program streams).

    Returns:
        The clock.
    """
    rates_hz = [rate for rate in rates_hz if 0 < rate <= MAX_RATE_HZ]
    times = _times(stamps, may_jump=may_jump)
    if times is None or not len(times):
        rate = rates_hz[0] if rates_hz else DEFAULT_RATE_HZ
        return Clock(rate, places=_identity(0 if reorders else len(stamps.pts)))
    order = np.where(stamps.dts == NO_TIME, times, stamps.dts)
    order = unwrapped(order) if may_jump else order
    starts = _starts(order, may_jump=may_jump, time_base=stamps.time_base)
    shifts = _shifts(times, starts)
    lengths = np.diff([*starts, len(times)])
    shifted = times + np.repeat(shifts, lengths)
    if not reorders:
        places = _identity(len(times))
    elif (np.diff(shifted) < 0).any() and len(np.unique(shifted)) == len(shifted):
        places = np.empty(len(times), np.int64)
        places[np.argsort(shifted)] = np.arange(len(times))
    else:  # in decoding order, as MXF has them, or guessed, with repeats, as of program streams
        places = _identity(0)
    ticks = _rising(np.sort(shifted))
    rate, is_even = _rate(ticks, stamps.time_base, rates_hz)
    base = float(stamps.time_base)
    last_s = float((shifted + stamps.durations).max() - ticks[-1]) * base
    return Clock(
        rate,
        stamps.time_base,
        _identity(0) if is_even else ticks,
        places,
        zero_s=float(ticks[0]) * base,
        last_s=last_s if 0 < last_s <= MAX_STAND_S else float(1 / rate),
        stretches=tuple(
            Stretch(
                int(a),
                float(part.min()) * base,
                float(part.max()) * base,
                float(s) * base,
                wraps=may_jump,
            )
            for a, s, part in zip(starts, shifts, np.split(times, starts[1:]), strict=True)
        ),
    )


def _identity(count: int) -> np.ndarray:
    return np.arange(count, dtype=np.int64)


def _times(stamps: Stamps, *, may_jump: bool) -> np.ndarray | None:
    """Presentation times; decoding times where there are no others, as in AVI."""
    has_pts, has_dts = stamps.pts != NO_TIME, stamps.dts != NO_TIME
    if not (has_pts | has_dts).all():
        return None
    if has_pts.sum() * 2 < len(has_pts):
        return stamps.dts if has_dts.all() else None
    if not may_jump or not has_dts.all():
        return np.where(has_pts, stamps.pts, stamps.dts)
    ahead = np.where(has_pts, stamps.pts - stamps.dts, 0)
    return unwrapped(stamps.dts) + (ahead + WRAP // 2) % WRAP - WRAP // 2


def unwrapped(ticks: np.ndarray) -> np.ndarray:
    """Times that go on where the clock of a transport stream starts from 0 again."""
    steps = (np.diff(ticks) + WRAP // 2) % WRAP - WRAP // 2
    return np.cumsum(np.concatenate([ticks[:1], steps]))


def _starts(order: np.ndarray, *, may_jump: bool, time_base: Fraction) -> np.ndarray:
    """Packets at which the file's clock begins anew: it goes back, or jumps far ahead."""
    steps = np.diff(order)
    usual = float(np.median(steps[steps > 0])) if (steps > 0).any() else 0.0
    if may_jump:
        jumps = (steps < 0) | (steps > max(JUMP_S / float(time_base), 10 * usual))
    else:  # computed decoding times may go back a little where frames are reordered
        jumps = steps < -max(1 / float(time_base), REORDER_FRAMES * usual)
    return np.concatenate([[0], np.flatnonzero(jumps) + 1])


def _shifts(times: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """What to add to each stretch, so that it follows the one before it by one usual step."""
    shifts = np.zeros(len(starts), np.int64)
    if len(starts) == 1:
        return shifts
    low, high = np.minimum.reduceat(times, starts), np.maximum.reduceat(times, starts)
    steps = [np.diff(np.sort(part)) for part in np.split(times, starts[1:])]
    rising = np.concatenate(steps)
    rising = rising[rising > 0]
    usual = int(np.median(rising)) if len(rising) else 1
    shifts[1:] = np.cumsum(high[:-1] + usual - low[1:])
    return shifts


def _rising(ticks: np.ndarray) -> np.ndarray:
    """No two pictures at one time."""
    steps = np.arange(len(ticks), dtype=np.int64)
    return np.maximum.accumulate(ticks - steps) + steps


def _rate(
    ticks: np.ndarray, time_base: Fraction, rates_hz: Sequence[Fraction]
) -> tuple[Fraction, bool]:
    """The frame rate, and whether it explains every time up to the rounding of the container."""
    if len(ticks) < 2:
        return (rates_hz[0] if rates_hz else DEFAULT_RATE_HZ), True
    measured = measured_rate(ticks, time_base)
    passed = ticks - ticks[0]
    has_ties = bool((np.diff(passed) <= 1).any())  # program streams repeat times; see `_rising`
    for rate in (*rates_hz, measured):
        step = float(1 / (rate * time_base))
        wrong = np.abs(passed - step * np.arange(len(ticks)))
        if wrong.max() <= (2 * step if has_ties and step > 8 else min(1.0, step / 4) + 1e-3):
            return rate, True
    near = next((rate for rate in rates_hz if abs(rate / measured - 1) < 0.02), measured)
    return near, False


def measured_rate(ticks: np.ndarray, time_base: Fraction) -> Fraction:
    """The rate of pictures at rising times; DEFAULT_RATE_HZ if there are not two."""
    steps = np.diff(ticks)
    if not len(steps):
        return DEFAULT_RATE_HZ
    usual = np.sort(steps)[(len(steps) - 1) // 2]
    # A picture that stands, as in screen recordings, or that is missing, says nothing of the rate.
    kept = steps[(steps >= usual / 2) & (steps <= usual * 1.5)]
    exact = Fraction(len(kept), max(1, int(kept.sum()))) / time_base
    return min(exact.limit_denominator(1001), Fraction(MAX_RATE_HZ)) or exact

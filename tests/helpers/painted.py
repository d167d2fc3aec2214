"""Small videos with the frame's number painted into every frame, so that exactness shows."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np

BITS = 12
SIZE = (64, 12 * BITS)


def paint(number: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """(H, W, 3) uint8: one vertical bar a bit, white for 1."""
    image = np.zeros((*size, 3), np.uint8)
    edges = np.linspace(0, size[1], BITS + 1).astype(int)
    for bit in range(BITS):
        image[:, edges[bit] : edges[bit + 1]] = 255 * (number >> bit & 1)
    return image


def number_of(image: np.ndarray) -> int:
    """The number that `paint` painted."""
    edges = np.linspace(0, image.shape[1], BITS + 1).astype(int)
    bars = [image[:, (a + b) // 2 - 1 : (a + b) // 2 + 2] for a, b in pairwise(edges)]
    return sum(1 << bit for bit, bar in enumerate(bars) if bar.mean() > 128)


def make_video(
    path: Path,
    num_frames: int = 30,
    *,
    codec: str = "libx264",
    size: tuple[int, int] = SIZE,
    rate: int | Fraction = 25,
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    ticks: list[int] | None = None,
    rotation: int = 0,
    sound: str | None = None,
) -> Path:
    """Write a painted video; `ticks` are presentation times in milliseconds, `sound` a codec."""
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream: Any = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = size[1], size[0], pix_fmt
        stream.options = {"crf": "25", "preset": "ultrafast"} if codec == "libx264" else {}
        stream.options |= options or {}
        if ticks is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if rotation:
            stream.set_display_rotation(rotation)
        audio: Any = container.add_stream(sound, rate=16000) if sound else None
        for number in range(num_frames):
            frame = av.VideoFrame.from_ndarray(paint(number, size))
            if ticks is not None:
                frame.pts, frame.time_base = ticks[number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if audio is not None:
            _add_sound(container, audio, float(num_frames / Fraction(rate)))
    return path


def _add_sound(container: Any, audio: Any, seconds: float) -> None:
    """A tone whose loudness is a ramp: louder means later."""
    time_s = np.arange(int(16000 * seconds)) / 16000
    wave = np.sin(2 * np.pi * 440 * time_s) * time_s / max(seconds, 1e-9)
    samples = (wave * 30000).astype(np.int16)
    for first in range(0, len(samples), 1024):
        part = samples[None, first : first + 1024]
        frame = av.AudioFrame.from_ndarray(part, format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 16000, first, Fraction(1, 16000)
        container.mux(audio.encode(frame))
    container.mux(audio.encode(None))


def remux(source: Path, target: Path, keep: Callable[[int], bool] = lambda number: True) -> Path:
    """Copy the packets of a file: all sound, and the pictures whose packets' numbers are kept."""
    with av.open(str(source)) as read, av.open(str(target), "w") as written:
        streams = {s.index: written.add_stream_from_template(s) for s in read.streams}
        number = -1
        for packet in read.demux():
            if packet.dts is None:
                continue
            is_picture = packet.stream.type == "video"
            number += is_picture
            if not is_picture or keep(number):
                packet.stream = streams[packet.stream.index]
                written.mux(packet)
    return target


def cut_short(path: Path, share: float = 0.6) -> Path:
    """A copy of a file without its end."""
    short = path.with_name(f"short_{path.name}")
    short.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    return short

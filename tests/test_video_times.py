"""When the frames of a file are shown, and where a file ends: the clocks of real recordings."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from painted import cut_short, make_video, number_of, paint, remux

from vidseg.video.clock import NO_TIME, Stamps, make_clock
from vidseg.video.ends import missing_bytes
from vidseg.video.reader import VideoWriter, read_video

B_FRAMES = {"g": "12", "bf": "2", "preset": "fast"}
UNEVEN_MS = np.cumsum(np.random.default_rng(0).integers(10, 90, 60)).tolist()


def seen(path: Path, **cut: float) -> tuple[list[int], list[float]]:
    """The numbers painted into the frames of a whole file, and their times."""
    with read_video(path, **cut) as reader:
        promised = reader.num_frames
        frames = list(reader)
    assert reader.damage is None
    assert promised == reader.num_frames == len(frames)
    times = [frame.time_s for frame in frames]
    assert times == sorted(set(times))
    return [number_of(frame.image) for frame in frames], times


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv", "a.ts"])
def test_times_are_the_frames_own(tmp_path: Path, name: str) -> None:
    path = make_video(tmp_path / name, 60, ticks=UNEVEN_MS, options=B_FRAMES)
    numbers, times = seen(path)
    assert numbers == list(range(60))
    passed = [(t - UNEVEN_MS[0]) / 1000 for t in UNEVEN_MS]
    assert times == pytest.approx(passed, abs=1e-3)
    for k in (1, 30, 59):
        frame = next(read_video(path, start=passed[k]))
        assert (frame.index, number_of(frame.image)) == (k, k)


def test_a_rate_that_the_container_guesses_is_measured(tmp_path: Path) -> None:
    early = np.random.default_rng(1).integers(-20, 21, 60)
    ticks = (np.arange(60) * 1000 / 15 + early).round().astype(int)
    path = make_video(tmp_path / "a.ts", 60, ticks=(ticks - ticks[0]).tolist(), rate=1000)
    numbers, times = seen(path)
    assert read_video(path).fps == pytest.approx(15, abs=0.5)
    assert times == pytest.approx((ticks - ticks[0]) / 1000, abs=1e-3)
    with VideoWriter(tmp_path / "out.mp4", fps=read_video(path).fps) as writer:
        for number, time_s in zip(numbers, times, strict=True):
            writer.write(paint(number), time_s)
    with av.open(str(tmp_path / "out.mp4")) as container:
        packets = [p for p in container.demux(video=0) if p.size]
        written = sorted(float(p.pts * p.time_base) for p in packets)
        keys = [float(p.pts * p.time_base) for p in packets if p.is_keyframe]
    assert written == pytest.approx(times, abs=3e-3)
    assert max(np.diff(keys)) < 2.1


def test_keyframes_come_by_time_where_pictures_stand(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "out.mp4", fps=30) as writer:
        for k in range(12):
            writer.write(paint(k), 0.7 * k)
    with av.open(str(tmp_path / "out.mp4")) as container:
        keys = [float(p.pts * p.time_base) for p in container.demux(video=0) if p.is_keyframe]
    assert max(np.diff(keys)) < 2.9


@pytest.mark.parametrize("codec", ["libx264", "mpeg2video", "libx265"])
def test_a_recording_that_begins_between_keyframes(tmp_path: Path, codec: str) -> None:
    options = {"x265-params": "keyint=12:log-level=none"} if codec == "libx265" else B_FRAMES
    options = {"g": "12", "bf": "2"} if codec == "mpeg2video" else options
    whole = make_video(
        tmp_path / "whole.ts", 40, codec=codec, options=options, size=(96, 144), sound="aac"
    )
    path = remux(whole, tmp_path / "a.ts", lambda number: number >= 5)
    numbers, times = seen(path)
    assert numbers == list(range(12, 40))
    assert times == pytest.approx([k / 25 for k in range(28)])
    reader = read_video(path)
    assert next(reader).index == 0
    assert "begins between two keyframes" in reader.notes[0]
    # The file's sound begins at frame 5 or before; frame 12 is where the frames begin.
    assert reader.sound_source is not None
    with av.open(str(path)) as container:
        pts = {number_of(f.to_ndarray(format="rgb24")): f.pts for f in container.decode(video=0)}
    assert reader.sound_source.zero_s == pytest.approx(pts[12] / 90_000)


def test_a_varying_rate_that_begins_between_keyframes(tmp_path: Path) -> None:
    whole = make_video(tmp_path / "whole.ts", 60, ticks=UNEVEN_MS, options=B_FRAMES)
    numbers, times = seen(remux(whole, tmp_path / "a.ts", lambda number: number >= 5))
    assert times == pytest.approx(
        [(UNEVEN_MS[k] - UNEVEN_MS[12]) / 1000 for k in numbers], abs=1e-3
    )


def make_avi(path: Path, codec: str, places: list[int], **options: str) -> Path:
    """Pictures at places of an AVI's clock; the muxer writes empty chunks between them."""
    formats = {"mjpeg": "yuvj420p", "huffyuv": "yuv422p"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 144, 64, formats.get(codec, "yuv420p")
        for number, place in enumerate(places):
            frame = av.VideoFrame.from_ndarray(paint(number))
            frame.pts, frame.time_base = place, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("mjpeg", {}),
        ("mpeg4", {}),
        ("mpeg4", {"bf": "2"}),
        ("libx264", {"preset": "ultrafast"}),
        ("huffyuv", {}),
        ("rawvideo", {}),
    ],
)
def test_empty_chunks_are_no_pictures_and_no_damage(
    tmp_path: Path, codec: str, options: dict[str, str]
) -> None:
    places = [0, 1, 2, 3, 7, 8, 9, 10, 11, 14, 15, 16, 17, 18, 19]
    numbers, times = seen(make_avi(tmp_path / "a.avi", codec, places, **options))
    assert numbers == list(range(15))
    assert times == pytest.approx([place / 25 for place in places])


def empty_last_chunks(path: Path, count: int) -> Path:
    """The same AVI, its last pictures marked as empty: sizes 0 in the chunks and in the index."""
    content = bytearray(path.read_bytes())
    at = content.rindex(b"idx1")
    entries = range(at + 8, at + 8 + int.from_bytes(content[at + 4 : at + 8], "little"), 16)
    for entry in entries[-count:]:
        content[entry + 12 : entry + 16] = bytes(4)
    path.write_bytes(content)
    return path


def test_an_avi_may_end_with_empty_chunks(tmp_path: Path) -> None:
    path = empty_last_chunks(make_avi(tmp_path / "a.avi", "mjpeg", list(range(50))), 40)
    reader = read_video(path)
    assert len(list(reader)) >= 10
    assert reader.damage is None


@pytest.mark.parametrize("name", ["low.mp4", "low.mkv", "low.ts", "low.avi"])
@pytest.mark.parametrize("rate", [Fraction(1, 30), Fraction(1, 2), Fraction(1)])
def test_low_rates_are_whole_files(tmp_path: Path, name: str, rate: Fraction) -> None:
    codec = "mpeg4" if name.endswith("avi") else "libx264"
    path = make_video(tmp_path / name, 8, rate=rate, codec=codec)
    numbers, times = seen(path)
    assert numbers == list(range(8))
    assert times == pytest.approx([float(k / rate) for k in range(8)])
    assert read_video(path).fps == rate


def late_pictures(path: Path, late_ms: int) -> Path:
    """A file whose sound begins at 0 and whose pictures begin later."""
    with av.open(str(path), "w") as container:
        video, audio = container.add_stream("libx264", rate=25), container.add_stream("aac", 48000)
        video.width, video.height, video.pix_fmt = 144, 64, "yuv420p"
        video.options = {"preset": "ultrafast"}
        video.codec_context.time_base = Fraction(1, 1000)
        for first in range(0, 48_000 * 3, 1024):
            frame = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), "fltp", "stereo")
            frame.sample_rate, frame.pts, frame.time_base = 48_000, first, Fraction(1, 48_000)
            container.mux(audio.encode(frame))
        container.mux(audio.encode(None))
        for number in range(30):
            frame = av.VideoFrame.from_ndarray(paint(number))
            frame.pts, frame.time_base = late_ms + 40 * number, Fraction(1, 1000)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    return path


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4", "a.ts"])
def test_pictures_that_begin_late_are_no_damage(tmp_path: Path, name: str) -> None:
    numbers, times = seen(late_pictures(tmp_path / name, 1500))
    assert numbers == list(range(30))
    assert times == pytest.approx([k / 25 for k in range(30)], abs=2e-3)


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv"])
def test_the_last_picture_stands_as_long_as_the_file_says(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with VideoWriter(path, fps=30) as writer:
        for k in range(12):
            writer.write(paint(k), k / 30, 8.0 if k == 11 else None)
    with read_video(path) as reader:
        frames = list(reader)
    assert reader.damage is None
    assert [frame.duration_s for frame in frames] == pytest.approx([1 / 30] * 11 + [8.0], abs=0.01)
    with read_video(path, every=4) as reader:
        assert [frame.duration_s for frame in reader] == pytest.approx(
            [4 / 30, 4 / 30, 3 / 30 + 8], abs=0.01
        )
    with read_video(path, end=1.0) as reader:
        assert list(reader)[-1].duration_s == pytest.approx(1 - 11 / 30, abs=0.01)


@pytest.mark.parametrize("suffix", ["ts", "mpg"])
@pytest.mark.parametrize("codec", ["libx264", "mpeg2video"])
def test_recordings_joined_in_one_file_go_on(tmp_path: Path, suffix: str, codec: str) -> None:
    options = {"g": "12", "bf": "2"} if codec == "mpeg2video" else B_FRAMES
    parts = [
        make_video(tmp_path / f"{k}.{suffix}", k, codec=codec, options=options, size=(96, 144))
        for k in (27, 35)
    ]
    joined = tmp_path / f"joined.{suffix}"
    joined.write_bytes(parts[0].read_bytes() + parts[1].read_bytes())
    numbers, times = seen(joined)
    assert numbers == [*range(27), *range(35)]
    assert times == pytest.approx([k / 25 for k in range(62)], abs=0.05)
    assert number_of(next(read_video(joined, start=35 / 25)).image) == 8


@pytest.mark.parametrize("offset_s", [70, 20_000, 95_442.5, 95_443.6])
def test_a_part_may_have_any_clock_also_one_that_wraps(tmp_path: Path, offset_s: float) -> None:
    # The clock of a transport stream wraps at 2**33 / 90000 = 95443.7 s.
    first = make_video(tmp_path / "a.ts", 20, options=B_FRAMES)
    second = make_video(
        tmp_path / "b.ts",
        40,
        options=B_FRAMES,
        container_options={"output_ts_offset": str(offset_s)},
    )
    numbers, times = seen(second)
    assert (numbers, times) == (list(range(40)), pytest.approx([k / 25 for k in range(40)]))
    joined = tmp_path / "joined.ts"
    joined.write_bytes(first.read_bytes() + second.read_bytes())
    numbers, times = seen(joined)
    assert numbers == [*range(20), *range(40)]
    assert times == pytest.approx([k / 25 for k in range(60)])


@pytest.mark.parametrize("options", [{}, {"movflags": "frag_keyframe+empty_moov"}])
@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv", "a.avi", "a.mxf"])
def test_a_cut_is_read_from_the_structure(
    tmp_path: Path, name: str, options: dict[str, str]
) -> None:
    codec = {"avi": "mpeg4", "mxf": "mpeg2video"}.get(name[2:], "libx264")
    kept = options if name[2:] in ("mp4", "mov") else {}
    path = make_video(tmp_path / name, 40, codec=codec, size=(96, 144), container_options=kept)
    assert missing_bytes(path) == 0
    short = cut_short(path)
    lost = path.stat().st_size - short.stat().st_size
    assert 0 < missing_bytes(short) <= lost


def stamps(pts: list[int], dts: list[int] | None = None) -> Stamps:
    times = np.array(pts, np.int64)
    decoded = times if dts is None else np.array(dts, np.int64)
    return Stamps(times, decoded, np.zeros(len(pts), np.int64), Fraction(1, 1000))


def test_a_gap_is_kept_or_closed_by_what_the_format_allows() -> None:
    gap = [0, 40, 80, 60_000, 60_040]
    kept = make_clock(stamps(gap), [], reorders=False, may_jump=False)
    closed = make_clock(stamps(gap), [], reorders=False, may_jump=True)
    assert [kept.time_s(k) for k in (3, 4)] == [60.0, 60.04]
    assert [closed.time_s(k) for k in (3, 4)] == [0.12, 0.16]
    assert (kept.rate_hz, closed.rate_hz) == (25, 25)
    slow = make_clock(stamps([0, 20_000, 40_000]), [], reorders=False, may_jump=True)
    assert slow.time_s(2) == 40.0


def test_no_timestamps_at_all() -> None:
    unknown = stamps([NO_TIME] * 4)
    clock = make_clock(unknown, [Fraction(90_000), Fraction(50)], reorders=True, may_jump=False)
    assert (clock.rate_hz, clock.time_s(3), len(clock.places)) == (50, 0.06, 0)

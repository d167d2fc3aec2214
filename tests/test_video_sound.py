"""Sound beside the pictures: copied where the container takes it, in time, and never in the way."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from painted import make_video, number_of, paint, remux

from vidseg.video import sound
from vidseg.video.reader import VideoWriter, read_video

TRANSPORT = {"g": "12", "bf": "2", "preset": "fast"}


def loudness(path: Path) -> tuple[str, np.ndarray]:
    """The codec of a file's sound, and its loudness in every tenth of a second of the pictures."""
    resampler = av.AudioResampler("flt", "mono", 16_000)
    parts = []
    with av.open(str(path)) as container:
        stream, pictures = container.streams.audio[0], container.streams.video[0]
        zero_s, first = float((pictures.start_time or 0) * pictures.time_base), None
        for frame in container.decode(stream):
            first = float(frame.pts * frame.time_base) - zero_s if first is None else first
            frame.pts = None
            parts += [part.to_ndarray()[0] for part in resampler.resample(frame)]
        samples = np.concatenate([np.zeros(round(16_000 * max(0.0, first or 0.0))), *parts])
        name = stream.codec_context.codec.canonical_name
    blocks = samples[: len(samples) // 1600 * 1600].reshape(-1, 1600)
    return name, np.sqrt((blocks**2).mean(1))


def carry_over(source: Path, target: Path, **cut: float) -> list[str]:
    """Write the frames of a file with its sound, as `segment` does; what was noted."""
    with (
        read_video(source, **cut) as reader,
        VideoWriter(target, fps=reader.fps, sound_from=reader.sound_source) as writer,
    ):
        for frame in reader:
            writer.write(frame.image, frame.time_s, frame.duration_s)
    return writer.notes


# (source, its sound) -> the sound in .mp4, .mov, .mkv
KEPT = {
    ("a.mp4", "aac"): ("aac", "aac", "aac"),
    ("a.mkv", "libmp3lame"): ("mp3", "mp3", "mp3"),
    ("a.avi", "libmp3lame"): ("mp3", "mp3", "mp3"),
    ("a.mkv", "libopus"): ("opus", "aac", "opus"),
    ("a.webm", "libopus"): ("opus", "aac", "opus"),
    ("a.mkv", "flac"): ("flac", "aac", "flac"),
    ("a.mov", "pcm_s16le"): ("aac", "pcm_s16le", "pcm_s16le"),
    ("a.avi", "pcm_mulaw"): ("aac", "pcm_mulaw", "aac"),
    ("a.ts", "aac"): ("aac", "aac", "aac"),
    ("a.ts", "mp2"): ("mp3", "mp2", "mp2"),  # decoders give both layers of MPEG in MP4 one name
}


@pytest.mark.parametrize(("name", "codec"), KEPT)
def test_sound_is_copied_where_the_container_takes_it(
    tmp_path: Path, name: str, codec: str
) -> None:
    video = {"avi": "mpeg4", "webm": "libvpx"}.get(name[2:], "libx264")
    options = {"cpu-used": "8"} if video == "libvpx" else {}
    source = make_video(tmp_path / name, 50, codec=video, sound=codec, options=options)
    _, loud = loudness(source)
    for suffix, want in zip(("mp4", "mov", "mkv"), KEPT[name, codec], strict=True):
        target = tmp_path / f"out.{suffix}"
        assert carry_over(source, target) == []
        got, kept = loudness(target)
        assert got == want
        # The tone grows steadily, so its loudness tells the time.
        assert kept[3:16] == pytest.approx(loud[3:16], abs=0.03)
        assert len(kept) == pytest.approx(len(loud), abs=1)


def test_sound_stays_beside_pictures_where_recordings_join(tmp_path: Path) -> None:
    parts = [
        make_video(
            tmp_path / f"{k}.ts",
            frames,
            options=TRANSPORT,
            sound="aac",
            container_options={"output_ts_offset": offset},
        )
        for k, (frames, offset) in enumerate(((50, "0"), (40, "0.4"), (40, "30000")))
    ]
    joined = tmp_path / "joined.ts"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    want = np.concatenate([loudness(part)[1] for part in parts])
    carry_over(joined, tmp_path / "out.mp4")
    _, kept = loudness(tmp_path / "out.mp4")
    inside = [k for k in range(1, 50) if min(abs(k - 20), abs(k - 36)) > 1]  # but for the joins
    assert kept[inside] == pytest.approx(want[inside], abs=0.08)
    carry_over(joined, tmp_path / "part.mp4", start=3.0)
    _, kept = loudness(tmp_path / "part.mp4")
    inside = [k for k in inside if k > 30]
    assert kept[np.array(inside) - 30] == pytest.approx(want[inside], abs=0.08)


def test_sound_begins_where_the_first_picture_can_be_decoded(tmp_path: Path) -> None:
    whole = make_video(tmp_path / "whole.ts", 75, options=TRANSPORT, sound="aac")
    cut = remux(whole, tmp_path / "a.ts", lambda number: number >= 5)
    carry_over(cut, tmp_path / "out.mp4")
    with read_video(tmp_path / "out.mp4") as reader:
        assert number_of(next(reader).image) == 12
    _, want = loudness(whole)
    _, kept = loudness(tmp_path / "out.mp4")
    shift = 12 / 2.5  # frames of 25 a second, in tenths
    expected = np.interp(np.arange(3, 20) + shift, np.arange(len(want)), want)
    assert kept[3:20] == pytest.approx(expected, abs=0.03)


def standing(path: Path, codec: str, sound_s: float) -> Path:
    """Twelve pictures in 0.4 s, the last of which stands for 3 s, and sound."""
    with VideoWriter(tmp := path.with_name("silent.mp4"), fps=30) as writer:
        for k in range(12):
            writer.write(paint(k), k / 30, 3.0 if k == 11 else None)
    with av.open(str(tmp)) as read, av.open(str(path), "w") as written:
        video = written.add_stream_from_template(read.streams.video[0])
        audio: Any = written.add_stream(codec, rate=48_000)
        for packet in read.demux(video=0):
            if packet.dts is not None:
                packet.stream = video
                written.mux(packet)
        for first in range(0, round(48_000 * sound_s), 1024):
            frame = av.AudioFrame.from_ndarray(
                np.full((2, 1024), 0.2, np.float32), "fltp", "stereo"
            )
            frame.sample_rate, frame.pts, frame.time_base = 48_000, first, Fraction(1, 48_000)
            written.mux(audio.encode(frame))
        written.mux(audio.encode(None))
    tmp.unlink()
    return path


def end_s(path: Path, kind: str) -> float:
    with av.open(str(path)) as container:
        stream = getattr(container.streams, kind)[0]
        if stream.duration is not None:
            return float(((stream.start_time or 0) + stream.duration) * stream.time_base)
        packets = [p for p in container.demux(stream) if p.pts is not None]
        return max(float((p.pts + (p.duration or 0)) * p.time_base) for p in packets)


def test_a_last_picture_that_stands_keeps_its_sound(tmp_path: Path) -> None:
    source = standing(tmp_path / "screen.mp4", "aac", 3.2)
    carry_over(source, tmp_path / "out.mp4")
    assert end_s(tmp_path / "out.mp4", "video") == pytest.approx(end_s(source, "video"), abs=0.05)
    assert end_s(tmp_path / "out.mp4", "audio") == pytest.approx(3.2, abs=0.1)
    carry_over(source, tmp_path / "part.mp4", end=1.0)
    assert end_s(tmp_path / "part.mp4", "video") == pytest.approx(1.0, abs=0.05)
    assert end_s(tmp_path / "part.mp4", "audio") == pytest.approx(1.0, abs=0.1)


def test_sound_that_is_longer_than_the_pictures_is_kept_whole(tmp_path: Path) -> None:
    source = standing(tmp_path / "a.mkv", "aac", 5.0)
    carry_over(source, tmp_path / "out.mkv")
    assert end_s(tmp_path / "out.mkv", "audio") == pytest.approx(5.0, abs=0.1)


def test_sound_that_fails_costs_no_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_video(tmp_path / "a.mkv", 50, sound="aac")
    written = []

    def fail(track: Any, time_s: float, item: Any) -> None:
        written.append(time_s)
        if len(written) > 20:
            raise av.error.InvalidDataError(1, "no sound any more")

    monkeypatch.setattr(sound._Copied, "write", fail)
    notes = carry_over(source, tmp_path / "out.mp4")
    assert [number_of(f.image) for f in read_video(tmp_path / "out.mp4")] == list(range(50))
    assert len(notes) == 1
    assert "the sound (aac) breaks off" in notes[0]


def many_tracks(path: Path) -> Path:
    """Pictures, two sound tracks in two languages, and subtitles."""
    subtitles = path.with_name("a.srt")
    subtitles.write_text("1\n00:00:00,200 --> 00:00:00,600\nhello\n")
    with av.open(str(path), "w") as written, av.open(str(subtitles)) as text:
        video: Any = written.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 144, 64, "yuv420p"
        audio: list[Any] = [written.add_stream("aac", rate=16_000) for _ in range(2)]
        for stream, language in zip(audio, ("eng", "deu"), strict=True):
            stream.metadata["language"] = language
        titles = written.add_stream_from_template(text.streams.subtitles[0])
        for packet in text.demux():
            if packet.dts is not None:
                packet.stream = titles
                written.mux(packet)
        for k in range(25):
            written.mux(video.encode(av.VideoFrame.from_ndarray(paint(k))))
        written.mux(video.encode(None))
        for stream in audio:
            for first in range(0, 16_000, 1024):
                frame = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), "fltp")
                frame.sample_rate, frame.pts = 16_000, first
                written.mux(stream.encode(frame))
            written.mux(stream.encode(None))
    return path


def test_other_tracks_are_named_or_kept(tmp_path: Path) -> None:
    source = many_tracks(tmp_path / "a.mkv")
    notes = carry_over(source, tmp_path / "out.mp4")
    assert notes[0].startswith("left out: 1 more sound track, 1 subtitle track")
    with (
        read_video(source) as reader,
        VideoWriter(
            tmp_path / "out.mkv", fps=25, sound_from=reader.sound_source, all_tracks=True
        ) as writer,
    ):
        for frame in reader:
            writer.write(frame.image, frame.time_s)
    assert writer.notes == []
    with av.open(str(tmp_path / "out.mkv")) as container:
        kinds = [stream.type for stream in container.streams]
        languages = [stream.metadata.get("language") for stream in container.streams.audio]
        titles = [p for p in container.demux(subtitles=0) if p.size]
    assert kinds == ["video", "audio", "audio", "subtitle"]
    assert languages == ["eng", "deu"] or languages == [None, "deu"]
    assert [float(p.pts * p.time_base) for p in titles] == [0.2]
    with pytest.raises(ValueError, match=r"only \.mkv takes all tracks"):
        VideoWriter(tmp_path / "out.mp4", fps=25, all_tracks=True)

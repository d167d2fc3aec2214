"""Damaged files: what can be decoded comes with its own number, the rest is counted and said."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from painted import cut_short, make_video, number_of, paint, remux
from PIL import Image

from vidseg.video.reader import read_video

B_FRAMES = {"g": "20", "bf": "2", "preset": "fast"}
FILES = {
    "a.mp4": {"options": {"g": "20"}},
    "a.ts": {"options": B_FRAMES},
    "mpeg2.ts": {"codec": "mpeg2video", "options": {"g": "12", "bf": "2"}, "size": (96, 144)},
    "a.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
}


def spoilt(path: Path, share: float, count: int = 200) -> Path:
    """A copy with some bytes in the middle replaced by others."""
    content = bytearray(path.read_bytes())
    at = int(len(content) * share)
    content[at : at + count] = np.random.default_rng(0).bytes(count)
    copy = path.with_name(f"spoilt_{path.name}")
    copy.write_bytes(content)
    return copy


# Where a whole picture gets lost in a transport stream, nothing tells; these places tell.
@pytest.mark.parametrize(
    ("name", "share"), [("a.mp4", 0.45), ("a.ts", 0.45), ("mpeg2.ts", 0.5), ("a.avi", 0.45)]
)
def test_frames_go_on_behind_damage(tmp_path: Path, name: str, share: float) -> None:
    path = spoilt(make_video(tmp_path / name, 100, **FILES[name]), share)
    with read_video(path) as reader:
        frames = list(reader)
    numbers = [number_of(frame.image) for frame in frames]
    assert numbers[-1] == 99
    assert 80 <= len(frames) < 100
    assert reader.num_frames == len(frames)
    assert numbers[:20] == list(range(20))
    # What is decoded from what is left may show anything, up to the next keyframe.
    behind = [(k, frame.time_s) for k, frame in zip(numbers, frames, strict=True)][-30:]
    assert [time_s for _, time_s in behind] == pytest.approx([k / 25 for k, _ in behind])
    told = [reader.damage or "", *reader.notes]
    assert any("cannot be decoded" in text or "damaged on the way" in text for text in told)
    with read_video(path, strict=True) as reader:
        stopped = [number_of(frame.image) for frame in reader]
    # The bytes of two packets may be spoilt, and only the second be marked.
    assert stopped[:-2] == list(range(len(stopped) - 2))
    assert 20 <= len(stopped) <= len(frames)


def test_a_lost_picture_keeps_its_number(tmp_path: Path) -> None:
    path = spoilt(make_video(tmp_path / "a.avi", 50, **FILES["a.avi"]), 0.5, 400)
    with read_video(path) as reader:
        frames = list(reader)
    assert [number_of(frame.image) for frame in frames] == [frame.index for frame in frames]
    assert len(frames) == reader.num_frames == 49
    lost = set(range(50)) - {frame.index for frame in frames}
    assert f"after frame {min(lost) - 1}" in reader.damage
    assert "1 frame cannot be decoded" in reader.damage
    with read_video(path, start=40 / 25) as reader:
        assert [frame.index for frame in reader] == list(range(40, 50))
    assert reader.damage is None


def test_a_packet_lost_on_the_way_is_no_end(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.ts", 120, options=B_FRAMES)
    content = path.read_bytes()
    packets = [content[k : k + 188] for k in range(0, len(content), 188)]
    del packets[len(packets) // 2]
    path.write_bytes(b"".join(packets))
    with read_video(path) as reader:
        numbers = [number_of(frame.image) for frame in reader]
    assert numbers[0] == 0
    assert numbers[-1] == 119
    assert len(numbers) >= 100
    assert numbers == sorted(numbers)
    assert "damaged on the way" in reader.notes[0]


def test_a_file_that_begins_with_damage(tmp_path: Path) -> None:
    blocks = np.random.default_rng(0).integers(0, 256, (9, 11, 3))
    blocks = np.kron(blocks, np.ones((16, 16, 1))).astype(np.uint8)
    path = tmp_path / "a.ts"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 176, 144, "yuv420p"
        stream.options = {"g": "12", "preset": "fast", "bf": "2"}
        for k in range(40):
            frame = av.VideoFrame.from_ndarray(np.roll(blocks, k, axis=1))
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    content, flags = path.read_bytes(), [False]
    for packet in range(6, 30):  # of the transport stream, in the first picture
        if not flags[0]:  # the decoder does not notice every damage
            place = 188 * packet + 4
            path.write_bytes(content[:place] + bytes(184) + content[place + 184 :])
            with av.open(str(path)) as container:
                flags = [frame.is_corrupt for frame in container.decode(video=0)]
    assert flags[0]
    with read_video(path) as reader:
        first = next(reader)
        count = 1 + len(list(reader))
    assert first.index == 0
    assert count == reader.num_frames == 28
    assert "the first 12 pictures cannot be decoded: the file begins with damage" in reader.notes
    with av.open(str(path)) as container:
        whole = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert np.abs(first.image.astype(int) - whole[12]).mean() < 1


@pytest.mark.parametrize("name", ["cut.mkv", "cut.avi", "cut.mp4"])
def test_a_file_without_its_end_says_so(tmp_path: Path, name: str) -> None:
    head = {"movflags": "+faststart"} if name == "cut.mp4" else {}
    codec = "mpeg4" if name == "cut.avi" else "libx264"
    path = cut_short(make_video(tmp_path / name, 120, codec=codec, container_options=head))
    with read_video(path) as reader:
        numbers = [number_of(frame.image) for frame in reader]
    assert numbers == list(range(len(numbers)))
    assert reader.num_frames == len(numbers) > 30
    assert "cut short" in (reader.damage or "")


def test_a_matroska_reader_that_loses_its_way_is_noticed(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.webm", 100, codec="libvpx", options={"cpu-used": "8"})
    with read_video(spoilt(path, 0.5)) as reader:
        numbers = [number_of(frame.image) for frame in reader]
    assert 0 < len(numbers) < 100
    assert "bytes behind it cannot be read" in (reader.damage or "")


def test_a_change_of_size_is_scaled_and_said(tmp_path: Path) -> None:
    sizes = [(64, 144), (96, 216), (64, 144)]
    parts = [
        make_video(tmp_path / f"{k}.ts", 10, size=size).read_bytes() for k, size in enumerate(sizes)
    ]
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(parts))
    with read_video(path) as reader:
        frames = list(reader)
    assert [number_of(frame.image) for frame in frames] == [*range(10)] * 3
    assert {frame.image.shape for frame in frames} == {(64, 144, 3)}
    assert reader.damage is None
    assert reader.notes == ["frames of 216x96 are scaled to 144x64, the size of the first"]


def test_unreadable_images_of_a_folder_are_passed_over_and_said(tmp_path: Path) -> None:
    for k in range(6):
        Image.fromarray(paint(k)).save(tmp_path / f"{k}.png")
    for k in (2, 3):
        (tmp_path / f"{k}.png").write_bytes(b"no image")
    with read_video(tmp_path) as reader:
        frames = list(reader)
    assert [frame.index for frame in frames] == [number_of(f.image) for f in frames] == [0, 1, 4, 5]
    assert reader.num_frames == 4
    assert "after frame 1" in reader.damage
    assert "2.png cannot be read as an image" in reader.damage
    assert "and 1 more" in reader.damage
    with read_video(tmp_path, strict=True) as reader:
        assert len(list(reader)) == 2


def test_nothing_but_damage_is_one_error(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.ts", 30, options={"g": "40"})
    with pytest.raises(ValueError, match=r"no frame of .*b\.ts can be decoded"):
        read_video(remux(path, tmp_path / "b.ts", lambda number: number > 2))

"""Video in and out: exact frames, damage, sound, and files that are whole or not there."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from painted import SIZE, cut_short, make_video, number_of, paint
from PIL import Image

from vidseg.interrupts import hold_interrupts
from vidseg.video import decoding
from vidseg.video.reader import VideoWriter, read_video

NUM_FRAMES = 180
OPEN_GOP = {"g": "20", "bf": "3", "x264-params": "open-gop=1", "preset": "fast"}
B_FRAMES = {"g": "20", "bf": "3", "preset": "fast"}
FILES = {
    "closed.mp4": {"options": B_FRAMES},
    "open.mp4": {"options": OPEN_GOP},
    "open.mkv": {"options": OPEN_GOP},
    "open.ts": {"options": OPEN_GOP},
    # MXF carries H.264 timestamps in decoding order.
    "b_frames.mxf": {"options": B_FRAMES},
    "mpeg2.mxf": {
        "codec": "mpeg2video",
        "options": {"g": "12", "bf": "2"},
        "size": (96, 144),
        "pix_fmt": "yuv422p",
    },
    "mpeg4.avi": {"codec": "mpeg4", "options": {"bf": "2"}},
    "vp8.webm": {
        "codec": "libvpx",
        "options": {"auto-alt-ref": "1", "lag-in-frames": "9", "g": "40"},
    },
    "ntsc.mp4": {"rate": Fraction(30000, 1001), "options": {"g": "30"}},
    "one_keyframe.mp4": {"options": {"g": "1000"}},
}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for name, options in FILES.items():
        make_video(folder / name, NUM_FRAMES, **options)
    return folder


@pytest.mark.parametrize("name", FILES)
def test_every_frame_comes_once_and_in_order(videos: Path, name: str) -> None:
    rate = FILES[name].get("rate", 25)
    with read_video(videos / name) as reader:
        assert reader.num_frames == NUM_FRAMES
        assert reader.fps == rate
        for k, frame in enumerate(reader):
            assert (frame.index, number_of(frame.image)) == (k, k)
            assert frame.time_s == pytest.approx(k / rate)
    assert k == NUM_FRAMES - 1
    assert reader.damage is None


@pytest.mark.parametrize("name", FILES)
def test_a_jump_is_frame_exact(videos: Path, name: str) -> None:
    rate = FILES[name].get("rate", 25)
    for k in (3, 63, 64, 100, 117, 131, 160, NUM_FRAMES - 1):
        with read_video(videos / name, start=float(k / rate)) as reader:
            frame = next(reader)
        assert (frame.index, number_of(frame.image)) == (k, k)


@pytest.mark.parametrize("name", sorted(set(FILES) - {"one_keyframe.mp4"}))
def test_a_jump_goes_to_a_keyframe_and_does_not_decode_all(
    videos: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    begun_at = []
    decode = decoding.decode

    def spy(packets_of_file, stream, number, *rest):
        begun_at.append(number)
        return decode(packets_of_file, stream, number, *rest)

    monkeypatch.setattr(decoding, "decode", spy)
    with read_video(videos / name, start=170 / 30) as reader:
        next(reader)
    # The first frame, where frames are counted a look at some more, and then the keyframe.
    assert begun_at[:-1] == [0] * (2 if name == "b_frames.mxf" else 1)
    assert begun_at[-1] > 0


def test_start_end_and_every_choose_frames(videos: Path) -> None:
    with read_video(videos / "closed.mp4", start=1.0, end=2.0, every=4) as reader:
        numbers = [number_of(frame.image) for frame in reader]
        assert numbers == [25, 29, 33, 37, 41, 45, 49]
        assert reader.num_frames == 7
        assert reader.fps == Fraction(25, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": 100}, "last frame is at 7.160 s"),
        ({"start": 3, "end": 3}, "start < end"),
        ({"start": -1}, "start < end"),
        ({"every": 0}, "every must be at least 1"),
    ],
)
def test_impossible_cuts_are_refused(videos: Path, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_video(videos / "closed.mp4", **options)


def test_times_of_a_varying_rate_come_from_the_file(tmp_path: Path) -> None:
    ticks = [0, 40, 80, 200, 600, 640, 1000, 1040, 1080, 1500]
    path = make_video(tmp_path / "phone.mkv", len(ticks), ticks=ticks)
    with read_video(path) as reader:
        times = [frame.time_s for frame in reader]
    assert times == pytest.approx([t / 1000 for t in ticks], abs=2e-3)
    with read_video(path, start=0.6, end=1.05) as reader:
        assert [number_of(frame.image) for frame in reader] == [4, 5, 6, 7]


@pytest.mark.skipif(
    not hasattr(av.VideoStream, "set_display_rotation"), reason="this PyAV writes no rotation"
)
def test_a_phone_held_upright_gives_upright_frames(tmp_path: Path) -> None:
    path = make_video(tmp_path / "upright.mp4", 2, rotation=90)
    with read_video(path) as reader:
        image = next(reader).image
    assert image.shape == (SIZE[1], SIZE[0], 3)


@pytest.mark.parametrize("name", ["cut.mp4", "cut.mkv", "cut.avi", "cut.mxf"])
def test_a_file_that_is_cut_short_gives_the_frames_before_the_cut(
    tmp_path: Path, name: str
) -> None:
    codec = "mpeg4" if name == "cut.avi" else "libx264"
    head = {"movflags": "+faststart"} if name == "cut.mp4" else {}
    path = make_video(tmp_path / name, 120, codec=codec, container_options=head)
    with read_video(cut_short(path)) as reader:
        numbers = [number_of(frame.image) for frame in reader]
    assert 30 < len(numbers) < 120
    assert numbers == list(range(len(numbers)))
    assert reader.damage is not None
    assert f"damaged after frame {len(numbers) - 1}" in reader.damage


def test_damage_in_the_middle_ends_the_frames_and_is_reported(tmp_path: Path) -> None:
    path = make_video(tmp_path / "hit.mp4", 100, options={"g": "20"})
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 600] = np.random.default_rng(0).bytes(600)
    path.write_bytes(content)
    with read_video(path) as reader:
        numbers = [number_of(frame.image) for frame in reader]
    assert 0 < len(numbers) < 100
    assert reader.damage is not None


def test_an_end_before_the_damage_is_no_damage(tmp_path: Path) -> None:
    head = {"movflags": "+faststart"}
    path = make_video(tmp_path / "cut.mp4", 120, container_options=head)
    with read_video(cut_short(path), end=0.4) as reader:
        assert len(list(reader)) == 10
    assert reader.damage is None


def test_sources_that_are_no_video_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("not a video\n" * 50)
    (tmp_path / "notes.txt").write_text("not a video\n" * 50)
    sound = tmp_path / "sound.wav"
    with av.open(str(sound), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    no_index = cut_short(make_video(tmp_path / "late.mp4"))
    for source, message in (
        (tmp_path / "empty.mp4", "is empty"),
        (tmp_path / "text.mp4", "cannot open .* as a video"),
        (tmp_path / "notes.txt", "no video"),
        (sound, "holds no video"),
        (no_index, "its end .* is missing"),
        ("rtsp://127.0.0.1:9/live", "Connection refused"),
    ):
        with pytest.raises(ValueError, match=message):
            read_video(source)
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_video(tmp_path / "nowhere.mp4")


@pytest.mark.skipif(Path("/dev/video7").exists(), reason="there is a camera 7")
@pytest.mark.skipif(sys.platform != "linux", reason="/dev/video is Linux")
def test_a_camera_that_is_not_there(tmp_path: Path) -> None:
    for source in (7, "7"):
        with pytest.raises(FileNotFoundError, match="no camera 7"):
            read_video(source)


def test_a_camera_is_read_live(monkeypatch: pytest.MonkeyPatch) -> None:
    device = ("testsrc2=size=96x64:rate=20", {"format": "lavfi"})
    monkeypatch.setattr("vidseg.video.reader.camera", lambda number: device)
    with read_video(0, start=0.2, end=1.0, every=2) as reader:
        assert reader.is_live
        assert reader.num_frames is None
        frames = list(reader)
    assert [frame.index for frame in frames] == [4, 6, 8, 10, 12, 14, 16, 18]
    assert [frame.time_s for frame in frames] == pytest.approx([k / 20 for k in range(4, 20, 2)])
    assert frames[0].image.shape == (64, 96, 3)


def test_a_video_on_a_server(tmp_path: Path) -> None:
    import http.server
    import threading
    from functools import partial

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    make_video(tmp_path / "a.mp4", 30, container_options={"movflags": "+faststart"})
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        with read_video(f"{address}/a.mp4") as reader:
            assert not reader.is_live
            assert [number_of(frame.image) for frame in reader] == list(range(30))
        with pytest.raises(ValueError, match=r"cannot open http.*404"):
            read_video(f"{address}/nowhere.mp4")
        server.shutdown()


def test_images_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for k in range(12):
        Image.fromarray(paint(k)).save(tmp_path / f"frame_{k}.png")
    (tmp_path / "notes.txt").touch()
    for source in (tmp_path, str(tmp_path / "*.png"), str(tmp_path / "frame_*")):
        with read_video(source, fps=10) as reader:
            frames = list(reader)
        assert [number_of(frame.image) for frame in frames] == list(range(12))
        assert frames[5].time_s == pytest.approx(0.5)
    with read_video(tmp_path / "frame_7.png") as reader:
        assert [number_of(frame.image) for frame in reader] == [7]
    with read_video(tmp_path, fps=10, start=0.3, end=0.9, every=2) as reader:
        assert [frame.index for frame in reader] == [3, 5, 7]


@pytest.mark.parametrize("fps", [0, -3, float("nan"), 5000])
def test_an_impossible_frame_rate_is_refused(tmp_path: Path, fps: float) -> None:
    Image.fromarray(paint(0)).save(tmp_path / "0.png")
    with pytest.raises(ValueError, match=r"fps must be 0\.001 to 1000"):
        read_video(tmp_path, fps=fps)


def test_a_frame_rate_for_a_video_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"fps is for folders of images; .* of its own"):
        read_video(make_video(tmp_path / "a.mp4", 4), fps=30)


def test_image_folders_with_faults(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no images in"):
        read_video(tmp_path)
    with pytest.raises(FileNotFoundError, match="nothing matches"):
        read_video(tmp_path / "*.png")
    Image.fromarray(paint(0)).save(tmp_path / "0.png")
    Image.fromarray(paint(1, (32, 48))).save(tmp_path / "1.png")
    reader = read_video(tmp_path)
    assert len(list(reader)) == reader.num_frames == 1
    assert "frame 0 (0.00 s): 1.png is 48x32, the frames before it are 144x64" in reader.damage
    (tmp_path / "1.png").write_bytes((tmp_path / "0.png").read_bytes()[:60])
    reader = read_video(tmp_path)
    assert len(list(reader)) == 1
    assert "1.png" in (reader.damage or "")
    (tmp_path / "0.png").write_text("no image")
    with pytest.raises(ValueError, match=r"no frame .* can be decoded: .*0\.png"):
        next(read_video(tmp_path))


def test_arrays_are_frames(tmp_path: Path) -> None:
    images = [paint(k) for k in range(9)]
    with read_video(images, fps=10, start=0.2, end=0.8, every=2) as reader:
        assert (reader.fps, reader.num_frames, reader.is_live) == (5, 3, False)
        frames = list(reader)
    assert [(frame.index, frame.time_s) for frame in frames] == [(2, 0.2), (4, 0.4), (6, 0.6)]
    assert [number_of(frame.image) for frame in frames] == [2, 4, 6]
    assert read_video(np.stack(images)).num_frames == 9
    reader = read_video(image[..., ::-1] for image in images)  # BGR
    assert reader.num_frames is None
    assert [number_of(frame.image) for frame in reader] == list(range(9))


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        ([paint(0) / 255.0], TypeError, "frame 0 must be a numpy array of uint8, got float64"),
        (["0.png"], TypeError, "got str; image files go in as a folder or glob"),
        (paint(0), ValueError, r"\(H, W, 3\), RGB, got \(144, 3\); one image goes in a list"),
        ([paint(0), paint(1)[1:]], ValueError, "frame 1 of the images is 144x63, .* are 144x64"),
        ([], ValueError, "no frame from 0 s on: 0 images were given"),
    ],
)
def test_what_is_no_frame_is_refused(images, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        list(read_video(images))


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    blocks = [np.kron(rng.integers(0, 256, (4, 6, 3)), np.ones((16, 16, 1))) for _ in range(60)]
    path = tmp_path / "out.mp4"
    with VideoWriter(path, fps=Fraction(30000, 1001)) as writer:
        for block in blocks:
            writer.write(block.astype(np.uint8))
            assert not path.exists()
    with read_video(path) as reader:
        assert reader.fps == Fraction(30000, 1001)
        for frame, block in zip(reader, blocks, strict=True):
            assert np.abs(frame.image - block).mean() < 8
    assert [p.name for p in tmp_path.iterdir()] == ["out.mp4"]


def test_written_files_suit_browsers(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    with VideoWriter(path, fps=20) as writer:
        for k in range(50):
            writer.write(paint(k))
    content = path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        keyframes = [k for k, p in enumerate(container.demux(stream)) if p.is_keyframe]
    assert max(np.diff([*keyframes, 50])) <= 20


def test_odd_sides_are_padded_to_even(tmp_path: Path) -> None:
    path = tmp_path / "odd.mp4"
    with VideoWriter(path, fps=25) as writer:
        writer.write(np.full((33, 47, 3), 200, np.uint8))
    image = next(read_video(path)).image
    assert image.shape == (34, 48, 3)
    assert image.min() > 190


def test_frames_keep_their_times(tmp_path: Path) -> None:
    times = [2.0, 2.04, 2.4, 2.44, 3.0]
    with VideoWriter(tmp_path / "out.mp4", fps=25) as writer:
        for k, time_s in enumerate(times):
            writer.write(paint(k), time_s)
    with read_video(tmp_path / "out.mp4") as reader:
        assert [f.time_s for f in reader] == pytest.approx([t - 2 for t in times], abs=3e-3)


def test_the_writer_refuses_what_it_cannot_write(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot write a video as out\.gif"):
        VideoWriter(tmp_path / "out.gif", fps=25)
    with pytest.raises(FileNotFoundError, match="no folder"):
        VideoWriter(tmp_path / "nowhere" / "out.mp4", fps=25)
    with pytest.raises(ValueError, match="fps must be"):
        VideoWriter(tmp_path / "out.mp4", fps=0)
    writer = VideoWriter(tmp_path / "out.mp4", fps=25)
    with pytest.raises(ValueError, match="uint8"):
        writer.write(paint(0).astype(np.float32))
    writer.write(paint(0))
    with pytest.raises(ValueError, match="got \\(32"):
        writer.write(paint(0, (32, 48)))
    assert not list(tmp_path.iterdir())


def test_ctrl_c_keeps_a_playable_file_and_errors_keep_none(tmp_path: Path) -> None:
    def write(name: str, error: type[BaseException]) -> None:
        with VideoWriter(tmp_path / name, fps=25) as writer:
            for k in range(30):
                writer.write(paint(k))
            raise error

    with pytest.raises(KeyboardInterrupt):
        write("kept.mp4", KeyboardInterrupt)
    with pytest.raises(RuntimeError):
        write("gone.mp4", RuntimeError)
    assert [p.name for p in tmp_path.iterdir()] == ["kept.mp4"]
    assert [number_of(f.image) for f in read_video(tmp_path / "kept.mp4")] == list(range(30))


def test_no_frames_no_file(tmp_path: Path) -> None:
    VideoWriter(tmp_path / "out.mp4", fps=25).close()
    assert not list(tmp_path.iterdir())


def test_an_interrupt_waits_for_the_step_to_end() -> None:
    done = []

    def step() -> None:
        with hold_interrupts():
            os.kill(os.getpid(), signal.SIGINT)
            done.append(True)

    with pytest.raises(KeyboardInterrupt):
        step()
    assert done
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


class _FullDisk:
    """A container whose disk fills up after some packets, or when it is closed."""

    def __init__(self, container, packets_left: int) -> None:
        self.container, self.packets_left = container, packets_left

    def mux(self, written) -> None:
        self.packets_left -= len(written)
        if self.packets_left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.container.mux(written)

    def close(self) -> None:
        self.container.close()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("packets_left", [0, 10, 10**6])
def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path, packets_left: int) -> None:
    path = tmp_path / "out.mp4"

    def write() -> None:
        with VideoWriter(path, fps=25) as writer:
            writer.write(paint(0))
            writer._container = _FullDisk(writer._container, packets_left)
            for k in range(60):
                writer.write(paint(k))

    with pytest.raises(OSError, match="No space left on device") as caught:
        write()
    assert caught.value.filename == str(path)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="limits are POSIX")
def test_a_disk_that_really_refuses(tmp_path: Path) -> None:
    program = """
import resource, signal, sys
import numpy as np
from vidseg.video.writer import VideoWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
rng = np.random.default_rng(0)
try:
    with VideoWriter(sys.argv[1], fps=25) as writer:
        for _ in range(200):
            writer.write(rng.integers(0, 256, (96, 128, 3)).astype(np.uint8))
except OSError as error:
    print(error)
"""
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, str(tmp_path / "out.mp4")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "File too large" in ran.stdout
    assert not list(tmp_path.iterdir())


def _mono(frame: av.AudioFrame) -> np.ndarray:
    samples = frame.to_ndarray().astype(float)
    return samples.mean(0) if frame.format.is_planar else samples.reshape(frame.samples, -1).mean(1)


def _loudness(path: Path) -> tuple[str, float, np.ndarray]:
    """Codec, start in seconds and loudness of every tenth of a second of a file's sound."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        frames = list(container.decode(stream))
        start_s = float(frames[0].pts * frames[0].time_base)
        samples = np.concatenate([_mono(frame) for frame in frames])
        samples /= 32768 if frames[0].format.name.startswith("s16") else 1
        rate = frames[0].sample_rate
        blocks = samples[: len(samples) // (rate // 10) * (rate // 10)].reshape(-1, rate // 10)
        return stream.codec_context.name, start_s, np.sqrt((blocks**2).mean(1))


@pytest.mark.parametrize(
    ("name", "sound"),
    [("a.mp4", "aac"), ("a.ts", "aac"), ("a.mkv", "libopus"), ("a.mkv", "pcm_s16le")],
)
def test_sound_goes_along(tmp_path: Path, name: str, sound: str) -> None:
    source = make_video(tmp_path / name, 75, sound=sound)
    _, _, loud = _loudness(source)
    for first_s, last_s in ((0.0, 3.0), (1.0, 2.0)):
        path = tmp_path / "out.mp4"
        with (
            read_video(source, start=first_s, end=last_s) as reader,
            VideoWriter(path, fps=25, sound_from=source) as writer,
        ):
            for frame in reader:
                writer.write(frame.image, frame.time_s)
        codec, start_s, kept = _loudness(path)
        assert codec == {"libopus": "opus"}.get(sound, "aac")
        assert abs(start_s) < 0.1
        assert len(kept) == pytest.approx(10 * (last_s - first_s), abs=2)
        # The tone grows steadily, so its loudness says which part of the sound this is.
        middle = slice(3, int(10 * (last_s - first_s)) - 3)
        expected = loud[int(10 * first_s) :][middle]
        assert kept[middle] == pytest.approx(expected, abs=0.05)


def test_a_silent_source_gives_a_silent_video(tmp_path: Path) -> None:
    source = make_video(tmp_path / "a.mp4", 5)
    with VideoWriter(tmp_path / "out.mp4", fps=25, sound_from=source) as writer:
        writer.write(paint(0))
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert not container.streams.audio


def test_a_real_video(shared: Path) -> None:
    with read_video(shared / "data/video/solidWhiteRight.mp4") as reader:
        frames = [frame.image[::8, ::8].copy() for frame in reader]
        assert reader.fps == 25
    assert len(frames) == 221
    assert frames[0].shape == (68, 120, 3)
    with read_video(shared / "data/video/solidWhiteRight.mp4", start=6.0) as reader:
        frame = next(reader)
    assert frame.index == 150
    assert np.array_equal(frame.image[::8, ::8], frames[150])


ENCODE = """
import os, sys
import numpy as np
from vidseg.video.writer import VideoWriter

os.sched_setaffinity(0, [int(core) for core in sys.argv[2:]])
rng = np.random.default_rng(0)
picture = rng.integers(0, 256, (120, 240, 3), np.uint8).repeat(2, 0).repeat(2, 1)
with VideoWriter(sys.argv[1], fps=25) as writer:
    for k in range(40):
        writer.write(np.roll(picture, (k, 3 * k), (0, 1)))
"""


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="cores cannot be chosen here")
def test_the_same_frames_give_the_same_bits_on_one_core_and_on_all(tmp_path: Path) -> None:
    cores = [str(core) for core in sorted(os.sched_getaffinity(0))]
    if len(cores) == 1:
        pytest.skip("this machine has one core")
    for name, chosen in (("one", cores[:1]), ("all", cores)):
        words = [sys.executable, "-c", ENCODE, str(tmp_path / f"{name}.mp4"), *chosen]
        subprocess.run(words, check=True)
    assert (tmp_path / "one.mp4").read_bytes() == (tmp_path / "all.mp4").read_bytes()


def test_absurdly_slow_videos_are_written(tmp_path):
    """A y4m of 1e-9 frames a second, and a gap of 10^7 s: no rate of 0 comes of them."""
    times_s = (0.0, 0.04, 1e7)
    with VideoWriter(tmp_path / "gap.mkv", fps=1e-9) as writer:
        for time_s in times_s:
            writer.write(np.zeros((32, 48, 3), np.uint8), time_s)
    with read_video(tmp_path / "gap.mkv") as reader:
        found = [frame.time_s for frame in reader]
    assert found == pytest.approx(times_s, abs=0.002)
    with VideoWriter(tmp_path / "gap.mp4", fps=25) as writer:
        writer.write(np.zeros((32, 48, 3), np.uint8), 0.0)
        with pytest.raises(ValueError, match=r"lie 10000000 s apart, which \.mp4 cannot hold"):
            writer.write(np.zeros((32, 48, 3), np.uint8), 1e7)
    assert not (tmp_path / "gap.mp4").exists()
    with pytest.raises(ValueError, match=r"fps must be 0\.001 to 1000, got 1e-09"):
        read_video([np.zeros((32, 48, 3), np.uint8)], fps=1e-9)

"""`evaluate --video`: plain videos, with and without labels, by function and by command."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from command_line import run
from PIL import Image
from settled import by_colour
from torch import Tensor

from vidseg.data.synthetic import render
from vidseg.evaluation.result import Evaluation
from vidseg.evaluation.videos import evaluate_videos
from vidseg.flow import DIS, forward_backward_consistent
from vidseg.inference.frame_result import classes_of
from vidseg.inference.stream import DamagedVideoWarning, segment
from vidseg.metrics import TemporalConsistency

SIZE = (48, 64)


class Still:
    name = "still"

    def __call__(self, image_t: np.ndarray, image_s: np.ndarray) -> Tensor:
        return torch.zeros(2, *image_t.shape[:2])


def write_frames(folder: Path, images: list[np.ndarray]) -> Path:
    folder.mkdir(parents=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"frame_{i + 7}.png")
    return folder


@pytest.fixture(scope="module")
def street(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("street") / "street.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        for image in render(0, 6, SIZE).frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def test_a_video_without_labels_has_consistency_and_speed(street):
    frames = []
    estimate = DIS("ultrafast")
    result = evaluate_videos(
        by_colour(), [street], flow=estimate, observe=lambda frame, figures: frames.append(frame)
    )
    assert (result.num_frames, result.num_scored, result.total.num_pairs) == (6, 0, 5)
    assert result.figures["mean_iou"] is None
    assert result.absent["mean_iou"] == result.absent["vc8"] == "there are no true labels"
    assert result.figures["ms_per_frame"] > 0
    assert result.conventions["frames_per_second"] == [10.0]
    assert [figures.time_s for figures in result.series] == pytest.approx(np.arange(6) / 10)
    assert [figures.ms is None for figures in result.series] == [True] + 5 * [False]  # warm-up
    expected = [one.labels for one in segment(by_colour(), street)]
    np.testing.assert_array_equal([frame.labels for frame in frames], expected)
    pairs = TemporalConsistency(3)
    for before, now in pairwise(frames):
        flows = estimate(now.image, before.image), estimate(before.image, now.image)
        valid = forward_backward_consistent(*flows)[None]
        pairs.update(np.stack([before.labels, now.labels]), flows[0][None], valid)
    assert result.figures["temporal_consistency"] == pairs.mean_iou()


def test_one_frame_has_nothing_to_compare_with(street):
    result = evaluate_videos(by_colour(), [street], flow=Still(), max_frames=1)
    assert result.absent["flicker"] == "no two neighbouring frames were scored"
    assert result.figures["ms_per_frame"] > 0


def test_labels_make_a_plain_video_a_labelled_one(tmp_path):
    video = render(1, 9, SIZE)
    source = write_frames(tmp_path / "frames", list(video.frames))
    (tmp_path / "labels").mkdir()
    for i, result in enumerate(segment(by_colour(), source)):
        truth = result.labels
        truth[0] = 255
        Image.fromarray(truth).save(tmp_path / "labels" / f"frame_{i + 7}.png")
    labels = [tmp_path / "labels"]
    result = evaluate_videos(by_colour(), [source], labels=labels, flow=Still())
    assert result.figures["mean_iou"] == 1
    assert result.total.vc[8].num_windows == 2
    assert result.figures["vc8_correct"] == 1
    assert result.num_scored == 9
    (tmp_path / "labels" / "frame_9.png").unlink()
    result = evaluate_videos(by_colour(), [source], labels=labels, flow=Still(), max_frames=8)
    assert (result.num_frames, result.num_scored, result.total.num_pairs) == (8, 7, 7)
    assert result.figures["vc8"] is None


def test_labels_of_a_video_file_go_by_number(street, tmp_path):
    for i, result in enumerate(segment(by_colour(), street)):
        Image.fromarray(result.labels).save(tmp_path / f"street-{i:05d}.png")
    result = evaluate_videos(by_colour(), [street], labels=[tmp_path])
    assert (result.figures["pixel_accuracy"], result.num_scored) == (1, 6)


def test_labels_of_other_suffixes_and_with_turned_palettes_are_read(street, tmp_path):
    model = by_colour()
    _, palette = classes_of(model)
    for i, result in enumerate(segment(model, street)):
        turned = Image.fromarray((len(palette) - 1 - result.labels).astype(np.uint8))
        turned.putpalette(palette[::-1].tobytes())
        turned.save(tmp_path / f"{i:05d}.{('PNG', 'tif', 'bmp')[i % 3]}")
        (tmp_path / f"._{i:05d}.png").write_bytes(b"x")
    result = evaluate_videos(model, [street], labels=[tmp_path])
    assert (result.figures["pixel_accuracy"], result.num_scored) == (1, 6)


@pytest.mark.parametrize(
    ("name", "labels", "message"),
    [
        ("00006.png", np.zeros(SIZE, np.uint8), r"00006.png names no frame of .*street.mp4"),
        ("mask.png", np.zeros(SIZE, np.uint8), r"mask.png names no frame of .*last number"),
        ("00001.png", np.zeros((24, 64), np.uint8), r"is 64x24, its frame is 64x48; labels of a"),
        ("00001.png", np.full(SIZE, 9, np.uint8), r"label values \[9\] mean nothing among 3"),
    ],
)
def test_labels_that_do_not_fit_are_refused(street, tmp_path, name, labels, message):
    Image.fromarray(labels).save(tmp_path / name)
    with pytest.raises(ValueError, match=message):
        evaluate_videos(by_colour(), [street], labels=[tmp_path])


def test_wrong_sources_are_refused(street, tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder of labels"):
        evaluate_videos(by_colour(), [street], labels=[tmp_path / "nowhere"])
    with pytest.raises(FileNotFoundError, match="holds no PNG of labels"):
        evaluate_videos(by_colour(), [street], labels=[tmp_path])
    with pytest.raises(ValueError, match="as many folders of labels as videos, or none: got 2 for"):
        evaluate_videos(by_colour(), [street], labels=[tmp_path, tmp_path])
    with pytest.raises(ValueError, match="given twice"):
        evaluate_videos(by_colour(), [street, street])
    with pytest.raises(ValueError, match="give one video or more"):
        evaluate_videos(by_colour(), [])
    with pytest.raises(ValueError, match="max_frames must be at least 1"):
        evaluate_videos(by_colour(), [street], max_frames=0)
    with pytest.raises(FileNotFoundError, match="no such file"):
        evaluate_videos(by_colour(), [tmp_path / "nowhere.mp4"])


def test_nothing_is_compared_across_a_cut(tmp_path):
    rng = np.random.default_rng(0)
    day = rng.integers(100, 255, (*SIZE, 3)).astype(np.uint8)
    night = np.kron(rng.integers(0, 2, (6, 8, 3)) * 60, np.ones((8, 8, 1))).astype(np.uint8)
    source = write_frames(tmp_path / "film", [day, day, day, night, night])
    result = evaluate_videos(by_colour(), [source], flow=Still())
    assert result.total.num_pairs == 3
    assert result.figures["flicker"] == 0
    assert [f.flicker for f in result.series] == [None, 0, 0, None, 0]


def test_several_videos_are_measured_apart(street, tmp_path):
    source = write_frames(tmp_path / "short", list(render(1, 3, (24, 40)).frames))
    both = evaluate_videos(by_colour(), [street, source], flow=DIS("ultrafast"))
    assert list(both.videos) == ["street", "short"]
    for name, one in (("street", street), ("short", source)):
        alone: Evaluation = evaluate_videos(by_colour(), [one], flow=DIS("ultrafast"))
        assert alone.total.figures() == both.videos[name].figures()


def test_a_damaged_video_is_measured_up_to_the_damage(street, tmp_path):
    frames = write_frames(tmp_path / "frames", list(render(1, 4, (24, 40)).frames))
    (frames / "frame_9.png").write_bytes(b"no image")
    with pytest.warns(DamagedVideoWarning, match="damaged after frame 1"):
        result = evaluate_videos(by_colour(), [frames], flow=DIS("ultrafast"))
    assert (result.num_frames, result.total.num_pairs) == (2, 1)


def test_command_measures_a_video(weights_file, street, tmp_path, capsys):
    out = tmp_path / "out"
    words = ("evaluate", weights_file, "--video", street, "--flow", "dis-fast", "--max-frames", 4)
    assert run(*words, "--flow-cache", tmp_path / "flow", "--out", out) == 0
    shown = capsys.readouterr().out
    assert "on plain video: 1 video, 4 frames, none with labels" in shown
    assert "mean IoU of a video" in shown
    assert '"-" for mean IoU, boundary mean IoU' in shown
    assert "flow: dis-fast (opencv" in shown
    assert "3 pairs of neighbouring frames" in shown
    assert {path.name for path in out.iterdir()} == {
        "metrics.json", "metrics.csv", "counts.npz", "report.html"
    }  # fmt: skip
    assert len([path for path in (tmp_path / "flow").rglob("*") if path.is_file()]) == 6
    assert run(*words, "--flow-cache", tmp_path / "flow", "--out", out, "--json", "--quiet") == 1
    assert "pass --force" in capsys.readouterr().err
    words = (*words, "--flow-cache", tmp_path / "flow", "--out", out, "--force")
    assert run(*words, "--json", "--quiet") == 0
    written = json.loads((out / "metrics.json").read_text())
    assert json.loads(capsys.readouterr().out) == written
    assert written["figures"]["mean_iou"] is None
    assert {row["iou"] for row in written["classes"].values()} == {None}


def test_ctrl_c_leaves_nothing_half_written(weights_file, street, tmp_path, capsys, monkeypatch):
    from vidseg.report.evaluation import Samples

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Samples, "__call__", interrupt)
    assert run("evaluate", weights_file, "--video", street, "--out", tmp_path / "out") == 130
    assert "Interrupted" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--split", "val", "--labels", "x"], "--labels: this is for a --video"),
        (["--video", "V", "--root", "x", "--flip"], "--root, --flip: these are for a data set"),
        (["--video", "V", "--predictions", "x"], "--predictions: this is for a data set"),
        (["--video", "V", "--every-frame"], "--every-frame: this is for a data set"),
        (["--video", "V", "--data", "camvid", "--split", "val"], "--data, --split: these are for"),
        (["--video", "V", "--data", "camvid"], "not for a --video; leave it out"),
        (["--video", "V", "--out", __file__], "--out needs a folder, but"),
        (["--video", "V", "--labels", "."], "named such as 000000.png"),
        (["--video", "V", "--flow", "exact"], "--flow exact is for rendered data sets"),
        (["--video", "V", "--flow", "dsi"], "unknown flow 'dsi'; did you mean 'dis'?"),
        (["--video", "V", "--flow", "none", "--flow-cache", "x"], "--flow-cache: this is for a"),
        (["--video", "V", "--flow-weights", "x"], "the flow 'dis' has no weights"),
        (["--video", "nowhere.mp4"], "no such file: nowhere.mp4"),
    ],
)
def test_command_names_what_is_wrong(weights_file, street, capsys, words, message):
    words = [str(street) if word == "V" else word for word in words]
    assert run("evaluate", weights_file, *words) == 1
    assert message in " ".join(capsys.readouterr().err.split())

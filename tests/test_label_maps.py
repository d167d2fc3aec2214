"""Label maps of a run on file, in the form of VSPW's submissions, and scored again."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import run
from PIL import Image
from settled import settle

from vidseg.data.clip import Video, VideoDataset
from vidseg.evaluation.datasets import evaluate
from vidseg.evaluation.predictions import evaluate_predictions
from vidseg.methods import create
from vidseg.methods.cffm import CFFM
from vidseg.segmenter import VideoSegmenter
from vidseg.weights import save

PALETTE = ((250, 0, 0), (0, 250, 0), (0, 0, 250))


class Noise(VideoDataset):
    """Frames and labels from the path alone; frames have the same names in every video."""

    def __init__(self, labelled: range, **lengths: int) -> None:
        videos = [
            Video(
                name,
                tuple(Path(name) / f"{k:08}.jpg" for k in range(length)),
                tuple(Path(name) / f"{k:08}.png" if k in labelled else None for k in range(length)),
                tuple(range(length)),
            )
            for name, length in lengths.items()
        ]
        super().__init__("noise/val", videos, ("road", "car", "sky"), PALETTE)

    def read_frame(self, path: Path) -> np.ndarray:
        rng = np.random.default_rng(list(str(path).encode()))
        return rng.integers(0, 256, (32, 48, 3), dtype=np.uint8)

    def read_label(self, path: Path) -> np.ndarray:
        rng = np.random.default_rng(list(str(path).encode()))
        truth = rng.choice(np.array([0, 1, 2, 255], np.uint8), (32, 48))
        truth[:16] = 1  # stays, for VC
        return truth


@pytest.fixture(scope="module")
def model() -> VideoSegmenter:
    return settle(CFFM.tiny(3))


def files_of(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_saved_label_maps_score_as_the_run_that_saved_them(model, tmp_path):
    dataset = Noise(range(9), a=9, b=2)
    maps: dict[str, np.ndarray] = {}
    result = evaluate(
        model,
        dataset,
        save_labels=tmp_path / "maps",
        observe=lambda seen, _: maps.update(
            {f"{seen.video.name}/{seen.frame_index:08}.png": seen.labels}
        ),
    )
    assert files_of(tmp_path / "maps") == sorted(maps)
    for name, labels in maps.items():
        with Image.open(tmp_path / "maps" / name) as picture:
            assert picture.mode == "P"
            assert np.array_equal(np.array(picture), labels)
            assert picture.getpalette()[:9] == [value for colour in PALETTE for value in colour]
    again = evaluate_predictions(tmp_path / "maps", dataset)
    for name, value in result.figures.items():
        assert again.figures[name] == value or name == "ms_per_frame"
    assert result.figures["vc8"] is not None


def test_maps_have_the_size_at_which_labels_are_compared(model, tmp_path):
    dataset = Noise(range(3), a=3)
    result = evaluate(model, dataset, save_labels=tmp_path, score_size=(16, 24), batch_size=2)
    again = evaluate_predictions(tmp_path, dataset, score_size=(16, 24))
    assert torch.equal(again.total.confusion.counts, result.total.confusion.counts)
    with Image.open(tmp_path / "a" / "00000000.png") as picture:
        assert picture.size == (24, 16)


@pytest.mark.parametrize("every_frame", [False, True])
def test_every_frame_that_runs_is_saved(model, tmp_path, every_frame):
    evaluate(model, Noise(range(3, 4), a=5), save_labels=tmp_path, every_frame=every_frame)
    wanted = range(5) if every_frame else (3,)
    assert files_of(tmp_path) == [f"a/{k:08}.png" for k in wanted]


def test_a_split_without_labels_is_saved(model, tmp_path):
    unlabelled = Noise(range(0), a=3, b=2)
    result = evaluate(model, unlabelled, save_labels=tmp_path, every_frame=True)
    assert len(files_of(tmp_path)) == 5
    assert result.num_scored == 0
    assert result.figures["mean_iou"] is None
    assert result.absent["mean_iou"] == "there are no true labels"


def test_a_full_disk_names_the_map_and_leaves_none(model, tmp_path, monkeypatch):
    save, saved = Image.Image.save, []

    def full(self, path):
        saved.append(path)
        if len(saved) == 3:
            Path(path).write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(self, path)

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        evaluate(model, Noise(range(9), a=9), save_labels=tmp_path / "maps")
    assert Path(caught.value.filename) == tmp_path / "maps"
    assert not list((tmp_path / "maps").iterdir())


def test_maps_of_an_earlier_run_are_replaced_and_other_files_are_not(model, tmp_path):
    folder, dataset = tmp_path / "maps", Noise(range(2), a=2, b=2)
    evaluate(model, dataset, save_labels=folder)
    before = files_of(folder)
    (folder / "a" / "00000001.png").write_bytes(b"cut short")
    evaluate(model, dataset, save_labels=folder)
    assert files_of(folder) == before
    assert np.array(Image.open(folder / "a" / "00000001.png")).shape == (32, 48)
    with pytest.raises(FileExistsError, match=r"such as b/0000000\d.png, b/0000000\d.png; empty"):
        evaluate(model, dataset, save_labels=folder, max_videos=1)
    (tmp_path / "note").write_text("precious")
    with pytest.raises(FileExistsError, match="does not write, such as note"):
        evaluate(model, dataset, save_labels=tmp_path, max_videos=1)
    with pytest.raises(NotADirectoryError, match="note is a file"):
        evaluate(model, dataset, save_labels=tmp_path / "note")


def test_a_map_that_is_missing_is_named_both_ways(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no label map a/00000000.png or 00000000.png in"):
        evaluate_predictions(tmp_path, Noise(range(1), a=1))


def test_command_saves_and_scores_label_maps(tmp_path, capsys):
    torch.manual_seed(0)
    save(create("fcn_tiny", num_classes=11), tmp_path / "model.safetensors")
    data = ["--data", "synthetic", "--option", "num_videos=1", "--option", "num_frames=3"]
    data += ["--option", "size=[32,48]", "--flow", "exact", "--json", "--quiet"]
    figures = []
    for what in (
        [tmp_path / "model.safetensors", "--save-labels", tmp_path / "maps"],
        ["--predictions", tmp_path / "maps"],
    ):
        assert run("evaluate", *what, *data) == 0
        figures.append(json.loads(capsys.readouterr().out)["figures"] | {"ms_per_frame": None})
    assert figures[0] == figures[1]
    assert files_of(tmp_path / "maps") == [f"street_0000/{k:05}.png" for k in range(3)]

"""The demo from end to end, made tiny: what it writes, and that the comparison is fair."""

from __future__ import annotations

import json
import re
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from vidseg.cli.demo import shown
from vidseg.demo import page as page_module
from vidseg.demo import run as run_module
from vidseg.demo.result import Demo
from vidseg.demo.run import run_demo
from vidseg.methods import load
from vidseg.video.reader import read_video

TINY = (
    "data.options.num_videos=2",
    "data.options.num_frames=4",
    "data.options.size=[48,64]",
    "data.crop=[48,64]",
    "batch_size=2",
    "workers=0",
)
STAGES: list[tuple[str, int | None, int]] = []


@contextmanager
def stage(description: str, total: int | None = None, *, unit: str = ""):
    class Meter:
        done = 0

        def advance(self, count: int = 1, note: str = "") -> None:
            self.done += count

    meter = Meter()
    yield meter
    STAGES.append((description, total, meter.done))


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Demo, Path]:
    folder = tmp_path_factory.mktemp("demo") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "HELD_OUT", {"num_videos": 2, "num_frames": 5})
        return run_demo(folder, iterations=5, seed=3, stage=stage, overrides=TINY), folder


def test_it_leaves_a_report_a_video_figures_and_weights(made):
    _, folder = made
    assert {path.name for path in folder.iterdir()} == {
        "report.html",
        "overlay.mp4",
        "metrics.json",
        "fcn_tiny.safetensors",
        "tmanet_tiny.safetensors",
    }


def test_every_stage_shows_progress_to_its_end(made):
    assert [name.split(" (")[0] for name, _, _ in STAGES] == [
        "training 1 of 3",
        "training 2 of 3",
        "training 3 of 3",
        "evaluating fcn_tiny",
        "evaluating tmanet_tiny",
        "writing overlay.mp4",
    ]
    assert all(done == total for _, total, done in STAGES)


def test_both_networks_see_the_same_number_of_steps(made):
    demo, _ = made
    twin, video = demo.twin, demo.video
    assert (
        [step for step, _ in twin.losses] == [step for step, _ in video.losses] == [1, 2, 3, 4, 5]
    )
    assert twin.losses[:2] == video.losses[:2]  # the shared half
    assert twin.losses[2] != video.losses[2]


def test_the_figures_are_those_of_the_label_maps(made):
    demo, _ = made
    dataset = demo.dataset
    for run in (demo.twin, demo.video):
        assert len(run.labels) == dataset.num_frames == 10
        assert run.evaluation.num_frames == 10
        assert run.evaluation.total.num_pairs == 2 * 4
        hits = pixels = 0
        for video in dataset.videos:
            for index, path in enumerate(video.labels):
                assert path is not None
                truth = dataset.read_label(path)
                hits += (run.labels[video.name, index] == truth)[truth != 255].sum()
                pixels += (truth != 255).sum()
        assert run.evaluation.pixel_accuracy == pytest.approx(hits / pixels)


def test_the_saved_networks_are_those_that_were_scored(made):
    demo, folder = made
    model = load(folder / "tmanet_tiny.safetensors")
    assert model.card.classes == demo.dataset.classes
    video = demo.dataset.videos[0]
    memory = None
    with torch.inference_mode():
        for index, path in enumerate(video.frames):
            frame = model.card.normalise(demo.dataset.read_frame(path))[None]
            segmentation, memory = model.step(frame, memory)
            labels = segmentation.labels()[0, 0].numpy()
            assert (labels == demo.video.labels[video.name, index]).mean() > 0.999


def test_held_out_streets_are_not_those_of_the_training(made):
    demo, _ = made
    assert demo.dataset.name == "synthetic/test"
    assert demo.dataset.size == (48, 64)


def test_the_report_says_what_was_measured(made):
    demo, folder = made
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert len(text) < 5 * 2**20
    for run in (demo.twin, demo.video):
        for value in (
            run.evaluation.mean_iou,
            run.evaluation.figures["temporal_consistency"],
            run.evaluation.figures["flicker"],
        ):
            assert f">{100 * value:.2f}</td>" in text
    assert "Each network saw 5 training steps" in text
    assert "vidseg demo --seed 3 --iterations 5" in text
    assert "exact" in text
    assert "<script" not in text
    assert not re.search(r"https?://", text)


def test_metrics_hold_the_same_figures(made):
    demo, folder = made
    saved = json.loads((folder / "metrics.json").read_text())
    assert saved["iterations_of_each"] == 5
    assert saved["tmanet_tiny"]["figures"]["mean_iou"] == demo.video.evaluation.mean_iou
    assert saved["fcn_tiny"]["figures"] == demo.twin.evaluation.figures


def test_the_command_shows_the_figures_of_both(made):
    demo, _ = made
    table, flow = shown(demo)
    cells = [list(column.cells) for column in table.columns]
    assert cells[0] == ["per frame (fcn_tiny)", "with memory (tmanet_tiny)"]
    assert cells[1][0] == f"{100 * demo.twin.evaluation.mean_iou:.2f}"
    assert cells[4][1] == f"{100 * demo.video.evaluation.figures['flicker']:.2f}"
    assert flow == "flow of TC and flicker: exact"


def test_the_video_plays_and_shows_four_panels(made):
    demo, folder = made
    frames = list(read_video(folder / "overlay.mp4"))
    assert len(frames) == demo.dataset.num_frames
    picture = np.asarray(getattr(frames[0], "image", frames[0]))
    factor = round(page_module.PANEL_WIDTH_PX / 64)
    assert picture.shape[1] == 2 * 64 * factor


@pytest.mark.parametrize(("difference", "word"), [(1.5, "more"), (-1.5, "less")])
def test_the_verdict_names_the_direction_as_it_is(difference, word):
    assert page_module._points(difference) == f"1.50 points {word}"


def test_too_few_steps_are_refused(tmp_path):
    with pytest.raises(ValueError, match="iterations must be at least 2"):
        run_demo(tmp_path, iterations=1)

"""What VSPW's own tool prints: by its rules, and beside the figures of an evaluation."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from settled import by_colour

from vidseg.cli.scores import show_scores
from vidseg.data.clip import Video, VideoDataset
from vidseg.evaluation.datasets import evaluate
from vidseg.evaluation.figures import FIGURES, VSPW
from vidseg.metrics import VspwScore
from vidseg.report.evaluation import evaluation_page

PALETTE = ((250, 0, 0), (0, 250, 0), (0, 0, 250))


class Street(VideoDataset):
    """Frames in the colours of labels that lie; the truth stays in half of the picture."""

    official_score = "vspw"

    def __init__(self, labelled: range = range(99), **lengths: int) -> None:
        videos = [
            Video(
                name,
                tuple(Path(name) / f"{k:03}" for k in range(length)),
                tuple(Path(name) / f"{k:03}" if k in labelled else None for k in range(length)),
                tuple(range(length)),
            )
            for name, length in lengths.items()
        ]
        super().__init__("street/val", videos, ("road", "car", "sky"), PALETTE)

    def read_frame(self, path: Path) -> np.ndarray:
        rng = np.random.default_rng(list(str(path).encode()))
        labels = np.where(rng.random((8, 12)) < 0.2, rng.integers(0, 3, (8, 12)), 1)
        return self.palette[labels]

    def read_label(self, path: Path) -> np.ndarray:
        truth = np.random.default_rng(int(path.name)).integers(0, 2, (8, 12), dtype=np.uint8)
        truth[:4], truth[:, :2] = 1, 255
        return truth


def as_the_tool_counts(dataset: VideoDataset) -> dict[str, float]:
    score = VspwScore(3)
    for video in dataset.videos:
        labels = [
            np.abs(dataset.palette - dataset.read_frame(path)[..., None, :].astype(int))
            .sum(-1)
            .argmin(-1)
            for path in video.frames
        ]
        score.update(labels, [dataset.read_label(path) for path in video.frames])
    return {f"vspw_{name}": value for name, value in score.figures().items()}


def test_short_videos_are_left_out_of_every_figure():
    truth = torch.zeros(17, 2, 2, dtype=torch.int64)
    whole, short = VspwScore(3), VspwScore(3)
    whole.update(truth, truth)
    whole.update(1 - truth[:16], truth[:16])
    short.update(truth[:16], truth[:16])
    assert whole.num_videos == 1
    assert set(whole.figures().values()) == {1.0}
    assert whole.vc[8].num_windows == 9
    assert whole.vc[16].num_windows == 1
    assert all(math.isnan(value) for value in short.figures().values())
    with pytest.raises(ValueError, match="as many frames"):
        whole.update(truth, truth[:16])
    video = whole.video()
    video.finish()
    with pytest.raises(ValueError, match="finished"):
        video.finish()


@pytest.mark.parametrize("batch_size", [1, 3])
def test_evaluations_give_what_the_tool_prints(batch_size):
    dataset = Street(a=18, b=3, c=20)
    result = evaluate(by_colour(), dataset, batch_size=batch_size)
    expected = as_the_tool_counts(dataset)
    assert list(result.figures) == [*FIGURES, *(figure.key for figure in VSPW)]
    assert {name: result.figures[name] for name in expected} == expected
    assert result.figures["vspw_mean_iou"] != result.figures["mean_iou"]
    assert result.vspw is not None
    assert result.vspw.num_videos == 2


@pytest.mark.parametrize(
    ("dataset", "options"),
    [
        (Street(a=18), {"max_frames": 9}),
        (Street(range(17), a=18), {}),
        (Street(range(1, 18), a=18), {"every_frame": True}),
        (Street(a=5), {}),
        (Street(range(0), a=18), {"every_frame": True}),
    ],
)
def test_videos_that_are_not_whole_have_no_official_figure(dataset, options):
    result = evaluate(by_colour(), dataset, **options)
    assert {result.figures[figure.key] for figure in VSPW} == {None}
    reason = result.absent["vspw_vc8"]
    assert ("whole videos of more than 16 frames" in reason) == bool(result.num_scored)


def test_figures_are_shown_and_saved(tmp_path, capsys):
    result = evaluate(by_colour(), Street(a=18))
    show_scores("by colour", result, None)
    heading, row = (
        line.split("  ")
        for line in capsys.readouterr().out.splitlines()
        if "as VSPW" in line or line.count(" %") == 6
    )
    assert [word.strip() for word in heading if word.strip()] == [
        "as VSPW's tool counts",
        *(figure.title.removeprefix("VSPW ") for figure in VSPW),
    ]
    assert f"{100 * result.figures['vspw_vc16']:.2f} %" in [word.strip() for word in row]
    result.save(tmp_path, "by colour")
    saved = json.loads((tmp_path / "metrics.json").read_text())
    assert saved["figures"] == result.figures
    page = evaluation_page("by colour", result)
    page.write(tmp_path / "report.html")
    assert "VSPW mVC16" in (tmp_path / "report.html").read_text(encoding="utf-8")

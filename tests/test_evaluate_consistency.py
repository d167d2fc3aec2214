"""Consistency beside accuracy: in any batch and order, and why where there is none."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from settled import by_colour
from torch import Tensor

from vidseg.data import open_dataset
from vidseg.data.clip import Video, VideoDataset
from vidseg.evaluation.datasets import evaluate
from vidseg.evaluation.figures import FIGURES
from vidseg.evaluation.motion import EstimatedMotion, open_motion
from vidseg.evaluation.predictions import evaluate_predictions
from vidseg.evaluation.result import Agreement, Evaluation, Observed
from vidseg.evaluation.scorer import Scorer
from vidseg.flow import DIS, forward_backward_consistent
from vidseg.methods.tmanet import TMANet
from vidseg.metrics import (
    ConfusionMatrix,
    TemporalConsistency,
    boundary_band,
    temporal_consistency,
    video_consistency,
)

CLASSES = ("road", "car", "sky")
PALETTE = np.array([(250, 0, 0), (0, 250, 0), (0, 0, 250)], np.uint8)
SIZE = (24, 32)


class Drifting(VideoDataset):
    """Bands of colour that drift by a pixel every fourth frame, with some pixels repainted."""

    def __init__(self, *videos: Video, label_size: tuple[int, int] = SIZE) -> None:
        super().__init__("drift/val", videos, CLASSES, PALETTE)
        self.label_size = label_size

    def read_frame(self, path: Path) -> np.ndarray:
        image = self.palette[bands(path, SIZE)]
        rng = np.random.default_rng(list(path.stem.encode()))
        repainted = rng.random(SIZE) < 0.1
        image[repainted] = self.palette[rng.integers(0, 3, int(repainted.sum()))]
        return image

    def read_label(self, path: Path) -> np.ndarray:
        truth = bands(path, self.label_size)
        truth[:2] = self.ignore
        return truth


class Still:
    """An estimator that says that nothing moves, and remembers the sizes that it was asked for."""

    name = "still"

    def __init__(self) -> None:
        self.sizes: set[tuple[int, ...]] = set()

    def __call__(self, image_t: np.ndarray, image_s: np.ndarray) -> Tensor:
        self.sizes |= {image_t.shape[:2], image_s.shape[:2]}
        return torch.zeros(2, *image_t.shape[:2])


def bands(path: Path, size: tuple[int, int]) -> np.ndarray:
    name, number = path.stem.split("_")
    row = (np.arange(size[1]) + int(number) // 4 + len(name)) // 5 % 3
    return np.broadcast_to(row.astype(np.uint8), size).copy()


def video(name: str, length: int, labelled: tuple[int, ...] | None = None) -> Video:
    frames = tuple(Path(f"{name}_{i}.png") for i in range(length))
    wanted = range(length) if labelled is None else labelled
    labels = tuple(path if i in wanted else None for i, path in enumerate(frames))
    return Video(name, frames, labels, tuple(range(0, 2 * length, 2)), rate_hz=30)


def seen_by(model, dataset, **options) -> tuple[Evaluation, list[Observed], list]:
    frames, figures = [], []

    def observe(frame, measured) -> None:
        frames.append(frame)
        figures.append(measured)

    return evaluate(model, dataset, observe=observe, **options), frames, figures


def assert_same(one: Evaluation, other: Evaluation) -> None:
    mine, theirs = one.counts(), other.counts()
    place = {name: i for i, name in enumerate(theirs["names"].tolist())}
    order = [place[name] for name in mine["names"].tolist()]
    for name in mine.keys() - {"vc_n"}:
        np.testing.assert_array_equal(mine[name], theirs[name][order], err_msg=name)
    assert {**one.figures, "ms_per_frame": 0} == {**other.figures, "ms_per_frame": 0}
    rows = [
        {(f.video, f.number): (f.time_s, f.pixel_accuracy, f.flicker) for f in side.series}
        for side in (one, other)
    ]
    assert rows[0] == rows[1]


@pytest.fixture(scope="module")
def drifting() -> Drifting:
    return Drifting(video("a", 18), video("bb", 11), video("ccc", 3), video("dddd", 1))


@pytest.fixture(scope="module")
def alone(drifting) -> Evaluation:
    return evaluate(by_colour(), drifting, flow=DIS("ultrafast"))


@pytest.mark.parametrize("batch_size", [2, 3, 4])
def test_mixed_streams_give_the_figures_of_each_alone(drifting, alone, batch_size):
    mixed = evaluate(by_colour(), drifting, flow=DIS("ultrafast"), batch_size=batch_size)
    assert_same(alone, mixed)
    assert list(mixed.videos) == list(alone.videos)
    assert [f.number for f in mixed.series] == [f.number for f in alone.series]


def test_the_order_of_the_videos_changes_nothing(drifting, alone):
    turned = Drifting(*reversed(drifting.videos))
    assert_same(alone, evaluate(by_colour(), turned, flow=DIS("ultrafast"), batch_size=2))


def test_the_set_is_the_sum_of_its_videos(drifting, alone):
    for one in drifting.videos:
        part = evaluate(by_colour(), Drifting(one), flow=DIS("ultrafast"))
        assert part.figures["flicker"] == alone.videos[one.name].figures()["flicker"]
        assert part.videos[one.name].vc[8].total == alone.videos[one.name].vc[8].total
    total = alone.total
    assert (total.num_frames, total.num_scored, total.num_pairs) == (33, 33, 17 + 10 + 2)
    assert total.vc[8].num_windows == (18 - 7) + (11 - 7)
    assert total.vc[16].num_windows == 18 - 15
    means = [counts.figures()["mean_iou"] for counts in alone.videos.values()]
    assert alone.figures["mean_video_iou"] == pytest.approx(np.mean(means))


def test_figures_are_those_of_the_metrics_by_themselves(drifting):
    one = drifting.videos[0]
    estimate = DIS("ultrafast")
    result, frames, figures = seen_by(by_colour(), Drifting(one), flow=estimate)
    labels = np.stack([frame.labels for frame in frames])
    truth = np.stack([frame.truth for frame in frames])
    images = [frame.image for frame in frames]
    there = [estimate(images[t], images[t - 1]) for t in range(1, len(images))]
    back = [estimate(images[t - 1], images[t]) for t in range(1, len(images))]
    flows = torch.stack(there)
    valid = forward_backward_consistent(flows, torch.stack(back))
    assert 0 < valid.float().mean() < 1
    for maps, name in ((labels, "temporal_consistency"), (truth, "truth_temporal_consistency")):
        expected = temporal_consistency(maps, flows, valid, num_classes=3)
        assert result.figures[name] == expected
    for n in (8, 16):
        assert result.figures[f"vc{n}"] == video_consistency(labels, truth, n)
        correct = video_consistency(labels, truth, n, correct=True)
        assert result.figures[f"vc{n}_correct"] == correct
    near = ConfusionMatrix(3)
    near.update(labels, truth, boundary_band(truth, 5))
    assert result.figures["boundary_mean_iou"] == near.mean_iou()
    assert figures[0].flicker is None
    for before, now, flow, use in zip(frames, frames[1:], flows, valid, strict=False):
        pair = TemporalConsistency(3)
        pair.update(np.stack([before.labels, now.labels]), flow[None], use[None])
        measured = figures[now.frame_index]
        assert measured.flicker == pair.flicker()
        compared = measured.changed != Agreement.NOT_COMPARED
        assert compared.sum() == pair.counts.sum()
        assert (measured.changed == Agreement.OTHER).sum() / compared.sum() == measured.flicker
    assert [f.time_s for f in result.series[:3]] == [0, 2 / 30, 4 / 30]
    assert all(f.changed is None for f in result.series)


def test_exact_flow_finds_the_truth_perfectly_steady():
    options = {"num_videos": 2, "num_frames": 4, "size": (32, 48)}
    dataset = open_dataset("synthetic", None, "val", **options)
    torch.manual_seed(0)
    model = TMANet.tiny(11).eval()
    result = evaluate(model, dataset, flow="exact", batch_size=2)
    assert result.figures["truth_temporal_consistency"] == 1
    assert result.figures["truth_flicker"] == 0
    assert result.total.num_pairs == 6
    assert result.protocols["consistency"]["flow"] == "exact"
    assert result.protocols["consistency"]["valid"] == "visible in both frames"


def test_sparse_labels_have_no_consistency_and_say_what_to_do():
    sparse = Drifting(video("a", 12, labelled=(3, 8)))
    result = evaluate(by_colour(), sparse, flow=Still())
    assert result.figures["temporal_consistency"] is None
    assert result.figures["flicker"] is None
    assert "every_frame=True (--every-frame)" in result.absent["flicker"]
    assert "8 labelled frames in a row" in result.absent["vc8"]
    assert set(result.absent) == {name for name, v in result.figures.items() if v is None}
    every = evaluate(by_colour(), sparse, flow=Still(), every_frame=True)
    assert every.total.num_pairs == 11
    assert every.figures["flicker"] > 0
    assert every.figures["truth_flicker"] is None
    assert every.figures["mean_iou"] == result.figures["mean_iou"]
    assert (every.num_frames, every.num_scored, len(every.series)) == (12, 2, 12)
    without = evaluate(by_colour(), sparse)
    assert without.absent["flicker"] == "no flow was asked for"


def test_a_figure_does_not_depend_on_how_a_model_passes_unlabelled_frames():
    dataset = Drifting(video("a", 6, labelled=(0, 1, 3, 4)))
    torch.manual_seed(0)
    streamed = evaluate(TMANet.tiny(3).eval(), dataset, flow=Still())
    windows = evaluate(by_colour(), dataset, flow=Still())
    assert streamed.conventions["run_as"] == "stream"
    assert windows.conventions["run_as"] == "windows"
    for result in (streamed, windows):
        assert (result.num_frames, result.total.num_pairs, len(result.series)) == (4, 2, 4)
    assert streamed.protocols == windows.protocols


def test_labels_and_flow_lie_on_the_grid_of_the_truth():
    still = Still()
    dataset = Drifting(video("a", 5, labelled=(1, 2)), label_size=(12, 16))
    result, frames, figures = seen_by(by_colour(), dataset, flow=still, every_frame=True)
    assert {frame.labels.shape for frame in frames} == {(12, 16)}
    assert still.sizes == {(12, 16)}
    assert figures[1].changed.shape == (12, 16)
    assert result.total.num_pairs == 4
    assert frames[0].image.shape[:2] == SIZE


def test_videos_are_forgotten_when_they_end():
    videos = [video(f"v{i}", 30, labelled=(19,)) for i in range(5)]
    dataset = Drifting(*videos, video("dense", 9))
    coming = {one.name: frozenset(one.labelled) for one in dataset.videos}
    scorer = Scorer(dataset, coming, motion=open_motion(Still(), dataset))
    for one in dataset.videos:
        for index in one.labelled:
            image = dataset.read_frame(one.frames[index])
            truth = dataset.read_label(one.frames[index])
            scorer.add([Observed(one, index, image, np.zeros_like(truth), truth)])
            assert len(scorer._last) == len(scorer._windows) == (index + 1 in coming[one.name])
    assert scorer.evaluation({}, None).total.vc[8].num_windows == 2


def test_vc_does_not_span_frames_without_truth():
    holed = Drifting(video("a", 20, labelled=(*range(9), *range(10, 20))))
    result = evaluate(by_colour(), holed)
    assert result.total.vc[8].num_windows == 2 + 3
    assert result.total.vc[16].num_windows == 0
    assert result.figures["vc16"] is None


def test_a_cut_is_not_compared():
    one = video("a", 10)
    dataset = Drifting(one)
    scorer = Scorer(dataset, {"a": range(10)}, motion=open_motion(Still(), dataset))
    for index, path in enumerate(one.frames):
        truth = dataset.read_label(path)
        image = dataset.read_frame(path)
        labels = np.full_like(truth, index >= 5)
        scorer.add([Observed(one, index, image, labels, truth, is_cut=index == 5)])
    total = scorer.evaluation({}, None).total
    assert total.num_pairs == 8
    assert total.consistency.flicker() == 0
    assert total.vc[8].num_windows == 0


@pytest.mark.parametrize(
    ("flow", "message"),
    [
        (torch.full((2, *SIZE), torch.nan), r"finite flow .* frame 2 of a, got .* with NaN"),
        (np.zeros((2, *SIZE), np.float32), "must give a tensor, got ndarray"),
        (torch.zeros(2, 5, 5), r"shape \(2, 24, 32\) for frame 2 of a, got \(2, 5, 5\)"),
    ],
)
def test_unfit_flow_is_refused(flow, message):
    class Unfit(Still):
        def __call__(self, image_t: np.ndarray, image_s: np.ndarray) -> Tensor:
            return flow

    with pytest.raises((ValueError, TypeError), match=message):
        evaluate(by_colour(), Drifting(video("a", 3)), flow=Unfit())


def test_a_flow_that_nobody_knows_is_refused():
    dataset = Drifting(video("a", 2))
    with pytest.raises(ValueError, match="knows no exact flow"):
        evaluate(by_colour(), dataset, flow="exact")
    with pytest.raises(TypeError, match=r"an estimator, \"exact\" or None, got 'dis'; by name"):
        evaluate(by_colour(), dataset, flow="dis")


def test_label_maps_of_changing_size_are_refused():
    class Growing(Drifting):
        def read_label(self, path: Path) -> np.ndarray:
            return bands(path, (24 + int(path.stem[-1]), 32))

    message = r"the label maps of a must have one size .* 32x24 and 32x25 \(frame 2\)"
    with pytest.raises(ValueError, match=message):
        evaluate(by_colour(), Growing(video("a", 3)), flow=Still())


def test_frames_of_changing_size_are_refused_along_a_flow():
    small, large = (np.zeros((size, 32, 3), np.uint8) for size in (24, 30))
    with pytest.raises(
        ValueError, match=r"the frames of a must have one size, got 32x24 and 32x30"
    ):
        EstimatedMotion(Still())(video("a", 2), 1, small, large, SIZE)


def test_saved_label_maps_have_every_figure_but_time(tmp_path, drifting, alone):
    _, frames, _ = seen_by(by_colour(), drifting)
    for frame in frames:
        name = frame.video.frames[frame.frame_index].name
        Image.fromarray(frame.labels).save(tmp_path / name)
    saved = evaluate_predictions(tmp_path, drifting, flow=DIS("ultrafast"))
    assert_same(alone, saved)
    assert saved.absent == {"ms_per_frame": "no network ran"}


def test_void_in_saved_label_maps_never_stays(tmp_path):
    dataset = Drifting(video("a", 8))
    for path in dataset.videos[0].frames:
        labels = np.ones(SIZE, np.uint8)
        labels[:, 16:] = 77
        Image.fromarray(labels).save(tmp_path / path.name)
    result = evaluate_predictions(tmp_path, dataset, flow=Still())
    truth = np.stack([dataset.read_label(path) for path in dataset.videos[0].frames])
    stays = (truth == truth[0]).all(0) & (truth[0] != 255)
    assert result.figures["vc8"] == stays[:, :16].sum() / stays.sum()
    assert result.figures["flicker"] == 0
    assert int(result.total.consistency.counts.sum()) == 7 * 24 * 16


def test_files_hold_no_nan_and_the_counts_behind_every_figure(tmp_path, alone, drifting):
    alone.save(tmp_path, "by colour", "vidseg evaluate ...")
    text = (tmp_path / "metrics.json").read_text()
    assert "NaN" not in text
    saved = json.loads(text)
    assert list(saved["figures"]) == list(FIGURES)
    assert saved == json.loads(json.dumps(alone.summary("by colour", "vidseg evaluate ...")))
    assert saved["series"][1].keys() == {
        "video", "number", "time_s", "pixel_accuracy", "flicker", "ms"
    }  # fmt: skip
    assert saved["protocols"]["accuracy"]["boundary"] == "within 5 px of another true class"
    assert saved["protocols"]["consistency"]["flow"] == DIS("ultrafast").name
    assert saved["videos"]["dddd"]["flicker"] is None
    counts = np.load(tmp_path / "counts.npz")
    assert counts["names"].tolist() == [one.name for one in drifting.videos]
    for key, name in (("confusion", "mean_iou"), ("boundary", "boundary_mean_iou")):
        matrix = ConfusionMatrix.from_counts(counts[key].sum(0))
        assert matrix.mean_iou() == saved["figures"][name]
    consistency = TemporalConsistency.from_counts(counts["consistency"].sum(0))
    assert consistency.mean_iou() == saved["figures"]["temporal_consistency"]
    for i, n in enumerate(counts["vc_n"]):
        share = counts["vc_total"][:, i].sum() / counts["vc_windows"][:, i].sum()
        assert share == pytest.approx(saved["figures"][f"vc{n}"])
    assert counts["num_frames"].tolist() == [18, 11, 3, 1]
    assert not list(tmp_path.glob("*.part"))
    other = replace(alone, videos={"a": alone.videos["a"]})
    assert other.total.num_frames == 18
    with pytest.raises(ValueError, match="at least one video"):
        replace(alone, videos={})

"""Figures of models and of saved label maps: streams, windows, views, sliding windows."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import run
from counting import Counting
from PIL import Image
from settled import by_colour
from torch import nn

from vidseg.adapters.per_frame import PerFrame
from vidseg.cli.scores import show_scores
from vidseg.comparison.compare import compare
from vidseg.data import open_dataset
from vidseg.data.clip import Video, VideoDataset
from vidseg.evaluation.datasets import evaluate
from vidseg.evaluation.figure import Figure, PerClass
from vidseg.evaluation.figures import FIGURES
from vidseg.evaluation.predictions import evaluate_predictions
from vidseg.evaluation.result import FrameFigures, Observed
from vidseg.evaluation.truth import labelled_frames
from vidseg.methods import create
from vidseg.methods.tmanet import TMANet
from vidseg.metrics import ConfusionMatrix
from vidseg.metrics.ratios import divide
from vidseg.report.evaluation import evaluation_page
from vidseg.segmenter import VideoSegmenter
from vidseg.weights import save

CLASSES = ("road", "car", "sky")
PALETTE = ((250, 0, 0), (0, 250, 0), (0, 0, 250))


class InMemory(VideoDataset):
    """Noise to look at, labels to compare with: pure functions of the file's name."""

    void_share = 0.1

    def __init__(
        self, *videos: Video, size: tuple[int, int] = (24, 40), label_size=None, **options
    ) -> None:
        super().__init__("street/val", videos, CLASSES, PALETTE, **options)
        self.size = size
        self.label_size = label_size or size

    def read_frame(self, path: Path) -> np.ndarray:
        height, width = self.size
        extra = 8 if path.stem.startswith("wide") else 0
        rng = np.random.default_rng(list(path.stem.encode()))
        return rng.integers(0, 256, (height, width + extra, 3), dtype=np.uint8)

    def read_label(self, path: Path) -> np.ndarray:
        height, width = self.label_size
        extra = 8 if path.stem.startswith("wide") else 0
        rng = np.random.default_rng([7, *path.stem.encode()])
        truth = rng.integers(0, 3, (height, width + extra), dtype=np.uint8)
        truth[rng.random(truth.shape) < self.void_share] = self.ignore
        truth.setflags(write=False)  # as of a data set that keeps them
        return truth


def video(name: str, length: int, labelled: tuple[int, ...] | None = None) -> Video:
    frames = tuple(Path(f"{name}_{i}.png") for i in range(length))
    wanted = range(length) if labelled is None else labelled
    labels = tuple(path if i in wanted else None for i, path in enumerate(frames))
    return Video(name, frames, labels, tuple(range(length)))


@pytest.fixture(scope="module")
def tmanet() -> VideoSegmenter:
    torch.manual_seed(0)
    model = TMANet.tiny(3).eval()
    with torch.no_grad():  # fresh classifiers are nearly zero, and every label the same
        for weight in model.head.classifier.parameters():
            weight.normal_()
    return model


def maps_of(model, dataset, **options) -> dict[tuple[str, int], np.ndarray]:
    seen: dict[tuple[str, int], np.ndarray] = {}

    def observe(frame: Observed, figures: FrameFigures) -> None:
        if frame.truth is not None:
            seen[frame.video.name, frame.frame_index] = frame.labels

    evaluate(model, dataset, observe=observe, **options)
    return seen


def test_a_perfect_model_scores_one():
    class Painted(InMemory):
        void_share = 0.0

        def read_frame(self, path: Path) -> np.ndarray:
            return self.palette[self.read_label(path)]

    result = evaluate(by_colour(), Painted(video("a", 3)))
    assert result.mean_iou == result.pixel_accuracy == result.mean_class_accuracy == 1.0
    assert result.num_frames == 3
    assert result.ms_per_frame is not None
    assert result.ms_per_frame > 0
    assert [figures.ms is None for figures in result.series] == [True, False, False]  # warm-up


def test_figures_are_those_of_the_label_maps():
    dataset = InMemory(video("a", 3), video("b", 2))
    result = evaluate(by_colour(), dataset)
    matrix = ConfusionMatrix(3)
    card = by_colour().card
    for one in dataset.videos:
        for path in one.frames:
            labels = card.normalise(dataset.read_frame(path)).argmax(0)
            matrix.update(labels, dataset.read_label(path))
    assert torch.equal(result.total.confusion.counts, matrix.counts)
    assert set(result.videos) == {"a", "b"}
    merged = ConfusionMatrix(3)
    for part in result.videos.values():
        merged.merge(part.confusion)
    assert torch.equal(merged.counts, matrix.counts)


def test_streams_and_windows_give_the_same_label_maps(tmanet):
    dense, sparse = video("a", 9), video("a", 9, labelled=(1, 8))
    whole = maps_of(tmanet, InMemory(dense))
    windows = maps_of(tmanet, InMemory(sparse))
    assert {key[1] for key in windows} == {1, 8}
    assert len({labels.tobytes() for labels in whole.values()}) > 1
    for key, labels in windows.items():
        assert (labels == whole[key]).mean() > 0.999  # argmax of nearly equal logits may turn


def test_how_a_video_runs_follows_from_its_labels(tmanet):
    dense = evaluate(tmanet, InMemory(video("a", 4)))
    sparse = evaluate(tmanet, InMemory(video("a", 12, labelled=(3, 11))))
    both = evaluate(tmanet, InMemory(video("a", 4), video("b", 12, labelled=(11,))))
    run_as = [result.conventions["run_as"] for result in (dense, sparse, both)]
    assert run_as == ["stream", "windows", "stream and windows"]


def test_frames_are_counted_and_read_in_order(tmanet):
    seen, counting = [], Counting()
    evaluate(
        tmanet,
        InMemory(video("a", 3), video("b", 2)),
        observe=lambda frame, figures: seen.append((frame.video.name, frame.frame_index)),
        progress=counting,
    )
    assert seen == [("a", 0), ("a", 1), ("a", 2), ("b", 0), ("b", 1)]
    assert counting.steps == [(i, 5) for i in range(1, 6)]


@pytest.mark.parametrize("batch_size", [2, 4])
def test_a_batch_changes_nothing(tmanet, batch_size):
    dataset = InMemory(
        video("a", 5),
        video("b", 3),
        video("wide", 2),
        video("c", 9, labelled=(2, 8)),
        video("wide-c", 9, labelled=(8,)),
    )
    one, many = maps_of(tmanet, dataset), maps_of(tmanet, dataset, batch_size=batch_size)
    assert one.keys() == many.keys()
    for key, labels in one.items():
        assert labels.shape == many[key].shape
        assert (labels == many[key]).mean() > 0.999


def test_labels_are_compared_at_their_own_size():
    dataset = InMemory(video("a", 2), label_size=(48, 80))
    maps = maps_of(by_colour(), dataset)
    assert {labels.shape for labels in maps.values()} == {(48, 80)}


def test_flip_and_scales_average_softmax_maps():
    dataset = InMemory(video("a", 1))
    model = by_colour(align_corners=False)
    image = dataset.read_frame(dataset.videos[0].frames[0])
    frames = model.card.normalise(image)[None]
    expected = torch.zeros(1, 3, 24, 40)
    for size in ((24, 40), (36, 60)):
        small = (
            frames
            if size == (24, 40)
            else nn.functional.interpolate(frames, size, mode="bilinear", align_corners=False)
        )
        for flip in (False, True):
            with torch.no_grad():
                logits = model.model(small.flip(-1) if flip else small)
            logits = nn.functional.interpolate(
                logits, (24, 40), mode="bilinear", align_corners=False
            )
            scores = logits.softmax(1)
            expected += scores.flip(-1) if flip else scores
    maps = maps_of(model, dataset, flip=True, scales=(1.0, 1.5))
    assert (maps["a", 0] == expected[0].argmax(0).numpy()).mean() > 0.999
    plain = maps_of(model, dataset)
    assert (maps["a", 0] != plain["a", 0]).any()


def test_every_view_of_a_stream_keeps_its_own_memory(tmanet):
    options = {"flip": True, "scales": (1.0, 2.0)}
    whole = maps_of(tmanet, InMemory(video("a", 6)), **options)
    windows = maps_of(tmanet, InMemory(video("a", 6, labelled=(5,))), **options)
    assert (windows["a", 5] == whole["a", 5]).mean() > 0.999


def test_sliding_windows_run_as_streams(tmanet):
    sliding = ((16, 16), (8, 12))
    whole = maps_of(tmanet, InMemory(video("a", 6)), sliding=sliding)
    windows = maps_of(tmanet, InMemory(video("a", 6, labelled=(5,))), sliding=sliding)
    assert (windows["a", 5] == whole["a", 5]).mean() > 0.999
    huge = maps_of(tmanet, InMemory(video("a", 2)), sliding=((99, 99), (64, 64)))
    plain = maps_of(tmanet, InMemory(video("a", 2)))
    assert all((huge[key] == plain[key]).mean() > 0.999 for key in plain)


def test_limits_choose_evenly_spread_frames():
    dataset = InMemory(video("a", 6), video("b", 2, labelled=()), video("c", 2))
    chosen = labelled_frames(dataset, max_frames=4)
    assert {one.name: indices for one, indices in chosen.items()} == {"a": (0, 2, 4), "c": (0,)}
    assert evaluate(by_colour(), dataset, max_frames=4).num_frames == 4
    assert evaluate(by_colour(), dataset, max_videos=1).num_frames == 6


def test_void_counts_as_the_data_set_says():
    ignored = evaluate(by_colour(), InMemory(video("a", 2)))
    counted = evaluate(by_colour(), InMemory(video("a", 2), void_is_error=True))
    assert counted.mean_iou < ignored.mean_iou
    assert counted.pixel_accuracy == ignored.pixel_accuracy
    assert counted.conventions["void"] == "counted as false positives"


def test_the_model_is_given_back_as_it_came():
    model = by_colour().train()
    evaluate(model, InMemory(video("a", 1)))
    assert model.training


def test_precision_runs_under_autocast():
    seen = []
    model = by_colour()
    model.model.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    evaluate(model, InMemory(video("a", 1)), precision="bf16")
    assert seen == [torch.bfloat16]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "float8"}, "precision must be one of fp32, bf16, fp16"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"scales": ()}, "scales must be ratios"),
        ({"scales": (0.0,)}, "scales must be ratios"),
        ({"max_videos": 0}, "max_videos must be at least 1"),
        ({"max_frames": -1}, "max_frames must be at least 1"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        evaluate(by_colour(), InMemory(video("a", 1)), **options)


def test_a_model_of_other_classes_is_refused():
    other = PerFrame(nn.Conv2d(3, 5, 1), num_classes=5)
    with pytest.raises(ValueError, match="the model has 5 classes and street/val has 3"):
        evaluate(other, InMemory(video("a", 1)))
    shuffled = by_colour()
    shuffled.card = replace(shuffled.card, classes=("car", "road", "sky"))
    with pytest.raises(ValueError, match="in another order"):
        evaluate(shuffled, InMemory(video("a", 1)))
    renamed = by_colour()
    names = tuple(InMemory(video("a", 1)).classes)
    renamed.card = replace(renamed.card, classes=(*names[:2], "cloud"))
    with pytest.warns(UserWarning, match=f"it is scored with cloud as {names[2]}$"):
        evaluate(renamed, InMemory(video("a", 1)))


def test_nothing_to_score_is_an_error():
    with pytest.raises(ValueError, match="no labelled frame"):
        evaluate(by_colour(), InMemory(video("a", 2, labelled=())))


def test_figures_are_saved_with_their_conventions(tmp_path):
    class NoSky(InMemory):
        def read_label(self, path: Path) -> np.ndarray:
            return np.where(super().read_label(path) == 2, 255, super().read_label(path))

    model = by_colour()
    with torch.no_grad():
        model.model.bias[2] = -100
    result = evaluate(model, NoSky(video("a", 2)))
    assert result.class_iou[2].isnan()
    result.save(tmp_path / "out", "by colour", "vidseg evaluate")
    saved = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (saved["name"], saved["command"]) == ("by colour", "vidseg evaluate")
    assert saved["figures"] == result.figures
    assert saved["figures"]["mean_iou"] == result.mean_iou
    assert set(saved["classes"]["sky"].values()) == {None}
    assert saved["conventions"]["data"] == "street/val"
    with (tmp_path / "out" / "metrics.csv").open() as file:
        rows = list(csv.reader(file))
    assert rows[0] == [
        "class",
        "iou",
        "boundary_iou",
        "accuracy",
        "temporal_consistency",
        "flicker",
    ]
    assert rows[3] == ["sky", *5 * ["-"]]
    assert float(rows[-1][1]) == result.mean_iou
    counts = np.load(tmp_path / "out" / "counts.npz")
    assert counts["confusion"].sum() == 2 * 24 * 40
    assert not list((tmp_path / "out").glob("*.partial"))


def test_a_figure_is_one_entry_that_everything_reads(tmp_path, monkeypatch, capsys):
    """An entry more is saved, printed, reported and compared; no other file knows it."""
    worst = Figure(
        "worst_class_iou",
        "worst IoU",
        "of the class that is found worst",
        "IoU of the class that has the lowest.",
        of=lambda sums: divide(sums.hits, sums.union).nan_to_num(1).amin(-1),
        per_class=PerClass("missed", "missed", lambda sums: 1 - divide(sums.hits, sums.truth)),
    )
    monkeypatch.setitem(FIGURES, worst.key, worst)
    dataset = InMemory(video("a", 3), video("b", 2))
    result = evaluate(by_colour(), dataset)
    lowest = float(result.class_iou.nan_to_num(1).min())
    assert result.figures[worst.key] == lowest
    for name in ("one", "other"):
        result.save(tmp_path / name, "by colour")
    saved = json.loads((tmp_path / "one" / "metrics.json").read_text())
    assert saved["figures"][worst.key] == lowest
    assert set(saved["videos"]["b"]) > {worst.key, "mean_iou"}
    table = [line.split(",") for line in (tmp_path / "one" / "metrics.csv").read_text().split()]
    assert (table[0][-1], table[-1][-1]) == ("missed", str(lowest))
    show_scores("by colour", result, None)
    shown = capsys.readouterr().out
    assert f"worst IoU {100 * lowest:.2f} %" in " ".join(shown.split())
    page = evaluation_page("by colour", result).render()
    assert "IoU of the class that has the lowest." in page
    (row,) = [
        row
        for row in compare([tmp_path / "one", tmp_path / "other"], resamples=100).rows
        if row.figure is worst
    ]
    assert row.estimates[0].value == lowest
    assert row.estimates[0].low is not None


def test_saved_label_maps_score_as_the_model_did(tmp_path):
    dataset = InMemory(video("a", 3))
    result = evaluate(by_colour(), dataset)
    for (_, index), labels in maps_of(by_colour(), dataset).items():
        Image.fromarray(labels).save(tmp_path / f"a_{index}.png")
    again = evaluate_predictions(tmp_path, dataset)
    assert torch.equal(again.total.confusion.counts, result.total.confusion.counts)
    assert again.ms_per_frame is None


def test_void_in_label_maps_is_a_miss(tmp_path):
    dataset = InMemory(video("a", 1))
    Image.fromarray(np.full((24, 40), 77, np.uint8)).save(tmp_path / "a_0.png")
    result = evaluate_predictions(tmp_path, dataset)
    assert result.mean_iou == 0.0
    assert result.pixel_accuracy == 0.0


def test_wrong_label_maps_are_refused(tmp_path):
    dataset = InMemory(video("a", 1))
    with pytest.raises(
        FileNotFoundError, match=r"no label map a/a_0.png or a_0.png in .* named as its label"
    ):
        evaluate_predictions(tmp_path, dataset)
    with pytest.raises(FileNotFoundError, match="no folder of label maps"):
        evaluate_predictions(tmp_path / "nowhere", dataset)
    Image.fromarray(np.zeros((20, 40), np.uint8)).save(tmp_path / "a_0.png")
    with pytest.raises(ValueError, match="is 40x20, its label is 40x24"):
        evaluate_predictions(tmp_path, dataset)
    Image.fromarray(np.zeros((24, 40, 3), np.uint8)).save(tmp_path / "a_0.png")
    with pytest.raises(ValueError, match="one channel of class indices"):
        evaluate_predictions(tmp_path, dataset)


@pytest.mark.parametrize(
    ("split", "protocol", "expected"),
    [("test", "11", 57.17), ("test", "11-void-counted", 55.65), ("val", "11", 70.10)],
)
def test_another_groups_label_maps_score_as_published(shared, split, protocol, expected):
    dataset = open_dataset("camvid", shared / "data" / "camvid", split, protocol=protocol)
    result = evaluate_predictions(shared / "data" / "camvid_espnet_predictions" / split, dataset)
    assert round(100 * result.mean_iou, 2) == expected
    if (split, protocol) == ("test", "11"):
        classes = [91.57, 71.85, 27.61, 93.22, 77.95, 63.68, 31.41, 13.99, 75.18, 38.77, 43.70]
        assert [round(100 * v, 2) for v in result.class_iou.tolist()] == classes
        assert round(100 * result.mean_class_accuracy, 2) == 68.30
        assert round(100 * result.pixel_accuracy, 2) == 85.80


SYNTHETIC = ["--data", "synthetic", "--option", "num_videos=1", "--option", "num_frames=3"]
SYNTHETIC += ["--option", "size=[32,48]"]


def test_command_writes_figures_and_a_report(weights_file, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["--flow", "exact", "--flip", "--scales", "1,1.5", "--fit", "64x96", "--out", out]
    assert run("evaluate", weights_file, *SYNTHETIC, *words) == 0
    shown = capsys.readouterr().out
    assert "pedestrian" in shown
    assert "flow: exact" in shown
    saved = json.loads((out / "metrics.json").read_text())
    assert saved["num_scored"] == 3
    assert saved["num_pairs"] == 2
    assert saved["conventions"]["scales"] == [1.0, 1.5]
    assert saved["conventions"]["fit"] == "within 64x96, aspect kept"
    report = (out / "report.html").read_text(encoding="utf-8")
    assert "temporal consistency" in report.casefold()


def test_command_scores_label_maps_and_shows_absent_classes_as_dashes(tmp_path, capsys):
    video = tmp_path / "mine" / "val" / "street"
    for folder in (video / "frames", video / "masks", tmp_path / "maps"):
        folder.mkdir(parents=True)
    classes = {"road": [128, 64, 128], "car": [0, 0, 142], "sky": [70, 130, 180]}
    (tmp_path / "mine" / "classes.json").write_text(json.dumps({"classes": classes}))
    truth, labels = np.zeros((4, 8), np.uint8), np.zeros((4, 8), np.uint8)
    truth[2:], labels[:, 4:] = 255, 2  # half of it void; half of the rest is taken for sky
    Image.new("RGB", (8, 4)).save(video / "frames" / "0.png")
    Image.fromarray(truth).save(video / "masks" / "0.png")
    Image.fromarray(labels).save(tmp_path / "maps" / "0.png")
    words = ("--predictions", tmp_path / "maps", "--data", "folder", "--root", tmp_path / "mine")
    assert run("evaluate", *words) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["road", "50.00", "-", "50.00", "-", "-"] in rows
    assert ["car", *5 * ["-"]] in rows, "neither there nor predicted"
    assert ["sky", "0.00", "-", "-", "-", "-"] in rows, "predicted, but not there"
    assert ["all", "25.00", "-", "50.00", "-", "-"] in rows
    assert ["pixel", "accuracy", "50.00", "%"] in [row[:4] for row in rows]


def test_a_folder_that_cannot_be_written_ends_the_command_before_the_run(
    weights_file, tmp_path, capsys
):
    (tmp_path / "out").write_text("precious")
    assert run("evaluate", weights_file, *SYNTHETIC, "--out", tmp_path / "out") == 1
    shown = capsys.readouterr().err
    assert "--out needs a folder, but" in shown
    assert "evaluating" not in shown


def test_command_writes_json(weights_file, capsys):
    words = ["--quiet", "evaluate", weights_file, *SYNTHETIC, "--sliding", "32x32", "--json"]
    assert run(*words) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["num_frames"] == 3
    assert result["conventions"]["image"] == "sliding, crop 32x32, stride 22x22"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evaluate", "--data", "synthetic"], "give a MODEL to run or --predictions"),
        (["evaluate", "--predictions", "maps", *SYNTHETIC, "--flip"], "this is for a MODEL"),
        (["evaluate", "MODEL", *SYNTHETIC, "--scales", "big"], "--scales wants numbers"),
        (["evaluate", "MODEL", *SYNTHETIC, "--sliding", "big"], "--sliding wants HEIGHTxWIDTH"),
        (["evaluate", "MODEL", *SYNTHETIC, "--fit", "big"], "--fit wants HEIGHTxWIDTH"),
        (["evaluate", "MODEL", "--data", "camvid"], "needs its folder: pass root=DIR"),
        (["evaluate", "nowhere.safetensors", *SYNTHETIC], "no weights at nowhere.safetensors"),
    ],
)
def test_command_names_what_is_wrong(weights_file, capsys, words, message):
    assert run(*(str(weights_file) if word == "MODEL" else word for word in words)) == 1
    assert message in " ".join(capsys.readouterr().err.split())


def test_frames_are_stretched_to_the_sizes_that_a_model_takes():
    seen = []
    model = by_colour()
    model.model.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape))
    model.card = replace(model.card, size_multiple=32)
    maps = maps_of(model, InMemory(video("a", 1)))
    assert seen == [(1, 3, 32, 64)]
    assert maps["a", 0].shape == (24, 40)


def test_frames_are_fitted_into_a_box_then_scaled_and_stretched():
    seen = []
    model = by_colour()
    model.model.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape))
    model.card = replace(model.card, size_multiple=8)
    dataset = InMemory(video("a", 1), size=(48, 64))  # the largest of 3:4 in 31x36 is 27x36
    result = evaluate(model, dataset, fit=(31, 36), scales=(1.0, 2.0))
    assert seen == [(1, 3, 32, 40), (1, 3, 56, 72)]
    assert result.conventions["fit"] == "within 31x36, aspect kept"
    seen.clear()
    maps = maps_of(model, InMemory(video("a", 1)), fit=(853, 480))  # the box may lie either way
    assert seen == [(1, 3, 480, 800)]
    assert maps["a", 0].shape == (24, 40)
    with pytest.raises(ValueError, match=r"fit must be \(height, width\) of 1 px or more"):
        evaluate(model, dataset, fit=(0, 9))


def test_labels_are_compared_at_a_given_size(tmp_path):
    dataset = InMemory(video("a", 3), label_size=(48, 80))
    result = evaluate(by_colour(), dataset, score_size=(24, 40))
    maps = maps_of(by_colour(), dataset, score_size=(24, 40))
    matrix = ConfusionMatrix(3)
    for index, path in enumerate(dataset.videos[0].frames):
        logits = by_colour().card.normalise(dataset.read_frame(path))
        assert np.array_equal(maps["a", index], logits.argmax(0))
        # The nearest of an even number of pixels: the second of two, as Pillow has it.
        matrix.update(logits.argmax(0), dataset.read_label(path)[1::2, 1::2])
        Image.fromarray(maps["a", index]).save(tmp_path / f"{path.stem}.png")
    assert torch.equal(result.total.confusion.counts, matrix.counts)
    assert result.conventions["score_size"] == "24x40"
    for part in result.protocols.values():
        assert part["score_size"] == "24x40"
    again = evaluate_predictions(tmp_path, dataset, score_size=(24, 40))
    assert torch.equal(again.total.confusion.counts, result.total.confusion.counts)
    with pytest.raises(ValueError, match=r"is 40x24, its label is 80x48.*--score-size"):
        evaluate_predictions(tmp_path, dataset)
    sparse = InMemory(video("a", 9, labelled=(8,)), label_size=(48, 80))
    for frames in ({}, {"every_frame": True}):
        assert evaluate(by_colour(), sparse, score_size=(12, 20), **frames).num_scored == 1


def test_sizes_to_score_at_that_are_none_are_refused():
    dataset = InMemory(video("a", 1))
    with pytest.raises(ValueError, match=r"score_size must be \(height, width\)"):
        evaluate(by_colour(), dataset, score_size=(0, 4))
    with pytest.raises(ValueError, match="the exact flow is of the labels' own size"):
        evaluate_predictions(Path(), dataset, flow="exact", score_size=(4, 4))


def test_a_model_can_be_scored_with_other_options(tmp_path, capsys):
    save(create("lmanet_tiny", num_classes=11), tmp_path / "model.safetensors")
    words = ["--quiet", "evaluate", tmp_path / "model.safetensors", *SYNTHETIC, "--json"]
    assert run(*words, "--flow", "none", "--model-option", "memory_frames=4") == 0
    assert json.loads(capsys.readouterr().out)["conventions"]["window_frames"] == 5
    assert run(*words, "--model-option", "memory_frames") == 1
    assert "--model-option wants name=value" in capsys.readouterr().err

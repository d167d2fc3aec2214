"""`vidseg compare`: what may be compared, the bootstrap, and what is said about differences."""

from __future__ import annotations

import io
import itertools
import json
import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import run

from vidseg.comparison.bootstrap import (
    CHANCE_PERCENT,
    chance_percent,
    draw,
    interval,
    resample,
)
from vidseg.comparison.compare import Comparison, Estimate, Row, compare
from vidseg.comparison.record import read_evaluation
from vidseg.evaluation.figure import Figure, Measure, figures_of
from vidseg.evaluation.figures import FIGURES
from vidseg.evaluation.sums import Sums
from vidseg.metrics import ConfusionMatrix, TemporalConsistency, VideoConsistency, boundary_band

CLASSES = ("road", "sky", "car")
NUM_FRAMES, SIZE = 17, (6, 8)


def measured(seed: int, error: float, *, void_is_error: bool = False) -> dict[str, Any]:
    """Counts of one video by the metrics themselves, and the metrics; truth depends on the seed."""
    generator = np.random.default_rng(seed)
    still = generator.integers(0, 3, SIZE)
    truth = np.repeat(still[None], NUM_FRAMES, 0)
    truth[generator.random(truth.shape) < 0.02] = 255
    wrong = np.random.default_rng(1000 + seed).random(truth.shape) < error
    labels = np.where(wrong | (truth == 255), (still + 1) % 3, still)
    void_truth = "false_positive" if void_is_error else "ignored"
    confusion = ConfusionMatrix(3, void_truth=void_truth)
    confusion.update(labels, truth)
    boundary = ConfusionMatrix(3, void_truth=void_truth)
    boundary.update(labels, truth, valid=boundary_band(truth, 1))
    flows = np.zeros((NUM_FRAMES - 1, 2, *SIZE), np.float32)
    steady, truth_steady = TemporalConsistency(3), TemporalConsistency(3)
    steady.update(labels, flows)
    truth_steady.update(truth, flows)
    vc = [VideoConsistency(n) for n in (8, 16)]
    vc_correct = [VideoConsistency(n, correct=True) for n in (8, 16)]
    for each in (*vc, *vc_correct):
        each.update(labels, truth)
    return {
        "confusion": confusion,
        "boundary": boundary,
        "steady": steady,
        "truth_steady": truth_steady,
        "vc": vc,
        "vc_correct": vc_correct,
    }


def write_run(
    folder: Path,
    errors: dict[str, float],
    *,
    void_is_error: bool = False,
    accuracy: dict[str, Any] | None = None,
    flow: str = "dis-medium (opencv 5.0.0)",
    ms: float | None = 12.5,
) -> Path:
    """An evaluation folder, as `vidseg evaluate --out` writes it: video -> share of wrong labels.

    The truth of a video comes from its name.
    """
    videos = {
        name: measured(sum(name.encode()), error, void_is_error=void_is_error)
        for name, error in errors.items()
    }
    parts = list(videos.values())
    write_counts(folder, list(videos), parts)
    whole = {key: parts[0][key] for key in ("confusion", "boundary", "steady", "truth_steady")}
    void = "false_positive" if void_is_error else "ignored"
    for part in parts[1:]:
        for key, sum_of_parts in whole.items():
            sum_of_parts.merge(part[key])
    record = {
        "name": f"model of {folder.name}",
        "command": None,
        "figures": {
            "mean_iou": whole["confusion"].mean_iou(),
            "boundary_mean_iou": whole["boundary"].mean_iou(),
            "weighted_iou": whole["confusion"].weighted_iou(),
            "pixel_accuracy": whole["confusion"].pixel_accuracy(),
            "mean_class_accuracy": whole["confusion"].mean_class_accuracy(),
            "temporal_consistency": whole["steady"].mean_iou(),
            "flicker": whole["steady"].flicker(),
            "truth_temporal_consistency": whole["truth_steady"].mean_iou(),
            "truth_flicker": whole["truth_steady"].flicker(),
            "ms_per_frame": ms,
        },
        "classes": {name: {} for name in CLASSES},
        "videos": {name: {} for name in videos},
        "series": [],
        "conventions": {"data": "blocks", "void": void, "device": "cpu"},
        "protocols": {
            "accuracy": accuracy or {"data": "blocks", "void": void},
            "consistency": {"protocol": "vidseg", "flow": flow, "valid": "in frame"},
        },
    }
    (folder / "metrics.json").write_text(json.dumps(record))
    return folder


def write_counts(folder: Path, names: list[str], parts: list[dict[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        folder / "counts.npz",
        names=np.array(names),
        confusion=np.stack([p["confusion"].counts.numpy() for p in parts]),
        boundary=np.stack([p["boundary"].counts.numpy() for p in parts]),
        consistency=np.stack([p["steady"].counts.numpy() for p in parts]),
        truth_consistency=np.stack([p["truth_steady"].counts.numpy() for p in parts]),
        vc_n=np.array([8, 16]),
        vc_total=np.array([[float(v.total) for v in p["vc"]] for p in parts]),
        vc_windows=np.array([[v.num_windows for v in p["vc"]] for p in parts]),
        vc_correct_total=np.array([[float(v.total) for v in p["vc_correct"]] for p in parts]),
        num_frames=np.full(len(parts), NUM_FRAMES),
        num_scored=np.full(len(parts), NUM_FRAMES),
        num_pairs=np.full(len(parts), NUM_FRAMES - 1),
    )


def change_record(folder: Path, **changes: Any) -> None:
    path = folder / "metrics.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def change_counts(folder: Path, **changes: np.ndarray) -> None:
    with np.load(folder / "counts.npz") as file:
        counts = {name: file[name] for name in file.files}
    np.savez_compressed(folder / "counts.npz", **{**counts, **changes})


MEASURES = {figure.key: figure.of for figure in FIGURES.values() if figure.of is not None}


def measure(key: str) -> Measure:
    return MEASURES[key]


def row_of(comparison: Comparison, key: str) -> Row:
    return next(row for row in comparison.rows if row.figure.key == key)


def write_pair(tmp_path: Path, rough: Sequence[float], fine: Sequence[float]) -> tuple[Path, Path]:
    """Two runs on the videos a, b, ... with these shares of wrong labels."""
    names = [chr(ord("a") + i) for i in range(len(rough))]
    return (
        write_run(tmp_path / "rough", dict(zip(names, rough, strict=True))),
        write_run(tmp_path / "fine", dict(zip(names, fine, strict=True))),
    )


def low(estimate: Estimate) -> float:
    assert estimate.low is not None
    return estimate.low


def high(estimate: Estimate) -> float:
    assert estimate.high is not None
    return estimate.high


@pytest.fixture
def two_runs(tmp_path: Path) -> tuple[Path, Path]:
    """The second is better in every video, by about ten points of accuracy."""
    return write_pair(tmp_path, (0.2, 0.3, 0.25, 0.35, 0.3), (0.1, 0.2, 0.15, 0.25, 0.2))


@pytest.mark.parametrize("void_is_error", [False, True])
def test_figures_from_counts_are_those_of_the_metrics(tmp_path: Path, void_is_error: bool) -> None:
    errors = {"a": 0.1, "b": 0.4, "c": 0.2}
    folder = write_run(tmp_path / "run", errors, void_is_error=void_is_error)
    printed = json.loads((folder / "metrics.json").read_text())["figures"]
    figures = figures_of(read_evaluation(folder).sums.pooled(), FIGURES.values())
    assert figures["mean_iou"] != figures["weighted_iou"]
    for key, value in printed.items():
        if key != "ms_per_frame":
            assert figures[key] == value, key
    parts = [measured(sum(n.encode()), e, void_is_error=void_is_error) for n, e in errors.items()]
    videos = [part["confusion"].mean_iou() for part in parts]
    assert figures["mean_video_iou"] == pytest.approx(np.mean(videos), rel=1e-12)
    for key in ("vc", "vc_correct"):
        for i, n in enumerate((8, 16)):
            whole = parts[0][key][i].merge(parts[1][key][i]).merge(parts[2][key][i])
            value = figures[f"vc{n}{key[2:]}"]
            assert value == pytest.approx(whole.mean_consistency(), rel=1e-12)


def test_a_figure_of_a_stack_is_that_of_each_row_to_the_last_bit(tmp_path: Path) -> None:
    errors = {name: 0.05 * (i + 1) for i, name in enumerate("abcdefg")}
    sums = read_evaluation(write_run(tmp_path / "run", errors)).sums
    rows = [sums.map(lambda values, row=row: values[row]) for row in range(len(errors))]
    for key, of in MEASURES.items():
        stacked = of(sums)
        assert stacked.shape == (len(errors),)
        assert stacked.tolist() == [float(of(row)) for row in rows], key


def test_identical_runs_differ_by_exactly_nothing(tmp_path: Path) -> None:
    errors = {"a": 0.1, "b": 0.2, "c": 0.3, "d": 0.4, "e": 0.5}
    one = write_run(tmp_path / "one", errors)
    other = write_run(tmp_path / "other", dict(reversed(errors.items())))  # another order of videos
    comparison = compare([one, other], resamples=500)
    assert len(comparison.rows) == 15
    for row in (*comparison.rows, *comparison.class_rows):
        if row.figure.key != "ms_per_frame":
            assert row.differences == (Estimate(0.0, 0.0, 0.0),), row.figure.key
            assert row.verdict(0) == "the same"
            assert row.estimates[0] == row.estimates[1]
    accuracy = row_of(comparison, "pixel_accuracy").estimates[0]
    assert accuracy.value is not None
    assert low(accuracy) < accuracy.value < high(accuracy)


def test_two_videos_have_three_draws_in_known_shares(tmp_path: Path) -> None:
    one = read_evaluation(write_run(tmp_path / "one", {"a": 0.1, "b": 0.5}))
    other = read_evaluation(write_run(tmp_path / "other", {"a": 0.3, "b": 0.4}))
    mean_iou = {"mean_iou": measure("mean_iou")}
    draws = resample([one.sums, other.sums], mean_iou, resamples=4000, seed=3)
    known: dict[float, float] = {}
    for drawn in itertools.product(range(2), repeat=2):
        sums = [run.sums.map(lambda values, rows=drawn: values[list(rows)]) for run in (one, other)]
        values = [float(measure("mean_iou")(each.pooled())) for each in sums]
        known[values[1] - values[0]] = known.get(values[1] - values[0], 0) + 0.25
    differences = draws[1]["mean_iou"] - draws[0]["mean_iou"]
    seen, counts = np.unique(np.round(differences, 12), return_counts=True)
    assert seen == pytest.approx(sorted(known), abs=1e-11)
    for value, count in zip(seen, counts, strict=True):
        share = next(s for v, s in known.items() if abs(v - value) < 1e-11)
        assert count / 4000 == pytest.approx(share, abs=5 * math.sqrt(share * (1 - share) / 4000))
    # A quarter of the draws at either end: the interval reaches from one video to the other.
    ends = interval(differences[:, None])
    assert (ends[0][0], ends[1][0]) == pytest.approx((min(known), max(known)))


def test_draws_do_not_depend_on_the_memory_they_may_take(tmp_path: Path) -> None:
    run = read_evaluation(write_run(tmp_path / "run", dict.fromkeys("abcde", 0.3)))
    whole = resample([run.sums], MEASURES, resamples=301, seed=1)[0]
    chunked = resample([run.sums], MEASURES, resamples=301, seed=1, max_numbers=200)[0]
    for key, values in whole.items():
        np.testing.assert_allclose(chunked[key], values, rtol=1e-12)
    other = resample([run.sums], MEASURES, resamples=301, seed=2)[0]
    assert not np.array_equal(other["mean_iou"], whole["mean_iou"])


def test_a_draw_of_frames_is_what_pooled_matrices_give(tmp_path: Path) -> None:
    errors = {"a": 0.1, "b": 0.4, "c": 0.2}
    run = read_evaluation(write_run(tmp_path / "run", errors))
    drawn = run.sums.map(torch.tensor([2, 0, 1], dtype=torch.float64).matmul)
    matrix = ConfusionMatrix(3)
    for name in ("a", "a", "c"):
        matrix.merge(measured(sum(name.encode()), errors[name])["confusion"])
    assert float(measure("mean_iou")(drawn)) == matrix.mean_iou()
    of_class = FIGURES["mean_iou"].per_class
    assert of_class is not None
    assert torch.equal(of_class.of(drawn), matrix.iou())


def test_a_chunk_of_draws_keeps_to_its_bound() -> None:
    videos, classes = 400, 124
    generator = torch.Generator().manual_seed(0)
    widths = dict.fromkeys(Sums.__dataclass_fields__, classes)
    widths |= {"vc_total": 2, "vc_windows": 2, "vc_correct_total": 2}
    sums = Sums(
        **{
            name: torch.randint(1, 10**6, (videos, width), generator=generator).double()
            for name, width in widths.items()
        }
    )
    rows: list[int] = []

    def count(drawn: Sums) -> torch.Tensor:
        rows.append(len(drawn.hits))
        numbers = sum(values.numel() for values in vars(drawn).values())
        assert numbers + len(drawn.hits) * videos <= 200_000
        return drawn.video_iou

    resample([sums, sums], {"any": count}, resamples=400, seed=0, max_numbers=200_000)
    assert sum(rows) == 2 * 400
    assert len(rows) > 2


@pytest.mark.parametrize("num_videos", CHANCE_PERCENT)
def test_chance_excludes_zero_as_often_as_the_notes_say(num_videos: int) -> None:
    trials = 2000
    (weights,) = draw(num_videos, 400, seed=0, chunk=400)
    differences = np.random.default_rng(1).normal(size=(num_videos, trials))
    lows, highs = interval(weights @ differences)
    seen = 100 * ((lows > 0) | (highs < 0)).mean()
    assert seen == pytest.approx(chance_percent(num_videos), abs=3)
    assert chance_percent(1000) == 6


def test_a_real_difference_is_told_apart_and_in_words(two_runs: tuple[Path, Path]) -> None:
    comparison = compare(two_runs, resamples=500)
    assert comparison.labels == ("rough", "fine")
    row = row_of(comparison, "pixel_accuracy")
    difference = row.differences[0]
    assert low(difference) > 0.05
    assert high(difference) < 0.15
    assert row.verdict(0) == "better: excludes 0"
    (said,) = [s for s in comparison.statements(0) if s.startswith("pixel accuracy")]
    assert "fine is" in said
    assert "points higher than rough (better)" in said
    assert said.endswith("excludes 0.")
    assert row_of(comparison, "flicker").verdict(0) == "steadier: excludes 0"
    # Paired: the difference is known better than the videos' own spread lets either figure be.
    spread = high(row.estimates[0]) - low(row.estimates[0])
    assert high(difference) - low(difference) < spread


def test_chance_is_not_told_apart(tmp_path: Path) -> None:
    runs = write_pair(tmp_path, (0.2, 0.3, 0.2, 0.3, 0.25), (0.3, 0.2, 0.3, 0.2, 0.25))
    row = row_of(compare(runs, resamples=500), "pixel_accuracy")
    assert low(row.differences[0]) < 0 < high(row.differences[0])
    assert row.verdict(0) == "not told apart: contains 0"
    assert "do not tell the two apart" in row.statement(0, "one", "other")


def test_less_flicker_is_an_improvement_and_more_time_is_none() -> None:
    def said(is_lower_better: bool, value: float) -> str:
        figure = Figure("x", "x", is_lower_better=is_lower_better)
        return Row(figure, (), (Estimate(value, value - 0.1, value + 0.1),)).verdict(0)

    assert said(True, -0.2) == said(False, 0.2) == "better: excludes 0"
    assert said(True, 0.2) == said(False, -0.2) == "worse: excludes 0"


def test_one_video_has_no_interval_and_says_why(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one", {"a": 0.1})
    other = write_run(tmp_path / "other", {"a": 0.3})
    comparison = compare([one, other], resamples=100)
    for row in (*comparison.rows, *comparison.class_rows):
        assert all(e.low is None and e.high is None for e in (*row.estimates, *row.differences))
        assert row.verdict(0) == "no interval"
    assert any("there is one" in note for note in comparison.notes)
    said = " ".join(comparison.notes)
    assert all(str(how) in said for how in comparison.runs[0].consistency.values())


def test_a_class_of_one_video_has_no_interval(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / name, {"a": e, "b": e}) for name, e in (("x", 0.1), ("y", 0.2))]
    for folder in folders:
        with np.load(folder / "counts.npz") as file:
            confusion = file["confusion"]
        confusion[1] = np.diag([50, 60, 0, 0])  # "car" is in the first video only
        change_counts(folder, confusion=confusion)
        change_record(folder, figures={})
    comparison = compare(folders, resamples=100)
    road, _, car = comparison.class_rows
    assert car.estimates[0].value is not None
    assert road.estimates[0].low is not None
    assert car.estimates[0].low is car.differences[0].low is None
    assert any("fewer than two videos" in note and "car" in note for note in comparison.notes)


def test_other_flows_are_left_out_with_a_reason(tmp_path: Path) -> None:
    errors = dict.fromkeys("abcde", 0.2)
    one = write_run(tmp_path / "one", errors)
    other = write_run(tmp_path / "other", errors, flow="raft-small")
    comparison = compare([one, other], resamples=100)
    keys = {row.figure.key for row in comparison.rows}
    assert not keys & {"temporal_consistency", "flicker", "truth_flicker"}
    assert {"mean_iou", "vc8"} <= keys
    (reason,) = [note for note in comparison.notes if "left out" in note]
    for word in ("raft-small", "dis-medium", "--flow"):
        assert word in reason


def test_other_pairs_of_frames_are_left_out_with_a_reason(two_runs: tuple[Path, Path]) -> None:
    change_counts(two_runs[1], num_pairs=np.full(5, 3))
    comparison = compare(two_runs, resamples=100)
    assert "temporal_consistency" not in {row.figure.key for row in comparison.rows}
    assert any("rough compared 80 pairs of frames and fine 15" in n for n in comparison.notes)


def test_a_figure_that_one_run_lacks_is_a_dash(tmp_path: Path) -> None:
    errors = dict.fromkeys("abcde", 0.2)
    one = write_run(tmp_path / "one", errors)
    other = write_run(tmp_path / "other", errors, flow="none", ms=None)
    nothing = np.zeros((5, 3, 3), np.int64)
    change_counts(other, consistency=nothing, truth_consistency=nothing)
    change_record(other, figures={"ms_per_frame": None})
    comparison = compare([one, other], resamples=100)
    row = row_of(comparison, "temporal_consistency")
    assert row.estimates[0].value is not None
    assert row.estimates[1] == Estimate(None) == row.differences[0]
    assert row.verdict(0) == "-"
    assert row_of(comparison, "ms_per_frame").estimates == (Estimate(12.5), Estimate(None))


def test_runs_without_a_truth_compare_by_what_they_have(
    two_runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in two_runs:
        with np.load(folder / "counts.npz") as file:
            of_truth = [n for n in file.files if not n.startswith(("names", "cons", "vc_n", "num"))]
            nothing = {name: np.zeros_like(file[name]) for name in of_truth}
        change_counts(folder, **nothing)
        change_record(folder, figures={"ms_per_frame": 12.5})
    comparison = compare(two_runs, resamples=100)
    keys = [row.figure.key for row in comparison.rows]
    assert keys == ["temporal_consistency", "flicker", "ms_per_frame"]
    assert comparison.class_rows == ()
    assert any(note.startswith("No run has: mean IoU") for note in comparison.notes)
    assert run("compare", *two_runs, "--resamples", 100, "--out", tmp_path / "out") == 0
    shown = capsys.readouterr().out.splitlines()
    assert not [line for line in shown if line.startswith(CLASSES)]
    assert "IoU of each class" not in (tmp_path / "out" / "compare.html").read_text()


def test_vc_of_other_windows_is_left_out(tmp_path: Path) -> None:
    one, other = (write_run(tmp_path / name, dict.fromkeys("abcde", 0.2)) for name in ("x", "y"))
    with np.load(other / "counts.npz") as file:
        windows, total = file["vc_windows"], file["vc_total"]
    change_counts(other, vc_windows=windows + 1, vc_total=total)
    comparison = compare([one, other], resamples=100)
    assert not any(row.figure.key.startswith("vc") for row in comparison.rows)
    assert any(note.startswith("VC is left out") for note in comparison.notes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"errors": {"a": 0.2, "z": 0.2}}, r"videos only in one: b; videos only in other: z"),
        (
            {"accuracy": {"void": "false_positive"}},
            r"void is 'ignored' in one and 'false_positive' in other",
        ),
        ({"accuracy": {"void": "ignored", "protocol": "12"}}, r"protocol is not stated in one"),
        (
            {"accuracy": {"void": "ignored", "score_size": "512x1024"}},
            r"score size is not stated in one and '512x1024' in other",
        ),
    ],
)
def test_runs_on_something_else_are_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    errors = {"a": 0.2, "b": 0.3}
    accuracy = {"void": "ignored"}
    one = write_run(tmp_path / "one", errors, accuracy=accuracy)
    other = write_run(tmp_path / "other", **{"errors": errors, "accuracy": accuracy, **change})
    with pytest.raises(ValueError, match=message) as error:
        compare([one, other])
    assert "evaluate them again" in str(error.value).lower()


def test_other_classes_are_refused(two_runs: tuple[Path, Path]) -> None:
    change_record(two_runs[1], classes={"road": {}, "sky": {}, "bus": {}})
    with pytest.raises(ValueError, match="classes only in rough: car; classes only in fine: bus"):
        compare(two_runs)
    change_record(two_runs[1], classes={"sky": {}, "road": {}, "car": {}})
    with pytest.raises(ValueError, match="classes of rough and fine are in another order"):
        compare(two_runs)


def test_other_frames_are_refused(two_runs: tuple[Path, Path]) -> None:
    with np.load(two_runs[1] / "counts.npz") as file:
        confusion = file["confusion"]
    confusion[2] *= 2
    change_counts(two_runs[1], confusion=confusion)
    change_record(two_runs[1], figures={})
    with pytest.raises(ValueError, match=r"rough and fine scored other frames.* of c"):
        compare(two_runs)


def test_three_runs_are_all_compared_with_the_first(tmp_path: Path) -> None:
    errors = {"x": 0.4, "y": 0.3, "z": 0.1}
    folders = [write_run(tmp_path / name, dict.fromkeys("abcde", e)) for name, e in errors.items()]
    comparison = compare(folders, resamples=100)
    row = row_of(comparison, "mean_iou")
    values = [estimate.value for estimate in row.estimates]
    differences = [difference.value for difference in row.differences]
    assert differences == pytest.approx((np.array(values[1:]) - np.array(values[0])).tolist())
    assert all("z is" in said and "than x" in said for said in comparison.statements(1)[:1])


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    errors = {"a": 0.2, "b": 0.3}
    one = write_run(tmp_path / "first" / "scores", errors)
    other = write_run(tmp_path / "second" / "scores", errors)
    assert compare([one, other], resamples=100).labels == (str(one), str(other))
    assert compare([one, one], resamples=100).labels == (str(one), f"{one} (2)")


def test_the_summary_is_json_and_has_no_nan(two_runs: tuple[Path, Path]) -> None:
    comparison = compare(two_runs, resamples=100, seed=4)
    record = json.loads(json.dumps(comparison.summary(), allow_nan=False))
    figure = record["figures"]["mean_iou"]
    assert figure["runs"]["rough"]["value"] == pytest.approx(
        row_of(comparison, "mean_iou").estimates[0].value
    )
    assert figure["differences"]["fine"]["excludes_zero"] is True
    assert set(record["classes"]) == set(CLASSES)
    assert (record["num_videos"], record["resamples"], record["seed"]) == (5, 100, 4)


def npy_bytes() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    return buffer.getvalue()


def npz_that_claims_tebibytes() -> bytes:
    head, archive = io.BytesIO(), io.BytesIO()
    described = {"descr": "<i8", "fortran_order": False, "shape": (7 * 2**37,)}
    np.lib.format.write_array_header_1_0(head, described)
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("names.npy", head.getvalue() + bytes(64))
    return archive.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metrics.json", b"{", r"metrics\.json: wanted JSON"),
        ("metrics.json", b"[1]", r"metrics\.json: .* an object of named values, got \[1\]"),
        ("metrics.json", b'{"mean_iou": 0.5}', r"metrics\.json: lacks 'name'"),
        ("metrics.json", b"\xff", r"metrics\.json: wanted UTF-8"),
        ("counts.npz", b"PK\x03\x04 cut", r"counts\.npz: .*wanted arrays of numpy"),
        ("counts.npz", b"", r"counts\.npz: .*wanted arrays of numpy"),
        ("counts.npz", npz_that_claims_tebibytes(), "its head announces 7696581394432 bytes"),
        ("counts.npz", npy_bytes(), r"counts\.npz: .*wanted arrays of numpy"),
    ],
)
def test_damaged_files_are_named(
    two_runs: tuple[Path, Path], name: str, content: bytes, message: str
) -> None:
    (two_runs[1] / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        compare(two_runs)
    assert str(two_runs[1] / name) in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"confusion": np.zeros((5, 3, 3), np.int64)}, r"confusion in .* must be \(5, 4, 4\)"),
        ({"confusion": np.zeros((5, 4, 4))}, "float64"),
        ({"confusion": np.full((5, 4, 4), -1)}, "0 or more"),
        ({"vc_total": np.full((5, 2), np.nan)}, "finite"),
        ({"names": np.array(list("aacde"))}, "one row for each"),
        ({"names": np.array(list("vwxyz"))}, "name other videos"),
        (
            {"names": np.array(list("abcde"), dtype=object)},
            r"counts\.npz: .*wanted arrays of numpy",
        ),
        ({"vc_n": np.array([2, 4])}, "8 and 16"),
    ],
)
def test_counts_that_do_not_fit_are_named(
    two_runs: tuple[Path, Path], change: dict[str, np.ndarray], message: str
) -> None:
    change_counts(two_runs[1], **change)
    with pytest.raises(ValueError, match=message):
        compare(two_runs)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"protocols": {"accuracy": 5}},
            r"metrics\.json: protocols\.accuracy: .* dictionary, got 5",
        ),
        ({"videos": ["a"]}, r"metrics\.json: videos: .* dictionary, got \['a'\]"),
        (
            {"figures": {"mean_iou": "high"}},
            r"metrics\.json: figures\.mean_iou: .* number, .*got 'high'",
        ),
        (
            {"protocols": {"accuracy": {"void": "counted as false positives"}}},
            r"void in the protocols of .* must be one of ignored, false_positive, got 'counted as",
        ),
        ({"protocols": {"consistency": {"protocol": "mine"}}}, "protocol .* must be one of vidseg"),
    ],
)
def test_records_of_another_form_are_named(
    two_runs: tuple[Path, Path], changes: dict[str, Any], message: str
) -> None:
    change_record(two_runs[1], **changes)
    with pytest.raises(ValueError, match=message):
        compare(two_runs)


def test_missing_files_say_what_to_name(tmp_path: Path, two_runs: tuple[Path, Path]) -> None:
    with pytest.raises(FileNotFoundError, match="vidseg evaluate"):
        compare([two_runs[0], tmp_path / "nowhere"])
    (two_runs[1] / "counts.npz").unlink()
    with pytest.raises(FileNotFoundError, match=r"counts\.npz"):
        compare(two_runs)
    training = tmp_path / "training"
    training.mkdir()
    (training / "metrics.jsonl").write_text("")
    with pytest.raises(FileNotFoundError, match="is a training run; measure it first"):
        compare([two_runs[0], training])


def test_too_little_to_compare_is_said(two_runs: tuple[Path, Path]) -> None:
    with pytest.raises(ValueError, match="two folders or more"):
        compare(two_runs[:1])
    with pytest.raises(ValueError, match="100 or more"):
        compare(two_runs, resamples=10)


def test_what_evaluate_writes_is_read_and_compared(tmp_path: Path) -> None:
    from vidseg.data import open_dataset
    from vidseg.evaluation.datasets import evaluate
    from vidseg.methods import create

    dataset = open_dataset(
        "synthetic", tmp_path / "street", split="val", num_videos=2, num_frames=9, size=(32, 48)
    )
    torch.manual_seed(0)
    model = create("fcn_tiny", num_classes=dataset.num_classes)
    folders = [tmp_path / "plain", tmp_path / "flipped", tmp_path / "no_flow"]
    for folder in folders:
        flow = None if folder.name == "no_flow" else "exact"
        result = evaluate(model, dataset, flow=flow, flip=folder.name == "flipped")
        result.save(folder, "fcn_tiny")
    comparison = compare(folders, resamples=100)
    printed = [json.loads((folder / "metrics.json").read_text())["figures"] for folder in folders]
    assert set(printed[0]) == set(FIGURES)
    shown = {row.figure.key for row in comparison.rows}
    assert {"mean_iou", "mean_video_iou", "temporal_consistency", "vc8", "ms_per_frame"} <= shown
    for row in comparison.rows:
        for figures, estimate in zip(printed, row.estimates, strict=True):
            value = figures[row.figure.key]
            assert (estimate.value is None) == (value is None)
            assert value is None or estimate.value == pytest.approx(value, rel=1e-12)
    truth = row_of(comparison, "truth_temporal_consistency")
    assert truth.verdict(0) == "the same"
    assert truth.estimates[2] == Estimate(None)
    assert row_of(comparison, "mean_iou").verdict(1) == "the same"


def test_the_command_shows_and_writes(
    two_runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "comparison"
    assert run("compare", *two_runs, "--resamples", 200, "--out", out) == 0
    shown = capsys.readouterr().out
    assert "2 runs on 5 videos" in shown
    assert "fine beside rough" in shown
    assert "better: excludes 0" in shown
    assert "Network time is as each run took it (rough on cpu, fine on cpu)" in shown
    record = json.loads((out / "compare.json").read_text())
    assert [run["label"] for run in record["runs"]] == ["rough", "fine"]
    page = (out / "compare.html").read_text()
    assert "fine" in page
    assert "excludes 0" in page
    assert not {"<script", "nan"} & {word for word in ("<script", "nan") if word in page}


def test_the_command_writes_json(
    two_runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("compare", *two_runs, "--resamples", 200, "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert record["resamples"] == 200
    assert record == json.loads(json.dumps(compare(two_runs, resamples=200).summary()))


def test_the_command_explains_what_does_not_compare(
    two_runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("compare", two_runs[0]) == 1
    assert "two folders or more" in capsys.readouterr().err

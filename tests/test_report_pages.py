"""Pages of evaluations and comparisons: whole, small, silent about what was not measured."""

from __future__ import annotations

import gc
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pages import parsed

from vidseg.comparison.compare import compare
from vidseg.data.clip import Video
from vidseg.evaluation.figures import FIGURES
from vidseg.evaluation.result import Evaluation, FrameFigures, Observed, VideoCounts
from vidseg.report import pictures
from vidseg.report.comparison import comparison_page
from vidseg.report.evaluation import evaluation_page
from vidseg.report.moments import APART_FRAMES, NUM_KEPT, Moment, Samples

CLASSES = ("road", "car <big>", "sky")
PALETTE = np.array([(250, 0, 0), (0, 250, 0), (0, 0, 250)], np.uint8)
CONSISTENCY = {"protocol": "vidseg", "flow": "dis-medium (opencv 5.0.0)", "valid": "in frame"}
NUM_FRAMES, SIZE = 20, (6, 8)


def counted(seed: int, *, truth: bool, flow: bool, num_classes: int = 3) -> VideoCounts:
    """Counts of a video whose labels are wrong here and there."""
    still = np.repeat(np.arange(48).reshape(1, *SIZE) // 5 % num_classes, NUM_FRAMES, axis=0)
    wrong = np.random.default_rng(seed).random(still.shape) < 0.05 * (1 + seed)
    labels = np.where(wrong, (still + 1) % num_classes, still)
    counts = VideoCounts.empty(num_classes)
    counts.num_frames = NUM_FRAMES
    if truth:
        counts.num_scored = NUM_FRAMES
        counts.confusion.update(labels, still)
        counts.boundary.update(labels, still)
        for vc in (*counts.vc.values(), *counts.vc_correct.values()):
            vc.update(labels, still)
    if flow:
        counts.num_pairs = NUM_FRAMES - 1
        motion = torch.zeros(NUM_FRAMES - 1, 2, *SIZE)
        counts.consistency.update(labels, motion)
        if truth:
            counts.truth_consistency.update(still, motion)
    return counts


def evaluated(*, truth: bool = True, flow: bool = True, num_videos: int = 2) -> Evaluation:
    names = [f"video & {i}" for i in range(num_videos)]
    return Evaluation(
        classes=CLASSES,
        palette=PALETTE,
        videos={name: counted(i, truth=truth, flow=flow) for i, name in enumerate(names)},
        conventions={"data": "street/val", "void": "ignored", "device": "cpu"},
        protocols={
            "accuracy": {"data": "street/val", "void": "ignored"},
            "consistency": CONSISTENCY if flow else {"protocol": "vidseg", "flow": None},
        },
        series=[
            FrameFigures(
                name,
                number,
                number / 10,
                0.9 - number / 100 if truth else None,
                number / 100 if flow and number else None,
                5.0,
            )
            for name in names
            for number in range(NUM_FRAMES)
        ],
        ms_per_frame=5.0,
    )


def video(name: str = "video & 0", num_frames: int = NUM_FRAMES) -> Video:
    frames = tuple(Path(f"{i}.png") for i in range(num_frames))
    return Video(name, frames, (None,) * num_frames, tuple(range(num_frames)), 10.0)


def offer(
    samples: Samples,
    flickers: Sequence[float | None],
    *,
    accuracies: Sequence[float | None] | None = None,
    name: str = "video & 0",
    size: tuple[int, int] = SIZE,
) -> None:
    """Show a video to the observer."""
    source = video(name, len(flickers))
    for index, flicker in enumerate(flickers):
        accuracy = None if accuracies is None else accuracies[index]
        changed = None if flicker is None else np.zeros(size, np.uint8)
        labels = np.zeros(size, np.uint8)
        observed = Observed(
            source,
            index,
            np.full((*size, 3), 90, np.uint8),
            labels,
            None if accuracy is None else labels,
            5.0,
        )
        figures = FrameFigures(name, index, index / 10, accuracy, flicker, 5.0, changed)
        samples(observed, figures)


def kept_for(samples: Samples, reason: str) -> list[int]:
    return [moment.frame_index for moment in samples.kept if reason in moment.reasons]


def a_page(**measured: bool) -> str:
    samples = Samples()
    flickers = [0.0 if i % 7 else i / 100 for i in range(NUM_FRAMES)]
    known = {"truth": True, "flow": True} | measured
    offer(
        samples,
        list(flickers) if known["flow"] else [None] * NUM_FRAMES,
        accuracies=[0.9 - i / 100 for i in range(NUM_FRAMES)] if known["truth"] else None,
    )
    page = evaluation_page(
        "tmanet <x>", evaluated(**measured), samples.kept, command="vidseg evaluate 'a b'"
    )
    return page.render()


def test_a_page_is_whole_and_fetches_nothing(tmp_path):
    page = evaluation_page("tmanet", evaluated())
    page.write(tmp_path / "report.html")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    text = a_page()
    seen = parsed(text)
    assert seen.sources
    assert all(source.startswith("data:") for source in seen.sources)
    assert not {"script", "link", "iframe", "object"} & set(seen.tags)
    assert "http" not in re.sub(r"base64,[^\"]+", "", text)
    assert "url(" not in text
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text
    assert all(seen.alts)


def test_marks_and_rows_lead_to_frames_on_the_page():
    text = a_page()
    seen = parsed(text)
    assert seen.links
    assert {link.removeprefix("#") for link in seen.links} == set(seen.ids)
    assert len(set(seen.ids)) == len(seen.ids)
    # The worst frame is number 1: of flicker in the curve, and in the table.
    assert re.search(r'href="#moment-1"[^>]*aria-label="frame 14: flickers most"', text)


def test_a_page_has_every_figure_with_its_meaning_and_its_conventions():
    text = a_page()
    for wanted in (
        *(figure.title for figure in FIGURES.values()),
        *(figure.meaning.replace("'", "&#x27;") for figure in FIGURES.values()),
        "TC, the truth 100.0\N{NO-BREAK SPACE}%",  # large, above the figures
        "within 5 px of another true class",
        "dis-medium (opencv 5.0.0)",
        "TC and flicker, protocol vidseg",
        "40 frames of 2 videos; all of them have a truth",
        "compared along the flow of dis-medium (opencv 5.0.0)",
        "vidseg evaluate &#x27;a b&#x27;",
        "tmanet &lt;x&gt;",
        "car &lt;big&gt;",
        "video &amp; 1",
        "network time, ms, over time in s",
    ):
        assert wanted in text
    assert "nan" not in re.sub(r"base64,[^\"]+", "", text)


def test_without_a_truth_there_is_nothing_about_accuracy():
    text = a_page(truth=False)
    seen = parsed(text)
    assert "What was taken for what" not in text
    assert "pixel accuracy, %" not in text
    assert ">truth<" not in text
    assert "<h3>Accuracy</h3>" not in text
    assert "none of them has a truth" in text
    assert re.search("for mean IoU, boundary mean IoU[^<]*: there are no true labels.<", text)
    assert ">changes<" in text
    assert seen.ids


def test_without_a_flow_there_are_errors_in_place_of_changes():
    text = a_page(flow=False)
    assert "pixels that change class" not in text
    assert ">changes<" not in text
    assert ">errors<" in text
    assert "flickers most" not in text
    assert "Neighbouring frames were not compared: no flow was asked for." in text
    assert "for TC, flicker, TC of the truth, flicker of the truth: no flow" in text


def test_frames_without_pictures_are_read_when_the_page_is_made():
    samples = Samples()
    offer(samples, [None, 0.2])
    moments = [replace(moment, image=None) for moment in samples.kept]
    asked = []

    def read_frame(moment: Moment) -> np.ndarray:
        asked.append(moment.frame_index)
        return np.full((*SIZE, 3), 90, np.uint8)

    text = evaluation_page("m", evaluated(), moments, read_frame=read_frame).render()
    assert sorted(asked) == [0, 1]
    assert text.count(">frame</figcaption>") == 2
    assert ">frame</figcaption>" not in evaluation_page("m", evaluated(), moments).render()


def test_the_worst_frames_are_kept_apart_and_in_order():
    samples = Samples()
    flickers: list[float | None] = [0.0] * 60
    for index, value in {10: 0.5, 11: 0.6, 12: 0.4, 30: 0.9, 40: 0.1, 50: 0.2, 55: 0.3}.items():
        flickers[index] = value
    offer(samples, flickers)
    assert kept_for(samples, "flickers most") == [30, 11, 55, 50]
    assert all(
        abs(a - b) >= APART_FRAMES
        for i, a in enumerate(kept_for(samples, "flickers most"))
        for b in kept_for(samples, "flickers most")[:i]
    )


def test_a_frame_that_is_bad_twice_is_shown_once():
    samples = Samples()
    offer(samples, [0.0] * 5 + [0.3] + [0.0] * 5, accuracies=[1.0] * 5 + [0.5] + [1.0] * 5)
    worst = samples.kept[0]
    assert worst.frame_index == 5
    assert worst.reasons == ("flickers most", "least accurate", "evenly spread")
    assert kept_for(samples, "least accurate") == [5]


@pytest.mark.parametrize("num_frames", [1, 2, 7, 300])
def test_samples_are_few_and_spread_evenly(num_frames):
    samples = Samples()
    generator = np.random.default_rng(0)
    values = generator.random(num_frames).tolist()
    offer(samples, values, accuracies=values, size=(2, 2))
    assert len(samples.kept) <= sum(NUM_KEPT.values())
    spread = sorted(kept_for(samples, "evenly spread"))
    assert len(spread) == min(NUM_KEPT["evenly spread"], num_frames)
    thirds = [int(index * len(spread) / num_frames) for index in spread]
    assert thirds == list(range(len(spread)))


def test_what_is_held_does_not_grow_with_the_video():
    def num_moments() -> int:
        gc.collect()
        return sum(type(each) is Moment for each in gc.get_objects())

    before, samples = num_moments(), Samples()
    values = np.random.default_rng(0).random(2_000).tolist()
    offer(samples, values, accuracies=values, size=(2, 2))
    assert num_moments() - before <= 2 * 4 * NUM_KEPT["evenly spread"] + 9


def test_evenly_spread_frames_have_a_truth_where_there_is_one():
    samples = Samples()
    accuracies = [0.9 if i in (3, 50) else None for i in range(60)]
    offer(samples, [0.0] * 60, accuracies=accuracies, size=(2, 2))
    assert sorted(kept_for(samples, "evenly spread")) == [3, 50]


def test_kept_frames_are_small():
    samples = Samples()
    offer(samples, [0.5], accuracies=[0.5], size=(600, 1000))
    (moment,) = samples.kept
    assert moment.image is not None
    assert moment.truth is not None
    assert moment.figures.changed is not None
    sides = [side for array in (moment.image, moment.labels, moment.truth, moment.figures.changed)
             for side in array.shape[:2]]  # fmt: skip
    assert max(sides) <= pictures.MAX_SIDE_PX
    owners = [array.base is None for array in (moment.labels, moment.figures.changed)]
    assert all(owners)  # no view that would keep the large frame alive


def test_the_worst_case_stays_below_5_mb():
    """10,000 frames, 150 classes, 1,000 videos, and pictures that are nothing but noise."""
    generator = np.random.default_rng(0)
    num_classes, num_frames = 150, 10_000
    noise = generator.integers(0, num_classes, (300, 480), dtype=np.uint8)
    figures = FrameFigures(
        "video 0", 5, None, 0.5, 0.5, 5.0, generator.integers(0, 3, noise.shape, dtype=np.uint8)
    )
    image = generator.integers(0, 255, (*noise.shape, 3), dtype=np.uint8)
    moment = Moment(video("video 0"), 5, figures, image, noise, noise, ("flickers most",))
    counts = VideoCounts.empty(num_classes)
    counts.confusion.update(noise, noise[::-1].copy())
    counts.num_frames = counts.num_scored = num_frames
    classes = tuple(f"a class with a long name {i}" for i in range(num_classes))
    values = generator.random(num_frames)
    evaluation = Evaluation(
        classes=classes,
        palette=generator.integers(0, 255, (num_classes, 3), dtype=np.uint8),
        videos={f"video {i}": VideoCounts.empty(num_classes) for i in range(999)} | {"z": counts},
        conventions={"data": "noise"},
        series=[
            FrameFigures(f"video {i // 2_000}", i, None, values[i], values[-i], values[i])
            for i in range(num_frames)
        ],
    )
    text = evaluation_page("m", evaluation, [moment] * sum(NUM_KEPT.values())).render()
    assert len(text.encode()) < 5_000_000
    assert "most frequent errors" in text
    assert "110 smaller classes" in text
    assert "500 further videos" in text


@pytest.fixture
def two_runs(tmp_path) -> list[Path]:
    for name, seeds in (("one", (0, 1, 2, 3)), ("other", (0, 1, 3, 5))):
        evaluation = replace(
            evaluated(),
            videos={f"v{i}": counted(seed, truth=True, flow=True) for i, seed in enumerate(seeds)},
        )
        evaluation.save(tmp_path / name, name)
    return [tmp_path / "one", tmp_path / "other"]


def test_a_comparison_is_whole_and_has_intervals(two_runs):
    text = comparison_page(compare(two_runs, resamples=100), command="vidseg compare").render()
    assert "on its interval" in text
    seen = parsed(text)
    assert seen.sources == seen.links == []
    assert re.search(r"<td>\d+\.\d\d <[^>]*>\[\d+\.\d\d, \d+\.\d\d\]<", text)
    assert 'class="clear"' in text or 'class="open"' in text
    for wanted in (
        "one and other",
        "other beside one",
        "IoU of each class",
        "100 draws of the videos, seed 0",
        "dis-medium (opencv 5.0.0)",
        "car &lt;big&gt;",
        "Flicker of the true labels",
    ):
        assert wanted in text


def test_a_comparison_of_one_video_says_why_there_is_no_interval(tmp_path):
    for name in ("a", "b"):
        evaluated(num_videos=1).save(tmp_path / name, name)
    text = comparison_page(compare([tmp_path / "a", tmp_path / "b"], resamples=100)).render()
    assert "Evaluations of the same video." in text
    assert "on its interval" not in text
    parsed(text)
    assert "There are no intervals" in text
    assert not re.search(r"\d <span class=.range", text)

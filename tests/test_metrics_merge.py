"""Every measure is a sum: however videos are split, ordered, pickled or spread, it is the same."""

import functools
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vidseg.metrics import (
    ConfusionMatrix,
    EtcTemporalConsistency,
    TemporalConsistency,
    VideoConsistency,
    VspwScore,
    VspwTemporalConsistency,
    boundary_band,
)

CLASSES = 4


@dataclass(frozen=True)
class Clip:
    labels: np.ndarray
    truth: np.ndarray
    flows: np.ndarray
    valid: np.ndarray


def random_clip(seed: int) -> Clip:
    rng = np.random.default_rng(seed)
    shape = (int(rng.integers(1, 6)), 6, 8)
    labels, truth = rng.integers(0, CLASSES, (2, *shape), dtype=np.uint8)
    truth[rng.random(shape) < 0.1] = 255
    stays = rng.random(shape[1:]) < 0.7
    labels[:, stays], truth[:, stays] = labels[0, stays], truth[0, stays]
    flows = rng.normal(0, 1.5, (shape[0] - 1, 2, *shape[1:])).astype(np.float32)
    return Clip(labels, truth, flows, rng.random(flows[:, 0].shape) < 0.8)


@dataclass(frozen=True)
class Measure:
    make: Callable[[], Any]
    add: Callable[[Any, Clip], None]
    read: Callable[[Any], Any]


def counts(measured: Any) -> Any:
    return measured.counts.tolist()


def add_boundary(matrix: ConfusionMatrix, clip: Clip) -> None:
    matrix.update(clip.labels, clip.truth, valid=boundary_band(clip.truth, 1))


def windows(consistency: VideoConsistency) -> Any:
    return consistency.total, consistency.num_windows, repr(consistency.mean_consistency())


def add_longer(score: VspwScore, clip: Clip) -> None:
    score.update(np.tile(clip.labels, (6, 1, 1)), np.tile(clip.truth, (6, 1, 1)))


MEASURES = {
    "confusion": Measure(
        lambda: ConfusionMatrix(CLASSES), lambda m, c: m.update(c.labels, c.truth), counts
    ),
    "boundary": Measure(lambda: ConfusionMatrix(CLASSES), add_boundary, counts),
    "consistency": Measure(
        lambda: TemporalConsistency(CLASSES),
        lambda m, c: m.update(c.labels, c.flows, c.valid),
        counts,
    ),
    "etc": Measure(
        lambda: EtcTemporalConsistency(CLASSES), lambda m, c: m.update(c.labels, c.flows), counts
    ),
    "vspw": Measure(
        lambda: VspwTemporalConsistency(CLASSES), lambda m, c: m.update(c.labels, c.flows), counts
    ),
    "video": Measure(
        lambda: VideoConsistency(2), lambda m, c: m.update(c.labels, c.truth), windows
    ),
    "video, correct": Measure(
        lambda: VideoConsistency(3, correct=True, num_classes=CLASSES),
        lambda m, c: m.update(c.labels, c.truth),
        windows,
    ),
    "vspw's tool": Measure(
        lambda: VspwScore(CLASSES), add_longer, lambda m: (m.num_videos, repr(m.figures()))
    ),
}


def measured(measure: Measure, clips: list[Clip]) -> Any:
    made = measure.make()
    for clip in clips:
        measure.add(made, clip)
    return made


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 10**6), max_size=6), st.randoms(use_true_random=False))
def test_order_and_split_change_nothing(measure, seeds, random):
    clips = [random_clip(seed) for seed in seeds]
    expected = measure.read(measured(measure, clips))
    random.shuffle(clips)
    cuts = sorted(random.randrange(len(clips) + 1) for _ in range(2))
    parts = [clips[: cuts[0]], clips[cuts[0] : cuts[1]], clips[cuts[1] :]]
    made = [pickle.loads(pickle.dumps(measured(measure, part))) for part in parts]
    assert measure.read(functools.reduce(type(made[0]).merge, made)) == expected


# What another process does: measure its share of the clips, hand the measures back.
CHILD = """
import pickle, sys
sys.path[:0] = [sys.argv[1]]
from test_metrics_merge import measured_all
sys.stdout.buffer.write(pickle.dumps(measured_all(range(1, 7, 2))))
"""


def measured_all(seeds: Iterable[int]) -> dict[str, Any]:
    clips = [random_clip(seed) for seed in seeds]
    return {name: measured(measure, clips) for name, measure in MEASURES.items()}


def test_two_processes_measure_what_one_does(request):
    command = [sys.executable, "-c", CHILD, str(request.path.parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        ours = measured_all(range(0, 7, 2))
        theirs = pickle.loads(child.communicate(timeout=120)[0])
    alone = measured_all(range(7))
    for name, measure in MEASURES.items():
        assert measure.read(ours[name].merge(theirs[name])) == measure.read(alone[name]), name


def test_saved_counts_make_the_measures_again():
    clips = [random_clip(seed) for seed in range(3)]
    matrix = measured(MEASURES["confusion"], clips)
    again = ConfusionMatrix.from_counts(matrix.counts.numpy(), ignore=254)
    assert again.num_classes == CLASSES
    assert again.mean_iou() == matrix.mean_iou()
    again.counts.zero_()
    assert int(matrix.counts.sum()) > 0  # a copy
    steadiness = measured(MEASURES["consistency"], clips)
    other = TemporalConsistency.from_counts(steadiness.counts)
    assert other.flicker() == steadiness.flicker()
    assert torch.equal(other.merge(steadiness).counts, 2 * steadiness.counts)


@pytest.mark.parametrize("counts", [np.zeros((3, 4), int), np.zeros(4, int), -np.ones((3, 3), int)])
@pytest.mark.parametrize("measure", [ConfusionMatrix, TemporalConsistency])
def test_counts_that_are_none_are_refused(measure, counts):
    with pytest.raises(ValueError, match="counts must be"):
        measure.from_counts(counts)
    with pytest.raises(TypeError, match="counts must be integers"):
        measure.from_counts(np.eye(3))

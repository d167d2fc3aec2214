"""Methods with a period: streams start anywhere in it, evaluations and trainings keep it."""

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from honest import Honest, TakesTurns
from small_runs import config_with

from laws import check_laws
from vidseg.adapters.sliding import SlidingWindow
from vidseg.data import open_dataset
from vidseg.data.clip import Video
from vidseg.evaluation.datasets import evaluate
from vidseg.segmenter import Memory
from vidseg.training.loop import train
from vidseg.training.samples import training_samples


@pytest.mark.parametrize("period", [2, 3, 5])
def test_a_segmenter_with_a_period_keeps_the_laws(period):
    class Turns(TakesTurns):
        pass

    Turns.period = period
    check_laws(Turns())


def test_each_frame_is_encoded_once_with_others_of_its_phase():
    model = TakesTurns().eval()
    frames = torch.randn(2, 7, 3, 8, 8)
    with torch.no_grad():
        whole, memory = model(frames, phase=2)
    assert model.seen == [(2, 2 * 3), (0, 2 * 2), (1, 2 * 2)]
    assert memory.phase == (2 + 7) % 3
    for t in range(7):
        alone = model.turns[(2 + t) % 3](frames[:, t])
        before = 0.5 * (model.turns[(1 + t) % 3](frames[:, t - 1]) if t else alone)
        wanted = (1 + (2 + t) % 3) * alone + before
        torch.testing.assert_close(whole.logits[:, t], wanted)
    again = pickle.loads(pickle.dumps(memory)).to("cpu")
    assert again.phase == memory.phase


def test_phases_that_do_not_fit():
    model, frames = TakesTurns().eval(), torch.zeros(1, 2, 3, 8, 8)
    for phase in (3, -1, 1.0, True):
        with pytest.raises(ValueError, match="the phases of TakesTurns are 0 to 2; got phase="):
            model(frames, phase=phase)
    with torch.no_grad():
        _, memory = model(frames, phase=1)
        model(frames, memory, phase=0)
        with pytest.raises(ValueError, match="its next frame has phase 0; pass phase only with"):
            model.step(frames[:, 0], memory, phase=2)
        with pytest.raises(ValueError, match="goes on from a LastFrame, got Memory"):
            model(frames, Memory())
        beyond = replace(memory, phase=3)
        with pytest.raises(ValueError, match="is at phase 3, the phases of this model are 0 to 2"):
            model(frames, beyond)
        plain = Honest().eval()
        plain(frames, phase=0)
        with pytest.raises(
            ValueError, match="are 0 alone, it treats all frames alike; got phase=1"
        ):
            plain(frames, phase=1)
        with pytest.raises(ValueError, match="is at phase 1, the phases of this model are 0 to 0"):
            plain(frames, replace(memory, phase=1))


def test_windows_of_a_frame_take_its_phase():
    """In sliding windows, too."""
    model = SlidingWindow(TakesTurns().eval(), crop=(8, 8))
    frames = torch.randn(1, 4, 3, 8, 12)
    with torch.no_grad():
        whole, _ = model(frames, phase=1)
        first, memory = model(frames[:, :3], phase=1)
        last, _ = model(frames[:, 3:], memory)
    torch.testing.assert_close(torch.cat([first.logits, last.logits], 1), whole.logits)


def sparse(dataset, labelled):
    """The same frames, few of them with labels."""
    dataset.videos = tuple(
        Video(
            video.name,
            video.frames,
            tuple(label if i in labelled else None for i, label in enumerate(video.labels)),
            video.numbers,
            video.rate_hz,
        )
        for video in dataset.videos
    )
    return dataset


def coloured() -> TakesTurns:
    """A model of the street's classes whose labels depend on the phase."""
    torch.manual_seed(0)
    return TakesTurns(num_classes=11).eval()


@pytest.mark.parametrize("batch_size", [1, 3])
def test_windows_give_the_labels_of_the_stream_at_every_phase(batch_size):
    def maps(labelled):
        street = open_dataset("synthetic", num_videos=2, num_frames=12, size=(32, 48))
        found = {}

        def observe(frame, figures):
            if frame.truth is not None:
                found[frame.video.name, frame.frame_index] = frame.labels

        result = evaluate(
            coloured(), sparse(street, labelled), observe=observe, batch_size=batch_size
        )
        return found, result.conventions["run_as"]

    whole, run_as = maps(range(12))
    assert run_as == "stream"
    windows, run_as = maps((4, 6, 8, 11))
    assert run_as == "windows"
    assert len(windows) == 8
    for key, labels in windows.items():
        np.testing.assert_array_equal(labels, whole[key])


TURNS = {"iterations": 5, "batch_size": 2, "model": {"name": "fcn_tiny"}}


def test_the_last_frames_of_samples_take_the_phases_in_turn():
    config = config_with("data.memory=skip", **TURNS)
    street = open_dataset("synthetic", num_videos=2, num_frames=4, size=(48, 64))
    samples = training_samples(street, config, coloured())
    firsts = [samples[number]["phase"] for number in range(8)]
    # The samples have two frames, so the last ones have the phases 1, 2, 0 and 1.
    assert firsts == [0, 0, 1, 1, 2, 2, 0, 0]
    assert "phase" not in training_samples(street, config, Honest(num_classes=11))[0]


def test_a_run_with_phases_resumes_bit_for_bit(tmp_path: Path):
    def run(folder: str, *overrides: str, **options):
        model = coloured().train()
        config = config_with("schedule.power=0", "checkpoint.every=1", *overrides, **TURNS)
        done = train(config, tmp_path / folder, model=model, **options)
        return done.model, model.seen

    straight, seen = run("straight")
    assert [phase for phase, _ in seen] == [0, 1, 1, 2, 2, 0, 0, 1, 1, 2]
    run("parts", "iterations=2")
    resumed, _ = run("parts", resume=True)
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name

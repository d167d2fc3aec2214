"""Training on clips: labels of every frame, CFFM's loss, which clips a run draws."""

from __future__ import annotations

import pickle
import shutil
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import small_runs
import torch
from counting import Counting
from torch import Tensor

import vidseg
from vidseg.data import (
    ClipDataset,
    EvalTransform,
    TrainTransform,
    VideoDataset,
    choices,
    drawn,
    preceding,
    snippets,
    spaced,
)
from vidseg.data.clip import Video
from vidseg.losses import clip_cross_entropy, cross_entropy
from vidseg.methods.cffmpp import CFFMPlus
from vidseg.segmenter import VideoSegmenter
from vidseg.training import loop
from vidseg.training.contexts import training_contexts, validation_contexts
from vidseg.training.folder import read_metrics
from vidseg.training.loop import train
from vidseg.training.samples import (
    open_source,
    samples_fps,
    training_choices,
    training_samples,
)
from vidseg.training.step import TrainingStep, build_model

DATA = small_runs.VALUES["data"] | {"options": {"num_videos": 2, "num_frames": 5, "size": [48, 64]}}
config_with = partial(
    small_runs.config_with,
    model={"name": "cffm_tiny", "options": {"gap_frames": 1, "dropout": 0.0, "drop_path": 0.0}},
    data=DATA,
    optimiser={"kind": "adamw", "lr": 1e-3},
    batch_size=2,
)


def step_and_batch(*overrides: str, size: int = 2) -> tuple[TrainingStep, dict[str, Tensor]]:
    config = config_with(*overrides)
    dataset = open_source(config.data)
    model = build_model(config, dataset)
    samples = training_samples(dataset, config, model)
    batch = torch.utils.data.default_collate([samples[n] for n in range(size)])
    return TrainingStep(model, config.loss), {k: v for k, v in batch.items() if k != "name"}


# --- labels of every frame ------------------------------------------------------------------------


def painted(length: int = 4) -> tuple[list[np.ndarray], np.ndarray]:
    """Frames whose red channel is their own label map."""
    rng = np.random.default_rng(0)
    maps = rng.integers(0, 3, (length, 6, 9), dtype=np.uint8).repeat(5, 1).repeat(5, 2)
    return [np.stack([m * 60] * 3, 2) for m in maps], maps


GEOMETRY = {
    "crop": (24, 60), "scale": (0.7, 1.3), "rotation": 10, "translate_px": 4,
    "padding": "centre", "mean": (0, 0, 0), "std": (60, 60, 60), "photometric": "none",
}  # fmt: skip


@pytest.mark.parametrize("seed", range(6))
def test_the_labels_of_all_frames_take_the_draw_of_the_last_ones(seed: int) -> None:
    frames, maps = painted()
    transform = TrainTransform(**GEOMETRY, max_class_share=0.5)
    clip, labels = transform(frames, maps, np.random.default_rng(seed))
    alone_clip, alone = transform(frames, maps[-1], np.random.default_rng(seed))
    assert labels.shape == (4, 24, 60)
    assert labels.dtype == torch.int64
    assert torch.equal(labels[-1], alone)
    assert torch.equal(clip, alone_clip)
    for k in range(3):  # each frame's map as if it were the target, without redraws of the crop
        every_crop = TrainTransform(**GEOMETRY, max_class_share=1.0)
        whole = every_crop(frames, maps, np.random.default_rng(seed))[1]
        own = every_crop(frames, maps[k], np.random.default_rng(seed))[1]
        assert torch.equal(whole[k], own)
    # Nearest and bilinear resampling agree in the middle of the blocks.
    agree = (clip[:, 0].round() == labels)[labels != 255]
    assert agree.float().mean() > 0.75


def test_a_sample_without_clip_labels_stays_as_it_was() -> None:
    config = config_with("model={name: tmanet_tiny}")
    dataset = open_source(config.data)
    sample = training_samples(dataset, config, build_model(config, dataset))[0]
    assert set(sample) == {"frames", "labels", "name"}


def half_labelled(dataset: VideoDataset) -> VideoDataset:
    """The same frames, every second one of them without labels, from the second on."""
    videos = [
        Video(
            video.name,
            video.frames,
            tuple(None if i % 2 else label for i, label in enumerate(video.labels)),
            video.numbers,
            video.rate_hz,
        )
        for video in dataset.videos
    ]
    dataset.videos = tuple(videos)
    return dataset


def test_frames_without_labels_are_ignored_everywhere() -> None:
    dataset = half_labelled(open_source(config_with().data))
    index = snippets(dataset, lambda t: (t - 3, t - 2, t - 1, t) if t > 2 else ())
    clips = ClipDataset(dataset, index, EvalTransform(), clip_labels=True)
    sample = clips[0]
    assert index[0].frame_indices == (1, 2, 3, 4)
    assert sample["labelled"].tolist() == [False, True, False, True]
    for k, labels in enumerate(sample["clip_labels"]):
        file = dataset.videos[0].labels[k + 1]
        expected = np.full((48, 64), 255) if file is None else dataset.read_label(file)
        np.testing.assert_array_equal(labels.numpy(), expected)
    assert torch.equal(sample["clip_labels"][-1], sample["labels"])


# --- the loss of CFFM -----------------------------------------------------------------------------


@pytest.mark.parametrize("average", ["all", "valid"])
@pytest.mark.parametrize("weights", ["null", "[1, 2, 3, 4, 5, 6, 1, 1, 1, 1, 0.5]"])
def test_all_frames_of_a_clip_are_supervised(average, weights) -> None:
    step, batch = step_and_batch(
        f"loss={{average: {average}, frame_weight: 0.25, class_weights: {weights}}}"
    )
    batch["clip_labels"][:, 1, :9] = 255
    found = step.train()(batch)
    segmentation, _ = step.model(batch["frames"], readout="last")
    assert segmentation.aux["frames"].shape[:2] == (2, 4)
    expected = clip_cross_entropy(
        segmentation.logits[:, 0],
        segmentation.aux["frames"],
        batch["clip_labels"],
        align_corners=False,
        frame_weight=0.25,
        average=average,
        weight=step.class_weights,
    )
    torch.testing.assert_close(found["loss"], expected)
    torch.testing.assert_close(found["loss"], found["main"] + 0.25 * found["frames"])
    found["loss"].backward()
    assert all(p.grad is not None for p in step.model.parameters())


@pytest.mark.parametrize("average", ["all", "valid"])
def test_where_only_the_target_is_labelled_it_alone_counts(average) -> None:
    """The authors' head for Cityscapes: CE(P) + 0.5 CE(S of the target)."""
    step, batch = step_and_batch(f"loss.average={average}")
    batch["clip_labels"][:, :3] = 255
    batch["labelled"][:, :3] = False
    found = step.train()(batch)
    segmentation, _ = step.model(batch["frames"], readout="last")
    alone = cross_entropy(
        segmentation.aux["frames"][:, -1], batch["labels"], align_corners=False, average=average
    )
    torch.testing.assert_close(found["frames"], alone)
    torch.testing.assert_close(found["loss"], found["main"] + 0.5 * alone)


def test_a_clip_run_resumes_bit_for_bit(tmp_path: Path) -> None:
    run = ("schedule.power=0", "checkpoint.every=1", "accumulate=2", "precision=bf16")
    straight = train(config_with(*run), tmp_path / "straight")
    train(config_with(*run, "iterations=1"), tmp_path / "parts")
    parts = train(config_with(*run), tmp_path / "parts", resume=True)
    for name, value in straight.model.state_dict().items():
        assert torch.equal(parts.model.state_dict()[name], value), name
    records = read_metrics(tmp_path / "straight")
    for record in records:
        total = record["main"] + 0.5 * record["frames"]
        assert record["loss"] == pytest.approx(total, rel=1e-5)
    assert straight.model.card.trained_on.endswith("4 labelled frames")


# --- which clips ----------------------------------------------------------------------------------


def named(lengths: dict[str, int], labelled: dict[str, tuple[int, ...]] | None = None):
    """A data set of names alone."""
    videos = []
    for name, length in lengths.items():
        frames = tuple(Path(f"{name}/{i:03d}.png") for i in range(length))
        known = range(length) if labelled is None else labelled[name]
        labels = tuple(Path(f"{i}.png") if i in known else None for i in range(length))
        videos.append(Video(name, frames, labels, tuple(range(length)), 15.0))
    return VideoDataset("vspw", videos, ["road"], [(1, 2, 3)])


def cffm(gap_frames: int = 3) -> VideoSegmenter:
    return vidseg.create("cffm_tiny", num_classes=2, gap_frames=gap_frames)


def draws(dataset: VideoDataset, chosen: list, count: int, seed: int = 0):
    clips = ClipDataset(dataset, chosen, EvalTransform(), seed, shuffle=True)
    return [clips.snippet(number) for number in range(count)]


def test_an_epoch_has_one_frame_of_each_video() -> None:
    """VSPW: the list reversed with p = 0.5, a target in [9, n - 1], 9, 6 and 3 frames before it."""
    dataset = named({"a": 10, "b": 14, "c": 30})
    data = config_with("data.sampling=videos", "data.reverse=0.5").data
    chosen = training_choices(dataset, data, cffm(), seed=0)
    found = draws(dataset, chosen, 3 * 400)
    for epoch in range(400):
        names = {s.video.name for s in found[3 * epoch : 3 * epoch + 3]}
        assert names == {"a", "b", "c"}
    for snippet in found:
        t = snippet.label_index
        assert snippet.frame_indices in ((t - 9, t - 6, t - 3, t), (t + 9, t + 6, t + 3, t))
    windows = Counter(s.frame_indices for s in found if s.video.name == "b")
    expected = [(k, k + 3, k + 6, k + 9) for k in range(5)]
    assert set(windows) == {*expected, *(w[::-1] for w in expected)}
    # 400 draws among ten: 40 each, with a standard deviation of 6.
    assert 20 < min(windows.values()) <= max(windows.values()) < 60
    assert {s.frame_indices for s in found if s.video.name == "a"} == {(0, 3, 6, 9), (9, 6, 3, 0)}
    assert samples_fps(ClipDataset(dataset, chosen, EvalTransform())) == 5


def test_a_draw_is_a_function_of_seed_and_number() -> None:
    dataset = named({"a": 20, "b": 25})
    chosen = choices(dataset, spaced(3, every=3), each="videos", reverse=0.5)
    once = draws(dataset, chosen, 40)
    clips = ClipDataset(dataset, chosen, EvalTransform(), 0, shuffle=True)
    assert [clips.snippet(n) for n in reversed(range(40))] == once[::-1]
    assert pickle.loads(pickle.dumps(clips)).snippet(7) == once[7]
    assert draws(dataset, chosen, 40, seed=1) != once
    assert len({s.frame_indices for s in once}) > 15


def test_videos_that_are_too_short_are_left_out_with_one_warning(caplog) -> None:
    dataset = named({"long": 12, **{f"short{k}": 9 for k in range(7)}})
    data = config_with("data.sampling=videos").data
    with caplog.at_level("WARNING"):
        chosen = training_choices(dataset, data, cffm(), seed=0)
    assert [choice.video.name for choice in chosen] == ["long"]
    (record,) = caplog.records
    assert record.getMessage() == (
        "left out 7 of the 8 videos of vspw, which have no labelled frame with the 9 frames that a "
        "window spans: short0, short1, short2, short3, short4, ..."
    )
    with pytest.raises(ValueError, match="vspw: no video has a labelled frame with the 9 frames b"):
        training_choices(named({"short": 9}), data, cffm(), seed=0)


def test_reversed_windows_of_labelled_frames_fall_back() -> None:
    """Cityscapes: the frames 9, 6, 3 before or after the labelled one, whichever are there."""
    labelled = {"early": (2,), "middle": (19,), "late": (25,)}
    dataset = named({"early": 30, "middle": 30, "late": 30}, labelled)
    data = config_with("data.reverse=0.5").data
    chosen = training_choices(dataset, data, cffm(), seed=0)
    found = draws(dataset, chosen, 3 * 50)
    by_video = {name: {s.frame_indices for s in found if s.video.name == name} for name in labelled}
    assert by_video == {
        "early": {(11, 8, 5, 2)},
        "middle": {(10, 13, 16, 19), (28, 25, 22, 19)},
        "late": {(16, 19, 22, 25)},
    }
    backward = sum(s.frame_indices[0] == 28 for s in found)
    assert 10 < backward < 40


@pytest.mark.parametrize(
    "window", [preceding(2), preceding(2, start="skip"), spaced(2, every=1), drawn(2, within=2)]
)
def test_every_window_runs_both_ways(window) -> None:
    dataset = named({"a": 4})
    (choice,) = choices(dataset, window, each="videos", reverse=0.5)
    assert choice.forward == ((0, 1, 2), (1, 2, 3))
    assert choice.backward == ((2, 1, 0), (3, 2, 1))
    by_frame = choices(dataset, window, each="frames", reverse=1.0)
    assert [c.backward for c in by_frame][:2] == [((2, 1, 0),), ((3, 2, 1),)]
    assert by_frame[-1].draw(np.random.default_rng(0)).frame_indices == (1, 2, 3)


def test_neighbours_exclude_drawn_clips() -> None:
    near = ("data.neighbours={}", "loss.temporal={}")
    for word in ("data.sampling=videos", "data.reverse=0.5"):
        with pytest.raises(ValueError, match=r"leave out data\.sampling=videos and"):
            config_with(*near, word)


def test_a_run_on_one_frame_of_each_video(tmp_path: Path) -> None:
    done = train(
        config_with("data.sampling=videos", "data.reverse=0.5", "iterations=1"), tmp_path / "run"
    )
    assert done.model.card.trained_on == "synthetic/train: 2 videos"


# --- what is known of whole videos ----------------------------------------------------------------

PLUS = (
    "model.name=cffmpp_tiny",
    "model.options={gap_frames: 1}",
    "data.options={num_videos: 2, num_frames: 12, size: [48, 64]}",
    "iterations=2",
)


@pytest.fixture(scope="module")
def trained_cffm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(config_with("iterations=1"), tmp_path_factory.mktemp("cffm") / "run").weights


def plus_with(trained_cffm: Path, *overrides: str):
    return config_with(*PLUS, f"model.initial_weights={trained_cffm}", *overrides)


@pytest.mark.parametrize("name", ["cffmpp_tiny", "cffmpp_tiny_running"])
def test_only_the_branch_of_cffmpp_is_trained(tmp_path: Path, trained_cffm, name) -> None:
    config = plus_with(trained_cffm, f"model.name={name}", "optimiser.lr=0.01")
    start = build_model(config, open_source(config.data)).state_dict()
    done = train(config, tmp_path / "run")
    for key, value in done.model.state_dict().items():
        is_trained = key.startswith(("branch.", "prototype_classifier."))
        assert torch.equal(value, start[key]) == (not is_trained), key
    assert "decoder.fusion.bn.running_mean" in start
    files = sorted(path.stem for path in (tmp_path / "run/context").glob("*/*.safetensors"))
    assert files == ([] if "running" in name else [v.name for v in open_source(config.data).videos])


def test_a_batch_carries_the_prototypes_of_its_videos(tmp_path: Path, trained_cffm) -> None:
    config = plus_with(trained_cffm, "data.sampling=videos", "data.base_size=[32, 24]")
    dataset = open_source(config.data)
    model = build_model(config, dataset).eval()
    saved = training_contexts(config, dataset, model, tmp_path)
    saved.fill(model, dataset)
    samples = training_samples(dataset, config, model, None, saved)
    for number in range(3):
        video = samples.snippet(number).video
        frames = [dataset.read_frame(video.frames[t]) for t in model.context_frames(12)]
        seen = model.card.fit(model.card.normalise(np.stack(frames)), (24, 32))
        expected = model.summarize(seen[None]).centers[0]
        assert torch.equal(samples[number]["context"], expected)
    batch = torch.utils.data.default_collate([samples[n] for n in range(2)])
    loss = TrainingStep(model.train(), config.loss)({k: v for k, v in batch.items() if k != "name"})
    segmentation, _ = model(
        batch["frames"], readout="last", context=vidseg.Prototypes(batch["context"])
    )
    assert set(loss) == {"loss", "main"}
    assert loss["loss"].requires_grad
    assert segmentation.aux == {}


def test_contexts_are_found_once_for_one_set_of_weights(tmp_path, trained_cffm, caplog) -> None:
    shared = f"data.context={tmp_path / 'shared'}"
    counting = Counting()
    words = ("iterations=1", "schedule.power=0", "optimiser.lr=0.01")
    first = plus_with(trained_cffm, shared, *words)
    train(first, tmp_path / "one", progress=counting)
    assert counting.steps == [(1, 2), (2, 2)]
    files = sorted((tmp_path / "shared").rglob("*.safetensors"))
    before = {file: file.stat().st_mtime_ns for file in files}
    files[0].unlink()  # as if the run had been killed before it
    counting.steps.clear()
    # The branch has changed when the run goes on, and its seed; what the prototypes see has not.
    longer = plus_with(trained_cffm, shared, *words, "iterations=2", "seed=3")
    train(longer, tmp_path / "one", resume=True, progress=counting)
    assert counting.steps == [(1, 1)]
    assert sorted((tmp_path / "shared").rglob("*.safetensors")) == files
    assert files[1].stat().st_mtime_ns == before[files[1]]
    dataset = open_source(first.data)
    model = build_model(first, dataset)
    kept = training_contexts(first, dataset, model, tmp_path)
    assert kept.folder == files[0].parent
    for other in ("data.base_size=[32, 24]", "data.options.seed=1", "data.split=val"):
        config = plus_with(trained_cffm, shared, other)
        assert training_contexts(config, open_source(config.data), model, tmp_path) != kept
    model.get_parameter("decoder.fusion.conv.weight").data[0, 0] += 1
    assert training_contexts(first, dataset, model, tmp_path) != kept


VALIDATED = "validation={every: 1, kind: synthetic, split: val, limit: 3, samples: 0}"


def test_validations_look_at_whole_videos_once(tmp_path, trained_cffm, monkeypatch):
    """The weights that find the prototypes are not trained, so what they find stays."""
    config = plus_with(trained_cffm, VALIDATED, "optimiser.lr=0.01", "ema=0.5")
    found: list[str] = []
    summarize = CFFMPlus.summarize
    monkeypatch.setattr(
        CFFMPlus,
        "summarize",
        lambda self, video, **given: found.append(given["name"]) or summarize(self, video, **given),
    )
    train(config, tmp_path / "kept")
    assert len(found) == 4  # two videos to train on, two to validate on
    scores = [r["mean_iou"] for r in read_metrics(tmp_path / "kept") if "mean_iou" in r]
    monkeypatch.setattr(loop, "validation_contexts", lambda *_: None)
    train(config, tmp_path / "anew")
    assert len(found) == 4 + 2 + 2 * 2
    assert scores == [r["mean_iou"] for r in read_metrics(tmp_path / "anew") if "mean_iou" in r]


def test_the_authors_prototypes_are_read(tmp_path: Path, trained_cffm) -> None:
    theirs = tmp_path / "cluster_centers"
    config = plus_with(trained_cffm, f"data.context={theirs}", VALIDATED)
    dataset, held = open_source(config.data), open_source(config.validation_source())
    model = build_model(config, dataset)
    generator = torch.Generator().manual_seed(0)
    for video in dataset.videos:
        (theirs / video.name).mkdir(parents=True)
        centers = torch.rand(1, 6, 16, generator=generator)
        torch.save(centers, theirs / video.name / "centers.pt")
    saved = training_contexts(config, dataset, model, tmp_path / "run")
    saved.fill(model, dataset)
    assert torch.equal(saved(dataset.videos[-1]), centers[0])
    train(config, tmp_path / "run")  # rendered videos have the same names in all splits
    assert sorted(path.name for path in theirs.iterdir()) == [v.name for v in dataset.videos]
    assert not (tmp_path / "run" / "context").exists()
    held.videos = tuple(replace(video, name=f"val_{video.name}") for video in held.videos)
    # None of these: they are found, and not put among the authors'.
    others = validation_contexts(config, held, model, tmp_path / "run")
    assert others.folder.parent == tmp_path / "run" / "context"
    (theirs / held.videos[0].name).mkdir()
    torch.save(centers, theirs / held.videos[0].name / "centers.pt")
    with pytest.raises(FileNotFoundError, match=rf"no context of the video {held.videos[1].name}"):
        validation_contexts(config, held, model, tmp_path / "run")
    torch.save(centers[:, :5], theirs / dataset.videos[1].name / "centers.pt")
    with pytest.raises(ValueError, match=r"\(5, 16\) for .* and of \(6, 16\) for .* one shape"):
        training_contexts(config, dataset, model, tmp_path / "run")
    shutil.rmtree(theirs / dataset.videos[0].name)
    with pytest.raises(FileNotFoundError, match=r"without that folder .* data\.context"):
        training_contexts(config, dataset, model, tmp_path / "run")


def test_cffmpp_without_a_trained_cffm_is_refused() -> None:
    config = config_with(*PLUS)
    with pytest.raises(ValueError, match="stay at their random start, such as backbone"):
        build_model(config, open_source(config.data))

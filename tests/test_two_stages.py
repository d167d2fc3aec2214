"""Training a video model on top of an image model: schedules, frozen parts, weights, windows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import small_runs
import torch
from command_line import run
from PIL import Image
from torch import nn

import vidseg
from vidseg.data import TrainTransform, open_dataset
from vidseg.data.balance import class_weights, count_pixels
from vidseg.data.placement import Placement
from vidseg.evaluation.datasets import evaluate
from vidseg.training.checkpoint import read_state
from vidseg.training.folder import read_metrics
from vidseg.training.loop import train
from vidseg.training.optimiser import frozen_parts, make_optimiser
from vidseg.training.recipe import dump, load_config, recipes
from vidseg.training.samples import open_source, training_snippets
from vidseg.training.schedule import Plateau
from vidseg.training.step import build_model

LMANET = "model={name: lmanet_tiny}"


config_with = partial(
    small_runs.config_with,
    model={"name": "erfnet_tiny"},
    optimiser={"kind": "adam", "lr": 1e-3, "weight_decay": 1e-4},
    checkpoint={"every": 4},
)


# --- schedule and optimiser -----------------------------------------------------------------------


def test_the_plateau_is_that_of_torch() -> None:
    """LMANet's specification, section 9: factor 0.8, patience 10; here shorter, and a floor."""
    parameter = nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([parameter], lr=0.5)
    options = {"factor": 0.8, "patience": 2, "threshold": 1e-2}
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimiser, min_lr=0.3, **options)
    ours = Plateau(base=0.5, samples=4, batch_size=2, floor=0.3, **options)
    losses = np.random.default_rng(0).uniform(0.9, 1.1, (40, 2))
    rates = []
    for epoch, pair in enumerate(losses):
        for part, loss in enumerate(pair):
            ours.note(2 * epoch + part, float(loss))
        optimiser.step()
        theirs.step(pair.mean())
        rates.append(ours.rate(2 * epoch + 2))
        assert rates[-1] == pytest.approx(optimiser.param_groups[0]["lr"], rel=1e-12)
    assert len(set(rates)) > 3
    assert rates[-1] == 0.3


def test_a_plateau_resumes_in_mid_epoch_to_the_same_bits(tmp_path: Path) -> None:
    """6 samples, 4 a step: the checkpoint at step 4 is in the middle of an epoch."""
    words = ["schedule.plateau={factor: 0.5, patience: 0, threshold: 0.9}", "iterations=8"]
    words += ["data.crop=[16, 16]"]
    train(config_with(*words), tmp_path / "straight")
    train(config_with(*words, "iterations=4"), tmp_path / "resumed")
    train(config_with(*words), tmp_path / "resumed", resume=True)
    states = [
        read_state(tmp_path / run / "checkpoints/step-00000008.pt")
        for run in ("straight", "resumed")
    ]
    assert states[0]["schedule"] == states[1]["schedule"]
    assert all(torch.equal(v, states[1]["model"][k]) for k, v in states[0]["model"].items())
    rates = [r["lr"] for r in read_metrics(tmp_path / "straight") if "lr" in r]
    assert rates == [r["lr"] for r in read_metrics(tmp_path / "resumed") if "lr" in r]
    assert rates[-1] < rates[0] == 1e-3


RANKS = """
import json, os, sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")
from vidseg.training import loop
from vidseg.training.recipe import load_config
kept, make = [], loop.make_schedule
loop.make_schedule = lambda *options: kept.append(make(*options)) or kept[0]
folder = Path(sys.argv[1])
loop.train(load_config(folder / "tiny.yaml"), folder / "run")
(folder / f"rank{os.environ['RANK']}.json").write_text(json.dumps([kept[0].state, kept[0].rate(8)]))
"""


@pytest.mark.slow
def test_all_processes_keep_one_rate(tmp_path: Path) -> None:
    """Theirs lets each process follow its own loss."""
    config = config_with(
        "schedule.plateau={factor: 0.5, patience: 0, threshold: 0.9}", "iterations=8"
    )
    (tmp_path / "tiny.yaml").write_text(dump(config))
    (tmp_path / "run.py").write_text(RANKS)
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    subprocess.run(
        [sys.executable, *launcher, str(tmp_path / "run.py"), str(tmp_path)],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True, timeout=240,
    )  # fmt: skip
    one, other = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert one == other
    assert one[1] < config.optimiser.lr


def test_adam_has_its_decay_in_the_gradient() -> None:
    """With no gradient of its own Adam's L2 penalty moves a weight by the rate, AdamW's shrinks."""
    parameter = nn.Parameter(torch.ones(1))
    parameter.grad = torch.zeros(1)
    config = config_with().optimiser
    groups = [{"params": [parameter], "weight_decay": 1e-4}]
    make_optimiser(groups, config).step()
    assert parameter.item() == pytest.approx(1 - 1e-3, abs=1e-5)


# --- frozen parts ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(config_with(), tmp_path_factory.mktemp("host")).weights


@pytest.mark.parametrize("keep", ["weights", "weights+statistics"])
def test_the_second_stage_leaves_the_host_as_it_is(keep: str, host: Path, tmp_path: Path) -> None:
    words = [f"model.initial_weights={host}", f"freeze={{keep: {keep}}}", "optimiser.lr=0.1"]
    trained = train(config_with(LMANET, *words), tmp_path).model
    before = vidseg.load(host).state_dict()
    changed = {
        name
        for name, value in trained.state_dict().items()
        if name in before and not torch.equal(value, before[name])
    }
    kinds = {name.rsplit(".", 1)[1] for name in changed}
    statistics = {"running_mean", "running_var", "num_batches_tracked"}
    assert kinds == (statistics if keep == "weights" else set())
    attention = build_model(config_with(LMANET), open_source(config_with().data)).attention
    assert all(
        not torch.equal(ours, theirs)
        for ours, theirs in zip(trained.attention.parameters(), attention.parameters(), strict=True)
        if ours.dim() > 1
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["freeze.parts=[backbones]"], "has no part 'backbones'; there are backbone, decoder"),
        (["freeze={}"], "ERFNet has no host that freeze could mean; name the modules"),
        (["freeze.parts=[backbone, decoder, auxiliary_head]"], "leaves nothing to train"),
        (["freeze.parts=[backbone]"], "would stay at their random start, such as backbone"),
        ([LMANET, "freeze={}"], "would stay .* give the weights as model.initial_weights"),
    ],
)
def test_what_cannot_be_frozen(words: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        train(config_with(*words), tmp_path)


def test_the_host_of_a_local_memory_by_name() -> None:
    model = vidseg.create("lmanet_tiny", num_classes=3)
    assert model.training_needs().host_parts == ("backbone", "decoder")
    with torch.device("meta"):
        pyramid = vidseg.create("lmanet_pspnet50", num_classes=3)
    assert pyramid.training_needs().host_parts == ("backbone", "ppm", "cls")


def test_a_local_memory_of_ones_own_is_trained_and_resumed(host: Path, tmp_path: Path) -> None:
    def make() -> vidseg.LocalMemory:
        torch.manual_seed(3)
        return vidseg.LocalMemory(vidseg.load(host), memory_frames=1, key_channels=4, window=3)

    words = ["optimiser.lr=0.01", "checkpoint.every=1", "ema=0.5"]
    trained = train(config_with(*words), tmp_path / "straight", model=make())
    train(config_with(*words, "iterations=1"), tmp_path / "resumed", model=make())
    again = train(config_with(*words), tmp_path / "resumed", model=make(), resume=True).model
    start = make().state_dict()
    for name, value in trained.model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
        assert not name.startswith("host.") or torch.equal(value, start[name])
    assert not torch.equal(
        trained.model.state_dict()["attention.query_encoder.conv.weight"],
        start["attention.query_encoder.conv.weight"],
    )
    with pytest.raises(ValueError, match=r"that vidseg.create did not make; make it, then"):
        vidseg.load(trained.weights)
    tensors, card = vidseg.weights.load_file(trained.weights)
    make().load_state_dict(tensors)
    assert card.classes == tuple(open_source(config_with().data).classes)
    few = vidseg.LocalMemory(vidseg.create("erfnet_tiny", num_classes=2), window=3)
    with pytest.raises(ValueError, match="the model has 2 classes, synthetic"):
        train(config_with(), tmp_path / "few", model=few)


# --- void -----------------------------------------------------------------------------------------


def test_void_is_a_last_class_that_no_label_has(tmp_path: Path) -> None:
    dataset = open_source(config_with().data)
    words = ["model.void=true", "validation={every: 2, split: val, samples: 0}"]
    trained = train(config_with(*words), tmp_path)
    assert trained.model.num_classes == dataset.num_classes + 1
    assert trained.model.card.classes == (*dataset.classes, "void")
    assert 0 <= trained.figures["mean_iou"] <= 1
    nn.init.constant_(trained.model.decoder.output_conv.bias, -1e3)
    with torch.no_grad():
        trained.model.decoder.output_conv.bias[-1] = 0
    found = evaluate(trained.model, dataset)
    assert found.pixel_accuracy == 0
    assert found.conventions["void_labels"].endswith("a miss of the true class")
    counts = next(iter(found.videos.values())).confusion.counts
    assert counts[:, -1].sum() == counts.sum()
    shares = ["model.void=true", f"loss.class_weights={[1.0] * dataset.num_classes}"]
    with pytest.raises(ValueError, match=f"{dataset.num_classes + 1} classes of .* and void"):
        train(config_with(*shares), tmp_path / "other")


# --- class weights --------------------------------------------------------------------------------


def test_class_weights_are_the_published_ones() -> None:
    """LMANet's specification, section 9: road has a share of 0.3265 and the weight 2.8149."""
    pixels = np.array([3265, 0, 6735 - 1000, 1000])
    assert class_weights(pixels)[0] == pytest.approx(2.8149, abs=2e-3)
    assert class_weights(pixels, constant=1.2)[0] == pytest.approx(2.3654, abs=2e-3)
    with pytest.raises(ValueError, match="constant must be above 1, got 1"):
        class_weights(pixels, constant=1)
    with pytest.raises(ValueError, match="no pixel"):
        class_weights(pixels * 0)


def test_the_command_counts_the_labels(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for i, label in enumerate(([[0, 0], [3, 11]], [[3, 3], [3, 11]])):
        for folder in ("train", "trainannot"):
            (tmp_path / folder).mkdir(exist_ok=True)
            stem = tmp_path / folder / f"0006R0_f{30 * i:05d}.png"
            Image.fromarray(np.array(label, np.uint8)).convert(
                "L" if folder == "trainannot" else "RGB"
            ).save(stem)
    assert run("data", "weights", "camvid", tmp_path) == 0
    out = capsys.readouterr().out
    assert "ignored" in out
    word = out.splitlines()[-1]
    found = config_with("data.options={}", word).loss.class_weights
    expected = np.full(11, 1 / np.log(1.1))
    expected[[0, 3]] = 1 / np.log(1.1 + np.array([2 / 8, 4 / 8]))
    np.testing.assert_allclose(found, expected, atol=1e-4)
    pixels = count_pixels(open_dataset("camvid", tmp_path, "train"))
    assert pixels[[0, 3, 11]].tolist() == [2, 4, 2]


# --- samples --------------------------------------------------------------------------------------


def test_shifted_clips_ignore_what_was_bared() -> None:
    """Red and green hold a pixel's place, so each pixel of the crop says where it came from."""
    rows, columns = np.indices((20, 30))
    frame = np.stack([rows + 1, columns + 1, rows * 0 + 1], -1).astype(np.uint8)
    label = (rows * 7 + columns).astype(np.uint8) % 200
    plain = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0), "max_class_share": 1.0}
    transform = TrainTransform(
        (20, 30), scale=(1.0, 1.0), flip=0.5, photometric="none", translate_px=2, **plain
    )
    steps = set()
    for seed in range(60):
        clip, target, placement = transform.place([frame] * 2, label, np.random.default_rng(seed))
        image = clip[1].permute(1, 2, 0).numpy().astype(int)
        bare = image[..., 2] == 0
        assert torch.equal(clip[0], clip[1])
        assert (target.numpy()[bare] == 255).all()
        assert (
            target.numpy()[~bare] == label[image[~bare][:, 0] - 1, image[~bare][:, 1] - 1]
        ).all()
        steps.add(
            (int(placement.matrix[0, 2]) * int(placement.matrix[0, 0]), placement.matrix[1, 2])
        )
        y, x = np.argwhere(~bare)[0]
        found = placement.matrix @ (x, y, 1)
        assert found[:2].tolist() == [image[y, x, 1] - 1, image[y, x, 0] - 1]
    assert {down for _, down in steps} == {-2, -1, 0, 1, 2}
    assert isinstance(placement, Placement)
    with pytest.raises(ValueError, match="translate_px must be 0 or more, got -1"):
        TrainTransform((8, 8), translate_px=-1)


@pytest.mark.parametrize(
    ("memory", "windows"),
    [
        ("window", {(0, 1, 2), (1, 2, 3), (2, 3, 4)}),
        ("{every: 2, start: skip}", {(0, 2, 4)}),
        ("{every: 2}", {(0, 0, 0), (0, 0, 1), (0, 0, 2), (0, 1, 3), (0, 2, 4)}),
        ("{drawn_within: 1, frames: 1, start: skip}", {(0, 1), (1, 2), (2, 3), (3, 4)}),
    ],
)
def test_windows_of_a_local_memory(memory: str, windows: set) -> None:
    """lmanet_tiny remembers 2 frames; its own window drops those before the video."""
    words = [
        LMANET,
        f"data.memory={memory}",
        "data.options.num_videos=1",
        "data.options.num_frames=5",
    ]
    config = config_with(*words)
    dataset = open_source(config.data)
    found = training_snippets(dataset, config.data, build_model(config, dataset), seed=0)
    assert {snippet.frame_indices for snippet in found} == windows


@pytest.mark.parametrize("memory", ["window", "skip", "{every: 2, start: skip}"])
def test_videos_shorter_than_the_window_are_refused(memory: str) -> None:
    words = [LMANET, f"data.memory={memory}", "data.options.num_frames=2"]
    config = config_with(*words)
    dataset = open_source(config.data)
    with pytest.raises(ValueError, match=r"has the 2 frames before it|the window left all out"):
        training_snippets(dataset, config.data, build_model(config, dataset), seed=0)


def test_a_shorter_window_trains(host: Path, tmp_path: Path) -> None:
    """The authors' random strategy: one frame less than the memory holds."""
    words = [f"model.initial_weights={host}", "freeze={}", "data.translate_px=2"]
    memory = "data.memory={drawn_within: 2, frames: 1}"
    trained = train(config_with(LMANET, *words, memory), tmp_path)
    assert trained.model.memory_frames == 2
    assert len(read_metrics(tmp_path)) == 2


@pytest.mark.parametrize("memory", ["{}", "{every: 2, drawn_within: 3}"])
def test_memory_frames_are_chosen_in_one_way(memory: str) -> None:
    with pytest.raises(ValueError, match=r"data\.memory.*by drawn_within or by gap_within"):
        config_with(f"data.memory={memory}")


# --- recipes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in recipes() if load_config(name).freeze])
def test_the_first_stage_of_a_recipe_gives_all_that_the_second_keeps(name: str) -> None:
    config = load_config(name)
    first = load_config(Path(config.model.initial_weights or "").parent.name)
    with torch.device("meta"):
        host, model = (
            vidseg.create(spec.name, num_classes=3, **spec.options)
            for spec in (first.model, config.model)
        )
    shapes = {name: value.shape for name, value in host.state_dict().items()}
    assert config.freeze is not None
    parts = frozen_parts(model, config.freeze)
    kept = [k for k in model.state_dict() if k.startswith(tuple(f"{p}." for p in parts))]
    assert {k: shapes.get(k) for k in kept} == {k: model.state_dict()[k].shape for k in kept}
    host = model.training_needs().host_parts
    if host:  # a local memory, whose authors weight the classes
        assert config.freeze.parts == parts == host
        assert config.loss.class_weights is not None
        assert all(model.card.next_side(side) == side for side in config.data.crop)
    else:
        assert set(kept) == {k for k in model.state_dict() if k in shapes}
    assert config.data.kind == first.data.kind

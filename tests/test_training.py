"""Training: the schedule, the samples of a step, the optimiser's groups, and whole small runs."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from command_line import run
from small_runs import VALUES, config_with
from torch import nn

import vidseg
import vidseg.losses.criterion as criterion_module
import vidseg.training.devices as devices_module
import vidseg.training.loop as loop_module
from vidseg.training.config import OptimiserConfig
from vidseg.training.folder import Metrics, read_metrics
from vidseg.training.loading import StepSampler
from vidseg.training.loop import NonFiniteLoss, train
from vidseg.training.optimiser import (
    average_decay,
    open_average,
    parameter_groups,
    set_training,
)
from vidseg.training.recipe import load_config
from vidseg.training.samples import open_source, training_snippets, window_fps
from vidseg.training.schedule import polynomial_rate
from vidseg.training.step import build_model, draw_seed

# --- the schedule ---------------------------------------------------------------------------------


def test_the_official_schedule_at_every_iteration() -> None:
    """lr(i) = (0.01 - 1e-4) (1 - i / 80000)^0.9 + 1e-4."""
    steps = np.arange(80_000)
    expected = (0.01 - 1e-4) * (1 - steps / 80_000) ** 0.9 + 1e-4
    rates = [polynomial_rate(int(i), base=0.01, iterations=80_000, floor=1e-4) for i in steps]
    np.testing.assert_allclose(rates, expected, rtol=1e-12)
    assert polynomial_rate(80_000, base=0.01, iterations=80_000, floor=1e-4) == 1e-4


def test_the_warm_up_grows_linearly_into_the_schedule() -> None:
    options = {"base": 1.0, "iterations": 100, "power": 0.0, "warmup_iterations": 10}
    rates = [polynomial_rate(i, **options, warmup_start=0.2) for i in range(12)]
    np.testing.assert_allclose(rates[:10], 0.2 + 0.8 * np.arange(10) / 10)
    assert rates[10:] == [1.0, 1.0]


def test_the_schedule_of_cffm() -> None:
    """Linear from 1e-6 over 1,500 steps, times a straight line to 0 over all 160,000."""
    steps = np.arange(160_000)
    factor = 1 - np.clip(1 - steps / 1500, 0, None) * (1 - 1e-6)
    expected = 6e-5 * (1 - steps / 160_000) * factor
    options = {"base": 6e-5, "iterations": 160_000, "power": 1.0}
    warm_up = {"warmup_iterations": 1500, "warmup_start": 1e-6}
    rates = [polynomial_rate(int(i), **options, **warm_up) for i in steps]
    np.testing.assert_allclose(rates, expected, rtol=1e-9)
    assert rates[0] == pytest.approx(6e-11, rel=1e-12)


# --- which samples --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("crop", "sizes"),
    [([30, 44], r"\[24, 40\] and \[32, 48\]"), ([4, 48], r"are \[8, 48\]$")],
)
def test_a_crop_that_the_model_does_not_take_is_refused_first(tmp_path, crop, sizes) -> None:
    config = config_with("model={name: lmanet_tiny}", f"data.crop={crop}")
    message = rf"data\.crop=.* multiples of 8, got {crop[0]}x{crop[1]}.*; the next sizes.* {sizes}"
    with pytest.raises(ValueError, match=message):
        train(config, tmp_path / "run")
    assert not list(tmp_path.glob("run/metrics*"))
    # MiT's authors stretch to multiples of 32, and it takes any size.
    preferred = config_with("model={name: segformer_tiny}", "data.crop=[30, 44]")
    assert build_model(preferred, open_source(preferred.data)).card.size_multiple == 32


@pytest.mark.parametrize(("world", "accumulate"), [(1, 1), (2, 1), (4, 1), (1, 3), (2, 2)])
def test_a_step_has_the_same_samples_on_any_number_of_processes(world, accumulate) -> None:
    parts = [list(StepSampler(3, 6, 12, accumulate, rank, world)) for rank in range(world)]
    each = 12 // (world * accumulate)
    assert all(len(batch) == each for part in parts for batch in part)
    for step in range(3):
        batches = slice(step * accumulate, (step + 1) * accumulate)
        numbers = sorted(n for part in parts for batch in part[batches] for n in batch)
        assert numbers == list(range((3 + step) * 12, (4 + step) * 12))


def test_a_resumed_sampler_goes_on_in_the_same_order() -> None:
    whole = list(StepSampler(0, 10, 8, 2, rank=1, world=2))
    assert list(StepSampler(4, 10, 8, 2, rank=1, world=2)) == whole[8:]


def test_a_batch_that_does_not_divide_says_so() -> None:
    with pytest.raises(ValueError, match=r"batch_size=8 .* multiple of 3 processes"):
        StepSampler(0, 1, 8, world=3)


def test_the_seed_of_a_step_depends_on_all_it_should() -> None:
    seeds = {draw_seed(*numbers) for numbers in np.ndindex(2, 5, 3, 2)}
    assert len(seeds) == 60
    assert draw_seed(1, 2, 3, 4) == draw_seed(1, 2, 3, 4)


def test_memory_frames_come_from_the_window_or_are_drawn() -> None:
    config = config_with("model={name: tmanet_tiny, options: {memory_frames: 2}}")
    dataset = open_source(config.data)
    model = build_model(config, dataset)
    window = training_snippets(dataset, config.data, model, seed=0)
    assert [s.frame_indices for s in window[:3]] == [(0, 0, 0), (0, 0, 1), (0, 1, 2)]
    skipping = config_with("data.memory=skip").data
    assert {s.frame_indices for s in training_snippets(dataset, skipping, model, 0)} == {(0, 1, 2)}
    drawn = config_with("data.memory={drawn_within: 2, start: skip}").data
    assert {s.frame_indices for s in training_snippets(dataset, drawn, model, 0)} == {(0, 1, 2)}
    assert window_fps(window) == 15


# --- optimiser ------------------------------------------------------------------------------------


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.head = nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))


def test_the_official_recipe_has_one_group() -> None:
    module = nn.ModuleDict({"model": Toy()})
    groups, names = parameter_groups(module, OptimiserConfig.model_validate({}))
    assert [(len(g["params"]), g["multiplier"], g["weight_decay"]) for g in groups] == [
        (8, 1, 5e-4)
    ]
    assert sorted(names) == sorted(name for name, _ in module.named_parameters())


def groups_of(model: nn.Module, **values: object) -> dict[str, tuple[float, float]]:
    """Name of a parameter -> its multiplier and its decay."""
    module = nn.ModuleDict({"model": model})
    groups, names = parameter_groups(module, OptimiserConfig.model_validate(values))
    found = {}
    order = iter(names)
    for group in groups:
        for parameter in group["params"]:
            name = next(order)
            assert parameter is dict(module.named_parameters())[name]
            found[name] = group["multiplier"], group["weight_decay"]
    return found


def test_groups_by_rate_and_decay() -> None:
    found = groups_of(Toy(), head_multiplier=10, decay="weights", weight_decay=0.1)
    assert found == {
        "model.backbone.0.weight": (1, 0.1),
        "model.backbone.0.bias": (1, 0),
        "model.backbone.1.weight": (1, 0),
        "model.backbone.1.bias": (1, 0),
        "model.head.0.weight": (10, 0),
        "model.head.0.bias": (10, 0),
        "model.head.1.weight": (10, 0.1),
        "model.head.1.bias": (10, 0),
    }


@pytest.mark.parametrize(
    ("decay", "spared"),
    [
        ("all", set()),
        ("not-norms", {"backbone.1.weight", "backbone.1.bias", "head.0.weight", "head.0.bias"}),
        ("not-backbone-norms", {"backbone.1.weight", "backbone.1.bias"}),
    ],
)
def test_what_is_not_decayed(decay: str, spared: set[str]) -> None:
    found = groups_of(Toy(), decay=decay, weight_decay=0.1)
    assert {name.removeprefix("model.") for name, (_, d) in found.items() if not d} == spared


def test_cffm_decays_the_norms_of_its_head_alone() -> None:
    """In its authors' rules "head" wins over "norm"; biases are decayed everywhere."""
    model = vidseg.create("cffm_tiny", num_classes=3)
    found = groups_of(model, decay="not-backbone-norms", weight_decay=0.01, head_multiplier=10)
    for name, (multiplier, decay) in found.items():
        in_backbone = name.startswith("model.backbone.")
        assert multiplier == (1 if in_backbone else 10), name
        assert decay == (0 if in_backbone and "norm" in name else 0.01), name
    assert found["model.blocks.0.norm1.weight"] == (10, 0.01)
    assert found["model.backbone.patch_embed1.norm.bias"] == (1, 0)


@pytest.mark.parametrize(
    ("freeze", "training"),
    [("none", (True, True)), ("backbone", (False, True)), ("all", (False, False))],
)
def test_frozen_batch_norms_keep_their_statistics(freeze, training) -> None:
    model = Toy().eval()
    set_training(model, freeze)
    assert (model.backbone[1].training, model.head[0].training) == training
    assert model.head.training


def test_the_average_is_a_running_mean_of_weights_and_statistics() -> None:
    model = Toy()
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    averaged = open_average(model, 0.5)
    for step in range(12):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        model.backbone[1].running_var.mul_(1.1)
        model.backbone[1].num_batches_tracked.add_(1)
        averaged.update_parameters(model)
        decay = min(0.5, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            floats = value.is_floating_point()
            expected[name] = torch.lerp(expected[name], value, 1 - decay) if floats else value
    found = averaged.module.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert found["backbone.1.num_batches_tracked"] == 12
    assert not any(parameter.requires_grad for parameter in averaged.module.parameters())


def test_the_average_forgets_the_start() -> None:
    assert average_decay(0, 0.999) == 0.1
    assert average_decay(10**6, 0.999) == 0.999


# --- runs -----------------------------------------------------------------------------------------


def test_a_run_writes_its_folder_and_learns(tmp_path: Path) -> None:
    records: list[dict] = []
    config = config_with(
        "model={name: tmanet_tiny, options: {memory_frames: 2}}",
        "validation={every: 6, samples: 1}",
        "validation.options={num_videos: 1, num_frames: 2, size: [48, 64]}",
        "iterations=12", "trackers=[tensorboard]", "checkpoint.every=6", "optimiser.lr=0.1",
    )  # fmt: skip
    done = train(config, tmp_path / "run", report=records.append)
    losses = [record["loss"] for record in records if "loss" in record]
    assert len(losses) == 12
    assert np.mean(losses[-4:]) < 0.8 * losses[0]
    first = next(record for record in records if "loss" in record)
    assert first["loss"] == pytest.approx(first["main"] + 0.4 * first["auxiliary"], rel=1e-6)
    run = tmp_path / "run"
    names = {path.name for path in run.iterdir()}
    assert names >= {
        "config.yaml", "environment.json", "metrics.jsonl", "metrics.csv", "tensorboard",
        "samples", "checkpoints", "best.safetensors", "last.safetensors",
    }  # fmt: skip
    assert "run.lock" not in names
    assert json.loads((run / "environment.json").read_text())["packages"]["torch"]
    assert [r["step"] for r in read_metrics(run) if "mean_iou" in r] == [6, 12]
    with (run / "metrics.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)][:2] == ["1", "2"]
    assert sorted(p.name for p in (run / "samples").iterdir()) == [
        "step-00000006-0000.png",
        "step-00000012-0000.png",
    ]
    assert done.weights == run / "best.safetensors"

    from vidseg import methods

    model = methods.load(done.weights)
    assert model.card.classes == open_source(config.data).classes
    assert model.card.fps == 15
    assert model.card.figures["mean_iou"] == done.figures["mean_iou"]


def write_camvid(root: Path) -> None:
    """The authors' layout: raw frames, of which every fifth is labelled; value 0 is void."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for part in ("images", "images_sequence", "labels", "annotations"):
        (root / part).mkdir(parents=True)
    stems = {n: f"0016E5_{n:05d}" for n in range(1, 11)}
    for n, stem in stems.items():
        image = Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8))
        image.save(root / "images_sequence" / f"{stem}.png")
        if n % 5 == 0:
            image.save(root / "images" / f"{stem}.png")
            labels = rng.integers(0, 12, (48, 64), dtype=np.uint8)
            Image.fromarray(labels).save(root / "labels" / f"{stem}_L.png")
    (root / "annotations/train.txt").write_text(f"{stems[5]}\n{stems[10]}\n")
    (root / "annotations/val.txt").write_text(f"{stems[10]}\n")


def test_the_official_recipe_runs_small(tmp_path: Path) -> None:
    """Everything but the sizes is the recipe's: void as a class, sliding windows, the loss."""
    write_camvid(tmp_path / "camvid")
    config = load_config(
        "tmanet_r50_camvid",
        [
            "model.name=tmanet_tiny", "model.backbone_weights=null",
            f"data.root={tmp_path / 'camvid'}", "data.base_size=[64, 48]", "data.crop=[40, 40]",
            "validation.sliding=[[40, 40], [32, 32]]", "iterations=2", "batch_size=2", "workers=0",
        ],
    )  # fmt: skip
    done = train(config, tmp_path / "run")
    assert done.model.num_classes == 12
    assert done.model.frame_statistics
    assert done.model.window_length == 5
    assert done.model.card.classes[0] == "void"
    assert done.model.card.fps == 30
    # Each position's encoder, and the backbone once a frame, in each of two steps.
    assert int(done.model.head.memory_key[3][0].bn.num_batches_tracked) == 2
    assert int(done.model.backbone.stem[1].num_batches_tracked) == 2 * 5
    assert {key for key in done.figures if key.startswith("iou/")} >= {"iou/void", "iou/car"}
    steps = [record for record in read_metrics(tmp_path / "run") if "loss" in record]
    assert steps[-1]["step"] == 2


def test_trackers_get_the_name_of_the_run(tmp_path: Path) -> None:
    train(config_with("name=mine", "trackers=[tensorboard]", "iterations=1"), tmp_path / "run")
    assert list((tmp_path / "run/tensorboard/mine").glob("events.*"))


def test_trackers_that_would_be_passed_over_are_refused(tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(
        ValueError, match="unknown tracker 'tensorbord'; did you mean 'tensorboard'"
    ):
        train(config_with("trackers=[tensorbord]"), tmp_path / "run")
    monkeypatch.setattr(devices_module, "get_available_trackers", list)
    with pytest.raises(ValueError, match="'tensorboard' needs its package, which is not installed"):
        train(config_with("trackers=[tensorboard]"), tmp_path / "run")


def test_records_are_strict_json(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path, step=0)
    metrics.add({"step": 1, "iou/train": float("nan"), "gradient_norm": float("inf"), "loss": 0.5})
    assert read_metrics(tmp_path) == [
        {"step": 1, "iou/train": None, "gradient_norm": None, "loss": 0.5}
    ]
    metrics.write_csv()
    assert (tmp_path / "metrics.csv").read_text().splitlines()[1] == "1,,,0.5"


def test_accumulated_batches_take_the_step_of_the_whole_batch(tmp_path: Path) -> None:
    # Batch norm would see other statistics, dropout other draws, the mean of means other pixels.
    still = ("freeze_bn=all", "model.options={dropout: 0.0}", "loss.average=all")
    whole = train(config_with(*still), tmp_path / "whole").model.state_dict()
    parts = train(config_with(*still, "accumulate=2"), tmp_path / "parts").model.state_dict()
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name], rtol=1e-3, atol=1e-5)


def test_averaged_weights_are_what_is_kept(tmp_path: Path) -> None:
    plain = train(config_with(), tmp_path / "plain")
    averaged = train(config_with("ema=0.5"), tmp_path / "averaged")
    name = "head.classifier.conv_seg.weight"
    assert not torch.equal(plain.model.state_dict()[name], averaged.model.state_dict()[name])
    state = torch.load(tmp_path / "averaged/checkpoints/step-00000002.pt", weights_only=True)
    assert torch.equal(state["model"][name], plain.model.state_dict()[name])
    assert torch.equal(state["averaged"][name], averaged.model.state_dict()[name])


def test_the_best_weights_stay_when_later_ones_are_worse(tmp_path: Path, monkeypatch) -> None:
    from vidseg.weights import load_file

    scores = iter([0.2, 0.5, 0.3])
    monkeypatch.setattr(loop_module, "validate", lambda *_: {"mean_iou": next(scores)})
    overrides = ("iterations=2", "validation.every=1", "checkpoint.every=1")
    train(config_with(*overrides), tmp_path / "run")
    done = train(config_with(*overrides, "iterations=3"), tmp_path / "run", resume=True)
    assert done.weights.name == "best.safetensors"
    assert done.figures == {"step": 2, "mean_iou": 0.5}
    name = "head.classifier.conv_seg.weight"
    state = torch.load(tmp_path / "run/checkpoints/step-00000002.pt", weights_only=True)
    assert torch.equal(load_file(done.weights)[0][name], state["model"][name])
    last, _ = load_file(tmp_path / "run/last.safetensors")
    assert torch.equal(last[name], done.model.state_dict()[name])
    assert not torch.equal(last[name], state["model"][name])


def test_bf16_stays_close_to_fp32(tmp_path: Path) -> None:
    losses = {}
    for precision in ("fp32", "bf16"):
        train(config_with(f"precision={precision}"), tmp_path / precision)
        losses[precision] = [record["loss"] for record in read_metrics(tmp_path / precision)]
    assert losses["bf16"] != losses["fp32"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.03)


def test_fp16_without_a_gpu_is_refused(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ValueError, match="needs a GPU; use bf16 or fp32"):
        train(config_with("precision=fp16"), tmp_path / "run")


def test_what_is_unsafe_on_a_cpu_is_refused(tmp_path: Path, monkeypatch) -> None:
    if torch.accelerator.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ValueError, match="set channels_last=false"):
        train(config_with("precision=bf16", "channels_last=true"), tmp_path / "run")
    two = SimpleNamespace(num_processes=2, device=torch.device("cpu"))
    monkeypatch.setattr(devices_module, "Accelerator", lambda **options: two)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="sync_bn needs GPUs; set sync_bn=false"):
        train(config_with("sync_bn=true"), tmp_path / "run")


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_non_finite_loss_stops_before_the_step(tmp_path, monkeypatch, what) -> None:
    taken: list[dict[str, torch.Tensor]] = []
    honest = criterion_module.cross_entropy

    def broken(logits, labels, **options):
        taken.append({})
        value = honest(logits, labels, **options)
        if len(taken) <= 2:  # main and auxiliary of the first step
            return value
        factor = torch.tensor(float("nan")) if what == "loss" else _InfiniteSlope.apply(value)
        return value * factor if what == "loss" else factor

    monkeypatch.setattr(criterion_module, "cross_entropy", broken)
    with pytest.raises(NonFiniteLoss, match=f"the {what} is not finite at step 2") as error:
        train(config_with("checkpoint.every=1", "iterations=3"), tmp_path / "run")
    assert str(error.value).count("street_") == 4
    assert "step-00000001.pt" in str(error.value)
    assert len(list((tmp_path / "run/checkpoints").iterdir())) == 1
    assert not (tmp_path / "run/run.lock").exists()


class _InfiniteSlope(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value):
        return value.clone()

    @staticmethod
    def backward(ctx, slope):
        return slope * float("inf")


def test_a_run_starts_from_the_weights_of_a_twin(tmp_path: Path) -> None:
    twin = train(config_with(), tmp_path / "twin")
    config = config_with(
        "model={name: tmanet_tiny, options: {memory_frames: 2}}",
        f"model.initial_weights={twin.weights}",
    )
    model = build_model(config, open_source(config.data))
    theirs, ours = twin.model.state_dict(), model.state_dict()
    assert all(torch.equal(ours[k], theirs[k]) for k in ours if k.startswith("backbone."))


def write_folder(root: Path, classes: list[str]) -> None:
    from PIL import Image

    root.mkdir()
    colours = {name: [0, 0, index] for index, name in enumerate(classes)}
    (root / "classes.json").write_text(json.dumps({"classes": colours}))
    for part in ("frames", "masks"):
        (root / "val/v" / part).mkdir(parents=True)
    Image.new("RGB", (64, 48)).save(root / "val/v/frames/0.png")
    Image.new("L", (64, 48)).save(root / "val/v/masks/0.png")


def test_validation_on_other_classes_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path / "mine", ["road", "rest"])
    own = f"validation={{every: 1, kind: folder, root: {tmp_path / 'mine'}, options: {{}}}}"
    with pytest.raises(ValueError, match="has 2; train and validate with the same protocol"):
        train(config_with(own), tmp_path / "run")


def test_class_weights_must_fit_the_classes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"one number for each of the \d+ classes .* got 2"):
        train(config_with("loss.class_weights=[1, 2]"), tmp_path / "run")


def test_a_run_that_failed_before_its_first_step_can_be_started_again(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        train(config_with("model.initial_weights=no.safetensors"), tmp_path / "run")
    train(config_with(), tmp_path / "run")


def test_the_command_trains_resumes_and_explains(tmp_path, monkeypatch, capsys) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(json.dumps(VALUES))
    monkeypatch.chdir(tmp_path)

    def start(*words: object) -> tuple[int, str]:
        status = run("train", *words)
        said = capsys.readouterr()
        return status, said.out + said.err

    status, said = start(recipe, "iterations=1")
    assert status == 0, said
    assert "runs/tiny/last.safetensors" in said
    status, said = start(recipe, "iterations=2")
    assert status == 1
    assert "add --resume" in said
    status, said = start(recipe, "iterations=2", "--resume")
    assert status == 0, said
    assert [record["step"] for record in read_metrics(tmp_path / "runs/tiny")] == [1, 2]
    status, said = start(recipe, "optimiser.lrr=1")
    assert (status, "did you mean 'optimiser.lr'?" in said) == (1, True)
    status, said = start("tmanet_r50_camvit")
    assert (status, "did you mean 'tmanet_r50_camvid'?" in said) == (1, True)
    status, said = start()
    assert (status, "tmanet_r50_cityscapes" in said) == (0, True)

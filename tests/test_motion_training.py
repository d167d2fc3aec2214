"""Training with frames nearby: the temporal loss and what is copied from a teacher."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from vidseg import methods, weights
from vidseg.adapters.per_frame import PerFrame
from vidseg.data import TrainTransform
from vidseg.data.pairs import Neighbours, PairDataset
from vidseg.training.config import TrainingConfig
from vidseg.training.folder import read_metrics
from vidseg.training.loop import train
from vidseg.training.neighbour_terms import MotionTerms
from vidseg.training.recipe import override, parse_yaml, validate
from vidseg.training.samples import open_source, training_samples
from vidseg.training.step import TrainingStep, build_model
from vidseg.training.teacher import SavedScores, Teacher

RECIPE = """
name: tiny
model: {name: pspnet_tiny}
data:
  kind: synthetic
  options: {num_videos: 2, num_frames: 4, size: [48, 64]}
  crop: [32, 48]
  scale: [0.8, 1.2]
  max_class_share: 1.0
  photometric: none
validation: {every: 0}
optimiser: {kind: sgd, lr: 0.01}
checkpoint: {every: 2, keep: 2}
iterations: 4
batch_size: 2
workers: 0
log_every: 1
trackers: []
"""
NEAR = "data.neighbours={offsets: [-1, 1]}"
TRIPLET = "data.neighbours={offsets: [1], triplet: true}"


def config_with(*overrides: str) -> TrainingConfig:
    return validate(override(parse_yaml(RECIPE), overrides))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a network with the classes of the synthetic street."""
    config = config_with("model.options={channels: 48}", "seed=5")
    model = build_model(config, open_source(config.data))
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    weights.save(model, path)
    return path


def one_batch(config: TrainingConfig, teacher: Teacher | None = None) -> tuple:
    dataset = open_source(config.data)
    model = build_model(config, dataset)
    samples = training_samples(dataset, config, model, None if teacher is None else teacher.model)
    batch = torch.utils.data.default_collate([samples[n] for n in range(2)])
    batch.pop("name")
    return model.train(), batch


def test_the_loss_is_the_sum_of_its_weighted_terms():
    config = config_with(NEAR, "loss.temporal={weight: 0.25}", "loss.aux_weight=0.5")
    model, batch = one_batch(config)
    losses = TrainingStep(model, config.loss)(batch)
    assert set(losses) == {"loss", "main", "auxiliary", "temporal"}
    total = losses["main"] + 0.5 * losses["auxiliary"] + 0.25 * losses["temporal"]
    assert torch.allclose(losses["loss"], total)
    assert losses["temporal"] > 0


def test_both_frames_get_gradients_and_batch_norm_sees_each():
    config = config_with(NEAR, "loss.temporal={weight: 1}")
    model, batch = one_batch(config)
    batch = {**batch, "labels": torch.full_like(batch["labels"], 255)}  # the temporal term alone
    TrainingStep(model, config.loss)(batch)["loss"].backward()
    assert float(model.cls[-1].weight.grad.abs().sum()) > 0
    seen = [m.num_batches_tracked for m in model.backbone.modules() if hasattr(m, "running_mean")]
    assert {int(count) for count in seen} == {2}


def test_a_still_video_has_no_temporal_loss():
    config = config_with(NEAR, "loss.temporal={weight: 1}")
    model, batch = one_batch(config)
    model.eval()
    batch["neighbours"] = batch["frames"].clone()
    batch["flows"] = torch.zeros_like(batch["flows"])
    assert TrainingStep(model, config.loss)(batch)["temporal"] == 0


@pytest.mark.parametrize(
    "terms",
    [
        "pixel: 1",
        "pair_wise_frames: 1",
        "pair_wise: 1",
        "pixel: 0.5, pair_wise_frames: 0.5, affinity: swapped-norms, temperature: 2",
    ],
)
@pytest.mark.parametrize("near", [NEAR, TRIPLET])
def test_a_copy_of_the_teacher_has_nothing_to_learn(terms: str, near: str, teacher: Path):
    config = config_with(near, f"loss.distillation={{teacher: {teacher}, {terms}}}")
    model, batch = one_batch(config)
    step = TrainingStep(model, config.loss, Teacher(methods.load(teacher), model, "fp32"))
    names = {t.split(":")[0] for t in terms.split(", ")} - {"affinity", "temperature"}
    apart = step(batch)
    assert names <= set(apart)
    assert all(apart[name] > 0 for name in names)
    if "pair_wise" in names:
        return  # it needs features, which come in training, where batch norm differs
    twin = methods.load(teacher)
    copy = TrainingStep(twin, config.loss, Teacher(methods.load(teacher), twin, "fp32"))
    together = copy.eval()(batch)
    assert all(together[name].item() == pytest.approx(0, abs=1e-6) for name in names)


def test_the_conv_lstm_is_trained_kept_and_clipped(teacher: Path, tmp_path: Path):
    spec = (
        f"loss.distillation={{teacher: {teacher}, multi_frame: 1, "
        "multi_frame_of: channels, multi_frame_limit: 0.05}"
    )
    config = config_with(TRIPLET, spec, "model.options={channels: 48}")
    first = train(config, tmp_path / "run")
    assert {"multi_frame", "enlarging"} <= set(read_metrics(first.folder)[-1])
    state = torch.load(tmp_path / "run" / "checkpoints" / "step-00000004.pt", weights_only=True)
    assert state["loss"]
    assert all(float(tensor.abs().max()) <= 0.05 + 1e-6 for tensor in state["loss"].values())


@pytest.mark.parametrize("occlusion", ["true", "false"])
def test_a_run_resumes_bit_for_bit(occlusion: str, teacher: Path, tmp_path: Path):
    overrides = (
        TRIPLET,
        f"loss.temporal={{occlusion: {occlusion}, flow: dis-fast, flow_cache: {tmp_path}/flow}}",
        f"loss.distillation={{teacher: {teacher}, pixel: 1, pair_wise_frames: 1, multi_frame: 1, "
        "multi_frame_of: channels}",
        "model.options={channels: 48}",
    )
    whole = train(config_with(*overrides), tmp_path / "whole")
    with pytest.raises(_Stopped):
        train(config_with(*overrides), tmp_path / "cut", report=_stop_after(2))
    resumed = train(config_with(*overrides), tmp_path / "cut", resume=True)
    for ours, theirs in zip(
        whole.model.state_dict().values(), resumed.model.state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs)
    assert list((tmp_path / "flow").iterdir())


class _Stopped(Exception):
    pass


def _stop_after(step: int):
    def report(record):
        if record["step"] > step:
            raise _Stopped

    return report


def test_precomputed_scores_stand_in_for_the_teacher(teacher: Path, tmp_path: Path):
    spec = f"loss.distillation={{teacher: {teacher}, pixel: 1, precomputed: {tmp_path / 'scores'}}}"
    config = config_with(NEAR, spec, "data.scale=[1, 1]", "data.crop=[48, 64]", "data.flip=0")
    loaded = methods.load(teacher)
    model, batch = one_batch(
        config, Teacher(loaded, build_model(config, open_source(config.data)), "fp32")
    )
    live = Teacher(loaded, model, "fp32")(batch["frames"]).logits[:, -1]
    assert batch["teacher"].shape == (2, 2, *live.shape[1:])
    assert torch.allclose(batch["teacher"][:, 0], live, atol=2e-2)  # float16, whole frames
    (folder,) = (tmp_path / "scores").iterdir()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.npy")}
    assert len(before) == 8
    SavedScores(folder).fill(open_source(config.data), loaded, "fp32")
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*.npy")}


def test_frames_are_scored_at_the_size_of_training(teacher: Path, tmp_path: Path):
    dataset, loaded = open_source(config_with().data), methods.load(teacher)
    small = SavedScores(tmp_path, (32, 24))
    small.fill(dataset, loaded, "fp32")
    assert small(dataset, dataset.videos[0], 1).shape == (dataset.num_classes, 3, 4)


def test_motion_of_another_video(tmp_path: Path):
    video = "{kind: synthetic, split: val, options: {num_videos: 1, num_frames: 4, size: [48, 64]}}"
    config = config_with(
        f"data.neighbours={{offsets: [1], video: {video}}}", "loss.temporal={flow: dis-fast}"
    )
    model, batch = one_batch(config)
    assert not torch.equal(batch["anchors"], batch["frames"])
    alone = copy.deepcopy(model)
    alone(batch["frames"])  # the labelled frames, in training mode
    losses = TrainingStep(model, config.loss)(batch)
    assert losses["temporal"] > 0
    assert losses["main"] > 0
    # The other video's frames are normalised by their own statistics, which are not kept.
    kept = dict(model.named_buffers())
    assert all(
        torch.equal(kept[name], buffer)
        for name, buffer in alone.named_buffers()
        if "running" in name
    )
    train(config, tmp_path / "run")


def test_what_does_not_fit_is_said(teacher: Path, tmp_path: Path):
    other = methods.create("pspnet_tiny", num_classes=3)
    ours = methods.load(teacher)
    with pytest.raises(ValueError, match="the teacher has 3 classes"):
        Teacher(other, ours, "fp32")
    memory = methods.create("tmanet_tiny", num_classes=ours.num_classes)
    memory.card = ours.card
    with pytest.raises(ValueError, match=r"a teacher of .* per-frame model, got TMANet"):
        Teacher(memory, ours, "fp32")
    config = config_with(NEAR, "loss.temporal={}")
    with pytest.raises(ValueError, match=r"the student of .* per-frame model"):
        TrainingStep(memory, config.loss)
    for overrides, message in (
        (("loss.temporal={}",), "set\\s+data.neighbours"),
        ((NEAR,), "nothing uses"),
        ((NEAR, "loss.temporal={flo: dis}"), "did you mean 'loss.temporal.flow'"),
        ((NEAR, f"loss.distillation={{teacher: {teacher}}}"), "weight above 0"),
        (
            (NEAR, f"loss.distillation={{teacher: {teacher}, multi_frame: 1}}"),
            "triplet=true",
        ),
        (
            (TRIPLET, f"loss.distillation={{teacher: {teacher}, pair_wise: 1, precomputed: x}}"),
            "not its features",
        ),
        (("data.neighbours={offsets: [0]}", "loss.temporal={}"), "other than 0"),
        (("loss.ohem={}", "loss.average=all"), "leave one of them out"),
    ):
        with pytest.raises(ValueError, match=message):
            config_with(*overrides)
    config = config_with("data.neighbours={offsets: [9]}", "loss.temporal={}")
    with pytest.raises(ValueError, match="no labelled frame has a neighbour"):
        train(config, tmp_path / "run")


def test_terms_are_no_part_of_the_students_weights(teacher: Path):
    config = config_with(
        TRIPLET, f"loss.distillation={{teacher: {teacher}, pixel: 1, multi_frame: 1}}"
    )
    model = build_model(config, open_source(config.data))
    terms = MotionTerms(config.loss, Teacher(methods.load(teacher), model, "fp32"))
    assert {name.split(".")[0] for name, _ in terms.named_parameters()} == {"multi_frame"}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_teacher_has_its_own_precision_and_no_gradient(precision: str, teacher: Path):
    config = config_with(NEAR, f"loss.distillation={{teacher: {teacher}, pixel: 1}}")
    model, batch = one_batch(config)
    loaded = methods.load(teacher)
    with torch.no_grad():
        exact = loaded(batch["frames"])[0].logits
    asked = Teacher(loaded, model, precision)(batch["frames"])
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16}
    assert asked.logits.dtype == dtypes[precision]
    assert not asked.logits.requires_grad
    error = (asked.logits.float() - exact).abs().max() / exact.abs().max()
    assert error < (1e-6 if precision == "fp32" else 3e-2)
    TrainingStep(model, config.loss, Teacher(loaded, model, precision))(batch)["loss"].backward()
    assert all(parameter.grad is None for parameter in loaded.parameters())


def test_a_run_on_precomputed_scores_logs_every_term(teacher: Path, tmp_path: Path):
    config = config_with(
        NEAR,
        "loss.temporal={flow: dis-ultrafast}",
        f"loss.distillation={{teacher: {teacher}, pixel: 1, pair_wise_frames: 1, "
        f"precomputed: {tmp_path / 'scores'}}}",
        "loss.ohem={threshold: 0.9, min_kept: 50}",
        "loss.class_weights=[1, 1, 2, 1, 1, 1, 3, 1, 1, 1, 2]",
    )
    run = train(config, tmp_path / "run")
    table = (run.folder / "metrics.csv").read_text().splitlines()
    columns = table[0].split(",")
    assert {"loss", "main", "auxiliary", "temporal", "pixel", "pair_wise_frames"} <= set(columns)
    for row in table[1:]:
        record = dict(zip(columns, row.split(","), strict=True))
        total = float(record["main"]) + 0.4 * float(record["auxiliary"])
        total += 0.1 * float(record["temporal"])
        total += float(record["pixel"]) + float(record["pair_wise_frames"])
        assert float(record["loss"]) == pytest.approx(total, rel=1e-4)


def test_hard_pixels_and_class_weights_change_the_loss_alone():
    losses = {}
    for overrides in (
        (),
        ("loss.ohem={threshold: 0.1, min_kept: 20}",),
        ("loss.class_weights=[9, 1, 2, 1, 1, 1, 3, 1, 1, 1, 2]",),
    ):
        config = config_with(NEAR, "loss.temporal={}", *overrides)
        model, batch = one_batch(config)
        torch.manual_seed(0)
        losses[overrides] = TrainingStep(model, config.loss)(batch)
    plain, *others = losses.values()
    for other in others:
        assert other["main"] != plain["main"]
        assert other["temporal"] == plain["temporal"]


@pytest.mark.parametrize(
    ("student", "larger"),
    [
        ("pspnet_mobilenetv2", "pspnet_r50"),
        ("pspnet_r18", "pspnet_r101"),
        ("pspnet_r50", "segformer_b0"),
        ("pspnet_r101", "pspnet_r18"),
        ("segformer_b0", "pspnet_mobilenetv2"),
        ("erfnet_tiny", "fcn_tiny"),
    ],
)
def test_any_per_frame_model_is_student_and_teacher(student: str, larger: str):
    spec = "{teacher: x, pixel: 1, pair_wise: 1, pair_wise_frames: 1}"
    config = config_with(NEAR, "loss.temporal={}", f"loss.distillation={spec}")
    ours, theirs = (methods.create(name, num_classes=3) for name in (student, larger))
    frames = torch.randn(2, 2, 3, 32, 40, generator=torch.Generator().manual_seed(0))
    batch = {
        "frames": frames[:, :1],
        "neighbours": frames[:, 1:],
        "labels": torch.ones(2, 32, 40, dtype=torch.int64),
        "flows": torch.zeros(2, 1, 2, 32, 40),
    }
    losses = TrainingStep(ours, config.loss, Teacher(theirs, ours, "fp32"))(batch)
    assert {"temporal", "pixel", "pair_wise", "pair_wise_frames"} <= set(losses)
    losses["loss"].backward()
    first = next(ours.backbone.parameters()).grad
    assert first is not None
    assert first.isfinite().all()
    assert float(first.abs().sum()) > 0


class Halved:
    """An estimator that forgets to scale its flow up."""

    name = "halved"

    def __call__(self, image_t, image_s):
        return torch.zeros(2, image_t.shape[0] // 2, image_t.shape[1] // 2)


def test_flow_of_another_size_is_refused():
    config = config_with(NEAR, "loss.temporal={}")
    dataset = open_source(config.data)
    pairs = PairDataset(dataset, TrainTransform(crop=(32, 48)), Neighbours(), flow=Halved())
    with pytest.raises(
        ValueError, match=r"halved must give a flow of the frame's size \(2, 48, 64"
    ):
        pairs[0]
    model, batch = one_batch(config)
    batch["flows"] = batch["flows"][..., :16, :24]
    with pytest.raises(ValueError, match="flow"):
        TrainingStep(model, config.loss)(batch)


def test_a_model_of_ones_own_with_any_teacher():
    """Classes go by number where a model names none."""
    ours = PerFrame(nn.Conv2d(3, 11, 3, padding=1), num_classes=11)
    theirs = PerFrame(nn.Conv2d(3, 11, 3, padding=1), num_classes=11)
    spec = "{teacher: x, pixel: 1, pair_wise: 1, pair_wise_frames: 1}"
    config = config_with(NEAR, "loss.temporal={}", f"loss.distillation={spec}")
    _, batch = one_batch(config_with(NEAR, "loss.temporal={}"))
    losses = TrainingStep(ours, config.loss, Teacher(theirs, ours, "fp32"))(batch)
    assert all(losses[name] > 0 for name in ("temporal", "pixel", "pair_wise", "pair_wise_frames"))
    with pytest.raises(ValueError, match=r"the teacher has 4 classes, the student 11 classes;"):
        Teacher(PerFrame(nn.Conv2d(3, 4, 1), num_classes=4), ours, "fp32")

"""VidEoMT, PMT and LVMT against their authors' tensors."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import torch
from rules import clip, read_case, rules, state_dict
from torch import Tensor

from vidseg.backbones.vit_layouts import our_name
from vidseg.layers.query_heads import official_scores
from vidseg.losses.mask_classification import (
    ClipTargets,
    clip_targets,
    mask_classification_terms,
    set_losses,
)
from vidseg.methods import load_official
from vidseg.methods.query_checkpoints import head_name


def filled(shared: Path, case: dict[str, Any]) -> dict[str, Tensor]:
    """The state dict of a case: filled by the rule, some parameters multiplied."""
    tensors = state_dict(shared, case["state_dict"])
    for name in tensors:
        for pattern, factor in case["multiply_parameters_after_filling"]:
            if fnmatch(name, pattern):
                tensors[name] = tensors[name] * factor
                break
    for name, shape in case["buffers_not_filled"]:
        tensors[name] = torch.ones(shape)
    return tensors


def load_case(shared: Path, name: str) -> tuple[Any, dict[str, Any], dict[str, Tensor], Tensor]:
    """Model, description, expected arrays, clip."""
    case, expected = read_case(shared, "videomt", name)
    config = case["config"]
    options: dict[str, Any] = {"heads": config["heads"], "classes": "frame"}
    method = config["method"]
    if "norm_queries" in config:
        options["norm_queries"] = config["norm_queries"]
    if "taps" in config:
        options["taps"] = tuple(config["taps"])
    model = load_official(method, filled(shared, case), **options)
    frames = clip(shared, *map(_plain, case["inputs"]["clip"]))
    return model, case, expected, frames


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def close(ours: Tensor, theirs: Tensor, what: str) -> None:
    error = (ours - theirs).abs().max() / theirs.abs().max()
    assert error < 1e-5, f"{what}: {error:.2e} of the largest value"


@pytest.mark.parametrize(
    "name", ["v2_stream", "v2_sizes", "v3_stream", "pmt_v2", "pmt_v3", "lvmt_v3"]
)
def test_streams_equal_the_authors(shared: Path, name: str) -> None:
    model, _, expected, frames = load_case(shared, name)
    memory = None
    for t in range(len(frames)):
        with torch.no_grad():
            answer, memory = model(frames[None, t : t + 1], memory, aux=True)
        close(answer.aux["class_logits"][0, 0], expected["class_logits"][t], f"classes of {t}")
        close(answer.aux["mask_logits"][0, 0], expected["mask_logits"][t], f"masks of {t}")
        close(memory.queries[0], expected["next_queries"][t], f"queries after {t}")


def test_transformers_checkpoints_load_and_their_labels_agree(shared: Path) -> None:
    case, expected = read_case(shared, "videomt", "hf_small")
    model = load_official("videomt", filled(shared, case), heads=2, classes="frame")
    frames = clip(shared, *map(_plain, case["inputs"]["clip"]))
    with torch.no_grad():
        answer, _ = model(frames, aux=True)
    close(answer.aux["class_logits"].transpose(0, 1), expected["class_logits"], "classes")
    close(answer.aux["mask_logits"].transpose(0, 1), expected["mask_logits"], "masks")
    size = tuple(case["config"]["output_size"])
    close(answer.resize(size).transpose(0, 1)[..., ::3, ::3], expected["scores"], "scores")
    differ = answer.labels(size).transpose(0, 1) != expected["labels"]
    assert differ.float().mean() <= case["checks"]["share_of_pixels_with_margin_below_1e_4"]


@pytest.mark.parametrize("classes", ["official-video", "frame", "running"])
def test_semantic_inference_is_the_authors(shared: Path, classes: str) -> None:
    case, expected = read_case(shared, "videomt", "semantic")
    config = case["config"]
    model = load_official("videomt", filled(shared, case), heads=3, classes=classes)
    frames = clip(shared, *map(_plain, case["inputs"]["clip"]))[None]
    with torch.no_grad():
        answer, _ = model(frames, aux=True, context=model.summarize(frames))
    logits = answer.aux["class_logits"][0]
    close(logits, expected["class_logits"], "classes")
    close(answer.aux["mask_logits"][0], expected["mask_logits"], "masks")
    count = torch.arange(1, len(logits) + 1)[:, None, None]
    decided = {
        "official-video": logits.mean(0, keepdim=True).expand_as(logits),
        "frame": logits,
        "running": logits.cumsum(0) / count,
    }[classes]
    scores = torch.stack(
        [
            official_scores(
                of_frame,
                masks,
                frame_size=tuple(config["frame_size"]),
                size=tuple(config["output_size"]),
            )
            for of_frame, masks in zip(decided, answer.aux["mask_logits"][0], strict=True)
        ]
    )
    stem = {"official-video": "official", "frame": "causal", "running": "running_mean"}[classes]
    if f"{stem}_scores" in expected:
        close(scores[..., ::3, ::3], expected[f"{stem}_scores"], "scores")
    assert (scores.argmax(1) != expected[f"{stem}_labels"]).float().mean() < 1e-4
    # What a user gets resizes scores once, from stride 4; the borders of regions differ.
    plain = answer.labels(tuple(config["output_size"]))[0]
    assert (plain != expected[f"{stem}_labels"]).float().mean() < 0.05


def test_training_losses_and_gradients_are_the_authors(shared: Path) -> None:
    case, expected = read_case(shared, "videomt", "train")
    config, checks = case["config"], case["checks"]
    model = load_official("videomt", filled(shared, case), heads=3, classes="frame").train()
    shape = (config["batch"], config["frames"])
    frames = clip(shared, *map(_plain, case["inputs"]["clip"])).unflatten(0, shape)
    name, size, num_classes = case["inputs"]["labels"]
    truth = torch.from_numpy(rules(shared).labels(name, tuple(size), num_classes))
    targets = []
    for of_clip, classes in zip(truth, config["target_classes"], strict=True):
        whole = clip_targets(of_clip)
        masks = whole.masks[: len(classes)].clone()
        masks[0, 0] = False  # a class that is absent from the first frame
        targets.append(ClipTargets(whole.classes[: len(classes)], masks))
        assert targets[-1].classes.tolist() == classes

    recorded = iter(sorted(name for name in expected if name.startswith("rand_")))

    def draw(shape: tuple[int, ...]) -> Tensor:
        found = expected[next(recorded)]
        assert tuple(found.shape) == shape
        return found

    answer, _ = model(frames)
    for ours, theirs in (("", ""), ("_0", "aux0_"), ("_1", "aux1_")):
        for what in ("class_logits", "mask_logits"):
            close(answer.aux[what + ours], expected[theirs + what], f"{what}{ours}")
    levels = []
    for suffix in ("", "_0", "_1"):
        aux = [answer.aux[f"{what}{suffix}"] for what in ("class_logits", "mask_logits")]
        levels.append(set_losses(*aux, targets, num_points=config["num_points"], draw=draw))
        for ours, theirs in (("classes", "ce"), ("masks", "mask"), ("dice", "dice")):
            wanted = checks["losses"][f"loss_{theirs}{suffix}"]
            assert getattr(levels[-1], ours).item() == pytest.approx(wanted, rel=1e-6)

    recorded = iter(sorted(name for name in expected if name.startswith("rand_")))
    levels_of = [
        tuple(answer.aux[f"{what}{suffix}"] for what in ("class_logits", "mask_logits"))
        for suffix in ("", "_0", "_1")
    ]
    terms = mask_classification_terms(
        levels_of, targets, official=True, num_points=config["num_points"], draw=draw
    )
    total = sum((weight * term for term, weight in terms.values()), torch.zeros(()))
    assert total.item() == pytest.approx(checks["total"], rel=1e-6)
    total.backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    for theirs, wanted in checks["gradient_norms"].items():
        inner = theirs.removeprefix("encoder.backbone.")
        ours = f"encoder.{our_name(inner)}" if inner != theirs else head_name(theirs)
        assert gradients[ours].norm().item() == pytest.approx(wanted, rel=1e-5), theirs

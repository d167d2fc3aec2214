"""The recipes of SegFormer, CFFM and CFFM++ spell out what their authors did."""

from __future__ import annotations

import pytest

from vidseg.training.recipe import flatten, load_config, read_recipe, recipes

SIZES = ("b0", "b1", "b2", "b5")
COMMON = {
    "data.memory": "window",
    "data.scale": [0.5, 2.0],
    "data.max_class_share": 0.75,
    "data.flip": 0.5,
    "data.photometric": "frame",
    "loss.average": "all",
    "optimiser.kind": "adamw",
    "optimiser.betas": [0.9, 0.999],
    "optimiser.weight_decay": 0.01,
    "optimiser.decay": "not-backbone-norms",
    "optimiser.clip_norm": None,
    "schedule.power": 1.0,
    "schedule.floor": 0,
    "schedule.warmup_iterations": 1500,
    "schedule.warmup_start": 1e-6,
    "precision": "fp32",
    "sync_bn": True,
}
DATA = {
    "vspw": {
        "data.kind": "vspw",
        "data.base_size": [853, 480],
        "data.crop": [480, 480],
        "data.sampling": "videos",
    },
    "cityscapes": {
        "data.kind": "cityscapes",
        "data.base_size": [1024, 512],
        "data.crop": [512, 1024],
        "data.sampling": "frames",
        "validation.scale": 0.5,
    },
}
STAGES = {
    "segformer": {
        "optimiser.lr": 6e-5,
        "optimiser.head_multiplier": 10,
        "iterations": 160_000,
        "model.backbone_weights": "imagenet",
    },
    "cffm": {
        "optimiser.lr": 6e-5,
        "optimiser.head_multiplier": 10,
        "iterations": 160_000,
        "model.backbone_weights": "imagenet",
        "data.reverse": 0.5,
        "loss.frame_weight": 0.5,
        "batch_size": 8,
    },
    "cffmpp": {
        "optimiser.lr": 2e-4,
        "optimiser.head_multiplier": 1,
        "iterations": 40_000,
        "model.backbone_weights": None,
        "data.reverse": 0.5,
        "freeze.keep": "weights",
        "batch_size": 8,
    },
}
NAMES = [f"{m}_{s}_vspw" for m in STAGES for s in SIZES]
NAMES += [f"{m}_{s}_cityscapes" for m in STAGES for s in SIZES[:2]]


@pytest.mark.parametrize("name", NAMES)
def test_the_published_schedule(name: str) -> None:
    """CFFM's specification, sections 3 and 4."""
    method, size, dataset = name.split("_")
    written = flatten(read_recipe(name))
    assert written.items() >= {**COMMON, **DATA[dataset], **STAGES[method]}.items()
    config = load_config(name)
    assert config.model.name == f"{method}_{size}"
    if method == "cffmpp":
        first = f"cffm_{size}_{dataset}"
        assert config.model.initial_weights == f"runs/{first}/last.safetensors"
        assert first in recipes()
    else:
        assert "non-commercial" in recipes()[name].read_text(encoding="utf-8")
    if method == "segformer":
        clips = load_config(f"cffm_{size}_{dataset}")
        frames = 4 if dataset == "vspw" else 1
        assert config.batch_size == frames * clips.batch_size, "as many labelled frames a step"
        assert config.model.options.get("channels", 256) == 256
        assert size in ("b0", "b1") or "channels" in config.model.options

"""The configuration of a training run of seconds; a library, not a test."""

from typing import Any

from vidseg.training.config import TrainingConfig
from vidseg.training.recipe import override, validate

VALUES = {
    "name": "tiny",
    "model": {"name": "fcn_tiny"},
    "data": {
        "kind": "synthetic",
        "options": {"num_videos": 2, "num_frames": 3, "size": [48, 64]},
        "crop": [32, 48],
        "scale": [1.0, 1.0],
    },
    "validation": {"every": 0},
    "optimiser": {"lr": 0.05, "weight_decay": 0.0},
    "iterations": 2,
    "batch_size": 4,
    "workers": 0,
    "log_every": 1,
    "trackers": [],
}


def config_with(*overrides: str, **parts: Any) -> TrainingConfig:
    """The small run with these parts of its own, then `key.sub=value` overrides."""
    return validate(override(VALUES | parts, overrides))

"""What every test can count on: one thread, and the shared folder where there is one."""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported, here and in child processes

from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of golden tensors and real data that `VIDSEG_SHARED` names; skips without it."""
    named = os.environ.get("VIDSEG_SHARED")
    if not named:
        pytest.skip("VIDSEG_SHARED is not set")
    folder = Path(named)
    if not folder.is_dir():
        pytest.fail(f"VIDSEG_SHARED names {folder}, which is not a folder")
    return folder


@pytest.fixture(scope="session")
def weights_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of a tiny video model of the synthetic street's 11 classes."""
    from vidseg.methods import create
    from vidseg.weights import save

    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    torch.manual_seed(0)
    save(create("tmanet_tiny", num_classes=11), path)
    return path

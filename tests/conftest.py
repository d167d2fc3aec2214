"""Fixtures for every test."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of real data and official tensors; only `.ci/run` names it."""
    folder = os.environ.get("VIDSEG_SHARED")
    if not folder:
        pytest.skip("VIDSEG_SHARED does not name the folder of real data")
    return Path(folder)

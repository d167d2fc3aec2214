"""The authors' cases: weights and inputs from names, expected tensors from files.

The rule module and the cases are read from the folder that VIDSEG_SHARED names.
"""

import importlib.util
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


@cache
def rules(shared: Path) -> Any:
    """The module that makes every weight and input from its name and shape."""
    spec = importlib.util.spec_from_file_location(
        "parity_rules", shared / "parity" / "parity_rules.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read_case(shared: Path, method: str, case: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A case's description and its expected tensors."""
    folder = shared / "parity" / method
    description = json.loads((folder / f"{case}.json").read_text())
    with np.load(folder / f"{case}.npz") as arrays:
        return description, {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def state_dict(shared: Path, keys: list[tuple[str, list[int]]]) -> dict[str, Tensor]:
    """Every entry filled by the rule, in the official order."""
    parameter = rules(shared).parameter
    return {name: torch.from_numpy(parameter(name, tuple(shape))) for name, shape in keys}


def clip(shared: Path, name: str, shape: tuple[int, ...]) -> Tensor:
    """The input called `name`."""
    return torch.from_numpy(rules(shared).array(name, shape))

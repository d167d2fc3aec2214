"""What measures take, as tensors and checked: labels, counts, flows."""

import numpy as np
import torch
from torch import Tensor

IntegerArray = Tensor | np.ndarray


def checked_counts(counts: IntegerArray, smallest_side: int) -> Tensor:
    """Return a square table of counts as an int64 tensor on the CPU.

    Raises:
        TypeError: not integers.
        ValueError: not square, too small or negative.
    """
    counts = as_integers(counts, "counts").to("cpu", torch.int64)
    shape = tuple(counts.shape)
    if len(shape) != 2 or shape[0] != shape[1] or shape[0] < smallest_side:
        raise ValueError(f"counts must be square, {smallest_side} or more a side, got {shape}")
    if int(counts.min()) < 0:
        raise ValueError(f"counts must be 0 or more, got {int(counts.min())}")
    return counts


def as_integers(values: IntegerArray, name: str) -> Tensor:
    """Return labels as an integer tensor without a copy.

    Raises:
        TypeError: not a tensor or array of integers.
    """
    if isinstance(values, np.ndarray) and values.dtype.kind == "u" and values.dtype.itemsize > 1:
        # torch has hardly any operations on wider unsigned integers.
        values = values.astype(np.int64)
    if not isinstance(values, Tensor | np.ndarray):
        raise TypeError(f"{name} must be a tensor or a numpy array, got {type(values).__name__}")
    values = as_tensor(values)
    if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
        raise TypeError(f"{name} must be integers, got {values.dtype}; take argmax of the logits")
    return values


def as_tensor(values: Tensor | np.ndarray) -> Tensor:
    """Return an array as a tensor, without a copy where torch allows it."""
    if isinstance(values, Tensor):
        return values
    # torch refuses negative strides (a flipped view) and warns of read-only memory.
    return torch.from_numpy(np.require(values, requirements=["C", "W"]))


def as_flows(values: Tensor | np.ndarray, name: str, labels: Tensor) -> Tensor:
    """Return the flows between the frames of a clip as a tensor, where its labels are.

    Args:
        values: (T-1, 2, H, W) px.
        name: of the argument.
        labels: (T, H, W).

    Raises:
        ValueError: the shapes do not fit, or the flows are not finite floats.
    """
    flows, shape = as_tensor(values).to(labels.device), tuple(labels.shape)
    if len(shape) != 3 or flows.shape != (max(shape[0] - 1, 0), 2, *shape[1:]):
        raise ValueError(
            f"labels must be (T, H, W) and {name} (T-1, 2, H, W) of one size, got {shape} and "
            f"{tuple(flows.shape)}"
        )
    if not flows.is_floating_point() or not bool(flows.isfinite().all()):
        found = f"{flows.dtype} with NaN or inf" if flows.is_floating_point() else flows.dtype
        raise ValueError(
            f"{name} must be finite floats in pixels, got {found}; where there is no flow give any "
            'number, and valid=False (protocol "vidseg")'
        )
    return flows

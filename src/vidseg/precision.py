"""The arithmetic that a model runs in: fp32, or bf16 and fp16 by autocast."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, get_args

import torch

Precision = Literal["fp32", "bf16", "fp16"]


def check_precision(precision: str) -> None:
    """Raise ValueError unless a precision is one that models run in."""
    known = get_args(Precision)
    if precision not in known:
        raise ValueError(f"precision must be one of {', '.join(known)}, got {precision!r}")


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """Run what is inside in this precision, whatever the code around it does.

    Args:
        device: where it runs.
        precision: "fp32", or "bf16" and "fp16" where torch thinks that they do no harm.
    """
    if precision == "fp32":
        return without_autocast(device.type)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float16
    return torch.autocast(device.type, dtype=dtype)


def without_autocast(device_type: str) -> AbstractContextManager[Any]:
    """Run what is inside in the precision of its tensors, also under an autocast around it."""
    # Only where something is cast: "meta" cannot be asked, and a traced graph gets no node for it.
    if device_type != "meta" and torch.is_autocast_enabled(device_type):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()

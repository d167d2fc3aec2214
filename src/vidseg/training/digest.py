"""A name for tensors, by their content: what was made with them is found again under it."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def digest(tensors: Mapping[str, Tensor], further: str) -> str:
    """Sixteen digits that depend on every bit of the tensors, and on further words.

    Args:
        tensors: by name.
        further: what else counts.
    """
    found = hashlib.sha256(further.encode())
    for name, tensor in sorted(tensors.items()):
        found.update(name.encode())
        found.update(tensor.detach().cpu().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]

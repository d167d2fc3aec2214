"""Motion: where the flow comes from, the warp along it, and which pixels it may be trusted for."""

from pathlib import Path

import torch

from vidseg.flow.cache import CachedFlow
from vidseg.flow.dis import DIS, Preset
from vidseg.flow.estimator import FlowEstimator
from vidseg.flow.raft import RAFT, Variant
from vidseg.flow.warp import forward_backward_consistent, in_frame, warp
from vidseg.suggest import did_you_mean

__all__ = [
    "DIS",
    "FLOWS",
    "RAFT",
    "CachedFlow",
    "FlowEstimator",
    "forward_backward_consistent",
    "in_frame",
    "open_flow",
    "warp",
]

_DIS: dict[str, Preset] = {"dis": "medium", "dis-fast": "fast", "dis-ultrafast": "ultrafast"}
_RAFT: dict[str, Variant] = {"raft-small": "small", "raft-large": "large"}
FLOWS = (*_DIS, *_RAFT)


def open_flow(
    name: str,
    *,
    weights: str | Path | None = None,
    cache: str | Path | None = None,
    device: str | torch.device | None = None,
) -> FlowEstimator:
    """Make an estimator by its name.

    Args:
        name: "dis" (preset medium), "dis-fast", "dis-ultrafast", "raft-small" or "raft-large".
        weights: of RAFT, a local file; torchvision's from its hub by default.
        cache: a folder to keep flow in, see `CachedFlow`.
        device: of RAFT; DIS runs on the CPU.

    Raises:
        ValueError: an unknown name, weights that do not fit, or weights for DIS.
        FileNotFoundError: there are no such weights.
        ImportError: RAFT without torchvision.

    Example:
        >>> open_flow("dis-fast")
        DIS(preset='fast', longest_side_px=1024)
    """
    if name not in FLOWS:
        raise ValueError(f"unknown flow {name!r}{did_you_mean(name, FLOWS)}")
    estimator: FlowEstimator
    if name in _RAFT:
        estimator = RAFT(_RAFT[name], weights, device=device)
    elif weights is not None:
        raise ValueError(f"the flow {name!r} has no weights; leave them out, or take raft-small")
    else:
        estimator = DIS(_DIS[name])
    return estimator if cache is None else CachedFlow(estimator, cache)

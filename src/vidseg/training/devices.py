"""Devices, processes and trackers of a run, by Accelerate."""

import os
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from accelerate.state import AcceleratorState
from accelerate.tracking import get_available_trackers
from accelerate.utils import LoggerType, ProjectConfiguration

from vidseg.suggest import did_you_mean
from vidseg.training.config import TrainingConfig

COLLECTIVE_TIMEOUT = timedelta(hours=2)  # the other processes wait while the first one validates


def open_accelerator(config: TrainingConfig, folder: Path) -> Accelerator:
    """Accelerate, set up for a run.

    Args:
        config: of the run.
        folder: the run folder, for the trackers.

    Raises:
        ValueError: this machine cannot do what the config asks for, or a tracker is unknown.
    """
    AcceleratorState._reset_state()  # an earlier run of this process may have had another precision
    if config.precision == "fp16" and not torch.cuda.is_available():
        raise ValueError("precision=fp16 needs a GPU; use bf16 or fp32 on this machine")
    _check_trackers(config.trackers)
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
        torch.use_deterministic_algorithms(True, warn_only=True)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    accelerator = Accelerator(
        # Left alone, Accelerate lets each of torchrun's processes on a CPU train by itself.
        cpu=processes > 1 and not torch.accelerator.is_available(),
        mixed_precision="no" if config.precision == "fp32" else config.precision,
        gradient_accumulation_steps=config.accumulate,
        log_with=list(config.trackers) or None,
        project_config=ProjectConfiguration(str(folder), logging_dir=str(folder / "tensorboard")),
        kwargs_handlers=[
            # Unused parameters may exist; and DDP then keeps its buckets, so that the sums of a
            # resumed run are taken in the same order.
            DistributedDataParallelKwargs(find_unused_parameters=True),
            InitProcessGroupKwargs(timeout=COLLECTIVE_TIMEOUT),
        ],
    )
    assert accelerator.num_processes == processes, "each process would train by itself"
    is_cpu = accelerator.device.type == "cpu"
    if is_cpu and config.channels_last and config.precision == "bf16":
        # Seen with torch 2.13: one run in three has infinite gradients at its first step.
        raise ValueError(
            "channels_last with precision=bf16 gives wrong gradients on some CPU runs; set "
            "channels_last=false (3 % slower) or precision=fp32"
        )
    if config.sync_bn and accelerator.num_processes > 1 and is_cpu:
        raise ValueError("sync_bn needs GPUs; set sync_bn=false to train with processes on a CPU")
    return accelerator


def _check_trackers(names: tuple[str, ...]) -> None:
    """Accelerate passes over a tracker whose package is missing, without a word."""
    there = [str(tracker.value) for tracker in get_available_trackers()]
    known = [str(tracker.value) for tracker in LoggerType]
    for name in names:
        if name not in known:
            raise ValueError(f"unknown tracker {name!r}{did_you_mean(name, known)}")
        if name not in there and name != "all":
            raise ValueError(
                f"the tracker {name!r} needs its package, which is not installed; there are: "
                f"{', '.join(there) or 'none'} (metrics.jsonl and metrics.csv are always written)"
            )


def close_trackers(accelerator: Accelerator) -> None:
    """Let the trackers write what they hold."""
    for tracker in accelerator.trackers:
        tracker.finish()

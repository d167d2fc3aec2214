"""How a model is run, as people write it: devices (cpu, cuda:1), and options of its method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from vidseg.segmenter import VideoSegmenter

Device = Annotated[
    str | None,
    typer.Option(
        "--device",
        help="cpu, cuda, cuda:1; default: a GPU if there is one.",
        rich_help_panel="How the model runs",
    ),
]

ModelOption = Annotated[
    list[str] | None,
    typer.Option(
        "--model-option",
        help="Of the method, in place of what it was trained with, such as memory_frames=4 or "
        "prototypes=running; repeatable.",
        rich_help_panel="How the model runs",
    ),
]


def load_model(
    name: str | None, options: Sequence[str] | None, *, device: str = "cpu"
) -> VideoSegmenter:
    """`vidseg.load` with the words of `ModelOption`."""
    from vidseg.cli.options import parse_options
    from vidseg.methods import load

    return load(name, device=device, **parse_options(options or (), "--model-option"))


def find_device(text: str | None) -> str:
    """Check that a device is here.

    Args:
        text: as torch writes devices; None for a GPU if there is one.

    Returns:
        The device, as torch writes it.

    Raises:
        ValueError: it is no device, or not on this machine.

    Example:
        >>> find_device("cpu")
        'cpu'
    """
    import torch

    here = torch.accelerator.current_accelerator(check_available=True)
    if text is None:
        return "cuda" if here is not None and here.type == "cuda" else "cpu"
    try:
        device = torch.device(text)
    except RuntimeError:
        raise ValueError(f"--device wants cpu, cuda or cuda:1, got {text!r}") from None
    if device.type == "cpu":
        return text
    if here is None:
        raise ValueError(f"--device {text}: torch finds no GPU here; use cpu")
    count = torch.accelerator.device_count()
    if device.type != here.type or (device.index or 0) >= count:
        there = ", ".join(f"{here.type}:{k}" for k in range(count))
        raise ValueError(f"--device {text}: this machine has {there}")
    return text

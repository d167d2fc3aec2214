"""Devices as people write them on the command line: cpu, cuda, cuda:1."""

from __future__ import annotations

from typing import Annotated

import typer

Device = Annotated[
    str | None,
    typer.Option(
        "--device",
        help="cpu, cuda, cuda:1; default: a GPU if there is one.",
        rich_help_panel="How the model runs",
    ),
]


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

"""How a model is run, as people write it: where, at which size, how precisely, which options."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

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

SeenSize = Annotated[
    str | None,
    typer.Option(
        "--size",
        help="HEIGHTxWIDTH to which frames are stretched for the model, or full for their own "
        "size; labels keep theirs. Default: larger frames at the size that the model knows.",
        rich_help_panel="How the model runs",
    ),
]

Fit = Annotated[
    str | None,
    typer.Option(
        "--fit",
        help="Instead of --size: see frames at the largest size of their aspect in HEIGHTxWIDTH, "
        "such as 480x853 for VSPW.",
        rich_help_panel="How the model runs",
    ),
]

Precision = Annotated[
    str,
    typer.Option("--precision", help="fp32, bf16 or fp16.", rich_help_panel="How the model runs"),
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

Steady = Annotated[
    bool,
    typer.Option(
        "--steady",
        help="Carry the scores along the motion: less flicker, without training (docs/steady.md).",
        rich_help_panel="How the model runs",
    ),
]


def load_model(
    name: str | None,
    options: Sequence[str] | None,
    *,
    device: str = "cpu",
    steady: bool = False,
) -> VideoSegmenter:
    """`vidseg.load` with the words of `ModelOption`, in `vidseg.Steady` if it is asked for."""
    from vidseg.cli.options import parse_options
    from vidseg.methods import load

    model = load(name, device=device, **parse_options(options or (), "--model-option"))
    if not steady:
        return model
    from vidseg.adapters.steady import Steady as SteadyModel

    return SteadyModel(model).eval()


def parse_run(
    size: str | None, fit: str | None, precision: str, sliding: str | None, device: str | None
) -> dict[str, Any]:
    """Read the options of how a model runs, as `segment` and `evaluate` take them in Python.

    Args:
        size: of `SeenSize`.
        fit: of `Fit`.
        precision: of `Precision`.
        sliding: of `Sliding`.
        device: of `Device`.

    Raises:
        ValueError: one of them is malformed, or the device is not here.
    """
    from vidseg.cli.options import parse_size, parse_sliding
    from vidseg.inference.runner import make_views
    from vidseg.precision import check_precision

    is_full = size is not None and size.casefold() == "full"
    seen = "full" if is_full else None if size is None else parse_size(size)
    box = None if fit is None else parse_size(fit, "--fit")
    make_views(size=seen, fit=box)
    check_precision(precision)
    crop, stride = (None, None) if sliding is None else parse_sliding(sliding)
    return {
        "size": seen,
        "fit": box,
        "precision": precision,
        "sliding": crop if stride is None else (crop, stride),
        "device": find_device(device),
    }


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

"""`vidseg convert`: the authors' checkpoint becomes a safetensors file with a card."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer


def convert(
    method: Annotated[str, typer.Argument(help="The method, such as tmanet.")],
    checkpoint: Annotated[Path, typer.Argument(help="The authors' file (.pth, .pt, .tar).")],
    out: Annotated[Path, typer.Option("--out", help="The .safetensors file to write.")],
    option: Annotated[
        list[str] | None,
        typer.Option("--option", help="What tensors cannot tell, such as align_corners=true."),
    ] = None,
    licence: Annotated[str, typer.Option(help="Licence of the weights, for the card.")] = "",
    trained_on: Annotated[str, typer.Option(help="Data set and split, for the card.")] = "",
    trained_size: Annotated[
        str | None,
        typer.Option(
            help="HEIGHTxWIDTH of the frames in training, for the card: larger ones are seen at it."
        ),
    ] = None,
    half: Annotated[bool, typer.Option("--half", help="Store float16, half the size.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace --out if it exists.")] = False,
) -> None:
    """Convert a checkpoint of a method's authors; no code in it is run.

    Every key is accounted for: used, or listed with the reason why it is not. Missing, unexpected
    and mis-shaped keys are errors.
    """
    from vidseg.cli.console import console
    from vidseg.cli.options import parse_options, parse_size
    from vidseg.methods import dead_keys, load_official
    from vidseg.weights import read_checkpoint, save, state_dict_of

    if out.exists() and checkpoint.exists() and out.samefile(checkpoint):
        raise ValueError(f"{out} is the checkpoint itself; give another --out")
    if os.path.lexists(out) and not force:
        raise FileExistsError(f"{out} exists; pass --force to replace it, or another --out")
    content = read_checkpoint(checkpoint)
    tensors = state_dict_of(content)
    # By its name: a config.json beside it names the classes.
    model = load_official(method, checkpoint, **parse_options(option or ()))
    origin = f"{checkpoint.name}, sha256 {_sha256(checkpoint)}"
    changes: dict[str, Any] = {
        "source": f"the authors' checkpoint, converted from {origin}",
        "licence": licence,
        "trained_on": trained_on,
        "size": parse_size(trained_size, "--trained-size") if trained_size else None,
    }
    save(model, out, half=half, **{name: value for name, value in changes.items() if value})

    unused = left_out(content, tensors, dead_keys(method, tensors))
    console.print(f"{checkpoint}: {len(tensors)} tensors", markup=False)
    for key, reason in unused.items():
        console.print(f"  not used: {key} ({reason})", markup=False)
    if not unused:
        console.print("  every key is used")
    parameters = sum(parameter.numel() for parameter in model.parameters())
    console.print(
        f"{out}: {model.card.architecture}, {parameters / 1e6:.2f} M parameters, "
        f"{out.stat().st_size / 1e6:.1f} MB",
        markup=False,
        soft_wrap=True,
    )


def left_out(
    content: dict[str, Any], tensors: dict[str, Any], dead: dict[str, str]
) -> dict[str, str]:
    """Say what of a file does not reach the model.

    Args:
        content: the whole file.
        tensors: the state dict in it.
        dead: the method's unused keys, with the reason of each.

    Returns:
        key -> reason.
    """
    kept = {id(tensor) for tensor in tensors.values()}

    def is_kept(value: Any) -> bool:
        inside = value.values() if isinstance(value, dict) else ()
        return id(value) in kept or any(id(item) in kept for item in inside)

    reasons = {k: "not the model's weights" for k, v in content.items() if not is_kept(v)}
    return reasons | {key: reason for key, reason in dead.items() if key in tensors}


def _sha256(path: Path) -> str:
    import hashlib

    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

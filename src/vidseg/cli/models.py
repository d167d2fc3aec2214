"""`vidseg models`: the methods, their sizes, and the weights that are at hand."""

from __future__ import annotations

from typing import Annotated, Any

import typer

COUNTED_CLASSES = 19  # the number of classes (Cityscapes') for which parameters are counted


def models(
    as_json: Annotated[bool, typer.Option("--json", help="Write the table as JSON.")] = False,
) -> None:
    """List the models: method, variant, parameters, weights that come with them, licence."""
    from vidseg.cli.console import console, write_json

    if as_json:
        write_json(list_models())
        return
    if console.quiet:
        return
    from rich.table import Table

    rows = list_models()

    table = Table(title=f"Models (parameters with {COUNTED_CLASSES} classes)", title_justify="left")
    table.add_column("name", no_wrap=True)
    for heading in ("method", "memory", "parameters"):
        table.add_column(heading, justify="right" if heading == "parameters" else "left")
    for row in rows:
        millions = f"{row['parameters'] / 1e6:.2f} M"
        table.add_row(row["name"], row["method"], _memory(row), millions)
    console.print(table)
    for row in rows:
        if row["weights"]:
            console.print(
                f"Weights of {row['name']} that come with the package: {row['weights']}, "
                f"{row['licence']}",
                markup=False,
            )
    console.print(
        "Make one with vidseg.create(name, num_classes=...), load weights with vidseg.load(file), "
        "convert an authors' checkpoint with `vidseg convert`.",
        markup=False,
    )


def _memory(row: dict[str, Any]) -> str:
    if not row["causal"]:
        return "whole video"
    if row["memory_frames"] is None:
        return "all before"
    return f"{row['memory_frames']} frames" if row["memory_frames"] else "none"


def list_models() -> list[dict[str, Any]]:
    """Describe every model that `vidseg.create` makes.

    Returns:
        For each its name, method, memory_frames (the horizon; None where it has no end), causal
        (false where the whole video must be seen first), parameters, and the packaged weights
        with their licence (None where there are none).
    """
    import math

    import torch

    from vidseg.methods import create, model_names

    packaged = _packaged()
    rows = []
    for name in model_names():
        # The meta device gives the shapes without the time and the memory of the values.
        with torch.device("meta"):
            model = create(name, num_classes=COUNTED_CLASSES)
        weights, card = packaged.get(name, (None, None))
        rows.append(
            {
                "name": name,
                "method": type(model).__name__,
                "memory_frames": None if math.isinf(model.horizon) else int(model.horizon),
                "causal": model.causal,
                "parameters": sum(parameter.numel() for parameter in model.parameters()),
                "weights": weights,
                "licence": card.licence if card else None,
            }
        )
    return rows


def _packaged() -> dict[str, Any]:
    """Architecture -> name and card of the weights that come with the package."""
    from vidseg.methods import packaged_weights
    from vidseg.weights import load_file

    cards = {name: load_file(path)[1] for name, path in packaged_weights().items()}
    return {card.architecture: (name, card) for name, card in cards.items()}

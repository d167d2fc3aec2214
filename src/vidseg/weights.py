"""Weights on disk: safetensors with a card, and the authors' pickles read without running them."""

import hashlib
import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vidseg.atomic import replacing
from vidseg.card import Card


def save(
    model: torch.nn.Module,
    path: str | Path,
    *,
    half: bool = False,
    loadable: bool = True,
    **changes: Any,
) -> None:
    """Save a model's weights and card as one safetensors file, whole or not at all.

    Args:
        model: made by `vidseg.create` (the card must name the architecture).
        path: the file to write, ending in .safetensors.
        half: store floats as float16, at half the size.
        loadable: False takes a model of your own, too; `vidseg.load` cannot make it, but its
            `load_state_dict` takes the tensors of `load_file`.
        changes: fields of the card to set in the file, such as `licence="..."`.

    Raises:
        ValueError: the card names no architecture; the path has another suffix.
    """
    path = Path(path)
    card: Card = replace(model.card, **changes)  # type: ignore[arg-type]
    if loadable and not card.architecture:
        raise ValueError(
            "this model was not made by vidseg.create, so a file could not rebuild it; "
            "pass loadable=False to save the weights alone"
        )
    if path.suffix != ".safetensors":
        raise ValueError(f"weights are saved as .safetensors, got {path.name}")
    tensors = {
        name: (t.half() if half and t.is_floating_point() else t).detach().cpu().contiguous()
        for name, t in model.state_dict().items()
    }
    write_tensors(path, tensors, {"card": card.to_json()})


def load_file(path: str | Path) -> tuple[dict[str, Tensor], Card]:
    """Read the tensors and the card of a file that `save` wrote.

    Args:
        path: a .safetensors file.

    Returns:
        The state dict (float16 becomes float32) and the card.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or has no card.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}")
    tensors, metadata = read_tensors(path)
    if "card" not in metadata:
        raise ValueError(f"{path} has no vidseg card; was it written by vidseg.weights.save?")
    tensors = {k: t.float() if t.dtype == torch.float16 else t for k, t in tensors.items()}
    return tensors, Card.from_json(metadata["card"], f"{path}: card")


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a .safetensors file that `read_tensors` checks by its sha256, whole or not at all.

    Args:
        path: the file.
        tensors: name -> contiguous tensor on the CPU.
        metadata: further words.

    Raises:
        OSError: it could not be written; names the file.
    """
    from safetensors.torch import save as to_bytes

    content = memoryview(to_bytes(dict(tensors)))
    start = 8 + int.from_bytes(content[:8], "little")  # the length of the header comes first
    signed = {**metadata, "sha256": _digest(tensors, metadata)}
    # By the library, words of the metadata come in another order each time.
    header = {"__metadata__": signed, **json.loads(bytes(content[8:start]))}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with replacing(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.write(content[start:])


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Of every name, type, shape and value in a file, and of its metadata."""
    found = hashlib.sha256(json.dumps(sorted(metadata.items())).encode())
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        found.update(tensor.flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a .safetensors file, and what else was written into it.

    Files of `write_tensors` are checked by their sha256; those of others have none.

    Args:
        path: the file.

    Returns:
        name -> tensor, and the metadata.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = dict(file.metadata() or {})
    except SafetensorError as error:
        raise ValueError(
            f"{path} is not a whole safetensors file ({error}); copy it again"
        ) from error
    wanted = metadata.pop("sha256", None)
    if wanted is not None and wanted != _digest(tensors, metadata):
        raise ValueError(f"{path} is damaged: its sha256 is another than it says; copy it again")
    return tensors, metadata


class _Inert:
    """Stands in for a class of the authors' framework: takes anything, does nothing."""

    def __init__(self, *args: Any, **options: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


# Names that research checkpoints carry beside their tensors. Nothing that can act is among them.
_STUBBED = re.compile(
    r"^(mmcv|mmengine|mmseg|addict)\.|^(argparse\.Namespace|easydict\.EasyDict)$|^pathlib\.\w+$"
)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a research checkpoint; tensors and plain values only, no code is run.

    A pickle is a program. It is read with `weights_only=True`; classes of mmcv, mmengine, argparse
    and pathlib become inert stubs, numpy scalars are allowed, anything else is refused.

    Args:
        path: a .pth, .pt, .ckpt, .tar or .safetensors file.

    Returns:
        What the file holds, a dict; for .safetensors its tensors.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, holds something else, or wants to run code.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty; copy it again")
    if path.suffix == ".safetensors":
        return read_tensors(path)[0]
    content = _unpickle(path)
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}, wanted a dict of tensors")
    return dict(content)


def read_tensor(path: str | Path) -> Tensor:
    """Read a file that `torch.save` made of one tensor, without running it.

    Args:
        path: the file.

    Returns:
        The tensor, on the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, holds something else, or wants to run code.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    content = _unpickle(path)
    if not isinstance(content, Tensor):
        raise ValueError(f"{path} holds a {type(content).__name__}, wanted one tensor")
    return content


def _unpickle(path: Path) -> Any:
    try:
        unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # the legacy (tar) format cannot be asked; weights_only decides below
        unsafe = []
    refused = [name for name in unsafe if not _STUBBED.match(name) and name not in _numpy_names()]
    if refused:
        raise ValueError(
            f"{path} was refused: besides tensors it wants to load {', '.join(sorted(refused))}. "
            "If you trust its source, open it there with torch.load and save only its state dict"
        )
    stubs = [
        (type(name.rsplit(".", 1)[-1], (_Inert,), {}), name)
        for name in unsafe
        if _STUBBED.match(name)
    ]
    allowed: list[Any] = [*stubs, *_numpy_globals()]
    try:
        with torch.serialization.safe_globals(allowed), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the pickle of what is then refused
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's own message advises to switch the protection off
        raise ValueError(
            f"{path} cannot be read as a checkpoint of plain tensors: it is damaged, "
            "no checkpoint, or wants to run code; copy it again, or ask for its state dict alone"
        ) from error


_NUMPY_KINDS = tuple(type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "u1", "?"))


def _numpy_globals() -> list[Any]:
    scalar = np._core.multiarray.scalar  # type: ignore[attr-defined]
    reconstruct = np._core.multiarray._reconstruct  # type: ignore[attr-defined]
    named = [
        (scalar, "numpy.core.multiarray.scalar"),
        (scalar, "numpy._core.multiarray.scalar"),
        (reconstruct, "numpy.core.multiarray._reconstruct"),
        (reconstruct, "numpy._core.multiarray._reconstruct"),
    ]
    return [*named, np.dtype, np.ndarray, *_NUMPY_KINDS]


def _numpy_names() -> set[str]:
    names = {
        f"numpy.{core}.multiarray.{what}"
        for core in ("core", "_core")
        for what in ("scalar", "_reconstruct")
    }
    kinds = {f"numpy.dtypes.{kind.__name__}" for kind in _NUMPY_KINDS}
    return names | {"numpy.dtype", "numpy.ndarray"} | kinds


def state_dict_of(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors in what `read_checkpoint` returned, with wrappers' prefixes taken off.

    Args:
        content: a state dict, or a dict that holds one as "state_dict" or "model".

    Returns:
        name -> tensor; a leading "module." (DataParallel) is removed where all names carry it.

    Raises:
        ValueError: there are no tensors.
    """
    for key in ("state_dict", "model", "model_state"):
        if isinstance(content.get(key), Mapping):
            content = content[key]
            break
    tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise ValueError(f"the checkpoint holds no tensors, only {sorted(content)[:5]}")
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): value for name, value in tensors.items()}
    return tensors


def load_strictly(
    model: torch.nn.Module, tensors: Mapping[str, Tensor], *, dead: Mapping[str, str] | None = None
) -> None:
    """Load a state dict in which every key is accounted for.

    Args:
        model: the module to fill.
        tensors: name -> tensor, under the module's names.
        dead: names that published checkpoints carry and the method does not use, with the reason.

    Raises:
        ValueError: keys are missing, unexpected or of another shape; all of them are listed.
    """
    wanted = model.state_dict()
    used = {name: value for name, value in tensors.items() if name not in (dead or {})}
    # Counters came with torch 0.4.1; older checkpoints have none and do not need them.
    missing = [k for k in wanted if k not in used and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in used if k not in wanted]
    shapes = [
        f"{k} {tuple(used[k].shape)} (wanted {tuple(wanted[k].shape)})"
        for k in used
        if k in wanted and used[k].shape != wanted[k].shape
    ]
    faults = [
        f"{what}: {', '.join(names)}"
        for what, names in (("missing", missing), ("unexpected", unexpected), ("shapes", shapes))
        if names
    ]
    if faults:
        raise ValueError(
            f"the checkpoint does not fit {type(model).__name__}; {'; '.join(faults)}. "
            "Is it of another method, another number of classes or of memory frames?"
        )
    model.load_state_dict(used, strict=False)

"""Weights on disk: safetensors with a card, and the authors' pickles read without running them."""

import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from vidseg.atomic import replacing

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class Card:
    """What it takes to use a model, saved with its weights.

    Attributes:
        architecture: name for `vidseg.create`; empty for a model that `create` did not make.
        options: what else `create` was given (JSON values).
        classes: names, by class index.
        palette: (R, G, B) of each class, 0..255.
        mean: of the pixels, RGB on the 0..255 scale; `normalise` subtracts it.
        std: of the pixels, RGB on the 0..255 scale; `normalise` divides by it.
        size_multiple: height and width are stretched to a multiple of this ...
        size_offset: ... and so many pixels more; 1 where the corners of maps are those of frames.
        fps: frame rate of the videos the model was trained on, None if unknown.
        trained_on: data set, split and protocol.
        source: where the weights come from.
        licence: of the weights.
        figures: measured results, name -> value.
    """

    architecture: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    palette: tuple[tuple[int, int, int], ...] = ()
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    size_multiple: int = 1
    size_offset: int = 0
    fps: float | None = None
    trained_on: str = ""
    source: str = ""
    licence: str = ""
    figures: dict[str, float] = field(default_factory=dict)

    def normalise(self, image: Tensor | np.ndarray) -> Tensor:
        """Turn pixels into the model's input.

        Args:
            image: (..., H, W, 3) uint8 RGB.

        Returns:
            (..., 3, H, W) float32, on the device of `image`.

        Raises:
            TypeError: the pixels are not uint8.
            ValueError: the last dimension is not 3.
        """
        if isinstance(image, np.ndarray):
            # torch refuses negative strides (a flipped view) and warns on read-only memory.
            image = torch.from_numpy(np.require(image, requirements=["C", "W"]))
        pixels = image
        if pixels.dtype != torch.uint8:
            raise TypeError(f"image must be uint8 RGB pixels, got {pixels.dtype}")
        if pixels.dim() < 3 or pixels.shape[-1] != 3:
            raise ValueError(f"image must be (..., H, W, 3), got {tuple(pixels.shape)}")
        mean = torch.tensor(self.mean, device=pixels.device)
        std = torch.tensor(self.std, device=pixels.device)
        return ((pixels - mean) / std).movedim(-1, -3).contiguous()

    def fit(self, frames: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Bring frames to a size that the model takes, rounding up to the next one.

        Frames are stretched, as the methods with such a rule do it; labels are asked for at the
        frame's own size afterwards, which stretches them back.

        Args:
            frames: (..., 3, H, W) float.
            size: (H, W) to see them at; their own by default.

        Returns:
            (..., 3, H', W'), the input itself where it fits.
        """
        wanted = size or (frames.shape[-2], frames.shape[-1])
        rounded = tuple(self.next_side(side) for side in wanted)
        if rounded == tuple(frames.shape[-2:]):
            return frames
        flat = frames.reshape(-1, *frames.shape[-3:])
        stretched = functional.interpolate(flat, rounded, mode="bilinear", align_corners=False)
        return stretched.reshape(*frames.shape[:-2], *rounded)

    def next_side(self, side: int) -> int:
        """The smallest height or width that the model takes and that is not below `side`.

        Example:
            >>> card = Card(size_multiple=8, size_offset=1)
            >>> card.next_side(1024), card.next_side(1025)
            (1025, 1025)
        """
        steps = -(-(side - self.size_offset) // self.size_multiple)
        return max(steps, 1) * self.size_multiple + self.size_offset

    def to_json(self) -> str:
        """The card as JSON text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Card":
        """The card that `to_json` wrote; fields of later versions are passed over."""
        known = {f.name for f in fields(cls)}
        values = {name: value for name, value in json.loads(text).items() if name in known}
        for name in ("classes", "mean", "std"):
            if name in values:
                values[name] = tuple(values[name])
        values["palette"] = tuple(tuple(colour) for colour in values.get("palette", ()))
        return cls(**values)


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
    from safetensors.torch import save as to_bytes

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
    with replacing(path) as file:
        file.write(to_bytes(tensors, metadata={"card": card.to_json()}))


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
    return tensors, Card.from_json(metadata["card"])


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a .safetensors file, and what else was written into it.

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
            return tensors, file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(
            f"{path} is not a whole safetensors file ({error}); copy it again"
        ) from error


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

"""The two halves of an image model: named, checked, run.

A method that works between encoder and decoder (`vidseg.adapters.local_memory`) takes the halves
of a network that it did not make; what is wrong with them is said here, before the first frame.
"""

import contextlib
from collections.abc import Callable, Iterator
from types import MethodType
from typing import Any

from torch import Tensor, nn

from vidseg.adapters.per_frame import PerFrame
from vidseg.segmenter import Memory, VideoSegmenter

Half = str | Callable[[Any, Any], Any]
"""A half of an image model: the name of a module in it, or a function of the model and the input.
"""


def run_half(model: nn.Module, half: Half, x: Any) -> Any:
    """Run one half of the model on `x`."""
    return model.get_submodule(half)(x) if isinstance(half, str) else half(model, x)


@contextlib.contextmanager
def explained(what: str, advice: str) -> Iterator[None]:
    """Turn what goes wrong inside into a ValueError that says where, and what to do."""
    try:
        yield
    except Exception as error:
        line = (str(error).splitlines() or [""])[0]  # some list every signature that there is
        raise ValueError(f"{what} ({type(error).__name__}: {line}); {advice}") from error


def find_halves(model: nn.Module, split: tuple[Half, Half] | None) -> tuple[Half, Half]:
    """The halves that are asked for, or those of a per-frame model of vidseg.

    Args:
        model: the image model.
        split: its halves; None where the model says itself.

    Raises:
        ValueError: the model has no such module, or does not say where it can be split.
        TypeError: `model` is no module; a half is neither a name nor a function.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")
    if split is not None:
        if not isinstance(split, (tuple, list)) or len(split) != 2:
            raise ValueError(f"split must be two halves, (first, second), got {split!r}")
        return _check_half(model, split[0]), _check_half(model, split[1])
    if isinstance(model, PerFrame):
        raise ValueError(
            "PerFrame runs its model as a whole, there is nothing between its halves; give the "
            "model itself, LocalMemory(per_frame.model, split=...)"
        )
    if not isinstance(model, VideoSegmenter):
        raise ValueError(
            f"{type(model).__name__} does not say where it can be split; pass split=(first, "
            f"second), names of modules (it has {_children(model)}) or functions of (model, input)"
        )
    if model.memory_type is not Memory:
        raise ValueError(
            f"{type(model).__name__} has a memory of its own; LocalMemory is for models of one "
            "frame"
        )
    return type(model).encode, type(model).decode


def _check_half(model: nn.Module, half: Half) -> Half:
    wanted = "split takes names of modules or functions of (model, input)"
    if isinstance(half, nn.Module):
        names = [repr(name) for name, module in model.named_modules() if module is half]
        advice = f"write {names[0]}" if names else "call it in a function"
        raise TypeError(f"{wanted}, got the module {type(half).__name__}; {advice}")
    if isinstance(half, MethodType):
        function = half.__func__.__qualname__
        raise TypeError(f"{wanted}, got a method of one object; write {function}")
    if isinstance(half, str):
        check_part(model, half, "split")
    elif not callable(half):
        raise TypeError(f"{wanted}, got {half!r}")
    return half


def check_part(model: nn.Module, name: str, option: str) -> None:
    """Raise ValueError where an option names a module that the model does not have."""
    if name not in dict(model.named_modules()):
        raise ValueError(
            f"{option}: {type(model).__name__} has no module {name!r}; it has {_children(model)}"
        )


def _children(model: nn.Module) -> str:
    return ", ".join(name for name, _ in model.named_children()) or "none"


def check_maps(found: list[Any], level: int) -> None:
    """Raise ValueError unless the first half gave tensors for one frame, at `level` a map."""
    shapes = [tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__ for x in found]
    if not -len(found) <= level < len(found):
        raise ValueError(f"level={level}: the first half gives {len(found)} tensors, {shapes}")
    x = found[level]
    if not all(isinstance(leaf, Tensor) for leaf in found) or x.dim() != 4 or len(x) != 1:
        raise ValueError(
            f"the first half must give tensors, that at level={level} a map (N, D, h, w); got "
            f"{shapes} for one frame"
        )

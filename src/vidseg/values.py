"""Frozen dataclasses of tensors that torch can take apart and put together: values."""

from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree


def register_value(cls: type, static: frozenset[str]) -> None:
    """Make a frozen dataclass a pytree whose leaves are all fields but the static ones.

    Args:
        cls: the dataclass.
        static: names of the fields that are no tensors; they must be hashable.
    """

    def flatten(value: Any) -> tuple[list[Any], Any]:
        names = [f.name for f in fields(value) if f.name not in static]
        constants = tuple(
            (f.name, getattr(value, f.name)) for f in fields(value) if f.name in static
        )
        return [getattr(value, name) for name in names], (tuple(names), constants)

    def unflatten(children: Any, context: Any) -> Any:
        names, constants = context
        return cls(**dict(zip(names, children, strict=True)), **dict(constants))

    def flatten_with_keys(value: Any) -> tuple[list[Any], Any]:
        children, context = flatten(value)
        keys = [pytree.GetAttrKey(name) for name in context[0]]
        return list(zip(keys, children, strict=True)), context

    pytree.register_pytree_node(
        cls,
        flatten,
        unflatten,
        flatten_with_keys_fn=flatten_with_keys,
        serialized_type_name=f"{cls.__module__}.{cls.__qualname__}",
    )


STATIC = frozenset({"frames_seen", "phase"})
"""The fields of a `Memory` that are no tensors."""


@dataclass(frozen=True)
class Memory:
    """What a method knows of the past: a value, never edited.

    Subclasses are frozen dataclasses of tensors, or of fixed-length tuples of tensors, oldest
    first. Each is a pytree, can be pickled and moved. The base class is the memory of a method
    that has none.

    Attributes:
        frames_seen: frames remembered so far; static (not a leaf), saturates where warm-up ends.
        phase: of the next frame, in a method with a `period`; static. `forward` keeps it.
    """

    frames_seen: int = field(default=0, kw_only=True)
    phase: int = field(default=0, kw_only=True)

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        register_value(cls, static=STATIC)

    def to(self, *args: Any, **options: Any) -> "Memory":
        """The same memory on another device, or of another dtype; arguments as `Tensor.to`.

        As in `nn.Module.to`, a dtype is for floats: labels and counts keep theirs.
        """

        def moved(leaf: Tensor) -> Tensor:
            if leaf.is_floating_point():
                return leaf.to(*args, **options)
            return leaf.to(leaf.new_empty(0).to(*args, **options).device)

        return pytree.tree_map(moved, self)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors together."""
        return sum(leaf.nbytes for leaf in pytree.tree_leaves(self))

    def __getstate__(self) -> dict[str, Any]:
        return {name: pytree.tree_map(_own_storage, value) for name, value in vars(self).items()}


register_value(Memory, static=STATIC)


def keep_finite(memory: Any, before: Any) -> Any:
    """The next memory of streams, without what is not finite in it.

    Args:
        memory: what a frame would leave behind.
        before: the memory that the frame met, of the same leaves.

    Returns:
        `memory`, with the leaf of `before` (zeros, where it had another size) for every stream
        whose new leaf has NaN or infinity; leaves that both share are not looked at.
    """
    leaves, structure = pytree.tree_flatten(memory)
    past = pytree.tree_leaves(before)
    kept = [
        leaf if any(leaf is old for old in past) else _where_finite(leaf, own)
        for leaf, own in zip(leaves, past, strict=True)
    ]
    return pytree.tree_unflatten(kept, structure)


def _where_finite(leaf: Tensor, before: Tensor) -> Tensor:
    is_finite = leaf.isfinite().flatten(1).all(1)
    before = before.to(leaf) if before.shape == leaf.shape else torch.zeros_like(leaf)
    return leaf.where(is_finite.reshape(-1, *[1] * (leaf.dim() - 1)), before)


def _own_storage(leaf: Any) -> Any:
    """A leaf may be a view into a whole encoded clip; pickle would write all of the clip."""
    if isinstance(leaf, Tensor) and leaf.untyped_storage().nbytes() > leaf.nbytes:
        return leaf.clone()
    return leaf

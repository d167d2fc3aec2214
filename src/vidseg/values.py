"""Frozen dataclasses of tensors that torch can take apart and put together: values."""

from dataclasses import fields
from typing import Any

from torch.utils import _pytree as pytree

Size = tuple[int, int]
"""(H, W) in pixels."""


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

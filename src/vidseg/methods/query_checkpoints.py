"""Checkpoints of VidEoMT, PMT and LVMT: the authors' and transformers' names, and class order."""

from typing import Any

from torch import Tensor

from vidseg.backbones.vit_layouts import encoder_of, kind_of

# Classes of VSPW by the channel of the authors' class head: countable things, then the rest.
_THINGS = (
    *(2, 4, 8, 10, 41, 43, 44, *range(46, 53), *range(54, 57), *range(60, 66), 72, 74),
    *(*range(76, 80), *range(82, 93), *range(95, 98), *range(99, 103), *range(106, 110)),
    *(*range(114, 119), 122, 123),
)


THINGS_FIRST = (*_THINGS, *(label for label in range(124) if label not in _THINGS))


# The authors' and transformers' names of what is no encoder -> ours.
HEAD_NAMES = (
    ("q.weight", "queries"),
    ("query.weight", "queries"),
    ("query_updater.", "propagation."),
    ("query_gru.", "propagation."),
    ("class_head.", "heads.class_head."),
    ("class_predictor.", "heads.class_head."),
    ("mask_head.fc1.", "heads.mask_head.0."),
    ("mask_head.fc2.", "heads.mask_head.2."),
    ("mask_head.fc3.", "heads.mask_head.4."),
    ("mask_head.", "heads.mask_head."),
    ("upscale_block.block.", "heads.upscale."),
    ("upscale.", "heads.upscale."),
)


def without_prefix(tensors: dict[str, Tensor], dead: dict[str, str]) -> dict[str, Tensor]:
    """The tensors that play a part, without the detector's `backbone.` before each name."""
    return {
        name.removeprefix("backbone."): value for name, value in tensors.items() if name not in dead
    }


def split_encoder(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The encoder under the names of `VisionTransformer`, and the rest under ours.

    Raises:
        ValueError: there is no encoder.
    """
    inner = "encoder.backbone."
    is_nested = any(name.startswith(inner) for name in tensors)
    heads = tuple(theirs for theirs, _ in HEAD_NAMES)
    raw, rest = {}, {}
    for name, value in tensors.items():
        if is_nested and name.startswith(inner):
            raw[name.removeprefix(inner)] = value
        elif not is_nested and not name.startswith(heads):
            raw[name] = value
        else:
            rest[head_name(name)] = value
    encoder = encoder_of(raw)
    if "patch_embed.weight" not in encoder or "blocks.0.attention.qkv.weight" not in encoder:
        raise ValueError(
            "not a checkpoint of VidEoMT, PMT or LVMT: it holds no vision transformer; its first "
            f"keys are {', '.join(list(tensors)[:3])}"
        )
    return encoder, rest


def head_name(name: str) -> str:
    """Our name of a tensor that is no encoder's; the name itself where it is unknown."""
    for theirs, ours in HEAD_NAMES:
        if name.startswith(theirs):
            rest = name.removeprefix(theirs)
            return ours + rest.replace("layernorm2d", "norm")
    return name


def encoder_options(encoder: dict[str, Tensor]) -> dict[str, Any]:
    """The options of the encoder that these tensors, under our names, belong to.

    Raises:
        ValueError: there are no register tokens.
    """
    if "register_tokens" not in encoder:
        raise ValueError(
            "the checkpoint has no register tokens; those of VidEoMT, PMT and LVMT have four"
        )
    blocks = {int(name.split(".")[1]) for name in encoder if name.startswith("blocks.")}
    found = {
        "backbone": kind_of(encoder),
        "width": encoder["patch_embed.weight"].shape[0],
        "depth": 1 + max(blocks),
        "registers": encoder["register_tokens"].shape[1],
    }
    if "positions" in encoder:
        found["position_grid"] = round(encoder["positions"].shape[1] ** 0.5)
    return found


def head_options(rest: dict[str, Tensor]) -> dict[str, Any]:
    """Number of classes and queries, from the tensors under our names.

    Raises:
        ValueError: there are no queries or no class head.
    """
    missing = [name for name in ("queries", "heads.class_head.weight") if name not in rest]
    if missing:
        raise ValueError(f"the checkpoint has no {' and no '.join(missing)} (here so called)")
    return {
        "num_classes": rest["heads.class_head.weight"].shape[0] - 1,
        "queries": rest["queries"].shape[0],
    }


def ordered_classes(rest: dict[str, Tensor], order: str | None) -> dict[str, Tensor]:
    """The heads with the classes in the order of the data set's labels.

    The authors' head for VSPW counts its 58 things first, then the other 66 classes.

    Raises:
        ValueError: the order is unknown, or the head has not 124 classes.
    """
    num_classes = rest["heads.class_head.weight"].shape[0] - 1
    if order is None:
        order = "vspw-things-first" if num_classes == len(THINGS_FIRST) else "as-is"
    if order == "as-is":
        return rest
    if order != "vspw-things-first":
        raise ValueError(f'classes_order must be "vspw-things-first" or "as-is", got {order!r}')
    if num_classes != len(THINGS_FIRST):
        raise ValueError(
            f'classes_order="vspw-things-first" is for 124 classes, the head has {num_classes}'
        )
    rows = [*sorted(range(124), key=lambda channel: THINGS_FIRST[channel]), 124]
    names = ("heads.class_head.weight", "heads.class_head.bias")
    return {**rest, **{name: rest[name][rows] for name in names}}

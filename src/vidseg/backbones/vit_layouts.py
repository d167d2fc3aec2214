"""Checkpoints of DINOv2 and DINOv3 under the names of their authors, timm and transformers."""

import logging
import math
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from vidseg.backbones.vit import PATCH, VisionTransformer, resize_positions
from vidseg.hub import download
from vidseg.weights import load_strictly, read_checkpoint, state_dict_of

log = logging.getLogger("vidseg.backbones.vit")

# Width -> repository on the hub. DINOv2 is Apache-2.0, DINOv3 under Meta's own licence, and gated.
REPOSITORIES = {
    "dinov2": {
        384: "timm/vit_small_patch14_reg4_dinov2.lvd142m",
        768: "timm/vit_base_patch14_reg4_dinov2.lvd142m",
        1024: "timm/vit_large_patch14_reg4_dinov2.lvd142m",
    },
    "dinov3": {
        384: "facebook/dinov3-vits16-pretrain-lvd1689m",
        768: "facebook/dinov3-vitb16-pretrain-lvd1689m",
        1024: "facebook/dinov3-vitl16-pretrain-lvd1689m",
    },
}

# The first pattern that matches a whole key gives our name; blocks have their own table.
_NAMES = (
    (r"(?:embeddings\.|patch_embed\.)?cls_token", "class_token"),
    (
        r"(?:embeddings\.|patch_embed\.)?(?:reg_token|register_tokens|storage_tokens)",
        "register_tokens",
    ),
    (r"pos_embed|embeddings\.position_embeddings(?:\.weight)?", "positions"),
    (r"patch_embed\.proj\.(\w+)", r"patch_embed.\1"),
    (r"(?:embeddings|patch_embed)\.patch_embeddings\.(?:projection\.)?(\w+)", r"patch_embed.\1"),
    (r"(?:norm|layernorm)\.(\w+)", r"norm.\1"),
)
_BLOCK = re.compile(r"(?:blocks|layers|layer|encoder\.layer|model\.layer)\.(\d+)\.(.+)")
_PARTS = (
    (r"norm([12])\.(\w+)", r"norm\1.\2"),
    (r"(?:attn\.qkv|attention\.qkv_proj)\.(weight|bias)", r"attention.qkv.\1"),
    (r"attention\.([qkv])_proj\.(\w+)", r"attention.\1.\2"),
    (r"attention\.attention\.([qkv])(?:uery|ey|alue)\.(\w+)", r"attention.\1.\2"),
    (r"(?:attn\.proj|attention\.o_proj|attention\.out_proj|attention\.output\.dense)\.(\w+)",
     r"attention.projection.\1"),
    (r"(?:ls|layer_scale)([12])\.(?:gamma|lambda1)", r"scale\1"),
    (r"mlp\.(?:fc1|up_proj)\.(\w+)", r"mlp.0.\1"),
    (r"mlp\.(?:fc2|down_proj)\.(\w+)", r"mlp.2.\1"),
)  # fmt: skip


def our_name(name: str) -> str | None:
    """The name of an encoder's tensor in `VisionTransformer`; None where it is no encoder's."""
    if match := _BLOCK.fullmatch(name):
        number, part = match.groups()
        found = _first(_PARTS, part)
        return None if found is None else f"blocks.{number}.{found}"
    return _first(_NAMES, name)


def encoder_of(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The encoder in a checkpoint of any layout, under our names.

    Queries, keys and values become one tensor. Where learned positions have an entry for the class
    token (the authors of DINOv2, transformers), it is added to the token. Keys that are no
    encoder's stay out.

    Args:
        tensors: a state dict, without what stands before the encoder's names.

    Returns:
        our name -> tensor, for `VisionTransformer.load_state_dict`.

    Raises:
        ValueError: queries, keys and values are not all there.
    """
    named = {ours: value for name, value in tensors.items() if (ours := our_name(name))}
    has_positions = "positions" in named
    if has_positions:
        _unpack_positions(named)
    prefixes = {name.rpartition(".attention.")[0] for name in named if ".attention." in name}
    for prefix in sorted(prefixes):
        _join_attention(named, f"{prefix}.attention", key_bias=has_positions)
    return named


def kind_of(encoder: Mapping[str, Tensor]) -> str:
    """Tell "dinov2", which has learned positions, from "dinov3"; tensors under our names."""
    return "dinov2" if "positions" in encoder else "dinov3"


def load_pretrained(network: VisionTransformer, source: str | Path) -> None:
    """Fill an encoder with pre-trained weights: raw DINOv2 or DINOv3, in any layout.

    Patches of 14 pixels become patches of 16, and learned positions are resized to the network's
    grid.

    Args:
        network: the encoder.
        source: "hub" downloads (the licence is shown first); anything else is a local file.

    Raises:
        FileNotFoundError: there is no such file, or the hub cannot be reached.
        ValueError: the file is of the other kind, of another size, or of no vision transformer.
    """
    path = _download(network) if str(source) == "hub" else Path(source).expanduser()
    tensors = encoder_of(state_dict_of(read_checkpoint(path)))
    if "patch_embed.weight" not in tensors:
        raise ValueError(f"{path} holds no vision transformer; wanted DINOv2 or DINOv3")
    if kind_of(tensors) != network.kind:
        names = {"dinov2": "DINOv2", "dinov3": "DINOv3"}
        raise ValueError(
            f"{path} is a {names[kind_of(tensors)]}, the model wants a {names[network.kind]}; make "
            f'it with backbone="{kind_of(tensors)}"'
        )
    if "register_tokens" not in tensors and network.num_prefix > 1:
        raise ValueError(
            f"{path} has no register tokens, the model wants {network.num_prefix - 1}; take the "
            "weights with registers (timm's *_reg4_*), or make the model with registers=0"
        )
    tensors = to_patch_16(tensors)
    if "positions" in tensors:
        side = math.isqrt(network.positions.shape[1])
        grid = tensors["positions"].unflatten(1, (math.isqrt(tensors["positions"].shape[1]), -1))
        tensors["positions"] = resize_positions(grid, side, side).flatten(1, 2)
    tensors.setdefault("register_tokens", network.register_tokens.detach())
    load_strictly(network, {name: value.float() for name, value in tensors.items()})


def _download(network: VisionTransformer) -> Path:
    repository = REPOSITORIES[network.kind].get(network.width)
    if repository is None:
        raise FileNotFoundError(
            f"the hub has no {network.kind} of width {network.width}; pass backbone_weights=PATH"
        )
    if network.kind == "dinov3":
        log.warning("%s is under Meta's DINOv3 licence, which has conditions", repository)
    return download(repository, advice="bring the file and pass backbone_weights=PATH")


def to_patch_16(encoder: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Bring a raw DINOv2 (patches of 14 pixels) to patches of 16, as timm does it.

    The kernel is resized so that its answer to a resized patch is the answer to the patch
    (FlexiViT, Beyer et al., CVPR 2023: the pseudo-inverse of bicubic resizing).

    Args:
        encoder: under our names.

    Returns:
        The same with a kernel of 16 x 16.
    """
    kernel = encoder["patch_embed.weight"]
    side = kernel.shape[-1]
    if side == PATCH:
        return dict(encoder)
    # Column k is what the k-th pixel of a small patch becomes in the large one.
    basis = torch.eye(side * side).view(side * side, 1, side, side)
    resized = F.interpolate(
        basis, (PATCH, PATCH), mode="bicubic", antialias=True, align_corners=False
    )
    inverse = torch.linalg.pinv(resized.flatten(1))
    converted = kernel.float().flatten(2) @ inverse.T
    return {**encoder, "patch_embed.weight": converted.unflatten(2, (PATCH, PATCH))}


def _first(table: tuple[tuple[str, str], ...], name: str) -> str | None:
    for pattern, ours in table:
        if match := re.fullmatch(pattern, name):
            return match.expand(ours)
    return None


def _unpack_positions(named: dict[str, Tensor]) -> None:
    positions = named["positions"]
    if positions.dim() == 2:  # transformers' VidEoMT has an embedding's table
        positions = positions[None]
    side = round((positions.shape[1] - 1) ** 0.5)
    if side * side == positions.shape[1] - 1:
        named["class_token"] = named["class_token"] + positions[:, :1]
        positions = positions[:, 1:]
    named["positions"] = positions


def _join_attention(named: dict[str, Tensor], prefix: str, *, key_bias: bool) -> None:
    """Make `prefix`.qkv of three tensors, and split its bias where keys have none."""
    parts = [named.pop(f"{prefix}.{part}.weight", None) for part in "qkv"]
    if all(part is not None for part in parts):
        named[f"{prefix}.qkv.weight"] = torch.cat([p for p in parts if p is not None])
    elif any(part is not None for part in parts) or f"{prefix}.qkv.weight" not in named:
        raise ValueError(f"the checkpoint has not all of queries, keys and values of {prefix}")
    biases = [named.pop(f"{prefix}.{part}.bias", None) for part in "qkv"]
    joined = named.pop(f"{prefix}.qkv.bias", None)
    query, key, value = biases if joined is None else joined.chunk(3)
    if query is None or value is None:
        return  # load_strictly lists what is missing
    if not key_bias:
        named |= {f"{prefix}.query_bias": query, f"{prefix}.value_bias": value}
        return
    # A key's bias adds one number to all scores of a query, so the softmax does not see it.
    key = torch.zeros_like(query) if key is None else key
    named[f"{prefix}.qkv.bias"] = torch.cat([query, key, value])

"""Checkpoints of SegFormer and MiT under the names of its authors, mmsegmentation, transformers.

Written from the names and shapes in such files. The three differ in names, in what is joined in one
tensor (keys with values; queries, too), and in the epsilons of layer norm that their code uses. A
model of transformers 5 has other names than one of transformers 4; both write the files of 4.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor

from vidseg.backbones import BACKBONES

Layout = Literal["authors", "mmseg", "transformers"]

NORM_EPS: dict[Layout, float | None] = {"authors": None, "mmseg": 1e-6, "transformers": 1e-5}
"""`norm_eps` of `MiT` that gives what each code base computes."""

NVIDIA_LICENCE = "NVIDIA Source Code License for SegFormer: research and evaluation, non-commercial"
OFFICIAL_LICENCE = f"as it says; if it descends from the published MiT weights: {NVIDIA_LICENCE}"
"""For the card of a loaded checkpoint, whose origin the tensors do not tell."""


def layout_of(names: Iterable[str]) -> Layout:
    """Tell whose key names these are: the authors', where no other layout matches.

    Args:
        names: the keys of a checkpoint, of the encoder alone or of the whole model.
    """
    for name in names:
        if re.search(r"(^|\.)(encoder\.(patch_embeddings|block)|stages)\.\d\.", name):
            return "transformers"
        if re.search(r"(^|\.)layers\.\d\.\d+\.", name):
            return "mmseg"
    return "authors"


def encoder_of(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The encoder in a checkpoint of any layout, under the authors' names.

    Args:
        tensors: a checkpoint of the encoder (ImageNet) or of a whole model.

    Returns:
        name in `MiT` -> tensor; heads and decoders are left out, what is unknown keeps its name.
    """
    layout = layout_of(tensors)
    found = {
        _encoder_name(name, layout): value
        for name, value in tensors.items()
        if not name.startswith(("head.", "classifier.", "decode_head."))
    }
    if layout == "mmseg":
        return _split_joined(found)
    return _join_split(found) if layout == "transformers" else found


def decoder_of(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The all-MLP decoder of a whole model of any layout.

    Args:
        tensors: the checkpoint.

    Returns:
        name -> tensor: those of `MLPDecoder`, with "classifier.weight" and "classifier.bias";
        whatever else is under `decode_head.` keeps its name, the encoder is left out.
    """
    layout = layout_of(tensors)
    prefix = "decode_head."
    found = {}
    for name, value in tensors.items():
        if name.startswith(prefix):
            ours = _decoder_name(name.removeprefix(prefix), layout)
            found[name if ours is None else ours] = value
    fusion = "fusion.conv.weight"
    if layout == "mmseg" and fusion in found:
        # mmsegmentation joins the finest scale first, everybody else the coarsest.
        found[fusion] = torch.cat(found[fusion].chunk(4, 1)[::-1], 1)
    return found


def backbone_of(encoder: Mapping[str, Tensor]) -> str:
    """Name the MiT that these tensors belong to.

    Args:
        encoder: what `encoder_of` returned.

    Returns:
        A name of BACKBONES.

    Raises:
        ValueError: it is none of B0 to B5.
    """
    embeddings = [encoder.get(f"patch_embed{stage}.proj.weight") for stage in range(1, 5)]
    widths = tuple(0 if weight is None else weight.shape[0] for weight in embeddings)
    blocks = tuple(
        len({name.split(".")[1] for name in encoder if name.startswith(f"block{stage}.")})
        for stage in range(1, 5)
    )
    for name, made in BACKBONES.items():
        if name.startswith("mit_") and (made["widths"], made["blocks"]) == (widths, blocks):
            return name
    raise ValueError(
        f"no MiT-B0 to B5 has stages of widths {widths} and {blocks} blocks; is it a checkpoint of "
        "SegFormer, CFFM or CFFM++?"
    )


# A pattern in their names -> the head of our name (with the stage, counted from 1, and the block)
# and, by what follows the pattern in theirs, what follows in ours. The last part is kept.
Names = dict[str, tuple[str, dict[str, str]]]

_MLP = {"mlp.fc1": "mlp.fc1", "mlp.dwconv.dwconv": "mlp.dwconv.dwconv", "mlp.fc2": "mlp.fc2"}
_TRANSFORMERS_4: Names = {
    r"encoder\.patch_embeddings\.(\d)\.": (
        "patch_embed{0}",
        {"proj": "proj", "layer_norm": "norm"},
    ),
    r"encoder\.layer_norm\.(\d)\.": ("norm{0}", {"": ""}),
    r"encoder\.block\.(\d)\.(\d+)\.": (
        "block{0}.{1}",
        {
            "layer_norm_1": "norm1",
            "attention.self.query": "attn.q",
            "attention.self.key": "attn.key",
            "attention.self.value": "attn.value",
            "attention.self.sr": "attn.sr",
            "attention.self.layer_norm": "attn.norm",
            "attention.output.dense": "attn.proj",
            "layer_norm_2": "norm2",
            "mlp.dense1": "mlp.fc1",
            "mlp.dense2": "mlp.fc2",
            **_MLP,
        },
    ),
}
_TRANSFORMERS_5: Names = {
    r"stages\.(\d)\.patch_embeddings\.": (
        "patch_embed{0}",
        {"proj": "proj", "layer_norm": "norm"},
    ),
    r"stages\.(\d)\.layer_norm\.": ("norm{0}", {"": ""}),
    r"stages\.(\d)\.blocks\.(\d+)\.": (
        "block{0}.{1}",
        {
            "layernorm_before": "norm1",
            "attention.q_proj": "attn.q",
            "attention.k_proj": "attn.key",
            "attention.v_proj": "attn.value",
            "attention.sequence_reduction.sequence_reduction": "attn.sr",
            "attention.sequence_reduction.layer_norm": "attn.norm",
            "attention.o_proj": "attn.proj",
            "layernorm_after": "norm2",
            **_MLP,
        },
    ),
}
_ENCODERS: dict[Layout, Names] = {
    "authors": {},
    "mmseg": {
        r"layers\.(\d)\.0\.": ("patch_embed{0}", {"projection": "proj", "norm": "norm"}),
        r"layers\.(\d)\.2\.": ("norm{0}", {"": ""}),
        r"layers\.(\d)\.1\.(\d+)\.": (
            "block{0}.{1}",
            {
                "norm1": "norm1",
                "attn.attn": "attn",
                "attn.attn.out_proj": "attn.proj",
                "attn.sr": "attn.sr",
                "attn.norm": "attn.norm",
                "norm2": "norm2",
                "ffn.layers.0": "mlp.fc1",
                "ffn.layers.1": "mlp.dwconv.dwconv",
                "ffn.layers.4": "mlp.fc2",
            },
        ),
    },
    "transformers": {**_TRANSFORMERS_4, **_TRANSFORMERS_5},
}

# by the part of the name before "weight" and the like
_DECODERS: dict[Layout, dict[str, str]] = {
    "authors": {
        **{f"linear_c{k + 1}.proj": f"laterals.{k}" for k in range(4)},
        "linear_fuse.conv": "fusion.conv",
        "linear_fuse.bn": "fusion.bn",
        "linear_pred": "classifier",
    },
    "mmseg": {
        **{
            f"convs.{k}.{part}": f"laterals.{k}.{part}" for k in range(4) for part in ("conv", "bn")
        },
        "fusion_conv.conv": "fusion.conv",
        "fusion_conv.bn": "fusion.bn",
        "conv_seg": "classifier",
    },
    "transformers": {
        **{f"linear_c.{k}.proj": f"laterals.{k}" for k in range(4)},
        **{f"linear_projections.{k}.proj": f"laterals.{k}" for k in range(4)},
        "linear_fuse": "fusion.conv",
        "batch_norm": "fusion.bn",
        "classifier": "classifier",
    },
}


def _encoder_name(name: str, layout: Layout) -> str:
    """Our name for theirs, or theirs where it is unknown."""
    for pattern, (head, parts) in _ENCODERS[layout].items():
        match = re.search(rf"(?:^|\.){pattern}", name)
        part, _, leaf = name[match.end() :].rpartition(".") if match else ("", "", "")
        if match and part in parts:
            stage, *block = match.groups()
            return ".".join(filter(None, (head.format(int(stage) + 1, *block), parts[part], leaf)))
    return name.removeprefix("backbone.")


def _decoder_name(name: str, layout: Layout) -> str | None:
    part, _, leaf = name.rpartition(".")
    ours = _DECODERS[layout].get(part)
    return None if ours is None else f"{ours}.{leaf}"


def _split_joined(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """mmsegmentation: queries, keys and values are one tensor, linear layers 1x1 convolutions."""
    found = {}
    for name, value in tensors.items():
        if ".attn.in_proj_" in name:
            channels = value.shape[0] // 3
            found[name.replace(".in_proj_", ".q.")] = value[:channels]
            found[name.replace(".in_proj_", ".kv.")] = value[channels:]
        elif re.search(r"\.fc[12]\.weight$", name):
            found[name] = value.flatten(1)
        else:
            found[name] = value
    return found


def _join_split(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """transformers: keys and values are two tensors."""
    found = {}
    for name, value in tensors.items():
        if ".attn.key." in name:
            other = name.replace(".key.", ".value.")
            if other in tensors:
                found[name.replace(".key.", ".kv.")] = torch.cat([value, tensors[other]])
        elif ".attn.value." not in name:
            found[name] = value
    return found

"""CFFM's and CFFM++'s weights under the names of their authors; a library, not a test."""

import torch

from vidseg.methods.cffm import CONSTANTS


def official(model):
    """A model's state dict under the authors' names, with all that they keep beside it."""
    tensors = {}
    for name, value in model.state_dict().items():
        part, _, rest = name.partition(".")
        if part == "decoder" and rest.startswith("laterals."):
            _, scale, leaf = rest.split(".")
            tensors[f"decode_head.linear_c{int(scale) + 1}.proj.{leaf}"] = value
        elif part == "decoder":
            tensors[f"decode_head.linear_fuse.{rest.removeprefix('fusion.')}"] = value
        elif part.endswith("classifier"):
            which = {"classifier": "", "video": "2", "prototype": "3"}[part.partition("_")[0]]
            tensors[f"decode_head.linear_pred{which}.{rest}"] = value
        elif part == "blocks":
            number, inner = rest.split(".", 1)
            head = f"decode_head.decoder_focal.blocks.{number}."
            tensors[head + THEIRS.get(inner, inner)] = value
        else:
            tensors[name] = value
    for number in range(len(model.blocks)):
        head = f"decode_head.decoder_focal.blocks.{number}.attn."
        tensors |= {head + name: torch.from_numpy(index) for name, index in CONSTANTS.items()}
    dead = {"weight": torch.zeros(3, 128, 1, 1), "bias": torch.zeros(3)}
    return tensors | {f"decode_head.conv_seg.{leaf}": value for leaf, value in dead.items()}


TABLES = "attn.relative_position_bias_table"
THEIRS = {
    **{f"pool_target.{leaf}": f"pool_layers.0.{leaf}" for leaf in ("weight", "bias")},
    **{
        f"pool_references.{k}.{leaf}": f"pool_layers_clips.{k}.{leaf}"
        for k in range(3)
        for leaf in ("weight", "bias")
    },
    "own_bias": TABLES,
    "rolled_bias": f"{TABLES}_to_neighbors",
    "target_bias": f"{TABLES}_to_windows.0",
    **{f"reference_biases.{k}": f"{TABLES}_to_windows_clips.{k}" for k in range(3)},
    **{f"{p}.{leaf}": f"attn.{p}.{leaf}" for p in ("qkv", "proj") for leaf in ("weight", "bias")},
    **{f"{p}.{leaf}": f"mlp.{p}.{leaf}" for p in ("fc1", "fc2") for leaf in ("weight", "bias")},
}

"""TDNet's names of tensors, in the authors' checkpoints and in those of a per-frame PSPNet."""

import re

from torch import Tensor

from vidseg.backbones.imagenet import to_backbone_keys
from vidseg.methods.method import Options

DEAD = (
    (r"teacher\.", "the teacher, used in training only"),
    (r"pretrained\d\.fc\.", "ImageNet's classifier, never used"),
    (r"ffm_(32|8)_\d\.smooth\.", "the authors' code makes it and never uses it at this scale"),
    (r"ffm_4_\d\.up\.", "the authors' code makes it and never uses it at this scale"),
    (r"head_aux\d\.", "the authors' code makes it and never uses it"),
)
"""The beginning of a name in the authors' checkpoints -> why what has it is left out."""

# official name -> ours, in which P is the path, from 0; tried in this order
_RENAMES = (
    (r"psp(\d)\.conv(\d)\.(\d)\.", lambda m: f"neck.P.features.{int(m[2]) - 1}.{int(m[3]) + 1}."),
    (r"ffm_(?:32|16|8|4)_(\d)\.\w+\.(?:conv|bn)\.", lambda m: _fast_name(m[0])),
    (r"enc(\d)\.w_vs\.0\.conv\.", lambda m: "projection.P.value."),
    (r"enc(\d)\.w_([qk])s\.(0\.conv|0\.bn|1\.conv)\.", lambda m: _projection_name(m[2], m[3])),
    (r"layer_norm(\d)\.ln\.", lambda m: "norm.P."),
    (r"head(\d)\.conv5\.", lambda m: "head.P."),
    (r"head(\d)\.conv\.(conv|bn)\.", lambda m: f"head.P.0.{int(m[2] == 'bn')}."),
    (r"head(\d)\.conv_out\.", lambda m: "head.P.1."),
    (r"auxlayer(\d)\.conv5\.", lambda m: "auxiliary_head.P."),
)
_FAST_PARTS = {
    "w_qs": "query",
    "w_ks": "key",
    "w_vs": "value",
    "latlayer3": "lateral",
    "up": "up",
    "smooth": "smooth",
}


def _fast_name(name: str) -> str:
    scale, part, layer, _ = name.split(".")[0].split("_")[1], *name.split(".")[1:]
    number = ("4", "8", "16", "32").index(scale)
    return f"neck.P.scales.{number}.{_FAST_PARTS.get(part, part)}.{int(layer == 'bn')}."


def _projection_name(which: str, layer: str) -> str:
    place = {"0.conv": 0, "0.bn": 1, "1.conv": 3}[layer]
    return f"projection.P.{'query' if which == 'q' else 'key'}.{place}."


def from_official_keys(tensors: dict[str, Tensor], paths: int) -> dict[str, Tensor]:
    """Our names for the authors'; what is unknown keeps its own."""
    renamed: dict[str, Tensor] = {}
    backbones: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if match := re.match(r"pretrained(\d)\.(.*)", name):
            backbones.setdefault(int(match[1]) - 1, {})[match[2]] = value
        elif match := re.match(r"atn(\d)(?:_(\d))?\.fc\.0\.conv\.(.*)", name):
            path = int(match[1])
            # The source is named; the one after the present path is the oldest.
            place = (int(match[2]) - path - 1) % paths if match[2] else 0
            flat = value.flatten(1) if value.dim() == 4 else value
            renamed[f"attention.{path - 1}.{place}.linear.{match[3]}"] = flat
        else:
            renamed[_from_official_key(name)] = value
    for path, network in backbones.items():
        ours = to_backbone_keys(network).items()
        renamed |= {f"backbone.{path}.{name}": value for name, value in ours}
    return renamed


def _from_official_key(name: str) -> str:
    for pattern, ours in _RENAMES:
        if match := re.match(pattern, name):
            return ours(match).replace(".P.", f".{int(match[1]) - 1}.") + name[match.end() :]
    return name


def infer_options(tensors: dict[str, Tensor]) -> Options:
    """The arguments of the model that these tensors, under the authors' names, belong to."""
    is_fanet = any(name.startswith("ffm_") for name in tensors)
    classifier = "head1.conv_out.weight" if is_fanet else "head1.conv5.4.weight"
    needed = (classifier, "enc1.w_vs.0.conv.weight", "enc1.w_ks.1.conv.weight")
    needed = (*needed, "layer_norm1.ln.weight", "pretrained1.layer3.0.conv1.weight")
    missing = [name for name in needed if name not in tensors]
    if missing:
        raise ValueError(
            f"not a whole TDNet checkpoint: there is no {', '.join(missing)}; its first keys are "
            f"{', '.join(list(tensors)[:3])}"
        )
    blocks = {name.split(".")[2] for name in tensors if name.startswith("pretrained1.layer3.")}
    has_bottlenecks = "pretrained1.layer1.0.conv3.weight" in tensors
    depths = {6: 50, 23: 101} if has_bottlenecks else {2: 18, 6: 34}
    if len(blocks) not in depths:
        raise ValueError(
            f"the checkpoint has {len(blocks)} blocks in its third stage, wanted 2 (ResNet-18), 6 "
            "(ResNet-34 and 50) or 23 (ResNet-101)"
        )
    kind = "fanet" if is_fanet else "multigrid"
    return {
        "num_classes": tensors[classifier].shape[0],
        "backbone": f"resnet{depths[len(blocks)]}_{kind}",
        "paths": len({name for name in tensors if re.match(r"layer_norm\d\.ln\.weight", name)}),
        "value_channels": tensors["enc1.w_vs.0.conv.weight"].shape[0],
        "key_channels": tensors["enc1.w_ks.1.conv.weight"].shape[0],
        "norm_size": tuple(tensors["layer_norm1.ln.weight"].shape),
        "auxiliary": any(name.startswith("auxlayer") for name in tensors),
        "kv_stride": 3 if is_fanet else 4,
    }


def split_among_paths(tensors: dict[str, Tensor], paths: int) -> dict[str, Tensor]:
    """Split a per-frame PSPNet's tensors among the paths, under the names of TDNet.

    Every path takes backbone, pyramid and auxiliary head whole, and of the head's first layer the
    input channels that its half of the pyramid has.

    Args:
        tensors: the state dict of a `PSPNet`.
        paths: N.
    """
    parts = {"backbone": "backbone", "ppm": "neck", "auxiliary_head": "auxiliary_head"}
    taken: dict[str, Tensor] = {}
    for name, value in tensors.items():
        part, _, rest = name.partition(".")
        for path in range(paths):
            if part in parts:
                taken[f"{parts[part]}.{path}.{rest}"] = value
            elif part == "cls":
                kept = value
                if rest == "0.weight":
                    kept = value[:, pyramid_channels(value.shape[1], path % 2, 2)]
                taken[f"head.{path}.{rest}"] = kept
    return taken


def pyramid_channels(width: int, index: int, count: int) -> list[int]:
    """List the pyramid channels of part `index` of `count`: of the input and of each branch.

    Args:
        width: of the pyramid; the input is the first half of it, four branches are the rest.
        index: 0 to count - 1.
        count: number of parts.

    Example:
        >>> pyramid_channels(16, 1, 2)
        [4, 5, 6, 7, 9, 11, 13, 15]
    """
    blocks = [(0, width // 2), *((width * (4 + k) // 8, width // 8) for k in range(4))]
    return [
        start + place
        for start, size in blocks
        for place in range(size * index // count, size * (index + 1) // count)
    ]

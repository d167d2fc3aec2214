"""LMANet: local memory attention.

Paul, Danelljan, Van Gool and Timofte, "Local Memory Attention for Fast Video Semantic
Segmentation", IROS 2021. Matches mattpfr/lmanet at 4419f12, written from a description of it.

An image network is split in two. Between the halves each pixel looks for itself in the last Q
frames, within a window around its own place, and what it finds is joined with its own feature.
What the paper does not say and the published weights need:

1. Attention is the softmax of unscaled dot products. Outside the map keys are zero, and take part.
2. The first frame, with nothing to read, goes through the same decoder without any fusion.
3. Key encoders of memory and query start equal, and are separate parameters from then on.
"""

import re
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from vidseg.adapters.local_memory import LocalMemorySegmenter
from vidseg.backbones import ERFNetEncoder, ResNet, build_backbone
from vidseg.backbones.erfnet import ERFNET_CARD, ERFNetDecoder
from vidseg.card import Card
from vidseg.classes import CITYSCAPES_WITH_VOID, ClassSet
from vidseg.layers.gated_fusion import FUSIONS, REDUCED
from vidseg.layers.local_attention import Border
from vidseg.layers.pyramid import PyramidPooling, pyramid_head
from vidseg.methods.method import Method, Options
from vidseg.weights import load_strictly


class LMANet(LocalMemorySegmenter, Method):
    """ERFNet or PSPNet with a memory of the last Q frames between encoder and decoder.

    Args:
        num_classes: C.
        backbone: "erfnet", with ERFNet's decoder, or a ResNet in semseg's layout, with PSPNet's
            pyramid and head.
        memory_frames: Q; the authors train with 3.
        key_channels: width of keys; the authors use 16 on ERFNet and 128 on PSPNet.
        window: side of the window, in pixels of the map.
        fusion: see `LocalMemoryAttention`; the authors use "sigmoid-do1" on ERFNet and
            "sigmoid-down1" on PSPNet.
        border: see `LocalMemoryAttention`.
        learnable_constant: see `LocalMemoryAttention`.
        memorize_first: a frame is remembered before it reads, so it reads itself, too.
        recurrent: remember what was fused, not what was encoded; the past then has no end.
        read_decoder: a second decoder in training, on what was read alone (ERFNet).
        shallow_decoder: a 1x1 convolution in the decoder's place, at stride 8 (ERFNet).
        zero_void: the last class is no output of the network but a logit of 0 (PSPNet).
        backbone_options: further arguments of the backbone, such as output_stride.

    Raises:
        ValueError: an option is out of range, or does not go with another one.
    """

    variants: ClassVar[Mapping[str, Options]] = {
        "erfnet": {"backbone": "erfnet"},
        "pspnet50": {
            "backbone": "resnet50_semseg",
            "key_channels": 128,
            "fusion": REDUCED,
        },
        "pspnet101": {
            "backbone": "resnet101_semseg",
            "key_channels": 128,
            "fusion": REDUCED,
        },
        "tiny": {"backbone": "erfnet_tiny", "memory_frames": 2, "key_channels": 4, "window": 5},
    }
    # The per-frame model that each is compared with.
    twins: ClassVar[Mapping[str, str]] = {
        "erfnet": "erfnet",
        "pspnet50": "pspnet_r50",
        "pspnet101": "pspnet_r101",
        "tiny": "erfnet_tiny",
    }
    official_names: ClassVar[tuple[str, ...]] = ("lmanet",)
    official_classes: ClassVar[Mapping[int, ClassSet]] = {20: CITYSCAPES_WITH_VOID}

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: str = "erfnet",
        memory_frames: int = 3,
        key_channels: int = 16,
        window: int = 21,
        fusion: str = "sigmoid-do1",
        border: Border = "mask",
        learnable_constant: bool = False,
        memorize_first: bool = False,
        recurrent: bool = False,
        read_decoder: bool = False,
        shallow_decoder: bool = False,
        zero_void: bool = False,
        **backbone_options: Any,
    ) -> None:
        super().__init__()
        self.num_classes, self.zero_void = num_classes, zero_void
        self.backbone = build_backbone(backbone, **backbone_options)
        channels = self.backbone.channels[-1]
        self.build_memory(
            channels,
            memory_frames=memory_frames,
            memorize_first=memorize_first,
            recurrent=recurrent,
            key_channels=key_channels,
            window=window,
            fusion=fusion,
            border=border,
            learnable_constant=learnable_constant,
        )
        self.decoder: nn.Module | None = None
        if isinstance(self.backbone, ERFNetEncoder):
            if zero_void:
                raise ValueError("zero_void is PSPNet's; ERFNet decides on every class itself")
            self.card, self.prefers_channels_last = ERFNET_CARD, True
            first, middle, _ = self.backbone.channels
            if shallow_decoder:
                self.decoder = nn.Conv2d(channels, num_classes, 1)
            else:
                self.decoder = ERFNetDecoder(channels, num_classes, widths=(middle, first))
            if read_decoder:
                width = self.attention.value_channels or channels
                self.read_decoder = ERFNetDecoder(width, num_classes, widths=(width // 2, first))
        elif isinstance(self.backbone, ResNet):
            if read_decoder or shallow_decoder:
                raise ValueError("read_decoder and shallow_decoder are for ERFNet alone")
            self.align_corners, self.card = True, Card(size_multiple=8, size_offset=1)
            self.ppm = PyramidPooling(channels)
            self.cls = pyramid_head(self.ppm.out_channels, 512, num_classes - zero_void)
        else:
            raise ValueError(
                f"LMANet has no decoder for {backbone!r}: its hosts are ERFNet and ResNets; "
                "vidseg.LocalMemory(model) gives a memory to any other network"
            )

    def encode_image(self, frames: Tensor) -> Tensor:
        """(N, 3, H, W) -> the backbone's last map, at stride 8."""
        return self.backbone(frames)[-1]

    def decode_map(self, x: Tensor, *rest: Tensor) -> Tensor:
        """-> (N, C, h, w) logits: ERFNet's at full size, PSPNet's at stride 8."""
        if self.decoder is not None:
            return self.decoder(x)
        logits = self.cls(self.ppm(x))
        return torch.cat([logits, torch.zeros_like(logits[:, :1])], 1) if self.zero_void else logits

    @classmethod
    def from_official(
        cls,
        tensors: dict[str, Tensor],
        *,
        memory_frames: int = 3,
        window: int = 21,
        fusion: str | None = None,
        memorize_first: bool = False,
    ) -> tuple[Self, Options]:
        """Build the model that the authors' state dict belongs to.

        Host, structure, widths and classes are read from the tensors; the defaults of what they
        cannot tell are those of the authors' commands.

        Args:
            tensors: the authors' state dict: `encoder.`, `kv_M_r4.`, `memory_fusion.`, ...
            memory_frames: Q; any number fits; the authors evaluate ERFNet with 4.
            window: side of the window; any odd number fits.
            fusion: which of those that the tensors fit: "sigmoid-do1" or "sigmoid-do2", which
                differ in training alone; "sigmoid" or "plain".
            memorize_first: was it trained to read the current frame, too?

        Returns:
            The model, and the arguments that it was made with.

        Raises:
            ValueError: keys are missing, unexpected or mis-shaped; the fusion is of another form.
        """
        options = _infer_options(tensors, fusion) | {
            "memory_frames": memory_frames,
            "window": window,
            "memorize_first": memorize_first,
            "border": "zero",
        }
        model = cls(**options)
        dead = cls.dead_keys(tensors)
        alive = {k: value for k, value in tensors.items() if k not in dead}
        load_strictly(model, _rename(_join(alive)))
        return model, options

    @classmethod
    def dead_keys(cls, tensors: dict[str, Tensor]) -> dict[str, str]:
        """The keys of an authors' checkpoint that play no part.

        Args:
            tensors: the authors' state dict.

        Returns:
            key -> reason.
        """
        reasons = {"encoder.output_conv.": "ERFNet's classifier on the encoder; LMANet has none"}
        if "memory_fusion.bn0.weight" in tensors:
            reasons["memory_fusion.conv_layer_2."] = (
                "the authors' code reduces both inputs with conv_layer_1 and never uses this"
            )
        if f"decoder.{_SHALLOW}.weight" in tensors:
            reasons["decoder.layers."] = "the shallow decoder is in its place"
            reasons["decoder.output_conv."] = "the shallow decoder is in its place"
        return {
            name: reason
            for prefix, reason in reasons.items()
            for name in tensors
            if name.startswith(prefix)
        }


_SHALLOW = "output_conv_stm_shallow"

# The authors' two convolutions that are one here, one after the other: prefixes and suffixes.
_PAIRS = ((".Key", ".Value", ".conv"), (".conv_layer_3", ".conv_layer_4", ".gates"))

# official prefix -> ours, tried in this order
_RENAMES = (
    (r"^encoder\.layer0\.", "backbone.stem."),
    (r"^encoder\.", "backbone."),
    (r"^kv_([MQ]|init)_r4\.(Key|conv)\.", lambda match: _ENCODERS[match[1]] + ".conv."),
    (r"^memory_module_local\.const$", "attention.constant"),
    (r"^decoder\.cls\.", "cls."),
    (rf"^decoder\.{_SHALLOW}\.", "decoder."),
    (r"^decoder_mem\.", "read_decoder."),
)
_ENCODERS = {
    "M": "attention.memory_encoder",
    "Q": "attention.query_encoder",
    "init": "first_encoder",
}
_GATED = {
    "bn1": "value_norm",
    "bn2": "read_norm",
    "conv_layer_1": "value_conv",
    "conv_layer_2": "read_conv",
    "conv_layer_3": "gates",
    "conv_layer_34": "gates",
    "gates": "gates",
    "bn": "norm",
}
_REDUCED = {
    "bn0": "reduction_norm",
    "conv_layer_1": "reduction",
    "conv_layer_3": "value_gate",
    "conv_layer_4": "read_gate",
    "bn": "norm",
}


def _join(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Join the authors' pairs of convolutions on one input; the reduced fusion has no such pair."""
    is_reduced = "memory_fusion.bn0.weight" in tensors
    joined = dict(tensors)
    for first, second, ours in _PAIRS[:1] if is_reduced else _PAIRS:
        for name in tensors:
            partner = name.replace(f"{first}.", f"{second}.")
            if f"{first}." in name and partner in tensors:
                both = joined.pop(name), joined.pop(partner)
                joined[name.replace(f"{first}.", f"{ours}.")] = torch.cat(both)
    return joined


def _rename(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our names for the authors', after `_join`."""
    parts = _REDUCED if "memory_fusion.bn0.weight" in tensors else _GATED
    renamed = {}
    for name, value in tensors.items():
        part, _, rest = name.removeprefix("memory_fusion.").partition(".")
        if name.startswith("memory_fusion.") and part in parts:
            renamed[f"attention.fusion.{parts[part]}.{rest}"] = value
            continue
        for pattern, ours in _RENAMES:
            name, changed = re.subn(pattern, ours, name)
            if changed:
                break
        renamed[name] = value
    return renamed


def _infer_options(tensors: dict[str, Tensor], fusion: str | None) -> dict[str, Any]:
    """The arguments of the model that these tensors, under the authors' names, belong to."""
    is_pyramid = "decoder.cls.4.weight" in tensors
    is_shallow = f"decoder.{_SHALLOW}.weight" in tensors
    needed = ["kv_Q_r4.Key.weight"]
    if not is_pyramid:
        needed.append(f"decoder.{_SHALLOW if is_shallow else 'output_conv'}.weight")
    missing = [name for name in needed if name not in tensors]
    if missing:
        raise ValueError(
            f"not a whole LMANet checkpoint: there is no {', '.join(missing)}; its first keys are "
            f"{', '.join(list(tensors)[:3])}"
        )
    options: dict[str, Any] = {
        "key_channels": tensors["kv_Q_r4.Key.weight"].shape[0],
        "fusion": _infer_fusion(tensors, fusion),
        "learnable_constant": "memory_module_local.const" in tensors,
        "recurrent": any(name.startswith("kv_init_r4.") for name in tensors),
    }
    if not is_pyramid:
        classes = tensors[needed[-1]].shape[0 if is_shallow else 1]
        has_second = any(name.startswith("decoder_mem.") for name in tensors)
        return options | {
            "num_classes": classes,
            "backbone": "erfnet",
            "shallow_decoder": is_shallow,
            "read_decoder": has_second,
        }
    blocks = {name.split(".")[2] for name in tensors if name.startswith("encoder.layer3.")}
    backbones = {6: "resnet50_semseg", 23: "resnet101_semseg"}
    if len(blocks) not in backbones:
        raise ValueError(
            f"the checkpoint has {len(blocks)} blocks in its third stage, wanted 6 (ResNet-50) or "
            "23 (ResNet-101)"
        )
    classes = tensors["decoder.cls.4.weight"].shape[0] + 1
    return options | {
        "num_classes": classes,
        "backbone": backbones[len(blocks)],
        "zero_void": True,
    }


def _infer_fusion(tensors: dict[str, Tensor], wanted: str | None) -> str:
    """The fusion that is wanted, if the tensors fit it, or the authors' default among fitting."""
    has = {name.split(".")[1] for name in tensors if name.startswith("memory_fusion.")}
    if "bn0" in has:
        fitting = [REDUCED]
    else:
        gates = 2 if "conv_layer_4" in has else int(bool(has & {"conv_layer_3", "conv_layer_34"}))
        form = ("bn1" in has, gates)
        fitting = [k for k, v in FUSIONS.items() if (v["normed"], v["gates"]) == form]
    if wanted not in (None, *fitting):
        raise ValueError(
            f"the checkpoint's fusion has the form of {' or '.join(fitting) or 'none known'}, "
            f"so it cannot be {wanted!r}"
        )
    if not fitting:
        raise ValueError(
            f"the checkpoint's fusion is of no known form; it has {', '.join(sorted(has)) or 'no'} "
            "parts under memory_fusion"
        )
    return wanted or fitting[0]

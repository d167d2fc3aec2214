"""ImageNet weights for the backbones, from the hub or a local file in any of the usual layouts."""

import logging
import re
from pathlib import Path

from torch import Tensor, nn

from vidseg.backbones.mit import MiT
from vidseg.backbones.mit_layouts import NVIDIA_LICENCE, encoder_of
from vidseg.backbones.mobilenet import MobileNetV2
from vidseg.hub import download
from vidseg.weights import read_checkpoint, state_dict_of

log = logging.getLogger("vidseg.backbones.imagenet")

# backbone -> (repository on the hub, or None), and the file to bring where there is none
SOURCES: dict[str, tuple[str | None, str]] = {
    "resnet18_v1c": (None, "OpenMMLab's resnet18_v1c-b5776b93.pth"),
    "resnet50_v1c": ("timm/resnet50c.gluon_in1k", "OpenMMLab's resnet50_v1c-2cccc1ad.pth"),
    "resnet101_v1c": ("timm/resnet101c.gluon_in1k", "OpenMMLab's resnet101_v1c-e67eebb6.pth"),
    "resnet152_v1c": ("timm/resnet152c.gluon_in1k", "timm's resnet152c.gluon_in1k"),
    "resnet18_etc": ("timm/resnet18.tv_in1k", "torchvision's resnet18-5c106cde.pth"),
    "resnet50_semseg": ("timm/resnet50s.gluon_in1k", "semseg's resnet50_v2.pth"),
    "resnet101_semseg": ("timm/resnet101s.gluon_in1k", "semseg's resnet101_v2.pth"),
    "resnet18_multigrid": ("timm/resnet18.tv_in1k", "torchvision's resnet18-5c106cde.pth"),
    "resnet34_multigrid": ("timm/resnet34.tv_in1k", "torchvision's resnet34-333f7ec4.pth"),
    "resnet50_multigrid": ("timm/resnet50s.gluon_in1k", "semseg's resnet50_v2.pth"),
    "resnet101_multigrid": ("timm/resnet101s.gluon_in1k", "semseg's resnet101_v2.pth"),
    # A projection of its first block is in no ImageNet weights.
    "resnet18_fanet": (None, "FANet's own weights (TDNet's authors: fa18.pkl)"),
    "mobilenetv2": ("timm/mobilenetv2_100.ra_in1k", "torchvision's mobilenet_v2-7ebf99e0.pth"),
    **{
        f"mit_b{size}": (f"nvidia/mit-b{size}", f"the authors' mit_b{size}.pth")
        for size in range(6)
    },
}


def load_imagenet(backbone: nn.Module, name: str, source: str | Path) -> None:
    """Fill a backbone with ImageNet weights.

    Args:
        backbone: made by `build_backbone(name)`.
        name: its name.
        source: "imagenet" downloads from the hub; anything else is a local file in the layout of
            torchvision, timm, OpenMMLab or semseg; for MiT of its authors, OpenMMLab or
            transformers, also of a whole SegFormer.

    Raises:
        FileNotFoundError: there is no such file, or the hub cannot be reached.
        ValueError: the file is not of this network; all wrong keys are listed.
    """
    path = _download(name) if str(source) == "imagenet" else Path(source)
    tensors = state_dict_of(read_checkpoint(path))
    tensors = encoder_of(tensors) if isinstance(backbone, MiT) else to_backbone_keys(tensors)
    if isinstance(backbone, MobileNetV2):
        _check_padding(backbone, tensors, path)
    tensors = {k: v.float() for k, v in tensors.items() if not _is_classifier(k)}
    missing = [k for k in backbone.state_dict() if k not in tensors]
    missing = [k for k in missing if not k.endswith("num_batches_tracked")]
    wanted = backbone.state_dict()
    extra = [k for k in tensors if k not in wanted]
    shaped = [k for k in tensors if k in wanted and tensors[k].shape != wanted[k].shape]
    if missing or extra or shaped:
        raise ValueError(
            f"{path} does not fit {name}: missing {missing}, unexpected {extra}, "
            f"other shapes {shaped}; wanted {SOURCES.get(name, (None, 'weights of it'))[1]}"
        )
    backbone.load_state_dict(tensors, strict=False)


def to_backbone_keys(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename torchvision's, timm's, semseg's or OpenMMLab's keys to this library's.

    Args:
        tensors: a backbone's state dict.

    Returns:
        The same tensors under the names of `ResNet` or `MobileNetV2`.
    """
    if "conv_stem.weight" in tensors:
        return {_rename_timm_mobilenet(name): value for name, value in tensors.items()}
    deep = any(name.startswith("conv1.0.") for name in tensors)
    semseg = "bn3.weight" in tensors and "conv3.weight" in tensors
    return {_rename(name, deep=deep, semseg=semseg): value for name, value in tensors.items()}


def _rename(name: str, *, deep: bool, semseg: bool) -> str:
    if semseg and (match := re.match(r"(conv|bn)([123])\.(.*)", name)):
        kind, number, rest = match.groups()
        return f"stem.{3 * (int(number) - 1) + (kind == 'bn')}.{rest}"
    if deep and name.startswith("conv1."):
        return "stem." + name.removeprefix("conv1.")
    if name.startswith("conv1."):
        return "stem.0." + name.removeprefix("conv1.")
    if name.startswith("bn1.") and "features" not in name:
        return ("stem.7." if deep else "stem.1.") + name.removeprefix("bn1.")
    if name.startswith("layer0."):
        return "stem." + name.removeprefix("layer0.")
    return name


# timm numbers blocks within a stage, torchvision through the network: the first of each stage
_STAGE_STARTS = (1, 2, 4, 7, 11, 14, 17)
# timm's parts of a block -> torchvision's; the first stage's block has no expansion
_PLAIN_BLOCK = {"conv_dw": "0.0", "bn1": "0.1", "conv_pw": "1", "bn2": "2"}
_EXPANDED_BLOCK = {
    "conv_pw": "0.0",
    "bn1": "0.1",
    "conv_dw": "1.0",
    "bn2": "1.1",
    "conv_pwl": "2",
    "bn3": "3",
}


def _rename_timm_mobilenet(name: str) -> str:
    part, rest = name.split(".", 1)
    if part in ("conv_stem", "bn1"):
        return f"features.0.{int(part == 'bn1')}.{rest}"
    if part != "blocks":
        return name
    stage, block, layer, leaf = rest.split(".")
    layers = _PLAIN_BLOCK if stage == "0" else _EXPANDED_BLOCK
    return f"features.{_STAGE_STARTS[int(stage)] + int(block)}.conv.{layers[layer]}.{leaf}"


def _is_classifier(name: str) -> bool:
    return name.startswith(("fc.", "classifier.", "features.18.", "conv_head.", "bn2."))


def _check_padding(backbone: MobileNetV2, tensors: dict[str, Tensor], path: Path) -> None:
    """TensorFlow's classifier has 1001 classes (background first) and its network SAME padding."""
    classifier = tensors.get("classifier.1.weight")
    if classifier is None:
        return
    from_tensorflow = classifier.shape[0] == 1001
    if from_tensorflow != backbone.tensorflow:
        raise ValueError(
            f"{path} has {classifier.shape[0]} classes, so it "
            f"{'comes' if from_tensorflow else 'does not come'} from TensorFlow; "
            f"build the model with tensorflow={from_tensorflow}"
        )


def _download(name: str) -> Path:
    repository, file = SOURCES.get(name, (None, "its weights"))
    advice = f"without a network, bring {file} and pass backbone_weights=PATH"
    if repository is None:
        raise FileNotFoundError(
            f"the hub has no ImageNet weights for {name}; bring {file} and pass "
            "backbone_weights=PATH"
        )
    if not name.startswith("mit_"):
        return download(repository, advice=advice)
    log.warning("%s are under the %s", repository, NVIDIA_LICENCE)
    return download(repository, advice=advice, file="pytorch_model.bin")

"""Image models of other libraries as video models: transformers, torchvision, smp, one's own code.

A library's own preparation of pictures runs inside the adapter, so that sizes, padding and windows
are what its model was trained with, whatever the frames are; the card holds the rest.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vidseg.adapters.per_frame import PerFrame
from vidseg.card import IMAGENET_MEAN, IMAGENET_STD, Card
from vidseg.classes import CAMVID, CITYSCAPES, VSPW

BY_HAND = "make it in a function of your own, and give FILE.py:FUNCTION"
"""What to do where a library's model cannot be opened by its name."""
Triple = tuple[float, float, float]


class Prepared(PerFrame):
    """An image model behind its library's own preparation of pictures.

    Args:
        model: takes what `prepare` makes.
        num_classes: C.
        card: its mean and std undo the normalisation of frames.
        prepare: (N, H, W, 3) uint8 RGB -> the model's argument, or arguments by name.
        read: the model's result, and the (H, W) of the frames -> (N, C, h, w) logits.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        num_classes: int,
        card: Card,
        prepare: Callable[[np.ndarray], Tensor | Mapping[str, Any]],
        read: Callable[[Any, tuple[int, int]], Tensor],
    ) -> None:
        super().__init__(model, num_classes=num_classes, card=card)
        self.prepare = prepare
        self.read = read

    def encode(self, frames: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, C, h, w): pixels, the library's preparation, the model."""
        size = (frames.shape[-2], frames.shape[-1])
        weights = next(self.model.parameters())
        if weights.dtype == torch.float16 and weights.device.type == "cpu":
            raise ValueError(
                "these weights are fp16, which a CPU does not compute with; call model.float(), or "
                "run on a GPU"
            )
        inputs = self.prepare(self._pixels(frames))
        if isinstance(inputs, Tensor):
            result = self.model(_moved(inputs, weights, frames))
        else:
            moved = {name: _moved(value, weights, frames) for name, value in inputs.items()}
            result = self.model(**moved)
        return self.checked(self.read(result, size))

    def _pixels(self, frames: Tensor) -> np.ndarray:
        """What was normalised, exactly: (N, H, W, 3) uint8."""
        if frames.is_meta:
            return np.zeros((len(frames), *frames.shape[2:], 3), np.uint8)
        precise = frames.detach().to(torch.promote_types(frames.dtype, torch.float32))
        mean, std = (precise.new_tensor(v).view(3, 1, 1) for v in (self.card.mean, self.card.std))
        pixels = (precise * std + mean).nan_to_num(0.0).round().clamp(0, 255).to(torch.uint8)
        return pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy()


def _moved(value: Any, weights: Tensor, frames: Tensor) -> Any:
    if not isinstance(value, Tensor):
        return value
    value = value.to("meta" if frames.is_meta else weights.device)
    return value.to(weights.dtype) if value.is_floating_point() else value


def from_transformers(
    model: nn.Module, processor: Any = None, *, card: Card | None = None
) -> PerFrame:
    """A model of transformers as a video model without memory.

    Models of semantic segmentation give logits (SegFormer, UperNet, BEiT, DPT, ...). Models of mask
    classification (Mask2Former, MaskFormer, OneFormer, EoMT) give what their processor's own
    `post_process_semantic_segmentation` makes of masks and classes.

    Args:
        model: such as `AutoModelForSemanticSegmentation.from_pretrained(...)` gives.
        processor: its image processor, which prepares every frame (`AutoImageProcessor`); None
            where `card` says how frames are normalised.
        card: in place of the one made of processor and config.

    Raises:
        ValueError: neither processor nor card; a processor without mean; a model that does not
            label pixels.
    """
    config = getattr(model, "config", None)
    num_classes = getattr(config, "num_labels", None)
    if config is None or num_classes is None:
        raise ValueError(
            f"{type(model).__name__} has no config with num_labels, so it is not of transformers; "
            "vidseg.PerFrame(model, num_classes=...)"
        )
    check_kind(type(model).__name__)
    if card is None:
        if processor is None:
            raise ValueError(
                "give the model's image processor, or card=vidseg.Card(mean=..., std=...): how "
                "are pictures normalised?"
            )
        mean, std = normalisation_of(getattr(processor, "image_processor", processor))
        names = class_names(getattr(config, "id2label", None) or {}, num_classes)
        card = Card(classes=names, palette=palette_of(names), mean=mean, std=std)
    if processor is None:
        return PerFrame(model, num_classes=num_classes, card=card)
    rule = getattr(processor, "post_process_semantic_segmentation", None)

    def prepare(pixels: np.ndarray) -> Mapping[str, Any]:
        tasks = (
            {"task_inputs": ["semantic"] * len(pixels)} if hasattr(processor, "tokenizer") else {}
        )
        return processor(images=list(pixels), return_tensors="pt", **tasks)

    def read(result: Any, size: tuple[int, int]) -> Tensor:
        if isinstance(getattr(result, "logits", None), Tensor):
            return result.logits
        if rule is None or not hasattr(result, "masks_queries_logits"):
            raise ValueError(
                f"{type(model).__name__} gives neither logits nor masks of classes, which its "
                f"processor could make labels of; {BY_HAND}"
            )
        # EoMT cuts pictures into windows, and joins them at the size of the picture.
        sizes = [size] * len(result.masks_queries_logits)
        wanted = sizes if hasattr(result, "patch_offsets") else None
        if wanted and result.patch_offsets:
            wanted = [size] * (1 + max(int(offset[0]) for offset in result.patch_offsets))
        maps = rule(result, target_sizes=wanted, return_segmentation_scores=True)
        return torch.stack([found.segmentation_scores for found in maps])

    return Prepared(model, num_classes=num_classes, card=card, prepare=prepare, read=read)


def from_torchvision(
    model: nn.Module, weights: Any = None, *, card: Card | None = None
) -> PerFrame:
    """A segmentation model of torchvision as a video model without memory.

    Args:
        model: such as `torchvision.models.segmentation.deeplabv3_resnet50(...)`.
        weights: the entry of its weights' enum: their own transforms prepare every frame, and their
            categories name the classes.
        card: in place of the one made of `weights`; without them, frames are normalised by it.

    Raises:
        ValueError: neither weights nor card; the card names no classes.
    """
    if weights is None:
        if card is None:
            raise ValueError(
                "give the weights' enum, whose transforms prepare pictures, or "
                "card=vidseg.Card(classes=..., mean=..., std=...)"
            )
        return PerFrame(model, card=card)
    transform = weights.transforms()
    names = tuple(weights.meta["categories"])
    mean, std = _triple(transform.mean, 255.0), _triple(transform.std, 255.0)
    made = Card(classes=names, mean=mean, std=std, source=str(weights))

    def prepare(pixels: np.ndarray) -> Tensor:
        # As torchvision has them in memory: sums are then the same to the last bit.
        return transform(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous())

    def read(result: Any, size: tuple[int, int]) -> Tensor:
        return result["out"]

    return Prepared(model, num_classes=len(names), card=card or made, prepare=prepare, read=read)


def from_smp(model: nn.Module, *, card: Card | None = None) -> PerFrame:
    """A model of segmentation_models_pytorch as a video model without memory.

    Frames are stretched to the multiple that its encoder takes.

    Args:
        model: such as `smp.Unet("resnet34", classes=5)`.
        card: of names and normalisation; by default classes have numbers, and pictures are
            normalised as for its encoder of timm, else as for ImageNet.

    Raises:
        ValueError: it is no segmentation model of smp.
    """
    encoder: Any = getattr(model, "encoder", None)
    head = getattr(model, "segmentation_head", None)
    if encoder is None or not isinstance(head, nn.Module):
        raise ValueError(
            f"{type(model).__name__} is no segmentation model of segmentation_models_pytorch; "
            "vidseg.PerFrame(model, num_classes=...) takes any other"
        )
    num_classes = next(m.out_channels for m in head.modules() if isinstance(m, nn.Conv2d))
    if card is None:
        mean, std = _of_timm(str(getattr(model, "config", {}).get("encoder_name", "")))
        multiple = (
            encoder.output_stride if getattr(model, "requires_divisible_input_shape", True) else 1
        )
        card = Card(
            classes=class_names({}, num_classes), mean=mean, std=std, size_multiple=multiple
        )
    return PerFrame(model, num_classes=num_classes, card=card)


def check_kind(architecture: str) -> None:
    """Raise ValueError for a class of transformers that does not label pixels."""
    is_known = re.search(r"For(Semantic|Universal)Segmentation|MaskFormerForInstance", architecture)
    if not is_known:
        raise ValueError(
            f"{architecture} does not label every pixel with a class; wanted a model for semantic "
            "or universal segmentation, such as SegformerForSemanticSegmentation"
        )


def normalisation_of(processor: Any) -> tuple[Triple, Triple]:
    """Mean and std on the 0..255 scale of a processor's description."""
    scale = 1.0 / float(processor.rescale_factor) if processor.do_rescale else 1.0
    if not processor.do_normalize:
        return (0.0, 0.0, 0.0), (scale, scale, scale)
    mean, std = getattr(processor, "image_mean", None), getattr(processor, "image_std", None)
    if mean is None or std is None:
        raise ValueError(
            "the image processor normalises pictures and does not say by which mean and std; add "
            "image_mean and image_std to preprocessor_config.json"
        )
    return _triple(mean, scale), _triple(std, scale)


def _triple(values: Any, scale: float) -> Triple:
    """Three values, or one for all, times the scale."""
    listed = list(values) if isinstance(values, Sequence) else [values] * 3
    if len(listed) != 3:
        raise ValueError(f"mean and std must be three values, of R, G and B, got {listed}")
    red, green, blue = (scale * float(value) for value in listed)
    return red, green, blue


def class_names(id2label: Mapping[Any, Any], num_classes: int) -> tuple[str, ...]:
    """The names by index; "class k" where one is missing."""
    by_index = {int(index): str(name) for index, name in id2label.items()}
    return tuple(by_index.get(k, f"class {k}") for k in range(num_classes))


def palette_of(names: tuple[str, ...]) -> tuple[tuple[int, int, int], ...]:
    """The colours of the published data set whose classes these are; empty where none has them."""
    wanted = [name.casefold() for name in names]
    for known in (CITYSCAPES, CAMVID, VSPW):
        if wanted == [name.casefold() for name in known.names]:
            return known.palette
    return ()


def _of_timm(encoder: str) -> tuple[Triple, Triple]:
    if encoder.startswith("tu-"):
        timm = library("timm", "timm")
        config = timm.models.get_pretrained_cfg(encoder.removeprefix("tu-"))
        if config is not None:
            return _triple(config.mean, 255.0), _triple(config.std, 255.0)
    return IMAGENET_MEAN, IMAGENET_STD


def library(module: str, package: str) -> Any:
    """Import a library, or say what to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"this model needs {package}: pip install {package} ({error})") from error


def first_line(error: BaseException) -> str:
    """The kind of an error and the first line of what it says."""
    line = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {line}" if line else type(error).__name__

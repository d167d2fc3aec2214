"""The published methods, one file a paper, and how they are made and loaded."""

import inspect
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from vidseg.adapters.image_models import palette_of
from vidseg.adapters.sources import (
    is_image_model,
    load_image_model,
    names_beside,
    normalisation_beside,
)
from vidseg.backbones import BACKBONES, network_of
from vidseg.card import Card
from vidseg.classes import MAX_CLASSES, ClassSet
from vidseg.hub import download
from vidseg.methods.cffm import CFFM
from vidseg.methods.cffmpp import CFFMPlus
from vidseg.methods.erfnet import ERFNet
from vidseg.methods.fcn import FCN
from vidseg.methods.lmanet import LMANet
from vidseg.methods.method import Method, Options
from vidseg.methods.pmt import LVMT, PMT
from vidseg.methods.pspnet import PSPNet
from vidseg.methods.segformer import SegFormer
from vidseg.methods.tdnet import TDNet
from vidseg.methods.tmanet import TMANet
from vidseg.methods.videomt import VidEoMT
from vidseg.segmenter import VideoSegmenter
from vidseg.suggest import did_you_mean
from vidseg.weights import load_file, read_checkpoint, state_dict_of

log = logging.getLogger("vidseg.methods")

METHODS: dict[str, type[Method]] = {
    "fcn": FCN,
    "pspnet": PSPNet,
    "erfnet": ERFNet,
    "segformer": SegFormer,
    "tmanet": TMANet,
    "lmanet": LMANet,
    "cffm": CFFM,
    "cffmpp": CFFMPlus,
    "videomt": VidEoMT,
    "pmt": PMT,
    "lvmt": LVMT,
    "tdnet": TDNet,
}
"""family -> class; the names that `create` takes are those of `Method.names`."""

OFFICIAL: dict[str, type[Method]] = {
    name: method for method in METHODS.values() for name in method.official_names
}
"""paper -> the class that its authors' checkpoints become; `load_official` takes the paper."""

DEFAULT_WEIGHTS = "tmanet_mobilenetv2_camvid"
"""The name of the weights that `load` takes without a name."""


def model_names() -> list[str]:
    """Every name that `create` takes."""
    return [name for family, method in METHODS.items() for name in method.names(family)]


def find_method(name: str) -> tuple[type[Method], str]:
    """The class and the variant of a model's name.

    Args:
        name: as `create` takes it.

    Raises:
        ValueError: the name is unknown.
    """
    for family, method in METHODS.items():
        if name in (names := method.names(family)):
            return method, names[name]
    raise ValueError(f"unknown model {name!r}{did_you_mean(name, model_names())}")


def create(name: str, num_classes: int, **options: object) -> Method:
    """Make a model by name.

    Args:
        name: such as "tmanet_r50" or "erfnet"; `model_names()` lists them.
        num_classes: C.
        options: further arguments of the method's class, such as memory_frames=4; also
            backbone_weights="imagenet" or a file.

    Returns:
        The model in training mode, on the CPU. Its card says what it was made of.

    Raises:
        ValueError: the name is unknown, or there is no class.
        TypeError: an option is unknown.

    Example:
        >>> create("tmanet_tiny", num_classes=3).num_classes
        3
    """
    method, variant = find_method(name)
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}")
    if num_classes > MAX_CLASSES:
        raise ValueError(f"num_classes must be at most {MAX_CLASSES}, got {num_classes}")
    arguments = {**method.variants[variant], **options}
    try:
        model = method(num_classes, **arguments)
    except TypeError as error:
        known = _options_of(method, arguments)
        for option in (option for option in options if option not in known):
            hint = did_you_mean(option, known)
            raise TypeError(f"{name} has no option {option!r}{hint}") from error
        raise TypeError(f"{name}: {error}; see help({method.__module__})") from error
    kept = {k: v for k, v in options.items() if k != "backbone_weights"}
    card = replace(model.card, architecture=name, options={"num_classes": num_classes, **kept})
    if options.get("tensorflow"):
        card = replace(card, mean=(127.5,) * 3, std=(127.5,) * 3)
    model.card = card
    return model


def _options_of(method: type[Method], arguments: Options) -> list[str]:
    """The names of what a method's class takes by name, and of what its backbone takes."""
    makers: list[Callable[..., object]] = [
        maker for maker in method.__mro__ if issubclass(maker, VideoSegmenter)
    ]
    if arguments.get("backbone") in BACKBONES:
        makers.append(network_of(arguments["backbone"]))
    return [name for maker in makers for name in _keywords(maker)]


def _official_options(method: type[Method]) -> list[str]:
    """The names of what `from_official` takes: its own, or all of the class's where it hands on."""
    parameters = inspect.signature(method.from_official).parameters.values()
    is_open = any(p.kind is p.VAR_KEYWORD for p in parameters)
    return _keywords(method if is_open else method.from_official)


def _keywords(maker: Callable[..., object]) -> list[str]:
    parameters = inspect.signature(maker).parameters.values()
    return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]


def load(
    name_or_path: str | Path | None = None, *, device: str = "cpu", **options: object
) -> VideoSegmenter:
    """Load a trained model, ready to use.

    Args:
        name_or_path: weights that come with the package (`packaged_weights()` lists them), a
            .safetensors file that vidseg wrote, a run folder, or a repository on the hub
            ("owner/name"); None is DEFAULT_WEIGHTS, a small model for driving video. Or an image
            model, per frame: a folder of transformers or smp, "torchvision:NAME", or
            "package.module:function" or "file.py:function" that makes one, **whose code runs**.
        device: where to put it.
        options: of the method, in place of those that it was trained with, where its weights fit
            them all the same: memory_frames=4 (LMANet), prototypes="running" (CFFM++), gap_frames=1
            (CFFM).

    Returns:
        The model in evaluation mode, with its card.

    Raises:
        FileNotFoundError: there is nothing of this name.
        TypeError: an option is unknown.
        ValueError: the file is damaged or of another program, or its weights do not fit `options`;
            a model that does not label pixels.
    """
    if is_image_model(str(name_or_path)):
        if options:
            raise TypeError(f"{name_or_path} is of another library, whose models take no options")
        return load_image_model(str(name_or_path)).to(device)
    path = _find(name_or_path)
    tensors, card = load_file(path)
    if not card.architecture:
        raise ValueError(
            f"{path} holds the weights of a model that vidseg.create did not make; make it, then "
            f"tensors, model.card = vidseg.weights.load_file({str(path)!r}) and "
            "model.load_state_dict(tensors)"
        )
    # Of shapes alone first: a card may ask for more memory than there is.
    with torch.device("meta"):
        model = _create_by_card(card, options, path)
    _check_fit(model, tensors, path, options)
    model = create(card.architecture, **{**card.options, **options})
    model.load_state_dict(tensors)
    model.card = replace(card, options=model.card.options)
    return model.eval().to(device)


def _create_by_card(card: Card, options: Options, path: Path) -> Method:
    """Make the model that a card describes; whatever is wrong with it is the file's fault."""
    try:
        return create(card.architecture, **{**card.options, **options})
    except Exception as error:  # of any layer, for a width that is a text
        kind = TypeError if options and isinstance(error, TypeError) else ValueError
        raise kind(f"{path}: card: {error or type(error).__name__}") from error


def _check_fit(model: Method, tensors: dict[str, Tensor], path: Path, options: Options) -> None:
    """Raise ValueError where the card or `options` ask for other tensors than there are."""
    shapes = ({name: t.shape for name, t in kept.items()} for kept in (model.state_dict(), tensors))
    ours, theirs = (set(found.items()) for found in shapes)
    differ = sorted({name for name, _ in ours ^ theirs})
    if not differ:
        return
    found = f"{len(differ)} tensors differ, such as {differ[0]}"
    if options:
        asked = ", ".join(f"{name}={value}" for name, value in options.items())
        raise ValueError(
            f"the weights of {path} do not fit {asked}: {found}; train the model with it, or leave "
            "it out"
        )
    raise ValueError(
        f"{path}: its weights do not fit its own card ({model.card.architecture}, "
        f"{model.num_classes} classes): {found}; copy it again"
    )


def packaged_weights() -> dict[str, Path]:
    """The weights that come with the package, by the name that `load` takes."""
    folder = Path(__file__).parent.parent / "packaged"
    return {path.stem: path for path in sorted(folder.glob("*.safetensors"))}


def _find(name_or_path: str | Path | None) -> Path:
    packaged = packaged_weights()
    name = str(name_or_path or DEFAULT_WEIGHTS)
    if name in packaged and not Path(name).exists():
        return packaged[name]
    path = Path(name)
    if path.is_dir():
        for file in ("best.safetensors", "last.safetensors", "model.safetensors"):
            if (path / file).is_file():
                return path / file
        raise FileNotFoundError(
            f"the folder {path} holds no best.safetensors, last.safetensors or model.safetensors; "
            "has the run finished its first validation?"
        )
    if path.is_file() and path.suffix == ".safetensors":
        return path
    if path.is_file():
        raise ValueError(
            f"{path} is not a .safetensors file; convert an authors' checkpoint with "
            "`vidseg convert METHOD FILE --out model.safetensors`"
        )
    is_place = path.parent.is_dir() or path.parts[0] in ("runs", "..", "~")
    if name.count("/") == 1 and not path.suffix and not is_place:
        return download(name, advice="check the name, or pass a file or a run folder")
    if name in model_names():
        raise FileNotFoundError(f"no weights at {name}: it is a model's name, train it first")
    raise FileNotFoundError(
        f"no weights at {name}; wanted a .safetensors file, a run folder, OWNER/NAME on the hub, "
        f"or one of the package's: {', '.join(packaged)}"
    )


def load_official(
    method: str, source: Mapping[str, Tensor] | str | Path, **options: object
) -> Method:
    """Load a checkpoint of a method's authors; sizes are inferred from the tensors.

    Args:
        method: a paper of OFFICIAL; the students of "etc" are PSPNets, "pspnet" is TDNet's own.
        source: the state dict, or the authors' file (with or without a wrapper around it).
        options: what tensors cannot tell: align_corners (tmanet); memory_frames, window, fusion
            and memorize_first (lmanet); gap_frames (cffm, cffmpp); prototypes (cffmpp); paths and
            kv_stride (tdnet).

    Returns:
        The model in evaluation mode. Keys that are no part of it are logged with the reason.

    Raises:
        ValueError: the method is unknown; keys are missing, unexpected or mis-shaped (all are
            listed); an option is required; the file is damaged or wants to run code.
        TypeError: checkpoints of this method have no such option.
        FileNotFoundError: there is no such file.
    """
    if method not in OFFICIAL:
        raise ValueError(
            f"no official checkpoints of {method!r} are known{did_you_mean(method, OFFICIAL)}"
        )
    known = _official_options(OFFICIAL[method])
    for option in (option for option in options if option not in known):
        hint = did_you_mean(option, known)
        raise TypeError(f"checkpoints of {method} have no option {option!r}{hint}")
    content = source if isinstance(source, Mapping) else read_checkpoint(source)
    tensors = state_dict_of(content)
    model, arguments = OFFICIAL[method].from_official(tensors, **options)
    for name, reason in dead_keys(method, tensors).items():
        log.info("not used: %s (%s)", name, reason)
    model.card = _official_card(model, arguments, source, content)
    return model.eval()


def dead_keys(method: str, tensors: dict[str, Tensor]) -> dict[str, str]:
    """The keys of an authors' checkpoint that `load_official` leaves out.

    Args:
        method: a paper of OFFICIAL.
        tensors: the state dict.

    Returns:
        key -> reason.
    """
    return OFFICIAL[method].dead_keys(tensors)


def _official_card(
    model: Method,
    arguments: Options,
    source: Mapping[str, Tensor] | str | Path,
    content: Mapping[str, object],
) -> Card:
    cls = type(model)
    family = next(family for family, known in METHODS.items() if known is cls)
    name = cls.name_of(family, arguments)
    made = cls.variants[cls.names(family)[name]]
    path = None if isinstance(source, Mapping) else Path(source)
    origin = "a state dict" if path is None else path.name
    mean, std = (path and normalisation_beside(path)) or (model.card.mean, model.card.std)
    classes = _official_classes(cls, model.num_classes, path, content)
    return replace(
        model.card,
        classes=classes.names,
        palette=classes.palette,
        mean=mean,
        std=std,
        architecture=name,
        options={k: v for k, v in arguments.items() if k != "backbone" or k not in made},
        source=f"the authors' checkpoint, converted from {origin}",
    )


def _official_classes(
    method: type[Method], count: int, path: Path | None, content: Mapping[str, object]
) -> ClassSet:
    """As the config beside the file or the file itself names them; else the authors' data set's."""
    names = () if path is None else names_beside(path, count)
    if names:
        return ClassSet(names, palette_of(names))
    meta = content.get("meta")
    stated = meta.get("CLASSES") if isinstance(meta, Mapping) else None  # mmsegmentation's
    if isinstance(stated, (tuple, list)) and len(stated) == count:
        names = tuple(str(name) for name in stated)
        return ClassSet(names, palette_of(names))
    return method.official_classes.get(count, ClassSet((), ()))


__all__ = [
    "METHODS",
    "OFFICIAL",
    "Method",
    "create",
    "dead_keys",
    "find_method",
    "load",
    "load_official",
    "model_names",
    "packaged_weights",
]

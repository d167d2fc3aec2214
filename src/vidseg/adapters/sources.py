"""Where image models of other libraries lie: names, folders, functions of one's own."""

from __future__ import annotations

import importlib
import importlib.util
import json
import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from vidseg.adapters.image_models import (
    BY_HAND,
    Triple,
    check_kind,
    class_names,
    first_line,
    from_smp,
    from_torchvision,
    from_transformers,
    library,
    normalisation_of,
)
from vidseg.adapters.per_frame import PerFrame, find_logits
from vidseg.segmenter import VideoSegmenter

log = logging.getLogger("vidseg.models")

TORCHVISION = "torchvision:"
_CODE = re.compile(r"(?P<place>.+\.py|[A-Za-z_][\w.]*):(?P<function>[A-Za-z_]\w*)")


def is_image_model(name: str) -> bool:
    """Whether a name for `vidseg.load` is that of another library's model, or of code."""
    return name.startswith(TORCHVISION) or _is_code(name) or (Path(name) / "config.json").is_file()


def load_image_model(name: str) -> VideoSegmenter:
    """Load what `is_image_model` says yes to.

    Args:
        name: "torchvision:NAME", a folder of transformers or smp, or "package.module:function" or
            "file.py:function", a function without arguments that makes a model. **Its code runs.**

    Returns:
        The model in evaluation mode, on the CPU.

    Raises:
        FileNotFoundError: there is nothing of this name.
        ImportError: the library is not installed.
        ValueError: it holds no model that labels pixels, or wants to run code of its own.
    """
    if name.startswith(TORCHVISION):
        return _load_torchvision(name.removeprefix(TORCHVISION)).eval()
    if _is_code(name):
        return _run(name).eval()
    folder = Path(name)
    config = _read_json(folder / "config.json")
    if "_model_class" in config:
        return _load_smp(folder, config).eval()
    if "model_type" in config or "architectures" in config:
        return _load_transformers(folder, config).eval()
    raise ValueError(
        f"{folder / 'config.json'} is of no model of transformers or segmentation_models_pytorch; "
        f"{BY_HAND}"
    )


def names_beside(path: Path, num_classes: int) -> tuple[str, ...]:
    """The class names in a config.json beside a file of weights; empty where there are none.

    Args:
        path: the file.
        num_classes: as many names are wanted.
    """
    file = path.parent / "config.json"
    names = _read_json(file).get("id2label") if file.is_file() else None
    if not isinstance(names, dict) or len(names) != num_classes:
        return ()
    return class_names(names, num_classes)


def normalisation_beside(path: Path) -> tuple[Triple, Triple] | None:
    """Mean and std, 0..255, of a preprocessor_config.json beside a file of weights; None without.

    Args:
        path: the file.

    Raises:
        ValueError: it says that pictures are normalised, and not how.
    """
    file = path.parent / "preprocessor_config.json"
    if not file.is_file():
        return None
    values = _read_json(file)
    defaults = {"do_normalize": True, "do_rescale": True, "rescale_factor": 1 / 255}
    return normalisation_of(type("Described", (), {**defaults, "image_mean": None, **values}))


def _load_transformers(folder: Path, config: dict[str, Any]) -> PerFrame:
    transformers = library("transformers", "transformers")
    architecture = (config.get("architectures") or [""])[0]
    if architecture:
        check_kind(architecture)
    if config.get("auto_map") and not hasattr(transformers, architecture):
        raise ValueError(
            f"{folder} wants to run code of its own (trust_remote_code), which vidseg does not; "
            f"{BY_HAND}"
        )
    if not (folder / "preprocessor_config.json").is_file():
        raise ValueError(
            f"{folder} holds no preprocessor_config.json, which says how pictures are prepared; "
            f"save its processor there, or {BY_HAND}"
        )
    is_universal = "ForSemanticSegmentation" not in architecture
    auto = f"AutoModelFor{'Universal' if is_universal else 'Semantic'}Segmentation"
    with _explained(folder):
        # float32: fp16 weights do not run on a CPU, and autocast makes halves where they pay.
        model = getattr(transformers, auto).from_pretrained(
            folder, dtype=torch.float32, local_files_only=True
        )
        maker = "AutoProcessor" if "OneFormer" in architecture else "AutoImageProcessor"
        processor = getattr(transformers, maker).from_pretrained(folder, local_files_only=True)
    return _described(from_transformers(model, processor), folder)


def _load_smp(folder: Path, config: dict[str, Any]) -> PerFrame:
    smp = library("segmentation_models_pytorch", "segmentation-models-pytorch")
    with _explained(folder):
        cls = getattr(smp, config["_model_class"])
        # Its own weights come next; those of the encoder would be asked of the network.
        model = cls.from_pretrained(folder, encoder_weights=None, local_files_only=True)
    return _described(from_smp(model), folder)


def _load_torchvision(name: str) -> PerFrame:
    models = library("torchvision", "torchvision").models
    known = models.list_models(models.segmentation)
    if name not in known:
        raise ValueError(
            f"torchvision has no segmentation model {name!r}; it has {', '.join(sorted(known))}"
        )
    weights = models.get_model_weights(name).DEFAULT
    log.warning("torchvision's weights %s; their licence: see torchvision's page of them", weights)
    try:
        model = models.get_model(name, weights=weights, progress=False)
    except OSError as error:
        raise FileNotFoundError(
            f"could not download {weights.url} ({type(error).__name__}); on a machine without "
            f"network, {BY_HAND}"
        ) from error
    return from_torchvision(model, weights)


def _is_code(name: str) -> bool:
    return _CODE.fullmatch(name) is not None and not Path(name).exists()


def _run(name: str) -> VideoSegmenter:
    found = _CODE.fullmatch(name)
    assert found is not None, "only names of functions are run"
    place, function = found["place"], found["function"]
    maker = getattr(_module(place), function, None)
    if not callable(maker):
        raise ValueError(f"{place} has no function {function}")
    model = maker()
    if isinstance(model, VideoSegmenter):
        return model
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"{name} gave a {type(model).__name__}, wanted a module (N, 3, H, W) -> (N, C, h, w) "
            "or a segmenter of vidseg"
        )
    try:
        return PerFrame(model, num_classes=_count_classes(model.eval()))
    except Exception as error:
        raise ValueError(
            f"{name} gave a {type(model).__name__} that does not run on a frame of 128x128 px "
            f"({first_line(error)}); return vidseg.PerFrame(model, num_classes=..., card=...)"
        ) from error


def _module(place: str) -> ModuleType:
    if not place.endswith(".py"):
        try:
            return importlib.import_module(place)
        except ModuleNotFoundError as error:
            raise FileNotFoundError(f"no module {place} ({error}); is it installed?") from error
    path = Path(place)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None, "a .py file has a loader"
    assert spec.loader is not None, "a .py file has a loader"
    module = importlib.util.module_from_spec(spec)
    # Its neighbours are imported as where python FILE.py runs it.
    sys.path.insert(0, str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.pop(0)
    return module


def _count_classes(model: nn.Module) -> int:
    with torch.no_grad():
        return find_logits(model(torch.zeros(1, 3, 128, 128))).shape[1]


def _described(model: PerFrame, folder: Path) -> PerFrame:
    """The model, its card with where it is from and the licence that its page states."""
    page = folder / "README.md"
    text = page.read_text(encoding="utf-8", errors="replace") if page.is_file() else ""
    head = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    stated = re.search(r"^license:\s*(\S.*)$", head[1], re.MULTILINE) if head else None
    licence = stated[1].strip().strip("\"'") if stated else ""
    model.card = replace(model.card, source=str(folder), licence=licence)
    return model


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({first_line(error)}); copy it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, wanted names and values")
    return content


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Turn what a library says of a folder into one line."""
    try:
        yield
    except ImportError:
        raise
    except Exception as error:
        raise ValueError(f"{folder} cannot be loaded ({first_line(error)}); {BY_HAND}") from error

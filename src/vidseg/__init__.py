"""Video semantic segmentation: a class for every pixel of every frame, steady over time.

    import vidseg

    model = vidseg.load()                                  # the model that comes with the package
    for result in vidseg.segment(model, "street.mp4"):     # frame by frame, bounded memory
        result.labels, result.overlay()

`import vidseg` needs torch and numpy alone; video, data and training are imported when used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vidseg import flow, losses, metrics
    from vidseg.adapters.image_models import from_torchvision, from_transformers
    from vidseg.adapters.local_memory import LocalMemory as LocalMemory
    from vidseg.adapters.per_frame import PerFrame
    from vidseg.adapters.steady import Steady
    from vidseg.card import Card
    from vidseg.classes import IGNORE
    from vidseg.context import Prototypes
    from vidseg.inference.frame_result import FrameResult as FrameResult
    from vidseg.inference.session import Session
    from vidseg.inference.stream import segment
    from vidseg.methods import METHODS, create, load, load_official
    from vidseg.segmenter import Memory, Segmentation, VideoSegmenter

_HOMES = {
    "METHODS": "vidseg.methods",
    "create": "vidseg.methods",
    "from_torchvision": "vidseg.adapters.image_models",
    "from_transformers": "vidseg.adapters.image_models",
    "load": "vidseg.methods",
    "load_official": "vidseg.methods",
    "IGNORE": "vidseg.classes",
    "LocalMemory": "vidseg.adapters.local_memory",
    "Memory": "vidseg.segmenter",
    "PerFrame": "vidseg.adapters.per_frame",
    "Prototypes": "vidseg.context",
    "Segmentation": "vidseg.segmenter",
    "Steady": "vidseg.adapters.steady",
    "VideoSegmenter": "vidseg.segmenter",
    "Card": "vidseg.card",
    "segment": "vidseg.inference.stream",
    "Session": "vidseg.inference.session",
    "FrameResult": "vidseg.inference.frame_result",
}
_MODULES = ("flow", "losses", "metrics", "weights")

__version__ = "0.1.0"
__all__ = [
    "IGNORE",
    "METHODS",
    "Card",
    "Memory",
    "PerFrame",
    "Prototypes",
    "Segmentation",
    "Session",
    "Steady",
    "VideoSegmenter",
    "create",
    "flow",
    "from_torchvision",
    "from_transformers",
    "load",
    "load_official",
    "losses",
    "metrics",
    "segment",
]


def __getattr__(name: str) -> Any:
    # `vidseg --help` and the data tools must not wait seconds for torch.
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name in _MODULES:
        return import_module(f"vidseg.{name}")
    raise AttributeError(f"module 'vidseg' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])

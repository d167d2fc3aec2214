"""Motion: the warp, and where the flow comes from."""

from vidseg.flow.dis import DIS
from vidseg.flow.warp import in_frame, warp

__all__ = ["DIS", "in_frame", "warp"]

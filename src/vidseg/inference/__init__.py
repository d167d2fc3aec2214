"""Running models on videos and data sets: streams, windows, pictures, scores."""

from vidseg.adapters.sliding import SlidingWindow
from vidseg.inference.frame_result import FrameResult
from vidseg.inference.session import Session
from vidseg.inference.stream import DamagedVideoWarning, SegmentedVideo, segment
from vidseg.video.reader import Frame, FrameReader, VideoWriter, read_video

__all__ = [
    "DamagedVideoWarning",
    "Frame",
    "FrameReader",
    "FrameResult",
    "SegmentedVideo",
    "Session",
    "SlidingWindow",
    "VideoWriter",
    "read_video",
    "segment",
]

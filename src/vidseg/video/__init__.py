"""Videos in and out: sources, packets, frames, sound, cuts, drawing. Needs no torch."""

from vidseg.video.reader import Frame, FrameReader, VideoWriter, read_video

__all__ = ["Frame", "FrameReader", "VideoWriter", "read_video"]

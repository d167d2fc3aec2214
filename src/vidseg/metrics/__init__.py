"""Measures of segmentation: right (confusion) and steady (consistency)."""

from vidseg.metrics.boundary import boundary_band
from vidseg.metrics.confusion import ConfusionMatrix
from vidseg.metrics.consistency import TemporalConsistency, flicker, temporal_consistency
from vidseg.metrics.official_consistency import (
    EtcTemporalConsistency,
    VspwTemporalConsistency,
)
from vidseg.metrics.video_consistency import RunningVideo, VideoConsistency, video_consistency
from vidseg.metrics.vspw import VspwScore, VspwVideo

__all__ = [
    "ConfusionMatrix",
    "EtcTemporalConsistency",
    "RunningVideo",
    "TemporalConsistency",
    "VideoConsistency",
    "VspwScore",
    "VspwTemporalConsistency",
    "VspwVideo",
    "boundary_band",
    "flicker",
    "temporal_consistency",
    "video_consistency",
]

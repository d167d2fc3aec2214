"""Measures of segmentation: right (confusion) and steady (consistency)."""

from vidseg.metrics.confusion import ConfusionMatrix
from vidseg.metrics.consistency import TemporalConsistency, flicker, temporal_consistency
from vidseg.metrics.etc_consistency import EtcTemporalConsistency
from vidseg.metrics.video_consistency import VideoConsistency, video_consistency

__all__ = [
    "ConfusionMatrix",
    "EtcTemporalConsistency",
    "TemporalConsistency",
    "VideoConsistency",
    "flicker",
    "temporal_consistency",
    "video_consistency",
]

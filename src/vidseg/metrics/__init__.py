"""Measures of segmentation: right (confusion) and steady (consistency)."""

from vidseg.metrics.confusion import ConfusionMatrix
from vidseg.metrics.consistency import TemporalConsistency, flicker, temporal_consistency

__all__ = ["ConfusionMatrix", "TemporalConsistency", "flicker", "temporal_consistency"]

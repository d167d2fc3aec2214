"""Measures of segmentation: right (confusion) and steady (consistency)."""

from vidseg.metrics.confusion import ConfusionMatrix

__all__ = ["ConfusionMatrix"]

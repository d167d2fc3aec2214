"""Losses: pure functions, tensors in, a scalar out."""

from vidseg.losses.segmentation import cross_entropy

__all__ = ["cross_entropy"]

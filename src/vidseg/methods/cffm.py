"""CFFM: coarse-to-fine feature mining.

Sun, Liu, Ding, Probst and Van Gool, "Coarse-to-Fine Feature Mining for Video Semantic
Segmentation", CVPR 2022. Matches GuoleiSun/VSS-CFFM at a3e4595, written from a description of it.

A frame's windows attend to themselves and to three earlier frames, seen the coarser the older they
are. What the paper does not say and the published weights need:

1. Only the target is updated; the blocks see the earlier frames as the decoder gave them. So what
   they need of a frame depends on it alone, and is kept instead of the frame: tokens' keys and
   values, of each block, for the three places that it will have.
2. The first frames of a video have clips of their own (`feature_mining.START`).
3. The video logits replace the per-frame ones; the two are not added up.
4. The windows have quirks of their own: see `layers/windows.py`.
"""

from typing import ClassVar

from vidseg.feature_mining import FeatureMiningSegmenter


class CFFM(FeatureMiningSegmenter):
    """A frame and three earlier ones, mined; arguments as `FeatureMiningSegmenter`."""

    official_name: ClassVar[str] = "cffm"
    needs_clip_labels: ClassVar[bool] = True
    # The per-frame model that each is compared with.
    twins: ClassVar[dict[str, str]] = {
        size: f"segformer_{size}" for size in FeatureMiningSegmenter.variants
    }

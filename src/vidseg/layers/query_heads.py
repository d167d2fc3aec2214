"""What queries say of a frame: a class each, and a mask; and how masks become class scores.

EoMT, VidEoMT and PMT share these heads; written from a description of tue-mps/videomt.

N frames, Q queries, D channels, K classes; h w is the grid of patches, stride 16.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Bytes of masks at full size that are in memory at a time.
CHUNK_BYTES = 2**27


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of maps."""

    def forward(self, input: Tensor) -> Tensor:
        """(N, D, h, w) -> the same."""
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class UpscaleBlock(nn.Module):
    """Twice the size: a transposed convolution, GELU, a depthwise 3x3 convolution, a norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.ConvTranspose2d(width, width, 2, 2)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.norm = ChannelNorm(width, 1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """(N, D, h, w) -> (N, D, 2 h, 2 w)."""
        return self.norm(self.conv2(F.gelu(self.conv1(x))))


class QueryHeads(nn.Module):
    """A class and a mask from each query.

    Args:
        width: D.
        num_classes: K; one more output says "no object".
    """

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.class_head = nn.Linear(width, num_classes + 1)
        self.mask_head = nn.Sequential(
            nn.Linear(width, width),
            nn.GELU(),
            nn.Linear(width, width),
            nn.GELU(),
            nn.Linear(width, width),
        )
        self.upscale = nn.Sequential(UpscaleBlock(width), UpscaleBlock(width))

    def masks(self, queries: Tensor, patches: Tensor) -> Tensor:
        """Logits of the masks.

        Args:
            queries: (N, Q, D).
            patches: (N, h, w, D).

        Returns:
            (N, Q, 4 h, 4 w), at stride 4.
        """
        maps = self.upscale(patches.permute(0, 3, 1, 2))
        return torch.einsum("nqd,ndhw->nqhw", self.mask_head(queries), maps)


def class_scores(class_logits: Tensor, mask_logits: Tensor) -> Tensor:
    """Score of each class at each pixel: queries vote with their masks.

    score(c) = sum over q of softmax(class logits of q)(c) * sigmoid(mask logits of q); the last
    class, "no object", does not vote. Scores are not logits.

    Args:
        class_logits: (N, Q, K + 1).
        mask_logits: (N, Q, h, w).

    Returns:
        (N, K, h, w), not negative.
    """
    votes = class_logits.softmax(-1)[..., :-1]
    return torch.einsum("nqk,nqhw->nkhw", votes, mask_logits.sigmoid())


def official_scores(
    class_logits: Tensor,
    mask_logits: Tensor,
    *,
    frame_size: tuple[int, int],
    size: tuple[int, int],
    stride: int = 4,
) -> Tensor:
    """Score of each class at full size, in the order of the authors' evaluation.

    Masks are resized to the padded frame, cropped to the frame, squashed, and resized to `size`
    before queries vote; a few queries at a time are in memory at full size.

    Args:
        class_logits: (Q, K + 1) of one frame.
        mask_logits: (Q, h, w), of the padded frame.
        frame_size: (H, W) of the frame before padding.
        size: (H, W) of the scores.
        stride: of the masks.

    Returns:
        (K, H, W).
    """
    votes = class_logits.softmax(-1)[:, :-1]
    height, width = frame_size
    padded = (stride * mask_logits.shape[-2], stride * mask_logits.shape[-1])
    largest = max(padded[0] * padded[1], size[0] * size[1]) * mask_logits.element_size()
    scores = mask_logits.new_zeros(votes.shape[1], *size)
    count = max(1, CHUNK_BYTES // largest)
    for some, masks in zip(votes.split(count), mask_logits.split(count), strict=True):
        whole = F.interpolate(masks[None], padded, mode="bilinear", align_corners=False)
        squashed = whole[..., :height, :width].sigmoid()
        resized = F.interpolate(squashed, size, mode="bilinear", align_corners=False)
        scores += torch.einsum("qk,qhw->khw", some, resized[0])
    return scores

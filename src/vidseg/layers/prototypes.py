"""Prototypes: a few typical features of a video, found by k-means, and attention to them.

Sun, Liu, Ding, Wu and Van Gool, "Learning Local and Global Temporal Contexts for Video
Semantic Segmentation" (CFFM++), TPAMI 2024; written from a description of GuoleiSun/VSS-CFFM.

B streams, K prototypes, D channels.
"""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidseg.precision import without_autocast


@contextlib.contextmanager
def _full_precision(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The tensors in single precision at least, and no autocast.

    Sums over a whole frame leave the range of float16, and a mean that forgets slowly moves by less
    than the spacing of bfloat16.
    """
    with without_autocast(tensors[0].device.type):
        yield tuple(x.to(torch.promote_types(x.dtype, torch.float32)) for x in tensors)


def nearest(points: Tensor, centers: Tensor) -> Tensor:
    """The index of the nearest center, (N,) int64, of points (N, D) among centers (K, D)."""
    # The square of the point is the same for all centers.
    return (2 * points @ centers.T - centers.square().sum(1)).argmax(1)


def _sums(points: Tensor, labels: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Sum (K, D) and number (K, 1) of the points of each cluster."""
    member = (labels[:, None] == torch.arange(count, device=labels.device)).to(points.dtype)
    return member.T @ points, member.sum(0)[:, None]


@torch.no_grad()
def kmeans(
    points: Tensor, start: Tensor, *, iterations: int = 10, tolerance: float = 1e-4
) -> tuple[Tensor, Tensor]:
    """Lloyd's algorithm from given centers, with euclidean distances.

    As `fast_pytorch_kmeans`, which CFFM++'s authors use: an empty cluster becomes the zero vector.

    Args:
        points: (N, D).
        start: (K, D).
        iterations: at most.
        tolerance: stop when the squared movements of all centers add up to this at most.

    Returns:
        Centers (K, D), in single precision at least, and the label (N,) int64 of each point before
        the last move of the centers.

    Example:
        >>> points = torch.tensor([[0.0], [1.0], [10.0]])
        >>> kmeans(points, start=points[1:])[0]
        tensor([[ 0.5000],
                [10.0000]])
    """
    with _full_precision(points, start) as (points, centers):
        labels = nearest(points, centers)
        # What has come to rest stays as it is; asking whether it has would wait for the device.
        rests = torch.zeros((), dtype=torch.bool, device=points.device)
        for _ in range(iterations):
            labels = torch.where(rests, labels, nearest(points, centers))
            sums, sizes = _sums(points, labels, len(centers))
            moved = torch.where(rests, centers, sums / sizes.clamp_min(1))
            rests = rests | ((moved - centers).square().sum() <= tolerance)
            centers = moved
    return centers, labels


def random_points(points: Tensor, count: int, seed: int) -> Tensor:
    """`count` different points of (N, D), drawn by a generator of their own.

    Raises:
        ValueError: there are fewer points.
    """
    if len(points) < count:
        raise ValueError(
            f"{count} prototypes need as many pixels at least, and the frames have {len(points)} "
            "at the stride of the prototypes; ask for fewer prototypes, or give larger frames"
        )
    order = torch.randperm(len(points), generator=torch.Generator().manual_seed(seed))
    return points[order[:count].to(points.device)]


def spread_points(points: Tensor, count: int) -> Tensor:
    """`count` points of (N, D), evenly spread over them; some come twice if there are fewer."""
    places = torch.arange(count, device=points.device) * len(points) // count
    return points[places]


@torch.no_grad()
def move_centers(
    centers: Tensor, weights: Tensor, points: Tensor, *, keep: float
) -> tuple[Tensor, Tensor]:
    """Let running centers take in the points of a further frame.

    Each center becomes the mean of all points that were ever nearest to it, older frames counting
    less and less; one that no point was near to stays where it is.

    Args:
        centers: (K, D).
        weights: (K,), of the points that each center is the mean of so far.
        points: (N, D), of the frame.
        keep: what a frame's points count for after each further frame, in [0, 1].

    Returns:
        The centers and weights after it, in single precision at least.
    """
    with _full_precision(centers, weights, points) as (centers, weights, points):
        sums, sizes = _sums(points, nearest(points, centers), len(centers))
        kept = keep * weights[:, None]
        total = kept + sizes
        moved = (kept * centers + sums) / total.clamp_min(torch.finfo(total.dtype).tiny)
        return torch.where(total > 0, moved, centers), total[:, 0]


class PrototypeAttention(nn.Module):
    """Every pixel attends to the prototypes, then an MLP; pixels and prototypes share a norm.

    Args:
        channels: D.
        heads: of the attention.
        mlp_ratio: width inside the MLP, in D.
    """

    def __init__(self, channels: int = 256, heads: int = 8, mlp_ratio: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(channels)
        self.query = nn.Linear(channels, channels)
        self.key_value = nn.Linear(channels, 2 * channels)
        self.proj = nn.Linear(channels, channels)
        self.norm2 = nn.LayerNorm(channels)
        self.fc1 = nn.Linear(channels, mlp_ratio * channels)
        self.fc2 = nn.Linear(mlp_ratio * channels, channels)

    def forward(self, x: Tensor, centers: Tensor) -> Tensor:
        """Read the prototypes.

        Args:
            x: (N, h, w, D).
            centers: (N, K, D).

        Returns:
            (N, h, w, D).
        """
        tokens = x.flatten(1, 2)
        query = self.query(self.norm1(tokens)).unflatten(2, (self.heads, -1)).transpose(1, 2)
        both = self.key_value(self.norm1(centers)).unflatten(2, (2, self.heads, -1))
        keys, values = both.permute(2, 0, 3, 1, 4)
        read = F.scaled_dot_product_attention(query, keys, values)
        tokens = tokens + self.proj(read.transpose(1, 2).flatten(2))
        tokens = tokens + self.fc2(F.gelu(self.fc1(self.norm2(tokens))))
        return tokens.unflatten(1, x.shape[1:3])

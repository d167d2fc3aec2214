"""The losses of mask classification over clips: queries are matched to classes, then compared.

Cheng et al., "Masked-attention Mask Transformer", CVPR 2022, in the form for clips of VidEoMT
(matching once a clip, on its first frame); written from a description of tue-mps/videomt.

T frames, Q queries, K classes, G targets of a clip, P points; h w is stride 4 of the padded frames.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from vidseg.classes import IGNORE

NUM_POINTS = 12_544  # 112 x 112
OVERSAMPLE, IMPORTANCE = 3, 0.75
CLASS_WEIGHT, MASK_WEIGHT, DICE_WEIGHT = 2.0, 5.0, 5.0
NO_OBJECT_WEIGHT = 0.1

Draw = Callable[[tuple[int, ...]], Tensor]
"""Uniform numbers in [0, 1) of a shape: `torch.rand`, or recorded ones."""


@dataclass(frozen=True)
class ClipTargets:
    """The targets that queries are matched to in one clip.

    Attributes:
        classes: (G,) int64.
        masks: (G, T, H, W) bool; a target may be empty in some frames.
    """

    classes: Tensor
    masks: Tensor


@dataclass(frozen=True)
class SetLosses:
    """The three terms of one level, not weighted, () each."""

    classes: Tensor
    masks: Tensor
    dice: Tensor


def clip_targets(labels: Tensor, size: tuple[int, int] | None = None) -> ClipTargets:
    """Make every class of a clip one target over all of its frames.

    Args:
        labels: (T, H, W) int64; IGNORE belongs to no target, so it counts as background of all.
        size: (H', W') of the padded frames; the padding belongs to no target.

    Returns:
        Targets by rising class.
    """
    if size is not None:
        missing = (0, size[1] - labels.shape[-1], 0, size[0] - labels.shape[-2])
        labels = F.pad(labels, missing, value=IGNORE)
    classes = labels.unique()
    classes = classes[classes != IGNORE]
    return ClipTargets(classes, labels[None] == classes[:, None, None, None])


def sample_points(maps: Tensor, points: Tensor) -> Tensor:
    """Read maps at points, bilinearly.

    Args:
        maps: (M, H, W).
        points: (M, P, 2) or (1, P, 2) in [0, 1], x and y.

    Returns:
        (M, P).
    """
    grid = 2 * points.expand(maps.shape[0], -1, -1)[:, None] - 1
    return F.grid_sample(maps[:, None], grid, align_corners=False)[:, 0, 0]


@torch.no_grad()
def match(
    class_logits: Tensor,
    mask_logits: Tensor,
    targets: ClipTargets,
    *,
    num_points: int = NUM_POINTS,
    draw: Draw = torch.rand,
) -> tuple[Tensor, Tensor]:
    """Assign a query to every target of a clip, by what both say of its first frame.

    The cost of a pair is 2 (-probability) + 5 cross entropy + 5 dice, the masks at `num_points`
    random points that all pairs share. The pairs hold in every frame.

    Args:
        class_logits: (T, Q, K + 1).
        mask_logits: (T, Q, h, w).
        targets: of the clip.
        num_points: P.
        draw: the source of the points.

    Returns:
        Queries and targets, (min(Q, G),) int64 each, by rising query.
    """
    from scipy.optimize import linear_sum_assignment

    if not len(targets.classes):
        empty = torch.zeros(0, dtype=torch.int64, device=class_logits.device)
        return empty, empty
    probability = class_logits[0].softmax(-1)[:, targets.classes]
    points = draw((1, num_points, 2)).to(mask_logits)
    seen = sample_points(mask_logits[0], points).float()
    truth = sample_points(targets.masks[:, 0].to(mask_logits), points).float()
    entropy = (F.softplus(-seen) @ truth.T + F.softplus(seen) @ (1 - truth).T) / num_points
    squashed = seen.sigmoid()
    overlap = 2 * squashed @ truth.T
    dice = 1 - (overlap + 1) / (squashed.sum(1)[:, None] + truth.sum(1)[None] + 1)
    cost = -CLASS_WEIGHT * probability + MASK_WEIGHT * entropy + DICE_WEIGHT * dice
    queries, chosen = linear_sum_assignment(cost.nan_to_num(1e6).cpu().numpy())
    device = class_logits.device
    return torch.as_tensor(queries, device=device), torch.as_tensor(chosen, device=device)


def set_losses(
    class_logits: Sequence[Tensor] | Tensor,
    mask_logits: Sequence[Tensor] | Tensor,
    targets: Sequence[ClipTargets],
    *,
    num_points: int = NUM_POINTS,
    no_object_weight: float = NO_OBJECT_WEIGHT,
    class_weights: Tensor | None = None,
    draw: Draw = torch.rand,
) -> SetLosses:
    """Match the queries of every clip, and compare them with their targets in every frame.

    Args:
        class_logits: of each clip (T, Q, K + 1); clips may differ in T.
        mask_logits: of each clip (T, Q, h, w).
        targets: of each clip.
        num_points: P.
        no_object_weight: of the queries without a target, in the mean over queries.
        class_weights: (K,), of the others; 1 by default.
        draw: the source of random points, asked in this order: one draw a clip for matching, the
            candidates of all matched masks, the uniform rest.

    Returns:
        Cross entropy over all queries of all frames; binary cross entropy and dice of the matched
        masks at points where they are uncertain.
    """
    pairs = [
        match(classes, masks, of_clip, num_points=num_points, draw=draw)
        for classes, masks, of_clip in zip(class_logits, mask_logits, targets, strict=True)
    ]
    num_outputs = class_logits[0].shape[-1]
    weight = class_logits[0].new_ones(num_outputs, dtype=torch.float32)
    if class_weights is not None:
        weight[:-1] = class_weights
    weight[-1] = no_object_weight
    # Masks in the order of the clips, their frames, their pairs.
    said, wanted, seen, truth, count = [], [], [], [], 0
    for (queries, chosen), of_clip, classes, masks in zip(
        pairs, targets, class_logits, mask_logits, strict=True
    ):
        length, num_queries = classes.shape[:2]
        label = classes.new_full((num_queries,), num_outputs - 1, dtype=torch.int64)
        label[queries] = of_clip.classes[chosen]
        said.append(classes.flatten(0, 1).float())
        wanted.append(label.expand(length, -1).flatten())
        seen.append(masks[:, queries].flatten(0, 1))
        truth.append(of_clip.masks[chosen].transpose(0, 1).flatten(0, 1))
        count += len(of_clip.classes) * length
    entropy = F.cross_entropy(torch.cat(said), torch.cat(wanted), weight)
    masks, dice = point_losses(torch.cat(seen), torch.cat(truth), num_points, draw)
    return SetLosses(entropy, masks / max(1, count), dice / max(1, count))


def point_losses(
    mask_logits: Tensor, truth: Tensor, num_points: int, draw: Draw
) -> tuple[Tensor, Tensor]:
    """Binary cross entropy and dice of M masks at points where they are uncertain, summed.

    Args:
        mask_logits: (M, h, w); there may be none.
        truth: (M, H, W) bool.
        num_points: P.
        draw: the source of points.

    Returns:
        () each; 0 for no mask.
    """
    if not len(mask_logits):
        nothing = mask_logits.sum()
        return nothing, nothing
    points = uncertain_points(mask_logits.detach(), num_points, draw)
    at_points = sample_points(mask_logits, points).float()
    true_points = sample_points(truth.to(mask_logits), points).float()
    entropy = F.binary_cross_entropy_with_logits(at_points, true_points, reduction="none")
    squashed = at_points.sigmoid()
    overlap = 2 * (squashed * true_points).sum(1)
    dice = 1 - (overlap + 1) / (squashed.sum(1) + true_points.sum(1) + 1)
    return entropy.mean(1).sum(), dice.sum()


@torch.no_grad()
def uncertain_points(mask_logits: Tensor, num_points: int, draw: Draw) -> Tensor:
    """Points where masks are near their border, and a quarter anywhere (PointRend).

    Args:
        mask_logits: (M, h, w).
        num_points: P.
        draw: the source of points.

    Returns:
        (M, P, 2) in [0, 1], x and y.
    """
    count = mask_logits.shape[0]
    candidates = draw((count, OVERSAMPLE * num_points, 2)).to(mask_logits)
    num_certain = int(IMPORTANCE * num_points)
    uncertainty = -sample_points(mask_logits, candidates).abs()
    chosen = uncertainty.topk(num_certain, 1).indices
    kept = candidates.gather(1, chosen[..., None].expand(-1, -1, 2))
    rest = draw((count, num_points - num_certain, 2)).to(mask_logits)
    return torch.cat([kept, rest], 1)


def mask_classification_terms(
    levels: Sequence[tuple[Sequence[Tensor] | Tensor, Sequence[Tensor] | Tensor]],
    targets: Sequence[ClipTargets],
    *,
    official: bool = False,
    num_points: int = NUM_POINTS,
    class_weights: Tensor | None = None,
    draw: Draw = torch.rand,
) -> dict[str, tuple[Tensor, float]]:
    """The terms of the last level and of every level before it, each with its weight.

    Args:
        levels: class logits and mask logits, as `set_losses` takes them: of the last level, then of
            what the heads read before each block with queries.
        targets: of each clip.
        official: leave out the level just before the last block, as the authors' table of weights
            does; it is matched all the same, so that random numbers are drawn for it.
        num_points: P.
        class_weights: see `set_losses`.
        draw: see `set_losses`.

    Returns:
        "classes", "masks" and "dice", the same with _0, _1, ... for earlier levels.
    """
    terms: dict[str, tuple[Tensor, float]] = {}
    for place, (class_logits, mask_logits) in enumerate(levels):
        losses = set_losses(
            class_logits,
            mask_logits,
            targets,
            num_points=num_points,
            class_weights=class_weights,
            draw=draw,
        )
        if official and place and place == len(levels) - 1:
            continue
        suffix = f"_{place - 1}" if place else ""
        terms[f"classes{suffix}"] = (losses.classes, CLASS_WEIGHT)
        terms[f"masks{suffix}"] = (losses.masks, MASK_WEIGHT)
        terms[f"dice{suffix}"] = (losses.dice, DICE_WEIGHT)
    return terms

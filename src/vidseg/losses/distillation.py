"""ETC's knowledge distillation: what a small per-frame network copies from a large one.

Liu et al., "Efficient Semantic Video Segmentation with Per-frame Inference", ECCV 2020, section
3.2, in the forms of the authors' `util/crit.py`. All maps are (N, C or D, h, w); the teacher's come
from a run without gradients (nothing is detached here).

    single frame    `pixel_wise_distillation`, `pair_wise_distillation`
    pairs (PF)      `pair_wise_frames`
    sequences (MF)  `MultiFrameDependency`

`sum_over_frames` makes the authors' two and three frame forms out of the single frame losses.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from vidseg.layers.conv_lstm import ConvLSTM, ConvLSTMState
from vidseg.layers.resize import resize
from vidseg.precision import without_autocast

# Legend: N batch, D channels, P = h * w pixels, R rows of an affinity matrix.

CHUNK_BYTES = 2**24
"""What one block of rows of an affinity matrix may take."""

SHORTEST = 1e-12
"""A pixel's feature of smaller length counts as zero."""

TWO_FRAMES = (1.0, 1.0)
"""Weights of (other frame, current frame): `CriterionKD`."""

THREE_FRAMES = (0.4, 1.0, 0.4)
"""Weights of (before, current, after): `CriterionKDLong` and `CriterionSDcos_self`."""


def pixel_wise_distillation(
    student: Tensor, teacher: Tensor, *, temperature: float = 1.0, align_corners: bool = True
) -> Tensor:
    """Kullback-Leibler divergence of a student's class probabilities from its teacher's.

    KL(softmax(teacher / T) || softmax(student / T)), the mean over all N * C * h * w elements and
    without the usual factor T^2, as in ETC's `CriterionKD`: the mean per pixel is C times as large.

    Args:
        student: (N, C, h', w') logits; resized bilinearly to the teacher's.
        teacher: (N, C, h, w) logits.
        temperature: T.
        align_corners: how the student's logits are resized; the authors' is true.

    Returns:
        A scalar.

    Raises:
        ValueError: N or C differ; the temperature is not positive.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    if student.shape[:2] != teacher.shape[:2]:
        raise ValueError(
            f"student and teacher must agree in N and C, got {tuple(student.shape)} and "
            f"{tuple(teacher.shape)}"
        )
    size = (teacher.shape[-2], teacher.shape[-1])
    full = resize(student, size, align_corners=align_corners)
    divergence = F.kl_div(
        F.log_softmax(full / temperature, 1), F.softmax(teacher / temperature, 1), reduction="sum"
    )
    return divergence / teacher.numel()


def class_divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Kullback-Leibler divergence of class probabilities, KL(teacher || student), mean per pixel.

    As TDNet's authors take it: both probabilities have 1e-8 added, so that none is zero.

    Args:
        student: (N, C, h, w) logits; resized bilinearly to the teacher's, corners aligned.
        teacher: (N, C, h', w') logits.

    Returns:
        A scalar.
    """
    size = (teacher.shape[-2], teacher.shape[-1])
    student = resize(student.float(), size, align_corners=True)
    theirs, ours = teacher.float().softmax(1) + 1e-8, student.softmax(1) + 1e-8
    return (theirs * (theirs / ours).log()).sum(1).mean()


def pair_wise_distillation(student: Tensor, teacher: Tensor, *, pool: int = 2) -> Tensor:
    """Squared difference of student and teacher in how alike any two pixels of a frame are.

    Mean over all N * P * P entries of the cosine self-similarity of pooled features
    (`CriterionSDcos_self`). A pixel whose feature is zero has similarity 0 to all, and the
    gradient stays finite; the authors' division gives NaN there.

    Args:
        student: (N, D, h, w) features.
        teacher: (N, D', h, w) features.
        pool: side and stride of the average pooling before; 1 is none.

    Returns:
        A scalar; see `pair_wise_frames` for memory.

    Raises:
        ValueError: N, h or w differ; the maps are smaller than `pool`.
    """
    _check_maps([student], [teacher], pool)
    students, teachers = (_unit(_pooled(maps, pool)) for maps in (student, teacher))
    return _affinity_distance(students, students, teachers, teachers)


def pair_wise_frames(
    student_t: Tensor,
    student_s: Tensor,
    teacher_t: Tensor,
    teacher_s: Tensor,
    *,
    affinity: Literal["cosine", "swapped-norms"] = "cosine",
) -> Tensor:
    """Squared difference of student and teacher in how alike pixels of two frames are (PF).

    Mean over all N * P * P entries of the affinity of each pixel of frame t to each of frame s. No
    affinity matrix is kept: blocks of rows are made, and made again for the gradient, so memory
    grows with P and not with P^2.

    Args:
        student_t: (N, D, h, w) logits or features of the current frame.
        student_s: (N, D, h, w), of the other frame.
        teacher_t: (N, D', h, w).
        teacher_s: (N, D', h, w).
        affinity: "cosine" as the paper, <x_i, y_j> / (|x_i| |y_j|); "swapped-norms" as the authors'
            `CriterionSDcos_sig`, which divides by |y_i| |x_j| and is a cosine only where i = j.
            A length of zero counts as one.

    Returns:
        A scalar.

    Raises:
        ValueError: N, h or w differ; `affinity` is unknown.
    """
    if affinity not in ("cosine", "swapped-norms"):
        raise ValueError(f'affinity must be "cosine" or "swapped-norms", got {affinity!r}')
    _check_maps([student_t, student_s], [teacher_t, teacher_s], pool=1)
    pairs = []
    for maps_t, maps_s in ((student_t, student_s), (teacher_t, teacher_s)):
        x, y = (_full_precision(maps).flatten(2) for maps in (maps_t, maps_s))
        lengths = _lengths(x), _lengths(y)
        along_t, along_s = lengths if affinity == "cosine" else lengths[::-1]
        pairs += [x / along_t, y / along_s]
    return _affinity_distance(*pairs)


def sum_over_frames(
    loss: Callable[[Tensor, Tensor], Tensor],
    students: Sequence[Tensor],
    teachers: Sequence[Tensor],
    weights: Sequence[float] = THREE_FRAMES,
) -> Tensor:
    """A single frame loss over several frames, weighted and summed.

    Args:
        loss: (student, teacher) -> scalar, such as `pixel_wise_distillation`.
        students: one map for each frame, oldest first.
        teachers: one map for each frame, oldest first.
        weights: one for each frame: TWO_FRAMES or THREE_FRAMES, the authors'.

    Returns:
        A scalar.

    Raises:
        ValueError: the numbers of frames differ.

    Example:
        >>> frames = torch.zeros(3, 1, 5, 4, 4).unbind()
        >>> sum_over_frames(pixel_wise_distillation, frames, frames)
        tensor(0.)
    """
    if not len(students) == len(teachers) == len(weights):
        raise ValueError(
            f"got {len(students)} student maps, {len(teachers)} teacher maps and {len(weights)} "
            "weights; give one of each for every frame"
        )
    terms = zip(weights, students, teachers, strict=True)
    return torch.stack(
        [weight * loss(student, teacher) for weight, student, teacher in terms]
    ).sum()


class MultiFrameTerms(NamedTuple):
    """The terms of `MultiFrameDependency`.

    Attributes:
        distance: mean squared difference of the student's and the teacher's embeddings.
        enlarging: mean of 1 - the teacher's embedding; falls as the embedding grows, so that added
            to the loss it keeps the ConvLSTM from the trivial answer, zero for everything.
    """

    distance: Tensor
    enlarging: Tensor


class MultiFrameDependency(nn.Module):
    """Squared difference of student and teacher in what a ConvLSTM keeps of a sequence (MF).

    One ConvLSTM, shared by both networks, reads the frames oldest first; its last state is the
    embedding. It is trained together with the student, where weights of zero would make any two
    embeddings equal. The paper has two safeguards, which the authors' released code does not wire:
    the weights are clipped to a range (`clip_weights` after each step of the optimiser) and the
    teacher's embedding is enlarged (the term `enlarging`).

    Args:
        of: what is read of each frame. "similarity" (`CriterionLSTM`): the cosine self-similarity
            of features after average pooling, as an image of one channel; the distance is that of
            the cells plus that of the hidden states. "channels" (`CriterionLSTMGAN`): every channel
            alone, at the features' own size; the distance is that of the cells. It costs N * D
            sequences.
        channels: of the ConvLSTM's state.
        pool: side and stride of the average pooling for "similarity".
        weight_limit: what `clip_weights` clips to, either side of 0; the paper gives no figure.

    Raises:
        ValueError: `of` is unknown; `weight_limit` is not positive.
    """

    def __init__(
        self,
        *,
        of: Literal["similarity", "channels"] = "similarity",
        channels: int = 4,
        pool: int = 16,
        weight_limit: float = 1.0,
    ) -> None:
        super().__init__()
        if of not in ("similarity", "channels"):
            raise ValueError(f'of must be "similarity" or "channels", got {of!r}')
        if weight_limit <= 0:
            raise ValueError(f"weight_limit must be positive, got {weight_limit}")
        self.of = of
        self.pool = pool
        self.weight_limit = weight_limit
        self.conv_lstm = ConvLSTM(1, channels)

    def forward(self, students: Sequence[Tensor], teachers: Sequence[Tensor]) -> MultiFrameTerms:
        """Compare two sequences.

        Args:
            students: features (N, D, h, w) of each frame, oldest first; the authors take three.
            teachers: features (N, D', h, w) of each frame; D' = D for "channels".

        Returns:
            Two scalars, with gradients to the features and to the ConvLSTM.

        Raises:
            ValueError: the numbers of frames, N, h or w differ, or D for "channels"; the maps are
                smaller than `pool`.
        """
        _check_maps(students, teachers, self.pool if self.of == "similarity" else 1)
        if self.of == "channels" and students[0].shape != teachers[0].shape:
            raise ValueError(
                f'of="channels" compares channel by channel, got {students[0].shape[1]} and '
                f'{teachers[0].shape[1]} channels; use of="similarity"'
            )
        # Half precision would round what is subtracted next.
        with without_autocast(students[0].device.type):
            student, teacher = self.embed(students), self.embed(teachers)
        distance = F.mse_loss(student.cell, teacher.cell)
        if self.of == "similarity":
            distance = distance + F.mse_loss(student.hidden, teacher.hidden)
        return MultiFrameTerms(distance, (1 - teacher.cell).mean())

    def embed(self, frames: Sequence[Tensor]) -> ConvLSTMState:
        """The state after the last of the frames, each (N, D, h, w), oldest first."""
        state = None
        for maps in frames:
            state = self.conv_lstm(self._image(maps), state)
        assert state is not None, "a sequence has a frame"
        return state

    @torch.no_grad()
    def clip_weights(self) -> None:
        """Bring the ConvLSTM's weights and biases back into the range; after each step."""
        for parameter in self.conv_lstm.parameters():
            parameter.clamp_(-self.weight_limit, self.weight_limit)

    def _image(self, maps: Tensor) -> Tensor:
        if self.of == "channels":
            return _full_precision(maps).flatten(0, 1)[:, None]
        units = _unit(_pooled(maps, self.pool))
        return (units.mT @ units)[:, None]


def _full_precision(maps: Tensor) -> Tensor:
    return maps.to(torch.promote_types(maps.dtype, torch.float32))


def _pooled(maps: Tensor, pool: int) -> Tensor:
    return maps if pool == 1 else F.avg_pool2d(maps, pool, pool)


def _lengths(maps_NDP: Tensor) -> Tensor:
    lengths = torch.linalg.vector_norm(maps_NDP, dim=1, keepdim=True)
    return lengths.where(lengths > SHORTEST, 1)


def _unit(maps: Tensor) -> Tensor:
    """(N, D, h, w) -> (N, D, P), every pixel's feature of length one."""
    flat = _full_precision(maps).flatten(2)
    return flat / _lengths(flat)


class _AffinityDistance(torch.autograd.Function):
    """Mean square of x' y - u' v, (N, P, P), in blocks of rows.

    Each block gives its part of the gradients at once, so that nothing of it is kept or made again.
    All blocks are written into one buffer: with a fresh one each, the CPU's allocator does not find
    the freed ones again (524 MB instead of 28 MB at 97x97, 19 channels).
    """

    @staticmethod
    def forward(ctx: Any, x_NDP: Tensor, y_NDP: Tensor, u_NDP: Tensor, v_NDP: Tensor) -> Tensor:
        batch, _, num_pixels = x_NDP.shape
        num_rows = max(1, CHUNK_BYTES // (x_NDP.element_size() * batch * num_pixels))
        buffer = x_NDP.new_empty(batch * min(num_rows, num_pixels) * num_pixels)
        maps = (x_NDP, y_NDP, u_NDP, v_NDP)
        needed = zip(maps, ctx.needs_input_grad, strict=True)
        grads = [torch.zeros_like(m) if is_needed else None for m, is_needed in needed]
        blocks = [slice(r, min(r + num_rows, num_pixels)) for r in range(0, num_pixels, num_rows)]
        squares = []
        for rows in blocks:
            size = (batch, rows.stop - rows.start, num_pixels)
            residual_NRP = buffer[: math.prod(size)].view(size)
            torch.bmm(x_NDP[..., rows].mT, y_NDP, out=residual_NRP)
            residual_NRP.baddbmm_(u_NDP[..., rows].mT, v_NDP, alpha=-1)
            for first, second, sign in ((0, 1, 1), (2, 3, -1)):
                if (grad := grads[first]) is not None:
                    grad[..., rows] = sign * (maps[second] @ residual_NRP.mT)
                if (grad := grads[second]) is not None:
                    grad.baddbmm_(maps[first][..., rows], residual_NRP, alpha=sign)
            squares.append(residual_NRP.square_().sum())
        ctx.save_for_backward(*grads)
        ctx.num_elements = batch * num_pixels**2
        return torch.stack(squares).sum() / ctx.num_elements

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, grad: Tensor
    ) -> tuple[Tensor | None, ...]:
        scale = grad * (2 / ctx.num_elements)
        return tuple(None if g is None else g * scale for g in ctx.saved_tensors)


def _affinity_distance(x_NDP: Tensor, y_NDP: Tensor, u_NDP: Tensor, v_NDP: Tensor) -> Tensor:
    # Half precision would round what is subtracted next.
    with without_autocast(x_NDP.device.type):
        return _AffinityDistance.apply(x_NDP, y_NDP, u_NDP, v_NDP)


def _check_maps(students: Sequence[Tensor], teachers: Sequence[Tensor], pool: int) -> None:
    if not students or len(students) != len(teachers):
        raise ValueError(
            f"got {len(students)} student maps and {len(teachers)} teacher maps; give one of each "
            "for every frame"
        )
    layouts = {(maps.shape[0], *maps.shape[2:]) for maps in (*students, *teachers)}
    if len(layouts) > 1 or students[0].dim() != 4:
        shapes = ", ".join(str(tuple(maps.shape)) for maps in (*students, *teachers))
        raise ValueError(
            f"maps of student and teacher must be (N, D, h, w) of one N, h and w, got {shapes}; "
            "resize the smaller ones with vidseg.layers.resize.resize"
        )
    if min(students[0].shape[-2:]) < pool:
        raise ValueError(
            f"maps of {tuple(students[0].shape[-2:])} are smaller than pool={pool}; pool less, or "
            "train on larger crops"
        )

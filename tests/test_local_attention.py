"""Local attention against the formula written out, shift by shift."""

import math

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from vidseg.layers import local_attention as layer
from vidseg.layers.local_attention import local_attention, local_scores

# (B, K, d, D, h, w, radius): a window larger than the map, maps that tiles do not divide, one pixel
SHAPES = [
    (2, 3, 4, 5, 9, 14, 2),
    (1, 1, 4, 3, 7, 12, 10),
    (2, 2, 3, 40, 5, 3, 1),
    (1, 2, 3, 4, 1, 1, 0),
    (2, 1, 3, 3, 21, 17, 3),
]


def literal(query, keys, values, radius, *, border="zero", constant=None):
    """Scores, softmax and sum of the specification, one window position at a time."""
    h, w = query.shape[-2:]
    side = 2 * radius + 1
    pad = (radius,) * 4
    padded_keys, padded_values = F.pad(keys, pad), F.pad(values, pad)
    inside = F.pad(torch.ones(h, w, dtype=torch.bool), pad)
    shifts = [(i, j) for i in range(side) for j in range(side)]
    scores = []
    for t in range(keys.shape[1]):
        for i, j in shifts:
            score = (query * padded_keys[:, t, :, i : i + h, j : j + w]).sum(1)
            if border == "mask":
                score = score.masked_fill(~inside[i : i + h, j : j + w], -math.inf)
            scores.append(score)
    further = [] if constant is None else [constant.expand(len(query), h, w)]
    weights = torch.stack([*scores, *further], 1).softmax(1)
    total = torch.zeros_like(values[:, 0])
    for t in range(keys.shape[1]):
        for c, (i, j) in enumerate(shifts):
            weight = weights[:, t * side * side + c, None]
            total = total + weight * padded_values[:, t, :, i : i + h, j : j + w]
    return total


def make(shape, *, dtype=torch.float64, seed=0):
    batch, frames, d, value_channels, h, w = shape[:6]
    generator = torch.Generator().manual_seed(seed)
    sizes = (batch, d, h, w), (batch, frames, d, h, w), (batch, frames, value_channels, h, w)
    query, keys, values = (torch.randn(s, generator=generator, dtype=dtype) for s in sizes)
    return query, keys, values


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("border", ["zero", "mask"])
@pytest.mark.parametrize("constant", [None, 0.7])
@pytest.mark.parametrize("chunk", [1, 2**12, 2**24])
def test_equals_the_formula(monkeypatch, shape, border, constant, chunk):
    monkeypatch.setattr(layer, "CHUNK_BYTES", chunk)
    inputs = [x.requires_grad_() for x in make(shape)]
    query, keys, values = inputs
    radius = shape[-1]
    if constant is not None:
        constant = torch.tensor([constant], dtype=torch.float64, requires_grad=True)
        inputs.append(constant)
    ours = local_attention(query, keys, values, radius_px=radius, border=border, constant=constant)
    theirs = literal(query, keys, values, radius, border=border, constant=constant)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    upstream = make(shape, seed=1)[2][:, 0]
    for mine, reference in zip(
        torch.autograd.grad(ours, inputs, upstream),
        torch.autograd.grad(theirs, inputs, upstream),
        strict=True,
    ):
        torch.testing.assert_close(mine, reference, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("border", ["zero", "mask"])
def test_gradients_of_gradients(border):
    inputs = [x.requires_grad_() for x in make((1, 2, 2, 1, 5, 1, 1))]
    constant = torch.tensor([0.3], dtype=torch.float64, requires_grad=True)

    def attend(query, keys, values, further):
        return local_attention(query, keys, values, radius_px=1, border=border, constant=further)

    assert torch.autograd.gradcheck(attend, (*inputs, constant))
    assert torch.autograd.gradgradcheck(attend, (*inputs, constant))


@pytest.mark.parametrize("shape", SHAPES)
def test_scores_are_what_the_attention_weighs_by(shape):
    query, keys, values = make(shape)
    radius = shape[-1]
    scores = local_scores(query, keys, radius_px=radius)
    assert scores.shape == (*keys.shape[:2], (2 * radius + 1) ** 2, *query.shape[-2:])
    weights = scores.flatten(1, 2).softmax(1).view_as(scores)
    windows = F.unfold(values.flatten(0, 1), 2 * radius + 1, padding=radius)
    windows = windows.view(*values.shape[:3], -1, *values.shape[-2:])
    read = (weights[:, :, None] * windows).sum((1, 3))
    whole = local_attention(query, keys, values, radius_px=radius)
    torch.testing.assert_close(read, whole)


def test_half_precision_scores_are_float32():
    """Scores of hundreds, as trained keys give, would lose all digits in a half."""
    query, keys, values = make((1, 2, 16, 4, 8, 8, 3), dtype=torch.float32)
    halves = [(5 * query).bfloat16(), (5 * keys).bfloat16(), values.bfloat16()]
    exact = literal(*(x.double() for x in halves), 3)
    for dtype in (torch.bfloat16, torch.float16):
        inputs = [x.to(dtype) for x in halves]
        result = local_attention(inputs[0], inputs[1], inputs[2], radius_px=3)
        assert result.dtype == dtype
        torch.testing.assert_close(result.double(), exact, rtol=0, atol=0.03)
    with torch.autocast("cpu", torch.bfloat16):
        under = local_attention(halves[0].float(), halves[1].float(), values, radius_px=3)
    assert under.dtype == torch.float32
    exact = literal(halves[0].double(), halves[1].double(), values.double(), 3)
    torch.testing.assert_close(under.double(), exact, rtol=0, atol=1e-4)


def test_exports():
    class Read(torch.nn.Module):
        def forward(self, query, keys, values):
            return local_attention(query, keys, values, radius_px=2)

    inputs = make((2, 3, 4, 5, 9, 14, 2), dtype=torch.float32)
    exported = torch.export.export(Read(), inputs).module()
    torch.testing.assert_close(exported(*inputs), Read()(*inputs))


class Largest(TorchDispatchMode):
    """The most bytes that one operation allocates."""

    nbytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and not func.is_view:
            self.nbytes = max(self.nbytes, result.nbytes)
        return result


@pytest.mark.parametrize("shape", [(1, 3, 4, 8, 16, 96, 4), (4, 1, 4, 300, 9, 40, 4)])
def test_a_large_map_goes_in_parts(monkeypatch, shape):
    monkeypatch.setattr(layer, "CHUNK_BYTES", 2**18)
    inputs = make(shape, dtype=torch.float32)
    with torch.no_grad(), Largest() as parts:
        result = local_attention(*inputs, radius_px=shape[-1])
    assert parts.nbytes <= max(2**18, result.nbytes)
    monkeypatch.setattr(layer, "CHUNK_BYTES", 2**30)
    with torch.no_grad(), Largest() as whole:
        local_attention(*inputs, radius_px=shape[-1])
    assert whole.nbytes > 2 * max(2**18, result.nbytes)


def test_any_layout_gives_one_result():
    inputs = make((2, 3, 4, 5, 9, 14, 2))
    query, keys, values = (x.movedim(-3, -1).contiguous().movedim(-1, -3) for x in inputs)
    plain = local_attention(*inputs, radius_px=2)
    torch.testing.assert_close(local_attention(query, keys, values, radius_px=2), plain)


def test_wrong_shapes():
    query, keys, values = make((1, 2, 4, 3, 5, 6, 1))
    with pytest.raises(ValueError, match=r"must be \(B, d, h, w\), \(B, K, d, h, w\)"):
        local_attention(query, keys, values[:, :1], radius_px=1)
    with pytest.raises(ValueError, match=r"must be \(B, d, h, w\)"):
        local_attention(query[:, :2], keys, values, radius_px=1)
    with pytest.raises(ValueError, match=r"keys \(1, 0, 4, 5, 6\) hold no frame to read"):
        local_attention(query, keys[:, :0], values[:, :0], radius_px=1)
    with pytest.raises(ValueError, match="0 or more, got -1"):
        local_attention(query, keys, values, radius_px=-1)
    with pytest.raises(ValueError, match='"zero" or "mask", got \'reflect\''):
        local_attention(query, keys, values, radius_px=1, border="reflect")  # pyright: ignore

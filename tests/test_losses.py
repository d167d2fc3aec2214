"""Losses against literal transcriptions, finite gradients, and what each leaves out."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from vidseg.flow.warp import warp
from vidseg.layers.conv_lstm import ConvLSTM
from vidseg.losses import (
    TWO_FRAMES,
    MultiFrameDependency,
    class_frequencies,
    cross_entropy,
    deep_supervision,
    ohem_cross_entropy,
    pair_wise_distillation,
    pair_wise_frames,
    pixel_wise_distillation,
    sum_over_frames,
    temporal_loss,
    visibility,
)

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "distillation.py"


def noise(*shape, seed=0, requires_grad=False):
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(*shape, dtype=torch.float64, generator=generator)
    return maps.requires_grad_(requires_grad)


def literal_ohem(logits, labels, threshold, min_kept, weight):
    """Specification 4.3, pixel by pixel in numpy."""
    logits, labels = logits.numpy(), labels.numpy()
    scores = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    hard = [
        (scores[n, labels[n, y, x], y, x], weight[labels[n, y, x]])
        for n, y, x in np.argwhere(labels != 255)
    ]
    if min_kept < len(hard):
        smallest = sorted(p for p, _ in hard)
        limit = threshold if min_kept == 0 else max(threshold, smallest[min_kept - 1])
        hard = [(p, w) for p, w in hard if p <= limit]
    return sum(-w * np.log(p) for p, w in hard) / max(sum(w for _, w in hard), 1e-12)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1000),
    min_kept=st.integers(0, 60),
    threshold=st.sampled_from([0.0, 0.1, 0.4, 1.0]),
    is_weighted=st.booleans(),
)
def test_ohem_keeps_the_hard_pixels(seed, min_kept, threshold, is_weighted):
    logits = 2 * noise(2, 4, 4, 6, seed=seed)
    labels = torch.from_numpy(np.random.default_rng(seed).integers(0, 5, (2, 4, 6)))
    labels[labels == 4] = 255
    weight = torch.tensor([0.5, 1.0, 2.0, 3.0], dtype=torch.float64)
    loss = ohem_cross_entropy(
        logits,
        labels,
        align_corners=True,
        threshold=threshold,
        min_kept=min_kept,
        weight=weight if is_weighted else None,
    )
    shares = weight.numpy() if is_weighted else np.ones(4)
    expected = literal_ohem(logits, labels, threshold, min_kept, shares)
    assert float(loss) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_a_batch_without_valid_or_hard_pixels_gives_zero():
    logits, ignored = noise(1, 3, 4, 4, requires_grad=True), torch.full((1, 4, 4), 255)
    for weight in (None, torch.ones(3, dtype=torch.float64)):
        for labels, options in ((ignored, {}), (ignored * 0, {"threshold": 0.0, "min_kept": 0})):
            loss = ohem_cross_entropy(logits, labels, align_corners=True, weight=weight, **options)
            (grad,) = torch.autograd.grad(loss, logits)
            assert float(loss.detach()) == 0
            assert torch.equal(grad, torch.zeros_like(grad))
    assert class_frequencies(ignored, 3).tolist() == [0, 0, 0]


def test_deep_supervision_is_both_terms():
    logits, auxiliary = noise(2, 3, 4, 4), noise(2, 3, 5, 5, seed=1)
    labels = torch.randint(0, 3, (2, 8, 8), generator=torch.Generator().manual_seed(0))
    plain = partial(cross_entropy, labels=labels, align_corners=False)
    mined = partial(
        ohem_cross_entropy, labels=labels, align_corners=False, threshold=0.3, min_kept=9
    )
    for ohem, main, other in (
        ("none", plain, plain),
        ("main", mined, plain),
        ("both", mined, mined),
    ):
        loss = deep_supervision(
            logits,
            auxiliary,
            labels,
            align_corners=False,
            auxiliary_weight=0.2,
            ohem=ohem,
            threshold=0.3,
            min_kept=9,
        )
        torch.testing.assert_close(loss, main(logits) + 0.2 * other(auxiliary))


@pytest.mark.parametrize("norms", ["cosine", "swapped-norms"])
@pytest.mark.parametrize("rows", [1, 3, 100])
def test_pair_wise_frames_is_the_literal_formula(monkeypatch, norms, rows):
    batch, num_pixels = 2, 12
    monkeypatch.setattr("vidseg.losses.distillation.CHUNK_BYTES", 8 * batch * num_pixels * rows)
    maps = [noise(batch, d, 3, 4, seed=s, requires_grad=True) for s, d in enumerate((5, 5, 7, 7))]

    def literal(student_t, student_s, teacher_t, teacher_s):
        matrices = []
        for x, y in ((student_t, student_s), (teacher_t, teacher_s)):
            x, y = x.flatten(2), y.flatten(2)
            one, other = (x, y) if norms == "cosine" else (y, x)
            lengths = one.norm(dim=1)[:, :, None] * other.norm(dim=1)[:, None, :]
            matrices.append(torch.einsum("ndi,ndj->nij", x, y) / lengths)
        return F.mse_loss(*matrices)

    ours, theirs = pair_wise_frames(*maps, affinity=norms), literal(*maps)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    for mine, reference in zip(
        torch.autograd.grad(ours, maps), torch.autograd.grad(theirs, maps), strict=True
    ):
        torch.testing.assert_close(mine, reference, rtol=1e-9, atol=1e-15)


def test_gradients_of_the_losses_are_their_derivatives():
    x, y = (noise(1, 3, 4, 4, seed=s, requires_grad=True) for s in (0, 1))
    teacher_x, teacher_y = (noise(1, 2, 4, 4, seed=s) for s in (2, 3))
    check = partial(torch.autograd.gradcheck, eps=1e-6, atol=1e-7)
    assert check(lambda a, b: pair_wise_frames(a, b, teacher_x, teacher_y), (x, y))
    assert check(lambda a: pair_wise_distillation(a, teacher_x, pool=2), (x,))
    assert check(lambda a: pair_wise_distillation(teacher_x, a, pool=2), (x,))
    classes = noise(1, 3, 5, 6, seed=4)
    assert check(lambda a: pixel_wise_distillation(a, classes, temperature=3.0), (x,))
    images = noise(1, 3, 7, 9, seed=5), noise(1, 3, 7, 9, seed=6)
    flow = noise(1, 2, 7, 9, seed=7)
    for on in ("logits", "probabilities"):
        assert check(lambda a, b, on=on: temporal_loss(a, b, *images, flow, on=on), (x, y))


def test_features_of_zero_give_finite_answers():
    """After a ReLU a pixel's feature may be all zeros; the authors' division gives NaN."""
    student = noise(1, 3, 4, 4).masked_fill_(torch.arange(4) < 2, 0).requires_grad_()
    teacher = noise(1, 3, 4, 4, seed=1)
    multi_frame = MultiFrameDependency(pool=2).double()
    for loss in (
        pair_wise_distillation(student, teacher),
        pair_wise_frames(student, student, teacher, teacher),
        pair_wise_frames(student, student, teacher, teacher, affinity="swapped-norms"),
        multi_frame([student], [teacher]).distance,
    ):
        (grad,) = torch.autograd.grad(loss, student)
        assert loss.isfinite()
        assert grad.isfinite().all()
    # A zero is like nothing: half of the columns of the cosine matrix are zero.
    nothing = pair_wise_distillation(torch.zeros(1, 3, 4, 4), torch.ones(1, 3, 4, 4), pool=1)
    assert float(nothing) == pytest.approx(1)


def test_a_copy_costs_nothing():
    maps = [noise(2, 4, 6, 6, seed=s) for s in range(3)]
    for loss in (pixel_wise_distillation, pair_wise_distillation):
        assert float(sum_over_frames(loss, maps, maps)) == pytest.approx(0, abs=1e-15)
    assert float(pair_wise_frames(*maps[:2], *maps[:2])) == pytest.approx(0, abs=1e-15)
    assert float(MultiFrameDependency(pool=2).double()(maps, maps).distance.detach()) == 0


def test_pixel_wise_distillation_is_the_mean_over_classes_too():
    student, teacher = noise(2, 5, 3, 4), noise(2, 5, 6, 8, seed=1)
    full = F.interpolate(student, (6, 8), mode="bilinear", align_corners=False) / 2
    p, q = (teacher / 2).softmax(1), full.softmax(1)
    expected = (p * (p / q).log()).sum(1).mean() / 5
    loss = pixel_wise_distillation(student, teacher, temperature=2.0, align_corners=False)
    torch.testing.assert_close(loss, expected)


def test_sums_weigh_each_frame():
    students = [noise(1, 3, 4, 4, seed=s) for s in range(2)]
    teachers = [noise(1, 3, 4, 4, seed=s) for s in (5, 6)]
    parts = [pixel_wise_distillation(s, t) for s, t in zip(students, teachers, strict=True)]
    two = sum_over_frames(pixel_wise_distillation, students, teachers, TWO_FRAMES)
    torch.testing.assert_close(two, parts[0] + parts[1])
    other = sum_over_frames(pixel_wise_distillation, students, teachers, (0.5, 2.0))
    torch.testing.assert_close(other, 0.5 * parts[0] + 2 * parts[1])
    with pytest.raises(ValueError, match="2 student maps, 2 teacher maps and 3 weights"):
        sum_over_frames(pixel_wise_distillation, students, teachers)


def test_half_precision_does_not_reach_the_affinities():
    maps = [noise(1, 8, 6, 6, seed=s).float() for s in range(4)]
    multi_frame = MultiFrameDependency(pool=2)
    with torch.autocast("cpu", torch.bfloat16):
        halved = pair_wise_frames(*maps), multi_frame(maps[:2], maps[2:]).distance
    plain = pair_wise_frames(*maps), multi_frame(maps[:2], maps[2:]).distance
    assert halved == plain
    coarse = [m.bfloat16().requires_grad_() for m in maps]
    loss = pair_wise_frames(*coarse)
    assert loss.dtype == torch.float32
    assert torch.autograd.grad(loss, coarse[0])[0].dtype == torch.bfloat16
    assert float(loss.detach()) == pytest.approx(float(plain[0]), rel=0.02)


@pytest.mark.parametrize("length", [1, 2, 5])
def test_multi_frame_dependency_reads_any_number_of_frames(length):
    """Against a literal LSTM over the similarity image."""
    loss = MultiFrameDependency(channels=2, pool=2).double()
    frames = [noise(2, 5, 4, 6, seed=s) for s in range(length)]
    hidden = cell = torch.zeros(2, 2, 6, 6, dtype=torch.float64)
    weight, bias = loss.conv_lstm.gates.weight, loss.conv_lstm.gates.bias
    for maps in frames:
        flat = F.avg_pool2d(maps, 2).flatten(2)
        similarity = F.cosine_similarity(flat[:, :, :, None], flat[:, :, None, :], dim=1)
        x = torch.cat([similarity[:, None], hidden], 1)
        i, r, o, g = F.conv2d(x, weight, bias, padding=1).split(2, 1)
        cell = r.sigmoid() * cell + i.sigmoid() * g.tanh()
        hidden = o.sigmoid() * cell.tanh()
    state = loss.embed(frames)
    torch.testing.assert_close(state.cell, cell)
    torch.testing.assert_close(state.hidden, hidden)


def test_safeguards_keep_the_multi_frame_embedding_from_collapse():
    """Student features are fixed here, so the ConvLSTM can win only by forgetting everything."""

    def train(enlarging_weight):
        torch.manual_seed(0)
        loss = MultiFrameDependency(pool=2, weight_limit=0.3)
        students, teachers = (
            [noise(1, 4, 8, 8, seed=s).float() for s in range(first, first + 3)] for first in (0, 3)
        )
        optimiser = torch.optim.Adam(loss.parameters(), lr=0.05)
        for _ in range(40):
            terms = loss(students, teachers)
            optimiser.zero_grad()
            (terms.distance + enlarging_weight * terms.enlarging).backward()
            optimiser.step()
            loss.clip_weights()
            assert max(float(p.detach().abs().max()) for p in loss.parameters()) <= 0.3 + 1e-6
        with torch.no_grad():
            return loss.embed(teachers).cell.abs().mean(), loss(students, teachers)

    alone, _ = train(0.0)
    guarded, terms = train(0.1)
    assert guarded > 2 * alone
    assert terms.distance > 0


def test_conv_lstm_starts_from_zero():
    cell = ConvLSTM(3, 2, kernel=5)
    frame = torch.randn(1, 3, 6, 7, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        first = cell(frame)
        zeros = torch.zeros_like(first.hidden)
        again = cell(frame, type(first)(zeros, zeros))
        moved = cell(frame, first)
    assert torch.equal(first.cell, again.cell)
    assert not torch.equal(first.cell, moved.cell)
    assert first.hidden.shape == (1, 2, 6, 7)


@pytest.mark.parametrize("on", ["logits", "probabilities"])
@pytest.mark.parametrize("colour", ["signed-sum", "absolute-sum"])
def test_temporal_loss_is_the_literal_formula(on, colour):
    logits_t, logits_s = (noise(2, 4, 5, 6, seed=s) for s in (0, 1))
    images = [noise(2, 3, 9, 11, seed=s) for s in (2, 3)]
    flow = 2 * noise(2, 2, 9, 11, seed=4)

    def sample(maps):
        rows, columns = torch.meshgrid(torch.arange(9), torch.arange(11), indexing="ij")
        grid = torch.stack([(columns + flow[:, 0]) / 10, (rows + flow[:, 1]) / 8], -1) * 2 - 1
        return F.grid_sample(maps, grid, padding_mode="border", align_corners=True)

    full = [F.interpolate(x, (9, 11), mode="bilinear") for x in (logits_t, logits_s)]
    if on == "probabilities":
        full = [x.softmax(1) for x in full]
    change = images[0] - sample(images[1])
    change = change.sum(1).abs() if colour == "signed-sum" else change.abs().sum(1)
    mask = (-change).exp()[:, None]
    expected = F.mse_loss(mask * full[0], mask * sample(full[1]))
    options = {"on": on, "colour": colour, "align_corners": False}
    loss = temporal_loss(logits_t, logits_s, *images, flow, weight=0.5, **options)
    torch.testing.assert_close(loss, 0.5 * expected)


def test_opposite_colour_changes_cancel_only_in_the_signed_sum():
    image_t, flow = torch.zeros(1, 3, 2, 2), torch.zeros(1, 2, 2, 2)
    image_s = torch.tensor([1.0, -1.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    assert float(visibility(image_t, image_s, flow).min()) == 1
    strict = visibility(image_t, image_s, flow, colour="absolute-sum")
    torch.testing.assert_close(strict, torch.full((1, 1, 2, 2), 2.0).neg().exp())


def test_logits_that_move_with_the_image_cost_nothing():
    logits = noise(1, 4, 8, 12)
    image = noise(1, 3, 8, 12, seed=1)
    flow = torch.tensor([2.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 8, 12).double()
    inside = torch.zeros(1, 8, 12, dtype=torch.bool)
    inside[..., :-2] = True
    moved = [x.roll(2, -1) for x in (logits, image)]
    pair = logits, moved[0], image, moved[1], flow
    assert float(temporal_loss(*pair, valid=inside)) == 0
    assert float(temporal_loss(*pair)) > 0


def test_pixels_that_are_not_valid_leave_the_temporal_loss():
    generator = torch.Generator().manual_seed(0)
    valid = torch.rand(2, 6, 8, generator=generator) < 0.6
    logits = [noise(2, 3, 6, 8, seed=s, requires_grad=True) for s in (0, 1)]
    images = [noise(2, 3, 6, 8, seed=s) for s in (2, 3)]
    flow = noise(2, 2, 6, 8, seed=4)
    loss = temporal_loss(*logits, *images, flow, valid=valid)
    mask = visibility(*images, flow)
    squares = (mask * (logits[0] - warp(logits[1], flow))).square()
    torch.testing.assert_close(loss, squares.movedim(1, -1)[valid].mean())
    broken = flow.masked_fill(~valid[:, None], torch.nan)
    again = temporal_loss(*logits, *images, broken, valid=valid)
    assert torch.equal(again, loss)
    assert all(g.isfinite().all() for g in torch.autograd.grad(again, logits))
    assert float(temporal_loss(*logits, *images, flow, valid=valid & False).detach()) == 0


def test_no_gradient_reaches_the_mask():
    logits = [noise(1, 3, 4, 4, seed=s) for s in (0, 1)]
    images = [noise(1, 3, 4, 4, seed=s, requires_grad=True) for s in (2, 3)]
    loss = temporal_loss(*logits, *images, torch.zeros(1, 2, 4, 4).double())
    assert not loss.requires_grad


def test_shapes_that_do_not_fit_are_refused():
    maps, small = torch.zeros(1, 4, 6, 6), torch.zeros(1, 4, 3, 3)
    with pytest.raises(ValueError, match="one N, h and w"):
        pair_wise_frames(maps, maps, maps, small)
    with pytest.raises(ValueError, match='"cosine" or "swapped-norms"'):
        pair_wise_frames(maps, maps, maps, maps, affinity="dot")
    with pytest.raises(ValueError, match=r"\(6, 6\) are smaller than pool=16"):
        MultiFrameDependency()([maps], [maps])
    with pytest.raises(ValueError, match='4 and 2 channels; use of="similarity"'):
        MultiFrameDependency(of="channels")([maps], [maps[:, :2]])
    with pytest.raises(ValueError, match="2 student maps and 1 teacher maps"):
        MultiFrameDependency(pool=2)([maps, maps], [maps])
    with pytest.raises(ValueError, match="must agree in N and C"):
        pixel_wise_distillation(maps, maps[:, :2])
    with pytest.raises(ValueError, match="temperature must be positive"):
        pixel_wise_distillation(maps, maps, temperature=0)
    image, flow = torch.zeros(1, 3, 6, 6), torch.zeros(1, 2, 6, 6)
    with pytest.raises(ValueError, match="want as many logits and a flow"):
        temporal_loss(maps, maps, image, image, flow[..., :3])
    with pytest.raises(ValueError, match="valid must be"):
        temporal_loss(maps, maps, image, image, flow, valid=torch.ones(1, 6, 6))
    with pytest.raises(ValueError, match='"logits" or "probabilities"'):
        temporal_loss(maps, maps, image, image, flow, on="scores")
    with pytest.raises(ValueError, match='"signed-sum" or "absolute-sum"'):
        temporal_loss(maps, maps, image, image, flow, colour="sum")
    with pytest.raises(ValueError, match="threshold must be"):
        ohem_cross_entropy(maps, torch.zeros(1, 6, 6).long(), align_corners=True, threshold=2)


@pytest.mark.parametrize("channels", [19, pytest.param(256, marks=pytest.mark.slow)])
def test_affinities_of_large_maps_take_little_memory(channels):
    """Forward and backward on 97x97 maps; the matrices alone would take 354 MB each."""
    words = ["--peak-of", "vidseg", "--channels", str(channels)]
    child = subprocess.run(
        [sys.executable, str(BENCHMARK), *words], capture_output=True, check=True
    )
    assert int(child.stdout) < 200e6

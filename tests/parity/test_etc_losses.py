"""ETC's losses against values and gradients that its authors' modules computed."""

from functools import partial

import pytest
import torch
from rules import clip, read_case, rules, state_dict

from vidseg.layers.conv_lstm import ConvLSTM
from vidseg.losses import (
    CITYSCAPES_CLASS_WEIGHTS,
    THREE_FRAMES,
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
from vidseg.weights import load_strictly

W19 = torch.tensor(CITYSCAPES_CLASS_WEIGHTS)
THREE = ("_f", "", "_b")


def check(expected, loss, maps, *, value="value"):
    """Value to 1e-5 relative, gradients to 1e-4 of the largest."""
    torch.testing.assert_close(loss.detach(), expected[value], rtol=1e-5, atol=0)
    check_gradients(expected, loss, maps)


def check_gradients(expected, loss, maps):
    grads = torch.autograd.grad(loss, list(maps.values()))
    for name, grad in zip(maps, grads, strict=True):
        stored = expected[f"grad_{name}"]
        atol = 1e-4 * float(stored.abs().max())
        torch.testing.assert_close(grad, stored, rtol=0, atol=atol, msg=lambda m, n=name: n + m)
        if f"grad_norm_{name}" in expected:
            torch.testing.assert_close(
                grad.norm(), expected[f"grad_norm_{name}"], rtol=1e-4, atol=0
            )


def read(shared, case, names, shape):
    return {n: clip(shared, f"etc/{case}/{n}", shape) for n in names}


def read_labels(shared, case):
    return torch.from_numpy(rules(shared).labels(f"etc/{case}/labels", (2, 33, 49), 19))


def students_and_teachers(shared, case, frames, student_shape, teacher_shape):
    students = read(shared, case, [f"student{f}" for f in frames], student_shape)
    teachers = read(shared, case, [f"teacher{f}" for f in frames], teacher_shape)
    for maps in students.values():
        maps.requires_grad_()
    return students, teachers


@pytest.mark.parametrize("name", ["cross_entropy", "cross_entropy2d", "cross_entropy2d_weighted"])
def test_cross_entropy(shared, name):
    _, expected = read_case(shared, "etc", name)
    labels = read_labels(shared, name)
    shape = tuple(expected["grad_logits"].shape)
    logits = clip(shared, f"etc/{name}/logits", shape).requires_grad_()
    weight = {"cross_entropy": W19, "cross_entropy2d": None}.get(
        name, class_frequencies(labels, 19)
    )
    loss = cross_entropy(logits, labels, align_corners=True, weight=weight)
    check(expected, loss, {"logits": logits})


@pytest.mark.parametrize("weighted", [0, 1])
@pytest.mark.parametrize(
    ("min_kept", "threshold"), [(0, 0.05), (1078, 0.02), (10_000_000, 0.7)], ids=str
)
def test_ohem(shared, weighted, min_kept, threshold):
    name = f"ohem_cross_entropy2d_w{weighted}_k{min_kept}"
    _, expected = read_case(shared, "etc", name)
    logits = clip(shared, f"etc/{name}/logits", (2, 19, 33, 49)).requires_grad_()
    loss = ohem_cross_entropy(
        logits,
        read_labels(shared, name),
        align_corners=True,
        threshold=threshold,
        min_kept=min_kept,
        weight=W19 if weighted else None,
    )
    check(expected, loss, {"logits": logits})


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("dsn", {"weight": W19}),
        ("dsn_unweighted", {}),
        ("ohem_dsn", {"weight": W19, "ohem": "both", "threshold": 0.04, "min_kept": 500}),
        ("ohem_dsn_single", {"weight": W19, "ohem": "main", "threshold": 0.04, "min_kept": 500}),
    ],
)
def test_deep_supervision(shared, name, options):
    _, expected = read_case(shared, "etc", name)
    maps = read(shared, name, ["logits", "dsn"], (2, 19, 9, 13))
    for logits in maps.values():
        logits.requires_grad_()
    loss = deep_supervision(
        maps["logits"], maps["dsn"], read_labels(shared, name), align_corners=True, **options
    )
    check(expected, loss, maps)


@pytest.mark.parametrize(
    ("name", "frames", "weights", "temperature"),
    [
        ("kd", ("_other", ""), TWO_FRAMES, 1),
        ("kd_T2", ("_other", ""), TWO_FRAMES, 2),
        ("kd_long", THREE, THREE_FRAMES, 1),
    ],
)
def test_pixel_wise_distillation(shared, name, frames, weights, temperature):
    _, expected = read_case(shared, "etc", name)
    students, teachers = students_and_teachers(
        shared, name, frames, (2, 19, 9, 13), (2, 19, 13, 17)
    )
    loss = sum_over_frames(
        partial(pixel_wise_distillation, temperature=temperature),
        list(students.values()),
        list(teachers.values()),
        weights,
    )
    check(expected, loss, students)


@pytest.mark.parametrize("chunk_bytes", [2**24, 2**12], ids=["one block", "blocks"])
def test_pair_wise_frames(shared, monkeypatch, chunk_bytes):
    monkeypatch.setattr("vidseg.losses.distillation.CHUNK_BYTES", chunk_bytes)
    name = "pair_wise_frames"
    _, expected = read_case(shared, "etc", name)
    students, teachers = students_and_teachers(
        shared, name, ("", "_other"), (2, 19, 9, 13), (2, 24, 9, 13)
    )
    maps = (*students.values(), *teachers.values())
    check(expected, pair_wise_frames(*maps, affinity="swapped-norms"), students)
    cosine = pair_wise_frames(*maps).detach()
    torch.testing.assert_close(cosine, expected["value_true_cosine"], rtol=1e-5, atol=0)


@pytest.mark.parametrize("chunk_bytes", [2**24, 2**12], ids=["one block", "blocks"])
def test_self_similarity(shared, monkeypatch, chunk_bytes):
    monkeypatch.setattr("vidseg.losses.distillation.CHUNK_BYTES", chunk_bytes)
    name = "self_similarity"
    _, expected = read_case(shared, "etc", name)
    students, teachers = students_and_teachers(
        shared, name, THREE, (2, 24, 16, 24), (2, 40, 16, 24)
    )
    loss = sum_over_frames(pair_wise_distillation, list(students.values()), list(teachers.values()))
    check(expected, loss, students)


def test_conv_lstm(shared):
    case, expected = read_case(shared, "etc", "conv_lstm_cell")
    cell = ConvLSTM(1, 4)
    load_strictly(cell, ours(state_dict(shared, case["state_dict"])))
    state = None
    for step in (1, 2):
        with torch.no_grad():
            state = cell(clip(shared, f"etc/conv_lstm_cell/x{step}", (2, 1, 7, 9)), state)
        torch.testing.assert_close(state.hidden, expected[f"hidden{step}"], rtol=0, atol=1e-6)
        torch.testing.assert_close(state.cell, expected[f"cell{step}"], rtol=0, atol=1e-6)


def ours(tensors):
    return {
        k.replace("convlstm", "conv_lstm").replace("Gates", "gates"): v for k, v in tensors.items()
    }


def test_multi_frame_dependency(shared):
    name = "multi_frame_lstm"
    case, expected = read_case(shared, "etc", name)
    students, teachers = students_and_teachers(
        shared, name, THREE, (2, 24, 32, 48), (2, 40, 32, 48)
    )
    loss = MultiFrameDependency()
    load_strictly(loss, ours(state_dict(shared, case["state_dict"])))
    distance = loss(list(students.values()), list(teachers.values())).distance
    weight = loss.conv_lstm.gates.weight
    (grad,) = torch.autograd.grad(distance, weight, retain_graph=True)
    torch.testing.assert_close(
        grad.norm(), expected["grad_norm_convlstm_weight"], rtol=1e-4, atol=0
    )
    check(expected, distance, students)


def test_multi_frame_dependency_of_channels(shared):
    name = "multi_frame_lstm_raw"
    case, expected = read_case(shared, "etc", name)
    shape = (2, 6, 16, 24)
    students, teachers = students_and_teachers(shared, name, THREE, shape, shape)
    loss = MultiFrameDependency(of="channels")
    load_strictly(loss, ours(state_dict(shared, case["state_dict"])))
    terms = loss(list(students.values()), list(teachers.values()))
    torch.testing.assert_close(terms.distance.detach(), expected["value0"], rtol=1e-5, atol=0)
    torch.testing.assert_close(terms.enlarging.detach(), expected["value1"], rtol=1e-5, atol=0)
    check_gradients(expected, terms.distance + terms.enlarging, students)


def test_temporal_loss(shared):
    name = "temporal_loss"
    _, expected = read_case(shared, "etc", name)
    maps = read(shared, name, ["logits", "logits_other"], (2, 19, 9, 13))
    images = read(shared, name, ["image", "image_other"], (2, 3, 65, 97))
    flow = 3.0 * clip(shared, f"etc/{name}/flow", (2, 2, 65, 97))
    assert torch.equal(flow, expected["flow"])
    mask = visibility(*images.values(), flow)
    torch.testing.assert_close(mask, expected["mask"], rtol=0, atol=1e-4)
    for logits in maps.values():
        logits.requires_grad_()
    loss = temporal_loss(*maps.values(), *images.values(), flow, weight=0.1)
    check(expected, loss, maps, value="loss")
    plain = temporal_loss(*maps.values(), *images.values(), flow).detach()
    torch.testing.assert_close(plain, expected["mse"], rtol=1e-5, atol=0)

"""What is special to TMANet: encoders by position, the start of a video, checkpoints."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

import vidseg
from vidseg.layers.memory_read import read_memory
from vidseg.losses import cross_entropy
from vidseg.methods.staged import Stages
from vidseg.methods.tmanet import TMANet


def literal_attention(query, keys, values):
    """Specification 2.2, word by word, with the full affinity matrix."""
    batch, slots, width, h, w = keys.shape
    q = query.reshape(batch, width, h * w).transpose(1, 2)
    k = keys.transpose(1, 2).reshape(batch, width, slots * h * w)
    v = values.transpose(1, 2).reshape(batch, values.shape[2], slots * h * w).transpose(1, 2)
    weights = torch.softmax(q @ k, -1)
    return (weights @ v).transpose(1, 2).reshape(batch, -1, h, w)


@pytest.mark.parametrize("shape", [(1, 1, 4, 8, 3, 5), (2, 3, 8, 16, 6, 7), (1, 2, 8, 8, 4, 4)])
def test_read_memory_is_plain_attention(shape):
    batch, slots, d, value_width, h, w = shape
    generator = torch.Generator().manual_seed(0)
    make = lambda *s: torch.rand(*s, generator=generator, dtype=torch.float64)  # noqa: E731
    inputs = (
        make(batch, d, h, w),
        make(batch, slots, d, h, w),
        make(batch, slots, value_width, h, w),
    )
    inputs = tuple(x.requires_grad_() for x in inputs)
    ours, theirs = read_memory(*inputs), literal_attention(*inputs)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    for mine, reference in zip(
        torch.autograd.grad(ours.square().sum(), inputs),
        torch.autograd.grad(theirs.square().sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(mine, reference, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("value_width", [8, 16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_read_memory_never_builds_the_full_matrix(value_width, dtype):
    """With every other kernel switched off, torch raises where the fused one cannot run."""
    query = torch.rand(1, 8, 6, 7, dtype=dtype)
    keys, values = (torch.rand(1, 2, width, 6, 7, dtype=dtype) for width in (8, value_width))
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        assert read_memory(query, keys, values).shape == (1, value_width, 6, 7)


@pytest.mark.slow
def test_reading_a_large_memory_takes_little_more():
    """512x1024, T = 2, float32 on the CPU: the full matrix takes 1 GiB more."""
    script = Path(__file__).parents[2] / "benchmarks" / "attention.py"
    peak = subprocess.run(
        [sys.executable, str(script), "--peak-of", "vidseg"], capture_output=True, check=True
    )
    assert int(peak.stdout) < 0.15 * 2**30


def test_read_memory_wants_matching_slots():
    with pytest.raises(ValueError, match="must agree in K, h and w"):
        read_memory(torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 2, 3, 3), torch.zeros(1, 1, 2, 3, 3))


def test_every_position_has_encoders_of_its_own():
    """1,283,328 parameters for each further memory frame of R50 (specification, section 1)."""
    with torch.device("meta"):
        sizes = {t: count(TMANet(19, memory_frames=t)) for t in (2, 4)}
        assert sizes == {2: 32_112_006, 4: 34_678_662}
        assert sizes[4] - sizes[2] == 2 * 1_283_328
        assert count(TMANet(12, memory_frames=4)) == 34_673_272
        assert len(TMANet(19, memory_frames=2).state_dict()) == 418
        assert len(TMANet(19, memory_frames=4).state_dict()) == 466


@pytest.mark.parametrize("stride", [8, 16])
def test_mobilenet_variant_has_narrow_heads(stride):
    with torch.device("meta"):
        model = vidseg.create("tmanet_mobilenetv2", num_classes=11, output_stride=stride)
        third, last = model.encode(torch.zeros(1, 3, 96, 128))
        fused = model.fuse(Stages(third, last), model.initial_memory(Stages(third, last), None))
    assert last.shape == (1, 320, 96 // stride, 128 // stride)
    assert third.shape[1] == model.auxiliary_head.convs[0].conv.in_channels == 96
    head = model.head
    assert head.query_key[0].conv.out_channels == head.memory_key[3][1].conv.out_channels == 32
    assert fused.shape[1] == 2 * head.memory_value[0][0].conv.out_channels == 2 * 128
    assert head.fusion.conv.out_channels == head.classifier.conv_seg.in_channels == 256


def test_fcn_head_has_the_published_size():
    with torch.device("meta"):
        model = vidseg.create("fcn_r50", num_classes=19)
    assert round(count(model.head) / 1e6, 1) == 23.6


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_the_first_frame_fills_the_memory():
    torch.manual_seed(0)
    model = TMANet.tiny(3, memory_frames=3).eval()
    frame = torch.randn(1, 1, 3, 32, 40)
    with torch.no_grad():
        alone, _ = model(frame)
        repeated, _ = model(frame.expand(1, 4, 3, 32, 40), readout="last")
    torch.testing.assert_close(alone.logits, repeated.logits)
    assert model.window_frames(0) == (0, 0, 0, 0)
    assert model.window_frames(2) == (0, 0, 1, 2)
    assert model.window_frames(9) == (6, 7, 8, 9)
    assert model.window_length == 4


def test_order_matters():
    torch.manual_seed(0)
    model = TMANet.tiny(3).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.0)
    frames = torch.randn(1, 3, 3, 32, 40)
    with torch.no_grad():
        forth = model(frames, readout="last")[0].logits
        back = model(frames[:, [1, 0, 2]], readout="last")[0].logits
    assert (forth - back).abs().max() > 1e-4


def official(memory_frames=2, num_classes=3):
    """A checkpoint in the authors' layout, narrow."""
    torch.manual_seed(0)
    model = TMANet(
        num_classes,
        backbone="resnet18_v1c",
        memory_frames=memory_frames,
        key_channels=4,
        value_channels=8,
        channels=12,
        auxiliary_channels=6,
    )
    tensors = {}
    for name, value in model.state_dict().items():
        parts = name.split(".")
        if parts[:2] in (["head", "memory_key"], ["head", "memory_value"]):
            kind = parts[1].removeprefix("memory_")
            parts = ["decode_head", f"memory_{kind}_conv", parts[3], parts[2], *parts[4:]]
        elif parts[:2] in (["head", "query_key"], ["head", "query_value"]):
            parts = ["decode_head", f"{parts[1]}_conv", *parts[2:]]
        elif parts[:2] == ["head", "fusion"]:
            parts = ["decode_head", "bottleneck", *parts[2:]]
        elif parts[:2] == ["head", "classifier"]:
            parts = ["decode_head", *parts[2:]]
        elif parts[:2] == ["auxiliary_head", "classifier"]:
            parts = ["auxiliary_head", *parts[2:]]
        tensors[".".join(parts)] = value
    return model.eval(), tensors


def test_official_sizes_are_inferred(tmp_path):
    model, tensors = official(memory_frames=3)
    torch.save({"meta": {"mmcv_version": "1.2.0"}, "state_dict": tensors}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="pass align_corners=True or False"):
        vidseg.load_official("tmanet", tmp_path / "a.pth")
    loaded = vidseg.load_official("tmanet", tmp_path / "a.pth", align_corners=False)
    frames = torch.randn(1, 4, 3, 32, 40)
    with torch.no_grad():
        torch.testing.assert_close(loaded(frames)[0].logits, model(frames)[0].logits)
    assert loaded.card.architecture == "tmanet_r18"
    assert loaded.card.classes == ()
    with pytest.raises(ValueError, match=r"trained with memory_frames=3 .* cannot be used with 4"):
        vidseg.load_official("tmanet", tensors, align_corners=False, memory_frames=4)
    vidseg.weights.save(loaded, tmp_path / "ours.safetensors")
    assert vidseg.load(tmp_path / "ours.safetensors").memory_frames == 3


def test_official_keys_are_all_accounted_for():
    _, tensors = official()
    with pytest.raises(ValueError, match=r"unexpected: decode_head\.extra"):
        vidseg.load_official(
            "tmanet", {**tensors, "decode_head.extra": torch.zeros(1)}, align_corners=True
        )
    without = {k: v for k, v in tensors.items() if k != "decode_head.memory_key_conv.0.1.bn.bias"}
    with pytest.raises(ValueError, match=r"missing: head\.memory_key\.1\.0\.bn\.bias"):
        vidseg.load_official("tmanet", without, align_corners=True)
    with pytest.raises(
        ValueError, match=r"not a whole TMANet checkpoint: there is no .*decode_head\.conv_seg"
    ):
        vidseg.load_official("tmanet", {"layer0.0.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="did you mean 'tmanet'"):
        vidseg.load_official("tmamet", tensors)


def test_loss_divides_by_what_is_asked():
    logits = torch.randn(2, 3, 4, 4)
    labels = torch.randint(0, 3, (2, 8, 8))
    labels[:, :2] = 255
    valid = cross_entropy(logits, labels, align_corners=False)
    everything = cross_entropy(logits, labels, align_corners=False, average="all")
    torch.testing.assert_close(everything, valid * 0.75)
    reference = torch.nn.functional.cross_entropy(
        torch.nn.functional.interpolate(logits, size=(8, 8), mode="bilinear"),
        labels,
        ignore_index=255,
        weight=torch.tensor([1.0, 2.0, 3.0]),
    )
    weighted = cross_entropy(
        logits, labels, align_corners=False, weight=torch.tensor([1.0, 2.0, 3.0])
    )
    torch.testing.assert_close(weighted, reference)
    ignored = torch.full((2, 8, 8), 255)
    assert float(cross_entropy(logits, ignored, align_corners=False)) == 0.0
    with pytest.raises(ValueError, match=r"label 3 is neither a class 0\.\.2 nor ignored"):
        cross_entropy(logits, labels.clamp(max=3), align_corners=False)
    with pytest.raises(ValueError, match='"valid" or "all"'):
        cross_entropy(logits, labels, align_corners=False, average="some")


def test_an_impossible_memory():
    with pytest.raises(ValueError, match="memory_frames must be at least 1, got 0"):
        TMANet.tiny(3, memory_frames=0)

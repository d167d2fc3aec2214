"""What is special to ERFNet: sizes, folded norms, layouts, checkpoints."""

import pytest
import torch
from torch import nn

import vidseg
from vidseg.layers.conv_norm import conv_norm


def test_published_size():
    with torch.device("meta"):
        model = vidseg.create("erfnet", num_classes=20)
    assert sum(p.numel() for p in model.backbone.parameters()) == 1_874_044
    assert sum(p.numel() for p in model.decoder.parameters()) == 190_212
    assert vidseg.create("erfnet_tiny", num_classes=2).card.architecture == "erfnet_tiny"
    assert model.card.architecture == "erfnet"


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(4, 6, 3),
        nn.Conv2d(4, 6, 3, bias=False),
        nn.ConvTranspose2d(4, 6, 3, stride=2, output_padding=1),
    ],
    ids=["biased", "plain", "transposed"],
)
def test_norms_are_folded_in_evaluation_alone(conv):
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(6)
    x = torch.randn(2, 4, 7, 9)
    with torch.no_grad():
        trained = conv_norm(conv, norm, x)
        torch.testing.assert_close(trained.mean((0, 2, 3)), torch.zeros(6), rtol=0, atol=1e-5)
        assert int(norm.num_batches_tracked) == 1
        nn.init.normal_(norm.bias)
    norm.eval()
    parameters = [*conv.parameters(), *norm.parameters()]
    folded, plain = conv_norm(conv, norm, x), norm(conv(x))
    torch.testing.assert_close(folded, plain)
    for ours, theirs in zip(
        torch.autograd.grad(folded.square().mean(), parameters),
        torch.autograd.grad(plain.square().mean(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_layouts_agree():
    torch.manual_seed(0)
    model = vidseg.create("erfnet_tiny", num_classes=4).eval()
    frame = torch.rand(1, 3, 32, 40)
    with torch.no_grad():
        plain = model.step(frame)[0].logits
        last = model.for_inference().step(frame)[0].logits
    assert last[:, 0].is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(last, plain, rtol=1e-4, atol=1e-5)


def test_only_multiples_of_eight():
    model = vidseg.create("erfnet_tiny", num_classes=4).eval()
    frame = torch.rand(1, 3, 33, 41)
    with pytest.raises(ValueError, match=r"multiples of 8, got 33x41; model\.card\.fit"):
        model.step(frame)
    with torch.no_grad():
        assert model.step(model.card.fit(frame))[0].logits.shape == (1, 1, 4, 40, 48)
    with pytest.raises(ValueError, match='backbone must be "erfnet" or "erfnet_tiny"'):
        vidseg.create("erfnet", num_classes=4, backbone="resnet_tiny")


def test_official_keys_are_all_accounted_for(tmp_path):
    torch.manual_seed(0)
    model = vidseg.create("erfnet", num_classes=20).eval()
    names = {"auxiliary_head.": "encoder.output_conv.", "backbone.": "encoder."}
    tensors = {}
    for name, value in model.state_dict().items():
        for ours, theirs in names.items():
            name = name.replace(ours, theirs) if name.startswith(ours) else name
        tensors[f"module.{name}"] = value
    torch.save({"epoch": 3, "state_dict": tensors}, tmp_path / "erfnet.pth")
    loaded = vidseg.load_official("erfnet", tmp_path / "erfnet.pth")
    frame = torch.rand(1, 3, 32, 40)
    with torch.no_grad():
        assert torch.equal(loaded.step(frame)[0].logits, model.step(frame)[0].logits)
    assert loaded.card.classes[-1] == "void"
    assert loaded.card.std == (255, 255, 255)
    vidseg.weights.save(loaded, tmp_path / "ours.safetensors")
    assert vidseg.load(tmp_path / "ours.safetensors").card.architecture == "erfnet"
    tensors.pop("module.encoder.initial_block.bn.bias")
    with pytest.raises(ValueError, match=r"missing: backbone\.initial_block\.bn\.bias"):
        vidseg.load_official("erfnet", tensors)
    with pytest.raises(ValueError, match=r"there is no decoder\.output_conv\.weight"):
        vidseg.load_official("erfnet", {"layer0.weight": torch.zeros(1)})

"""Stems and dilations of every code base, and weights in every layout."""

import pytest
import torch
from torch import nn

from vidseg.backbones import BACKBONES, build_backbone
from vidseg.backbones.imagenet import SOURCES, load_imagenet, to_backbone_keys
from vidseg.backbones.mobilenet import MobileNetV2, unfold_batch_norm
from vidseg.backbones.resnet import ResNet


def dilations(network, stage, conv):
    return [getattr(b, conv).dilation[0] for b in getattr(network, f"layer{stage}")]


def test_v1c_contracts_the_first_dilation_of_a_stage():
    network = build_backbone("resnet50_v1c")
    assert dilations(network, 3, "conv2") == [1, 2, 2, 2, 2, 2]
    assert dilations(network, 4, "conv2") == [2, 4, 4]
    assert [m.out_channels for m in network.stem if isinstance(m, nn.Conv2d)] == [32, 32, 64]
    assert isinstance(network.layer1[0].downsample, nn.Sequential)


def test_etc_dilates_second_convolutions_alone():
    network = build_backbone("resnet18_etc")
    assert dilations(network, 3, "conv1") == [1, 1]
    assert dilations(network, 3, "conv2") == [2, 2]
    assert dilations(network, 4, "conv2") == [4, 4]
    assert network.stem[0].kernel_size == (7, 7)


def test_semseg_dilates_every_block_alike():
    network = build_backbone("resnet101_semseg")
    assert dilations(network, 3, "conv2") == [2] * 23
    assert dilations(network, 4, "conv2") == [4] * 3
    assert [m.out_channels for m in network.stem if isinstance(m, nn.Conv2d)] == [64, 64, 128]


def test_tdnet_multi_grid():
    basic = ResNet(34, rule="multi_grid")
    assert list(zip(dilations(basic, 3, "conv1"), dilations(basic, 3, "conv2"), strict=True)) == [
        (1, 2),
        *[(2, 2)] * 5,
    ]
    assert list(zip(dilations(basic, 4, "conv1"), dilations(basic, 4, "conv2"), strict=True)) == [
        (4, 4),
        (8, 4),
        (16, 4),
    ]
    bottleneck = ResNet(50, rule="multi_grid", stem="deep", stem_width=64)
    assert dilations(bottleneck, 3, "conv2") == [1, 2, 2, 2, 2, 2]
    assert dilations(bottleneck, 4, "conv2") == [4, 8, 16]


def test_fanet_strides_every_stage():
    network = ResNet(18, strides=(2, 2, 2, 2), dilations=(1, 1, 1, 1), slope=0.01).eval()
    assert network.layer1[0].downsample is not None
    assert isinstance(network.layer1[0].activation, nn.LeakyReLU)
    with torch.no_grad():
        sizes = [tuple(m.shape[-2:]) for m in network(torch.zeros(1, 3, 64, 128))]
    assert sizes == [(8, 16), (4, 8), (2, 4), (1, 2)]


@pytest.mark.parametrize("name", ["resnet18_v1c", "resnet18_etc"])
def test_output_stride_eight_rounds_up(name):
    network = build_backbone(name, widths=(8, 8, 8, 8)).eval()
    with torch.no_grad():
        maps = network(torch.zeros(1, 3, 97, 130))
    assert [tuple(m.shape[-2:]) for m in maps] == [(25, 33), (13, 17), (13, 17), (13, 17)]


@pytest.mark.parametrize(
    ("stride", "size", "last_dilations"),
    [(8, (12, 16), {2, 4}), (16, (6, 8), {1, 2}), (32, (3, 4), {1})],
)
def test_mobilenet_output_stride(stride, size, last_dilations):
    network = MobileNetV2(output_stride=stride).eval()
    with torch.no_grad():
        *_, third, last = network(torch.zeros(1, 3, 96, 128))
    assert last.shape == (1, 320, *size)
    assert third.shape[1] == 96
    used = {
        m.dilation[0]
        for layer in network.features[14:]
        for m in layer.modules()
        if isinstance(m, nn.Conv2d) and m.groups > 1
    }
    assert used == last_dilations


def test_mobilenet_dilation_samples_what_the_stride_sampled():
    """At every second pixel the dilated network sees what the strided one saw."""
    torch.manual_seed(0)
    strided = MobileNetV2(output_stride=32).double().eval()
    dilated = MobileNetV2(output_stride=16).double().eval()
    dilated.load_state_dict(strided.state_dict())
    image = torch.randn(1, 3, 512, 512, dtype=torch.float64)
    with torch.no_grad():
        coarse, fine = strided(image)[-1], dilated(image)[-1]
    # Zero padding reaches four coarse pixels into the map.
    torch.testing.assert_close(fine[:, :, ::2, ::2][..., 5:-5, 5:-5], coarse[..., 5:-5, 5:-5])


def test_same_padding_puts_the_odd_pixel_right_and_bottom():
    layer = MobileNetV2(tensorflow=True).features[0][0]
    nn.init.ones_(layer.weight)
    ones = torch.ones(1, 3, 6, 6)
    first = layer(ones)[0, 0]
    assert first.shape == (3, 3)
    assert first[0, 0] == 27  # nothing is padded at the top left
    assert first[-1, -1] == 12  # one row and one column are, at the bottom right


def test_unfolding_keeps_the_function_and_gives_norms_statistics():
    torch.manual_seed(0)
    network = MobileNetV2(output_stride=16).eval()
    images = torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        before = network(images)[-1]
        unfold_batch_norm(network, [images[:2], images[2:]])
        after = network(images)[-1]
        torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-5)
        in_training = network.train()(images)[-1]
    torch.testing.assert_close(in_training, before, rtol=2e-2, atol=1e-3)
    with pytest.raises(ValueError, match="at least one batch"):
        unfold_batch_norm(network, [])


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({"conv1.weight": 0, "bn1.bias": 1}, ["stem.0.weight", "stem.1.bias"]),
        (
            {"conv1.0.weight": 0, "conv1.4.bias": 1, "bn1.bias": 2},
            ["stem.0.weight", "stem.4.bias", "stem.7.bias"],
        ),
        (
            {"layer0.3.weight": 0, "layer1.0.conv1.weight": 1},
            ["stem.3.weight", "layer1.0.conv1.weight"],
        ),
        (
            {"conv1.weight": 0, "bn1.weight": 1, "conv3.weight": 2, "bn3.weight": 3},
            ["stem.0.weight", "stem.1.weight", "stem.6.weight", "stem.7.weight"],
        ),
    ],
)
def test_every_layout_is_renamed(theirs, ours):
    assert list(to_backbone_keys(theirs)) == ours


def test_a_local_file_fills_the_backbone(tmp_path):
    source = build_backbone("resnet18_etc", widths=(8, 8, 8, 8))
    tensors = {
        k.replace("stem.0.", "conv1.").replace("stem.1.", "bn1."): v
        for k, v in source.state_dict().items()
    }
    torch.save({"state_dict": {**tensors, "fc.weight": torch.zeros(1000, 8)}}, tmp_path / "w.pth")
    target = build_backbone("resnet18_etc", widths=(8, 8, 8, 8))
    load_imagenet(target, "resnet18_etc", tmp_path / "w.pth")
    for name, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], value), name
    torch.save({"conv1.weight": tensors["conv1.weight"]}, tmp_path / "part.pth")
    with pytest.raises(ValueError, match=r"does not fit resnet18_etc: missing .*layer4"):
        load_imagenet(target, "resnet18_etc", tmp_path / "part.pth")
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        load_imagenet(target, "resnet18_etc", tmp_path / "absent.pth")


def test_offline_the_error_says_which_file_to_bring(monkeypatch):
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", refuse)
    for name, file in (
        ("resnet50_v1c", "resnet50_v1c-2cccc1ad.pth"),
        ("resnet18_v1c", "resnet18_v1c"),
        ("resnet152_v1c", "resnet152c.gluon_in1k"),
        ("mobilenetv2", "mobilenet_v2-7ebf99e0.pth"),
    ):
        with pytest.raises(FileNotFoundError, match=rf"{file}.* backbone_weights=PATH"):
            load_imagenet(nn.Identity(), name, "imagenet")


def test_every_published_backbone_has_a_source():
    assert set(SOURCES) == set(BACKBONES) - {"resnet_tiny", "erfnet", "erfnet_tiny", "mit_tiny"}


def refuse(*args, **options):
    raise ConnectionError("no network")


def test_tensorflow_weights_want_a_tensorflow_network(shared):
    path = shared / "data" / "weights" / "mobilenetv2_imagenet_dequant_fp16.pth"
    with pytest.raises(ValueError, match="tensorflow=True"):
        load_imagenet(MobileNetV2(), "mobilenetv2", path)
    network = MobileNetV2(tensorflow=True)
    load_imagenet(network, "mobilenetv2", path)
    assert network.features[0][0].weight.detach().std() > 0.05
    norm = network.features[4].conv[0][1]
    assert torch.equal(norm.running_var, torch.ones(144)), "its norms are folded"


def test_unknown_names_and_depths():
    with pytest.raises(ValueError, match="unknown backbone 'resnet7'; there are"):
        build_backbone("resnet7")
    with pytest.raises(ValueError, match="depth must be one of"):
        ResNet(7)
    with pytest.raises(ValueError, match="for basic blocks"):
        ResNet(50, rule="second_conv")
    with pytest.raises(ValueError, match="output_stride must be 8, 16 or 32, got 4"):
        MobileNetV2(output_stride=4)

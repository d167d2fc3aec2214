"""timm's and torchvision's networks are the same functions as ours, after renaming."""

import pytest
import torch

from vidseg.backbones import build_backbone
from vidseg.backbones.imagenet import load_imagenet

pytestmark = pytest.mark.extras


@pytest.mark.parametrize(
    ("ours", "theirs", "options"),
    [
        ("resnet50_v1c", "resnet50c", {"output_stride": 8}),
        ("resnet101_v1c", "resnet101c", {"output_stride": 8}),
        ("mobilenetv2", "mobilenetv2_100", {}),
    ],
)
def test_timm(tmp_path, ours, theirs, options):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    reference = timm.create_model(theirs, pretrained=False, features_only=True, **options).eval()
    whole = timm.create_model(theirs, pretrained=False, **options).eval()
    scramble(whole)
    reference.load_state_dict(whole.state_dict(), strict=False)
    torch.save(whole.state_dict(), tmp_path / "timm.pth")
    network = build_backbone(ours, **({"output_stride": 32} if ours == "mobilenetv2" else {}))
    load_imagenet(network, ours, tmp_path / "timm.pth")
    network.eval()
    image = torch.randn(1, 3, 97, 129)
    with torch.no_grad():
        expected = reference(image)[-1]
        actual = network(image)[-1]
    assert actual.shape == expected.shape
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize(
    ("ours", "theirs"), [("resnet18_etc", "resnet18"), ("mobilenetv2", "mobilenet_v2")]
)
def test_torchvision_files_load(tmp_path, ours, theirs):
    models = pytest.importorskip("torchvision.models")
    whole = getattr(models, theirs)(weights=None).eval()
    scramble(whole)
    torch.save(whole.state_dict(), tmp_path / "tv.pth")
    options = (
        {"output_stride": 32}
        if ours == "mobilenetv2"
        else {"rule": "constant", "dilations": (1, 1, 1, 1), "strides": (1, 2, 2, 2)}
    )
    network = build_backbone(ours, **options).eval()
    load_imagenet(network, ours, tmp_path / "tv.pth")
    image = torch.randn(1, 3, 97, 129)
    with torch.no_grad():
        expected = (
            whole.features[:18](image)
            if theirs == "mobilenet_v2"
            else torch.nn.Sequential(*list(whole.children())[:-2])(image)
        )
        torch.testing.assert_close(network(image)[-1], expected, rtol=1e-4, atol=1e-4)


def scramble(model):
    """Norms that are not the identity, so that a swapped key shows."""
    generator = torch.Generator().manual_seed(1)
    for name, value in model.state_dict().items():
        if name.endswith(("running_mean", "running_var")) or value.dim() == 1:
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)

"""TDNet's dilated ResNets, with pyramid pooling, against tensors made by its authors' modules.

The other variants are checked with their methods: V1c with TMANet, second convolutions with ETC.
"""

import pytest
import torch
from rules import clip, read_case, state_dict
from torch.nn import functional as F

from vidseg.backbones import ResNet
from vidseg.backbones.imagenet import to_backbone_keys
from vidseg.layers.pyramid import PyramidPooling
from vidseg.weights import load_strictly

STEMS = {18: {}, 50: {"stem": "deep", "stem_width": 64}}


@pytest.mark.parametrize(
    ("name", "depth", "frame"), [("td4_psp18_65x97", 18, 5), ("td2_psp50_65x97", 50, 3)]
)
def test_multi_grid(shared, name, depth, frame):
    """Both frames run on path 2, which keeps the second slice of the input and of each branch."""
    case, expected = read_case(shared, "tdnet", name)
    assert case["path_of_each_frame"][frame] == 2
    official = state_dict(shared, case["state_dict"])
    backbone = ResNet(depth, rule="multi_grid", **STEMS[depth]).eval()
    load_strictly(backbone, to_backbone_keys(of_module(official, "pretrained2")))
    width = backbone.channels[-1]
    pyramid = PyramidPooling(width).eval()
    pooled = {
        f"features.{int(k[4]) - 1}.{int(k[6]) + 1}{k[7:]}": v  # conv1.0.weight: pool comes first
        for k, v in of_module(official, "psp2").items()
    }
    load_strictly(pyramid, pooled)
    image = clip(shared, case["clip_name"], tuple(case["clip_shape"]))[frame]
    with torch.no_grad():
        joined = pyramid(backbone(image)[-1])
    parts = joined.split([width] + [width // 4] * 4, 1)
    z = torch.cat([part[:, part.shape[1] // 2 :] for part in parts], 1)
    torch.testing.assert_close(z, expected[f"frame{frame}/z"], rtol=0, atol=1e-4)


def of_module(tensors, module):
    prefix = f"{module}."
    return {
        k.removeprefix(prefix): v
        for k, v in tensors.items()
        if k.startswith(prefix) and not k.startswith(f"{prefix}fc.")
    }


def test_strided_with_leaky_activations(shared):
    """TDNet's FANet: every stage halves the size; its attention is linear and has no softmax."""
    case, expected = read_case(shared, "tdnet", "td2_fa18_64x96")
    official = state_dict(shared, case["state_dict"])
    backbone = ResNet(18, strides=(2, 2, 2, 2), dilations=(1, 1, 1, 1), slope=0.01).eval()
    load_strictly(backbone, to_backbone_keys(of_module(official, "pretrained1")))
    module = of_module(official, "ffm_32_1")

    def layer(x, name, *, leaky, padding=0):
        x = F.conv2d(x, module[f"{name}.conv.weight"], padding=padding)
        statistics = (module[f"{name}.bn.{what}"] for what in ("running_mean", "running_var"))
        affine = (module[f"{name}.bn.{what}"] for what in ("weight", "bias"))
        x = F.batch_norm(x, *statistics, *affine)
        return F.leaky_relu(x, 0.01) if leaky else x

    image = clip(shared, case["clip_name"], tuple(case["clip_shape"]))[
        0
    ]  # path 1 sees the frame before
    with torch.no_grad():
        last = backbone(image)[-1]
        query, key = (
            F.normalize(layer(last, name, leaky=False).flatten(2), dim=1)
            for name in ("w_qs", "w_ks")
        )
        value = layer(last, "w_vs", leaky=True).flatten(2)
        read = (value @ key.transpose(1, 2) @ query).unflatten(2, last.shape[-2:])
        fused = layer(read, "latlayer3", leaky=True) + last
        up = layer(fused, "up", leaky=True, padding=1)
    torch.testing.assert_close(up, expected["frame1/up32_1"], rtol=0, atol=1e-4)

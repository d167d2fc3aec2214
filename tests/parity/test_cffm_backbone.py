"""MiT against the authors' tensors, and its epsilons, which numbers cannot show."""

import json

import pytest
import torch
from rules import clip, read_case, state_dict
from torch import nn

from vidseg.backbones import build_backbone
from vidseg.backbones.mit_layouts import encoder_of
from vidseg.weights import load_strictly


def close(actual, expected, name, scale=1e-4):
    """To 1e-4 of the standard deviation, as the description of the cases asks."""
    atol = scale * float(expected.std())
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol, msg=lambda m: f"{name}: {m}")


@pytest.mark.parametrize("name", ["mit_b0", "mit_b1"])
def test_backbone(shared, name):
    case, expected = read_case(shared, "cffm", name)
    backbone = build_backbone(name).eval()
    load_strictly(backbone, encoder_of(state_dict(shared, case["state_dict"])))
    label, shape = case["inputs"]["clip"]
    frames = clip(shared, label, tuple(shape))
    with torch.no_grad():
        maps = backbone(frames)
        tokens, size = backbone.patch_embed1(frames)
        block = backbone.block1[0]
        taps = {
            "stage1_embed": tokens,
            "stage1_block0_attn": block.attn(block.norm1(tokens), size),
            "stage1_block0": block(tokens, size),
            **{f"c{k + 1}": x for k, x in enumerate(maps)},
        }
    assert set(taps) == set(expected)
    for what, tap in taps.items():
        close(tap, expected[what], what)


@pytest.mark.parametrize("name", ["mit_b0", "mit_b1"])
def test_every_norm_has_the_authors_epsilon(shared, name):
    listed = json.loads((shared / "parity" / "cffm" / f"{name}.json").read_text())["norm_eps"]
    norms = {
        f"backbone.{key}": module.eps
        for key, module in build_backbone(name).named_modules()
        if isinstance(module, nn.LayerNorm)
    }
    assert norms == {key: eps for key, eps in listed.items() if key.startswith("backbone.")}

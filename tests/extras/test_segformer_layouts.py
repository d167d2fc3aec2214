"""SegFormer of transformers, of its versions 4 and 5: the same logits from its weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import vidseg
from vidseg.backbones import build_backbone
from vidseg.backbones.imagenet import load_imagenet

pytestmark = pytest.mark.extras

SIZES = {
    "num_labels": 7,
    "depths": [2, 2, 2, 2],
    "hidden_sizes": [32, 64, 160, 256],
    "num_attention_heads": [1, 2, 5, 8],
    "decoder_hidden_size": 256,
}


def settled(model: torch.nn.Module) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(0)
    for name, value in model.state_dict().items():
        if name.endswith("running_var"):
            value.copy_(0.5 + torch.rand(value.shape, generator=generator))
        elif value.is_floating_point():
            value.add_(0.1 * torch.randn(value.shape, generator=generator))
    return model.eval()


@pytest.mark.parametrize("source", ["state dict", "file"])
def test_whole_model(source: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = settled(
        transformers.SegformerForSemanticSegmentation(transformers.SegformerConfig(**SIZES))
    )
    tensors: object = theirs.state_dict()
    if source == "file":
        theirs.save_pretrained(tmp_path)
        tensors = tmp_path / "model.safetensors"
    ours = vidseg.load_official("segformer", tensors)  # type: ignore[arg-type]
    frames = torch.randn(2, 3, 68, 100, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits = ours(frames[:, None])[0].logits[:, 0]
        torch.testing.assert_close(logits, theirs(frames).logits, rtol=1e-4, atol=1e-4)


def test_imagenet_file(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.SegformerConfig(**SIZES)
    theirs = settled(transformers.SegformerForImageClassification(config))
    theirs.save_pretrained(tmp_path)
    ours = build_backbone("mit_b0", norm_eps=1e-5).eval()
    load_imagenet(ours, "mit_b0", tmp_path / "model.safetensors")
    frames = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        last = ours(frames)[-1]
        expected = theirs.segformer(frames).last_hidden_state.reshape(last.shape)
    torch.testing.assert_close(last, expected, rtol=1e-4, atol=1e-4)

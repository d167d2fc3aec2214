"""Image models of other libraries as video models: the laws, and the same numbers as without us."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from laws import check_laws
from vidseg import LocalMemory, PerFrame
from vidseg.layers.heads import FCNHead

pytestmark = pytest.mark.extras


def segformer(num_classes: int) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.SegformerConfig(
        num_labels=num_classes,
        depths=[1, 1, 1, 1],
        hidden_sizes=[8, 16, 24, 32],
        num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=16,
    )
    torch.manual_seed(0)
    return transformers.SegformerForSemanticSegmentation(config).eval()


def test_transformers_segformer_as_a_video_model() -> None:
    image_model = segformer(num_classes=4)
    model = PerFrame(image_model, num_classes=4).eval()
    frames = torch.randn(1, 3, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        segmentation, memory = model(frames)
        for t in range(3):
            expected = image_model(frames[:, t]).logits
            torch.testing.assert_close(segmentation.logits[:, t], expected, rtol=1e-4, atol=1e-5)
    assert segmentation.logits.shape == (1, 3, 4, 16, 24)
    assert segmentation.labels().shape == (1, 3, 64, 96)
    assert memory.nbytes == 0


def test_transformers_segformer_keeps_the_laws() -> None:
    check_laws(PerFrame(segformer(num_classes=3), num_classes=3), size=(64, 64))


class TimmWithOurHead(nn.Module):
    """A timm network's last map under our FCN head."""

    def __init__(self, name: str, num_classes: int) -> None:
        super().__init__()
        timm = pytest.importorskip("timm")
        self.backbone = timm.create_model(
            name, pretrained=False, features_only=True, out_indices=(4,)
        )
        (channels,) = self.backbone.feature_info.channels()
        self.head = FCNHead(channels, 16, num_classes, num_blocks=1, join=False)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        return self.head(self.backbone(frames)[0])


def test_timm_backbone_with_our_head_trains_and_keeps_the_laws() -> None:
    torch.manual_seed(0)
    model = PerFrame(TimmWithOurHead("mobilenetv3_small_050", 5), num_classes=5)
    frames = torch.randn(2, 2, 3, 64, 64)
    segmentation, _ = model.train()(frames, readout="last")
    segmentation.resize().square().mean().backward()
    gradients = [p.grad for p in model.model.backbone.parameters()]
    assert all(g is not None and torch.isfinite(g).all() for g in gradients)
    check_laws(model, size=(64, 64))


def test_torchvision_segmentation_model_as_a_video_model() -> None:
    models = pytest.importorskip("torchvision.models.segmentation")
    torch.manual_seed(0)
    image_model = models.lraspp_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=4
    ).eval()
    model = PerFrame(image_model, num_classes=4).eval()
    frame = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        segmentation, _ = model.step(frame)
        expected = image_model(frame)["out"]
    torch.testing.assert_close(segmentation.logits[:, 0], expected)


def test_transformers_segformer_gets_a_local_memory() -> None:
    image_model = segformer(num_classes=4)
    model = LocalMemory(
        image_model,
        split=(
            lambda net, frames: net.segformer(frames, output_hidden_states=True).hidden_states,
            "decode_head",
        ),
        memory_frames=2,
        window=3,
        trained=("decode_head",),
    )
    frame = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        first, _ = model.eval().step(frame)
        torch.testing.assert_close(first.logits[:, 0], image_model(frame).logits)
    check_laws(model, size=(64, 64), batch=1)


def test_timm_backbone_gets_a_local_memory() -> None:
    torch.manual_seed(0)
    network = TimmWithOurHead("mobilenetv3_small_050", 5)
    model = LocalMemory(
        network, split=("backbone", lambda net, maps: net.head(maps[0])), memory_frames=2, window=3
    )
    assert model.num_classes == 5
    check_laws(model, size=(64, 64), batch=1)

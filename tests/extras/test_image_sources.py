"""Models of other libraries, opened by name: their labels are the libraries' own."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import vidseg
from laws import check_laws
from vidseg.adapters.image_models import from_smp, from_torchvision, from_transformers
from vidseg.adapters.steady import Steady
from vidseg.data.synthetic import render

pytestmark = pytest.mark.extras

NAMES = ("weed", "crop", "soil", "stone", "tractor")
LABELS = {"num_labels": 5, "id2label": dict(enumerate(NAMES))}


def frame(size: tuple[int, int]) -> np.ndarray:
    """A street, so that neighbouring pixels are alike as in pictures."""
    return render(seed=1, num_frames=1, size=size).frames[0]


def telling(network: torch.nn.Module, inputs: torch.Tensor) -> None:
    """Settle the norms on a picture and centre the classes, so that its places differ."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    network.train()(torch.cat([inputs, inputs]))
    mean = network.eval()(inputs)["out"].mean((0, 2, 3))
    last = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d) and m.bias is not None]
    last = [m for m in last if m.out_channels == len(mean)]
    last[-1].bias.sub_(mean)


def agreement(model, image: np.ndarray, expected: np.ndarray) -> float:
    result = next(iter(vidseg.segment(model, [image])))
    assert len(np.unique(expected)) > 1, "a map of one class agrees with anything"
    return float((result.labels == expected).mean())


def segformer(transformers):
    config = transformers.SegformerConfig(
        depths=[1, 1, 1, 1],
        hidden_sizes=[8, 16, 24, 32],
        num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=16,
        **LABELS,
    )
    processor = transformers.SegformerImageProcessor(
        size={"height": 96, "width": 128}, image_mean=[0.5, 0.4, 0.3], image_std=[0.25, 0.2, 0.3]
    )
    return transformers.SegformerForSemanticSegmentation(config), processor


def mask2former(transformers):
    swin = transformers.SwinConfig(
        embed_dim=24,
        depths=[1, 1, 1, 1],
        num_heads=[1, 2, 4, 8],
        window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = transformers.Mask2FormerConfig(
        backbone_config=swin,
        num_queries=10,
        decoder_layers=2,
        encoder_layers=1,
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        num_attention_heads=2,
        dim_feedforward=32,
        encoder_feedforward_dim=32,
        **LABELS,
    )
    processor = transformers.Mask2FormerImageProcessor(
        size={"shortest_edge": 96, "longest_edge": 200}, size_divisor=32
    )
    return transformers.Mask2FormerForUniversalSegmentation(config), processor


def eomt(transformers, *, cut: bool):
    config = transformers.EomtConfig(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_blocks=1,
        num_queries=8,
        image_size=64,
        patch_size=8,
        num_upscale_blocks=1,
        num_register_tokens=1,
        **LABELS,
    )
    size = {"shortest_edge": 64, "longest_edge": None if cut else 64}
    processor = transformers.EomtImageProcessor(
        size=size, do_split_image=cut, do_pad=not cut, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    return transformers.EomtForUniversalSegmentation(config), processor


MODELS = {
    "segformer": segformer,
    "mask2former": mask2former,
    "eomt": lambda transformers: eomt(transformers, cut=False),
    "eomt in windows": lambda transformers: eomt(transformers, cut=True),
}


@pytest.fixture(params=MODELS)
def folder(request, tmp_path):
    """A folder of `save_pretrained`, its model and its processor."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    model, processor = MODELS[request.param](transformers)
    for parameter in model.parameters():
        if parameter.dim() > 1:  # small at the start: every place would look the same
            torch.nn.init.normal_(parameter, std=2.0 / parameter[0].numel() ** 0.5)
    model.eval().save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A field\n")
    return tmp_path, model, processor


@pytest.mark.parametrize("size", [(96, 128), (150, 200), (64, 160)])
def test_labels_are_those_of_the_processor(folder, size):
    path, model, processor = folder
    image = frame(size)
    inputs = processor(images=image, return_tensors="pt")
    with torch.no_grad():
        outputs = model(**inputs)
    (expected,) = processor.post_process_semantic_segmentation(outputs, target_sizes=[size])
    ours = vidseg.load(path)
    assert agreement(ours, image, expected.numpy()) == 1.0
    assert agreement(from_transformers(model, processor), image, expected.numpy()) == 1.0


def test_the_card_is_the_source_s(folder):
    path, _, processor = folder
    card = vidseg.load(path).card
    assert card.classes == NAMES
    assert card.licence == "apache-2.0"
    assert card.mean == pytest.approx([255 * v for v in processor.image_mean])
    assert card.std == pytest.approx([255 * v for v in processor.image_std])


def test_a_video_of_it_is_steady_and_keeps_the_laws(folder):
    path, _, _ = folder
    model = vidseg.load(path)
    frames = render(seed=1, num_frames=3, size=(96, 128)).frames
    results = list(vidseg.segment(Steady(model), frames))
    assert [result.labels.shape for result in results] == [(96, 128)] * 3
    if "Mask2Former" not in type(model.model).__name__:  # a minute
        check_laws(model, size=(64, 96), batch=2)


def test_half_weights_are_refused_on_a_cpu(folder):
    _, model, processor = folder
    with pytest.raises(ValueError, match="fp16"):
        from_transformers(model.half(), processor).step(torch.zeros(1, 3, 64, 64))


def test_converted_segformer_has_the_names_of_its_config(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.SegformerConfig(num_labels=19)
    names = [f"plant {k}" for k in range(19)]
    config.id2label = dict(enumerate(names))
    transformers.SegformerForSemanticSegmentation(config).save_pretrained(tmp_path)
    transformers.SegformerImageProcessor(
        image_mean=[0.5] * 3, image_std=[0.25] * 3
    ).save_pretrained(tmp_path)
    model = vidseg.load_official("segformer", tmp_path / "model.safetensors")
    assert model.card.classes == tuple(names)
    assert model.card.mean == pytest.approx((127.5,) * 3)
    (tmp_path / "config.json").unlink()
    assert vidseg.load_official("segformer", tmp_path / "model.safetensors").card.classes == ()


def test_what_labels_no_pixels_is_refused(tmp_path):
    transformers = pytest.importorskip("transformers")
    (tmp_path / "config.json").write_text(
        json.dumps({"architectures": ["DetrForObjectDetection"], "model_type": "detr"})
    )
    with pytest.raises(ValueError, match="DetrForObjectDetection does not label every pixel"):
        vidseg.load(tmp_path)
    (tmp_path / "config.json").write_text(
        json.dumps(
            {"architectures": ["MineForSemanticSegmentation"], "auto_map": {"AutoModel": "x.Y"}}
        )
    )
    with pytest.raises(ValueError, match="code of its own"):
        vidseg.load(tmp_path)
    model, processor = segformer(transformers)
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"holds no preprocessor_config\.json"):
        vidseg.load(tmp_path)
    processor.image_mean = None
    with pytest.raises(ValueError, match="does not say by which mean"):
        from_transformers(model, processor)
    with pytest.raises(ValueError, match="processor, or card"):
        from_transformers(model)
    (tmp_path / "model.safetensors").write_bytes(b"cut")
    segformer(transformers)[1].save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="cannot be loaded"):
        vidseg.load(tmp_path)


def test_logits_of_another_number_than_the_config_says():
    transformers = pytest.importorskip("transformers")
    model, processor = segformer(transformers)
    model.config.id2label = {k: str(k) for k in range(7)}
    with pytest.raises(ValueError, match=r"gave \(1, 5, .*wanted \(N, 7"):
        from_transformers(model, processor).step(torch.zeros(1, 3, 64, 64))


@pytest.mark.parametrize("name", ["deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large"])
@pytest.mark.parametrize("size", [(520, 560), (150, 200)])
def test_torchvision_with_the_transforms_of_its_weights(name, size):
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    weights = models.get_model_weights(name).DEFAULT
    network = models.get_model(name, weights=None, weights_backbone=None, num_classes=21)
    image = frame(size)
    inputs = weights.transforms()(torch.from_numpy(image).permute(2, 0, 1)[None])
    with torch.no_grad():
        telling(network, inputs)
        logits = network(inputs)["out"]
    expected = torch.nn.functional.interpolate(logits, size, mode="bilinear").argmax(1)[0]
    ours = from_torchvision(network, weights)
    assert ours.card.classes[:2] == ("__background__", "aeroplane")
    assert agreement(ours, image, expected.numpy()) == 1.0


def test_torchvision_by_name(monkeypatch):
    models = pytest.importorskip("torchvision.models")
    with pytest.raises(ValueError, match="no segmentation model 'resnet50'; it has deeplabv3"):
        vidseg.load("torchvision:resnet50")

    def offline(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(models, "get_model", offline)
    with pytest.raises(FileNotFoundError, match="could not download https"):
        vidseg.load("torchvision:lraspp_mobilenet_v3_large")


@pytest.mark.parametrize("architecture", ["Unet", "Segformer"])
def test_smp_from_its_folder(architecture, tmp_path):
    smp = pytest.importorskip("segmentation_models_pytorch")
    torch.manual_seed(0)
    network = getattr(smp, architecture)("resnet18", encoder_weights=None, classes=5).eval()
    network.save_pretrained(tmp_path)
    ours = vidseg.load(tmp_path)
    assert ours.card.classes == tuple(f"class {k}" for k in range(5))
    assert ours.card.licence == "mit"
    image = frame((96, 128))
    with torch.no_grad():
        logits = network(ours.card.normalise(image)[None])
    assert agreement(ours, image, logits.argmax(1)[0].numpy()) == 1.0
    assert agreement(from_smp(network), image, logits.argmax(1)[0].numpy()) == 1.0
    odd = next(iter(vidseg.segment(ours, [frame((100, 130))])))
    assert odd.labels.shape == (100, 130), "frames are stretched to a multiple of 32"

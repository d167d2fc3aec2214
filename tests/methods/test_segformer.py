"""What is special to SegFormer: sizes, the folded decoder, checkpoints in three layouts."""

import json

import pytest
import torch
from command_line import run
from settled import count, settle
from torch import nn

import vidseg
from vidseg.backbones import build_backbone
from vidseg.backbones.imagenet import load_imagenet
from vidseg.backbones.mit import EfficientAttention
from vidseg.backbones.mit_layouts import backbone_of, encoder_of, layout_of
from vidseg.layers.drop_path import DropPath
from vidseg.layers.mlp_decoder import MLPDecoder
from vidseg.methods import dead_keys
from vidseg.methods.segformer import SegFormer


@pytest.mark.parametrize(
    ("size", "millions"),
    [("b0", 3.319), ("b1", 13.151), ("b2", 24.196), ("b5", 81.443)],
)
def test_published_sizes(size, millions):
    with torch.device("meta"):
        assert round(count(build_backbone(f"mit_{size}")) / 1e6, 3) == millions
        model = vidseg.create(f"segformer_{size}", num_classes=150)
    assert model.decoder.fusion.conv.out_channels == (256 if size in ("b0", "b1") else 768)


def test_drop_path_grows_to_the_last_block():
    blocks = [b for k in range(1, 5) for b in getattr(build_backbone("mit_b0"), f"block{k}")]
    rates = [block.drop_path.rate for block in blocks]
    assert rates == pytest.approx([0.1 * k / 7 for k in range(8)])


def test_drop_path_drops_whole_samples_and_keeps_the_mean():
    torch.manual_seed(0)
    layer, x = DropPath(0.25), torch.ones(4000, 2, 3)
    dropped = layer(x)
    assert dropped.unique().tolist() == pytest.approx([0, 4 / 3])
    assert torch.equal(dropped[:, :1, :1].expand_as(dropped), dropped)
    assert float(dropped.mean()) == pytest.approx(1, abs=0.03)
    assert layer.eval()(x) is x


@pytest.mark.parametrize("size", [(32, 40), (50, 74), (29, 61)])
def test_sizes_are_rounded_up(size):
    backbone = build_backbone("mit_tiny").eval()
    with torch.no_grad():
        maps = backbone(torch.rand(1, 3, *size))
    wanted = []
    for _ in range(5):
        size = tuple(-(-side // 2) for side in size)
        wanted.append(size)
    assert [tuple(m.shape[-2:]) for m in maps] == wanted[1:]


def test_frames_smaller_than_a_reduction_are_refused():
    with pytest.raises(ValueError, match="at least 29 px high and wide for MiT, got 28x64"):
        SegFormer.tiny(3).eval()(torch.zeros(1, 1, 3, 28, 64))


def test_reduction_drops_the_remainder_of_the_map():
    torch.manual_seed(0)
    attention = EfficientAttention(8, 2, reduction=2, eps=1e-5).eval()
    tokens = torch.randn(1, 15, 8)
    changed = tokens.clone()
    changed[:, 14] += 1  # the last row and column of 3 x 5 are in no 2 x 2 cell
    with torch.no_grad():
        difference = attention(changed, (3, 5)) - attention(tokens, (3, 5))
    assert not difference[:, :14].any()
    assert difference[:, 14].any()


@pytest.mark.parametrize("lateral", ["linear", "normed"])
@pytest.mark.parametrize("training", [False, True])
def test_the_folded_decoder_is_the_decoder_as_written(lateral, training):
    decoder = settle(MLPDecoder((8, 16, 24, 32), 16, lateral=lateral)).double().train(training)
    generator = torch.Generator().manual_seed(1)
    sizes = [(13, 19), (7, 10), (4, 5), (2, 3)]
    maps = tuple(
        torch.randn(2, width, *size, dtype=torch.float64, generator=generator)
        for width, size in zip((8, 16, 24, 32), sizes, strict=True)
    )
    results = []
    for folded in (True, False):
        decoder.folded = folded
        value = decoder(maps)
        grads = torch.autograd.grad(value.square().sum(), list(decoder.parameters()))
        results.append((value, *grads))
    for mine, written in zip(*results, strict=True):
        torch.testing.assert_close(mine, written, rtol=1e-9, atol=1e-9)


def authors(model):
    """A model's state dict under the names of SegFormer's authors, with their dead classifier."""
    tensors = {}
    for name, value in model.state_dict().items():
        if name.startswith("decoder.laterals."):
            _, _, scale, leaf = name.split(".")
            tensors[f"decode_head.linear_c{int(scale) + 1}.proj.{leaf}"] = value
        elif name.startswith("decoder.fusion."):
            tensors[name.replace("decoder.fusion", "decode_head.linear_fuse")] = value
        elif name.startswith("classifier."):
            tensors[f"decode_head.linear_pred.{name.removeprefix('classifier.')}"] = value
        else:
            tensors[name] = value
    dead = {"weight": torch.zeros(3, 8, 1, 1), "bias": torch.zeros(3)}
    return tensors | {f"decode_head.conv_seg.{leaf}": value for leaf, value in dead.items()}


MMSEG_PARTS = {
    "attn.proj": "attn.attn.out_proj",
    "mlp.fc1": "ffn.layers.0",
    "mlp.dwconv.dwconv": "ffn.layers.1",
    "mlp.fc2": "ffn.layers.4",
}


def mmseg(model):
    """A model's state dict under mmsegmentation's names."""
    ours, tensors = model.state_dict(), {}
    for name, value in ours.items():
        part, leaf = name.rsplit(".", 1)
        if part.startswith("backbone.patch_embed"):
            stage, layer = int(part[20]) - 1, part.split(".")[-1]
            layer = {"proj": "projection"}.get(layer, layer)
            tensors[f"backbone.layers.{stage}.0.{layer}.{leaf}"] = value
        elif part.startswith("backbone.norm"):
            tensors[f"backbone.layers.{int(part[13]) - 1}.2.{leaf}"] = value
        elif part.startswith("backbone.block"):
            _, stage, block, inner = part.split(".", 3)
            head = f"backbone.layers.{int(stage[5]) - 1}.1.{block}"
            if inner == "attn.q":
                joined = torch.cat([value, ours[name.replace(".q.", ".kv.")]])
                tensors[f"{head}.attn.attn.in_proj_{leaf}"] = joined
            elif inner != "attn.kv":
                is_linear = inner.startswith("mlp.fc") and leaf == "weight"
                value = value[..., None, None] if is_linear else value
                tensors[f"{head}.{MMSEG_PARTS.get(inner, inner)}.{leaf}"] = value
        elif name == "decoder.fusion.conv.weight":
            # mmsegmentation joins the finest scale first
            flipped = torch.cat(value.chunk(4, 1)[::-1], 1)
            tensors["decode_head.fusion_conv.conv.weight"] = flipped
        else:
            name = name.replace("decoder.fusion", "decode_head.fusion_conv")
            name = name.replace("decoder.laterals", "decode_head.convs")
            tensors[name.replace("classifier", "decode_head.conv_seg")] = value
    return tensors


@pytest.mark.parametrize(
    ("rename", "options", "eps"),
    [(authors, {}, {1e-6, 1e-5}), (mmseg, {"lateral": "normed", "norm_eps": 1e-6}, {1e-6})],
)
def test_checkpoints_of_both_code_bases(rename, options, eps):
    model = settle(SegFormer.tiny(3, **options))
    tensors = rename(model)
    loaded = vidseg.load_official("segformer", {f"module.{k}": v for k, v in tensors.items()})
    frames = torch.rand(1, 2, 3, 40, 56)
    with torch.no_grad():
        assert torch.equal(loaded(frames)[0].logits, model(frames)[0].logits)
    assert {m.eps for m in loaded.modules() if isinstance(m, nn.LayerNorm)} == eps
    assert loaded.card.architecture == "segformer_tiny"
    assert "non-commercial" in loaded.card.licence
    again = vidseg.create(loaded.card.architecture, **loaded.card.options)
    again.load_state_dict(loaded.state_dict())
    dead = dead_keys("segformer", tensors)
    assert set(dead) == {k for k in tensors if ".conv_seg." in k and rename is authors}


def test_mmseg_joins_queries_keys_and_values_as_torch_does():
    torch.manual_seed(0)
    theirs = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    nn.init.normal_(theirs.in_proj_bias)
    prefix = "layers.0.1.0.attn.attn."
    ours = EfficientAttention(8, 2, reduction=1, eps=1e-6).eval()
    converted = encoder_of({prefix + k: v for k, v in theirs.state_dict().items()})
    ours.load_state_dict({k.removeprefix("block1.0.attn."): v for k, v in converted.items()})
    x = torch.randn(2, 15, 8)
    with torch.no_grad():
        torch.testing.assert_close(ours(x, (3, 5)), theirs(x, x, x)[0])


@pytest.mark.parametrize("rename", [authors, mmseg])
def test_imagenet_files_fill_the_encoder(rename, tmp_path):
    source = settle(SegFormer.tiny(3))
    tensors = {
        k.removeprefix("backbone."): v
        for k, v in rename(source).items()
        if k.startswith("backbone.")
    }
    torch.save(tensors | {"head.weight": torch.zeros(1000, 32)}, tmp_path / "mit.pth")
    target = SegFormer.tiny(3, backbone_weights=tmp_path / "mit.pth")
    for name, value in source.backbone.state_dict().items():
        assert torch.equal(target.backbone.state_dict()[name], value), name
    del tensors[next(k for k in tensors if k.endswith("norm1.weight") or "1.0.norm1" in k)]
    torch.save(tensors | {"surplus": torch.zeros(1)}, tmp_path / "part.pth")
    with pytest.raises(ValueError, match=r"missing \['block1.0.norm1.*unexpected \['surplus'\]"):
        load_imagenet(target.backbone, "mit_tiny", tmp_path / "part.pth")


def test_what_does_not_fit_is_listed():
    tensors = authors(SegFormer.tiny(3))
    backbone = {k: v for k, v in tensors.items() if k.startswith("backbone.")}
    with pytest.raises(ValueError, match=r"no fusion.conv.weight and no classifier.weight"):
        vidseg.load_official("segformer", backbone)
    with pytest.raises(ValueError, match=r"unexpected: backbone\.extra"):
        vidseg.load_official("segformer", tensors | {"backbone.extra": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"widths .* and .* blocks; is it a checkpoint of"):
        backbone_of({k: v for k, v in encoder_of(tensors).items() if "block3" not in k})
    with pytest.raises(ValueError, match='backbone must be "mit_b0" to "mit_b5"'):
        SegFormer(3, backbone="resnet50_v1c")
    with pytest.raises(ValueError, match='lateral must be "linear" or "normed"'):
        SegFormer.tiny(3, lateral="conv")
    assert layout_of(["conv1.weight"]) == "authors"


def test_the_licence_is_shown_before_a_download(monkeypatch, caplog):
    def refuse(*args, **options):
        raise ConnectionError("no network")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", refuse)
    with pytest.raises(FileNotFoundError, match=r"bring the authors' mit_b3.pth"):
        load_imagenet(build_backbone("mit_tiny"), "mit_b3", "imagenet")
    assert "nvidia/mit-b3 are under the NVIDIA Source Code License" in caplog.text
    assert "non-commercial" in caplog.text


def test_names_and_normalisation_beside_a_checkpoint(tmp_path):
    content = {"state_dict": authors(settle(SegFormer.tiny(19)))}
    torch.save(content, tmp_path / "field.pth")
    assert vidseg.load_official("segformer", tmp_path / "field.pth").card.classes == ()
    names = [f"plant {k}" for k in range(19)]
    torch.save(content | {"meta": {"CLASSES": tuple(names)}}, tmp_path / "named.pth")
    assert vidseg.load_official("segformer", tmp_path / "named.pth").card.classes == tuple(names)
    (tmp_path / "config.json").write_text(
        json.dumps({"id2label": {str(k): f"k{k}" for k in range(19)}})
    )
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.5] * 3, "image_std": [0.25] * 3})
    )
    card = vidseg.load_official("segformer", tmp_path / "field.pth").card
    assert card.classes == tuple(f"k{k}" for k in range(19))
    assert card.mean == pytest.approx((127.5,) * 3)
    assert card.std == pytest.approx((63.75,) * 3)
    assert (
        run("convert", "segformer", tmp_path / "field.pth", "--out", tmp_path / "m.safetensors")
        == 0
    )
    assert vidseg.load(tmp_path / "m.safetensors").card.classes == card.classes

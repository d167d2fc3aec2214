"""LMANet and ERFNet against tensors made by the authors' modules (specification, section 15)."""

import math

import pytest
import torch
from rules import clip, read_case, rules, state_dict

import vidseg
from vidseg.layers.gated_fusion import build_fusion
from vidseg.layers.local_attention import local_attention, local_scores
from vidseg.layers.memory_read import read_memory
from vidseg.losses import cross_entropy
from vidseg.methods.lmanet import _join, _rename
from vidseg.metrics import ConfusionMatrix
from vidseg.weights import load_strictly


def close(actual, expected, name, *, atol=0.0, relative=0.0):
    atol += relative * float(expected.abs().max())
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol, msg=lambda m: f"{name}: {m}")


@pytest.mark.parametrize(
    ("tag", "size", "radius"), [("p5", (2, 9, 14), 2), ("p21", (1, 7, 12), 10)]
)
def test_correlation(shared, tag, size, radius):
    _, expected = read_case(shared, "lmanet", "correlation")
    batch, h, w = size
    side = 2 * radius + 1

    def make(name, channels):
        return clip(shared, f"lmanet/correlation/{tag}/{name}", (batch, channels, h, w))

    query, key = make("query", 16).requires_grad_(), make("key", 16).requires_grad_()
    scores = local_scores(query, key[:, None], radius_px=radius)[:, 0]
    close(scores, expected[f"{tag}_scores"], "scores", relative=1e-5)
    grads = torch.autograd.grad(scores, (query, key), make("grad_scores", side**2))
    for name, grad in zip(("query", "key"), grads, strict=True):
        close(grad, expected[f"{tag}_grad_{name}"], f"grad_{name}", relative=1e-5)


@pytest.mark.parametrize("case", ["local_attention", "local_attention_const"])
@pytest.mark.parametrize("frames", [1, 3])
def test_local_attention(shared, case, frames):
    description, expected = read_case(shared, "lmanet", case)
    radius = description["config"]["patch"] // 2
    batch, h, w = 2, 10, 13

    def make(name, *shape):
        return clip(shared, f"lmanet/{case}/T{frames}/{name}", (batch, *shape, h, w))

    query = make("query", 16)
    keys = make("memory_key", 16, frames).transpose(1, 2)
    values = make("memory_value", 64, frames).transpose(1, 2)
    constant = None
    if description["state"]:
        constant = state_dict(shared, description["state"])["const"]
    read = local_attention(query, keys, values, radius_px=radius, constant=constant)
    close(read, expected[f"T{frames}_read"], "read", relative=1e-5)
    logits = local_scores(query, keys, radius_px=radius).transpose(1, 2).flatten(1, 2)
    further = [] if constant is None else [constant.expand(batch, 1, h, w)]
    attention = torch.cat([logits, *further], 1).softmax(1)[:, : logits.shape[1]]
    attention = attention.unflatten(1, (-1, frames))
    close(attention, expected[f"T{frames}_attention"], "attention", atol=5e-5)


@pytest.mark.parametrize("frames", [1, 3])
def test_global_attention(shared, frames):
    """The authors' dense class is TMANet's read, with scores divided by the root of the width."""
    _, expected = read_case(shared, "lmanet", "global_attention")

    def make(name, *shape):
        return clip(shared, f"lmanet/global_attention/T{frames}/{name}", (2, *shape, 5, 7))

    keys = make("memory_key", 16, frames).transpose(1, 2)
    values = make("memory_value", 64, frames).transpose(1, 2)
    read = read_memory(make("query", 16) / math.sqrt(16), keys, values)
    close(read, expected[f"T{frames}_read"], "read", relative=1e-5)


FUSION_CASES = {
    "fusion": "sigmoid-do1",
    "fusion_sigmoid": "sigmoid",
    "fusion_do3": "sigmoid-do3",
    "fusion_concat": "concat",
    "fusion_multiplicative": "plain",
    "fusion_simple_sigmoid": "simple-sigmoid",
    "fusion_down": "sigmoid-down1",
}


@pytest.mark.parametrize("case", FUSION_CASES)
def test_fusion(shared, case):
    description, expected = read_case(shared, "lmanet", case)
    memory, value, shape = description["config"]["inputs"]
    fusion = build_fusion(FUSION_CASES[case], shape[1]).eval()
    tensors = {f"memory_fusion.{k}": v for k, v in state_dict(shared, description["state"]).items()}
    dead = vidseg.methods.dead_keys("lmanet", tensors)
    assert sorted(dead) == (
        ["memory_fusion.conv_layer_2.bias", "memory_fusion.conv_layer_2.weight"]
        if case == "fusion_down"
        else []
    )
    renamed = _rename(_join({k: v for k, v in tensors.items() if k not in dead}))
    load_strictly(fusion, {k.removeprefix("attention.fusion."): v for k, v in renamed.items()})
    with torch.no_grad():
        fused = fusion(clip(shared, memory, shape), clip(shared, value, shape))
    close(fused, expected["fused"], case, relative=1e-5)


def test_erfnet(shared):
    description, expected = read_case(shared, "lmanet", "erfnet")
    tensors = {f"module.{k}": v for k, v in state_dict(shared, description["state"]).items()}
    model = vidseg.load_official("erfnet", tensors)
    frames = clip(shared, *description["config"]["inputs"])
    taps = {}

    def tap(name, module):
        module.register_forward_hook(lambda _m, _i, output: taps.update({name: output}))

    tap("stride2", model.backbone.initial_block)
    for index in (0, 5, 6, 14):
        tap(f"encoder_layer{index}", model.backbone.layers[index])
    tap("decoder_layer5", model.decoder.layers[5])
    with torch.no_grad():
        segmentation, _ = model(frames[:, None], aux=True)
    taps["encoder_prediction"] = segmentation.aux["auxiliary"][:, 0]
    taps["logits"] = segmentation.logits[:, 0]
    for name in ("stride2", "encoder_layer0", "decoder_layer5"):
        taps[name] = taps[name][:1, :, ::2, ::2]
    taps["logits"] = taps["logits"][..., ::2, ::2]
    assert {*expected} <= {*taps}
    for name, value in expected.items():
        close(taps[name], value, name, atol=2e-4)


FULL_CASES = {
    "lma_erfnet": 1e-3,
    "lma_erfnet_soft": 2e-4,
    "lma_erfnet_evict": 1e-3,
    "lma_pspnet50": 1e-3,
    "lma_pspnet50_soft": 2e-4,
    "lma_pspnet101": 1e-3,
}


def load_case(shared, case):
    description, expected = read_case(shared, "lmanet", case)
    config = description["config"]
    tensors = state_dict(shared, description["state"])
    for name, factor in config.get("multiply_parameters_after_filling", {}).items():
        tensors[name] = tensors[name] * factor
    model = vidseg.load_official(
        "lmanet",
        {f"module.{name}": value for name, value in tensors.items()},
        memory_frames=config["memory"],
        window=config["patch"],
        fusion=config["fusion"],
    )
    return model, clip(shared, *config["inputs"]), description, expected


@pytest.mark.parametrize("case", FULL_CASES)
def test_whole_model(shared, case):
    model, frames, description, expected = load_case(shared, case)
    step = 2 if "logits" in description.get("stored_subsampled", {}) else 1
    memory, logits, taps = None, [], {name: [] for name in expected if name != "logits"}
    with torch.no_grad():
        for t in range(frames.shape[1]):
            before = memory
            segmentation, memory = model.step(frames[:, t], memory)
            logits.append(segmentation.resize()[:, 0])
            feature = model.encode(frames[:, t])
            now = {"encoded": feature.map}
            now["kv_M_r4_key"], now["kv_M_r4_value"] = feature.remembered
            if t:
                now["kv_Q_r4_key"], now["kv_Q_r4_value"] = model.attention.query_encoder(
                    feature.map
                )
                slots = slice(model.memory_frames - before.frames_seen, None)
                now["fused"], now["read"] = model.attention(
                    feature.map, before.keys[slots], before.values[slots]
                )
            for name, value in now.items():
                taps.setdefault(f"tap_{name}", []).append(value)
    stored = expected["logits"]
    ours = torch.stack(logits, 1)
    close(ours[..., ::step, ::step], stored, "logits", atol=FULL_CASES[case])
    every = 16 if "pspnet" in case else 1
    for name in expected:
        if name == "logits":
            continue
        value = torch.stack(taps[name], 1)
        if value.shape[2] != expected[name].shape[2]:
            value = value[:, :, ::every]
        close(value, expected[name], name, atol=5e-3)
    with torch.no_grad():
        whole, _ = model(frames)
    close(whole.resize(), ours, "the clip", atol=FULL_CASES[case])


def test_loss(shared):
    description, expected = read_case(shared, "lmanet", "loss")
    del description
    logits = clip(shared, "lmanet/loss/logits", (2, 1, 20, 48, 64)).requires_grad_()
    labels = rules(shared).labels("lmanet/loss/labels", (2, 1, 1, 48, 64), 19, 19)
    labels = torch.from_numpy(labels)[:, 0, 0]
    weight = torch.tensor(DECODER_WEIGHTS)
    loss = cross_entropy(logits[:, 0], labels, align_corners=False, ignore=19, weight=weight)
    close(loss, expected["loss"], "loss", relative=1e-5)
    (grad,) = torch.autograd.grad(loss, logits)
    close(grad, expected["grad_logits"], "grad_logits", relative=1e-5)
    # The twentieth class is never right; a pixel that it takes is missed by its own class alone.
    matrix = ConfusionMatrix(20, ignore=255)
    matrix.update(logits[:, 0].argmax(1), labels.masked_fill(labels == 19, 255))
    iou = matrix.iou()[:19].nan_to_num(1.0)
    close(iou.float(), expected["iou"], "iou", atol=1e-6)
    close(iou.mean().float(), expected["miou"], "miou", atol=1e-6)


DECODER_WEIGHTS = (
    2.8149201869965, 6.9850029945374, 3.7890393733978, 9.9428062438965, 9.7702074050903,
    9.5110931396484, 10.311357498169, 10.026463508606, 4.6323022842407, 9.5608062744141,
    7.8698215484619, 9.5168733596802, 10.373730659485, 6.6616044044495, 10.260489463806,
    10.287888526917, 10.289801597595, 10.405355453491, 10.138095855713, 0.0,
)  # fmt: skip

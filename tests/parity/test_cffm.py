"""CFFM and CFFM++ whole against tensors made by the authors' modules."""

import pytest
import torch
from rules import clip, read_case, rules, state_dict
from torch import nn
from torch.nn import functional as F

import vidseg
from vidseg.layers.prototypes import kmeans
from vidseg.losses import clip_cross_entropy
from vidseg.methods import dead_keys
from vidseg.methods.cffm import CFFM
from vidseg.segmenter import Segmentation
from vidseg.training.loss_config import LossConfig
from vidseg.training.step import TrainingStep

CLIPS = ("cffm_b0", "cffm_b0_even", "cffm_b0_odd", "cffm_b1", "cffmpp_b1")


def close(actual, expected, name, atol=None):
    """To 1e-4 of the standard deviation, as the description of the cases asks."""
    atol = 1e-4 * float(expected.std()) if atol is None else atol
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol, msg=lambda m: f"{name}: {m}")


def load(shared, name):
    case, expected = read_case(shared, "cffm", name)
    constant = case["constant_integer_buffers"]
    keys = [(k, shape) for k, shape in case["state_dict"] if k not in constant]
    method = name.partition("_")[0]
    return case, expected, vidseg.load_official(method, state_dict(shared, keys))


@pytest.mark.parametrize(
    ("name", "is_folded"), [*((name, True) for name in CLIPS), ("cffm_b0_odd", False)]
)
def test_clip(shared, name, is_folded):
    case, expected, model = load(shared, name)
    model.decoder.folded = is_folded
    label, shape = case["inputs"]["clip"]
    frames = clip(shared, label, tuple(shape))
    context = None
    if "prototypes" in case:
        label, shape = case["prototypes"]
        context = vidseg.Prototypes(clip(shared, label, tuple(shape)))
    taps = {}
    watch(model, taps)
    with torch.no_grad():
        segmentation, _ = model(frames, readout="last", context=context)
        feature = model.encode(frames.flatten(0, 1))
        maps = model.backbone(frames.flatten(0, 1))
    taps |= {f"c{k + 1}": x for k, x in enumerate(maps)}
    taps["fused_quarter_last"] = feature.quarter.unflatten(0, frames.shape[:2])[:, -1]
    taps["logits_quarter"] = segmentation.logits[:, 0]
    for what, tensor in expected.items():
        if what == "labels_full":
            continue
        found = taps[what]
        if what.startswith("c") and tensor.dim() == 5:
            found = found.unflatten(0, frames.shape[:2])[:, [0, -1]]
        is_logits = what == "logits_quarter"
        close(found, tensor, what, atol=1e-4 if is_logits else None)
    check_labels(segmentation, expected["labels_full"], case)


def watch(model, taps):
    """Keep what the parts give that the cases look at."""
    for k, block in enumerate(model.blocks):
        block.register_forward_hook(lambda m, i, out, k=k: taps.update({f"block{k}_target": out}))
    model.video_classifier.register_forward_hook(
        lambda m, i, out: taps.update(video_logits_eighth=out)
    )
    if hasattr(model, "branch"):
        model.branch.register_forward_hook(
            lambda m, i, out: taps.update(prototype_block_out=out.flatten(1, 2))
        )
        model.prototype_classifier.register_forward_hook(
            lambda m, i, out: taps.update(prototype_logits_eighth=out)
        )


def check_labels(segmentation, expected, case):
    """Equal wherever the two best classes are further apart than the tolerance of the logits."""
    full = segmentation.resize()[:, 0]
    best, second = full.topk(2, dim=1).values.unbind(1)
    clear = best - second > 2e-4
    if case["smallest_full_resolution_top2_margin"] > 2e-4:
        assert bool(clear.all())
    assert torch.equal(segmentation.labels()[:, 0][clear], expected.long()[clear])


def test_a_frame_alone(shared):
    case, expected, model = load(shared, "cffm_b0_single")
    label, shape = case["inputs"]["clip"]
    with torch.no_grad():
        segmentation, _ = model(clip(shared, label, tuple(shape)))
    for what in ("static_logits_quarter_last", "logits_quarter"):
        if what in expected:
            close(segmentation.logits[:, 0], expected[what], what, atol=1e-4)
    check_labels(segmentation, expected["labels_full"], case)


@pytest.mark.parametrize("name", ["cffm_b0_odd", "cffmpp_b1"])
def test_stream_gives_what_the_clip_gives(shared, name):
    """Keys and values kept from frame to frame, against the authors' clip of four."""
    case, expected, model = load(shared, name)
    label, shape = case["inputs"]["clip"]
    frames = clip(shared, label, tuple(shape))
    context = None
    if "prototypes" in case:
        label, shape = case["prototypes"]
        context = vidseg.Prototypes(clip(shared, label, tuple(shape)))
    memory = None
    with torch.no_grad():
        # Frame 9 of a video whose frames 0, 3, 6 and 9 are the clip's.
        for t in range(10):
            kept = context if memory is None else None
            segmentation, memory = model.step(frames[:, t // 3], memory, context=kept)
    close(segmentation.logits[:, 0], expected["logits_quarter"], "stream", atol=1e-4)


@pytest.mark.parametrize("name", ["cffm_b0", "cffm_b1", "cffmpp_b1"])
def test_every_norm_has_the_authors_epsilon(shared, name):
    case, _, model = load(shared, name)
    found = {}
    for key, module in model.named_modules():
        if isinstance(module, (nn.LayerNorm, nn.BatchNorm2d)):
            key = key.replace("decoder.fusion", "decode_head.linear_fuse")
            key = key.replace("branch.", "decode_head.decoder_swin.blocks.0.")
            if key.startswith("blocks."):
                key = f"decode_head.decoder_focal.{key}"
            found[key] = module.eps
    assert found == case["norm_eps"]


class Given(CFFM):
    """Says what it was given: of each clip the frames' own logits, and last those of the clip."""

    def __init__(self, logits):
        super().__init__(124, **self.variants["tiny"])
        self.logits = logits

    def forward(self, frames, memory=None, **options):
        size = (frames.shape[-2], frames.shape[-1])
        aux = {"frames": self.logits[:, :-1]}
        return Segmentation(self.logits[:, -1:], aux, size, align_corners=False), None


def test_losses(shared):
    _, expected = read_case(shared, "cffm", "cffm_losses")
    logits = clip(shared, "cffm/cffm_losses/logits", (2, 5, 124, 30, 30))
    labels = rules(shared).labels("cffm/cffm_losses/labels", (2, 4, 1, 120, 120), 124)
    labels = torch.from_numpy(labels)[:, :, 0]
    loss = clip_cross_entropy(logits[:, -1], logits[:, :4], labels, align_corners=False)
    torch.testing.assert_close(loss[None], expected["loss_seg"], rtol=1e-5, atol=0)
    step = TrainingStep(Given(logits), LossConfig(frame_weight=0.5, average="all"))  # pyright: ignore[reportCallIssue]
    batch = {
        "frames": torch.zeros(2, 4, 3, 120, 120),
        "labels": labels[:, -1].long(),
        "clip_labels": labels.long(),
        "labelled": torch.ones(2, 4, dtype=torch.bool),
    }
    torch.testing.assert_close(step(batch)["loss"], expected["loss_seg"][0], rtol=1e-5, atol=0)
    full = F.interpolate(logits[:, :4].flatten(0, 1), (120, 120), mode="bilinear")
    accuracy = 100 * (full.argmax(1) == labels.flatten(0, 1)).float().mean()
    torch.testing.assert_close(accuracy[None], expected["acc_seg"], rtol=1e-5, atol=0)


@pytest.mark.parametrize("suffix", ["", "_with_empty"])
def test_kmeans(shared, suffix):
    _, expected = read_case(shared, "cffm", "kmeans")
    points = clip(shared, "cffm/kmeans/points", (3000, 16))
    points[:1500] += 1.5
    points[:700, 3] -= 4
    start = points[:20].clone()
    if suffix:
        start[7] = 100
    centers, labels = kmeans(points, start)
    close(centers, expected[f"centroids{suffix}"], "centroids")
    assert torch.equal(labels, expected[f"labels{suffix}"].long())


def test_dead_keys_of_a_checkpoint_are_listed(shared):
    case, _ = read_case(shared, "cffm", "cffmpp_b1")
    dead = dead_keys("cffmpp", {key: torch.zeros(()) for key, _ in case["state_dict"]})
    assert set(case["constant_integer_buffers"]) < set(dead)
    others = set(dead) - set(case["constant_integer_buffers"])
    swin = "decode_head.decoder_swin.blocks.0.attn"
    assert others == {
        "decode_head.conv_seg.weight",
        "decode_head.conv_seg.bias",
        f"{swin}.proj.weight",
        f"{swin}.proj.bias",
        f"{swin}.relative_position_bias_table",
    }

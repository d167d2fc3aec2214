"""What is special to VidEoMT, PMT and LVMT: sizes, layouts, class decision, padding, losses."""

import math
import shutil

import numpy as np
import pytest
import torch
import torch._dynamo.testing
from command_line import run
from PIL import Image
from safetensors.torch import load_file
from settled import count
from small_runs import config_with
from torch.nn import functional as F

import vidseg
from vidseg import weights
from vidseg.backbones.vit import PATCH, VisionTransformer, rotary, rotate
from vidseg.backbones.vit_layouts import encoder_of, to_patch_16
from vidseg.classes import IGNORE
from vidseg.context import QueryClasses, load_context
from vidseg.layers.query_heads import class_scores, official_scores
from vidseg.losses.mask_classification import (
    clip_targets,
    match,
    set_losses,
)
from vidseg.methods.pmt import LVMT, PMT, spread_taps
from vidseg.methods.query_checkpoints import THINGS_FIRST, ordered_classes
from vidseg.methods.videomt import VidEoMT, mask_probabilities
from vidseg.training.config import OptimiserConfig
from vidseg.training.loop import train
from vidseg.training.loss_config import LossConfig
from vidseg.training.optimiser import parameter_groups
from vidseg.training.schedule import encoder_share
from vidseg.training.step import TrainingStep


@pytest.mark.parametrize(
    ("name", "backbone", "millions"),
    [
        ("videomt_s", "dinov2", 26.0),
        ("videomt_s", "dinov3", 23.5),
        ("videomt_b", "dinov3", 93.0),
        ("videomt_l", "dinov2", 322.7),
        ("videomt_l", "dinov3", 316.1),
        ("pmt_s", "dinov3", 29.4),
        ("pmt_b", "dinov3", 116.7),
        ("pmt_l", "dinov3", 358.1),
    ],
)
def test_published_sizes(name, backbone, millions):
    grid = {} if backbone == "dinov3" else {"position_grid": 80}
    with torch.device("meta"):
        model = vidseg.create(name, num_classes=124, backbone=backbone, **grid)
    assert round(count(model) / 1e6, 1) == millions


def test_taps_are_the_ends_of_equal_parts():
    assert spread_taps(24, 4) == (5, 11, 17, 23)
    assert spread_taps(12, 4) == (2, 5, 8, 11)


def test_rotation_keeps_lengths_and_turns_by_the_distance_alone():
    """The product of a rotated query and a rotated key depends on how far apart they are."""
    patches = torch.zeros(1, 4, 6, 8, dtype=torch.float64)
    cosine, sine = rotary(patches, 8)
    assert cosine.shape == (24, 8)
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 8, dtype=torch.float64, generator=generator)
    turned = [rotate(x.expand(1, 1, 25, 8), (cosine, sine))[0, 0] for x in (query, key)]
    assert torch.equal(turned[0][0], query)  # the token before the patches has no place
    torch.testing.assert_close(turned[0].norm(dim=1), query.norm().expand(25))
    scores = (turned[0][1:] @ turned[1][1:].T).view(4, 6, 4, 6)
    torch.testing.assert_close(scores[0, 0, 1, 2], scores[2, 3, 3, 5])
    assert not torch.isclose(scores[0, 0, 1, 2], scores[0, 0, 2, 1])


def raw_dinov2(vit: VisionTransformer, layout: str) -> dict[str, torch.Tensor]:
    """The tensors of an encoder as three code bases write them."""
    ours, found = vit.state_dict(), {}
    found["cls_token"], registers = ours["class_token"].clone(), ours["register_tokens"]
    positions = ours["positions"]
    if layout != "timm":  # an entry for the class token, which is added to it
        entry = torch.full_like(found["cls_token"], 0.25)
        positions = torch.cat([entry, positions], 1)
        found["cls_token"] -= entry
    names = {
        "timm": ("reg_token", "pos_embed", "patch_embed.proj.", "blocks.{}.", "norm."),
        "authors": ("register_tokens", "pos_embed", "patch_embed.proj.", "blocks.{}.", "norm."),
        "transformers": (
            "embeddings.register_tokens",
            "embeddings.position_embeddings",
            "embeddings.patch_embeddings.projection.",
            "encoder.layer.{}.",
            "layernorm.",
        ),
    }[layout]
    found |= {names[0]: registers, names[1]: positions, "mask_token": torch.zeros(1, 48)}
    if layout == "transformers":
        found = {n if "." in n else f"embeddings.{n}": value for n, value in found.items()}
    plain = layout != "transformers"
    parts = {
        "projection.": "attn.proj." if plain else "attention.output.dense.",
        "scale1": "ls1.gamma" if plain else "layer_scale1.lambda1",
        "scale2": "ls2.gamma" if plain else "layer_scale2.lambda1",
        "mlp.0.": "mlp.fc1.",
        "mlp.2.": "mlp.fc2.",
    }
    for name, value in ours.items():
        if name.startswith("patch_embed."):
            found[names[2] + name.removeprefix("patch_embed.")] = value
        elif name.startswith("norm."):
            found[names[4] + name.removeprefix("norm.")] = value
        elif name.startswith("blocks."):
            _, number, part = name.split(".", 2)
            block, part = names[3].format(number), part.removeprefix("attention.")
            if part.startswith("qkv.") and not plain:
                leaf = part.removeprefix("qkv.")
                for which, chunk in zip(("query", "key", "value"), value.chunk(3), strict=True):
                    found[f"{block}attention.attention.{which}.{leaf}"] = chunk
                continue
            part = "attn." + part if part.startswith("qkv.") else part
            for mine, theirs in parts.items():
                part = part.replace(mine, theirs)
            found[block + part] = value
    return found


@pytest.mark.parametrize("layout", ["timm", "authors", "transformers"])
def test_raw_encoders_load_from_every_layout(layout):
    torch.manual_seed(0)
    vit = VisionTransformer(width=48, depth=2, heads=3, position_grid=5)
    found = encoder_of(raw_dinov2(vit, layout))
    assert found.keys() == vit.state_dict().keys()
    for name, value in vit.state_dict().items():
        torch.testing.assert_close(found[name], value, msg=name)


def test_a_patch_of_14_becomes_one_of_16_that_answers_alike():
    generator = torch.Generator().manual_seed(0)
    kernel = torch.randn(8, 3, 14, 14, generator=generator)
    large = to_patch_16({"patch_embed.weight": kernel})["patch_embed.weight"]
    assert large.shape == (8, 3, PATCH, PATCH)
    patch = torch.randn(1, 3, 14, 14, generator=generator)
    resized = F.interpolate(patch, (16, 16), mode="bicubic", antialias=True, align_corners=False)
    torch.testing.assert_close(
        F.conv2d(resized, large), F.conv2d(patch, kernel), rtol=1e-3, atol=1e-3
    )


def test_running_classes_end_where_the_whole_video_begins():
    torch.manual_seed(0)
    running = VidEoMT.tiny(4).eval()
    official = VidEoMT.tiny(4, classes="official-video").eval()
    official.load_state_dict(running.state_dict())
    video = torch.randn(1, 4, 3, 32, 48)
    with torch.no_grad():
        causal, _ = running(video)
        context = official.summarize(video, name="street")
        whole, memory = official(video, context=context)
        again, _ = official.step(video[:, 3], memory)
    assert isinstance(context, QueryClasses)
    assert context.video == "street"
    torch.testing.assert_close(causal.logits[:, -1], whole.logits[:, -1])
    assert not torch.allclose(causal.logits[:, 0], whole.logits[:, 0])
    assert again.logits.shape == (1, 1, 4, 8, 12)


def test_the_memory_of_a_long_stream_keeps_its_size_and_stays_finite():
    torch.manual_seed(0)
    model, memory, sizes = VidEoMT.tiny(3).eval(), None, set()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _ in range(200):
            frame = torch.randn(1, 3, 32, 32, generator=generator)
            _, memory = model.step(frame, memory)
            sizes.add(memory.nbytes)
    assert len(sizes) == 1
    assert all(leaf.isfinite().all() for leaf in (memory.queries, *memory.running))


@pytest.mark.parametrize("pad", [16, 32])
@pytest.mark.parametrize("size", [(50, 90), (48, 80), (64, 96), (17, 31)])
def test_logits_lie_on_the_frame_and_not_on_its_padding(size, pad):
    torch.manual_seed(0)
    model = VidEoMT.tiny(3, pad=pad).eval()
    with torch.no_grad():
        answer, _ = model(torch.randn(2, 1, 3, *size), aux=True)
    assert answer.logits.shape[-2:] == tuple(math.ceil(side / 4) for side in size)
    padded = tuple(math.ceil(side / pad) * pad // 4 for side in size)
    assert answer.aux["mask_logits"].shape[-2:] == padded
    assert answer.labels().shape == (2, 1, *size)
    if not any(side % 4 for side in size):
        scores = class_scores(answer.aux["class_logits"][:, 0], answer.aux["mask_logits"][:, 0])
        cut = scores[..., : size[0] // 4, : size[1] // 4]
        torch.testing.assert_close(answer.logits[:, 0], cut)


def test_scores_in_the_order_of_the_authors_do_not_depend_on_the_chunk(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    classes = torch.randn(7, 4, generator=generator)
    masks = torch.randn(7, 8, 12, generator=generator)
    sizes = {"frame_size": (30, 45), "size": (60, 90)}
    whole = official_scores(classes, masks, **sizes)
    monkeypatch.setattr("vidseg.layers.query_heads.CHUNK_BYTES", 1)
    torch.testing.assert_close(official_scores(classes, masks, **sizes), whole)
    assert whole.shape == (3, 60, 90)


def test_things_come_first_in_the_authors_head_for_vspw():
    assert sorted(THINGS_FIRST) == list(range(124))
    assert len(THINGS_FIRST[:58]) == 58
    assert THINGS_FIRST[:3] == (2, 4, 8)
    assert THINGS_FIRST[57:60] == (123, 0, 1)
    weight = torch.arange(125.0)[:, None]
    head = {"heads.class_head.weight": weight, "heads.class_head.bias": weight[:, 0]}
    rows = ordered_classes(head, None)["heads.class_head.bias"]
    for channel, label in enumerate(THINGS_FIRST):
        assert rows[label] == channel
    assert rows[124] == 124  # no object
    assert ordered_classes(head, "as-is") is head


def test_only_the_decoder_of_pmt_is_trained():
    model = PMT.tiny(3)
    assert not any(p.requires_grad for p in model.encoder.parameters())
    assert all(p.requires_grad for n, p in model.named_parameters() if not n.startswith("encoder."))


def test_matching_finds_the_query_that_says_it():
    labels = torch.full((2, 8, 8), IGNORE)
    labels[:, :4], labels[:, 4:] = 2, 0
    targets = clip_targets(labels)
    assert targets.classes.tolist() == [0, 2]
    masks = torch.full((2, 3, 8, 8), -9.0)
    masks[:, 1, :4], masks[:, 2, 4:] = 9, 9
    classes = torch.zeros(2, 3, 4)
    classes[:, 1, 2], classes[:, 2, 0], classes[:, 0, 3] = 9, 9, 9
    queries, chosen = match(classes, masks, targets, num_points=64)
    assert queries.tolist() == [1, 2]
    assert chosen.tolist() == [1, 0]
    right = set_losses(classes[None], masks[None], [targets], num_points=64)
    wrong = set_losses(classes[None], -masks[None], [targets], num_points=64)
    assert right.classes < 1e-3
    assert wrong.classes > 5  # their masks say the opposite, so each is matched to the other class


def batch_of(labels: torch.Tensor, labelled: torch.Tensor | None = None) -> dict:
    every = torch.ones(labels.shape[:2], dtype=torch.bool)
    return {"clip_labels": labels, "labelled": every if labelled is None else labelled}


def test_clips_without_a_class_still_give_a_finite_loss():
    model = VidEoMT.tiny(3, loss_points=16)
    answer, _ = model(torch.randn(1, 2, 3, 32, 32))
    terms = model.losses(answer, batch_of(torch.full((1, 2, 32, 32), IGNORE)))
    total = sum(weight * term for term, weight in terms.values())
    total.backward()
    assert total.isfinite()


def test_frames_without_labels_have_no_loss():
    torch.manual_seed(0)
    model = VidEoMT.tiny(3, loss_points=16)
    answer, _ = model(torch.randn(2, 3, 3, 32, 32))
    labels = torch.randint(0, 3, (2, 3, 32, 32))
    labelled = torch.tensor([[False, True, True], [False, False, True]])
    torch.manual_seed(1)
    terms = model.losses(answer, batch_of(labels, labelled))
    labels[~labelled] = 1 - labels[~labelled].clamp(max=1)
    torch.manual_seed(1)
    again = model.losses(answer, batch_of(labels, labelled))
    assert (
        terms.keys()
        == again.keys()
        == {f"{what}{level}" for what in ("classes", "masks", "dice") for level in ("", "_0", "_1")}
    )
    assert all(torch.equal(terms[name][0], again[name][0]) for name in terms)
    assert model.losses(answer, batch_of(labels, torch.zeros(2, 3, dtype=torch.bool))) == {}


def test_masks_in_the_attention_fall_away_block_by_block():
    assert mask_probabilities(0.0, 4) == (1, 1, 1, 1)
    assert mask_probabilities(1 / 6, 4) == (1, 1, 1, 1)
    first, *others = mask_probabilities(1.5 / 6, 4)
    assert first == pytest.approx(0.5**0.9)
    assert others == [1, 1, 1]
    assert mask_probabilities(5 / 6, 4) == (0, 0, 0, 0)


def test_the_image_stage_masks_the_attention_and_ends_without():
    torch.manual_seed(0)
    model = VidEoMT.tiny(3, masked_attention=True).train()
    frames = torch.randn(1, 1, 3, 32, 48)
    seen = []
    for block in model.encoder.blocks:
        block.attention.register_forward_pre_hook(lambda m, args: seen.append(args[2]))
    model(frames)
    assert [mask is not None for mask in seen] == [False, False, True, True]
    mask = seen[2]
    count, prefix = 12, 5
    assert mask[:, :, count:].all()
    assert mask[:, :, :, : count + prefix].all()
    assert not mask.all()
    seen.clear()
    model.begin_step(99, 100)
    model(frames)
    assert seen == [None] * 4
    model.eval()(frames)
    assert seen == [None] * 8


def test_layers_of_the_encoder_have_their_own_rates():
    model = VidEoMT.tiny(3)
    above = model.training_needs().layers_above
    assert above("encoder.blocks.3.scale1") == 0
    assert above("encoder.blocks.0.norm1.weight") == 3
    assert above("encoder.positions") == above("encoder.patch_embed.weight") == 3
    assert above("encoder.norm.weight") == 0
    assert above("heads.class_head.weight") is None
    assert above("queries") is None


def test_padding_belongs_to_no_target():
    targets = clip_targets(torch.ones(1, 30, 20, dtype=torch.int64), (32, 32))
    assert targets.masks.shape == (1, 1, 32, 32)
    assert targets.masks.sum() == 600


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VidEoMT.tiny(3, classes="mean"), '"running", "frame" or "official-video"'),
        (lambda: VidEoMT.tiny(3, backbone="dinov1"), '"dinov2" or "dinov3", got \'dinov1\''),
        (lambda: VidEoMT.tiny(3, query_blocks=9), "query_blocks must be 1 to 4"),
        (lambda: VidEoMT.tiny(3, pad=20), "pad must be a multiple of 16, got 20"),
        (lambda: VidEoMT.tiny(3, heads=5), "heads must divide the width"),
        (lambda: PMT.tiny(3, taps=(1, 4)), "taps must be blocks, 0 to 3"),
        (lambda: PMT.tiny(3, propagation="lstm"), '"linear" or "gru"'),
        (
            lambda: VidEoMT.tiny(3).eval()(torch.zeros(1, 1, 3, 8, 40)),
            "at least one patch large, 16x16, got 8x40",
        ),
        (
            lambda: VidEoMT.tiny(3, classes="official-video").eval()(torch.zeros(1, 1, 3, 32, 32)),
            r"context=model.summarize\(video\)",
        ),
        (
            lambda: vidseg.load_official("videomt", {"decode_head.weight": torch.zeros(3)}),
            "holds no vision transformer",
        ),
    ],
)
def test_bad_input_says_what_is_wanted(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_memory_of_another_model_is_refused():
    with torch.no_grad():
        _, memory = VidEoMT.tiny(3, queries=5).eval().step(torch.zeros(1, 3, 32, 32))
        with pytest.raises(ValueError, match="holds queries"):
            VidEoMT.tiny(3).eval().step(torch.zeros(1, 3, 32, 32), memory)
        with pytest.raises(ValueError, match='not of a model with classes="frame"'):
            VidEoMT.tiny(3, queries=5, classes="frame").eval().step(
                torch.zeros(1, 3, 32, 32), memory
            )


def test_raw_weights_start_a_model(tmp_path):
    torch.manual_seed(0)
    raw = VisionTransformer(width=48, depth=4, heads=3, position_grid=5)
    tensors = raw_dinov2(raw, "authors")
    kernel = torch.randn(48, 3, 14, 14)
    torch.save({**tensors, "patch_embed.proj.weight": kernel}, tmp_path / "dinov2.pth")
    model = VidEoMT.tiny(3, backbone_weights=tmp_path / "dinov2.pth")
    assert torch.equal(model.encoder.blocks[1].mlp[0].weight, raw.blocks[1].mlp[0].weight)
    assert model.encoder.positions.shape == (1, 16, 48)
    assert model.encoder.patch_embed.weight.shape[-1] == 16
    torch.save({k: v for k, v in tensors.items() if k != "register_tokens"}, tmp_path / "bare.pth")
    for options, file, message in (
        ({"backbone": "dinov3"}, "dinov2.pth", 'is a DINOv2, the model wants a DINOv3.*"dinov2"'),
        ({}, "bare.pth", "has no register tokens, the model wants 4"),
    ):
        with pytest.raises(ValueError, match=message):
            VidEoMT.tiny(3, backbone_weights=tmp_path / file, **options)


def test_a_class_order_of_another_head_is_refused():
    head = {"heads.class_head.weight": torch.zeros(12, 4), "heads.class_head.bias": torch.zeros(12)}
    with pytest.raises(ValueError, match="is for 124 classes, the head has 11"):
        ordered_classes(head, "vspw-things-first")
    with pytest.raises(ValueError, match='"vspw-things-first" or "as-is"'):
        ordered_classes(head, "raw")


def step_of(model, truncate=None):
    """The loss of a fixed batch: its value and terms, gradients left in the parameters."""
    torch.manual_seed(0)
    labels = torch.randint(0, 3, (2, 4, 32, 32))
    batch = {"frames": torch.randn(2, 4, 3, 32, 32), "labels": labels[:, -1], **batch_of(labels)}
    model.zero_grad()
    losses = TrainingStep(model, LossConfig(), truncate=truncate)(batch)
    losses["loss"].backward()
    return losses


def test_truncated_clips_stop_gradients_and_share_the_loss():
    torch.manual_seed(0)
    model = LVMT.tiny(3, loss_points=16, train_encoder=True, clip_frames=4)
    model.eval()  # the batch norms of the taps would see other batches
    model.training = True  # but the outputs for training are wanted
    whole, cut = step_of(model), step_of(model, truncate=2)
    assert whole.keys() == cut.keys()
    assert not torch.isclose(whole["loss"], cut["loss"])  # each chunk is matched by itself
    step_of(model, truncate=1)
    # With chunks of one frame nothing reaches the step from one frame's queries to the next.
    assert all(p.grad is None for p in model.propagation.parameters())
    assert model.queries.grad is not None


def test_rates_of_layers_and_the_late_start_of_the_encoder():
    model = VidEoMT.tiny(3)
    config = OptimiserConfig(kind="adamw", layer_decay=0.5, head_multiplier=2.0)
    groups, _ = parameter_groups(model, config, model.training_needs().layers_above)
    rates = {(group["multiplier"], group["encoder"]) for group in groups}
    assert rates == {(2.0, False), (1.0, True), (0.5, True), (0.25, True), (0.125, True)}
    assert [encoder_share(s, 2, 4) for s in (0, 1, 2, 4, 6, 9)] == [0, 0, 0, 0.5, 1, 1]


def test_a_stream_compiles_to_one_graph_and_stays_there():
    counter = torch._dynamo.testing.CompileCounter()
    torch._dynamo.reset()
    model = VidEoMT.tiny(3).eval()
    step = torch.compile(model.step, backend=counter, dynamic=False, fullgraph=True)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        _, memory = model.step(torch.randn(1, 3, 32, 48, generator=generator))
        for _ in range(12):
            frame = torch.randn(1, 3, 32, 48, generator=generator)
            expected, _ = model.step(frame, memory)
            answer, memory = step(frame, memory)
            torch.testing.assert_close(answer.logits, expected.logits)
    assert counter.frame_count == 1
    torch._dynamo.reset()


def test_more_queries_than_the_checkpoint_are_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    weights.save(vidseg.create("videomt_tiny", num_classes=3), path)
    with pytest.raises(ValueError, match=r"do not fit queries=99: .* such as"):
        vidseg.load(path, queries=99)
    assert vidseg.load(path, classes="frame").classes == "frame"


@pytest.mark.slow
def test_a_run_goes_on_bit_for_bit(tmp_path):
    """The random points of the loss and of the masks follow the step, not the process."""
    spec = {
        "name": "videomt_tiny",
        "options": {"loss_points": 32, "masked_attention": True, "clip_frames": 2},
    }
    changes = ("iterations=4", "checkpoint={every: 2, keep: 2}", "optimiser.kind=adamw")
    config = config_with(*changes, model=spec)
    train(config, tmp_path / "straight")
    shutil.copytree(tmp_path / "straight", tmp_path / "stopped")
    (tmp_path / "stopped" / "checkpoints" / "step-00000004.pt").unlink()
    (tmp_path / "stopped" / "last.safetensors").unlink()
    train(config, tmp_path / "stopped", resume=True)
    first, second = (
        load_file(tmp_path / run / "last.safetensors") for run in ("straight", "stopped")
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("layout", ["authors", "transformers"])
def test_raw_dinov3_loads_from_every_layout(layout):
    """The authors keep a bias for keys, and a mask that says it is none."""
    torch.manual_seed(0)
    vit = VisionTransformer(kind="dinov3", width=48, depth=2, heads=3)
    ours, found = vit.state_dict(), {}
    names = {
        "class_token": ("cls_token", "embeddings.cls_token"),
        "register_tokens": ("storage_tokens", "embeddings.register_tokens"),
        "patch_embed.": ("patch_embed.proj.", "embeddings.patch_embeddings."),
        "blocks.": ("blocks.", "layer."),
        "projection.": ("proj.", "o_proj."),
        "attention.": ("attn.", "attention."),
        "scale1": ("ls1.gamma", "layer_scale1.lambda1"),
        "scale2": ("ls2.gamma", "layer_scale2.lambda1"),
        "mlp.0.": ("mlp.fc1.", "mlp.up_proj."),
        "mlp.2.": ("mlp.fc2.", "mlp.down_proj."),
    }
    for name, value in ours.items():
        theirs = name
        for mine, layouts in names.items():
            theirs = theirs.replace(mine, layouts[layout == "transformers"])
        if "qkv" in name and layout == "transformers":
            for part, chunk in zip("qkv", value.chunk(3), strict=True):
                found[theirs.replace("qkv", f"{part}_proj")] = chunk
        elif name.endswith("query_bias"):
            key = theirs.replace("query_bias", "{}")
            value_bias = ours[name.replace("query_bias", "value_bias")]
            if layout == "authors":
                joined = torch.cat([value, torch.full_like(value, 7.0), value_bias])
                found |= {key.format("qkv.bias"): joined, key.format("qkv.bias_mask"): joined}
            else:
                found |= {key.format("q_proj.bias"): value, key.format("v_proj.bias"): value_bias}
        elif not name.endswith("value_bias"):
            found[theirs] = value
    found |= {"mask_token": torch.zeros(48), "rope_embed.periods": torch.zeros(4)}
    tensors = encoder_of(found)
    assert tensors.keys() == ours.keys()
    assert all(torch.equal(tensors[name], ours[name]) for name in ours)


@pytest.mark.parametrize("name", ["videomt_tiny", "pmt_tiny", "lvmt_tiny"])
def test_half_precision_keeps_the_memory_in_full(name):
    """What goes from frame to frame adds up, so it stays in float32; labels hardly change."""
    torch.manual_seed(0)
    model, memory, half = vidseg.create(name, num_classes=4).eval(), None, None
    for _ in range(3):
        frame = torch.randn(1, 3, 64, 96)
        with torch.no_grad():
            answer, memory = model.step(frame, memory)
            with torch.autocast("cpu", torch.bfloat16):
                rounded, half = model.step(frame, half)
        assert {leaf.dtype for leaf in (half.queries, *half.running)} == {torch.float32}
        assert (answer.labels() == rounded.labels()).float().mean() > 0.9


def test_a_checkpoint_without_registers_is_refused():
    tensors = {
        "embeddings.cls_token": torch.zeros(1, 1, 8),
        "embeddings.patch_embeddings.projection.weight": torch.zeros(8, 3, 16, 16),
        "layers.0.attention.q_proj.weight": torch.zeros(8, 8),
        "layers.0.attention.k_proj.weight": torch.zeros(8, 8),
        "layers.0.attention.v_proj.weight": torch.zeros(8, 8),
    }
    with pytest.raises(ValueError, match="has no register tokens"):
        vidseg.load_official("videomt", tensors)


def test_segment_keeps_and_takes_the_classes_of_the_whole_video(tmp_path):
    """Two passes once; the second command needs one, and gives the same label maps."""
    torch.manual_seed(0)
    weights.save(vidseg.create("videomt_tiny", num_classes=3), tmp_path / "model.safetensors")
    (tmp_path / "frames").mkdir()
    for t in range(3):
        image = np.random.default_rng(t).integers(0, 255, (32, 48, 3), np.uint8)
        Image.fromarray(image).save(tmp_path / "frames" / f"{t}.png")
    line = ["segment", tmp_path / "frames", "--model", tmp_path / "model.safetensors"]
    line += ["--model-option", "classes=official-video"]
    kept = tmp_path / "classes.safetensors"
    assert run(*line, "--out", tmp_path / "a.npz", "--save-context", kept) == 0
    assert run(*line, "--out", tmp_path / "b.npz", "--context", kept) == 0
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    context = load_context(kept)
    assert isinstance(context, QueryClasses)
    assert context.logits.shape == (1, 12, 4)
    assert run(*line, "--out", tmp_path / "c.npz", "--context", tmp_path / "model.safetensors") == 1

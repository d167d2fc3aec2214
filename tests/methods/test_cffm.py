"""What is special to CFFM: its windows, its clips, what it remembers, its checkpoints."""

import pytest
import torch
from cffm_checkpoints import official
from settled import count, settle
from torch.nn import functional as F

import vidseg
from vidseg.layers import windows
from vidseg.layers.resize import largest_class
from vidseg.layers.windows import WindowMining, key_rows, pad_to_windows, window_grid
from vidseg.losses import clip_cross_entropy, cross_entropy
from vidseg.methods import dead_keys
from vidseg.methods.cffm import CFFM, CONSTANTS, START

DEAD_CLASSIFIER = 124 * 128 + 124


@pytest.mark.parametrize(
    ("size", "millions", "blocks"),
    [("b0", 4.673, 0.847), ("b1", 15.483, 1.694), ("b2", 26.527, 1.694), ("b5", 85.468, 3.388)],
)
def test_published_sizes(size, millions, blocks):
    """The authors count a classifier that is never used."""
    with torch.device("meta"):
        model = vidseg.create(f"cffm_{size}", num_classes=124)
    assert round((count(model) + DEAD_CLASSIFIER) / 1e6, 3) == millions
    assert round(count(model.blocks) / 1e6, 3) == blocks
    assert model.twins[size] == f"segformer_{size}"


def test_the_table_of_first_frames_is_a_rule():
    ours = CFFM.tiny(3)
    assert tuple(ours.window_frames(t) for t in range(9)) == START
    for t in range(3, 9):
        assert START[t] == tuple(-(-k * t // 3) for k in range(4))
    assert ours.window_frames(9) == (0, 3, 6, 9)
    assert ours.window_frames(100) == (91, 94, 97, 100)
    near = CFFM.tiny(3, gap_frames=1)
    assert [near.window_frames(t) for t in (2, 3, 7)] == [(2,), (0, 1, 2, 3), (4, 5, 6, 7)]
    assert (ours.horizon, near.horizon, near.window_length) == (9, 3, 4)
    wide = CFFM.tiny(3, gap_frames=4)
    for t in range(3, 15):
        *past, now = wide.window_frames(t)
        ages = [now - i for i in past]
        assert all(1 <= age <= 4 * k for age, k in zip(ages, (3, 2, 1), strict=True)), t


def test_the_first_three_frames_stand_alone():
    model = settle(CFFM.tiny(3))
    frames = torch.rand(1, 4, 3, 40, 56)
    with torch.no_grad():
        logits = model(frames)[0].logits[0]
        alone = torch.cat([model.step(frames[:, t])[0].logits[0] for t in range(4)])
    torch.testing.assert_close(logits[:3], alone[:3])
    assert float((logits[3] - alone[3]).abs().max()) > 0.01


def test_the_memory_keeps_tokens_for_each_place():
    model = settle(CFFM.tiny(3, depth=2))
    memory, kept = None, []
    with torch.no_grad():
        for _ in range(11):
            _, memory = model.step(torch.rand(1, 3, 64, 120), memory)
            kept.append(memory)
    assert [m.frames_seen for m in kept] == [1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9]
    assert len({m.nbytes for m in kept}) == 1
    assert [len(memory.oldest), len(memory.middle), len(memory.nearest)] == [9, 6, 3]
    # 8 x 15 pixels at stride 8 are 2 x 3 windows; 2 heads of 8 channels, keys and values
    shapes = [tuple(frames[0][1].shape) for frames in (memory.oldest, memory.middle)]
    assert shapes == [(1, 2, 2, 3, 16), (1, 2, 4, 6, 16)]
    assert tuple(memory.nearest[0][0].shape) == (1, 2, 6, 9, 16)
    assert kept[10].oldest[0] is kept[9].oldest[1]


def test_training_outputs_and_gradients():
    torch.manual_seed(0)
    model = CFFM.tiny(3).train()
    frames = torch.rand(2, 4, 3, 64, 64)
    labels = torch.randint(0, 3, (2, 4, 64, 64))
    segmentation, _ = model(frames, readout="last")
    per_frame = segmentation.aux["frames"]
    assert segmentation.logits.shape == (2, 1, 3, 16, 16)
    assert per_frame.shape == (2, 4, 3, 16, 16)
    loss = clip_cross_entropy(segmentation.logits[:, 0], per_frame, labels, align_corners=False)
    loss.backward()
    without = {name for name, p in model.named_parameters() if p.grad is None}
    assert without == set()


def test_loss_weighs_all_frames_by_half():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 3, 8, 8, generator=generator)
    labels = torch.randint(0, 3, (2, 4, 16, 16), generator=generator)
    labels[0, :, :4] = 255
    loss = clip_cross_entropy(logits[:, 4], logits[:, :4], labels, align_corners=False)
    options = {"align_corners": False, "average": "all"}
    by_frame = [cross_entropy(logits[:, k], labels[:, k], **options) for k in range(4)]
    last = cross_entropy(logits[:, 4], labels[:, 3], **options)
    torch.testing.assert_close(loss, last + 0.5 * torch.stack(by_frame).mean())
    with pytest.raises(ValueError, match="must be of the same clips and frames"):
        clip_cross_entropy(logits[:, 4], logits[:, :3], labels, align_corners=False)


def test_a_window_sees_181_pixels_of_169_and_wraps_around():
    index, outside = key_rows((4, 5), torch.device("cpu"))
    width = 5 * 7
    middle = index[1 * 5 + 2, :181]
    rows, columns = middle // width, middle % width
    assert len(middle.unique()) == 169
    assert (rows.min(), rows.max()) == (7 - 3, 13 + 3)
    assert (columns.min(), columns.max()) == (14 - 3, 20 + 3)
    corner = index[0, :181]
    is_around = (corner // width > 9) | (corner % width > 9)
    assert int(is_around.sum()) == 75
    assert not outside[:, :181].any()


def test_tokens_of_the_nearest_frame_sit_towards_top_and_left():
    grid = (3, 3)
    index, outside = key_rows(grid, torch.device("cpu"))
    first = 9 * 49 + 9 + 9 + 36  # pixels, pooled, oldest, middle
    seen = (index[4, -9:] - first).view(3, 3)
    assert (seen[:, 0] // 9).tolist() == [2, 3, 4]  # the window has 3, 4 and 5
    assert (seen[0] % 9).tolist() == [2, 3, 4]
    assert outside[0, -9:].view(3, 3).tolist() == [[-100] * 3, [-100, 0, 0], [-100, 0, 0]]
    middle = (index[4, -34:-9] - (9 * 49 + 9 + 9)).view(5, 5)
    assert (middle[:, 0] // 6).tolist() == [0, 1, 2, 3, 4]  # the window has 2 and 3


def test_one_resize_for_labels():
    """The authors resize logits to the network's 480 x 864, then to the frame's 480 x 853."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, 20, 15, 27, generator=generator)
    logits = F.interpolate(noise, (120, 216), mode="bicubic")
    once = largest_class(logits, (480, 853), align_corners=False)
    seen = F.interpolate(logits, (480, 864), mode="bilinear")
    twice = F.interpolate(seen, (480, 853), mode="bilinear").argmax(1)
    assert float((once != twice).float().mean()) < 1e-3


def test_pooling_starts_as_the_mean():
    block = WindowMining(8, 2)
    x = torch.rand(2, 14, 21, 8)
    pooled = windows.pool(x, block.pool_target, 7)
    assert pooled.shape == (2, 2, 3, 8)
    torch.testing.assert_close(pooled[0, 1, 2], x[0, 7:, 14:].mean((0, 1)))


def test_all_heads_at_once_read_what_one_at_a_time_reads():
    block = settle(WindowMining(16, 2))
    generator = torch.Generator().manual_seed(0)
    x = pad_to_windows(torch.randn(2, 9, 12, 16, generator=generator))
    with torch.no_grad():
        query, rows = block.queries_and_rows(x, block.references(x))
        index, outside = key_rows(window_grid(tuple(x.shape[1:3])), x.device)
        at_once = windows._read_heads(query, rows, block.bias(), index, outside)
        expected = block.attend(x, block.references(x))
    torch.testing.assert_close(block.proj(at_once.flatten(3)), expected)


def test_indices_made_in_inference_serve_in_training():
    windows._row_numbers.cache_clear()
    model = CFFM.tiny(3)
    frames = torch.rand(1, 4, 3, 40, 56)
    with torch.inference_mode():
        model.eval()(frames)
    model.train()(frames)[0].logits.sum().backward()


def test_checkpoint_round_trip():
    model = settle(CFFM.tiny(3, depth=2))
    tensors = official(model)
    loaded = vidseg.load_official("cffm", tensors)
    frames = torch.rand(1, 4, 3, 40, 56)
    with torch.no_grad():
        assert torch.equal(loaded(frames)[0].logits, model(frames)[0].logits)
    assert loaded.card.architecture == "cffm_tiny"
    assert loaded.card.size_multiple == 32
    again = vidseg.create(loaded.card.architecture, **loaded.card.options)
    again.load_state_dict(loaded.state_dict())
    assert vidseg.load_official("cffm", tensors, gap_frames=1).horizon == 3
    dead = dead_keys("cffm", tensors)
    assert len(dead) == 2 + 2 * len(CONSTANTS)
    alive = {k: v for k, v in tensors.items() if k not in dead}
    bare = vidseg.load_official("cffm", alive)
    for name, value in loaded.state_dict().items():
        assert torch.equal(bare.state_dict()[name], value), name


def test_checkpoints_that_do_not_fit():
    tensors = official(CFFM.tiny(3))
    index = "decode_head.decoder_focal.blocks.0.attn.valid_ind_rolled"
    with pytest.raises(ValueError, match=r"index buffers are not those of CFFM: .*ind_rolled; was"):
        vidseg.load_official("cffm", tensors | {index: tensors[index] + 1})
    with pytest.raises(ValueError, match=r"no classifier.weight"):
        vidseg.load_official("cffm", {k: v for k, v in tensors.items() if "pred" not in k})
    plus = tensors | {"decode_head.decoder_swin.blocks.0.x": torch.zeros(1)}
    with pytest.raises(ValueError, match=r'is a checkpoint of cffmpp, .* load_official\("cffmpp"'):
        vidseg.load_official("cffm", plus)
    with pytest.raises(ValueError, match=r"is a checkpoint of cffm, not of cffmpp"):
        vidseg.load_official("cffmpp", tensors)
    with pytest.raises(ValueError, match=r"missing: branch\.norm1\.weight.*unexpected: branch\.x"):
        vidseg.load_official("cffmpp", plus)
    with pytest.raises(ValueError, match=r"unexpected: blocks\.0\.x"):
        vidseg.load_official(
            "cffm", tensors | {"decode_head.decoder_focal.blocks.0.x": torch.zeros(1)}
        )
    short = {k: v for k, v in tensors.items() if "pool_layers.0.bias" not in k}
    with pytest.raises(ValueError, match=r"missing: blocks\.0\.pool_target\.bias"):
        vidseg.load_official("cffm", short)


def test_bad_input():
    model = CFFM.tiny(3).eval()
    with pytest.raises(ValueError, match="at least 29 px"):
        model(torch.zeros(1, 4, 3, 28, 96))
    with pytest.raises(ValueError, match="CFFM takes no context; CFFM"):
        model(torch.zeros(1, 4, 3, 40, 56), context=vidseg.Prototypes(torch.zeros(1, 4, 16)))
    with torch.no_grad():
        _, memory = model(torch.zeros(1, 2, 3, 40, 56))
        with pytest.raises(ValueError, match=r"\(1, 2, 1, 1, 16\) .* frames of one stream have"):
            model.step(torch.zeros(1, 3, 40, 120), memory)
        with pytest.raises(ValueError, match=r"\[9, 6, 3\] frames .* keeps \[3, 2, 1\]"):
            CFFM.tiny(3, gap_frames=1).eval().step(torch.zeros(1, 3, 40, 56), memory)
    for wrong in ({"gap_frames": 0}, {"depth": 0}):
        with pytest.raises(ValueError, match="gap_frames and depth must be at least 1"):
            CFFM.tiny(3, **wrong)
    with pytest.raises(ValueError, match="3 heads cannot share 16 channels evenly"):
        CFFM.tiny(3, heads=3)
    with pytest.raises(ValueError, match='backbone must be "mit_b0" to "mit_b5"'):
        CFFM(3, backbone="resnet50_v1c")


@pytest.mark.parametrize("size", [(29, 29), (33, 47), (50, 101)])
def test_odd_sizes_and_maps_smaller_than_a_window(size):
    model = settle(CFFM.tiny(3))
    frames = torch.rand(1, 4, 3, *size)
    with torch.no_grad():
        segmentation, _ = model(frames)
    assert segmentation.logits.shape[-2:] == tuple(-(-side // 4) for side in size)
    assert segmentation.labels().shape == (1, 4, *size)
    assert segmentation.logits.isfinite().all()

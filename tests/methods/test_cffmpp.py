"""What is special to CFFM++: prototypes, given or running, and that only the branch is trained."""

import math

import numpy as np
import pytest
import torch
from cffm_checkpoints import official
from PIL import Image
from settled import count, settle
from torch import nn

import vidseg
from vidseg.layers.prototypes import kmeans, move_centers, nearest, random_points, spread_points
from vidseg.methods import dead_keys
from vidseg.methods.cffm import CFFM, CONSTANTS
from vidseg.methods.cffmpp import CFFMPlus


def clip(batch=1, length=4, size=(40, 56), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, length, 3, *size, generator=generator)


def as_cffm(model):
    """The CFFM inside."""
    inner = CFFM.tiny(model.num_classes)
    inner.load_state_dict({k: v for k, v in model.state_dict().items() if k in inner.state_dict()})
    return inner.eval()


@pytest.mark.parametrize(("size", "millions"), [("b1", 16.503), ("b5", 86.488)])
def test_published_sizes(size, millions):
    """The authors count what is unused: keys, values, a projection, a table, a classifier."""
    unused = 2 * 256 * 257 + 256 * 257 + 169 * 8 + 124 * 129
    with torch.device("meta"):
        model = vidseg.create(f"cffmpp_{size}", num_classes=124)
    assert round((count(model) + unused) / 1e6, 3) == millions


def test_the_sum_and_the_first_frames():
    model = settle(CFFMPlus.tiny(3))
    frames, prototypes = clip(), vidseg.Prototypes(torch.randn(1, 7, 16))
    seen = []
    model.prototype_classifier.register_forward_hook(lambda m, i, out: seen.append(out))
    with torch.no_grad():
        logits = model(frames, context=prototypes)[0].logits[0]
        plain = as_cffm(model)(frames)[0].logits[0]
    torch.testing.assert_close(logits[:3], plain[:3])
    (branch,) = seen
    half = nn.functional.interpolate(branch, logits.shape[-2:], mode="bilinear") / 2
    torch.testing.assert_close(logits[3:], plain[3:] + half)


def test_the_branch_ignores_the_order_of_prototypes():
    model = settle(CFFMPlus.tiny(3))
    frames, centers = clip(), torch.randn(1, 7, 16)
    with torch.no_grad():
        one = model(frames, context=vidseg.Prototypes(centers))[0].logits
        other = model(frames, context=vidseg.Prototypes(centers.flip(1)))[0].logits
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize("prototypes", ["video", "running"])
def test_only_the_branch_is_trained(prototypes):
    torch.manual_seed(0)
    model = settle(CFFMPlus.tiny(3, prototypes=prototypes)).train()
    frames = clip(2, 4, (64, 64))
    context = model.summarize(frames)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    optimiser = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=0.1)
    segmentation, _ = model(
        frames, readout="last", context=context if prototypes == "video" else None
    )
    assert segmentation.aux == {}
    segmentation.logits.square().mean().backward()
    optimiser.step()
    changed = {
        k.split(".")[0] for k, v in model.state_dict().items() if not torch.equal(v, before[k])
    }
    assert changed == {"branch", "prototype_classifier"}
    assert not model.decoder.fusion.bn.training
    assert model.backbone.training  # the authors' drop path stays on


def test_training_logits_are_the_branch_alone():
    model = settle(CFFMPlus.tiny(3, dropout=0.0, drop_path=0.0))
    frames, prototypes = clip(), vidseg.Prototypes(torch.randn(1, 7, 16))
    with torch.no_grad():
        whole = model(frames, context=prototypes)[0].logits[:, 3]
        plain = as_cffm(model)(frames)[0].logits[:, 3]
        trained = model.train()(frames, context=prototypes)[0].logits
    torch.testing.assert_close(whole, plain + 0.5 * trained[:, 3])
    # also of frames without a clip, so that every frame can teach
    assert float(trained[:, 0].std()) > 0


@pytest.mark.parametrize(("prototypes", "count"), [("video", 2), ("running", 8)])
def test_training_encodes_what_the_branch_reads(prototypes, count):
    model = settle(CFFMPlus.tiny(3, dropout=0.0, drop_path=0.0, prototypes=prototypes)).train()
    frames, seen = clip(2), []
    context = None if prototypes == "running" else vidseg.Prototypes(torch.randn(2, 7, 16))
    whole = model(frames, context=context)[0].logits
    model.backbone.register_forward_hook(lambda m, i, out: seen.append(len(i[0])))
    last = model(frames, readout="last", context=context)[0].logits
    assert seen == [count]
    torch.testing.assert_close(last, whole[:, -1:])


def test_context_frames_are_the_middles_of_ten_parts():
    model = CFFMPlus.tiny(3)
    assert model.context_frames(10) == tuple(range(10))
    assert model.context_frames(45) == (2, 6, 10, 14, 18, 22, 26, 30, 34, 38)
    assert model.context_frames(9) == (0,) * 10


def test_summary_is_repeatable_and_reads_ten_frames():
    model = settle(CFFMPlus.tiny(3))
    video = clip(2, 25)
    prototypes = model.summarize(video, num_prototypes=5, name="street")
    assert prototypes.centers.shape == (2, 5, 16)
    assert prototypes.video == "street"
    picked = video[:, list(model.context_frames(25))]
    again = model.train().summarize(picked, num_prototypes=5)
    assert model.training
    assert torch.equal(again.centers, prototypes.centers)
    other = model.summarize(video, num_prototypes=5, seed=1)
    assert not torch.equal(other.centers, prototypes.centers)
    assert model.summarize(video).centers.shape[1] == model.num_prototypes
    with pytest.raises(ValueError, match="10000 prototypes need as many pixels"):
        model.summarize(video, num_prototypes=10_000)
    with pytest.raises(ValueError, match="num_prototypes must be at least 1, got 0"):
        model.summarize(video, num_prototypes=0)
    with pytest.raises(ValueError, match=r"must be \(B, T, 3, H, W\), got \(25, 3"):
        model.summarize(video[0])
    with pytest.raises(ValueError, match="must be normalised floats, got"):
        model.summarize(video.to(torch.uint8))
    with pytest.raises(ValueError, match="must be normalised, got values up to 255"):
        model.summarize(torch.full_like(video, 255))


def test_prototypes_on_disk(tmp_path):
    prototypes = vidseg.Prototypes(torch.randn(1, 4, 16), "street")
    prototypes.save(tmp_path / "p.safetensors")
    loaded = vidseg.Prototypes.load(tmp_path / "p.safetensors")
    assert torch.equal(loaded.centers, prototypes.centers)
    assert loaded.video == "street"
    (tmp_path / "12_abc").mkdir()
    torch.save(prototypes.centers, tmp_path / "12_abc" / "centers.pt")
    for path in (tmp_path / "12_abc", tmp_path / "12_abc" / "centers.pt"):
        theirs = vidseg.Prototypes.load(path)
        assert torch.equal(theirs.centers, prototypes.centers)
        assert theirs.video == "12_abc"
    assert loaded.to(torch.float64).centers.dtype == torch.float64


def test_prototypes_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file"):
        vidseg.Prototypes.load(tmp_path / "absent.safetensors")
    with pytest.raises(FileNotFoundError, match="no file"):
        vidseg.Prototypes.load(tmp_path / "absent.pt")
    torch.save({"centers": torch.zeros(1, 2, 3)}, tmp_path / "dict.pt")
    with pytest.raises(ValueError, match="holds a dict, wanted one tensor"):
        vidseg.Prototypes.load(tmp_path / "dict.pt")
    torch.save(torch.zeros(2, 3), tmp_path / "flat.pt")
    with pytest.raises(ValueError, match=r"holds \(2, 3\) torch.float32, wanted prototypes"):
        vidseg.Prototypes.load(tmp_path / "flat.pt")
    torch.save(torch.full((1, 2, 3), math.nan), tmp_path / "nan.pt")
    with pytest.raises(ValueError, match=r"nan.pt holds values that are not finite"):
        vidseg.Prototypes.load(tmp_path / "nan.pt")
    with pytest.raises(FileNotFoundError, match=r"holds no centers.pt; other .pt files in it"):
        vidseg.Prototypes.load(tmp_path)
    vidseg.weights.save(vidseg.create("fcn_tiny", num_classes=3), tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match="holds no `centers`"):
        vidseg.Prototypes.load(tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"saved as .safetensors, got p.pt"):
        vidseg.Prototypes(torch.zeros(1, 2, 3)).save(tmp_path / "p.pt")


def test_contexts_that_do_not_fit():
    model = CFFMPlus.tiny(3).eval()
    frames = clip()
    with pytest.raises(ValueError, match=r"pass context=model.summarize"):
        model(frames)
    with pytest.raises(ValueError, match=r"must be vidseg.Prototypes, got Tensor"):
        model(frames, context=torch.zeros(1, 4, 16))
    for shape in ((1, 4, 8), (2, 4, 16), (4, 16), (1, 0, 16)):
        with pytest.raises(ValueError, match="B = 1 streams and D = 16 channels"):
            model(frames, context=vidseg.Prototypes(torch.zeros(shape)))
    one, other = (vidseg.Prototypes(torch.zeros(1, 4, 16)) for _ in range(2))
    with torch.no_grad():
        _, memory = model(frames, context=one)
        model(frames, memory, context=one)
        with pytest.raises(ValueError, match="already runs with another context"):
            model(frames, memory, context=other)
    running = CFFMPlus.tiny(3, prototypes="running").eval()
    with pytest.raises(ValueError, match='takes no context; make it with prototypes="video"'):
        running(frames, context=one)
    with torch.no_grad():
        _, own = running(frames)
    with pytest.raises(ValueError, match="has running prototypes, this model's are given; start"):
        model(frames, own)
    with pytest.raises(ValueError, match="has given prototypes, this model's are running; start"):
        running(frames, memory)
    with pytest.raises(ValueError, match='prototypes must be "video" or "running"'):
        CFFMPlus.tiny(3, prototypes="past")
    with pytest.raises(ValueError, match="num_prototypes must be at least 1"):
        CFFMPlus.tiny(3, num_prototypes=0)


def test_running_prototypes_have_a_name_and_no_future():
    model = vidseg.create("cffmpp_tiny_running", num_classes=3)
    assert model.causal
    assert math.isinf(model.horizon)
    assert not CFFMPlus.tiny(3).causal
    settle(model)
    frames = clip(1, 6)
    changed = frames.clone()
    changed[:, 5] += 1
    with torch.no_grad():
        logits, memory = model(frames)
        other, _ = model(changed)
    assert torch.equal(logits.logits[:, :5], other.logits[:, :5])
    assert memory.context.centers.shape == (1, 6, 16)


def test_running_prototypes_take_what_their_own_summary_gives():
    model = settle(CFFMPlus.tiny(3, prototypes="running")).eval()
    frames = clip(1, 6)
    assert model.context_frames(45) == ()
    with torch.no_grad():
        summary = model.summarize(frames)
        assert summary is None
        with_it, plain = model(frames, context=summary)[0], model(frames)[0]
    assert torch.equal(with_it.logits, plain.logits)
    with pytest.raises(ValueError, match="got values up to"):
        model.summarize(torch.full_like(frames, 255))


def test_running_prototypes_are_means_of_what_came():
    generator = torch.Generator().manual_seed(0)
    frames = torch.randn(5, 40, 3, generator=generator, dtype=torch.float64)
    centers, weights = frames[0][:4], torch.zeros(4, dtype=torch.float64)
    members = [[] for _ in range(4)]
    for points in frames:
        for k, point in zip(nearest(points, centers).tolist(), points, strict=True):
            members[k].append(point)
        centers, weights = move_centers(centers, weights, points, keep=1.0)
    means = torch.stack([torch.stack(m).mean(0) for m in members])
    torch.testing.assert_close(centers, means)
    assert weights.tolist() == [len(m) for m in members]
    far = torch.tensor([[100.0, 0, 0]], dtype=torch.float64)
    stays, _ = move_centers(torch.cat([centers, far]), torch.zeros(5), frames[0], keep=0.9)
    assert torch.equal(stays[4], far[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_running_prototypes_survive_half_precision(dtype):
    """In float16 the weight of one that gets most of a frame of 60 x 108 is beyond 65504."""
    generator = torch.Generator().manual_seed(0)
    start = torch.rand(3, 4, generator=generator)
    found = {kind: (start.to(kind), torch.zeros(3, dtype=kind)) for kind in (dtype, torch.float32)}
    for k in range(300):
        points = (torch.rand(1000, 4, generator=generator) + k / 300).to(dtype)
        for kind, (centers, weights) in found.items():
            with torch.autocast("cpu", torch.bfloat16, enabled=kind == dtype):
                found[kind] = move_centers(centers, weights, points.to(kind), keep=0.99)
    (half, counts), (single, wanted) = found.values()
    assert counts.dtype == half.dtype == torch.float32
    torch.testing.assert_close(half, single, rtol=0.01, atol=0)
    torch.testing.assert_close(counts, wanted, rtol=0.05, atol=0)


@pytest.mark.parametrize("prototypes", ["video", "running"])
def test_prototypes_stay_exact_where_the_network_does_not(prototypes):
    model = settle(CFFMPlus.tiny(3, prototypes=prototypes))
    frames = clip(1, 5)
    context = None if prototypes == "running" else model.summarize(frames)
    with torch.no_grad():
        exact, memory = model(frames, context=context)
        with torch.autocast("cpu", torch.bfloat16):
            logits, half = model(frames, context=context)
        bare, _ = model.to(torch.bfloat16)(frames.to(torch.bfloat16), context=context)
    assert half.context.centers.dtype == torch.float32
    scale = float(exact.logits.std())
    for found in (logits.logits.float(), bare.logits.float()):
        assert float((found - exact.logits).abs().mean()) < 0.05 * scale
    if context is None:
        assert float(half.weights[0].sum()) == pytest.approx(float(memory.weights[0].sum()))


def test_kmeans_finds_what_is_apart():
    generator = torch.Generator().manual_seed(0)
    places = torch.tensor([[0.0, 0], [10, 0], [0, 10]])
    points = (places[:, None] + 0.1 * torch.randn(3, 50, 2, generator=generator)).flatten(0, 1)
    centers, labels = kmeans(points, places + 1)
    torch.testing.assert_close(centers, points.view(3, 50, 2).mean(1))
    assert labels.view(3, 50).unique(dim=1).squeeze().tolist() == [0, 1, 2]
    again, _ = kmeans(points, torch.cat([places + 1, torch.full((1, 2), 99.0)]), iterations=1)
    assert again[3].tolist() == [0, 0]
    assert len(random_points(points, 20, seed=3).unique(dim=0)) == 20
    assert spread_points(points, 3).tolist() == points[[0, 50, 100]].tolist()
    assert len(spread_points(points[:2], 5)) == 5


THEIRS = {
    "query": "attn.qkv",
    "key_value": "attn.qkv_cluster",
    "proj": "attn.proj_cluster",
    "fc1": "mlp.fc1",
    "fc2": "mlp.fc2",
}


def official_plus(model):
    """CFFM++'s state dict under the authors' names, with what is dead in it."""
    tensors, head = {}, "decode_head.decoder_swin.blocks.0."
    for name, value in official(model).items():
        part, _, rest = name.partition(".")
        layer, _, leaf = rest.rpartition(".")
        if part == "branch" and layer == "query":
            value = torch.cat([value, torch.full_like(value, 9.0), torch.full_like(value, 9.0)])
        if part == "branch":
            name = f"{head}{THEIRS.get(layer, layer)}.{leaf}"
        tensors[name] = value
    dead = {
        "attn.proj.weight": torch.zeros(16, 16),
        "attn.proj.bias": torch.zeros(16),
        "attn.relative_position_bias_table": torch.zeros(169, 2),
        "attn.relative_position_index": torch.from_numpy(CONSTANTS["relative_position_index"]),
    }
    return tensors | {head + name: value for name, value in dead.items()}


def test_checkpoint_round_trip():
    model = settle(CFFMPlus.tiny(3))
    tensors = official_plus(model)
    loaded = vidseg.load_official("cffmpp", tensors)
    frames, prototypes = clip(), vidseg.Prototypes(torch.randn(1, 7, 16))
    with torch.no_grad():
        expected = model(frames, context=prototypes)[0].logits
        assert torch.equal(loaded(frames, context=prototypes)[0].logits, expected)
    assert loaded.card.architecture == "cffmpp_tiny"
    running = vidseg.load_official("cffmpp", tensors, prototypes="running")
    assert running.causal
    again = vidseg.create(running.card.architecture, **running.card.options)
    assert again.causal
    swin = [name for name in dead_keys("cffmpp", tensors) if "decoder_swin" in name]
    assert len(swin) == 4


def write_video(folder, length):
    generator = np.random.default_rng(0)
    folder.mkdir()
    for k in range(length):
        pixels = generator.integers(0, 255, (40, 56, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{k:03}.png")
    return folder


@pytest.mark.parametrize("length", [4, 23])
def test_segment_looks_at_the_whole_video_first(tmp_path, length):
    model = settle(CFFMPlus.tiny(3))
    folder = write_video(tmp_path / "street", length)
    results = list(vidseg.segment(model, folder))
    images = np.stack([result.image for result in results])
    frames = model.card.fit(model.card.normalise(images))[None]
    prototypes = model.summarize(frames)
    with torch.no_grad():
        segmentation, _ = model(frames, context=prototypes)
    expected = segmentation.labels((40, 56))[0].numpy()
    assert np.array_equal(np.stack([result.labels for result in results]), expected)
    given = list(vidseg.segment(model, folder, context=vidseg.Prototypes(prototypes.centers)))
    assert all(np.array_equal(a.labels, b.labels) for a, b in zip(given, results, strict=True))


def test_segment_refuses_what_cannot_be_read_twice(tmp_path):
    from vidseg.video.reader import read_video

    model = CFFMPlus.tiny(3)
    folder = write_video(tmp_path / "street", 2)
    with pytest.raises(ValueError, match="can be read only once; give a file, or a list"):
        vidseg.segment(model, (frame.image for frame in read_video(folder)))
    expected = [result.labels for result in vidseg.segment(model, folder)]
    images = [frame.image for frame in read_video(folder)]
    for source in (read_video(folder, fps=3), images):
        found = vidseg.segment(model, source)
        assert all(np.array_equal(r.labels, e) for r, e in zip(found, expected, strict=True))
    with pytest.raises(ValueError, match=r"the context is of park, the video is .*street; find"):
        vidseg.segment(model, folder, context=vidseg.Prototypes(torch.zeros(1, 4, 16), "park"))
    prototypes = vidseg.Prototypes(torch.zeros(1, 4, 16), "street")
    assert len(list(vidseg.segment(model, read_video(folder), context=prototypes))) == 2


def test_windows_share_the_prototypes(tmp_path):
    model = settle(CFFMPlus.tiny(3))
    folder = write_video(tmp_path / "street", 5)
    results = list(vidseg.segment(model, folder, sliding=(32, 32)))
    assert [result.labels.shape for result in results] == [(40, 56)] * 5

"""The door of every model: what is refused, and what `forward` promises."""

import pickle

import pytest
import torch
import torch._dynamo.testing
from torch.utils import _pytree as pytree

import vidseg
from vidseg.adapters.per_frame import PerFrame
from vidseg.segmenter import Memory, Segmentation


@pytest.fixture
def model():
    torch.manual_seed(0)
    return vidseg.create("tmanet_tiny", num_classes=4).eval()


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (torch.zeros(1, 3, 32, 32), r"\(B, T, 3, H, W\), got \(1, 3, 32, 32\); for one frame call"),
        (torch.zeros(1, 2, 4, 32, 32), r"must be \(B, T, 3, H, W\), got \(1, 2, 4, 32, 32\)"),
        (torch.zeros(1, 0, 3, 32, 32), "must not be empty"),
        (torch.zeros(1, 1, 3, 32, 32, dtype=torch.uint8), "normalised floats, got torch.uint8"),
        (torch.full((1, 1, 3, 32, 32), 200.0), "values up to 200 .raw pixels"),
    ],
)
def test_bad_frames(model, frames, message):
    with pytest.raises(ValueError, match=message):
        model(frames)


def test_step_wants_one_frame(model):
    with pytest.raises(ValueError, match=r"frame must be \(B, 3, H, W\).* call model\(frames"):
        model.step(torch.zeros(1, 2, 3, 32, 32))


def test_readout_by_name(model):
    with pytest.raises(ValueError, match='must be "all" or "last", got \'first\''):
        model(torch.zeros(1, 1, 3, 32, 32), readout="first")


def test_foreign_memories(model):
    frame = torch.zeros(2, 3, 32, 32)
    with torch.no_grad():
        memory = model.step(frame)[1]
        with pytest.raises(ValueError, match="holds 2 streams, the frames are 1"):
            model.step(frame[:1], memory)
        with pytest.raises(ValueError, match="frames of one stream have one size"):
            model.step(torch.zeros(2, 3, 32, 48), memory)
        with pytest.raises(ValueError, match="goes on from a TMANetMemory, got Memory"):
            model.step(frame, Memory())
        longer = vidseg.create("tmanet_tiny", num_classes=4, memory_frames=3).eval()
        with pytest.raises(ValueError, match="holds 2 frames, this model reads 3"):
            longer.step(frame, memory)
        with pytest.raises(ValueError, match="already runs with another context"):
            model.step(frame, memory, context=torch.zeros(1))


def test_segmentation_resizes_by_the_method():
    logits = torch.randn(1, 2, 3, 5, 7)
    for align_corners in (False, True):
        segmentation = Segmentation(logits, {}, (40, 56), align_corners)
        expected = torch.nn.functional.interpolate(
            logits[0], size=(40, 56), mode="bilinear", align_corners=align_corners
        )
        torch.testing.assert_close(segmentation.resize()[0], expected)
        assert torch.equal(segmentation.labels()[0], expected.argmax(1))
        assert segmentation.labels((10, 14)).shape == (1, 2, 10, 14)


@pytest.mark.parametrize("align_corners", [False, True])
def test_labels_in_bounded_memory_are_the_same(align_corners, monkeypatch):
    logits = torch.randn(1, 2, 19, 12, 17)
    segmentation = Segmentation(logits, {}, (96, 136), align_corners)
    expected = segmentation.resize((90, 130)).argmax(2)
    for budget in (1, 4 * 90 * 130 * 5, 2**26):
        monkeypatch.setattr("vidseg.layers.resize.CHUNK_BYTES", budget)
        assert torch.equal(segmentation.labels((90, 130)), expected)


def test_auxiliary_outputs_come_in_training_or_when_asked(model):
    frames = torch.randn(1, 3, 3, 32, 40)
    with torch.no_grad():
        assert model(frames)[0].aux == {}
        asked = model(frames, aux=True)[0].aux["auxiliary"]
        assert asked.shape == (1, 3, 4, 4, 5)
        last = model(frames, aux=True, readout="last")[0].aux["auxiliary"]
        torch.testing.assert_close(last[:, 0], asked[:, -1])
    assert "auxiliary" in model.train()(frames)[0].aux
    assert model(frames, aux=False)[0].aux == {}


def test_a_pickled_memory_does_not_carry_the_clip(model):
    with torch.no_grad():
        memory = model(torch.randn(1, 12, 3, 32, 40))[1]
    assert len(pickle.dumps(memory)) < 2 * memory.nbytes
    assert memory.frames_seen == 2


def test_memories_are_pytrees_with_a_static_count(model):
    with torch.no_grad():
        memory = model.step(torch.zeros(1, 3, 32, 32))[1]
    leaves, structure = pytree.tree_flatten(memory)
    assert all(isinstance(leaf, torch.Tensor) for leaf in leaves)
    assert pytree.tree_unflatten(leaves, structure) == memory
    assert memory.to(torch.float64).frames[0].dtype == torch.float64


@pytest.mark.parametrize(
    "wrap", [lambda y: y, lambda y: {"out": y}, lambda y: type("Output", (), {"logits": y})]
)
def test_per_frame_finds_the_logits(wrap):
    class Image(torch.nn.Module):
        def forward(self, x):
            return wrap(x[:, :2])

    segmentation, memory = PerFrame(Image(), num_classes=2).step(torch.zeros(1, 3, 4, 4))
    assert segmentation.logits.shape == (1, 1, 2, 4, 4)
    assert memory == Memory()


def test_per_frame_explains_a_wrong_model():
    frame = torch.zeros(1, 3, 4, 4)
    with pytest.raises(ValueError, match=r"gave \(1, 3, 4, 4\), wanted \(N, 5, h, w\)"):
        PerFrame(torch.nn.Identity(), num_classes=5).step(frame)
    with pytest.raises(TypeError, match="returned list; pass output="):
        PerFrame(torch.nn.Identity(), num_classes=5, output=None).output([frame])


def test_streaming_compiles_once(model):
    """Slots that are values, not aliases: one graph for warm-up and one for the full memory."""
    counter = torch._dynamo.testing.CompileCounter()
    torch._dynamo.reset()
    step = torch.compile(model.step, backend=counter, dynamic=False)
    frames = torch.randn(6, 1, 3, 32, 32)
    with torch.no_grad():
        eager, memory, compiled_memory = None, None, None
        for frame in frames:
            eager, memory = model.step(frame, memory)
            compiled, compiled_memory = step(frame, compiled_memory)
            torch.testing.assert_close(compiled.logits, eager.logits)
    graphs = counter.frame_count
    with torch.no_grad():
        for frame in frames:
            _, compiled_memory = step(frame, compiled_memory)
    assert counter.frame_count == graphs
    torch._dynamo.reset()


def test_only_recurrent_methods_remember_what_was_fused(model, monkeypatch):
    given = []
    remember = type(model).remember
    monkeypatch.setattr(
        type(model),
        "remember",
        lambda self, m, f, fused: given.append(fused) or remember(self, m, f, fused),
    )
    frames = torch.zeros(1, 2, 3, 32, 32)
    with torch.no_grad():
        model(frames)
        assert given == [None, None]
        monkeypatch.setattr(type(model), "recurrent", True)
        model(frames, readout="last")
    assert all(fused is not None for fused in given[2:])
    assert len(given) == 4

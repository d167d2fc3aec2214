"""What only a GPU can show: bf16 agreement, one compiled graph, memory of the attention."""

import pytest
import torch

import vidseg
from vidseg.layers.memory_read import read_memory

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

MODELS = {
    "tmanet_r50": {"memory_frames": 2},
    "lmanet_erfnet": {},
    "lmanet_pspnet50": {},
    "segformer_b1": {},
    "cffm_b1": {"gap_frames": 1},
    "cffmpp_b1": {"gap_frames": 1},
    "cffmpp_b1_running": {"gap_frames": 1},
    "videomt_s": {},
    "lvmt_s": {"backbone": "dinov3"},
}


@pytest.fixture(params=MODELS)
def model(request):
    torch.manual_seed(0)
    return vidseg.create(request.param, num_classes=19, **MODELS[request.param]).eval().cuda()


def noise(num_frames, size):
    """(T, 1, 3, H, W), the same on every machine."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(num_frames, 1, 3, *size, generator=generator).cuda()


def context_of(model, clip):
    return None if model.causal else model.summarize(clip)


def stream(model, frames, step=None, memory=None):
    """Logits of the frames in float32, one by one, and the memory after them."""
    outputs = []
    with torch.no_grad():
        context = context_of(model, frames.transpose(0, 1)) if memory is None else None
        for frame in frames:
            segmentation, memory = (step or model.step)(frame, memory, context=context)
            outputs.append(segmentation.logits.float())
            context = None
    return torch.cat(outputs, 1), memory


def test_a_stream_is_its_clip(model):
    """Kernels differ between batches of one and of all frames, so only up to rounding."""
    frames = noise(6, (128, 256))
    steps, _ = stream(model, frames)
    clip = frames.transpose(0, 1)
    with torch.no_grad():
        segmentation, _ = model(clip, context=context_of(model, clip))
    scale = float(steps.abs().max())
    torch.testing.assert_close(segmentation.logits, steps, rtol=0, atol=1e-2 * scale)


def test_bf16_agrees_with_float32(model):
    frames = noise(5, (256, 512))
    full, _ = stream(model, frames)
    with torch.autocast("cuda", torch.bfloat16):
        half, _ = stream(model, frames)
    assert (full.argmax(2) == half.argmax(2)).float().mean() > 0.97
    assert (full - half).abs().max() < 0.05 * full.abs().max()


def test_a_full_stream_compiles_once(model):
    """How a stream begins differs from frame to frame in some methods."""
    counter = torch._dynamo.utils.counters
    counter.clear()
    torch._dynamo.reset()
    frames = noise(10, (128, 256))
    _, memory = stream(model, frames[:5])
    step = torch.compile(model.step, dynamic=False)
    eager, _ = stream(model, frames[5:], memory=memory)
    stream(model, frames[5:6], step, memory)
    graphs = counter["stats"]["unique_graphs"]
    assert graphs > 0
    compiled, _ = stream(model, frames[5:], step, memory)
    torch.testing.assert_close(compiled, eager, rtol=1e-2, atol=1e-2 * float(eager.abs().max()))
    assert counter["stats"]["unique_graphs"] == graphs
    torch._dynamo.reset()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_never_builds_the_full_matrix(dtype):
    """At 512x1024 and T = 2 the matrix alone would take 512 MiB in float32."""
    query = torch.rand(1, 64, 64, 128, device="cuda", dtype=dtype)
    keys = torch.rand(1, 2, 64, 64, 128, device="cuda", dtype=dtype)
    values = torch.rand(1, 2, 256, 64, 128, device="cuda", dtype=dtype)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    with torch.no_grad():
        read_memory(query, keys, values)
    assert torch.cuda.max_memory_allocated() - before < 160 * 2**20

"""What only a GPU can show: bf16 agreement, one compiled graph, memory of the attention."""

import pytest
import torch

import vidseg
from vidseg.layers.memory_read import read_memory

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture
def model():
    torch.manual_seed(0)
    return vidseg.create("tmanet_r50", num_classes=19, memory_frames=2).eval().cuda()


def stream(model, frames, step=None):
    memory, outputs = None, []
    with torch.no_grad():
        for frame in frames:
            segmentation, memory = (step or model.step)(frame, memory)
            outputs.append(segmentation.logits.float())
    return torch.cat(outputs, 1)


def test_bf16_agrees_with_float32(model):
    frames = torch.randn(4, 1, 3, 256, 512, device="cuda")
    full = stream(model, frames)
    with torch.autocast("cuda", torch.bfloat16):
        half = stream(model, frames)
    assert (full.argmax(2) == half.argmax(2)).float().mean() > 0.97
    assert (full - half).abs().max() < 0.05 * full.abs().max()


def test_a_stream_compiles_once(model):
    counter = torch._dynamo.utils.counters
    counter.clear()
    torch._dynamo.reset()
    frames = torch.randn(6, 1, 3, 128, 256, device="cuda")
    step = torch.compile(model.step, dynamic=False)
    eager = stream(model, frames)
    compiled = stream(model, frames, step)
    torch.testing.assert_close(compiled, eager, rtol=1e-2, atol=1e-2 * float(eager.abs().max()))
    graphs = counter["stats"]["unique_graphs"]
    stream(model, frames, step)
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

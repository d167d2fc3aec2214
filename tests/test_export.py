"""A step can be exported, and the export leaves nothing behind in the library."""

import json
import subprocess
import sys

import pytest
import torch
from torch.utils import _pytree as pytree

from test_architecture import MODULES, name_of
from vidseg.methods import METHODS

# In a process of its own whose caches are empty, so that the export is what fills them; the memory
# is of a stream that has run, for only then are all parts in use.
EXPORT_FIRST = """
import json, sys, torch
from vidseg.methods import METHODS

class Step(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, frame, memory):
        return self.model.step(frame, memory)[0].logits

found = {}
streams = torch.load(sys.argv[1], weights_only=False)
with torch.no_grad():
    for family, (tensors, frame, memory) in streams.items():
        model = METHODS[family].tiny(num_classes=3).eval()
        model.load_state_dict(tensors)
        exported = torch.export.export(Step(model), (frame, memory), strict=False).module()
        logits = model.step(frame, memory)[0].logits
        difference = (exported(frame, memory) - logits).abs().max()
        found[family] = [type(logits).__name__, float(difference / logits.abs().max())]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def stepped_after_export(tmp_path_factory):
    streams = {}
    generator = torch.Generator().manual_seed(0)
    for family, method in METHODS.items():
        model = method.tiny(num_classes=3).eval()
        frames = torch.randn(1, model.window_length, 3, 32, 48, generator=generator)
        with torch.no_grad():
            context = None if model.causal else model.summarize(frames)
            memory = model(frames, readout="last", context=context)[1]
        streams[family] = (model.state_dict(), frames[:, -1], memory)
    file = tmp_path_factory.mktemp("export") / "streams.pt"
    torch.save(streams, file)
    command = [sys.executable, "-c", EXPORT_FIRST, str(file)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.parametrize("family", METHODS)
def test_a_step_is_eager_after_an_export(stepped_after_export, family):
    kind, difference = stepped_after_export[family]
    assert kind == "Tensor"
    assert difference < 1e-5


def test_no_module_keeps_a_tensor():
    """Made while something is traced, it would be a fake one for the rest of the process."""
    kept = [
        f"{module.__name__}.{name}"
        for module in map(sys.modules.get, map(name_of, MODULES))
        if module is not None
        for name, value in vars(module).items()
        if any(isinstance(leaf, torch.Tensor) for leaf in pytree.tree_leaves(value))
    ]
    assert kept == []

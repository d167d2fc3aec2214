"""CFFM's block alone against the authors' tensors: pooled maps, all 289 scores, its output."""

import hashlib

import pytest
import torch
from rules import clip, read_case, state_dict

from vidseg.layers.windows import (
    REFERENCE_LEVELS,
    WINDOW,
    WindowMining,
    key_rows,
    pad_to_windows,
    pool,
    relative_index,
    rolled_index,
    window_grid,
)
from vidseg.methods.cffm import CONSTANTS, block_of
from vidseg.weights import load_strictly

PREFIX = "decode_head.decoder_focal.blocks.0."


def close(actual, expected, name):
    atol = 1e-4 * float(expected.std())
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol, msg=lambda m: f"{name}: {m}")


@pytest.mark.parametrize("name", ["cffm_block", "cffm_block_even"])
def test_block(shared, name):
    case, expected = read_case(shared, "cffm", name)
    constant = case["constant_integer_buffers"]
    keys = [(k, shape) for k, shape in case["state_dict"] if k not in constant]
    official = {k.removeprefix(PREFIX): v for k, v in state_dict(shared, keys).items()}
    block = WindowMining().eval()
    load_strictly(block, block_of(official))
    label, shape = case["inputs"]["input"]
    frames = clip(shared, label, tuple(shape))
    references = tuple(
        block.references(frames[:, k])[k].detach() for k in range(len(REFERENCE_LEVELS))
    )
    target = frames[:, 3]
    with torch.no_grad():
        x = pad_to_windows(block.norm1(target))
        query, rows = block.queries_and_rows(x, references)
        index, outside = key_rows(window_grid(tuple(target.shape[1:3])), x.device)
        taken = rows[:, :, index][..., : query.shape[-1]]
        scores = query @ taken.transpose(3, 4) + block.bias()[:, None] + outside[:, None]
        taps = {
            "target": block(target, references),
            "pooled_target": pool(x, block.pool_target, WINDOW),
            "attention_logits": scores.transpose(1, 2).flatten(0, 1),
            "attention_out": block.attend(x, references).flatten(0, 1),
        }
        for k, (layer, level) in enumerate(
            zip(block.pool_references, REFERENCE_LEVELS, strict=True)
        ):
            seen = pad_to_windows(block.norm1(frames[:, k]))
            taps[f"pooled_frame{k}"] = block.pool_reference(seen, layer, level)
    assert set(expected) <= set(taps)
    for what, tensor in expected.items():
        close(taps[what], tensor, what)


def test_constants_are_the_authors(shared):
    case, _ = read_case(shared, "cffm", "cffm_b1")
    listed = case["constant_integer_buffers"]
    assert len(listed) == 2 * len(CONSTANTS)
    for name, entry in listed.items():
        ours = CONSTANTS[name.split(".attn.")[1]]
        assert list(ours.shape) == entry["shape"]
        assert ours.flatten()[:8].tolist() == entry["first8"]
        digest = hashlib.sha256(ours.astype("<i8").tobytes()).hexdigest()
        assert digest == entry["sha256_int64_le"], name
    assert relative_index(WINDOW).shape == (49, 49)
    assert rolled_index().shape == (132,)

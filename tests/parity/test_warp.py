"""The warp in both ways that the methods built on flow treat what is outside the frame."""

import pytest
import torch
from rules import clip, read_case

from vidseg.flow import warp


@pytest.mark.parametrize("outside", ["zero", "border"])
def test_warp_equals_literal_loops(shared, outside):
    case, expected = read_case(shared, "flow", "warp")
    name, shape = case["inputs"]["image"]
    image = clip(shared, name, shape)
    warped = warp(image[None].double(), expected["flow"][None].double(), outside=outside)
    torch.testing.assert_close(warped[0].float(), expected[outside], rtol=1e-5, atol=1e-5)

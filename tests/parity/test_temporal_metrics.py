"""Consistency over time against what the authors' tools printed for the same label maps."""

import pytest
from rules import read_case

from vidseg.metrics import VideoConsistency


@pytest.mark.parametrize("n", [8, 16])
def test_video_consistency_is_the_official_tools_to_the_last_digit(shared, n):
    case, arrays = read_case(shared, "cffm", "vspw_metrics")
    consistency = VideoConsistency(n, protocol="vspw-official")
    for video in ("v0", "v1", "v2", "v3"):
        # Raw masks have 0 = unlabelled and classes from 1.
        truth = arrays[f"gt_{video}"].int() - 1
        consistency.update(arrays[f"pred_{video}"], truth.masked_fill(truth < 0, 255))
    assert consistency.mean_consistency() == case["values"][f"vc{n}"]

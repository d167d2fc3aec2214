"""High dynamic range and wide colours to what screens, and training images, are made for."""

from __future__ import annotations

import numpy as np

PQ, HLG, BT2020 = 16, 18, 9  # ITU-T H.273: two transfers, one set of primaries
SOURCE_NITS, TARGET_NITS = 1000.0, 100.0  # a usual mastering peak; that of BT.1886
GAMMA = 2.4  # of BT.1886
M1, M2 = 2610 / 16384, 2523 / 32  # of SMPTE ST 2084
C1, C2, C3 = 3424 / 4096, 2413 / 128, 2392 / 128
A, B, C = 0.17883277, 0.28466892, 0.55991073  # of ARIB STD-B67, BT.2100
LUMA_2020 = np.array([0.2627, 0.6780, 0.0593], np.float32)
# BT.2087, linear light.
BT2020_TO_BT709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]],
    np.float32,
)
NUM_GAINS = 4096


class ToStandard:
    """PQ, HLG and BT.2020 pictures to BT.709 colours and a range of 100 cd/m2.

    PQ and HLG (as on a screen of 1000 cd/m2) are brought to 100 cd/m2 by the curve of
    ITU-R BT.2390 section 5.4, applied to the largest of the three components, so that hues stay.
    Dark and middle tones (below 27 cd/m2) do not change. Colours outside BT.709 are clipped.

    Args:
        transfer: of the pictures' codes, by the numbers of ITU-T H.273.
        primaries: of their colours.
    """

    def __init__(self, transfer: int, primaries: int) -> None:
        name = {PQ: "PQ", HLG: "HLG"}.get(transfer)
        self.note = (
            f"HDR pictures ({name}) are mapped to standard range by the curve of ITU-R BT.2390"
            if name
            else "wide colours (BT.2020) are mapped to those of BT.709"
        )
        code = np.linspace(0, 1, 65536)
        light = {PQ: pq_nits(code) / TARGET_NITS, HLG: hlg_scene(code)}.get(transfer, code**GAMMA)
        self._light = light.astype(np.float32)
        self._is_hlg, self._is_hdr, self._is_wide = transfer == HLG, bool(name), primaries == BT2020
        peaks = np.linspace(0, 1, NUM_GAINS) ** 2 * SOURCE_NITS
        peaks[0] = 1e-6
        self._gains = (tone_map(peaks) / peaks).astype(np.float32)

    @classmethod
    def of(cls, transfer: int, primaries: int) -> ToStandard | None:
        """What such pictures need; None if they have a standard range and standard colours."""
        needs = transfer in (PQ, HLG) or primaries == BT2020
        return cls(transfer, primaries) if needs else None

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint16 RGB, coded as said -> uint8 RGB of BT.709."""
        light = self._light[image]
        if self._is_hlg:  # BT.2100: the screen's own gamma acts on luminance
            luminance = np.maximum(light @ LUMA_2020, 1e-6)[..., None]
            light *= luminance ** np.float32(0.2) * np.float32(SOURCE_NITS / TARGET_NITS)
        if self._is_hdr:
            # Eight times as fast as light.max(2).
            peak = np.maximum(np.maximum(light[..., 0], light[..., 1]), light[..., 2])
            peak *= np.float32(TARGET_NITS / SOURCE_NITS)
            place = np.sqrt(np.clip(peak, 0, 1)) * (NUM_GAINS - 1)
            light *= self._gains[(place + np.float32(0.5)).astype(np.int32)][..., None]
        if self._is_wide:
            light = light @ BT2020_TO_BT709.T
        code = np.clip(light, 0, 1) ** np.float32(1 / GAMMA)
        return (code * 255 + np.float32(0.5)).astype(np.uint8)


def pq_nits(code: np.ndarray) -> np.ndarray:
    """SMPTE ST 2084: code in [0, 1] to cd/m2."""
    power = code ** (1 / M2)
    return 10_000 * (np.maximum(power - C1, 0) / (C2 - C3 * power)) ** (1 / M1)


def pq_code(nits: np.ndarray | float) -> np.ndarray:
    """SMPTE ST 2084: cd/m2 to code in [0, 1]."""
    power = (np.asarray(nits) / 10_000) ** M1
    return ((C1 + C2 * power) / (1 + C3 * power)) ** M2


def hlg_scene(code: np.ndarray) -> np.ndarray:
    """ARIB STD-B67: code in [0, 1] to scene light in [0, 1]."""
    return np.where(code <= 0.5, code**2 / 3, (np.exp((code - C) / A) + B) / 12)


def tone_map(nits: np.ndarray) -> np.ndarray:
    """ITU-R BT.2390 section 5.4.1, from SOURCE_NITS to TARGET_NITS, black at 0."""
    code = np.minimum(pq_code(nits) / pq_code(SOURCE_NITS), 1)
    top = float(pq_code(TARGET_NITS) / pq_code(SOURCE_NITS))
    knee = 1.5 * top - 0.5
    t = (code - knee) / (1 - knee)
    bent = (
        (2 * t**3 - 3 * t**2 + 1) * knee
        + (t**3 - 2 * t**2 + t) * (1 - knee)
        + (-2 * t**3 + 3 * t**2) * top
    )
    return pq_nits(np.where(code < knee, code, bent) * pq_code(SOURCE_NITS))

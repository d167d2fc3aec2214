"""Draw consistency.png for docs/metrics.md: what temporal consistency and flicker count.

Run: python docs/pictures/consistency.py
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from vidseg.data.synthetic import PALETTE, render
from vidseg.data.synthetic.sprites import patch_of_grain
from vidseg.flow import warp
from vidseg.metrics import TemporalConsistency

SEED, SIZE = 1, (128, 256)
CAPTION_PX = 18
HIDDEN, STEADY, CHANGED = (150, 150, 150), (238, 238, 232), (214, 30, 40)


def flickering(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Truth with patches of each frame's own moved by a few pixels: a stand-in for a model."""
    wrong = patch_of_grain(rng, *labels.shape, zoom=3) > 1.25
    return np.where(wrong, np.roll(labels, (5, 14), (0, 1)), labels)


def panel(image: np.ndarray, caption: str) -> Image.Image:
    """A picture under its caption."""
    canvas = Image.new("RGB", (SIZE[1], SIZE[0] + CAPTION_PX), "white")
    canvas.paste(Image.fromarray(image.astype(np.uint8)), (0, CAPTION_PX))
    font = ImageFont.load_default(12)
    ImageDraw.Draw(canvas).text((2, 1), caption, fill="black", font=font)
    return canvas


def main() -> None:
    """Render two frames, disturb their labels and draw what is counted."""
    video = render(SEED, 2, SIZE)
    rng = np.random.default_rng(0)
    previous, current = (flickering(labels, rng) for labels in video.labels)
    flow, valid = torch.from_numpy(video.flow_backward[0]), video.valid_backward[0]
    carried = warp(torch.from_numpy(previous), flow, mode="nearest").numpy()
    measured = TemporalConsistency(len(PALETTE))
    measured.update(np.stack((previous, current)), flow[None], valid[None])

    colours = np.concatenate((PALETTE, np.zeros((256 - len(PALETTE), 3), np.uint8)))
    seen = np.where((carried != current)[..., None], CHANGED, STEADY)
    counted = np.where(valid[..., None], seen, HIDDEN)
    scores = f"TC {measured.mean_iou():.3f}, flicker {measured.flicker():.3f}"
    panels = [
        panel(video.frames[0], "previous frame"),
        panel(video.frames[1], "current frame"),
        panel(colours[previous], "labels of the previous frame"),
        panel(colours[current], "labels of the current frame"),
        panel(np.where(valid[..., None], colours[carried], 255), "previous labels, carried along"),
        panel(counted, f"red: changed ({scores})"),
    ]
    width, height = panels[0].size
    sheet = Image.new("RGB", (2 * width + 6, 3 * height), "white")
    for number, drawn in enumerate(panels):
        sheet.paste(drawn, (number % 2 * (width + 6), number // 2 * height))
    path = Path(__file__).with_suffix(".png")
    sheet.quantize(96, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    main()

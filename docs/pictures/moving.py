"""Make the moving picture of the README from the demo's overlay.mp4.

vidseg demo --iterations 1500 --seed 1 --out demo
python docs/pictures/moving.py demo/overlay.mp4
"""

import sys
from itertools import islice
from pathlib import Path

from PIL import Image

from vidseg.video.reader import read_video

FIRST_FRAME, NUM_FRAMES, EVERY, WIDTH = 0, 16, 1, 448


def main(source: str) -> None:
    """Write demo.webp beside this file."""
    reader = read_video(source)
    chosen = islice(reader, FIRST_FRAME, FIRST_FRAME + NUM_FRAMES * EVERY, EVERY)
    pictures = [Image.fromarray(frame.image) for frame in chosen]
    size = (WIDTH, round(pictures[0].height * WIDTH / pictures[0].width))
    first, *others = [picture.resize(size, Image.Resampling.LANCZOS) for picture in pictures]
    first.save(
        Path(__file__).with_name("demo.webp"),
        save_all=True,
        append_images=others,
        duration=round(1000 * EVERY / reader.fps),
        loop=0,
        quality=30,
        method=6,
    )


if __name__ == "__main__":
    main(sys.argv[1])

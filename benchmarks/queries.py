"""What the memory of VidEoMT costs: a step of a stream beside the same network on single images.

    python benchmarks/queries.py                          # videomt_s, 384x672, one thread
    python benchmarks/queries.py --name pmt_s --size 256x448 --turns 5

"image" is the network without memory (EoMT: the learned queries for every frame), "encoder" the
plain vision transformer without queries and heads. Processor time, all sides taking turns in one
process; ratios are medians over the turns. Random weights, float32 on the CPU.
"""

import torch
from turns import cpu_seconds, make_parser, median_ratio

import vidseg


def main() -> None:
    """Measure and print."""
    parser = make_parser(__doc__, ("stream", "image", "encoder"))
    parser.add_argument("--name", default="videomt_s", help="a model of queries")
    parser.add_argument("--size", default="384x672", help="HEIGHTxWIDTH of the frames")
    given = parser.parse_args()
    size = tuple(int(side) for side in given.size.split("x"))
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    model = vidseg.create(given.name, num_classes=124).eval()
    frame = torch.randn(1, 3, *size)
    with torch.inference_mode():
        _, memory = model.step(frame)
        encoder = model.encoder  # pyright: ignore[reportAttributeAccessIssue]

        def encode() -> torch.Tensor:
            tokens = encoder.embed(frame)
            rotation = encoder.rotation(tokens.patches)
            return encoder.run_blocks(tokens.joined(), 0, len(encoder.blocks), rotation)

        sides = {
            "stream": lambda: model.step(frame, memory),
            "image": lambda: model.step(frame),
            "encoder": encode,
        }
        seconds = cpu_seconds(sides, given.turns)
    for name, taken in seconds.items():
        print(f"{name:8} {1e3 * sorted(taken)[len(taken) // 2]:8.0f} ms CPU a frame")
    for other in ("image", "encoder"):
        print(f"stream / {other}: {median_ratio(seconds['stream'], seconds[other]):.3f}")
    print(f"memory: {memory.nbytes / 1e6:.2f} MB")


if __name__ == "__main__":
    main()

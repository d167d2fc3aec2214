"""What the demo shows: a report and a video of both networks side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vidseg.data.clip import Video, VideoDataset
from vidseg.evaluation.figures import FIGURES
from vidseg.report import charts, html, pictures
from vidseg.video.render import colourise, legend, overlay
from vidseg.video.writer import VideoWriter

if TYPE_CHECKING:
    from vidseg.demo.result import Demo, Run

PANEL_WIDTH_PX = 384
HEADLINE = ("mean_iou", "pixel_accuracy", "temporal_consistency", "flicker")
CAPTIONS = ("frame", "truth", "per frame", "with memory")
COMMAND = "vidseg demo --seed {seed} --iterations {iterations}"


def demo_page(demo: Demo) -> html.Page:
    """The report: figures, classes, pictures, training, and in words what was compared."""
    twin, video = demo.twin, demo.video
    page = html.Page(
        "A video network beside its per-frame twin",
        "Two small networks, trained on rendered streets and scored on streets that neither has "
        "seen. All figures are as measured on this machine.",
    )
    page.add("Figures", _headline(demo), _verdict(twin, video), *_meaning(twin))
    dataset = demo.dataset
    page.add(
        "IoU of each class, %",
        html.class_bars(
            dataset.classes,
            dataset.palette,
            {_label(run): run.evaluation.class_iou.tolist() for run in (twin, video)},
        ),
    )
    page.add("Pictures", html.legend(dataset.classes, dataset.palette), *_strips(demo))
    page.add("One street, frame after frame", *_sequence(demo))
    page.add(
        "Training",
        charts.curves(
            {
                _label(twin): _smoothed(twin.losses),
                _label(video): _smoothed(video.losses[demo.iterations // 2 :]),
            },
            x_name="step",
            y_name="training loss, mean of ten steps",
        ),
        *_fairness(demo),
    )
    page.add(
        "Make it again",
        html.code(COMMAND.format(seed=demo.seed, iterations=demo.iterations)),
        f"Training and evaluation took {demo.seconds:.0f} s. overlay.mp4 beside this file shows "
        "all held-out videos. The weights of both networks lie there too, for vidseg segment "
        "--model; they know rendered streets only.",
    )
    return page


def write_overlay(path: Path, demo: Demo, advance: Callable[[], Any]) -> None:
    """Write the held-out videos, four panels: frame and truth, per frame and with memory.

    Args:
        path: the .mp4 file.
        demo: labels and data.
        advance: called after every frame.
    """
    dataset = demo.dataset
    rate_hz = dataset.videos[0].fps or 15.0
    with VideoWriter(path, fps=rate_hz) as writer:
        for video, index in _places(dataset):
            image, truth, *labels = _pictures(demo, video, index)
            painted = [overlay(image, one, dataset.palette, opacity=0.6) for one in labels]
            panels = [image, colourise(truth, dataset.palette), *painted]
            rows = [
                np.concatenate([_captioned(*panel) for panel in pair], axis=1)
                for pair in _pairs(list(zip(panels, CAPTIONS, strict=True)))
            ]
            strip = legend(dataset.classes, dataset.palette, rows[0].shape[1])
            writer.write(np.concatenate([*rows, strip], axis=0))
            advance()


def _headline(demo: Demo) -> html.Html:
    columns = ("", *(f"{FIGURES[key].title}, {FIGURES[key].unit.symbol}" for key in HEADLINE))
    of_truth = {figure.truth_of: figure.key for figure in FIGURES.values() if figure.truth_of}
    rows = [
        (_label(run), *(_printed(run, key) for key in HEADLINE)) for run in (demo.twin, demo.video)
    ]
    truth = (_printed(demo.twin, of_truth[key]) if key in of_truth else "-" for key in HEADLINE)
    rows.append(("the truth itself", *truth))
    cost = html.table(
        ("", "parameters", "network ms per frame"),
        [
            (_label(run), f"{run.parameters:,}", _two(run.evaluation.ms_per_frame or math.nan))
            for run in (demo.twin, demo.video)
        ],
    )
    return html.Html(html.table(columns, rows) + cost)


def _printed(run: Run, key: str) -> str:
    """A figure without its unit, which stands above it."""
    value = run.evaluation.figures[key]
    return "-" if value is None else f"{FIGURES[key].unit.scale * value:.2f}"


def _figure(run: Run, name: str) -> float:
    value = run.evaluation.figures[name]
    return math.nan if value is None else value


def _verdict(twin: Run, video: Run) -> str:
    """The comparison in one sentence, whichever way it went."""
    iou = 100 * (video.evaluation.mean_iou - twin.evaluation.mean_iou)
    consistency = 100 * (
        _figure(video, "temporal_consistency") - _figure(twin, "temporal_consistency")
    )
    flicker = 100 * (_figure(video, "flicker") - _figure(twin, "flicker"))
    return (
        f"Beside its twin, the network with a memory has {_points(iou)} of mean IoU, "
        f"{_points(consistency)} of temporal consistency and {_points(flicker)} of flicker, where "
        "less is better. This is one seed of a short run: try others before you read anything into "
        "small differences. TC is a mean over classes, so a class that is rarely predicted, and "
        "then for single frames, weighs as much as the road."
    )


def _meaning(twin: Run) -> list[str | html.Html]:
    pairs = twin.evaluation.total.num_pairs
    motion = twin.evaluation.protocols["consistency"]
    return [
        html.bullets(
            (
                "Mean IoU: intersection over union of each class, counts summed over all held-out "
                "frames, mean over the classes that occur. Void (the bonnet of the own car) is "
                "ignored.",
                "TC, temporal consistency: the same measure between each frame's labels and the "
                "previous frame's, carried along the motion. 100 is steady. It says nothing about "
                "being right.",
                "Flicker: share of the pixels whose class changes along the motion. 0 is steady.",
                f"The motion: {motion['flow']}, {motion['valid']}, {pairs} pairs of frames. The "
                "truth shows what the measures themselves cost.",
            )
        )
    ]


def _fairness(demo: Demo) -> list[str]:
    half = demo.iterations // 2
    return [
        f"Each network saw {demo.iterations} training steps. The first {half} are one and the same "
        f"run of {demo.twin.name}; from its weights both went on for {demo.iterations - half} "
        "steps, with the same schedule, on the same samples in the same order. The video network "
        "took over the backbone and the auxiliary head; its attention and its fusion began at "
        "random there, which is why its loss jumps. Each of its samples is a window of frames, so "
        "a step of it costs more time, and the twin did not get that time as further steps.",
    ]


def _strips(demo: Demo) -> Iterator[html.Html]:
    dataset = demo.dataset
    for video in dataset.videos[:6]:
        index = 2 * len(video) // 3
        yield _strip(demo, video, index, CAPTIONS, f"{video.name}, frame {index}")


def _sequence(demo: Demo) -> Iterator[str]:
    """Neighbouring frames of the street where the twin's labels change most."""
    dataset = demo.dataset
    counts = demo.twin.evaluation.videos
    video = min(dataset.videos, key=lambda one: counts[one.name].confusion.mean_iou())
    yield (
        f"Four neighbouring frames of {video.name}, the street that is hardest for the per-frame "
        "network. Compare how its borders move with how those of the network with a memory do."
    )
    first = len(video) // 2
    for index in range(first, min(first + 4, len(video))):
        yield _strip(demo, video, index, CAPTIONS, f"frame {index}")


def _strip(demo: Demo, video: Video, index: int, captions: tuple[str, ...], note: str) -> html.Html:
    palette = demo.dataset.palette
    image, *maps = _pictures(demo, video, index)
    where = f"{video.name}, frame {index}"
    shown = [pictures.photo(image, f"frame of {where}")]
    for labels, caption in zip(maps, captions[1:], strict=True):
        shown.append(pictures.label_map(labels, palette, f"classes of {where}: {caption}"))
    return html.strip(captions, shown, note=note)


def _pictures(demo: Demo, video: Video, index: int) -> list[np.ndarray]:
    """Frame, truth, the twin's labels, the video network's labels."""
    truth = video.labels[index]
    assert truth is not None, "every rendered frame has labels"
    key = video.name, index
    dataset = demo.dataset
    return [
        dataset.read_frame(video.frames[index]),
        dataset.read_label(truth),
        demo.twin.labels[key],
        demo.video.labels[key],
    ]


def _places(dataset: VideoDataset) -> Iterator[tuple[Video, int]]:
    for video in dataset.videos:
        for index in range(len(video)):
            yield video, index


def _captioned(picture: np.ndarray, caption: str) -> np.ndarray:
    """Enlarge without blending, and write the caption above."""
    factor = max(1, round(PANEL_WIDTH_PX / picture.shape[1]))
    large = picture.repeat(factor, axis=0).repeat(factor, axis=1)
    return np.concatenate([_caption(caption, large.shape[1]), large], axis=0)


@lru_cache(maxsize=8)
def _caption(text: str, width_px: int) -> np.ndarray:
    from PIL import Image, ImageDraw, ImageFont

    height = 28
    strip = Image.new("RGB", (width_px, height), (24, 24, 24))
    draw = ImageDraw.Draw(strip)
    draw.text((8, height // 2), text, (240, 240, 240), ImageFont.load_default(16), anchor="lm")
    return np.array(strip)


def _pairs(items: list[Any]) -> list[tuple[Any, Any]]:
    return list(zip(items[::2], items[1::2], strict=True))


def _smoothed(losses: list[tuple[float, float]]) -> list[tuple[float, float]]:
    blocks = [losses[i : i + 10] for i in range(0, len(losses), 10)]
    return [(block[-1][0], sum(loss for _, loss in block) / len(block)) for block in blocks]


def _label(run: Run) -> str:
    return {"fcn_tiny": "per frame (fcn_tiny)", "tmanet_tiny": "with memory (tmanet_tiny)"}[
        run.name
    ]


def _two(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def _points(difference: float) -> str:
    return f"{abs(difference):.2f} points {'more' if difference >= 0 else 'less'}"

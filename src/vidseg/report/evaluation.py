"""The report of an evaluation: headline figures, classes, confusion, pictures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from vidseg.inference.evaluation import Evaluation, Observed
from vidseg.inference.render import overlay
from vidseg.report import html, pictures


@dataclass
class Samples:
    """An observer that keeps some of the frames that are scored, evenly spread.

    Args:
        num_scored: how many frames will be scored.
        wanted: how many to keep at most.
    """

    num_scored: int
    wanted: int = 6
    kept: list[Observed] = field(default_factory=list)
    _seen: int = 0

    def __call__(self, frame: Observed) -> None:
        """Look at a frame; frames without a truth do not count."""
        if frame.truth is None:
            return
        count = min(self.wanted, self.num_scored)
        chosen = {(2 * i + 1) * self.num_scored // (2 * count) for i in range(count)}
        if self._seen in chosen:
            self.kept.append(frame)
        self._seen += 1


def evaluation_page(
    name: str,
    evaluation: Evaluation,
    samples: Sequence[Observed] = (),
    *,
    read_frame: Callable[[Observed], np.ndarray] | None = None,
    extra: Sequence[tuple[str, str]] = (),
    command: str | None = None,
) -> html.Page:
    """Put an evaluation on a page.

    Args:
        name: of the model, or of where the label maps came from.
        evaluation: the figures.
        samples: frames to show.
        read_frame: gives the picture of a sample that carries none.
        extra: further headline figures, (name, value) as they shall be read.
        command: what made the report.
    """
    data = evaluation.conventions["data"]
    page = html.Page(f"{name} on {data}", f"{evaluation.num_frames} labelled frames were scored.")
    headline = {
        "mean IoU": html.percent(evaluation.mean_iou),
        "pixel accuracy": html.percent(evaluation.pixel_accuracy),
        "mean class accuracy": html.percent(evaluation.mean_class_accuracy),
        **dict(extra),
    }
    if evaluation.ms_per_frame is not None:
        headline["network time per frame"] = f"{evaluation.ms_per_frame:.1f} ms"
    page.add("Figures", html.tiles(headline))
    page.add(
        "IoU of each class, %",
        html.class_bars(
            evaluation.classes, evaluation.palette, {"IoU": evaluation.class_iou.tolist()}
        ),
    )
    if samples:
        page.add("Frames", *_strips(evaluation, samples, read_frame))
    counts = evaluation.matrix.counts.numpy()[:-1]
    page.add("What was taken for what", html.confusion(evaluation.classes, counts))
    page.add("Videos", _videos(evaluation))
    page.add(
        "How it was measured",
        html.facts(evaluation.conventions),
        *([html.code(command)] if command else []),
    )
    return page


def _strips(
    evaluation: Evaluation,
    samples: Sequence[Observed],
    read_frame: Callable[[Observed], np.ndarray] | None,
) -> list[html.Html]:
    palette = evaluation.palette
    strips = [html.legend(evaluation.classes, palette)]
    for sample in samples:
        where = f"{sample.video.name}, frame {sample.video.numbers[sample.frame_index]}"
        image = sample.image if read_frame is None else read_frame(sample)
        assert sample.truth is not None, "samples are frames that were scored"
        shown = {
            "truth": pictures.label_map(sample.truth, palette, f"true classes of {where}"),
            "labels": pictures.label_map(sample.labels, palette, f"predicted classes of {where}"),
        }
        if image is not None:
            frame = pictures.photo(image, f"frame {where}")
            shown = {"frame": frame, **shown}
            if image.shape[:2] == sample.labels.shape:
                over = overlay(image, sample.labels, palette)
                shown["overlay"] = pictures.photo(over, f"labels over {where}")
        strips.append(html.strip(list(shown), list(shown.values()), note=where))
    return strips


def _videos(evaluation: Evaluation) -> html.Html:
    rows = [
        (name, html.percent(matrix.mean_iou()), html.percent(matrix.pixel_accuracy()))
        for name, matrix in evaluation.videos.items()
    ]
    return html.table(("video", "mean IoU", "pixel accuracy"), rows)

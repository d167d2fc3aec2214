"""The report of an evaluation: figures, classes, time lines, the worst frames, the conventions."""

from collections.abc import Callable, Sequence
from itertools import groupby

import numpy as np

from vidseg.evaluation.figure import counted, say_absent, with_classes
from vidseg.evaluation.result import Agreement, Evaluation, FrameFigures
from vidseg.report import charts, html, pictures
from vidseg.report.moments import Moment, Reason, Samples

__all__ = ["Samples", "evaluation_page"]

HEADLINE = ("mean_iou", "temporal_consistency", "flicker", "vc8", "ms_per_frame")
VIDEO_COLUMNS = ("mean_iou", "pixel_accuracy", "temporal_consistency", "flicker", "vc8")
MAX_ROWS = 40  # of a table; further ones are folded away
MAX_VIDEO_ROWS = 500
MAX_CONFUSED = 30  # classes of a confusion matrix; of more, the most confused pairs are shown
MAX_TIMELINES = 6

VIDSEG_TC = (
    "TC and flicker, protocol vidseg: the previous labels are sampled where the flow points (the "
    "nearest pixel, labels are never blended) and compared with the current ones where that is "
    "valid. Figures with another flow or another rule for what is valid do not compare with these."
)

ReadFrame = Callable[[Moment], np.ndarray | None]


def evaluation_page(
    name: str,
    evaluation: Evaluation,
    samples: Sequence[Moment] = (),
    *,
    read_frame: ReadFrame | None = None,
    command: str | None = None,
) -> html.Page:
    """Put an evaluation on a page: below 5 MB, whatever the length of the videos.

    Args:
        name: of the model, or of where the label maps came from.
        evaluation: the figures.
        samples: frames to show, as `Samples` keeps them.
        read_frame: gives the picture of a frame that carries none, or None.
        command: what made the report.
    """
    page = html.Page(f"{name} on {evaluation.conventions['data']}", _lead(evaluation))
    page.add("Figures", *_figures(evaluation))
    page.add("Classes, %", *_classes(evaluation))
    if timelines := _timelines(evaluation, samples):
        page.add("Over time", *timelines)
    if samples:
        page.add("Frames to look at", *_moments(evaluation, samples, read_frame))
    if evaluation.num_scored:
        page.add("What was taken for what", *_confusion(evaluation))
    page.add("Videos", *_videos(evaluation))
    page.add("How it was measured", *_conventions(evaluation, command))
    return page


def _lead(evaluation: Evaluation) -> str:
    total = evaluation.total
    frames = f"{counted(total.num_frames, 'frame')} of {counted(len(evaluation.videos), 'video')}"
    scored = (
        f"{total.num_scored} of them have a truth"
        if 0 < total.num_scored < total.num_frames
        else "all of them have a truth"
        if total.num_scored
        else "none of them has a truth"
    )
    pairs = (
        f"{counted(total.num_pairs, 'pair')} of neighbouring frames compared along the flow of "
        f"{evaluation.protocols['consistency']['flow']}"
        if total.num_pairs
        else "no neighbouring frames compared"
    )
    return f"{frames}; {scored}; {pairs}."


def _figures(evaluation: Evaluation) -> list[html.Html]:
    figures, table = evaluation.figures, evaluation.table
    beside = {figure.truth_of: figure for figure in table.values() if figure.truth_of}
    headline = {}
    for key in HEADLINE:
        truth = "-" if key not in beside else _read(evaluation, beside[key].key)
        unbroken = truth.replace(" ", "\N{NO-BREAK SPACE}")
        of_truth = "" if truth == "-" else f", the truth {unbroken}"
        if figures[key] is not None:
            headline[table[key].title + of_truth] = _read(evaluation, key)
    rows = [
        (table[key].title, _read(evaluation, key), table[key].meaning)
        for key, value in figures.items()
        if value is not None
    ]
    absent = [f"{line}." for line in say_absent(evaluation.absent, table)]
    return [html.tiles(headline), html.meanings(rows), *([html.bullets(absent)] if absent else [])]


def _read(evaluation: Evaluation, key: str) -> str:
    return evaluation.table[key].read(evaluation.figures[key], places=1)


def _classes(evaluation: Evaluation) -> list[html.Html]:
    columns = evaluation.total.class_figures()
    series = {
        one.title: [np.nan if value is None else value for value in columns[one.key]]
        for one in with_classes(evaluation.table.values()).values()
        if any(value is not None for value in columns[one.key])
    }

    def table(indices: Sequence[int]) -> html.Html:
        return html.class_table(
            [evaluation.classes[i] for i in indices],
            evaluation.palette[list(indices)],
            {title: [values[i] for i in indices] for title, values in series.items()},
        )

    indices = list(range(len(evaluation.classes)))
    if len(indices) <= MAX_ROWS:
        return [table(indices)]
    total = evaluation.total
    counts = total.confusion.counts if total.num_scored else total.consistency.counts
    pixels = counts.sum(1)
    by_size = sorted(indices, key=lambda i: -int(pixels[i]))
    rest = by_size[MAX_ROWS:]
    return [
        html.paragraph(f"The {MAX_ROWS} classes with the most pixels, largest first."),
        table(by_size[:MAX_ROWS]),
        html.details(f"{len(rest)} smaller classes", table(rest)),
    ]


def _timelines(evaluation: Evaluation, samples: Sequence[Moment]) -> list[html.Html]:
    """Curves of the videos with the worst moments, the first videos where there are none."""
    frames = {
        video: list(rows) for video, rows in groupby(evaluation.series, lambda row: row.video)
    }
    with_moments = dict.fromkeys(m.video.name for m in samples if m.reasons != (Reason.SPREAD,))
    order = [*with_moments, *(video for video in frames if video not in with_moments)]
    drawn: list[html.Html] = []
    shown = 0
    for video in order:
        curves = _curves(frames.get(video, []), _numbered(samples, video))
        if curves:
            drawn += [html.heading(video), *curves]
            shown += 1
        if shown == MAX_TIMELINES:
            break
    if not drawn:
        return []
    intro = (
        "A number is a frame that is shown below; it leads there. Frames that were not compared, "
        "or that have no truth, leave a gap."
    )
    if shown < len(frames):
        intro += f" {shown} of {counted(len(frames), 'video')}: those with the worst frames first."
    return [html.paragraph(intro), *drawn]


def _numbered(samples: Sequence[Moment], video: str) -> list[tuple[int, Moment]]:
    return [(i, m) for i, m in enumerate(samples, start=1) if m.video.name == video]


def _curves(
    frames: Sequence[FrameFigures], moments: Sequence[tuple[int, Moment]]
) -> list[html.Html]:
    """Flicker, accuracy and time of a video, each with its own worst moments."""
    has_clock = all(frame.time_s is not None for frame in frames)

    def x(frame: FrameFigures) -> float:
        return frame.time_s if has_clock and frame.time_s is not None else float(frame.number)

    drawn = []
    for name, scale, reason, read in (
        ("pixels that change class, %", 100, Reason.FLICKERS, lambda f: f.flicker),
        ("pixel accuracy, %", 100, Reason.INACCURATE, lambda f: f.pixel_accuracy),
        ("network time, ms", 1, Reason.SLOW, lambda f: f.ms),
    ):
        values = [read(frame) for frame in frames]
        points = [
            (x(frame), None if value is None else scale * value)
            for frame, value in zip(frames, values, strict=True)
        ]
        if sum(value is not None for value in values) < 2:
            continue
        marks = [
            charts.Mark(
                x(moment.figures),
                scale * read(moment.figures),
                number,
                f"moment-{number}",
                f"frame {moment.figures.number}: {reason}",
            )
            for number, moment in moments
            if reason in moment.reasons
        ]
        x_name = "time in s" if has_clock else "frame number"
        drawn.append(
            charts.curves(
                {name: points},
                x_name=x_name,
                y_name=name,
                marks=marks,
                from_zero=reason is not Reason.INACCURATE,
            )
        )
    return drawn


def _moments(
    evaluation: Evaluation, samples: Sequence[Moment], read_frame: ReadFrame | None
) -> list[html.Html]:
    columns = {
        "": [html.link(str(i), f"moment-{i}") for i in range(1, len(samples) + 1)],
        "video": [moment.video.name for moment in samples],
        "frame": [moment.figures.number for moment in samples],
        "time": [_with_unit(moment.figures.time_s, "s") for moment in samples],
        "why": [", ".join(moment.reasons) for moment in samples],
        "flicker": [html.percent(moment.figures.flicker) for moment in samples],
        "pixel accuracy": [html.percent(moment.figures.pixel_accuracy) for moment in samples],
        "network time": [_with_unit(moment.figures.ms, "ms") for moment in samples],
    }
    known = {name: cells for name, cells in columns.items() if set(cells) != {"-"}}
    rows = list(zip(*known.values(), strict=True))
    maps = [m for moment in samples for m in (moment.labels, moment.truth) if m is not None]
    seen = np.unique(np.concatenate([np.unique(one) for one in maps]))
    indices = [int(i) for i in seen if i < len(evaluation.classes)]
    legend = html.legend([evaluation.classes[i] for i in indices], evaluation.palette[indices])
    ignore = evaluation.total.confusion.ignore
    strips = [
        _strip(evaluation, number, moment, read_frame, ignore)
        for number, moment in enumerate(samples, start=1)
    ]
    return [
        html.table(list(known), rows, words=("video", "why")),
        html.paragraph(
            "Changes: pixels in yellow have another class than the pixel of the previous frame "
            "that the motion leads to; where the frame is hatched, nothing was compared. Errors, "
            "where there is no previous frame: yellow has the wrong class, hatched has no truth. "
            "Pictures are made small, and a mark stays where any pixel under it was marked."
        ),
        legend if len(indices) <= MAX_ROWS else html.details(f"{len(indices)} classes", legend),
        *strips,
    ]


def _strip(
    evaluation: Evaluation,
    number: int,
    moment: Moment,
    read_frame: ReadFrame | None,
    ignore: int,
) -> html.Html:
    where = f"{moment.video.name}, frame {moment.figures.number}"
    image = moment.image
    if image is None and read_frame is not None:
        image = read_frame(moment)
    palette, shown = evaluation.palette, {}
    if image is not None:
        shown["frame"] = pictures.photo(image, f"frame {where}")
    if moment.truth is not None:
        alt = f"true classes of {where}"
        shown["truth"] = pictures.label_map(moment.truth, palette, alt, void=ignore)
    alt = f"predicted classes of {where}"
    shown["labels"] = pictures.label_map(moment.labels, palette, alt, void=ignore)
    if moment.figures.changed is not None:
        alt = f"what changed class in {where}: {html.percent(moment.figures.flicker)} of the pixels"
        shown["changes"] = pictures.marked_frame(image, moment.figures.changed, alt)
    elif moment.truth is not None:
        is_right = moment.labels == moment.truth
        state = np.where(is_right, Agreement.SAME, Agreement.OTHER).astype(np.uint8)
        state[moment.truth == ignore] = Agreement.NOT_COMPARED
        alt = f"what is wrong in {where}"
        shown["errors"] = pictures.marked_frame(image, state, alt)
    note = f"{number}. {where}: {', '.join(moment.reasons)}"
    return html.strip(list(shown), list(shown.values()), note=note, anchor=f"moment-{number}")


def _with_unit(value: float | None, unit: str) -> str:
    return "-" if value is None else f"{value:.1f} {unit}"


def _confusion(evaluation: Evaluation) -> list[html.Html]:
    counts = evaluation.total.confusion.counts.numpy()[:-1]
    classes = evaluation.classes
    if len(classes) <= MAX_CONFUSED:
        return [html.confusion(classes, counts)]
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    names = [*classes, "void"]
    largest = np.argsort(-wrong, axis=None, kind="stable")[:MAX_CONFUSED]
    pairs = [divmod(int(place), wrong.shape[1]) for place in largest]
    rows = [
        (
            classes[truth],
            names[label],
            html.percent(wrong[truth, label] / counts[truth].sum()),
            f"{wrong[truth, label]:,}",
        )
        for truth, label in pairs
        if wrong[truth, label]
    ]
    columns = ("truth", "taken for", "share of the true class", "pixels")
    return [
        html.paragraph(f"The {len(rows)} most frequent errors, by their pixels."),
        html.table(columns, rows, words=("taken for",)),
    ]


def _videos(evaluation: Evaluation) -> list[html.Html]:
    figures = {name: counts.figures() for name, counts in evaluation.videos.items()}
    keys = [key for key in VIDEO_COLUMNS if any(row[key] is not None for row in figures.values())]
    rows = [
        (name, evaluation.videos[name].num_frames, *(html.percent(row[key]) for key in keys))
        for name, row in figures.items()
    ]
    columns = ("video", "frames", *(evaluation.table[key].title for key in keys))
    parts = [html.table(columns, rows[:MAX_ROWS])]
    if rest := rows[MAX_ROWS:MAX_VIDEO_ROWS]:
        parts.append(html.details(f"{len(rest)} more videos", html.table(columns, rest)))
    if len(rows) > MAX_VIDEO_ROWS:
        left = len(rows) - MAX_VIDEO_ROWS
        parts.append(html.paragraph(f"{left} further videos are in metrics.json."))
    return parts


def _conventions(evaluation: Evaluation, command: str | None) -> list[html.Html]:
    protocols = evaluation.protocols
    accuracy, consistency = (protocols.get(part, {}) for part in ("accuracy", "consistency"))
    decided = {*accuracy, *consistency}
    # Conventions are in words where protocols are in those of the library.
    accuracy = {key: evaluation.conventions.get(key, value) for key, value in accuracy.items()}
    rest = {key: value for key, value in evaluation.conventions.items() if key not in decided}
    parts = []
    if evaluation.num_scored:
        parts += [html.heading("Accuracy"), html.facts(accuracy)]
    parts += [html.heading("Consistency")]
    if consistency.get("flow") is None:
        parts.append(
            html.paragraph("Neighbouring frames were not compared: no flow was asked for.")
        )
    else:
        tc = evaluation.table["temporal_consistency"]
        words = VIDSEG_TC if evaluation.tc == "vidseg" else f"{tc.title}: {tc.meaning}"
        parts += [html.paragraph(words), html.facts(consistency)]
    if evaluation.num_scored:
        parts.append(
            html.paragraph(
                "VC, protocol vidseg: all windows of neighbouring labelled frames count, void "
                "pixels count nowhere, and no flow is needed."
            )
        )
    parts += [html.heading("The run"), html.facts(rest)]
    return [*parts, *([html.code(command)] if command else [])]

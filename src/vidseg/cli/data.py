"""`vidseg data`: make the folders that data sets are read from, and check them."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from vidseg.data.check import Check, Fault
    from vidseg.data.prepare import Prepared

SHOWN_GROUPS = 50
SHOWN_FILES = 3
OWN_RECIPE = "tmanet_mobilenetv2_folder"

app = typer.Typer(no_args_is_help=True, help="Prepare data sets, check and weigh them.")
prepare = typer.Typer(no_args_is_help=True, help="Make a data set's folders from its raw files.")
app.add_typer(prepare, name="prepare")


class Numbering(StrEnum):
    """How frames of CamVid's raw videos are numbered."""

    labels = "labels"
    authors = "authors"


class Unlabelled(StrEnum):
    """What pixels in no shape of an annotation program are."""

    background = "background"
    void = "void"


@prepare.command()
def camvid(
    raw: Annotated[
        Path, typer.Option("--raw", help="Folder of 0005VD.MXF, ..., 01TP_extract.avi.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder to make.")],
    labels: Annotated[
        Path | None, typer.Option("--labels", help="Label PNGs: indices, or CamVid's colours.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option("--images", help="The labelled stills; they check the numbering.")
    ] = None,
    splits: Annotated[
        Path | None, typer.Option("--splits", help="Folder of train.txt, ...; else the usual ones.")
    ] = None,
    before: Annotated[
        int | None, typer.Option("--before", help="Keep so many frames before each labelled one.")
    ] = None,
    numbering: Annotated[
        Numbering,
        typer.Option("--numbering", help="labels: as the labels' names. authors: one lower."),
    ] = Numbering.labels,
    void_value: Annotated[
        int, typer.Option("--void-value", help="Void in index labels: 11 (SegNet) or 0.")
    ] = 11,
) -> None:
    """Decode CamVid's raw videos to frames with their names; convert labels; write split lists.

    A second run goes on where the first one stopped. A damaged video gives its frames up to the
    damage, which is reported (exit code 1). Frame k of a raw video gets the number k
    (6660 + k for 0001TP); --numbering authors gives k - 1, as the script of TMANet's authors does.
    """
    from vidseg.cli.console import progress
    from vidseg.cli.destinations import claimed
    from vidseg.data.prepare_camvid import prepare_camvid

    with claimed(out, (), force=True):
        done = prepare_camvid(
            raw,
            out,
            labels=labels,
            images=images,
            splits=splits,
            before=before,
            numbering=numbering.value,
            void_value=void_value,
            progress=progress,
        )
    _tell(done, out, "camvid")


@prepare.command()
def cityscapes(
    raw: Annotated[Path, typer.Option("--raw", help="Folder of leftImg8bit_sequence, gtFine, ...")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder to make; if left out, labels go into RAW.")
    ] = None,
    labels: Annotated[str, typer.Option("--labels", help="Folder of the labels.")] = "gtFine",
    before: Annotated[int, typer.Option("--before", help="Frames to keep before a label's.")] = 4,
    after: Annotated[int, typer.Option("--after", help="Frames to keep after a label's.")] = 0,
    link: Annotated[bool, typer.Option("--link", help="Link to the frames, do not copy.")] = False,
) -> None:
    """Convert labelIds to labelTrainIds, and keep only the frames around the labelled ones.

    A second run goes on where the first one stopped; nothing is deleted.
    """
    from vidseg.cli.console import progress
    from vidseg.cli.destinations import claimed
    from vidseg.data.prepare import prepare_cityscapes

    out = out or raw
    with claimed(out, (), force=True):
        done = prepare_cityscapes(
            raw, out, labels=labels, before=before, after=after, link=link, progress=progress
        )
    _tell(done, out, "cityscapes")


@prepare.command()
def vspw(
    raw: Annotated[Path, typer.Option("--raw", help="Folder of train.txt, ..., and data/.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to make, such as VSPW_480p.")],
    short_side: Annotated[
        int, typer.Option("--short-side", help="Of the frames, px; others than 480 are your own.")
    ] = 480,
    link: Annotated[
        bool, typer.Option("--link", help="Link to what needs no change, do not copy.")
    ] = False,
) -> None:
    """Resize VSPW's frames and masks to 480p, mend its known faults, and write its lists anew.

    A second run goes on where the first one stopped; nothing is deleted. What cannot be read is
    left out and reported (exit code 1).
    """
    from vidseg.cli.console import progress
    from vidseg.cli.destinations import claimed
    from vidseg.data.prepare_vspw import prepare_vspw

    with claimed(out, (), force=True):
        done = prepare_vspw(raw, out, short_side=short_side, link=link, progress=progress)
    _tell(done, out, "vspw")


@prepare.command()
def folder(
    source: Annotated[
        Path, typer.Argument(help="A folder, a video file, or the file of an annotation program.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder to make.")],
    layout: Annotated[
        str,
        typer.Option(
            "--layout", help="auto, flat, voc, davis, coco-panoptic, labelme, cvat or video."
        ),
    ] = "auto",
    classes: Annotated[
        Path | None,
        typer.Option("--classes", help="classes.json, or a text file: a name (and colour) a line."),
    ] = None,
    masks: Annotated[
        Path | None, typer.Option("--masks", help="Folder of the masks, if not found by its name.")
    ] = None,
    offset: Annotated[
        int | None,
        typer.Option("--offset", help="Mask n is of frame n + OFFSET (-1: masks count from 1)."),
    ] = None,
    unlabelled: Annotated[
        Unlabelled, typer.Option("--unlabelled", help="What pixels in no shape are.")
    ] = Unlabelled.background,
    val: Annotated[
        float, typer.Option("--val", help="Share of the videos for val, if there are no splits.")
    ] = 0.2,
    before: Annotated[
        int, typer.Option("--before", help="Frames of a video file to keep before a labelled one.")
    ] = 9,
    fps: Annotated[
        float | None,
        typer.Option("--fps", help="Frame numbers per second.", min=0.001),
    ] = None,
    link: Annotated[bool, typer.Option("--link", help="Link to the frames, do not copy.")] = False,
) -> None:
    """Make a data set of kind folder of your own frames and masks, whatever layout they are in.

    flat: images/ and masks/. voc, davis: their folders. coco-panoptic, labelme, cvat: the files of
    these, with the frames beside them. video: a video file, and masks named by frame numbers.
    """
    from vidseg.cli.console import progress
    from vidseg.cli.destinations import claimed
    from vidseg.data.layouts import Asked
    from vidseg.data.prepare_folder import prepare_folder

    with claimed(out, (), force=True):
        done = prepare_folder(
            source,
            out,
            layout=layout,
            asked=Asked(classes, masks, offset, unlabelled.value),
            val_share=val,
            before=before,
            fps=fps,
            link=link,
            progress=progress,
        )
    _tell(done, out, "folder")


def _tell(done: Prepared, out: Path, kind: str) -> None:
    from vidseg.cli.console import console, errors

    for note in done.notes[:SHOWN_GROUPS]:
        console.print(note, markup=False, soft_wrap=True)
    if len(done.notes) > SHOWN_GROUPS:
        console.print(f"... and {len(done.notes) - SHOWN_GROUPS} more videos")
    for problem in done.problems:
        errors.print(f"warning: {problem}", style="yellow", markup=False, soft_wrap=True)
    console.print(
        f"{out}: {done.written} files written, {done.kept} kept from before. "
        f"Next: vidseg data check {kind} {out}",
        markup=False,
        soft_wrap=True,
    )
    if done.has_damage:
        raise typer.Exit(1)


DataKind = Annotated[
    str, typer.Argument(help="camvid, cityscapes, folder, kitti-step, vipseg or vspw.")
]


@app.command()
def check(
    kind: DataKind,
    root: Annotated[Path, typer.Argument(help="Folder of the data set.")],
    split: Annotated[
        list[str] | None, typer.Option("--split", help="Only this split (may be repeated).")
    ] = None,
    memory_frames: Annotated[
        int, typer.Option("--memory-frames", help="Frames that must precede each labelled one.")
    ] = 0,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", help="Of the kind, such as labels=gtPseudo (may be repeated)."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write what was found as JSON.")] = False,
) -> None:
    """Read every file; exit code 1 for missing frames, sizes, label values, duplicates, ..."""
    from vidseg.cli.console import console, progress, write_json
    from vidseg.cli.options import parse_options
    from vidseg.data.check import check_dataset

    found = check_dataset(
        kind,
        root,
        splits=split,
        memory_frames=memory_frames,
        progress=progress,
        **parse_options(option or ()),
    )
    if as_json:
        write_json(_as_dict(found))
    else:
        _show(found)
    if found.faults:
        raise typer.Exit(1)
    if kind == "folder" and not as_json:
        console.print(f"Next: vidseg train {OWN_RECIPE} data.root={root}", soft_wrap=True)


@app.command()
def weights(
    kind: DataKind,
    root: Annotated[Path, typer.Argument(help="Folder of the data set.")],
    split: Annotated[str, typer.Option("--split", help="Part to count.")] = "train",
    constant: Annotated[
        float, typer.Option("--constant", help="1.20 for ERFNet's encoder alone.")
    ] = 1.10,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", help="Of the kind, such as labels=gtPseudo (may be repeated)."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Shares and weights as JSON.")] = False,
) -> None:
    """Class weights of a balanced loss, 1 / ln(1.10 + share), counted from the labels.

    The last line is a word for `vidseg train`: loss.class_weights=[...].
    """
    from rich.table import Table

    from vidseg.cli.console import console, progress, write, write_json
    from vidseg.cli.options import parse_options
    from vidseg.data import open_dataset
    from vidseg.data.balance import class_weights, count_pixels

    dataset = open_dataset(kind, root, split, **parse_options(option or ()))
    pixels = count_pixels(dataset, progress=progress)
    found = [round(weight, 4) for weight in class_weights(pixels, constant=constant).tolist()]
    shares = (pixels / pixels.sum()).tolist()
    if as_json:
        named = zip(dataset.classes, shares, found, strict=False)
        write_json({name: {"share": share, "weight": weight} for name, share, weight in named})
        return
    table = Table("class", "share of all pixels", "weight")
    for name, share, weight in zip(dataset.classes, shares, found, strict=False):
        table.add_row(name, f"{share:.2%}", f"{weight:.4f}")
    table.add_row("ignored", f"{shares[-1]:.2%}", "-")
    console.print(table)
    write(f"loss.class_weights={found}".replace(" ", ""))


def _as_dict(found: Check) -> dict[str, Any]:
    faults = [{"kind": f.kind, "file": str(f.path), "message": f.message} for f in found.faults]
    notes = [{"kind": n.kind, "file": str(n.path), "message": n.message} for n in found.notes]
    return {"splits": found.splits, "faults": faults, "notes": notes}


def _show(found: Check) -> None:
    from rich.table import Table

    from vidseg.cli.console import console, errors
    from vidseg.data.check import grouped

    table = Table("split", "videos", "frames", "labelled", "sizes", "ignored pixels")
    for name, split in found.splits.items():
        sizes = ", ".join(f"{size} ({count})" for size, count in split["sizes"].items())
        table.add_row(
            name,
            str(split["videos"]),
            str(split["frames"]),
            str(split["labelled"]),
            sizes,
            f"{split['class_share']['ignored']:.1%}",
        )
    console.print(table)
    groups = grouped(found.faults)
    for group in groups[:SHOWN_GROUPS]:
        errors.print(_describe(group), markup=False, soft_wrap=True)
    if len(groups) > SHOWN_GROUPS:
        errors.print(f"... and {len(groups) - SHOWN_GROUPS} other kinds; --json lists all")
    for group in grouped(found.notes):
        console.print(f"note: {_describe(group)}", markup=False, soft_wrap=True)
    count = len(found.faults)
    console.print(f"{count or 'no'} fault{'' if count == 1 else 's'}")


def _describe(group: Sequence[Fault]) -> str:
    """One line for equal faults: the first of them, how many there are, and other files."""
    first, *others = group
    if not others:
        return f"{first.kind}: {first}"
    files = ", ".join(str(fault.path) for fault in others[:SHOWN_FILES])
    rest = f" and {len(others) - SHOWN_FILES} more" if len(others) > SHOWN_FILES else ""
    return f"{first.kind} ({len(group)} times): {first}\n    also {files}{rest}"

"""What `vidseg evaluate` can be given."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

WHAT, HOW, STEADY, WRITE = "What to score", "How the model runs", "Consistency", "What to write"

Model = Annotated[
    str | None,
    typer.Argument(
        help="Weights (.safetensors), a run folder, or a repository on the hub; a folder of "
        "transformers or smp; torchvision:NAME; FILE.py:FUNCTION, whose code runs; "
        "with --video by default the packaged one."
    ),
]
Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        help="camvid (default), cityscapes, folder, kitti-step, synthetic, vipseg or vspw.",
        rich_help_panel=WHAT,
    ),
]
Root = Annotated[
    Path | None, typer.Option("--root", help="The data set's folder.", rich_help_panel=WHAT)
]
Split = Annotated[
    str | None,
    typer.Option("--split", help="val (default), test or another.", rich_help_panel=WHAT),
]
Protocol = Annotated[
    str | None,
    typer.Option(
        "--protocol",
        help="CamVid: 11 (default), 12, 11-void-counted.",
        rich_help_panel=WHAT,
    ),
]
Option = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        help="Of the data set, such as num_videos=4; repeatable.",
        rich_help_panel=WHAT,
    ),
]
Video = Annotated[
    list[str] | None,
    typer.Option(
        "--video",
        help="Instead of a data set: a video file or a folder of frames; repeatable.",
        rich_help_panel=WHAT,
    ),
]
Labels = Annotated[
    list[Path] | None,
    typer.Option(
        "--labels",
        help="Of a --video: a folder with a PNG of class indices a frame; once per video.",
        rich_help_panel=WHAT,
    ),
]
Predictions = Annotated[
    Path | None,
    typer.Option(
        "--predictions",
        help="Score these label maps, no model: VIDEO/FRAME.png, or named as the labels.",
        rich_help_panel=WHAT,
    ),
]
MaxVideos = Annotated[
    int | None,
    typer.Option("--max-videos", help="Only the first videos.", rich_help_panel=WHAT),
]
MaxFrames = Annotated[
    int | None,
    typer.Option(
        "--max-frames",
        help="At most so many labelled frames, evenly spread; of a --video its first.",
        rich_help_panel=WHAT,
    ),
]
ScoreSize = Annotated[
    str | None,
    typer.Option(
        "--score-size",
        help="Compare labels at HEIGHTxWIDTH, the truth reduced to it; else at the label's size.",
        rich_help_panel=WHAT,
    ),
]
Flow = Annotated[
    str,
    typer.Option(
        "--flow",
        help="Along which neighbouring frames are compared: dis, dis-fast, dis-ultrafast, "
        "raft-small, raft-large, exact (synthetic) or none.",
        rich_help_panel=STEADY,
    ),
]
Tc = Annotated[
    str,
    typer.Option(
        "--tc",
        help="Protocol of TC: vidseg, or etc-official or vspw-official, to compare with "
        "published figures.",
        rich_help_panel=STEADY,
    ),
]
FlowWeights = Annotated[
    Path | None,
    typer.Option("--flow-weights", help="Of RAFT; else torchvision's.", rich_help_panel=STEADY),
]
FlowCache = Annotated[
    Path | None,
    typer.Option(
        "--flow-cache", help="Keep flow in this folder, and reuse it.", rich_help_panel=STEADY
    ),
]
EveryFrame = Annotated[
    bool,
    typer.Option(
        "--every-frame",
        help="Run through all frames, also where few are labelled.",
        rich_help_panel=STEADY,
    ),
]
Flip = Annotated[
    bool,
    typer.Option("--flip", help="Average with the mirrored frames.", rich_help_panel=HOW),
]
Scales = Annotated[
    str,
    typer.Option(
        "--scales", help="Average over sizes of the frame: 0.75,1,1.25.", rich_help_panel=HOW
    ),
]
Context = Annotated[
    Path | None,
    typer.Option(
        "--context",
        help="CFFM++: prototypes on file, VIDEO.safetensors or VIDEO/centers.pt in this "
        "folder; else found in a first pass.",
        rich_help_panel=HOW,
    ),
]
Batch = Annotated[
    int, typer.Option("--batch", help="Windows or streams per pass.", rich_help_panel=HOW)
]
SaveLabels = Annotated[
    Path | None,
    typer.Option(
        "--save-labels",
        help="Folder for the label map of every frame that runs, VIDEO/FRAME.png (VSPW's form).",
        rich_help_panel=WRITE,
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        help="Folder for metrics.json, metrics.csv, counts.npz and report.html.",
        rich_help_panel=WRITE,
    ),
]
Force = Annotated[
    bool,
    typer.Option(
        "--force",
        help="Replace an evaluation in --out, and label maps in --save-labels.",
        rich_help_panel=WRITE,
    ),
]
Json = Annotated[
    bool,
    typer.Option("--json", help="Write the figures as JSON.", rich_help_panel=WRITE),
]

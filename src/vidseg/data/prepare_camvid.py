"""Make CamVid's folders from its raw videos: frames, labels, stills, split lists."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, Field

from vidseg.atomic import remove_stale
from vidseg.data import camvid
from vidseg.data.files import (
    Colour,
    colours_to_indices,
    map_values,
    name_missing,
    read_label_image,
    read_rgb,
    write_image,
    write_whole,
)
from vidseg.data.prepare import Prepared, copy_file
from vidseg.data.threads import in_threads
from vidseg.data.transforms import resize_image
from vidseg.documents import MAX_COUNT, checked, read_json, read_text
from vidseg.progress import Display, silent

if TYPE_CHECKING:
    from av import VideoFrame


@dataclass(frozen=True)
class Source:
    """A raw video of CamVid.

    Attributes:
        name: source in the names of labels.
        raw: stem of the raw video.
        template: file name of a frame by its number.
        first: number of the first decoded frame, so that frames and labels of one name agree.
        authors_first: the number that the script of TMANet's authors starts at.
    """

    name: str
    raw: str
    template: str
    first: int
    authors_first: int


SOURCES = (
    Source("Seq05VD", "0005VD", "Seq05VD_f{:05d}", 0, -1),
    Source("0006R0", "0006R0", "0006R0_f{:05d}", 0, -1),
    Source("0016E5", "0016E5", "0016E5_{:05d}", 0, -1),
    Source("0001TP", "01TP_extract", "0001TP_{:06d}", 6660, 6660),
)
VIDEO_SUFFIXES = (".mxf", ".avi", ".mp4", ".mov", ".mkv")
# The 32 colours of CamVid, grouped to void and the 11 classes as SegNet and all after it do.
GROUPS: dict[str, tuple[Colour, ...]] = {
    "void": ((0, 0, 0),),
    "sky": ((128, 128, 128),),
    # building, archway, bridge, tunnel, wall
    "building": ((128, 0, 0), (192, 0, 128), (0, 128, 64), (64, 0, 64), (64, 192, 0)),
    # column or pole, traffic cone
    "pole": ((192, 192, 128), (0, 0, 64)),
    # road, driving lane markings, other markings
    "road": ((128, 64, 128), (128, 0, 192), (192, 0, 64)),
    # sidewalk (in CamVid's colour and in SegNet's), parking block, road shoulder
    "pavement": ((0, 0, 192), (60, 40, 222), (64, 192, 128), (128, 128, 192)),
    # tree, other vegetation
    "tree": ((128, 128, 0), (192, 192, 0)),
    # sign, text, traffic light
    "sign": ((192, 128, 128), (128, 128, 64), (0, 64, 64)),
    "fence": ((64, 64, 128),),
    # car, SUV or pickup, truck or bus, train, other moving things
    "car": ((64, 0, 128), (64, 128, 192), (192, 128, 192), (192, 64, 128), (128, 64, 64)),
    # pedestrian, child, cart or pram, animal
    "pedestrian": ((64, 64, 0), (192, 128, 64), (64, 0, 192), (64, 128, 64)),
    # bicyclist, motorcycle or scooter
    "bicyclist": ((0, 128, 192), (192, 0, 192)),
}
_STATE = "prepared.json"
_SEQUENCE = "images_sequence"


def prepare_camvid(
    raw: Path,
    out: Path,
    *,
    labels: Path | None = None,
    images: Path | None = None,
    splits: Path | None = None,
    before: int | None = None,
    numbering: Literal["labels", "authors"] = "labels",
    void_value: int = 11,
    progress: Display = silent,
) -> Prepared:
    """Make the layout of TMANet's authors: images_sequence/, labels/, images/, annotations/.

    Frames are decoded one after the other from the beginning, never by seeking. Frame k of a
    video (from 0) gets the number k + first; with `numbering="labels"` `first` is 0 (6660 for
    0001TP, which is cut from a longer video), so that a label's name names its frame. The script
    of TMANet's authors starts the MXF videos at -1 (a file of number -0001 appears, and the frame
    called n is the one after the labelled frame n); `numbering="authors"` repeats that, to compare
    with what they trained on. Given the labelled stills (`images`), the numbers are checked
    against them, and a shift is reported.

    A second run goes on where the first one stopped.

    Args:
        raw: holds 0005VD.MXF, 0006R0.MXF, 0016E5.MXF, 01TP_extract.avi, or some of them.
        out: where the layout is made.
        labels: PNG files named <frame> or <frame>_L, either indices or CamVid's colours; or a
            folder with trainannot/, valannot/, testannot/.
        images: the labelled stills as images named <frame>; copied to images/.
        splits: folder of train.txt, val.txt, test.txt, one name or path per line; None for the
            usual lists of 367, 101 and 233 frames, as far as `labels` has them.
        before: keep only labelled frames and so many frames before each; None keeps all.
        numbering: see above.
        void_value: of index labels: 11 (SegNet: classes 0..10) or 0 (classes 1..11).
        progress: shows how far it is.

    Raises:
        FileNotFoundError: no raw video, or a folder is missing.
        ValueError: a label is malformed, `before` without labels, or `out` was made with another
            numbering.
    """
    raw, out = Path(raw), Path(out)
    for folder in (raw, labels, images, splits):
        if folder is not None and not folder.is_dir():
            raise FileNotFoundError(f"{folder} is no folder")
    if numbering not in ("labels", "authors") or void_value not in (0, 11):
        raise ValueError(
            'numbering must be "labels" or "authors" and void_value 0 or 11, '
            f"got {numbering!r} and {void_value!r}"
        )
    found = {source: _find_raw(raw, source) for source in SOURCES}
    if not any(found.values()):
        wanted = ", ".join(f"{source.raw}.*" for source in SOURCES)
        raise FileNotFoundError(f"{raw} holds none of CamVid's raw videos ({wanted})")
    remove_stale(out, below=True)
    done = Prepared(0, 0, [])
    label_files = {} if labels is None else _find_labels(labels)
    _convert_labels(label_files, out, void_value, done, progress)
    if images is not None:
        _copy_stills(images, out, label_files.keys(), done, progress)
    listed = _write_splits(splits, out, label_files.keys(), done)
    wanted = _numbers_around(listed, before)
    state = _read_state(out, numbering)
    for source, path in found.items():
        if path is None:
            done.problems.append(f"{raw} has no {source.raw}.*: no frames of {source.name}")
            continue
        first = source.first if numbering == "labels" else source.authors_first
        needed = None if wanted is None else {n for n in wanted.get(source.name, ()) if n >= first}
        _extract(path, source, first, out, needed, state, done, progress)
    if images is not None:
        done.problems += find_shift(out, images)
    return done


def _find_raw(folder: Path, source: Source) -> Path | None:
    for path in sorted(folder.iterdir()):
        is_named = path.stem.lower() in (source.raw.lower(), source.name.lower())
        if is_named and path.suffix.lower() in VIDEO_SUFFIXES:
            return path
    return None


def _find_labels(folder: Path) -> dict[str, Path]:
    parts = [folder / f"{split}annot" for split in camvid.SPLITS]
    folders = [part for part in parts if part.is_dir()] or [folder]
    found = {}
    for path in sorted(path for part in folders for path in part.glob("[!.]*.png")):
        stem = path.stem.removesuffix("_L")
        camvid.parse_stem(Path(stem))
        found[stem] = path
    if not found:
        raise FileNotFoundError(f"{folder} holds no label such as 0016E5_00390_L.png")
    return found


def _convert_labels(
    files: dict[str, Path], out: Path, void_value: int, done: Prepared, progress: Display
) -> None:
    if not files:
        return
    table = camvid.label_table("12", void_value)
    colours = {c: i for i, group in enumerate(GROUPS.values()) for c in group}
    with progress("labels", len(files), unit="files") as meter:
        for stem, path in files.items():
            target = out / "labels" / f"{stem}_L.png"
            is_made = not target.exists()
            if is_made:
                values = read_label_image(path)
                if values.ndim == 3:
                    indices = colours_to_indices(values, colours, path)
                else:
                    indices = map_values(values, table, path, 12)
                write_image(target, indices)
            done.count(is_made)
            meter.advance()


def _copy_stills(
    images: Path, out: Path, stems: Collection[str], done: Prepared, progress: Display
) -> None:
    files = {p.stem: p for p in sorted(images.glob("[!.]*.png")) if not stems or p.stem in stems}
    lacking = sorted(set(stems) - files.keys())
    if lacking:
        done.problems.append(name_missing(images, lacking, "labels have no still"))
    with progress("stills", len(files), unit="files") as meter:
        for path in files.values():
            done.count(copy_file(path, out / "images" / path.name))
            meter.advance()


def split_of(stem: str) -> str:
    """The split of a labelled CamVid frame in the usual division (367, 101, 233).

    Example:
        >>> split_of("0016E5_07961"), split_of("0001TP_008520"), split_of("Seq05VD_f00000")
        ('val', 'train', 'test')
    """
    source, number = camvid.parse_stem(Path(stem))
    if source == "Seq05VD" or (source == "0001TP" and number > 8520):
        return "test"
    return "val" if source == "0016E5" and 7959 <= number <= 8159 else "train"


def _write_splits(
    splits: Path | None, out: Path, stems: Collection[str], done: Prepared
) -> list[str]:
    lists: dict[str, list[str]] = {split: [] for split in camvid.SPLITS}
    if splits is None:
        for stem in sorted(stems):
            lists[split_of(stem)].append(stem)
    else:
        for split in camvid.SPLITS:
            path = splits / f"{split}.txt"
            if path.is_file():
                lists[split] = _read_list(path)
        if not any(lists.values()):
            raise FileNotFoundError(f"{splits} holds no train.txt, val.txt or test.txt with names")
    for split, names in lists.items():
        path, content = out / "annotations" / f"{split}.txt", "".join(f"{n}\n" for n in names)
        if names:
            is_made = not path.is_file() or path.read_bytes() != content.encode()
            if is_made:
                write_whole(path, content.encode())
            done.count(is_made)
    return [name for names in lists.values() for name in names]


def _read_list(path: Path) -> list[str]:
    # SegNet's lists hold "image label" pairs of absolute paths.
    lines = [line.split()[0] for line in read_text(path).splitlines() if line.strip()]
    names = [Path(line).name.split(".")[0] for line in lines]
    for name in names:
        camvid.parse_stem(Path(name))
    return names


def _numbers_around(stems: Sequence[str], before: int | None) -> dict[str, set[int]] | None:
    if before is None:
        return None
    if before < 0 or not stems:
        raise ValueError(
            "before must be 0 or more, and needs labels or split lists that say which frames "
            f"are labelled; got {before} and {len(stems)} labelled frames"
        )
    wanted: dict[str, set[int]] = {}
    for stem in stems:
        source, number = camvid.parse_stem(Path(stem))
        wanted.setdefault(source, set()).update(range(number - before, number + 1))
    return wanted


class _State(BaseModel):
    numbering: str = ""
    frames: dict[str, Annotated[int, Field(ge=0, le=MAX_COUNT)]] = {}


def _read_state(out: Path, numbering: str) -> dict[str, Any]:
    path = out / _STATE
    state: dict[str, Any] = {"numbering": numbering, "frames": {}}
    if path.is_file():
        state |= checked(_State, read_json(path), str(path)).model_dump(exclude_unset=True)
    if state["numbering"] != numbering:
        raise ValueError(
            f"{out} was made with numbering={state['numbering']!r}; take another folder"
        )
    write_whole(path, json.dumps(state, indent=2).encode())
    return state


def _extract(
    path: Path,
    source: Source,
    first: int,
    out: Path,
    needed: set[int] | None,
    state: dict[str, Any],
    done: Prepared,
    progress: Display,
) -> None:
    folder = out / _SEQUENCE
    folder.mkdir(parents=True, exist_ok=True)
    there = {p.name for p in folder.glob(f"{source.name}_*.png")}

    def is_there(number: int) -> bool:
        return f"{source.template.format(number)}.png" in there

    known = state["frames"].get(source.name)
    everything = range(first, first + known) if known else None
    wanted: Iterable[int] | None = everything if needed is None else needed
    if wanted is not None and all(map(is_there, wanted)):
        done.kept += len(list(wanted))
        return
    number, problems = first - 1, len(done.problems)
    last = max(needed) if needed else None
    total = last - first + 1 if last is not None else None

    def missing(meter: Any) -> Iterator[tuple[Path, np.ndarray]]:
        nonlocal number
        for number, frame in _decode(path, first, done):
            if needed is None or number in needed:
                if is_there(number):
                    done.kept += 1
                else:
                    image = frame.to_ndarray(format="rgb24")
                    yield folder / f"{source.template.format(number)}.png", image
            meter.advance()
            if number == last:
                break

    with progress(path.name, total, unit="frames") as meter:
        # Encoding takes longer than decoding.
        for _ in in_threads(lambda job: write_image(*job), missing(meter)):
            done.written += 1
    if last is not None and number < last:
        done.tell_damage(
            f"{path} ends with frame {number}, but frames up to {last} are labelled or wanted"
        )
    if needed is None and len(done.problems) == problems:
        state["frames"][source.name] = number - first + 1
        write_whole(out / _STATE, json.dumps(state, indent=2).encode())


def _decode(path: Path, first: int, done: Prepared) -> Iterator[tuple[int, VideoFrame]]:
    import av
    from av.error import FFmpegError

    from vidseg.video.sources import local_address

    number = first - 1
    try:
        with av.open(local_address(path), metadata_errors="replace") as container:
            if not container.streams.video:
                raise ValueError(f"{path} has no video stream")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            announced = stream.frames  # 0 where the container does not say
            for number, frame in enumerate(container.decode(stream), first):
                yield number, frame
    except (FFmpegError, ValueError) as error:
        if number < first:
            raise ValueError(f"{path} cannot be decoded: {error}") from error
        done.tell_damage(f"{path} is damaged after frame {number}: {error}")
        return
    if number < first:
        raise ValueError(f"{path} holds no frame that can be decoded")
    if number - first + 1 < announced:
        done.tell_damage(
            f"{path} is damaged after frame {number}: {announced} frames were announced, "
            f"{number - first + 1} came"
        )


def find_shift(out: Path, images: Path, *, reach: int = 2, samples: int = 6) -> list[str]:
    """Compare labelled stills with the frames around their number.

    Args:
        out: folder that `prepare_camvid` made.
        images: the labelled stills.
        reach: shifts to try, in frames, in both directions.
        samples: stills to compare of each source.

    Returns:
        A sentence for each source whose stills look clearly more like frames of another number.
    """
    problems = []
    for source in SOURCES:
        stills = sorted(images.glob(f"{source.name}_*.png"))
        differences = []
        for still in stills[:: max(len(stills) // samples, 1)][:samples]:
            number = camvid.parse_stem(still)[1]
            shifted = range(number - reach, number + reach + 1)
            frames = [out / _SEQUENCE / f"{source.template.format(n)}.png" for n in shifted]
            if frames[reach].exists():
                thumbnail = _thumbnail(still)
                differences.append(
                    [
                        np.abs(_thumbnail(path) - thumbnail).mean() if path.exists() else np.inf
                        for path in frames
                    ]
                )
        if not differences:
            continue
        total = np.array(differences).mean(axis=0)
        best = int(total.argmin())
        if total[best] < 0.8 * total[reach]:
            problems.append(
                f"frames of {source.name} are shifted: its stills look like the frames whose "
                f"numbers are {best - reach:+d} (difference {total[best]:.1f} against "
                f"{total[reach]:.1f} grey levels at the same number)"
            )
    return problems


def _thumbnail(path: Path) -> np.ndarray:
    image = read_rgb(path)
    height = max(round(160 * image.shape[0] / image.shape[1]), 1)
    return resize_image(image, (height, 160)).astype(np.float32)

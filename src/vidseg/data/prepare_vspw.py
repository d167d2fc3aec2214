"""Make VSPW at 480p of the original VSPW: smaller frames and masks, without its known faults."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vidseg.atomic import remove_stale
from vidseg.classes import VSPW
from vidseg.data import vspw
from vidseg.data.clip import IGNORE
from vidseg.data.files import (
    list_images,
    list_labels,
    name_missing,
    read_label_image,
    read_rgb,
    write_image,
    write_whole,
)
from vidseg.data.prepare import Prepared, copy_file
from vidseg.data.threads import in_threads
from vidseg.data.transforms import opencv
from vidseg.inside import inside
from vidseg.progress import Display, silent
from vidseg.sizes import Size, width_x_height
from vidseg.video.images import open_picture

SHORT_SIDE = 480


@dataclass(frozen=True)
class _Job:
    """A frame and its mask, where they go, and the sizes of their video, before and after."""

    frame: Path
    mask: Path | None
    frame_target: Path
    mask_target: Path
    found: Size
    wanted: Size
    link: bool


@dataclass(frozen=True)
class _Done:
    """The outcome for one frame.

    Attributes:
        made: for frame and mask, whether this run wrote it.
        repairs: kinds of faults that were mended.
        damage: what could not be.
    """

    made: tuple[bool, ...]
    repairs: tuple[str, ...] = ()
    damage: str = ""


def prepare_vspw(
    raw: Path,
    out: Path,
    *,
    short_side: int = SHORT_SIDE,
    link: bool = False,
    progress: Display = silent,
) -> Prepared:
    """Make the 480p layout: the short side of every frame 480 px, masks by nearest neighbour.

    Repaired on the way, and told: masks of another size than their frame, values above 124 (they
    become 255, ignored), grey masks stored as RGB, frames of another size than their video, and
    lists that repeat videos, lack some, or do not end with a newline. Left out, and told as damage:
    frames and masks that cannot be read, masks in colours, masks without a frame. A second run
    goes on where the first one stopped.

    Args:
        raw: the original layout, or a damaged 480p; see `vspw.VSPW`.
        out: where the layout is made.
        short_side: px.
        link: make symbolic links to what needs no change, instead of copies.
        progress: shows how far it is.

    Raises:
        FileNotFoundError: `raw` is no folder, or has no lists, or none of the videos.
        ValueError: `out` is `raw`, `short_side` is no size, or an earlier run had another.
    """
    raw, out = Path(raw), Path(out)
    if short_side < 1:
        raise ValueError(f"short_side must be 1 px or more, got {short_side}")
    if out.resolve() == raw.resolve():
        raise ValueError(f"{out} is where the original is; give another folder to make")
    lists = vspw.lists_of(raw)
    if not lists:
        fault = "holds none of train.txt, val.txt and test.txt" if raw.is_dir() else "is no folder"
        raise FileNotFoundError(f"{raw} {fault}; give the one that holds these lists and data/")
    done = Prepared(0, 0, [])
    names = _sort_videos(raw, lists, done)
    remove_stale(out, below=True)
    videos = list(dict.fromkeys(name for split in names.values() for name in split))
    with progress("videos", len(videos), unit="videos") as meter:
        for name in videos:
            _prepare_video(raw, out, name, short_side, link, done)
            meter.advance(note=name)
    for split, listed in names.items():
        target = out / f"{split}.txt"
        text = "".join(f"{name}\n" for name in listed).encode()
        is_made = not target.is_file() or target.read_bytes() != text
        if is_made:
            write_whole(target, text)
        done.count(is_made)
    return done


def _sort_videos(raw: Path, lists: dict[str, Path], done: Prepared) -> dict[str, list[str]]:
    """The videos of each list that have frames, once each."""
    names = {}
    for split, path in lists.items():
        listed = list(dict.fromkeys(vspw.names_in(path)))
        there = [n for n in listed if (inside(raw / "data", n, links=True) / "origin").is_dir()]
        lacking = [name for name in listed if name not in there]
        if lacking:
            done.tell_damage(name_missing(raw / "data", lacking, f"{path.name} lists more videos"))
        names[split] = there
    if not any(names.values()):
        raise FileNotFoundError(f"{raw / 'data'} holds none of the videos that are listed")
    done.problems += [f"{path} {fault}" for path, fault in vspw.list_faults(raw)]
    return names


def _prepare_video(
    raw: Path, out: Path, name: str, short_side: int, link: bool, done: Prepared
) -> None:
    folder, target = inside(raw / "data", name, links=True), inside(out / "data", name)
    frames = list_images(folder / "origin")
    masks = list_labels(folder / "mask")
    orphans = sorted(masks.keys() - frames.keys())
    if orphans:
        done.tell_damage(name_missing(folder / "origin", orphans, "masks have no frame"))
    found = _first_size(list(frames.values()))
    if found is None:
        done.tell_damage(f"{folder / 'origin'} holds no frame that can be read")
        return
    scale = short_side / min(found)
    wanted = round(found[0] * scale), round(found[1] * scale)
    earlier = _first_size(sorted((target / "origin").glob("[!.]*.jpg")))
    if earlier not in (None, wanted):
        raise ValueError(
            f"{target} has frames of {width_x_height(earlier)} from an earlier run, this one makes "
            f"{width_x_height(wanted)}; give another folder, or the earlier --short-side"
        )
    jobs = (
        _Job(
            frame,
            masks.get(stem),
            target / "origin" / f"{stem}.jpg",
            target / "mask" / f"{stem}.png",
            found,
            wanted,
            link,
        )
        for stem, frame in frames.items()
    )
    repairs: Counter[str] = Counter()
    for part in in_threads(_prepare_frame, jobs):
        for is_made in part.made:
            done.count(is_made)
        if part.damage:
            done.tell_damage(f"{part.damage}; it is left out")
        repairs.update(part.repairs)
    done.problems += [f"{folder}: {count} {what}" for what, count in repairs.items()]


def _first_size(frames: list[Path]) -> Size | None:
    """Height and width of the first frame whose head can be read."""
    for path in frames:
        try:
            with open_picture(path, str(path)) as image:
                return image.height, image.width
        except (OSError, ValueError):  # _prepare_frame tells which, and why
            continue
    return None


def _prepare_frame(job: _Job) -> _Done:
    targets = [job.frame_target] + ([job.mask_target] if job.mask else [])
    if all(target.exists() for target in targets):
        return _Done((False,) * len(targets))
    try:
        image = read_rgb(job.frame)
    except ValueError as error:
        return _Done((), damage=str(error))
    size = image.shape[0], image.shape[1]
    repairs = [] if size == job.found else ["frames of another size than the first, resized"]
    made = [_write_frame(job, image)]
    if job.mask is not None:
        try:
            made.append(_write_mask(job, job.mask, size, repairs))
        except ValueError as error:
            return _Done(tuple(made), tuple(repairs), damage=str(error))
    return _Done(tuple(made), tuple(repairs))


def _write_frame(job: _Job, image: np.ndarray) -> bool:
    if image.shape[:2] == job.wanted and job.frame.suffix.lower() != ".png":
        return copy_file(job.frame, job.frame_target, link=job.link)
    if job.frame_target.exists():
        return False
    cv2 = opencv()
    is_smaller = job.wanted[0] < image.shape[0]
    way = cv2.INTER_AREA if is_smaller else cv2.INTER_LINEAR
    write_image(job.frame_target, cv2.resize(image, job.wanted[::-1], interpolation=way))
    return True


def _write_mask(job: _Job, path: Path, frame_size: Size, repairs: list[str]) -> bool:
    mask = read_label_image(path)
    is_as_it_should = mask.shape == frame_size == job.wanted
    if mask.ndim == 3:
        if (mask != mask[..., :1]).any():
            raise ValueError(f"{path} is in colours, of which nobody says what classes they are")
        mask, is_as_it_should = mask[..., 0], False
        repairs.append("masks in RGB, now of one channel")
    wrong = (mask > len(VSPW.names)) & (mask != IGNORE)
    if wrong.any():
        values = np.unique(mask[wrong]).tolist()
        mask, is_as_it_should = np.where(wrong, np.uint8(IGNORE), mask), False
        repairs.append(f"masks with the values {values}, which are no class and now 255")
    if mask.shape != frame_size:
        repairs.append("masks of another size than their frame, resized")
    if is_as_it_should:
        return copy_file(path, job.mask_target, link=job.link)
    if job.mask_target.exists():
        return False
    cv2 = opencv()
    nearest = cv2.INTER_NEAREST_EXACT  # takes the pixel in the middle, where the frame's is
    write_image(job.mask_target, cv2.resize(mask, job.wanted[::-1], interpolation=nearest))
    return True

"""Make the layout of kind `folder` of one's own data, whatever layout it is in."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vidseg.atomic import remove_stale
from vidseg.data.classes_file import Classes, check_names, describe_classes, read_classes
from vidseg.data.files import write_image, write_whole
from vidseg.data.folder import number_frames
from vidseg.data.layouts import Asked, read_layout
from vidseg.data.layouts.found import Found, Item
from vidseg.data.prepare import Prepared, copy_file
from vidseg.data.threads import in_threads
from vidseg.inside import inside
from vidseg.progress import Display, silent
from vidseg.video.images import read_image

BEFORE = 9  # frames of a film kept before each labelled one: CFFM's window is the longest


@dataclass(frozen=True)
class _Clip:
    """The frames of one video in one split.

    Attributes:
        split: its folder.
        video: its folder below the split.
        source: the video as the layout names it.
        items: in the order of time, under the names that they get.
        after: of a film, the last frame that belongs to another split.
    """

    split: str
    video: str
    source: str
    items: tuple[Item, ...]
    after: int = -1

    @property
    def num_labelled(self) -> int:
        return sum(item.mask is not None for item in self.items)


def prepare_folder(
    source: Path,
    out: Path,
    *,
    layout: str = "auto",
    asked: Asked | None = None,
    val_share: float = 0.2,
    before: int = BEFORE,
    fps: float | None = None,
    link: bool = False,
    progress: Display = silent,
) -> Prepared:
    """Write frames, masks of class indices, and classes.json; see `Folder` and `READERS`.

    A second run goes on where the first one stopped, and keeps the classes.json that is there, so
    that classes may be renamed in it. What cannot be read is left out, and told as damage.

    Args:
        source: a folder, a video file, or the file of an annotation program.
        out: where the layout is made; not inside `source`.
        layout: a name of `READERS`, or "auto".
        asked: what is said of the source.
        val_share: share of the labelled videos that becomes val, where the source has no splits; of
            a lone video the last frames. 0 for none.
        before: frames of a video file to keep before each labelled one.
        fps: frame numbers per second, where the source does not say.
        link: make symbolic links to the frames instead of copies.
        progress: shows how far it is.

    Raises:
        FileNotFoundError: there is no such source.
        ValueError: the layout is not known, the source is malformed, or `out` was made from
            another one.
    """
    source, out = Path(source), Path(out)
    if not 0 <= val_share < 1 or before < 0:
        raise ValueError(
            f"val must be a share from 0 to below 1, before 0 or more, got {val_share}, {before}"
        )
    place = source.parent if source.is_file() else source
    if out.resolve().is_relative_to(place.resolve()) and not source.is_file():
        raise ValueError(f"{out} lies in {source}, which is read; give a folder beside it")
    found = read_layout(source, layout, asked)
    check_names(source, list(found.classes.palette))
    done = Prepared(0, 0, [*found.problems])
    clips = list(_in_splits(found, val_share, done))
    if not any(clip.num_labelled for clip in clips):
        raise ValueError(f"{source}: {found.what}, and no frame has a mask")
    rates = {video: _check_film(video, film, found.items) for video, film in found.films.items()}
    same = set(rates.values())
    if len(same) > 1:
        done.problems.append(f"the videos have different rates ({sorted(same)}); fps is left out")
    rate = fps or found.classes.fps or (same.pop() if len(same) == 1 else None)
    done.count(_write_classes(out / "classes.json", replace(found.classes, fps=rate)))
    remove_stale(out, below=True)
    done.notes.append(f"found {found.what}")
    for clip in clips:
        done.notes.append(
            f"{clip.split}/{clip.video}: {len(clip.items)} frames, {clip.num_labelled} labelled"
        )
    with progress("videos", len(clips), unit="videos") as meter:
        for clip in clips:
            film = found.films.get(clip.source)
            if film is None:
                _write_pictures(out, clip, link, done)
            else:
                _write_film(out, clip, film, before, done)
            meter.advance(note=clip.video)
    return done


def _in_splits(found: Found, val_share: float, done: Prepared) -> Iterator[_Clip]:
    """The videos of a source by split, under names of their own."""
    videos: dict[tuple[str | None, str], list[Item]] = {}
    for item in found.items:
        videos.setdefault((item.split, item.video), []).append(item)
    has_splits = any(split for split, _ in videos)
    labelled = [key for key, items in videos.items() if any(item.mask for item in items)]
    chosen: set[tuple[str | None, str]] = set()
    if not has_splits and val_share and len(labelled) > 1:
        chosen = set(labelled[-max(1, round(val_share * len(labelled))) :])
    names = _Names()
    for key, items in videos.items():
        split = key[0] or ("val" if key in chosen else "train")
        video = names.of(split, key[1])
        named = tuple(_named(items, f"{split}/{video}", done, is_film=key[1] in found.films))
        clip = _Clip(split, video, key[1], named)
        if not has_splits and val_share and labelled == [key] and clip.num_labelled > 1:
            done.problems.append(
                f"val is the end of {video}: its frames are like those of train, so figures on it "
                "flatter; label another video, or give --val 0"
            )
            yield from _cut(clip, val_share)
        else:
            yield clip


def _cut(clip: _Clip, val_share: float) -> Iterator[_Clip]:
    places = [i for i, item in enumerate(clip.items) if item.mask is not None]
    count = max(1, min(round(val_share * len(places)), len(places) - 1))
    last = places[-count - 1]
    image = clip.items[last].image
    yield replace(clip, items=clip.items[: last + 1])
    after = image if isinstance(image, int) else -1
    yield replace(clip, split="val", items=clip.items[last + 1 :], after=after)


class _Names:
    """Names of folders for videos: plain, visible, and different in each split."""

    def __init__(self) -> None:
        self._taken: set[tuple[str, str]] = set()

    def of(self, split: str, video: str) -> str:
        plain = re.sub(r"[^\w.() +-]", "_", video).strip(". ")[:100] or "video"
        name, count = plain, 1
        while (split, name.casefold()) in self._taken:
            count += 1
            name = f"{plain}_{count}"
        self._taken.add((split, name.casefold()))
        return name


def _named(items: Sequence[Item], where: str, done: Prepared, *, is_film: bool) -> list[Item]:
    """Frames under names that end with numbers; where they do not, they are counted."""
    if is_film:
        return list(items)
    try:
        number_frames([item.name for item in items])
    except ValueError:
        done.problems.append(
            f"{where}: names without a number of their own; its frames are counted in the order "
            "of their names, which should be that of time"
        )
        return [replace(item, name=f"{i:06d}") for i, item in enumerate(items)]
    return list(items)


def _write_classes(path: Path, classes: Classes) -> bool:
    """Write classes.json unless there is one; -> whether it was written."""
    if path.is_file():
        there = read_classes(path)
        if len(there.palette) != len(classes.palette):
            raise ValueError(
                f"{path} names {len(there.palette)} classes, and the source has "
                f"{len(classes.palette)}: {', '.join(classes.palette)}; give another folder"
            )
        return False
    plain = Classes(classes.palette, classes.fps)
    write_whole(path, describe_classes(plain).encode())
    return True


@dataclass(frozen=True)
class _Written:
    made: tuple[bool, ...]
    damage: str = ""


def _write_pictures(out: Path, clip: _Clip, link: bool, done: Prepared) -> None:
    def write(item: Item) -> _Written:
        assert isinstance(item.image, Path), "only films have numbers"
        target = _place(out, clip, "frames", f"{item.name}{item.image.suffix.lower()}")
        mask = _place(out, clip, "masks", f"{item.name}.png")
        try:
            labels = None
            if item.mask is not None and not mask.exists():
                labels = item.mask(_size(read_image(item.image)))
            made = [copy_file(item.image, target, link=link)]
        except (ValueError, FileNotFoundError) as error:
            return _Written((), str(error))
        if item.mask is not None:
            made.append(labels is not None)
        if labels is not None:
            write_image(mask, labels)
        return _Written(tuple(made))

    _tell(in_threads(write, clip.items), done)


def _write_film(out: Path, clip: _Clip, film: Path, before: int, done: Prepared) -> None:
    """Decode a film once, from its start, and keep the frames before each labelled one."""
    from vidseg.video.reader import read_video

    by_number = {item.image: item for item in clip.items if isinstance(item.image, int)}
    with read_video(film) as reader:
        wanted = {
            number
            for labelled in by_number
            for number in range(max(labelled - before, clip.after + 1), labelled + 1)
        }
        there = {number for number in wanted if _is_whole(out, clip, number, by_number)}
        done.kept += len(there) + len(there & by_number.keys())
        missing = wanted - there

        def write(frame: tuple[int, np.ndarray]) -> _Written:
            number, image = frame
            item = by_number.get(number)
            try:
                labels = None if item is None or item.mask is None else item.mask(_size(image))
            except (ValueError, FileNotFoundError) as error:
                return _Written((), str(error))
            write_image(_place(out, clip, "frames", f"{number:06d}.png"), image)
            if labels is None:
                return _Written((True,))
            write_image(_place(out, clip, "masks", f"{number:06d}.png"), labels)
            return _Written((True, True))

        def frames() -> Iterator[tuple[int, np.ndarray]]:
            left = set(missing)
            for frame in reader:
                if frame.index in left:
                    left.discard(frame.index)
                    yield frame.index, frame.image
                if not left:
                    return

        seen = _tell(in_threads(write, frames()), done)
        if seen < len(missing):
            why = f": {reader.damage}" if reader.damage else ""
            done.tell_damage(f"{film} has {len(missing) - seen} frames less than are labelled{why}")


def _is_whole(out: Path, clip: _Clip, number: int, by_number: dict[int, Item]) -> bool:
    parts = ("frames", "masks") if number in by_number else ("frames",)
    return all(_place(out, clip, part, f"{number:06d}.png").exists() for part in parts)


def _check_film(video: str, film: Path, items: Sequence[Item]) -> float:
    """Frames per second of a film that has the frames which are labelled.

    Raises:
        ValueError: it has not: masks that count from 1 would all be one frame late.
    """
    from vidseg.video.reader import read_video

    numbers = [i.image for i in items if i.video == video and isinstance(i.image, int)]
    first, last = min(numbers), max(numbers)
    with read_video(film) as reader:
        count, rate = reader.num_frames, round(float(reader.fps), 3)
    if count is not None and not 0 <= first <= last < count:
        advice = "; do they count from 1? Then give --offset -1" if first and last == count else ""
        raise ValueError(
            f"{film} has the frames 0..{count - 1}, and masks are numbered {first}..{last}{advice}"
        )
    return rate


def _tell(written: Iterable[_Written], done: Prepared) -> int:
    """Take what was written into account; -> of how many frames."""
    count = 0
    for one in written:
        count += 1
        for is_made in one.made:
            done.count(is_made)
        if one.damage:
            done.tell_damage(f"{one.damage}; it is left out")
    return count


def _place(out: Path, clip: _Clip, part: str, name: str) -> Path:
    return inside(out, f"{clip.split}/{clip.video}/{part}/{name}")


def _size(image: np.ndarray) -> tuple[int, int]:
    return image.shape[0], image.shape[1]

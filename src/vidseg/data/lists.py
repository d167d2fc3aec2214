"""List files in the format of ETC's authors: images, with labels, with frames, or clip by clip."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vidseg.data.clip import Video, split_at_gaps, videos_by_source
from vidseg.data.files import MissingFilesError, list_images
from vidseg.documents import read_text
from vidseg.inside import inside
from vidseg.video.images import IMAGE_SUFFIXES

LIST_SUFFIXES = (".lst", ".txt")
Lists = str | Path | Sequence[str | Path]


@dataclass(frozen=True)
class Naming:
    """The naming rule of a data set's files.

    Attributes:
        place: an image -> its source and its number there; ValueError for another name.
        folders: the folder of an image -> all folders in which frames of its video may lie.
        find_label: an image -> its labels, where there are some.
        rate_hz: see `Video`.
        max_step: see `split_at_gaps`.
    """

    place: Callable[[Path], tuple[str, int]]
    folders: Callable[[Path], Sequence[Path]]
    find_label: Callable[[Path], Path | None]
    rate_hz: float
    max_step: int | None = None


@dataclass(frozen=True)
class Row:
    """A line of a list.

    Attributes:
        where: file and line, for messages.
        image: the image.
        label: its labels, if the line names them.
        frame: a raw frame of the same video, if the line names one.
    """

    where: str
    image: Path
    label: Path | None = None
    frame: Path | None = None


def read_lists(root: Path, lists: Lists, naming: Naming) -> list[Video]:
    """Read list files; columns are split on white space, paths are relative to the root.

    - image and label (train, val): the frames on disk of the same video come along unlabelled,
      as memory frames and neighbours;
    - image, label and a raw frame (CamVid): the same, from the folder of the raw frame;
    - image (test): these frames alone; labels are taken where they are found;
    - names of lists, or a folder of lists: each of these is a clip, and a video of its own.

    Args:
        root: folder of the data set.
        lists: one file or folder, or several; as they are, or below the root.
        naming: of the data set.

    Raises:
        FileNotFoundError: a list, or files that it names, are missing.
        ValueError: a line has another number of columns than the first, or puts frames or labels
            of different videos together.
    """
    rows: list[Row] = []
    clips: list[Video] = []
    for name in [lists] if isinstance(lists, str | Path) else lists:
        path = _find_list(root, Path(name).expanduser())
        inner = _clip_lists(path, root)
        for one in inner:
            clips += _clip(one, _read(one, root, naming), naming)
        if not inner:
            rows += _read(path, root, naming)
    return [*_by_source(rows, naming), *clips]


def names_of(lists: Lists) -> str:
    """Name the data set of these lists."""
    names = [lists] if isinstance(lists, str | Path) else lists
    return "+".join(Path(name).stem for name in names)


def _find_list(root: Path, path: Path) -> Path:
    for found in (path, root / path):
        if found.exists():
            return found
    raise FileNotFoundError(f"there is no list {path}, and none at {root / path}")


def _lines(path: Path) -> list[tuple[str, list[str]]]:
    lines = read_text(path).splitlines()
    found = [(f"{path}, line {i}", line.split()) for i, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise ValueError(f"{path} is empty; it should name an image, and its label, on each line")
    wanted = len(found[0][1])
    for where, words in found:
        if len(words) != wanted or wanted > 3:
            raise ValueError(
                f"{where} has {len(words)} columns{'' if wanted > 3 else f', the first {wanted}'}; "
                "a list has one (image), two (image, label) or three (image, label, frame) on "
                "every line, split by white space"
            )
    return found


def _clip_lists(path: Path, root: Path) -> list[Path]:
    """The lists in a folder, or those that a list names; none where it names images."""
    if path.is_dir():
        found = sorted(f for f in path.glob("[!.]*") if f.suffix in LIST_SUFFIXES)
        if not found:
            raise FileNotFoundError(
                f"the folder {path} holds no list ({' or '.join(LIST_SUFFIXES)})"
            )
        return found
    lines = _lines(path)
    if len(lines[0][1]) > 1 or Path(lines[0][1][0]).suffix.lower() in IMAGE_SUFFIXES:
        return []
    # The authors' val_video_list_sam.lst names lists in val_sam/.
    folders = (path.parent / path.stem.replace("_video_list", ""), path.parent, root)
    found = []
    for where, (name,) in lines:
        names = (name, *(name + suffix for suffix in LIST_SUFFIXES))
        places = [place for n in names for place in _places(folders, n, where)]
        there = next((place for place in places if place.is_file()), None)
        if there is None:
            raise FileNotFoundError(
                f"{where} names neither an image (.png, .jpg) nor a list that is there: {name}, "
                f"looked for in {', '.join(map(str, folders))}"
            )
        found.append(there)
    return found


def _read(path: Path, root: Path, naming: Naming) -> list[Row]:
    """The lines of a list of images, once all files are found."""
    rows, missing = [], []
    for where, words in _lines(path):
        listed = [_places([root], word, where)[0] for word in words]
        image, label, frame = [*listed, None, None][:3]
        assert image is not None, "a line has a first column"
        found = _find_image(image, naming)
        label = None if label is None else _find_label(label)
        raw = None if frame is None else _find_image(frame, naming)
        files = (found, label, raw)[: len(words)]
        missing += [word for word, file in zip(words, files, strict=True) if file is None]
        if not missing and found is not None:
            row = Row(where, found, label, raw)
            _check(row, naming)
            rows.append(row)
    if missing:
        raise MissingFilesError(root, missing, f"{path} lists files that are not there")
    return rows


def _places(folders: Sequence[Path], name: str, where: str) -> list[Path]:
    """A name of a list in each of these folders; ValueError, which says the line, if it leads out.

    An absolute name is taken where it is that of something in one of the folders.
    """
    path = Path(name)
    holders = [f for f in folders if path.is_absolute() and path.is_relative_to(f.absolute())]
    names = {f: path.relative_to(f.absolute()).as_posix() for f in holders}
    try:
        return [inside(f, names.get(f, name), links=True) for f in holders or folders]
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _find_image(path: Path, naming: Naming) -> Path | None:
    """An image where it is listed, or in the other folders of its video, as .png or as .jpg."""
    places = (
        (folder / path.name).with_suffix(suffix)
        for folder in naming.folders(path.parent)
        for suffix in dict.fromkeys((path.suffix, *IMAGE_SUFFIXES))
    )
    return next((place for place in places if place.is_file()), None)


def _find_label(path: Path) -> Path | None:
    """Labels as they are listed, or Cityscapes' train ids made from them."""
    places = (path, path.with_name(path.name.replace("labelIds", "labelTrainIds")))
    return next((place for place in places if place.is_file()), None)


def _check(row: Row, naming: Naming) -> None:
    stem = frame_stem(row.image)
    label = "" if row.label is None else row.label.stem
    if label and label != stem and not label.startswith(f"{stem}_"):
        raise ValueError(
            f"{row.where} puts the image {row.image.name} together with the labels "
            f"{label} of another frame; labels are named as their image"
        )
    if row.frame is not None and naming.place(row.frame)[0] != naming.place(row.image)[0]:
        raise ValueError(
            f"{row.where} puts {row.image.name} and {row.frame.name} together, which are of "
            "different videos"
        )


def frame_stem(path: Path) -> str:
    """The name of a frame: of its file, without what Cityscapes appends.

    Example:
        >>> frame_stem(Path("aachen_000000_000019_leftImg8bit.png"))
        'aachen_000000_000019'
    """
    return path.stem.removesuffix("_leftImg8bit")


def _clip(path: Path, rows: Sequence[Row], naming: Naming) -> list[Video]:
    """A list of its own is a video of its own, cut where frames are missing."""
    places = [naming.place(row.image) for row in rows]
    for row, (source, _) in zip(rows, places, strict=True):
        if source != places[0][0]:
            raise ValueError(
                f"{row.where}: {row.image.name} is of another video than {rows[0].image.name}; "
                "the list of a clip names neighbouring frames of one video"
            )
    video = Video(
        name=path.stem,
        frames=tuple(row.image for row in rows),
        labels=tuple(row.label or naming.find_label(row.image) for row in rows),
        numbers=tuple(number for _, number in places),
        rate_hz=naming.rate_hz,
    )
    return split_at_gaps(video, naming.max_step)


def _by_source(rows: Iterable[Row], naming: Naming) -> list[Video]:
    """Lines of images, as videos."""
    images: dict[str, Path] = {}
    labels: dict[str, Path] = {}
    beside: set[tuple[Path, str]] = set()
    for row in rows:
        stem = frame_stem(row.image)
        label = row.label or naming.find_label(row.image)
        if label is not None and labels.setdefault(stem, label) != label:
            raise ValueError(f"{row.where}: {row.image.name} is listed with two different labels")
        images[stem] = row.image
        if row.label is not None:
            source, _ = naming.place(row.image)
            folder = (row.frame or row.image).parent
            beside |= {(place, source) for place in naming.folders(folder)}
    if not images:
        return []
    sources: dict[Path, set[str]] = {}
    for folder, source in beside:
        sources.setdefault(folder, set()).add(source)
    for folder in sorted(path for path in sources if path.is_dir()):
        for path in list_images(folder).values():
            if naming.place(path)[0] in sources[folder]:
                images.setdefault(frame_stem(path), path)
    places = {stem: naming.place(path) for stem, path in images.items()}
    whole = videos_by_source(places, images, labels, naming.rate_hz)
    return [part for video in whole for part in split_at_gaps(video, naming.max_step)]

"""Make the folders that the data sets read from what their makers hand out.

Here is what all preparations share, and Cityscapes; CamVid is in `prepare_camvid`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from vidseg.atomic import remove_stale
from vidseg.data import cityscapes
from vidseg.data.files import (
    map_values,
    name_missing,
    read_indices,
    write_image,
    write_whole,
)
from vidseg.progress import Display, silent


@dataclass
class Prepared:
    """The record of a preparation: files written and kept, and damage.

    Attributes:
        written: files written by this run.
        kept: files found from an earlier run.
        problems: what was missing or looks wrong, one sentence each.
        has_damage: a video broke off, or ends before the frames that it should have.
        notes: what was found and made, a line each.
    """

    written: int
    kept: int
    problems: list[str]
    has_damage: bool = False
    notes: list[str] = field(default_factory=list)

    def tell_damage(self, problem: str) -> None:
        """Note that a source did not give all that it should."""
        self.problems.append(problem)
        self.has_damage = True

    def count(self, is_written: bool) -> None:
        """Count one file: written now, or kept from an earlier run."""
        self.written += is_written
        self.kept += not is_written


def prepare_cityscapes(
    raw: Path,
    out: Path,
    *,
    labels: str = "gtFine",
    before: int = 4,
    after: int = 0,
    link: bool = False,
    progress: Display = silent,
) -> Prepared:
    """Convert labelIds to labelTrainIds, and keep only the frames around the labelled ones.

    With `out` the same folder as `raw` only the labels are converted, beside the originals.
    A second run goes on where the first one stopped. Nothing is ever deleted.

    Args:
        raw: the official layout: leftImg8bit/ and/or leftImg8bit_sequence/, and `labels`.
        out: where the same layout is made.
        labels: folder of the labels.
        before: frames to keep before each labelled one.
        after: frames to keep after each labelled one.
        link: make symbolic links to the frames instead of copies.
        progress: shows how far it is.

    Raises:
        FileNotFoundError: there are no labels or no frames.
        ValueError: a label has values that are no labelIds, or `before` or `after` is negative.
    """
    raw, out = Path(raw), Path(out)
    if before < 0 or after < 0:
        raise ValueError(f"before and after must be 0 or more frames, got {before} and {after}")
    splits = sorted(path.name for path in (raw / labels).glob("[!.]*/"))
    if not splits:
        raise FileNotFoundError(f"{raw / labels} holds no train/, val/ or other split")
    remove_stale(out / labels, below=True)
    done = Prepared(0, 0, [])
    for split in splits:
        found = cityscapes.find_labels(raw, split, labels)
        if not found:
            done.problems.append(f"{raw / labels / split} holds no label")
            continue
        _convert_label_ids(found, raw, out, labels, done, progress)
        if out.resolve() != raw.resolve():
            _keep_frames(found, raw, out, split, (before, after), link, done, progress)
    return done


def _convert_label_ids(
    found: dict[str, Path],
    raw: Path,
    out: Path,
    labels: str,
    done: Prepared,
    progress: Display,
) -> None:
    table = cityscapes.label_id_table()
    with progress(f"labels of {labels}", len(found), unit="files") as meter:
        for path in found.values():
            target = out / path.relative_to(raw)
            if path.stem.endswith("labelTrainIds") or labels in cityscapes.TRAIN_IDS_BY_ANY_NAME:
                done.count(copy_file(path, target))
            else:
                name = path.name.replace("_labelIds.", "_labelTrainIds.")
                target = target.with_name(name)
                is_made = not target.exists()
                if is_made:
                    train_ids = map_values(
                        read_indices(path), table, path, cityscapes.NUM_LABEL_IDS
                    )
                    write_image(target, train_ids)
                done.count(is_made)
            meter.advance()


def _keep_frames(
    found: dict[str, Path],
    raw: Path,
    out: Path,
    split: str,
    around: tuple[int, int],
    link: bool,
    done: Prepared,
    progress: Display,
) -> None:
    frames = cityscapes.find_frames(raw, split)
    wanted: dict[str, None] = {}
    for stem in found:
        source, number = stem.rsplit("_", 1)
        for n in range(int(number) - around[0], int(number) + around[1] + 1):
            wanted[f"{source}_{n:0{len(number)}d}"] = None
    lacking = [stem for stem in wanted if stem not in frames]
    if lacking:
        done.problems.append(
            name_missing(raw, lacking, f"frames around the labelled ones of {split}")
        )
    kept = [frames[stem] for stem in wanted if stem in frames]
    with progress(f"frames of {split}", len(kept), unit="files") as meter:
        for path in kept:
            done.count(copy_file(path, out / path.relative_to(raw), link=link))
            meter.advance()


def copy_file(path: Path, target: Path, *, link: bool = False) -> bool:
    """Copy (or link) a file whole or not at all; False if the target was there already."""
    if target.exists():
        return False
    if link:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)  # a link to where the file was before
        target.symlink_to(path.resolve())
    else:
        write_whole(target, path.read_bytes())
    return True

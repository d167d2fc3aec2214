"""What the values, the palettes and the colours of label files stand for.

Label files come from many hands: indices or colours, palettes in any order, grey stored as a
palette, void as 255 or 65535. A label is read only where what it says is certain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from vidseg.classes import IGNORE
from vidseg.data.files import (
    Colour,
    colours_to_indices,
    map_values,
    missing_file,
)
from vidseg.video.images import Stored, read_stored

MAX_VALUE = 65535
_LOSSY = ("JPEG", "MPO", "AVIF")


class LabelCode:
    """From label files to label indices.

    Values are class indices unless `values` says otherwise. The palette of a file only shows its
    values where it agrees with the classes' colours, or has none of them. Where it has all its
    colours from the classes, in another order, the colours decide, as in an RGB file. A grey
    palette holds the grey values that a grey file would. Everything else is refused.
    """

    def __init__(
        self,
        palette: Sequence[Colour] | np.ndarray,
        names: Sequence[str],
        *,
        values: Mapping[int, int] | None = None,
        ignore_values: Sequence[int] | None = None,
        ignore_colours: Sequence[Colour] = (),
    ) -> None:
        """Say what stands for what.

        Args:
            palette: RGB colour of each class.
            names: of the classes, for messages.
            values: label index of each file value 0..65535, `IGNORE` for void; by default the
                values are the indices. Palettes then mean nothing.
            ignore_values: file values that count nowhere; by default 255, and 65535 in files of
                16 bits.
            ignore_colours: colours that count nowhere.
        """
        self.names = tuple(names)
        self.has_values = values is not None
        self.table = np.full(MAX_VALUE + 1, -1, np.int16)
        if values is None:
            self.table[: len(names)] = np.arange(len(names))
        for value, index in (values or {}).items():
            self.table[value] = index
        void = (IGNORE, MAX_VALUE) if ignore_values is None else ignore_values
        for value in void:
            if values is None or value not in values:
                self.table[value] = IGNORE
        self._classes_of: dict[Colour, set[int]] = {}
        for index, (red, green, blue) in enumerate(np.asarray(palette).tolist()):
            self._classes_of.setdefault((red, green, blue), set()).add(index)
        for colour in ignore_colours:
            self._classes_of[colour] = {IGNORE}

    def read(self, path: Path, *, others: int | None = None) -> np.ndarray:
        """Read a label file.

        Args:
            path: a picture of any lossless format.
            others: label index of values that mean nothing; None refuses them.

        Returns:
            (H, W) uint8 label indices, `IGNORE` where void.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is no picture, or a JPEG, or has several; a value or colour is no class;
                or its palette contradicts the classes' colours.
        """
        try:
            stored = read_stored(path)
        except FileNotFoundError:
            raise missing_file("label", path) from None
        if stored.form in _LOSSY:
            raise ValueError(
                f"{path} is a {stored.form}, which blends labels at every edge; labels need a "
                "lossless file: export them again as PNG"
            )
        if stored.num_pictures > 1:
            raise ValueError(
                f"{path} holds {stored.num_pictures} pictures; a label file has one, save each "
                "under the name of its frame"
            )
        values = stored.values
        if values.ndim == 3:
            return self._by_colour(values, path)
        if values.size and (
            values.min() < 0 or values.max() > MAX_VALUE or values.dtype.kind == "f"
        ):
            raise ValueError(
                f"{path}: label values must be whole numbers of 0..{MAX_VALUE}, got up to "
                f"{values.max()}"
            )
        meaning = self.table if self.has_values else self._of_palette(stored, path)
        return self._look_up(values, meaning, path, others)

    def _look_up(
        self, values: np.ndarray, table: np.ndarray, path: Path, others: int | None
    ) -> np.ndarray:
        if others is not None:
            return np.where(table < 0, others, table).astype(np.uint8)[values]
        try:
            return map_values(values, table, path, len(self.names))
        except ValueError as error:
            raise ValueError(f"{error}{self._hint(values)}") from None

    def _hint(self, values: np.ndarray) -> str:
        """What values that are no class most likely are, and how to say so."""
        if self.has_values:
            return ""
        counted_from_1 = int(values.max()) == len(self.names)
        example = f' (counted from 1: {{"0": null, "1": "{self.names[0]}", ...}})'
        return f' "values" of classes.json says what they stand for{example * counted_from_1}'

    def _of_palette(self, stored: Stored, path: Path) -> np.ndarray:
        """The table of one file: index -> label index."""
        used = stored.palette
        known = {index: self._classes_of.get(colour, set()) for index, colour in used.items()}
        if not any(known.values()):
            return self._of_grey_palette(used, path)

        def agrees(index: int) -> bool:
            ours = int(self.table[index])
            return not known[index] or ours in known[index] or ours == IGNORE

        if all(map(agrees, used)):
            return self.table
        is_void = {index: not known[index] and self.table[index] == IGNORE for index in used}
        if not all(len(known[index]) == 1 or is_void[index] for index in used):
            raise ValueError(f"{path}: {self._contradiction(used, known)}")
        table = np.full_like(self.table, -1)
        for index in used:
            table[index] = next(iter(known[index]), IGNORE)
        return table

    def _of_grey_palette(self, used: Mapping[int, Colour], path: Path) -> np.ndarray:
        """A grey picture may be stored with a palette; its values are then the grey levels."""
        levels = {index: colour[0] for index, colour in used.items() if len(set(colour)) == 1}
        if len(levels) < len(used) or all(index == level for index, level in levels.items()):
            return self.table
        meanings = [int(self.table[level]) for level in levels.values()]
        # 0 and 255 alone are black and white as well.
        if min(meanings) >= 0 and any(0 < m < len(self.names) for m in meanings):
            table = np.full_like(self.table, -1)
            table[list(levels)] = meanings
            return table
        rising = [levels[index] for index in sorted(levels)]
        if rising == sorted(set(rising)):
            return self.table
        raise ValueError(
            f"{path}: its palette is grey in another order than its indices, so it is not certain "
            "which of them are the classes; save it as a grey PNG of class indices"
        )

    def _contradiction(self, used: Mapping[int, Colour], known: Mapping[int, set[int]]) -> str:
        shown = []
        for index, colour in sorted(used.items()):
            if not known[index]:
                shown.append(f"index {index} has {colour}, the colour of none")
            elif int(self.table[index]) not in known[index]:
                names = " and ".join(
                    "void" if i == IGNORE else self.names[i] for i in sorted(known[index])
                )
                shown.append(f"index {index} has {colour}, the colour of {names}")
        return (
            f"its palette and the colours of the classes disagree: {'; '.join(shown[:3])}. Save it "
            "as a grey PNG of class indices, or with the colours of the classes"
        )

    def _by_colour(self, image: np.ndarray, path: Path) -> np.ndarray:
        shared = [c for c, classes in self._classes_of.items() if len(classes) > 1]
        if shared:
            raise ValueError(
                f"{path} is in colour, but the classes "
                f"{', '.join(self.names[i] for i in sorted(self._classes_of[shared[0]]))} have one "
                f"colour, {shared[0]}"
            )
        colours = {colour: next(iter(found)) for colour, found in self._classes_of.items()}
        try:
            return colours_to_indices(image, colours, path)
        except ValueError as error:
            if not (image[..., :1] == image).all():
                raise
            raise ValueError(
                f"{path} is grey stored as RGB, and not of the classes' colours; save it as one "
                "channel of class indices"
            ) from error

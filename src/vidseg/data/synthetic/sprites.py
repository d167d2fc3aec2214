"""What stands in the synthetic street, drawn once: cut-out pictures with a class per texel."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from vidseg.classes import CAMVID

CLASSES = CAMVID.names
SKY, BUILDING, POLE, ROAD, PAVEMENT, TREE, SIGN, FENCE, CAR, PEDESTRIAN, CYCLIST = range(11)
# Label of the texels that one sees through; never in a rendered frame.
EMPTY = 254
LEVELS = 4
VARIANTS = 12

Colour = Sequence[float] | np.ndarray


@dataclass(frozen=True)
class Texture:
    """A picture in metres with smaller copies of itself, so that far texels do not sparkle.

    Attributes:
        labels: (h, w) uint8, the top row first; `EMPTY` is transparent.
        colours: (sum of the levels' texels, 3) uint8 RGB; each level halves both sides.
        offsets: (LEVELS,) first texel of each level in `colours`.
        widths: (LEVELS,) row length of each level.
        texels_per_m: of level 0.
    """

    labels: np.ndarray
    colours: np.ndarray
    offsets: np.ndarray
    widths: np.ndarray
    texels_per_m: float

    @property
    def size_m(self) -> tuple[float, float]:
        """Height and width."""
        height, width = self.labels.shape
        return height / self.texels_per_m, width / self.texels_per_m

    def colour(self, row: np.ndarray, column: np.ndarray, level: np.ndarray | int) -> np.ndarray:
        """Look up colours: integer texel indices of level 0, broadcast -> (..., 3) uint8."""
        index = self.offsets[level] + (row >> level) * self.widths[level] + (column >> level)
        return self.colours.take(index, axis=0)

    def level(self, metres_per_px: np.ndarray | float) -> np.ndarray:
        """The copy whose texels are nearest to a pixel in size."""
        level = np.log2(np.maximum(self.texels_per_m * metres_per_px, 1.0)) + 0.5
        return np.minimum(level.astype(np.intp), LEVELS - 1)


def texture(colours: np.ndarray, labels: np.ndarray, texels_per_m: float) -> Texture:
    """Make a texture of a picture; sides are filled up with transparent texels.

    Args:
        colours: (h, w, 3) float32, 0..255.
        labels: (h, w) uint8.
        texels_per_m: scale.
    """
    block = 1 << (LEVELS - 1)
    fill = (-labels.shape[0] % block, -labels.shape[1] % block)
    # Rows fill up at the top and columns on both sides: feet stay on the ground, in the middle.
    margins = ((fill[0], 0), (fill[1] // 2, fill[1] - fill[1] // 2))
    if any(fill):
        labels = np.pad(labels, margins, constant_values=EMPTY)
        colours = np.pad(colours, (*margins, (0, 0)))
    share = (labels != EMPTY).astype(np.float32)[..., None]
    level = colours.clip(0, 255) * share
    flat, offsets, widths = [], [0], []
    for number in range(LEVELS):
        if number:
            level, share = _halve(level), _halve(share)
        rows, columns = level.shape[:2]
        flat.append((level / np.maximum(share, 1e-6) + 0.5).astype(np.uint8).reshape(-1, 3))
        offsets.append(offsets[-1] + rows * columns)
        widths.append(columns)
    return Texture(
        labels, np.concatenate(flat), np.array(offsets[:-1]), np.array(widths), texels_per_m
    )


def _halve(values: np.ndarray) -> np.ndarray:
    values = values[::2] + values[1::2]
    return (values[:, ::2] + values[:, 1::2]) * np.float32(0.25)


@cache
def grain() -> np.ndarray:
    """(256, 256) float32 noise of zero mean and unit spread, of several sizes, that tiles."""
    rng = np.random.default_rng(7)
    frequency = np.hypot(np.fft.fftfreq(256)[:, None], np.fft.rfftfreq(256)[None])
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.standard_normal((256, 256))) / (frequency + 0.02)
    noise = np.fft.irfft2(spectrum, (256, 256))
    return ((noise - noise.mean()) / noise.std()).astype(np.float32)


def patch_of_grain(rng: np.random.Generator, height: int, width: int, zoom: int = 1) -> np.ndarray:
    """A random piece of `grain`, (height, width), its texels `zoom` times as large."""
    top, left = rng.integers(0, 256, 2)
    rows, columns = (top + np.arange(height) // zoom) % 256, (left + np.arange(width) // zoom) % 256
    return grain()[rows[:, None], columns]


class Canvas:
    """A picture in progress, in metres: x from the middle to the right, y up from the ground."""

    def __init__(self, width_m: float, height_m: float, texels_per_m: float) -> None:
        height, width = round(height_m * texels_per_m), round(width_m * texels_per_m)
        self.texels_per_m = texels_per_m
        self.x = ((np.arange(width) + 0.5 - width / 2) / texels_per_m)[None]
        self.y = ((height - np.arange(height) - 0.5) / texels_per_m)[:, None]
        self.colours = np.zeros((height, width, 3), np.float32)
        self.labels = np.full((height, width), EMPTY, np.uint8)

    def paint(self, mask: np.ndarray, colour: Colour, label: int) -> None:
        """Cover a mask with a colour and a class."""
        self.labels[mask] = label
        self.colours[mask] = colour

    def box(self, left: float, right: float, low: float, high: float) -> np.ndarray:
        """Mask of a rectangle."""
        return (self.x >= left) & (self.x < right) & (self.y >= low) & (self.y < high)

    def disc(self, x: float, y: float, radius_x: float, radius_y: float = 0.0) -> np.ndarray:
        """Mask of a disc or an ellipse."""
        radius_y = radius_y or radius_x
        return ((self.x - x) / radius_x) ** 2 + ((self.y - y) / radius_y) ** 2 <= 1

    def bar(self, x0: float, y0: float, x1: float, y1: float, half_width: float) -> np.ndarray:
        """Mask of a straight bar with round ends."""
        dx, dy = x1 - x0, y1 - y0
        along = ((self.x - x0) * dx + (self.y - y0) * dy) / (dx * dx + dy * dy)
        along = along.clip(0, 1)
        return np.hypot(self.x - x0 - along * dx, self.y - y0 - along * dy) <= half_width

    def wedge(self, low: float, high: float, bottom: tuple, top: tuple) -> np.ndarray:
        """Mask between two heights whose (left, right) go from `bottom` to `top`."""
        share = (self.y - low) / (high - low)
        left = bottom[0] + share * (top[0] - bottom[0])
        right = bottom[1] + share * (top[1] - bottom[1])
        return (self.y >= low) & (self.y < high) & (self.x >= left) & (self.x < right)

    def finish(self, rng: np.random.Generator, roughness: float = 5.0) -> Texture:
        """Roughen and return the picture."""
        height, width = self.labels.shape
        self.colours += roughness * patch_of_grain(rng, height, width)[..., None]
        return texture(self.colours, self.labels, self.texels_per_m)


def _rng(kind: int, variant: int) -> np.random.Generator:
    return np.random.default_rng([kind, variant])


CLOTHES = np.array(
    [(45, 48, 56), (92, 84, 78), (140, 50, 46), (52, 70, 110), (196, 188, 172), (70, 86, 66),
     (30, 30, 34), (172, 128, 60), (112, 112, 118), (88, 52, 84)], np.float32
)  # fmt: skip
SKIN = np.array([(222, 180, 150), (190, 140, 108), (128, 88, 66), (90, 62, 48)], np.float32)
PAINTS = np.array(
    [(186, 188, 192), (40, 42, 46), (226, 226, 224), (120, 124, 130), (150, 28, 30), (36, 60, 118),
     (92, 112, 100), (168, 146, 110), (70, 72, 78), (24, 74, 66)], np.float32
)  # fmt: skip
GLASS, RUBBER, METAL = (44, 54, 62), (26, 26, 28), (104, 106, 104)


@cache
def person(variant: int) -> Texture:
    """Head, trunk and arms of someone on foot, 1.75 m; the legs are `leg`."""
    rng = _rng(1, variant)
    top, skin = rng.choice(CLOTHES), rng.choice(SKIN)
    canvas = Canvas(0.7, 1.78, 40)
    canvas.paint(canvas.bar(0.2, 1.36, 0.25, 0.82, 0.055), top * 0.9, PEDESTRIAN)
    canvas.paint(canvas.bar(-0.2, 1.36, -0.25, 0.82, 0.055), top * 0.8, PEDESTRIAN)
    canvas.paint(canvas.wedge(0.78, 1.45, (-0.17, 0.17), (-0.23, 0.23)), top, PEDESTRIAN)
    canvas.paint(canvas.disc(0, 1.44, 0.2, 0.07), top, PEDESTRIAN)
    canvas.paint(canvas.disc(0, 1.62, 0.1, 0.13), skin, PEDESTRIAN)
    hair = canvas.disc(0, 1.65, 0.115, 0.12) & (canvas.y > 1.62 + 0.05 * rng.standard_normal())
    canvas.paint(hair, rng.choice(CLOTHES) * 0.5, PEDESTRIAN)
    if variant % 3 == 0:
        bag = canvas.box(0.16, 0.33, 0.72, 1.02)
        canvas.paint(bag, rng.choice(CLOTHES), PEDESTRIAN)
    return canvas.finish(rng)


@cache
def leg(variant: int) -> Texture:
    """One leg, 0.85 m, hanging from the hip at its top."""
    rng = _rng(2, variant)
    trousers = rng.choice(CLOTHES) * 0.8
    canvas = Canvas(0.3, 0.88, 40)
    canvas.paint(canvas.wedge(0.04, 0.88, (-0.075, 0.075), (-0.115, 0.115)), trousers, PEDESTRIAN)
    canvas.paint(canvas.box(-0.07, 0.11, 0, 0.08), (38, 34, 32), PEDESTRIAN)
    return canvas.finish(rng)


@cache
def cyclist(variant: int) -> Texture:
    """A rider on a bicycle: from behind for even variants, from the side for odd ones."""
    rng = _rng(3, variant)
    top, trousers, skin = rng.choice(CLOTHES), rng.choice(CLOTHES) * 0.8, rng.choice(SKIN)
    helmet, frame = rng.choice(PAINTS), rng.choice(PAINTS)
    if variant % 2:
        canvas = Canvas(1.8, 1.8, 40)
        for x in (-0.52, 0.52):
            rim = canvas.disc(x, 0.34, 0.34) & ~canvas.disc(x, 0.34, 0.27)
            canvas.paint(rim | canvas.disc(x, 0.34, 0.05), RUBBER, CYCLIST)
        for bar in ((-0.52, 0.34, -0.15, 0.9), (-0.15, 0.9, 0.4, 0.86), (0.52, 0.34, 0.38, 1.02),
                    (-0.05, 0.3, 0.4, 0.86), (-0.52, 0.34, -0.05, 0.3)):  # fmt: skip
            canvas.paint(canvas.bar(*bar, 0.035), frame, CYCLIST)
        canvas.paint(canvas.bar(-0.15, 0.95, 0.12, 0.62, 0.085), trousers, CYCLIST)
        canvas.paint(canvas.bar(0.12, 0.62, -0.02, 0.2, 0.065), trousers, CYCLIST)
        canvas.paint(canvas.bar(-0.15, 0.98, 0.1, 1.42, 0.14), top, CYCLIST)
        canvas.paint(canvas.bar(0.08, 1.38, 0.4, 1.05, 0.05), top * 0.85, CYCLIST)
        canvas.paint(canvas.disc(0.2, 1.6, 0.1, 0.13), skin, CYCLIST)
        canvas.paint(canvas.disc(0.18, 1.66, 0.13, 0.1) & (canvas.y > 1.63), helmet, CYCLIST)
        return canvas.finish(rng)
    canvas = Canvas(0.75, 1.8, 40)
    canvas.paint(canvas.box(-0.035, 0.035, 0, 0.75), RUBBER, CYCLIST)
    canvas.paint(canvas.box(-0.3, 0.3, 1.0, 1.05), METAL, CYCLIST)
    for side in (-1, 1):
        canvas.paint(canvas.bar(0.1 * side, 0.95, 0.13 * side, 0.3, 0.07), trousers, CYCLIST)
        canvas.paint(canvas.bar(0.2 * side, 1.4, 0.28 * side, 1.05, 0.05), top * 0.85, CYCLIST)
    canvas.paint(canvas.wedge(0.85, 1.48, (-0.17, 0.17), (-0.22, 0.22)), top, CYCLIST)
    canvas.paint(canvas.disc(0, 1.6, 0.1, 0.13), skin, CYCLIST)
    canvas.paint(canvas.disc(0, 1.67, 0.13, 0.1), helmet, CYCLIST)
    return canvas.finish(rng)


def car_size(variant: int) -> tuple[float, float, float]:
    """Length, width and height of a car in metres; one in four is a van."""
    return (4.9, 1.95, 2.15) if variant % 4 == 3 else (4.2, 1.8, 1.48)


@cache
def car_end(variant: int, front: bool) -> Texture:
    """A car seen from its front or from behind."""
    rng = _rng(4, variant)
    paint = rng.choice(PAINTS)
    _, width, height = car_size(variant)
    half, waist = width / 2, 0.6 * height
    canvas = Canvas(width + 0.1, height, 32)
    canvas.paint(canvas.box(-half + 0.1, half - 0.1, 0.12, 0.4), RUBBER, CAR)
    for side in (-1, 1):
        inner, outer = sorted((side * (half - 0.28), side * (half - 0.03)))
        canvas.paint(canvas.box(inner, outer, 0, 0.45), RUBBER, CAR)
    shade = 0.75 + 0.35 * (canvas.y / height) + 0 * canvas.x
    body = canvas.wedge(0.25, waist, (-half, half), (-half + 0.03, half - 0.03))
    narrow = 0.1 if variant % 4 == 3 else 0.24
    cabin = canvas.wedge(waist, height, (-half + 0.05, half - 0.05), (narrow - half, half - narrow))
    for mask in (body, cabin):
        canvas.paint(mask, (paint * shade[..., None])[mask], CAR)
    glass = canvas.wedge(
        waist + 0.04, height - 0.1,
        (-half + 0.14, half - 0.14), (narrow - half + 0.1, half - narrow - 0.1),
    )  # fmt: skip
    canvas.paint(glass, (np.array(GLASS) * (0.8 + 0.8 * (shade[..., None] - 0.75)))[glass], CAR)
    lamp = (236, 232, 214) if front else (176, 24, 22)
    for side in (-1, 1):
        x0, x1 = sorted((side * (half - 0.34), side * (half - 0.05)))
        canvas.paint(canvas.box(x0, x1, 0.62, 0.8), lamp, CAR)
    if front:
        canvas.paint(canvas.box(-half + 0.4, half - 0.4, 0.4, 0.62), (34, 34, 36), CAR)
    canvas.paint(canvas.box(-0.27, 0.27, 0.42, 0.54), (228, 226, 206), CAR)
    canvas.paint(canvas.box(-half, half, 0.25, 0.36), paint * 0.55, CAR)
    return canvas.finish(rng, 3.0)


@cache
def car_side(variant: int, front_right: bool) -> Texture:
    """A car seen from its side."""
    rng = _rng(4, variant)
    paint = rng.choice(PAINTS)
    length, _, height = car_size(variant)
    half, waist = length / 2, 0.6 * height
    canvas = Canvas(length, height, 32)
    shade = 0.65 + 0.4 * (canvas.y / height) + 0 * canvas.x
    body = canvas.wedge(0.22, waist, (-half, half), (-half + 0.05, half - 0.2))
    if variant % 4 == 3:
        cabin_left, cabin_right = (-half + 0.05, half - 0.5), (-half + 0.1, half - 1.0)
    else:
        cabin_left, cabin_right = (-half + 0.1, half - 1.0), (-half + 0.3, half - 1.75)
    cabin = canvas.wedge(waist, height, cabin_left, cabin_right)
    for mask in (body, cabin):
        canvas.paint(mask, (paint * shade[..., None])[mask], CAR)
    bottom = (cabin_left[0] + 0.12, cabin_left[1] - 0.14)
    top = (cabin_right[0] + 0.1, cabin_right[1] - 0.1)
    glass = canvas.wedge(waist + 0.03, height - 0.1, bottom, top)
    glass &= np.abs(canvas.x - (bottom[0] + bottom[1]) / 2) > 0.05
    canvas.paint(glass, GLASS, CAR)
    canvas.paint(canvas.box(-half, half, 0.22, 0.34), paint * 0.5, CAR)
    canvas.paint(canvas.box(half - 0.3, half - 0.08, 0.62, 0.76), (232, 228, 210), CAR)
    canvas.paint(canvas.box(-half, -half + 0.16, 0.62, 0.8), (168, 24, 22), CAR)
    for x in (-half + 0.78, half - 0.8):
        canvas.paint(canvas.disc(x, 0.33, 0.38) & (canvas.y < 0.62), (20, 20, 22), CAR)
        canvas.paint(canvas.disc(x, 0.32, 0.32), RUBBER, CAR)
        canvas.paint(canvas.disc(x, 0.32, 0.19), (150, 152, 154), CAR)
    if not front_right:
        canvas.colours, canvas.labels = canvas.colours[:, ::-1], canvas.labels[:, ::-1].copy()
    return canvas.finish(rng, 3.0)


@cache
def tree(variant: int) -> Texture:
    """A street tree, trunk and crown, 4 to 7 m, with gaps in the foliage."""
    rng = _rng(5, variant)
    height, spread = rng.uniform(4.5, 7), rng.uniform(1.5, 2.3)
    canvas = Canvas(2 * spread + 0.6, height, 14)
    trunk = rng.uniform(0.12, 0.2)
    bark = np.array((88, 74, 60)) * rng.uniform(0.7, 1.1)
    canvas.paint(canvas.wedge(0, height * 0.7, (-trunk, trunk), (-0.05, 0.05)), bark, TREE)
    crown = np.full(canvas.labels.shape, -1.0)
    middle = height * 0.66
    for _ in range(9):
        angle, reach = rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 0.55)
        x, y = spread * reach * np.cos(angle), middle + height * 0.34 * reach * np.sin(angle)
        radius = rng.uniform(0.4, 0.58)
        far = ((canvas.x - x) / (spread * radius)) ** 2
        far = far + ((canvas.y - y) / (height * 0.34 * radius)) ** 2
        crown = np.maximum(crown, 1.35 - far)
    leaves = patch_of_grain(rng, *crown.shape)
    mask = crown + 0.22 * leaves > 0.35
    green = np.array((74, 98, 50)) * rng.uniform(0.75, 1.2) + rng.uniform(-12, 12, 3)
    light = 0.7 + 0.45 * (canvas.y - middle) / (height * 0.34) * 0.5 - 0.1 * canvas.x / spread
    colours = green * (light + 0.2 * leaves).clip(0.3, 1.6)[..., None]
    canvas.paint(mask, colours[mask], TREE)
    return canvas.finish(rng, 4.0)


@cache
def lamp_post(width_m: float, over_right: bool) -> Texture:
    """A lamp post of 6 m with its arm over the road."""
    rng = _rng(6, int(over_right))
    side = 1 if over_right else -1
    canvas = Canvas(3.2, 6.0, 24)
    canvas.paint(canvas.box(-width_m / 2, width_m / 2, 0, 5.9), METAL, POLE)
    canvas.paint(canvas.box(-width_m * 0.8, width_m * 0.8, 0, 0.9), np.array(METAL) * 0.8, POLE)
    canvas.paint(canvas.bar(0, 5.6, side * 1.3, 5.85, width_m * 0.4), METAL, POLE)
    canvas.paint(canvas.disc(side * 1.25, 5.8, 0.3, 0.12), (196, 196, 186), POLE)
    return canvas.finish(rng, 3.0)


@cache
def sign(variant: int, width_m: float) -> Texture:
    """A traffic sign or, for every third variant, traffic lights, on a post."""
    rng = _rng(7, variant)
    canvas = Canvas(1.1, 3.2, 36)
    half = width_m / 2
    canvas.paint(canvas.box(-half, half, 0, 2.9), METAL, POLE)
    if variant % 3 == 0:
        canvas.paint(canvas.box(-0.2, 0.2, 2.2, 3.15), (30, 32, 30), SIGN)
        lamps = [(70, 20, 18), (84, 66, 20), (20, 66, 34)]
        lit = int(rng.integers(3))
        lamps[lit] = [(255, 62, 48), (255, 190, 60), (80, 240, 150)][lit]
        for y, lamp in zip((2.98, 2.68, 2.38), lamps, strict=True):
            canvas.paint(canvas.disc(0, y, 0.11), lamp, SIGN)
    elif variant % 3 == 1:
        canvas.paint(canvas.disc(0, 2.7, 0.42), (178, 30, 32), SIGN)
        canvas.paint(canvas.disc(0, 2.7, 0.32), (232, 230, 224), SIGN)
        canvas.paint(canvas.box(-0.14, 0.14, 2.58, 2.82), (40, 40, 42), SIGN)
    else:
        blue = (28, 72, 150) if variant % 2 else (212, 168, 40)
        canvas.paint(canvas.box(-0.42, 0.42, 2.28, 3.1), (224, 224, 220), SIGN)
        canvas.paint(canvas.box(-0.37, 0.37, 2.33, 3.05), blue, SIGN)
        canvas.paint(canvas.bar(-0.15, 2.5, 0.15, 2.88, 0.07), (232, 232, 228), SIGN)
    return canvas.finish(rng, 3.0)

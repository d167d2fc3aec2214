"""The synthetic street: how it is laid out, what stands in it, and how everything moves.

Metres; x to the right, y up, z along the street. Time is counted in frames. The street is a loop
of `LOOP_M`, so a video can have any length; every position is a closed form of time.
"""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from vidseg.data.synthetic import sprites
from vidseg.data.synthetic.sprites import BUILDING, EMPTY, SKY, TREE, Texture, patch_of_grain
from vidseg.data.synthetic.walls import (
    CROSSINGS_M,
    FACADES,
    LOOP_M,
    SIDE_STREET_M,
    WALL_TEXELS_PER_M,
    facade,
    wall,
)

Camera = Literal["drive", "pan", "still"]
CAMERAS: tuple[Camera, ...] = ("drive", "pan", "still")
RATE_HZ = 15.0
BOB = 0.008  # how far a driving camera bobs, as a share of the height


@dataclass(frozen=True)
class Pose:
    """The camera's place, and the shift of the image by its turning, in whole pixels."""

    x: float
    y: float
    z: float
    shift_x: int
    shift_y: int


@dataclass(frozen=True)
class Thing:
    """A flat cut-out: facing the camera, or (`side`) a plane along the street.

    Attributes:
        texture: its picture.
        x: metres, of its middle; of the plane if `side`.
        z: metres, of the plane; of the end that is nearer at the start of the street if `side`.
        y: metres, of its lower edge.
        side: -1 or 1 for the left or right side of something, 0 for a cut-out across the street.
        move_x: metres per frame.
        range_x: it goes through from -range to range and starts again, or to and fro.
        shuttles: to and fro.
        move_z: metres per frame.
        leads: keeps its distance `z` to the camera, swinging by `swing_z`.
        swing_z: metres.
        stride: of a leg: how far it swings, metres per metre of its length.
        phase: of all that swings, radians.
        shadow: (metres across, metres along) of its shadow on the ground, 0 for none.
    """

    texture: Texture
    x: float
    z: float
    y: float = 0.0
    side: int = 0
    move_x: float = 0.0
    range_x: float = 0.0
    shuttles: bool = False
    move_z: float = 0.0
    leads: bool = False
    swing_z: float = 0.0
    stride: float = 0.0
    phase: float = 0.0
    shadow: tuple[float, float] = (0.0, 0.0)
    offset_x: float = 0.0


@dataclass(frozen=True)
class Wall:
    """The row of houses and fences on one side: one endless picture in the plane x = const."""

    texture: Texture
    x: float


@dataclass
class Street:
    """One video's world."""

    camera: Camera
    road_half_m: float
    pavement_m: float
    walls: list[Wall]
    things: list[Thing]
    light: np.ndarray
    haze: np.ndarray
    noise: float
    flicker: float
    bonnet: float
    speed: float
    start_z: float
    start_x: float
    sway: tuple[float, float] = (0.0, 0.0)
    pan: tuple[float, float] = (0.0, 0.0)
    colours: dict[str, np.ndarray] = field(default_factory=dict)

    def pose(self, t: int, width: int, height: int) -> Pose:
        """Compute the camera's pose at frame t; shifts are whole pixels."""
        amount, phase = self.pan
        period = 60 if self.camera == "pan" else 45
        shift_x = round(width * amount * np.sin(2 * np.pi * t / period + phase))
        bob = BOB * height * np.sin(0.9 * t + phase) if self.camera == "drive" else 0.0
        amount, phase = self.sway
        x = self.start_x + amount * np.sin(0.06 * t + phase)
        return Pose(x, 1.45, self.start_z + self.speed * t, shift_x, round(bob))

    def max_shift(self, width: int) -> int:
        """The largest `shift_x` of any frame."""
        return round(width * abs(self.pan[0])) + 1

    def max_bob(self, height: int) -> int:
        """At least the largest `shift_y` of any frame."""
        return max(2, round(BOB * height))

    def positions(self, t: int, camera_z: float) -> np.ndarray:
        """Compute each thing's place at frame t: (N, 3) of x, z from the camera, and stride."""
        out = np.empty((len(self.things), 3))
        for row, thing in zip(out, self.things, strict=True):
            x = thing.x + thing.move_x * t
            if thing.range_x:
                span = 2 * thing.range_x
                x = (x + thing.range_x) % (2 * span if thing.shuttles else span)
                x = min(x, 2 * span - x) - thing.range_x
            swing = np.sin(0.12 * t + thing.phase)
            if thing.leads:
                z = thing.z + thing.swing_z * swing
            else:
                z = (thing.z + thing.move_z * t - camera_z + 8) % LOOP_M - 8
            row[:] = x + thing.offset_x, z, thing.stride * np.sin(0.55 * t + thing.phase)
        return out


def build(seed: int, size: tuple[int, int], camera: Camera | None = None) -> Street:
    """Lay out the street of a seed.

    Args:
        seed: 0 or more; equal seeds give equal streets.
        size: (H, W) of the frames; posts are never thinner than a pixel at 25 m.
        camera: "drive" along the street, "pan" or stand "still" at a crossing; None draws one.
    """
    rng = np.random.default_rng([seed, 0])
    drawn = CAMERAS[rng.choice(3, p=(0.6, 0.2, 0.2))]
    camera = camera or drawn
    crossing = CROSSINGS_M[rng.integers(2)]
    road_half = rng.uniform(4.6, 6.0)
    pavement = rng.uniform(3.0, 5.0)
    light = np.array([(1.0, 1.0, 1.0), (1.06, 0.96, 0.84), (0.86, 0.9, 0.95), (0.62, 0.64, 0.74)])
    haze = np.array([(206, 218, 230), (226, 208, 186), (196, 200, 204), (140, 146, 166)])
    weather = int(rng.choice(4, p=(0.4, 0.2, 0.25, 0.15)))
    street = Street(
        camera=camera,
        road_half_m=road_half,
        pavement_m=pavement,
        walls=[],
        things=[],
        light=light[weather] * rng.uniform(0.9, 1.08),
        haze=haze[weather].astype(float),
        noise=rng.uniform(3, 8) + (3 if weather == 3 else 0),
        flicker=rng.uniform(0.005, 0.03),
        bonnet=rng.uniform(0.05, 0.1) if camera == "drive" and rng.random() < 0.5 else 0.0,
        speed=rng.uniform(4, 11) / RATE_HZ if camera == "drive" else 0.0,
        start_z=rng.uniform(0, LOOP_M) if camera == "drive" else crossing - rng.uniform(10, 15),
        start_x=0.4 * road_half + rng.uniform(-0.4, 0.4),
        sway=(0.25 * (camera == "drive"), rng.uniform(0, 6.3)),
        pan=({"drive": 0.035, "pan": 0.28, "still": 0.0}[camera], rng.uniform(0, 6.3)),
        colours={
            "road": np.array([88, 88, 92]) * rng.uniform(0.75, 1.2) + rng.uniform(-4, 4, 3),
            "pavement": np.array([132, 126, 120]) * rng.uniform(0.7, 1.15) + rng.uniform(-6, 6, 3),
        },
    )
    edge = road_half + pavement
    for side in (-1, 1):
        street.walls.append(Wall(wall(rng, shade=0.82 + 0.18 * (side > 0)), side * edge))
        street.walls.append(Wall(wall(rng, shade=0.8, behind=True), side * (edge + 9)))
    post = max(0.16, 25 / focal_px(size))
    _add_furniture(street, rng, post)
    _add_parked_cars(street, rng)
    _add_traffic(street, rng, crossing)
    _add_people(street, rng, crossing)
    return street


def focal_px(size: tuple[int, int]) -> float:
    """Focal length of the camera for frames of (H, W)."""
    return 0.62 * max(size[1], 1.5 * size[0])


def backdrop(
    seed: int, street: Street, size: tuple[int, int], horizon: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draw sky and far skyline, wide enough for every shift of the camera.

    Args:
        seed: of the video.
        street: what colours the air.
        size: (H, W) of the frames.
        horizon: its row in an unshifted frame.

    Returns:
        colours (h, w, 3) uint8 and labels (h, w) uint8, larger than a frame by `max_shift` on
        the left and right and by `max_bob` above and below.
    """
    rng = np.random.default_rng([seed, 1])
    bob = street.max_bob(size[0])
    height, width = size[0] + 2 * bob, size[1] + 2 * street.max_shift(size[1])
    up = (horizon + bob - np.arange(height))[:, None] / max(horizon, 1)
    zenith = street.haze * (0.62, 0.78, 1.0)
    share = up.clip(0, 1)[..., None] ** 0.8
    sky = street.haze * (1 - share) + zenith * share
    zoom = size[0] / 60
    clouds = 0.5 * (_clouds(rng, height, width, zoom) + _clouds(rng, height, width, 3 * zoom))
    cover = ((clouds - rng.uniform(-0.2, 0.9)) * 0.8).clip(0, 1)[..., None]
    colours = sky * (1 - cover) + (street.haze * 0.4 + 150) * cover
    labels = np.full((height, width), SKY, np.uint8)
    along = 0
    while along < width:
        stop = along + int(rng.uniform(0.04, 0.14) * size[1]) + 2
        is_tree = rng.random() < 0.45
        top = rng.uniform(0.1, 0.3) * np.ones(max(min(stop, width) - along, 1))
        if is_tree:
            top = 0.7 * top + 0.02 * patch_of_grain(rng, 1, len(top))[0]
        mask = up < top
        labels[:, along:stop][mask] = TREE if is_tree else BUILDING
        near = np.array((84, 100, 66)) if is_tree else FACADES[rng.integers(len(FACADES))]
        tint = 0.55 * near * rng.uniform(0.8, 1.1) + 0.45 * street.haze
        grain = patch_of_grain(rng, height, len(top))[..., None]
        colours[:, along:stop][mask] = (tint + 5 * grain)[mask]
        along = stop
    return colours.clip(0, 255).astype(np.uint8), labels


def _clouds(rng: np.random.Generator, height: int, width: int, zoom: float) -> np.ndarray:
    """A piece of grain, enlarged without blocks; twice as wide as high."""
    y, x = np.arange(height)[:, None] / zoom, np.arange(width) / (2 * zoom)
    coarse = patch_of_grain(rng, int(y[-1, 0]) + 2, int(x[-1]) + 2)
    row, column = y.astype(int), x.astype(int)
    lower, right = y - row, x - column
    upper = coarse[row, column] * (1 - right) + coarse[row, column + 1] * right
    under = coarse[row + 1, column] * (1 - right) + coarse[row + 1, column + 1] * right
    return upper * (1 - lower) + under * lower


def _near_crossing(z: float, margin: float) -> bool:
    return any(abs(z - c) < SIDE_STREET_M + margin for c in CROSSINGS_M)


def _add_furniture(street: Street, rng: np.random.Generator, post_m: float) -> None:
    kerb = street.road_half_m + 0.7
    for side in (-1, 1):
        for z in np.arange(rng.uniform(0, 12), LOOP_M - 6, rng.uniform(9, 16)):
            z = z + rng.uniform(-2, 2)
            if not _near_crossing(z, 1.5) and rng.random() < 0.75:
                texture = sprites.tree(int(rng.integers(sprites.VARIANTS)))
                x = side * (kerb + rng.uniform(0.1, 0.8))
                street.things.append(Thing(texture, x, z, shadow=(1.6, 1.2)))
        lamp = sprites.lamp_post(round(post_m, 3), over_right=side < 0)
        for z in np.arange(rng.uniform(0, 10), LOOP_M - 5, rng.uniform(18, 26)):
            if not _near_crossing(z, 0):
                street.things.append(Thing(lamp, side * (kerb - 0.2), z, shadow=(0.3, 0.3)))
        for z in np.arange(rng.uniform(0, 10), LOOP_M - 4, rng.uniform(14, 24)):
            if not _near_crossing(z, 0):
                sign = sprites.sign(int(rng.integers(sprites.VARIANTS)), round(post_m * 0.8, 3))
                street.things.append(Thing(sign, side * (kerb - 0.1), z, shadow=(0.3, 0.3)))
        for crossing in CROSSINGS_M:
            lights = sprites.sign(3 * int(rng.integers(4)), round(post_m * 0.8, 3))
            z = crossing - SIDE_STREET_M - 0.4
            street.things.append(Thing(lights, side * (kerb - 0.1), z, shadow=(0.3, 0.3)))
            # The flank of the house on the far corner, seen across the side street.
            flank = _flank(rng)
            x = side * (street.road_half_m + street.pavement_m + flank.size_m[1] / 2)
            street.things.append(Thing(flank, x, crossing + SIDE_STREET_M))


def _flank(rng: np.random.Generator) -> Texture:
    scale = WALL_TEXELS_PER_M
    height, width = int(16 * scale), int(24 * scale)
    colours = np.zeros((height, width, 3), np.float32)
    labels = np.full((height, width), EMPTY, np.uint8)
    facade(rng, colours, labels, scale)
    return sprites.texture(colours * 0.75, labels, scale)


def _add_car(street: Street, variant: int, x: float, z: float, oncoming: bool, **motion) -> None:
    length, width, _ = sprites.car_size(variant)
    end = sprites.car_end(variant, front=oncoming)
    shadow = (width * 0.56, length * 0.55)
    street.things.append(Thing(end, x, z, shadow=shadow, **motion))
    for side in (-1, 1):
        flank = sprites.car_side(variant, front_right=not oncoming)
        street.things.append(Thing(flank, x + side * width / 2, z, side=side, **motion))


def _add_parked_cars(street: Street, rng: np.random.Generator) -> None:
    for side in (-1, 1):
        z = rng.uniform(0, 8)
        while z < LOOP_M - 6:
            if not _near_crossing(z + 2, 4) and rng.random() < 0.5:
                variant = int(rng.integers(sprites.VARIANTS))
                x = side * (street.road_half_m - 1.05)
                _add_car(street, variant, x, z, oncoming=side < 0)
            z += rng.uniform(5.4, 9)


def _add_traffic(street: Street, rng: np.random.Generator, crossing: float) -> None:
    lane = 0.3 * street.road_half_m
    if street.camera == "drive":
        if rng.random() < 0.7:
            motion = {"leads": True, "swing_z": rng.uniform(1, 3), "phase": rng.uniform(0, 6.3)}
            variant = int(rng.integers(sprites.VARIANTS))
            _add_car(street, variant, street.start_x, rng.uniform(9, 24), False, **motion)
        for _ in range(int(rng.integers(1, 4))):
            variant, speed = int(rng.integers(sprites.VARIANTS)), rng.uniform(5, 11) / RATE_HZ
            _add_car(street, variant, -lane, rng.uniform(0, LOOP_M), True, move_z=-speed)
        return
    for lane_z, heading in ((-2.2, 1), (2.2, -1)):
        for _ in range(int(rng.integers(1, 3))):
            variant = int(rng.integers(sprites.VARIANTS))
            texture = sprites.car_side(variant, front_right=heading > 0)
            length, _, _ = sprites.car_size(variant)
            thing = Thing(
                texture,
                rng.uniform(-45, 45),
                crossing + lane_z,
                move_x=heading * rng.uniform(4, 9) / RATE_HZ,
                range_x=45,
                shadow=(length * 0.55, 0.9),
            )
            street.things.append(thing)
    if rng.random() < 0.6:
        _add_car(street, int(rng.integers(12)), -lane, crossing + 9, True)


def _add_person(street: Street, rng: np.random.Generator, x: float, z: float, **motion) -> None:
    variant = int(rng.integers(sprites.VARIANTS))
    phase = rng.uniform(0, 6.3)
    across = bool(motion.get("move_x"))
    body, leg = sprites.person(variant), sprites.leg(variant)
    street.things.append(Thing(body, x, z, phase=phase, shadow=(0.35, 0.25), **motion))
    for side in (-1, 1):
        stride, apart = (0.42 * side, 0.02 * side) if across else (0.03 * side, 0.095 * side)
        street.things.append(Thing(leg, x, z, stride=stride, phase=phase, offset_x=apart, **motion))


def _add_people(street: Street, rng: np.random.Generator, crossing: float) -> None:
    for _ in range(int(rng.integers(8, 18))):
        side = rng.choice((-1, 1))
        x = side * (street.road_half_m + rng.uniform(0.5, street.pavement_m - 0.4))
        pace = rng.choice((-1, 1, 0)) * rng.uniform(0.9, 1.6) / RATE_HZ
        _add_person(street, rng, x, rng.uniform(0, LOOP_M), move_z=pace)
    reach = street.road_half_m + street.pavement_m - 0.5
    places = [crossing - SIDE_STREET_M - 1.5] * 3 + [rng.uniform(0, LOOP_M) for _ in range(4)]
    for z in places:
        pace = rng.uniform(0.9, 1.7) / RATE_HZ
        _add_person(
            street, rng, rng.uniform(-reach, reach), z + rng.uniform(-1, 1),
            move_x=pace, range_x=reach, shuttles=True,
        )  # fmt: skip
    for _ in range(int(rng.integers(3, 8))):
        side = rng.choice((-1, 1))
        rider = sprites.cyclist(2 * int(rng.integers(sprites.VARIANTS // 2)))
        pace = rng.uniform(3, 5) / RATE_HZ
        x = side * (street.road_half_m - 2.6)
        street.things.append(
            Thing(rider, x, rng.uniform(0, LOOP_M), move_z=side * pace, shadow=(0.3, 0.8))
        )
    if street.camera != "drive":
        rider = sprites.cyclist(1 + 2 * int(rng.integers(sprites.VARIANTS // 2)))
        street.things.append(
            Thing(rider, rng.uniform(-9, 9), crossing - 3.6, move_x=rng.uniform(2.5, 4.5) / RATE_HZ,
                  range_x=30, shadow=(0.8, 0.25))
        )  # fmt: skip

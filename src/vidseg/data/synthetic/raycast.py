"""Draw the synthetic street: for each pixel the one surface point that its centre sees.

The surfaces are the ground, the endless walls beside it, flat cut-outs and the sky. A depth buffer
decides what is nearest; because the point itself is known, so is where it will be seen next.
"""

from dataclasses import dataclass

import numpy as np

from vidseg.classes import IGNORE
from vidseg.data.synthetic import street as streets
from vidseg.data.synthetic.sprites import EMPTY, PAVEMENT, ROAD, Texture, grain
from vidseg.data.synthetic.street import Camera, Pose, Wall
from vidseg.data.synthetic.walls import LOOP_M

NEAR_M, FAR_M = 0.6, 80.0
SKY_M = 1e9
HIP_M = 0.85


@dataclass
class View:
    """One frame being drawn: what each pixel sees, and how far away."""

    t: int
    pose: Pose
    x: np.ndarray  # (W,) columns from the principal point, px
    y: np.ndarray  # (H,) rows below the horizon, px
    colours: np.ndarray  # (H, W, 3) uint8
    labels: np.ndarray  # (H, W) uint8
    depth: np.ndarray  # (H, W) float64 metres
    index: np.ndarray  # (H, W) int32: which surface, see Renderer.GROUND
    places: np.ndarray  # (N, 3) of the things: x, z from the camera, stride

    def paint(
        self,
        rows: slice,
        columns: slice,
        texture: Texture,
        row: np.ndarray,
        column: np.ndarray,
        level: np.ndarray | int,
        depth: np.ndarray | float,
        index: int,
    ) -> None:
        """Draw texels (broadcast row and column indices, all inside) where nothing is nearer."""
        labels = texture.labels[row, column]
        seen = (labels != EMPTY) & (depth < self.depth[rows, columns])
        if not seen.any():
            return
        np.copyto(self.labels[rows, columns], labels, where=seen)
        np.copyto(self.depth[rows, columns], depth, where=seen)
        np.copyto(self.index[rows, columns], index, where=seen)
        colours = texture.colour(row, column, level)
        np.copyto(self.colours[rows, columns], colours, where=seen[..., None])


class Renderer:
    """Draws the frames of one street, and how each point moves between two of them."""

    SKY, GROUND, WALLS, BONNET = 0, 1, 2, 6
    THINGS = 8

    def __init__(self, seed: int, size: tuple[int, int], camera: Camera | None) -> None:
        self.seed, self.size = seed, size
        self.street = streets.build(seed, size, camera)
        self.focal = streets.focal_px(size)
        self.horizon = round(0.42 * size[0])
        self.sky = streets.backdrop(seed, self.street, size, self.horizon)
        self.bonnet = self._bonnet()
        things = self.street.things
        widths = np.array([thing.texture.size_m[1] for thing in things])
        along = np.array([thing.side != 0 for thing in things])
        self.lengths = np.where(along, widths, 0.0)
        # Striding legs reach half their length further.
        self.half_widths = np.where(along, 0.0, widths / 2 + 0.5)

    def view(self, t: int) -> View:
        """Draw what is seen at frame t."""
        height, width = self.size
        pose = self.street.pose(t, width, height)
        top = self.street.max_bob(height) - pose.shift_y
        left = self.street.max_shift(width) - pose.shift_x
        window = slice(top, top + height), slice(left, left + width)
        view = View(
            t=t,
            pose=pose,
            x=np.arange(width) - (width - 1) / 2 - pose.shift_x,
            y=np.arange(height) - (self.horizon + pose.shift_y),
            colours=self.sky[0][window].copy(),
            labels=self.sky[1][window].copy(),
            depth=np.full(self.size, SKY_M),
            index=np.full(self.size, self.SKY, np.int32),
            places=self.street.positions(t, pose.z),
        )
        self._draw_ground(view)
        for number, wall in enumerate(self.street.walls):
            self._draw_wall(view, wall, self.WALLS + number)
        for number in self._in_view(view):
            if self.street.things[number].side:
                self._draw_side(view, number)
            else:
                self._draw_face(view, number)
        if self.bonnet is not None:
            view.colours[self.bonnet] = 34 * self.street.light
            view.labels[self.bonnet] = IGNORE
            view.index[self.bonnet] = self.BONNET
        return view

    def flow(self, view_t: View, view_s: View) -> tuple[np.ndarray, np.ndarray]:
        """Compute the exact motion from t to s: flow (2, H, W) float32 px, valid (H, W) bool."""
        height, width = self.size
        move, stride = self._moves(view_t, view_s)
        dx, dz = move[0].take(view_t.index), move[1].take(view_t.index)
        depth, x, y = view_t.depth, view_t.x[None], view_t.y[:, None]
        if stride.any():
            # Height above the hip, times the change of slant.
            above = view_t.pose.y - y * depth / self.focal - HIP_M
            dx = dx + stride.take(view_t.index) * above
        ahead = depth + dz
        in_front = ahead > 0.1
        ahead = np.where(in_front, ahead, 1.0)
        to_x = (x * depth + self.focal * dx) / ahead - view_s.x[0]
        to_y = y * depth / ahead - view_s.y[0]
        if self.bonnet is not None:
            columns, rows = np.meshgrid(np.arange(width), np.arange(height))
            to_x = np.where(self.bonnet, columns, to_x)
            to_y = np.where(self.bonnet, rows, to_y)
        flow = np.stack((to_x - np.arange(width), to_y - np.arange(height)[:, None]))
        flow = np.where(in_front, flow, 4.0 * max(self.size)).astype(np.float32)
        return flow, self._visible(flow, view_t, view_s)

    def expose(self, view: View, *, sensor: bool) -> np.ndarray:
        """Turn what is seen into an image: haze, light, and the sensor's faults."""
        street = self.street
        clear = np.exp(view.depth * (-1 / 140)).astype(np.float32)[..., None]
        clear = np.where(view.depth[..., None] == SKY_M, np.float32(1), clear)
        light = street.light.astype(np.float32)
        haze = street.haze.astype(np.float32) * (1 - clear)
        image = (view.colours * clear + haze) * light
        if sensor:
            rng = np.random.default_rng([self.seed, 2, view.t])
            beat = 0.5 * np.sin(0.7 * view.t + street.pan[1]) + rng.standard_normal()
            image = _blur(image) * np.float32(1 + street.flicker * beat)
            image += np.float32(street.noise) * rng.standard_normal(image.shape, dtype=np.float32)
        return (image + 0.5).clip(0, 255).astype(np.uint8)

    def _in_view(self, view: View) -> list[int]:
        """Things that may be seen: in range, and not wholly left or right of the frame."""
        x, z, _ = view.places.T
        far_end = z + self.lengths
        reach = np.abs(view.x[[0, -1]]).max() / self.focal
        ahead = (far_end > NEAR_M) & (z < FAR_M)
        within = np.abs(x - view.pose.x) - self.half_widths < reach * far_end
        return np.flatnonzero(ahead & within).tolist()

    def _draw_ground(self, view: View) -> None:
        street, pose = self.street, view.pose
        first = int(np.searchsorted(view.y, 0, side="right"))
        depth = (pose.y * self.focal / view.y[first:, None]).astype(np.float32)
        x = pose.x + (view.x / self.focal).astype(np.float32) * depth
        z = ((pose.z + depth) % LOOP_M).astype(np.float32)
        across = np.abs(x)
        crossing = _distance_to_crossing(z)
        side_street = crossing < streets.SIDE_STREET_M - 1.2
        road = (across < street.road_half_m) | side_street
        rough = _rough(x, z, depth / self.focal)
        shade = np.where(road, 1 + 0.07 * rough, 1 + 0.09 * rough)
        shade = shade * self._shadows(view, first, depth)
        colours = np.where(
            road[..., None], street.colours["road"], street.colours["pavement"]
        ).astype(np.float32)
        colours[_markings(across, z, crossing, street.road_half_m) & (depth < 60)] = 190
        kerb = ~road & (across < street.road_half_m + 0.18)
        slabs = ~road & (((z % 1.25 < 0.06) & (depth < 14)) | (across % 1.25 < 0.05))
        colours[kerb] *= 1.2
        colours[slabs & (depth < 25)] *= 0.86
        view.colours[first:] = (colours * shade[..., None]).clip(0, 255)
        view.labels[first:] = np.where(road, ROAD, PAVEMENT)
        view.depth[first:] = depth
        view.index[first:] = self.GROUND

    def _shadows(self, view: View, first: int, depth: np.ndarray) -> np.ndarray:
        shade = np.ones((len(depth), self.size[1]), np.float32)
        for thing, (x, z, _) in zip(self.street.things, view.places, strict=True):
            across, along = thing.shadow
            if not across or not NEAR_M < z + along < 50:
                continue
            middle = z + along if thing.shadow[1] > 1.3 else z
            rows = np.flatnonzero(np.abs(depth[:, 0] - middle) < along)
            if not len(rows):
                continue
            rows = slice(rows[0], rows[-1] + 1)
            # Columns where the near and the far end of the shadow can be.
            ends = np.array([-1, 1])[:, None] * across + x - view.pose.x
            ends = ends * self.focal / depth[rows][[0, -1], 0]
            low, high = np.searchsorted(view.x, (ends.min(), ends.max()))
            place = (rows, slice(low, high))
            offset = view.pose.x - x + view.x[low:high] * depth[rows] / self.focal
            far = (offset / across) ** 2 + ((depth[rows] - middle) / along) ** 2
            shade[place] *= 1 - 0.55 * (1.3 * (1 - far)).clip(0, 1).astype(np.float32)
        return shade

    def _draw_wall(self, view: View, wall: Wall, index: int) -> None:
        aside = wall.x - view.pose.x
        columns = np.flatnonzero(view.x * aside > 0)
        depth = self.focal * aside / view.x[columns]
        keep = (depth > NEAR_M) & (depth < 2 * FAR_M)
        columns, depth = columns[keep], depth[keep]
        if not len(columns):
            return
        columns, order = slice(columns[0], columns[-1] + 1), depth
        texture = wall.texture
        along = (view.pose.z + order) % LOOP_M * texture.texels_per_m
        column = along.astype(np.int64) % texture.labels.shape[1]
        # Along the street a pixel covers more than up the wall; the mean of the two.
        spread = order / self.focal * np.sqrt(np.maximum(order / abs(aside), 1))
        self._draw_upright(view, columns, texture, column, order, spread, 0.0, index)

    def _draw_side(self, view: View, number: int) -> None:
        thing = self.street.things[number]
        place_x, place_z, _ = view.places[number]
        aside = place_x - view.pose.x
        length = thing.texture.size_m[1]
        # Only the side that faces the camera is seen.
        if aside * thing.side >= 0 or place_z + length < NEAR_M or place_z > FAR_M:
            return
        ends = self.focal * aside / np.maximum((place_z, place_z + length), NEAR_M)
        low, high = np.searchsorted(view.x, sorted(ends))
        if low >= high:
            return
        depth = self.focal * aside / view.x[low:high]
        column = ((depth - place_z) * thing.texture.texels_per_m).astype(np.int64)
        column = column.clip(0, thing.texture.labels.shape[1] - 1)
        spread = depth / self.focal * np.sqrt(np.maximum(depth / abs(aside), 1))
        columns, index = slice(low, high), self.THINGS + number
        self._draw_upright(view, columns, thing.texture, column, depth, spread, thing.y, index)

    def _draw_upright(
        self,
        view: View,
        columns: slice,
        texture: Texture,
        column: np.ndarray,
        depth: np.ndarray,
        spread: np.ndarray,
        base: float,
        index: int,
    ) -> None:
        """Draw columns of a plane that runs along the street."""
        height = texture.size_m[0]
        near = depth.min()
        low = np.searchsorted(view.y, (view.pose.y - base - height) * self.focal / near)
        high = np.searchsorted(view.y, (view.pose.y - base) * self.focal / near)
        if low >= high:
            return
        up = view.pose.y - view.y[low:high, None] * depth / self.focal - base
        row = texture.labels.shape[0] - 1 - np.floor(up * texture.texels_per_m).astype(np.int64)
        inside = (row >= 0) & (row < texture.labels.shape[0])
        row = row.clip(0, texture.labels.shape[0] - 1)
        depth = np.where(inside, depth, np.inf)
        column = np.broadcast_to(column, row.shape)
        level = texture.level(spread)
        view.paint(slice(low, high), columns, texture, row, column, level, depth, index)

    def _draw_face(self, view: View, number: int) -> None:
        thing = self.street.things[number]
        x, depth, stride = view.places[number]
        if not NEAR_M < depth < FAR_M:
            return
        texture, scale = thing.texture, self.focal / depth
        tall, wide = texture.size_m
        base = thing.y + (HIP_M - tall if thing.stride else 0.0)
        half = wide / 2 + abs(stride) * tall
        middle = x - view.pose.x
        low, high = np.searchsorted(view.x, ((middle - half) * scale, (middle + half) * scale))
        camera_y = view.pose.y
        top, bottom = np.searchsorted(
            view.y, ((camera_y - base - tall) * scale, (camera_y - base) * scale)
        )
        if low >= high or top >= bottom:
            return
        up = camera_y - view.y[top:bottom, None] / scale
        across = view.x[None, low:high] / scale - middle
        if thing.stride:
            across = across - stride * (up - HIP_M)
        rows, columns = texture.labels.shape
        row = rows - 1 - np.floor((up - base) * texture.texels_per_m).astype(np.int64)
        column = np.floor((across + wide / 2) * texture.texels_per_m).astype(np.int64)
        inside = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
        depth = depth if inside.all() else np.where(inside, depth, np.inf)
        row, column = row.clip(0, rows - 1), column.clip(0, columns - 1)
        level = int(texture.level(1 / scale))
        place = slice(top, bottom), slice(low, high)
        view.paint(*place, texture, row, column, level, depth, self.THINGS + number)

    def _moves(self, view_t: View, view_s: View) -> tuple[np.ndarray, np.ndarray]:
        """For each surface: motion relative to the camera (x, z), and change of slant."""
        move = np.zeros((2, self.THINGS + len(self.street.things)))
        stride = np.zeros(move.shape[1])
        camera_x = view_s.pose.x - view_t.pose.x
        # The sky is too far to move: SKY_M swallows what the camera drives.
        move[0], move[1] = -camera_x, -(view_s.pose.z - view_t.pose.z)
        change = view_s.places - view_t.places
        move[0, self.THINGS :] = change[:, 0] - camera_x
        move[1, self.THINGS :] = change[:, 1]
        stride[self.THINGS :] = change[:, 2]
        return move, stride

    def _visible(self, flow: np.ndarray, view_t: View, view_s: View) -> np.ndarray:
        height, width = self.size
        x, y = flow[0] + np.arange(width), flow[1] + np.arange(height)[:, None]
        inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
        column = np.floor(x + 0.5).clip(0, width - 1).astype(np.int64)
        row = np.floor(y + 0.5).clip(0, height - 1).astype(np.int64)
        place = row * width + column
        same = view_s.index.take(place) == view_t.index
        return inside & same & (view_s.labels.take(place) == view_t.labels)

    def _bonnet(self) -> np.ndarray | None:
        if not self.street.bonnet:
            return None
        height, width = self.size
        x = (np.arange(width) - (width - 1) / 2) / (0.62 * width)
        top = height * (1 - self.street.bonnet * np.sqrt((1 - x**2).clip(0)))
        return np.arange(height)[:, None] >= top


def _distance_to_crossing(z: np.ndarray) -> np.ndarray:
    return np.min([np.abs(z - crossing) for crossing in streets.CROSSINGS_M], axis=0)


def _markings(
    across: np.ndarray, z: np.ndarray, crossing: np.ndarray, road_half: float
) -> np.ndarray:
    """Middle line, lines of the parking lanes, and zebras before the crossings."""
    open_road = crossing > streets.SIDE_STREET_M + 3.2
    middle = (across < 0.07) & (z % 6 < 3)
    parking = (np.abs(across - (road_half - 2.1)) < 0.05) & (z % 2 < 1.2)
    zebra = (np.abs(crossing - streets.SIDE_STREET_M - 1.5) < 1.4) & (across % 1.1 < 0.5)
    return (open_road & (middle | parking)) | (zebra & (across < road_half - 0.3))


def _rough(x: np.ndarray, z: np.ndarray, metres_per_px: np.ndarray) -> np.ndarray:
    """Asphalt and stone: fine grain that fades with distance, and broad patches."""
    noise = grain()
    fine = noise[(x * 12).astype(np.int64) & 255, (z * 12).astype(np.int64) & 255]
    broad = noise[(x * 2.4).astype(np.int64) & 255, (z * 1.6).astype(np.int64) & 255]
    return fine * np.minimum(1, 0.05 / metres_per_px) + broad


def _blur(image: np.ndarray) -> np.ndarray:
    """A lens that spreads a sixth of each pixel's light to each neighbouring row and column."""
    image[1:-1] = image[1:-1] * (4 / 6) + (image[:-2] + image[2:]) * (1 / 6)
    image[:, 1:-1] = image[:, 1:-1] * (4 / 6) + (image[:, :-2] + image[:, 2:]) * (1 / 6)
    return image

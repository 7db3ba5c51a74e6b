"""Draw a believable revisit pair: `reference.png` (older) and `target.png` (newer), two aerial pictures of one place.

Everything is procedural and seeded. A `Scene` holds what stays between the dates: roads, houses, trees, soil; a
`Capture` what does not: season, sun, haze, shift and noise of the camera. `render` lays the scene out as a map of
colours and one of heights, lights it and photographs it. A place on the ground is a complex number of metres, x to the
right and y, the imaginary part, down; a direction is one of length one. Colours are sRGB as seen in full sun.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image

Array = np.ndarray[Any, Any]
Colour = tuple[int, int, int]
EXTENT = 307.2  # side of the pictured square: 512 pixels of 0.6 m
OVERSAMPLING = 2  # the ground is drawn this much finer than the picture


# How a field looks: colour of plants, of soil, share of ground under plants, distance and height of the rows
BARLEY = (122, 131, 92), (144, 130, 104), 0.80, 1.7, 0.12
WHEAT = (184, 170, 130), (162, 143, 114), 0.75, 1.7, 0.10
STUBBLE = (190, 178, 146), (160, 142, 116), 0.50, 3.4, 0.06
MAIZE = (90, 102, 76), (132, 116, 96), 0.72, 2.2, 0.30
PLOUGHED = (116, 100, 84), (144, 124, 102), 0.50, 2.7, 0.16
MEADOW = (112, 120, 84), (142, 134, 102), 0.62, 5.0, 0.05
HAY = (146, 144, 106), (166, 158, 122), 0.50, 5.0, 0.10


class Road(NamedTuple):
    """A way: a main road or side road with paint, a street without, or a dirt track."""

    line: Array  # complex, a point a metre
    half_width: float
    colour: Colour
    kind: str


class Box(NamedTuple):
    """A rotated rectangle: a building, a car, or, without height, a garden or a drive."""

    centre: complex
    length: float
    width: float
    along: complex
    colour: Colour
    wall: float = 0.0  # height of the eaves
    pitch: float = 0.0  # rise of the roof per metre
    hip: bool = False
    dates: tuple[int, ...] = (0, 1)


@dataclass(frozen=True)
class Capture:
    """The conditions of one date."""

    date: int  # 0 = older, 1 = newer
    sun: complex  # the direction on the ground towards it
    elevation: float  # of the sun, degrees above the horizon
    grass: Colour
    leaf: Colour
    balance: tuple[float, float, float]  # gains of red, green, blue
    haze: float  # share of scattered light, 0..1
    shift: tuple[float, float]  # of the camera, in pixels of the finished picture
    blur: float  # sigma of the optics, in pixels of the finished picture
    noise: float  # sigma of the sensor, in grey levels


REFERENCE = Capture(0, 0.88 + 0.47j, 52, (120, 126, 92), (72, 88, 58), (0.98, 1.00, 1.10), 0.07, (0.0, 0.0), 0.46, 2.2)
TARGET = Capture(1, -0.72 + 0.69j, 44, (142, 138, 110), (76, 87, 56), (1.07, 1.06, 1.08), 0.03, (0.4, -0.35), 0.40, 2.0)


def smooth(*corners: complex) -> Array:
    """Round off a path by three rounds of Chaikin's corner cutting, and return a point a metre."""
    line = np.array(corners)
    for _ in range(3):
        cut = np.stack([0.75 * line[:-1] + 0.25 * line[1:], 0.25 * line[:-1] + 0.75 * line[1:]], 1).ravel()
        line = np.concatenate([line[:1], cut, line[-1:]])
    length = np.concatenate([[0], np.cumsum(abs(np.diff(line)))])
    return np.asarray(np.interp(np.arange(length[-1]), length, line))


def walk(line: Array, metres: float) -> tuple[complex, complex]:
    """Return the point so far along the line, and the direction there."""
    i = int(np.clip(metres, 1, len(line) - 2))
    step = line[i + 1] - line[i - 1]
    return complex(line[i]), complex(step / abs(step))


@dataclass
class Scene:
    """Everything that stays at its place: the plan is fixed, the seed decides houses, trees and textures."""

    seed: int = 7

    def __post_init__(self) -> None:
        """Lay out the place."""
        rng = self.rng = np.random.default_rng(self.seed)
        self.stream = smooth(340 + 180j, 272 + 204j, 238 + 238j, 214 + 282j, 200 + 335j)
        main = smooth(-30 + 181j, 80 + 174j, 170 + 158j, 240 + 136j, 345 + 95j)
        street, grey, dirt = smooth(141 + 92j, 190 + 78j, 245 + 60j, 340 + 12j), (138, 134, 126), (172, 157, 132)
        # fmt: off
        self.roads = [
            Road(smooth(96 + 171j, 104 + 235j, 101 + 275j, 108 + 330j), 1.9, dirt, "track"),
            Road(smooth(233 + 140j, 240 + 158j, 252 + 178j), 2.0, dirt, "track"),
            Road(street, 3.6, grey, "street"),
            Road(smooth(151 + 162j, 145 + 120j, 130 + 55j, 121 - 22j), 3.3, grey, "side"),
            Road(main, 5.0, (124, 120, 111), "main"),
        ]
        self.fields = [  # outline, direction of the rows in radians, crops on the two dates
            ([-9 - 9j, 113 - 9j, 122 + 58j, 60 + 70j, -9 + 76j], 0.13, (BARLEY, STUBBLE)),
            ([-9 + 81j, 58 + 75j, 124 + 64j, 138 + 118j, 141 + 152j, 80 + 166j, -9 + 171j], -0.12, (MAIZE, PLOUGHED)),
            ([-9 + 189j, 90 + 181j, 97 + 236j, 94 + 272j, 98 + 320j, -9 + 320j], 1.5, (PLOUGHED, MAIZE)),
            ([104 + 181j, 176 + 167j, 188 + 226j, 111 + 243j], -0.2, (MEADOW, HAY)),
            ([111 + 248j, 190 + 231j, 222 + 235j, 200 + 280j, 192 + 320j, 114 + 320j], 1.35, (WHEAT, WHEAT)),
            ([252 + 252j, 320 + 216j, 320 + 320j, 216 + 320j, 224 + 290j], -0.49, (MEADOW, HAY)),
        ]
        along = complex(np.exp(-0.35j))
        self.boxes = [
            Box(254 + 172j, 44, 28, along, (176, 162, 138)), Box(262 + 163j, 30, 13, along, (160, 157, 152), 5.0, 0.4),
            Box(241 + 183j, 17, 9, 1j * along, (150, 124, 110), 3.5, 0.5),
            Box(268 + 184j, 22, 12, 1j * along, (188, 187, 184), 5.0, 0.4, dates=(1,)),  # the new building
        ]
        # fmt: on
        self.trees: list[tuple[complex, tuple[float, float], int]] = []  # centre, radius on each date (0 = none), seed
        for line, aside in ((street, 17), (street, -17), (main, -24), (street, -58)):
            self.add_houses(line, aside)
        for metres in np.arange(0, 190, 2.4):
            point, ahead = walk(self.stream, metres)
            self.plant(point + 1j * ahead * rng.choice([-1, 1]) * rng.uniform(3.5, 12), 2.0, 6.5)
        for start, end in ((-5 + 78.5j, 124 + 61j), (110 + 245.5j, 190 + 228.5j), (126 + 64j, 139 + 118j)):
            for t in np.arange(0, 1, 0.015):  # hedgerows
                self.plant(start + (end - start) * t + rng.normal(0, 0.5), 1.0, rng.choice([1.8, 1.8, 5]))
        for i, j in np.ndindex(11, 9):  # the orchard
            self.plant(108.5 + 186j + 6.5 * complex(i, j) * np.exp(-0.2j) + rng.normal(0, 0.25), 2.0, 2.7)
        for x, y in rng.uniform((142, -5), (307, 130), (230, 2)):
            self.plant(complex(x, y), 1.3, 5.6)
            self.plant(complex(x, 160 + y / 3), 1.3, 5.0, chance=0.12)

    def add_houses(self, line: Array, aside: float) -> None:
        """Line a street with houses, each with garden, drive and trees, where there is room."""
        rng, roofs = self.rng, [(140, 122, 110), (152, 118, 104), (122, 120, 118), (160, 148, 132), (104, 102, 102)]
        for metres in np.cumsum(rng.uniform(19.5, 23, 16)):
            point, ahead = walk(line, metres)
            out = 1j * ahead * np.sign(aside)  # away from the street
            home, turn = point + out * (abs(aside) + rng.uniform(-1.5, 1.5)), ahead * rng.choice([1, 1, 1j])
            taken = any(abs(b.centre - home) < 18 for b in self.boxes if b.wall)
            if taken or home.real < 140 or any(abs(r.line - home).min() < r.half_width + 9 for r in self.roads):
                continue
            green, roof, hip = int(rng.integers(112, 138)), roofs[rng.integers(5)], rng.random() < 0.5
            lawn = (green - int(rng.integers(-24, 16)), green, green - 34)
            length, width, pitch = rng.uniform(13, 18), rng.uniform(8.5, 11), rng.uniform(0.5, 0.75)
            self.boxes += [
                Box(home + 4 * out, 19.5, 30, ahead, lawn),
                Box(home - 9 * out + 5 * ahead, 4.8, 15, ahead, (178, 175, 168)),
                Box(home + 7 * out - 3 * ahead, 8, 6, ahead, (182, 173, 160)),
                Box(home, length, width, turn, roof, 3.2, pitch, hip),
                Box(home + turn * (4 + 3j), 0.7 * length, 0.75 * width, 1j * turn, roof, 3.0, pitch, hip),
                Box(home + 15 * out + ahead * rng.uniform(-7, 7), 4.5, 3.2, ahead, (158, 154, 150), 2.2, 0.2),
            ]
            for along, back in rng.uniform((-10, 8), (10, 20), (6, 2)):
                self.plant(home + along * ahead + back * out, 1.2, 5.0)
            for back in np.arange(-5, 19, 1.6):
                self.plant(home + 10 * ahead + back * out, 0.8, 1.2)  # the hedge

    def plant(self, spot: complex, smallest: float, largest: float, chance: float = 1.0) -> None:
        """Add a tree where neither road nor building is in its way; a few are cut or planted between the dates."""
        radius, fate, seed = self.rng.uniform(smallest, largest), self.rng.random(), int(self.rng.integers(1 << 30))
        on_road = any(abs(r.line - spot).min() < r.half_width + 0.7 * radius for r in self.roads)
        indoors = any(abs(b.centre - spot) < 0.3 * (b.length + b.width) + 0.9 * radius for b in self.boxes if b.wall)
        if fate < chance and not on_road and not indoors:
            cut, new = fate < 0.03 * chance, fate > 0.98 * chance
            self.trees.append((spot, (0 if new else 0.93 * radius, 0 if cut else radius), seed))


class Canvas:
    """The ground from above: `colour` [h, w, 3] in 0..255, `height` [h, w] in metres, `place` [h, w] complex metres."""

    def __init__(self, side: int, seed: int) -> None:
        """Start with black, flat ground."""
        self.side, self.seed, self.scale = side, seed, side / EXTENT  # scale: pixels a metre
        self.colour = np.zeros((side, side, 3), np.float32)
        self.height = np.zeros((side, side), np.float32)
        y, x = np.mgrid[:side, :side].astype(np.float32) / self.scale
        self.place = (x + 1j * y).astype(np.complex64)

    def noise(self, key: int, coarsest: float, octaves: int, gain: float = 0.7) -> Array:
        """Fractal noise of unit variance; `coarsest` metres to its largest cell, `key` names it."""
        rng, total = np.random.default_rng([self.seed, key]), np.zeros_like(self.height)
        for octave in range(octaves):
            n = min(self.side, int(EXTENT / coarsest * 2**octave) + 2)
            cells = rng.normal(size=(n, n)).astype(np.float32) * gain**octave
            total += cv2.resize(cells, (self.side, self.side), interpolation=cv2.INTER_CUBIC)
        return np.asarray((total - total.mean()) / total.std())

    def streaks(self, key: int, where: Array, length: float, width: float) -> Array:
        """Noise whose grains are drawn out along the real axis of `where`."""
        tile = np.random.default_rng([self.seed, key]).normal(size=(512, 512)).astype(np.float32) * 1.5
        x, y = np.asarray(where.real / length % 511, np.float32), np.asarray(where.imag / width % 511, np.float32)
        return cv2.remap(tile, x, y, cv2.INTER_LINEAR)

    def window(self, centre: complex, radius: float) -> tuple[slice, slice]:
        """Rows and columns within a radius of a point."""
        lo, hi = np.array([[-radius], [radius]]) + [centre.imag, centre.real]
        lo, hi = (np.maximum(0, end * self.scale).astype(int) for end in (lo, hi + 2 / self.scale))
        return slice(lo[0], hi[0]), slice(lo[1], hi[1])

    def paint(self, mask: Array, colour: Array | Colour, texture: Array | float = 0.0, at: Any = ...) -> None:
        """Blend in a colour, made lighter and darker by a texture."""
        shade = np.asarray(colour, np.float32) * np.exp(np.asarray(texture, np.float32))[..., None]
        self.colour[at] += mask[..., None] * (shade - self.colour[at])

    def distance(self, line: Array, filled: bool = False) -> Array:
        """Metres to a line, or, filled, the depth inside an outline."""
        ink = np.full((self.side, self.side), 0 if filled else 255, np.uint8)
        points = np.round(np.stack([line.real, line.imag], 1) * self.scale).astype(np.int32)
        cv2.fillPoly(ink, [points], 255) if filled else cv2.polylines(ink, [points], False, 0)
        return cv2.GaussianBlur(cv2.distanceTransform(ink, cv2.DIST_L2, 5), (0, 0), 1.0) / self.scale


def edge(depth: Array, soft: float = 0.3) -> Array:
    """Turn metres inside something into a mask with an edge `soft` metres wide."""
    return np.clip(depth / soft + 0.5, 0, 1)


def lay_fields(canvas: Canvas, scene: Scene, capture: Capture) -> None:
    """Draw grass and dry earth everywhere, then the fields."""
    date, patches, bend = capture.date, canvas.noise(1, 40, 6, 0.75), 0.25 * canvas.noise(2, 60, 3)
    grain, fine = canvas.noise(3, 3, 5, 0.9), canvas.noise(4, 0.6, 1)
    dry = edge(0.6 * patches + 0.5 * canvas.noise(10 + date, 30, 5) - 0.3, 2.0)
    canvas.paint(np.ones_like(dry), capture.grass, 0.07 * patches + 0.08 * grain + 0.07 * fine)
    canvas.paint(0.7 * dry, (170, 158, 135), 0.09 * grain + 0.07 * fine)
    canvas.height += 0.05 * grain + 0.03 * fine
    for i, (outline, angle, crops) in enumerate(scene.fields):
        (plant, soil, share, spacing, relief), depth = crops[date], canvas.distance(np.array(outline), filled=True)
        mask, where = edge(depth - 1.2 + 0.35 * grain, 0.8), (canvas.place + 600) * np.exp(-1j * angle)
        inner = depth > 9  # outside it is the headland, where the machine turns along the border
        row = np.cos(2 * np.pi * np.where(inner, where.imag + bend, depth) / spacing)
        tillage = canvas.streaks(30 + i, where, 9.0, 0.55)  # of the soil: the same on both dates
        worked = canvas.streaks(50 + 10 * date + i, where, 16.0, 1.3)
        vigour = 0.5 * patches + 0.4 * canvas.noise(70 + i, 18, 5) + 0.3 * canvas.noise(80 + date, 25, 4)
        texture = 0.05 * tillage + 0.04 * worked + 0.05 * vigour + 0.04 * grain + 0.055 * fine
        cover = edge(share - 0.5 + 0.22 * row + 0.16 * vigour + 0.1 * worked + 0.09 * grain, 0.9)
        wheels = edge(0.3 - abs(abs((where.imag + bend) % 18 - 9) - 0.9), 0.5) * inner
        canvas.paint(mask, soil, 1.2 * texture)
        canvas.paint(mask * cover, plant, texture)
        canvas.paint(mask * wheels * 0.3, soil, texture)
        canvas.height += mask * relief * (0.5 * row + 0.3 * worked + 0.2 * grain)


def lay_water_and_roads(canvas: Canvas, scene: Scene, capture: Capture) -> None:
    """Draw stream and pond, then ways of growing importance."""
    wobble, grain, fine = canvas.noise(5, 12, 5), canvas.noise(6, 2, 3, 0.9), canvas.noise(7, 0.6, 1)
    pond = 11 - abs(canvas.place - (270 + 238j)) + 2 * wobble
    for depth in (2.3 + 0.7 * wobble - canvas.distance(scene.stream), pond):
        canvas.paint(0.7 * edge(depth + 2 + grain, 3.0), (106, 106, 78), 0.1 * grain + 0.08 * fine)
        canvas.paint(edge(depth, 0.6), (70, 80, 74), 0.4 * np.exp(-depth.clip(0, 9) / 1.5) + 0.03 * (wobble + fine))
        canvas.height -= edge(depth, 0.6) * (canvas.height + 0.8)
    for road in scene.roads:
        d, track, main = canvas.distance(road.line), road.kind == "track", road.kind == "main"
        body = edge(road.half_width - d + (0.3 if track else 0.08) * wobble, 0.4)
        wear = 0.05 * np.cos(2 * np.pi * d / 1.75) + 0.04 * wobble + 0.025 * grain + 0.03 * fine
        verge = edge(road.half_width + 1.6 - d + 0.5 * wobble + 0.3 * grain, 1.8)
        canvas.paint(0.65 * verge, (166, 154, 132), 0.09 * grain + 0.06 * fine)
        canvas.paint(body, road.colour, 2 * wear if track else wear)
        canvas.height *= 1 - 0.8 * body
        if track:  # grass between the ruts
            canvas.paint(0.7 * edge(0.45 - d + 0.2 * grain, 0.5), capture.grass, 0.1 * grain)
        elif road.kind == "street":  # kerbs
            canvas.paint(0.8 * edge(0.25 - abs(d - road.half_width - 0.3)), (184, 181, 174))
        else:
            canvas.paint(0.7 * main * edge(0.13 - abs(d - road.half_width + 1.3)), (224, 222, 214))
            dashes = 1.0 if main else abs(canvas.place) % 12 < 5
            canvas.paint(0.65 * dashes * edge(0.42 - d), (206, 182, 116) if main else (216, 214, 206))


def raise_boxes(canvas: Canvas, boxes: list[Box], capture: Capture) -> None:
    """Lay gardens and drives on the ground and set buildings and cars upon it."""
    fine, grain = canvas.noise(8, 0.8, 2, 0.9), canvas.noise(9, 4, 5, 0.8)
    for box in (b for b in boxes if capture.date in b.dates):
        at = canvas.window(box.centre, (box.length + box.width) / 2)
        where = (canvas.place[at] - box.centre) * np.conj(box.along)
        du, dv = box.length / 2 - abs(where.real), box.width / 2 - abs(where.imag)
        mask, top = edge(np.minimum(du, dv)), box.wall + box.pitch * (np.minimum(du, dv) if box.hip else dv)
        if not box.wall:
            lawn = box.colour[1] > box.colour[2] + 30
            colour = 0.75 * np.array(box.colour) + 0.25 * np.array(capture.grass) if lawn else box.colour
            canvas.paint(0.92 * mask, colour, (0.1 if lawn else 0.04) * (fine + grain)[at], at)
            continue
        mask *= top > canvas.height[at]
        courses = box.pitch * (0.08 * np.cos(4.8 * where.imag) + 0.05 * np.sin(1.9 * where.real) + 0.1 * fine[at])
        canvas.paint(mask, box.colour, courses + 0.02 * fine[at], at)
        canvas.height[at] = np.where(mask > 0.5, top, canvas.height[at])


def cars(scene: Scene, date: int) -> list[Box]:
    """Return the traffic of one date: body, glass and roof of every car."""
    rng, boxes = np.random.default_rng([scene.seed, 90 + date]), []
    paints = [(226, 226, 224), (74, 76, 80), (150, 152, 154), (118, 52, 48), (64, 78, 104), (196, 190, 178)]
    for road, count, lane in zip(scene.roads[2:], (16, 6, 11), (2.7, 1.6, 1.8), strict=True):
        for metres in rng.uniform(5, len(road.line), count):
            point, ahead = walk(road.line, metres)
            spot, paint = point + 1j * ahead * lane * rng.choice([-1, 1]), paints[rng.integers(6)]
            boxes += [Box(spot, 4.7, 1.9, ahead, paint, 0.9)]
            boxes += [Box(spot - 0.4 * ahead, 2.7, 1.6, ahead, (48, 54, 60), 1.3)]
            boxes += [Box(spot - 0.4 * ahead, 1.6, 1.5, ahead, paint, 1.5)]
    return boxes


def raise_trees(canvas: Canvas, scene: Scene, capture: Capture) -> None:
    """Grow crowns out of lumps, each a part of a sphere, with leafy noise upon them."""
    leaves = canvas.noise(11, 1.2, 2, 0.9)
    for centre, radii, seed in scene.trees:
        radius, rng = radii[capture.date], np.random.default_rng(seed)
        at = canvas.window(centre, 1.4 * max(radii))
        where, tint = canvas.place[at] - centre, np.exp(0.1 * rng.normal() * np.array([1.2, 0.6, 0.5]))
        if not radius or not where.size:
            continue
        top = np.zeros(where.shape, np.float32)
        for _ in range(6 + int(4 * max(radii))):
            away, turn, size = 0.75 * radius * np.sqrt(rng.random()), rng.uniform(0, 6.28), rng.uniform(0.3, 0.5)
            lump = (size * radius) ** 2 - abs(where - away * np.exp(1j * turn)) ** 2
            lift = 1.1 * radius + 0.7 * np.sqrt(radius**2 - away**2)
            top = np.maximum(top, (lump > 0) * (lift + np.sqrt(lump.clip(0))))
        top += (top > 0) * 0.28 * min(radius, 2) * leaves[at]
        shade = 0.15 * leaves[at] + 0.17 * top / radius - 0.3
        canvas.paint(0.95 * (top > canvas.height[at].clip(0)), np.array(capture.leaf) * tint, shade, at)
        canvas.height[at] = np.where(top > 0, np.maximum(canvas.height[at], top), canvas.height[at])


def light(canvas: Canvas, capture: Capture) -> Array:
    """Light the ground by sun and sky, linear; shadows are cast by marching the heights towards the sun."""
    rise, height, lit = np.tan(np.radians(capture.elevation)), canvas.height, np.ones_like(canvas.height)
    for metres in np.arange(1, 22 * canvas.scale) * 0.9 / canvas.scale:
        x, y = metres * canvas.scale * capture.sun.real, metres * canvas.scale * capture.sun.imag
        ray = cv2.warpAffine(height, np.array([[1, 0, -x], [0, 1, -y]]), height.shape, borderMode=cv2.BORDER_REPLICATE)
        lit = np.minimum(lit, 1 - np.clip((ray - metres * rise - height) / 0.35, 0, 1))
    gy, gx = np.gradient(cv2.GaussianBlur(height, (0, 0), 0.2 * canvas.scale) * canvas.scale)
    gx, gy = gx.clip(-2, 2), gy.clip(-2, 2)
    facing = (1 - (gx * capture.sun.real + gy * capture.sun.imag) / rise) / np.sqrt(1 + gx**2 + gy**2)
    hollow = np.clip(cv2.GaussianBlur(height, (0, 0), 2 * canvas.scale) - height, 0, 6) / 12
    sunlight = cv2.GaussianBlur(lit, (0, 0), 0.25 * canvas.scale) * facing.clip(0, 1.6)
    irradiance = np.multiply.outer(1 - hollow, [0.17, 0.2, 0.25]) + np.multiply.outer(sunlight, [0.83, 0.8, 0.75])
    return np.asarray((canvas.colour.clip(0, 255) / 255) ** 2.2 * irradiance)


def render(scene: Scene, capture: Capture, size: int = 512) -> Array:
    """Photograph the scene on one date: uint8, [size, size, 3]; any size shows the same square of ground."""
    canvas = Canvas(size * OVERSAMPLING, scene.seed)
    lay_fields(canvas, scene, capture)
    lay_water_and_roads(canvas, scene, capture)
    raise_boxes(canvas, scene.boxes + cars(scene, capture.date), capture)
    raise_trees(canvas, scene, capture)
    seen = light(canvas, capture) * capture.balance * (1 - capture.haze) + capture.haze * np.array([0.42, 0.46, 0.52])
    shift = np.array([[1, 0, OVERSAMPLING * capture.shift[0]], [0, 1, OVERSAMPLING * capture.shift[1]]])
    seen = np.asarray(cv2.warpAffine(seen, shift, canvas.height.shape, borderMode=cv2.BORDER_REPLICATE))
    seen = np.asarray(cv2.GaussianBlur(seen, (0, 0), OVERSAMPLING * capture.blur))
    grey = 255 * cv2.resize(seen, (size, size), interpolation=cv2.INTER_AREA).clip(0, 1) ** (1 / 2.2)
    grey += np.random.default_rng([scene.seed, 100 + capture.date]).normal(0, capture.noise, grey.shape)
    return np.asarray(grey.clip(0, 255).round().astype(np.uint8))


def main() -> None:
    """Draw both pictures into a folder."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent, help="the folder")
    parser.add_argument("--size", type=int, default=512, help="side of the pictures in pixels")
    parser.add_argument("--seed", type=int, default=7, help="another seed draws other houses, trees and textures")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    for name, capture in (("reference", REFERENCE), ("target", TARGET)):
        picture = render(Scene(args.seed), capture, args.size)
        Image.fromarray(picture).save(args.output / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()

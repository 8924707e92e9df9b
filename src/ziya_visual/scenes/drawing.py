"""Scenes of one to four shapes on a textured background, drawn with signed distances in NumPy.

Legend: S is :data:`SIDE`, in pixels. Positions are in units of the side, with the origin at the top left.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ziya_visual.scenes.language import COLORS, HELD_OUT, SHAPES, SIZES, Phrase

SIDE = 64
RADIUS = {"small": 0.11, "large": 0.18}
RGB = {
    "red": (214, 40, 40), "green": (44, 150, 60), "blue": (40, 80, 215), "yellow": (245, 215, 40),
    "purple": (135, 50, 165), "orange": (245, 135, 25), "black": (18, 18, 18), "white": (248, 248, 248),
}  # fmt: skip
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Thing:
    """One drawn object: its description, its centre ``x``, ``y`` and its rotation in radians."""

    what: Phrase
    x: float
    y: float
    angle: float = 0.0


@dataclass(frozen=True, slots=True)
class Scene:
    """The objects of a picture from left to right, and the seed of its background and pixel noise."""

    things: tuple[Thing, ...]
    seed: int


def sample_scene(rng: np.random.Generator, *, held_out: bool, count: int | None = None) -> Scene:
    """Draw a scene of ``count`` objects (by default 1 to 4) that do not touch.

    With ``held_out`` exactly one object has a held-out shape-colour pair; otherwise none has.
    """
    count = count or int(rng.integers(1, 5))
    special = int(rng.integers(count)) if held_out else -1
    whats: list[Phrase] = []
    repeats = rng.random() < 0.5  # a colour or shape, in half of the scenes, to make counting interesting
    while len(whats) < count:
        size = SIZES[rng.integers(2)]
        if len(whats) == special:
            shape, color = sorted(HELD_OUT)[rng.integers(len(HELD_OUT))]
        else:
            shape, color = SHAPES[rng.integers(len(SHAPES))], COLORS[rng.integers(len(COLORS))]
        what = Phrase(size, color, shape)
        if repeats and whats and len(whats) != special and rng.random() < 0.7:
            kind = "color" if rng.random() < 0.5 else "shape"
            what = replace(what, **{kind: getattr(whats[0], kind)})
        if what not in whats and ((what.shape, what.color) in HELD_OUT) == (len(whats) == special):
            whats.append(what)
    while (centres := _place(rng, [RADIUS[what.size or "large"] for what in whats])) is None:
        pass
    things = [
        Thing(what, x, y, float(rng.uniform(-0.3, 0.3))) for what, (x, y) in zip(whats, centres, strict=True)
    ]
    return Scene(tuple(sorted(things, key=lambda thing: thing.x)), int(rng.integers(2**31)))


def _place(rng: np.random.Generator, radii: list[float]) -> list[tuple[float, float]] | None:
    """Draw centres whose discs are apart and whose x differ, or return None if this attempt failed."""
    centres: list[tuple[float, float]] = []
    for index, radius in enumerate(radii):
        for _ in range(40):
            x, y = (float(v) for v in rng.uniform(radius + 0.02, 0.98 - radius, 2))
            apart = all(
                np.hypot(x - u, y - v) > 1.12 * (radius + radii[j]) and abs(x - u) > 0.07
                for j, (u, v) in enumerate(centres)
            )
            if apart:
                centres.append((x, y))
                break
        if len(centres) <= index:
            return None
    return centres


def _polygon(x: Floats, y: Floats, sides: int, turn: float) -> Floats:
    """Return a distance-like function of a regular polygon of circumradius 1, negative inside."""
    step = 2 * np.pi / sides
    angle = np.arctan2(y, x) + turn
    offset = np.mod(angle, step) - step / 2
    return np.asarray(np.hypot(x, y) * np.cos(offset) - np.cos(step / 2), dtype=np.float32)


def _shape(name: str, x: Floats, y: Floats) -> Floats:
    """Return a distance-like function of the unit shape, negative inside; y points down."""
    radius = np.hypot(x, y)
    distance: Any
    match name:
        case "circle":
            distance = radius - 0.9
        case "square":
            distance = np.maximum(abs(x), abs(y)) - 0.78
        case "triangle":
            distance = _polygon(x, y, 3, 7 * np.pi / 6)
        case "star":
            angle = np.mod(np.arctan2(x, -y), 2 * np.pi / 5) - np.pi / 5
            distance = radius * (1.0 + 0.95 * abs(angle) / (np.pi / 5)) - 1.0
        case "heart":
            u, v = 1.15 * x, -1.15 * y + 0.15
            distance = np.cbrt((u * u + v * v - 0.75) ** 3 - 1.3 * u * u * v**3)
        case "cross":
            distance = np.minimum(
                np.maximum(abs(x) - 0.95, abs(y) - 0.3), np.maximum(abs(y) - 0.95, abs(x) - 0.3)
            )
        case "diamond":
            distance = (abs(x) * 1.55 + abs(y)) - 1.0
        case "pentagon":
            distance = _polygon(x, y, 5, np.pi / 2)
        case "ring":
            distance = abs(radius - 0.7) - 0.24
        case "crescent":
            distance = np.maximum(radius - 0.95, 0.78 - np.hypot(x - 0.45, y))
        case _:
            raise AssertionError(name)
    return np.asarray(distance, dtype=np.float32)


def background(rng: np.random.Generator) -> Floats:
    """Draw a muted colour with stripes, checks, blobs or grain: float32[S, S, 3] in 0-255."""
    base = rng.uniform(105, 185) + rng.uniform(-18, 18, 3)
    ys, xs = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    kind, turn, pace = rng.integers(4), rng.uniform(0, np.pi), rng.uniform(3, 9)
    wave = np.sin(2 * np.pi * pace * (xs * np.cos(turn) + ys * np.sin(turn)))
    if kind == 1:
        wave = np.sign(wave * np.sin(2 * np.pi * pace * (xs * np.sin(turn) - ys * np.cos(turn))))
    elif kind == 2:
        wave = np.kron(rng.uniform(-1, 1, (8, 8)), np.ones((SIDE // 8 + 1, SIDE // 8 + 1)))[:SIDE, :SIDE]
    elif kind == 3:
        wave = np.zeros_like(xs)
    texture = wave[..., None] * rng.uniform(4, 16) + rng.normal(0, rng.uniform(1, 7), (SIDE, SIDE, 1))
    return np.asarray(base + texture, dtype=np.float32)


def render(scene: Scene) -> NDArray[np.uint8]:
    """Render a scene: uint8[S, S, 3]."""
    return render_with_labels(scene)[0]


def odd_paint(rng: np.random.Generator) -> Floats:
    """Draw a colour without a name, which teaches a shape but no pair: float32[3] in 0-255."""
    named = np.asarray(list(RGB.values()), dtype=np.float32)
    while True:
        paint = rng.uniform(0, 255, 3).astype(np.float32)
        if np.abs(named - paint).max(axis=1).min() > 50:
            return paint


def render_with_labels(
    scene: Scene, *, odd_colors: bool = False
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Render a scene, uint8[S, S, 3], and the object of each pixel, int64[S, S] (-1 is background).

    With ``odd_colors`` every object has a colour without a name.
    """
    rng = np.random.default_rng(scene.seed)
    canvas = background(rng)
    owner = np.full((SIDE, SIDE), -1, dtype=np.int64)
    for index, thing in enumerate(scene.things):
        radius = RADIUS[thing.what.size or "large"] * SIDE
        cx, cy = thing.x * SIDE, thing.y * SIDE
        x0, x1 = max(0, int(cx - radius * 1.2)), min(SIDE, int(cx + radius * 1.2) + 2)
        y0, y1 = max(0, int(cy - radius * 1.2)), min(SIDE, int(cy + radius * 1.2) + 2)
        ys, xs = np.mgrid[y0:y1, x0:x1].astype(np.float32) + 0.5
        dx, dy = (xs - cx) / radius, (ys - cy) / radius
        cos, sin = np.cos(thing.angle), np.sin(thing.angle)
        distance = _shape(thing.what.shape or "circle", dx * cos + dy * sin, dy * cos - dx * sin)
        cover = np.clip(0.5 - distance * radius, 0, 1)[..., None]
        named = np.asarray(RGB[thing.what.color or "red"], dtype=np.float32)
        paint = odd_paint(rng) if odd_colors else named + rng.normal(0, 6, 3)
        canvas[y0:y1, x0:x1] = canvas[y0:y1, x0:x1] * (1 - cover) + paint.astype(np.float32) * cover
        owner[y0:y1, x0:x1][cover[..., 0] > 0.5] = index
    return np.clip(canvas, 0, 255).astype(np.uint8), owner

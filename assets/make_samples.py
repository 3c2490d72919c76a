#!/usr/bin/env python3
"""Draws the sample camera pictures: one tabletop scene, ray-marched from three cameras.

    python3 make_samples.py [FOLDER]

Needs numpy and Pillow. Writes top.png, wrist.png and side.png (640 x 480, RGB) next to this file, or into FOLDER.
Lengths are in decimetres: x to the right, y away from the robot's base, z up; the table top is z = 0.
"""

import pathlib
import sys

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 640, 480
SUPERSAMPLING = 2
SEED = 7

LIGHT = np.array([-0.45, -0.25, 0.86], np.float32)
LIGHT /= np.linalg.norm(LIGHT)
FAR = 60.0

# Colours in linear light.
ORANGE = (0.80, 0.27, 0.03)
DARK = (0.035, 0.035, 0.04)
STEEL = (0.45, 0.46, 0.48)
RED = (0.62, 0.03, 0.025)
BLUE = (0.03, 0.11, 0.50)
WHITE = (0.72, 0.72, 0.68)
FLOOR = (0.16, 0.15, 0.145)

# The arm's joints, from the base to the point between the jaws.
BASE = np.array([0.0, -2.3, 0.0])
SHOULDER = np.array([0.0, -2.3, 0.95])
ELBOW = np.array([0.10, -2.0, 2.35])
WRIST = np.array([0.50, -0.25, 2.30])
PALM = np.array([0.62, 0.28, 1.55])
TIP = np.array([0.70, 0.62, 0.62])
TABLE = (3.6, 3.2)  # half sizes in x and y


def unit(v):
    return np.asarray(v, float) / np.linalg.norm(v)


def frame(axis, up):
    """The rotation whose third row is `axis` and whose second lies towards `up`."""
    z = unit(axis)
    x = unit(np.cross(up, z))
    return np.stack([x, np.cross(z, x), z])


def box(centre, half, rotation=np.eye(3), radius=0.02):
    """Signed distance to a rounded box."""
    centre, rotation = np.asarray(centre, np.float32), np.asarray(rotation, np.float32)
    inner = np.asarray(half, np.float32) - radius

    def distance(p):
        q = np.abs((p - centre) @ rotation.T) - inner
        outside = np.sqrt((np.maximum(q, 0) ** 2).sum(1))
        return outside + np.minimum(q.max(1), 0) - radius

    return distance


def link(start, end, half_width, half_depth, radius=0.06):
    """A box whose long side runs from `start` to `end`."""
    start, end = np.asarray(start), np.asarray(end)
    half = [half_width, half_depth, np.linalg.norm(end - start) / 2]
    return box((start + end) / 2, half, frame(end - start, [0, 0.3, 1]), radius)


def cylinder(centre, axis, radius, half_height):
    """Signed distance to a cylinder with slightly rounded rims."""
    centre, axis = np.asarray(centre, np.float32), unit(axis).astype(np.float32)
    rim = 0.02

    def distance(p):
        d = p - centre
        along = d @ axis
        across = np.sqrt(np.maximum((d * d).sum(1) - along * along, 0))
        q = np.stack([across - radius + rim, np.abs(along) - half_height + rim], 1)
        return np.sqrt((np.maximum(q, 0) ** 2).sum(1)) + np.minimum(q.max(1), 0) - rim

    return distance


def turn(degrees):
    """A rotation about the vertical."""
    a = np.radians(degrees)
    return np.array([[np.cos(a), np.sin(a), 0], [-np.sin(a), np.cos(a), 0], [0, 0, 1]])


def bin_walls(centre, half, height, rotation):
    """The bottom and four walls of an open bin."""
    centre, wall = np.asarray(centre, float), 0.05
    parts = [box(centre + [0, 0, wall], [half[0], half[1], wall], rotation)]
    for side in (-1, 1):
        for offset, size in (
            ([side * half[0], 0, height / 2], [wall, half[1] + wall, height / 2]),
            ([0, side * half[1], height / 2], [half[0] + wall, wall, height / 2]),
        ):
            parts.append(box(centre + np.asarray(offset) @ rotation, size, rotation))
    return parts


def scene():
    """The objects: pairs of a distance function and a colour."""
    forward = unit(TIP - PALM)
    across = unit(np.cross(forward, [0, 0, 1]))
    jaw = lambda side, spread: [
        link(PALM + across * side * 0.24, PALM + across * side * (0.34 + spread) + forward * 0.45, 0.07, 0.13),
        link(PALM + across * side * (0.34 + spread) + forward * 0.40, TIP + across * side * (0.26 + spread), 0.05, 0.12),
    ]
    elbow_axis = unit(np.cross(ELBOW - SHOULDER, WRIST - ELBOW))
    orange = [
        box(BASE + [0, -0.05, 0.16], [0.62, 0.75, 0.16], radius=0.06),
        box(BASE + [0, 0, 0.48], [0.34, 0.34, 0.22], radius=0.05),
        link(SHOULDER, ELBOW, 0.27, 0.17),
        link(ELBOW, WRIST, 0.22, 0.16),
        link(WRIST, PALM, 0.24, 0.17),
        *jaw(-1, 0.02),
        *jaw(1, 0.10),
    ]
    dark = [
        cylinder(SHOULDER, elbow_axis, 0.33, 0.38),
        cylinder(ELBOW, elbow_axis, 0.28, 0.34),
        cylinder(WRIST, elbow_axis, 0.24, 0.30),
        box(PALM, [0.34, 0.17, 0.16], frame(forward, [0, 0, 1]), 0.03),
        cylinder((SHOULDER * 0.45 + ELBOW * 0.55) + [0.0, -0.24, 0.0], ELBOW - SHOULDER, 0.05, 0.40),
    ]
    steel = [cylinder(joint, elbow_axis, 0.09, 0.42) for joint in (SHOULDER, ELBOW, WRIST)]
    red = [box([0.72, 0.72, 0.25], [0.25, 0.25, 0.25], turn(18))]
    blue = [box([-1.05, 0.55, 0.25], [0.25, 0.25, 0.25], turn(-31))]
    white = bin_walls([1.95, -0.35, 0], [0.62, 0.50], 0.62, turn(-12))
    groups = [(orange, ORANGE), (dark, DARK), (steel, STEEL), (red, RED), (blue, BLUE), (white, WHITE)]
    return [(shape, colour) for shapes, colour in groups for shape in shapes]


SCENE = scene()
COLOURS = np.array([colour for _, colour in SCENE], np.float32)
BOUNDS = np.array([[-1.6, -3.3, 0.0], [2.9, 1.4, 2.9]], np.float32)


def nearest(p):
    """Distance to the nearest object and its index, for each point."""
    best = np.full(len(p), FAR, np.float32)
    index = np.zeros(len(p), np.int32)
    for i, (shape, _) in enumerate(SCENE):
        d = shape(p)
        closer = d < best
        best[closer], index[closer] = d[closer], i
    return best, index


def bounds_interval(origin, direction):
    """Where each ray enters and leaves the box around all objects."""
    with np.errstate(divide="ignore", invalid="ignore"):
        a, b = ((BOUNDS[i] - origin) / direction for i in (0, 1))
    return np.maximum(np.fmin(a, b).max(1), 0), np.fmax(a, b).min(1)


def march(origin, direction):
    """Distance along each ray to an object (`FAR` if it meets none) and the object's index."""
    enter, leave = bounds_interval(origin, direction)
    t, hit = np.full(len(origin), FAR, np.float32), np.zeros(len(origin), np.int32)
    active = np.flatnonzero(enter < leave)
    depth = enter.astype(np.float32)
    for _ in range(90):
        if not len(active):
            break
        d, index = nearest(origin[active] + direction[active] * depth[active, None])
        arrived = d < 0.002
        done = active[arrived]
        t[done], hit[done] = depth[done], index[arrived]
        depth[active] += d
        active = active[~arrived & (depth[active] < leave[active])]
    return t, hit


def soft_shadow(p):
    """How much of the lamp each point sees, 0 to 1."""
    _, leave = bounds_interval(p, np.broadcast_to(LIGHT, p.shape))
    light, depth = np.ones(len(p), np.float32), np.full(len(p), 0.03, np.float32)
    active = np.flatnonzero(leave > 0)
    for _ in range(48):
        if not len(active):
            break
        d, _ = nearest(p[active] + LIGHT * depth[active, None])
        light[active] = np.minimum(light[active], np.clip(9 * d / depth[active], 0, 1))
        depth[active] += np.maximum(d, 0.02)
        active = active[(light[active] > 0.01) & (depth[active] < leave[active])]
    return light * light * (3 - 2 * light)


def occlusion(p, normal):
    """How open the surroundings of each point are, 0 to 1."""
    closed = np.zeros(len(p), np.float32)
    for weight, reach in ((1.0, 0.06), (0.6, 0.16), (0.35, 0.34)):
        q = p + normal * reach
        d = np.minimum(nearest(q)[0], np.where(np.abs(q[:, 0]) < TABLE[0], np.abs(q[:, 2]), FAR))
        closed += weight * np.maximum(reach - d, 0) / reach
    return np.clip(1 - 0.55 * closed, 0, 1)


def normals(p):
    h = 0.004
    steps = np.eye(3, dtype=np.float32) * h
    n = np.stack([nearest(p + s)[0] - nearest(p - s)[0] for s in steps], 1)
    return n / np.maximum(np.linalg.norm(n, axis=1, keepdims=True), 1e-6)


def smooth_noise(x, y, seed):
    """Value noise with a period far larger than the scene."""
    lattice = np.random.default_rng(seed).random((256, 256)).astype(np.float32)
    i, j = np.floor(x).astype(int), np.floor(y).astype(int)
    u, v = x - i, y - j
    u, v = u * u * (3 - 2 * u), v * v * (3 - 2 * v)
    at = lambda a, b: lattice[a % 256, b % 256]
    return (at(i, j) * (1 - u) + at(i + 1, j) * u) * (1 - v) + (at(i, j + 1) * (1 - u) + at(i + 1, j + 1) * u) * v


def wood(p):
    """The table top: birch planks along x."""
    x, y = p[:, 0] + 8, p[:, 1] + 8
    plank = np.floor(y / 1.6)
    wobble = smooth_noise(x * 0.45, y * 1.2, SEED) * 1.1
    grain = 0.5 + 0.5 * np.sin((y + wobble) * 11 + plank * 2.3)
    fine = smooth_noise(x * 1.6, y * 26, SEED + 1)
    tone = 0.86 + 0.09 * grain + 0.10 * fine + 0.05 * np.sin(plank * 5.1)
    seam = np.abs(y / 1.6 - np.round(y / 1.6)) * 1.6 < 0.012
    tone = np.where(seam, tone * 0.72, tone)
    return tone[:, None] * np.array([0.50, 0.36, 0.22], np.float32)


def shade(p, normal, view, colour, gloss):
    """Lambert and a highlight from the lamp, and light from the room."""
    lit = soft_shadow(p + normal * 0.02) * np.maximum(normal @ LIGHT, 0)
    half = LIGHT - view
    half = half / np.linalg.norm(half, axis=1, keepdims=True)
    highlight = gloss * lit * np.maximum((normal * half).sum(1), 0) ** 40
    room = occlusion(p, normal) * (0.30 + 0.12 * normal[:, 2])
    bounce = 0.10 * np.maximum(-normal[:, 2] + 0.4, 0)
    warm, cool = np.array([1.02, 0.98, 0.90], np.float32), np.array([0.92, 0.98, 1.08], np.float32)
    diffuse = lit[:, None] * warm * 0.95 + room[:, None] * cool + bounce[:, None]
    return colour * diffuse + highlight[:, None]


def render(eye, target, field_of_view_deg, up):
    """The picture in linear light, `[HEIGHT, WIDTH, 3]`."""
    s = SUPERSAMPLING
    look = unit(np.subtract(target, eye))
    right = unit(np.cross(look, up))
    down = np.cross(look, right)
    scale = np.tan(np.radians(field_of_view_deg) / 2)
    u = ((np.arange(WIDTH * s) + 0.5) / (WIDTH * s) * 2 - 1) * scale
    v = ((np.arange(HEIGHT * s) + 0.5) / (HEIGHT * s) * 2 - 1) * scale * HEIGHT / WIDTH
    rows = []
    for block in np.array_split(v, 12):
        d = look + u[None, :, None] * right + block[:, None, None] * down
        d = (d / np.linalg.norm(d, axis=2, keepdims=True)).reshape(-1, 3).astype(np.float32)
        rows.append(trace(np.broadcast_to(np.float32(eye), d.shape), d).reshape(len(block), WIDTH * s, 3))
    image = np.concatenate(rows)
    return image.reshape(HEIGHT, s, WIDTH, s, 3).mean((1, 3))


def trace(origin, direction):
    """The colour each ray sees."""
    t, index = march(origin, direction)
    with np.errstate(divide="ignore"):
        table = np.where(direction[:, 2] < 0, -origin[:, 2] / direction[:, 2], FAR)
        floor = np.where(direction[:, 2] < 0, (-7.0 - origin[:, 2]) / direction[:, 2], FAR)
    on = origin + direction * table[:, None]
    table = np.where((np.abs(on[:, 0]) < TABLE[0]) & (np.abs(on[:, 1]) < TABLE[1]), table, FAR)

    # The room behind: a wall that darkens downwards, and the floor.
    colour = np.float32([0.42, 0.43, 0.44]) * (0.75 + 0.5 * np.clip(direction[:, 2:], -0.5, 0.5))
    far = np.clip(1 - (np.minimum(floor, FAR) - 7) / 40, 0, 1)[:, None]
    colour = np.where((floor < FAR)[:, None], np.float32(FLOOR) * (0.5 + 0.5 * far) + colour * 0.3 * (1 - far), colour)

    seen = np.flatnonzero((table < t) & (table < FAR))
    p = (origin[seen] + direction[seen] * table[seen, None]).astype(np.float32)
    up = np.broadcast_to(np.float32([0, 0, 1]), p.shape)
    colour[seen] = shade(p, up, direction[seen], wood(p), 0.05)

    seen = np.flatnonzero((t < table) & (t < FAR))
    p = origin[seen] + direction[seen] * t[seen, None]
    n = normals(p)
    colour[seen] = shade(p, n, direction[seen], COLOURS[index[seen]], 0.22)
    return colour


def develop(linear, seed):
    """Lens and sensor: vignette, tone curve, light noise; to 8 bits."""
    y, x = np.mgrid[-1 : 1 : HEIGHT * 1j, -1 : 1 : WIDTH * 1j]
    linear = linear * (1 - 0.13 * (x * x + y * y))[..., None] * 1.12
    curve = linear * (1 + linear / 4) / (1 + linear)
    srgb = np.where(curve < 0.0031308, 12.92 * curve, 1.055 * np.maximum(curve, 1e-6) ** (1 / 2.4) - 0.055)
    # Noise in brightness only, two pixels wide: what is left of a sensor's noise after its own smoothing.
    noise = np.random.default_rng(seed).normal(0, NOISE, (HEIGHT // 2, WIDTH // 2)).repeat(2, 0).repeat(2, 1)
    return np.clip(np.round(srgb * 255 / STEP + noise[..., None]) * STEP, 0, 255).astype(np.uint8)


# Levels are multiples of STEP, the noise's deviation is in steps: together they keep a file under 120 kB.
STEP, NOISE = 5, 0.3


def main():
    folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).parent
    forward = unit(TIP - PALM)
    mount = PALM + [0.0, 0.62, 0.55]
    cameras = {
        "top": dict(eye=[0.15, -0.55, 8.0], target=[0.15, -0.50, 0], field_of_view_deg=50, up=[0, 1, 0]),
        "wrist": dict(eye=mount, target=TIP + forward * 0.3, field_of_view_deg=72, up=[0, 1, 0.2]),
        "side": dict(eye=[6.2, 2.6, 3.1], target=[0.35, -0.75, 0.75], field_of_view_deg=42, up=[0, 0, 1]),
    }
    for number, (name, camera) in enumerate(cameras.items()):
        picture = develop(render(**camera), SEED + number)
        Image.fromarray(picture).save(folder / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()

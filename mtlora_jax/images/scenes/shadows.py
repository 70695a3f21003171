"""Hard shadows on the ground: a solid's shadow is its projection along the light, tested in closed form."""

import numpy as np

from mtlora_jax.images.scenes.rays import Camera, Hits, bounds, project
from mtlora_jax.images.scenes.surfaces import Surfaces
from mtlora_jax.images.scenes.world import BOX, CAPSULE, CONE, CYLINDER, SPHERE, World


def on_ground(camera: Camera, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """World x and z of points in the camera frame."""
    return points[0], camera.to_camera[1, 2] * points[1] + camera.to_camera[2, 2] * points[2]


def shadow(world: World, hits: Hits, found: Surfaces) -> np.ndarray:
    """Where the ground lies in a solid's shadow, `[2, S + 1, S + 1]` bool."""
    camera, s = hits.camera, hits.solids
    lx, ly, lz = world.light
    dark = np.zeros(hits.surface.shape, bool)
    if not len(s.kind):
        return dark
    # Everything in ground coordinates: a solid's shadow is its projection along the light.
    x, z = (a.reshape(dark.shape) for a in on_ground(camera, found.points))
    back = camera.to_camera
    centres, radii = bounds(s)
    world_centres = centres @ back
    world_centres[..., 1] += camera.height
    drop = world_centres[..., 1:2] * np.array([lx / ly, 1, lz / ly], np.float32)
    landed = camera.points(world_centres - drop)
    windows = project(landed, radii / ly, world.tan, hits.surface.shape[1] - 1).tolist()
    for k, (top, bottom, left, right) in enumerate(windows):
        if top < bottom and left < right:
            window = (slice(None), slice(top, bottom), slice(left, right))
            dark[window] |= _SHADOWS[world.solids[k].kind](world.solids[k], x[window], z[window], world.light)
    return dark


def _capsule_shadow(solid, x, z, light):
    # In the plane across the light a capsule's shadow is all within its radius of a segment.
    lx, ly, lz = light
    flat = float(np.hypot(lx, lz))
    e1, e2 = (lz / flat, 0.0, -lx / flat), (-lx * ly / flat, flat, -lz * ly / flat)
    base = np.array(solid.base)
    end = base + solid.length * np.array(solid.axis)
    (a1, a2), (b1, b2) = ((float(np.dot(e1, p)), float(np.dot(e2, p))) for p in (base, end))
    p1, p2 = x * e1[0] + z * e1[2] - a1, x * e2[0] + z * e2[2] - a2
    d1, d2 = b1 - a1, b2 - a2
    t = np.clip((p1 * d1 + p2 * d2) / max(d1 * d1 + d2 * d2, 1e-9), 0, 1)
    return (p1 - t * d1) ** 2 + (p2 - t * d2) ** 2 < solid.radius**2


def _sweep(solid, x, z, light):
    """Ground coordinates from the solid's foot, and where the foot of its top falls."""
    return x - solid.base[0], z - solid.base[2], *(-solid.length / light[1] * light[i] for i in (0, 2))


def _box_shadow(solid, x, z, light):
    x, z, sx, sz = _sweep(solid, x, z, light)
    cos, _, sin = solid.side
    low, high = 0.0, 1.0
    for q, s, reach in (
        (x * cos + z * sin, sx * cos + sz * sin, solid.radius),
        (x * sin - z * cos, sx * sin - sz * cos, solid.depth),
    ):
        s = s if abs(s) > 1e-6 else 1e-6
        middle, breadth = q / s, abs(reach / s)
        low, high = np.maximum(low, middle - breadth), np.minimum(high, middle + breadth)
    return low <= high


def _cylinder_shadow(solid, x, z, light):
    x, z, sx, sz = _sweep(solid, x, z, light)
    t = np.clip((x * sx + z * sz) / (sx * sx + sz * sz), 0, 1)
    return (x - t * sx) ** 2 + (z - t * sz) ** 2 < solid.radius**2


def _cone_shadow(solid, x, z, light):
    # Discs of radius r (1 - t) about t s: is one of them over the point, for a t in [0, 1]?
    x, z, sx, sz = _sweep(solid, x, z, light)
    rr = solid.radius**2
    a, b, c = sx * sx + sz * sz - rr, x * sx + z * sz - rr, x * x + z * z - rr
    if a <= 0:
        return c < 0
    t = np.clip(b / a, 0, 1)
    return a * t * t - 2 * b * t + c < 0


_SHADOWS = {
    SPHERE: _capsule_shadow,
    CAPSULE: _capsule_shadow,
    BOX: _box_shadow,
    CYLINDER: _cylinder_shadow,
    CONE: _cone_shadow,
}

"""Surface geometry at the hits: points, unit normals and facets, pixel by pixel."""

from dataclasses import dataclass

import numpy as np

from mtlora_jax.images.scenes.rays import GROUND, SOLID, WALL, Hits, wall_normal
from mtlora_jax.images.scenes.world import BOX, CAPSULE, CONE, CYLINDER, SPHERE, World


@dataclass(frozen=True)
class Surfaces:
    """Geometry at the hits, pixels flattened: `points, normals [3, N]` in the camera frame, `facet [N]`.

    `facet` tells the smooth pieces of one solid apart (the sides of a box, the lid of a cylinder).
    `solid_pixels [M]` are the pixels that show solids, `solid [M]` which, `local [3, M]` where on it.
    """

    points: np.ndarray
    normals: np.ndarray
    facet: np.ndarray
    solid_pixels: np.ndarray
    solid: np.ndarray
    local: np.ndarray


def dot(a, b) -> np.ndarray:
    """Scalar products along the first axis, of three. Not by BLAS: its last bit may depend on its threads."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def surfaces(world: World, hits: Hits) -> Surfaces:
    """Points, unit normals and facets of both grids; normals are 0 on the sky."""
    t, ids = hits.depth, hits.surface.ravel()
    t = np.where(np.isfinite(t), t, np.float32(0))
    points = np.stack([hits.rays.u * t, hits.rays.v * t, -t]).reshape(3, -1)
    by_surface = np.zeros((3, SOLID), np.float32)
    by_surface[:, GROUND] = hits.camera.up
    if world.wall is not None:
        by_surface[:, WALL] = wall_normal(world, hits.camera)
    normals = np.take(by_surface, np.minimum(ids, SOLID - 1), axis=1)
    facet = np.zeros(ids.shape, np.uint8)
    pixels = np.flatnonzero(ids >= SOLID)
    solid = ids[pixels] - SOLID
    s = hits.solids
    base, side, axis, front = (np.take(a.T.copy(), solid, axis=1) for a in (s.base, s.side, s.axis, s.front))
    size = np.take(np.stack([s.radius, s.length, s.depth]), solid, axis=1)
    seen = np.take(points, pixels, axis=1)
    offset = seen - base
    local = np.stack([dot(direction, offset) for direction in (side, axis, front)])
    kind = s.kind[solid]
    local_normals = np.empty_like(local)
    for which, function in _NORMALS.items():
        chosen = np.flatnonzero(kind == which)
        if chosen.size:
            normal, facet[pixels[chosen]] = function(*(np.take(a, chosen, axis=1) for a in (local, size)))
            local_normals[:, chosen] = normal
    x, y, z = local_normals
    normal = x * side + y * axis + z * front
    # On a silhouette or the tip of a cone, rounding may turn a normal away from the viewer: make it level.
    behind = np.flatnonzero(dot(normal, seen) > 0)
    if behind.size:
        ray, level = seen[:, behind], normal[:, behind]
        level = level - ray * (dot(level, ray) / dot(ray, ray))
        normal[:, behind] = level / np.sqrt(dot(level, level))
    normals[:, pixels] = normal
    return Surfaces(points, normals, facet, pixels, solid, local)


def _round(local, size):
    x, y, z = local
    n = np.stack([x, y - np.clip(y, 0, size[1]), z])
    return n / np.sqrt((n * n).sum(axis=0)), 0


def _box(local, size):
    x, y, z = local
    parts = np.stack([x / size[0], 2 * y / size[1] - 1, z / size[2]])
    face = np.abs(parts).argmax(axis=0)
    n = np.zeros_like(parts)
    columns = np.arange(n.shape[1])
    sign = np.sign(parts[face, columns])
    n[face, columns] = sign
    return n, face * 2 + (sign > 0)


def _cylinder(local, size):
    x, y, z = local
    rho = np.sqrt(x * x + z * z)
    lid = 2 * y / size[1] - 1 > rho / size[0]
    rho = np.maximum(rho, np.float32(1e-6))
    return np.stack([np.where(lid, 0, x / rho), lid, np.where(lid, 0, z / rho)]), lid


def _cone(local, size):
    x, _, z = local
    rho = np.maximum(np.sqrt(x * x + z * z), np.float32(1e-6))
    slant = np.sqrt(size[0] ** 2 + size[1] ** 2)
    cos = size[1] / slant / rho
    return np.stack([x * cos, size[0] / slant, z * cos]), 0


_NORMALS = {SPHERE: _round, CAPSULE: _round, BOX: _box, CYLINDER: _cylinder, CONE: _cone}

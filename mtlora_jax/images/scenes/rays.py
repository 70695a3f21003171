"""Ray casting: closed-form intersections of a world with two grids of rays, in float32.

Camera frame: x right, y up, z towards the viewer. A ray is `(u, v, -1)` from the origin, so that its
parameter `t` *is* depth, distance along the optical axis. Both grids are cast at once, on a leading axis of
two: pixel centres, which alone make labels, and pixel corners, which smooth the picture (`shade.blend`).

Every linear function of the ray, `a . (u, v, -1)`, is a row plus a column: one addition for a whole window.
Each solid is tried only inside the window of pixels that its bounding volume projects to. A miss is NaN,
which compares false with everything.
"""

from dataclasses import dataclass

import numpy as np

from mtlora_jax.images.scenes.world import BOX, CAPSULE, CONE, CYLINDER, FAR, SPHERE, World

SKY, GROUND, WALL, SOLID = 0, 1, 2, 3
"""Surface ids; solid k of the world has id `SOLID + k`."""

_NEAR = 0.3


@dataclass(frozen=True)
class Rays:
    """A window of rays: `u [2, 1, W]`, `v [2, H, 1]`, `dd = |(u, v, -1)|^2 [2, H, W]`."""

    u: np.ndarray
    v: np.ndarray
    dd: np.ndarray

    def dot(self, a) -> np.ndarray:
        """`a . ray`, `[2, H, W]`."""
        return self.u * a[0] + (self.v * a[1] - a[2])

    def window(self, rows: slice, columns: slice) -> "Rays":
        return Rays(self.u[:, :, columns], self.v[:, rows], self.dd[:, rows, columns])


def make_rays(size: int, tan: float) -> Rays:
    """Rays through the centres (first) and the upper left corners (second) of `[size + 1]^2` pixels."""
    steps = np.arange(size + 1, dtype=np.float32)
    grid = (np.stack([steps + 0.5, steps]) * np.float32(2.0 / size) - np.float32(1.0)) * np.float32(tan)
    u, v = grid[:, None, :], -grid[:, :, None]
    return Rays(u, v, u * u + (v * v + np.float32(1.0)))


@dataclass(frozen=True)
class Camera:
    """Where the camera is: `to_camera [3, 3]` turns world vectors into its frame, `height` in metres."""

    to_camera: np.ndarray
    height: float

    @staticmethod
    def of(world: World) -> "Camera":
        cos, sin = np.cos(world.pitch), np.sin(world.pitch)
        to_camera = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]], np.float32)
        return Camera(to_camera, world.height)

    @property
    def up(self) -> np.ndarray:
        return self.to_camera[:, 1]

    def points(self, world_points: np.ndarray) -> np.ndarray:
        """World points `[..., 3]` in the camera frame."""
        shifted = world_points - np.array([0, self.height, 0], np.float32)
        return (shifted @ self.to_camera.T).astype(np.float32)


@dataclass(frozen=True)
class Solids:
    """The world's solids as arrays in the camera frame: `base, axis, side, front [P, 3]`, the rest `[P]`."""

    kind: np.ndarray
    base: np.ndarray
    axis: np.ndarray
    side: np.ndarray
    front: np.ndarray
    length: np.ndarray
    radius: np.ndarray
    depth: np.ndarray

    @staticmethod
    def of(world: World, camera: Camera) -> "Solids":
        def column(name):
            return np.array([getattr(solid, name) for solid in world.solids], np.float32)

        axis, side = (column(name) @ camera.to_camera.T for name in ("axis", "side"))
        return Solids(
            kind=np.array([solid.kind for solid in world.solids], np.uint8),
            base=camera.points(column("base")),
            axis=axis,
            side=side,
            front=np.cross(side, axis),
            length=column("length"),
            radius=column("radius"),
            depth=column("depth"),
        )


@dataclass(frozen=True)
class Hits:
    """What the rays meet: `depth` in metres (inf on the sky) and `surface` ids, `[2, S + 1, S + 1]`."""

    rays: Rays
    camera: Camera
    solids: Solids
    depth: np.ndarray
    surface: np.ndarray


def cast(world: World, size: int) -> Hits:
    """Casts the rays of a `size` by `size` picture of the world."""
    camera, rays = Camera.of(world), make_rays(size, world.tan)
    solids = Solids.of(world, camera)
    depth = np.full(rays.dd.shape, np.inf, np.float32)
    surface = np.zeros(rays.dd.shape, np.int16)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        ground = -camera.height / rays.dot((0.0, camera.up[1], camera.up[2]))[:, :, :1]
        ground = np.where((ground > 0) & (ground < FAR), ground, np.float32(np.inf))
        depth[:] = ground
        surface[:] = ground < FAR
        if world.wall is not None:
            t = _wall(rays, world, camera)
            _keep(t, WALL, depth, surface)
        windows = _windows(solids, world.tan, size)
        for k, (kind, (top, bottom, left, right)) in enumerate(zip(solids.kind, windows, strict=True)):
            if top < bottom and left < right:
                rows, columns = slice(top, bottom), slice(left, right)
                t = _INTERSECT[kind](rays.window(rows, columns), solids, k)
                _keep(t, SOLID + k, depth[:, rows, columns], surface[:, rows, columns])
    return Hits(rays, camera, solids, depth, surface)


def wall_normal(world: World, camera: Camera) -> np.ndarray:
    """The wall's unit normal in the camera frame, `[3]`."""
    yaw = world.wall[1]
    return camera.to_camera @ np.array([np.sin(yaw), 0, np.cos(yaw)], np.float32)


def _keep(t, surface_id, depth, surface) -> None:
    nearer = t < depth
    np.copyto(depth, t, where=nearer)
    np.copyto(surface, np.int16(surface_id), where=nearer)


def _wall(rays, world, camera):
    distance, _, height = world.wall
    t = -distance / rays.dot(wall_normal(world, camera))
    return np.where((t > 0) & (t * rays.dot(camera.up) < height - camera.height), t, np.float32(np.nan))


def _sphere(rays, solids, k):
    c, r = solids.base[k], float(solids.radius[k])
    b = rays.dot(c)
    return (b - np.sqrt(b * b - rays.dd * (float(c @ c) - r * r))) / rays.dd


def _along(rays, solids, k):
    """The infinite cylinder about the axis, `a t^2 + 2 b t + c`, and the height `y = y0 + t * y1`."""
    base, axis, r = solids.base[k], solids.axis[k], float(solids.radius[k])
    y1, to_base = rays.dot(axis), rays.dot(base)
    y0 = -float(axis @ base)
    a = rays.dd - y1 * y1
    b = -to_base - y0 * y1
    return a, b, float(base @ base) - y0 * y0 - r * r, y0, y1, to_base


def _capsule(rays, solids, k):
    a, b, c, y0, y1, to_base = _along(rays, solids, k)
    base, length, r = solids.base[k], float(solids.length[k]), float(solids.radius[k])
    end = base + length * solids.axis[k]
    a = np.maximum(a, np.float32(1e-7))  # an axis along the ray: the height below still names the nearer cap
    t = -(b + np.sqrt(b * b - a * c)) / a
    y = y0 + t * y1
    low = y <= 0
    to_cap = np.where(low, to_base, to_base + length * y1)
    cc = np.where(low, np.float32(base @ base - r * r), np.float32(end @ end - r * r))
    cap = (to_cap - np.sqrt(to_cap * to_cap - rays.dd * cc)) / rays.dd
    return np.where(low | (y >= length), cap, t)


def _cylinder(rays, solids, k):
    a, b, c, y0, y1, _ = _along(rays, solids, k)
    length = float(solids.length[k])
    root = np.sqrt(b * b - a * c)
    t = -(b + root) / a
    y = y0 + t * y1
    lid = (length - y0) / y1  # the camera never sees a base: it stands on the ground
    t = np.where((y >= 0) & (y <= length), t, np.float32(np.nan))
    return np.where((y > length) & (np.abs(b + a * lid) < root), lid, t)


def _cone(rays, solids, k):
    length, r = float(solids.length[k]), float(solids.radius[k])
    down, apex = -solids.axis[k], solids.base[k] + length * solids.axis[k]
    cos2 = length * length / (length * length + r * r)
    y1, y0 = rays.dot(down), -float(down @ apex)  # depth below the apex
    a = y1 * y1 - cos2 * rays.dd
    b = y1 * y0 + cos2 * rays.dot(apex)
    c = y0 * y0 - cos2 * float(apex @ apex)
    root = np.sqrt(b * b - a * c)
    one, two = (-b - root) / a, (root - b) / a
    first, second = np.minimum(one, two), np.maximum(one, two)
    y = y0 + y1 * first
    t = np.where((y >= 0) & (y <= length), first, second)
    y = y0 + y1 * t
    return np.where((y >= 0) & (y <= length), t, np.float32(np.nan))


def _box(rays, solids, k):
    half = 0.5 * float(solids.length[k])
    centre = solids.base[k] + half * solids.axis[k]
    near = far = None
    for direction, reach in (
        (solids.side[k], float(solids.radius[k])),
        (solids.axis[k], half),
        (solids.front[k], float(solids.depth[k])),
    ):
        inverse = 1 / rays.dot(direction)
        middle, breadth = inverse * float(centre @ direction), np.abs(inverse) * reach
        enter, leave = middle - breadth, middle + breadth
        near, far = (enter, leave) if near is None else (np.maximum(near, enter), np.minimum(far, leave))
    return np.where(near <= far, near, np.float32(np.nan))


_INTERSECT = {SPHERE: _sphere, CAPSULE: _capsule, BOX: _box, CYLINDER: _cylinder, CONE: _cone}


def bounds(solids: Solids) -> tuple[np.ndarray, np.ndarray]:
    """Spheres whose hull holds each solid: centres `[P, 8, 3]` and radii `[P, 1]`."""
    round_ = (solids.kind == SPHERE) | (solids.kind == CAPSULE)
    signs = np.array([[y, x, z] for y in (0, 1) for x in (-1, 1) for z in (-1, 1)], np.float32)
    across = np.where(round_, 0, solids.radius)[:, None] * np.where(
        (solids.kind == CONE)[:, None], 1 - signs[:, 0], np.float32(1)
    )
    reach = np.where(solids.kind == BOX, solids.depth / solids.radius, 1)[:, None] * across
    centres = (
        solids.base[:, None]
        + (solids.length[:, None] * signs[:, 0])[..., None] * solids.axis[:, None]
        + (across * signs[:, 1])[..., None] * solids.side[:, None]
        + (reach * signs[:, 2])[..., None] * solids.front[:, None]
    )
    return centres, np.where(round_, solids.radius, 0)[:, None]


def project(centres: np.ndarray, radii: np.ndarray, tan: float, size: int) -> np.ndarray:
    """Windows `[P, 4]` (top, bottom, left, right) of pixels that hold the projected spheres `[P, M]`.

    A row that comes near the camera plane gets the whole picture.
    """
    z = -centres[..., 2]
    safe = np.maximum(z * z - radii * radii, 1e-3)

    def span(c):
        root = radii * np.sqrt(np.maximum(c * c + z * z - radii * radii, 0))
        low, high = ((c * z - root) / safe).min(axis=1), ((c * z + root) / safe).max(axis=1)
        return low, high

    def pixels(value, by):
        return np.clip((value / tan + 1) * (size / 2) + by, -1e6, 1e6)

    left, right = span(centres[..., 0])
    bottom, top = span(centres[..., 1])
    edges = np.stack([pixels(-top, -1.5), pixels(-bottom, 2.5), pixels(left, -1.5), pixels(right, 2.5)], axis=1)
    close = (z - radii).min(axis=1) < _NEAR
    edges[close] = (0, size + 1, 0, size + 1)
    return np.clip(edges, 0, size + 1).astype(np.int64)


def _windows(solids, tan, size):
    if not len(solids.kind):
        return np.zeros((0, 4), np.int64)
    return project(*bounds(solids), tan, size).tolist()

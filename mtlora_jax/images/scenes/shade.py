"""Colours: textures, light, fog and the sky."""

from functools import cache

import numpy as np

from mtlora_jax.images.scenes.rays import GROUND, SKY, WALL, Hits
from mtlora_jax.images.scenes.shadows import on_ground, shadow
from mtlora_jax.images.scenes.surfaces import Surfaces, dot
from mtlora_jax.images.scenes.world import (
    BOX,
    BRICKS,
    CHECKER,
    CYLINDER,
    DOTS,
    FACE,
    FAR,
    GROUNDS,
    NOISE,
    PLAIN,
    SKIES,
    STRIPES,
    TEXTURES,
    World,
)

_TILE = 128  # texels per period


@cache
def tiles() -> np.ndarray:
    """The textures that `world` numbers, `[textures, 128, 128]` float32 in [0, 1], each tiling the plane."""
    y, x = np.mgrid[:_TILE, :_TILE] / _TILE
    waves = np.random.default_rng(5)
    noise = np.zeros((_TILE, _TILE))
    for octave in (2, 3, 5, 8, 13, 21, 34):
        for _ in range(6):
            angle = waves.uniform(0, 2 * np.pi)
            fx, fy = np.round(octave * np.cos(angle)), np.round(octave * np.sin(angle))
            noise += np.sin(2 * np.pi * (fx * x + fy * y + waves.random())) / octave**0.8
    noise = np.clip(0.5 + 0.28 * noise / noise.std(), 0, 1)
    row = np.floor(y * 4)
    mortar = ((y * 4) % 1 < 0.12) | ((x * 2 + 0.5 * (row % 2)) % 1 < 0.06)
    shade = (
        0.28
        * np.random.default_rng(7).random((4, 2))[row.astype(int), np.floor(x * 2 + 0.5 * (row % 2)).astype(int) % 2]
    )
    table = {
        PLAIN: np.zeros_like(x),
        CHECKER: (np.floor(2 * x) + np.floor(2 * y)) % 2,
        STRIPES: np.floor(2 * y) % 2,
        NOISE: noise,
        BRICKS: np.where(mortar, 1.0, shade),
        DOTS: np.hypot(x - 0.5, y - 0.5) < 0.28,
    }
    return np.stack([table[k] for k in sorted(table)]).astype(np.float32)


def _sample(texture, x, y):
    """Tile values at texture coordinates in periods."""
    column = (x * _TILE).astype(np.int32) & (_TILE - 1)
    row = (y * _TILE).astype(np.int32) & (_TILE - 1)
    return np.take(tiles().ravel(), (texture * _TILE + row) * _TILE + column)


def shade(world: World, hits: Hits, found: Surfaces) -> np.ndarray:
    """The lit picture on both grids, `[3, 2, S + 1, S + 1]`, about 0 to 1."""
    ids = hits.surface.ravel()
    horizon, _, sun, ambient, _ = tuple(SKIES.values())[world.sky]
    camera, light = hits.camera, hits.camera.to_camera @ np.array(world.light, np.float32)
    albedo = np.zeros_like(found.points)
    facing = np.maximum(dot(light, found.normals), 0)

    pixels = np.flatnonzero(ids == GROUND)
    x, z = on_ground(camera, np.take(found.points, pixels, axis=1))
    albedo[:, pixels] = _ground_colour(world, hits, pixels, x, z)
    facing[pixels] *= ~shadow(world, hits, found).ravel()[pixels]

    pixels = np.flatnonzero(ids == WALL)
    albedo[:, pixels] = np.array(world.wall_colour, np.float32)[:, None]
    pixels = found.solid_pixels
    albedo[:, pixels] = _solid_colour(world, hits, found)

    # A sky above and a little light from behind the viewer keep the shaded sides readable.
    sky_light = 0.72 + dot(0.16 * camera.up + np.array([0, 0, 0.2], np.float32), found.normals)
    colour = albedo * (_column(ambient) * sky_light + _column(sun) * facing)
    fog = (0.4 / FAR**2) * found.points[2] ** 2
    colour += (_column(horizon) - colour) * fog
    pixels = np.flatnonzero(ids == SKY)
    colour[:, pixels] = _sky_colour(world, hits, pixels)
    return colour.reshape(3, *hits.surface.shape)


def blend(colour: np.ndarray) -> np.ndarray:
    """Half the pixel's centre and an eighth of each of its corners: `[3, 2, S+1, S+1] -> uint8 [S, S, 3]`."""
    centre, corner = colour[:, 0, :-1, :-1], colour[:, 1]
    pairs = corner[:, :, :-1] + corner[:, :, 1:]
    mixed = centre * np.float32(127.5) + (pairs[:, :-1] + pairs[:, 1:]) * np.float32(255 / 8)
    return np.ascontiguousarray(np.clip(mixed + 0.5, 0, 255).astype(np.uint8).transpose(1, 2, 0))


def _column(rgb):
    return np.array(rgb, np.float32)[:, None]


def _ground_colour(world, hits, pixels, x, z):
    period = tuple(GROUNDS.values())[world.ground][0]
    texture = TEXTURES[tuple(GROUNDS)[world.ground]]
    cos, sin = float(np.cos(world.ground_yaw)) / period, float(np.sin(world.ground_yaw)) / period
    value = _sample(texture, x * cos - z * sin, x * sin + z * cos)
    # Metres of ground under one pixel; a texture finer than that fades to its mean.
    under = (2 * world.tan / hits.rays.dd.shape[1] / world.height) * z * z
    keep = np.clip(1.3 - 4 * under / period, 0, 1)
    mean = float(tiles()[texture].mean())
    one, two = (_column(c) for c in world.ground_colours)
    return one + (two - one) * (mean + (value - mean) * keep)


def _solid_colour(world, hits, found):
    def column(name, dtype=np.float32):
        return np.array([getattr(solid, name) for solid in world.solids], dtype)

    one, two = column("colour").T.copy(), column("accent").T.copy()
    texture, period = column("texture", np.int32), column("period")
    colour = np.take(one, found.solid, axis=1)
    kinds = hits.solids.kind[found.solid]
    textures = texture[found.solid]
    chosen = np.flatnonzero((textures != PLAIN) & (textures != FACE))
    if chosen.size:
        solid, (x, y, z) = found.solid[chosen], np.take(found.local, chosen, axis=1)
        kind, facet = kinds[chosen], found.facet[found.solid_pixels[chosen]]
        around = np.arctan2(x, z) * hits.solids.radius[solid]
        flat = (kind == BOX) & (facet >> 1 == 0)
        top = ((kind == BOX) & (facet >> 1 == 1)) | ((kind == CYLINDER) & (facet == 1))
        across = np.where((kind == BOX) | top, np.where(flat, z, x), around)
        value = _sample(texture[solid], across / period[solid], np.where(top, z, y) / period[solid])
        colour[:, chosen] += (two[:, solid] - one[:, solid]) * value
    chosen = np.flatnonzero(textures == FACE)
    if chosen.size:
        solid = found.solid[chosen]
        x, y, z = found.local[:, chosen] / hits.solids.radius[solid]
        hair = (y > 0.95) | ((z < -0.1) & (y > -0.3)) | ((y > 0.72) & (np.abs(x) > 0.5))
        eyes = (z > 0.3) & ((np.abs(x) - 0.36) ** 2 + (y - 0.35) ** 2 < 0.018)
        mouth = (z > 0.3) & (np.abs(x) < 0.26) & (np.abs(y + 0.25) < 0.07)
        colour[:, chosen] = np.where(hair, two[:, solid], colour[:, chosen])
        colour[:, chosen] *= np.where(eyes, np.float32(0.15), np.where(mouth, np.float32(0.6), np.float32(1)))
    return colour


def _sky_colour(world, hits, pixels):
    horizon, zenith, _, _, clouds = tuple(SKIES.values())[world.sky]
    shape = hits.surface.shape
    rows, columns = pixels // shape[2], pixels % shape[2]
    layer, rows = rows // shape[1], rows % shape[1]
    u, v = hits.rays.u[layer, 0, columns], hits.rays.v[layer, rows, 0]
    up, back = hits.camera.to_camera[:, 1], hits.camera.to_camera[:, 2]
    rise = np.maximum(v * up[1] - up[2], np.float32(0.02))
    ahead = back[2] - v * back[1]
    climb = np.clip(2.2 * rise, 0, 1)
    colour = _column(horizon) + (_column(zenith) - _column(horizon)) * np.sqrt(climb)
    cloud = _sample(NOISE, 0.12 * u / rise + 0.37 * world.light[0], 0.12 * ahead / rise + 0.5)
    return colour + (1 - colour) * (np.clip(2.2 * cloud - 1.1, 0, 1) * clouds * np.clip(5 * rise - 0.5, 0, 1))

"""Computes the features of folders of pictures and keeps them in random-access records."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mtlora_jax.encoders import open_encoder
from mtlora_jax.errors import UserError
from mtlora_jax.files import make_workdir
from mtlora_jax.image_text.datasets.features import INDEX, read_index, shard_name, write_index, write_shard
from mtlora_jax.images import read
from mtlora_jax.listing import listed
from mtlora_jax.weights.fingerprint import fingerprint

SHARD = 1024
"""Pictures of a file of records."""
BATCH = 32
"""Pictures that are encoded at a time."""
ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}


def make_features(
    folders: Sequence[str], encoder: str, weights: str, out: Path, share: tuple[int, int] = (0, 1)
) -> str:
    """Writes the features of all pictures of some folders; files that are whole already are left as they are.

    Args:
      folders: `SET=FOLDER`, the set being what questions call it by: `COCO`, `VG`, `GQA`, `nlvr`.
      encoder, weights: see `encoders.open_encoder`.
      share: `(i, n)`, the i-th of n processes that divide the files.

    Returns:
      A line that says what was written.

    Raises:
      UserError: a folder is missing or empty, a picture cannot be read, or `out` holds the features of other pictures,
        or of another encoder.
    """
    pictures = find(folders)
    opened = open_encoder(encoder, weights)
    make_workdir(out)
    shape = opened(np.zeros((1, opened.size, opened.size, 3), np.uint8)).shape[1:]
    # Weights too: features of one name and of others would be mixed unnoticed.
    name = f"{encoder} {fingerprint(opened.variables)[:12]}"
    if (out / INDEX).exists():
        check_same(out, list(pictures), name)
    else:
        write_index(out, list(pictures), shape, SHARD, name)
    names, written = list(pictures), 0
    shards = range(share[0], -(-len(names) // SHARD), share[1])
    with tqdm(total=sum(len(names[s * SHARD : (s + 1) * SHARD]) for s in shards), unit="pictures", disable=None) as bar:
        for shard in shards:
            own = names[shard * SHARD : (shard + 1) * SHARD]
            if not (out / shard_name(shard)).exists():
                write_shard(out, shard, _encoded(opened, [pictures[image] for image in own], bar))
                written += 1
            else:
                bar.update(len(own))
    missing = [s for s in range(-(-len(names) // SHARD)) if not (out / shard_name(s)).exists()]
    left = f"; {len(missing)} files are left to other processes" if missing else ""
    size = " x ".join(map(str, shape))
    return (
        f"features of {len(names)} pictures ({size}, {name}) in {out}: {written} of {len(shards)} files are new{left}"
    )


def _encoded(opened, paths: Sequence[Path], bar: tqdm):
    """The features of pictures, one after the other."""
    for start in range(0, len(paths), BATCH):
        shown = [opened.fitted(read.image(path)) for path in paths[start : start + BATCH]]
        # The last batch repeats a picture, so that there is one shape.
        features = opened(np.stack(shown + shown[-1:] * (BATCH - len(shown))))
        yield from features[: len(shown)]
        bar.update(len(shown))


def find(folders: Sequence[str]) -> dict[str, Path]:
    """Pictures by their id, `SET/name`, in order. Raises UserError for a folder without any, or two of one id."""
    found: dict[str, Path] = {}
    for argument in folders:
        group, mark, folder = argument.partition("=")
        if not mark or not group or "/" in group:
            raise UserError(f"--images takes SET=FOLDER, such as COCO=train2014, not {argument}")
        if not Path(folder).is_dir():
            raise UserError(f"there is no folder {folder}")
        paths = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in ENDINGS)
        if not paths:
            raise UserError(f"there is no picture in {folder}")
        for path in paths:
            image = f"{group}/{path.stem}"
            if image in found:
                raise UserError(f"two pictures would be called {image}: {found[image]} and {path}")
            found[image] = path
    return dict(sorted(found.items()))


def check_same(out: Path, names: Sequence[str], encoder: str) -> None:
    """Raises UserError where a folder holds the features of other pictures, or of another encoder."""
    about = read_index(out)
    if about["encoder"] != encoder:
        raise UserError(f"{out} holds features of {about['encoder']}, these would be of {encoder}: write elsewhere")
    if about["images"] != list(names):
        other = sorted(set(about["images"]) ^ set(names))
        raise UserError(f"{out} holds features of other pictures, such as {listed(other)}: write elsewhere")

"""Predictions for photos of yours: a picture and the numbers of every task, at the photo's size.

python -m mtlora_jax.predict --workdir DIR --image PHOTO|FOLDER|'GLOB' [more ...] --out DIR2 [--step best|last|N]

For every photo: `<photo>_<task>.png`, drawn; `raw/<task>/<photo>.png` of class numbers or 255 times a probability, or
`.npy` of metres, unit normals and other numbers; and `<photo>_all.png`, all tasks side by side with their legends.
What has moved since training is said like any key of the config: `--init_from=DIR`.
"""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from glob import glob
from pathlib import Path

import jax
import numpy as np

from mtlora_jax.cli import fail_cleanly, open_trained, split_flags
from mtlora_jax.engine import process
from mtlora_jax.engine.run import Run, Step
from mtlora_jax.errors import UserError
from mtlora_jax.files import make_workdir
from mtlora_jax.images import read, transforms
from mtlora_jax.images.panels import panel, save_png, with_legend
from mtlora_jax.listing import listed
from mtlora_jax.vision.config import VisionConfig
from mtlora_jax.vision.native import decoded_at
from mtlora_jax.vision.tasks.task import Task, save_numbers

LARGEST = 512
"""Pixels along a side of a cell of the picture of all tasks."""
ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm"}
"""Which files of a folder are photos."""


def predict(run: Run, photos: Sequence[Path], out: Path, step: Step = "last") -> list[Path]:
    """Writes the predictions of every photo; see the module for the files.

    The network sees a photo as it sees images in training, at its own square size; its logits go to the photo's size.

    Raises:
      UserError: files are no photos, which is told after all others are done.
    """
    from tqdm import tqdm

    workload, tasks, variables = run.workload, run.config.make_tasks(), run.variables(step)
    side, preset = run.config.backbone.image_size, run.config.data.transform_preset()
    forward = jax.jit(lambda variables, batch: workload.forward(variables, batch, None)[0])
    make_workdir(out)
    written, refused = [], []
    for name, path in tqdm(named(photos).items(), "photos", unit="", leave=False, disable=None):
        try:
            photo = read.image(path)
        except UserError as error:
            refused.append(str(error))
            continue
        seen = transforms.evaluate({"image": photo, "labels": {}}, {}, side, preset)["image"]
        logits = forward(variables, {"image": seen[None]})
        found = {task: decoded_at(t.decode, logits[task][0], *photo.shape[:2]) for task, t in tasks.items()}
        written += write(out, name, photo, found, tasks)
    if refused:
        raise UserError(f"{len(refused)} of {len(photos)} files are no photos, the first: {refused[0]}")
    return written


def write(
    out: Path, name: str, photo: np.ndarray, found: Mapping[str, np.ndarray], tasks: Mapping[str, Task]
) -> list[Path]:
    """One photo's predictions: drawn, as numbers, and side by side."""
    written, pictures = [], {task: t.paint(found[task]) for task, t in tasks.items()}
    for task, t in tasks.items():
        stem = out / "raw" / task / name
        stem.parent.mkdir(parents=True, exist_ok=True)
        exact = t.values is None  # a picture's 8 bits would round it
        written.append(save_numbers(stem, found[task]) if exact else t.save(stem, found[task]))
    sheet = panel([[photo, *pictures.values()]], ["image", *pictures], size=min(LARGEST, max(128, *photo.shape[:2])))
    pictures["all"] = with_legend(sheet, {task: t.legend([found[task]]) for task, t in tasks.items()})
    for task, picture in pictures.items():
        written.append(out / f"{name}_{task}.png")
        save_png(written[-1], picture)
    return written


def photos_of(arguments: Sequence[str]) -> list[Path]:
    """The files that paths, folders and patterns name. Raises UserError for one that names none."""
    found: list[Path] = []
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            files = sorted(file for file in path.iterdir() if file.suffix.lower() in ENDINGS)
        else:
            files = [path] if path.exists() else sorted(map(Path, glob(argument)))
        if not files:
            raise UserError(f"there is no image {argument}" + (" in this folder" if path.is_dir() else ""))
        found += files
    return list(dict.fromkeys(found))


def named(photos: Sequence[Path]) -> dict[str, Path]:
    """Photos by the name that their predictions get: without ending or folder, where that is enough."""
    count = Counter(path.stem for path in photos)
    names = [path.stem if count[path.stem] == 1 else "_".join(path.parts[-2:]).replace("/", "") for path in photos]
    if twice := [name for name, n in Counter(names).items() if n > 1]:
        raise UserError(f"predictions of several photos would be called {listed(twice)}: predict them one by one")
    return dict(zip(names, photos, strict=True))


@fail_cleanly()
def main(argv: list[str]) -> None:
    flags, rest = split_flags(argv, ("workdir", "image", "out", "step"), ("help",))
    if flags["help"]:
        print(__doc__)
        return
    if missing := [name for name in ("workdir", "image", "out") if not flags[name]]:
        raise UserError(f"--{missing[0]} is missing; see --help")
    more = [argument for argument in rest if not argument.startswith("--")]
    process.prepare()
    run = open_trained(flags["workdir"], [argument for argument in rest if argument.startswith("--")])
    if not isinstance(run.config, VisionConfig):
        raise UserError(f"{run.workdir} holds no run of dense tasks: {type(run.config).__name__}")
    photos = photos_of([flags["image"], *more])
    out = Path(flags["out"])
    written = predict(run, photos, out, flags["step"] or "last")
    print(f"wrote {len(written)} files to {out}: {listed(str(path.relative_to(out)) for path in written)}")


if __name__ == "__main__":
    main(sys.argv[1:])

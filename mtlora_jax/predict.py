"""One picture per task for a photo of yours.

python -m mtlora_jax.predict --workdir DIR --image X.jpg --out DIR2 [--step best|last|N]
"""

import sys
from pathlib import Path

import jax
import numpy as np
from PIL import Image, ImageOps

from mtlora_jax.cli import fail_cleanly, split_flags
from mtlora_jax.engine import process
from mtlora_jax.engine.run import Step, open_run
from mtlora_jax.errors import UserError
from mtlora_jax.files import make_workdir
from mtlora_jax.images.panels import panel, save_png
from mtlora_jax.vision.config import VisionConfig
from mtlora_jax.vision.heads import resize

LARGEST = 1024
"""Pixels: predictions are written at the photo's size, but no larger than this along a side."""


def predict(workdir: Path, image: Path, out: Path, step: Step = "last") -> list[Path]:
    """Writes `<image>_<task>.png` for every task, and `<image>_all.png` with all of them.

    The network sees the photo at its own square size; predictions are brought back to the photo's shape.

    Raises:
      UserError: the workdir holds no run of dense tasks, or the file is not an image.
    """
    run = open_run(workdir)
    config, workload = run.config, run.workload
    if not isinstance(config, VisionConfig):
        raise UserError(f"{workdir} holds no run of dense tasks: {type(config).__name__}")
    photo, tasks, variables = read_image(image), config.make_tasks(), run.variables(step)
    make_workdir(out)

    side = config.backbone.image_size
    batch = {"image": np.asarray(photo.resize((side, side), Image.Resampling.BICUBIC))[None]}
    outputs = jax.jit(lambda variables, batch: workload.forward(variables, batch, None)[0])(variables, batch)
    shown = photo.size if max(photo.size) <= LARGEST else ImageOps.contain(photo, (LARGEST, LARGEST)).size
    width, height = shown
    pictures = {
        name: task.paint(np.asarray(task.decode(resize(outputs[name], height, width))[0]))
        for name, task in tasks.items()
    }
    written = []
    everything = panel([[np.asarray(photo.resize(shown)), *pictures.values()]], columns=["image", *pictures])
    for name, picture in {**pictures, "all": everything}.items():
        written.append(out / f"{image.stem}_{name}.png")
        save_png(written[-1], picture)
    return written


def read_image(path: Path) -> Image.Image:
    """An RGB image, upright; raises UserError where the file is none."""
    try:
        with Image.open(path) as file:
            return ImageOps.exif_transpose(file).convert("RGB")
    except FileNotFoundError:
        raise UserError(f"there is no image {path}") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path} is not an image that can be read: {error}") from None


@fail_cleanly()
def main(argv: list[str]) -> None:
    flags, rest = split_flags(argv, ("workdir", "image", "out", "step"), ("help",))
    if flags["help"]:
        print(__doc__)
        return
    missing = [name for name in ("workdir", "image", "out") if not flags[name]]
    if rest or missing:
        raise UserError(f"unknown argument {rest[0]}" if rest else f"--{missing[0]} is missing; see --help")
    process.prepare()
    written = predict(Path(flags["workdir"]), Path(flags["image"]), Path(flags["out"]), flags["step"] or "last")
    print("wrote", *written, sep="\n")


if __name__ == "__main__":
    main(sys.argv[1:])

"""Predictions for photos of yours.

python -m mtlora_jax.predict --workdir DIR --image PHOTO|FOLDER|'GLOB' [more ...] --out DIR2 [--step best|last|N]
python -m mtlora_jax.predict --workdir DIR --image PHOTO [more ...] --task NAME --question TEXT [--out DIR2]
                             [--weights FILE]

A run of dense tasks draws every task at the photo's size. For every photo: `<photo>_<task>.png`, drawn;
`raw/<task>/<photo>.png` of class numbers or 255 times a probability, or `.npy` of metres, normals and other numbers;
and `<photo>_all.png`, all tasks side by side with their legends.

A run of image and text answers the question for each photo; a statement about two takes them in pairs, a caption needs
no question. `--out` gets `answers.png` and `answers.json`; `--weights` is the file of the image encoder's weights,
where they are not shipped.

What has moved since training is said like any key of the config: `--init_from=DIR`.
"""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from glob import glob
from pathlib import Path

import jax
import numpy as np

from mtlora_jax import mirrors, storage
from mtlora_jax.cli import fail_cleanly, open_trained, split_flags
from mtlora_jax.engine import process
from mtlora_jax.engine.run import Run, Step
from mtlora_jax.errors import UserError
from mtlora_jax.files import make_workdir, write_json
from mtlora_jax.image_text.config import ImageTextConfig
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
        path = storage.fetched(argument)
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


def answer(run: Run, photos: Sequence[Path], flags: Mapping[str, str | None]) -> None:
    """Prints the answers of a run of image and text, and writes them where `--out` says."""
    from mtlora_jax.image_text.answer import Answers
    from mtlora_jax.image_text.cards import sheet

    task, text, found = flags["task"], flags["question"] or "", []
    if not task:
        raise UserError(f"--task is missing: the run has {', '.join(run.config.tasks)}")
    answers = Answers(run, flags["weights"] or "", flags["step"] or "last")
    at_once = answers.images(task)
    if len(photos) % at_once:
        raise UserError(f"{task} is about {at_once} photos at a time: {len(photos)} do not make whole groups")
    for i in range(0, len(photos), at_once):
        group = photos[i : i + at_once]
        said, card = answers.ask(task, text, group)
        found.append((group, said, card))
        print(f"{' and '.join(map(str, group))}: {said}", flush=True)
    if flags["out"]:
        out = make_workdir(mirrors.outgoing(flags["out"]))
        records = [{"photos": list(map(str, group)), "question": text, "answer": said} for group, said, _ in found]
        write_json(out / "answers.json", {"task": task, "answers": records})
        save_png(out / "answers.png", sheet([card for *_, card in found]))
        print(f"wrote answers.json and answers.png to {mirrors.home(out)}")


@fail_cleanly()
def main(argv: list[str]) -> None:
    names = ("workdir", "image", "out", "step", "task", "question", "weights")
    flags, rest = split_flags(argv, names, ("help",))
    if flags["help"]:
        print(__doc__)
        return
    if missing := [name for name in ("workdir", "image") if not flags[name]]:
        raise UserError(f"--{missing[0]} is missing; see --help")
    more = [argument for argument in rest if not argument.startswith("--")]
    process.prepare()
    run = open_trained(flags["workdir"], [argument for argument in rest if argument.startswith("--")])
    if isinstance(run.config, ImageTextConfig):
        answer(run, photos_of([flags["image"], *more]), flags)
        return
    if not isinstance(run.config, VisionConfig):
        raise UserError(f"{run} holds no run that reads photos: {type(run.config).__name__}")
    if not flags["out"]:
        raise UserError("--out is missing; see --help")
    if asked := [name for name in ("task", "question", "weights") if flags[name]]:
        raise UserError(f"--{asked[0]} is of runs of image and text; {run} predicts all its dense tasks")
    photos = photos_of([flags["image"], *more])
    out = mirrors.outgoing(flags["out"])
    written = predict(run, photos, out, flags["step"] or "last")
    names = listed(str(path.relative_to(out)) for path in written)
    print(f"wrote {len(written)} files to {mirrors.home(out)}: {names}")


if __name__ == "__main__":
    main(sys.argv[1:])

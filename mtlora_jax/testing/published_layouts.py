"""Small data sets drawn from scenes, in the published on-disk layouts and in a folder of one's own.

They are what they look like: palette png, MATLAB structs, npy and jpg.

    python -m mtlora_jax.testing.published_layouts pascal DIR [--train 4] [--val 2] [--scale 1]      (or nyud)

Images are landscape and portrait in turn, as real ones are; people and their absence both occur. Normals point with
y down, as the published augmentation takes them to.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from mtlora_jax.vision.datasets.pascal_context import GROUPS, PERSON, VOC_IDS
from mtlora_jax.vision.datasets.scenes import CLASSES, Scenes
from mtlora_jax.vision.tasks.colours import voc_palette
from mtlora_jax.vision.tasks.task import VOID

SIZES = ((48, 64), (64, 48))
"""Rows and columns of the images in turn."""
VOC_CLASS = np.array([0, 0, 9, 5, 17, PERSON, 20], np.uint8)
"""VOC's class for each of the scenes' (background, ground, box, sphere, cylinder, person, cone)."""
GROUND_ID = 432
UNKNOWN_ID = 1
"""Classes of `LabelMap`: one whose normals count, and one whose don't."""


def write_pascal(root: str | Path, train: int = 4, val: int = 2, seed: int = 0, scale: int = 1) -> Path:
    """Writes `PASCAL_MT`: every second segmentation lies in `VOC12`, the others in `pascal-context`. At a scale of 8
    images are as large as published ones."""
    import scipy.io

    root = Path(root)
    for split, length in {"train": train, "val": val}.items():
        ids = []
        for index, example in enumerate(_scenes(split, length, seed, scale)):
            labels, name = example["labels"], f"2008_{split}{index:03d}"
            ids.append(name)
            _jpg(root / f"JPEGImages/{name}.jpg", example["image"])
            semseg = np.append(VOC_CLASS, [VOID] * (256 - len(VOC_CLASS))).astype(np.uint8)[labels["semseg"]]
            _palette(root / f"semseg/{('VOC12', 'pascal-context')[index % 2]}/{name}.png", semseg)
            _mat(root / f"human_parts/{name}.mat", scipy.io, {"anno": _anno(name, labels)})
            _mat(root / f"pascal-context/trainval/{name}.mat", scipy.io, {"LabelMap": _label_map(labels)})
            _grey(root / f"sal_distill/{name}.png", np.where(labels["saliency"] == 1, 200, 40).astype(np.uint8))
            _png(root / f"normals_distill/{name}.png", np.rint((_normals(labels) + 1) * 127.5).astype(np.uint8))
        _ids(root / f"ImageSets/Context/{split}.txt", ids)
    return root


def write_nyud(root: str | Path, train: int = 4, val: int = 2, seed: int = 0, scale: int = 1) -> Path:
    """Writes `NYUD_MT`; unknown depth and normals are 0, as unknown classes."""
    root, number = Path(root), 0
    for split, length in {"train": train, "val": val}.items():
        ids = []
        for example in _scenes(split, length, seed, scale):
            labels, number = example["labels"], number + 1
            name = f"{number:04d}"
            ids.append(name)
            _jpg(root / f"images/{name}.jpg", example["image"])
            semseg = labels["semseg"].astype(np.int32)
            _grey(root / f"segmentation/{name}.png", np.where(semseg == VOID, 0, semseg + 1).astype(np.uint8))
            _npy(root / f"normals/{name}.npy", _normals(labels))
            _npy(root / f"depth/{name}.npy", np.where(labels["depth"] == VOID, 0, labels["depth"]))
            _npy(root / f"edge/{name}.npy", (labels["edges"] == 1).astype(np.float32))
        _ids(root / f"gt_sets/{split}.txt", ids)
    return root


def write_folder(root: str | Path, tasks: Sequence[str], train: int = 4, val: int = 2, seed: int = 0) -> Path:
    """Writes a folder of the kind people have: png for classes and masks, 16-bit png in millimetres for depth, npy for
    normals (y up), jpg and png images in turn."""
    root = Path(root)
    for split, length in {"train": train, "val": val}.items():
        names = []
        for index, example in enumerate(_scenes(split, length, seed)):
            labels, name = example["labels"], f"{split} {index}"
            names.append(name)
            (_jpg, _png)[index % 2](root / f"images/{name}.{('jpg', 'png')[index % 2]}", example["image"])
            for task in tasks:
                if task == "normals":
                    _npy(root / f"normals/{name}.npy", labels[task])
                elif task == "depth":
                    metres = np.where(labels[task] == VOID, 0, labels[task])
                    _png(root / f"depth/{name}.png", np.rint(metres * 1000).astype(np.uint16))
                else:
                    _png(root / f"{task}/{name}.png", labels[task])
        _ids(root / f"{split}.txt", names)
    return root


def _scenes(split: str, length: int, seed: int, scale: int = 1):
    source = Scenes(scale * max(map(max, SIZES)), length=length, split=split, seed=seed)
    for index in range(length):
        rows, columns = (scale * size for size in SIZES[index % len(SIZES)])
        example = source[index]
        crop = {task: label[-rows:, :columns] for task, label in example["labels"].items()}
        yield {"image": example["image"][-rows:, :columns], "labels": crop}


def _normals(labels: Mapping) -> np.ndarray:
    known = np.where(labels["normals"] == VOID, 0, labels["normals"])
    return known * np.array([1, -1, 1], np.float32)


def _anno(name: str, labels: Mapping) -> dict:
    """PASCAL-Part's struct: the left and the right half of the people as two objects, each group of parts as two."""
    parts = np.where(labels["human_parts"] == VOID, 0, labels["human_parts"])
    left = np.arange(parts.shape[1])[None] < parts.shape[1] // 2
    objects = [_object("chair", 9, labels["semseg"] == 2, [])]
    for half in (left, ~left):
        people = half & (parts > 0)
        if people.any():
            named = [
                (part, people & (parts == group) & (np.arange(len(parts))[:, None] % 2 == k))
                for group, names in GROUPS.items()
                for k, part in enumerate(names.split()[:2])
            ]
            objects.append(_object("person", PERSON, people, [(p, m) for p, m in named if m.any()]))
    return {"imname": name, "objects": _struct_array(objects)}


def _object(name: str, number: int, mask: np.ndarray, parts: list) -> dict:
    structs = [{"part_name": part, "mask": m.astype(np.uint8)} for part, m in parts]
    return {
        "class": name,
        "class_ind": float(number),
        "mask": mask.astype(np.uint8),
        "parts": _struct_array(structs) if structs else np.zeros((0, 0)),
    }


def _struct_array(structs: list[dict]) -> np.ndarray:
    """A 1 x N MATLAB struct array."""
    array = np.empty((1, len(structs)), [(key, object) for key in structs[0]])
    for i, struct in enumerate(structs):
        array[0, i] = tuple(struct.values())
    return array


def _label_map(labels: Mapping) -> np.ndarray:
    table = np.full(256, UNKNOWN_ID, np.uint16)
    table[: len(CLASSES)] = [VOC_IDS[c - 1] if c else UNKNOWN_ID for c in VOC_CLASS]
    table[CLASSES.index("ground")] = GROUND_ID
    return table[labels["semseg"]]


def _folder(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _ids(path: Path, ids: list[str]) -> None:
    _folder(path).write_text("".join(f"{name}\n" for name in ids))


def _jpg(path: Path, image: np.ndarray) -> None:
    Image.fromarray(image).save(_folder(path), quality=95)


def _png(path: Path, picture: np.ndarray) -> None:
    Image.fromarray(picture).save(_folder(path))


_grey = _png


def _palette(path: Path, indices: np.ndarray) -> None:
    picture = Image.fromarray(indices, "P")
    picture.putpalette(voc_palette(256).tobytes())
    picture.save(_folder(path))


def _npy(path: Path, array: np.ndarray) -> None:
    np.save(_folder(path), array)


def _mat(path: Path, io, variables: dict) -> None:
    io.savemat(_folder(path), variables, do_compression=True)


WRITERS = {"pascal": write_pascal, "nyud": write_nyud}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m mtlora_jax.testing.published_layouts")
    parser.add_argument("layout", choices=WRITERS)
    parser.add_argument("dir")
    parser.add_argument("--train", type=int, default=4, help="images")
    parser.add_argument("--val", type=int, default=2, help="images")
    parser.add_argument("--scale", type=int, default=1, help="1 for images of 48 by 64 pixels, 8 for 384 by 512")
    given = parser.parse_args()
    print("wrote", WRITERS[given.layout](given.dir, given.train, given.val, scale=given.scale))

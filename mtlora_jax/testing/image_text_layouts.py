"""A small image-text data set out of scenes, in the published on-disk layout.

    python -m mtlora_jax.testing.image_text_layouts DIR

Questions, annotators and captions are those of the embedded data set; features are 7 x 7 and drawn at random.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from mtlora_jax.image_text.datasets.features import FEATURES
from mtlora_jax.image_text.datasets.questions import Question
from mtlora_jax.image_text.datasets.scenes import ScenesData
from mtlora_jax.image_text.tasks import TASKS
from mtlora_jax.image_text.tasks.nlvr import WORDS

WIDTH = 16
"""Of a feature."""


def write(root: str | Path, train: int = 6, val: int = 4, width: int = WIDTH) -> Path:
    """Writes the four sets.

    Args:
      train, val: pictures of each split.
      width: of a feature.
    """
    root, data = Path(root), ScenesData(train_images=train, val_images=val, asked=2)
    splits = {split: data.open(split, tuple(TASKS)) for split in ("train", "val")}
    by_task = {(task, split): [q for q in splits[split] if q.task == task] for task in TASKS for split in splits}
    pictures: set[str] = set()

    def named(image: str, group: str) -> str:
        pictures.add(f"{group}/{image.rpartition('/')[2]}")
        return image.rpartition("/")[2]

    for split, file in (("train", "karpathy_train"), ("val", "karpathy_val"), ("val", "karpathy_test")):
        asked = by_task["vqa", split]
        _write(
            root / "vqa" / f"{file}.json", [_vqa(q, n, split, named(q.images[0], "COCO")) for n, q in enumerate(asked)]
        )
    for year, split in (("train2014", "train"), ("val2014", "val")):
        told = [_annotation(q, n, split) for n, q in enumerate(by_task["vqa", split])]
        _write(root / "vqa" / f"v2_mscoco_{year}_annotations.json", {"annotations": told})
    for split, files, group in (("train", ("train", "valid"), "VG"), ("val", ("testdev",), "GQA")):
        asked = by_task["gqa", split]
        for i, file in enumerate(files):
            records = [_gqa(q, split, named(q.images[0], group)) for q in asked[i :: len(files)]]
            _write(root / "GQA" / f"{file}.json", records)
    for file, split in (("train", "train"), ("valid", "val"), ("test", "val")):
        records = [_nlvr(q, file, [named(image, "nlvr") for image in q.images]) for q in by_task["nlvr", split]]
        _write(root / "nlvr" / f"{file}.json", records)
    images = []
    for split in ("train", "val"):
        for question in {q.id: q for q in by_task["caption", split]}.values():
            name = named(question.images[0], "COCO")
            sentences = [{"raw": caption} for caption in question.references]
            for there in ("train",) if split == "train" else ("val", "test"):
                number = len(images)
                images.append({"filename": f"{name}.jpg", "split": there, "cocoid": number, "sentences": sentences})
    _write(root / "COCO" / "dataset_coco.json", {"images": images})
    for image in sorted(pictures):
        _features(root, image, width)
    return root


def _vqa(question: Question, number: int, split: str, image: str) -> dict[str, Any]:
    return {
        "img_id": image,
        "question_id": _number(number, split),
        "sent": question.text,
        "label": dict(question.answers),
        "is_topk_optimal": max(question.answers.values()) == 1,
    }


def _annotation(question: Question, number: int, split: str) -> dict[str, Any]:
    answers = [{"answer": answer, "answer_id": i} for i, answer in enumerate(question.references, 1)]
    return {"question_id": _number(number, split), "answers": answers}


def _number(number: int, split: str) -> int:
    return number + 1000 * (split == "val")


def _gqa(question: Question, split: str, image: str) -> dict[str, Any]:
    return {
        "img_id": image,
        "question_id": f"{split}{question.id}",
        "sent": question.text,
        "label": dict(question.answers),
    }


def _nlvr(question: Question, file: str, images: list[str]) -> dict[str, Any]:
    _, picture, _, statement = question.id.split("-")
    return {
        "identifier": f"{file}-{picture}-0-{statement}",
        "img0": images[0],
        "img1": images[1],
        "sent": question.text,
        "label": int(WORDS[0] in question.answers),
    }


def _features(root: Path, image: str, width: int) -> None:
    import h5py

    group, _, name = image.partition("/")
    folder = root / group / FEATURES
    folder.mkdir(parents=True, exist_ok=True)
    bits = np.random.Philox(key=[len(name), sum(name.encode())])
    drawn = np.random.Generator(bits).normal(size=(49, width)).astype(np.float16)
    with h5py.File(folder / f"{name}.h5", "w") as file:
        file.create_dataset(f"{name}/features", data=drawn)


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m mtlora_jax.testing.image_text_layouts DIR")
    print("wrote", write(sys.argv[1]))

"""COCO captions in Karpathy's splits.

<root>/COCO/dataset_coco.json
"""

from pathlib import Path
from typing import Any

from mtlora_jax.errors import UserError
from mtlora_jax.files import read_json
from mtlora_jax.image_text.datasets.files import check_records
from mtlora_jax.image_text.datasets.questions import Question

FIELDS = {"filename": str, "split": str, "sentences": list}
SPLITS = {"train": ("train", "restval"), "val": ("val",), "test": ("test",)}


def read(root: Path, split: str) -> list[Question]:
    """The captions of a split: to train on, each for itself; else each picture with all of its own.

    Raises:
      UserError: the file is missing or broken, or a picture has no caption.
    """
    path = root / "COCO" / "dataset_coco.json"
    told: Any = read_json(path)
    if not isinstance(told, dict) or not isinstance(told.get("images"), list):
        raise UserError(f"{path} holds no images: it should be Karpathy's file of COCO")
    check_records(told["images"], FIELDS, path)
    found = []
    for record in told["images"]:
        if record["split"] not in SPLITS[split]:
            continue
        name = record["filename"].rpartition(".")[0]
        where = f"{path}, picture {name}"
        captions = tuple(_caption(sentence, where) for sentence in record["sentences"])
        if not captions:
            raise UserError(f"{where} has no captions")
        number = str(record.get("cocoid", name))
        for caption in captions if split == "train" else captions[:1]:
            found.append(Question("caption", number, "", (f"COCO/{name}",), {caption: 1.0}, captions))
    return found


def _caption(sentence: Any, where: str) -> str:
    if not isinstance(sentence, dict) or not isinstance(sentence.get("raw"), str):
        raise UserError(f"{where}: a sentence has no raw text")
    return sentence["raw"].strip()

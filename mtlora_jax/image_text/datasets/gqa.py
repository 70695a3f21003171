"""GQA, as VL-T5 prepared it.

<root>/GQA/train.json  <root>/GQA/valid.json     trained on together; pictures of Visual Genome
<root>/GQA/testdev.json                          what is reported; pictures of its own
"""

from pathlib import Path

from mtlora_jax.image_text.datasets.files import records, scores
from mtlora_jax.image_text.datasets.questions import Question

FIELDS = {"img_id": str, "question_id": str, "sent": str, "label": dict}
FILES = {"train": ("train", "valid"), "val": ("testdev",), "test": ("testdev",)}


def read(root: Path, split: str) -> list[Question]:
    """The questions of a split, `train`, `val` or `test`, the last two of which are one.

    Raises:
      UserError: a file is missing or broken.
    """
    group, found = "VG" if split == "train" else "GQA", []
    for name in FILES[split]:
        path = root / "GQA" / f"{name}.json"
        for record in records(path, FIELDS):
            answers = scores(record["label"], f"{path}, question {record['question_id']}")
            images = (f"{group}/{record['img_id']}",)
            found.append(Question("gqa", record["question_id"], record["sent"], images, answers))
    return found

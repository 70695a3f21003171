"""NLVR2, as LXMERT prepared it.

<root>/nlvr/{train,valid,test}.json
"""

from pathlib import Path

from mtlora_jax.errors import UserError
from mtlora_jax.image_text.datasets.files import records
from mtlora_jax.image_text.datasets.questions import Question
from mtlora_jax.image_text.tasks.nlvr import WORDS

FIELDS = {"identifier": str, "img0": str, "img1": str, "label": int, "sent": str}
FILES = {"train": "train", "val": "valid", "test": "test"}


def read(root: Path, split: str) -> list[Question]:
    """The statements of a split, `train`, `val` or `test`.

    Raises:
      UserError: a file is missing or broken.
    """
    path, found = root / "nlvr" / f"{FILES[split]}.json", []
    for record in records(path, FIELDS):
        name = record["identifier"]
        if record["label"] not in (0, 1):
            raise UserError(f"{path}, {name}: the label is {record['label']}, 0 or 1 is needed")
        # Of split-group-pair-statement the last but one is left out: a group is one statement about several pairs.
        parts = name.split("-")
        group = "-".join([*parts[:2], *parts[3:]])
        images = (f"nlvr/{record['img0']}", f"nlvr/{record['img1']}")
        answers = {WORDS[0] if record["label"] else WORDS[1]: 1.0}
        found.append(Question("nlvr", name, record["sent"], images, answers, group=group))
    return found

"""GLUE cast to text: a sentence or two, and a word or a number for the label.

<root>/<task>/{train,validation}.jsonl     records with GLUE's own fields and an integer or float `label`
<root>                                     or TensorFlow Datasets' data directory, with glue/<task> prepared
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtlora_jax.errors import UserError
from mtlora_jax.language.rows import Row
from mtlora_jax.storage import fetched
from mtlora_jax.text.datasets.data import Data
from mtlora_jax.text.datasets.read import read_records
from mtlora_jax.text.tasks import GLUE

FIELDS: Mapping[str, tuple[str, ...]] = {
    "cola": ("sentence",),
    "mnli": ("premise", "hypothesis"),
    "mrpc": ("sentence1", "sentence2"),
    "qnli": ("question", "sentence"),
    "qqp": ("question1", "question2"),
    "rte": ("sentence1", "sentence2"),
    "sst2": ("sentence",),
    "stsb": ("sentence1", "sentence2"),
    "wnli": ("sentence1", "sentence2"),
}
"""What a record of each task says, as TensorFlow Datasets and the hub name it."""

SPLITS = {"train": "train", "val": "validation"}
MATCHED = {"mnli": "validation_matched"}
"""Where a task's held-out split has another name."""


@dataclass(frozen=True)
class GlueData(Data):
    """GLUE cast to text; see the module for the files.

    Attributes:
      root: a folder of json files, or TensorFlow Datasets' data directory.
      val_length: rows of each validation set that evaluation during training reads; 0 for all.
    """

    val_length: int = 64
    root: str = ""

    def rows(self, split: str, tasks: Sequence[str]) -> list[Row]:
        """Rows of a split, `train` or `val`.

        Raises:
          UserError: a task has neither files nor a prepared data set; a record lacks a field or has a label out of
            range.
        """
        found = []
        for task in tasks:
            name = MATCHED.get(task, SPLITS[split]) if split == "val" else SPLITS[split]
            records = list(_records(fetched(self.root), task, name))
            found += [row_of(r, task, f"{self.root}: {task} {name}, record {i}") for i, r in enumerate(records)]
        return found


def row_of(record: Mapping[str, Any], task: str, where: str) -> Row:
    """One record as text: its fields by name, a line each, and what may be answered."""
    fields, answers, label = FIELDS[task], GLUE[task].answers, record.get("label")
    if missing := [name for name in fields if not isinstance(record.get(name), str)]:
        raise UserError(f"{where}: no {missing[0]}")
    lines = "\n".join(f"{name}: {record[name]}" for name in fields)
    if not answers:
        if type(label) not in (int, float) or not math.isfinite(label):
            raise UserError(f"{where}: its label is {label!r}, no number")
        # Written as people say it, and scored against the label as it is.
        return Row(task, f"{task}\n{lines}\nHow similar are they, from 0.0 to 5.0?", "", f"{label:.1f}", str(label))
    if type(label) is not int or not 0 <= label < len(answers):
        raise UserError(f"{where}: its label is {label!r}, {task} has 0 to {len(answers) - 1}")
    instruction = f"{task}\n{lines}\nAnswer format: {'/'.join(answers)}"
    return Row(task, instruction, "", answers[label], answers[label], answers)


def _records(root: Path, task: str, split: str) -> Iterator[Mapping[str, Any]]:
    for suffix in (".jsonl", ".json"):
        if (path := root / task / f"{split}{suffix}").exists():
            yield from read_records(path)
            return
    try:
        import tensorflow_datasets as tfds

        source = tfds.data_source(f"glue/{task}", split=split, data_dir=root, download=False)
    except Exception as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(
            f"{root} holds neither {task}/{split}.jsonl nor a prepared glue/{task} of TensorFlow Datasets: {reason}"
        ) from None
    for record in source:
        yield {key: value.decode() if isinstance(value, bytes) else _plain(value) for key, value in record.items()}


def _plain(value: Any) -> int | float:
    """numpy's numbers as Python's."""
    return value.item() if hasattr(value, "item") else value

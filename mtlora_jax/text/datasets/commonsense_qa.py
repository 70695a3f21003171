"""CommonsenseQA, as its authors publish it or as the hub stores it, in the wording of the other commonsense sets.

<root>/commonsense_qa/train_rand_split.jsonl, dev_rand_split.jsonl     (the labels of its test set are not public)
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mtlora_jax.errors import UserError
from mtlora_jax.language.rows import Row
from mtlora_jax.text.datasets.read import read_records

TASK = "commonsense_qa"
FILES = {"train": "train_rand_split.jsonl", "val": "dev_rand_split.jsonl"}
SIZES = (9741, 1221)
"""Published rows of them, recalled and never counted here."""


def read_commonsense_qa(path: Path) -> list[Row]:
    """The rows of one of its files.

    Raises:
      UserError: there is no such file; a record lacks a field, or its answer is none of its choices.
    """
    return [_row(record, f"{path}, record {number}") for number, record in enumerate(read_records(path))]


def _row(record: Mapping[str, Any], where: str) -> Row:
    try:
        question = record["question"]
        # The authors' records hold the choices in the question, one object each; the hub's beside it, in two lists.
        stem, choices = (question, record["choices"]) if isinstance(question, str) else (question["stem"], question)
        if isinstance(question, str):
            labels, texts = choices["label"], choices["text"]
        else:
            labels, texts = zip(*((choice["label"], choice["text"]) for choice in choices["choices"]), strict=True)
        key = record["answerKey"]
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{where}: not of CommonsenseQA, which has question, choices and answerKey") from None
    if key not in labels:
        raise UserError(f"{where}: answerKey {key!r} is none of {', '.join(map(str, labels)) or 'no choices'}")
    names = [f"answer{i}" for i in range(1, len(labels) + 1)]
    listed = " ".join(f"{name.capitalize()}: {text}" for name, text in zip(names, texts, strict=True))
    instruction = (
        f"Please choose the correct answer to the question: {stem}\n\n{listed}\n\nAnswer format: {'/'.join(names)}"
    )
    answer, outputs = names[list(labels).index(key)], tuple(f"the correct answer is {name}" for name in names)
    return Row(TASK, instruction, "", f"the correct answer is {answer}", answer, outputs)

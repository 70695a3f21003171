"""Small text data sets of made-up rows, in the published on-disk layouts.

    python -m mtlora_jax.testing.text_layouts commonsense DIR      (or glue)

Instructions have the published form; what they ask means nothing.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mtlora_jax.text.datasets.commonsense_qa import FILES, TASK
from mtlora_jax.text.datasets.glue import FIELDS, MATCHED, SPLITS
from mtlora_jax.text.tasks import COMMONSENSE, GLUE

WORDS = ["stone", "river", "lamp", "bread", "cloud", "rope", "glass", "winter", "table", "music"]
QUESTION = "Please choose the correct answer to the question: {}?\n\n"
FORMS: Mapping[str, tuple[str, int, str, str]] = {
    "piqa": ("Please choose the correct solution to the question: {}\n\n", 2, "solution", "\n\n"),
    "social_i_qa": (QUESTION, 3, "answer", " "),
    "hellaswag": ("Please choose the correct ending to complete the given sentence: {}\n\n", 4, "ending", " "),
    "winogrande": (
        "Please choose the correct answer to fill in the blank to complete the given sentence: {} _\n\n",
        2,
        "option",
        " ",
    ),
    "ARC-Challenge": (QUESTION, 4, "answer", " "),
    "ARC-Easy": (QUESTION, 4, "answer", " "),
    "openbookqa": (QUESTION, 4, "answer", " "),
}
"""How a set asks, how many choices it gives, their name, and what stands between them."""


def commonsense_record(task: str, rng: np.random.Generator) -> dict[str, str]:
    """One record of a set, with LLM-Adapters' fields."""
    if task == "boolq":
        asked = f"Please answer the following question with true or false, question: is {_phrase(rng)}?"
        return _record(f"{asked}\n\nAnswer format: true/false", ("true", "false")[rng.integers(2)])
    start, count, name, between = FORMS[task]
    names = [f"{name}{i}" for i in range(1, count + 1)]
    choices = between.join(f"{name.capitalize()}: {_phrase(rng)}" for name in names)
    # Winogrande alone has a space before the format.
    gap = " " if task == "winogrande" else "\n\n"
    asked = start.format(_phrase(rng)) + choices + f"{gap}Answer format: {'/'.join(names)}"
    return _record(asked, names[rng.integers(count)])


def commonsense_qa_record(rng: np.random.Generator) -> dict[str, Any]:
    """One record of CommonsenseQA, with its authors' fields."""
    choices = [{"label": label, "text": _phrase(rng, 1)} for label in "ABCDE"]
    question = {"question_concept": _phrase(rng, 1), "choices": choices, "stem": f"{_phrase(rng)}?"}
    return {"answerKey": "ABCDE"[rng.integers(5)], "id": "0", "question": question}


def _record(instruction: str, answer: str) -> dict[str, str]:
    return {"instruction": instruction, "input": "", "output": f"the correct answer is {answer}", "answer": answer}


def _phrase(rng: np.random.Generator, length: int = 6) -> str:
    return " ".join(rng.choice(WORDS, length))


def write_commonsense(
    root: str | Path, train: int = 4, test: int = 3, seed: int = 0, tasks: Sequence[str] = tuple(COMMONSENSE)
) -> Path:
    """Writes a folder for each set, and the eight's training rows shuffled in one file, with task ids and without."""
    root, rng = Path(root), np.random.Generator(np.random.Philox(seed))
    everything = []
    for task in tasks:
        splits = {"train": train, "test": test}
        made = {name: [commonsense_record(task, rng) for _ in range(n)] for name, n in splits.items()}
        for name, records in made.items():
            _write(root / task / f"{name}.json", json.dumps(records))
        everything += [{**record, "task_id": list(COMMONSENSE).index(task)} for record in made["train"]]
    for name in FILES.values():
        lines = [json.dumps(commonsense_qa_record(rng)) + "\n" for _ in range(test)]
        _write(root / TASK / name, "".join(lines))
    mixed = [everything[i] for i in rng.permutation(len(everything))]
    _write(root / "commonsense_170k_taskid.json", json.dumps(mixed))
    bare = [{key: value for key, value in record.items() if key != "task_id"} for record in mixed]
    _write(root / "commonsense_170k.json", json.dumps(bare))
    return root


def write_glue(
    root: str | Path, train: int = 4, val: int = 3, seed: int = 0, tasks: Sequence[str] = tuple(GLUE)
) -> Path:
    """Writes a folder of JSON lines for each task."""
    root, rng = Path(root), np.random.Generator(np.random.Philox(seed))
    for task in tasks:
        splits = {SPLITS["train"]: train, MATCHED.get(task, SPLITS["val"]): val}
        for name, length in splits.items():
            lines = [json.dumps(glue_record(task, rng)) + "\n" for _ in range(length)]
            _write(root / task / f"{name}.jsonl", "".join(lines))
    return root


def glue_record(task: str, rng: np.random.Generator) -> dict[str, str | int | float]:
    """One record of a task, with GLUE's fields."""
    classes = len(GLUE[task].answers)
    label = int(rng.integers(classes)) if classes else float(np.round(rng.uniform(0, 5), 2))
    return {**{name: _phrase(rng) for name in FIELDS[task]}, "label": label}


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


WRITERS = {"commonsense": write_commonsense, "glue": write_glue}

if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in WRITERS:
        raise SystemExit(f"usage: python -m mtlora_jax.testing.text_layouts {'|'.join(WRITERS)} DIR")
    print("wrote", WRITERS[sys.argv[1]](sys.argv[2]))

"""Inspects questions before they train: every text encoded, every picture's features there, answers counted."""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mtlora_jax.errors import UserError
from mtlora_jax.files import make_workdir, write_json
from mtlora_jax.image_text.batches import Questions
from mtlora_jax.image_text.cards import Card, sheet
from mtlora_jax.image_text.config import ImageTextConfig
from mtlora_jax.image_text.source import tokenizer_of
from mtlora_jax.image_text.tasks.task import Task
from mtlora_jax.image_text.workload import open_questions
from mtlora_jax.images.panels import save_png
from mtlora_jax.listing import text_table

COMMON = 5
"""Answers of a task that are reported."""
SHOWN = 2
"""Questions of each task on the sheet."""
HEADER = ("task", "questions", "pictures", "longest input", "longest target", "without answer", "most frequent answers")


def check(config: ImageTextConfig, out: Path, expect: str | None = None, workers: int = 0) -> None:
    """Opens both splits as a run would, prints numbers of every task, and writes `report.json`; and `sheet.png` where
    pictures are at hand.

    Raises:
      UserError: see `workload.open_questions`; or `expect` is given, as no counts are known.
    """
    if expect is not None:
        raise UserError(f"--expect {expect}: no counts of image-text sets are known")
    make_workdir(out)
    tokenizer, report, cards, written = partial(tokenizer_of, config), {}, [], ["report.json"]
    for split in ("train", "test"):
        opened = open_questions(config, tokenizer, split)
        rows = [summary(opened, task) for task in opened.tasks]
        print(f"{split}:\n{text_table(HEADER, rows)}")
        report[split] = [dict(zip(HEADER, row, strict=True)) for row in rows]
        cards += [card for task in opened.tasks for card in shown(config, opened, task)]
    write_json(out / "report.json", report)
    if cards:
        save_png(out / "sheet.png", sheet(cards))
        written.append("sheet.png")
    print(f"wrote {' and '.join(written)} to {out}")


def summary(opened: Questions, task: Task) -> tuple:
    """A row of the table."""
    own = [i for i, question in enumerate(opened.questions) if question.task == task.name]
    lengths = [
        [len(ids) for ids in opened.encode(i, None)[:2]] for i in tqdm(own, task.name, leave=False, disable=None)
    ]
    longest = np.max(lengths, axis=0).tolist()
    questions = [opened.questions[i] for i in own]
    pictures = {image for question in questions for image in question.images}
    answers: Counter[str] = Counter(task.target(question)[0] for question in questions if question.answers)
    common = ", ".join(f"{answer} {count}" for answer, count in answers.most_common(COMMON))
    without = sum(not question.answers for question in questions)
    return (task.name, len(own), len(pictures), *longest, without, common if task.name != "caption" else "-")


def shown(config: ImageTextConfig, opened: Questions, task: Task) -> Sequence[Card]:
    """Cards of a task's first questions with their answers."""
    found = []
    for question in [q for q in opened.questions if q.task == task.name][:SHOWN]:
        pictures = [picture for image in question.images if (picture := config.data.picture(image)) is not None]
        if pictures:
            truths = question.references or tuple(question.answers)
            lines = [(f"{task.name}: {question.text}", None), (" | ".join(dict.fromkeys(truths)), None)]
            found.append(Card(pictures, lines))
    return found

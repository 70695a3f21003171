"""Questions, answers and pictures on one sheet."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mtlora_jax.image_text.batches import Questions
from mtlora_jax.image_text.scoring import predictions_of
from mtlora_jax.image_text.tasks.task import Task
from mtlora_jax.image_text.tokenizer import BartTokenizer
from mtlora_jax.images.panels import GAP, INK, PAPER

SHOWN = 2
"""Questions of each task on the sheet."""
SIZE, TEXT = 160, 15
"""Pixels of a picture, and of letters."""
WIDTH = 300
"""Pixels for the words beside pictures."""
RIGHT, WRONG = (30, 120, 60), (170, 50, 40)


class Card(NamedTuple):
    """One question on the sheet.

    Attributes:
      pictures: uint8 `[H, W, 3]` each.
      lines: words, and whether they are right (True), wrong (False), or neither.
    """

    pictures: Sequence[np.ndarray]
    lines: Sequence[tuple[str, bool | None]]


def cards(
    picture: Callable[[str], np.ndarray | None],
    tasks: Mapping[str, Task],
    tokenizer: BartTokenizer,
    questions: Questions,
    outputs: Mapping,
    batch: Mapping,
) -> dict[str, np.ndarray]:
    """`{"all": sheet}` of the first questions of each task in a batch; nothing where no pictures are at hand."""
    found = []
    for name, task in tasks.items():
        rows = np.flatnonzero(batch["valid"][name])
        rows = rows[:: max(len(rows) // SHOWN, 1)][:SHOWN]  # not all about one picture
        for row, prediction in zip(rows, predictions_of(task, tokenizer, outputs, rows), strict=True):
            question = questions.questions[int(batch["id"][row])]
            pictures = [shown for image in question.images if (shown := picture(image)) is not None]
            if pictures:
                truths = question.references[:1] if name == "caption" else list(question.answers)[:3]
                is_right = None if name == "caption" else prediction in question.answers
                asked = f"{name}: {question.text}" if question.text else name
                lines = [(asked, None), (f"model: {prediction}", is_right), (f"truth: {', '.join(truths)}", None)]
                found.append(Card(pictures, lines))
    return {"all": sheet(found, SHOWN)} if found else {}


def sheet(found: Sequence[Card], columns: int = 1) -> np.ndarray:
    """uint8 `[H, W, 3]`, the cards row by row, words on the right of pictures."""
    most = max(len(card.pictures) for card in found)
    wide, rows = GAP + most * (SIZE + GAP) + WIDTH, -(-len(found) // columns)
    page = Image.new("RGB", (columns * wide, GAP + rows * (SIZE + GAP)), PAPER)
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(TEXT)
    for number, card in enumerate(found):
        row, column = divmod(number, columns)
        top, begin = GAP + row * (SIZE + GAP), GAP + column * wide
        for i, shown in enumerate(card.pictures):
            scaled = Image.fromarray(shown).resize((SIZE, SIZE), Image.Resampling.LANCZOS)
            page.paste(scaled, (begin + i * (SIZE + GAP), top))
        left = begin + len(card.pictures) * (SIZE + GAP)
        y = top + GAP
        for words, is_right in card.lines:
            ink = INK if is_right is None else RIGHT if is_right else WRONG
            for line in _wrapped(words, font):
                draw.text((left, y), line, ink, font)
                y += TEXT + 4
            y += 4
    return np.array(page)


def _wrapped(words: str, font) -> list[str]:
    """Lines that fit beside the pictures."""
    lines = [""]
    for word in words.split():
        longer = f"{lines[-1]} {word}".strip()
        lines = [*lines[:-1], longer] if font.getlength(longer) <= WIDTH - GAP else [*lines, word]
    return lines

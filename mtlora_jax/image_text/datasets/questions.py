"""What one example of an image-text task says, before any prefix or tokenizer."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Question:
    """One example.

    Attributes:
      task: its task's name.
      id: what the data set calls it.
      text: the question, or the statement; nothing for a caption.
      images: ids of its pictures.
      answers: answers to learn and their scores in (0, 1]; of captions and statements there is one.
      references: what a prediction is scored against, where that is not `answers`: the ten annotators' answers, or all
        captions of the picture.
      group: questions of one group are right together or not at all; empty for none.
      is_common: whether an answer that the training set often gives is among its best, where the data set says.
    """

    task: str
    id: str
    text: str
    images: tuple[str, ...]
    answers: Mapping[str, float] = field(default_factory=dict)
    references: tuple[str, ...] = ()
    group: str = ""
    is_common: bool | None = None

"""A trained run's answers to questions about photos of yours."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import jax
import numpy as np

from mtlora_jax.encoders import Encoder, open_encoder
from mtlora_jax.engine.run import Run, Step
from mtlora_jax.errors import UserError
from mtlora_jax.image_text.batches import Questions
from mtlora_jax.image_text.cards import Card
from mtlora_jax.image_text.config import ImageTextConfig
from mtlora_jax.image_text.datasets.features import Held, check_features
from mtlora_jax.image_text.datasets.questions import Question
from mtlora_jax.image_text.scoring import predictions_of
from mtlora_jax.image_text.source import tokenizer_of
from mtlora_jax.images import read


class Answers:
    """What a run says about photos.

    Args:
      run: a run of image and text.
      weights: of the run's image encoder, where it is not shipped.
      step: which checkpoint.

    Raises:
      UserError: it is another kind of run, or the encoder cannot be opened.
    """

    def __init__(self, run: Run, weights: str = "", step: Step = "last"):
        if not isinstance(run.config, ImageTextConfig):
            raise UserError(f"{run.workdir} holds no run of image and text: {type(run.config).__name__}")
        self.config: ImageTextConfig = run.config
        self.encoder: Encoder = open_encoder(self.config.data.encoder, weights)
        self._tasks, self._tokenizer = self.config.make_tasks(), tokenizer_of(self.config)
        self._variables, self._workload = run.variables(step), run.workload

    @cached_property
    def _forward(self):
        return jax.jit(lambda variables, batch: self._workload.forward(variables, batch, None)[0])

    def images(self, task: str) -> int:
        """How many photos a question of a task is about. Raises UserError where the run has no such task."""
        if task not in self._tasks:
            raise UserError(f"the run has no task {task}: it has {', '.join(self._tasks)}")
        return self._tasks[task].images

    def ask(self, task: str, text: str, photos: Sequence[Path]) -> tuple[str, Card]:
        """The answer to one question, and a card of it.

        Args:
          task: one of the run's.
          text: the question, or the statement; empty for a caption.
          photos: as many as the task has pictures.

        Raises:
          UserError: the run has no such task, or it takes another number of photos; a photo cannot be read, or its
            features are of another width than the model reads.
        """
        if len(photos) != self.images(task):
            raise UserError(f"{task} is about {self.images(task)} photos at a time, not {len(photos)}")
        asked = self._tasks[task]
        if not text and task != "caption":
            raise UserError(f"{task} needs a question: --question TEXT")
        pictures = [read.image(photo) for photo in photos]
        names = [f"{i}/{photo}" for i, photo in enumerate(photos)]
        encoded = self.encoder(np.stack([self.encoder.fitted(picture) for picture in pictures]))
        features = Held(dict(zip(names, encoded, strict=True)))
        check_features(features, names, self.config.visual.features, "photos")
        question = Question(task, "0", text, tuple(names), {})
        # Lengths of its own: a question of yours may be longer than those of training.
        lengths = ((len(self._tokenizer.encode(asked.prefix + text)) // 16 * 16 + 16, 16),)
        tasks = tuple(replace(one, input_limit=0) for one in self._tasks.values())
        batch = Questions(tasks, (question,), features, self._tokenizer, lengths).collate(
            np.zeros(1, np.int64), range(1), None, asked.images
        )
        outputs = self._forward(self._variables, {name: value for name, value in batch.items() if name != "id"})
        (answer,) = predictions_of(asked, self._tokenizer, outputs, [0])
        return answer, Card(pictures, [(f"{task}: {text}" if text else task, None), (answer, None)])

"""Batches of questions about pictures.

A batch holds

    tokens [B, L] int32        prefix and question, padded
    targets [B, M] int32       the answer to learn, IGNORE behind it
    features [B, I, N, F]      of every picture, float16
    visible [B, I] bool        which pictures an example has
    score [B] float32          of the answer
    task_id [B] int32          whose adapters to use
    valid {task: [B] bool}     whether a row is an example of the task
    id [B] int64               its place among the questions, for messages

Tasks are mixed in a batch, or batches are of one task each in the published order.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial

import numpy as np

from mtlora_jax.errors import UserError
from mtlora_jax.image_text.datasets.features import Features
from mtlora_jax.image_text.datasets.questions import Question
from mtlora_jax.image_text.tasks.task import Task
from mtlora_jax.image_text.tokenizer import BartTokenizer
from mtlora_jax.input.loader import Order, example_rng, padded_indices, shuffled, without_copies
from mtlora_jax.input.mixture import MixtureOrder, shares_of
from mtlora_jax.input.protocols import Batches, HeldOut
from mtlora_jax.language.packing import IGNORE

Lengths = tuple[tuple[int, int], ...]
"""(input, target) lengths that batches are padded to, rising."""


@dataclass(frozen=True, eq=False)
class Questions:
    """Questions with all that is needed to make batches of them.

    Attributes:
      tasks: in the order of task ids.
      questions: for batches of one task, those of a task one after the other in that order.
      features: of their pictures.
      tokenizer: makes ids of texts.
      lengths: what batches are padded to; the last holds every example.
    """

    tasks: tuple[Task, ...]
    questions: tuple[Question, ...]
    features: Features
    tokenizer: BartTokenizer
    lengths: Lengths

    def __len__(self) -> int:
        return len(self.questions)

    def sizes(self) -> tuple[int, ...]:
        """Questions of each task."""
        counts = {task.name: 0 for task in self.tasks}
        for question in self.questions:
            counts[question.task] += 1
        return tuple(counts.values())

    def encode(self, index: int, rng: np.random.Generator | None) -> tuple[list[int], list[int], float]:
        """Ids of a question and of an answer to it, and the answer's score; a generator draws the answer."""
        question = self.questions[index]
        task = self.tasks[self._id(index)]
        answer, score = task.target(question, rng)
        text = self.tokenizer.encode(task.prefix + question.text, task.input_limit)
        return text, self.tokenizer.encode(answer, task.target_limit), score

    def collate(
        self,
        indices: np.ndarray,
        rows: Sequence[int],
        rng: Callable[[int], np.random.Generator] | None,
        images: int = 0,
    ) -> dict:
        """Some rows of the batch of these questions. All questions together choose the lengths, so that processes
        agree.

        Args:
          rng: by row; None learns the best answer.
          images: I; 0 for the most that any task has.
        """
        encoded = [self.encode(int(index), rng and rng(row)) for row, index in enumerate(indices)]
        longest = [max(len(of[side]) for of in encoded) for side in (0, 1)]
        L, M = next(pair for pair in self.lengths if pair[0] >= longest[0] and pair[1] >= longest[1])
        own, encoded = indices[list(rows)], [encoded[row] for row in rows]
        tokens, targets = np.full((len(own), L), self.tokenizer.pad, np.int32), np.full((len(own), M), IGNORE, np.int32)
        for row, (text, answer, _) in enumerate(encoded):
            tokens[row, : len(text)], targets[row, : len(answer)] = text, answer
        pictures = [[self.features[image] for image in self.questions[int(i)].images] for i in own]
        images = images or max(task.images for task in self.tasks)
        features = np.zeros((len(own), images, *pictures[0][0].shape), np.float16)
        visible = np.zeros((len(own), images), bool)
        for row, shown in enumerate(pictures):
            features[row, : len(shown)], visible[row, : len(shown)] = shown, True
        task_id = np.array([self._id(int(i)) for i in own], np.int32)
        return {
            "tokens": tokens,
            "targets": targets,
            "features": features,
            "visible": visible,
            "score": np.array([score for _, _, score in encoded], np.float32),
            "task_id": task_id,
            "valid": {task.name: task_id == t for t, task in enumerate(self.tasks)},
            "id": own.astype(np.int64),
        }

    def check_lengths(self, split: str) -> None:
        """Raises UserError for a question or an answer that no batch would hold."""
        L, M = self.lengths[-1]
        for index in range(len(self)):
            task, question = self.tasks[self._id(index)], self.questions[index]
            answers = question.answers or {"": 0.0}
            texts = [("input", task.prefix + question.text, task.input_limit, L)]
            texts += [("target", answer, task.target_limit, M) for answer in answers]
            for side, text, limit, most in texts:
                # A text has no more ids than bytes and both ends: most are not even encoded.
                if len(text.encode()) + 2 <= most or (found := len(self.tokenizer.encode(text, limit))) <= most:
                    continue
                raise UserError(
                    f"tasks.{task.name}: {side} {text[:60]!r} of the {split} split has {found} tokens, lengths end at "
                    f"{most}: make the last pair longer, or set --tasks.{task.name}.{side}_limit={most}"
                )

    def _id(self, index: int) -> int:
        return self._ids[self.questions[index].task]

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {task.name: t for t, task in enumerate(self.tasks)}


@dataclass(frozen=True, eq=False)
class Mixed(Batches):
    """Training batches in which tasks are mixed.

    Attributes:
      questions: what to choose from.
      batch_size: B of the global batch.
      order: which questions a batch holds.
    """

    questions: Questions
    batch_size: int
    order: Order

    @property
    def fillers(self) -> dict[str, float]:
        return {"tokens": self.questions.tokenizer.pad, "targets": IGNORE}

    def batch(self, seed: int, step: int, rows: Sequence[int]) -> dict:
        indices = self.order(seed, step, self.batch_size)
        return self.questions.collate(indices, rows, partial(example_rng, seed, step))


def mixed(questions: Questions, batch_size: int, temperature: float | None) -> Mixed:
    """All questions in a new permutation each epoch, or tasks dealt by `size ** (1 / temperature)`."""
    sizes = questions.sizes()
    order: Order = partial(shuffled, length=len(questions))
    if temperature is not None:
        order = MixtureOrder(sizes, shares_of(sizes, None, temperature))
    return Mixed(questions, batch_size, order)


@dataclass(frozen=True, eq=False)
class OneTask(Batches):
    """Training batches of one task each, as published: an epoch goes through all batches of all tasks in a random
    order; a task's last batch is smaller.

    Attributes:
      questions: what to choose from.
      sizes: rows of a batch of each task.
      batch_size: B of the config, which processes divide.
      multiple: rows that are valid for nothing fill a batch up to a multiple of this, which the devices divide.
    """

    questions: Questions
    sizes: tuple[int, ...]
    batch_size: int
    multiple: int = 8

    @property
    def fillers(self) -> dict[str, float]:
        return {"tokens": self.questions.tokenizer.pad, "targets": IGNORE}

    @property
    def counts(self) -> dict[str, int]:
        """Batches of an epoch, by task."""
        pairs = zip(self.questions.tasks, self.questions.sizes(), self.sizes, strict=True)
        return {task.name: -(-count // size) for task, count, size in pairs}

    def batch(self, seed: int, step: int, rows: Sequence[int]) -> dict:
        counts = self.counts
        epoch, place = divmod(step, sum(counts.values()))
        order = published_order(tuple(counts.items()), epoch)
        name = order[place]
        t, number = list(counts).index(name), order[:place].count(name)
        of, size = self.questions.sizes(), self.sizes[t]
        wanted = sum(of[:t]) + _permuted(seed, epoch, of[t])[number * size : (number + 1) * size]
        # The size of a whole batch also for the last one: one shape a task is compiled.
        padded = -(-size // self.multiple) * self.multiple
        asked = set(rows)
        share = [row for row in range(padded) if row * self.batch_size // padded in asked]
        indices = np.concatenate([wanted, np.full(padded - len(wanted), wanted[-1])])
        images = self.questions.tasks[t].images
        batch = self.questions.collate(indices, share, partial(example_rng, seed, step), images)
        there = np.array(share) < len(wanted)
        return {**batch, "valid": {task: valid & there for task, valid in batch["valid"].items()}}


@lru_cache(maxsize=8)
def _permuted(seed: int, epoch: int, length: int) -> np.ndarray:
    """An epoch's order of a task's questions."""
    return shuffled(seed, epoch, length, length)


@lru_cache(maxsize=2)
def published_order(counts: tuple[tuple[str, int], ...], epoch: int) -> tuple[str, ...]:
    """The tasks of an epoch's batches: all of them in a row, shuffled by the epoch's number and taken from the end."""
    names = [name for name, count in counts for _ in range(count)]
    random.Random(epoch).shuffle(names)
    return tuple(reversed(names))


@dataclass(frozen=True, eq=False)
class InOrder(HeldOut):
    """All questions once, in their order; the last batch is filled up with copies that are valid for nothing."""

    questions: Questions
    batch_size: int

    def __len__(self) -> int:
        return -(-len(self.questions) // self.batch_size)

    def __getitem__(self, i: int) -> dict:
        indices, there = padded_indices(i, self.batch_size, len(self.questions), range(self.batch_size))
        return without_copies(self.questions.collate(indices, range(self.batch_size), None), there)

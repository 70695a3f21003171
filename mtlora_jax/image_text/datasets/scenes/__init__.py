"""Questions about the procedural scenes, drawn from their geometry: the four tasks on embedded data."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from tqdm import tqdm

from mtlora_jax.encoders import open_encoder
from mtlora_jax.errors import UserError
from mtlora_jax.image_text.datasets.data import Data
from mtlora_jax.image_text.datasets.features import Features, Held
from mtlora_jax.image_text.datasets.questions import Question
from mtlora_jax.image_text.datasets.scenes.asks import GQA, VQA, annotators, ask, captions, soft_scores, state
from mtlora_jax.image_text.datasets.scenes.facts import facts_of
from mtlora_jax.image_text.tasks.nlvr import WORDS
from mtlora_jax.images.scenes.sample import world_of
from mtlora_jax.images.scenes.view import View
from mtlora_jax.input.by_task import check_tasks

PURPOSES = ("vqa", "gqa", "nlvr", "caption")
ENCODED = 32
"""Pictures that are encoded at a time."""


@dataclass(frozen=True)
class ScenesData(Data):
    """The embedded data set: questions about pictures of procedural scenes.

    Attributes:
      train_images, val_images: pictures per split; the two splits share none.
      asked: questions of VQA and of GQA about each picture, and statements about each picture with the next.
      seed: another seed, another world.
      encoder: what turns pictures into features.
    """

    train_images: int = 1024
    val_images: int = 128
    asked: int = 4
    seed: int = 0
    encoder: str = "scenes_nano"

    def questions(self, split: str, tasks: Sequence[str]) -> list[Question]:
        check_tasks(tasks, MAKERS, "ScenesData")
        if self.train_images < 2 or self.val_images < 2:
            raise UserError("data: train_images and val_images must be at least 2, statements are about pairs")
        return [q for task in tasks for i in range(self._images(split)) for q in MAKERS[task](self, split, i)]

    def features(self, split: str) -> Features:
        return _encoded(self.encoder, self.seed, split, self._images(split))

    def picture(self, image: str) -> np.ndarray | None:
        split, _, number = image.rpartition("/")[2].partition("_")
        return _picture(self.seed, split, int(number), 256)

    def _images(self, split: str) -> int:
        return self.train_images if split == "train" else self.val_images


def named(split: str, index: int) -> str:
    """What a picture is called."""
    return f"scenes/{split}_{index:06d}"


@lru_cache(maxsize=8192)
def _facts(seed: int, split: str, index: int):
    return facts_of(seed, split, index)


def _rng(data: ScenesData, task: str, split: str, index: int) -> np.random.Generator:
    counter = [0, PURPOSES.index(task), int(split == "train"), index]
    return np.random.Generator(np.random.Philox(key=[data.seed, 1], counter=counter))


def _vqa(data: ScenesData, split: str, index: int) -> list[Question]:
    rng, facts, found = _rng(data, "vqa", split, index), _facts(data.seed, split, index), []
    for n in range(data.asked):
        text, answer = ask(VQA, facts, rng)
        answers = annotators(answer, rng)
        name = f"{index}_{n}"
        found.append(Question("vqa", name, text, (named(split, index),), soft_scores(answers), answers))
    return found


def _gqa(data: ScenesData, split: str, index: int) -> list[Question]:
    rng, facts = _rng(data, "gqa", split, index), _facts(data.seed, split, index)
    asked = [ask(GQA, facts, rng) for _ in range(data.asked)]
    image = (named(split, index),)
    return [Question("gqa", f"{index}_{n}", text, image, {answer: 1.0}) for n, (text, answer) in enumerate(asked)]


def _nlvr(data: ScenesData, split: str, index: int) -> list[Question]:
    rng, other = _rng(data, "nlvr", split, index), (index + 1) % data._images(split)
    a, b = (_facts(data.seed, split, i) for i in (index, other))
    images, found = (named(split, index), named(split, other)), []
    for n in range(data.asked):
        text, truth = state(a, b, rng, wanted=n % 2 == 0)
        name = f"{split}-{index}-0-{n}"
        found.append(Question("nlvr", name, text, images, {WORDS[0 if truth else 1]: 1.0}, group=f"{split}-{index}"))
    return found


def _captions(data: ScenesData, split: str, index: int) -> list[Question]:
    said = tuple(captions(_facts(data.seed, split, index), _rng(data, "caption", split, index)))
    images = (named(split, index),)
    learnt = said if split == "train" else said[:1]
    return [Question("caption", str(index), "", images, {caption: 1.0}, said) for caption in learnt]


MAKERS: dict[str, Callable[[ScenesData, str, int], list[Question]]] = {
    "vqa": _vqa,
    "gqa": _gqa,
    "nlvr": _nlvr,
    "caption": _captions,
}
"""By task: the questions about one picture."""


def _picture(seed: int, split: str, index: int, size: int) -> np.ndarray:
    return View.of(world_of(seed, split, index), size).picture()


@lru_cache(maxsize=4)
def _encoded(encoder: str, seed: int, split: str, count: int) -> Held:
    """The features of a split's pictures, rendered and encoded now."""
    opened = open_encoder(encoder)
    found: dict[str, np.ndarray] = {}
    for start in tqdm(range(0, count, ENCODED), f"{split} pictures", unit="batch", leave=False, disable=None):
        numbers = range(start, min(start + ENCODED, count))
        # The last batch repeats a picture, so that there is one shape.
        shown = [_picture(seed, split, i, opened.size) for i in numbers]
        encoded = opened(np.stack(shown + shown[-1:] * (ENCODED - len(shown))))
        found |= {named(split, i): features for i, features in zip(numbers, encoded, strict=False)}
    return Held(found)

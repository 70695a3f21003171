"""What a model forgets: the perplexity of plain text under every task's adapters, measured where held-out rows are.

Before the first step it is the base model's. What fine-tuning adds to it is what it costs a model in everything else.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mtlora_jax.errors import UserError
from mtlora_jax.files import read_text
from mtlora_jax.input.protocols import HeldOut
from mtlora_jax.language.corpus import Corpus, corpus
from mtlora_jax.language.encode import Encoded, begun
from mtlora_jax.language.tokenizer import Tokenizer
from mtlora_jax.storage import fetched
from mtlora_jax.text.config import TextConfig


def documents(config: TextConfig) -> Sequence[str]:
    """The first paragraphs of the run's file, or texts of its data set.

    Raises:
      UserError: there is no such file, or nothing in it.
    """
    if not config.plain_length:
        return ()
    if not config.plain_text:
        return config.data.plain(config.plain_length)
    parts = read_text(fetched(config.plain_text)).split("\n\n")
    paragraphs = [" ".join(part.split()) for part in parts if part.strip()]
    if not paragraphs:
        raise UserError(f"plain_text: {config.plain_text} holds no text")
    return paragraphs[: config.plain_length]


def plain_corpus(config: TextConfig, tokenizer: Tokenizer) -> Corpus | None:
    """The documents once for every task, of which every token counts; their ends are cut off at the cutoff."""
    encoded = []
    for text in documents(config):
        tokens = np.array(begun(tokenizer.encode(text), tokenizer)[: config.cutoff], np.int32)
        encoded.append(Encoded(tokens, np.ones(len(tokens), bool)))
    tasks = tuple(config.tasks)
    return corpus(tasks, [(task, example) for task in tasks for example in encoded]) if encoded else None


@dataclass(frozen=True)
class WithPlain(HeldOut):
    """Held-out batches, and after them those of plain text; `plain [B]` tells which rows are such.

    Attributes:
      answered: rows with answers.
      plain: rows of plain text.
    """

    answered: HeldOut
    plain: HeldOut

    @property
    def batch_size(self) -> int:
        return self.answered.batch_size

    def __len__(self) -> int:
        return len(self.answered) + len(self.plain)

    def __getitem__(self, i: int) -> dict:
        plain = i >= len(self.answered)
        batch = self.plain[i - len(self.answered)] if plain else self.answered[i]
        return {**batch, "plain": np.full(len(batch["id"]), plain)}

"""What a text run trains and is scored on: its tokenizer, its rows as tokens, and batches of them."""

import sys
from collections.abc import Sequence

from mtlora_jax.errors import UserError
from mtlora_jax.input.protocols import Batches
from mtlora_jax.language.corpus import Corpus, corpus
from mtlora_jax.language.encode import encode_rows
from mtlora_jax.language.packing import Packed, Padded, PaddedInOrder, order_of
from mtlora_jax.language.templates import TEMPLATES
from mtlora_jax.language.tokenizer import Tokenizer, check_vocabulary, load_tokenizer
from mtlora_jax.text.config import TextConfig
from mtlora_jax.text.datasets.microworld import MicroworldData
from mtlora_jax.text.llama_weights import read_spec
from mtlora_jax.weights.hub import locate_folder


def tokenizer_of(config: TextConfig) -> Tokenizer:
    """The run's tokenizer, found to fit its model."""
    if not config.tokenizer and config.init_from is None:
        raise UserError("tokenizer: a model without a folder of its own needs one, --tokenizer=FILE")
    folder = None if config.init_from is None else locate_folder(config.init_from)
    tokenizer = load_tokenizer(config.tokenizer or folder)
    check_vocabulary(tokenizer, config.model.vocab_size if folder is None else read_spec(folder).vocab_size)
    return tokenizer


def open_corpus(config: TextConfig, split: str) -> Corpus:
    """The examples of a split as tokens, `train`, or the part of `val` that evaluation during training reads; says what
    the cutoff took, if anything.

    Raises:
      UserError: the data cannot be opened, or a task has no example left.
    """
    tasks = tuple(config.tasks)
    rows = config.data.open(split, tasks)
    examples, report = encode_rows(
        rows if split == "train" else config.data.evaluated(rows, tasks),
        tokenizer_of(config),
        TEMPLATES[config.template],
        config.cutoff,
        config.truncation,
        config.loss_on_prompt,
    )
    if not isinstance(config.data, MicroworldData):
        counted = ", ".join(f"{task} {of.total():,}" for task, of in report.counts.items())
        print(f"{split} rows: {counted}", file=sys.stderr)
    if not report.lossless:
        print(f"the cutoff of {config.cutoff} tokens took from the {split} split:\n{report.table()}", file=sys.stderr)
    found = corpus(tasks, examples)
    if 0 in found.sizes():
        task = tasks[found.sizes().index(0)]
        raise UserError(f"tasks.{task}: no example fits the cutoff of {config.cutoff} tokens with its answer")
    return found


def train_batches(config: TextConfig, examples: Corpus, batch_size: int) -> Batches:
    """Training batches, packed where the config says so."""
    order, pad = order_of(examples, config.temperature), tokenizer_of(config).pad
    if config.pack:
        return Packed(examples, config.pack, pad, order, batch_size)
    return Padded(examples, buckets(config), pad, order, batch_size)


def held_out(config: TextConfig, examples: Corpus, batch_size: int) -> Sequence[dict]:
    """The held-out set in order, an example a row."""
    return PaddedInOrder(examples, buckets(config), tokenizer_of(config).pad, batch_size)


def buckets(config: TextConfig) -> tuple[int, ...]:
    """The lengths that batches are padded to; where nothing is said, the cutoff alone."""
    return config.buckets or (config.cutoff,)

"""What a text run trains and is scored on: rows of its data set, and batches of them."""

import sys
from pathlib import Path

from mtlora_jax.errors import UserError
from mtlora_jax.language.corpus import corpus
from mtlora_jax.language.encode import Report, encode_all
from mtlora_jax.language.packing import Packed, Padded, order_of
from mtlora_jax.language.rows import Row
from mtlora_jax.language.templates import TEMPLATES
from mtlora_jax.language.tokenizer import Tokenizer, check_vocabulary, load_tokenizer
from mtlora_jax.text.config import CommonsenseData, FileData, GlueData, MicroworldData, TextConfig
from mtlora_jax.text.datasets.commonsense import read_commonsense
from mtlora_jax.text.datasets.glue import read_glue
from mtlora_jax.text.datasets.microworld import FAMILIES, World
from mtlora_jax.text.datasets.microworld import rows as microworld_rows
from mtlora_jax.text.datasets.read import read_rows
from mtlora_jax.text.llama_weights import folder_of, read_spec


def tokenizer_of(config: TextConfig) -> Tokenizer:
    """The run's tokenizer, found to fit its model."""
    if not config.tokenizer and config.init_from is None:
        raise UserError("tokenizer: a model without a folder of its own needs one, --tokenizer=FILE")
    folder = None if config.init_from is None else folder_of(config.init_from)
    tokenizer = load_tokenizer(config.tokenizer or folder)
    check_vocabulary(tokenizer, config.model.vocab_size if folder is None else read_spec(folder).vocab_size)
    return tokenizer


def rows_of(config: TextConfig, split: str) -> list[Row]:
    """All rows of a split, `train` or `val`, by task.

    Raises:
      UserError: a file is missing or broken, or a task has no rows.
    """
    tasks, read = tuple(config.tasks), READERS[type(config.data)]
    rows = read(config.data, split, tasks)
    if empty := [task for task in tasks if not any(row.task == task for row in rows)]:
        raise UserError(f"tasks.{empty[0]}: the {split} split has no rows of it")
    return rows


def _microworld(data: MicroworldData, split: str, tasks: tuple[str, ...]) -> list[Row]:
    if unknown := [task for task in tasks if task not in FAMILIES]:
        raise UserError(f"tasks.{unknown[0]}: the micro-world has only {', '.join(FAMILIES)}")
    length = data.train_length if split == "train" else data.val_length
    return [row for task in tasks for row in microworld_rows(task, split, length, World(data.world))]


def _files(data: FileData, split: str, tasks: tuple[str, ...]) -> list[Row]:
    path = data.train if split == "train" else data.val
    if not path:
        raise UserError(f"data.{split} is empty: name a file of rows")
    return read_rows(Path(path), tasks, {task: Path(file) for task, file in data.per_set.items()}, data.ambiguous)


READERS = {
    MicroworldData: _microworld,
    CommonsenseData: lambda data, split, tasks: read_commonsense(Path(data.root), split, tasks, data.train),
    GlueData: lambda data, split, tasks: read_glue(Path(data.root), split, tasks),
    FileData: _files,
}


def limited(config: TextConfig, rows: list[Row]) -> list[Row]:
    """The first held-out rows of each task that evaluation during training sees."""
    length = getattr(config.data, "val_length", 0)
    by_task = {task: [row for row in rows if row.task == task] for task in config.tasks}
    return [row for of in by_task.values() for row in (of[:length] if length else of)]


def open_source(config: TextConfig, split: str) -> Padded | Packed:
    """Training batches, or padded held-out ones; says what the cutoff took, if anything.

    Raises:
      UserError: see `rows_of`; or a task has no example left.
    """
    training, tokenizer, report = split == "train", tokenizer_of(config), Report()
    rows = rows_of(config, split)
    encoded = encode_all(
        rows if training else limited(config, rows),
        report,
        tokenizer=tokenizer,
        template=TEMPLATES[config.template],
        cutoff=config.cutoff,
        truncation=config.truncation,
        learn_prompt=config.learn_prompt,
    )
    examples = corpus(tuple(config.tasks), encoded)
    if not isinstance(config.data, MicroworldData):
        counted = ", ".join(f"{task} {of.total():,}" for task, of in report.counts.items())
        print(f"{split} rows: {counted}", file=sys.stderr)
    if not report.lossless:
        print(f"the cutoff of {config.cutoff} tokens took from the {split} split:\n{report.table()}", file=sys.stderr)
    if 0 in examples.sizes():
        task = examples.tasks[examples.sizes().index(0)]
        raise UserError(f"tasks.{task}: no example fits the cutoff of {config.cutoff} tokens with its answer")
    order = order_of(examples, config.temperature)
    if training and config.pack:
        return Packed(examples, config.pack, tokenizer.pad, order)
    # A held-out batch is of any length; where nothing is said, one bucket takes them all.
    return Padded(examples, config.buckets or (config.cutoff,), tokenizer.pad, order)

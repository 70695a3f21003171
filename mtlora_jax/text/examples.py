"""What a text run trains and is scored on: its tokenizer, its rows as tokens, and batches of them."""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from mtlora_jax.errors import UserError
from mtlora_jax.files import read_json
from mtlora_jax.input.protocols import Batches, HeldOut
from mtlora_jax.language.corpus import Corpus, corpus
from mtlora_jax.language.encode import encode_rows
from mtlora_jax.language.packing import Packed, Padded, PaddedInOrder, order_of
from mtlora_jax.language.rows import Row
from mtlora_jax.language.templates import TEMPLATES
from mtlora_jax.language.tokenizer import Tokenizer, check_vocabulary, load_tokenizer
from mtlora_jax.text.config import TextConfig
from mtlora_jax.text.datasets.microworld import MicroworldData
from mtlora_jax.text.plain import WithPlain, plain_corpus
from mtlora_jax.text.source import source_of
from mtlora_jax.text.tasks.task import Task


def tokenizer_of(config: TextConfig) -> Tokenizer:
    """The run's tokenizer, found to fit its model."""
    source = source_of(config.init_from)
    if not config.tokenizer and source is None:
        raise UserError("tokenizer: a model without a folder of its own needs one, --tokenizer=FILE")
    tokenizer = load_tokenizer(config.tokenizer or source.tokenizer)
    check_vocabulary(tokenizer, (config.model if source is None else source.spec).vocab_size)
    if not config.chat_template:
        tokenizer.chat_template = None
    return tokenizer


def stops_of(config: TextConfig) -> tuple[int, ...]:
    """The tokens that end a text by the pretrained model's own settings, as they do in transformers."""
    source = source_of(config.init_from)
    folder = None if source is None else source.tokenizer
    found: set[int] = set()
    for path in () if folder is None else (folder / "generation_config.json", folder / "config.json"):
        ids = read_json(path).get("eos_token_id") if path.is_file() else None
        found |= set(ids if isinstance(ids, list) else () if ids is None else (ids,))
    return tuple(sorted(found))


def open_rows(config: TextConfig, split: str) -> list[Row]:
    """The rows of a split, those of tasks with words answered by them.

    Raises:
      UserError: the data cannot be opened; or rows of a task are labelled by what is neither a word nor its number.
    """
    tasks = config.make_tasks()
    return [named(row, tasks[row.task]) for row in config.data.open(split, tuple(tasks))]


def named(row: Row, task: Task) -> Row:
    """A row whose label is a word's number, 0 for the first, with the word in its place."""
    label = row.answer.strip()
    if not task.answers or label in task.answers or not label.isdigit():
        return row
    if int(label) >= len(task.answers):
        listed = ", ".join(f"{i} {answer}" for i, answer in enumerate(task.answers))
        raise UserError(f"tasks.{task.name}: a row is labelled {label}; there are {listed}")
    word = task.answers[int(label)]
    return replace(row, answer=word, output=word) if row.output.strip() == label else row


def unread_rows(rows: Sequence[Row], tasks: Mapping[str, Task]) -> dict[str, list[int]]:
    """Numbers of the rows whose own output is not read as their answer, by task: no model could be right on them."""
    found: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        if not tasks[row.task].reads(row.output, row.answer):
            found.setdefault(row.task, []).append(i)
    return found


def unread_lines(rows: Sequence[Row], tasks: Mapping[str, Task], split: str) -> list[str]:
    """A line for every task that has such rows."""
    totals = Counter(row.task for row in rows)
    return [
        _unread_line(task, rows[numbers[0]], len(numbers), totals[task], split)
        for task, numbers in unread_rows(rows, tasks).items()
    ]


def _unread_line(task: str, first: Row, count: int, total: int, split: str) -> str:
    return (
        f"{split} {task}: of {count} of {total} rows the own output is not read as the answer, such as "
        f"{_shortened(first.output)!r} for {first.answer!r}; say the words with --tasks.{task}.answers, or "
        f"--tasks.{task}.extracted=last"
    )


def _shortened(text: str, most: int = 60) -> str:
    return text if len(text) <= most else f"{text[: most // 2]} ... {text[-most // 2 :]}"


def scored_rows(config: TextConfig) -> list[Row]:
    """The held-out rows that can be scored; says how many cannot.

    Raises:
      UserError: a task has none.
    """
    tasks, rows = config.make_tasks(), open_rows(config, "val")
    unread, totals = unread_rows(rows, tasks), Counter(row.task for row in rows)
    if lost := next((task for task, numbers in unread.items() if len(numbers) == totals[task]), None):
        raise UserError(_unread_line(lost, rows[unread[lost][0]], len(unread[lost]), totals[lost], "val"))
    for line in unread_lines(rows, tasks, "val"):
        print(f"{line}; they are left out", file=sys.stderr)
    left = {i for numbers in unread.values() for i in numbers}
    return [row for i, row in enumerate(rows) if i not in left]


def open_corpus(config: TextConfig, split: str, forms: dict[str, str] | None = None) -> Corpus:
    """The examples of a split as tokens, `train`, or the part of `val` that evaluation during training reads; says what
    the cutoff took, if anything.

    Args:
      forms: gets the form in which each task's first row is asked; see `language.rows`.

    Raises:
      UserError: the data cannot be opened, or a task has no example left.
    """
    tasks = tuple(config.tasks)
    rows = open_rows(config, split)
    for row in rows if forms is not None else ():
        forms.setdefault(row.task, row.form)
    if split == "val":
        for line in unread_lines(rows, config.make_tasks(), split):
            print(line, file=sys.stderr)
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
    source = source_of(config.init_from)
    positions = (config.model if source is None else source.spec).max_positions
    if longer := sum(len(example.tokens) > positions for _, example in examples):
        said = f"{longer} {split} examples are longer than the {positions} positions that the model was pretrained with"
        print(f"{said}; --cutoff={positions} cuts them", file=sys.stderr)
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
        packed = Packed(examples, config.pack, pad, order, batch_size)
        share = packed.padding(config.seed)
        print(f"packed: {share:.1%} of the positions in rows of {config.pack} are padding", file=sys.stderr)
        return packed
    return Padded(examples, buckets(config), pad, order, batch_size)


def held_out(config: TextConfig, examples: Corpus, batch_size: int) -> HeldOut:
    """The held-out set in order, an example a row, and plain text after it."""
    tokenizer = tokenizer_of(config)

    def in_order(examples: Corpus) -> HeldOut:
        return PaddedInOrder(examples, buckets(config), tokenizer.pad, batch_size)

    plain = plain_corpus(config, tokenizer)
    return in_order(examples) if plain is None else WithPlain(in_order(examples), in_order(plain))


def buckets(config: TextConfig) -> tuple[int, ...]:
    """The lengths that batches are padded to; where nothing is said, the cutoff alone."""
    return config.buckets or (config.cutoff,)

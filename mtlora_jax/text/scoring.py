"""Scoring a trained model on whole held-out sets: by what it writes, or by which option it finds likeliest."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from mtlora_jax.engine.hosts import everywhere, is_first
from mtlora_jax.errors import UserError
from mtlora_jax.files import make_workdir, write_text
from mtlora_jax.language.corpus import Piece
from mtlora_jax.language.decode import greedy, pad_left
from mtlora_jax.language.encode import encode_prompt
from mtlora_jax.language.packing import lay_out
from mtlora_jax.language.rows import Row
from mtlora_jax.language.templates import TEMPLATES
from mtlora_jax.text.config import TextConfig
from mtlora_jax.text.examples import scored_rows, stops_of, tokenizer_of
from mtlora_jax.text.llama import Llama
from mtlora_jax.text.tasks.task import Task, response

BUCKET = 32
"""Batches are padded to a multiple of this many tokens."""

Metrics = dict[str, dict[str, float]]


def protocols(config: TextConfig, model: Llama, forward: Callable) -> Mapping[str, Callable[..., Metrics]]:
    """`generate` and `options`, each `(variables, folder for predictions or None) -> metrics`."""
    return {
        "generate": partial(by_generation, config, model),
        "options": partial(by_likelihood, config, forward),
    }


def by_generation(config: TextConfig, model: Llama, variables: Mapping, folder: Path | None) -> Metrics:
    """Decodes an answer to every held-out row and scores it twice: strictly, and as the reference does (`_reference`).

    Raises:
      UserError: a held-out set is missing or broken.
    """
    tokenizer, tasks, rows = tokenizer_of(config), config.make_tasks(), scored_rows(config)
    ids, template = {task: i for i, task in enumerate(tasks)}, TEMPLATES[config.template]
    prompts = [encode_prompt(row, tokenizer, template, evaluating=True) for row in rows]
    lengths = np.array([len(prompt) for prompt in prompts])
    decoded = np.array([tasks[row.task].max_new_tokens for row in rows])
    written, stops = [""] * len(rows), stops_of(config)
    for count in sorted(set(decoded.tolist())):
        own = np.flatnonzero(decoded == count)
        for places in _batches(lengths[own], _size(config), f"decoding up to {count} tokens"):
            # The last batch repeats a row, so that every batch of a length has one shape.
            batch, full = own[places], own[np.resize(places, _size(config))]
            tokens, mask = pad_left([prompts[i] for i in full], tokenizer.pad)
            task_id = np.array([ids[rows[i].task] for i in full], np.int32)
            ends = {"eos": tokenizer.eos, "stops": stops}
            out = greedy(model, variables, tokens, mask, task_id, max_new_tokens=count, **ends)
            for i, answer in zip(batch, everywhere(out), strict=False):
                written[i] = tokenizer.decode(answer.tolist())
    strict = [tasks[row.task].extract(response(text)) for row, text in zip(rows, written, strict=True)]
    loose = [tasks[row.task].extract(response(text), "reference") for row, text in zip(rows, written, strict=True)]
    metrics = _metrics(tasks, rows, strict)
    for name, task in tasks.items():
        own = [i for i, row in enumerate(rows) if row.task == name]
        scored = [task.right(loose[i], rows[i].answer, "reference") for i in own]
        metrics[name]["accuracy_reference"] = float(np.mean(scored))
    _write(folder, rows, written=written, strict=strict, reference=loose)
    return metrics


class Candidate(NamedTuple):
    """One option of one row: which row, the option's text, and the prompt with it as tokens."""

    row: int
    option: str
    piece: Piece


def by_likelihood(config: TextConfig, forward: Callable, variables: Mapping, folder: Path | None) -> Metrics:
    """Takes the option whose tokens are likeliest together; rows without options score nothing.

    Raises:
      UserError: a held-out set is missing or broken, or none of its rows has options.
    """
    tasks = config.make_tasks()
    rows = [row for row in scored_rows(config) if row.options]
    if not rows:
        raise UserError("no held-out row has options to choose from: use --protocol generate")
    candidates = _candidates(config, rows)
    likelihoods = _likelihoods(config, forward, variables, [candidate.piece for candidate in candidates])
    best: dict[int, tuple[float, str]] = {}
    for candidate, likelihood in zip(candidates, likelihoods, strict=True):
        if candidate.row not in best or likelihood > best[candidate.row][0]:
            best[candidate.row] = likelihood, candidate.option
    chosen = [best[i][1] for i in range(len(rows))]
    predicted = [answer_of(row, option) for row, option in zip(rows, chosen, strict=True)]
    _write(folder, rows, chosen=chosen, strict=predicted)
    return _metrics(tasks, rows, predicted)


def answer_of(row: Row, option: str) -> str:
    """The answer that an option of a row gives: what it has where the true output has the true answer."""
    before, _, after = row.output.rpartition(row.answer)
    return row.answer if option == row.output else option.removeprefix(before).removesuffix(after)


def _candidates(config: TextConfig, rows: Sequence[Row]) -> list[Candidate]:
    """Every option of every row, as the tokens that would follow its prompt."""
    tokenizer, template, names = tokenizer_of(config), TEMPLATES[config.template], list(config.tasks)
    found = []
    for number, row in enumerate(rows):
        prompt = encode_prompt(row, tokenizer, template, evaluating=True)
        for option in row.options:
            tokens = np.array([*prompt, *tokenizer.encode(option), tokenizer.eos], np.int32)
            loss_mask = np.arange(len(tokens)) >= len(prompt)
            found.append(Candidate(number, option, Piece(tokens, loss_mask, names.index(row.task), number)))
    return found


def _likelihoods(config: TextConfig, forward: Callable, variables: Mapping, pieces: Sequence[Piece]) -> np.ndarray:
    """The log-likelihood of every piece's tokens that its loss mask counts, summed."""
    pad, found = tokenizer_of(config).pad, np.zeros(len(pieces))
    negative = jax.jit(lambda variables, batch: forward(variables, batch, None)[0]["nll"].sum(1))
    for batch in _batches([len(piece.tokens) for piece in pieces], _size(config), "scoring options"):
        # The last batch repeats candidates, so that every batch of a length has one shape.
        full = [pieces[i] for i in np.resize(batch, _size(config))]
        length = -(-max(len(piece.tokens) for piece in full) // BUCKET) * BUCKET
        arrays = lay_out(tuple(config.tasks), [[piece] for piece in full], length, pad)
        inputs = {name: arrays[name] for name in ("tokens", "targets", "segment_ids")}
        inputs["task_id"] = np.array([piece.task for piece in full], np.int32)
        found[batch] = -everywhere(negative(variables, inputs))[: len(batch)]
    return found


def _metrics(tasks: Mapping[str, Task], rows: Sequence[Row], predicted: Sequence[str]) -> Metrics:
    """Every task's metrics, of tasks that have rows."""
    found = {}
    for name, task in tasks.items():
        own = [i for i, row in enumerate(rows) if row.task == name]
        if own:
            found[name] = task.metrics_of([predicted[i] for i in own], [rows[i].answer for i in own])
    return found


def _size(config: TextConfig) -> int:
    return config.train.eval_batch_size or config.train.batch_size


def _batches(lengths: Sequence[int], size: int, what: str) -> Iterator[np.ndarray]:
    """Indices in batches of about equal lengths."""
    order = np.argsort(np.array(lengths), kind="stable")
    starts = range(0, len(order), size)
    yield from tqdm((order[i : i + size] for i in starts), what, total=len(starts), unit="batch", disable=None)


def _write(folder: Path | None, rows: Sequence[Row], **columns: Sequence[str]) -> None:
    """`<task>.jsonl`: every row with what was predicted."""
    if folder is None or not is_first():
        return
    make_workdir(folder)
    lines: dict[str, list[str]] = {}
    for i, row in enumerate(rows):
        record = {"instruction": row.instruction, "answer": row.answer, **{k: v[i] for k, v in columns.items()}}
        lines.setdefault(row.task, []).append(json.dumps(record) + "\n")
    for task, text in lines.items():
        write_text(folder / f"{task}.jsonl", "".join(text))

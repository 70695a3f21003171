"""Scoring a trained model on whole held-out sets: by what it writes, or by which option it finds likeliest."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from mtlora_jax.errors import UserError
from mtlora_jax.files import make_workdir, write_text
from mtlora_jax.language.corpus import corpus
from mtlora_jax.language.decode import greedy, pad_left
from mtlora_jax.language.encode import Encoded, encode_prompt
from mtlora_jax.language.packing import IGNORE, lay_out
from mtlora_jax.language.rows import Row
from mtlora_jax.language.templates import TEMPLATES
from mtlora_jax.text.config import TextConfig
from mtlora_jax.text.datasets.sources import rows_of, tokenizer_of
from mtlora_jax.text.llama import Llama
from mtlora_jax.text.tasks.task import response

NEW_TOKENS = 32
"""Longest answer that is decoded, as published."""

Figures = dict[str, dict[str, float]]


def protocols(config: TextConfig, model: Llama, forward: Callable) -> Mapping[str, Callable[..., Figures]]:
    """`generate` and `options`, each `(variables, folder for predictions or None) -> figures`."""
    return {
        "generate": partial(by_generation, config, model),
        "options": partial(by_likelihood, config, forward),
    }


def by_generation(config: TextConfig, model: Llama, variables: Mapping, folder: Path | None) -> Figures:
    """Decodes an answer to every held-out row and scores it twice: strictly, and as the reference does (`_reference`).

    Raises:
      UserError: a held-out set is missing or broken.
    """
    tokenizer, tasks, rows = tokenizer_of(config), config.task_objects(), rows_of(config, "val")
    ids, template = {task: i for i, task in enumerate(tasks)}, TEMPLATES[config.template]
    prompts = [encode_prompt(row, tokenizer, template, evaluating=True) for row in rows]
    written = [""] * len(rows)
    for batch in _batches(np.array(list(map(len, prompts))), _size(config), "decoding"):
        # The last batch repeats a row, so that every batch of a length has one shape.
        full = np.resize(batch, _size(config))
        tokens, mask = pad_left([prompts[i] for i in full], tokenizer.pad)
        task_id = np.array([ids[rows[i].task] for i in full], np.int32)
        out = greedy(model, variables, tokens, mask, task_id, new=NEW_TOKENS, eos=tokenizer.eos)
        for i, answer in zip(batch, np.asarray(out), strict=False):
            written[i] = tokenizer.decode(answer.tolist())
    strict = [tasks[row.task].extract(response(text)) for row, text in zip(rows, written, strict=True)]
    loose = [tasks[row.task].extract(response(text), "reference") for row, text in zip(rows, written, strict=True)]
    figures = {}
    for name, task in tasks.items():
        own = [i for i, row in enumerate(rows) if row.task == name]
        truth = [rows[i].answer for i in own]
        figures[name] = task.figures([strict[i] for i in own], truth)
        scored = [task.right(loose[i], rows[i].answer, "reference") for i in own]
        figures[name]["accuracy_reference"] = float(np.mean(scored))
    _write(folder, rows, written=written, strict=strict, reference=loose)
    return figures


def by_likelihood(config: TextConfig, forward: Callable, variables: Mapping, folder: Path | None) -> Figures:
    """Takes the option whose tokens are likeliest together; rows without options score nothing.

    Raises:
      UserError: a held-out set is missing or broken, or none of its rows has options.
    """
    tokenizer, tasks, rows = tokenizer_of(config), config.task_objects(), rows_of(config, "val")
    rows = [row for row in rows if row.options]
    if not rows:
        raise UserError("no held-out row has options to choose from: use --protocol generate")
    template, of, candidates = TEMPLATES[config.template], [], []
    for number, row in enumerate(rows):
        prompt = encode_prompt(row, tokenizer, template, evaluating=True)
        for option in row.options:
            tokens = np.array([*prompt, *tokenizer.encode(option), tokenizer.eos], np.int32)
            candidates.append((row.task, Encoded(tokens, np.arange(len(tokens)) >= len(prompt))))
            of.append(number)
    grouped = corpus(tuple(tasks), candidates)
    # The corpus groups by task; the k-th candidate of a task is still its k-th.
    order = np.argsort([list(tasks).index(task) for task, _ in candidates], kind="stable")
    likelihood = np.zeros(len(candidates))
    run = jax.jit(lambda variables, batch: forward(variables, batch, None)[0]["nll"].sum(1))
    for batch in _batches(grouped.lengths, _size(config), "scoring options"):
        full = np.resize(batch, _size(config))
        length = -(-int(grouped.lengths[full].max()) // 32) * 32
        arrays = lay_out(grouped, [[int(i)] for i in full], length, tokenizer.pad)
        assert (arrays["targets"] != IGNORE).any(1).all()
        arrays = {**arrays, "task_id": grouped.task[full]}
        arrays = {name: arrays[name] for name in ("tokens", "targets", "attention_mask", "task_id")}
        likelihood[order[batch]] = -np.asarray(run(variables, arrays))[: len(batch)]
    chosen: dict[int, tuple[float, str]] = {}
    place: dict[int, int] = {}
    for k, number in enumerate(of):
        option = rows[number].options[place.setdefault(number, 0)]
        place[number] += 1
        if number not in chosen or likelihood[k] > chosen[number][0]:
            chosen[number] = likelihood[k], option
    picked = [chosen[number][1] for number in range(len(rows))]
    predicted = [tasks[row.task].extract(option) for row, option in zip(rows, picked, strict=True)]
    figures = {}
    for name, task in tasks.items():
        own = [i for i, row in enumerate(rows) if row.task == name]
        if own:
            figures[name] = task.figures([predicted[i] for i in own], [rows[i].answer for i in own])
    _write(folder, rows, chosen=picked, strict=predicted)
    return figures


def _size(config: TextConfig) -> int:
    return config.train.eval_batch_size or config.train.batch_size


def _batches(lengths: np.ndarray, size: int, what: str) -> Iterator[np.ndarray]:
    """Indices in batches of about equal lengths."""
    order = np.argsort(lengths, kind="stable")
    starts = range(0, len(order), size)
    yield from tqdm((order[i : i + size] for i in starts), what, total=len(starts), unit="batch", disable=None)


def _write(folder: Path | None, rows: Sequence[Row], **columns: Sequence[str]) -> None:
    """`<task>.jsonl`: every row with what was predicted."""
    if folder is None:
        return
    make_workdir(folder)
    lines: dict[str, list[str]] = {}
    for i, row in enumerate(rows):
        record = {"instruction": row.instruction, "answer": row.answer, **{k: v[i] for k, v in columns.items()}}
        lines.setdefault(row.task, []).append(json.dumps(record) + "\n")
    for task, text in lines.items():
        write_text(folder / f"{task}.jsonl", "".join(text))

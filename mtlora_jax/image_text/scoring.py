"""What a model writes about a whole held-out set, scored, and as files for the tasks' own servers."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from mtlora_jax.engine.hosts import everywhere, is_first
from mtlora_jax.files import make_workdir, write_text
from mtlora_jax.image_text.batches import InOrder, Questions
from mtlora_jax.image_text.config import ImageTextConfig
from mtlora_jax.image_text.tasks.nlvr import consistency
from mtlora_jax.image_text.tasks.task import Task
from mtlora_jax.image_text.tokenizer import BartTokenizer

Metrics = dict[str, dict[str, float]]


def predictions_of(task: Task, tokenizer: BartTokenizer, outputs: Mapping, rows: Sequence[int]) -> list[str]:
    """The answers of some rows of a batch: the word that was chosen, or what was written."""
    if task.words:
        chosen = np.asarray(outputs["chosen"][task.name])
        return [task.words[int(chosen[row])] for row in rows]
    ids = np.asarray(outputs["ids"])
    return [tokenizer.decode(ids[row]) for row in rows]


def by_generation(
    config: ImageTextConfig,
    forward: Callable,
    tokenizer: Callable[[], BartTokenizer],
    opened: Callable[[str], Questions],
    variables: Mapping,
    folder: Path | None,
) -> Metrics:
    """Answers every held-out question, whatever `data.val_length` says, and scores them.

    Args:
      folder: gets the predictions, a file for each task as its server takes it.

    Raises:
      UserError: a held-out set is missing or broken.
    """
    questions, tasks = opened("test"), config.make_tasks()
    batches = InOrder(questions, config.train.eval_batch_size or config.train.batch_size)
    write = jax.jit(lambda variables, batch: forward(variables, batch, None)[0])
    written: dict[str, list[str]] = {name: [] for name in tasks}
    for i in tqdm(range(len(batches)), "answering", unit="batch", disable=None):
        batch = batches[i]
        outputs = everywhere(write(variables, {k: v for k, v in batch.items() if k != "id"}))
        for name, task in tasks.items():
            written[name] += predictions_of(task, tokenizer(), outputs, np.flatnonzero(batch["valid"][name]).tolist())
    metrics = {}
    for name, task in tasks.items():
        asked = [question for question in questions.questions if question.task == name]
        metrics[name] = task.metrics(written[name], asked)
        if asked[0].group:
            metrics[name]["consistency"] = consistency(written[name], asked)
        if folder is not None and is_first():
            file, text = task.file(asked, written[name])
            write_text(make_workdir(folder) / file, text)
    return metrics

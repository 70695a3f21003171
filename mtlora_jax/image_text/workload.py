"""Questions about pictures as the engine sees them."""

from collections.abc import Callable, Mapping
from functools import cache, partial
from itertools import zip_longest

import jax
import jax.numpy as jnp
import numpy as np

from mtlora_jax.engine.mesh import parts_of_batch
from mtlora_jax.engine.workload import Objective, Workload
from mtlora_jax.image_text.bart import Bart, init, shifted
from mtlora_jax.image_text.batches import InOrder, OneTask, Questions, mixed
from mtlora_jax.image_text.cards import cards
from mtlora_jax.image_text.config import ImageTextConfig
from mtlora_jax.image_text.datasets.features import check_features
from mtlora_jax.image_text.decode import generate
from mtlora_jax.image_text.layers import SITES
from mtlora_jax.image_text.scoring import by_generation, predictions_of
from mtlora_jax.image_text.source import identity, leaves_for, spec_of, tokenizer_of
from mtlora_jax.image_text.tasks.task import Task
from mtlora_jax.image_text.tokenizer import BartTokenizer
from mtlora_jax.image_text.visual import is_pooled
from mtlora_jax.input.protocols import Batches
from mtlora_jax.language.loss import mean_loss, token_losses
from mtlora_jax.language.packing import IGNORE
from mtlora_jax.language.sites import axes as site_axes

INTO, OUT_OF = "[qkv]_proj|fc1", "out_proj|fc2"
"""Projections from the model's width, and back to it."""
NOTE = (
    "answers are written freely by the search of the config, and scored as each task's own script does; cider counts "
    "to 10, published tables show a hundred times it"
)


def make_model(config: ImageTextConfig) -> Bart:
    adapters = () if config.adapter is None else config.adapter.table(tuple(config.tasks))
    return Bart(spec_of(config), adapters, dtype=jnp.dtype(config.dtype), remat=config.remat)


def make_workload(config: ImageTextConfig) -> Workload:
    """The functions of an `ImageTextConfig`."""
    model, tasks = make_model(config), config.make_tasks()
    tokenizer = cache(partial(tokenizer_of, config))
    opened = cache(partial(open_questions, config, tokenizer))
    fitted = cache(lambda: {name: task.fit(_own(opened("val"), name)) for name, task in tasks.items()})
    run = partial(forward, config, model, tokenizer)
    return Workload(
        objectives={
            name: Objective(config.tasks[name].weight, mean_loss, task.compute, task.score, higher_is_better=True)
            for name, task in tasks.items()
        },
        abstract_batch=partial(abstract_batch, config),
        init=partial(init, model),
        load_base=partial(leaves_for, config),
        forward=run,
        sums=partial(sums, tasks),
        measure=lambda outputs, batch: {name: {} for name in tasks},
        observe=lambda outputs, batch: observe(tasks, tokenizer(), opened("val"), fitted(), outputs, batch),
        total=partial(total, {name: of.weight for name, of in config.tasks.items()}),
        table=table(config),
        train_batches=lambda batch_size: train_batches(config, opened("train"), batch_size),
        held_out=lambda batch_size: InOrder(opened("val"), batch_size),
        constant=lambda: constant(tasks, opened("train"), opened("val")),
        overall=partial(average, tasks),
        axes=axes(config, model),
        pictures=lambda outputs, batch: cards(config.data.picture, tasks, tokenizer(), opened("val"), outputs, batch),
        identity=identity(model.spec),
        notes=(NOTE,),
        protocols={"generate": partial(by_generation, config, run, tokenizer, opened)},
    )


def open_questions(config: ImageTextConfig, tokenizer: Callable[[], BartTokenizer], split: str) -> Questions:
    """The questions of a split: `train`; `test`, all that are held out; or `val`, those of them that evaluation during
    training reads.

    Raises:
      UserError: the data cannot be opened, a picture has no features or features of another width, or a text is longer
        than batches.
    """
    tasks = config.make_tasks()
    side = "train" if split == "train" else "val"
    questions = config.data.open(side, tuple(tasks))
    if split == "val":
        # In turn, so that the first batch, of which pictures are made, has all tasks.
        chosen = config.data.evaluated(questions, tuple(tasks))
        by_task = [[question for question in chosen if question.task == task] for task in tasks]
        questions = [question for of in zip_longest(*by_task) for question in of if question is not None]
    features = config.data.features(side)
    images = [image for question in questions for image in question.images]
    check_features(features, images, config.visual.features, f"{split} pictures")
    found = Questions(tuple(tasks.values()), tuple(questions), features, tokenizer(), config.lengths)
    found.check_lengths(split)
    return found


def _own(questions: Questions, task: str) -> list:
    return [question for question in questions.questions if question.task == task]


def train_batches(config: ImageTextConfig, questions: Questions, batch_size: int) -> Batches:
    """Training batches as the config says."""
    if config.batches == "mixed":
        return mixed(questions, batch_size, config.temperature)
    sizes = tuple(max(int(batch_size * task.share), 1) for task in config.tasks.values())
    return OneTask(questions, sizes, batch_size)


def table(config: ImageTextConfig) -> tuple[tuple[str, str], ...]:
    """What trains. The bias of the head is a buffer in BART, and never does."""
    parts = {
        "visual": ((r"^params/visual_embedding/.*bias$", "no_decay"), (r"^params/visual_embedding/", "decay")),
        # As published, gains of norms decay: weight decay spares names that BART does not have.
        "norms": (
            (r"^params/.*(norm|layernorm_embedding)/scale$", "decay"),
            (r"^params/.*(norm|layernorm_embedding)/bias$", "no_decay"),
        ),
        "biases": ((r"^params/.*(_proj|fc\d)/bias$", "no_decay"),),
    }
    if config.train_base:
        rest = [(r"^params/.*bias$", "no_decay"), (r"^params/", "decay")]
    else:
        rest = [*(row for part in config.trainable for row in parts[part]), (r"^params/", "frozen")]
    adapters = () if config.adapter is None else ((r"^lora/", "decay"),)
    return (*adapters, (r"^params/final_logits_bias$", "frozen"), *rest)


def axes(config: ImageTextConfig, model: Bart) -> tuple[tuple[str, tuple[str | None, ...]], ...]:
    """Logical axes of a model's leaves."""
    return (
        (r"shared/embedding$", ("vocab", "embed")),
        (rf"/({INTO})/bias$", ("inner",)),
        *site_axes(model.adapters, SITES, INTO, OUT_OF),
    )


def abstract_batch(config: ImageTextConfig, batch_size: int) -> dict:
    def array(*shape, dtype=np.int32):
        return jax.ShapeDtypeStruct((batch_size, *shape), dtype)

    visual, (L, M) = config.visual, config.lengths[-1]
    images = max(task.images for task in config.make_tasks().values())
    return {
        "tokens": array(L),
        "targets": array(M),
        "features": array(images, visual.tokens, visual.features, dtype=np.float16),
        "visible": array(images, dtype=np.bool_),
        "score": array(dtype=np.float32),
        "task_id": array(),
        "valid": {name: array(dtype=np.bool_) for name in config.tasks},
    }


def forward(
    config: ImageTextConfig,
    model: Bart,
    tokenizer: Callable[[], BartTokenizer],
    variables: Mapping,
    batch: Mapping,
    key: jax.Array | None,
):
    """The loss (`nll`) of every target; and without a key what is written (`ids`), and for tasks that choose a word the
    place of the likelier one (`chosen`, by task)."""
    train, task_id = key is not None, batch["task_id"]
    apply = partial(model.apply, variables, rngs=None if key is None else {"dropout": key})
    count = batch["features"].shape[2]
    each = model.spec.visual.tokens if is_pooled(model.spec.visual, count) else count
    visual_mask = jnp.repeat(batch["visible"], each, axis=1)
    states, mask = apply(
        batch["tokens"], batch["features"], None, task_id, visual_mask=visual_mask, train=train, method="encode"
    )
    hidden = apply(states, mask, shifted(model.spec, batch["targets"]), task_id, train=train, method="decode")
    head = partial(model.apply, variables, method="head")
    outputs = token_losses(head, model.spec.vocab_size, hidden, batch["targets"], parts_of_batch())
    if train:
        return outputs, {}
    ids = generate(model, variables, states, mask, task_id, config.search)
    # After the start and the token that begins a text comes its first word.
    logits, chosen = head(hidden[:, 1]), {}
    for name, task in config.make_tasks().items():
        if task.words:
            true, false = (logits[:, tokenizer().word(word)] for word in task.words)
            chosen[name] = jnp.where(true > false, 0, 1)
    return {**outputs, "ids": ids, "chosen": chosen}, {}


def sums(tasks: Mapping[str, Task], outputs: Mapping, batch: Mapping) -> dict[str, dict[str, jax.Array]]:
    """Every task's summed loss (`nll`), what it is divided by (`tokens`), and its rows."""
    counted = (batch["targets"] != IGNORE).astype(jnp.float32)
    nll, tokens = (outputs["nll"] * counted).sum(1), counted.sum(1)
    found = {}
    for name, task in tasks.items():
        rows = batch["valid"][name].astype(jnp.float32)
        if task.loss == "tokens":
            of, by = nll, tokens
        else:
            of, by = nll / jnp.maximum(tokens, 1), jnp.ones_like(rows)
            of = of * batch["score"] if task.loss == "scores" else of
        found[name] = {"nll": (of * rows).sum(), "tokens": (by * rows).sum(), "rows": rows.sum()}
    return found


def total(weights: Mapping[str, float], losses: Mapping, sums: Mapping) -> jax.Array:
    """The mean of the tasks' losses, by their rows and weights; of a batch of one task it is that task's loss."""
    shares = {name: weights[name] * of["rows"] for name, of in sums.items()}
    return sum(shares[name] * losses[name] for name in sums) / jnp.maximum(sum(shares.values()), 1e-9)


def observe(
    tasks: Mapping[str, Task],
    tokenizer: BartTokenizer,
    questions: Questions,
    fitted: Mapping,
    outputs: Mapping,
    batch: Mapping,
) -> dict[str, dict[str, np.ndarray]]:
    """The scores of what was written."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for name, task in tasks.items():
        rows = np.flatnonzero(batch["valid"][name])
        own = [questions.questions[int(i)] for i in np.asarray(batch["id"])[rows]]
        measured = task.measure(predictions_of(task, tokenizer, outputs, rows), own, fitted[name]) if own else {}
        for statistic, values in measured.items():
            of_rows = np.zeros((len(batch["id"]), *values.shape[1:]))
            of_rows[rows] = values
            found.setdefault(name, {})[statistic] = of_rows
    return found


def constant(tasks: Mapping[str, Task], train: Questions, held_out: Questions) -> dict[str, dict[str, float]]:
    """Every task's best answer that looks at nothing."""
    found = {}
    for name, task in tasks.items():
        asked = _own(held_out, name)
        found[name] = task.metrics([task.constant(_own(train, name))] * len(asked), asked)
    return found


def average(tasks: Mapping[str, Task], metrics: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The mean over tasks of the metric that stands for each, as published."""
    return {"average": float(np.mean([metrics[name][task.score] for name, task in tasks.items()]))}

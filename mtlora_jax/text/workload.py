"""Multi-task language modelling as the engine sees it."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from mtlora_jax.engine import tables
from mtlora_jax.engine.workload import Objective, Workload
from mtlora_jax.language.loss import mean_loss, perplexity_sums, token_losses
from mtlora_jax.language.packing import IGNORE, Padded
from mtlora_jax.text.config import TextConfig
from mtlora_jax.text.datasets.sources import open_source
from mtlora_jax.text.llama import Llama, LlamaSpec, init
from mtlora_jax.text.llama_weights import folder_of, read_llama, read_spec
from mtlora_jax.text.scoring import protocols
from mtlora_jax.weights import source as sources

AXES = (
    (r"embed_tokens/embedding$", ("vocab", "embed")),
    (r"lm_head/kernel$", ("embed", "vocab")),
    (r"/(q|k|v|gate|up)_proj/kernel$", ("embed", "heads")),
    (r"/(q|k|v|gate|up)_proj/(bias|magnitude|scaling)$", ("heads",)),
    (r"/(o|down)_proj/kernel$", ("heads", "embed")),
    (r"/(q|k|v|gate|up)_proj/(A|route)$", ("embed", None)),
    (r"/(q|k|v|gate|up)_proj/B$", (None, "heads")),
    (r"/(o|down)_proj/(A|route)$", ("heads", None)),
    (r"/(o|down)_proj/(B|magnitude|scaling)$", (None, "embed")),
)
"""Logical axes of kernels and of adapters; what a task owns is small, and replicated."""


def spec_of(config: TextConfig) -> LlamaSpec:
    """The decoder's shape: the pretrained model's, else the config's."""
    return config.model if config.init_from is None else read_spec(folder_of(config.init_from))


def make_model(config: TextConfig) -> Llama:
    adapters = () if config.adapter is None else config.adapter.table(tuple(config.tasks))
    return Llama(spec_of(config), adapters, dtype=jnp.dtype(config.dtype), remat=config.remat)


def make_workload(config: TextConfig) -> Workload:
    """The functions of a `TextConfig`."""
    model, names = make_model(config), tuple(config.tasks)
    return Workload(
        objectives={
            name: Objective(task.weight, mean_loss, accuracy, "accuracy", higher_is_better=True)
            for name, task in config.tasks.items()
        },
        abstract_batch=partial(abstract_batch, config),
        init=partial(init, model),
        load_base=lambda: None if config.init_from is None else read_llama(folder_of(config.init_from))[1],
        forward=partial(forward, model),
        sums=partial(sums, names),
        measure=partial(measure, names),
        total=partial(total, {name: task.weight for name, task in config.tasks.items()}),
        table=table(config),
        owners=tuple((rf"^lora/.*/{re.escape(name)}_\w+$", name) for name in names),
        source=partial(open_source, config),
        constant=constant,
        pictures=lambda outputs, batch: {},
        artifacts=partial(artifacts, config),
        overall=average,
        axes=AXES,
        protocols=protocols(config, model, partial(forward, model)),
    )


def artifacts(config: TextConfig, variables: Mapping, workdir: Path, meta: Mapping) -> None:
    """Writes `adapter.safetensors`: the adapters, what they are, and the base they belong to."""
    if config.train_base or config.init_from is None:
        return
    leaves = {f"lora/{path}": np.asarray(leaf) for path, leaf in tables.flatten(variables["lora"]).items()}
    about = {
        "adapter": asdict(config.adapter),
        "tasks": list(config.tasks),
        "template": config.template,
        "init_from": config.init_from,
        **meta,
    }
    sources.write(workdir / "adapter.safetensors", leaves, about)


def average(figures: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The mean over tasks of the figure that stands for each."""
    scores = [next(value for name, value in of.items() if name != "loss") for of in figures.values()]
    return {"average": float(np.mean(scores))}


def table(config: TextConfig) -> tuple[tuple[str, str], ...]:
    """What trains: adapters, and with `train_base` everything."""
    base = ((r"^params/.*/(scale|bias)$", "no_decay"), (r"^params/", "decay"))
    return (
        (r"^lora/.*/spare_\w+$", "unused"),
        (r"^lora/", "decay"),
        *(base if config.train_base else ((r"^params/", "frozen"),)),
    )


def abstract_batch(config: TextConfig, batch_size: int) -> dict:
    length = config.pack or (config.buckets or (config.cutoff,))[-1]
    tokens = jax.ShapeDtypeStruct((batch_size, length), np.int32)
    return {
        "tokens": tokens,
        "targets": tokens,
        "attention_mask": tokens,
        "task_id": tokens if config.pack else jax.ShapeDtypeStruct((batch_size,), np.int32),
        "valid": {name: jax.ShapeDtypeStruct((batch_size,), np.bool_) for name in config.tasks},
    }


def forward(model: Llama, variables: Mapping, batch: Mapping, key: jax.Array | None):
    """`nll` and `guess` of every position."""
    hidden = model.apply(
        variables,
        batch["tokens"],
        attention_mask=batch["attention_mask"],
        task_id=batch["task_id"],
        train=key is not None,
        method="hidden",
        rngs=None if key is None else {"dropout": key},
    )
    return token_losses(model, variables, hidden, batch["targets"]), {}


def sums(names: tuple[str, ...], outputs: Mapping, batch: Mapping) -> dict[str, dict[str, jax.Array]]:
    """Every task's summed loss and learned tokens, of rows that are valid for it."""
    task_id = batch["task_id"] if batch["task_id"].ndim == 2 else batch["task_id"][:, None]
    learned = batch["targets"] != IGNORE
    return {
        name: perplexity_sums(outputs["nll"], learned & (task_id == t) & batch["valid"][name][:, None])
        for t, name in enumerate(names)
    }


def total(weights: Mapping[str, float], losses: Mapping, sums: Mapping) -> jax.Array:
    """The mean over all learned tokens of the batch, whatever their task, as published; weighted by task."""
    nll = sum(weights[name] * of["nll"] for name, of in sums.items())
    return nll / jnp.maximum(sum(weights[name] * of["tokens"] for name, of in sums.items()), 1e-9)


def measure(names: tuple[str, ...], outputs: Mapping, batch: Mapping) -> dict[str, dict[str, jax.Array]]:
    """Whether greedy decoding would give an example's answer to the letter; one example a row."""
    learned = batch["targets"] != IGNORE
    exact = ((outputs["guess"] == batch["targets"]) | ~learned).all(1)
    return {name: {"exact": exact, "examples": jnp.ones_like(exact)} for name in names}


def accuracy(sums: Mapping[str, np.ndarray]) -> dict[str, float]:
    return {"accuracy": float(sums["exact"] / max(sums["examples"], 1))}


def constant(source: Padded, held_out: Padded) -> dict[str, dict[str, float]]:
    """Every task's most frequent answer, always."""
    seen, asked = source.corpus.answers(), held_out.corpus.answers()
    return {
        name: {"accuracy": Counter(asked[name])[Counter(seen[name]).most_common(1)[0][0]] / max(len(asked[name]), 1)}
        for name in source.corpus.tasks
    }
